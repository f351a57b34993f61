"""Samples are given the distribution of the data, and what is observed the model's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from timeldm_jax import marginals
from timeldm_jax.data.inference import choose_scaling
from timeldm_jax.data.scaling import Scaler, fit_scaler


def fitted(values):
    """A scaler as tables have it, and quantiles of what it scales."""
    scalings = [choose_scaling(column) for column in values.T]
    names = tuple(map(str, range(values.shape[1])))
    scaler = fit_scaler(values, names, scalings, rounded=True)
    return scaler, marginals.quantiles(scaler.scale(values).astype(np.float32))


def sampled(values, noise, rows=400_000, wrong=1.3):
    """What a model with heavy tails, a shift and the noise of a decoder makes of a column."""
    random = np.random.default_rng(1)
    scaler, real = fitted(values)

    def model(count):
        scaled = scaler.scale(values[random.integers(0, len(values), count)])
        return 0.5 + wrong * (scaled - 0.48) + noise * random.normal(size=scaled.shape)

    drawn = marginals.quantiles(model(rows), marginals.DRAWN_LEVELS)
    curves = marginals.maps(real, drawn, scaler)
    return scaler.unscale(marginals.to_data(model(rows)[None], curves))[0]


def test_quantiles_are_of_what_is_known():
    values = np.stack([np.linspace(-1, 3, 10_001), np.full(10_001, np.nan)], axis=1)
    values[::2, 1] = np.linspace(0, 1, 5_001) ** 2
    found = marginals.quantiles(values)
    assert found.dtype == np.float32
    # Middles of neighbours are at most a step of the data away.
    np.testing.assert_allclose(found[0], 4 * marginals.LEVELS - 1, atol=4e-4)
    np.testing.assert_allclose(found[1], marginals.LEVELS**2, atol=4e-4)
    assert not np.isin(values, found.astype(np.float64)).any()
    for levels in (marginals.LEVELS, marginals.DRAWN_LEVELS):
        assert (np.diff(levels) > 0).all()
        np.testing.assert_allclose(levels, 1 - levels[::-1], atol=1e-12)


def test_samples_are_distributed_as_the_training_data():
    random = np.random.default_rng(0)
    real = random.gamma(2.0, size=(200_000, 3))
    drawn = random.normal(size=(200_000, 3))
    windows = random.normal(size=(5_000, 8, 3)).astype(np.float32)
    targets = marginals.quantiles(real)
    targets[2] = np.nan
    scaler = Scaler((0.0,) * 3, (1.0,) * 3)
    curves = marginals.maps(targets, marginals.quantiles(drawn, marginals.DRAWN_LEVELS), scaler)
    found = marginals.to_data(windows, curves)
    # The increasing map from the one distribution to the other, in closed form.
    expected = stats.gamma.ppf(stats.norm.cdf(windows[..., :2]), 2.0)
    # Of 200,000 draws, and linear between levels a hundredth apart.
    middle = np.abs(windows[..., :2]) < 2.5
    np.testing.assert_allclose(found[..., :2][middle], expected[middle], atol=0.1)
    np.testing.assert_array_equal(found[..., 2], windows[..., 2])
    order = np.argsort(windows[..., 0], axis=None)
    assert (np.diff(found[..., 0].ravel()[order]) >= 0).all()
    # And back: what is observed becomes what the model would have said.
    np.testing.assert_allclose(marginals.to_model(found, curves), windows, atol=1e-4)
    gaps = marginals.to_model(np.full((1, 1, 3), np.nan), curves)
    assert np.isnan(gaps).all()


def test_beyond_the_last_quantile_a_map_goes_on_no_steeper_than_it_was():
    real = np.tile(np.float32(2 * marginals.LEVELS), (1, 1))
    drawn = np.tile(np.float32(marginals.DRAWN_LEVELS), (1, 1))
    curves = marginals.maps(real, drawn, Scaler((0.0,), (1.0,)))
    found = marginals.to_data(np.array([[[-0.5], [0.25], [1.5]]]), curves)
    np.testing.assert_allclose(found[0, :, 0], [-1, 0.5, 3], atol=1e-6)


def outlier(random):
    x = np.zeros(4_000)
    for t in range(1, len(x)):
        x[t] = 0.9 * x[t - 1] + random.normal()
    x += 20
    x[1_700] = 9_999
    return x


CASES = {
    "outlier": outlier,
    "zeros": lambda r: np.where(r.random(4_000) < 0.72, 0, r.gamma(1.5, 4.0, 4_000)),
    "codes": lambda r: r.choice([10.0, 20, 40], 4_000, p=[0.2, 0.5, 0.3]),
    "modes": lambda r: np.where(
        r.random(4_000) < 0.4, r.normal(10, 1, 4_000), r.normal(40, 1, 4_000)
    ),
    "counts": lambda r: r.poisson(3.0, 4_000).astype(float),
    "lognormal": lambda r: np.round(r.lognormal(0, 1.5, 4_000), 3),
    "sensor codes": lambda r: r.choice([0.0, 2, 45, 61, 95], 4_000, p=[0.6, 0.1, 0.1, 0.15, 0.05]),
}


@pytest.mark.parametrize("case", CASES)
def test_columns_come_out_as_they_were_whatever_the_model_leaves_of_them(case):
    values = CASES[case](np.random.default_rng(3))[:, None]
    found = sampled(values, noise=0.01)[:, 0]
    # Of 100 draws of each cell. A lognormal's deviation is half its largest value's, which no
    # quantile holds, as it is a single row's.
    assert found.std() == pytest.approx(values.std(), rel=0.15 if case == "lognormal" else 0.1)
    if case == "outlier":
        assert 1e-4 < (found > 5_000).mean() < 5e-4  # 2.5e-4
        assert not ((found > 100) & (found < 9_800)).any()
    if case == "zeros":
        assert (found == 0).mean() == pytest.approx((values == 0).mean(), abs=0.005)
    if case in ("codes", "sensor codes"):
        assert set(np.unique(found)) == set(np.unique(values))
        for code in np.unique(values):
            assert (found == code).mean() == pytest.approx((values == code).mean(), abs=0.01)
    if case == "modes":
        assert ((found > 16) & (found < 34)).mean() < 1e-3
        assert (found < 25).mean() == pytest.approx((values < 25).mean(), abs=0.01)
    if case == "counts":
        whole = np.round(found)
        for count in range(9):
            assert (whole == count).mean() == pytest.approx((values == count).mean(), abs=0.01)
    if case == "lognormal":
        assert np.quantile(found, 0.999) == pytest.approx(np.quantile(values, 0.999), rel=0.15)


@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(CASES)))
def test_a_curve_and_its_inverse_agree_on_what_the_data_holds(seed, case):
    values = CASES[case](np.random.default_rng(seed))
    scaler, _ = fitted(values[:, None])
    back = scaler.unscale(scaler.scale(values[:, None]))[:, 0]
    np.testing.assert_allclose(back, values, atol=1e-6 * np.ptp(values))
