"""Which sampler, how many network evaluations, and does noise added on the way help?

    python benchmarks/studies/sampler.py [--set=etth] [--run=runs/quality/etth-0]

Windows of one trained model of `benchmarks/quality.py`, drawn in each way.
"""

import argparse
import dataclasses
import logging
import pathlib
import time
from typing import Any

import numpy as np
from etils import epath
from study import ROOT, Row, curves, summary, write

from timeldm_jax import results
from timeldm_jax.data import dataset as datasets
from timeldm_jax.diffusion import samplers
from timeldm_jax.generator import Generator
from timeldm_jax.loading import load_generator
from timeldm_jax.workdir import Workdir

QUESTION = __doc__.splitlines()[0]
# Solver, steps, churn. Heun calls the network 2·steps − 1 times.
WAYS = (
    *(("polar", steps, 0.0) for steps in (6, 9, 18, 36, 72)),
    *(("heun", steps, 0.0) for steps in (5, 9, 18, 36)),
    *(("heun", 36, churn) for churn in (4.0, 20.0)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--set", default="etth")
    parser.add_argument("--run", type=pathlib.Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    workdir = arguments.run or ROOT / "runs" / "quality" / f"{arguments.set}-0"
    generator = load_generator(Workdir(epath.Path(workdir)))
    dataset = datasets.load_dataset(generator.config)
    rows: list[Row] = []
    for solver, steps, churn in WAYS:
        rows.append(drawn(generator, dataset, solver, steps, churn))
        write("sampler", QUESTION, rows, lambda axes: draw(axes, rows))


def drawn(
    generator: Generator, dataset: datasets.Dataset, solver: str, steps: int, churn: float
) -> Row:
    """Scores of windows drawn in one way."""
    config = generator.config.copy_and_resolve_references()
    config.sample.update({"solver": solver, "steps": steps, "churn": churn})
    config.evaluate.repeats = 3
    changed = dataclasses.replace(generator, config=config)
    list(changed.sample(config.sample.batch, 0))  # compiles
    start = time.monotonic()
    windows = np.concatenate(list(changed.sample(config.sample.count, 0)))
    seconds = time.monotonic() - start
    label = f"{solver}, {steps} steps" + (f", churn {churn:g}" if churn else "")
    return {
        "label": label,
        "solver": solver,
        "churn": churn,
        "evaluations": samplers.evaluations(solver, steps),
        "ms a 1,000 windows": round(1e6 * seconds / len(windows)),
    } | summary(results.evaluate_samples(config, dataset, windows, 0))


def draw(axes: Any, rows: list[Row]) -> None:
    """A panel a score over evaluations, a line a sampler."""
    lines: dict[str, list[Row]] = {}
    for row in rows:
        label = row["solver"] + (f", churn {row['churn']:g}" if row["churn"] else "")
        lines.setdefault(label, []).append(row)
    curves(axes, rows, "evaluations", **lines)
    axes[0].legend(fontsize=7)


if __name__ == "__main__":
    main()
