"""What each score sees: real windows, spoilt in five ways at five strengths, against real ones.

    python benchmarks/corruption.py --set=etth --out=corruption.json --plot=scores_response.png

The answer of a score is its ratio to the floor; 1 and below is what other real windows score. The
evaluators train for less than the published protocol (`EVALUATORS`): 26 evaluations take a quarter
of an hour on two cores. Windows are of blocks of time that the real ones are not of.
"""

import argparse
import json

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float

from timeldm_jax import config as configuration
from timeldm_jax.data import dataset as datasets
from timeldm_jax.metrics import judges, suite

Windows = Float[np.ndarray, "n time feature"]

COUNT = 1_500  # windows of each set
EVALUATORS = suite.Evaluators(3, 500, 1_000, 200, 40)
STRENGTHS = {
    "noise": (0.01, 0.03, 0.1, 0.3, 1.0),
    "smoothing": (0.1, 0.25, 0.5, 0.75, 1.0),
    "shift": (1, 2, 4, 8, 12),
    "dropped modes": (0.05, 0.1, 0.2, 0.35, 0.5),
    "swapped features": (0.02, 0.05, 0.1, 0.25, 0.5),
}
MEANINGS = {
    "noise": "Gaussian noise of so many deviations of a feature",
    "smoothing": "so much of each value is the mean of five around it",
    "shift": "half of the features come so many steps later than the rest",
    "dropped modes": "the windows with the highest mean of the first feature, so many, are absent",
    "swapped features": "in so many windows two features change places",
}


def spoil(windows: Windows, kind: str, strength: float, random: np.random.Generator) -> Windows:
    """Windows scaled to [0, 1], spoilt."""
    count, time, features = windows.shape
    if kind == "noise":
        return windows + strength * windows.std(axis=(0, 1)) * random.normal(size=windows.shape)
    if kind == "smoothing":
        padded = np.pad(windows, ((0, 0), (2, 2), (0, 0)), "edge")
        mean = sum(padded[:, i : i + time] for i in range(5)) / 5
        return (1 - strength) * windows + strength * mean
    if kind == "shift":
        found = windows.copy()
        found[..., features // 2 :] = np.roll(windows[..., features // 2 :], int(strength), axis=1)
        return found
    if kind == "dropped modes":
        level = windows[..., 0].mean(axis=1)
        kept = windows[level <= np.quantile(level, 1 - strength)]
        return kept[random.integers(0, len(kept), count)]
    found = windows.copy()
    for i in random.permutation(count)[: round(strength * count)]:
        one, two = random.permutation(features)[:2]
        found[i][:, [one, two]] = found[i][:, [two, one]]
    return found


def answers(
    real: Windows, synthetic: Windows, reference: Windows, columns: tuple[str, ...]
) -> dict[str, float]:
    """The ratio of each score to its floor; of judges, the accuracy."""
    found = suite.score(real, synthetic, columns, reference=reference, evaluators=EVALUATORS)
    return {
        name: entry["calibrated"]["mean"]
        / (1 if name in judges.MEANINGS else entry["floor"]["mean"])
        for name, entry in found["scores"].items()
    }


def plot(curves: dict[str, dict[str, list[float]]], path: str) -> None:
    """A panel a score, a line a kind."""
    names = list(next(iter(curves.values())))
    columns = 4
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(10, 2.1 * rows), sharex=True)
    for axis, name in zip(axes.ravel(), names, strict=False):
        for kind, scores in curves.items():
            axis.plot(range(6), scores[name], marker=".", label=kind)
        judge = name in judges.MEANINGS
        axis.axhline(0.5 if judge else 1.0, color="gray", linewidth=0.8)
        axis.set_yscale("linear" if judge else "log")
        axis.set_title(suite.SCORES[name][0], fontsize=9)
    for axis in axes.ravel()[len(names) :]:
        axis.axis("off")
    handles, labels = axes.ravel()[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, frameon=False)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, dpi=110)


def main() -> None:
    """Scores all, and prints, writes and draws the curves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--set", default="etth")
    parser.add_argument("--out", default="corruption.json")
    parser.add_argument("--plot", default="")
    args = parser.parse_args()
    config = configuration.load(f"configs/{args.set}.py")
    config.data.protocol = "heldout"
    data = datasets.load_dataset(config)
    series, random = data.series, np.random.default_rng(0)
    low, high = data.series.training_rows().min(axis=0), data.series.training_rows().max(axis=0)
    real = series.windows(np.sort(random.permutation(series.test)[:COUNT]))
    others = random.permutation(series.train)[: 2 * COUNT]
    reference, clean = (series.windows(np.sort(part)) for part in np.split(others, 2))
    scaled = (clean - low) / (high - low)
    columns = tuple(series.columns)
    untouched = answers(real, clean, reference, columns)
    curves: dict[str, dict[str, list[float]]] = {}
    for kind, strengths in STRENGTHS.items():
        curves[kind] = {name: [value] for name, value in untouched.items()}
        for strength in strengths:
            spoilt = spoil(scaled, kind, strength, np.random.default_rng(1)) * (high - low) + low
            for name, value in answers(real, spoilt, reference, columns).items():
                curves[kind][name].append(value)
            print(kind, strength, {n: round(v[-1], 2) for n, v in curves[kind].items()}, flush=True)
    with open(args.out, "w") as file:
        result = {"set": args.set, "count": COUNT, "strengths": STRENGTHS, "curves": curves}
        json.dump(result, file, indent=1)
    if args.plot:
        plot(curves, args.plot)


if __name__ == "__main__":
    main()
