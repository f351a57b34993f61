"""How fast training and sampling run, beside PyTorch and the machine's matrix-product rate.

    python benchmarks/throughput.py            # measures, writes the JSON, prints the table
    python benchmarks/throughput.py --table    # prints the table of the JSON that is there

At the `paper` sizes of each set: a step of VAE training, a step of latent-diffusion training, and
drawing windows at the paper's sampler settings. JAX runs as shipped, in chunks of steps on one
device, without compilation time; PyTorch as in `pytorch_baseline.py`, once `parity.py` has found
that both compute the same: eager, eager with `scaled_dot_product_attention` where there is
attention, and `torch.compile`. On a GPU both use it, with TensorFloat-32 products. All take turns,
so that a machine that slows down slows both: times are medians over rounds, a ratio is the median
of the rounds' own ratios.
"""

import argparse
import dataclasses
import datetime
import functools
import importlib.util
import json
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import flops
import jax
import jax.numpy as jnp
import numpy as np
from problems import (
    FEATURES,
    STAGES,
    Problem,
    load_problem,
    make_generator,
    make_training,
    with_sample_steps,
)

from timeldm_jax.training import parallel

RESULTS = pathlib.Path(__file__).parent / "results" / "throughput.json"
SETS = ("sines", "etth", "mujoco")

# OpenMP threads (PyTorch) stay busy for 10 ms after their work, OpenBLAS's (numpy) for 80 ms; XLA's
# do not. After a pause none takes time from whoever is measured next.
PAUSE = 0.2

# A sampling's time is linear in its Heun steps: two short runs give that of the full number. Far
# apart, because what they are off by grows with (full - few) / (more - few).
SHORT_STEPS = (2, 6)

# PyTorch's ways of running, as in the results, with their words.
WAYS = {"pytorch": "eager", "sdpa": "SDPA", "compiled": "compiled"}

Work = Callable[[], int]  # does some of the work, returns how many units
Times = dict[str, list[float]]  # seconds a unit, of each round


def main() -> None:
    """Measures, or prints what was measured."""
    options = _options()
    if options.table:
        print(table(json.loads(options.out.read_text())))
        return
    report = measure(options.sets, options.seconds, options.rounds, options.pytorch)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))


def measure(sets: list[str], seconds: float, rounds: int, pytorch: bool) -> dict[str, Any]:
    """The whole report, as it goes into the JSON."""
    on_cpu = jax.default_backend() == "cpu"
    size = 2048 if on_cpu else 8192
    load = round(os.getloadavg()[0], 2)
    if load > 0.5:
        _say(f"the machine is busy (load {load}): expect wrong figures")
    products: Times = {}
    timed: dict[str, dict[str, Any]] = {}
    parity = {}
    for name in sets:
        problem = load_problem(name, "paper")
        if pytorch:
            import parity as parities

            parity[name] = parities.check(problem)
            _say(f"{name}: PyTorch and JAX agree")
        for library, times in interleave(_products(size, pytorch), seconds / 4, rounds).items():
            products.setdefault(library, []).extend(times)
        timed[name] = {}
        for stage in STAGES:
            times = interleave(_training(problem, stage, pytorch, on_cpu), seconds, rounds)
            timed[name][stage] = times
            _say(f"{name} {stage}: {_brief(times)} a step")
        times = interleave(_sampling(problem, pytorch), seconds, rounds)
        timed[name]["sample"] = _whole_sampling(problem, times)
        _say(f"{name} sample: {_brief(timed[name]['sample'])} a batch")
    rates = {
        library: _spread([2 * size**3 / t / 1e9 for t in times])
        for library, times in products.items()
    }
    best = max(rate["median"] for rate in rates.values())
    return {
        "machine": _machine(pytorch),
        "measured": datetime.date.today().isoformat(),
        "settings": {"seconds": seconds, "rounds": rounds, "load_before": load},
        "matrix_product": {
            "size": size,
            "precision": "float32" if on_cpu else "float32 at JAX's default precision",
            "gflops": rates,
            "best": best,
        },
        "parity": parity,
        "results": {
            name: {stage: _entry(name, stage, times, best) for stage, times in stages.items()}
            for name, stages in timed.items()
        },
    }


def interleave(works: dict[str, Work], seconds: float, rounds: int) -> Times:
    """Seconds a unit of each work, one measurement of each in turn, round after round.

    A measurement lasts `seconds` or one call. Where calls are long, 3 rounds are enough.
    """
    for work in works.values():
        work()  # compiles, fills caches
    times: Times = {name: [] for name in works}
    start = time.perf_counter()
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - start > 5 * seconds * len(works):
            break
        for name, work in works.items():
            time.sleep(PAUSE)
            times[name].append(_seconds_a_unit(work, seconds))
    return times


def _seconds_a_unit(work: Work, seconds: float) -> float:
    start = time.perf_counter()
    units = 0
    while True:
        units += work()
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return elapsed / units


def _products(size: int, pytorch: bool) -> dict[str, Work]:
    """Square float32 matrix products of each library."""
    a, b = np.random.default_rng(0).random((2, size, size), np.float32)
    on_device = jax.device_put((a, b))
    product = jax.jit(jnp.matmul)

    def in_jax() -> int:
        product(*on_device).block_until_ready()
        return 1

    def in_numpy() -> int:
        a @ b
        return 1

    works: dict[str, Work] = {"jax": in_jax}
    if jax.default_backend() == "cpu":
        works["numpy"] = in_numpy
    if pytorch:
        import torch

        tensors = [torch.from_numpy(x).to(torch.get_default_device()) for x in (a, b)]

        def in_torch() -> int:
            torch.mm(*tensors)
            _wait()
            return 1

        works["pytorch"] = in_torch
    return works


def _training(problem: Problem, stage: str, pytorch: bool, on_cpu: bool) -> dict[str, Work]:
    """Steps of a stage."""
    training = make_training(problem, stage)
    # A chunk is short enough for a measurement and long enough for its one synchronisation not to
    # matter: a step takes 10 ms or more on a CPU.
    heavy = flops.step_flops(problem, stage) > 3e11
    length = 50 if not on_cpu else 2 if heavy else 5
    chunk = parallel.chunk_runner(training.step, training.batch)(length)
    state = training.init()

    def in_jax() -> int:
        nonlocal state
        state, metrics = chunk(state, training.data)
        jax.block_until_ready((state, metrics))
        return length

    works: dict[str, Work] = {"jax": in_jax}
    if pytorch:
        ways = ("pytorch", "sdpa", "compiled") if stage == "vae" else ("pytorch", "compiled")
        for way in ways:
            works[way] = _take(_torch_training(problem, stage, way), 1 if on_cpu else length)
    return works


def _torch_training(problem: Problem, stage: str, way: str) -> Iterator[Any]:
    import pytorch_baseline
    from parity import make_networks

    vae, denoiser = make_networks(problem)
    compiled = way == "compiled"
    if stage == "ldm":
        return pytorch_baseline.train_ldm(
            denoiser, problem.config, *problem.posteriors[:2], compiled=compiled
        )
    if way != "pytorch":
        pytorch_baseline.use_sdpa(vae)
    return pytorch_baseline.train_vae(
        vae, problem.config, problem.values, problem.starts, compiled=compiled
    )


def _take(iterator: Iterator[Any], length: int) -> Work:
    """Takes `length` items a call, and waits for the device."""

    def work() -> int:
        for _ in range(length):
            next(iterator)
        _wait()
        return length

    return work


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _sampling(problem: Problem, pytorch: bool) -> dict[str, Work]:
    """Batches of windows in few Heun steps; see `_whole_sampling`."""
    windows = problem.config.sample.batch
    configs = {n: with_sample_steps(problem.config, n) for n in SHORT_STEPS}
    generator = make_generator(problem)

    def in_jax(generator: Any) -> int:
        for _ in generator.sample(windows, seed=0):
            pass
        return 1

    works: dict[str, Work] = {
        f"jax {n}": functools.partial(in_jax, dataclasses.replace(generator, config=config))
        for n, config in configs.items()
    }
    if pytorch:
        import pytorch_baseline
        import torch
        from parity import make_networks

        vae, denoiser = make_networks(problem)
        pytorch_baseline.use_sdpa(vae)
        networks = {
            "pytorch": (denoiser, vae.decode),
            "compiled": (torch.compile(denoiser), torch.compile(vae.decode)),
        }

        def in_torch(way: str, config: Any) -> int:
            unit_noise = torch.randn(windows, problem.models.flat)
            network, decode = networks[way]
            pytorch_baseline.sample(vae, network, config, unit_noise, decode)
            return 1

        works |= {
            f"{way} {n}": functools.partial(in_torch, way, config)
            for way in networks
            for n, config in configs.items()
        }
    return works


def _whole_sampling(problem: Problem, short: Times) -> Times:
    """Seconds a batch at the full number of Heun steps, each round by its own straight line."""
    few, more = SHORT_STEPS
    factor = (problem.config.sample.steps - few) / (more - few)
    libraries = dict.fromkeys(name.split()[0] for name in short)
    return {
        library: [
            a + factor * (b - a)
            for a, b in zip(short[f"{library} {few}"], short[f"{library} {more}"], strict=True)
        ]
        for library in libraries
    }


def _entry(name: str, stage: str, times: Times, product_rate: float) -> dict[str, Any]:
    """Figures of a stage: a unit is a training step, or a batch of drawn windows."""
    problem = load_problem(name, "paper")
    if stage == "sample":
        windows = problem.config.sample.batch
        count = {"flops": flops.sampling_flops(problem, windows)}
    else:
        windows = problem.config[stage].batch
        count = {
            "flops": flops.step_flops(problem, stage),
            "xla_flops": flops.xla_step_flops(problem, stage),
        }
    entry: dict[str, Any] = {"windows": windows, **count}
    for library, seconds in times.items():
        median = statistics.median(seconds)
        gflops = count["flops"] / median / 1e9
        entry[library] = {
            "ms": _spread([1e3 * s for s in seconds]),
            "windows_per_s": _round(windows / median),
            "gflops": _round(gflops),
            "share": _round(gflops / product_rate),
        }
    entry["ratios"] = {
        library: _spread([a / b for a, b in zip(theirs, times["jax"], strict=True)])
        for library, theirs in times.items()
        if library != "jax"
    }
    return entry


def _machine(pytorch: bool) -> dict[str, Any]:
    cpu_info = pathlib.Path("/proc/cpuinfo")
    models = [
        line.split(":", 1)[1].strip()
        for line in (cpu_info.read_text().splitlines() if cpu_info.exists() else [])
        if line.startswith("model name")
    ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = {
        "cpu": models[0] if models else platform.machine(),
        "cores": cores,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("jax", "jaxlib", "numpy")},
    }
    if pytorch:
        import torch

        machine |= {"torch": torch.__version__, "torch_threads": torch.get_num_threads()}
    return machine


def table(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    machine, product = report["machine"], report["matrix_product"]
    named = {"vae": "VAE training", "ldm": "LDM training", "sample": "sampling"}
    columns = ("set", "stage", "ms", "windows/s", "share of product rate")
    columns += tuple(f"PyTorch {way}, ms" for way in WAYS.values())
    columns += tuple(f"times as fast as {way}" for way in WAYS.values())
    rows = [columns, ("---", "---", *["---:"] * (len(columns) - 2))]
    for name, stages in report["results"].items():
        for stage, entry in stages.items():
            ours = entry["jax"]
            rows.append(
                (
                    name,
                    named[stage],
                    _with_range(ours["ms"]),
                    f"{ours['windows_per_s']:,.0f}",
                    f"{ours['share']:.0%}",
                    *(_with_range(entry[way]["ms"]) if way in entry else "–" for way in WAYS),
                    *(_with_range(entry["ratios"].get(way)) for way in WAYS),
                )
            )
    rates = ", ".join(f"{name} {rate['median']:.0f}" for name, rate in product["gflops"].items())
    versions = ", ".join(
        f"{name} {machine[name]}" for name in ("jax", "torch", "numpy", "python") if name in machine
    )
    threads = f" ({machine['torch_threads']} threads)" if "torch_threads" in machine else ""
    device = "" if machine["device"] == "cpu" else f", {machine['devices']} × {machine['device']}"
    notes = (
        f"{machine['cpu']}, {machine['cores']} cores{device}; {versions}{threads}; "
        f"{report['measured']}. Medians of up to {report['settings']['rounds']} rounds "
        "(lowest to highest). "
        f"{product['precision']} matrix product of {product['size']}³, GFLOP/s: {rates}; the share "
        f"is of {product['best']:.0f}. ms: of a training step, or of a batch of drawn windows "
        f"({_windows(report)})."
    )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n\n" + notes


def _windows(report: dict[str, Any]) -> str:
    """The sizes of the batches, as words."""
    counts = {
        stage: sorted({stages[stage]["windows"] for stages in report["results"].values()})
        for stage in ("vae", "sample")
    }
    words = {stage: " or ".join(map(str, found)) for stage, found in counts.items()}
    return f"{words['vae']} windows a step, {words['sample']} a drawn batch"


def _with_range(spread: dict[str, float] | None) -> str:
    if spread is None:
        return "–"
    return f"{_digits(spread['median'])} ({_digits(spread['min'])}–{_digits(spread['max'])})"


def _digits(value: float) -> str:
    """Three significant digits, and whole numbers from 100 on."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _spread(values: list[float]) -> dict[str, float]:
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: _round(value) for name, value in figures.items()}


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def _brief(times: Times) -> str:
    return ", ".join(f"{name} {1e3 * statistics.median(t):.0f} ms" for name, t in times.items())


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", default=",".join(SETS), help="data sets, joined by commas")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement, at least")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each figure")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="the JSON")
    parser.add_argument("--no-pytorch", dest="pytorch", action="store_false", help="JAX alone")
    parser.add_argument("--table", action="store_true", help="only print the table of --out")
    options = parser.parse_args()
    options.sets = options.sets.split(",")
    unknown = set(options.sets) - set(FEATURES)
    if unknown:
        parser.error(f"--sets: {', '.join(sorted(unknown))} not among {', '.join(FEATURES)}")
    if options.table:
        return options
    if options.pytorch:
        import torch

        if jax.default_backend() == "gpu" and torch.cuda.is_available():
            torch.set_default_device("cuda")
            torch.set_float32_matmul_precision("high")
        elif jax.default_backend() != "cpu":
            _say("PyTorch does not see JAX's device; measuring JAX alone")
            options.pytorch = False
    if options.pytorch and importlib.util.find_spec("torch") is None:
        parser.error("PyTorch is not installed: pip install -e '.[bench]', or give --no-pytorch")
    return options


if __name__ == "__main__":
    main()
