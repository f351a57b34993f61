"""The ids of series: what samples get in the columns that say whose a row is.

A model learns what series look like, not which is which. Its samples are series of nobody, and
their ids are new ones of the form that the table's have: store 7 of 6, `patient_012` of 11. Where
the user asks for real names (tickers, sites), these are a static column of words.
"""

import dataclasses
import re

import numpy as np
import pandas as pd
from jaxtyping import Int
from pandas.api.types import pandas_dtype

from timeldm_jax.errors import DataError, option

MOST_NAMES = 100  # that can be learnt: of more, each has too few windows
FEWEST_ROWS = 10  # of a series whose name is learnt, on average


@dataclasses.dataclass(frozen=True)
class Ids:
    """The ids of one entity column.

    Attributes:
      name: of the column.
      dtype: the pandas dtype that samples get.
      first: number of the first new id, which the table has not.
      prefix: words before the number, or "" where ids are numbers.
      digits: the least digits of the number.
    """

    name: str
    dtype: str
    first: int
    prefix: str = ""
    digits: int = 1

    def new(self, numbers: Int[np.ndarray, " rows"]) -> pd.Series:
        """The ids of new series, counted from 0, as a column."""
        dtype = pandas_dtype(self.dtype)
        if pd.api.types.is_numeric_dtype(dtype):
            return pd.Series(self.first + numbers).astype(dtype)
        text = [f"{self.prefix}{self.first + number:0{self.digits}d}" for number in numbers]
        return pd.Series(text, dtype=object).astype(dtype)


def learn(column: pd.Series) -> Ids:
    """The form of an entity column's ids, which have no gaps."""
    name, kinds = str(column.name), column.drop_duplicates()
    if pd.api.types.is_numeric_dtype(kinds.dtype) and not pd.api.types.is_bool_dtype(kinds.dtype):
        # Room for as many again: a narrow dtype would wrap.
        dtype = "float64" if pd.api.types.is_float_dtype(kinds.dtype) else "int64"
        if pd.api.types.is_extension_array_dtype(kinds.dtype):
            dtype = str(kinds.dtype)
        return Ids(name, dtype, max(int(np.floor(kinds.max())) + 1, 0))
    words = [str(value) for value in kinds]
    dtype = str(kinds.dtype) if pd.api.types.is_string_dtype(kinds.dtype) else "object"
    parts = [re.fullmatch(r"(.*?)(\d{1,15})", word) for word in words]
    found = [(part.group(1), part.group(2)) for part in parts if part]
    prefixes = {prefix for prefix, _ in found}
    if len(found) == len(words) and len(prefixes) == 1:
        numbers = [number for _, number in found]
        digits = min(map(len, numbers))
        return Ids(name, dtype, max(map(int, numbers)) + 1, prefixes.pop(), digits)
    taken = [int(number) for prefix, number in found if prefix == f"{name}_"]
    return Ids(name, dtype, max(taken, default=0) + 1, f"{name}_")


def check(
    frame: pd.DataFrame, where: str, entity: tuple[str, ...], *, real: bool, own: str
) -> None:
    """Raises DataError where a row is of no series, or where names cannot be learnt that are to be.

    Args:
      frame: the table.
      where: what to call it in errors.
      entity: its entity columns.
      real: whether their names are learnt: of one column, few of many rows.
      own: the name that samples number series by.
    """
    if own in frame.columns and own not in entity:
        raise DataError(
            f"{where} has a column {own!r}, the name of the id that samples get; if it says which "
            f"series a row belongs to: {option('entity', own)}; otherwise rename it"
        )
    for name in entity:
        if frame[name].isna().any():
            raise DataError(f"{where}, column {name!r} (the entity) lacks values in some rows")
    if not real:
        return
    asked = option("entity_names", "real")
    if len(entity) != 1 or entity[0] not in frame.columns:
        found = f"{len(entity)} entity columns" if entity else "none"
        raise DataError(
            f"{where}: {asked} learns the names of one entity column, and there "
            f"{'are' if len(entity) > 1 else 'is'} {found}: name one ({option('entity')}), of "
            "several joined into one"
        )
    count = frame[entity[0]].nunique()
    if count > MOST_NAMES or len(frame) < FEWEST_ROWS * count:
        raise DataError(
            f"{where}, column {entity[0]!r} (the entity) has {count:,} names in {len(frame):,} "
            f"rows; {asked} learns up to {MOST_NAMES}, of {FEWEST_ROWS} rows each"
        )


def check_split(split: str) -> None:
    """Raises DataError where series are to be held out whose names are to be learnt."""
    if split == "entity":
        raise DataError(
            f"{option('split', split)} holds whole series out, and the names of these could not be "
            f"learnt, which {option('entity_names', 'real')} asks for: use "
            f"{option('split', 'time')}, or new names"
        )
