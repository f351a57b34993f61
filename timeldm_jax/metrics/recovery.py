"""Do samples that are asked for a label show it? Judges that learnt real windows say so.

A label is a static column. Boosted trees learn it from descriptions of training windows, which hold
nothing of static columns, and are asked about held-out windows and about samples that were asked
for the labels of these. What they find again in real windows is what there is to find.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats
from threadpoolctl import threadpool_limits

from timeldm_jax.data import gaps, words
from timeldm_jax.data.schema import Feature, Schema
from timeldm_jax.metrics import detection, distribution

Windows = Float[np.ndarray, "n time feature"]
Reader = Callable[[Float[np.ndarray, "*lead feature"]], Float[np.ndarray, "*lead"]]

FEW_VALUES = 10  # of a number that is taken for a word
MOST_COLUMNS = 8  # static columns that are asked about
MOST_LABELS = 12  # of a column: the commonest
FEWEST_TRAINING, FEWEST_ASKED = 10, 20  # windows of a label to learn, and to ask about in all
MOST_FEATURES = 32  # that a window is described by
BANDS = 6
NO_POWER = 1e-9  # of a window's, below which lies rounding
TREES, TREES_IN_ALL = 40, 160  # rounds of boosting; trees, of which each label takes one a round
FEWEST_OF_LABEL = 50  # windows of a label that scores of its own need
MOST_SCORED = 4  # labels of a column that have them
SCORED = ("wasserstein", "autocorrelation")
JUDGE_TREES = 20
CLEARLY = 0.1  # of the way to being always right, that real windows must show a label by


class Label(NamedTuple):
    """A static column as something to find again.

    Attributes:
      name: of the column.
      names: of its words, in order of their numbers; None: it is a number.
      read: the word's number, or the number, of windows; NaN where it is not known.
    """

    name: str
    names: tuple[str, ...] | None
    read: Callable[[Windows], Float[np.ndarray, " n"]]


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is compared, gaps as they are.

    Attributes:
      training: windows that judges learn from.
      real: held-out windows.
      sampled: drawn for the labels of `real`, one for each.
      series: of each held-out window, the number of its series.
      training_series: likewise.
    """

    training: Windows
    real: Windows
    sampled: Windows
    series: Int[np.ndarray, " n"]
    training_series: Int[np.ndarray, " m"]


def readers(schema: Schema) -> dict[str, Reader]:
    """By column, what reads its numbers, or those of its words, of features; NaN where unknown.

    A word that the model does not know is none of its words.
    """
    places: dict[int, list[int]] = {}
    for place, feature in enumerate(schema.layout()):
        if feature.role in ("value", "category", "code"):
            places.setdefault(feature.column, []).append(place)
    found = {}
    for number, own in places.items():
        column = schema.columns[number]
        found[column.name] = _number(own[0])
        if column.kind == "category":
            found[column.name] = _word(own, len(column.categories), column.coded)
    return found


def _number(place: int) -> Reader:
    return lambda features: features[..., place]


def _word(places: list[int], count: int, coded: bool) -> Reader:
    def read(features: Float[np.ndarray, "*lead feature"]) -> Float[np.ndarray, "*lead"]:
        cells = features[..., places]
        known = np.isfinite(cells).all(axis=-1)
        cells = np.nan_to_num(cells)
        if coded:
            number = words.nearest(cells.reshape(-1, len(places)), count).reshape(known.shape)
        else:
            known &= cells.max(axis=-1) > 0
            number = cells.argmax(axis=-1)
        return np.where(known, number, np.nan)

    return read


def labels(schema: Schema, training: Windows) -> list[Label]:
    """The static columns of a table that training windows say something of."""
    found, read = [], readers(schema)
    for column in [c for c in schema.columns if c.static and c.name in read][:MOST_COLUMNS]:
        first = _first(read[column.name])
        values = np.unique(first(training))
        values = values[np.isfinite(values)]
        names: tuple[str, ...] | None = None
        if column.kind == "category":
            names = tuple(map(str, column.categories))
        elif column.kind == "boolean":
            names = ("false", "true")
        elif column.kind == "integer" and 0 < len(values) <= FEW_VALUES:
            names = tuple(f"{value:g}" for value in values)
            first = _nearest(first, values)
        found.append(Label(column.name, names, first))
    return found


def _first(read: Reader) -> Callable[[Windows], Float[np.ndarray, " n"]]:
    return lambda windows: read(windows[:, 0])


def _nearest(
    read: Callable[[Windows], Float[np.ndarray, " n"]], values: Float[np.ndarray, " value"]
) -> Callable[[Windows], Float[np.ndarray, " n"]]:
    def number(windows: Windows) -> Float[np.ndarray, " n"]:
        cells = read(windows)
        near = np.abs(np.nan_to_num(cells)[:, None] - values).argmin(axis=1)
        return np.where(np.isfinite(cells), near, np.nan)

    return number


def moving(schema: Schema) -> list[int]:
    """Places of features that vary within a series: all that judges may read, at most so many."""
    found = [
        place
        for place, feature in enumerate(schema.layout())
        if feature.role in ("value", "category", "code") and not _static(schema, feature)
    ]
    return found[:MOST_FEATURES]


def _static(schema: Schema, feature: Feature) -> bool:
    return feature.column >= 0 and schema.columns[feature.column].static


def describe(windows: Windows) -> Float[np.ndarray, "n described"]:
    """Level, spread, range, roughness, persistence and power of each feature, whatever its phase.

    Args:
      windows: NaN where missing; what nothing is known of is described by NaN.
    """
    known = np.isfinite(windows)
    count = known.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(known, windows, 0).sum(axis=1) / count
        centred = np.where(known, windows - mean[:, None], 0)
        variance = np.square(centred).sum(axis=1) / count
        change = np.diff(windows, axis=1)
        steps = np.isfinite(change)
        rough = np.where(steps, np.abs(change), 0).sum(axis=1) / steps.sum(axis=1)
        lagged = (centred[:, 1:] * centred[:, :-1]).sum(axis=1) / (count * variance)
    low = np.where(known, windows, np.inf).min(axis=1)
    high = np.where(known, windows, -np.inf).max(axis=1)
    parts = [mean, np.sqrt(variance), low, high, rough, lagged]
    power = np.square(np.abs(np.fft.rfft(centred, axis=1)))[:, 1:]
    edges = np.unique(np.geomspace(1, power.shape[1] + 1, BANDS + 1).astype(int))
    with np.errstate(divide="ignore", invalid="ignore"):  # NaN of what does not vary
        share = power / power.sum(axis=1, keepdims=True)
    parts += [
        np.log(share[:, first - 1 : end - 1].mean(axis=1) + NO_POWER)
        for first, end in itertools.pairwise(edges)
    ]
    found = np.concatenate(parts, axis=1)
    return np.where(np.isfinite(found), found, np.nan)


def recover(
    label: Label, asked: Asked, described: Sequence[np.ndarray], seed: int
) -> dict[str, Any] | None:
    """How well a label is found again in real windows and in samples that were asked for it.

    Args:
      label: the column.
      asked: the windows.
      described: `describe` of the training, held-out and sampled windows.
      seed: of the judge.

    Returns:
      Of words the share that is found again, of numbers the share of the error of always saying the
      median that is spared; None where there are too few windows.
    """
    known, wanted = label.read(asked.training), label.read(asked.real)
    usable, asks = np.isfinite(known), np.isfinite(wanted)
    if label.names is not None:
        counts = np.bincount(known[usable].astype(int), minlength=len(label.names))
        common = np.argsort(-counts, kind="stable")[:MOST_LABELS]
        common = common[counts[common] >= FEWEST_TRAINING]
        usable, asks = np.isin(known, common), np.isin(wanted, common)
        if len(common) < 2:
            return None
    if asks.sum() < FEWEST_ASKED or usable.sum() < FEWEST_TRAINING or not np.ptp(known[usable]):
        return None
    fit = _classifier if label.names is not None else _regressor
    with threadpool_limits(1):
        judge = fit(described[0][usable], known[usable], seed)
        answers = [judge(part[asks]) for part in described[1:]]
    wanted, series = wanted[asks], asked.series[asks]
    if label.names is not None:
        chance = float(np.unique(wanted, return_counts=True)[1].max() / len(wanted))
        hits = [(answer == wanted).astype(float) for answer in answers]
    else:
        usual = np.abs(np.median(known[usable]) - wanted).mean()
        chance = 0.0
        hits = [1 - np.abs(answer - wanted) / max(usual, 1e-12) for answer in answers]
    real, sampled = float(hits[0].mean()), float(hits[1].mean())
    widths = half_width(hits[0], series), half_width(hits[1], np.arange(len(wanted)))
    shown = real - widths[0] > chance and real - chance > CLEARLY * (1 - chance)
    return {
        "kind": "number" if label.names is None else "words",
        "windows": len(wanted),
        "chance": chance,
        "real": {"mean": real, "half_width": widths[0]},
        "sampled": {"mean": sampled, "half_width": widths[1]},
        "tells": bool(shown),
        "obeyed": (sampled - chance) / (real - chance) if shown else None,
        "as_real": bool(sampled + math.hypot(*widths) >= real),
    }


def half_width(values: Float[np.ndarray, " n"], groups: Int[np.ndarray, " n"]) -> float:
    """Of the 95% interval of a mean, where values of one group go together.

    Cluster-robust (Cameron and Miller 2015, Eq. 6), and never below that of independent values.
    """
    names, members = np.unique(groups, return_inverse=True)
    sums = np.bincount(members, weights=values - values.mean())
    count = len(values)
    together = np.square(sums).sum() / count**2 * len(names) / max(len(names) - 1, 1)
    variance = max(together, values.var() / count)
    return float(stats.t.ppf(0.975, max(len(names) - 1, 1)) * math.sqrt(variance))


def _classifier(x: np.ndarray, y: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    # Takes a second to import.
    from sklearn.ensemble import HistGradientBoostingClassifier

    rounds = min(TREES, max(TREES_IN_ALL // len(np.unique(y)), 10))
    model = HistGradientBoostingClassifier(
        max_iter=rounds, learning_rate=0.2, early_stopping=False, random_state=seed
    )
    return model.fit(x, y).predict


def _regressor(x: np.ndarray, y: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.ensemble import HistGradientBoostingRegressor

    # The median's own loss: what is judged is the absolute error.
    model = HistGradientBoostingRegressor(
        loss="absolute_error",
        max_iter=TREES,
        learning_rate=0.2,
        early_stopping=False,
        random_state=seed,
    )
    return model.fit(x, y).predict


def by_label(label: Label, asked: Asked, places: list[int], seed: int) -> dict[str, Any]:
    """Scores of the samples of each label that has windows enough, beside their floor.

    The floor compares training with held-out windows of the label.

    Args:
      label: of words.
      asked: the windows.
      places: of the features that are scored.
      seed: of judges.
    """
    wanted, known = label.read(asked.real), label.read(asked.training)
    names = label.names or ()
    counts = np.bincount(wanted[np.isfinite(wanted)].astype(int), minlength=len(names))
    commonest = np.argsort(-counts, kind="stable")[:MOST_SCORED]
    found = {}
    for word in commonest[counts[commonest] >= FEWEST_OF_LABEL]:
        own, trained = wanted == word, known == word
        if trained.sum() < FEWEST_OF_LABEL:
            continue
        parts = [windows[own][..., places] for windows in (asked.real, asked.sampled)]
        parts.append(asked.training[trained][..., places])
        series = asked.series[own], asked.training_series[trained]
        found[names[word]] = _scores(parts, series, seed)
    return found


def _scores(
    parts: list[Windows], series: tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]], seed: int
) -> dict[str, Any]:
    """Scores of held-out windows of a label against samples, and against training windows."""
    real, made = gaps.close_as(parts[0], {"sampled": parts[1]})
    training, _ = gaps.close_as(parts[2], {})
    low, high = training.min(axis=(0, 1)), training.max(axis=(0, 1))
    varies = high > low
    scaled = [
        (windows[..., varies] - low[varies]) / (high - low)[varies]
        for windows in (real, made["sampled"], training)
    ]
    found: dict[str, Any] = {"windows": len(real)}
    if not varies.any():
        return found
    known, sampled, usual = (distribution.describe(windows) for windows in scaled)
    errors = distribution.errors(known, sampled), distribution.errors(known, usual)
    for name in SCORED:
        if math.isfinite(errors[0][name]):
            found[name] = {"mean": errors[0][name], "floor": errors[1][name]}
    ends = np.cumsum([0, *map(len, scaled)])
    rows = [np.arange(first, end) for first, end in itertools.pairwise(ends)]
    own, trained = series
    apart = 1 + own.max()
    blocks = np.concatenate([own, apart + rows[1], apart + ends[-1] + trained])
    pairs = [(rows[0], rows[1]), (rows[0], rows[2])]
    if detection.large_enough(pairs, blocks):
        orders = (0, 1) if scaled[0].shape[1] > 1 else (0,)
        fit = detection.trees(np.concatenate(scaled), orders, JUDGE_TREES)
        runs, floor = (detection.detection_runs(fit, [pair], blocks, seed=seed) for pair in pairs)
        found["detection"] = {
            "mean": float(detection.accuracies(runs).mean()),
            "half_width": min(detection.half_width(runs), 1.0),  # of a few series it knows nothing
            "floor": float(detection.accuracies(floor).mean()),
        }
    return found
