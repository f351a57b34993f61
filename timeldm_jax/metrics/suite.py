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
import importlib.metadata
import math
import platform
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from timeldm_jax.data.scaling import fit_scaler
from timeldm_jax.errors import DataError
from timeldm_jax.metrics import context_fid, distribution
from timeldm_jax.metrics.correlational import correlational_runs, fifths
from timeldm_jax.metrics.discriminative import discriminative_runs
from timeldm_jax.metrics.predictive import predictive_runs
from timeldm_jax.settings import COUNT, Rule, at_least, check_fields

SCHEMA = 2
SPLITS = 10  # draws for the floors of scores that train nothing, or one network for all of them
FEWEST_WINDOWS = 10
LARGEST = 1e12  # scaled values whose squares still sum up in float32
OUTSIDE = 0.5  # ranges beyond the real range that a note mentions
CONFIDENCE = 0.995  # one-sided, that a real set lies within the floor
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
SCORES = PUBLISHED | distribution.MEANINGS
Windows = Float[np.ndarray, "n time feature"]
Show = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True)
class Evaluators:
    """How long the evaluators train; the defaults are the published protocol.

    Attributes:
      repeats: of each published score, 2 to 10.
      discriminative_steps: of the discriminative score's GRU.
      predictive_steps: of the predictive score's GRU.
      context_fid_steps: of TS2Vec; 0: 600, or 200 where the real set has at most 100,000 values.
    """

    repeats: int = 5
    discriminative_steps: int = 2_000
    predictive_steps: int = 5_000
    context_fid_steps: int = 0

    def __post_init__(self) -> None:
        """Checks the settings; raises ConfigError."""
        check_fields(
            self,
            repeats=Rule(lambda value: 2 <= value <= 10, "must be from 2 to 10"),
            discriminative_steps=COUNT,
            predictive_steps=COUNT,
            context_fid_steps=at_least(0),
        )


PROTOCOL = Evaluators()


class Split(NamedTuple):
    """One draw of windows to compare, as many of each, by their number.

    Attributes:
      real: of the real windows.
      other: of the reference; without one, of the real windows too, and none that `real` has.
      synthetic: of the synthetic windows.
    """

    real: Int[np.ndarray, " k"]
    other: Int[np.ndarray, " k"]
    synthetic: Int[np.ndarray, " k"]


def score(
    real: Windows,
    synthetic: Windows,
    columns: tuple[str, ...],
    *,
    reference: Windows | None = None,
    protocol: str = "files",
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
      protocol: written into the result.
      seed: of networks, batches, draws and halves.
      evaluators: how long the evaluators train.
      show: called with scores done, scores in all, and the one that comes.

    Returns:
      A dictionary that JSON can hold: schema 2 of "scores.json" (docs/scores.md).

    Raises:
      DataError: shapes that do not match, too few windows, non-finite values, only constant
        features, or synthetic values that dwarf the real ones.
    """
    sets = {"real": real, "synthetic": synthetic}
    if reference is not None:
        sets["reference"] = reference
    check(sets, columns)
    scaled, used, notes = _scale(sets, columns)
    real, synthetic = scaled["real"], scaled["synthetic"]
    other = scaled.get("reference")
    splits = _splits(len(real), len(synthetic), None if other is None else len(other), seed)
    other = real if other is None else other
    if len(real) != len(synthetic):
        notes.append(
            f"{len(real):,} real and {len(synthetic):,} synthetic windows: the discriminative "
            "score draws as many of the larger set as the smaller one has; Context-FID falls with "
            "the number of windows, so quote it with both numbers."
        )
    ceilings = _ceilings(real[splits[0].real], other[splits[0].other], seed)
    context = _Context(real, synthetic, other, ceilings, splits, seed, evaluators)
    scores: dict[str, Any] = {}
    steps: tuple[tuple[str, Callable[[_Context], dict[str, Any]]], ...] = (
        ("discriminative", _discriminative),
        ("predictive", _predictive),
        ("context_fid", _context_fid),
        ("correlational", _correlational),
        ("others", lambda c: _others(c, used)),
    )
    for done, (name, function) in enumerate(steps):
        show(done, len(steps), name)
        result = function(context)
        scores |= result if name == "others" else {name: result}
    show(len(steps), len(steps), "done")
    for name, (label, meaning) in SCORES.items():
        scores[name] = {"label": label, "published": name in PUBLISHED, "meaning": meaning} | (
            scores[name] if "skipped" in scores[name] else _judge(scores[name])
        )
    return {
        "schema": SCHEMA,
        "protocol": protocol,
        "seed": seed,
        "evaluators": dataclasses.asdict(evaluators),
        "windows": {
            "real": len(real),
            "synthetic": len(synthetic),
            "reference": None if reference is None else len(reference),
            "calibration": len(splits[0].real),
            "time": real.shape[1],
            "features": len(columns),
        },
        "columns": list(columns),
        "notes": notes,
        "verdict": _overall(scores),
        "scores": {name: scores[name] for name in SCORES},
        "versions": versions(),
    }


class _Context(NamedTuple):
    """What every score reads: scaled sets and which of their windows to compare."""

    real: Windows
    synthetic: Windows
    other: Windows
    ceilings: dict[str, Windows]
    splits: list[Split]
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


def _discriminative(context: _Context) -> dict[str, Any]:
    pool, at = context.pool()
    repeats = context.evaluators.repeats
    splits = context.splits[:repeats]
    published = [(at["real"], at["synthetic"])] * repeats
    calibrated = [(at["real"][s.real], at["synthetic"][s.synthetic]) for s in splits]
    floor = [(at["real"][s.real], at["other"][s.other]) for s in splits]
    ceilings = [(at["real"][splits[0].real], at[name]) for name in context.ceilings]
    comparisons = published + calibrated + floor + ceilings
    steps = context.evaluators.discriminative_steps
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
    transfers = published + calibrated + floor + ceilings
    steps = context.evaluators.predictive_steps
    runs = predictive_runs(pool, transfers, seed=context.seed, steps=steps)
    return _parts(runs, context)


def _parts(runs: Float[np.ndarray, " runs"], context: _Context) -> dict[str, Any]:
    """Runs in the order published, calibrated, floor, one a ceiling."""
    n = context.evaluators.repeats
    ceilings = dict(zip(context.ceilings, runs[3 * n :], strict=True))
    return _entry(runs[:n], runs[n : 2 * n], runs[2 * n : 3 * n], ceilings)


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
    return _entry(published, calibrated, floor, ceilings)


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
    return _entry(
        published,
        [once(s, context.synthetic[s.synthetic], i) for s, i in drawn],
        [once(s, context.other[s.other], i) for s, i in drawn],
        {name: once(context.splits[0], w, context.seed) for name, w in context.ceilings.items()},
    )


def _others(context: _Context, columns: tuple[str, ...]) -> dict[str, Any]:
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
        result[name] = _entry(
            [published[name]],
            [run[name] for run in calibrated],
            [run[name] for run in floor],
            {ceiling: run[name] for ceiling, run in ceilings.items()},
        )
        for kind, values in details.get(name, {}).items():
            numbers = np.asarray(values).tolist()
            named = kind == "features"
            result[name][kind] = dict(zip(columns, numbers, strict=True)) if named else numbers
    return result


def _why_skipped(shape: tuple[int, ...]) -> str:
    if shape[1] < 2:
        return "needs windows of two time steps"
    return "needs two features" if shape[2] < 2 else "needs more windows or longer ones"


def _entry(published: Any, calibrated: Any, floor: Any, ceilings: dict[str, Any]) -> dict[str, Any]:
    return summary(np.asarray(published)) | {
        "calibrated": summary(np.asarray(calibrated)),
        "floor": summary(np.asarray(floor)),
        "ceilings": {name: summary(np.array([float(run)])) for name, run in ceilings.items()},
    }


def _judge(entry: dict[str, Any]) -> dict[str, Any]:
    """Adds the comparison with the floor, in numbers and words, to a score and its ceilings."""
    verdicts = {
        name: ceiling | _compare([ceiling["mean"]], entry["floor"]["runs"])
        for name, ceiling in entry["ceilings"].items()
    }
    for ceiling in verdicts.values():
        if ceiling["within_floor"]:
            ceiling["verdict"] = "not seen by this score"
    return (
        entry
        | {"ceilings": verdicts}
        | _compare(entry["calibrated"]["runs"], entry["floor"]["runs"])
    )


def _compare(runs: list[float], floor: list[float]) -> dict[str, Any]:
    """Where the mean of runs lies: within the prediction interval of one more floor run, or above.

    Of one more run rather than of the mean of all: runs share their windows, so that their mean
    wanders nearly as much as one of them.
    """
    center, spread, n = np.mean(floor), np.std(floor, ddof=1), len(floor)
    limit = center + stats.t.ppf(CONFIDENCE, n - 1) * spread * math.sqrt(1 + 1 / n)
    mean = float(np.mean(runs))
    ratio = mean / float(center) if center > 0 else None
    within = bool(mean <= limit)
    if within:
        verdict = "within the floor"
    elif ratio is None:
        verdict = "above the floor"
    else:
        verdict = f"{ratio:.{0 if ratio >= 10 else 1 if ratio >= 1.1 else 3}f}× the floor"
    return {"ratio": ratio, "within_floor": within, "verdict": verdict}


def _overall(scores: dict[str, Any]) -> str:
    judged = {name: entry for name, entry in scores.items() if "skipped" not in entry}
    above = {name: entry for name, entry in judged.items() if not entry["within_floor"]}
    if not above:
        return f"All {len(judged)} scores are within the floor: as close as real windows are."
    worst = max(above.values(), key=lambda entry: entry["ratio"] or math.inf)
    return (
        f"{len(judged) - len(above)} of {len(judged)} scores are within the floor. Furthest from "
        f"it: {worst['label']}, {worst['verdict']}."
    )


def summary(runs: Float[np.ndarray, " runs"]) -> dict[str, Any]:
    """Runs, mean and half-width of the 95% t-interval of the mean; None where there is one run."""
    half = None
    if len(runs) > 1:
        half = float(stats.t.ppf(0.975, len(runs) - 1) * stats.sem(runs))
    return {"runs": runs.tolist(), "mean": float(runs.mean()), "half_width": half}


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


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    names = ("timeldm_jax", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}


def _splits(real: int, synthetic: int, reference: int | None, seed: int) -> list[Split]:
    """Draws for the floor; each set gives at most half of its windows, so that draws differ."""
    size = min(real // 2 if reference is None else min(real, reference // 2), synthetic // 2)
    random = np.random.default_rng(seed)

    def draws() -> Iterator[Split]:
        for _ in range(SPLITS):
            order = random.permutation(real)
            rest = order[size : 2 * size]
            if reference is not None:
                rest = random.permutation(reference)[:size]
            yield Split(order[:size], rest, random.permutation(synthetic)[:size])

    return list(draws())


def _ceilings(real: Windows, other: Windows, seed: int) -> dict[str, Windows]:
    """What a useless generator makes of real windows: see the module."""
    random = np.random.default_rng(seed)
    shuffled = random.permuted(other, axis=1)  # each feature in an order of its own
    noise = random.standard_normal(real.shape)
    mean = real.mean(axis=0)
    centred = (real - mean).transpose(1, 0, 2)
    covariance = centred.transpose(0, 2, 1) @ centred / len(real)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))[:, None, :]
    gaussian = mean + np.einsum("ntf,tgf->ntg", noise, root)
    return {"shuffled": shuffled, "gaussian": gaussian}


def _scale(
    sets: dict[str, Windows], columns: tuple[str, ...]
) -> tuple[dict[str, Windows], tuple[str, ...], list[str]]:
    """Sets in the range of the real windows, without features constant there; and what to note."""
    known = [windows for name, windows in sets.items() if name != "synthetic"]
    low = np.min([windows.min(axis=(0, 1)) for windows in known], axis=0)
    high = np.max([windows.max(axis=(0, 1)) for windows in known], axis=0)
    varies = high > low
    if not varies.any():
        raise DataError("every feature of the real windows is constant: there is nothing to score")
    notes = []
    fake = sets["synthetic"]
    for i in np.flatnonzero(~varies):
        stray = float(np.abs(fake[:, :, i] - low[i]).max())
        says = (
            "so it is in the synthetic ones" if stray == 0 else f"synthetic ones stray by {stray:g}"
        )
        notes.append(
            f"{columns[i]!r} is constant ({low[i]:g}) in the real windows and left out of the "
            f"scores; {says}."
        )
    used = tuple(name for name, keep in zip(columns, varies, strict=True) if keep)
    scaler = fit_scaler(np.stack([low, high])[:, varies], used)
    with np.errstate(over="ignore"):
        scaled = {
            name: scaler.scale(windows[:, :, varies]).astype(np.float32)
            for name, windows in sets.items()
        }
    fake = scaled["synthetic"]
    reach = np.maximum(fake.max(axis=(0, 1)) - 1, -fake.min(axis=(0, 1)))
    for i in np.flatnonzero(~(reach < LARGEST)):
        raise DataError(
            f"synthetic windows of {used[i]!r} reach {reach[i]:.1e} times the range of the real "
            "ones: are they in the same units?"
        )
    notes += [
        f"Synthetic windows of {used[i]!r} reach {reach[i]:.1f} times the real range beyond it."
        for i in np.flatnonzero(reach > OUTSIDE)
    ]
    return scaled, used, notes


def check(sets: dict[str, Windows], columns: tuple[str, ...]) -> None:
    """Raises DataError unless the sets, of which one is `real`, can be compared."""
    for name, windows in sets.items():
        if windows.ndim != 3:
            raise DataError(
                f"{name} windows have shape {windows.shape}; expected (windows, time, features)"
            )
        if len(windows) < FEWEST_WINDOWS:
            raise DataError(
                f"{len(windows)} {name} windows are too few to score; at least {FEWEST_WINDOWS}"
            )
        if not np.isfinite(windows).all():
            i, t, f = np.argwhere(~np.isfinite(windows))[0]
            named = f" ({columns[f]!r})" if f < len(columns) else ""
            raise DataError(
                f"{name} windows have {windows[i, t, f]} at window {i}, time {t}, "
                f"feature {f}{named}"
            )
    real = sets["real"]
    for name, windows in sets.items():
        if real.shape[1:] != windows.shape[1:]:
            raise DataError(
                f"real windows are (time, features) = {real.shape[1:]}, {name} ones "
                f"{windows.shape[1:]}; they must be the same"
            )
    if len(columns) != real.shape[2]:
        raise DataError(f"{len(columns)} column names for {real.shape[2]} features")
