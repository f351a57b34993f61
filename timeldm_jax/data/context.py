"""What a window can be asked for by: static columns, and the calendar at its first row.

A context is a vector of numbers, and whether each is known. Its parts, each known or not as a
whole, are the static columns of a panel (a sex, a sector, a name) and the cycles of the calendar
that the training rows cover (day, week, year). In training parts are dropped at random, so that one
model samples with all of them, some, or none (classifier-free training, Ho and Salimans 2022).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Int

from timeldm_jax.data import columns, combinations, start_times
from timeldm_jax.data.clock import Steps
from timeldm_jax.data.scaling import Scaler
from timeldm_jax.data.schema import Schema, features
from timeldm_jax.errors import DataError

NOTHING, ALL = -1.036, 0.0  # normal numbers below which (15%) and above which (½) none or all stays


class Context(NamedTuple):
    """Contexts of windows.

    Attributes:
      values: 0 where not known.
      known: 1, or 0.
      part: the number of the part that each belongs to.
    """

    values: Float[Array | np.ndarray, "n number"]
    known: Float[Array | np.ndarray, "n number"]
    part: Int[Array | np.ndarray, " number"]

    def vectors(self) -> Float[Array | np.ndarray, "n two_number"]:
        """What the denoiser reads."""
        space = self.known.__array_namespace__()  # on the host where they are there
        return space.concat([self.values * self.known, self.known], axis=-1)

    def dropped(self, normal: Float[Array, "n number_1"]) -> "Context":
        """With parts left out at random: all of them, none, or each by chance.

        Args:
          normal: standard normal numbers, one more than there are numbers.
        """
        first, each = normal[:, :1], (normal[:, 1:][:, self.part] > 0).astype(self.known.dtype)
        keep = jnp.where(first < NOTHING, 0.0, jnp.where(first > ALL, 1.0, each))
        return self._replace(known=self.known * keep)

    def at(self, index: Int[Array, " n"]) -> "Context":
        """Those of some windows."""
        return self._replace(values=self.values[index], known=self.known[index])


def numbers(schema: Schema | None) -> int:
    """How many numbers a context of this table has; 0: there is nothing to ask for."""
    if schema is None:
        return 0
    return len(_static(schema)) + sum(width for _, width in _cycles(schema))


def make(
    schema: Schema,
    scaler: Scaler,
    count: int,
    *,
    rows: Float[np.ndarray, "n feature"] | None = None,
    steps: Steps | None = None,
    often: bool = False,
) -> Context:
    """Contexts of what is known of each window.

    Args:
      schema: of the table.
      scaler: of its features.
      count: of windows.
      rows: features of static columns in their own units, NaN where not known; default: nothing is.
      steps: of the schema's clock at which windows begin; default: not known.
      often: whether parts of the calendar are left out that training rows hold too few cycles of.
    """
    places = _static(schema)
    values, part = [], []
    if places:
        rows = np.full((count, len(scaler.low)), np.nan) if rows is None else rows
        values.append(scaler.scale(rows)[:, places])
        layout = schema.static_features()
        of_column = [feature.column for place, feature in layout if place in places]
        part += np.unique(of_column, return_inverse=True)[1].tolist()
    for name, width in _cycles(schema):
        assert schema.clock is not None
        assert schema.starts is not None
        told = not often or name in schema.starts.seen_often(schema.clock)
        found = np.full((count, width), np.nan)
        if steps is not None and told:
            found = start_times.cycle(schema.clock, steps, name)
        values.append(found)
        part += [max(part, default=-1) + 1] * width
    whole = np.concatenate(values, axis=1) if values else np.zeros((count, 0))
    known = np.isfinite(whole)
    return Context(
        np.where(known, whole, 0).astype(np.float32),
        known.astype(np.float32),
        np.array(part, np.int32),
    )


def encode(cells: pd.DataFrame, schema: Schema) -> Float[np.ndarray, "n feature"]:
    """The features of static columns that are asked for, NaN where nothing is.

    Args:
      cells: a row a window; some of the static columns, empty where the model is to draw.
      schema: of the model.

    Raises:
      DataError: another column, or a value that the model does not know.
    """
    static = [column.name for column in schema.shown() if column.static]
    for name in cells.columns:
        if name not in static:
            raise DataError(
                f"column {name!r} cannot be asked for; these can, which have one value a series: "
                f"{', '.join(map(repr, static))}"
            )
    found = np.full((len(cells), len(features(schema))), np.nan)
    for place, feature in schema.static_features():
        column = schema.columns[feature.column]
        if column.name not in cells.columns or feature.role == "missing":
            continue
        series = cells[column.name]
        there = series.notna().to_numpy()
        strange = series[there & ~series.isin(column.categories).to_numpy()]
        if column.kind == "category" and len(strange):
            raise DataError(
                f"column {column.name!r} is asked to be {strange.iloc[0]!r}, which is not known; "
                f"known: {', '.join(map(repr, column.categories))}"
            )
        if there.any():
            numbers = columns.encode(series[there], column, feature.place, "what is asked for")
            found[there, place] = numbers
    combinations.check_asked(cells, schema, "what is asked for")
    return found


def asked_rows(
    windows: Float[np.ndarray, "n window feature"], schema: Schema
) -> Float[np.ndarray, "n feature"]:
    """As `encode`, the static columns that windows have; nothing else of them is asked for."""
    found = np.full((len(windows), windows.shape[2]), np.nan)
    places = _static(schema)
    found[:, places] = windows[:, 0, places]
    return found


def _static(schema: Schema) -> list[int]:
    """Places of the features of static columns, without those that say what is missing."""
    return [place for place, feature in schema.static_features() if feature.role != "missing"]


def _cycles(schema: Schema) -> list[tuple[str, int]]:
    """Names and widths of the calendar's parts."""
    if schema.starts is None or not schema.starts.leads or schema.clock is None:
        return []
    first = np.zeros(1, np.int64)
    return [
        (name, start_times.cycle(schema.clock, first, name).shape[1])
        for name in schema.starts.cycles
    ]
