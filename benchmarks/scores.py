"""What the score suite costs, and whether it agrees with the original evaluators.

    python benchmarks/scores.py                     # seconds and memory: 10,000 x 24 x 5 windows
    python benchmarks/scores.py --windows=100000    # the same for more, or fewer
    python benchmarks/scores.py --parity            # our means beside the originals'
    python benchmarks/scores.py --detection         # what the suite says of sets that are wrong

Each writes benchmarks/results/scores_<what>.json and prints a table. Cost model: the GRU scores
train a fixed number of steps, then read each window once; Context-FID trains a fixed number of
steps, then encodes each set once a repeat; the others sort. So time is a constant plus a part
linear in windows, and memory is linear.
"""

import argparse
import itertools
import json
import os
import pathlib
import platform
import resource
import time

import jax
import numpy as np

from timeldm_jax.metrics import context_fid, evaluation, suite, verdicts
from timeldm_jax.metrics.correlational import correlational_runs
from timeldm_jax.metrics.discriminative import discriminative_runs
from timeldm_jax.metrics.memorisation import memorisation
from timeldm_jax.metrics.predictive import predictive_runs
from timeldm_jax.versions import package_versions

RESULTS = pathlib.Path(__file__).parent / "results"
ROOT = pathlib.Path(__file__).resolve().parents[1]
SETS = ("fresh", "noisy", "slow", "swapped")
TRAINED = ("discriminative", "predictive", "context_fid")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=10_000)
    parser.add_argument("--parity", action="store_true")
    parser.add_argument("--detection", action="store_true")
    arguments = parser.parse_args()
    if arguments.parity:
        name, result, lines = "parity", *parity()
    elif arguments.detection:
        name, result, lines = "detection", *detection()
    else:
        name, result, lines = f"cost_{arguments.windows}", *cost(arguments.windows)
    result |= {"machine": machine(), "versions": package_versions()}
    (RESULTS / f"scores_{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(lines))


def sines(count: int, seed: int) -> np.ndarray:
    """docs/method.md, 6: `(count, 24, 5)`, in [0, 1]."""
    random = np.random.default_rng(seed)
    frequency, phase = random.uniform(0, 0.1, size=(2, count, 1, 5))
    return (np.sin(frequency * np.arange(24)[:, None] + phase) + 1) / 2


def machine() -> dict[str, object]:
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
    }


def cost(count: int) -> tuple[dict, list[str]]:
    """Seconds of each score, compilation included, and the process's peak memory."""
    real, synthetic = sines(count, 0), sines(count, 1)
    marks: list[tuple[str, float]] = []
    suite.score(
        real,
        synthetic,
        tuple("abcde"),
        show=lambda done, total, name: marks.append((name, time.perf_counter())),
    )
    seconds: dict[str, float] = {}
    for (name, now), (_, then) in itertools.pairwise(marks):  # of several parts, some
        seconds[name] = round(seconds.get(name, 0.0) + then - now, 2)
    start = time.perf_counter()
    memorisation(synthetic, real, sines(count, 2))
    seconds["memorisation"] = round(time.perf_counter() - start, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    total = sum(seconds.values())
    lines = [
        f"{count:,} x 24 x 5 windows against as many, 5 repeats, with floors and ceilings:",
        "",
        "| " + " | ".join([*seconds, "all", "all but Context-FID", "peak GiB"]) + " |",
        "|" + "---:|" * (len(seconds) + 3),
        "| "
        + " | ".join(
            [f"{s:.1f} s" for s in seconds.values()]
            + [f"{total:.0f} s", f"{total - seconds['context_fid']:.0f} s", f"{peak:.2f}"]
        )
        + " |",
    ]
    return {"windows": count, "seconds": seconds, "total": total, "peak_gib": peak}, lines


def parity_runs(arrays: dict[str, np.ndarray], score: str, repeats: int) -> dict[str, np.ndarray]:
    """Our runs of one trained score on each golden set, by set."""
    real = arrays["real"]
    pool = np.concatenate([real, *(arrays[name] for name in SETS)]).astype(np.float32)
    first = np.arange(len(real))
    places = {name: first + len(real) * (i + 1) for i, name in enumerate(SETS)}
    if score == "context_fid":
        params = context_fid.fit(pool[first], repeats=repeats)
        found: dict[str, list[float]] = {name: [] for name in SETS}
        for repeat in range(repeats):
            weights = jax.tree.map(lambda x, i=repeat: x[i], params)
            one = context_fid.describe(context_fid.encode(weights, pool[first]))
            for name in SETS:
                other = context_fid.describe(context_fid.encode(weights, pool[places[name]]))
                found[name].append(context_fid.frechet_distance(one, other))
        return {name: np.array(runs) for name, runs in found.items()}
    pairs = [(first, places[name]) for name in SETS for _ in range(repeats)]
    if score == "discriminative":
        runs = discriminative_runs(pool, pairs)
    else:
        runs = predictive_runs(pool, [(synthetic, real) for real, synthetic in pairs])
    return dict(zip(SETS, runs.reshape(len(SETS), repeats), strict=True))


def parity() -> tuple[dict, list[str]]:
    """The mean of 10 repeats beside the original's, and whether it lies in its interval.

    The interval is the original's 95% one, widened by ours. The order of two sets counts where the
    original's intervals of them are apart.
    """
    data = pathlib.Path(os.environ.get("TIMELDM_DATA_DIR") or ROOT.parent / "shared" / "data")
    with np.load(data.parent / "golden" / "sines.npz") as loaded:
        arrays = dict(loaded)
    original = json.loads((ROOT / "tests" / "golden" / "sines_original.json").read_text())
    lines = ["| score | set | original ± 95% | ours ± 95% | |", "|---|---|---:|---:|---|"]
    result: dict = {}
    for score in (*TRAINED, "correlational"):
        if score == "correlational":
            runs = {
                name: correlational_runs(arrays["real"], arrays[name], repeats=10) for name in SETS
            }
        else:
            runs = parity_runs(arrays, score, 10)
        result[score] = {}
        for name in SETS:
            theirs = verdicts.summary(np.array(original[name][score]))
            ours = verdicts.summary(runs[name].astype(float))
            inside = abs(ours["mean"] - theirs["mean"]) <= theirs["half_width"] + ours["half_width"]
            result[score][name] = {"original": theirs, "ours": ours, "inside": bool(inside)}
            lines.append(
                f"| {score} | {name} | {theirs['mean']:.5f} ± {theirs['half_width']:.5f} "
                f"| {ours['mean']:.5f} ± {ours['half_width']:.5f} "
                f"| {'inside' if inside else 'OUTSIDE'} |"
            )
        kept, apart = order(result[score])
        result[score]["order"] = {"pairs_apart": apart, "kept": kept}
        lines.append(f"| {score} | order of sets | | | {kept} of {apart} pairs that are apart |")
    return result, lines


def order(sets: dict[str, dict]) -> tuple[int, int]:
    """How many pairs of sets the original tells apart, and how many of them we order alike."""
    kept = apart = 0
    for i, one in enumerate(SETS):
        for other in SETS[:i]:
            a, b = sets[one]["original"], sets[other]["original"]
            if abs(a["mean"] - b["mean"]) > a["half_width"] + b["half_width"]:
                apart += 1
                ours = sets[one]["ours"]["mean"] - sets[other]["ours"]["mean"]
                kept += (a["mean"] > b["mean"]) == (ours > 0)
    return kept, apart


def detection() -> tuple[dict, list[str]]:
    """What the suite says of Sines that are right, and wrong in one way each."""
    count, random = 10_000, np.random.default_rng(9)
    real, fresh, other = sines(count, 0), sines(count, 1), sines(count, 2)
    kinds = [real.copy(), fresh.copy()]
    for windows in kinds:  # a tenth of a kind of its own
        windows[::10] = windows[::10, :, ::-1] * 0.5
    cases = {
        "fresh draws": (real, other, fresh),
        "copy of the training set": (real, real.copy(), fresh),
        "noise of 2% of the range": (
            real,
            other + random.normal(scale=0.02, size=real.shape),
            fresh,
        ),
        "played backwards": (real, other[:, ::-1], fresh),
        "a tenth of the windows left out": (kinds[0], other, kinds[1]),
    }
    result = {}
    lines = ["| synthetic set | above the floor | memorised |", "|---|---|---|"]
    for case, (known, synthetic, draws) in cases.items():
        scores = evaluation.evaluate(known, synthetic, tuple("abcde"), fresh=draws)
        above = {
            entry["label"]: entry["verdict"]
            for entry in scores["scores"].values()
            if not entry["within_floor"]
        }
        ceilings = {
            name: {c: v["verdict"] for c, v in entry["ceilings"].items()}
            for name, entry in scores["scores"].items()
        }
        memorised = scores["memorisation"]["memorised"]
        result[case] = {"above": above, "memorised": memorised, "ceilings": ceilings}
        said = ", ".join(f"{label} ({verdict})" for label, verdict in above.items()) or "none"
        lines.append(f"| {case} | {said} | {'yes' if memorised else 'no'} |")
    return {"cases": result}, lines


if __name__ == "__main__":
    main()
