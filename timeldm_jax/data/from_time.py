"""Columns that the time decides: its hour, weekday, month or year, in numbers or words.

Such a column is not learnt. In samples, forecasts and completions it follows from the time of its
row, so that a Sunday is called one.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from timeldm_jax.data.clock import Clock

if TYPE_CHECKING:
    from timeldm_jax.data.columns import Column

MOST_VALUES = 400  # different ones of such a column
OFTEN = (
    2  # stretches of time in which a part of the calendar comes again, so that it is no accident
)
MOSTLY = 0.9  # share of the parts that must
ROWS = 5  # a part, from which a column of its numbers counts nothing else

# Of local times, simplest first.
PARTS: dict[str, Callable[[pd.DatetimeIndex], Any]] = {
    "hour": lambda t: t.hour,
    "weekday": lambda t: t.day_of_week,
    "month": lambda t: t.month,
    "day of the month": lambda t: t.day,
    "year": lambda t: t.year,
    "minute": lambda t: t.minute,
    "hour and minute": lambda t: 60 * t.hour + t.minute,
    "ISO week": lambda t: t.isocalendar().week.to_numpy(),
    "day of the year": lambda t: 100 * t.month + t.day,
}


@dataclasses.dataclass(frozen=True)
class FromTime:
    """What a column has at each part of the calendar.

    Attributes:
      part: one of `PARTS`.
      keys: of the part, rising.
      values: of the column, one a key.
      offset: of a column that is the part itself plus this; None: it is not.
    """

    part: str
    keys: tuple[int, ...]
    values: tuple[Any, ...]
    offset: float | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "FromTime":
        """The inverse of `dataclasses.asdict`."""
        return cls(
            **{**content, "keys": tuple(content["keys"]), "values": tuple(content["values"])}
        )

    def at(self, times: pd.Series) -> pd.Series:
        """The values at some times; of a part that was never seen, those of the one before."""
        keys = _keys(self.part, times)
        if self.offset is not None:
            return pd.Series(keys + self.offset, dtype=object)
        place = np.searchsorted(self.keys, keys, side="right") - 1
        values = np.array(self.values, dtype=object)
        return pd.Series(values[np.maximum(place, 0)], dtype=object)


def find(
    columns: list["Column"],
    frame: pd.DataFrame,
    clock: Clock | None,
    groups: Int[np.ndarray, " rows"],
    said: Collection[str],
    where: str,
) -> list["Column"]:
    """Columns, of which some follow from the time.

    Args:
      columns: each of them learnt alone.
      frame: the table.
      clock: its time column.
      groups: number of the series of each row.
      said: columns of which the user says something, which are learnt.
      where: what to call the table in errors.
    """
    free = [c for c in columns if c.name not in said and _may_follow(c, frame[c.name], groups)]
    if clock is None or isinstance(clock.start, float) or not free:
        return columns
    times = clock.read(frame, where)
    parts = {part: _keys(part, times) for part in PARTS}
    moments = pd.factorize(times, sort=True)[0]
    found = {}
    for column in free:
        for part, keys in parts.items():
            follows = _follows(part, keys, frame[column.name], moments)
            if follows is not None:
                found[column.name] = dataclasses.replace(
                    column, scaling="constant", value=follows.values[0], from_time=follows,
                    missing=False, grid=None, low=None, high=None,
                )  # fmt: skip
                break
    derived = [found.get(column.name, column) for column in columns]
    return derived if any(c.scaling != "constant" for c in derived) else columns


def _may_follow(column: "Column", values: pd.Series, groups: Int[np.ndarray, " rows"]) -> bool:
    """Whether it has few values, and changes within a series."""
    if column.kind not in ("integer", "boolean", "category", "float"):
        return False
    codes = pd.factorize(values)[0]
    inside = (np.diff(codes) != 0) & (np.diff(groups) == 0)
    return bool(inside.any()) and 2 <= codes.max() + 1 <= MOST_VALUES


def _follows(
    part: str,
    keys: Int[np.ndarray, " rows"],
    values: pd.Series,
    moments: Int[np.ndarray, " rows"],
) -> FromTime | None:
    """How values follow from a part of the calendar, or None where they do not.

    `moments` number the times, rising: that other series have the same at one is no evidence.
    """
    known = values.notna().to_numpy()
    if not known.any():
        return None
    keys, values, moments = keys[known], values[known], moments[known]
    codes, words = pd.factorize(values)
    places = pd.factorize(keys, sort=True)
    first = np.zeros(len(places[1]), np.int64)
    first[places[0]] = codes
    if (first[places[0]] != codes).any():
        return None
    said = [word.item() if isinstance(word, np.generic) else word for word in words[first]]
    different = tuple(int(key) for key in places[1])
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
        offsets = np.asarray(said, np.float64) - np.asarray(different)
        enough = len(different) > 1 and len(np.unique(moments)) >= ROWS * len(different)
        if enough and (offsets == offsets[0]).all():
            return FromTime(part, different, tuple(said), float(offsets[0]))
    once = places[0][np.unique(moments, return_index=True)[1]]
    visits = np.bincount(once[np.r_[True, np.diff(once) != 0]], minlength=len(different))
    if part == "year" or (visits >= OFTEN).mean() < MOSTLY:
        return None
    return FromTime(part, different, tuple(said))


def _keys(part: str, times: pd.Series) -> Int[np.ndarray, " rows"]:
    return np.asarray(PARTS[part](pd.DatetimeIndex(times)), np.int64)
