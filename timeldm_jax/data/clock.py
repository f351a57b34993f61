"""The clock of a table: which column it is, how its times are read and written, its steps."""

import dataclasses
import logging
import re
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from pandas.api.types import pandas_dtype

from timeldm_jax.data import formats, zones
from timeldm_jax.errors import DataError

_log = logging.getLogger(__name__)

_BOTH = "\t"  # between a day and a time of day in two columns
_MONTHS = " months"


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the user says of times; see `table.Options`.

    Attributes:
      irregular: what to do with times out of order or uneven.
      format: as `Clock.format`, or "" to find it.
      dayfirst: "true" or "false" where day and month could be either, or "".
    """

    irregular: str = "error"
    format: str = ""
    dayfirst: str = ""


@dataclasses.dataclass(frozen=True)
class Clock:
    """The time column.

    Attributes:
      name: its name.
      dtype: the pandas dtype of the input.
      start: first time, ISO text or a number.
      step: seconds (or the column's own unit, where it holds numbers) between rows.
      offset: where steps are not of one length (months, business days), a pandas offset alias, or
        a number of months that begin on any day, such as `3 months`.
      format: where the input held text, or whole numbers that are dates; see `data.formats`.
      zone: name of the time zone, or "".
      decimals: digits of numbers that are not whole, or None.
      hours: name of a second column that holds the time of day, or "".
      hours_dtype: its dtype.
    """

    name: str
    dtype: str
    start: str | float
    step: float
    offset: str = ""
    format: str = ""
    zone: str = ""
    decimals: int | None = None
    hours: str = ""
    hours_dtype: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that hold it."""
        return (self.name, self.hours) if self.hours else (self.name,)

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
        start = pd.Timestamp(self.start)
        if self.zone:
            aware = start.tz is not None
            start = start.tz_convert(self.zone) if aware else start.tz_localize(self.zone)
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

    def write(self, stamps: Any) -> pd.DataFrame:
        """Times as the input had them: its columns, of its dtypes."""
        dtype = pandas_dtype(self.dtype)
        if isinstance(self.start, float):
            found = pd.Series(stamps)
            if pd.api.types.is_timedelta64_dtype(dtype):
                found = pd.to_timedelta((found * 1e9).round().astype("int64"), unit="ns")
            elif pd.api.types.is_integer_dtype(dtype):
                found = found.round()
            return found.astype(dtype).to_frame(self.name)
        index = pd.DatetimeIndex(stamps)
        if index.tz is not None:
            if self.format.endswith(("Z", "UTC", "GMT")):
                index = index.tz_convert("UTC")
            elif not formats.has_offset(self.format) and not isinstance(dtype, pd.DatetimeTZDtype):
                index = index.tz_localize(None)
        if isinstance(dtype, pd.PeriodDtype):
            return pd.Series(index.tz_localize(None).to_period(str(dtype)[7:-1])).to_frame(
                self.name
            )
        if not self.format:
            return pd.Series(index).astype(dtype).to_frame(self.name)
        text = formats.write(index, self.format)
        if not self.hours:
            return _cast(text, dtype).to_frame(self.name)
        days, hours = text.str.split(_BOTH, n=1).str[0], text.str.split(_BOTH, n=1).str[1]
        second = pandas_dtype(self.hours_dtype)
        return pd.DataFrame({self.name: _cast(days, dtype), self.hours: _cast(hours, second)})

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
            if times.dt.tz is None:
                return zones.localise(times, self.zone, np.zeros(len(times), np.int64))
            return times.dt.tz_convert(self.zone)
        return times.dt.tz_localize(None) if times.dt.tz is not None else times


def learn(
    frame: pd.DataFrame, names: tuple[str, ...], reading: Reading, where: str
) -> tuple[pd.Series, Clock]:
    """The times of a table, and its clock; start and steps are still open.

    Args:
      frame: the table.
      names: of the time column, and of that of the time of day where there are two.
      reading: what the user said.
      where: what to call the table in errors.

    Raises:
      DataError: times that cannot be read.
    """
    at = _named(where, names)
    column = one_column(frame, names, at)
    dtype = str(frame[names[0]].dtype)
    clock = Clock(names[0], dtype, 0.0, 1.0, format=reading.format)
    if len(names) == 2:
        clock = dataclasses.replace(clock, hours=names[1], hours_dtype=str(frame[names[1]].dtype))
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
        zone = zones.of_offsets(times, formats.offsets_of(column).to_numpy())
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
    """Steps of each row since the first time; without a clock, since its series' first row."""
    if clock is not None:
        times = clock.read(frame, where)
        return seconds(times) / clock.step
    position = np.arange(len(frame), dtype=np.float64)
    if not entity:
        return position
    first = np.r_[True, np.diff(groups_of(frame, entity)) != 0]
    return position - np.maximum.accumulate(np.where(first, position, 0))


def seconds(times: pd.Series) -> Float[np.ndarray, " rows"]:
    """Seconds since the first time, or numbers as they are."""
    if pd.api.types.is_numeric_dtype(times.dtype):
        return times.to_numpy(np.float64)
    return (times - times.min()).dt.total_seconds().to_numpy()


def _cast(text: pd.Series, dtype: Any) -> pd.Series:
    return (
        text.astype("int64").astype(dtype)
        if pd.api.types.is_numeric_dtype(dtype)
        else (text.astype(dtype))
    )


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
    column = frame[names[0]]
    if len(names) == 2:
        day, hours = (frame[name].astype(str).str.strip() for name in names)
        return day + _BOTH + hours
    if isinstance(column.dtype, pd.PeriodDtype):
        return column.dt.to_timestamp()
    return column


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
    for digits in range(10):
        if np.allclose(numbers, np.round(numbers, digits), rtol=1e-13, atol=1e-12):
            return digits
    return None
