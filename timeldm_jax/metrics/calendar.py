"""Do samples follow the calendar that they are stamped with? By hour, weekday and month."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from timeldm_jax.data.clock import Clock

Rows = Float[np.ndarray, "rows column"]

FEWEST_ROWS = 20  # at a mark of the calendar, that a mean is of
MOST_COLUMNS = 12  # whose profiles are kept, those that differ most
MARKS = {  # by part of the calendar: what is stamped, and how many there are
    "day": ("hour", 24),
    "week": ("weekday", 7),
    "year": ("month", 12),
}


class Profile(NamedTuple):
    """What a column is at each mark of the calendar.

    Attributes:
      mean: NaN where there are too few rows.
      deviation: likewise.
    """

    mean: Float[np.ndarray, "mark column"]
    deviation: Float[np.ndarray, "mark column"]


def marks(clock: Clock, steps: Int[np.ndarray, " rows"], part: str) -> Int[np.ndarray, " rows"]:
    """The hour, the day of the week or the month of the year, from 0, of steps of a clock."""
    if clock.offset:  # months have no length to count back by
        steps = np.maximum(steps, 0)
    unique, place = np.unique(steps, return_inverse=True)
    times = pd.DatetimeIndex(clock.stamps(unique))
    by_part = {"day": times.hour, "week": times.day_of_week, "year": times.month - 1}
    return np.asarray(by_part[part])[place]


def profile(values: Rows, at: Int[np.ndarray, " rows"], count: int) -> Profile:
    """Means and deviations of columns, NaN left out, at each of `count` marks."""
    known = np.isfinite(values)
    mean, deviation = np.full((2, count, values.shape[1]), np.nan)
    for mark in range(count):
        rows = at == mark
        cells, there = values[rows], known[rows]
        number = there.sum(axis=0)
        enough = number >= FEWEST_ROWS
        number = np.maximum(number, 1)
        own = np.where(there, cells, 0).sum(axis=0) / number
        squares = np.square(np.where(there, cells - own, 0)).sum(axis=0) / number
        mean[mark] = np.where(enough, own, np.nan)
        deviation[mark] = np.where(enough, np.sqrt(squares), np.nan)
    return Profile(mean, deviation)


def compare(
    real: Profile, other: Profile, scale: Float[np.ndarray, " column"]
) -> dict[str, Any] | None:
    """How far profiles lie apart, in deviations of each column; None where they share no mark.

    Args:
      real: of the training rows.
      other: of samples, or of held-out rows.
      scale: deviation of each column over all training rows.
    """
    apart = np.abs(other.mean - real.mean) / scale
    if not np.isfinite(apart).any():
        return None
    spread = np.abs(other.deviation - real.deviation) / scale
    largest = np.where(np.isfinite(apart), apart, -1).max(axis=0)
    return {
        "largest": float(largest.max()),
        "mean": float(np.nanmean(apart)),
        "spread": float(np.nanmean(spread)),
        "worst": int(largest.argmax()),
    }


def follow(
    parts: dict[str, tuple[Rows, Int[np.ndarray, " rows"]]],
    names: tuple[str, ...],
    clock: Clock,
    cycles: tuple[str, ...],
) -> dict[str, Any]:
    """Profiles of samples beside those of training rows, and the same of held-out rows.

    Args:
      parts: values and steps of the rows of `training`, `held_out` and `sampled`.
      names: of the columns.
      clock: of the table.
      cycles: the parts of the calendar that training rows cover.

    Returns:
      By mark (`hour`, `weekday`, `month`); nothing where columns do not vary.
    """
    training = parts["training"][0]
    known = np.isfinite(training)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, training, 0).sum(axis=0) / count
    scale = np.sqrt(np.square(np.where(known, training - mean, 0)).sum(axis=0) / count)
    used = np.flatnonzero(scale > 0)
    found: dict[str, Any] = {}
    for part in cycles if len(used) else ():
        mark, size = MARKS[part]
        profiles = {
            name: profile(values[:, used], marks(clock, steps, part), size)
            for name, (values, steps) in parts.items()
        }
        real = profiles["training"]
        apart = compare(real, profiles["sampled"], scale[used])
        if apart is None:
            continue
        floor = compare(real, profiles["held_out"], scale[used])
        gap = np.nan_to_num(np.abs(profiles["sampled"].mean - real.mean) / scale[used])
        shown = np.argsort(-gap.max(axis=0), kind="stable")[:MOST_COLUMNS]
        found[mark] = apart | {
            "worst": names[used[apart["worst"]]],
            "floor": floor and {name: floor[name] for name in ("largest", "mean", "spread")},
            "profiles": {
                names[used[i]]: {
                    "real": _numbers(real.mean[:, i]),
                    "sampled": _numbers(profiles["sampled"].mean[:, i]),
                }
                for i in shown
            },
        }
    return found


def _numbers(values: Float[np.ndarray, " mark"]) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
