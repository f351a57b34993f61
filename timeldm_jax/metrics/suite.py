"""All scores of synthetic windows against real ones, each between its floor and its ceilings.

Real windows do not score zero against real windows, and how far from zero depends on how many there
are. So each score is computed twice: on all windows, which is the figure to quote, and, in words,
on equal numbers of windows against its floor:

- the *floor* is real against other real windows: those given as `reference`, or the other half;
- the *calibrated* score is synthetic against the same real windows, as many;
- the *ceilings* are what is clearly wrong: `shuffled`, real windows whose values come in a random
  order of time, and `gaussian`, noise with the mean and covariance of the real ones at each step.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
from jaxtyping import Float, Int

from timeldm_jax.metrics import context_fid, detection, distribution
from timeldm_jax.metrics.comparison import (
    Scale,
    Split,
    Windows,
    check,
    draw_splits,
    make_ceilings,
    scale,
)
from timeldm_jax.metrics.correlational import correlational_runs, fifths
from timeldm_jax.metrics.discriminative import discriminative_runs
from timeldm_jax.metrics.predictive import predictive_runs
from timeldm_jax.metrics.verdicts import judge, overall, summaries, summary
from timeldm_jax.settings import COUNT, Rule, at_least, check_fields, one_of
from timeldm_jax.versions import package_versions

SCHEMA = 3
PUBLISHED = {
    "discriminative": (
        "Discriminative",
        "|accuracy − ½| of a small GRU told to tell the two apart",
    ),
    "predictive": (
        "Predictive",
        "error one step ahead, on real windows, of a small GRU trained on synthetic ones",
    ),
    "context_fid": ("Context-FID", "Fréchet distance of TS2Vec representations"),
    "correlational": (
        "Correlational",
        "difference of the features' correlations, summed over pairs",
    ),
}
JUDGES = {
    "detection": (
        "Detection, trees",
        "accuracy of boosted trees told to tell the two apart by values and changes; ½ is chance",
    ),
    "detection_kernels": (
        "Detection, kernels",
        "the same of a ridge classifier on random convolution kernels",
    ),
}
SCORES = PUBLISHED | distribution.MEANINGS | JUDGES
VIEW_RUNS = 2  # of the judge on each view alone
AUGMENTED_RUNS = 3  # of the predictive score on real and synthetic windows together
Show = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True)
class Evaluators:
    """How long the evaluators train, and on what; the defaults are the published protocol.

    Attributes:
      repeats: of each published score, 2 to 10.
      discriminative_steps: of the discriminative score's GRU.
      predictive_steps: of the predictive score's GRU.
      trees: of each judge; 0: `detection.TREES`.
      context_fid_steps: of TS2Vec; 0: 600, or 200 where the real set has at most 100,000 values.
      scale: `range` stretches each feature's real windows to [0, 1]; `none` leaves values as they
        are, as published scores of some sets do.
    """

    repeats: int = 5
    discriminative_steps: int = 2_000
    predictive_steps: int = 5_000
    context_fid_steps: int = 0
    trees: int = 0
    scale: Scale = "range"

    def __post_init__(self) -> None:
        """Checks the settings; raises ConfigError."""
        check_fields(
            self,
            repeats=Rule(lambda value: 2 <= value <= 10, "must be from 2 to 10"),
            discriminative_steps=COUNT,
            predictive_steps=COUNT,
            context_fid_steps=at_least(0),
            trees=at_least(0),
            scale=one_of(*get_args(Scale)),
        )


PROTOCOL = Evaluators()


def score(
    real: Windows,
    synthetic: Windows,
    columns: tuple[str, ...],
    *,
    reference: Windows | None = None,
    seed: int = 0,
    evaluators: Evaluators = PROTOCOL,
    show: Show = lambda done, total, name: None,
) -> dict[str, Any]:
    """Every score, in the scale of the real windows, min-max per feature.

    Args:
      real: `(n, time, feature)` in the data's own units.
      synthetic: `(m, time, feature)`, the same units.
      columns: names of the features.
      reference: other real windows for the floor: fresh draws of a simulator, or the training
        windows where `real` was held out. Default: two halves of `real`.
      seed: of networks, batches, draws and halves.
      evaluators: how long the evaluators train.
      show: called with scores done, scores in all, and the one that comes.

    Returns:
      A dictionary that JSON can hold: schema 3 of "scores.json" (docs/scores.md).

    Raises:
      DataError: shapes that do not match, too few windows, non-finite values, only constant
        features, or synthetic values that dwarf the real ones.
    """
    context = _prepare(real, synthetic, columns, reference, seed, evaluators)
    scores = _scores(context, show)
    return {
        "schema": SCHEMA,
        "seed": seed,
        "evaluators": dataclasses.asdict(evaluators),
        "windows": {
            "real": len(real),
            "synthetic": len(synthetic),
            "reference": None if reference is None else len(reference),
            "calibration": len(context.splits[0].real),
            "time": real.shape[1],
            "features": len(columns),
        },
        "columns": list(columns),
        "notes": context.notes,
        "verdict": overall(scores),
        "scores": scores,
        "versions": package_versions(),
    }


class _Context(NamedTuple):
    """What every score reads: scaled sets and which of their windows to compare."""

    real: Windows
    synthetic: Windows
    other: Windows
    ceilings: dict[str, Windows]
    splits: list[Split]
    columns: tuple[str, ...]
    notes: list[str]
    seed: int
    evaluators: Evaluators

    def pool(self) -> tuple[Windows, dict[str, Int[np.ndarray, " n"]]]:
        """All windows in one array, and where each set's are."""
        sets = {"real": self.real, "synthetic": self.synthetic}
        if self.other is not self.real:
            sets["other"] = self.other
        sets |= self.ceilings
        ends = np.cumsum([len(windows) for windows in sets.values()])
        places = {
            name: np.arange(end - len(windows), end)
            for (name, windows), end in zip(sets.items(), ends, strict=True)
        }
        places.setdefault("other", places["real"])
        return np.concatenate(list(sets.values())).astype(np.float32), places


def _prepare(
    real: Windows,
    synthetic: Windows,
    columns: tuple[str, ...],
    reference: Windows | None,
    seed: int,
    evaluators: Evaluators,
) -> _Context:
    sets = {"real": real, "synthetic": synthetic}
    if reference is not None:
        sets["reference"] = reference
    check(sets, columns)
    sets, used, notes = scale(sets, columns, evaluators.scale)
    real, synthetic = sets["real"], sets["synthetic"]
    other = sets.get("reference")
    splits = draw_splits(len(real), len(synthetic), None if other is None else len(other), seed)
    other = real if other is None else other
    if len(real) != len(synthetic):
        notes.append(
            f"{len(real):,} real and {len(synthetic):,} synthetic windows: the discriminative "
            "score draws as many of the larger set as the smaller one has; Context-FID falls with "
            "the number of windows, so quote it with both numbers."
        )
    ceilings = make_ceilings(real[splits[0].real], other[splits[0].other], seed)
    return _Context(
        real, synthetic, other, ceilings, splits, used, notes, seed=seed, evaluators=evaluators
    )


def _scores(context: _Context, show: Show) -> dict[str, Any]:
    steps: tuple[tuple[str, Callable[[_Context], dict[str, Any]]], ...] = (
        ("discriminative", _discriminative),
        ("predictive", _predictive),
        ("context_fid", _context_fid),
        ("correlational", _correlational),
        ("others", _others),
        ("judges", _judges),
    )
    found: dict[str, Any] = {}
    for done, (name, function) in enumerate(steps):
        show(done, len(steps), name)
        result = function(context)
        found |= result if name in ("others", "judges") else {name: result}
    show(len(steps), len(steps), "done")
    return {
        name: {"label": label, "published": name in PUBLISHED, "meaning": meaning}
        | (found[name] if "skipped" in found[name] else judge(found[name]))
        for name, (label, meaning) in SCORES.items()
    }


def _comparisons(
    context: _Context, at: dict[str, Int[np.ndarray, " n"]]
) -> list[tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]]:
    """What is told apart, by rows of the pool, in the order of `_parts`."""
    repeats = context.evaluators.repeats
    splits = context.splits[:repeats]
    published = [(at["real"], at["synthetic"])] * repeats
    calibrated = [(at["real"][s.real], at["synthetic"][s.synthetic]) for s in splits]
    floor = [(at["real"][s.real], at["other"][s.other]) for s in splits]
    ceilings = [(at["real"][splits[0].real], at[name]) for name in context.ceilings]
    return published + calibrated + floor + ceilings


def _discriminative(context: _Context) -> dict[str, Any]:
    pool, at = context.pool()
    steps = context.evaluators.discriminative_steps
    comparisons = _comparisons(context, at)
    runs = discriminative_runs(pool, comparisons, seed=context.seed, steps=steps)
    return _parts(runs, context)


def _predictive(context: _Context) -> dict[str, Any]:
    if context.real.shape[1] < 2:
        return {"skipped": "needs windows of two time steps"}
    pool, at = context.pool()
    repeats = context.evaluators.repeats
    splits = context.splits[:repeats]
    published = [(at["synthetic"], at["real"])] * repeats
    calibrated = [(at["synthetic"][s.synthetic], at["real"][s.real]) for s in splits]
    floor = [(at["other"][s.other], at["real"][s.real]) for s in splits]
    ceilings = [(at[name], at["real"][splits[0].real]) for name in context.ceilings]
    both = [
        (np.concatenate([known, drawn]), asked)
        for (known, asked), (drawn, _) in zip(floor, calibrated, strict=True)
    ][:AUGMENTED_RUNS]
    transfers = published + calibrated + floor + ceilings + both
    steps = context.evaluators.predictive_steps
    runs = predictive_runs(pool, transfers, seed=context.seed, steps=steps)
    augmented = runs[len(transfers) - len(both) :]
    # What synthetic windows add to real ones: the floor is training on real ones alone.
    gain = runs[2 * repeats : 2 * repeats + len(both)] - augmented
    found = _parts(runs[: len(transfers) - len(both)], context)
    return found | {"augmented": summary(augmented), "gain": summary(gain)}


def _parts(runs: Float[np.ndarray, " runs"], context: _Context) -> dict[str, Any]:
    """Runs in the order published, calibrated, floor, one a ceiling."""
    n = context.evaluators.repeats
    ceilings = dict(zip(context.ceilings, runs[3 * n :], strict=True))
    return summaries(runs[:n], runs[n : 2 * n], runs[2 * n : 3 * n], ceilings)


def _context_fid(context: _Context) -> dict[str, Any]:
    """Each repeat has an encoder of its own; floors are drawn with each of them."""
    repeats = context.evaluators.repeats
    params = context_fid.fit(
        context.real.astype(np.float32),
        repeats=repeats,
        seed=context.seed,
        steps=context.evaluators.context_fid_steps or None,
    )
    published, calibrated, floor = [], [], []
    ceilings = {}
    distance = context_fid.frechet_distance
    for repeat in range(repeats):
        weights = jax.tree.map(lambda x, i=repeat: x[i], params)
        real = context_fid.encode(weights, context.real)
        synthetic = context_fid.encode(weights, context.synthetic)
        other = real
        if context.other is not context.real:
            other = context_fid.encode(weights, context.other)
        describe = context_fid.describe
        published.append(distance(describe(real), describe(synthetic)))
        for split in context.splits[repeat::repeats]:
            one = describe(real[split.real])
            calibrated.append(distance(one, describe(synthetic[split.synthetic])))
            floor.append(distance(one, describe(other[split.other])))
        if repeat == 0:
            one = describe(real[context.splits[0].real])
            for name, windows in context.ceilings.items():
                ceilings[name] = distance(one, describe(context_fid.encode(weights, windows)))
    return summaries(published, calibrated, floor, ceilings)


def _correlational(context: _Context) -> dict[str, Any]:
    if context.real.shape[2] < 2:
        return {"skipped": "needs two features"}
    draws = fifths(context.real, context.synthetic)

    def once(split: Split, windows: Windows, seed: int) -> float:
        real = context.real[split.real]
        return float(correlational_runs(real, windows, draws=draws, repeats=1, seed=seed)[0])

    published = correlational_runs(
        context.real, context.synthetic, repeats=context.evaluators.repeats, seed=context.seed
    )
    drawn = [(split, context.seed + 1 + i) for i, split in enumerate(context.splits)]
    return summaries(
        published,
        [once(s, context.synthetic[s.synthetic], i) for s, i in drawn],
        [once(s, context.other[s.other], i) for s, i in drawn],
        {name: once(context.splits[0], w, context.seed) for name, w in context.ceilings.items()},
    )


def _others(context: _Context) -> dict[str, Any]:
    """The scores beyond the published ones: no training, so no repeats; all splits at once."""
    describe, errors = distribution.describe, distribution.errors
    whole = describe(context.real), describe(context.synthetic)
    published = errors(*whole)
    details = distribution.details(*whole)
    calibrated, floor = [], []
    ceilings: dict[str, dict[str, float]] = {}
    for i, split in enumerate(context.splits):
        one = describe(context.real[split.real])
        calibrated.append(errors(one, describe(context.synthetic[split.synthetic])))
        floor.append(errors(one, describe(context.other[split.other])))
        if i == 0:
            ceilings = {name: errors(one, describe(w)) for name, w in context.ceilings.items()}
    result: dict[str, Any] = {}
    for name in distribution.MEANINGS:
        if not math.isfinite(published[name]):
            result[name] = {"skipped": _why_skipped(context.real.shape)}
            continue
        result[name] = summaries(
            [published[name]],
            [run[name] for run in calibrated],
            [run[name] for run in floor],
            {ceiling: run[name] for ceiling, run in ceilings.items()},
        )
        for kind, values in details.get(name, {}).items():
            numbers = np.asarray(values).tolist()
            named = kind == "features"
            result[name][kind] = (
                dict(zip(context.columns, numbers, strict=True)) if named else numbers
            )
    return result


def _judges(context: _Context) -> dict[str, Any]:
    """Judges of two kinds, what each view says alone, and what gives synthetic windows away."""
    pool, at = context.pool()
    blocks = detection.pool_blocks(pool, {id(rows): rows for rows in at.values()}.values())
    comparisons = _comparisons(context, at)
    if not detection.large_enough(comparisons, blocks):
        return {name: {"skipped": "needs more windows that share no rows"} for name in JUDGES}
    found, seed, repeats = {}, context.seed, context.evaluators.repeats
    orders = (0, 1) if pool.shape[1] > 1 else (0,)
    count = context.evaluators.trees
    judges = detection.trees(pool, orders, count), detection.kernels(pool, seed)
    for name, fit in zip(JUDGES, judges, strict=True):
        runs = detection.detection_runs(fit, comparisons, blocks, seed=seed)
        entry = _parts(detection.accuracies(runs), context)
        found[name] = entry | {"half_width": detection.half_width(runs[:repeats])}
    published, floor = (comparisons[first * repeats :][:VIEW_RUNS] for first in (0, 2))
    views = detection.by_view(pool, published, floor, blocks, seed=seed, count=count)
    words = detection.given_away(
        pool, context.columns, published[0], blocks, views, seed=seed, count=count
    )
    found["detection"] |= {"by_view": views} | words
    return found


def _why_skipped(shape: tuple[int, ...]) -> str:
    if shape[1] < 2:
        return "needs windows of two time steps"
    return "needs two features" if shape[2] < 2 else "needs more windows or longer ones"


def reconstruction_error(
    real: Windows, reconstructed: Windows, columns: tuple[str, ...]
) -> dict[str, Any]:
    """Error of the VAE alone, on windows scaled to [0, 1], where values are known."""
    error = reconstructed - real
    with warnings.catch_warnings():  # a feature without a value in these windows: NaN, as null
        warnings.simplefilter("ignore", RuntimeWarning)
        features = np.nanmean(np.abs(error), axis=(0, 1))
    return {
        "mean_absolute": float(np.nanmean(np.abs(error))),
        "root_mean_square": float(np.sqrt(np.nanmean(np.square(error)))),
        "features": {
            name: float(value) if math.isfinite(value) else None
            for name, value in zip(columns, features, strict=True)
        },
    }
