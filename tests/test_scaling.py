"""Curves beyond the data that they were fitted to."""

import numpy as np
import pytest

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
