"""Detection: can a strong judge tell synthetic windows from real ones, and by what?

The judges are boosted trees on values and their differences, and a ridge classifier on random
convolution kernels. Each is fitted on half of the blocks of both sets and asked about the other
half. Windows that share rows are cut into blocks of time, and windows at a border that share rows
with the block before it are left out, so that no judge is asked about rows that it was fitted on.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats
from threadpoolctl import threadpool_limits

from timeldm_jax.metrics import convolutions
from timeldm_jax.metrics.comparison import Windows

TREES = 60
CAP = 2_000  # windows of a set that a judge is fitted on, and is asked about
FEWEST = 20  # windows of a set to fit on: with fewer, trees cannot split at all
COLUMNS = 600  # of a view that one judge reads, drawn anew for each; more take minutes
BLOCKS = 20  # of a series
BLOCK_LENGTH = 4  # windows' lengths that a block has at least, where the series allows
SHARING = 0.2  # of neighbouring windows that share rows in a set cut from series
FEATURES = 64  # features that are judged alone, at most
RIDGES = np.logspace(-1, 4, 6)
ALONE = 1_000  # windows of a set that a feature alone is judged on
BELOW = 0.48  # chance, and a bit for real windows of other blocks of time
CLOSE = (
    "Judges err more often than by chance: synthetic windows lie close to single real ones, which "
    "judges were told are real."
)
Rows = Int[np.ndarray, " n"]
Comparison = tuple[Rows, Rows]

VIEWS = {  # what a judge reads, by how often windows are differenced
    "values": (0, "values"),
    "changes": (1, "one-step changes"),
    "second_differences": (2, "second differences"),
}


class Run(NamedTuple):
    """What one judge answered, of windows that it was not fitted on.

    Attributes:
      right: of both sets, whether it was right, `(n,)` bool each.
      blocks: of both sets, the block of each window that it was asked about.
    """

    right: tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]
    blocks: tuple[Rows, Rows]


Fit = Callable[[Rows, Float[np.ndarray, " n"], int], Callable[[Rows], Float[np.ndarray, " m"]]]


def time_blocks(windows: Windows) -> Rows:
    """The block of time of each window, in the order of the set; -1: left out.

    Windows that share no rows with their neighbour are blocks of their own. Others are blocks of at
    least `BLOCK_LENGTH` windows' length where possible, and the first of a block are left out.
    """
    count, time = windows.shape[:2]
    own = np.arange(count)
    if time < 2 or count < 2:
        return own
    first = windows[1:, 0]
    same = [int((first == windows[:-1, s]).all(axis=1).sum()) for s in range(1, time)]
    stride = 1 + int(np.argmax(same))
    if max(same) < SHARING * (count - 1):
        return own
    shared = (windows[1:, : time - stride] == windows[:-1, stride:]).all(axis=(1, 2))
    if shared.mean() < SHARING:
        return own
    place = np.concatenate([[0], np.cumsum(np.where(shared, stride, time))])
    blocks = int(np.clip(place[-1] // (BLOCK_LENGTH * time), 2, BLOCKS))
    length = math.ceil((place[-1] + 1) / blocks)
    block = place // length
    return np.where((block > 0) & (place % length < time - 1), -1, block)


def pool_blocks(pool: Windows, places: Iterable[Rows]) -> Rows:
    """`time_blocks` of each set in a pool, with numbers of its own.

    Args:
      pool: windows of all sets.
      places: of each set, its rows, in order of time.
    """
    blocks = np.full(len(pool), -1)
    for rows in places:
        found = time_blocks(pool[rows])
        blocks[rows] = np.where(found < 0, -1, found + blocks.max() + 1)
    return blocks


def separate(
    pair: Comparison, blocks: Rows, random: np.random.Generator
) -> tuple[list[Rows], list[Rows]]:
    """Windows of both sets to fit on, and to be asked about: equal numbers, other blocks.

    Args:
      pair: rows of the two sets.
      blocks: of every row, the block, or -1.
      random: which half of the blocks is for what, and which windows where there are many.
    """
    kept = [rows[blocks[rows] >= 0] for rows in pair]
    one, two = (np.unique(blocks[rows]) for rows in kept)
    halves = [random.permutation(b)[: len(b) // 2] for b in (one, np.setdiff1d(two, one))]
    chosen = np.concatenate(halves)
    parts = []
    for inside in (True, False):
        sides = [rows[np.isin(blocks[rows], chosen) == inside] for rows in kept]
        size = min(CAP, *map(len, sides))
        parts.append([random.permutation(rows)[:size] for rows in sides])
    return parts[0], parts[1]


def large_enough(comparisons: Sequence[Comparison], blocks: Rows) -> bool:
    """Whether each comparison has windows enough to fit a judge on, and to ask it about."""
    random = np.random.default_rng(0)
    parts = [part for pair in comparisons for part in separate(pair, blocks, random)]
    return all(len(side) >= FEWEST for part in parts for side in part)


def detection_runs(
    fit: Fit,
    comparisons: Sequence[Comparison],
    blocks: Rows,
    *,
    seed: int = 0,
    numbers: range | None = None,
) -> list[Run]:
    """A judge's answers for each comparison.

    Args:
      fit: `(rows, labels, seed)` to a judge, which says of rows whether they are of the second set.
      comparisons: of each run, the rows of its two sets.
      blocks: of every row, its block, or -1 where it is left out.
      seed: of halves, draws and judges.
      numbers: of the comparisons that are run; default: all.
    """
    numbers = range(len(comparisons)) if numbers is None else numbers
    # One thread: judges are small, and threads that wait for each other on a busy machine take
    # fifty times as long.
    with threadpool_limits(1):
        return [_run(fit, comparisons[n], blocks, [seed, n]) for n in numbers]


def _run(fit: Fit, pair: Comparison, blocks: Rows, seed: list[int]) -> Run:
    random = np.random.default_rng(seed)
    known, asked = separate(pair, blocks, random)
    labels = np.repeat([0.0, 1.0], [len(rows) for rows in known])
    judge = fit(np.concatenate(known), labels, int(random.integers(2**31)))
    one, two = asked
    return Run((judge(one) < 0.5, judge(two) >= 0.5), (blocks[one], blocks[two]))


def accuracies(runs: Sequence[Run]) -> Float[np.ndarray, " runs"]:
    """Of each run, the share of right answers; both sets count the same."""
    return np.array([np.mean([side.mean() for side in run.right]) for run in runs])


def half_width(runs: Sequence[Run]) -> float:
    """Of the 95% interval of the mean accuracy, where answers of one block go together.

    The variance of a share is the sum over blocks of (Σ (right − share))² / n² (cluster-robust;
    Cameron and Miller 2015, Eq. 6), and never below that of independent windows.
    """
    variance, fewest = 0.0, math.inf
    for side in (0, 1):
        right = np.concatenate([run.right[side] for run in runs]).astype(float)
        blocks = np.concatenate([run.blocks[side] for run in runs])
        names, members = np.unique(blocks, return_inverse=True)
        sums = np.bincount(members, weights=right - right.mean())
        together = np.square(sums).sum() / len(right) ** 2
        correction = len(names) / max(len(names) - 1, 1)
        independent = right.mean() * (1 - right.mean()) / len(right)
        variance += max(together * correction, independent) / 4
        fewest = min(fewest, len(names))
    return float(stats.t.ppf(0.975, max(fewest - 1, 1)) * math.sqrt(variance))


def differences(windows: Windows, order: int) -> Float[np.ndarray, "n column"]:
    """Windows differenced `order` times, flat; with the spread of each feature where `order` > 1.

    Steps are the slow axis. A spread, the deviation within a window, gathers what noise does to
    every step.
    """
    steps = np.diff(windows, n=order, axis=1)
    flat = steps.reshape(len(steps), -1)
    return flat if order < 2 else np.concatenate([flat, steps.std(axis=1)], axis=1)


def trees(pool: Windows, orders: Sequence[int], count: int = 0) -> Fit:
    """Boosted trees, `TREES` or `count`, on windows differenced so often, `COLUMNS` at most."""
    # Takes a second to import.
    from sklearn.ensemble import HistGradientBoostingClassifier

    def fit(
        rows: Rows, labels: Float[np.ndarray, " n"], seed: int
    ) -> Callable[[Rows], Float[np.ndarray, " m"]]:
        def read(rows: Rows) -> Float[np.ndarray, "n column"]:
            views = [differences(pool[rows], order) for order in orders]
            every = np.concatenate(views, axis=1)
            if every.shape[1] <= COLUMNS:
                return every
            return every[:, np.random.default_rng(seed).permutation(every.shape[1])[:COLUMNS]]

        model = HistGradientBoostingClassifier(
            max_iter=count or TREES, early_stopping=False, random_state=seed
        )
        model.fit(read(rows), labels)
        return lambda asked: np.asarray(model.predict_proba(read(asked))[:, 1])

    return fit


def kernels(pool: Windows, seed: int = 0) -> Fit:
    """A ridge classifier on random convolution kernels."""
    with threadpool_limits(1):
        described = convolutions.describe(pool, convolutions.draw(pool, seed))

    def fit(
        rows: Rows, labels: Float[np.ndarray, " n"], seed: int
    ) -> Callable[[Rows], Float[np.ndarray, " m"]]:
        del seed
        mean, deviation = described[rows].mean(axis=0), described[rows].std(axis=0)
        scale = np.where(deviation > 0, deviation, np.inf)
        weights, offset = _ridge((described[rows] - mean) / scale, labels)
        return lambda asked: (described[asked] - mean) / scale @ weights + offset

    return fit


def _ridge(
    x: Float[np.ndarray, "n column"], y: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " column"], float]:
    """Weights and offset of the ridge regression whose leave-one-out error is the smallest."""
    x, offset = x.astype(np.float64), float(y.mean())
    if len(x) > x.shape[1]:
        values, vectors = np.linalg.eigh(x.T @ x)
        rotated = x @ vectors
    else:  # the same axes from the smaller matrix
        values, axes = np.linalg.eigh(x @ x.T)
        values, axes = values[1:], axes[:, 1:]  # columns are centred: one axis is empty
        rotated = axes * np.sqrt(np.maximum(values, 1e-12))
        vectors = x.T @ rotated / np.maximum(values, 1e-12)
    values = np.maximum(values, 0)
    target = rotated.T @ (y - offset)
    best, weights = np.inf, np.zeros(x.shape[1])
    for strength in RIDGES:
        shrunk = 1 / (values + strength)
        left = 1 - np.square(rotated) @ shrunk - 1 / len(y)
        error = np.square((y - offset - rotated @ (shrunk * target)) / left).mean()
        if error < best:
            best, weights = error, vectors @ (shrunk * target)
    return weights, offset


def by_view(
    pool: Windows,
    synthetic: Sequence[Comparison],
    floor: Sequence[Comparison],
    blocks: Rows,
    *,
    seed: int = 0,
    count: int = 0,
) -> dict[str, dict[str, Any]]:
    """Accuracy of trees on each of `VIEWS` alone: mean, half-width, and the mean of a floor."""
    found: dict[str, dict[str, Any]] = {}
    for name, (order, _) in VIEWS.items():
        if pool.shape[1] <= order:
            continue
        fit = trees(pool, (order,), count)
        runs = detection_runs(fit, synthetic, blocks, seed=seed)
        found[name] = {"mean": float(accuracies(runs).mean()), "half_width": half_width(runs)}
        if floor:
            usual = detection_runs(fit, floor, blocks, seed=seed)
            found[name]["floor"] = {"mean": float(accuracies(usual).mean())}
    return found


def by_stage(
    real: Windows, stages: dict[str, Windows], *, seed: int = 0, count: int = 0
) -> dict[str, dict[str, dict[str, Any]]]:
    """`by_view` of what a model makes of the real windows themselves, such as reconstructions.

    A window and what was made of it are of one block, so that no judge is asked about a window
    whose original it has seen. Chance is then exactly ½.

    Args:
      real: in order of time.
      stages: by name, windows made of `real`, one each.
      seed: of halves, draws and judges.
      count: of trees, or 0.

    Returns:
      By stage; nothing where windows are too few.
    """
    blocks = np.tile(time_blocks(real), 2)
    rows = np.arange(len(real))
    pairs = [(rows, rows + len(real))] * 2
    if not large_enough(pairs, blocks):
        return {}
    return {
        name: by_view(np.concatenate([real, made]), pairs, (), blocks, seed=seed, count=count)
        for name, made in stages.items()
    }


def given_away(
    pool: Windows,
    columns: tuple[str, ...],
    pair: Comparison,
    blocks: Rows,
    views: dict[str, dict[str, Any]],
    *,
    seed: int = 0,
    count: int = 0,
) -> dict[str, Any]:
    """What tells the sets apart: the view, the features that do so alone, and a sentence."""
    worst = max(views, key=lambda name: views[name]["mean"])
    found = views[worst]
    if found["mean"] - found["half_width"] <= max(found["floor"]["mean"], 0.5):
        low = min(views.values(), key=lambda view: view["mean"])
        if low["mean"] + low["half_width"] < BELOW:
            return {"given_away": CLOSE}
        return {"given_away": "Nothing gives the synthetic windows away."}
    order, words = VIEWS[worst]
    random = np.random.default_rng(seed)
    rows = tuple(np.sort(random.permutation(side)[: 2 * ALONE]) for side in pair)
    steps = [np.diff(pool[side], n=order, axis=1) for side in rows]
    sizes = [np.abs(part - np.median(steps[0], axis=(0, 1))).mean(axis=(0, 1)) for part in steps]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = sizes[1] / sizes[0]
        strange = np.argsort(-np.nan_to_num(np.abs(np.log(ratio)), posinf=1e9), kind="stable")
    alone = {}
    for feature in np.sort(strange[:FEATURES]):
        fit = trees(pool[:, :, feature : feature + 1], (order,), count)
        runs = detection_runs(fit, [(rows[0], rows[1])], blocks, seed=seed)
        alone[int(feature)] = float(accuracies(runs)[0])
    first = max(alone, key=lambda feature: alone[feature])
    text = (
        f"Given away by {words} ({found['mean']:.0%} right), most by those of {columns[first]!r} "
        f"({alone[first]:.0%} by these alone)"
    )
    if np.isfinite(ratio[first]) and not 0.9 < ratio[first] < 1.1:
        text += f", on average {ratio[first]:.2g} times as large as real ones"
    return {
        "given_away": f"{text}.",
        "features": {columns[feature]: accuracy for feature, accuracy in alone.items()},
    }
