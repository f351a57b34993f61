"""The ids of series: what samples get in the columns that say whose a row is.

A model learns what series look like, not which is which. Its samples are series of nobody, and
their ids are new ones of the form that the table's have: store 7 of 6, `patient_012` of 11.
"""

import dataclasses
import re

import numpy as np
import pandas as pd
from jaxtyping import Int
from pandas.api.types import pandas_dtype


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
