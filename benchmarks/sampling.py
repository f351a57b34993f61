"""How near the command `sample` comes to what the devices draw, and how much memory it takes.

    python benchmarks/sampling.py --count=100000           # measures and writes the JSON
    python benchmarks/sampling.py --model=runs/mine --count=10000000 --out=many.json

The device's rate is that of `Generator.draws` alone, whose windows are thrown away; the command's
that of writing as many as shards of Parquet, less the time of a command that writes one window. The
rate of the device is taken before and after the command, half of the windows each, so that a
machine that slows down slows both. Without `--model`, a model of 24 x 7 is trained for some steps:
how good it is does not matter here.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import pandas as pd

RESULTS = pathlib.Path(__file__).parent / "results" / "sampling.json"
WARM = 3_000  # windows before the clock starts: both batch sizes are compiled


def train(folder: pathlib.Path) -> pathlib.Path:
    """A saved model of an hourly table of seven columns, windows of 24."""
    from timeldm_jax import TimeLDM
    from timeldm_jax import config as configuration

    random, t = np.random.default_rng(0), np.arange(3_000)
    columns = {
        f"c{i}": (10 * np.sin(t / (5 + 3 * i)) + random.normal(size=len(t))).round(2)
        for i in range(7)
    }
    when = pd.date_range("2024-01-01", periods=len(t), freq="h")
    config = configuration.base()
    configuration.apply_table(config)
    config.data.window = 24
    for stage in (config.vae, config.ldm):
        stage.steps, stage.eval_every, stage.chunk = 40, 20, 10
    target = folder / "model"
    TimeLDM(config=config).fit(pd.DataFrame({"when": when, **columns})).save(target, report=False)
    return target


def raw(model: str, count: int) -> None:
    """Prints the seconds in which the devices draw so many windows."""
    import jax

    from timeldm_jax import TimeLDM

    generator = TimeLDM.load(model).generator
    generator.described()
    for _ in generator.draws(WARM, 1):
        pass
    began = time.monotonic()
    for _ in generator.draws(count, 0):
        pass
    window, features = generator.models.vae.window, len(generator.columns)
    devices = f"{jax.local_device_count()} {jax.devices()[0].device_kind}"
    seconds = time.monotonic() - began
    print(json.dumps({"s": seconds, "window": window, "features": features, "devices": devices}))


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def command_seconds(model: str, count: int, out: str) -> float:
    began = time.monotonic()
    run("-m", "timeldm_jax.sample", f"--model={model}", f"--count={count}", f"--out={out}")
    return time.monotonic() - began


def peak_of_command(model: str, count: int, out: str) -> tuple[float, float]:
    """Seconds of the command, and its peak memory in GiB: of a process that starts nothing else."""
    code = (
        "import json, resource, sys; sys.path.insert(0, sys.argv[1]); import sampling;"
        "s = sampling.command_seconds(sys.argv[2], int(sys.argv[3]), sys.argv[4]);"
        "print(json.dumps([s, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20]))"
    )
    here = str(pathlib.Path(__file__).parent)
    seconds, gib = json.loads(run("-c", code, here, model, str(count), out))
    return seconds, gib


def measure(model: str, count: int) -> dict[str, object]:
    this = str(pathlib.Path(__file__))
    with tempfile.TemporaryDirectory() as folder:
        command_seconds(model, 1, f"{folder}/warm/")  # compiles what the others find
        begins = command_seconds(model, 1, f"{folder}/one/")
        halves = count // 2, count - count // 2
        before = json.loads(run(this, f"--raw={model}", f"--count={halves[0]}"))
        seconds, gib = peak_of_command(model, count, f"{folder}/many/")
        after = json.loads(run(this, f"--raw={model}", f"--count={halves[1]}"))
        shards = sorted(pathlib.Path(folder, "many").glob("*.parquet"))
        written = sum(path.stat().st_size for path in shards)
    device = before["s"] + after["s"]
    return {
        "date": datetime.date.today().isoformat(),
        "devices": before["devices"],
        "cores": os.cpu_count(),
        "shape": [count, before["window"], before["features"]],
        "shards": len(shards),
        "written_mib": round(written / 2**20, 1),
        "device_s": round(device, 1),
        "command_s": round(seconds, 1),
        "start_up_s": round(begins, 1),
        "rate_of_device": round(device / (seconds - begins), 3),
        "rate_of_device_with_start_up": round(device / seconds, 3),
        "peak_gib": round(gib, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="", help="a saved model or a run; default: trains one")
    parser.add_argument("--count", type=int, default=100_000, help="windows")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="the JSON")
    parser.add_argument("--raw", default="", help=argparse.SUPPRESS)
    own = parser.parse_args()
    if own.raw:
        raw(own.raw, own.count)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measure(own.model or str(train(pathlib.Path(folder))), own.count)
    own.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
