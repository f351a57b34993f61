"""Scaling per feature, and its exact inverse.

A feature is straightened by a curve where its distribution asks for one (logarithm, quantiles),
then mapped linearly so that training values lie in, or around, [0, 1].
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy import special

from timeldm_jax.data import grids
from timeldm_jax.data.grids import Grid
from timeldm_jax.data.rules import Link
from timeldm_jax.errors import DataError

FEWEST_LEVELS = 1024  # numbers of the dtype of samples that a column's range must at least hold
LEVELS = 1_000  # quantiles that a curve keeps at most
BEYOND = 0.05  # of the range, that a sample is drawn back by
GAP = 0.1  # of the range, between neighbouring values: no sample falls there
FEW_WHOLE = 100  # whole numbers of a smaller range are codes and counts
REACH = 3.0  # deviations either side of the mean that `standard` maps to [0, 1]


@dataclasses.dataclass(frozen=True)
class Curve:
    """An increasing function with an inverse, of one feature.

    Attributes:
      kind: `log` is `sign(x)·ln(1 + |x|/unit)`; `normal` is the normal deviate of the share of
        training values below (normal scores); `quantile`, in models saved before, that share.
      unit: of `log`.
      knots: of the others, increasing. None is the value of a single row: they are middles of
        neighbouring training values, and at the ends bounds rounded `outward`. A value that many
        rows have stands twice, at both ends of its interval of shares.
      levels: the share of training values below each knot.
    """

    kind: Literal["log", "quantile", "normal"]
    unit: float = 1.0
    knots: tuple[float, ...] = ()
    levels: tuple[float, ...] = ()

    def straighten(self, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The function, element by element; of a value that stands twice, its middle share."""
        if self.kind == "log":
            return np.sign(values) * np.log1p(np.abs(values) / self.unit)
        knots, levels = np.array(self.knots), np.array(self.levels)
        known = np.clip(values, knots[0], knots[-1])
        first, after = (np.searchsorted(knots, known, side) for side in ("left", "right"))
        segment = np.clip(after - 1, 0, len(knots) - 2)
        width = np.diff(knots)[segment]
        share = (known - knots[segment]) / np.where(width > 0, width, 1)
        inside = levels[segment] + share * np.diff(levels)[segment]
        last = np.clip(after - 1, 0, len(knots) - 1)
        middle = (levels[np.minimum(first, last)] + levels[last]) / 2
        inside = self._spread(np.where(after - first > 1, middle, inside))
        return inside + (values - known) / np.where(values < knots[0], *self._steps())

    def bend(self, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The inverse of `straighten`; a value that stands twice takes all shares between.

        Nothing lies beyond an end that many rows have; beyond others it goes on as `_steps` says.
        """
        if self.kind == "log":
            return np.sign(values) * np.expm1(np.abs(values)) * self.unit
        knots, levels = np.array(self.knots), np.array(self.levels)
        ends = self._spread(levels[[0, -1]])
        known = np.clip(values, *ends)
        inside = np.interp(special.ndtr(known) if self.kind == "normal" else known, levels, knots)
        ending = knots[[1, -1]] != knots[[0, -2]]  # where many rows have the last value, it is one
        return inside + (values - known) * np.where(values < ends[0], *(self._steps() * ending))

    def _spread(self, levels: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        return special.ndtri(levels) if self.kind == "normal" else levels

    def _steps(self) -> Float[np.ndarray, " 2"]:
        """Values a unit of the straightened feature, before the first knot and after the last.

        A heavy tail's last two knots may lie farther apart than all others: continued at their
        slope, a little beyond the last would be many times the largest value. The slope is at most
        the mean one, so that a twentieth beyond the end is a twentieth of the range.
        """
        knots, places = np.array(self.knots), self._spread(np.array(self.levels))
        if knots[0] == knots[-1]:
            return np.ones(2)
        slopes = (knots[[1, -1]] - knots[[0, -2]]) / (places[[1, -1]] - places[[0, -2]])
        mean = (knots[-1] - knots[0]) / (places[-1] - places[0])
        return np.minimum(np.where(slopes > 0, slopes, mean), mean)


@dataclasses.dataclass(frozen=True)
class Scaler:
    """Maps each feature to around [0, 1]. Plain numbers, so that JSON keeps it exactly.

    Attributes:
      low: what becomes 0, of each feature, after its curve.
      high: what becomes 1.
      curves: by number of a feature; most have none.
      grids: likewise, the values that it can take. A table's are in its schema instead.
      links: rules between features, which enter before all else; see `rules`.
      open: numbers of the features whose extremes single training rows have: where a sample goes
        over, it is drawn back instead of cut off; see `within_range`. A table has none.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    curves: tuple[tuple[int, Curve], ...] = ()
    grids: tuple[tuple[int, Grid], ...] = ()
    links: tuple[Link, ...] = ()
    open: tuple[int, ...] = ()

    def scale(
        self, values: Float[np.ndarray, "*lead feature"]
    ) -> Float[np.ndarray, "*lead feature"]:
        """Values in their own units to around [0, 1], float64. NaN stays NaN."""
        low, high = np.array(self.low), np.array(self.high)
        if self.curves or self.links:
            values = apart(values, self.links)
            for i, curve in self.curves:
                values[..., i] = curve.straighten(values[..., i])
        return (values - low) / (high - low)

    def unscale(
        self, scaled: Float[np.ndarray, "*lead feature"]
    ) -> Float[np.ndarray, "*lead feature"]:
        """The inverse of `scale`, float64."""
        low, high = np.array(self.low), np.array(self.high)
        values = low + scaled.astype(np.float64) * (high - low)
        for i, curve in self.curves:
            values[..., i] = curve.bend(values[..., i])
        for link in self.links:
            values[..., link.place] = link.joined(values)
        return values

    def nearest(
        self, values: Float[np.ndarray, "*lead feature"]
    ) -> Float[np.ndarray, "*lead feature"]:
        """The nearest values, in their own units, that lie on the features' grids."""
        found = np.array(values)
        for i, grid in self.grids:
            found[..., i] = grid.nearest(found[..., i])
        return found

    def within_range(
        self, values: Float[np.ndarray, "*lead time feature"]
    ) -> Float[np.ndarray, "*lead time feature"]:
        """Values of `nearest` within the range of the training data.

        They are cut off at its ends, but for features that are `open`. Of these a window that goes
        over an end by some is stretched so that it stays within it by as much: cut off, it would
        have the end's very value, often several times, which the data never has, and corners.
        """
        low, high = np.array(self.low), np.array(self.high)
        for i, grid in self.grids:
            low[i], high[i] = grid.bounds(low[i], high[i])
        found = values
        if self.open:
            own = list(self.open)
            found = np.array(values)
            found[..., own] = _drawn_back(values[..., own], low[own], high[own])
        found = np.clip(found, low, high)
        for link in self.links:
            found[..., link.place] = link.joined(found)
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        curves = [[i, dataclasses.asdict(curve)] for i, curve in self.curves]
        even = [[i, dataclasses.asdict(grid)] for i, grid in self.grids]
        links = [[link.kind, link.place, list(link.others)] for link in self.links]
        return {
            "low": list(self.low),
            "high": list(self.high),
            "curves": curves,
            "grids": even,
            "links": links,
            "open": list(self.open),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Scaler":
        """The inverse of `to_json`."""
        curves = tuple(
            (i, Curve(c["kind"], c["unit"], tuple(c["knots"]), tuple(c["levels"])))
            for i, c in content.get("curves", ())  # the first versions had none
        )
        found = tuple((i, Grid.from_json(grid)) for i, grid in content.get("grids", ()))
        links = tuple(
            Link(kind, place, tuple(others)) for kind, place, others in content.get("links", ())
        )
        ends = tuple(content.get("open", ()))
        return cls(tuple(content["low"]), tuple(content["high"]), curves, found, links, ends)

    def on_grids(self, values: Float[np.ndarray, "rows feature"]) -> "Scaler":
        """With the grids, and the open ends, of training rows, in their own units; without NaN."""
        found, ends, bent = [], [], {i for i, _ in self.curves}
        for i, column in enumerate(values.T.astype(np.float64)):
            known = column[np.isfinite(column)]
            grid = grids.of(known)
            if grid is not None:
                found.append((i, grid))
            elif i not in bent and known.size and _single_ends(known):
                ends.append(i)
        return dataclasses.replace(self, grids=tuple(found), open=tuple(ends))


def _single_ends(values: Float[np.ndarray, " n"]) -> bool:
    """Whether both extremes are values of single rows, and no pile that rows end at."""
    return all((values == end).sum() == 1 for end in (values.min(), values.max()))


def _drawn_back(
    windows: Float[np.ndarray, "*lead time feature"],
    low: Float[np.ndarray, " feature"],
    high: Float[np.ndarray, " feature"],
) -> Float[np.ndarray, "*lead time feature"]:
    """Windows whose extremes beyond an end lie within it by as much, at most `BEYOND` of the range.

    One linear map a window and feature, so that what is smooth stays smooth.
    """
    most = BEYOND * (high - low)
    known = np.clip(windows, low - most, high + most)
    least, largest = (end(known, axis=-2, keepdims=True) for end in (np.min, np.max))
    bottom = np.where(least < low, 2 * low - least, least)
    top = np.where(largest > high, 2 * high - largest, largest)
    width = largest - least
    # What varies by little beside how far it is beyond keeps half of that.
    top = np.where(least < low, np.maximum(top, bottom + width / 2), top)
    bottom = np.where(largest > high, np.minimum(bottom, top - width / 2), bottom)
    slope = np.where(width > 0, top - bottom, 1) / np.where(width > 0, width, 1)
    moved = bottom + (known - least) * slope
    return np.where((bottom == least) & (top == largest), known, moved)


def apart(
    values: Float[np.ndarray, "*lead feature"], links: Sequence[Link]
) -> Float[np.ndarray, "*lead feature"]:
    """A float64 copy in which linked features say how far they lie above others."""
    found = values.astype(np.float64)
    for link in links:
        if link.is_copy:  # what is known of one is known of the other
            (same,) = link.others
            found[..., same] = np.where(
                np.isnan(found[..., same]), values[..., link.place], found[..., same]
            )
        found[..., link.place] = link.apart(values)
    return found


def fit_scaler(
    values: Float[np.ndarray, "rows feature"],
    columns: tuple[str, ...],
    scalings: Sequence[str] = (),
    *,
    rounded: bool = False,
    links: tuple[Link, ...] = (),
) -> Scaler:
    """The scaler of the training rows `(rows, features)`; NaN is left out.

    Args:
      values: in their own units.
      columns: names of the features.
      scalings: `minmax`, `standard`, `log`, `quantile` or `unit` (as it is) of each; default:
        `minmax` for all.
      rounded: whether bounds are rounded `outward`, so that the scaler holds no row's value. Where
        there are scalings, as a table has them, a feature that is constant in these rows is not so
        in others, and gets a width of one.
      links: rules between features.

    Raises:
      DataError: a feature is missing throughout, or constant and not `rounded`, so it has no range
        to scale by.
    """
    values = apart(values, links) if links else values
    curves, straight = _straightened(values, scalings)
    with np.errstate(all="ignore"):
        empty = ~np.isfinite(straight).any(axis=0)
        low = np.where(empty, 0, np.nanmin(np.where(empty, 0, straight), axis=0))
        high = np.where(empty, 0, np.nanmax(np.where(empty, 0, straight), axis=0))
    if rounded:
        for i in np.flatnonzero(~empty).tolist():
            low[i], high[i] = outward(straight[np.isfinite(straight[:, i]), i])
    for i, scaling in enumerate(scalings):
        if scaling == "unit":
            empty[i], low[i], high[i] = False, 0, 1
        elif rounded and low[i] == high[i] and not empty[i]:
            high[i] = low[i] + 1
    high[[link.place for link in links if link.is_copy]] += 1  # they are 0 in all rows
    constant = np.flatnonzero(high == low)
    if constant.size:
        i = int(constant[0])
        says = "has no value" if empty[i] else f"is constant ({values[0, i]:g})"
        raise DataError(
            f"column {columns[i]!r} {says} in the training rows: there is nothing to learn in it; "
            "drop the column and put it back afterwards"
        )
    for i, scaling in enumerate(scalings):
        if scaling == "standard":
            mean, reach = np.nanmean(straight[:, i]), REACH * np.nanstd(straight[:, i])
            low[i], high[i] = mean - reach, mean + reach
    return Scaler(tuple(low.tolist()), tuple(high.tolist()), tuple(curves), links=links)


def _straightened(
    values: Float[np.ndarray, "rows feature"], scalings: Sequence[str]
) -> tuple[list[tuple[int, Curve]], Float[np.ndarray, "rows feature"]]:
    """The curves of features that need one, and values after them."""
    curves, straight = [], values
    for i, scaling in enumerate(scalings):
        if scaling in ("log", "quantile"):
            known = values[np.isfinite(values[:, i]), i]
            if known.size and np.ptp(known) > 0:
                curve = _fit_curve(scaling, known)
                curves.append((i, curve))
                straight = straight.copy() if straight is values else straight
                straight[:, i] = curve.straighten(values[:, i])
    return curves, straight


def check_grain(
    values: Float[np.ndarray, "rows feature"], columns: Sequence[str], kept: type
) -> None:
    """Raises DataError where a feature is too fine for the dtype of samples.

    Args:
      values: training rows, in their own units.
      columns: names of the features.
      kept: dtype of samples.
    """
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32: NaN, which is not fine
        grain = np.spacing(np.maximum(abs(low), abs(high)).astype(kept))
    coarse = np.flatnonzero((high != low) & ~(grain < (high - low) / FEWEST_LEVELS))
    if coarse.size:
        i = int(coarse[0])
        raise DataError(
            f"column {columns[i]!r} runs from {low[i]:.9g} to {high[i]:.9g}: samples are "
            f"{np.dtype(kept)}, whose steps there are {grain[i]:.2g}; subtract an offset, or "
            "change the unit"
        )


def outward(
    known: Float[np.ndarray, " n"], *, whole: bool = False, size: float = 0.0
) -> tuple[float, float]:
    """Bounds around values, rounded outward to at most a hundredth of their range.

    A bound that a single row has is moved by a step more, so that a saved model does not tell it;
    0 and whole numbers of a small range, which are codes and counts, stay.

    Args:
      known: finite, at least one.
      whole: whether they are whole numbers, and bounds are to be.
      size: what to round to a hundredth of; default: their range.
    """
    low, high = float(known.min()), float(known.max())
    size = size or high - low or abs(low) or 1.0
    exponent = math.floor(math.log10(size)) - 2
    if whole:
        exponent = max(exponent, 0)
    step = 10.0**exponent
    if step <= 2 * np.spacing(max(abs(low), abs(high))):
        return low, high  # as fine as the numbers themselves
    told = whole and size < FEW_WHOLE
    bounds = []
    for bound, up in ((low, -1), (high, 1)):
        steps = up * math.ceil(up * bound / step - 1e-9)
        found = round(steps * step, max(-exponent, 0))
        if up * found < up * bound:  # a rounding error of the division
            found = round((steps + up) * step, max(-exponent, 0))
        if found == bound and bound != 0 and not told and (known == bound).sum() == 1:
            found = round((steps + up) * step, max(-exponent, 0))
        bounds.append(found)
    return bounds[0], bounds[1]


def _fit_curve(scaling: str, known: Float[np.ndarray, " n"]) -> Curve:
    if scaling == "log":
        positive = np.abs(known[known != 0])
        return Curve("log", unit=float(f"{np.median(positive):.0e}"))
    ordered = np.sort(known)
    place = np.linspace(0, len(ordered) - 2, min(LEVELS, len(ordered) - 1)).round().astype(int)
    # Of a value that many rows have, the first and the last place too: its interval is exact. So is
    # that of one beside a gap, which would else be a bound of the gap.
    values, first, count = np.unique(ordered, return_index=True, return_counts=True)
    wide = np.diff(values) > GAP * np.ptp(ordered)
    beside = np.r_[False, wide] | np.r_[wide, False]
    often = count >= np.where(beside, 2, max(2, 2 * len(ordered) / LEVELS))
    last = first + count - 1
    # No sample falls into a wide gap, or between two values that many rows have.
    jumps = last[:-1][wide | (often[:-1] & often[1:])]
    first, last = first[often], last[often]
    place = np.unique(
        np.clip([*place, *(first - 1), *first, *(last - 1), *last], 0, len(ordered) - 2)
    )
    place = np.setdiff1d(place, jumps)
    middles = ordered[place] / 2 + ordered[place + 1] / 2
    ends = np.array([_ends(part, np.ptp(ordered)) for part in np.split(ordered, jumps + 1)])
    # A single value at a jump, as 0 may be, would lie on either side of it; nor do parts overlap.
    before, after = ordered[jumps], ordered[jumps + 1]
    between, little = before / 2 + after / 2, GAP / 10 * np.ptp(ordered)
    alone = np.diff(ordered, prepend=-np.inf, append=np.inf) > 0
    alone = alone[:-1] & alone[1:]
    bare = alone[jumps + 1] & (ends[1:, 0] == after), alone[jumps] & (ends[:-1, 1] == before)
    ends[1:, 0] = np.maximum(np.where(bare[0], after - little, ends[1:, 0]), between)
    ends[:-1, 1] = np.minimum(np.where(bare[1], before + little, ends[:-1, 1]), between)
    at = np.r_[0.25, np.repeat(jumps + 1, 2), len(ordered) - 0.25]
    knots, levels = np.r_[middles, ends.ravel()], np.r_[place + 1, at] / len(ordered)
    order = np.lexsort((knots, levels))
    knots, levels = knots[order], levels[order]
    # Of equal knots in a row the first and the last are enough.
    inner = (knots[1:-1] == knots[:-2]) & (knots[1:-1] == knots[2:])
    kept = np.r_[True, ~inner, True]
    return Curve("normal", knots=tuple(knots[kept].tolist()), levels=tuple(levels[kept].tolist()))


def _ends(part: Float[np.ndarray, " n"], whole: float) -> tuple[float, float]:
    """Bounds of the values between two jumps: an atom itself, else rounded `outward`."""
    if len(part) > 1 and part[0] == part[-1]:
        return part[0], part[0]
    return outward(part, size=max(np.ptp(part), GAP * whole))
