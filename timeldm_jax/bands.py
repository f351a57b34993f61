"""How wide forecasts are: measured after training on windows that were held out from it.

A model is surer of what follows rows like those that it learnt than of what follows others, and a
completion is exact for a Gaussian model only. So the end of some validation windows is forecast,
and each feature's futures are drawn apart around their median until nine in ten of the values that
came lie within the 90% band. Cost: `windows` times `DRAWS` completions.
"""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from timeldm_jax.generator import Generator

DRAWS = 20  # futures of a window; from 19 on the band of Weibull's places is within them
FEWEST_WINDOWS = 24
LEVELS = (0.05, 0.5, 0.95)
LEAST, MOST = 0.8, 2.0  # of a factor: beyond lies what no width mends
SEED = 0


def factors(
    drawn: Float[np.ndarray, "window draw time feature"],
    came: Float[np.ndarray, "window time feature"],
) -> Float[np.ndarray, " feature"]:
    """By how much futures are to lie further from their median for 90% bands to hold 90%.

    Args:
      drawn: futures of each window.
      came: what came; NaN is left out.
    """
    low, middle, high = np.quantile(drawn, LEVELS, axis=1, method="weibull")
    above = came > middle
    half = np.where(above, high - middle, middle - low)
    with np.errstate(divide="ignore", invalid="ignore"):
        reached = np.where(came == middle, 0.0, np.abs(came - middle) / half)
    found = np.full(came.shape[2], 1.0)
    for i, ratios in enumerate(np.moveaxis(reached, 2, 0)):
        known = ratios[~np.isnan(came[..., i])]
        if known.size:  # "higher" takes no mean of infinite ones, where a band is a point
            found[i] = np.quantile(known, LEVELS[2] - LEVELS[0], method="higher")
    return np.clip(found, LEAST, MOST)


def widen(
    futures: Float[np.ndarray, "draw time feature"], by: Float[np.ndarray, " feature"]
) -> Float[np.ndarray, "draw time feature"]:
    """Futures so many times as far from their median at each time."""
    middle = np.median(futures, axis=0)
    return middle + by * (futures - middle)


def measure(
    generator: "Generator",
    windows: Float[np.ndarray, "window time feature"],
    steps: Int[np.ndarray, " window"] | None,
    ahead: int,
    new: int,
) -> Float[np.ndarray, " feature"]:
    """The factors of a model; 1 for words, flags and what one series has one value of.

    Args:
      generator: of a table.
      windows: held out from training, NaN where a value is missing.
      steps: of the clock at their first rows, where it is known.
      ahead: rows at the end that are hidden.
      new: the first of them, which are judged.
    """
    schema = generator.schema
    assert schema is not None
    observed = np.repeat(windows, DRAWS, axis=0)
    observed[:, -ahead:] = np.nan
    layout = schema.layout()
    observed[..., [place for place, f in enumerate(layout) if f.role == "missing"]] = np.nan
    begins = None if steps is None else np.repeat(steps, DRAWS)
    drawn = generator.complete(observed, SEED, 0, steps=begins, stage="forecasts of known rows")
    rows = slice(windows.shape[1] - ahead, windows.shape[1] - ahead + new)
    drawn = drawn[:, rows].reshape(len(windows), DRAWS, new, -1)
    static = {place for place, _ in schema.static_features()}
    free = [f.role == "value" and place not in static for place, f in enumerate(layout)]
    return np.where(free, factors(drawn, windows[:, rows]), 1.0)
