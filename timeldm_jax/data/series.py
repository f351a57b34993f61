"""One representation for every data set: a table and the starts of its windows.

A window is `values[start : start + window]`. A long series has a start at almost every row; a set
of simulated trajectories has one at each multiple of the window. Memory is rows x features, never
windows x time x features, and a batch is a gather on the device.
"""

import dataclasses
import hashlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from timeldm_jax.data.sources import DataError

PROTOCOLS = ("paper", "heldout", "future")

HELDOUT_SHARE = 0.2
VALID_SHARE = 0.05
VALID_BLOCKS = 5  # at most; half as many as test blocks, see `_mark_blocks`
PAPER_VALID_WINDOWS = 1024


@dataclasses.dataclass(frozen=True)
class Series:
    """A table and the windows that training, validation and testing read from it.

    Attributes:
      values: `(rows, features)` float64, in the data's own units.
      columns: names of the features.
      window: time steps of a window.
      train: starts of the training windows, int32.
      valid: starts of the windows that choose the best weights.
      test: starts of the windows that scores compare with.
      fresh: starts of further draws of a simulator, where `test` is the training windows.
    """

    values: Float[np.ndarray, "rows feature"]
    columns: tuple[str, ...]
    window: int
    train: Int[np.ndarray, " train"]
    valid: Int[np.ndarray, " valid"]
    test: Int[np.ndarray, " test"]
    fresh: Int[np.ndarray, " fresh"] = dataclasses.field(
        default_factory=lambda: np.zeros(0, np.int32)
    )

    def simulated(self) -> bool:
        """Whether windows are separate trajectories rather than cut from one series."""
        starts = np.concatenate([self.train, self.valid, self.test])
        return bool((starts % self.window == 0).all())

    def windows(self, starts: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n window feature"]:
        """The windows at `starts`, `(n, window, features)`, on the host."""
        return self.values[starts[:, None] + np.arange(self.window)]

    def training_rows(self) -> Float[np.ndarray, "rows feature"]:
        """The rows that some training window covers, in order."""
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
            digest.update(np.ascontiguousarray(array).tobytes())
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


def split_series(
    values: Float[np.ndarray, "rows feature"],
    columns: tuple[str, ...],
    window: int,
    protocol: str,
) -> Series:
    """Splits the windows of one long series, stride 1, before anything looks at them.

    - `paper`: every window trains, and every window is the test set, as in the published tables;
      validation is an even sample of the same windows.
    - `heldout`: a fifth of the rows in blocks spread over time is the test set.
    - `future`: the last fifth of the rows is the test set.

    Under the last two, validation takes a further twentieth in blocks. No window crosses into
    another part, and parts share no row: that is a gap of `window - 1` starts on both sides.

    Raises:
      DataError: too few rows for a window, or for the blocks of the protocol.
    """
    check_protocol(protocol)
    rows = len(values)
    if rows < window:
        raise DataError(
            f"the series has {rows} rows, fewer than one window of {window}; "
            "use a shorter config.data.window or more rows"
        )
    starts = np.arange(rows - window + 1, dtype=np.int32)
    if protocol == "paper":
        keep = np.linspace(0, len(starts) - 1, min(PAPER_VALID_WINDOWS, len(starts)))
        return Series(values, columns, window, starts, starts[keep.astype(int)], starts)

    part = np.zeros(rows, np.int8)  # 0 train, 1 test, 2 valid
    valid_rows = round(rows * VALID_SHARE)
    # Blocks of at least a window: long windows have fewer blocks.
    blocks = max(1, min(VALID_BLOCKS, valid_rows // window))
    if protocol == "future":
        first_test = rows - round(rows * HELDOUT_SHARE)
        part[first_test:] = 1
        _mark_blocks(part[:first_test], 2, blocks, valid_rows)
    else:
        _mark_blocks(part, 1, 2 * blocks, round(rows * HELDOUT_SHARE))
        _mark_blocks(part, 2, blocks, valid_rows)
    in_part = [
        starts[np.convolve(part == p, np.ones(window), "valid").round() == window] for p in range(3)
    ]
    train, test, valid = in_part
    if min(len(train), len(test), len(valid)) == 0:
        raise DataError(
            f"{rows} rows are too few for windows of {window} under protocol {protocol!r} "
            f"(training, validation and test would get {len(train)}, {len(valid)} and "
            f"{len(test)} windows); use a shorter config.data.window, more rows, or "
            "config.data.protocol='paper'"
        )
    return Series(values, columns, window, train, valid, test)


def _mark_blocks(part: Int[np.ndarray, " rows"], mark: int, blocks: int, total: int) -> None:
    """Marks `total` training rows as `mark`, in blocks centred in equal shares of the timeline.

    Shares are of the rows still marked 0: with half as many blocks of a second kind, each falls
    midway between two of the first.
    """
    free = np.flatnonzero(part == 0)
    length = total // blocks
    for share in np.array_split(free, blocks):
        first = (len(share) - length) // 2
        part[share[first : first + length]] = mark


def join_trajectories(
    train: Float[np.ndarray, "n window feature"],
    valid: Float[np.ndarray, "v window feature"],
    test: Float[np.ndarray, "t window feature"],
    columns: tuple[str, ...],
    protocol: str,
) -> Series:
    """Simulated trajectories as one table with starts at multiples of the window.

    `paper` scores against the training trajectories, `heldout` against fresh draws.

    Raises:
      DataError: protocol `future`, which means nothing without a timeline.
    """
    check_protocol(protocol)
    if protocol == "future":
        raise DataError(
            "config.data.protocol='future' needs one series in time; simulated trajectories have "
            "no order. Use 'heldout' (fresh draws) or 'paper'"
        )
    window = train.shape[1]
    values = np.concatenate([train, valid, test]).reshape(-1, train.shape[2])
    starts = np.arange(len(values) // window, dtype=np.int32) * window
    first, second = len(train), len(train) + len(valid)
    paper = protocol == "paper"
    return Series(
        values,
        columns,
        window,
        train=starts[:first],
        valid=starts[first:second],
        test=starts[:first] if paper else starts[second:],
        fresh=starts[second:] if paper else starts[:0],
    )


def check_protocol(protocol: str) -> None:
    """Raises DataError unless `protocol` is a known one."""
    if protocol not in PROTOCOLS:
        raise DataError(f"config.data.protocol={protocol!r} is not one of {', '.join(PROTOCOLS)}")
