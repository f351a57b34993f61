"""All scores of synthetic windows together: what the commands and `TimeLDM` report."""

import functools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float, Int

from timeldm_jax.errors import BAD_CONTENT, DataError
from timeldm_jax.metrics import plan, suite
from timeldm_jax.metrics.memorisation import memorisation
from timeldm_jax.metrics.plan import Plan, Unit
from timeldm_jax.progress import progress

Windows = Float[np.ndarray, "n time feature"]

NOTES = {  # of protocols
    "future": "Scored against the last fifth of the series: floors, training windows against it, "
    "show what drift costs, and drift moves the memorisation share too.",
}

# What tables, pages and model cards read of `scores.json`: types of values by key, where None
# allows there to be none and `...` stands for any key.
_MEAN = {"mean": float}
_VALUES = {
    "mean": float,
    "half_width": (float, None),
    "floor": _MEAN,
    "calibrated": _MEAN,
    "ceilings": {"shuffled": _MEAN, "gaussian": _MEAN},
    "within_floor": bool,
    "verdict": str,
}
_JUDGED = {
    "given_away": str,
    "by_view": {...: {"mean": float, "half_width": float, "floor": _MEAN}},
}
_STAGES = {...: {...: {"mean": float, "half_width": float}}}
_RECOVERED = {"mean": float, "half_width": float}
_APART = {"distance": float, "floor": float}
_AWAY = dict.fromkeys(("largest", "mean", "spread"), float)
_ADHERENCE = {
    "said": [str],
    "labels": {
        ...: {"kind": str, "chance": float, "windows": int, "tells": bool, "as_real": bool}
        | {"real": _RECOVERED, "sampled": _RECOVERED, "obeyed": (float, None)}
    },
    "by_label": {...: {...: {"windows": int}}},
    "calendar": {
        ...: _AWAY
        | {"worst": str, "floor": (_AWAY, None)}
        | {"profiles": {...: {"real": [(float, None)], "sampled": [(float, None)]}}}
    },
    "static": ({"constant": float, "columns": {...: _APART}, "pairs": (_APART, None)}, None),
    "rules": {...: float},
    "proposed": ({...: float}, None),
}
_LABELLED = {
    "wasserstein": _MEAN | {"floor": float},
    "autocorrelation": _MEAN | {"floor": float},
    "detection": _RECOVERED | {"floor": float},
}
_FORM: dict[Any, Any] = {
    "protocol": str,
    "seed": int,
    "verdict": str,
    "evaluators": {"repeats": int},
    "windows": dict.fromkeys(("real", "synthetic", "calibration", "time", "features"), int),
    "versions": {...: str},
    "scores": {...: {"label": str, "meaning": str, "published": bool}},
    "memorisation": {
        "verdict": str,
        "memorised": bool,
        "caveat": str,
        "windows": {"synthetic": int, "training": int, "held_out": (int, None)},
        "share_closer_to_training": (dict.fromkeys(("share", "low", "high"), float), None),
        "membership_inference": (dict.fromkeys(("auc", "low", "high"), float), None),
        "closest_distance": {
            "synthetic_to_training": float,
            "held_out_to_training": (float, None),
            "training_to_training": (float, None),
        },
        "neighbour_ratio": dict.fromkeys(("synthetic", "held_out"), (float, None)),
        "shift_match": {"synthetic": float, "held_out": (float, None), "largest_shift": int},
        "exact_copies": {"count": int},
    },
}


def evaluate(
    real: Windows, synthetic: Windows, columns: tuple[str, ...], **known: Any
) -> dict[str, Any]:
    """All scores and the memorisation check as `planned`, done in turn with a progress bar."""
    scores = planned(real, synthetic, columns, **known)
    return scores.finish(list(own(scores.units).values()))


# Wide: files, runs and fitted models know different things of their windows.
def planned(
    real: Windows,
    synthetic: Windows,
    columns: tuple[str, ...],
    *,
    training: Windows | None = None,
    fresh: Windows | None = None,
    training_starts: Int[np.ndarray, " n"] | None = None,
    real_starts: Int[np.ndarray, " m"] | None = None,
    protocol: str = "files",
    seed: int = 0,
    evaluators: suite.Evaluators = suite.PROTOCOL,
) -> Plan:
    """All scores and the memorisation check: what commands, a run and `TimeLDM` share.

    Args:
      real: `(n, time, feature)` to score against, in the data's own units.
      synthetic: `(m, time, feature)`.
      columns: names of the features.
      training: what the generator was trained on, where `real` is not: floors are then training
        against real windows, and the memorisation check compares distances to both.
      fresh: where `real` is what the generator was trained on, other draws of the same simulator,
        for floors and for the memorisation check.
      training_starts: `Series.position` at which training windows start, if they can overlap.
      real_starts: rows at which the real windows start, likewise.
      protocol: written into the scores.
      seed: of the evaluators.
      evaluators: how long they train, and the scale of values.

    Returns:
      Of `scores.json`, without what only a run knows.

    Raises:
      DataError: as `suite.planned`.
    """
    scores = suite.planned(
        real,
        synthetic,
        columns,
        reference=fresh if training is None else training,
        seed=seed,
        evaluators=evaluators,
    )
    memorised = functools.partial(
        _memorisation,
        synthetic,
        real if training is None else training,
        fresh if training is None else real,
        training_starts=training_starts,
        held_out_starts=None if training is None else real_starts,
        seed=seed,
    )

    def finish(found: Sequence[Any]) -> dict[str, Any]:
        entries = {"protocol": protocol} | scores.finish(found[:-1]) | {"memorisation": found[-1]}
        entries["notes"] += [NOTES[protocol]] if protocol in NOTES else []
        return entries

    seconds = (real.size + synthetic.size) / (20_000 * 24 * 5)
    return Plan((*scores.units, Unit("memorisation", seconds, memorised)), finish)


def own(units: Sequence[Unit], process: int = 0, processes: int = 1) -> dict[int, Any]:
    """As `plan.own`, with a progress bar."""
    number = plan.owners(units, processes).count(process)
    with progress("evaluate", number, unit="part") as show:

        def named(done: int, total: int, name: str) -> None:
            del total
            show(done, {"now": name})

        return plan.own(units, named, process, processes)


def _memorisation(
    synthetic: Windows, known: Windows, held_out: Windows | None, **options: Any
) -> dict[str, Any]:
    """The check in units of the training windows' range."""
    low, high = known.min(axis=(0, 1)), known.max(axis=(0, 1))
    span = np.where(high > low, high - low, 1)
    return memorisation(
        (synthetic - low) / span,
        (known - low) / span,
        None if held_out is None else (held_out - low) / span,
        **options,
    )


def read(path: epath.Path) -> dict[str, Any]:
    """A `scores.json` that has everything that is read of one.

    Raises:
      DataError: it is damaged; the message names the file.
    """
    try:
        return check(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, *BAD_CONTENT) as error:
        raise DataError(f"{path} is damaged ({error})") from error


def check(scores: Any) -> dict[str, Any]:
    """Scores, if they have everything that is read of them.

    Raises:
      DataError: they have not; the message says what.
    """
    wrong = _wrong(scores, _FORM, "")
    for name, entry in {} if wrong else scores["scores"].items():
        form = {"skipped": str} if "skipped" in entry else _VALUES
        wrong = wrong or _wrong(entry, form, f"scores.{name}.")
        if "by_view" in entry:
            wrong = wrong or _wrong(entry, _JUDGED, f"scores.{name}.")
    if not wrong and not all(isinstance(note, str) for note in scores.get("notes", [None])):
        wrong = "notes"
    if not wrong and "reconstruction" in scores:
        wrong = _wrong(scores["reconstruction"], {"mean_absolute": float}, "reconstruction.")
    if not wrong and "by_stage" in scores:
        wrong = _wrong(scores["by_stage"], _STAGES, "by_stage.")
    if not wrong and "adherence" in scores:
        wrong = _wrong_adherence(scores["adherence"])
    if wrong:
        raise DataError(f"{wrong} is missing, or not what a score has")
    return scores


def _wrong_adherence(found: Any) -> str:
    """As `_wrong`; labels have the scores that their windows are enough for."""
    wrong = _wrong(found, _ADHERENCE, "adherence.")
    for name, words in {} if wrong else found["by_label"].items():
        for word, entry in words.items():
            form = {score: _LABELLED[score] for score in _LABELLED if score in entry}
            wrong = wrong or _wrong(entry, form, f"adherence.by_label.{name}.{word}.")
    return wrong


def _wrong(found: Any, form: Any, at: str) -> str:
    """The first key of `found` that is not of its form, or ""."""
    if isinstance(form, list):
        if not isinstance(found, list):
            return at
        return next(filter(None, (_wrong(each, form[0], at) for each in found)), "")
    if isinstance(form, tuple):
        return "" if found is None else _wrong(found, form[0], at)
    if form is float:
        return "" if type(found) is float or (type(found) is int and abs(found) < 2**63) else at
    if not isinstance(form, dict):
        return "" if type(found) is form else at
    if not isinstance(found, dict):
        return at or "everything"
    keys = found if ... in form else form
    wrong = (_wrong(found.get(k), form[... if ... in form else k], f"{at}{k}.") for k in keys)
    return next((key for key in wrong if key), "")


def table(scores: dict[str, Any]) -> str:
    """The scores as lines for a terminal: value, interval, floor, ceilings, verdict."""
    rows = [("score", "value", "± 95%", "floor", "shuffled", "Gaussian", "verdict")]
    for entry in scores["scores"].values():
        if "skipped" in entry:
            rows.append((entry["label"], "", "", "", "", "", f"skipped: {entry['skipped']}"))
            continue
        ceilings = entry["ceilings"]
        rows.append(
            (
                entry["label"],
                f"{entry['mean']:.4f}",
                "" if entry["half_width"] is None else f"{entry['half_width']:.4f}",
                f"{entry['floor']['mean']:.4f}",
                f"{ceilings['shuffled']['mean']:.4f}",
                f"{ceilings['gaussian']['mean']:.4f}",
                entry["verdict"],
            )
        )
    width = max(len(row[0]) for row in rows)
    lines = [
        f"{row[0]:<{width}}" + "".join(f"{cell:>10}" for cell in row[1:6]) + f"  {row[6]}"
        for row in rows
    ]
    lines.insert(1, "-" * max(len(line) for line in lines))
    windows = scores["windows"]
    lines += [
        "",
        scores["verdict"],
        *(entry["given_away"] for entry in scores["scores"].values() if "given_away" in entry),
        scores["memorisation"]["verdict"],
        f"Floors, ceilings and verdicts: {windows['calibration']:,} windows a set. Values: "
        f"{windows['real']:,} real and {windows['synthetic']:,} synthetic windows.",
        *scores["notes"],
    ]
    if "reconstruction" in scores:
        error = scores["reconstruction"]["mean_absolute"]
        lines.append(f"The VAE alone reproduces windows to {error:.4f} of the range on average.")
    lines += _stage_lines(scores) + scores.get("adherence", {}).get("said", [])
    return "\n".join(lines)


def _stage_lines(scores: dict[str, Any]) -> list[str]:
    """A line a view of the trees: what they tell of samples, and of what the VAE alone makes."""
    stages, lines = scores.get("by_stage", {}), []
    for name, view in scores["scores"].get("detection", {}).get("by_view", {}).items():
        parts = [f"{view['mean']:.0%} of samples"]
        parts += [
            f"{views[name]['mean']:.0%} of reconstructions from {stage}"
            for stage, views in stages.items()
            if name in views
        ]
        lines.append(f"Right by {name.replace('_', ' ')} alone: {', '.join(parts)}.")
    return lines
