"""From noise to windows: what a trained model computes, as pure functions of its weights.

`Generator` compiles them, places weights, and counts windows.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from timeldm_jax import streams
from timeldm_jax.diffusion import conditional, edm, samplers
from timeldm_jax.latents import Drift, LatentStats
from timeldm_jax.models import bind
from timeldm_jax.models.denoiser import Denoiser
from timeldm_jax.models.vae import VAE
from timeldm_jax.streams import Stream
from timeldm_jax.training import state
from timeldm_jax.training.stages import Models

PyTree = Any


def network(denoiser: Denoiser, params: PyTree, context: tuple[Array, ...]) -> edm.Network:
    """The denoiser's network of windows with these `asked.Vectors`."""
    bound = bind(denoiser, params)
    if len(context) < 2:
        return lambda z, label: bound(z, label, *context)
    found, free, strength = context
    return edm.guided(
        lambda z, label: bound(z, label, found),
        lambda z, label: bound(z, label, free),
        strength,
    )


def decode(
    vae: VAE, params: PyTree, stats: LatentStats, z: Float[Array, "batch flat"]
) -> Float[Array, "batch time feature"]:
    """Windows in [0, 1] of the diffusion's flat latents."""
    z = stats.invert(z).reshape(-1, vae.window, vae.latent)
    return bind(vae, params, "decode")(z)


def latents(models: Models, config: ConfigDict) -> Callable[..., Float[Array, "batch flat"]]:
    """The draw of the diffusion's latents by their numbers.

    Returns:
      A function of the denoiser's weights, the latents' statistics, the key of a seed, numbers of
      windows `(batch,)`, and `asked.Vectors`.
    """
    c = config.sample
    sigmas = samplers.karras_sigmas(c.steps, c.sigma_min, c.sigma_max, c.rho)
    sigma_data = config.ldm.noise.sigma_data

    def draw(
        params: PyTree,
        stats: LatentStats,
        key: Array,
        index: Array,
        context: tuple[Array, ...] = (),
    ) -> Array:
        run = network(models.denoiser, params, context)

        def noise(stream: Stream, *numbers: Array | int) -> Array:
            return state.normal(streams.key(key, stream, *numbers), index, (models.axes,))

        start = noise(Stream.SAMPLE_START)
        deviation = stats.sigma_data(sigma_data)
        if c.solver == "polar":
            return samplers.polar(
                lambda z, sigma: edm.raw_output(run, z, sigma, deviation),
                start,
                sigmas,
                deviation,
            )
        return samplers.heun(
            lambda z, sigma: edm.denoise(run, z, sigma, deviation),
            start,
            sigmas,
            churn=c.churn,
            step_noise=functools.partial(noise, Stream.SAMPLE_CHURN),
        )

    return draw


def windows(
    models: Models, draw_latents: Callable[..., Float[Array, "batch flat"]]
) -> Callable[..., Float[Array, "batch time feature"]]:
    """The draw of scaled windows by their numbers.

    Returns:
      A function of the VAE's weights, of what `latents` takes, with the drift of its samples, `()`
      for none, before the key.
    """

    def draw(
        vae_params: PyTree,
        ldm_params: PyTree,
        stats: LatentStats,
        drift: Drift | tuple[()],
        key: Array,
        index: Array,
        context: tuple[Array, ...],
    ) -> Array:
        z = draw_latents(ldm_params, stats, key, index, context)
        z = drift.mend(z) if isinstance(drift, Drift) else z
        return decode(models.vae, vae_params, stats, z)

    return draw


def completions(
    models: Models, config: ConfigDict
) -> Callable[..., Float[Array, "batch time feature"]]:
    """The completion of scaled windows by their numbers.

    Returns:
      A function of weights of both stages with the latents' statistics, their covariance, a key,
      numbers of windows `(batch,)`, what is observed of them and `asked.Vectors`.
    """
    sigma_data = config.ldm.noise.sigma_data

    def run(
        weights: tuple[PyTree, PyTree, LatentStats],
        prior: conditional.Prior,
        key: Array,
        index: Array,
        observed: Array,
        context: tuple[Array, ...],
    ) -> Array:
        vae_params, ldm_params, stats = weights
        denoiser = network(models.denoiser, ldm_params, context)

        def noise(number: Array | int) -> Array:
            return state.normal(jax.random.fold_in(key, number), index, (models.axes,))

        deviation = stats.sigma_data(sigma_data)
        return conditional.complete(
            lambda z, sigma: edm.denoise(denoiser, z, sigma, deviation),
            lambda z: decode(models.vae, vae_params, stats, z),
            observed,
            noise,
            prior,
        )

    return run
