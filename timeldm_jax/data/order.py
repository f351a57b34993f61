"""Rows in order of the clock, at even steps: in seconds, or by the calendar."""

import dataclasses
import itertools
import logging
import warnings
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from timeldm_jax.data import clock as clocks
from timeldm_jax.data import event_times, zones
from timeldm_jax.data.clock import Clock, Reading
from timeldm_jax.data.formats import row_of
from timeldm_jax.errors import DataError, guess, option

_log = logging.getLogger(__name__)

IRREGULAR = ("error", "sort", "resample")
HOLIDAYS = 0.15  # share of business days, and most in a row, that may be missing as holidays
LONGEST_HOLIDAY = 6
_DAY = 86_400.0


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
      gaps: to the next row: seconds or numbers.
      inside: whether the next row is of the same series.
      usual: the median gap inside a series.
      slots: steps of each row since the first time, where steps are by the calendar, else None.
      odd: whether the next row of the series does not come one step later.
      offset: the calendar rule that steps follow where they are not of one length, or "".
    """

    stamps: Float[np.ndarray, " rows"]
    groups: Int[np.ndarray, " rows"]
    gaps: Float[np.ndarray, " gaps"]
    inside: Bool[np.ndarray, " gaps"]
    usual: float
    slots: Int[np.ndarray, " rows"] | None
    odd: Bool[np.ndarray, " gaps"]
    offset: str


def order(
    frame: pd.DataFrame,
    where: str,
    time: tuple[str, ...],
    entity: tuple[str, ...],
    reading: Reading,
    learnt: Clock | None = None,
) -> Ordered:
    """Rows of each series side by side and in order of time.

    Args:
      frame: indexed by row number.
      where: what to call it in errors.
      time: its time column (and that of the time of day, where there are two), or ().
      entity: its entity columns, or ().
      reading: how times are read, and the rule for uneven ones.
      learnt: the clock that a later table must keep to; it is read and resampled by that.

    Raises:
      DataError: times that cannot be read, another step than learnt, or what the rule does not
        allow.
    """
    if entity:
        frame = _by_entity(frame, list(entity))
    place = np.empty(len(frame), np.int64)
    if not time:
        place[frame.index] = np.arange(len(frame))
        return Ordered(frame, None, place)
    at = f"{where}, column{'s' * (len(time) > 1)} {' and '.join(map(repr, time))} (the time)"
    if learnt is None:
        times, clock = clocks.learn(frame, time, reading, where)
    else:
        times, clock = learnt.read(frame, where), learnt
    groups = clocks.groups_of(frame, entity)
    if learnt is None and not pd.api.types.is_numeric_dtype(times.dtype):
        times, clock = _in_zone(times, groups, clock, reading.zone, at)
    stamps = clocks.seconds(times)
    key = np.lexsort((stamps, groups))
    if reading.irregular == "error":
        _check_order(frame, time, entity, stamps, groups, at)
    frame, times = frame.iloc[key], times.iloc[key]
    steps = _steps(times, groups[key], at, clock.decimals)
    generate = learnt.uneven if learnt is not None else reading.times == "generate"
    if learnt is not None and not generate:
        _check_step(steps, learnt, reading.irregular, at)
        steps = steps._replace(usual=learnt.step)
    if reading.irregular == "error" and not generate:
        _check_even(frame, time, entity, steps, at)
    clock = clock if learnt is not None else _with_steps(clock, times, steps, generate)
    rows, slots = frame.index, np.arange(len(frame))
    if reading.irregular == "resample" and (steps.odd & steps.inside).any():
        first = dataclasses.replace(clock, start=_start(times.iloc[int(stamps[key].argmin())]))
        frame, slots = _resample(frame, first, entity, steps)
        _log.info("%s: resampled to a row every %s", where, _words(steps.usual, times))
    elif (steps.odd & steps.inside).any() and steps.offset != "B" and not clock.uneven:
        _log.info("%s: unevenly spaced; every row is taken for one step", where)
    place[rows] = slots
    return Ordered(frame, clock, place)


def _by_entity(frame: pd.DataFrame, entity: list[str]) -> pd.DataFrame:
    try:
        return frame.sort_values(entity, kind="stable")
    except TypeError:  # numbers and words
        return frame.sort_values(entity, kind="stable", key=lambda ids: ids.astype(str))


def _in_zone(
    times: pd.Series, groups: Int[np.ndarray, " rows"], clock: Clock, zone: str, at: str
) -> tuple[pd.Series, Clock]:
    """Times in the zone that the user names, or in the one by which they run on evenly."""
    if not zone:
        aware = times.dt.tz is not None
        zone = (zones.of_local_days if aware else zones.of_local_hours)(times, groups)
        if not zone:
            return times, clock
        if aware:
            guess(
                f"{at}: times are those of a local clock, as in {zone}; {option('zone')} names "
                "another"
            )
        else:
            guess(
                f"{at}: an hour is missing or comes twice where summer time begins or ends in "
                f"{zone}; times are taken for local ones there; {option('zone')} names another",
                logging.WARNING,
            )
    return clocks.in_zone(times, zone, groups), dataclasses.replace(clock, zone=zone)


def _check_order(
    frame: pd.DataFrame,
    time: tuple[str, ...],
    entity: tuple[str, ...],
    stamps: Float[np.ndarray, " rows"],
    groups: Int[np.ndarray, " rows"],
    at: str,
) -> None:
    back = np.flatnonzero((np.diff(stamps) < 0) & (np.diff(groups) == 0)) + 1
    if back.size:
        first = int(back[0])
        hint = _series_hint(frame, time, entity, stamps)
        hint = hint or f"{option('irregular', 'sort')} puts them in order"
        raise DataError(
            f"{at}, row {row_of(frame[time[0]].iloc[first:])}: {_cell(frame, time, first)} comes "
            f"after {_cell(frame, time, first - 1)}. Rows must be in order of time; {hint}"
        )


def _cell(frame: pd.DataFrame, time: tuple[str, ...], row: int) -> str:
    return " ".join(str(frame[name].iloc[row]) for name in time)


def _series_hint(
    frame: pd.DataFrame,
    time: tuple[str, ...],
    entity: tuple[str, ...],
    stamps: Float[np.ndarray, " rows"],
) -> str:
    """Which column to name as the entity where rows of one series share times, or ""."""
    if entity or not frame.duplicated(list(time)).any():
        return ""
    columns = [name for name in frame.columns if name not in time]
    ids = [
        name
        for name in columns
        if not pd.api.types.is_float_dtype(frame[name].dtype)
        and 1 < frame[name].nunique() < len(frame) / 2
    ]
    for several in ([[name] for name in ids], list(map(list, itertools.combinations(ids, 2)))):
        for names in several:
            if not frame.duplicated([*names, *time]).any():
                said = " and ".join(map(repr, names))
                steps = pd.Series(stamps).groupby([frame[name].to_numpy() for name in names]).diff()
                also = f" and {option('irregular', 'sort')}" if (steps < 0).any() else ""
                return (
                    f"several rows have the same time, but not of one {said}: if that says which "
                    f"series a row belongs to, {option('entity', ','.join(names))}{also}"
                )
    return (
        "several rows have the same time: if they are of several series, name the column that "
        f"tells them apart ({option('entity')})"
    )


def _steps(
    times: pd.Series, groups: Int[np.ndarray, " rows"], at: str, decimals: int | None
) -> _Steps:
    stamps = clocks.seconds(times)
    gaps, inside = np.diff(stamps), np.diff(groups) == 0
    if not inside.any():
        raise DataError(f"{at}: no series has two rows")
    usual = float(np.median(gaps[inside]))
    # Rounded times are uneven by their last digit.
    grain = 1.01 * 10.0**-decimals if decimals else 0.0
    odd = ~np.isclose(gaps, usual, rtol=1e-6, atol=grain) | (usual <= 0)
    if decimals and not odd[inside].any():
        usual = _exact(stamps, groups, float(gaps[inside].mean()), decimals)
    steps = _Steps(stamps, groups, gaps, inside, usual, None, odd, "")
    if odd[inside].any() and not pd.api.types.is_numeric_dtype(times.dtype):
        wall = pd.DatetimeIndex(times.dt.tz_localize(None) if times.dt.tz is not None else times)
        offset, slots = _by_calendar(wall, inside, times.dt.tz is not None)
        if not offset:
            offset, slots = _by_pandas(wall, groups)
        if offset and slots is not None:
            odd = np.diff(slots) != 1
            if offset == "B":
                odd = ~_holidays(np.diff(slots), inside)
            steps = steps._replace(offset=offset, slots=slots, odd=odd)
    return steps


def _exact(
    stamps: Float[np.ndarray, " rows"], groups: Int[np.ndarray, " rows"], mean: float, decimals: int
) -> float:
    """The step of rounded times: a number of their digits, or one of so many a unit."""
    start = stamps[groups == groups[0]]
    for step in (round(mean, decimals), 1 / max(round(1 / mean), 1), round(mean, decimals + 3)):
        even = np.round(start[0] + step * np.arange(len(start)), decimals)
        if np.allclose(even, start, rtol=1e-12, atol=0.1 * 10.0**-decimals):
            return step
    return mean


def _by_calendar(
    wall: pd.DatetimeIndex, inside: Bool[np.ndarray, " gaps"], zoned: bool
) -> tuple[str, Int[np.ndarray, " rows"] | None]:
    """A rule of the calendar that most steps follow, and the number of each row by it; or ""."""
    days = wall.normalize()
    if (wall - days).nunique() != 1:
        return "", None
    numbers = ((days - pd.Timestamp(1970, 1, 1)) // pd.Timedelta(days=1)).to_numpy(np.int64)
    months = (wall.year * 12 + wall.month - 1).to_numpy(np.int64)
    ends = bool(wall.is_month_end.all())
    if ends or (wall.day.nunique() == 1 and wall.day[0] <= 28):
        every, slots = _every(months, inside)
        if every:
            rule = "MS" if wall.day[0] == 1 else "ME"
            exact = ends or wall.day[0] == 1
            return (f"{every if every > 1 else ''}{rule}" if exact else f"{every} months"), slots
    if (wall.day_of_week < 5).all():
        business = np.busday_count(np.datetime64("1970-01-01"), days.to_numpy("M8[D]"))
        every, slots = _every(business, inside)
        if every == 1 and (np.diff(numbers)[inside] > 1).any():
            return "B", slots
    if zoned:
        every, slots = _every(numbers, inside)
        if every:
            return f"{every if every > 1 else ''}D", slots
    return "", None


def _every(
    numbers: Int[np.ndarray, " rows"], inside: Bool[np.ndarray, " gaps"]
) -> tuple[int, Int[np.ndarray, " rows"] | None]:
    """The most common gap, and numbers by it, where all are multiples of it; else 0."""
    gaps = np.diff(numbers)[inside]
    levels, counts = np.unique(gaps, return_counts=True)
    every = int(levels[counts.argmax()])
    since = numbers - numbers.min()
    if every <= 0 or (since % every).any():
        return 0, None
    return every, since // every


def _holidays(
    slots: Int[np.ndarray, " gaps"], inside: Bool[np.ndarray, " gaps"]
) -> Bool[np.ndarray, " gaps"]:
    """Which gaps of business days may be holidays: few, and short."""
    fine = (slots >= 1) & (slots <= LONGEST_HOLIDAY)
    missing = (slots[inside & fine] - 1).sum() / max(slots[inside & fine].sum(), 1)
    return fine if missing <= HOLIDAYS else slots == 1


def _by_pandas(
    wall: pd.DatetimeIndex, groups: Int[np.ndarray, " rows"]
) -> tuple[str, Int[np.ndarray, " rows"] | None]:
    """A rule that pandas knows (last business days of months, …) and that every series follows."""
    found = set()
    slots = np.zeros(len(wall), np.int64)
    for number in np.unique(groups):
        rows = np.flatnonzero(groups == number)
        slots[rows] = np.arange(len(rows))
        if len(rows) < 3:
            continue
        try:
            with warnings.catch_warnings():  # that pandas 4 will give an object instead of its name
                warnings.simplefilter("ignore")
                freq: Any = pd.infer_freq(wall[rows])
        except (ValueError, TypeError):  # repeated times
            return "", None
        found.add(str(getattr(freq, "freqstr", freq) or ""))
        if len(found) > 1 or found == {""}:
            return "", None
    return (found.pop(), slots) if found else ("", None)


def _check_step(steps: _Steps, learnt: Clock, rule: str, at: str) -> None:
    """Raises where a later table has another step than the one that was learnt."""
    if learnt.offset or steps.offset:
        near = steps.usual / learnt.step
        same = 0.8 < near < 1.25 or learnt.offset == steps.offset
    else:  # uneven rows vary by themselves
        tolerance = 0.01 if rule == "error" else 1.0
        same = abs(steps.usual - learnt.step) <= tolerance * learnt.step
    if steps.usual > 0 and not same:
        numeric = isinstance(learnt.start, float)
        found, wanted = (
            f"{step:g}" if numeric else str(pd.Timedelta(seconds=step))
            for step in (steps.usual, learnt.step)
        )
        raise DataError(f"{at} has a row every {found}; the model learnt rows every {wanted}")


def _check_even(
    frame: pd.DataFrame,
    time: tuple[str, ...],
    entity: tuple[str, ...],
    steps: _Steps,
    at: str,
) -> None:
    uneven = np.flatnonzero(steps.inside & (steps.odd | (steps.gaps <= 0)))
    if not uneven.size:
        return
    column = frame[time[0]]
    bad = int(uneven[0]) + 1
    hint = _series_hint(frame, time, entity, steps.stamps)
    advice = (
        f"{option('times', 'generate')} learns what lies between rows and samples it; "
        f"{option('irregular', 'sort')} takes every row for one step; "
        f"{option('irregular', 'resample')} makes steps even, missing where there is no row"
    )
    if hint:  # rows of several series, which sorting would mix
        named = "not of one" in hint
        advice = f"{hint[0].upper()}{hint[1:]}" + ("" if named else f". Otherwise {advice}")
    usual = steps.offset or _words(steps.usual, column)
    series = ""
    if entity:
        series = " of series " + ", ".join(str(frame[name].iloc[bad]) for name in entity)
    raise DataError(
        f"{at} is not evenly spaced: the usual step is {usual}, and row "
        f"{row_of(column.iloc[bad:])}{series} ({_cell(frame, time, bad)}) comes "
        f"{_words(steps.gaps[bad - 1], column)} after the one before. {advice}"
    )


def _start(time: Any) -> str | float:
    return time.isoformat() if isinstance(time, pd.Timestamp) else float(time)


def _with_steps(clock: Clock, times: pd.Series, steps: _Steps, generate: bool) -> Clock:
    step, gaps = steps.usual if steps.usual > 0 else 1.0, steps.gaps[steps.inside]
    uneven = generate and bool(steps.odd[steps.inside].any() and (gaps > 0).any())
    if uneven and steps.slots is not None:
        apart = np.diff(steps.slots)[steps.inside]
        step = float(np.median(gaps[apart > 0] / apart[apart > 0]))
    elif uneven:
        dates = not pd.api.types.is_numeric_dtype(times.dtype)
        step = event_times.step_of(gaps, dates=dates)
    return dataclasses.replace(
        clock, start=_start(times.min()), step=step, offset=steps.offset, uneven=uneven
    )


def _words(step: float, times: pd.Series) -> str:
    numeric = pd.api.types.is_numeric_dtype(times.dtype)
    return f"{step:g}" if numeric else str(pd.Timedelta(seconds=step))


def _resample(
    frame: pd.DataFrame, clock: Clock, entity: tuple[str, ...], steps: _Steps
) -> tuple[pd.DataFrame, Int[np.ndarray, " rows"]]:
    """A row every usual step in each series, and the row that each given one falls into.

    Floats are averaged, of all else the first is taken; what no row falls into is missing.

    Args:
      frame: rows in order.
      clock: with the first time of all as its start.
      entity: the entity columns.
      steps: between the rows.
    """
    groups = steps.groups
    if steps.usual <= 0:
        raise DataError(f"column {clock.name!r} (the time): most rows repeat the time before")
    slot = steps.slots
    if slot is None:
        slot = np.round((steps.stamps - steps.stamps.min()) / steps.usual).astype(np.int64)
    own = (*clock.names, *entity)
    rules = {
        column: "mean" if pd.api.types.is_float_dtype(frame[column].dtype) else "first"
        for column in frame.columns
        if column not in own
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
    place = full.get_indexer(pd.MultiIndex.from_arrays([groups, slot]))
    merged = merged.reset_index(drop=True)
    for name, times in clock.write(clock.stamps(slots)).items():
        merged[name] = times
    numbers, rows = np.unique(groups, return_index=True)
    of_group = rows[np.searchsorted(numbers, full.get_level_values(0))]
    for name in entity:
        merged[name] = frame[name].iloc[of_group].to_numpy()
    return merged[list(frame.columns)], place
