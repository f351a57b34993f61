"""What the devices of a run tell each other at each training step, read off the compiled program.

    python benchmarks/communication.py --set=etth --devices=8

The devices are fakes of one CPU: the program is the one that as many real ones run, its times are
not. docs/scale.md says that a step sums one float32 number for each weight, and a few losses, over
all devices, and nothing else; here they are counted.
"""

import argparse
import json
import math
import os
import re

# A summed array in XLA's text, alone or in a tuple: f32[32,64]{1,0}.
ARRAY = re.compile(r"(pred|bf16|[fsu]\d+)\[([\d,]*)\]")
COLLECTIVE = re.compile(
    r" = (.+?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", default="etth")
    parser.add_argument("--variant", default="", help="of the set's configuration, as paper")
    parser.add_argument("--devices", type=int, default=8)
    arguments = parser.parse_args()
    # Read when JAX is imported, which the modules below do.
    flag = f"--xla_force_host_platform_device_count={arguments.devices}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    from problems import STAGES, load_problem

    problem = load_problem(arguments.set, arguments.variant)
    for stage in STAGES:
        print(json.dumps({"stage": stage} | of_step(problem, stage)), flush=True)


def of_step(problem, stage: str) -> dict[str, int]:
    """Collectives of one training step: their kinds, and the bytes that a device puts in."""
    import jax
    from problems import make_training

    from timeldm_jax.training import parallel

    problem.config.devices = "shard_map"  # whose program can be asked for; pmap's is the same sums
    training = make_training(problem, stage)
    state = jax.eval_shape(training.init)
    run = parallel.chunk_runner(training.step, training.batch)(2)
    text = run.lower(state, training.data).compile().as_text()
    found = collectives(text)
    return {
        "devices": jax.device_count(),
        "weights": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)),
        "bytes": sum(found.values()),
    } | found


def collectives(text: str) -> dict[str, int]:
    """Bytes of the results of each kind of collective in a program's text.

    A loop's body stands there once, so those of a scan over steps are those of one step.
    """
    found: dict[str, int] = {}
    for shapes, kind in COLLECTIVE.findall(text):
        found[kind] = found.get(kind, 0) + sum(
            size_of(dtype) * math.prod(int(n) for n in shape.split(",") if n)
            for dtype, shape in ARRAY.findall(shapes)
        )
    return found


def size_of(dtype: str) -> int:
    """Bytes of a number, as f32 or bf16."""
    return 1 if dtype == "pred" else int(re.sub(r"\D", "", dtype)) // 8


if __name__ == "__main__":
    main()
