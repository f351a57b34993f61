"""The judges of `detection` as parts of the scores."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from timeldm_jax.metrics import detection
from timeldm_jax.metrics.compared import Compared, comparisons, parts
from timeldm_jax.metrics.comparison import Windows
from timeldm_jax.metrics.plan import Plan, Unit

MEANINGS = {
    "detection": (
        "Detection, trees",
        "accuracy of boosted trees told to tell the two apart by values and changes; ½ is chance",
    ),
    "detection_kernels": (
        "Detection, kernels",
        "the same of a ridge classifier on random convolution kernels",
    ),
}
VIEW_RUNS = 2  # of the judge on each view alone
SKIPPED = "needs more windows that share no rows"


class _Judging:
    """Judges of one comparison of sets; what all parts read is made once, by the first."""

    def __init__(self, context: Compared) -> None:
        self.context = context

    @functools.cached_property
    def sets(self) -> tuple[Windows, list[detection.Comparison], detection.Rows] | None:
        """The pool, what is told apart, and blocks of time; None where windows are too few."""
        pool, at = self.context.pool()
        blocks = detection.pool_blocks(pool, {id(rows): rows for rows in at.values()}.values())
        pairs = comparisons(self.context, at)
        return (pool, pairs, blocks) if detection.large_enough(pairs, blocks) else None

    def told(self, name: str, numbers: range) -> dict[str, Any] | None:
        """Accuracies of one judge's runs, and the half-width of the published ones among them."""
        if self.sets is None:
            return None
        pool, pairs, blocks = self.sets
        seed, evaluators = self.context.seed, self.context.evaluators
        orders = (0, 1) if pool.shape[1] > 1 else (0,)
        if name == "detection":
            fit = detection.trees(pool, orders, evaluators.trees)
        else:
            fit = detection.kernels(pool, seed)
        runs = detection.detection_runs(fit, pairs, blocks, seed=seed, numbers=numbers)
        published = runs[: max(evaluators.repeats - numbers.start, 0)]
        width = detection.half_width(published) if published else None
        return {"accuracies": detection.accuracies(runs).tolist(), "half_width": width}

    def viewed(self) -> dict[str, Any] | None:
        """What each view says alone, and what gives synthetic windows away."""
        if self.sets is None:
            return None
        pool, pairs, blocks = self.sets
        seed, evaluators = self.context.seed, self.context.evaluators
        count, repeats = evaluators.trees, evaluators.repeats
        published, floor = (pairs[first * repeats :][:VIEW_RUNS] for first in (0, 2))
        views = detection.by_view(pool, published, floor, blocks, seed=seed, count=count)
        words = detection.given_away(
            pool, self.context.columns, published[0], blocks, views, seed=seed, count=count
        )
        return {"by_view": views} | words


def planned(context: Compared) -> Plan:
    """Judges of two kinds, what each view says alone, and what gives synthetic windows away."""
    judging, repeats = _Judging(context), context.evaluators.repeats

    def finish(found: Sequence[Any]) -> dict[str, Any]:
        if found[0] is None:
            return {name: {"skipped": SKIPPED} for name in MEANINGS}
        *trees, kernels, views = found
        entries = {}
        for name, told in zip(MEANINGS, (trees, [kernels]), strict=True):
            runs = np.array([accuracy for part in told for accuracy in part["accuracies"]])
            entries[name] = parts(runs, context) | {"half_width": told[0]["half_width"]}
        entries["detection"] |= views
        return entries

    runs, fit = 3 * repeats + len(context.ceilings), context.fit_seconds
    groups = (range(repeats), range(repeats, 2 * repeats), range(2 * repeats, runs))
    features = min(len(context.columns), detection.FEATURES)
    works: list[tuple[float, Callable[[], Any]]] = [
        *((len(g), functools.partial(judging.told, "detection", g)) for g in groups),
        (runs / 2, functools.partial(judging.told, "detection_kernels", range(runs))),
        (6 * VIEW_RUNS + features / 10, judging.viewed),
    ]
    return Plan(tuple(Unit("judges", fit * fits, work) for fits, work in works), finish)
