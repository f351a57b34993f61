"""Time: the clock of a table, rows in order of it, even steps, and how times are written."""

import dataclasses
import logging
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from pandas.api.types import pandas_dtype

from timeldm_jax.data.formats import looks_like_time, parse_times, row_of, time_format
from timeldm_jax.errors import DataError, option

_log = logging.getLogger(__name__)

IRREGULAR = ("error", "sort", "resample")
TIME_NAMES = ("date", "time", "datetime", "timestamp", "ds")


@dataclasses.dataclass(frozen=True)
class Clock:
    """The time column.

    Attributes:
      name: its name.
      dtype: the pandas dtype of the input.
      start: first time, ISO text or a number.
      step: seconds (or the column's own unit, where it holds numbers) between rows.
      offset: pandas offset alias where steps are not of one length (months, business days).
      format: strftime format where the input held text.
      zone: name of the time zone, or "".
    """

    name: str
    dtype: str
    start: str | float
    step: float
    offset: str = ""
    format: str = ""
    zone: str = ""

    def times(self, count: int) -> pd.Series:
        """`count` regular times from the start, of the input's dtype."""
        if isinstance(self.start, float):
            numbers = pd.Series(self.start + self.step * np.arange(count))
            return (
                numbers.round().astype(pandas_dtype(self.dtype))
                if "int" in self.dtype.lower()
                else numbers
            )
        start = pd.Timestamp(self.start)
        if self.offset:
            index = pd.date_range(start, periods=count, freq=self.offset)
        else:
            index = start + pd.to_timedelta(np.arange(count) * self.step, unit="s")
        if self.format:
            return pd.Series(index.strftime(self.format), dtype=pandas_dtype(self.dtype))
        return pd.Series(index).astype(pandas_dtype(self.dtype))

    def after(self, last: Any) -> "Clock":
        """The same clock, started at a time of the input's kind."""
        if isinstance(self.start, float):
            return dataclasses.replace(self, start=float(last))
        return dataclasses.replace(self, start=pd.Timestamp(last).isoformat())


def find_time(frame: pd.DataFrame, entity: str, overrides: Mapping[str, Any]) -> str:
    """The column that is a time by dtype, or by its name and text; "" where there is none."""
    free = [name for name in frame.columns if name != entity and name not in overrides]
    for name in free:
        if pd.api.types.is_datetime64_any_dtype(frame[name].dtype):
            return name
    for name in free:
        text = pd.api.types.is_string_dtype(frame[name].dtype)
        if not text or frame[name].isna().all():
            continue
        named = name.lower().strip() in TIME_NAMES
        share = 0.5 if named else 1.0  # where the name says so, a strange cell is an error
        if (named or name == frame.columns[0]) and looks_like_time(frame[name].dropna(), share):
            return name
    return ""


def from_index(
    frame: pd.DataFrame, where: str, time: str, entity: str, *, later: bool = False
) -> tuple[pd.DataFrame, str, str]:
    """A frame indexed by row number, and the names of its time and its entity.

    An index labels rows and is not learnt. Its levels become columns only where they say when or
    whose a row is: those that are named as the time or the entity; one that holds times (called
    `time` if it has no name), unless the time is another; and the one beside it, if there are two
    (called `entity`).

    Args:
      frame: as the user gave it.
      where: what to call it in errors.
      time: name of its time column, or "" where that is open.
      entity: likewise.
      later: whether the names are a model's, so that "" means that there is none, and an index of
        times is its time whatever its name.

    Raises:
      DataError: several levels that say neither, or one that is called as another column is.
    """
    plain = frame.reset_index(drop=True)
    levels = [frame.index.get_level_values(number) for number in range(frame.index.nlevels)]
    names = ["" if level.name is None else str(level.name) for level in levels]
    missing = time not in (*plain.columns, *names)
    found: dict[str, int] = {}
    for number, (level, name) in enumerate(zip(levels, names, strict=True)):
        if name and name in (time, entity):
            found[name] = number
        elif (
            time not in found
            and _holds_times(level)
            and (missing and (later or not name) if time else not later)
        ):
            time = time or name or "time"
            found[time] = number
    if len(levels) == 2 and list(found) == [time] and entity not in plain.columns:
        rest = 1 - found[time]
        if (not entity and not later) or (entity and (later or not names[rest])):
            entity = entity or names[rest] or "entity"
            found[entity] = rest
    if len(levels) > 1 and not found and not later:
        raise DataError(
            f"{where} has an index of several levels; say which is its time or its entity "
            f"({option('time')}, {option('entity')}), or call reset_index() first"
        )
    for name, number in sorted(found.items(), key=lambda item: -item[1]):
        level = levels[number]
        values = level.to_timestamp() if isinstance(level, pd.PeriodIndex) else level
        if name not in plain.columns:
            plain.insert(0, name, pd.Series(values))
        elif not values.equals(pd.Index(plain[name])):
            raise DataError(f"{where}: its index and a column are both called {name!r}; rename one")
    return plain, time, entity


def _holds_times(level: pd.Index) -> bool:
    if isinstance(level, pd.DatetimeIndex | pd.PeriodIndex):
        return True
    return pd.api.types.is_string_dtype(level.dtype) and looks_like_time(pd.Series(level).dropna())


class Ordered(NamedTuple):
    """A table whose rows are in order.

    Attributes:
      frame: its rows; the index is the number of each in the table that was given, unless they
        were resampled.
      clock: of its time column, or None.
      place: `(rows given,)` the row of `frame` that holds each given row.
    """

    frame: pd.DataFrame
    clock: Clock | None
    place: Int[np.ndarray, " given"]


class _Steps(NamedTuple):
    """What lies between rows in order.

    Attributes:
      stamps: seconds since the first time, or the times themselves where they are numbers.
      groups: number of the series of each row.
      gaps: to the next row.
      inside: whether the next row is of the same series.
      usual: the median gap inside a series.
      even: whether all are that.
      offset: the calendar rule that they follow where they are not even, or "".
    """

    stamps: Float[np.ndarray, " rows"]
    groups: Int[np.ndarray, " rows"]
    gaps: Float[np.ndarray, " gaps"]
    inside: Bool[np.ndarray, " gaps"]
    usual: float
    even: bool
    offset: str


def order(frame: pd.DataFrame, where: str, time: str, entity: str, rule: str) -> Ordered:
    """Rows of each series side by side and in order of time.

    Args:
      frame: indexed by row number.
      where: what to call it in errors.
      time: its time column, or "".
      entity: its entity column, or "".
      rule: one of `IRREGULAR`; see `table.Options`.

    Raises:
      DataError: times that cannot be read, or what the rule does not allow.
    """
    if entity:
        frame = _by_entity(frame, entity)
    place = np.empty(len(frame), np.int64)
    if not time:
        place[frame.index] = np.arange(len(frame))
        return Ordered(frame, None, place)
    at = f"{where}, column {time!r} (the time)"
    column = frame[time]
    times = _read_times(column, at)
    stamps = _seconds(times)
    groups = groups_of(frame, entity)
    key = np.lexsort((stamps, groups))
    if rule == "error":
        _check_order(frame, time, entity, stamps, groups, at)
    frame, times = frame.iloc[key], times.iloc[key]
    steps = _steps(times, stamps[key], groups[key], at)
    if rule == "error":
        _check_even(frame, time, entity, steps, at)
    clock = _clock(column, times, steps)
    rows, slots = frame.index, np.arange(len(frame))
    if rule == "resample" and not steps.even:
        frame, slots = _resample(frame, time, entity, steps)
        clock = dataclasses.replace(clock, offset="")
        _log.info("%s: resampled to a row every %s", where, _words(steps.usual, times))
    elif not (steps.even or steps.offset):
        _log.info("%s: unevenly spaced; every row is taken for one step", where)
    place[rows] = slots
    return Ordered(frame, clock, place)


def _by_entity(frame: pd.DataFrame, entity: str) -> pd.DataFrame:
    try:
        return frame.sort_values(entity, kind="stable")
    except TypeError:  # numbers and words
        return frame.sort_values(entity, kind="stable", key=lambda ids: ids.astype(str))


def _read_times(column: pd.Series, at: str) -> pd.Series:
    """A time column as float64 or datetimes."""
    if column.isna().any():
        row = row_of(column[column.isna()])
        raise DataError(f"{at} has no value in row {row}; fill it, or remove the row")
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column.astype(np.float64)
    if pd.api.types.is_timedelta64_dtype(column.dtype):
        raise DataError(f"{at} has dtype {column.dtype}; turn it into numbers or times first")
    return parse_times(column, at)


def _check_order(
    frame: pd.DataFrame,
    time: str,
    entity: str,
    stamps: Float[np.ndarray, " rows"],
    groups: Int[np.ndarray, " rows"],
    at: str,
) -> None:
    column = frame[time]
    back = np.flatnonzero((np.diff(stamps) < 0) & (np.diff(groups) == 0)) + 1
    if back.size:
        first = int(back[0])
        hint = _series_hint(frame, time, entity)
        hint = hint or f"{option('irregular', 'sort')} puts them in order"
        raise DataError(
            f"{at}, row {row_of(column.iloc[first:])}: {column.iloc[first]} comes after "
            f"{column.iloc[first - 1]}. Rows must be in order of time; {hint}"
        )


def _series_hint(frame: pd.DataFrame, time: str, entity: str) -> str:
    """Which column to name as the entity where rows of one series share times, or ""."""
    if entity or not frame[time].duplicated().any():
        return ""
    for name in frame.columns:
        ids = frame[name]
        if name == time or pd.api.types.is_float_dtype(ids.dtype):
            continue
        if 1 < ids.nunique() < len(frame) / 2 and not frame.duplicated([name, time]).any():
            return (
                f"several rows have the same time, but not of one {name!r}: if that says which "
                f"series a row belongs to, {option('entity', str(name))}"
            )
    return (
        "several rows have the same time: if they are of several series, name the column that "
        f"tells them apart ({option('entity')})"
    )


def _steps(
    times: pd.Series, stamps: Float[np.ndarray, " rows"], groups: Int[np.ndarray, " rows"], at: str
) -> _Steps:
    gaps, inside = np.diff(stamps), np.diff(groups) == 0
    if not inside.any():
        raise DataError(f"{at}: no series has two rows")
    usual = float(np.median(gaps[inside]))
    even = usual > 0 and bool(np.isclose(gaps, usual, rtol=1e-6, atol=0)[inside].all())
    numeric = pd.api.types.is_numeric_dtype(times.dtype)
    offset = "" if numeric or even else _offset(times, groups)
    return _Steps(stamps, groups, gaps, inside, usual, even, offset)


def _check_even(frame: pd.DataFrame, time: str, entity: str, steps: _Steps, at: str) -> None:
    column = frame[time]
    repeated = bool((steps.gaps[steps.inside] <= 0).any())
    if steps.even or (steps.offset and not repeated):
        return
    uneven = steps.inside & ~np.isclose(steps.gaps, steps.usual, rtol=1e-6, atol=0)
    bad = int(uneven.argmax()) + 1  # the first, or the second row where all repeat
    hint = _series_hint(frame, time, entity)
    hint = f"{hint[0].upper()}{hint[1:]}. Otherwise " if hint else ""
    raise DataError(
        f"{at} is not evenly spaced: the usual step is {_words(steps.usual, column)}, and row "
        f"{row_of(column.iloc[bad:])} ({column.iloc[bad]}) comes "
        f"{_words(steps.gaps[bad - 1], column)} after the one before. {hint}"
        f"{option('irregular', 'sort')} takes every row for one step; "
        f"{option('irregular', 'resample')} makes steps even, missing where there is no row"
    )


def _clock(column: pd.Series, times: pd.Series, steps: _Steps) -> Clock:
    numeric = pd.api.types.is_numeric_dtype(times.dtype)
    return Clock(
        name=str(column.name),
        dtype=str(column.dtype),
        start=float(times.iloc[0]) if numeric else pd.Timestamp(times.iloc[0]).isoformat(),
        step=steps.usual if steps.usual > 0 else 1.0,
        offset=steps.offset,
        format="" if numeric else time_format(column),
        zone="" if numeric else str(getattr(times.dtype, "tz", None) or ""),
    )


def positions(
    frame: pd.DataFrame, clock: Clock | None, entity: str, where: str
) -> Float[np.ndarray, " rows"]:
    """Steps of each row since the first time; without a clock, since its series' first row."""
    if clock is not None:
        times = frame[clock.name]
        if isinstance(clock.start, float):
            return times.to_numpy(np.float64) / clock.step
        stamps = parse_times(times, f"{where}, column {clock.name!r}")
        return (stamps - stamps.min()).dt.total_seconds().to_numpy() / clock.step
    position = np.arange(len(frame), dtype=np.float64)
    if not entity:
        return position
    first = np.r_[True, np.diff(groups_of(frame, entity)) != 0]
    return position - np.maximum.accumulate(np.where(first, position, 0))


def groups_of(frame: pd.DataFrame, entity: str) -> Int[np.ndarray, " rows"]:
    """The number of the series that each row belongs to, in order of appearance."""
    if not entity:
        return np.zeros(len(frame), np.int64)
    return pd.factorize(frame[entity])[0]


def _seconds(times: pd.Series) -> Float[np.ndarray, " rows"]:
    """Seconds since the first time, or numbers as they are."""
    if pd.api.types.is_numeric_dtype(times.dtype):
        return times.to_numpy()
    return (times - times.iloc[0]).dt.total_seconds().to_numpy()


def _offset(times: pd.Series, groups: Int[np.ndarray, " rows"]) -> str:
    """The calendar rule of steps of uneven length (months, business days), or ""."""
    index = pd.DatetimeIndex(times.iloc[: int((groups == groups[0]).sum())])
    try:
        with warnings.catch_warnings():  # that pandas 4 will give an object instead of its name
            warnings.simplefilter("ignore")
            found = pd.infer_freq(index)
    except (ValueError, TypeError):  # fewer than three times, or repeated ones
        return ""
    return str(getattr(found, "freqstr", found) or "")


def _words(step: float, times: pd.Series) -> str:
    numeric = pd.api.types.is_numeric_dtype(times.dtype)
    return f"{step:g}" if numeric else str(pd.Timedelta(seconds=step))


def _resample(
    frame: pd.DataFrame, time: str, entity: str, steps: _Steps
) -> tuple[pd.DataFrame, Int[np.ndarray, " rows"]]:
    """A row every usual step in each series, and the row that each given one falls into.

    Floats are averaged, of all else the first is taken; what no row falls into is missing.
    """
    stamps, groups, step = steps.stamps, steps.groups, steps.usual
    if step <= 0:
        raise DataError(f"column {time!r} (the time): most rows repeat the time before")
    slot = np.round((stamps - stamps[0]) / step).astype(np.int64)
    rules = {
        column: "mean" if pd.api.types.is_float_dtype(frame[column].dtype) else "first"
        for column in frame.columns
        if column not in (time, entity)
    }
    merged = frame.groupby([groups, slot]).agg(rules)
    first, last = (pd.Series(slot).groupby(groups).agg(kind) for kind in ("min", "max"))
    full = pd.MultiIndex.from_tuples(
        [(g, s) for g in first.index for s in range(first[g], last[g] + 1)]
    )
    merged = merged.reindex(full)
    for column in merged.columns:  # an integer column with holes: nullable, still whole
        if pd.api.types.is_integer_dtype(frame[column].dtype) and merged[column].isna().any():
            merged[column] = merged[column].astype("Int64")
    slots = full.get_level_values(1).to_numpy()
    if pd.api.types.is_numeric_dtype(frame[time].dtype):
        merged[time] = stamps[0] + slots * step
    else:
        start = parse_times(frame[time], time).iloc[0]
        stepped = start + pd.to_timedelta(slots * step, unit="s")
        form = time_format(frame[time])
        merged[time] = stepped.strftime(form) if form else stepped
    if entity:
        ids = frame[entity].to_numpy()
        of_group = {g: ids[i] for g, i in zip(*np.unique(groups, return_index=True), strict=True)}
        merged[entity] = [of_group[g] for g in full.get_level_values(0)]
    place = full.get_indexer(pd.MultiIndex.from_arrays([groups, slot]))
    return merged.reset_index(drop=True)[list(frame.columns)], place
