"""Min-max scaling per column, and its exact inverse."""

import dataclasses

import numpy as np
from jaxtyping import Float

from timeldm_jax.data.sources import DataError


@dataclasses.dataclass(frozen=True)
class Scaler:
    """Maps each column's `[low, high]` to [0, 1]. Plain floats, so that JSON keeps it exactly.

    Attributes:
      low: smallest training value of each column, in its own unit.
      high: largest training value of each column.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def scale(
        self, values: Float[np.ndarray, "*lead feature"]
    ) -> Float[np.ndarray, "*lead feature"]:
        """Values in their own units to [0, 1] (training range), float32."""
        low, high = np.array(self.low), np.array(self.high)
        return ((values - low) / (high - low)).astype(np.float32)

    def unscale(
        self, scaled: Float[np.ndarray, "*lead feature"]
    ) -> Float[np.ndarray, "*lead feature"]:
        """The inverse of `scale`, computed in float64, float32."""
        low, high = np.array(self.low), np.array(self.high)
        return (low + scaled.astype(np.float64) * (high - low)).astype(np.float32)


def fit_scaler(values: Float[np.ndarray, "rows feature"], columns: tuple[str, ...]) -> Scaler:
    """The scaler of the training rows `(rows, features)`.

    Raises:
      DataError: a column is constant, so it has no range to scale by.
    """
    low, high = values.min(axis=0), values.max(axis=0)
    constant = np.flatnonzero(high == low)
    if constant.size:
        i = int(constant[0])
        raise DataError(
            f"column {columns[i]!r} is constant ({low[i]:g}) in the training rows: there is "
            "nothing to learn in it; drop the column and put it back afterwards"
        )
    return Scaler(tuple(low.tolist()), tuple(high.tolist()))
