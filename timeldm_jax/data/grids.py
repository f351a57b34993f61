"""The values that a column's numbers can take, found in them, and numbers put on those.

Sensors and their drivers round to steps of their own, which decimals do not say: steps of .067
written with three decimals, multiples of ten, means of three readings. Samples off such a grid are
told from data at a glance. Cost: one sort of a column.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

MOST_DECIMALS = 6
SINGLE = 1e-7  # what float32 is off by, relatively
NOISE = 2.0**-36  # of the range: what readers and arithmetic leave behind
FEWEST_VALUES = 8  # different ones
MOST_POINTS = 2_000  # of an uneven one
OFTEN = 2  # rows of a point: no value of a single row is kept
COMMON = 0.95  # share of rows whose values an even grid is looked for in
ON_GRID = 0.99  # share of rows that must lie on it
ON_POINTS = 0.9  # the same of an uneven one, whose values are close to each other
SPARSE = 0.5  # share of decimal places that its points may take
EVIDENCE = 20.0  # how unlikely it must be by chance, as the logarithm of its odds
EXACT = 1e-6  # of a step: what numbers without rounding are off by
WRITTEN = 15  # significant digits, as spreadsheets and databases write them
EXACT_POWER = 22  # the largest power of ten that is a float64


@dataclasses.dataclass(frozen=True)
class Grid:
    """Numbers `offset + k * step` for whole k, as they are written; or the `points` alone.

    Written means to the last bit: trees take what is off by a rounding error for another number.

    Attributes:
      step: between neighbours, positive; 0 where there are points alone.
      offset: of one of them, from 0 to `step`.
      decimals: digits after the point that each is rounded to, or None.
      points: in order, at least two, or (). Beside a step, how the nearest numbers of it are
        written.
      digits: significant ones that each is rounded to, or None.
      single: whether each is then rounded to float32.
    """

    step: float = 0.0
    offset: float = 0.0
    decimals: int | None = None
    points: tuple[float, ...] = ()
    digits: int | None = None
    single: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError where these are no grid."""
        increasing = all(a < b for a, b in itertools.pairwise(self.points))
        if not (0 < self.step < math.inf or (increasing and len(self.points) > 1)):
            raise ValueError(f"no grid: {self}")

    def nearest(self, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The nearest numbers of the grid. What lies beyond the `points` stays, as does NaN."""
        found = values
        if self.step:
            found = self._number(np.round((values - self.offset) / self.step))
        if not self.points:
            return found
        points = np.array(self.points)
        point = points[np.searchsorted(points[:-1] / 2 + points[1:] / 2, found)]
        if self.step:
            return np.where(np.abs(point - found) < self.step / 2, point, found)
        within = (values >= points[0]) & (values <= points[-1])
        return np.where(within, point, self._rounded(values))

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """The outermost numbers of the grid from `low` to `high`, either of which may be infinite.

        Where none lies between them, and for `points`, both as they are.
        """
        if not self.step:
            return low, high
        places = (np.array([low, high]) - self.offset) / self.step
        first, last = np.ceil(places[0] - EXACT), np.floor(places[1] + EXACT)
        if first > last:
            return low, high
        found = self._number(np.array([first, last]))
        return float(found[0]), float(found[1])

    def describe(self) -> str:
        """For people."""
        if not self.step:
            return f"one of {len(self.points):,} values"
        return f"in steps of {self.step:.6g}"

    def _number(self, place: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        return self._rounded(self.offset + self.step * place)

    def _rounded(self, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        if self.decimals is not None:
            values = np.round(values, self.decimals)
        elif self.digits is not None:
            size = np.floor(np.log10(np.abs(values), where=values != 0, out=np.zeros_like(values)))
            power = 10.0 ** np.clip(self.digits - 1 - size, 0, EXACT_POWER)
            values = np.round(values * power) / power
        return values.astype(np.float32).astype(np.float64) if self.single else values

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Grid":
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**content, "points": tuple(content["points"])})


def decimals(values: Float[np.ndarray, " n"]) -> int | None:
    """Digits after the point that all values are rounded to, `MOST_DECIMALS` at most.

    Numbers that were float32 once are looked at as such.
    """
    with np.errstate(over="ignore"):
        single = np.allclose(values.astype(np.float32), values, rtol=1e-13, atol=0)
    rtol = SINGLE if single and (values % 1).any() else 1e-12
    atol = 1e-12 * min(1.0, float(np.abs(values).max()))  # tiny numbers have digits of their own
    for digits in range(MOST_DECIMALS + 1):
        if 10.0**-digits < 4 * rtol * np.abs(values).max():
            return None  # float's own steps
        if np.allclose(values, np.round(values, digits), rtol=rtol, atol=atol):
            return digits
    return None


def of(values: Float[np.ndarray, " n"]) -> Grid | None:
    """The grid of values, which may be that of their decimals alone; None where there is none."""
    if not values.size:
        return None
    digits = decimals(values)
    if digits is None:
        return find(values, digits)
    return find(values, digits) or Grid(step=10.0**-digits, decimals=digits)


def find(values: Float[np.ndarray, " n"], digits: int | None) -> Grid | None:
    """The grid that nearly all values lie on; None where decimals say all of it.

    Args:
      values: finite, float64.
      digits: that they are rounded to (`decimals`), or None.
    """
    grid = _coarser(values, digits)
    if grid is not None or not digits:
        return grid
    grid = _as_written(Grid(step=10.0**-digits, decimals=digits), values)
    return grid if grid.single else None


def _coarser(values: Float[np.ndarray, " n"], digits: int | None) -> Grid | None:
    """The grid that values lie on; None where there is none coarser than decimals.

    An even one first; else, where nearly all rows share their value with others and values are few,
    these.

    Args:
      values: finite, float64.
      digits: that they are rounded to (`decimals`), or None.
    """
    span = float(np.ptp(values))
    if not span > 0:
        return None
    written = values
    if digits is not None:
        values = np.round(values, digits)
    whole = 2.0 ** math.floor(math.log2(span * NOISE))
    _, first, counts = np.unique(np.round(values / whole), return_index=True, return_counts=True)
    known = values[first]
    grid = _even(known, counts, digits)
    if grid is not None:
        return _as_written(grid, written)
    if digits == 0:
        return None
    points, covered = known[counts >= OFTEN], counts[counts >= OFTEN].sum()
    few = FEWEST_VALUES <= len(points) <= min(MOST_POINTS, len(values) // 10)
    if not few or covered < ON_POINTS * len(values):
        return None
    low, high = np.quantile(values, [0.01, 0.99])
    inner = ((points >= low) & (points <= high)).sum()
    if digits is not None and inner > SPARSE * (high - low) * 10.0**digits:
        return None  # decimals say it all
    return Grid(decimals=digits, points=tuple(points.tolist()))


def _as_written(grid: Grid, values: Float[np.ndarray, " n"]) -> Grid:
    """The grid with the form that gives most values to the last bit, and those that it does not."""
    forms = [grid, dataclasses.replace(grid, single=True)]
    if grid.decimals is None:
        forms.append(dataclasses.replace(grid, digits=WRITTEN))
    hits = [(form.nearest(values) == values).sum() for form in forms]
    grid = forms[int(np.argmax(hits))]
    if max(hits) == len(values):
        return grid
    different, counts = np.unique(values, return_counts=True)
    often = np.flatnonzero(counts >= OFTEN)
    often = often[np.argsort(-counts[often], kind="stable")]  # the usual form of a number first
    place = np.round((different[often] - grid.offset) / grid.step)
    _, first = np.unique(place, return_index=True)
    points = np.sort(different[often[first]])
    if not 2 <= len(points) <= MOST_POINTS:
        return grid
    return dataclasses.replace(grid, points=tuple(points.tolist()))


def _even(
    known: Float[np.ndarray, " value"], counts: np.ndarray, digits: int | None
) -> Grid | None:
    """The even grid of different values in order, of so many rows each.

    The step is the mean of the closest neighbours' distances, then fitted to common values. It
    counts where so many different ones would not lie so close to a grid by chance: of U values that
    are off by at most r, by (2 r / step)^(U - 2).
    """
    rows = counts.sum()
    least = np.sort(counts)[::-1][np.searchsorted(np.cumsum(np.sort(counts)[::-1]), COMMON * rows)]
    common = known[counts >= least]
    if len(common) < FEWEST_VALUES:
        return None
    grain = 0.0 if digits is None else 10.0**-digits
    gaps = np.diff(common)
    if gaps.min() < 1.5 * grain:
        return None
    step = float(gaps[gaps < 1.5 * gaps.min()].mean())
    steps = np.round(gaps / step)
    if digits is None and np.abs(gaps / step - steps).mean() > 0.1:
        return None  # a quarter where there is no grid
    place = np.r_[0, np.cumsum(steps)]
    middle = slice(len(common) // 100, len(common) - len(common) // 100)  # outliers aside
    for _ in range(3):
        step, start = np.polyfit(place[middle], common[middle], 1).tolist()
        if not step > 0:
            return None
        place = np.round((common - start) / step)

    def off(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        return np.abs(values - start - step * np.round((values - start) / step))

    # Numbers that were rounded twice are a whole grain off.
    tolerance = (1.01 if step > 5 * grain else 0.51) * grain + EXACT * step
    near: Bool[np.ndarray, " value"] = off(known) <= tolerance
    if counts[near].sum() < ON_GRID * rows or step < 1.5 * grain:
        return None
    worst = max(float(off(known[near]).max()), EXACT * step)
    if (near.sum() - 2) * math.log(step / (2 * worst)) < EVIDENCE:
        return None
    factor, place = _coarsest(np.round((known[near] - start) / step), counts[near], ON_GRID * rows)
    step, start = step * factor, start + step * place
    offset = start % step
    if digits == 0 and worst <= EXACT * step:  # whole numbers are exact
        step, offset = round(step), round(offset) % round(step)
    return Grid(float(step), float(offset), digits)


def _coarsest(
    places: Float[np.ndarray, " value"], counts: np.ndarray, fewest: float
) -> tuple[int, int]:
    """By how much a grid is coarser that still holds enough rows, and the place of its offset."""
    factor, place = 1, 0
    for prime in (2, 2, 2, 3, 5):
        rows = np.bincount((places % (factor * prime)).astype(int), counts)
        if rows.max() >= fewest:
            factor, place = factor * prime, int(rows.argmax())
    return factor, place
