"""One representation for every data set: a table and the starts of its windows.

A window is `values[start : start + window]`. A long series has a start at almost every row; a set
of simulated trajectories has one at each multiple of the window. Memory is rows x features, never
windows x time x features, and a batch is a gather on the device.
"""

import dataclasses
import hashlib
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from timeldm_jax.data import holdout, runs
from timeldm_jax.data.runs import Runs
from timeldm_jax.errors import DataError, option

if TYPE_CHECKING:
    from timeldm_jax.data.stored import Stored

PROTOCOLS = ("paper", "heldout", "future")
SPLITS = ("auto", "time", "entity")
PAPER_VALID_WINDOWS = 1024
MOST_COMPARED = 100_000  # training windows that scores read of a table larger than memory
MOST_SUMMED = 1_000_000  # training rows by which its values are described
MOST_NUMBERS = 2**25  # of either: a quarter of a gigabyte


@dataclasses.dataclass(frozen=True)
class Series:
    """A table and the windows that training, validation and testing read from it.

    Attributes:
      values: `(rows, features)` float64, in the data's own units; NaN where missing. Of a table
        larger than memory, the file that gives them.
      columns: names of the features.
      window: time steps of a window.
      train: starts of the training windows, int32; where they are too many, by number.
      valid: starts of the windows that choose the best weights.
      test: starts of the windows that scores compare with.
      fresh: starts of further draws of a simulator, where `test` is the training windows.
      position: of each row in time, int64, rows of different series far apart; None where windows
        are independent trajectories.
    """

    values: "Float[np.ndarray, 'rows feature'] | Stored"
    columns: tuple[str, ...]
    window: int
    train: Int[np.ndarray, " train"] | Runs
    valid: Int[np.ndarray, " valid"] | Runs
    test: Int[np.ndarray, " test"]
    fresh: Int[np.ndarray, " fresh"] = dataclasses.field(
        default_factory=lambda: np.zeros(0, np.int32)
    )

    position: Int[np.ndarray, " rows"] | Runs | None = None

    def windows(self, starts: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n window feature"]:
        """The windows at `starts`, `(n, window, features)`, on the host."""
        return self.values[starts[:, None] + np.arange(self.window)]

    def series_of(self, starts: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """A number of the series that each window is of; windows of one series share it."""
        if isinstance(self.position, Runs):  # by how far apart series are
            return self.position[starts] - starts
        assert self.position is not None
        return np.cumsum(np.diff(self.position, prepend=self.position[:1]) > 1)[starts]

    def few_train(self) -> Int[np.ndarray, " few"]:
        """Starts of the training windows that scores read: all, or as many as fit in memory."""
        if not isinstance(self.train, Runs):
            return self.train
        most = MOST_NUMBERS // (self.window * len(self.columns))
        return runs.evenly(self.train, max(min(MOST_COMPARED, most), 2))

    def training_rows(self) -> Float[np.ndarray, "rows feature"]:
        """The rows that some training window covers, in order; of a file, some of them."""
        if isinstance(self.train, Runs):
            most = min(MOST_SUMMED, MOST_NUMBERS // len(self.columns))
            return self.values[runs.evenly(self.train.covered(self.window), most)]
        covered = np.zeros(len(self.values) + 1, np.int64)
        np.add.at(covered, self.train, 1)
        np.add.at(covered, self.train + self.window, -1)
        return self.values[np.cumsum(covered)[:-1] > 0]

    def fingerprint(self) -> str:
        """SHA-256 of everything that training reads: values, columns, window, starts."""
        arrays = (self.values, self.train, self.valid, self.test)
        shapes = [array.shape for array in arrays]
        digest = hashlib.sha256(repr((self.columns, self.window, shapes)).encode())
        for array in arrays:
            if isinstance(array, np.ndarray):
                digest.update(np.ascontiguousarray(array).tobytes())
            else:
                digest.update(array.content())
        return digest.hexdigest()


class DeviceWindows(NamedTuple):
    """What a training step reads: scaled rows and the starts of the windows to draw from."""

    values: Float[Array | np.ndarray, "rows feature"]
    starts: Int[Array | np.ndarray, " windows"]


def gather(
    data: DeviceWindows, index: Int[Array, " batch"], window: int
) -> Float[Array, "batch window feature"]:
    """The windows numbered `index`, `(batch, window, feature)`, gathered on the device."""
    return data.values[data.starts[index][:, None] + jnp.arange(window)]


class Missing(NamedTuple):
    """Which features can be missing, and which others say that they are.

    Attributes:
      values: numbers of features that lack values in some rows.
      flags: for each of them, the number of the feature that is 1 there.
    """

    values: tuple[int, ...]
    flags: tuple[int, ...]


def fill(x: Float[Array, "*lead feature"]) -> Float[Array, "*lead feature"]:
    """Scaled values with the middle of the range where one is missing: what networks read."""
    return jnp.where(jnp.isnan(x), 0.5, x)


def hide(
    x: Float[Array, "batch window feature"],
    other: Float[Array, "batch window feature"],
    missing: Missing,
) -> tuple[Float[Array, "batch window feature"], Float[Array, "batch window feature"]]:
    """What the VAE reads and what it must give where values are missing.

    It reads each window without what another one lacks, and is judged on all that is known: so it
    learns to fill gaps of the patterns that the data has. The flags tell what was hidden.

    Args:
      x: scaled windows, NaN where missing.
      other: other windows, whose gaps are made.
      missing: which features can be missing.

    Returns:
      The input, filled; and the target, NaN where unknown.
    """
    values, flags = np.array(missing.values, int), np.array(missing.flags, int)
    gaps = jnp.isnan(x[..., values]) | jnp.isnan(other[..., values])
    flagged = jnp.where(jnp.isnan(x[..., flags]), jnp.nan, gaps)
    target = x.at[..., flags].set(flagged)
    read = target.at[..., values].set(jnp.where(gaps, jnp.nan, x[..., values]))
    return fill(read), target


# Wide: each keyword is one setting of the split.
def split_series(
    values: Float[np.ndarray, "rows feature"],
    columns: tuple[str, ...],
    window: int,
    protocol: str,
    *,
    groups: Int[np.ndarray, " rows"] | None = None,
    clock: Float[np.ndarray, " rows"] | None = None,
    by: str = "time",
    stride: int = 1,
) -> Series:
    """Splits the windows of one or several long series before anything looks at them.

    - `paper`: every window trains, and every window is the test set, as in the published tables;
      validation is an even sample of the same windows.
    - `heldout`: a fifth of the rows in blocks spread over time is the test set.
    - `future`: the last fifth of the rows is the test set.

    Under the last two, validation takes a further twentieth in blocks. No window crosses into
    another part, and parts share no row: that is a gap of `window - 1` starts on both sides. Nor
    does a window cross into another series.

    Args:
      values: rows of one series side by side and in order.
      columns: names of the features.
      window: time steps of a window.
      protocol: as above.
      groups: number of the series of each row; default: one series.
      clock: time of each row, by which several series are cut at the same times; default: rows.
      by: what `heldout` holds out: blocks of `time`, or whole series, `entity`; `auto` takes time
        unless no block of it holds a window and there are several series.
      stride: rows between the starts of training windows.

    Raises:
      DataError: too few rows for a window, or for the blocks of the protocol.
    """
    check_protocol(protocol)
    if by not in SPLITS:
        raise DataError(f"{option('split', by)} is not one of {', '.join(SPLITS)}")
    rows = len(values)
    group = np.zeros(rows, np.int64) if groups is None else np.asarray(groups)
    starts = _window_starts(group, window)
    if protocol == "paper":
        keep = np.linspace(0, len(starts) - 1, min(PAPER_VALID_WINDOWS, len(starts)))
        train = starts[::stride]
        parts = [train, train, starts[keep.astype(int)]]
        return _cut(values, columns, window, group, parts)
    when = np.arange(rows) if clock is None else np.unique(clock, return_inverse=True)[1]
    parts = _hold_out(starts, group, when, window, protocol, by)
    train, test, valid = parts
    if min(map(len, parts)) == 0:
        raise DataError(
            f"{rows} rows are too few for windows of {window} under protocol {protocol!r} "
            f"(training, validation and test would get {len(train)}, {len(valid)} and "
            f"{len(test)} windows); use a shorter {option('window')}, more rows, or "
            f"{option('protocol', 'paper')}"
        )
    return _cut(values, columns, window, group, [train[::stride], test[::stride], valid])


def _cut(
    values: Float[np.ndarray, "rows feature"],
    columns: tuple[str, ...],
    window: int,
    group: Int[np.ndarray, " rows"],
    parts: list[Int[np.ndarray, " part"]],
) -> Series:
    """The windows of training, test and validation at `parts`, cut from series."""
    rows = len(values)
    position = np.arange(rows) + np.cumsum(np.r_[0, np.diff(group) != 0]) * 2 * rows
    train, test, valid = parts
    return Series(values, columns, window, train, valid, test, position=position)


def _window_starts(group: Int[np.ndarray, " rows"], window: int) -> Int[np.ndarray, " starts"]:
    """The rows at which a window can start that lies in one series."""
    if len(group) < window:
        raise DataError(
            f"the series has {len(group)} rows, fewer than one window of {window}; "
            f"use a shorter {option('window')} or more rows"
        )
    starts = np.arange(len(group) - window + 1, dtype=np.int32)
    starts = starts[group[starts] == group[starts + window - 1]]
    if not len(starts):
        raise DataError(
            f"no series has {window} rows; use a shorter {option('window')} (the longest has "
            f"{np.bincount(group).max()})"
        )
    return starts


def _hold_out(
    starts: Int[np.ndarray, " starts"],
    group: Int[np.ndarray, " rows"],
    when: Int[np.ndarray, " rows"],
    window: int,
    protocol: str,
    by: str,
) -> list[Int[np.ndarray, " part"]]:
    """Starts of the training, test and validation windows, by blocks of time or whole series."""
    if protocol == "future" or by != "entity":
        part = holdout.blocks_of_time(int(when.max()) + 1, window, protocol).of_each()[when]
        parts = _whole_windows(starts, part, window)
        # Many series over the same short time: whole ones can be held out where no block of it can.
        whole = by == "auto" and protocol == "heldout" and group.max() >= holdout.FEWEST_GROUPS - 1
        if min(map(len, parts)) or not whole:
            return parts
    names, own = np.unique(group, return_inverse=True)
    return _whole_windows(starts, holdout.whole_series(len(names))[own], window)


def _whole_windows(
    starts: Int[np.ndarray, " starts"],
    part: Int[np.ndarray, " rows"],
    window: int,
) -> list[Int[np.ndarray, " part"]]:
    """The starts of windows that lie in one block of training, test and validation rows."""
    changes = np.cumsum(np.r_[0, np.diff(part) != 0])
    whole = starts[changes[starts] == changes[starts + window - 1]]
    return [whole[part[whole] == p] for p in range(3)]


def join_trajectories(
    train: Float[np.ndarray, "n window feature"],
    valid: Float[np.ndarray, "v window feature"],
    test: Float[np.ndarray, "t window feature"],
    columns: tuple[str, ...],
    protocol: str,
    places: Int[np.ndarray, " windows"] | None = None,
) -> Series:
    """Simulated trajectories as one table with starts at multiples of the window.

    `paper` scores against the training trajectories, `heldout` against fresh draws.

    Args:
      train: the training trajectories.
      valid: those that choose the best weights.
      test: those that `heldout` scores against.
      columns: names of the features.
      protocol: as above.
      places: where each, of the three sets in turn, begins in time; None: they are independent.

    Raises:
      DataError: protocol `future`, which means nothing without a timeline.
    """
    check_protocol(protocol)
    if protocol == "future":
        raise DataError(
            f"{option('protocol', 'future')} needs one series in time; simulated trajectories have "
            "no order. Use 'heldout' (fresh draws) or 'paper'"
        )
    window = train.shape[1]
    values = np.concatenate([train, valid, test]).reshape(-1, train.shape[2])
    starts = np.arange(len(values) // window, dtype=np.int32) * window
    first, second = len(train), len(train) + len(valid)
    paper = protocol == "paper"
    position = None if places is None else (places[:, None] + np.arange(window)).reshape(-1)
    return Series(
        values,
        columns,
        window,
        train=starts[:first],
        valid=starts[first:second],
        test=starts[:first] if paper else starts[second:],
        fresh=starts[second:] if paper else starts[:0],
        position=position,
    )


def overlaps(windows: Float[np.ndarray, "n window feature"]) -> Int[np.ndarray, " n"] | None:
    """Where each window begins in time, if neighbours share rows, as those cut from a series do.

    Args:
      windows: in order; where two neighbours share no rows, another series begins.

    Returns:
      Rows, int64, with a window between series; None where windows are independent.
    """
    count, time, _ = windows.shape
    for stride in range(1, time if count > 1 else 1):
        same = (windows[1:, : time - stride] == windows[:-1, stride:]).all(axis=(1, 2))
        if same.mean() >= 0.5:
            return np.cumsum(np.r_[0, np.where(same, stride, 2 * time)])
    return None


def split_windows(
    count: int, window: int, places: Int[np.ndarray, " n"] | None
) -> list[Int[np.ndarray, " part"]]:
    """Numbers of the training, test and validation windows: a fifth tests, a tenth validates.

    Independent windows are drawn at random. Where windows overlap, parts are blocks of rows as
    `heldout` has them, and windows that would share rows with another part are left out.

    Args:
      count: windows.
      window: time steps of each.
      places: from `overlaps`.
    """
    if places is not None:
        part = holdout.blocks_of_time(int(places[-1]) + window, window, "heldout").of_each()
        return [np.searchsorted(places, s) for s in _whole_windows(places, part, window)]
    order = np.random.default_rng(0).permutation(count)
    test, valid = count // 5, count // 10
    return [order[test + valid :], order[:test], order[test : test + valid]]


def check_protocol(protocol: str) -> None:
    """Raises DataError unless `protocol` is a known one."""
    if protocol not in PROTOCOLS:
        raise DataError(f"{option('protocol', protocol)} is not one of {', '.join(PROTOCOLS)}")


def pad(
    groups: Int[np.ndarray, " rows"], window: int
) -> tuple[Int[np.ndarray, " padded"], Bool[np.ndarray, " padded"]]:
    """Rows with as many more after a short series that it fills a window.

    Returns:
      The number of each row, that of the last one for what was added; and which were there.
    """
    lengths = np.bincount(groups)
    padded = np.maximum(lengths, window)
    first = np.cumsum(lengths) - lengths
    within = np.arange(padded.sum()) - np.repeat(np.cumsum(padded) - padded, padded)
    there = within < np.repeat(lengths, padded)
    return np.repeat(first, padded) + np.minimum(within, np.repeat(lengths - 1, padded)), there
