"""Correlational score: how far cross-correlations of features are from the real ones.

In float64 on the host: the score is a sum of small differences of correlations, in which float32
rounding shows in the fifth digit. The cost is rows x features² multiplications.
"""

import jax
import numpy as np
from jaxtyping import Float


def cross_correlations(windows: Float[np.ndarray, "n time feature"]) -> Float[np.ndarray, " pairs"]:
    """Lag-0 cross-correlation of every pair of features, the lower triangle with the diagonal.

    Features are standardised over windows and time with the sample standard deviation, so the
    diagonal is just under 1. A constant feature correlates with nothing, itself included: all 0.
    """
    flat = windows.reshape(-1, windows.shape[-1]).astype(np.float64)
    varies = np.ptp(flat, axis=0) > 0
    deviation = np.where(varies, np.std(flat, axis=0, ddof=1), 1)
    standard = np.where(varies, (flat - flat.mean(axis=0)) / deviation, 0)
    matrix = standard.T @ standard / len(flat)
    return matrix[np.tril_indices(windows.shape[-1])]


def correlational_score(
    real: Float[np.ndarray, "n time feature"], synthetic: Float[np.ndarray, "m time feature"]
) -> float:
    """`Σ|difference| / 10` over pairs of features (Ni et al. 2021, arXiv 2111.01207)."""
    difference = cross_correlations(real) - cross_correlations(synthetic)
    return float(np.sum(np.abs(difference)) / 10)


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

    def draw(key: jax.Array, windows: np.ndarray, count: int) -> np.ndarray:
        return windows[np.asarray(jax.random.randint(key, (count,), 0, len(windows)))]

    runs = []
    for key in jax.random.split(jax.random.key(seed), repeats):
        real_key, synthetic_key = jax.random.split(key)
        drawn = draw(real_key, real, counts[0]), draw(synthetic_key, synthetic, counts[1])
        runs.append(correlational_score(*drawn))
    return np.array(runs)


def fifths(real: np.ndarray, synthetic: np.ndarray) -> tuple[int, int]:
    """A fifth of each set, the published number of draws."""
    return max(len(real) // 5, 1), max(len(synthetic) // 5, 1)
