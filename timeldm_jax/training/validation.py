"""Losses of the validation windows, at fixed draws, by which checkpoints are ranked."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from timeldm_jax import latents, streams
from timeldm_jax.data import runs
from timeldm_jax.data.runs import Runs
from timeldm_jax.data.series import DeviceWindows, fill, gather
from timeldm_jax.latents import LatentStats, Posteriors
from timeldm_jax.models import bind
from timeldm_jax.models.denoiser import Denoiser
from timeldm_jax.models.vae import VAE
from timeldm_jax.streams import Stream
from timeldm_jax.training import losses, state, steps
from timeldm_jax.training.state import TrainState

VALID_WINDOWS = 1024
LDM_VALID_DRAWS = 4
VALIDATION_SEED = 0  # the same for all runs, so that their validation losses can be compared

PyTree = Any


def few(starts: Int[np.ndarray, " n"] | Runs) -> Int[np.ndarray, " m"]:
    """At most VALID_WINDOWS starts, evenly spread: enough to rank checkpoints by."""
    return runs.evenly(starts, VALID_WINDOWS)


def _in_parts(count: int, size: int) -> Int[np.ndarray, "part size"]:
    """Numbers from 0 in equal parts; those from `count` on fill the last one."""
    return np.arange(-(-count // size) * size, dtype=np.int32).reshape(-1, size)


def of_vae(vae: VAE, data: DeviceWindows) -> Any:
    """Reconstruction loss of the validation windows, each at a fixed posterior draw of its own.

    Without the KL, whose weight changes as training goes on. Windows come in parts that fit in
    memory, and sums over the parts do not depend on how many there are.
    """
    count = len(data.starts)
    parts = _in_parts(count, latents.windows_per_call(vae, count))
    known = ~np.isnan(data.values)[data.starts[:, None] + np.arange(vae.window)]
    total = float(max(known.sum(), 1))

    @jax.jit
    def evaluate(
        params: PyTree, data: DeviceWindows, parts: Array, key: Array
    ) -> losses.ReconstructionTerms:
        def add(sums: losses.ReconstructionTerms, part: Array) -> Any:
            x = gather(data, jnp.minimum(part, count - 1), vae.window)
            x = jnp.where((part < count)[:, None, None], x, jnp.nan)  # as if nothing were known
            noise = state.normal(key, part, (vae.window, vae.latent))
            output = bind(vae, params)(fill(x), noise)
            terms = losses.reconstruction_terms(x, output.reconstruction, gaps=True, total=total)
            return jax.tree.map(jnp.add, sums, terms), None

        nothing = losses.ReconstructionTerms(*jnp.zeros(4))
        return jax.lax.scan(add, nothing, parts)[0]

    key = streams.key(streams.seed_key(VALIDATION_SEED), Stream.VAE_VALIDATION)
    fixed = jax.device_put((data, parts, key))

    def validate(params: PyTree) -> dict[str, float]:
        terms = jax.device_get(evaluate(params, *fixed))
        return {"loss": float(losses.reconstruction_loss(terms, vae.window)), "l1": float(terms.l1)}

    return validate


def of_ldm(
    denoiser: Denoiser, noise_config: steps.NoiseConfig, stats: LatentStats, data: Posteriors
) -> Any:
    """Denoising loss of the validation windows at fixed draws, noise and noise levels."""
    count, flat = data.mean.shape
    total = LDM_VALID_DRAWS * count
    key = streams.key(streams.seed_key(VALIDATION_SEED), Stream.LDM_VALIDATION)
    state_at_0 = TrainState(
        step=jnp.int32(0),
        params=(),
        opt_state=(),
        ema=(),
        beta=(),
        latent_stats=stats,
        key=jax.random.key_data(key),
    )

    @jax.jit
    def evaluate(params: PyTree, train: TrainState, data: Posteriors, parts: Array) -> Array:
        def of_part(part: Array) -> Array:
            of_all = steps.latent_losses(denoiser, noise_config, train, data, part % count, part)
            return jnp.sum(jnp.where(part < total, of_all(params), 0))

        return jax.lax.map(of_part, parts).sum() / total

    parts = _in_parts(total, latents.latents_per_call(flat, total))
    fixed = jax.device_put((state_at_0, data, parts))
    return lambda params: {"loss": float(jax.device_get(evaluate(params, *fixed)))}
