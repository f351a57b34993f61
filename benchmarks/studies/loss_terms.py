"""Do the Fourier, L1, L2 and feature-mean terms of the VAE's loss earn their place?

    python benchmarks/studies/loss_terms.py [--set=etth]

Each is removed in turn, from our VAE and from the published one without skips, and windows that the
VAE gives back (posterior draws, decoded) are scored: no diffusion stands between.
"""

from typing import Any

import jax
import numpy as np
from study import Row, chosen_set, folder, short, summary, write

from timeldm_jax import experiment, latents, results
from timeldm_jax.data import dataset as datasets
from timeldm_jax.models import bind
from timeldm_jax.training import losses, stages
from timeldm_jax.workdir import Workdir

TERMS = ("fft", "l1", "l2", "feature_mean")


def main() -> None:
    name = chosen_set(__doc__.splitlines()[0])
    rows: list[Row] = []
    for skip in (False, True):
        for removed in (None, *TERMS):
            label = f"{'skips' if skip else 'no skips'}, " + (f"no {removed}" if removed else "all")
            rows.append(reconstructions(name, label, skip, removed))
            write("loss_terms", __doc__.splitlines()[0], rows, None)


def reconstructions(name: str, label: str, skip: bool, removed: str | None) -> Row:
    """Scores of decoded posterior draws of a VAE trained without a term."""
    whole = losses.reconstruction_loss

    def without(terms: losses.ReconstructionTerms, window: int) -> Any:
        return whole(terms._replace(**{removed: 0.0}) if removed else terms, window)

    config = short(name, vae__model__skip=skip)
    workdir = folder("loss_terms", label)
    losses.reconstruction_loss = without
    try:
        experiment.run_stages(config, Workdir(workdir), ("vae",))
    finally:
        losses.reconstruction_loss = whole
    dataset = datasets.load_dataset(config)
    models = stages.build_models(config, len(dataset.series.columns))
    params, _ = stages.load_vae(config, models, Workdir(workdir))
    random = np.random.default_rng(0)
    starts = random.choice(dataset.series.train, config.sample.count, replace=False)
    posteriors = latents.encode(models.vae, params, dataset.for_devices()(starts))
    noise = random.normal(size=posteriors.mean.shape)
    z = (posteriors.mean + np.exp(posteriors.log_variance / 2) * noise).astype(np.float32)
    z = z.reshape(-1, models.vae.window, models.vae.latent)
    windows = np.asarray(jax.jit(lambda p, z: bind(models.vae, p, "decode")(z))(params, z))
    scores = results.evaluate_samples(config, dataset, dataset.scaler.unscale(windows), 0)
    return {"label": label} | summary(scores)


if __name__ == "__main__":
    main()
