"""What windows are asked for by, and what the denoiser reads of it."""

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

    windows: int
    rows: Float[np.ndarray, "n feature"] | None = None
    steps: Int[np.ndarray, " n"] | None = None

    def of(self, numbers: Int[np.ndarray, " n"]) -> "Asked":
        """That of some windows; numbers beyond the last, which fill up a batch, take its."""
        place = np.minimum(numbers, self.windows - 1)
        rows, steps = (None if each is None else each[place] for each in self[1:])
        return Asked(len(numbers), rows, steps)

    def timed(self, schema: Schema | None, seed: int) -> "Asked":
        """With times drawn as the data has them, where nobody asked and windows follow a time."""
        if self.steps is not None or schema is None or schema.starts is None:
            return self
        if not schema.starts.leads:
            return self
        return self._replace(steps=schema.starts.before(self.windows, seed))

    def vectors(self, schema: Schema | None, scaler: Scaler) -> Vectors:
        """What the denoiser reads of it.

        Args:
          schema: of a model with context; None: it has none.
          scaler: of the features.
        """
        if schema is None:
            return ()
        found = contexts.make(schema, scaler, self.windows, rows=self.rows, steps=self.steps)
        return (np.asarray(found.vectors()),)


def observed(
    windows: Float[np.ndarray, "n window feature"], steps: Int[np.ndarray, " n"] | None
) -> Asked:
    """What windows ask for that are observed in part: their static columns, and steps."""
    # NaN where nothing is observed.
    return Asked(len(windows), np.fmax.reduce(windows, axis=1), steps)
