"""Where the series of a table are that is read in batches, and when their rows are.

One pass over the entity and time columns finds it. Nothing is as long as the table: rows of a
series that follow each other step by step are one piece.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from timeldm_jax.data import clock as clocks
from timeldm_jax.data import holdout, runs, start_times
from timeldm_jax.data.clock import Clock
from timeldm_jax.data.parts import Wanted
from timeldm_jax.data.runs import Runs
from timeldm_jax.data.series import PAPER_VALID_WINDOWS
from timeldm_jax.errors import DataError, option

MOST_PIECES = 0.1  # of the rows: each is kept in memory


@dataclasses.dataclass(frozen=True)
class Layout:
    """The pieces of a table, in the order of its rows.

    Attributes:
      rows: of the table.
      begin: first row of each piece.
      step: of the clock at that row, counted from the earliest row of all; without a clock, from
        the first row of the series.
      series: number of the series of each piece, in order of appearance.
    """

    rows: int
    begin: Int[np.ndarray, " piece"]
    step: Int[np.ndarray, " piece"]
    series: Int[np.ndarray, " piece"]

    @property
    def end(self) -> Int[np.ndarray, " piece"]:
        """The row after the last one of each piece."""
        return np.append(self.begin[1:], self.rows)

    def lengths(self) -> Int[np.ndarray, " series"]:
        """Rows of each series."""
        return np.bincount(self.series, weights=self.end - self.begin).astype(np.int64)

    def steps(self) -> Runs:
        """The step of each row."""
        return Runs(self.begin, self.step, self.rows)

    def position(self) -> Runs:
        """Of each row in time, rows of different series far apart."""
        return Runs(self.begin, self.begin + 2 * self.rows * self.series, self.rows)

    def series_of(self, first: int, count: int) -> Int[np.ndarray, " rows"]:
        """The number of the series of some rows."""
        piece = np.searchsorted(self.begin, np.arange(first, first + count), side="right") - 1
        return self.series[piece]


@dataclasses.dataclass(frozen=True)
class Windows:
    """The starts of windows, as of `series.Series`, and the stretches that training ones are of."""

    train: Runs
    valid: Runs | Int[np.ndarray, " valid"]
    test: Runs
    training: Wanted


# Wide: each keyword is one setting of the split.
def split(
    layout: Layout, window: int, protocol: str, *, by: str = "time", stride: int = 1
) -> Windows:
    """As `series.split_series`, by arithmetic.

    Raises:
      DataError: too few rows for a window, or for the blocks of the protocol.
    """
    if protocol == "paper":
        every = np.zeros(len(layout.begin), np.int8)
        pieces = _Pieces(layout.begin, layout.end, layout.series, every)
        train = _of_part(pieces, holdout.TRAIN, window)
        _check(train, train, train, layout, window, protocol)
        valid = runs.evenly(train, PAPER_VALID_WINDOWS)
        train = train.every(stride)
        return Windows(train, valid, train, _stretches(pieces, window))
    count = int(layout.series.max()) + 1
    if protocol == "future" or by != "entity":
        pieces = _by_time(layout, window, protocol)
        whole = by == "auto" and protocol == "heldout" and count >= holdout.FEWEST_GROUPS
        if not whole or min(len(_of_part(pieces, p, window)) for p in range(3)):
            return _parts(pieces, layout, window, protocol, stride)
    own = holdout.whole_series(count)[layout.series]
    return _parts(
        _Pieces(layout.begin, layout.end, layout.series, own), layout, window, protocol, stride
    )


@dataclasses.dataclass(frozen=True)
class _Pieces:
    """Rows from `begin` to before `end`, of one series and one part each."""

    begin: Int[np.ndarray, " piece"]
    end: Int[np.ndarray, " piece"]
    series: Int[np.ndarray, " piece"]
    part: Int[np.ndarray, " piece"]


def _by_time(layout: Layout, window: int, protocol: str) -> _Pieces:
    """The pieces, cut where a block of the timeline begins; of one series rows are the times."""
    one = layout.series[-1] == 0
    begin, end, series = layout.begin, layout.end, layout.series
    when = layout.begin if one else layout.step
    line = holdout.blocks_of_time(int((when + end - begin).max()), window, protocol)
    first = np.searchsorted(line.edges, when, side="right") - 1
    last = np.searchsorted(line.edges, when + end - begin - 1, side="right") - 1
    times = last - first + 1
    piece = np.repeat(np.arange(len(begin)), times)
    block = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times) + first[piece]
    low = np.maximum(line.edges[block], when[piece])
    high = np.minimum(line.edges[block + 1], (when + end - begin)[piece])
    shift = (begin - when)[piece]
    return _Pieces(low + shift, high + shift, series[piece], line.part[block])


def _parts(pieces: _Pieces, layout: Layout, window: int, protocol: str, stride: int) -> Windows:
    train, test, valid = (_of_part(pieces, part, window) for part in range(3))
    _check(train, test, valid, layout, window, protocol)
    return Windows(train.every(stride), valid, test.every(stride), _stretches(pieces, window))


def _stretches(pieces: _Pieces, window: int) -> Wanted:
    """The stretches that hold training windows."""
    begin, end = _joined(pieces, holdout.TRAIN)
    hold = end - begin >= window
    return Wanted(begin[hold], end[hold])


def _joined(
    pieces: _Pieces, part: int
) -> tuple[Int[np.ndarray, " stretch"], Int[np.ndarray, " stretch"]]:
    """First rows and ends of stretches of one part and one series."""
    same = (np.diff(pieces.series) == 0) & (np.diff(pieces.part) == 0)
    first = np.flatnonzero(np.append(True, ~same))
    last = np.append(first[1:], len(pieces.begin)) - 1
    own = pieces.part[first] == part
    return pieces.begin[first][own], pieces.end[last][own]


def _of_part(pieces: _Pieces, part: int, window: int) -> Runs:
    begin, end = _joined(pieces, part)
    return runs.of_lengths(begin, end - begin - window + 1)


def _check(
    train: Runs, test: Runs, valid: Runs, layout: Layout, window: int, protocol: str
) -> None:
    """Raises DataError where a part has no window."""
    if min(map(len, (train, test, valid))) == 0:
        raise DataError(
            f"{layout.rows} rows are too few for windows of {window} under protocol {protocol!r} "
            f"(training, validation and test would get {len(train)}, {len(valid)} and "
            f"{len(test)} windows); use a shorter {option('window')} or more rows"
        )


def one_series(rows: int) -> Layout:
    """The layout of a table without entity and clock."""
    nothing = np.zeros(1, np.int64)
    return Layout(rows, nothing, nothing, nothing)


class Finder:
    """Finds the layout of a table, batch by batch.

    Attributes:
      firsts: the entity columns of the first row of each series.
    """

    def __init__(self, where: str, clock: Clock | None, entity: tuple[str, ...], *, even: bool):
        """With `even`, rows of a series must be one step of the clock apart."""
        self._where, self._clock, self._entity, self._even = where, clock, entity, even
        self._rows, self._series, self._step = 0, -1, 0
        self._own: tuple[object, ...] = ()
        self._begin: list[np.ndarray] = []
        self._steps: list[np.ndarray] = []
        self._numbers: list[np.ndarray] = []
        self._known: set[tuple[object, ...]] = set()
        self.firsts: list[pd.DataFrame] = []

    def add(self, frame: pd.DataFrame) -> None:
        """The next rows, with their entity and time columns.

        Raises:
          DataError: rows of a series that are not side by side, or not in order of time.
        """
        new = self._new_series(frame)
        steps = self._steps_of(frame, new)
        gaps = np.diff(steps, prepend=self._step if not new[0] else steps[0])
        if self._clock is not None:
            self._check_times(frame, gaps, new)
        begin = np.flatnonzero(new | (gaps != 1))
        self._begin.append(begin + self._rows)
        self._steps.append(steps[begin])
        series = self._series + np.cumsum(new)
        self._numbers.append(series[begin])
        self._rows, self._series, self._step = (
            self._rows + len(frame),
            int(series[-1]),
            int(steps[-1]),
        )
        if sum(map(len, self._begin)) > max(MOST_PIECES * self._rows + self._series, 1e6):
            raise DataError(
                f"{self._where}: times are uneven in more than a tenth of the rows, or series have "
                "fewer than ten; a table that is read in batches must have rows at even steps: "
                "write it so, or thin it"
            )

    def found(self) -> tuple[Layout, int]:
        """The layout, and the step of the clock that became its step 0."""
        begin, step, series = map(np.concatenate, (self._begin, self._steps, self._numbers))
        first = int(step.min())
        return Layout(self._rows, begin, step - first, series), first

    def _new_series(self, frame: pd.DataFrame) -> Bool[np.ndarray, " rows"]:
        """Which rows are the first of their series."""
        new = np.zeros(len(frame), bool)
        if not self._entity:
            new[0] = self._rows == 0
            return new
        ids = frame[list(self._entity)]
        if ids.isna().any(axis=None):
            name = str(ids.columns[ids.isna().any()][0])
            raise DataError(
                f"{self._where}, column {name!r} (the entity) lacks values in some rows"
            )
        groups = clocks.groups_of(frame, self._entity)
        new[1:] = np.diff(groups) != 0
        new[0] = self._own != tuple(ids.iloc[0])
        places = np.flatnonzero(new)
        for row in ids.iloc[places].itertuples(index=False, name=None):
            if row in self._known:
                said = ", ".join(map(str, row))
                raise DataError(
                    f"{self._where}: the rows of series {said} do not stand side by side; a table "
                    "that is read in batches must be sorted by its entity, and by time within it"
                )
            self._known.add(row)
        self.firsts.append(ids.iloc[places])
        self._own = tuple(ids.iloc[-1])
        return new

    def _steps_of(
        self, frame: pd.DataFrame, new: Bool[np.ndarray, " rows"]
    ) -> Int[np.ndarray, " rows"]:
        clock = self._clock
        if clock is None:
            places = np.arange(len(frame))
            before = np.where(new, places, -1)
            before = np.maximum.accumulate(before)
            return np.where(before < 0, self._step + 1 + places, places - before)
        times = clock.read(frame, self._where)
        if isinstance(clock.start, float):
            exact = (times.to_numpy(np.float64) - clock.start) / clock.step
            return np.round(exact).astype(np.int64)
        start = clock.stamps(np.zeros(1, np.int64))[0]
        exact = (times - start).dt.total_seconds().to_numpy() / clock.step
        if clock.offset and exact.min() < 0:
            raise DataError(
                f"{self._where}, column {clock.name!r} (the time) begins in its midst, and its "
                "steps are those of a calendar; put the earliest series first"
            )
        return start_times.counted(exact, clock)

    def _check_times(
        self, frame: pd.DataFrame, gaps: Int[np.ndarray, " rows"], new: Bool[np.ndarray, " rows"]
    ) -> None:
        """Raises DataError where rows of a series are not in order, or not at even steps."""
        clock = self._clock
        assert clock is not None
        inside = ~new
        if self._rows == 0:
            inside[0] = False
        bad = inside & (gaps < 0)
        advice = "a table that is read in batches must be in order of time"
        if not bad.any() and self._even and clock.offset != "B":  # whose holidays are missing
            bad = inside & (gaps != 1)
            advice = f"{option('irregular', 'sort')} takes every row for one step"
        if bad.any():
            place = int(np.argmax(bad))
            cells = " ".join(str(frame[name].iloc[place]) for name in clock.names)
            raise DataError(
                f"{self._where}, column {clock.name!r} (the time), row {self._rows + place + 1:,} "
                f"({cells}) comes {gaps[place]:,} steps after the row before; {advice}"
            )


def find(
    where: str,
    frames: Iterable[pd.DataFrame],
    clock: Clock | None,
    entity: tuple[str, ...],
    *,
    even: bool,
) -> tuple[Layout, Clock | None, pd.DataFrame | None]:
    """The layout of a table, its clock from the earliest row on, and the ids of its series.

    Args:
      where: what to call it in errors.
      frames: its entity and time columns, batch by batch.
      clock: as learnt from some of the rows.
      entity: names of the entity columns.
      even: whether rows must be one step apart.

    Raises:
      DataError: series that are not side by side, times out of order or uneven.
    """
    finder = Finder(where, clock, entity, even=even)
    for frame in frames:
        finder.add(frame)
    layout, first = finder.found()
    if clock is not None and first:
        start = clock.stamps(np.array([first]))[0]
        clock = dataclasses.replace(
            clock, start=float(start) if isinstance(clock.start, float) else start.isoformat()
        )
    return layout, clock, pd.concat(finder.firsts) if finder.firsts else None
