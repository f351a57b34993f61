"""The benchmark table: train, sample and score the shipped recipes, beside the published rows.

    python benchmarks/quality.py --set=sines --seeds=3     # hours; a rerun resumes
    python benchmarks/quality.py --set=etth --protocol=heldout --seeds=1
    python benchmarks/quality.py --set=etth --window=256 --seeds=1
    python benchmarks/quality.py --docs      # renews the tables of docs/benchmarks.md and README.md

The first forms write benchmarks/results/quality_<set>[_<protocol>][_<window>].json. A work
directory is `--runs`/<name>-<seed>. `--docs` needs no run: it reads the committed results.
"""

import argparse
import json
import logging
import pathlib
import time
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from etils import epath
from scipy import stats
from scores import RESULTS, ROOT, machine

from timeldm_jax import config as configuration
from timeldm_jax import experiment, results
from timeldm_jax.data import dataset as datasets
from timeldm_jax.loading import load_generator
from timeldm_jax.versions import package_versions
from timeldm_jax.workdir import Workdir

SETS = ("sines", "mujoco", "stocks", "etth", "fmri", "energy")
LABELS = dict(zip(SETS, ("Sines", "MuJoCo", "Stocks", "ETTh", "fMRI", "Energy"), strict=True))
LONG = ("etth_64", "etth_128", "etth_256", "energy_64", "energy_128", "energy_256")
SCORES = {
    "context_fid": "Context-FID",
    "discriminative": "Discriminative",
    "predictive": "Predictive",
    "correlational": "Correlational",
}
START, END = "<!-- quality: written by benchmarks/quality.py --docs -->", "<!-- /quality -->"
LONG_START, LONG_END = "<!-- long: written by benchmarks/quality.py --docs -->", "<!-- /long -->"
VIEWS = {"values": "values", "changes": "changes", "second_differences": "second differences"}
LEVEL = 0.05
# Scores stretch each feature to [0, 1]; published errors on Sines are of values in [½, 1].
PUBLISHED_UNIT = {("sines", "predictive"): 0.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", choices=SETS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--protocol", default="paper", choices=("paper", "heldout"))
    parser.add_argument("--window", type=int, default=24)
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs" / "quality")
    parser.add_argument("--docs", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.set:
        measure(
            arguments.set, arguments.seeds, arguments.protocol, arguments.window, arguments.runs
        )
    elif arguments.docs:
        write_docs()
    else:
        parser.error("say --set=… or --docs")


def measure(name: str, seeds: int, protocol: str, window: int, runs: pathlib.Path) -> None:
    """Runs each seed to its scores and writes what came of all so far."""
    label = name + ("" if protocol == "paper" else f"_{protocol}")
    label += "" if window == 24 else f"_{window}"
    path = RESULTS / f"quality_{label}.json"
    config = configuration.load(f"configs/{name}.py")
    config.data.protocol, config.data.window = protocol, window
    configuration.validate(config)
    before = json.loads(path.read_text()) if path.exists() else {}
    fresh = before["fresh"] if "fresh" in before else fresh_scores(config)
    results = []
    for seed in range(seeds):
        config.seed = config.sample.seed = seed
        results.append(one_run(config, runs / f"{label}-{seed}"))
        found = {
            "set": name,
            "protocol": protocol,
            "window": window,
            "config": config.to_dict() | {"seed": list(range(len(results)))},
            "runs": results,
            "fresh": fresh,
            "machine": machine(),
            "versions": package_versions(),
        }
        path.write_text(json.dumps(found, indent=1) + "\n")


def fresh_scores(config: Any) -> dict[str, list[float]] | None:
    """What as many fresh draws of a simulator score in our samples' place; None for real sets."""
    dataset = datasets.load_dataset(config)
    if not len(dataset.series.fresh):
        return None
    config = config.copy_and_resolve_references()
    config.evaluate.repeats = 10
    windows = dataset.series.windows(dataset.series.fresh)
    scores = results.evaluate_samples(config, dataset, windows, 0)["scores"]
    return {score: scores[score]["runs"] for score in SCORES}


def one_run(config: Any, workdir: pathlib.Path) -> dict[str, Any]:
    """Scores, minutes, sizes and the memorisation verdict of one training."""
    run = Workdir(epath.Path(workdir))
    clock = workdir / "seconds.json"
    seconds = json.loads(clock.read_text()) if clock.exists() else {}
    for stage in ("vae", "ldm", "sample", "evaluate"):
        start = time.monotonic()
        experiment.run_stages(config, run, (stage,))
        if stage not in seconds:
            seconds[stage] = round(time.monotonic() - start, 1)
            clock.write_text(json.dumps(seconds))
    scores = json.loads((workdir / "scores.json").read_text())
    generator = load_generator(run)
    weights = (generator.vae_params, generator.ldm_params)
    parameters = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in weights]
    for _ in range(2):  # the first compiles
        start = time.monotonic()
        list(generator.sample(1_000, 0))
        sampling = time.monotonic() - start
    kept = ("runs", "mean", "half_width", "calibrated", "floor", "verdict", "by_view")
    memorisation = scores.get("memorisation") or {}
    return {
        "seed": config.seed,
        "seconds": seconds,
        "parameters": {"vae": parameters[0], "ldm": parameters[1]},
        "ms_per_1000_samples": round(1e3 * sampling),
        "windows": scores["windows"],
        "scores": {
            score: {key: entry[key] for key in kept if key in entry}
            for score, entry in scores["scores"].items()
        },
        "by_stage": scores.get("by_stage"),
        "memorisation": {
            key: memorisation[key]
            for key in ("verdict", "memorised", "share_closer_to_training")
            if key in memorisation
        },
    }


def combine(result: dict[str, Any], score: str) -> tuple[float, float, int]:
    """Mean, standard error and degrees of freedom of a score.

    Of the means of trainings where there are three or more, as repeats of one training share its
    luck; otherwise of all repeats.
    """
    unit = PUBLISHED_UNIT.get((result["set"], score), 1.0)
    entries = [np.multiply(unit, one["scores"][score]["runs"]) for one in result["runs"]]
    values = np.mean(entries, axis=1) if len(entries) >= 3 else np.concatenate(entries)
    return float(np.mean(values)), float(stats.sem(values)), len(values) - 1


def half_width(error: float, freedom: int) -> float:
    """Of the 95% t-interval."""
    return float(error * stats.t.ppf(0.975, freedom))


def welch(ours: tuple[float, float, int], published: list[float | None]) -> float | None:
    """P-value that the means are equal; None where no interval was published (five repeats)."""
    mean, error, freedom = ours
    if published[1] is None:
        return None
    other = published[1] / stats.t.ppf(0.975, 4)
    total = error**2 + other**2
    if total == 0:
        return None
    welch_freedom = total**2 / (error**4 / freedom + other**4 / 4)
    return float(2 * stats.t.sf(abs(mean - published[0]) / total**0.5, welch_freedom))


def holm(values: dict[Any, float]) -> dict[Any, bool]:
    """Which p-values are significant at 5% together (Holm 1979)."""
    significant, alive = {}, True
    for rank, (key, value) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        alive = alive and value <= LEVEL / (len(values) - rank)
        significant[key] = alive
    return significant


def floor_of(result: dict[str, Any], score: str) -> tuple[float, float]:
    """The floor's mean, and ours on sets of the same size."""
    entries = [one["scores"][score] for one in result["runs"]]
    means = [[e["floor"]["mean"], e["calibrated"]["mean"]] for e in entries]
    floor, ours = PUBLISHED_UNIT.get((result["set"], score), 1.0) * np.mean(means, axis=0)
    return float(floor), float(ours)


def load_results(names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The committed results of a table, by set."""
    paths = {name: RESULTS / f"quality_{name}.json" for name in names}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def write_docs() -> None:
    """Renews what is between the markers of both pages, and docs/quality.png."""
    results = load_results(SETS)
    published = json.loads((RESULTS.parent / "published.json").read_text())
    pages = {"docs/benchmarks.md": table, "README.md": summary}
    for name, make in pages.items():
        page = ROOT / name
        before, rest = page.read_text().split(START)
        _, after = rest.split(END)
        page.write_text(f"{before}{START}\n{make(results, published)}\n{END}{after}")
    page = ROOT / "docs/benchmarks.md"
    before, rest = page.read_text().split(LONG_START)
    _, after = rest.split(LONG_END)
    long = long_table(load_results(LONG), published)
    page.write_text(f"{before}{LONG_START}\n{long}\n{LONG_END}{after}")
    figure(results, published).savefig(ROOT / "docs" / "quality.png", dpi=110)


def summary(results: dict[str, dict[str, Any]], published: dict[str, Any]) -> str:
    """Markdown: a row a set, two scores beside the published ones."""
    shown = ("context_fid", "discriminative")
    heads = [f"{SCORES[score]}: ours | TimeLDM" for score in shown]
    lines = ["| | " + " | ".join(heads) + " | minutes |", "|---|" + "---:|" * 5]
    for name, result in results.items():
        cells = []
        for score in shown:
            mean, error, freedom = combine(result, score)
            cells.append(f"**{_number(mean)}** ± {_number(half_width(error, freedom))}")
            cells.append(_published(published[score]["TimeLDM"][name]))
        lines.append(f"| {LABELS[name]} | " + " | ".join(cells) + f" | {_minutes(result)} |")
    return "\n".join(lines)


def table(results: dict[str, dict[str, Any]], published: dict[str, Any]) -> str:
    """Markdown: a block of rows a score."""
    tests = {}
    for score in SCORES:
        for name in results:
            row = published[score].get("TimeLDM")
            p = welch(combine(results[name], score), row[name]) if row else None
            if p is not None:
                tests[score, name] = p
    different = holm(tests)
    lines = [
        "| | " + " | ".join(LABELS[name] for name in results) + " |",
        "|---|" + "---:|" * len(results),
    ]
    for score, label in SCORES.items():
        cells = []
        for name in results:
            mean, error, freedom = combine(results[name], score)
            mark = ""
            if different.get((score, name)):
                mark = " ▼" if mean < published[score]["TimeLDM"][name][0] else " ▲"
            cells.append(f"**{_number(mean)}** ± {_number(half_width(error, freedom))}{mark}")
        lines.append(f"| **{label}: ours** | " + " | ".join(cells) + " |")
        lines += fresh_row(results, score)
        pairs = [floor_of(results[name], score) for name in results]
        cells = [f"{_number(ours)} / {_number(floor)}" for floor, ours in pairs]
        lines.append("| ours / floor, equal sizes | " + " | ".join(cells) + " |")
        for rival, row in published[score].items():
            cells = [_published(row.get(name)) for name in results]
            if any(cells):
                lines.append(f"| {rival} | " + " | ".join(cells) + " |")
    if any(map(_judged, results.values())):
        judged = _cells(results, _judged)
        lines.append(f"| **Judges** of values, changes, second differences | {judged} |")
    lines.append("| **Cost: minutes of training** | " + _cells(results, _minutes) + " |")
    lines.append("| parameters, VAE + denoiser | " + _cells(results, _parameters) + " |")
    lines.append("| ms per 1,000 samples | " + _cells(results, _sampling) + " |")
    lines.append("| closer to training than to unseen | " + _cells(results, _memorised) + " |")
    return "\n".join(lines)


def long_table(results: dict[str, dict[str, Any]], published: dict[str, Any]) -> str:
    """Markdown: Context-FID / discriminative score of longer windows, a row a method."""
    shown = ("context_fid", "discriminative")
    heads = []
    for name in results:
        data, length = name.split("_")
        heads.append(f"{LABELS[data]} {length}")
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(results)]
    ours, floors = [], []
    for result in results.values():
        ours.append(" / ".join(f"**{_number(combine(result, score)[0])}**" for score in shown))
        pairs = [floor_of(result, score) for score in shown]
        floors.append("; ".join(f"{_number(own)} / {_number(floor)}" for floor, own in pairs))
    lines.append("| **ours** | " + " | ".join(ours) + " |")
    lines.append("| ours / floor, equal sizes | " + " | ".join(floors) + " |")
    rivals = dict.fromkeys(row for score in shown for row in published[score])
    for rival in rivals:
        cells = []
        for name in results:
            each = [_published(published[score].get(rival, {}).get(name)) for score in shown]
            cells.append(" / ".join(cell or "–" for cell in each) if any(each) else "")
        if any(cells):
            lines.append(f"| {rival} | " + " | ".join(cells) + " |")
    lines.append(
        "| judges: values, changes, second differences | " + _cells(results, _judged) + " |"
    )
    lines.append("| minutes of training | " + _cells(results, _minutes) + " |")
    return "\n".join(lines)


def fresh_row(results: dict[str, dict[str, Any]], score: str) -> list[str]:
    """What real windows of the simulators score in our samples' place."""
    cells = []
    for name, result in results.items():
        if not result.get("fresh"):
            cells.append("")
            continue
        runs = np.multiply(PUBLISHED_UNIT.get((name, score), 1.0), result["fresh"][score])
        width = half_width(float(stats.sem(runs)), len(runs) - 1)
        cells.append(f"{_number(float(np.mean(runs)))} ± {_number(width)}")
    return ["| fresh draws of the simulator | " + " | ".join(cells) + " |"] if any(cells) else []


def figure(results: dict[str, dict[str, Any]], published: dict[str, Any]) -> plt.Figure:
    """Ours, the floor and the published scores, a panel a score."""
    shown = ("context_fid", "discriminative")
    figure, axes = plt.subplots(1, len(shown), figsize=(10, 4.2), layout="constrained")
    for axis, score in zip(axes, shown, strict=True):
        for i, name in enumerate(results):
            mean, error, freedom = combine(results[name], score)
            width = half_width(error, freedom)
            axis.errorbar(i, mean, yerr=width, fmt="o", color="C0", zorder=3)
            axis.plot(i, max(floor_of(results[name], score)[0], 1e-4), "_", color="0.3", ms=18)
            for j, (rival, row) in enumerate(published[score].items()):
                if row.get(name) is not None:
                    label = rival if i == 0 else None
                    axis.plot(i + 0.15 * (j + 1), row[name][0], "x", color=f"C{j + 1}", label=label)
        axis.plot([], [], "o", color="C0", label="ours")
        axis.plot([], [], "_", color="0.3", label="floor, of half as many windows")
        axis.set_xticks(range(len(results)), [LABELS[name] for name in results])
        axis.set_yscale("log")
        axis.set_title(SCORES[score])
        axis.legend(fontsize=7)
    return figure


def _cells(results: dict[str, dict[str, Any]], cell: Any) -> str:
    return " | ".join(cell(result) for result in results.values())


def _minutes(result: dict[str, Any]) -> str:
    seconds = [one["seconds"]["vae"] + one["seconds"]["ldm"] for one in result["runs"]]
    return f"{np.median(seconds) / 60:.1f}"


def _parameters(result: dict[str, Any]) -> str:
    sizes = result["runs"][0]["parameters"]
    return f"{sizes['vae'] / 1e6:.2f} M + {sizes['ldm'] / 1e6:.2f} M"


def _sampling(result: dict[str, Any]) -> str:
    return f"{np.mean([one['ms_per_1000_samples'] for one in result['runs']]):,.0f}"


def _judged(result: dict[str, Any]) -> str:
    """How often trees are right about a window, by what they read; the mean of all trainings."""
    found = [one["scores"].get("detection", {}).get("by_view") for one in result["runs"]]
    if not all(found):
        return ""
    means = [np.mean([views[view]["mean"] for views in found]) for view in VIEWS]
    return ", ".join(_number(mean) for mean in means)


def _memorised(result: dict[str, Any]) -> str:
    """Of the run itself, or of the run of the held-out protocol."""
    path = RESULTS / f"quality_{result['set']}_heldout.json"
    if not result["runs"][0]["memorisation"].get("share_closer_to_training") and path.exists():
        result = json.loads(path.read_text())
    shares = [one["memorisation"].get("share_closer_to_training") for one in result["runs"]]
    if not all(shares):
        return "needs held-out windows"
    first = shares[0]
    return f"{np.mean([s['share'] for s in shares]):.2f} ({first['low']:.2f}–{first['high']:.2f})"


def _published(entry: list[float | None] | None) -> str:
    if entry is None:
        return ""
    value, width = entry
    return _number(value) + (f" ± {_number(width)}" if width is not None else "")


def _number(value: float) -> str:
    digits = 3 if abs(value) >= 0.1 else 4
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"


if __name__ == "__main__":
    main()
