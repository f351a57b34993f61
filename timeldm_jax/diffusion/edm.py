"""The EDM parametrisation as pure functions (Karras et al. 2022, arXiv 2206.00364, Table 1).

The standard deviation of the clean latents, σ_d, may be one number, as published, or one a
coordinate. Where coordinates are uncorrelated (principal axes), the skip path is then the exact
denoiser of the Gaussian with the latents' covariance, `σ_d²/(σ² + σ_d²)` in each coordinate, and
the network has to learn only what is not Gaussian about the latents.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

PerExample = Float[Array, " #batch"]  # (batch,), or (1,) where all share one noise level
FlatLatents = Float[Array, "batch flat"]
Deviation = float | Float[Array | np.ndarray, " flat"]  # σ_d: of all coordinates, or of each
Network = Callable[[FlatLatents, PerExample], FlatLatents]


class Preconditioning(NamedTuple):
    """Scalings of the network's input, output, skip path and noise label.

    Shaped as `sigma` broadcast with `sigma_data`; the label as `sigma`.
    """

    skip: Array
    out: Array
    input: Array
    noise: Array


def precondition(sigma: Array, sigma_data: Deviation) -> Preconditioning:
    """The scalings that keep the network's input and target at unit variance (eq. 7).

    Args:
      sigma: noise levels, positive; `(batch, 1)` where `sigma_data` is `(flat,)`.
      sigma_data: standard deviation of the clean latents.
    """
    variance = jnp.square(sigma) + jnp.square(sigma_data)
    return Preconditioning(
        skip=jnp.square(sigma_data) / variance,
        out=sigma * sigma_data / jnp.sqrt(variance),
        input=1 / jnp.sqrt(variance),
        noise=jnp.log(sigma) / 4,
    )


def denoise(
    network: Network, z: FlatLatents, sigma: PerExample, sigma_data: Deviation
) -> FlatLatents:
    """`D(z; σ) = c_skip·z + c_out·F(g·c_in·z; c_noise)`, the estimate of the clean latents (eq. 7).

    Args:
      network: the raw network F.
      z: noisy latents `(batch, flat)`.
      sigma: noise levels `(batch,)`.
      sigma_data: standard deviation of the clean latents, of all coordinates or of each.
    """
    c = precondition(sigma[:, None], sigma_data)
    return c.skip * z + c.out * raw_output(network, z, sigma, sigma_data)


def raw_output(
    network: Network, z: FlatLatents, sigma: PerExample, sigma_data: Deviation
) -> FlatLatents:
    """`F(g·c_in·z; c_noise)`, the network's own share of `denoise`, at unit variance.

    The gain `g = √(c_skip / max c_skip)` dims the coordinates that are mostly noise at this level
    beside the clearest one; at unit variance a few clear ones would drown in them. It is 1 where
    all have one deviation, as published. Arguments are those of `denoise`.
    """
    c = precondition(sigma[:, None], sigma_data)
    gain = jnp.sqrt(c.skip / c.skip.max(axis=-1, keepdims=True))
    return network(gain * c.input * z, c.noise[:, 0])


def guided(
    conditional: Network, unconditional: Network, strength: Float[Array, "#batch 1"]
) -> Network:
    """`F_u + w·(F_c − F_u)`: classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598).

    Their eq. 6 counts w from 0, as `1 + w`. Of the raw network it is that of the denoised estimate,
    `D_u + w·(D_c − D_u)`, since the skip path and the scalings are the same for both.

    Args:
      conditional: F given what was asked for.
      unconditional: F without it.
      strength: w of each window, or of all.
    """

    def network(z: FlatLatents, label: PerExample) -> FlatLatents:
        free = unconditional(z, label)
        return free + strength * (conditional(z, label) - free)

    return network


def loss_weight(sigma: Array, sigma_data: Deviation) -> Array:
    """`λ(σ) = 1/c_out² = (σ² + σ_d²)/(σ·σ_d)²`: the network's own loss, uniform in σ (eq. 8)."""
    return (jnp.square(sigma) + jnp.square(sigma_data)) / jnp.square(sigma * sigma_data)


def noise_level(normal: PerExample, P_mean: float, P_std: float) -> PerExample:
    """Training noise levels, `ln σ ~ N(P_mean, P_std²)`, from standard normal numbers."""
    return jnp.exp(P_mean + P_std * normal)


def denoising_loss(
    network: Network,
    z: FlatLatents,
    noise: FlatLatents,
    sigma: PerExample,
    sigma_data: Deviation,
) -> PerExample:
    """Weighted denoising error of each example, a mean over its elements (eq. 2 with eq. 8).

    The error of the raw network, `(D − z)/c_out`, counts in proportion to `c_out`, whose mean over
    coordinates is divided out. With one deviation that is the published weight, `1/c_out²`. With
    one a coordinate it stands between the error of the latents, which forgets all coordinates but
    the widest, and that of the raw network, which spends most on those that hardly show in data.

    Args:
      network: the raw network F.
      z: clean latents `(batch, flat)`.
      noise: standard normal numbers `(batch, flat)`.
      sigma: noise levels `(batch,)`.
      sigma_data: standard deviation of the clean latents, of all coordinates or of each.
    """
    estimate = denoise(network, z + sigma[:, None] * noise, sigma, sigma_data)
    out = precondition(sigma[:, None], sigma_data).out
    weight = loss_weight(sigma[:, None], sigma_data) * out / out.mean(axis=-1, keepdims=True)
    return jnp.mean(weight * jnp.square(estimate - z), axis=-1)
