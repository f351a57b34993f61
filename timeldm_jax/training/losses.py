"""The VAE's loss (arXiv 2407.04211, eq. 5 to 9; weights as in the released code)."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Windows = Float[Array, "batch time feature"]
Scalar = Float[Array, ""]


class ReconstructionTerms(NamedTuple):
    """Unweighted terms of the reconstruction loss, each a mean over known elements."""

    l1: Scalar
    l2: Scalar
    feature_mean: Scalar
    fft: Scalar


def fft_weight(window: int) -> float:
    """Weight of the Fourier term, `√T / 5`."""
    return window**0.5 / 5


def known_count(x: Windows) -> Scalar:
    """How many values are known, those that are not NaN, as float32: a relative error of 1e-7."""
    return jnp.sum(~jnp.isnan(x)).astype(jnp.float32)


def reconstruction_terms(
    x: Windows,
    reconstruction: Windows,
    *,
    gaps: bool = False,
    total: float | Scalar | None = None,
) -> ReconstructionTerms:
    """L1, L2, L2 of the feature-mean series, and L1 of the Fourier coefficients.

    The Fourier term is the mean over all T bins of |Δreal| plus the same of |Δimag|, transform
    over time normalised by 1/T. The error is real, so the bins above T/2 mirror those below: the
    half transform with mirrored bins counted twice gives the same mean.

    Args:
      x: data `(batch, time, feature)`.
      reconstruction: same shape.
      gaps: whether `x` has NaN where nothing is known. There the error counts as none, and means
        are over what is known.
      total: known values of the whole batch, where `x` is a part of it: the terms of all parts
        then add up to those of the whole. Default: those of `x`.
    """
    error = reconstruction - x
    if total is None:
        total = jnp.maximum(known_count(x), 1) if gaps else x.size
    if gaps:
        error = jnp.where(jnp.isnan(x), 0, error)
    _, window, features = x.shape
    half = jnp.fft.rfft(error, axis=1, norm="forward")
    mirrored = np.full((half.shape[1], 1), 2.0, np.float32)
    mirrored[0] = 1.0
    if window % 2 == 0:
        mirrored[-1] = 1.0
    spectrum = mirrored * (jnp.abs(half.real) + jnp.abs(half.imag))
    return ReconstructionTerms(
        l1=jnp.sum(jnp.abs(error)) / total,
        l2=jnp.sum(jnp.square(error)) / total,
        feature_mean=jnp.sum(jnp.square(error.mean(-1))) * features / total,
        fft=jnp.sum(spectrum) / total,
    )


def reconstruction_loss(terms: ReconstructionTerms, window: int) -> Scalar:
    """`L1 + L2 + L2(feature mean) + (√T/5)·FFT`; the loss that adaptive β watches."""
    return terms.l1 + terms.l2 + terms.feature_mean + fft_weight(window) * terms.fft


def kl_divergence(mean: Array, log_variance: Array) -> Scalar:
    """`-½ mean(1 + log σ² − μ² − σ²)`, the KL to N(0, I) as a mean over elements."""
    return -0.5 * jnp.mean(1 + log_variance - jnp.square(mean) - jnp.exp(log_variance))
