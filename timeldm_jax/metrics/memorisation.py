"""Does a generator repeat its training windows? Distances to them, against distances to others.

Distances are root-mean-square over time and features, of windows scaled to [0, 1]: a share of the
range. A sample of the synthetic windows is compared with every training window, so the cost is
linear in these.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

QUERIES = 1_000  # windows of each set that are looked at
SHIFT_QUERIES = 200
PAIRS = 6
CHUNK = 8_192  # windows compared with at a time: bounds memory
COPY = 1e-4  # of the range: windows that agree this closely are copies
FEWEST_BLOCKS = 5  # blocks of time that an interval is drawn from
MARGIN = 0.05  # by which a share's interval must pass ½ to be called memorised
FAR_BELOW = 0.5  # of the usual distance
CAVEAT = (
    "A diagnostic, not a guarantee: it can show that windows were repeated, it cannot show that "
    "nothing about the training data can be learned from the samples."
)

Windows = Float[np.ndarray, "n time feature"]
Starts = Int[np.ndarray, " n"]


class Nearest(NamedTuple):
    """Of each query, the closest window of a set.

    Attributes:
      row: `(queries,)`, its number.
      distance: `(queries,)`, infinite where every window was left out.
    """

    row: Int[np.ndarray, " query"]
    distance: Float[np.ndarray, " query"]


def memorisation(
    synthetic: Windows,
    training: Windows,
    held_out: Windows | None = None,
    *,
    training_starts: Starts | None = None,
    held_out_starts: Starts | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """What says that synthetic windows repeat training windows, in numbers and words.

    The main figure is the share of synthetic windows that are closer to a training window than to
    any held-out one, from sets of equal size and, for a series, the same blocks of time: ½ where
    nothing is memorised. Windows are called memorised where

    - more than 1% are copies, and more than twice the share of held-out windows that are;
    - or the interval of the share lies above ½ by more than `MARGIN`: less than that is what a
      generator that fits its data closely shows, and is said in words;
    - or, compared to real windows that are not in the training set, the distance to training
      windows is less than half (the median, or the lowest tenth), as it is or after a shift in
      time. With held-out windows the share's interval must then lie above ½ too: a generator
      without the data's noise is closer to everything.

    Args:
      synthetic: `(n, time, feature)`, scaled by the training windows' range.
      training: what the generator was trained on, `(m, time, feature)`.
      held_out: windows that it was not trained on, or None.
      training_starts: rows of one series at which training windows start. None: windows are
        independent.
      held_out_starts: rows at which held-out windows start.
      seed: of the sample that is looked at.

    Returns:
      `memorisation` of `scores.json`.
    """
    random = np.random.default_rng(seed)
    picked = np.sort(random.permutation(len(synthetic))[:QUERIES])
    queries = synthetic[picked]
    known = random.permutation(len(training))[:QUERIES]
    others = None if held_out is None else held_out[random.permutation(len(held_out))[:QUERIES]]
    found = _distances(queries, training, known, others, training_starts)
    share = None
    if held_out is not None:
        share = _share(queries, training, held_out, training_starts, held_out_starts)
    copies = _count_copies(synthetic, training)
    reasons = _reasons(found, share, copies / len(synthetic))
    return {
        "verdict": _verdict(reasons, share),
        "memorised": bool(reasons),
        "caveat": CAVEAT,
        "windows": {
            "synthetic": len(queries),
            "training": len(training),
            "held_out": 0 if held_out is None else len(held_out),
        },
        "share_closer_to_training": share,
        **found.said(held_out is not None),
        "exact_copies": {"count": copies, "rate": copies / len(synthetic)},
        "pairs": _closest_pairs(picked, found.own),
    }


def _closest_pairs(picked: Int[np.ndarray, " query"], own: Nearest) -> list[dict[str, Any]]:
    order = np.argsort(own.distance, kind="stable")[:PAIRS]
    return [
        {
            "synthetic": int(picked[i]),
            "training": int(own.row[i]),
            "distance": float(own.distance[i]),
        }
        for i in order
    ]


class _Distances(NamedTuple):
    """How far windows lie from the training windows.

    Attributes:
      own: of synthetic windows.
      second: of synthetic windows, to the closest that shares no row with the first.
      usual: of training windows, to others that share no row with them.
      baseline: of other real windows: held-out ones, or else `usual`.
      ratio: of nearest to second-nearest distance, of held-out windows; None without them.
      shift: largest move in time, in steps.
      moved: median distance of synthetic windows that may be moved.
      moved_usual: the same of other real windows.
    """

    own: Nearest
    second: Nearest
    usual: Nearest
    baseline: Nearest
    ratio: float | None
    shift: int
    moved: float
    moved_usual: float

    def said(self, held_out: bool) -> dict[str, Any]:
        """What `scores.json` has of it."""
        baseline = float(np.median(self.baseline.distance))
        return {
            "closest_distance": {
                "synthetic_to_training": float(np.median(self.own.distance)),
                "held_out_to_training": baseline if held_out else None,
                "training_to_training": _median(self.usual.distance),
            },
            "neighbour_ratio": {"synthetic": _ratio(self.own, self.second), "held_out": self.ratio},
            "shift_match": {
                "synthetic": self.moved,
                "held_out": self.moved_usual if held_out else None,
                "largest_shift": self.shift,
            },
        }


def _distances(
    queries: Float[np.ndarray, "query time feature"],
    training: Windows,
    known: Int[np.ndarray, " known"],
    others: Windows | None,
    training_starts: Starts | None,
) -> _Distances:
    time = training.shape[1]
    shift = time // 4

    def overlapping(rows: Int[np.ndarray, " query"], reach: int) -> Any:
        """Which training windows not to compare with, for queries that are training windows."""
        places = np.arange(len(training)) if training_starts is None else training_starts
        near = 1 if training_starts is None else reach

        def left_out(chunk: slice) -> Bool[np.ndarray, "query chunk"]:
            return np.abs(places[rows][:, None] - places[chunk]) < near

        return left_out

    own = nearest(queries, training)
    second = nearest(queries, training, overlapping(own.row, time))
    usual = nearest(training[known], training, overlapping(known, time))
    ratio, baseline = None, usual
    if others is not None:
        baseline = nearest(others, training)
        ratio = _ratio(baseline, nearest(others, training, overlapping(baseline.row, time)))
        moved_usual = _shifted(others[:SHIFT_QUERIES], training, shift)
    else:
        rows = known[:SHIFT_QUERIES]
        moved_usual = _shifted(training[rows], training, shift, overlapping(rows, time + shift))
    moved = _shifted(queries[:SHIFT_QUERIES], training, shift)
    return _Distances(
        own, second, usual, baseline, ratio, shift,
        float(np.median(moved)), float(np.median(moved_usual)),
    )  # fmt: skip


def _reasons(found: _Distances, share: dict[str, Any] | None, rate: float) -> list[str]:
    """What says that training windows were memorised, in words.

    Args:
      found: distances.
      share: of synthetic windows closer to training; None without held-out windows.
      rate: of copies among the synthetic windows.
    """
    closer = share is None or share["low"] > 0.5
    reasons = []
    if rate > 0.01 and rate > 2 * _copies(found.baseline):
        reasons.append(f"{rate:.0%} of the synthetic windows are copies of training windows")
    if share is not None and share["low"] > 0.5 + MARGIN:
        reasons.append(
            f"{share['share']:.0%} of the synthetic windows are closer to a training window than "
            "to any held-out one, where half would be fair"
        )
    for percentile, who in ((50, "half"), (10, "a tenth")):
        one, two = (np.percentile(n.distance, percentile) for n in (found.own, found.baseline))
        if closer and one < FAR_BELOW * two:
            reasons.append(
                f"{who} of the synthetic windows lie within {one:.3g} of a training window, which "
                f"other real windows do within {two:.3g}"
            )
            break
    if closer and found.moved < FAR_BELOW * found.moved_usual:
        reasons.append(
            f"moved by up to {found.shift} steps, synthetic windows come within {found.moved:.3g} "
            f"of training windows, other real ones within {found.moved_usual:.3g}"
        )
    return reasons


def _verdict(reasons: list[str], share: dict[str, Any] | None) -> str:
    if reasons:
        return f"Memorised: {'; '.join(reasons)}."
    if share is None:
        return (
            "No sign of memorising in copies and distances; without held-out windows it cannot be "
            "told whether samples are closer to the training windows than to others."
        )
    words = f"{share['share']:.2f}, 95% interval {share['low']:.2f} to {share['high']:.2f}"
    if share["low"] > 0.5:
        return f"Slightly closer to the training windows than to held-out ones (share {words})."
    return (
        f"No sign of memorising: as close to held-out windows as to training ones (share {words})."
    )


def nearest(
    queries: Float[np.ndarray, "query time feature"],
    windows: Windows,
    left_out: Any = None,
) -> Nearest:
    """The closest of `windows` to each query, by matrix products over chunks of `windows`.

    Args:
      queries: `(query, time, feature)`.
      windows: `(n, time, feature)`.
      left_out: of a slice of `windows`, which to leave out for which query, `(query, slice)` bool.
    """
    flat, flat_windows = queries.reshape(len(queries), -1), windows.reshape(len(windows), -1)
    center = flat.mean(axis=0)
    a = (flat - center).astype(np.float32)
    squares = np.square(a).sum(axis=1)
    best = np.full(len(a), np.inf, np.float32)
    index = np.zeros(len(a), np.int64)
    for first in range(0, len(windows), CHUNK):
        chunk = slice(first, min(first + CHUNK, len(windows)))
        b = (flat_windows[chunk] - center).astype(np.float32)
        # As the difference of large squares this is good to 1e-4 of the range: enough to choose by.
        distance = squares[:, None] + np.square(b).sum(axis=1) - 2 * (a @ b.T)
        if left_out is not None:
            distance[left_out(chunk)] = np.inf
        at = distance.argmin(axis=1)
        found = distance[np.arange(len(a)), at]
        index = np.where(found < best, at + first, index)
        best = np.minimum(found, best)
    exact = np.sqrt(np.square(flat - flat_windows[index]).mean(axis=1, dtype=np.float64))
    return Nearest(index, np.where(np.isfinite(best), exact, np.inf))


def _shifted(
    queries: Float[np.ndarray, "query time feature"],
    windows: Windows,
    largest: int,
    left_out: Any = None,
) -> Float[np.ndarray, " query"]:
    """Distance to the closest window moved by up to `largest` steps, over the steps they share."""
    time = windows.shape[1]
    best = np.full(len(queries), np.inf)
    for shift in range(-largest, largest + 1):
        now = slice(max(shift, 0), time + min(shift, 0))
        then = slice(max(-shift, 0), time + min(-shift, 0))
        found = nearest(queries[:, now], windows[:, then], left_out)
        best = np.minimum(best, found.distance)
    return best


def _share(
    queries: Float[np.ndarray, "query time feature"],
    training: Windows,
    held_out: Windows,
    training_starts: Starts | None,
    held_out_starts: Starts | None,
) -> dict[str, Any]:
    """Share of queries closer to training, with an interval that knows which windows go together.

    For a series each held-out block is paired with as many training windows in a row beside it.
    Whichever wins a query, its whole block is as likely to win the next one like it, so blocks (or,
    for independent windows, windows) are what is counted: the variance of the share is the sum over
    blocks of (Σ (y − share))² / n² (cluster-robust; Cameron and Miller 2015, Eq. 6).
    """
    if training_starts is None or held_out_starts is None:
        size = min(len(training), len(held_out))
        ours, theirs = (np.linspace(0, len(w) - 1, size).astype(int) for w in (training, held_out))
        our_block, their_block = np.arange(size), size + np.arange(size)
    else:
        ours, theirs, our_block = _paired(training_starts, held_out_starts, training.shape[1])
        their_block = our_block
    one, two = nearest(queries, training[ours]), nearest(queries, held_out[theirs])
    closer = np.where(one.distance == two.distance, 0.5, one.distance < two.distance)
    block = np.where(closer > 0.5, our_block[one.row], their_block[two.row])
    share = float(closer.mean())
    names, members = np.unique(block, return_inverse=True)
    sums = np.bincount(members, weights=closer - share)
    n, blocks = len(closer), len(names)
    # Never below that of independent queries.
    variance = max(np.square(sums).sum() / n**2 * blocks / max(blocks - 1, 1), 0.25 / n)
    half = float(stats.t.ppf(0.975, max(blocks - 1, 1)) * math.sqrt(variance))
    return {
        "share": share,
        "low": max(share - half, 0.0),
        "high": min(share + half, 1.0),
        "blocks": blocks,
    }


def _paired(
    training_starts: Starts, held_out_starts: Starts, time: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Training windows beside each held-out block, as many held-out ones, the block of each.

    Training windows come from before and after blocks in turn, so that a trend favours neither. Few
    blocks are counted in parts of four windows' length.

    A block is a stretch of rows in time, whatever the stride: windows that share rows belong
    to one, and so do windows that follow at the usual stride, where that is longer than a window.
    """
    order = np.argsort(training_starts, kind="stable")
    held = np.argsort(held_out_starts, kind="stable")
    stride = np.median(np.diff(np.union1d(training_starts, held_out_starts)))
    breaks = np.flatnonzero(np.diff(held_out_starts[held]) > max(time - 1, stride)) + 1
    free = np.ones(len(order), bool)
    ours, theirs, blocks = [], [], []
    for number, block in enumerate(np.split(held, breaks)):
        places = training_starts[order]
        before = np.flatnonzero(free & (places < held_out_starts[block[0]]))[::-1]
        after = np.flatnonzero(free & (places > held_out_starts[block[-1]]))
        sides = (before, after) if number % 2 == 0 else (after, before)
        chosen = np.concatenate(sides)[: len(block)]
        free[chosen] = False
        block = block[: len(chosen)]
        ours.append(order[np.sort(chosen)])
        theirs.append(block)
        blocks.append(np.full(len(block), number))
    if len(blocks) < FEWEST_BLOCKS:
        rows = np.concatenate(
            [held_out_starts[b] - held_out_starts[b[0]] for b in theirs if len(b)]
        )
        parts = np.concatenate(blocks) * (rows.max() + 1) + rows // (4 * time)
        return np.concatenate(ours), np.concatenate(theirs), parts
    return np.concatenate(ours), np.concatenate(theirs), np.concatenate(blocks)


def _count_copies(synthetic: Windows, training: Windows) -> int:
    """Synthetic windows that agree with a training window to `COPY`, all of them looked at.

    By equality after rounding, twice with grids half a step apart: rounding errors far below `COPY`
    put few windows on both sides of a border, and next to none in both grids.
    """
    found = np.zeros(len(synthetic), bool)
    for offset in (0.25, 0.75):
        keys = []
        for windows in (synthetic, training):
            limited = np.clip(windows.reshape(len(windows), -1), -1e4, 1e4)
            cells = np.floor(limited / COPY + offset).astype(np.int32)
            keys.append(cells.view(np.dtype((np.void, cells.shape[1] * 4))).ravel())
        known = {key.tobytes() for key in keys[1]}
        found |= np.array([key.tobytes() in known for key in keys[0]])
    return int(found.sum())


def _copies(found: Nearest) -> float:
    return float((found.distance < COPY).mean())


def _ratio(first: Nearest, second: Nearest) -> float | None:
    """Median of nearest over second-nearest distance; two windows at distance 0 count as 1."""
    finite = np.isfinite(second.distance) & np.isfinite(first.distance)
    if not finite.any():
        return None
    one, two = first.distance[finite], second.distance[finite]
    return float(np.median(np.where(two > 0, one / np.where(two > 0, two, 1), 1)))


def _median(distance: Float[np.ndarray, " n"]) -> float | None:
    middle = float(np.median(distance))
    return middle if math.isfinite(middle) else None
