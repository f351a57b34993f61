"""Which rows test and validate: blocks of a timeline, or whole series.

A timeline is held as stretches of one part each, so that one of a billion rows is as short as one
of a thousand.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from timeldm_jax.errors import DataError, option

FEWEST_GROUPS = 3  # series, of which whole ones can be held out
HELDOUT_SHARE = 0.2
VALID_SHARE = 0.05
VALID_BLOCKS = 5  # at most; half as many as test blocks, see `_mark`
TRAIN, TEST, VALID = range(3)


class Timeline(NamedTuple):
    """Times in order, as stretches of one part each.

    Attributes:
      edges: the time at which each stretch begins, and the number of times last.
      part: of each stretch: 0 train, 1 test, 2 validate.
    """

    edges: Int[np.ndarray, " stretch_1"]
    part: Int[np.ndarray, " stretch"]

    def of_each(self) -> Int[np.ndarray, " times"]:
        """The part of each time."""
        return np.repeat(self.part, np.diff(self.edges))


def blocks_of_time(times: int, window: int, protocol: str) -> Timeline:
    """The parts of `times` rows in order: under `future` the last fifth tests, else blocks do.

    Args:
      times: how many there are.
      window: time steps of a window; long windows have fewer blocks, of at least a window each.
      protocol: `heldout` or `future`.
    """
    valid_rows = round(times * VALID_SHARE)
    blocks = max(1, min(VALID_BLOCKS, valid_rows // window))
    whole = Timeline(np.array([0, times]), np.zeros(1, np.int8))
    if protocol == "future":
        first_test = times - round(times * HELDOUT_SHARE)
        found = _mark(Timeline(np.array([0, first_test]), whole.part), VALID, blocks, valid_rows)
        edges, part = np.append(found.edges, times), np.append(found.part, np.int8(TEST))
        return Timeline(edges, part)
    found = _mark(whole, TEST, 2 * blocks, round(times * HELDOUT_SHARE))
    return _mark(found, VALID, blocks, valid_rows)


def whole_series(count: int) -> Int[np.ndarray, " series"]:
    """The part of each of `count` series where whole ones are held out.

    Raises:
      DataError: fewer than three.
    """
    if count < FEWEST_GROUPS:
        raise DataError(
            f"{option('split', 'entity')} needs at least 3 series, and there are {count}; use "
            f"{option('split', 'time')}"
        )
    order = np.random.default_rng(0).permutation(count)
    test = max(round(count * HELDOUT_SHARE), 1)
    valid = max(round(count * VALID_SHARE), 1)
    part = np.zeros(count, np.int8)
    part[order[:test]] = TEST
    part[order[test : test + valid]] = VALID
    return part


def _mark(line: Timeline, mark: int, blocks: int, total: int) -> Timeline:
    """Marks `total` training times as `mark`, in blocks centred in equal shares of the timeline.

    Shares are of the times still marked 0: with half as many blocks of a second kind, each falls
    midway between two of the first.
    """
    begins, ends = line.edges[:-1], line.edges[1:]
    free = line.part == TRAIN
    after = np.cumsum(np.where(free, ends - begins, 0))  # free times up to each stretch's end
    length, share = total // blocks, _shares(int(after[-1]), blocks)
    first = share[:-1] + (np.diff(share) - length) // 2  # of each block, among free times
    edges: list[int] = []
    part: list[int] = []
    for begin, end, own, passed in zip(begins, ends, line.part, after, strict=True):
        cuts = np.zeros(0, np.int64)
        if own == TRAIN:
            cuts = np.stack([first, first + length], axis=1) + (end - passed)
            cuts = np.clip(cuts, begin, end)
        at = begin
        for low, high in cuts.reshape(-1, 2):
            if high > low:
                edges, part = [*edges, at, low], [*part, own, mark]
                at = high
        edges, part = [*edges, at], [*part, own]
    kept = np.diff([*edges, line.edges[-1]]) > 0
    return Timeline(
        np.append(np.array(edges, np.int64)[kept], line.edges[-1]), np.array(part, np.int8)[kept]
    )


def _shares(count: int, parts: int) -> Int[np.ndarray, " part_1"]:
    """Where equal shares of a range begin, the first ones longer by one, and its end."""
    sizes = np.full(parts, count // parts)
    sizes[: count % parts] += 1
    return np.concatenate([[0], np.cumsum(sizes)])
