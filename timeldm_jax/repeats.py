"""Values that stay as they were: how often each feature repeats its last one, to the last bit.

Sensors, prices and forward-filled columns repeat a value exactly; a network's next value is always
a little off, which any tree sees. So a value of a sample that is close to the one before it becomes
that one. How close is measured once, after training, on the model's own samples: such that they
repeat values as often as the training data does. Cost: an array operation a time step.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

FEWEST = 0.002  # share of steps that repeat a value, from which it is no accident
ENOUGH = 0.5  # of the share wanted, from which rounding gives it: a grid, which knows better
NEVER = -1.0  # how close, of a feature whose values are left alone
HALVINGS = 14  # of the interval of shares in which the one wanted is looked for
Windows = Float[np.ndarray, "n time feature"]


def shares(windows: Windows) -> Float[np.ndarray, " feature"]:
    """The share of steps at which each feature repeats its last value; NaN counts as no step."""
    known = np.isfinite(windows[:, 1:]) & np.isfinite(windows[:, :-1])
    same = windows[:, 1:] == windows[:, :-1]
    return same.sum(axis=(0, 1)) / np.maximum(known.sum(axis=(0, 1)), 1)


def hold(
    windows: Windows,
    close: Float[np.ndarray, " feature"],
    given: Windows | None = None,
) -> Windows:
    """Windows whose values stay as they were where they hardly change.

    Args:
      windows: in the data's own units, not rounded yet.
      close: how far a value may be from the one before to become that one; `NEVER`: it stays.
      given: NaN where nothing is given; what is given stays.
    """
    chosen = np.flatnonzero(close >= 0)
    if not chosen.size:
        return windows
    found, least = windows.copy(), close[chosen]
    if given is not None:
        found = np.where(np.isnan(given), found, given)
    for t in range(1, windows.shape[1]):
        before, now = found[:, t - 1, chosen], found[:, t, chosen]
        still: Bool[np.ndarray, "n feature"] = np.abs(now - before) <= least
        if given is not None:
            still &= np.isnan(given[:, t, chosen])
        found[:, t, chosen] = np.where(still, before, now)
    return found


def closeness(
    windows: Windows,
    wanted: Float[np.ndarray, " feature"],
    finish: Callable[[Windows], Windows],
) -> Float[np.ndarray, " feature"]:
    """How close values must be to be held, for samples that repeat values as often as wanted.

    Args:
      windows: samples in the data's own units, not rounded yet.
      wanted: share of steps of each feature that repeat its value; 0: it is left alone.
      finish: rounds samples to what the data can hold, which repeats some values by itself.
    """
    asked = (wanted >= FEWEST) & (shares(finish(windows)) < ENOUGH * wanted)
    changes = np.sort(np.abs(np.diff(windows, axis=1)).reshape(-1, windows.shape[2]), axis=0)
    low, high = np.zeros(len(wanted)), np.ones(len(wanted))

    def at(share: Float[np.ndarray, " feature"]) -> Float[np.ndarray, " feature"]:
        place = np.round(share * (len(changes) - 1)).astype(int)
        return np.where(asked, np.take_along_axis(changes, place[None], axis=0)[0], NEVER)

    for _ in range(HALVINGS if asked.any() else 0):
        middle = low / 2 + high / 2
        few = shares(finish(hold(windows, at(middle)))) < wanted
        low, high = np.where(few, middle, low), np.where(few, high, middle)
    return at(high)
