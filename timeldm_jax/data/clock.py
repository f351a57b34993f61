"""Time: the clock of a table, rows in order of it, even steps, and how times are written."""

import dataclasses
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from pandas.api.types import pandas_dtype
from pandas.tseries.api import guess_datetime_format

from timeldm_jax.errors import DataError, option

_log = logging.getLogger(__name__)

IRREGULAR = ("error", "sort", "resample")
TIME_NAMES = ("date", "time", "datetime", "timestamp", "ds")
DATE = r"\d[-/:.T ]\d"


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


def order_rows(
    frame: pd.DataFrame, where: str, name: str, entity: str, rule: str
) -> tuple[pd.DataFrame, Clock]:
    """Rows in order of time within each series, and the clock; see `Options.irregular`."""
    at = f"{where}, column {name!r} (the time)"
    column = frame[name]
    if column.isna().any():
        row = row_of(column[column.isna()])
        raise DataError(f"{at} has no value in row {row}; fill it, or remove the row")
    numeric = pd.api.types.is_numeric_dtype(column.dtype)
    times = column.astype(np.float64) if numeric else parse_times(column, at)
    stamps = times.to_numpy() if numeric else _seconds(times)
    groups = groups_of(frame, entity)
    key = np.lexsort((stamps, groups))
    if rule == "error" and (np.diff(key) < 0).any():
        first = int(np.flatnonzero(np.diff(stamps) * (np.diff(groups) == 0) < 0)[0]) + 1
        raise DataError(
            f"{at}, row {first + 1}: {column.iloc[first]} comes after {column.iloc[first - 1]}. "
            f"Rows must be in order of time; {option('irregular', 'sort')} puts them in order"
        )
    frame, stamps, groups = frame.iloc[key].reset_index(drop=True), stamps[key], groups[key]
    times = times.iloc[key]
    inside = np.diff(groups) == 0
    gaps = np.diff(stamps)
    if not inside.any():
        raise DataError(f"{at}: no series has two rows")
    step = float(np.median(gaps[inside]))
    uneven = np.flatnonzero(inside & ~np.isclose(gaps, step, rtol=1e-6, atol=0))
    even = len(uneven) == 0 and step > 0
    offset = "" if numeric or even else _offset(times, groups)
    if rule == "error" and not even and (not offset or (gaps[inside] <= 0).any()):
        bad = int(uneven[0]) + 1 if len(uneven) else 1
        hint = ""
        if (gaps[inside] <= 0).any() and not entity:
            hint = f"If several series share times, name their column ({option('entity')}). "
        raise DataError(
            f"{at} is not evenly spaced: the usual step is {_words(step, numeric)}, and row "
            f"{bad + 1} ({frame[name].iloc[bad]}) comes {_words(gaps[bad - 1], numeric)} after the "
            f"one before. {hint}{option('irregular', 'sort')} takes every row for one step; "
            f"{option('irregular', 'resample')} makes steps even, missing where there is no row"
        )
    if rule == "resample" and not even:
        frame, stamps = _resample(frame, name, entity, stamps, groups, step, numeric)
        _log.info("%s: resampled to a row every %s", where, _words(step, numeric))
        offset = ""
    elif not (even or offset):
        _log.info("%s: unevenly spaced; every row is taken for one step", where)
    start: str | float = float(stamps[0]) if numeric else pd.Timestamp(times.iloc[0]).isoformat()
    zone = "" if numeric else str(getattr(times.dtype, "tz", None) or "")
    form = "" if numeric else time_format(column)
    step = step if step > 0 else 1.0
    return frame, Clock(name, str(column.dtype), start, step, offset, form, zone)


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
    origin = times.iloc[0]
    return (times - origin).dt.total_seconds().to_numpy()


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


def _words(step: float, numeric: bool) -> str:
    return f"{step:g}" if numeric else str(pd.Timedelta(seconds=step))


def _resample(
    frame: pd.DataFrame,
    name: str,
    entity: str,
    stamps: Float[np.ndarray, " rows"],
    groups: Int[np.ndarray, " rows"],
    step: float,
    numeric: bool,
) -> tuple[pd.DataFrame, Float[np.ndarray, " rows"]]:
    """A row every `step` in each series: means of floats, else the first; missing elsewhere."""
    if step <= 0:
        raise DataError(f"column {name!r} (the time): most rows repeat the time before")
    slot = np.round((stamps - stamps[0]) / step).astype(np.int64)
    rules = {
        column: "mean" if pd.api.types.is_float_dtype(frame[column].dtype) else "first"
        for column in frame.columns
        if column not in (name, entity)
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
    even = stamps[0] + slots * step
    if numeric:
        merged[name] = even
    else:
        start = parse_times(frame[name], name).iloc[0]
        stepped = start + pd.to_timedelta(slots * step, unit="s")
        form = time_format(frame[name])
        merged[name] = stepped.strftime(form) if form else stepped
    if entity:
        ids = frame[entity].to_numpy()
        of_group = {g: ids[i] for g, i in zip(*np.unique(groups, return_index=True), strict=True)}
        merged[entity] = [of_group[g] for g in full.get_level_values(0)]
    return merged.reset_index(drop=True)[list(frame.columns)], even


def looks_like_time(present: pd.Series, share: float = 1.0) -> bool:
    """Whether text is dates, or for `share` < 1 mostly means to be."""
    texts = present.head(50).astype(str)
    matches = texts.str.contains(DATE)
    if texts.empty or matches.mean() < share:
        return False
    try:
        pd.to_datetime(texts[matches], format=time_format(texts[matches]) or None, utc=True)
    except (ValueError, TypeError):
        return False
    return True


def parse_times(values: pd.Series, at: str) -> pd.Series:
    """Times of a column, from text or datetimes.

    Raises:
      DataError: text that is no time, or times of several zones.
    """
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return values
    form = time_format(values) or None
    try:
        return pd.to_datetime(values, format=form)
    except (ValueError, TypeError) as error:
        parsed = pd.to_datetime(values, errors="coerce", format="mixed", utc=True)
        bad = values[parsed.isna() & values.notna()]
        if len(bad):
            raise DataError(f"{at}, row {row_of(bad)} holds {bad.iloc[0]!r}, no time") from error
        if "timezones" in str(error) or "time zones" in str(error):
            raise DataError(f"{at} mixes time zones; write all times in one (UTC, say)") from error
        raise DataError(
            f"{at} writes times in several ways ({values.iloc[0]!r} first); use one"
        ) from error


def time_format(values: pd.Series) -> str:
    """The strftime format of a column of text, the day first where the month cannot be; or ""."""
    if not pd.api.types.is_string_dtype(values.dtype) or values.dropna().empty:
        return ""
    texts = values.dropna().astype(str)
    with warnings.catch_warnings():  # that the day is not first after all
        warnings.simplefilter("ignore")
        guesses = [guess_datetime_format(texts.iloc[0], dayfirst=first) for first in (False, True)]
    for guess in filter(None, guesses):
        parsed = pd.to_datetime(texts.head(1_000), format=guess, errors="coerce", utc=True)
        if parsed.notna().all():
            return guess
    return guesses[0] or ""


def row_of(values: pd.Series) -> str:
    """The first row's label, counted as in a file: 1 is the first row below the header."""
    label = values.index[0]
    return str(label + 1) if isinstance(label, int | np.integer) else repr(label)
