"""Wasserstein-1 distance of each feature's values, pooled over windows and time."""

import numpy as np
from jaxtyping import Float
from scipy import stats


def feature_distances(
    real: Float[np.ndarray, "n time feature"], synthetic: Float[np.ndarray, "m time feature"]
) -> Float[np.ndarray, " feature"]:
    """Distance of each feature's marginal distribution, in the unit of the input."""
    pairs = zip(
        real.reshape(-1, real.shape[-1]).T, synthetic.reshape(-1, real.shape[-1]).T, strict=True
    )
    return np.array([stats.wasserstein_distance(a, b) for a, b in pairs])
