"""Correlational score: how far cross-correlations of features are from the real ones."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def cross_correlations(windows: Float[Array, "n time feature"]) -> Float[Array, " pairs"]:
    """Lag-0 cross-correlation of every pair of features, the lower triangle with the diagonal.

    Features are standardised over windows and time with the sample standard deviation, so the
    diagonal is just under 1. A constant feature correlates with nothing, itself included: all 0.
    """
    flat = windows.reshape(-1, windows.shape[-1])
    centred = flat - flat.mean(axis=0)
    deviation = jnp.std(flat, axis=0, ddof=1)
    standard = jnp.where(jnp.ptp(flat, axis=0) > 0, centred / deviation, 0)
    matrix = jnp.matmul(standard.T, standard, precision="highest") / len(flat)
    return matrix[np.tril_indices(windows.shape[-1])]


def correlational_score(
    real: Float[Array, "n time feature"], synthetic: Float[Array, "m time feature"]
) -> Float[Array, ""]:
    """`Σ|difference| / 10` over pairs of features (Ni et al. 2021, arXiv 2111.01207)."""
    return jnp.sum(jnp.abs(cross_correlations(real) - cross_correlations(synthetic))) / 10


def correlational_runs(
    real: Float[np.ndarray, "n time feature"],
    synthetic: Float[np.ndarray, "m time feature"],
    *,
    draws: tuple[int, int] | None = None,
    repeats: int = 5,
    seed: int = 0,
) -> Float[np.ndarray, " repeats"]:
    """The score of protocol `paper`: each repeat draws windows of each set, with replacement.

    Args:
      real: real windows.
      synthetic: synthetic windows.
      draws: how many of each a repeat draws; default: a fifth of each set. The score falls with
        it, so a floor must be drawn with the same numbers.
      repeats: number of repeats.
      seed: of the draws.

    Returns:
      One score a repeat, `(repeats,)`.
    """
    counts = draws or fifths(real, synthetic)

    @jax.jit
    def run(key: Array, real: Array, synthetic: Array) -> Array:
        drawn = [
            windows[jax.random.randint(k, (count,), 0, len(windows))]
            for k, count, windows in zip(
                jax.random.split(key), counts, (real, synthetic), strict=True
            )
        ]
        return correlational_score(*drawn)

    keys = jax.random.split(jax.random.key(seed), repeats)
    arrays = jnp.asarray(real, jnp.float32), jnp.asarray(synthetic, jnp.float32)
    return np.array([run(key, *arrays) for key in keys])


def fifths(real: np.ndarray, synthetic: np.ndarray) -> tuple[int, int]:
    """A fifth of each set, the published number of draws."""
    return max(len(real) // 5, 1), max(len(synthetic) // 5, 1)
