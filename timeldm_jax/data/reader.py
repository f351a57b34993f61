"""What users give as data: files and their dialects, frames, and arrays of any library."""

import csv
import datetime
import io
import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from etils import epath
from jaxtyping import Float

from timeldm_jax.data import spreadsheet
from timeldm_jax.errors import DataError, option


class SupportsPandas(Protocol):
    """A table or column of another library: Polars, Arrow, …."""

    def to_pandas(self) -> Any:
        """As a DataFrame or Series."""


class SupportsArray(Protocol):
    """An array of another library: JAX, PyTorch on the CPU, …."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """As a NumPy array."""


Source = (
    str
    | os.PathLike[str]
    | pd.DataFrame
    | pd.Series
    | np.ndarray
    | Sequence[Any]
    | SupportsPandas
    | SupportsArray
)


def accept(data: Source) -> str | pd.DataFrame | np.ndarray:
    """Whatever a user gives as data, as one of three: a path, a frame or an array.

    Args:
      data: a path; a DataFrame; a Series, which is a column called `value` if it has no name; a
        table or column with `to_pandas` (Polars, Arrow); a structured array, whose fields are
        columns; numbers as an array, as lists or tuples, or with `__array__` (JAX, PyTorch). What
        a mask hides, and None in a list, is missing.

    Raises:
      DataError: anything else, or rows of unequal length.
    """
    if isinstance(data, str | os.PathLike):
        return os.fspath(data)
    if isinstance(data, pd.DataFrame):
        return data
    if isinstance(data, pd.Series):
        return data.to_frame("value" if data.name is None else data.name)
    kind = f"{type(data).__module__}.{type(data).__qualname__}".removeprefix("builtins.")
    try:
        convert = None if isinstance(data, type) else getattr(data, "to_pandas", None)
        if callable(convert):
            return accept(convert())
        if isinstance(data, list | tuple):
            return _of_lists(data)
        if hasattr(data, "__array__") and not isinstance(data, type):
            return _of_array(data if isinstance(data, np.ndarray) else np.asarray(data))
    except DataError:
        raise
    except Exception as error:  # another library's, of any kind
        raise DataError(f"data of type {kind} cannot be read: {error}") from error
    raise DataError(
        f"data is of type {kind}; expected a path, a table (pandas, Polars, Arrow), a Series, an "
        "array (NumPy, JAX, PyTorch), or lists of numbers"
    )


def _of_lists(data: Sequence[Any]) -> np.ndarray:
    try:
        array = np.asarray(data)
        if array.dtype == object and not any(isinstance(v, str) for v in array.flat):
            array = np.asarray(data, np.float64)  # None is missing
    except (ValueError, TypeError) as error:
        raise DataError(f"data is a {type(data).__name__} that is no array: {error}") from error
    return array


def _of_array(array: np.ndarray) -> pd.DataFrame | np.ndarray:
    """A frame of a structured array; else the array, what a mask hides NaN."""
    if array.dtype.names is not None:
        if array.ndim != 1:
            raise DataError(f"a structured array has shape {array.shape}; expected (rows,)")
        return pd.DataFrame({name: _of_field(name, array[name]) for name in array.dtype.names})
    if isinstance(array, np.ma.MaskedArray):
        if array.dtype.kind not in "fiu":
            raise DataError(f"data has dtype {array.dtype}; expected real numbers")
        return np.where(np.ma.getmaskarray(array), np.nan, np.ma.getdata(array).astype(np.float64))
    if array.dtype.kind == "V":  # bfloat16 and its like
        return np.asarray(array, np.float32)
    return np.asarray(array)


def _of_field(name: str, values: np.ndarray) -> pd.Series:
    if values.ndim != 1:
        raise DataError(
            f"column {name!r} holds arrays of shape {values.shape[1:]}; take it apart into columns"
        )
    hidden = np.ma.getmaskarray(values)
    plain = np.ma.getdata(values)
    if plain.dtype.kind == "S":
        plain = np.char.decode(plain, "utf-8")
    column = pd.Series(plain.astype(plain.dtype.newbyteorder("=")))
    return column.mask(hidden) if hidden.any() else column


def real_numbers(array: np.ndarray) -> Float[np.ndarray, "..."]:
    """An array as float64.

    Raises:
      DataError: it holds no real numbers.
    """
    if array.dtype.kind not in "fiu":
        raise DataError(f"data has dtype {array.dtype}; expected real numbers")
    return array.astype(np.float64)


def read(source: str | pd.DataFrame, decimal: str = ".") -> tuple[pd.DataFrame, str]:
    """A table of a CSV or Parquet file, or a DataFrame with its index; and what to call it.

    Raises:
      DataError: no such file, another format, empty, or a column named twice.
    """
    if isinstance(source, pd.DataFrame):
        frame, where = source.copy(deep=False), "the table"
    else:
        frame, where = _read_file(source, decimal), source
    frame.columns = [str(name) for name in frame.columns]
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise DataError(f"{where}: two columns are called {twice[0]!r}; names must differ")
    if frame.shape[1] == 0 or len(frame) == 0:
        raise DataError(
            f"{where} has {len(frame)} rows of {frame.shape[1]} columns: nothing to learn"
        )
    for name in frame.columns:  # dates without a time of day, as Parquet and Arrow give them
        if frame[name].dtype == object and _are_dates(frame[name].dropna()):
            frame[name] = pd.to_datetime(frame[name])
    return frame, where


def _are_dates(present: pd.Series) -> bool:
    return len(present) > 0 and all(type(value) is datetime.date for value in present)


def _read_file(source: str, decimal: str) -> pd.DataFrame:
    if not source:
        raise DataError(f"no table is named: set {option('path')} to a .csv or .parquet file")
    path = epath.Path(source)
    if not path.exists() or path.is_dir():
        raise DataError(f"{source} is a folder" if path.exists() else f"{source} does not exist")
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv", ".txt"):
        return _read_csv(path, source, decimal)
    if suffix not in (".parquet", ".pq"):
        raise DataError(
            f"{source}: expected a .csv or .parquet file, found {suffix or 'no suffix'}"
        )
    try:
        return pd.read_parquet(io.BytesIO(path.read_bytes()))
    except (ValueError, OSError, ImportError) as error:
        raise DataError(f"{source} is not a readable Parquet file: {error}") from error


def _read_csv(path: epath.Path, where: str, decimal: str) -> pd.DataFrame:
    content = path.read_bytes()
    try:
        head = content[:65_536].decode("utf-8-sig", errors="ignore")
        lines = head.splitlines()
        if not any(line.strip() for line in lines):
            raise DataError(f"{where} is empty; it needs a header line and rows")
        separator = _separator(lines, decimal)
        header = next(csv.reader([lines[0]], delimiter=separator))
        names = [name.strip() for name in header]
        for name in names:
            if name and names.count(name) > 1:
                raise DataError(f"{where}: two columns are called {name!r}; names must differ")
        found = pd.read_csv(
            io.BytesIO(content),
            sep=separator,
            decimal=decimal,
            encoding="utf-8-sig",
            skipinitialspace=True,
            low_memory=False,
        )
        return spreadsheet.unquote(found.rename(columns=str.strip))
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text: {error}; save it as CSV UTF-8") from error
    except (ValueError, pd.errors.ParserError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where} is not a readable CSV file: {error}") from error


def _separator(lines: list[str], decimal: str) -> str:
    """The one of , ; tab | that the header has most of; a decimal comma is none."""
    candidates = [c for c in ",;\t|" if c != decimal]
    return max(candidates, key=lambda c: (lines[0].count(c), -candidates.index(c)))
