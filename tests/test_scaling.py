"""Curves beyond the data that they were fitted to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeldm_jax.data.scaling import Scaler, fit_scaler


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


def ended(*columns) -> Scaler:
    rows = np.stack(columns, axis=1)
    return fit_scaler(rows, tuple("abcd"[: len(columns)])).on_grids(rows)


def test_a_window_beyond_an_open_end_is_drawn_back_within_it():
    """A closed form: as far within as it was beyond, all else moved in proportion."""
    random = np.random.default_rng(0)
    open_, piled = random.uniform(size=500), np.clip(random.uniform(-0.2, 1.2, 500), 0, 1)
    open_[:2] = 0, 1
    scaler = ended(open_, piled)
    assert scaler.open == (0,)
    assert Scaler.from_json(scaler.to_json()) == scaler
    wave = np.array([0.2, 0.7, 1.02, 1.01, 0.4])
    both = np.array([-0.01, 0.5, 1.03])
    found = scaler.within_range(np.stack([wave, wave], axis=1)[None])[0]
    np.testing.assert_allclose(found[:, 0], 0.2 + (wave - 0.2) * (0.98 - 0.2) / (1.02 - 0.2))
    np.testing.assert_array_equal(found[:, 1], np.minimum(wave, 1))
    found = scaler.within_range(np.stack([both, both], axis=1))
    np.testing.assert_allclose(found[:, 0], 0.01 + (both + 0.01) * (0.97 - 0.01) / 1.04)
    # A spike is cut first, so that it does not move the window beside it; what is level stays so.
    spike = np.array([0.5, 0.5, 9.0, 0.5])
    np.testing.assert_allclose(
        scaler.within_range(np.stack([spike] * 2, axis=1))[:, 0], [0.5, 0.5, 0.95, 0.5]
    )
    level = np.full((4, 2), 1.01)
    np.testing.assert_allclose(scaler.within_range(level)[:, 0], 0.99)


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=30))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_what_lies_within_stays_and_the_rest_comes_in_in_order(values):
    scaler = ended(np.linspace(0, 1, 997) ** 1.1)
    window = np.array(values)[:, None]
    found = scaler.within_range(window)
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found[np.argsort(window[:, 0], kind="stable"), 0]) >= -1e-12).all()
    if ((window >= 0) & (window <= 1)).all():
        np.testing.assert_array_equal(found, window)
