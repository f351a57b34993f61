"""Tables from files: formats, dialects and what is refused."""

import csv
import io

import pandas as pd
from etils import epath

from timeldm_jax.data import spreadsheet
from timeldm_jax.errors import DataError, option


def read(source: str | pd.DataFrame, decimal: str = ".") -> tuple[pd.DataFrame, str]:
    """A table of a CSV or Parquet file, or a DataFrame as it is; and what to call it.

    Raises:
      DataError: no such file, another format, empty, or a column named twice.
    """
    if isinstance(source, pd.DataFrame):
        frame, where = source.reset_index(drop=isinstance(source.index, pd.RangeIndex)), "the table"
        if isinstance(source.index, pd.MultiIndex):
            raise DataError("the table has an index of several levels; call reset_index() first")
    else:
        if not str(source):
            raise DataError(f"no table is named: set {option('path')} to a .csv or .parquet file")
        path = epath.Path(source)
        where = str(source)
        if not path.exists() or path.is_dir():
            raise DataError(
                f"{where} does not exist" if not path.exists() else f"{where} is a folder"
            )
        suffix = path.suffix.lower()
        if suffix in (".parquet", ".pq"):
            try:
                frame = pd.read_parquet(io.BytesIO(path.read_bytes()))
            except (ValueError, OSError) as error:
                raise DataError(f"{where} is not a readable Parquet file: {error}") from error
        elif suffix in (".csv", ".tsv", ".txt"):
            frame = _read_csv(path, where, decimal)
        else:
            raise DataError(
                f"{where}: expected a .csv or .parquet file, found {suffix or 'no suffix'}"
            )
    frame.columns = [str(name) for name in frame.columns]
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise DataError(f"{where}: two columns are called {twice[0]!r}; names must differ")
    if frame.shape[1] == 0 or len(frame) == 0:
        raise DataError(
            f"{where} has {len(frame)} rows of {frame.shape[1]} columns: nothing to learn"
        )
    return frame, where


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
