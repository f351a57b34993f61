"""Time zones that times of a table were written in, where the table does not name them."""

import datetime
import difflib
import zoneinfo

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from timeldm_jax.errors import DataError, option

HOUR = 3600.0
# One zone for each common rule of daylight saving, tried before all others.
USUAL = (
    "Europe/Berlin", "Europe/London", "Europe/Helsinki", "America/New_York", "America/Chicago",
    "America/Denver", "America/Los_Angeles", "America/Halifax", "America/St_Johns",
    "Australia/Sydney", "Australia/Adelaide", "Pacific/Auckland", "Asia/Jerusalem",
    "America/Santiago", "America/Sao_Paulo",
)  # fmt: skip


def of_offsets(
    times: pd.Series, offsets: Float[np.ndarray, " rows"], names: pd.Series | None = None
) -> str:
    """A zone whose clocks had these offsets at these times, or "".

    Args:
      times: in UTC.
      offsets: seconds from UTC, as written.
      names: of the clocks, where they are written so, such as CEST.
    """
    levels = np.unique(offsets)
    if len(levels) == 1 and names is None:
        sign, minutes = "+-"[int(levels[0] < 0)], abs(int(levels[0])) // 60
        return f"UTC{sign}{minutes // 60:02d}:{minutes % 60:02d}" if minutes else "UTC"
    order = np.argsort(times.to_numpy(), kind="stable")
    changes = np.flatnonzero(np.diff(offsets[order])) + 1
    some = np.unique(np.r_[0, changes - 1, changes, len(order) - 1])
    for name in (*USUAL, *sorted(zoneinfo.available_timezones())):
        if (
            _agrees(name, times.iloc[order[some]], offsets[order[some]])
            and _agrees(name, times, offsets)
            and (names is None or _called(name, times.iloc[order[some]], names.iloc[order[some]]))
        ):
            return name
    return ""


def _agrees(name: str, times: pd.Series, offsets: Float[np.ndarray, " rows"]) -> bool:
    local = times.dt.tz_convert(name).dt.tz_localize(None)
    seconds = (local - times.dt.tz_localize(None)).dt.total_seconds()
    return bool((seconds.to_numpy() == offsets).all())


def _called(name: str, times: pd.Series, names: pd.Series) -> bool:
    """Whether the clocks of a zone have these names."""
    return list(times.dt.tz_convert(name).dt.strftime("%Z")) == list(names)


def of_local_hours(times: pd.Series, groups: Int[np.ndarray, " rows"]) -> str:
    """The zone in which local times with an hour missing or repeated run on evenly, or "".

    Args:
      times: without a zone, rows in order.
      groups: number of the series of each row.
    """
    gaps = times.diff().dt.total_seconds().to_numpy()[1:]
    inside = np.diff(groups) == 0
    if not inside.any():
        return ""
    usual = float(np.median(gaps[inside]))
    odd = np.flatnonzero(inside & (gaps != usual))
    if not 0 < usual <= HOUR or not odd.size or not (abs(gaps[odd] - usual) == HOUR).all():
        return ""
    for name in USUAL:
        zone = zoneinfo.ZoneInfo(name)
        if all(_apart(times.iloc[i], times.iloc[i + 1], zone) == usual for i in odd):
            return name
    return ""


def of_local_days(times: pd.Series, groups: Int[np.ndarray, " rows"]) -> str:
    """The zone whose clocks show one time of day at all times, of days or longer steps; or "".

    Args:
      times: with a zone, whose clocks do not show one time of day; rows in order.
      groups: number of the series of each row.
    """
    gaps = times.diff().dt.total_seconds().to_numpy()[1:][np.diff(groups) == 0]
    days = np.round(gaps / (24 * HOUR)) * 24 * HOUR
    off = np.abs(gaps - days)
    if not gaps.size or (days <= 0).any() or off.max() > HOUR or not (off == HOUR).any():
        return ""
    if times.dt.tz_localize(None).dt.time.nunique() == 1:
        return ""
    for name in USUAL:
        if times.dt.tz_convert(name).dt.time.nunique() == 1:
            return name
    return ""


def check(zone: str) -> str:
    """A name of a zone, which must be known.

    Raises:
      DataError: it is not.
    """
    if zone and zone not in zoneinfo.available_timezones():
        near = difflib.get_close_matches(zone, zoneinfo.available_timezones(), 1)
        such = near[0] if near else "Europe/Berlin"
        raise DataError(f"{option('zone', zone)} is no known time zone; expected one as {such}")
    return zone


def _apart(before: pd.Timestamp, after: pd.Timestamp, zone: zoneinfo.ZoneInfo) -> float:
    """Seconds between local times, the first of an hour that comes twice and the second."""
    first = before.to_pydatetime().replace(tzinfo=zone, fold=0)
    second = after.to_pydatetime().replace(tzinfo=zone, fold=1)
    return (second.astimezone(datetime.UTC) - first.astimezone(datetime.UTC)).total_seconds()


def localise(times: pd.Series, zone: str, groups: Int[np.ndarray, " rows"]) -> pd.Series:
    """Local times with their zone; an hour that comes twice counts first as summer time.

    Args:
      times: without a zone.
      zone: its name.
      groups: number of the series of each row, rows of one side by side.
    """
    return times.dt.tz_localize(
        zone, ambiguous=~_second_time(times, groups), nonexistent="shift_forward"
    )


def _second_time(times: pd.Series, groups: Int[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
    """Whether a row comes after the clock was put back, and within the hours that come twice."""
    stamps = times.to_numpy()
    back = np.r_[False, (np.diff(stamps) <= np.timedelta64(0, "ns")) & (np.diff(groups) == 0)]
    # From where it goes back, for as long as the times were there before.
    found = np.zeros(len(stamps), bool)
    for start in np.flatnonzero(back):
        stop = np.searchsorted(stamps[start:], stamps[start - 1], side="right") + start
        found[start:stop] = True
    return found
