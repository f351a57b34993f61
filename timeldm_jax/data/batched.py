"""Which tables are read in batches: Parquet and CSV files that are large, or that are to be."""

import csv
from pathlib import Path

from etils import epath

from timeldm_jax.data import dialect, lines, packed, parts, reader, rewrite
from timeldm_jax.data.parts import MOST_CELLS, PARQUET, Parquet
from timeldm_jax.data.table import Options
from timeldm_jax.errors import DataError, option

_HEAD = 2**20  # bytes by which the cells of a file are reckoned
_UNPACKED = 2**24  # bytes by which it is, how much smaller a packed file is


def large(source: str, placement: str, cache: Path, options: Options) -> Parquet | None:
    """The files of a table that is to be read in batches; None of one that is read whole.

    Args:
      source: as the user named it.
      placement: `auto` decides by the number of cells, which of text is reckoned.
      cache: folder for prepared data, where CSV files are written as Parquet.
      options: how the table is read.

    Raises:
      DataError: `streamed`, and other files than Parquet and CSV; or as `rewrite.parquet`.
    """
    asked = placement == "streamed"
    if placement not in ("auto", "streamed") or not source:
        return None
    path = epath.Path(source).expanduser()
    paths = parts.find(source) or ((path,) if path.exists() else ())
    sheet = not paths and "#" in source and epath.Path(source.rsplit("#", 1)[0]).exists()
    if not paths and not sheet:
        return None
    if paths and all(each.name.lower().endswith(PARQUET) for each in paths):
        found = parts.parquet(source, paths)
        cells = found.rows * len(found.schema.names)
        return found if asked or cells > MOST_CELLS else None
    if sheet or not all(map(_is_csv, paths)):
        if asked:
            raise DataError(
                f"{option('placement', placement)} reads Parquet and CSV files, and {source} is "
                "none: other files are read whole; write it as Parquet or CSV"
            )
        return None
    if asked or sum(_reckoned(each, options.decimal) for each in paths) > MOST_CELLS:
        return rewrite.parquet(source, paths, cache, options.decimal, options.na_values)
    return None


def _is_csv(path: epath.Path) -> bool:
    if path.is_dir():
        return False
    with packed.opened(path, str(path)) as (name, content):
        return reader.kind_of(name, content.read(reader.HEAD)) == "CSV"


def _reckoned(path: epath.Path, decimal: str) -> float:
    """About how many cells a text file has, by its first lines and its size."""
    with packed.opened(path, str(path)) as (_, content):
        head = content.read(_HEAD)
        size, more = len(head), content.read(_HEAD)
        while more and content.packed and size < _UNPACKED:  # text in as many bytes as were read
            size, more = size + len(more), content.read(_HEAD)
        if more:
            share = content.raw.tell() / (size + len(more)) if content.packed else 1.0
            size = path.stat().length / share
    text = head.decode(lines.encoding_of_head(head), errors="replace")
    found = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not text.strip():
        return 0.0
    some = found[: dialect.HEAD]
    share = (sum(map(len, some)) + len(some)) / len(text)
    try:
        _, separator = dialect.start(some, str(path), decimal)
        return sum(lines.widths(some, separator)) / share * size / len(head)
    except csv.Error:  # which reading it says
        return 0.0
