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
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, get_args

import jax
import numpy as np

from timeldm_jax.metrics import context_fid, distribution, judges
from timeldm_jax.metrics.compared import Compared, comparisons, parts
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
from timeldm_jax.metrics.plan import Plan, Show, Unit, in_turn, joined, nothing, single
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
SCORES = PUBLISHED | distribution.MEANINGS | judges.MEANINGS
AUGMENTED_RUNS = 3  # of the predictive score on real and synthetic windows together


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
    show: Show = nothing,
    **known: Any,
) -> dict[str, Any]:
    """Every score as `planned`, done in turn; `show` as in `plan.own`."""
    return in_turn(planned(real, synthetic, columns, **known), show)


def planned(
    real: Windows,
    synthetic: Windows,
    columns: tuple[str, ...],
    *,
    reference: Windows | None = None,
    seed: int = 0,
    evaluators: Evaluators = PROTOCOL,
) -> Plan:
    """Every score as parts that several processes can share.

    Args:
      real: `(n, time, feature)` in the data's own units.
      synthetic: `(m, time, feature)`, the same units.
      columns: names of the features.
      reference: other real windows for the floor: fresh draws of a simulator, or the training
        windows where `real` was held out. Default: two halves of `real`.
      seed: of networks, batches, draws and halves.
      evaluators: how long the evaluators train.

    Returns:
      Of entries that JSON can hold: schema 3 of "scores.json" (docs/scores.md).

    Raises:
      DataError: shapes that do not match, too few windows, non-finite values, only constant
        features, or synthetic values that dwarf the real ones.
    """
    context = _prepare(real, synthetic, columns, reference, seed, evaluators)
    plan = joined([make(context) for make in _makers()])

    def finish(found: Sequence[Any]) -> dict[str, Any]:
        scores = _labelled(plan.finish(found))
        windows = {
            "real": len(real),
            "synthetic": len(synthetic),
            "reference": None if reference is None else len(reference),
            "calibration": len(context.splits[0].real),
            "time": real.shape[1],
            "features": len(columns),
        }
        return {
            "schema": SCHEMA,
            "seed": seed,
            "evaluators": dataclasses.asdict(evaluators),
            "windows": windows,
            "columns": list(columns),
            "notes": context.notes,
            "verdict": overall(scores),
            "scores": scores,
            "versions": package_versions(),
        }

    return Plan(plan.units, finish)


def _prepare(
    real: Windows,
    synthetic: Windows,
    columns: tuple[str, ...],
    reference: Windows | None,
    seed: int,
    evaluators: Evaluators,
) -> Compared:
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
    return Compared(
        real, synthetic, other, ceilings, splits, used, notes, seed=seed, evaluators=evaluators
    )


def _makers() -> tuple[Callable[[Compared], Plan], ...]:
    return (
        _discriminative,
        _predictive,
        _context_fid,
        lambda c: single("correlational", c.size, lambda: _correlational(c)),
        lambda c: single("others", 2 * c.size, lambda: _others(c)),
        judges.planned,
    )


def _labelled(found: dict[str, Any]) -> dict[str, Any]:
    """Scores in the order of `SCORES`, with what they mean and a verdict each."""
    return {
        name: {"label": label, "published": name in PUBLISHED, "meaning": meaning}
        | (found[name] if "skipped" in found[name] else judge(found[name]))
        for name, (label, meaning) in SCORES.items()
    }


def _discriminative(context: Compared) -> Plan:
    share = context.evaluators.discriminative_steps / PROTOCOL.discriminative_steps
    seconds = 13 * share * context.evaluators.repeats / 5 * context.length
    return single("discriminative", seconds, lambda: {"discriminative": _told_apart(context)})


def _told_apart(context: Compared) -> dict[str, Any]:
    pool, at = context.pool()
    steps = context.evaluators.discriminative_steps
    runs = discriminative_runs(pool, comparisons(context, at), seed=context.seed, steps=steps)
    return parts(runs, context)


def _predictive(context: Compared) -> Plan:
    share = context.evaluators.predictive_steps / PROTOCOL.predictive_steps
    seconds = 16 * share * context.evaluators.repeats / 5 * context.length
    return single("predictive", seconds, lambda: {"predictive": _forecast(context)})


def _forecast(context: Compared) -> dict[str, Any]:
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
    found = parts(runs[: len(transfers) - len(both)], context)
    return found | {"augmented": summary(augmented), "gain": summary(gain)}


def _context_fid(context: Compared) -> Plan:
    """Each repeat has an encoder of its own, fitted in one call; floors are drawn with each."""
    repeats, steps = context.evaluators.repeats, context.evaluators.context_fid_steps

    @functools.cache
    def fitted() -> Any:
        real = context.real.astype(np.float32)
        return context_fid.fit(real, repeats=repeats, seed=context.seed, steps=steps or None)

    def finish(found: Sequence[Any]) -> dict[str, Any]:
        published = [each["published"] for each in found]
        calibrated, floor = (
            [distance for each in found for distance in each[name]]
            for name in ("calibrated", "floor")
        )
        return {"context_fid": summaries(published, calibrated, floor, found[0]["ceilings"])}

    before = 39 * (steps or context_fid.STEPS) / context_fid.STEPS * repeats / 5 * context.length
    seconds = 1.3e-4 * (len(context.real) + len(context.synthetic)) * context.length
    units = (
        Unit("context_fid", seconds, functools.partial(_distances, context, fitted, i), before)
        for i in range(repeats)
    )
    return Plan(tuple(units), finish)


def _distances(context: Compared, fitted: Callable[[], Any], repeat: int) -> dict[str, Any]:
    """Fréchet distances by one repeat's encoder, the ceilings' by the first alone."""
    weights = jax.tree.map(lambda x: x[repeat], fitted())
    distance, describe = context_fid.frechet_distance, context_fid.describe
    real = context_fid.encode(weights, context.real)
    synthetic = context_fid.encode(weights, context.synthetic)
    other = real
    if context.other is not context.real:
        other = context_fid.encode(weights, context.other)
    found: dict[str, Any] = {"published": distance(describe(real), describe(synthetic))}
    found |= {"calibrated": [], "floor": [], "ceilings": {}}
    for split in context.splits[repeat :: context.evaluators.repeats]:
        one = describe(real[split.real])
        found["calibrated"].append(distance(one, describe(synthetic[split.synthetic])))
        found["floor"].append(distance(one, describe(other[split.other])))
    for name, windows in context.ceilings.items() if repeat == 0 else ():
        one = describe(real[context.splits[0].real])
        found["ceilings"][name] = distance(one, describe(context_fid.encode(weights, windows)))
    return found


def _correlational(context: Compared) -> dict[str, Any]:
    if context.real.shape[2] < 2:
        return {"correlational": {"skipped": "needs two features"}}
    draws = fifths(context.real, context.synthetic)

    def once(split: Split, windows: Windows, seed: int) -> float:
        real = context.real[split.real]
        return float(correlational_runs(real, windows, draws=draws, repeats=1, seed=seed)[0])

    published = correlational_runs(
        context.real, context.synthetic, repeats=context.evaluators.repeats, seed=context.seed
    )
    drawn = [(split, context.seed + 1 + i) for i, split in enumerate(context.splits)]
    found = summaries(
        published,
        [once(s, context.synthetic[s.synthetic], i) for s, i in drawn],
        [once(s, context.other[s.other], i) for s, i in drawn],
        {name: once(context.splits[0], w, context.seed) for name, w in context.ceilings.items()},
    )
    return {"correlational": found}


def _others(context: Compared) -> dict[str, Any]:
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
