"""How wide forecasts are: measured after training on windows that were held out from it.

A model is surer of what follows rows like those that it learnt than of what follows others, and a
completion is exact for a Gaussian model only. So what followed some validation rows is forecast,
and each feature's futures are drawn apart around their median until nine in ten of the values that
came lie within the 90% band, in these stretches of time less what they differ by: by one factor for
the first third of a window ahead, and by another for what comes later, where a model that is too
sure has gone on from its own rows. Cost: `completions` for each run of rows.
"""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from timeldm_jax import extension

if TYPE_CHECKING:
    from timeldm_jax.generator import Generator

DRAWS = 20  # futures of a window; from 19 on the band of Weibull's places is within them
FEWEST_WINDOWS = 24
PIECES = 3  # thirds of a window that are forecast
LEVELS = (0.05, 0.5, 0.95)
# Of a factor. Validation rows are few stretches of time, often easier ones than what comes: bands
# are not made narrower by them. Beyond twice lies what no width mends.
LEAST, MOST = 1.0, 2.0
TRIED = np.linspace(LEAST, MOST, 101)
SEED = 0


def factors(
    drawn: Float[np.ndarray, "window draw time feature"],
    came: Float[np.ndarray, "window time feature"],
    stretch: Int[np.ndarray, " window"],
) -> Float[np.ndarray, " feature"]:
    """By how much futures are to lie further from their median for 90% bands to hold 90%.

    Windows of one stretch of time are alike, and the next stretch may be harder. So the share that
    bands hold is the mean over stretches less its standard error.

    Args:
      drawn: futures of each window.
      came: what came; NaN is left out.
      stretch: the number of the stretch of each window.
    """
    low, middle, high = np.quantile(drawn, LEVELS, axis=1, method="weibull")
    above = came > middle
    half = np.where(above, high - middle, middle - low)
    with np.errstate(divide="ignore", invalid="ignore"):
        reached = np.where(came == middle, 0.0, np.abs(came - middle) / half)
    found = np.full(came.shape[2], 1.0)
    for i, ratios in enumerate(np.moveaxis(reached, 2, 0)):
        there = ~np.isnan(came[..., i])
        parts = [ratios[(stretch == k)[:, None] & there] for k in np.unique(stretch)]
        shares = [(part[:, None] <= TRIED).mean(axis=0) for part in parts if part.size]
        if not shares:
            continue
        held = np.stack(shares)
        error = held.std(axis=0, ddof=1) / np.sqrt(len(held)) if len(held) > 1 else 0.0
        enough = held.mean(axis=0) - error >= LEVELS[2] - LEVELS[0]
        found[i] = TRIED[enough.argmax()] if enough.any() else MOST
    return found


def widen(
    futures: Float[np.ndarray, "draw time feature"],
    by: Float[np.ndarray, "part feature"],
    new: int,
) -> Float[np.ndarray, "draw time feature"]:
    """Futures so many times as far from their median at each time.

    Args:
      futures: of one series.
      by: for each `new` rows; the last for all that come later.
      new: rows of a third of a window.
    """
    middle = np.median(futures, axis=0)
    part = np.minimum(np.arange(futures.shape[1]) // new, len(by) - 1)
    return middle + by[part] * (futures - middle)


def rows_of(window: int, pieces: int) -> tuple[int, int]:
    """Rows of a run that are known, and rows that are forecast and judged."""
    ahead, new = extension.block(window)
    return window - ahead, pieces * new


def completions(window: int) -> int:
    """Completions of windows that a run of `PIECES` thirds of a window asks for, at most."""
    rows = PIECES * extension.block(window)[1]
    return DRAWS * (1 + len(extension.joins(rows, window)))


def measure(
    generator: "Generator",
    rows: Float[np.ndarray, "run time feature"],
    steps: Int[np.ndarray, " run"] | None,
    known: int,
    stretch: Int[np.ndarray, " run"],
) -> Float[np.ndarray, "part feature"]:
    """The factors of a model; 1 for words, flags and what one series has one value of.

    Args:
      generator: of a table.
      rows: held out from training, NaN where a value is missing.
      steps: of the clock at the first of each run, where it is known.
      known: how many rows of a run are; see `rows_of`.
      stretch: the number of the stretch of held-out time that each run is of.
    """
    schema = generator.schema
    assert schema is not None
    _, new = extension.block(generator.models.vae.window)
    layout, came = schema.layout(), rows[:, known:]
    before = np.repeat(rows[:, :known], DRAWS, axis=0)
    before[..., [place for place, f in enumerate(layout) if f.role == "missing"]] = np.nan
    begins = None if steps is None else np.repeat(steps, DRAWS)
    drawn = extension.extend(generator, before, came.shape[1], SEED, begins, forecast=True)
    drawn = drawn.reshape(len(rows), DRAWS, *came.shape[1:])
    parts = [slice(0, new), slice(new, None)][: -(-came.shape[1] // new)]
    static = {place for place, _ in schema.static_features()}
    free = [f.role == "value" and place not in static for place, f in enumerate(layout)]
    found = [factors(drawn[:, :, part], came[:, part], stretch) for part in parts]
    return np.where(free, found, 1.0)
