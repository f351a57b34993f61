"""What the VAE alone does to test windows: `reconstruction` and `by_stage` of the scores."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from timeldm_jax import latents
from timeldm_jax.data import gaps
from timeldm_jax.data import table as tables
from timeldm_jax.data.dataset import Dataset
from timeldm_jax.metrics import detection, suite
from timeldm_jax.metrics.plan import Plan, Unit
from timeldm_jax.models import bind
from timeldm_jax.models.vae import VAE


def planned(config: ConfigDict, dataset: Dataset, vae: VAE, params: Any, seed: int) -> Plan:
    """A part for the error, and one for the judges of each stage.

    Windows are decoded from posterior means, from draws and, where the diffusion learns them, from
    exact latents.
    """
    series = dataset.series
    decode = functools.partial(jax.jit(lambda p, z: bind(vae, p, "decode")(z)), params)
    first = ("exact latents",) if config.ldm.posterior == "exact" else ()
    names = (*first, "means", "draws")

    @functools.cache
    def encoded() -> latents.Posteriors:
        return latents.encode(vae, params, dataset.for_devices()(series.test))

    @functools.cache
    def decoded(name: str) -> Float[np.ndarray, "n time feature"]:
        if name == "exact latents":
            windows = dataset.for_devices()(series.test)
            z = np.asarray(latents.encode(vae, params, windows, "exact").mean)
        else:
            found = encoded()
            z = np.asarray(found.mean)
            if name == "draws":
                noise = np.random.default_rng(seed).standard_normal(z.shape, np.float32)
                z = z + np.exp(np.asarray(found.log_variance) / 2) * noise
        return _decoded(vae, decode, z)

    def error() -> dict[str, Any]:
        scaled = dataset.some_scaled(series.test)
        return suite.reconstruction_error(scaled, decoded(names[0]), series.columns)

    def judged(name: str) -> dict[str, Any]:
        made = {name: as_data(dataset, decoded(name))}
        real, made = gaps.close_as(series.windows(series.test), made)
        return detection.by_stage(real, made, seed=seed, count=config.evaluate.trees)

    def finish(found: Sequence[Any]) -> dict[str, Any]:
        by_stage = {name: views for each in found[1:] for name, views in each.items()}
        return {"reconstruction": found[0], "by_stage": by_stage}

    # Two fits of a judge a view, of fewer columns than that of samples reads.
    numbers = len(series.test) * series.window * len(series.columns)
    seconds = 4 * min(numbers / (4_000 * 24 * 5), 2.5)
    units = [Unit("reconstruction", seconds / 10, error)]
    units += [Unit("reconstruction", seconds, functools.partial(judged, name)) for name in names]
    return Plan(tuple(units), finish)


def as_data(
    dataset: Dataset, scaled: Float[np.ndarray, "n time feature"]
) -> Float[np.ndarray, "n time feature"]:
    """Scaled windows in the data's own units, as it can hold them."""
    windows = dataset.scaler.unscale(scaled.astype(np.float64))
    if dataset.schema is None:
        return dataset.scaler.nearest(windows)
    return tables.snap(windows, dataset.schema)


def _decoded(
    vae: VAE, decode: Callable[[np.ndarray], Any], z: Float[np.ndarray, "n flat"]
) -> Float[np.ndarray, "n time feature"]:
    """Scaled windows of latents, in large batches."""
    parts = []
    batch = latents.windows_per_call(vae, latents.ENCODE_BATCH)
    for first in range(0, len(z), batch):
        part = z[first : first + batch]
        padded = np.resize(part, (batch, vae.window, vae.latent))
        parts.append(np.asarray(decode(padded))[: len(part)])
    return np.concatenate(parts)
