"""Is diffusion in the VAE's latents better than in data, and than the VAE's own prior?

    python benchmarks/studies/latent_space.py [--set=etth]

The same denoiser, steps and sampler throughout. Data space is a VAE that was not trained: it starts
as the identity, and its posterior is given no width.
"""

import time
from typing import Any

import jax
import numpy as np
from etils import epath
from study import Row, chosen_set, folder, short, summary, write

from timeldm_jax import config as configuration
from timeldm_jax import experiment, latents, results
from timeldm_jax.data import dataset as datasets
from timeldm_jax.generator import Generator
from timeldm_jax.models import bind
from timeldm_jax.training import checkpoint, loop, parallel, stages, validation
from timeldm_jax.workdir import Workdir


def main() -> None:
    name = chosen_set(__doc__.splitlines()[0])
    rows: list[Row] = []
    for layout in ("standard", "principal"):
        for space in ("data", "VAE without skips", "VAE with skips"):
            config = short(name, ldm__latents=layout, vae__model__skip=space != "VAE without skips")
            label = f"{space}, {layout} axes"
            rows.append(diffusion(config, label, in_data=space == "data"))
            write("latent_space", __doc__.splitlines()[0], rows, None)
    for skip in (False, True):
        config = short(name, vae__model__skip=skip)
        label = f"prior of the VAE {'with' if skip else 'without'} skips"
        rows.append(prior(config, label))
        write("latent_space", __doc__.splitlines()[0], rows, None)


def diffusion(config: Any, label: str, *, in_data: bool) -> Row:
    """Scores of samples of a diffusion on latents, or on windows themselves."""
    workdir = folder("latent_space", label)
    start = time.monotonic()
    if in_data:
        dataset = datasets.load_dataset(config)
        generator = data_space(config, dataset, workdir)
        windows = np.concatenate(list(generator.sample(config.sample.count, 0)))
    else:
        experiment.run_stages(config, Workdir(workdir), ("vae", "ldm", "sample"))
        dataset = datasets.load_dataset(config)
        windows = np.load(workdir / "samples.npz")["samples"]
    seconds = round(time.monotonic() - start, 1)
    return {"label": label, "seconds": seconds} | summary(
        results.evaluate_samples(config, dataset, windows, 0)
    )


def data_space(config: Any, dataset: datasets.Dataset, workdir: epath.Path) -> Generator:
    """A generator whose VAE is the identity."""
    models = stages.build_models(config, len(dataset.series.columns))
    values = dataset.scaled()

    def flat(starts: np.ndarray) -> latents.Posteriors:
        windows = values[starts[:, None] + np.arange(models.vae.window)].reshape(len(starts), -1)
        return latents.Posteriors(windows)

    train, valid = flat(dataset.series.train), flat(dataset.series.valid)
    noise = configuration.noise_config(config)
    stats = latents.latent_stats(train, configuration.latent_config(config), noise.sigma_data)
    step, batch = stages.make_ldm_step(config, models), stages.make_batch(config, "ldm")
    stage = loop.Stage(
        name="ldm",
        data=train,
        compile_chunk=parallel.chunk_runner(step, batch),
        validate=validation.of_ldm(models.denoiser, noise, stats, valid),
        schedule=stages._schedule(config.ldm),
        folder=workdir / "ldm",
        journal=loop.Journal(Workdir(workdir)),
        meta=stages._meta(config, dataset) | {"vae_step": 0},
    )
    loop.train(stage, stages.init_ldm_state(config, models, stats))
    template = jax.eval_shape(lambda: stages.init_ldm_state(config, models, stats))
    restored, meta = checkpoint.restore_best(workdir / "ldm", template)
    return Generator(
        config=config,
        models=models,
        vae_params=stages.init_vae_state(config, models).params,
        ldm_params=restored.ema,
        stats=latents.LatentStats(*restored.latent_stats),
        scaler=dataset.scaler,
        columns=dataset.series.columns,
        schema=dataset.schema,
        meta=meta,
    )


def prior(config: Any, label: str) -> Row:
    """Scores of standard normal latents, decoded."""
    workdir = folder("latent_space", label)
    experiment.run_stages(config, Workdir(workdir), ("vae",))
    dataset = datasets.load_dataset(config)
    models = stages.build_models(config, len(dataset.series.columns))
    params, _ = stages.load_vae(config, models, Workdir(workdir))
    shape = (config.sample.count, models.vae.window, models.vae.latent)
    z = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    windows = np.asarray(jax.jit(lambda p, z: bind(models.vae, p, "decode")(z))(params, z))
    scores = results.evaluate_samples(config, dataset, dataset.scaler.unscale(windows), 0)
    return {"label": label} | summary(scores)


if __name__ == "__main__":
    main()
