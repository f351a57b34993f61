"""Scaling per feature, and its exact inverse.

A feature is straightened by a curve where its distribution asks for one (logarithm, quantiles),
then mapped linearly so that training values lie in, or around, [0, 1].
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from timeldm_jax.errors import DataError

LEVELS = 1_000  # quantiles that a curve keeps at most
TAIL = (0.0, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3)
MARGINAL_LEVELS = np.array([*TAIL, *np.linspace(0.01, 0.99, 99), *(1 - np.array(TAIL[::-1]))])
REACH = 3.0  # deviations either side of the mean that `standard` maps to [0, 1]


@dataclasses.dataclass(frozen=True)
class Curve:
    """An increasing function with an inverse, of one feature.

    Attributes:
      kind: `log` is `sign(x)·ln(1 + |x|/unit)`; `quantile` is the share of training values below,
        linear between knots, and beyond them at most a
        range of values a level.
      unit: of `log`.
      knots: of `quantile`: training values, increasing.
      levels: the share below each knot.
    """

    kind: Literal["log", "quantile"]
    unit: float = 1.0
    knots: tuple[float, ...] = ()
    levels: tuple[float, ...] = ()

    def straighten(self, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The function, element by element."""
        if self.kind == "log":
            return np.sign(values) * np.log1p(np.abs(values) / self.unit)
        knots, levels = np.array(self.knots), np.array(self.levels)
        return _interpolate(values, knots, levels, 1 / self._steps())

    def bend(self, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The inverse of `straighten`."""
        if self.kind == "log":
            return np.sign(values) * np.expm1(np.abs(values)) * self.unit
        knots, levels = np.array(self.knots), np.array(self.levels)
        return _interpolate(values, levels, knots, self._steps())

    def _steps(self) -> Float[np.ndarray, " 2"]:
        """Values a level, beyond the first and the last knot.

        A heavy tail's last two knots may lie farther apart than all others: continued at their
        slope, a level of 1.05 would be many times the largest value. The slope is at most the
        whole range a level, so that 1.05 lies at most a twentieth of the range beyond.
        """
        knots, levels = np.array(self.knots), np.array(self.levels)
        return np.minimum((np.diff(knots) / np.diff(levels))[[0, -1]], knots[-1] - knots[0])


@dataclasses.dataclass(frozen=True)
class Scaler:
    """Maps each feature to around [0, 1]. Plain numbers, so that JSON keeps it exactly.

    Attributes:
      low: what becomes 0, of each feature, after its curve.
      high: what becomes 1.
      curves: by number of a feature; most have none.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    curves: tuple[tuple[int, Curve], ...] = ()

    def scale(
        self, values: Float[np.ndarray, "*lead feature"]
    ) -> Float[np.ndarray, "*lead feature"]:
        """Values in their own units to around [0, 1], float64. NaN stays NaN."""
        low, high = np.array(self.low), np.array(self.high)
        if self.curves:
            values = values.astype(np.float64)
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
        return values

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        curves = [[i, dataclasses.asdict(curve)] for i, curve in self.curves]
        return {"low": list(self.low), "high": list(self.high), "curves": curves}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Scaler":
        """The inverse of `to_json`."""
        curves = tuple(
            (i, Curve(c["kind"], c["unit"], tuple(c["knots"]), tuple(c["levels"])))
            for i, c in content.get("curves", ())  # the first versions had none
        )
        return cls(tuple(content["low"]), tuple(content["high"]), curves)


def fit_scaler(
    values: Float[np.ndarray, "rows feature"],
    columns: tuple[str, ...],
    scalings: Sequence[str] = (),
) -> Scaler:
    """The scaler of the training rows `(rows, features)`; NaN is left out.

    Args:
      values: in their own units.
      columns: names of the features.
      scalings: `minmax`, `standard`, `log` or `quantile` of each; default: `minmax` for all.

    Raises:
      DataError: a feature is constant or missing throughout, so it has no range to scale by.
    """
    curves = []
    straight = values
    for i, scaling in enumerate(scalings):
        if scaling in ("log", "quantile"):
            known = values[np.isfinite(values[:, i]), i]
            if known.size and np.ptp(known) > 0:
                curve = _fit_curve(scaling, known)
                curves.append((i, curve))
                straight = straight.copy() if straight is values else straight
                straight[:, i] = curve.straighten(values[:, i])
    with np.errstate(all="ignore"):
        empty = ~np.isfinite(straight).any(axis=0)
        low = np.where(empty, 0, np.nanmin(np.where(empty, 0, straight), axis=0))
        high = np.where(empty, 0, np.nanmax(np.where(empty, 0, straight), axis=0))
    constant = np.flatnonzero(high == low)
    if constant.size:
        i = int(constant[0])
        says = "has no value" if empty[i] else f"is constant ({values[0, i]:g})"
        raise DataError(
            f"column {columns[i]!r} {says} in the training rows: there is "
            "nothing to learn in it; drop the column and put it back afterwards"
        )
    for i, scaling in enumerate(scalings):
        if scaling == "standard":
            mean, reach = np.nanmean(straight[:, i]), REACH * np.nanstd(straight[:, i])
            low[i], high[i] = mean - reach, mean + reach
    return Scaler(tuple(low.tolist()), tuple(high.tolist()), tuple(curves))


def marginals(values: Float[np.ndarray, "rows feature"]) -> Float[np.ndarray, "feature level"]:
    """Quantiles of each feature at `MARGINAL_LEVELS`, float32; NaN is left out."""
    return np.nanquantile(values, MARGINAL_LEVELS, axis=0).T.astype(np.float32)


def _fit_curve(scaling: str, known: Float[np.ndarray, " n"]) -> Curve:
    if scaling == "log":
        positive = np.abs(known[known != 0])
        return Curve("log", unit=float(np.median(positive)))
    ordered = np.sort(known)
    place = np.linspace(0, len(ordered) - 1, min(LEVELS, len(ordered))).round().astype(int)
    levels = (place + 0.5) / len(ordered)
    knots, first = np.unique(ordered[place], return_index=True)
    # A value that stands for many levels stands at their middle.
    shares = np.add.reduceat(levels, first) / np.diff([*first, len(levels)])
    return Curve("quantile", knots=tuple(knots.tolist()), levels=tuple(shares.tolist()))


def _interpolate(
    x: Float[np.ndarray, "..."],
    knots: Float[np.ndarray, " k"],
    levels: Float[np.ndarray, " k"],
    slopes: Float[np.ndarray, " 2"],
) -> Float[np.ndarray, "..."]:
    """Linear between knots; before the first and after the last with `slopes`."""
    known = np.clip(x, knots[0], knots[-1])
    segment = np.clip(np.searchsorted(knots, known) - 1, 0, len(knots) - 2)
    width = knots[segment + 1] - knots[segment]
    share = (known - knots[segment]) / width
    inside = levels[segment] + share * (levels[segment + 1] - levels[segment])
    return inside + (x - known) * np.where(x < knots[0], slopes[0], slopes[1])
