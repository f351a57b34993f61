"""The clock of a table: which column it is, how its times are read and written, its steps."""

import dataclasses
import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from timeldm_jax.data import dtypes, formats, grids, zones
from timeldm_jax.errors import DataError

_log = logging.getLogger(__name__)

_BETWEEN = "\t"  # the text of several columns that make one time
_MONTHS = " months"
FINE = 1e-3  # seconds between rows, below which microseconds are too coarse to add up


# At which windows begin: whole, unless the clock is uneven.
Steps = Float[np.ndarray, " n"] | Int[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the user says of times; see `table.Options`.

    Attributes:
      irregular: what to do with times out of order or uneven.
      format: as `Clock.format`, or "" to find it.
      dayfirst: "true" or "false" where day and month could be either, or "".
      zone: whose local times these are, or "" to find it.
      times: `steps`, or `generate` where uneven ones are learnt.
    """

    irregular: str = "error"
    format: str = ""
    dayfirst: str = ""
    zone: str = ""
    times: str = "steps"


@dataclasses.dataclass(frozen=True)
class Clock:
    """The time column.

    Attributes:
      name: its name.
      dtype: that of the input; see `dtypes.name_of`.
      start: first time, ISO text or a number.
      step: seconds (or the column's own unit, where it holds numbers) between rows.
      offset: where steps are not of one length (months, business days), a pandas offset alias, or
        a number of months that begin on any day, such as `3 months`.
      format: where the input held text, or whole numbers that are dates; see `data.formats`.
      zone: name of the time zone, or "".
      decimals: digits of numbers that are not whole, or None.
      more: names of further columns that hold the rest of a time: a time of day beside a day;
        month, day and hour beside a year.
      more_dtypes: theirs.
      uneven: whether what lies between rows is learnt, see `event_times`; a step is then but the
        unit in which times are counted.
    """

    name: str
    dtype: str
    start: str | float
    step: float
    offset: str = ""
    format: str = ""
    zone: str = ""
    decimals: int | None = None
    more: tuple[str, ...] = ()
    more_dtypes: tuple[str, ...] = ()
    uneven: bool = False

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Clock":
        """The inverse of `dataclasses.asdict`; earlier models had one further column at most."""
        fields = dict(content)
        hours, dtype = fields.pop("hours", ""), fields.pop("hours_dtype", "")
        more = fields.pop("more", (hours,) if hours else ())
        more_dtypes = fields.pop("more_dtypes", (dtype,) if hours else ())
        return cls(**fields, more=tuple(more), more_dtypes=tuple(more_dtypes))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that hold it."""
        return (self.name, *self.more)

    def times(self, count: int) -> pd.DataFrame:
        """`count` regular times from the start: its columns, of the input's dtypes."""
        return self.write(self.stamps(np.arange(count)))

    def following(self, frame: pd.DataFrame, count: int) -> pd.DataFrame:
        """`count` regular times after the last row of a table, as `times`."""
        last = self.read(frame.iloc[[-1]], "the history").iloc[0]
        if not isinstance(self.start, float):
            after = dataclasses.replace(self, start=pd.Timestamp(last).isoformat())
            return after.write(after.stamps(np.arange(count + 1))[1:])
        steps = np.arange(1, count + 1)
        done = round((last - self.start) / self.step)  # rounded times stay on the learnt grid
        if abs(float(self.stamps(np.array([done]))[0]) - last) <= 1e-6 * self.step:
            return self.write(self.stamps(done + steps))
        return self.write(dataclasses.replace(self, start=float(last)).stamps(steps))

    def stamps(self, steps: Int[np.ndarray, " rows"]) -> Any:
        """The times so many steps after the start: float64, or datetimes in the zone."""
        if isinstance(self.start, float):
            numbers = self.start + self.step * steps
            return numbers if self.decimals is None else np.round(numbers, self.decimals)
        start = self.begin()
        if self.offset:
            freq: Any = self.offset
            if freq.endswith(_MONTHS):
                freq = pd.DateOffset(months=int(freq.removesuffix(_MONTHS)))
            return pd.date_range(start, periods=int(steps.max()) + 1, freq=freq)[steps]
        # Microseconds, which reach beyond the years that nanoseconds hold, unless steps are finer.
        fine = self.step * 1e6 % 1 > 1e-6
        if fine or start.nanosecond:
            return start.as_unit("ns") + pd.TimedeltaIndex(
                np.round(steps * self.step * 1e9).astype("m8[ns]")
            )
        gaps = np.round(steps * self.step * 1e6).astype("m8[us]")
        return start.as_unit("us") + pd.TimedeltaIndex(gaps)

    def after(self, passed: Float[np.ndarray, " rows"]) -> Any:
        """The times so long after the start, in seconds or the column's own unit, as `stamps`."""
        if isinstance(self.start, float):
            numbers = self.start + passed
            return numbers if self.decimals is None else np.round(numbers, self.decimals)
        if self.step < FINE:
            gaps = np.round(passed * 1e9).astype("m8[ns]")
            return self.begin().as_unit("ns") + pd.TimedeltaIndex(gaps)
        gaps = np.round(passed * 1e6).astype("m8[us]")
        return self.begin().as_unit("us") + pd.TimedeltaIndex(gaps)

    def begin(self) -> pd.Timestamp:
        """The start, of a clock of dates, in its zone."""
        start = pd.Timestamp(self.start)
        if not self.zone:
            return start
        aware = start.tz is not None
        return start.tz_convert(self.zone) if aware else start.tz_localize(self.zone)

    def write(self, stamps: Any) -> pd.DataFrame:
        """Times as the input had them: its columns, of its dtypes."""
        dtype: Any = None if self.dtype in dtypes.OBJECTS else dtypes.named(self.dtype)
        if isinstance(self.start, float):
            found = pd.Series(stamps)
            if dtype is not None and pd.api.types.is_integer_dtype(dtype):
                found = found.round()
            return dtypes.cast(found, self.dtype, digits=self.decimals).to_frame(self.name)
        index = pd.DatetimeIndex(stamps)
        if index.tz is not None:
            if formats.in_utc(self.format):
                index = index.tz_convert("UTC")
            elif not formats.has_offset(self.format) and not isinstance(dtype, pd.DatetimeTZDtype):
                index = index.tz_localize(None)
        if not self.format:
            return dtypes.cast(pd.Series(index), self.dtype).to_frame(self.name)
        text = formats.write(index, self.format)
        parts = text.astype(str).str.split(_BETWEEN, expand=True) if self.more else text.to_frame()
        kinds = (self.dtype, *self.more_dtypes)
        return pd.DataFrame(
            {
                name: _cast(parts[place], kind)
                for place, (name, kind) in enumerate(zip(self.names, kinds, strict=True))
            }
        )

    def read(self, frame: pd.DataFrame, where: str) -> pd.Series:
        """The times of a later table, float64 or datetimes (in the zone, where there is one).

        Raises:
          DataError: times that are not written as those that it was learnt from.
        """
        at = _named(where, self.names)
        column = one_column(frame, self.names, at)
        if isinstance(self.start, float):
            return _numbers(column, at)
        if self.format and pd.api.types.is_numeric_dtype(column.dtype):
            column = column.astype("Int64").astype("string")
        form = self.format
        iso = bool(form and re.match(r"\d{4}-\d\d-", str(column.iloc[0])))
        if iso and formats.read(column.iloc[:1].astype("string"), form).isna().any():
            form = ""  # ISO, which can be taken for nothing else, written in another way
        times = formats.parse_times(column, at, form)
        if self.zone:
            return in_zone(times, self.zone)
        return times.dt.tz_localize(None) if times.dt.tz is not None else times


def learn(
    frame: pd.DataFrame, names: tuple[str, ...], reading: Reading, where: str
) -> tuple[pd.Series, Clock]:
    """The times of a table, and its clock; start and steps are still open.

    Args:
      frame: the table.
      names: of the time column, or of all that make a time.
      reading: what the user said.
      where: what to call the table in errors.

    Raises:
      DataError: times that cannot be read.
    """
    at = _named(where, names)
    column = one_column(frame, names, at)
    dtype, *more = (dtypes.name_of(frame[name]) for name in names)
    clock = Clock(
        names[0], dtype, 0.0, 1.0, format=reading.format, more=names[1:], more_dtypes=tuple(more)
    )
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        zone = str(column.dt.tz) if column.dt.tz is not None else ""
        return column, dataclasses.replace(clock, start="", format="", zone=zone)
    form = reading.format
    whole = pd.api.types.is_integer_dtype(column.dtype)
    if whole:
        form = form or formats.integer_format(column)
        column = column.astype("Int64").astype("string") if form else column
    if (whole and not form) or pd.api.types.is_float_dtype(column.dtype):
        numbers = _numbers(column, at)
        return numbers, dataclasses.replace(clock, format="", decimals=_decimals(numbers))
    if pd.api.types.is_timedelta64_dtype(column.dtype):
        return _numbers(column, at), dataclasses.replace(clock, format="")
    form = form or formats.time_format(column, reading.dayfirst)
    times = formats.parse_times(column, at, form)
    zone = ""
    if times.dt.tz is not None:
        called = formats.names_of(column) if form.endswith("%Z") else None
        zone = zones.of_offsets(times, formats.offsets_of(column).to_numpy(), called)
        if not zone:
            raise DataError(f"{at} mixes time zones; write all times in one (UTC, say)")
        times = times.dt.tz_convert(zone)
    return times, dataclasses.replace(clock, start="", format=form, zone=zone)


def groups_of(frame: pd.DataFrame, entity: tuple[str, ...]) -> Int[np.ndarray, " rows"]:
    """The number of the series that each row belongs to, in order of appearance."""
    if not entity:
        return np.zeros(len(frame), np.int64)
    if len(entity) == 1:
        return pd.factorize(frame[entity[0]])[0]
    return frame.groupby(list(entity), sort=False, observed=True).ngroup().to_numpy()


def positions(
    frame: pd.DataFrame, clock: Clock | None, entity: tuple[str, ...], where: str
) -> Float[np.ndarray, " rows"]:
    """Steps of each row since the clock's start; without a clock, since its series' first row."""
    if clock is not None:
        times = clock.read(frame, where)
        if isinstance(clock.start, float):
            return seconds(times) / clock.step
        return (times - clock.begin()).dt.total_seconds().to_numpy() / clock.step
    position = np.arange(len(frame), dtype=np.float64)
    if not entity:
        return position
    first = np.r_[True, np.diff(groups_of(frame, entity)) != 0]
    return position - np.maximum.accumulate(np.where(first, position, 0))


def steps_at(clock: Clock | None, start: Any, count: int) -> Steps:
    """The steps of a clock at times that a caller names, one for all or one for each.

    Raises:
      DataError: there is no clock, or the times are none of its steps. Of an uneven clock they may
        lie between steps.
    """
    if clock is None:
        raise DataError(f"start={start!r}: the model was trained without a time column")
    listed = list(start) if isinstance(start, list | tuple | np.ndarray | pd.Series) else [start]
    if len(listed) not in (1, count):
        raise DataError(f"start has {len(listed)} times; expected one, or one for each of {count}")
    if isinstance(clock.start, float):
        numbers = _numbers(pd.Series(listed), "start")
        found = (numbers.to_numpy(np.float64) - clock.start) / clock.step
        if clock.uneven:
            return np.resize(found, count)
        steps = np.round(found).astype(np.int64)
        exact = np.abs(found - steps) < 1e-6
    else:
        times = pd.Series([pd.Timestamp(formats.parse_one(each, clock.format)) for each in listed])
        times = in_zone(times, clock.zone) if clock.zone else times.dt.tz_localize(None)
        first = clock.stamps(np.zeros(1, np.int64))[0]
        passed = (times - first).dt.total_seconds().to_numpy() / clock.step
        if clock.uneven and not clock.offset:
            return np.resize(passed, count)
        steps = np.round(passed).astype(np.int64)
        if clock.offset:
            stamps = pd.DatetimeIndex(clock.stamps(np.arange(max(int(1.5 * passed.max()), 0) + 2)))
            steps = stamps.searchsorted(pd.DatetimeIndex(times))
        exact = pd.DatetimeIndex(clock.stamps(np.maximum(steps, 0))) == pd.DatetimeIndex(times)
        exact = exact | ((steps < 0) & (np.abs(passed - steps) < 1e-6) & (clock.offset == ""))
    if not exact.all():
        bad = listed[int(np.argmin(exact))]
        raise DataError(
            f"start={bad!r} is no step of the model's clock, which runs from {clock.start} by "
            f"{clock.offset or f'{clock.step:g}'}"
            + ("" if isinstance(clock.start, float) or clock.offset else " seconds")
        )
    return np.resize(steps, count)


def in_zone(
    times: pd.Series, zone: str, groups: Int[np.ndarray, " rows"] | None = None
) -> pd.Series:
    """Times in a zone: those without one are local there.

    Args:
      times: with a zone or without.
      zone: its name.
      groups: number of the series of each row, rows of one side by side; default: one series.
    """
    if times.dt.tz is not None:
        return times.dt.tz_convert(zone)
    groups = np.zeros(len(times), np.int64) if groups is None else groups
    return zones.localise(times, zone, groups)


def seconds(times: pd.Series) -> Float[np.ndarray, " rows"]:
    """Seconds since the first time, or numbers as they are."""
    if pd.api.types.is_numeric_dtype(times.dtype):
        return times.to_numpy(np.float64)
    return (times - times.min()).dt.total_seconds().to_numpy()


def _cast(text: pd.Series, dtype: str) -> pd.Series:
    if dtype == "date":
        text = pd.to_datetime(text)
    elif dtype not in dtypes.OBJECTS and pd.api.types.is_numeric_dtype(dtypes.named(dtype)):
        text = text.astype("int64")
    return dtypes.cast(text, dtype)


def _named(where: str, names: tuple[str, ...]) -> str:
    said = " and ".join(repr(name) for name in names)
    return f"{where}, column{'s' * (len(names) > 1)} {said} (the time)"


def one_column(frame: pd.DataFrame, names: tuple[str, ...], at: str) -> pd.Series:
    """The time column, or the text of two as one; periods as the time of their start."""
    for name in names:
        holes = frame[name].isna()
        if holes.any():
            row = formats.row_of(frame[name][holes])
            raise DataError(f"{at} has no value in row {row}; fill it, or remove the row")
    if len(names) == 1:
        return dtypes.plain(frame[names[0]])
    first, *more = (frame[name].astype(str).str.strip() for name in names)
    for part in more:
        first = first + _BETWEEN + part
    return first


def _numbers(column: pd.Series, at: str) -> pd.Series:
    if pd.api.types.is_timedelta64_dtype(column.dtype):
        return column.dt.total_seconds()
    if not pd.api.types.is_numeric_dtype(column.dtype):
        raise DataError(
            f"{at}, row {formats.row_of(column)} holds {column.iloc[0]!r}; expected numbers"
        )
    numbers = column.astype(np.float64)
    if not np.isfinite(numbers).all():
        bad = numbers[~np.isfinite(numbers)]
        raise DataError(f"{at}, row {formats.row_of(bad)} holds {bad.iloc[0]}, no time")
    return numbers


def _decimals(numbers: pd.Series) -> int | None:
    """Digits after the point that write all of the numbers, or None."""
    for rtol in (1e-13, grids.SINGLE):  # those of float32 have noise of their own
        for digits in range(10):
            if np.allclose(numbers, np.round(numbers, digits), rtol=rtol, atol=1e-12):
                return digits
        if not np.array_equal(numbers.to_numpy().astype(np.float32), numbers.to_numpy()):
            break
    return None
