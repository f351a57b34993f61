"""Where the time of a training step goes, by kind of XLA operation.

    python benchmarks/profile_step.py --set=etth --variant=paper --stage=vae [--top=5] [--threads]

Traces one compiled chunk of steps with `jax.profiler` and looks each event up in the program's HLO
text by its name. By default XLA keeps to one thread: with more, operations overlap and their times
add up to more than the step. On a CPU; other backends name their events otherwise.
"""

import argparse
import collections
import gzip
import json
import os
import pathlib
import re
import sys
import tempfile
from typing import NamedTuple

STEPS = 4


class Operation(NamedTuple):
    """An instruction of the compiled program that can show up in a trace."""

    kind: str
    shape: str
    source: str  # where in the Python program it comes from


def operations(hlo: str) -> dict[str, Operation]:
    """Every instruction of an HLO module by name, a fusion judged by what it holds."""
    bodies = dict(re.findall(r"^%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", hlo, re.MULTILINE | re.DOTALL))
    found = {}
    for line in hlo.splitlines():
        match = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(", line)
        if match:
            name, shape, opcode = match.groups()
            called = re.search(r"calls=%?([\w.\-]+)", line)
            text = line + (bodies.get(called[1], "") if called else "")
            source = re.search(r'op_name="([^"]*)"', line)
            found[name] = Operation(_kind(opcode, text), shape, source[1] if source else "")
    return found


def _kind(opcode: str, text: str) -> str:
    """The dearest kind of work in an instruction and what it calls."""
    inside = set(re.findall(r"(?<=[\w\])}] )([\w\-]+)\(", text)) | {opcode}
    if opcode in ("while", "call", "conditional"):
        return "control"  # spans the operations inside it, which have events of their own
    for kind, opcodes in (
        ("dot", {"dot"}),
        ("fft", {"fft"}),
        ("random", {"shift-right-logical", "rng-bit-generator"}),
        ("exp", {"exponential", "tanh", "logistic", "sine", "cosine", "log"}),
        ("reduce", {"reduce", "reduce-window"}),
        ("gather", {"gather", "dynamic-slice", "scatter"}),
        ("copy", {"copy", "transpose", "concatenate", "pad"}),
    ):
        if inside & opcodes:
            return "batched dot" if kind == "dot" and "_batch_dims=" in text else kind
    return "elementwise"


def durations(folder: pathlib.Path) -> collections.Counter[str]:
    """Microseconds of every event name in the one trace below `folder`."""
    (trace,) = folder.rglob("*.trace.json.gz")
    total: collections.Counter[str] = collections.Counter()
    for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]:
        if event.get("ph") == "X":
            total[event["name"]] += event["dur"]
    return total


def summary(times: collections.Counter[str], known: dict[str, Operation], top: int) -> str:
    """Milliseconds a step by kind, with the dearest `top` operations of each."""
    kinds: dict[str, list[tuple[float, Operation]]] = collections.defaultdict(list)
    for name, microseconds in times.items():
        operation = known.get(name)
        if operation and operation.kind != "control":
            kinds[operation.kind].append((microseconds / 1e3 / STEPS, operation))
    total = sum(ms for found in kinds.values() for ms, _ in found)
    lines = [f"{total:10.2f} ms a step in operations"]
    for kind, found in sorted(kinds.items(), key=lambda item: -sum(ms for ms, _ in item[1])):
        ms = sum(ms for ms, _ in found)
        lines.append(f"{ms:10.2f} ms {ms / total:6.1%}  {kind}, {len(found)} operations")
        for one, operation in sorted(found, key=lambda pair: -pair[0])[:top]:
            lines.append(f"{one:16.2f} ms  {operation.shape[:40]}  {operation.source[-80:]}")
    return "\n".join(lines)


def profile(name: str, variant: str, stage: str, top: int) -> str:
    """The summary of one stage of a shipped configuration."""
    import jax
    from problems import load_problem, make_training

    from timeldm_jax.training import parallel

    training = make_training(load_problem(name, variant), stage)
    state = training.init()
    chunk = parallel.chunk_runner(training.step, training.batch)(STEPS)
    compiled = chunk.lower(state, training.data).compile()
    state, metrics = compiled(state, training.data)
    jax.block_until_ready((state, metrics))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(compiled(state, training.data))
        return summary(durations(pathlib.Path(folder)), operations(compiled.as_text()), top)


def main() -> None:
    """Prints the summary of what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", default="etth", help="data set, a name in configs/")
    parser.add_argument("--variant", default="paper", help="its variant")
    parser.add_argument("--stage", default="vae", choices=("vae", "ldm"))
    parser.add_argument("--top", type=int, default=5, help="operations to list of each kind")
    parser.add_argument("--threads", action="store_true", help="let XLA use all cores")
    options = parser.parse_args()
    if not options.threads:  # read when JAX starts its first device
        flags = (os.environ.get("XLA_FLAGS", ""), "--xla_cpu_multi_thread_eigen=false")
        os.environ["XLA_FLAGS"] = " ".join(flags)
        if sys.platform == "linux":
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(profile(options.set, options.variant, options.stage, options.top))


if __name__ == "__main__":
    main()
