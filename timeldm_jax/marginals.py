"""The distribution of each feature, which samples are given by increasing maps.

A diffusion leaves something of a feature's own distribution: a mode too heavy, a tail too short. So
the quantiles of a model's own samples are measured once, after training, and mapped to those of the
training data. What is observed goes the other way before it is completed. Cost: sorting the values
of `draws` windows once, then an interpolation a value.
"""

import numpy as np
from jaxtyping import Float
from scipy import special

from timeldm_jax.data.scaling import Curve, Scaler

TAIL = (0.0, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3)
LEVELS = np.array([*TAIL, *np.linspace(0.01, 0.99, 99), *(1 - np.array(TAIL[::-1]))])
# Of the model's own samples, which there are more of. Outliers are a matter of such levels.
_OUTERMOST = np.array([2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4])
DRAWN_LEVELS = np.sort(np.concatenate([LEVELS, _OUTERMOST, 1 - _OUTERMOST]))
MOST_DRAWS, FEWEST_DRAWS = 20_000, 500  # windows
DRAWN_ROWS = 500_000


def draws(window: int) -> int:
    """How many windows tell how a model's samples are distributed."""
    return min(max(DRAWN_ROWS // window, FEWEST_DRAWS), MOST_DRAWS)


def quantiles(
    values: Float[np.ndarray, "rows feature"], levels: Float[np.ndarray, " level"] = LEVELS
) -> Float[np.ndarray, "feature level"]:
    """Quantiles of each feature, float32; NaN is left out.

    Each is the middle of two neighbouring values, so that none is the value of a single row.
    """
    found = np.full((values.shape[1], len(levels)), np.nan, np.float32)
    for i, column in enumerate(values.T):
        known = np.sort(column[np.isfinite(column)])
        if known.size:
            first = np.floor(np.clip(levels * (known.size - 1), 0, max(known.size - 2, 0)))
            place = first.astype(int)
            found[i] = known[place] / 2 + known[np.minimum(place + 1, known.size - 1)] / 2
    return found


def maps(
    real: Float[np.ndarray, "feature level"],
    drawn: Float[np.ndarray, "feature drawn_level"],
    scaler: Scaler,
) -> dict[int, Curve]:
    """By feature, the curve whose `bend` gives samples the data's distribution.

    Where the scaler has normal scores, it says the distribution itself, down to the share of a
    single row; elsewhere quantiles of the training data do.

    Args:
      real: of the scaled training rows, at `LEVELS`; a feature whose quantiles are NaN has no map.
      drawn: of the model's scaled samples, at `DRAWN_LEVELS`.
      scaler: of the data.
    """
    found, curves = {}, dict(scaler.curves)
    for i in np.flatnonzero(~np.isnan(real[:, 0])).tolist():
        curve = curves.get(i)
        if curve is not None and curve.kind == "normal":
            scores = special.ndtri(np.clip(DRAWN_LEVELS, curve.levels[0], curve.levels[-1]))
            target = (scores - scaler.low[i]) / (scaler.high[i] - scaler.low[i])
            own = drawn[i]
        else:
            target, own = real[i], drawn[i][np.searchsorted(DRAWN_LEVELS, LEVELS)]
        # What the model gives at several levels alike becomes the mean of what is real there.
        places, number = np.unique(own.astype(np.float64), return_inverse=True)
        knots = np.bincount(number, target) / np.bincount(number)
        if len(places) > 1:
            found[i] = Curve("quantile", knots=tuple(knots.tolist()), levels=tuple(places.tolist()))
    return found


def to_data(
    windows: Float[np.ndarray, "n time feature"], curves: dict[int, Curve]
) -> Float[np.ndarray, "n time feature"]:
    """Scaled windows of the model, distributed as the data is; float64."""
    found = windows.astype(np.float64)
    for i, curve in curves.items():
        found[..., i] = curve.bend(found[..., i])
    return found


def to_model(
    windows: Float[np.ndarray, "n time feature"], curves: dict[int, Curve]
) -> Float[np.ndarray, "n time feature"]:
    """The inverse: scaled windows of the data as the model would have them; NaN stays NaN."""
    found = windows.astype(np.float64)
    for i, curve in curves.items():
        found[..., i] = curve.straighten(found[..., i])
    return found
