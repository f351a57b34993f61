"""Curves beyond the data that they were fitted to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeldm_jax.data.scaling import fit_scaler


def heavy(name: str, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    if name == "outlier":
        values = random.normal(size=4_000)
        values[2_000] = 9_999
        return values[:, None]
    draw = {
        "cauchy": lambda: random.standard_cauchy(2_000),
        "pareto": lambda: random.pareto(1, 2_000),
        "lognormal": lambda: random.lognormal(0, 3, 2_000),
    }
    return draw[name]()[:, None]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["cauchy", "pareto", "lognormal", "outlier"])
def test_a_heavy_tail_is_continued_by_at_most_the_range(name, seed):
    values = heavy(name, seed)
    scaler = fit_scaler(values, ("x",), ("quantile",))
    reach = np.ptp(values)
    scaled = np.array([[-1.0], [-0.05], [1.05], [2.0]])
    back = scaler.unscale(scaled)[:, 0]
    assert (np.diff(back) > 0).all()
    # Ends are bounds rounded outward, at most a hundredth of the range on each side.
    beyond = (np.array([1, 0.05, 0.05, 1]) * 1.03 + 0.01) * reach
    assert (values.min() - beyond[:2] <= back[:2]).all()
    assert (back[2:] <= values.max() + beyond[2:]).all()
    np.testing.assert_allclose(scaler.scale(back[:, None]), scaled, rtol=1e-9, atol=1e-9)
    every = np.sort(scaler.scale(values), axis=0)
    np.testing.assert_allclose(scaler.unscale(every), np.sort(values, axis=0), rtol=1e-7, atol=1e-7)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(
        st.one_of(st.integers(-3, 3).map(float), st.floats(-1e3, 1e3).map(lambda x: round(x, 2))),
        min_size=3,
        max_size=40,
    )
)
def test_a_curve_of_any_values_never_falls_and_gives_them_back(values):
    values = np.array(values)
    if np.ptp(values) == 0:
        return
    scaler = fit_scaler(values[:, None], ("x",), ("quantile",))
    curve = dict(scaler.curves)[0]
    assert (np.diff(curve.knots) >= 0).all()
    assert (np.diff(curve.levels) >= 0).all()
    back = scaler.unscale(scaler.scale(values[:, None]))[:, 0]
    np.testing.assert_allclose(back, values, rtol=0, atol=1e-9 * np.ptp(values))
