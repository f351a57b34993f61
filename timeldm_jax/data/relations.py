"""What columns have to do with each other and with the series of a panel.

A static column has one value a series, such as a patient's sex. Columns that lack values in the
same rows share what says so.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from timeldm_jax.data.columns import Column
from timeldm_jax.data.rules import Link

if TYPE_CHECKING:
    from timeldm_jax.data.schema import Schema

FEWEST_SERIES = 2


def learn(
    columns: list[Column],
    frame: pd.DataFrame,
    groups: Int[np.ndarray, " rows"],
    said: Mapping[str, bool],
) -> list[Column]:
    """Columns that know whether they are static, and whose gaps they share.

    Args:
      columns: each of them learnt alone.
      frame: the table.
      groups: number of the series of each row.
      said: by column, whether it is static, where the user says so.
    """
    count = int(groups.max(initial=0)) + 1
    several = count >= FEWEST_SERIES and len(groups) > count
    first_with: dict[bytes, str] = {}
    found = []
    for column in columns:
        values = frame[column.name]
        static = said.get(column.name, several and _is_static(values, groups))
        gaps_of = ""
        if column.missing:
            gaps_of = first_with.setdefault(np.packbits(values.isna()).tobytes(), column.name)
        gaps_of = "" if gaps_of == column.name else gaps_of
        found.append(dataclasses.replace(column, static=static, gaps_of=gaps_of))
    return found


def _is_static(values: pd.Series, groups: Int[np.ndarray, " rows"]) -> bool:
    """Whether each series has one value, or none, and not all have the same.

    Rows of a series are side by side.
    """
    codes = pd.factorize(values)[0]  # −1: missing
    varies = (np.diff(codes) != 0) & (np.diff(groups) == 0)
    return not varies.any() and bool((codes != codes[0]).any())


def settle(
    values: Float[np.ndarray, "rows feature"],
    groups: Int[np.ndarray, " rows"],
    schema: "Schema",
    given: Float[np.ndarray, "rows feature"] | None = None,
) -> Float[np.ndarray, "rows feature"]:
    """Rows whose static features are alike in all of a series.

    They are what is given of the series, else the mean of its rows; NaN where neither is known.
    What is given stays.

    Args:
      values: in the columns' own units, before they are rounded to what columns can hold.
      groups: number of the series of each row.
      schema: of the features.
      given: NaN where nothing is; default: nothing is given.
    """
    places = [place for place, _ in schema.static_features()]
    if not places:
        return values
    found = values.copy()
    own = pd.DataFrame(values[:, places])
    means = own.groupby(groups).transform("mean")
    if schema.padded:  # rows that are not there say nothing
        there = own.where(np.broadcast_to(values[:, -1:] > 0.5, own.shape))
        means = there.groupby(groups).transform("mean").fillna(means)
    if given is not None:
        known = pd.DataFrame(given[:, places])
        means = known.fillna(known.groupby(groups).transform("max")).fillna(means)
    found[:, places] = means
    return found


def settle_windows(
    windows: Float[np.ndarray, "n time feature"],
    schema: "Schema",
    given: Float[np.ndarray, "n time feature"] | None = None,
) -> Float[np.ndarray, "n time feature"]:
    """`settle`, each window a series."""
    count, time, features = windows.shape
    rows = None if given is None else given.reshape(-1, features)
    groups = np.repeat(np.arange(count), time)
    return settle(windows.reshape(-1, features), groups, schema, rows).reshape(windows.shape)


def copies(
    rows: Float[np.ndarray, "rows feature"], schema: "Schema | None", taken: Iterable[Link]
) -> tuple[Link, ...]:
    """Features that are equal to an earlier one in all rows, gaps included.

    Args:
      rows: those to learn from.
      schema: of a table; flags, words and what can be asked for are left out.
      taken: rules; what they speak of is left out, too.
    """
    said = {place for link in taken for place in (link.place, *link.others)}
    if schema is not None:
        said |= {place for place, f in enumerate(schema.layout()) if f.role != "value"}
        said |= {place for place, _ in schema.static_features()}
    first: dict[bytes, int] = {}
    found = []
    for place, column in enumerate(np.where(np.isnan(rows), np.nan, rows).T):
        if place not in said:
            same = first.setdefault(column.tobytes(), place)
            found += [Link("sum", place, (same,))] if same != place else []
    return tuple(found)
