"""Times as data: of a table whose steps are uneven, what lies between rows is learnt and drawn.

A hidden column says how long after the row before each row comes. The model learns it as any other
column, by normal scores, and the times of samples are its sums, so they never fall. It counts in
the clock's unit: seconds, the numbers of a time column of numbers, or steps of the calendar
(business days, months), whose lengths differ.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from timeldm_jax.data import clock as clocks
from timeldm_jax.data import start_times
from timeldm_jax.data.clock import Clock, Steps
from timeldm_jax.errors import DataError

if TYPE_CHECKING:
    from timeldm_jax.data.schema import Schema

GAP = "(time since the row before)"
EVEN = (86_400.0, 3_600.0, 1_800.0, 900.0, 600.0, 300.0)  # seconds that all times may be apart by
NOISE = 1e-6  # what sums of times are off by
FINEST = 300.0  # of a clock's steps, unless rows are closer: a week then has 2,016
LONGEST = 60 * 86_400.0  # of gaps that are counted in parts of a day

Windows = Float[np.ndarray, "n time feature"]


def step_of(gaps: Float[np.ndarray, " gaps"], *, dates: bool) -> float:
    """The step by which an uneven clock counts where windows begin.

    Of dates a whole number makes a day, so that hours and days of the week can be counted; and all
    times are on steps, where they are on any of `EVEN`. Else the median gap.

    Args:
      gaps: between rows, in the clock's unit.
      dates: whether that is seconds.
    """
    usual = float(np.median(gaps[gaps > 0]))
    if not dates or usual > LONGEST:
        return usual
    even = _unit(gaps, EVEN)
    if even:
        return even
    return FINEST if usual > FINEST else EVEN[0] / max(round(EVEN[0] / usual), 1)


def _unit(gaps: Float[np.ndarray, " gaps"], units: tuple[float, ...]) -> float | None:
    """The first of some units that gaps are whole numbers of; None where they are of none."""
    whole = (np.abs(gaps - np.round(gaps / unit) * unit).max() < NOISE for unit in units)
    return next((unit for unit, fits in zip(units, whole, strict=True) if fits), None)


def with_gaps(
    frame: pd.DataFrame, clock: Clock | None, groups: Int[np.ndarray, " rows"], where: str
) -> pd.DataFrame:
    """A table with the hidden column, where its clock is uneven.

    The first row of a series, before which nothing is known, has the gap of the second.

    Args:
      frame: rows of a series side by side and in order.
      clock: of the model.
      groups: number of the series of each row.
      where: what to call the table in errors.
    """
    if clock is None or not clock.uneven or GAP in frame.columns:
        return frame
    passed = _passed(clock.read(frame, where), clock)
    digits = clock.decimals if isinstance(clock.start, float) else 9
    gaps = np.diff(passed, prepend=passed[:1])
    gaps = gaps if digits is None else np.round(gaps, digits)
    first = np.r_[True, np.diff(groups) != 0]
    inside = gaps[~first]
    alone = first & np.r_[first[1:], True]
    gaps[first] = np.r_[gaps[1:], 0.0][first]
    gaps[alone] = np.median(inside) if inside.size else 1.0 if clock.offset else clock.step
    return frame.assign(**{GAP: gaps})


def _passed(times: pd.Series, clock: Clock) -> Float[np.ndarray, " rows"]:
    """What has passed since the first of some times, in the clock's unit."""
    passed = clocks.seconds(times)
    if isinstance(clock.start, float):
        return passed
    if not clock.offset:
        return np.round(passed, 9 if clock.step < clocks.FINE else 6)
    own = _from(clock, times.min())
    return start_times.counted(passed / clock.step, own).astype(np.float64)


def _from(clock: Clock, first: Any) -> Clock:
    """A clock that starts at another time."""
    start = float(first) if isinstance(clock.start, float) else first.isoformat()
    return dataclasses.replace(clock, start=start)


def fields(gaps: pd.Series) -> dict[str, Any]:
    """What `inference` is to take the hidden column for: no two rows share a time unless some do.

    The least gap is told to one digit, rounded down. Whole minutes stay such, as text may say no
    more.
    """
    least = float(gaps.min())
    low = 0.0 if least <= 0 else float(f"1e{int(np.floor(np.log10(least)))}")
    found = {"kind": "float", "scaling": "quantile", "low": min(low, least), "high": None}
    unit = _unit(gaps.to_numpy(), (*EVEN, 60.0, 1.0))
    return found if unit is None else found | {"step": unit}


def place(schema: "Schema") -> int:
    """The number of the hidden column's feature."""
    return [feature.name for feature in schema.layout()].index(GAP)


def uneven(schema: "Schema | None") -> bool:
    """Whether a model draws times."""
    return schema is not None and schema.clock is not None and schema.clock.uneven


def on_grid(schema: "Schema", steps: Steps) -> Float[np.ndarray, " n"]:
    """Steps that were drawn, moved to where the table has its times: whole minutes, say."""
    assert schema.clock is not None
    if schema.clock.offset:
        return steps.astype(np.float64)
    column = schema.columns[schema.layout()[place(schema)].column]
    passed = steps * schema.clock.step
    if column.grid is not None and column.grid.step:
        passed = np.round(passed / column.grid.step) * column.grid.step
    elif column.decimals is not None:
        passed = np.round(passed, column.decimals)
    return passed / schema.clock.step


def steps_of(
    schema: "Schema", windows: Windows, begins: Steps
) -> Float[np.ndarray, "n time"] | Int[np.ndarray, "n time"]:
    """The clock's step of each row of windows, by what lies between the rows where that is drawn.

    Args:
      schema: of the model, with a clock.
      windows: in the columns' own units; NaN lies between no rows.
      begins: the step of their first rows.
    """
    assert schema.clock is not None
    if not schema.clock.uneven:
        return begins[:, None] + np.arange(windows.shape[1])
    gaps = np.nan_to_num(windows[..., place(schema)])
    gaps[:, 0] = 0.0
    if schema.clock.offset:
        return np.round(begins[:, None] + gaps.cumsum(axis=1)).astype(np.int64)
    return begins[:, None] + gaps.cumsum(axis=1) / schema.clock.step


def begun(
    schema: "Schema | None",
    series: Float[np.ndarray, "n rows feature"],
    begins: Steps,
    row: int,
) -> Steps:
    """The clock's step of a row of some series.

    Args:
      schema: of the model.
      series: drawn up to that row, NaN later.
      begins: the step of their first rows.
      row: which may lie before the first: steps of the mean length are counted then.
    """
    if schema is None or not uneven(schema):
        return begins + row
    assert schema.clock is not None
    if row >= 0:
        return steps_of(schema, series[:, : row + 1], begins)[:, row]
    unit = 1.0 if schema.clock.offset else schema.clock.step
    return begins + row * np.nanmean(series[..., place(schema)], axis=1) / unit


def of_windows(
    windows: Windows, schema: "Schema", seed: int, first: int, begins: Steps | None
) -> pd.DataFrame:
    """The columns of the time of all rows of windows, or of one window where all are alike.

    Args:
      windows: in the columns' own units, as they can be held.
      schema: of the model, with a clock.
      seed: of times that are drawn.
      first: number of the first window.
      begins: the clock's step of their first rows; None: drawn, or where there is no calendar the
        clock's start.
    """
    clock, time = schema.clock, windows.shape[1]
    assert clock is not None
    if begins is None and schema.starts is not None and time >= schema.starts.window:
        drawn = schema.starts.draw(windows, clock, seed, first)
        begins = on_grid(schema, drawn) if clock.uneven else drawn
    if begins is None and not clock.uneven:
        return clock.times(time)
    steps = steps_of(schema, windows, np.zeros(len(windows)) if begins is None else begins)
    if clock.uneven:
        return _written(clock, steps)
    steps, at = np.unique(steps, return_inverse=True)
    return clock.write(clock.stamps(steps)).iloc[at.ravel()]


def _written(
    clock: Clock, steps: Float[np.ndarray, "n time"] | Int[np.ndarray, "n time"]
) -> pd.DataFrame:
    """The columns of times at steps of an uneven clock."""
    if clock.offset:
        return clock.write(clock.stamps(np.round(steps).astype(np.int64).ravel()))
    return clock.write(clock.after(steps.ravel() * clock.step))


def following(
    schema: "Schema", frame: pd.DataFrame, futures: Float[np.ndarray, "n horizon feature"]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The times of futures: of all rows, and the median of each row.

    Args:
      schema: of the model.
      frame: the history.
      futures: that follow its last row.
    """
    assert schema.clock is not None
    clock = _from(schema.clock, schema.clock.read(frame.iloc[[-1]], "the history").iloc[0])
    unit = 1.0 if clock.offset else clock.step
    steps = futures[..., place(schema)].cumsum(axis=1) / unit
    middle = np.quantile(steps, 0.5, axis=0, keepdims=True, method="inverted_cdf")
    return _written(clock, steps), _written(clock, middle)


def known_gaps(known: pd.DataFrame, schema: "Schema", history: pd.DataFrame) -> pd.DataFrame:
    """What is known of rows to come, with the hidden column where their times are given.

    Raises:
      DataError: some of the times are missing, or they fall.
    """
    clock = schema.clock
    assert clock is not None
    if not set(clock.names) <= set(known.columns) or known[list(clock.names)].isna().all(axis=None):
        return known
    last = clock.read(history.iloc[[-1]], "the history")
    times = pd.concat([last, clock.read(known, "known")], ignore_index=True)
    falls = np.flatnonzero(np.diff(clocks.seconds(times)) < 0)
    if falls.size:
        row = int(falls[0])
        raise DataError(
            f"known, row {row + 1} is of {times.iloc[row + 1]}, before "
            f"{'the history ends' if row == 0 else 'the row above it'} ({times.iloc[row]})"
        )
    return known.assign(**{GAP: np.diff(_passed(times, clock))})
