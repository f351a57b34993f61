"""What windows are asked for by, and what the denoiser reads of it."""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from timeldm_jax.data import context as contexts
from timeldm_jax.data.scaling import Scaler
from timeldm_jax.data.schema import Schema

Vectors = tuple[()] | tuple[Float[np.ndarray, "n two_number"]]  # () of a model without context


class Asked(NamedTuple):
    """What windows are asked for by.

    Attributes:
      windows: how many there are.
      rows: features of static columns `(n, feature)` in their own units, NaN where the model is to
        draw them; None: nothing is asked.
      steps: of the schema's clock, at which windows begin; None: drawn as the data has them.
    """

    windows: int = 0
    rows: Float[np.ndarray, "n feature"] | None = None
    steps: Int[np.ndarray, " n"] | None = None

    def of(self, numbers: Int[np.ndarray, " n"]) -> "Asked":
        """That of some windows; numbers beyond the last, which fill up a batch, take its."""
        place = np.minimum(numbers, self.windows - 1)
        rows, steps = (None if each is None else each[place] for each in self[1:])
        return Asked(len(numbers), rows, steps)


NOTHING = Asked()


def vectors(
    schema: Schema | None, scaler: Scaler, asked: Asked, numbers: Int[np.ndarray, " n"], seed: int
) -> Vectors:
    """What the denoiser reads of windows of a seed, by their numbers, which follow one another.

    Args:
      schema: of a model with context; None: it has none.
      scaler: of the features.
      asked: of all windows.
      numbers: of these.
      seed: of the times that nobody asked for.
    """
    if schema is None:
        return ()
    _, rows, steps = asked.of(numbers)
    if steps is None and schema.starts is not None:
        steps = schema.starts.before(len(numbers), seed, int(numbers[0]))
    found = contexts.make(schema, scaler, len(numbers), rows=rows, steps=steps)
    return (np.asarray(found.vectors()),)


def vectors_observed(
    schema: Schema | None,
    scaler: Scaler,
    observed: Float[np.ndarray, "n window feature"],
    steps: Int[np.ndarray, " n"] | None,
) -> Vectors:
    """What the denoiser reads of windows that are observed in part: static columns, and steps."""
    if schema is None:
        return ()
    with warnings.catch_warnings():  # of nothing observed: NaN
        warnings.simplefilter("ignore", RuntimeWarning)
        rows = np.nanmax(observed, axis=1)
    found = contexts.make(schema, scaler, len(observed), rows=rows, steps=steps)
    return (np.asarray(found.vectors()),)
