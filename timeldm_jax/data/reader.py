"""What users give as data: files of many kinds, frames, and arrays of any library."""

import codecs
import contextlib
import csv
import io
import json
import os
import zipfile
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from etils import epath

from timeldm_jax.data import arrays, dialect, frames, lines, packed, parts, spreadsheet, wide
from timeldm_jax.errors import DataError, option

_SUFFIXES = {
    "CSV": (".csv", ".tsv", ".txt", ".dat"),
    "Parquet": (".parquet", ".pq"),
    "Excel": (".xlsx", ".xlsm", ".xls", ".ods"),
    "JSON": (".json", ".jsonl", ".ndjson"),
    "Feather": (".feather", ".arrow"),
    "ARFF": (".arff",),
}
HEAD = 10_000  # bytes by which a file of no known suffix is taken for text
# What libraries raise of a file that is not what its name says.
FAULTS = (ValueError, OSError, ImportError, KeyError, zipfile.BadZipFile, csv.Error)


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


def accept(data: Source) -> str | pd.DataFrame | np.ndarray | arrays.Arrays:
    """Whatever a user gives as data, as one of four: a path, a frame, an array or several.

    Args:
      data: a path; a DataFrame; a Series, which is a column called `value` if it has no name; a
        table or column that narwhals knows (Polars, Arrow, …); a structured array, whose fields are
        columns; numbers as an array, as lists or tuples, or with `__array__` (JAX, PyTorch); a list
        of arrays `(rows, features)` of different lengths. What a mask hides, and None in a list, is
        missing.

    Raises:
      DataError: anything else, or rows of unequal length.
    """
    if isinstance(data, str | os.PathLike):
        return os.fspath(data)
    if isinstance(data, pd.DataFrame):
        return data
    if isinstance(data, pd.Series):
        return data.to_frame("value" if data.name in (None, "") else data.name)
    kind = f"{type(data).__module__}.{type(data).__qualname__}".removeprefix("builtins.")
    try:
        if isinstance(data, list | tuple):
            return arrays.of_lists(data)
        table = frames.to_pandas(data)
        if table is not None:
            return accept(table)
        convert = None if isinstance(data, type) else getattr(data, "to_pandas", None)
        if callable(convert):
            return accept(convert())
        if hasattr(data, "__arrow_c_stream__") and not isinstance(data, type):
            import pyarrow as pa

            return accept(pa.table(data).to_pandas())
        if hasattr(data, "__array__") and not isinstance(data, type):
            return arrays.of_array(data if isinstance(data, np.ndarray) else np.asarray(data))
    except DataError:
        raise
    except Exception as error:  # another library's, of any kind
        raise DataError(f"data of type {kind} cannot be read: {error}") from error
    raise DataError(
        f"data is of type {kind}; expected a path, a table (pandas, Polars, Arrow), a Series, an "
        "array (NumPy, JAX, PyTorch), or lists of numbers"
    )


def read(source: str | pd.DataFrame, decimal: str = "") -> tuple[pd.DataFrame, str]:
    """A table of a file, or a DataFrame with its index, long if it was wide; and what to call it.

    Args:
      source: a path (of a workbook with several sheets, `book.xlsx#sheet`; a folder or a glob of
        files of one kind, in the order of their paths), or a table.
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
    frame = wide.lengthen(frame)
    return frame, where


def _read_file(source: str, decimal: str) -> pd.DataFrame:
    if not source:
        raise DataError(f"no table is named: set {option('path')} to a .csv or .parquet file")
    path, sheet = epath.Path(source).expanduser(), ""
    several = parts.find(source)
    if several:
        return _read_several(several, decimal)
    if not path.exists() and "#" in source:  # a sheet of a workbook
        name, sheet = source.rsplit("#", 1)
        path = epath.Path(name).expanduser()
    if not path.exists():
        raise DataError(f"{source} does not exist")
    with packed.opened(path, source) as (name, stream):
        content = stream.read()
    kind = kind_of(name, content)
    if kind is None:
        known = " ".join(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
        raise DataError(
            f"{source}: expected a table, such as a .csv or .parquet file, found "
            f"{'.' + name.rsplit('.', 1)[1] if '.' in name else 'no suffix'}; known are {known}, "
            f"and text packed as {' '.join(packed.SUFFIXES)}"
        )
    try:
        if kind == "CSV":
            return spreadsheet.unquote(dialect.read_csv(content, source, decimal))
        if kind == "Excel":
            return _read_workbook(content, source, sheet)
        if kind == "JSON":
            return _of_records(content, source)
        if kind == "ARFF":
            return _of_arff(content, source)
        read = pd.read_parquet if kind == "Parquet" else pd.read_feather
        return read(io.BytesIO(content))
    except DataError:
        raise
    except FAULTS as error:
        raise DataError(f"{source} is not a readable {kind} file: {error}") from error


def _read_several(paths: Sequence[epath.Path], decimal: str) -> pd.DataFrame:
    """The rows of several files, one below the other; an index that only counts is left out."""
    frames = [_read_file(os.fspath(path), decimal) for path in paths]
    for path, frame in zip(paths, frames, strict=True):
        names, first = list(map(str, frame.columns)), list(map(str, frames[0].columns))
        parts.check_names(names, first, path, paths[0])
    counts = all(isinstance(frame.index, pd.RangeIndex) for frame in frames)
    return pd.concat(frames, ignore_index=counts)


def _is_text(content: bytes) -> bool:
    """Whether the start of a file is UTF-8 with a line break, and no zero byte."""
    head = content[:HEAD]
    if b"\0" in head or b"\n" not in head:
        return False
    with contextlib.suppress(UnicodeDecodeError):
        codecs.getincrementaldecoder("utf-8")().decode(head)
        return True
    return False


def _of_records(content: bytes, where: str) -> pd.DataFrame:
    """JSON: a list of rows, columns with lists, or a row a line."""
    text = content.decode("utf-8-sig")
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(found, dict) and len(found) == 1:  # {"data": [{…}, …]}
        inner = next(iter(found.values()))
        found = inner if _are_rows(inner) else found
    rows = _are_rows(found)
    columns = isinstance(found, dict) and all(isinstance(c, list) for c in found.values())
    if not rows and not columns:
        raise DataError(f"{where} holds no table; expected a list of rows, each {{name: value}}")
    return pd.DataFrame(found)


def _are_rows(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(row, dict) for row in found)


def _of_arff(content: bytes, where: str) -> pd.DataFrame:
    from scipy.io import arff  # imports slowly

    text = lines.decode(content, where)
    try:
        rows, _ = arff.loadarff(io.StringIO(text))
    except Exception as error:  # of any kind, where a line is not as the format says
        raise DataError(f"{where} is not a readable ARFF file: {error}") from error
    frame = pd.DataFrame(rows)
    words = [name for name in frame.columns if frame[name].dtype == object]
    for name in words:
        frame[name] = frame[name].str.decode("utf-8").replace("?", None)
    return frame


def kind_of(name: str, content: bytes) -> str | None:
    """What a file is by its name, or text where it begins like it; None where it is neither."""
    for kind, suffixes in _SUFFIXES.items():
        if name.endswith(suffixes):
            return kind
    return "CSV" if _is_text(content) else None  # whatever it is called


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
