"""What users give as data: files and their dialects, frames, and arrays of any library."""

import bz2
import gzip
import io
import json
import lzma
import os
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from etils import epath
from jaxtyping import Float

from timeldm_jax.data import dialect, spreadsheet
from timeldm_jax.errors import DataError, option

_SUFFIXES = {
    "CSV": (".csv", ".tsv", ".txt", ".dat"),
    "Parquet": (".parquet", ".pq"),
    "Excel": (".xlsx", ".xlsm", ".xls", ".ods"),
    "JSON lines": (".jsonl", ".ndjson"),
    "Feather": (".feather", ".arrow"),
}
_PACKED = (".gz", ".zip", ".zst", ".bz2", ".xz")


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
        if hasattr(data, "__arrow_c_stream__") and not isinstance(data, type):
            import pyarrow as pa

            return accept(pa.table(data).to_pandas())
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


def read(source: str | pd.DataFrame, decimal: str = "") -> tuple[pd.DataFrame, str]:
    """A table of a file, or a DataFrame with its index; and what to call it.

    Args:
      source: a path (of a workbook with several sheets, `book.xlsx#sheet`), or a table.
      decimal: the decimal point of a CSV file; "" finds out.

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
    return frame, where


def _read_file(source: str, decimal: str) -> pd.DataFrame:
    if not source:
        raise DataError(f"no table is named: set {option('path')} to a .csv or .parquet file")
    path, sheet = epath.Path(source).expanduser(), ""
    if not path.exists() and "#" in source:  # a sheet of a workbook
        name, sheet = source.rsplit("#", 1)
        path = epath.Path(name).expanduser()
    if not path.exists() or path.is_dir():
        raise DataError(f"{source} is a folder" if path.exists() else f"{source} does not exist")
    name, content = _unpack(path.name.lower(), path, source)
    kind = _kind_of(name)
    if kind is None:
        known = " ".join(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
        raise DataError(
            f"{source}: expected a table, such as a .csv or .parquet file, found "
            f"{'.' + name.rsplit('.', 1)[1] if '.' in name else 'no suffix'}; known are {known}, "
            f"and text packed as {' '.join(_PACKED)}"
        )
    try:
        if kind == "CSV":
            return spreadsheet.unquote(dialect.read_csv(content, source, decimal))
        if kind == "Excel":
            return _read_workbook(content, source, sheet)
        if kind == "JSON lines":
            return pd.DataFrame(list(map(json.loads, filter(bytes.strip, content.splitlines()))))
        read = pd.read_parquet if kind == "Parquet" else pd.read_feather
        return read(io.BytesIO(content))
    except DataError:
        raise
    except (ValueError, OSError, ImportError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{source} is not a readable {kind} file: {error}") from error


def _kind_of(name: str) -> str | None:
    for kind, suffixes in _SUFFIXES.items():
        if name.endswith(suffixes):
            return kind
    return None


def _unpack(name: str, path: epath.Path, where: str) -> tuple[str, bytes]:
    """The name and content of a file, or of the one in an archive."""
    content = path.read_bytes()
    suffix = next((suffix for suffix in _PACKED if name.endswith(suffix)), "")
    if not suffix:
        return name, content
    try:
        if suffix == ".zip":
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                inner = [
                    m for m in archive.namelist() if not m.endswith("/") and "__MACOSX" not in m
                ]
                if len(inner) != 1:
                    raise DataError(f"{where} holds {len(inner)} files, {inner[:3]}; expected one")
                return inner[0].lower(), archive.read(inner[0])
        if suffix == ".zst":
            import pyarrow as pa

            stream = pa.CompressedInputStream(pa.BufferReader(content), "zstd")
            return name.removesuffix(suffix), stream.read()
        unpack = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}[suffix]
        return name.removesuffix(suffix), unpack(content)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{where} cannot be unpacked: {error}") from error


def _read_workbook(content: bytes, where: str, sheet: str) -> pd.DataFrame:
    try:
        book = pd.read_excel(io.BytesIO(content), sheet_name=None, engine="calamine")
    except ImportError as error:
        raise DataError(
            f"{where}: reading workbooks needs python-calamine: pip install 'timeldm_jax[excel]'"
        ) from error
    except Exception as error:  # the engine's own, of any kind
        raise DataError(f"{where} is not a readable workbook: {error}") from error
    filled = [name for name, frame in book.items() if len(frame)]
    if sheet and sheet not in book:
        raise DataError(f"{where} has no sheet {sheet!r}; it has {', '.join(book)}")
    if not sheet and len(filled) != 1:
        raise DataError(
            f"{where} has {len(filled)} sheets with rows ({', '.join(filled)}); name one, as in "
            f"{where}#{filled[0] if filled else 'Sheet1'}"
        )
    return book[sheet or filled[0]].dropna(how="all").reset_index(drop=True)


def check_array(
    array: Float[np.ndarray, "..."], columns: Sequence[str] | None
) -> tuple[Float[np.ndarray, "..."], tuple[str, ...]]:
    """A user's array as float64, and the names of its features.

    Args:
      array: `(rows, features)`, one series in time order, NaN where a value is missing; or
        `(windows, time, features)`.
      columns: names of the features, or None for `feature_0`, ….

    Raises:
      DataError: wrong shape or dtype, infinite values, NaN in windows, or names that do not match
        the features.
    """
    values = np.asarray(array)
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise DataError(
            f"data has shape {values.shape}; expected (rows, features) or (windows, time, features)"
        )
    values = real_numbers(values)
    features = values.shape[-1]
    if columns is None:
        names = tuple(f"feature_{i}" for i in range(features))
    else:
        names = tuple(str(name) for name in columns)
    if len(names) != features:
        raise DataError(f"{len(names)} column names for {features} features")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"two columns are called {twice[0]!r}; names must differ")
    bad = np.argwhere(np.isinf(values) if values.ndim == 2 else ~np.isfinite(values))
    if bad.size:
        *where, feature = bad[0]
        raise DataError(
            f"column {names[feature]!r} has {values[tuple(bad[0])]} at index "
            f"{[int(i) for i in where]} ({len(bad)} such values in all); fill or drop them first"
        )
    return values, names
