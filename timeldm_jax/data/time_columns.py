"""Which columns of a table, or levels of its index, say when a row is."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from timeldm_jax.data import clock as clocks
from timeldm_jax.data import dtypes, formats, wide
from timeldm_jax.data import schema as schemas
from timeldm_jax.errors import DataError, option

if TYPE_CHECKING:
    from timeldm_jax.data.table import Options

TIME_NAMES = ("date", "time", "datetime", "timestamp", "ds")
_TIMELY = re.compile(
    r"(^|[^a-z])(date|datum|day|time|datetime|timestamp|ts|ds|at|utc|epoch|month|week|quarter|year|period)"
    r"($|[^a-z])|time$|date$"
)
_COUNTERS = ("t", "time", "step", "timestep", "time_step", "seconds", "elapsed", "timestamp")
_UNIT = (
    r"\s*[\[(].*[\])]$|[_ ](?:s|ms|us|ns|sec|secs|seconds|min|h|hours?|days?)$"  # time (s), time_ms
)
# The names of a time's parts in columns of their own, and their bounds; each needs those before.
_PARTS = (
    ("year yr yyyy", 1000, 2999),
    ("month mon mo mnth mm", 1, 12),
    ("day dom mday dd", 1, 31),
    ("hour hr hh", 0, 23),
    ("minute min mi", 0, 59),
)
_HOURS = r"(?:[01]?\d|2[0-3])[:.][0-5]\d(?:[:.][0-5]\d(?:[.,]\d+)?)?(?: ?[AaPp][Mm])?"


def find_time(
    frame: pd.DataFrame, entity: tuple[str, ...], overrides: Mapping[str, Any]
) -> tuple[str, ...]:
    """The columns that say when: a time, or a day and the time of that day; () where none does.

    Of several the one that runs on from row to row of a series: dates of birth do not.
    """
    free = [name for name in frame.columns if name not in entity and name not in overrides]
    parts = _in_parts(frame, free)
    groups = clocks.groups_of(frame, entity)
    best = 0.0
    found: tuple[str, ...] = ()
    for name in free:
        times = _as_times(frame[name], str(name), groups, first=name == frame.columns[0])
        if times is None or name in parts:
            continue
        order, moves = _runs_on(times, groups)
        timely = bool(_TIMELY.search(str(name).lower()))
        typed = pd.api.types.is_datetime64_any_dtype(times.dtype) and not is_text(frame[name])
        sure = typed or timely or name == frame.columns[0] or order > 0.9
        score = order + moves / 2 + 0.2 * (str(name).lower().strip() in TIME_NAMES)
        if moves > 0 and sure and score > best:
            best, found = score, (name,)
    if found:
        return with_hours(frame, found, free)
    if parts:
        return parts
    pairs = (with_hours(frame, (name,), free) for name in free)
    single_day = next((pair for pair in pairs if len(pair) == 2), ())
    return single_day or next(((name,) for name in free if _times_of_day(frame, name, groups)), ())


def _in_parts(frame: pd.DataFrame, free: list[str]) -> tuple[str, ...]:
    """The columns of year, month and what follows, where a table has its times so; or ()."""
    found: list[str] = []
    for names, low, high in _PARTS:
        part = next((name for name in free if str(name).lower().strip() in names.split()), None)
        if part is None or not pd.api.types.is_integer_dtype(frame[part].dtype):
            break
        if not frame[part].between(low, high).all():  # missing values are not, either
            break
        found.append(part)
    return tuple(found) if len(found) > 1 else ()


def _times_of_day(frame: pd.DataFrame, name: str, groups: Int[np.ndarray, " rows"]) -> bool:
    """Whether a column holds times of one day, as 00:00:10, that run on."""
    column = frame[name]
    said = str(name).lower().strip()
    if not (_TIMELY.search(said) or said in _COUNTERS):
        return False
    if not is_text(column) or column.isna().any():
        return False
    if not column.astype(str).str.strip().str.fullmatch(_HOURS).all():
        return False
    form = formats.time_format(column)
    times = formats.read(column.astype("string").str.strip(), form) if form else None
    whole = times is not None and bool(times.notna().all())
    return whole and times is not None and _runs_on(times, groups) == (1.0, 1.0)


def with_hours(frame: pd.DataFrame, names: tuple[str, ...], free: list[str]) -> tuple[str, ...]:
    """The time column, and the one of `free` with the time of day where it holds days only."""
    if len(names) != 1 or not frame[names[0]].duplicated().any():
        return names
    days = frame[names[0]]
    if pd.api.types.is_datetime64_any_dtype(days.dtype) or pd.api.types.is_float_dtype(days.dtype):
        return names
    if isinstance(days.dtype, pd.PeriodDtype | pd.ArrowDtype):
        return names
    for name in free:
        column = frame[name]
        if name == names[0] or column.isna().any():
            continue
        if pd.api.types.is_integer_dtype(column.dtype):
            hours = bool(re.search("hour|hr", str(name).lower()) and column.between(0, 23).all())
        else:
            hours = is_text(column) and bool(
                column.astype(str).str.strip().str.fullmatch(_HOURS).all()
            )
        if hours and formats.time_format(clocks.one_column(frame, (names[0], name), "")):
            return names[0], name
    return names


def from_index(
    frame: pd.DataFrame, where: str, time: str, entity: tuple[str, ...], *, later: bool = False
) -> tuple[pd.DataFrame, str, tuple[str, ...]]:
    """A frame indexed by row number, and the names of its time and its entity.

    An index labels rows and is not learnt. Its levels become columns only where they say when or
    whose a row is: those that are named as the time or the entity; one that holds times (called
    `time` if it has no name), unless the time is another; and the others beside it (called
    `entity` if they have no name).

    Args:
      frame: as the user gave it.
      where: what to call it in errors.
      time: name of its time column, or "" where that is open.
      entity: names of its entity columns, likewise.
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
        if name and (name == time or name in entity):
            found[name] = number
        elif (
            time not in found
            and _holds_times(level)
            and (missing and (later or not name) if time else not later)
        ):
            time = time or name or "time"
            found[time] = number
    if len(levels) > 1 and list(found) == [time] and not set(entity) & set(plain.columns):
        rest = [number for number in range(len(levels)) if number != found[time]]
        wanted = [names[number] or "entity" for number in rest]
        alike = len(entity) == len(rest) and (later or not any(names[n] for n in rest))
        if len(set(wanted)) == len(rest) and (alike or not (entity or later)):
            entity = entity or tuple(wanted)
            found |= dict(zip(entity, rest, strict=True))
    if len(levels) > 1 and not found and not later:
        raise DataError(
            f"{where} has an index of several levels; say which is its time or its entity "
            f"({option('time')}, {option('entity')}), or call reset_index() first"
        )
    for name, number in sorted(found.items(), key=lambda item: -item[1]):
        values = levels[number]
        if name not in plain.columns:
            plain.insert(0, name, pd.Series(values))
        elif not values.equals(pd.Index(plain[name])):
            raise DataError(f"{where}: its index and a column are both called {name!r}; rename one")
    return plain, time, entity


def is_text(column: pd.Series) -> bool:
    """Whether a column is text, or objects that are written as text."""
    return pd.api.types.is_string_dtype(column.dtype) and dtypes.name_of(column) != "date"


def _as_times(
    column: pd.Series, name: str, groups: Int[np.ndarray, " rows"], *, first: bool
) -> pd.Series | None:
    """A column's times, or None where it holds none; counts only where the name says so."""
    column = dtypes.plain(column)
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return column
    if pd.api.types.is_timedelta64_dtype(column.dtype):
        column = column.dt.total_seconds()
    present = column.dropna()
    timely = bool(_TIMELY.search(name.lower()))
    numeric = column.dtype.kind not in "bc"  # flags and complex numbers are no times
    if present.empty or not numeric:
        return None
    if pd.api.types.is_numeric_dtype(column.dtype):
        whole = pd.api.types.is_integer_dtype(column.dtype) and len(present) == len(column)
        if whole and timely and formats.integer_format(column):
            return column
        return column if _counts(column, name.lower().strip(), groups) else None
    if not pd.api.types.is_string_dtype(column.dtype):
        return None
    named = name.lower().strip() in TIME_NAMES
    share = 0.5 if named else 1.0  # where the name says so, a strange cell is an error
    if not formats.looks_like_time(present, share):
        compact = timely or first  # 20240103, which could be a number
        if not (compact and formats.has_date(formats.time_format(present.iloc[:50]))):
            return None
    form = formats.time_format(present)
    return formats.read(present.astype("string").str.strip(), form) if form else None


def _counts(column: pd.Series, name: str, groups: Int[np.ndarray, " rows"]) -> bool:
    """Whether numbers are a count of time: seconds, steps or years, as their name says."""
    gaps = np.diff(column.to_numpy(np.float64, na_value=np.nan))[np.diff(groups) == 0]
    if gaps.size < 2:
        return False
    if re.sub(_UNIT, "", name) in _COUNTERS:
        return bool((gaps > 0).all())
    even = gaps[0] > 0 and np.allclose(gaps, gaps[0], rtol=1e-3, atol=0)
    years = name in ("year", "yr") and column.between(1500, 2200).all()
    return bool(_TIMELY.search(name)) and bool(even or (years and (gaps == 1).mean() > 0.5))


def _runs_on(times: pd.Series, groups: Int[np.ndarray, " rows"]) -> tuple[float, float]:
    """The share of steps inside series that go one way, and of those that go anywhere."""
    inside = np.diff(groups) == 0
    present = times.isna().to_numpy()
    gaps = (
        np.diff(clocks.seconds(times))[inside & ~present[1:] & ~present[:-1]]
        if len(times) == len(groups)
        else np.diff(clocks.seconds(times.dropna()))
    )
    if not gaps.size:
        return 0.5, 1.0
    return float(max((gaps >= 0).mean(), (gaps <= 0).mean())), float((gaps != 0).mean())


def _holds_times(level: pd.Index) -> Bool[np.ndarray, ""] | bool:
    if isinstance(level, pd.DatetimeIndex | pd.PeriodIndex):
        return True
    text = pd.api.types.is_string_dtype(level.dtype)
    return text and formats.looks_like_time(pd.Series(level).dropna())


def named(
    frame: pd.DataFrame, where: str, options: "Options", declared: dict[str, Any]
) -> tuple[pd.DataFrame, tuple[str, ...], tuple[str, ...]]:
    """The table with its index as columns, and those that the user names as time and entity."""
    given = options.entity or declared.get("entity", "") or frame.attrs.get(wide.ENTITY, "")
    time = options.time or declared.get("time", "")
    known = [*map(str, frame.columns), *map(str, filter(None, frame.index.names))]
    entity = _several(given, known)
    times = _several(time, known)
    frame, first, entity = from_index(frame, where, times[0] if times else "", entity)
    times = (first, *times[1:]) if first else ()
    for setting, names in ((option("entity"), entity), (option("time"), times)):
        for name in names:
            schemas.known(name, frame.columns, f"{where}: {setting}: column")
    return frame, times, entity


def _several(given: str | list[str], known: list[str]) -> tuple[str, ...]:
    """Names that a text gives, with commas between unless a column is called like all of it."""
    if not isinstance(given, str):
        return tuple(given)
    if given in known:
        return (given,)
    return tuple(name.strip() for name in given.split(",")) if given else ()
