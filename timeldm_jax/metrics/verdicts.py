"""What the runs of a score come to: mean and interval, and where they lie beside the floor."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

CONFIDENCE = 0.995  # one-sided, that a real set lies within the floor
NOTHING = "says nothing: useless windows are within its floor too"


def summary(runs: Float[np.ndarray, " runs"]) -> dict[str, Any]:
    """Runs, mean and half-width of the 95% t-interval of the mean; None where there is one run."""
    half = None
    if len(runs) > 1:
        half = float(stats.t.ppf(0.975, len(runs) - 1) * stats.sem(runs))
    return {"runs": runs.tolist(), "mean": float(runs.mean()), "half_width": half}


def summaries(
    published: Any, calibrated: Any, floor: Any, ceilings: dict[str, Any]
) -> dict[str, Any]:
    """A score's entry in the result: of all windows, of equal numbers, its floor and ceilings."""
    return summary(np.asarray(published)) | {
        "calibrated": summary(np.asarray(calibrated)),
        "floor": summary(np.asarray(floor)),
        "ceilings": {name: summary(np.array([float(run)])) for name, run in ceilings.items()},
    }


def judge(score: dict[str, Any]) -> dict[str, Any]:
    """Adds the comparison with the floor, in numbers and words, to a score and its ceilings.

    A score whose floor holds every ceiling `tells` nothing: of few windows, floors are wide.
    """
    ceilings = {
        name: ceiling | compare([ceiling["mean"]], score["floor"]["runs"])
        for name, ceiling in score["ceilings"].items()
    }
    for ceiling in ceilings.values():
        if ceiling["within_floor"]:
            ceiling["verdict"] = "not seen by this score"
    beside_floor = compare(score["calibrated"]["runs"], score["floor"]["runs"])
    tells = not ceilings or not all(ceiling["within_floor"] for ceiling in ceilings.values())
    if not tells:
        beside_floor |= {"within_floor": False, "verdict": NOTHING}
    return score | {"ceilings": ceilings, "tells": tells} | beside_floor


def compare(runs: list[float], floor: list[float]) -> dict[str, Any]:
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


def overall(scores: dict[str, Any]) -> str:
    """All scores in a sentence or two."""
    judged = {name: entry for name, entry in scores.items() if "skipped" not in entry}
    silent = [entry["label"] for entry in judged.values() if not entry.get("tells", True)]
    judged = {name: entry for name, entry in judged.items() if entry.get("tells", True)}
    above = {name: entry for name, entry in judged.items() if not entry["within_floor"]}
    said = f"{len(judged) - len(above)} of {len(judged)} scores are within the floor."
    if above:
        worst = max(above.values(), key=lambda entry: entry["ratio"] or math.inf)
        said += f" Furthest from it: {worst['label']}, {worst['verdict']}."
    elif judged:
        said = f"All {len(judged)} scores are within the floor: as close as real windows are."
    else:
        said = "No score tells anything of so few windows."
    if silent and judged:
        several = len(silent) > 1
        said += (
            f" {', '.join(silent)} {'say' if several else 'says'} nothing: there are too few "
            f"windows for {'them' if several else 'it'}."
        )
    return said
