"""Which of a generator's windows lie closer to those that it was trained on than to others."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from timeldm_jax.metrics.neighbours import Windows, nearest

FEWEST_BLOCKS = 5  # blocks of time that an interval is drawn from
JACKKNIFE = 20  # groups of blocks that an interval is drawn from, at most

Starts = Int[np.ndarray, " n"]


class Alike(NamedTuple):
    """As many training as held-out windows, of the same stretches of time, and the block of each.

    Attributes:
      members: training windows.
      others: held-out ones.
      member_block: of each of `members`.
      other_block: of each of `others`.
    """

    members: Windows
    others: Windows
    member_block: Starts
    other_block: Starts


def share_closer(queries: Windows, sets: Alike) -> dict[str, Any]:
    """Share of queries closer to training, with an interval that knows which windows go together.

    For a series each held-out block is paired with as many training windows in a row beside it.
    Whichever wins a query, its whole block is as likely to win the next one like it, so blocks (or,
    for independent windows, windows) are what is counted: the variance of the share is the sum over
    blocks of (Σ (y − share))² / n² (cluster-robust; Cameron and Miller 2015, Eq. 6).
    """
    one, two = nearest(queries, sets.members), nearest(queries, sets.others)
    closer = np.where(one.distance == two.distance, 0.5, one.distance < two.distance)
    block = np.where(closer > 0.5, sets.member_block[one.row], sets.other_block[two.row])
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


def attack_area(queries: Windows, sets: Alike) -> dict[str, Any]:
    """Area under the curve of an attacker who calls windows close to a synthetic one members.

    ½ where training windows are no closer to the closest of the synthetic windows than held-out
    ones (the distance attack of Chen et al. 2020, GAN-Leaks). The interval is a jackknife over
    groups of blocks: what is of one block goes together.
    """
    member, other = (nearest(windows, queries).distance for windows in sets[:2])
    found = _area(member, other)
    names = np.unique(np.concatenate(sets[2:]))
    count = min(len(names), JACKKNIFE)
    group = [np.searchsorted(names, block) % count for block in sets[2:]]
    left = [_area(member[group[0] != g], other[group[1] != g]) for g in range(count)]
    spread = math.sqrt((count - 1) / count * np.square(np.array(left) - np.mean(left)).sum())
    half = float(stats.t.ppf(0.975, max(count - 1, 1)) * spread)
    return {"auc": found, "low": max(found - half, 0.0), "high": min(found + half, 1.0)}


def _area(member: Float[np.ndarray, " n"], other: Float[np.ndarray, " m"]) -> float:
    """The chance that a member is the closer one of two; ties count half (Mann and Whitney)."""
    if min(len(member), len(other)) == 0:
        return 0.5
    ranks = stats.rankdata(-np.concatenate([member, other]))[: len(member)]
    closer = ranks.sum() - len(member) * (len(member) + 1) / 2
    return float(closer / (len(member) * len(other)))


def alike(
    training: Windows,
    held_out: Windows,
    training_starts: Starts | None,
    held_out_starts: Starts | None,
) -> Alike:
    """What is compared; without starts windows are independent, and each is a block."""
    if training_starts is None or held_out_starts is None:
        size = min(len(training), len(held_out))
        ours, theirs = (np.linspace(0, len(w) - 1, size).astype(int) for w in (training, held_out))
        own = np.arange(size)
        return Alike(training[ours], held_out[theirs], own, size + own)
    ours, theirs, block = _paired(training_starts, held_out_starts, training.shape[1])
    return Alike(training[ours], held_out[theirs], block, block)


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
