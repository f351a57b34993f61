"""Does a generator repeat its training windows? Distances to them, against distances to others.

Distances are root-mean-square over time and features, of windows scaled to [0, 1]: a share of the
range. A sample of the synthetic windows is compared with every training window, so the cost is
linear in these.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from timeldm_jax.metrics.membership import Starts, alike, attack_area, share_closer
from timeldm_jax.metrics.neighbours import Nearest, Windows, nearest, shifted

QUERIES = 1_000  # windows of each set that are looked at
SHIFT_QUERIES = 200
PAIRS = 6
COPY = 1e-4  # of the range: windows that agree this closely are copies
MARGIN = 0.05  # by which a share's interval must pass ½ to be called memorised
FAR_BELOW = 0.5  # of the usual distance
CAVEAT = (
    "A diagnostic, not a guarantee: it can show that windows were repeated, it cannot show that "
    "nothing about the training data can be learned from the samples."
)


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
    share = attack = None
    if held_out is not None:
        sets = alike(training, held_out, training_starts, held_out_starts)
        share, attack = share_closer(queries, sets), attack_area(queries, sets)
    copies = _count_copies(synthetic, training)
    reasons = _reasons(found, share, copies / len(synthetic))
    return {
        "verdict": _verdict(reasons, share),
        "memorised": bool(reasons),
        "caveat": CAVEAT,
        "windows": _sizes(queries, training, held_out),
        "share_closer_to_training": share,
        "membership_inference": attack,
        **found.said(held_out is not None),
        "exact_copies": {"count": copies, "rate": copies / len(synthetic)},
        "pairs": _closest_pairs(picked, found.own),
    }


def _sizes(synthetic: Windows, training: Windows, held_out: Windows | None) -> dict[str, int]:
    sets = {"synthetic": synthetic, "training": training, "held_out": held_out}
    return {name: 0 if windows is None else len(windows) for name, windows in sets.items()}


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
        moved_usual = shifted(others[:SHIFT_QUERIES], training, shift)
    else:
        rows = known[:SHIFT_QUERIES]
        moved_usual = shifted(training[rows], training, shift, overlapping(rows, time + shift))
    moved = shifted(queries[:SHIFT_QUERIES], training, shift)
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
