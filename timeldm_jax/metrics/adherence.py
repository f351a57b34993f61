"""Do samples keep to what they are asked for? Labels, the calendar, static columns and rules.

And which rules do real rows keep that nobody asked for? All is beside what real rows that were held
out come to, which is as good as can be.
"""

import dataclasses
import itertools
import json
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from timeldm_jax.data import proposals, rules
from timeldm_jax.data import table as tables
from timeldm_jax.data.schema import SERIES, Schema
from timeldm_jax.metrics import calendar, recovery
from timeldm_jax.metrics.recovery import Label

Windows = Float[np.ndarray, "n time feature"]

ASKED = 1_000  # windows, at most, that are drawn for the labels of held-out ones
TRAINING, ROWS = 4_000, 400_000  # windows of a set, and rows of them, that are compared
PIECES = 4  # that numbers are cut into where columns are taken together
SECONDS, STATIC_SECONDS = 2.0, 2.0  # that it takes, drawing aside; and for each static column
MOST_SAID = 3  # rules that are proposed in sentences
FEATURES = 8  # of which that is; of more it takes as much more


class Part(NamedTuple):
    """Windows of one kind, in the columns' own units, NaN where missing.

    Attributes:
      windows: `(n, time, feature)`.
      steps: of the schema's clock, of each row; None where there is none.
      series: of each window, the number of its series.
    """

    windows: Windows
    steps: Int[np.ndarray, "n time"] | None
    series: Int[np.ndarray, " n"]


class Parts(NamedTuple):
    """What is compared.

    Attributes:
      training: windows that the model learnt.
      held_out: windows that it did not.
      sampled: windows that nothing was asked of.
      asked: windows drawn for the static columns of `held_out`, one for each of the first of these;
        None where there is nothing to ask for.
    """

    training: Part
    held_out: Part
    sampled: Part
    asked: Windows | None


def asked_windows(schema: Schema, context: int, held_out: int, count: int) -> int:
    """How many windows are drawn to be asked about; 0 where there is nothing to ask for.

    Args:
      schema: of the table.
      context: numbers that the model is asked for by.
      held_out: windows whose labels are asked for.
      count: windows that are sampled in all.
    """
    return min(ASKED, held_out, count) if context and schema.static_features() else 0


def seconds(schema: Schema) -> float:
    """What the scores of a table take, drawing aside."""
    static = min(sum(column.static for column in schema.columns), recovery.MOST_COLUMNS)
    return SECONDS + STATIC_SECONDS * static * max(len(recovery.moving(schema)) / FEATURES, 1)


def few(count: int, time: int, random: np.random.Generator) -> Int[np.ndarray, " some"]:
    """Which of `count` windows are compared, in order: bounds time and memory."""
    most = min(count, TRAINING, max(ROWS // time, 2))
    return np.sort(random.permutation(count)[:most])


def halves(
    starts: Int[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    window: int,
    random: np.random.Generator,
) -> tuple[Int[np.ndarray, " one"], Int[np.ndarray, " two"]]:
    """Starts of windows in two parts that share no row, where nothing was held out.

    Args:
      starts: of all windows.
      groups: the series of each.
      window: rows of each.
      random: which series are in which part.
    """
    names = random.permutation(np.unique(groups))
    if len(names) > 1:
        second = np.isin(groups, names[: len(names) // 2])
        return starts[~second], starts[second]
    middle = np.median(starts)
    return starts[starts <= middle - window], starts[starts > middle]


def adherence(
    parts: Parts, schema: Schema, context: int, seed: int = 0, *, propose: bool = False
) -> dict[str, Any]:
    """How far samples keep to what they are asked for; see docs/scores.md for the entries.

    Args:
      parts: the windows.
      schema: of the table.
      context: numbers that the model is asked for by; 0: rules alone are looked at.
      seed: of judges.
      propose: whether the table could have more rules.
    """
    parts = Parts(*(_present(part, schema) for part in parts))
    found: dict[str, Any] = {"labels": {}, "by_label": {}, "calendar": {}, "static": None}
    labels = recovery.labels(schema, parts.training.windows) if context else []
    if labels:
        found["static"] = _static(parts, labels, schema)
    if labels and parts.asked is not None:
        found |= _labels(parts, labels, schema, seed)
    if context and schema.starts is not None and schema.starts.leads:
        found["calendar"] = _calendar(parts, schema)
    found["rules"] = kept(parts.sampled.windows, schema)
    if propose:
        found["proposed"] = proposed(parts.training.windows, parts.sampled.windows, schema)
    return found | {"said": said(found)}


def _present(part: Any, schema: Schema) -> Any:
    """Windows whose rows after the end of a series are missing."""
    if part is None or not schema.padded:
        return part
    windows = part if isinstance(part, np.ndarray) else part.windows
    windows = windows.copy()
    windows[..., :-1][windows[..., -1] < 0.5] = np.nan
    return windows if isinstance(part, np.ndarray) else part._replace(windows=windows)


def _labels(parts: Parts, labels: list[Label], schema: Schema, seed: int) -> dict[str, Any]:
    """Recovery of each static column, and scores of each label."""
    assert parts.asked is not None
    count, places = len(parts.asked), recovery.moving(schema)
    asked = recovery.Asked(
        parts.training.windows,
        parts.held_out.windows[:count],
        parts.asked,
        parts.held_out.series[:count],
        parts.training.series,
    )
    sets = (asked.training, asked.real, asked.sampled)
    described = [recovery.describe(windows[..., places]) for windows in sets] if places else []
    found: dict[str, Any] = {"labels": {}, "by_label": {}}
    for label in labels if places else ():
        recovered = recovery.recover(label, asked, described, seed)
        if recovered is None:
            continue
        found["labels"][label.name] = recovered
        if label.names is not None:
            own = recovery.by_label(label, asked, places, seed)
            found["by_label"] |= {label.name: own} if own else {}
    return found


def _calendar(parts: Parts, schema: Schema) -> dict[str, Any]:
    """Profiles of numbers and flags that vary within a series."""
    assert schema.starts is not None
    assert schema.clock is not None
    layout = schema.layout()
    places = [place for place in recovery.moving(schema) if layout[place].role == "value"]
    if not places:
        return {}
    size = min(len(parts.held_out.windows), len(parts.sampled.windows))
    rows = {
        name: (part.windows[:most, :, places].reshape(-1, len(places)), part.steps[:most].ravel())
        for name, part, most in (
            ("training", parts.training, None),
            ("held_out", parts.held_out, size),
            ("sampled", parts.sampled, size),
        )
        if part.steps is not None
    }
    names = tuple(layout[place].name for place in places)
    return calendar.follow(rows, names, schema.clock, schema.starts.cycles)


def _static(parts: Parts, labels: list[Label], schema: Schema) -> dict[str, Any]:
    """Whether static columns are constant in samples, and how they are distributed together."""
    # As many of each: what few windows are off by depends on their number.
    size = min(len(parts.held_out.windows), len(parts.sampled.windows))
    training = parts.training.windows
    others = [part.windows[:size] for part in (parts.sampled, parts.held_out)]
    places = [place for place, _ in schema.static_features()]
    cells = parts.sampled.windows[..., places]
    low = np.fmin.reduce(cells, axis=1)
    alike = ((cells == low[:, None]) | np.isnan(cells)).all(axis=(1, 2))
    found: dict[str, Any] = {"constant": float(alike.mean()), "columns": {}, "pairs": None}
    for label in labels:
        apart = [_apart(label, training, windows) for windows in others]
        found["columns"][label.name] = {"distance": apart[0], "floor": apart[1]}
    pairs = [list(pair) for pair in itertools.combinations(range(len(labels)), 2)]
    if pairs:
        real, *made = (_pieces(labels, training, windows) for windows in (training, *others))
        apart = [float(np.mean([variation(real[p], other[p]) for p in pairs])) for other in made]
        found["pairs"] = {"distance": apart[0], "floor": apart[1]}
    return found


def _apart(label: Label, training: Windows, other: Windows) -> float:
    """Total variation of words; of numbers the largest difference of distribution functions."""
    if label.names is not None:
        return variation(*(_pieces([label], training, windows) for windows in (training, other)))
    real, values = (label.read(windows) for windows in (training, other))
    real, values = real[np.isfinite(real)], values[np.isfinite(values)]
    if min(len(real), len(values)) == 0:
        return float(len(real) != len(values))
    return float(stats.ks_2samp(real, values).statistic)


def _pieces(
    labels: list[Label], training: Windows, windows: Windows
) -> Int[np.ndarray, "column n"]:
    """Words by their numbers, and numbers by the piece of the training values; −1: not known."""
    found = []
    for label in labels:
        values = code = label.read(windows)
        known = label.read(training)
        if label.names is None and np.isfinite(known).any():
            edges = np.nanquantile(known, np.arange(1, PIECES) / PIECES)
            code = np.searchsorted(edges, values).astype(float)
        found.append(np.where(np.isfinite(values), code, -1).astype(np.int64))
    return np.stack(found)


def variation(real: Int[np.ndarray, "column n"], other: Int[np.ndarray, "column m"]) -> float:
    """Total variation of the distributions of columns together: half the sum of differences.

    Args:
      real: numbers of words, or of pieces; −1 where not known, and that does not count.
      other: likewise.
    """
    real, other = (part[:, (part >= 0).all(axis=0)] for part in (real, other))
    if min(real.shape[1], other.shape[1]) == 0:
        return float(real.shape[1] != other.shape[1])
    both = np.concatenate([real, other], axis=1)
    place = np.unique(both, axis=1, return_inverse=True)[1].ravel()
    size = int(place.max()) + 1
    one, two = place[: real.shape[1]], place[real.shape[1] :]
    shares = [np.bincount(part, minlength=size) / len(part) for part in (one, two)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def kept(windows: Windows, schema: Schema) -> dict[str, float]:
    """The share of rows that keep each rule, of those that lack no value."""
    count, time = windows.shape[:2]
    groups = np.repeat(np.arange(count), time)
    read = recovery.readers(schema)
    found = {}
    for rule in schema.rules:
        if any(name not in read for name in rule.names):
            continue  # of a column that does not vary
        values = {name: read[name](windows).ravel() for name in rule.names}
        rows = np.stack(list(values.values()), axis=1)
        there = np.isfinite(rows).all(axis=1)
        if rule.kind == "seen":
            combinations, counts = np.unique(rows[there], axis=0, return_counts=True)
            seen = [tuple(each) in rule.combinations for each in combinations.tolist()]
            broken = counts[~np.array(seen, bool)].sum()
        else:
            broken = rules.broken(rule, values, groups).sum()
        found[rules.said(rule)] = float(1 - broken / max(there.sum(), 1))
    return found


def proposed(training: Windows, sampled: Windows, schema: Schema) -> dict[str, float]:
    """As `kept`, of rules that no training window breaks and that the schema has not."""
    frame = tables.decode(training, schema, missing="generate")
    texts = proposals.propose(frame, schema.shown(), frame[SERIES].to_numpy())
    known = {rules.said(rule) for rule in schema.rules}
    free = dataclasses.replace(schema, rules=())
    new = [text for text in texts if text not in known]
    return kept(sampled, tables.with_rules(free, new, frame, "the training windows"))


def said(found: dict[str, Any]) -> list[str]:
    """The scores in sentences."""
    lines = [_label_said(name, entry) for name, entry in found["labels"].items()]
    for mark, entry in found["calendar"].items():
        floor = entry["floor"]
        beside = f" (held-out rows: {floor['largest']:.2f})" if floor else ""
        lines.append(
            f"Means by {mark} are off by {entry['mean']:.2f} deviations on average, by "
            f"{entry['largest']:.2f} at most{beside}, of {entry['worst']!r}."
        )
    if found["static"] is not None:
        lines.append(_static_said(found["static"]))
    if found["rules"]:
        least = min(found["rules"].values())
        many = f"{len(found['rules'])} rules are" if len(found["rules"]) > 1 else "The rule is"
        lines.append(f"{many} kept in {_share(least)} of rows.")
    broken = sorted((share, rule) for rule, share in found.get("proposed", {}).items() if share < 1)
    for share, rule in broken[:MOST_SAID]:
        lines.append(
            f"No training window breaks {rule!r}, and {_share(share)} of sampled rows keep it; a "
            f"schema that says {json.dumps({'rules': [rule]})} keeps it in all."
        )
    return lines


def _label_said(name: str, entry: dict[str, Any]) -> str:
    real, sampled = entry["real"]["mean"], entry["sampled"]["mean"]
    if not entry["tells"]:
        return f"{name!r}: real windows do not show it either, so nothing can be said."
    way = "as often as" if entry["as_real"] else "less often than"
    if entry["kind"] == "number":
        way = "as well as" if entry["as_real"] else "less well than"
        return (
            f"{name!r} is found again {way} in real windows: {max(sampled, 0):.0%} of the way from "
            f"a blind guess to certainty, real ones {real:.0%}."
        )
    return (
        f"{name!r} is found again {way} in real windows: in {sampled:.0%} of samples that were "
        f"asked for it, in {real:.0%} of held-out windows; a blind guess is right in "
        f"{entry['chance']:.0%}."
    )


def _static_said(entry: dict[str, Any]) -> str:
    text = f"Static columns are constant in {_share(entry['constant'])} of samples"
    if entry["pairs"]:
        apart = entry["pairs"]
        text += (
            f"; taken two at a time {apart['distance']:.0%} of samples are distributed otherwise "
            f"than training windows (held-out ones: {apart['floor']:.0%})"
        )
    return f"{text}."


def _share(share: float) -> str:
    """A share in percent, which is 100 only where it is all."""
    return "100%" if share == 1 else f"{min(share, 0.9999):.2%}"
