"""What windows are asked for by, and what the denoiser reads of it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from timeldm_jax.data import context as contexts
from timeldm_jax.data.clock import Steps
from timeldm_jax.data.event_times import on_grid, uneven
from timeldm_jax.data.scaling import Scaler
from timeldm_jax.data.schema import Schema

Vector = Float[np.ndarray, "n two_number"]
# () of a model without context; where it is guided, also what remains without what was asked, and
# the strength.
Vectors = tuple[()] | tuple[Vector] | tuple[Vector, Vector, Float[np.ndarray, "n 1"]]


class Asked(NamedTuple):
    """What windows are asked for by.

    Attributes:
      windows: how many there are.
      rows: features of static columns `(n, feature)` in their own units, NaN where the model is to
        draw them; None: nothing is asked.
      steps: of the schema's clock, at which windows begin; of an uneven one they may be fractions.
        None: drawn as the data has them.
      drawn: whether the steps are drawn, as nobody asked for them.
      guidance: how strongly what is asked for is followed; see `SampleConfig`. None: as configured.
      often: whether only those parts of the calendar are told of which training rows hold several
        cycles; see `observed`.
      first: number of the first window; they are numbered on from there.
    """

    windows: int
    rows: Float[np.ndarray, "n feature"] | None = None
    steps: Steps | None = None
    drawn: bool = False
    guidance: float | None = None
    often: bool = False
    first: int = 0

    def of(self, numbers: Int[np.ndarray, " n"]) -> "Asked":
        """That of some windows; numbers beyond the last, which fill up a batch, take its."""
        place = np.minimum(numbers - self.first, self.windows - 1)
        rows, steps = (None if each is None else each[place] for each in (self.rows, self.steps))
        return self._replace(windows=len(numbers), rows=rows, steps=steps)

    def part(self, first: int, count: int) -> "Asked":
        """That of `count` windows from number `first` on."""
        own = slice(first - self.first, first - self.first + count)
        rows, steps = (None if each is None else each[own] for each in (self.rows, self.steps))
        return self._replace(windows=count, rows=rows, steps=steps, first=first)

    def timed(self, schema: Schema | None, seed: int) -> "Asked":
        """With times drawn as the data has them, where nobody asked and windows follow a time.

        The time of a window is a function of the seed and its number, whatever the part.
        """
        if self.steps is not None or schema is None or schema.starts is None:
            return self
        if not schema.starts.leads:
            return self
        steps = schema.starts.before(self.windows, seed, self.first)
        steps = on_grid(schema, steps) if uneven(schema) else steps
        return self._replace(steps=steps, drawn=True)

    @property
    def anything(self) -> bool:
        """Whether somebody asked for anything."""
        return self.rows is not None or (self.steps is not None and not self.drawn)

    def vectors(self, schema: Schema | None, scaler: Scaler, guidance: float = 1.0) -> Vectors:
        """What the denoiser reads of it.

        Args:
          schema: of a model with context; None: it has none.
          scaler: of the features.
          guidance: where this names none itself.
        """
        if schema is None:
            return ()

        def vector(rows: np.ndarray | None, steps: np.ndarray | None) -> Vector:
            made = contexts.make(
                schema, scaler, self.windows, rows=rows, steps=steps, often=self.often
            )
            return np.asarray(made.vectors())

        strength = guidance if self.guidance is None else self.guidance
        found = vector(self.rows, self.steps)
        if strength == 1 or not self.anything:
            return (found,)
        free = vector(None, self.steps if self.drawn else None)
        return (found, free, np.full((self.windows, 1), strength, np.float32))


def observed(
    windows: Float[np.ndarray, "n window feature"],
    steps: Steps | None,
    *,
    often: bool = False,
) -> Asked:
    """What windows ask for that are observed in part: their static columns, and steps.

    Args:
      windows: NaN where nothing is observed.
      steps: at which they begin; None: not known.
      often: whether the calendar tells only what training rows show often. What is observed says
        itself whether it is a cold winter; the date adds what one or two winters were like, learnt
        by heart.
    """
    # What is observed is a fact, which no strength makes truer.
    rows = np.fmax.reduce(windows, axis=1)
    return Asked(len(windows), rows, steps, guidance=1.0, often=often)
