"""Memory and time of a table larger than memory: described, trained on, sampled.

    python -m benchmarks.large --rows=100000000 --folder=large [--out=benchmarks/results/large.json]

Simulates `--rows` seconds of eight sensors as Parquet files, once, then runs each command in a
process of its own and writes the most memory that it held and the seconds that it took. Resident
pages of the stored rows count as the process's where it touches them.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

FILE_ROWS, GROUP_ROWS = 10_000_000, 1_000_000
PERIODS = np.array([60, 600, 3_600, 3_600, 43_200, 86_400, 86_400, 604_800.0])  # seconds
VAE_STEPS, LDM_STEPS = 400, 1_600  # a minute or so of training, on 2 cores


def simulate(folder: pathlib.Path, rows: int) -> None:
    """Writes the table, or leaves what is there: cycles and noise that lasts, to three digits."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, first in enumerate(range(0, rows, FILE_ROWS)):
        path = folder / f"part-{number:04d}.parquet"
        if path.exists():
            continue
        partial, writer = path.with_suffix(".partial"), None
        for begin in range(first, min(first + FILE_ROWS, rows), GROUP_ROWS):
            count = min(GROUP_ROWS, rows - begin)
            table = _group(begin, count)
            writer = writer or pq.ParquetWriter(partial, table.schema)
            writer.write_table(table, row_group_size=GROUP_ROWS)
        assert writer is not None
        writer.close()
        partial.replace(path)


def _group(begin: int, count: int) -> pa.Table:
    random = np.random.default_rng(begin)
    seconds = begin + np.arange(count)
    noise = random.standard_normal((count, 8), np.float32)
    noise[1:] += 0.7 * noise[:-1]
    level = 10 * np.sin(2 * np.pi * seconds[:, None] / PERIODS)
    values = np.round(20 + level + noise, 3).astype(np.float32)
    times = np.datetime64("2020-01-01", "s") + seconds
    return pa.table({"time": times} | {f"sensor_{i}": values[:, i] for i in range(8)})


def measured(command: list[str], log: pathlib.Path) -> dict[str, float]:
    """Runs a command; its seconds, and the most memory that it held, in GiB.

    Raises:
      SystemExit: it failed.
    """
    began = time.monotonic()
    with log.open("a") as file:
        child = subprocess.Popen([sys.executable, "-m", *command], stdout=file, stderr=file)
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed; see {log}")
    seconds = time.monotonic() - began
    return {"seconds": round(seconds, 1), "peak_gib": round(usage.ru_maxrss / 2**20, 2)}


def main() -> None:
    """Flags as in the module's text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path)
    given = parser.parse_args()
    data, log = given.folder / "data", given.folder / "log.txt"
    simulate(data, given.rows)
    launch = [
        "timeldm_jax.launch",
        "--config=configs/table.py",
        f"--config.data.path={data}",
        f"--config.data.cache_dir={given.folder / 'cache'}",
        f"--config.vae.steps={VAE_STEPS}",
        f"--config.ldm.steps={LDM_STEPS}",
        "--config.data.placement=streamed",
        f"--workdir={given.folder / 'run'}",
    ]
    found: dict[str, object] = {"rows": given.rows, "date": pd.Timestamp.now().date().isoformat()}
    for name, command in (
        ("describe", ["timeldm_jax.describe", str(data)]),
        ("train", [*launch, "--stages=vae,ldm"]),
        ("resume", [*launch, "--stages=vae,ldm"]),
        ("sample", [*launch, "--stages=sample"]),
        ("evaluate and report", [*launch, "--stages=evaluate,report"]),
    ):
        found[name] = measured(command, log)
        print(name, found[name], flush=True)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
