"""A trained model to draw from: windows, completions of windows, and long series.

All randomness follows from seeds: window i of a seed is the same whatever the batch or the devices.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from timeldm_jax import streams
from timeldm_jax.data import scaling
from timeldm_jax.data import table as tables
from timeldm_jax.data.scaling import Scaler
from timeldm_jax.data.schema import Schema
from timeldm_jax.diffusion import conditional, edm, samplers
from timeldm_jax.latents import LatentStats
from timeldm_jax.models import bind
from timeldm_jax.streams import Stream
from timeldm_jax.training import checkpoint, stages, state
from timeldm_jax.training.stages import Models
from timeldm_jax.training.state import TrainState
from timeldm_jax.workdir import Workdir

PRIOR_SAMPLES, PRIOR_BATCH = 4_000, 1_000
MODEL_SEED = 0  # of the draws by which a model learns its own covariance and marginals
MARGINAL_SAMPLES = 20_000
PyTree = Any


@dataclasses.dataclass(frozen=True)
class Generator:
    """A trained TimeLDM: all that sampling needs.

    Attributes:
      config: as trained.
      models: the networks.
      vae_params: averaged weights of the best VAE checkpoint.
      ldm_params: averaged weights of the best diffusion checkpoint.
      stats: between the VAE's latents and the diffusion's.
      scaler: back to the data's own units.
      columns: names of the features.
      schema: what the columns of the user's table are, or None where the data was no table.
      meta: metadata of the diffusion checkpoint.
      marginals: quantiles of the scaled training data that samples are mapped to, NaN for features
        that are left alone; None where `sample.match_marginals` is off.
    """

    config: ConfigDict
    models: Models
    vae_params: PyTree
    ldm_params: PyTree
    stats: LatentStats
    scaler: Scaler
    columns: tuple[str, ...]
    schema: Schema | None
    meta: dict[str, Any]
    marginals: Float[np.ndarray, "feature level"] | None = None

    def sample(self, count: int, seed: int) -> Iterator[Float[np.ndarray, "n window feature"]]:
        """Yields batches of synthetic windows in the data's own units, float64.

        Window i is a function of (seed, i) alone, whatever the batch size. Values lie between the
        smallest and largest of the training data, and with `config.sample.match_marginals` each
        feature is distributed as in it (an increasing map that 20,000 other samples define, drawn
        at the first call); windows of a table are as its columns can hold
        them (`table.snap`), within the range of the table.

        Args:
          count: windows in all.
          seed: of the noise.
        """
        batch = min(self.config.sample.batch, max(count, 1))
        devices = jax.local_device_count()
        batch = -(-batch // devices) * devices
        key = streams.seed_key(seed)
        for first in range(0, count, batch):
            index = jnp.arange(first, first + batch)
            drawn = self._draw(self.vae_params, self.ldm_params, self.stats, key, index)
            if self.marginals is not None:
                drawn = match_marginals(drawn, self._drawn_marginals, self.marginals)
            windows = self._finish(np.asarray(drawn)[: count - first])
            if self.schema is None:
                yield np.clip(windows, self.scaler.low, self.scaler.high)
            else:
                yield tables.within_range(windows, self.schema)

    def complete(
        self, observed: Float[np.ndarray, "n window feature"], seed: int, *turns: int
    ) -> Float[np.ndarray, "n window feature"]:
        """Windows that agree with what is observed of them, in the data's own units, float64.

        Args:
          observed: NaN where the model is to say.
          seed: of the noise. Window i depends on (seed, turns, i) alone.
          turns: which of several completions under one seed, none of which shares noise with
            another, with those of another seed, or with `sample`.
        """
        scaled = self.scaler.scale(observed).astype(np.float32)
        batch = min(self.config.sample.batch, len(observed))
        # The number of turns too: else (a, b) would draw from keys below those of (a,).
        key = streams.key(streams.seed_key(seed), Stream.COMPLETION, len(turns), *turns)
        parts = []
        for first in range(0, len(observed), batch):
            index = np.arange(first, first + batch)
            part = scaled[np.minimum(index, len(scaled) - 1)]
            arguments = (self.vae_params, self.ldm_params, self.stats, self._prior)
            found = self._complete(*arguments, key, index, part)
            parts.append(np.asarray(found)[: len(observed) - first])
        return np.where(np.isnan(observed), self._finish(np.concatenate(parts)), observed)

    def _finish(self, scaled: Float[np.ndarray, "n time feature"]) -> Any:
        windows = self.scaler.unscale(scaled)
        return windows if self.schema is None else tables.snap(windows, self.schema)

    @functools.cached_property
    def _complete(self) -> Any:
        """The compiled completion of scaled windows by their numbers."""
        denoiser, sigma_data = self.models.denoiser, self.config.ldm.noise.sigma_data

        def run(
            vae_params: PyTree,
            ldm_params: PyTree,
            stats: LatentStats,
            prior: conditional.Prior,
            key: Array,
            index: Array,
            observed: Array,
        ) -> Array:
            network = bind(denoiser, ldm_params)

            def noise(number: Array | int) -> Array:
                return state.normal(jax.random.fold_in(key, number), index, (self.models.flat,))

            deviation = stats.sigma_data(sigma_data)
            return conditional.complete(
                lambda z, sigma: edm.denoise(network, z, sigma, deviation),
                lambda z: self._decode(vae_params, stats, z),
                observed,
                noise,
                prior,
            )

        return jax.jit(run)

    @functools.cached_property
    def _prior(self) -> conditional.Prior:
        """The covariance of the diffusion's latents, of the model's own samples."""
        key, drawn = streams.key(streams.seed_key(MODEL_SEED), Stream.PRIOR), []
        for first in range(0, PRIOR_SAMPLES, PRIOR_BATCH):
            index = jnp.arange(first, first + PRIOR_BATCH)
            z = self._draw_latents(self.ldm_params, self.stats, key, index)
            drawn.append(np.asarray(z, np.float64))
        values, vectors = np.linalg.eigh(np.cov(np.concatenate(drawn).T))
        return conditional.Prior(
            jnp.asarray(np.maximum(values, 0), jnp.float32), jnp.asarray(vectors, jnp.float32)
        )

    @functools.cached_property
    def _drawn_marginals(self) -> Float[np.ndarray, "feature level"]:
        """`data.scaling.marginals` of the model's own samples: not of those that are mapped."""
        key, drawn = streams.key(streams.seed_key(MODEL_SEED), Stream.MARGINALS), []
        batch = jax.local_device_count() * PRIOR_BATCH
        for first in range(0, MARGINAL_SAMPLES, batch):
            index = jnp.arange(first, first + batch)
            windows = self._draw(self.vae_params, self.ldm_params, self.stats, key, index)
            drawn.append(np.asarray(windows)[: MARGINAL_SAMPLES - first])
        return scaling.marginals(np.concatenate(drawn).reshape(-1, len(self.columns)))

    @functools.cached_property
    def _draw_latents(self) -> Any:
        """The compiled draw of the diffusion's latents by their numbers."""
        c = self.config.sample
        sigmas = samplers.karras_sigmas(c.steps, c.sigma_min, c.sigma_max, c.rho)
        sigma_data = self.config.ldm.noise.sigma_data

        def draw(ldm_params: PyTree, stats: LatentStats, key: Array, index: Array) -> Array:
            network = bind(self.models.denoiser, ldm_params)

            def noise(stream: Stream, *numbers: Array | int) -> Array:
                return state.normal(streams.key(key, stream, *numbers), index, (self.models.flat,))

            start = noise(Stream.SAMPLE_START)
            deviation = stats.sigma_data(sigma_data)
            if c.solver == "polar":
                return samplers.polar(
                    lambda z, sigma: edm.raw_output(network, z, sigma, deviation),
                    start,
                    sigmas,
                    deviation,
                )
            return samplers.heun(
                lambda z, sigma: edm.denoise(network, z, sigma, deviation),
                start,
                sigmas,
                churn=c.churn,
                step_noise=functools.partial(noise, Stream.SAMPLE_CHURN),
            )

        return jax.jit(draw)

    @functools.cached_property
    def _draw(self) -> Any:
        """The compiled draw of scaled windows by their numbers, over all devices of this host."""

        def draw(
            vae_params: PyTree, ldm_params: PyTree, stats: LatentStats, key: Array, index: Array
        ) -> Array:
            z = self._draw_latents(ldm_params, stats, key, index)
            return self._decode(vae_params, stats, z)

        mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("sample",))
        shared = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("sample"))
        same = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        return jax.jit(draw, in_shardings=(same, same, same, same, shared), out_shardings=shared)

    def _decode(self, vae_params: PyTree, stats: LatentStats, z: Array) -> Array:
        """Windows in [0, 1] of the diffusion's flat latents."""
        vae = self.models.vae
        z = stats.invert(z).reshape(-1, vae.window, vae.latent)
        return bind(vae, vae_params, "decode")(z)


@jax.jit
def match_marginals(
    windows: Float[Array, "n time feature"],
    drawn: Float[Array, "feature level"],
    real: Float[Array, "feature level"],
) -> Float[Array, "n time feature"]:
    """Windows mapped feature by feature, increasing, so that quantiles `drawn` become `real`.

    Linear between quantiles, and no further than the outermost. A feature whose `real` is NaN stays
    as it is.
    """
    interpolate = jax.vmap(jnp.interp, in_axes=(-1, 0, 0), out_axes=-1)
    return jnp.where(jnp.isnan(real[:, 0]), windows, interpolate(windows, drawn, real))


def _marginals(meta: dict[str, Any]) -> Float[np.ndarray, "feature level"] | None:
    # Earlier versions say "margins"; before those there were none.
    saved = meta.get("marginals", meta.get("margins"))
    if saved is None:
        return None
    untouched = [np.nan] * len(scaling.MARGINAL_LEVELS)
    return np.array([row or untouched for row in saved], np.float32)


def load_generator(workdir: Workdir) -> Generator:
    """The generator that a work directory or a saved model holds.

    Raises:
      CheckpointError: a part is missing or damaged.
    """
    config = stages.read_config(workdir)
    columns = tuple(checkpoint.read_best_meta(workdir.ldm)["columns"])
    models = stages.build_models(config, len(columns))

    def ldm_template() -> TrainState:
        return stages.init_ldm_state(config, models, stages.zero_stats(config, models))

    restored, meta = checkpoint.restore_best(workdir.ldm, jax.eval_shape(ldm_template))
    vae_params, _ = stages.load_vae(config, models, workdir)
    return Generator(
        config=config,
        models=models,
        vae_params=vae_params,
        ldm_params=restored.ema,
        stats=LatentStats(*restored.latent_stats),
        scaler=Scaler.from_json(meta["scaler"]),
        columns=columns,
        schema=None if meta["schema"] is None else Schema.from_json(meta["schema"]),
        meta=meta,
        marginals=_marginals(meta),
    )
