"""Public tables as people have them, each by one command: does it train at first, and how well.

    TIMELDM_DATA_DIR=… python benchmarks/tables.py --budget=3m
    python benchmarks/tables.py --docs

Each command is `launch --config=configs/table.py` with nothing but the options that `describe`
names for that file. Writes `results/tables.json`: exit code, minutes, windows, verdict, judges;
`--docs` writes the table of docs/benchmarks.md from it.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "tables.json"
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- tables: written by benchmarks/tables.py --docs -->\n", "<!-- /tables -->"
# File, and what `describe` advises for it.
TABLES: dict[str, tuple[str, ...]] = {
    "ETTh1.csv": (),
    "stock_data.csv": (),
    "energydata_complete.csv": (),
    "field/air_quality_uci.csv": ("na_values=-200",),
    "field/bike_hour.csv": ("irregular=resample",),
    "field/cmapss_fd001_25_units.txt": ("entity=column_0", "time=column_1"),
    "field/covid_countries.csv": ("entity=Country",),
    "field/eeg_eye_state.csv": (),
    "field/opsd_daily.csv": (),
    "field/stock_panel.csv": ("entity=Stock", "irregular=sort"),
}


def main() -> None:
    """Runs tables in turn; what was measured of others before is kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = pathlib.Path(os.environ.get("TIMELDM_DATA_DIR") or ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=pathlib.Path, default=data)
    parser.add_argument("--budget", default="3m")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs" / "tables")
    parser.add_argument("--only", nargs="*", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--docs", action="store_true", help="write the table of the docs alone")
    arguments = parser.parse_args()
    if arguments.docs:
        before, after = PAGE.read_text().split(BEGIN)
        PAGE.write_text(before + BEGIN + written() + after[after.index(END) :])
        return
    found = json.loads(RESULTS.read_text())["tables"] if RESULTS.exists() else {}
    for name in arguments.only:
        options = TABLES[name]
        found[name] = one(arguments.data / name, options, arguments.budget, arguments.runs)
        print(name, found[name], flush=True)
        found = {known: found[known] for known in TABLES if known in found}
        content = {"budget": arguments.budget, "tables": found}
        RESULTS.write_text(json.dumps(content, indent=1) + "\n")


def one(path: pathlib.Path, options: tuple[str, ...], budget: str, runs: pathlib.Path) -> dict:
    """Trains, samples and scores one table; what came of it."""
    workdir = runs / path.stem
    command = [
        sys.executable, "-m", "timeldm_jax.launch", "--config=configs/table.py",
        f"--config.data.path={path}", f"--config.budget={budget}", f"--workdir={workdir}",
        *(f"--config.data.{option}" for option in options),
    ]  # fmt: skip
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    minutes = (time.monotonic() - started) / 60
    said = done.stdout + done.stderr
    windows = re.search(r"windows of (\d+): ([\d,]+) train", said)
    scores = workdir / "scores.json"
    content = json.loads(scores.read_text()) if scores.exists() else {}
    judged = content.get("scores", {})
    return {
        "options": list(options),
        "exit": done.returncode,
        "minutes": round(minutes, 2),
        "window": int(windows.group(1)) if windows else None,
        "within_floor": sum(bool(score["within_floor"]) for score in judged.values()),
        "scores": len(judged),
        "verdict": content.get("verdict", said.strip().splitlines()[-1][:300] if said else ""),
        "judges": accuracies(judged.get("detection", {}).get("by_view", {})),
        "of_the_vae": accuracies(next(iter(content.get("by_stage", {}).values()), {})),
        "closer_to_training": content.get("memorisation", {}).get("share_closer_to_training"),
    }


def accuracies(views: dict[str, dict]) -> list[float]:
    """Of trees on values, changes and second differences."""
    return [round(view["mean"], 3) for view in views.values()]


def written() -> str:
    """The table of the docs, in Markdown."""
    lines = [
        "| table | options | minutes | within the floor | judges | of what the VAE makes "
        "| closer to training |",
        "|---|---|---:|---|---|---|---|",
    ]
    for name, found in json.loads(RESULTS.read_text())["tables"].items():
        within = re.match(r"(\d+) of (\d+) scores", found["verdict"])
        share = found.get("closer_to_training")
        cells = (
            f"`{pathlib.Path(name).name}`",
            ", ".join(f"`{option}`" for option in found["options"]) or "none",
            f"{found['minutes']:.1f}",
            f"{within[1]} of {within[2]}" if within else found["verdict"],
            ", ".join(map(short, found.get("judges", []))) or "–",
            ", ".join(map(short, found.get("of_the_vae", []))) or "–",
            f"{short(share['share'])} ({short(share['low'])}–{short(share['high'])})"
            if share
            else "–",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def short(share: float) -> str:
    """A share with two decimals, as in .52."""
    return f"{share:.2f}".removeprefix("0")


if __name__ == "__main__":
    main()
