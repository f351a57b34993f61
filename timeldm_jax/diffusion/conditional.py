"""Sampling with part of a window held: what imputation, forecasts and long series are made of.

At every noise level, from high to low (decoupled annealing, Zhang et al. 2024, arXiv 2407.01521):

1. a clean latent is drawn around the denoiser's estimate, with the covariance that a Gaussian of
   the latents' covariance has given the noisy one;
2. it is moved to fit what is observed: a Gauss-Newton step on the decoder's output, weighed by the
   same covariance and solved by conjugate gradients. Where all is Gaussian that makes the draw one
   of the posterior (randomise, then optimise);
3. noise of the next level is added.

The covariance is what carries an observation to what is not observed; with the identity in its
place errors are up to three times as large (docs/studies.md).

Cost: a level takes an evaluation of the denoiser and `CG_STEPS` forward and reverse derivatives of
the decoder.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from timeldm_jax.diffusion import samplers

LEVELS = 30
SIGMA_MAX, SIGMA_MIN = 10.0, 0.02  # of latents whose mean square is 1
CG_STEPS = 5
FADE = 1.5  # rows
TOLERANCE = 0.01  # of the range: standard deviation with which observed values are met

Decode = Callable[[Float[Array, "batch flat"]], Float[Array, "batch time feature"]]


class Prior(NamedTuple):
    """The latents' covariance.

    Attributes:
      values: eigenvalues `(flat,)`.
      vectors: eigenvectors, columns of `(flat, flat)`; `()` where the covariance is diagonal.
    """

    values: Float[Array | np.ndarray, " flat"]
    vectors: Float[Array | np.ndarray, "flat flat"] | tuple[()] = ()

    def colour(
        self, unit: Float[Array, "batch flat"], deviation: Float[Array, " flat"]
    ) -> Float[Array, "batch flat"]:
        """`V·diag(deviation)·u`: from unit variance on the eigenvectors to latents."""
        unit = unit * deviation
        return unit if isinstance(self.vectors, tuple) else unit @ self.vectors.T

    def pull(
        self, slope: Float[Array, "batch flat"], deviation: Float[Array, " flat"]
    ) -> Float[Array, "batch flat"]:
        """The transpose of `colour`."""
        slope = slope if isinstance(self.vectors, tuple) else slope @ self.vectors
        return slope * deviation


def complete(
    denoise: samplers.Denoise,
    decode: Decode,
    observed: Float[Array, "batch time feature"],
    noise: Callable[[Array | int], Float[Array, "batch flat"]],
    prior: Prior,
) -> Float[Array, "batch time feature"]:
    """Draws windows that agree with what is observed of them.

    Args:
      denoise: `D(z; σ)` over the diffusion's latents, which are centred.
      decode: windows in [0, 1] for latents `(batch, flat)`.
      observed: `(batch, time, feature)` in [0, 1], NaN where anything may stand.
      noise: standard normal `(batch, flat)` for a number of its own.
      prior: covariance of the latents.

    Returns:
      Whole windows, with the observed values where there are any.
    """
    known = ~jnp.isnan(observed)
    seen = jnp.where(known, observed, 0)

    def fit(clean: Array, deviation: Array) -> Array:
        """Minimises `|u|² + |decode(z + R·u) − observed|²/τ²` over what is known, linearised.

        R is `prior.colour` with these deviations.
        """
        x, pull_x = jax.vjp(decode, clean)
        # The decoder has a reverse derivative of its own, so the forward one is its transpose.
        push_x = jax.linear_transpose(lambda y: pull_x(y)[0], x)

        def pull(y: Array) -> Array:
            return prior.pull(pull_x(jnp.where(known, y, 0) / TOLERANCE**2)[0], deviation)

        def system(u: Array) -> Array:
            return u + pull(push_x(prior.colour(u, deviation))[0])

        moved = _conjugate_gradients(system, pull(seen - x))
        return clean + prior.colour(moved, deviation)

    def level(z: Array, step: Any) -> tuple[Array, None]:
        i, sigma, lower = step
        spread = prior.values * jnp.square(sigma) / (prior.values + jnp.square(sigma))
        deviation = jnp.sqrt(spread)
        clean = denoise(z, sigma[None]) + prior.colour(noise(2 * i + 1), deviation)
        return fit(clean, deviation) + lower * noise(2 * i + 2), None

    sigmas = jnp.asarray(samplers.karras_sigmas(LEVELS, SIGMA_MIN, SIGMA_MAX, 7.0))
    first = prior.colour(noise(2 * LEVELS + 1), jnp.sqrt(prior.values))
    z = first + sigmas[0] * noise(0)
    z, _ = jax.lax.scan(level, z, (jnp.arange(LEVELS), sigmas[:-1], sigmas[1:]))
    x = decode(z)
    return jnp.where(known, observed, x + _carry(jnp.where(known, observed - x, 0), known))


def _carry(
    error: Float[Array, "batch time feature"], known: Bool[Array, "batch time feature"]
) -> Float[Array, "batch time feature"]:
    """What the decoder misses where a value is known, carried to rows nearby, fading with distance.

    The decoder meets observed values to its own precision only, which would be a small jump at
    each border of what is known.
    """
    time = jnp.arange(error.shape[1])
    weight = jnp.exp(-jnp.abs(time[:, None] - time) / FADE)
    total = jnp.einsum("ts,bsf->btf", weight, known.astype(error.dtype))
    mean = jnp.einsum("ts,bsf->btf", weight, error) / jnp.maximum(total, 1e-6)
    near = jnp.max(weight[None, :, :, None] * known[:, None], axis=2)
    return near * mean


def _conjugate_gradients(
    system: Callable[[Array], Array], right: Float[Array, "batch flat"]
) -> Float[Array, "batch flat"]:
    """A few steps towards `system(u) = right`, each window with step sizes of its own."""

    def dot(a: Array, b: Array) -> Array:
        return jnp.sum(a * b, axis=-1, keepdims=True)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        u, residual, direction, square = carry
        image = system(direction)
        size = square / jnp.maximum(dot(direction, image), 1e-12)
        u, residual = u + size * direction, residual - size * image
        new = dot(residual, residual)
        direction = residual + new / jnp.maximum(square, 1e-12) * direction
        return (u, residual, direction, new), None

    start = (jnp.zeros_like(right), right, right, dot(right, right))
    (u, *_), _ = jax.lax.scan(step, start, None, length=CG_STEPS)
    return u
