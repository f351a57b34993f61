"""When does the diffusion's loss of windows that it was not trained on stop falling?

    python benchmarks/studies/overfitting.py runs/quality/sines-0 runs/long-sines ...

Reads work directories of three sets: a panel a set, a line a directory.
"""

import argparse
import json
import pathlib
from typing import Any

from study import Row, write

QUESTION = __doc__.splitlines()[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("workdirs", nargs="+", type=pathlib.Path)
    rows = [losses(workdir) for workdir in parser.parse_args().workdirs]
    write("overfitting", QUESTION, rows, lambda axes: draw(axes, rows))


def losses(workdir: pathlib.Path) -> Row:
    """Training and validation loss at the steps that were validated."""
    config = json.loads((workdir / "config.json").read_text())
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    judged = [r for r in records if r["stage"] == "ldm" and r.get("valid_loss") is not None]
    name, steps = config["data"]["name"], config["ldm"]["steps"]
    return {
        "label": f"{name}, {steps:,} steps",
        "set": name,
        "step": [record["step"] for record in judged],
        "unseen": [round(record["valid_loss"], 5) for record in judged],
        "training": [round(record["loss"], 5) for record in judged],
    }


def draw(axes: Any, rows: list[Row]) -> None:
    """A panel a set: unseen windows solid, training dotted, 1 is the Gaussian's."""
    names = dict.fromkeys(row["set"] for row in rows)
    for axis, name in zip(axes, names, strict=True):
        for i, row in enumerate(row for row in rows if row["set"] == name):
            axis.plot(row["step"], row["unseen"], f"C{i}-", label=f"{row['label']}, unseen")
            axis.plot(row["step"], row["training"], f"C{i}:", label="training")
        axis.set(xlabel="step", title=name, ylim=(0.65, 1.05))
        axis.legend(fontsize=7)


if __name__ == "__main__":
    main()
