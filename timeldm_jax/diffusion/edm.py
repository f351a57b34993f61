"""The EDM parametrisation as pure functions (Karras et al. 2022, arXiv 2206.00364, Table 1)."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

PerExample = Float[Array, " #batch"]  # (batch,), or (1,) where all share one noise level
FlatLatents = Float[Array, "batch flat"]
Network = Callable[[FlatLatents, PerExample], FlatLatents]


class Preconditioning(NamedTuple):
    """Scalings of the network's input, output, skip path and noise label, each `(batch,)`."""

    skip: PerExample
    out: PerExample
    input: PerExample
    noise: PerExample


def precondition(sigma: PerExample, sigma_data: float) -> Preconditioning:
    """The scalings that keep the network's input and target at unit variance (eq. 7).

    Args:
      sigma: noise levels, positive, `(batch,)`.
      sigma_data: standard deviation of the clean latents.
    """
    variance = jnp.square(sigma) + sigma_data**2
    return Preconditioning(
        skip=sigma_data**2 / variance,
        out=sigma * sigma_data / jnp.sqrt(variance),
        input=1 / jnp.sqrt(variance),
        noise=jnp.log(sigma) / 4,
    )


def denoise(network: Network, z: FlatLatents, sigma: PerExample, sigma_data: float) -> FlatLatents:
    """`D(z; σ) = c_skip·z + c_out·F(c_in·z; c_noise)`, the estimate of the clean latents (eq. 7).

    Args:
      network: the raw network F.
      z: noisy latents `(batch, flat)`.
      sigma: noise levels `(batch,)`.
      sigma_data: standard deviation of the clean latents.
    """
    c = precondition(sigma, sigma_data)
    raw = network(c.input[:, None] * z, c.noise)
    return c.skip[:, None] * z + c.out[:, None] * raw


def loss_weight(sigma: PerExample, sigma_data: float) -> PerExample:
    """`λ(σ) = (σ² + σ_d²)/(σ·σ_d)²`, which makes the network's own loss uniform in σ (eq. 8)."""
    return (jnp.square(sigma) + sigma_data**2) / jnp.square(sigma * sigma_data)


def noise_level(normal: PerExample, log_mean: float, log_std: float) -> PerExample:
    """Training noise levels, `ln σ ~ N(log_mean, log_std²)`, from standard normal numbers."""
    return jnp.exp(log_mean + log_std * normal)


def denoising_loss(
    network: Network, z: FlatLatents, noise: FlatLatents, sigma: PerExample, sigma_data: float
) -> PerExample:
    """Weighted denoising error of each example, a mean over its elements (eq. 2 with eq. 8).

    Args:
      network: the raw network F.
      z: clean latents `(batch, flat)`.
      noise: standard normal numbers `(batch, flat)`.
      sigma: noise levels `(batch,)`.
      sigma_data: standard deviation of the clean latents.
    """
    estimate = denoise(network, z + sigma[:, None] * noise, sigma, sigma_data)
    return loss_weight(sigma, sigma_data) * jnp.mean(jnp.square(estimate - z), axis=-1)
