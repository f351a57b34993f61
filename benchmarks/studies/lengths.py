"""What do longer windows cost, in scores, time and memory, beside a recurrent generator?

    python benchmarks/studies/lengths.py             # 24 to 256 scored; 1,024 and 4,096 timed
    python benchmarks/studies/lengths.py --lengths=1024,4096   # these, beside what is there

ETTh. Each length runs in a process of its own, so that its peak memory is its own. The recurrent
generator is a three-layer GRU (as in TimeGAN) of as many parameters as VAE and denoiser together,
trained to predict the next step; only its speed is compared.
"""

import argparse
import json
import logging
import resource
import subprocess
import sys
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from study import RESULTS, Row, folder, short, summary, write

from timeldm_jax import experiment
from timeldm_jax.data import dataset as datasets
from timeldm_jax.generator import Generator
from timeldm_jax.training import stages
from timeldm_jax.workdir import Workdir

SCORED = (24, 64, 128, 256)
TIMED = (1_024, 4_096)
BATCHES = {1_024: 16, 4_096: 4}  # windows a step where 128 would not fit a small machine
DRAWN = 100  # windows whose sampling is timed, or the batch where it is smaller
QUESTION = "What do longer windows cost, beside a recurrent generator of the same size?"


class Recurrent(nn.Module):
    """Three GRU layers and a linear map."""

    hidden: int
    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(3):
            x = nn.RNN(nn.GRUCell(self.hidden))(x)
        return nn.Dense(self.features)(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", default=",".join(map(str, (*SCORED, *TIMED))))
    parser.add_argument("--one", type=int, help="a length, in this process")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.one:
        print(json.dumps(one(arguments.one)))
        return
    asked = [int(length) for length in arguments.lengths.split(",")]
    path = RESULTS / "study_lengths.json"
    before = json.loads(path.read_text())["rows"] if path.exists() else []
    rows: list[Row] = [row for row in before if row["length"] not in asked]
    for length in asked:
        command = [sys.executable, __file__, f"--one={length}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        rows.sort(key=lambda row: row["length"])
        write("lengths", QUESTION, rows, lambda axes: draw(axes, rows))


def draw(axes: Any, rows: list[Row]) -> None:
    """Context-FID, the cost of training and that of sampling over length."""
    scored = [row for row in rows if "context_fid" in row]
    for label, key, style in (("ours", "mean", "o-"), ("floor", "floor", ":")):
        values = [row["context_fid"][key] for row in scored]
        axes[0].plot([row["length"] for row in scored], values, style, label=label)
    axes[0].set_title("context_fid")
    lengths = [row["length"] for row in rows]
    for label in ("vae", "ldm"):
        values = [row[f"{label} ms a step"] / row["batch"] for row in rows]
        axes[1].plot(lengths, values, "o-", label=label)
    values = [row["recurrent"]["ms a step"] / row["batch"] for row in rows]
    axes[1].plot(lengths, values, "o-", label="recurrent")
    axes[1].set_title("ms a window of a training step")
    axes[2].plot(lengths, [row["draw ms a window"] for row in rows], "o-", label="ours")
    values = [row["recurrent"]["draw ms a window"] for row in rows]
    axes[2].plot(lengths, values, "o-", label="recurrent")
    axes[2].set_title("ms a window drawn")
    for axis in axes:
        axis.set_xlabel("length")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.legend()


def one(length: int) -> Row:
    """Cost of one length, and scores of those that are `SCORED`."""
    batch = BATCHES.get(length, 128)
    changed: dict[str, Any] = {"data__window": length, "vae__batch": batch, "ldm__batch": batch}
    if length in TIMED:  # a covariance of window · latent squared would not fit
        changed |= {"ldm__latents": "standard", "data__protocol": "paper"}
    config = short("etth", **changed)
    dataset = datasets.load_dataset(config)
    models = stages.build_models(config, len(dataset.series.columns))
    row: Row = {"label": f"{length} steps", "length": length, "batch": batch}
    for stage in ("vae", "ldm"):
        chunked = config.copy_and_resolve_references()
        chunked[stage].chunk = 5
        row[f"{stage} ms a step"] = round(1e3 * stages.step_seconds(chunked, dataset, stage), 1)
    drawn = min(DRAWN, batch)
    row["draw ms a window"] = round(1e3 * draw_seconds(config, models, drawn) / drawn, 2)
    row["peak GiB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    row["recurrent"] = recurrent(config, dataset, batch, drawn)
    if length in SCORED:
        workdir = folder("lengths", str(length))
        start = time.monotonic()
        experiment.run_stages(config, Workdir(workdir), ("vae", "ldm", "sample"))
        row["seconds"] = round(time.monotonic() - start, 1)
        experiment.run_stages(config, Workdir(workdir), ("evaluate",))
        row |= summary(json.loads((workdir / "scores.json").read_text()))
    return row


def draw_seconds(config: Any, models: stages.Models, drawn: int) -> float:
    """Of sampling some windows with weights that were not trained."""
    stats = jax.tree.map(jnp.ones_like, stages.zero_stats(config, models))
    vae = stages.init_vae_state(config, models).params
    ldm = stages.init_ldm_state(config, models, stats).params
    generator = Generator(
        config=config,
        models=models,
        vae_params=vae,
        ldm_params=ldm,
        stats=stats,
        scaler=None,  # type: ignore[arg-type]
        columns=(),
        schema=None,
        meta={},
    )
    index = jnp.arange(drawn)
    for _ in range(2):  # the first compiles
        start = time.monotonic()
        jax.block_until_ready(generator._draw(vae, ldm, stats, (), jax.random.key(0), index, ()))
        seconds = time.monotonic() - start
    return seconds


def recurrent(config: Any, dataset: datasets.Dataset, batch: int, drawn: int) -> dict[str, float]:
    """Milliseconds a training step and a drawn window of a GRU of as many parameters."""
    features = len(dataset.series.columns)
    models = stages.build_models(config, features)
    stats = stages.zero_stats(config, models)
    shapes = jax.eval_shape(
        lambda: (
            stages.init_vae_state(config, models).params,
            stages.init_ldm_state(config, models, stats).params,
        )
    )
    size = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    model = Recurrent(int((size / 15) ** 0.5), features)  # 3 layers: 15 hidden² and a little
    x = jnp.asarray(dataset.scaled()[: config.data.window])[None].repeat(batch, 0)
    params = model.init(jax.random.key(0), x[:, :2])
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            return jnp.mean(jnp.square(model.apply(params, x[:, :-1]) - x[:, 1:]))

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    sample = jax.jit(lambda params: model.apply(params, jnp.zeros((drawn, x.shape[1], features))))
    state = optimizer.init(params)
    timed = {}
    works = {"ms a step": lambda: step(params, state), "draw ms a window": lambda: sample(params)}
    for name, work in works.items():
        times = []
        for _ in range(3):
            start = time.monotonic()
            jax.block_until_ready(work())
            times.append(time.monotonic() - start)
        timed[name] = round(1e3 * min(times) / (drawn if "draw" in name else 1), 2)
    found = sum(leaf.size for leaf in jax.tree.leaves(params))
    return timed | {"parameters": found, "parameters of VAE and denoiser": int(np.int64(size))}


if __name__ == "__main__":
    main()
