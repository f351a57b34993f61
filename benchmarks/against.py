"""How fast this checkout is beside another one, such as a worktree of an earlier commit.

    git worktree add ../before COMMIT
    python benchmarks/against.py ../before

Runs each checkout's own `throughput.py`, without PyTorch, in turn: a machine that slows down slows
both. A ratio is the median of the rounds' own ratios; above 1 this checkout is faster.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

HERE = pathlib.Path(__file__).parents[1]
RESULTS = HERE / "benchmarks" / "results" / "against.json"


def main() -> None:
    """Measures and prints a table; writes the JSON."""
    parser = argparse.ArgumentParser(description="Two checkouts, in turn.")
    parser.add_argument("other", type=pathlib.Path, help="the other checkout")
    parser.add_argument("--sets", default="sines,etth", help="data sets, joined by commas")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each checkout")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="the JSON")
    options = parser.parse_args()
    trees = {"this": HERE, "other": options.other.resolve()}
    found: dict[str, dict[str, list[float]]] = {name: {} for name in trees}
    for turn in range(options.rounds):
        # Who is first takes turns, too.
        for name in sorted(trees, reverse=bool(turn % 2)):
            for stage, seconds in _measure(trees[name], options.sets).items():
                found[name].setdefault(stage, []).append(seconds)
    report = {
        "commits": {name: _commit(tree) for name, tree in trees.items()},
        "rounds": options.rounds,
        "milliseconds": {
            name: {stage: [round(1000 * s, 3) for s in each] for stage, each in stages.items()}
            for name, stages in found.items()
        },
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    commits, times = report["commits"], report["milliseconds"]
    lines = [
        f"| stage | {commits['this']}, ms | {commits['other']}, ms | times as fast |",
        "|---|---:|---:|---:|",
    ]
    for stage, ours in times["this"].items():
        ratios = [b / a for a, b in zip(ours, times["other"][stage], strict=True)]
        lines.append(
            f"| {stage} | {_spread(ours)} | {_spread(times['other'][stage])} | "
            f"{_spread(ratios, 3)} |"
        )
    return "\n".join(lines)


def _measure(tree: pathlib.Path, sets: str) -> dict[str, float]:
    """Seconds of each stage of each set, by the checkout's own benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "throughput.json"
        command = [sys.executable, "benchmarks/throughput.py", "--no-pytorch", "--rounds=1"]
        subprocess.run(
            [*command, f"--sets={sets}", f"--out={out}"],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        report = json.loads(out.read_text())
    return {
        f"{name}, {stage}": entry["jax"]["ms"]["median"] / 1000
        for name, stages in report["results"].items()
        for stage, entry in stages.items()
    }


def _commit(tree: pathlib.Path) -> str:
    """The checkout's commit, with a star where files differ from it."""
    command = ["git", "-C", str(tree), "describe", "--always", "--dirty=*", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _spread(values: list[float], digits: int = 4) -> str:
    middle = statistics.median(values)
    return f"{middle:.{digits}g} ({min(values):.{digits}g}–{max(values):.{digits}g})"


if __name__ == "__main__":
    main()
