"""What a forecast is: futures, their quantiles, and a picture."""

import dataclasses
import os

import numpy as np
import pandas as pd
from etils import epath

from timeldm_jax.data import schema as schemas
from timeldm_jax.data.schema import Schema

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What may come after a history.

    Attributes:
      samples: a table of `n` futures, told apart by `series`.
      quantiles: of each numeric column at each time, one row each: the time (or step), `column`,
        and a column a level.
      history: the rows that the forecast continues.
      columns: the numeric columns.
    """

    samples: pd.DataFrame
    quantiles: pd.DataFrame
    history: pd.DataFrame
    columns: tuple[str, ...]

    def plot(self, path: str) -> None:
        """Draws history, median and bands of each column as a PNG file."""
        from timeldm_jax.report import figures  # plotting takes seconds to import

        with figures.theme("light"):
            figure = figures.forecast_figure(self.history, self.quantiles, self.columns)
            figures.save(figures.png(figure), epath.Path(os.path.abspath(path)))


def summarise(
    samples: pd.DataFrame, schema: Schema, times: pd.Series | None, history: pd.DataFrame
) -> Forecast:
    """A forecast from its futures.

    Args:
      samples: futures of one length, told apart by `series`.
      schema: of their columns.
      times: of the forecast rows, where there is a time column.
      history: the rows that it continues.
    """
    numeric = tuple(
        c.name for c in schema.columns if c.kind in ("float", "integer") and c.scaling != "constant"
    )
    step = samples.groupby(schemas.SERIES).cumcount()
    parts = []
    for name in numeric:
        levels = samples[name].astype(float).groupby(step).quantile(np.array(QUANTILES)).unstack()
        when = levels.index if times is None else times.to_numpy()
        levels.insert(0, "column", name)
        levels.insert(0, "step" if schema.clock is None else schema.clock.name, when)
        parts.append(levels)
    quantiles = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return Forecast(samples, quantiles, history, numeric)
