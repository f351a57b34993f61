"""What the studies share: short runs, their scores, and how results are written and drawn.

A study asks one question at a size that answers it in minutes: 1,000 VAE and 2,500 diffusion steps,
3,000 samples, three repeats of the evaluators. Compare rows of one study with each other, not with
the benchmark table. Each writes benchmarks/results/study_<name>.json and docs/study_<name>.png.
"""

import argparse
import itertools
import json
import logging
import pathlib
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
from etils import epath
from matplotlib import ticker

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from scores import RESULTS, ROOT, machine

from timeldm_jax import config as configuration
from timeldm_jax import experiment
from timeldm_jax.versions import package_versions
from timeldm_jax.workdir import Workdir

SHOWN = ("context_fid", "discriminative", "correlational")
Row = dict[str, Any]


def short(name: str, **overrides: Any) -> Any:
    """The recipe of a set, cut short, held out where the set is real; keys have `__` for dots."""
    config = configuration.load(f"configs/{name}.py")
    if name not in ("sines", "mujoco"):
        config.data.protocol = "heldout"
    changed = {
        "vae.steps": 1_000,
        "ldm.steps": 2_500,
        "ldm.eval_every": 500,
        "ldm.optimizer.ema": 0.995,
        "sample.count": 3_000,
        "sample.steps": 18,
        "evaluate.repeats": 3,
        "evaluate.discriminative_steps": 1_000,
        "evaluate.predictive_steps": 1_000,
    }
    changed |= {key.replace("__", "."): value for key, value in overrides.items()}
    config.update_from_flattened_dict(changed)
    configuration.validate(config)
    return config


def chosen_set(question: str) -> str:
    """The set that `--set` names, ETTh unless said; sets up the log."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--set", default="etth")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return parser.parse_args().set


def folder(study: str, label: str) -> epath.Path:
    """An empty work directory."""
    path = ROOT / "runs" / "studies" / study / label.replace(" ", "_")
    shutil.rmtree(path, ignore_errors=True)
    return epath.Path(path)


def whole_run(study: str, label: str, config: Any) -> Row:
    """Trains both stages, samples and scores."""
    workdir = folder(study, label)
    start = time.monotonic()
    experiment.run_stages(config, Workdir(workdir), ("vae", "ldm", "sample"))
    seconds = time.monotonic() - start
    experiment.run_stages(config, Workdir(workdir), ("evaluate",))
    scores = json.loads((workdir / "scores.json").read_text())
    return {"label": label, "seconds": round(seconds, 1)} | summary(scores)


def summary(scores: dict[str, Any]) -> Row:
    """The scores that studies compare."""
    row: Row = {}
    for name in (*SHOWN, "predictive", "increments", "spectrum"):
        entry = scores["scores"].get(name)
        if entry:
            row[name] = {
                "mean": round(entry["mean"], 5),
                "half_width": None
                if entry.get("half_width") is None
                else round(entry["half_width"], 5),
                "floor": round(entry["floor"]["mean"], 5),
            }
    if "reconstruction" in scores:
        row["reconstruction"] = scores["reconstruction"]
    return row


def write(study: str, question: str, rows: list[Row], draw: Callable[[Any], None] | None) -> None:
    """The JSON and the figure of what has been measured so far, and a table on the terminal."""
    result = {
        "study": study,
        "question": question,
        "rows": rows,
        "machine": machine(),
        "versions": package_versions(),
    }
    (RESULTS / f"study_{study}.json").write_text(json.dumps(result, indent=1) + "\n")
    figure, axes = plt.subplots(1, len(SHOWN), figsize=(11, 3.4), layout="constrained")
    if draw is None:
        bars(axes, rows)
    else:
        draw(axes)
    figure.savefig(ROOT / "docs" / f"study_{study}.png", dpi=100)
    plt.close(figure)
    for row in rows:
        figures = [f"{name} {row[name]['mean']:.4f}" for name in SHOWN if name in row]
        print(f"{row['label']:40s} {'  '.join(figures)}", flush=True)


def bars(axes: Any, rows: list[Row]) -> None:
    """A panel a score: a bar a row with its 95% interval, the floor as a line."""
    for axis, name in zip(axes, SHOWN, strict=True):
        places = range(len(rows))
        means = [row[name]["mean"] for row in rows]
        axis.barh(places, means, xerr=_half_widths(rows, name), color="C0", ecolor="0.5")
        for row, place in zip(rows, places, strict=True):
            axis.plot(2 * [row[name]["floor"]], [place - 0.4, place + 0.4], "0.1", ls=":")
        axis.set_yticks(places, [row["label"] for row in rows] if name == SHOWN[0] else [])
        axis.invert_yaxis()
        axis.set_title(name)
        if max(means) > 50 * min(means):
            axis.set_xscale("log")


def curves(axes: Any, rows: list[Row], key: str, **lines: list[Row]) -> None:
    """A panel a score: its value over a number of the rows, a line each where there are several."""
    for axis, name in zip(axes, SHOWN, strict=True):
        for label, line in (lines or {"": rows}).items():
            places = [row[key] for row in line]
            values = [row[name]["mean"] for row in line]
            axis.errorbar(
                places, values, _half_widths(line, name), fmt="o-", capsize=2, label=label
            )
        axis.plot([row[key] for row in rows], [row[name]["floor"] for row in rows], "0.1", ls=":")
        axis.set(xlabel=key, xscale="log", yscale="log", title=name)
        ticks = sorted({row[key] for row in rows})
        apart = [ticks[0]] + [b for a, b in itertools.pairwise(ticks) if b > 1.1 * a]
        axis.set_xticks(apart, [str(tick) for tick in apart])
        axis.xaxis.set_minor_locator(ticker.NullLocator())


def _half_widths(rows: list[Row], name: str) -> list[float]:
    return [row[name]["half_width"] or 0.0 for row in rows]
