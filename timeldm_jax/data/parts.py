"""A table in several files: a folder or a glob, in the order of its paths.

Parquet files are read in batches by `pyarrow.parquet`, with buffered columns: 10^7 rows of 8
columns took 0.5 s and 110 MB of memory, where `pyarrow.dataset` took 0.7 to 2 s and 310 to 590 MB
and DuckDB 1.2 s and 520 MB (2 cores), because they read ahead by whole row groups.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath
from jaxtyping import Int

from timeldm_jax.errors import DataError

PLACEMENTS = ("auto", "replicated", "sharded", "streamed")
# Cells that a table is read whole with: half a gigabyte as float64, of which reading, encoding and
# scaling hold some eight copies at once.
MOST_CELLS = 2**26
DTYPE = b"timeldm_jax.dtype"  # of a field: a dtype of pandas that Arrow does not tell
PARQUET = (".parquet", ".pq")
BATCH_ROWS = 2**17
BUFFER = 2**20  # bytes of a column that are read at a time
_WILD = re.compile(r"[*?\[]")


def find(source: str) -> tuple[epath.Path, ...]:
    """The files of a folder, at any depth, or of a glob; () where `source` is neither.

    What begins with a dot or an underscore is left out, as are files without a suffix and
    `manifest.json`: they tell programs about the others.

    Raises:
      DataError: no file, or files of several kinds.
    """
    path = epath.Path(source).expanduser()
    every: Iterable[Any]
    if path.exists():
        if not path.is_dir():
            return ()
        root, every = path, _below(path)
    elif _WILD.search(source):
        pieces = path.parts
        wild = next(i for i, piece in enumerate(pieces) if _WILD.search(piece))
        root, pattern = epath.Path(*pieces[:wild]), "/".join(pieces[wild:])
        # Etils knows no `**`, which would ask a bucket for all that it holds.
        local = "://" not in source and root.is_dir()
        every = pathlib.Path(root).glob(pattern) if local else root.glob(pattern)
    else:
        return ()
    found = sorted(os.fspath(each) for each in every if _is_part(epath.Path(each), root))
    if not found:
        raise DataError(f"{source}: no file is there; expected Parquet, CSV or other tables")
    kinds = sorted({os.path.splitext(each)[1].lower() for each in found})
    if len(kinds) > 1:
        raise DataError(
            f"{source} holds files of several kinds ({', '.join(kinds)}); name those of one, as "
            f"{os.path.join(source if path.exists() else str(root), '*' + kinds[0])}"
        )
    return tuple(epath.Path(each) for each in found)


def _below(folder: epath.Path) -> Iterator[epath.Path]:
    """All that a folder holds, at any depth."""
    for each in folder.iterdir():
        yield each
        if each.is_dir():
            yield from _below(each)


def _is_part(path: epath.Path, root: epath.Path) -> bool:
    inner = os.fspath(path)[len(os.fspath(root)) :].replace("\\", "/").split("/")
    told = path.name == "manifest.json" or any(name[:1] in (".", "_") for name in inner)
    return bool(path.suffix) and not path.is_dir() and not told


def check_names(names: Sequence[str], first: Sequence[str], path: Any, first_path: Any) -> None:
    """Raises DataError unless a file has the columns of the first one, in whatever order."""
    odd = sorted(set(names) ^ set(first))
    if odd:
        has, lacks = (path, first_path) if odd[0] in names else (first_path, path)
        raise DataError(
            f"{has} has a column {odd[0]!r} and {lacks} has none; the files of a table must have "
            "the same columns"
        )


@dataclasses.dataclass(frozen=True)
class Parquet:
    """Parquet files that are one table, read in batches.

    Attributes:
      source: what the user called them.
      paths: of the files, in order.
      counts: rows of each.
      schema: of all: the columns of the first, of types that hold those of every file. A field may
        say the dtype that pandas has for it; see `DTYPE`.
      origin: the files that these were made from; (): none.
    """

    source: str
    paths: tuple[epath.Path, ...]
    counts: tuple[int, ...]
    schema: pa.Schema
    origin: tuple[epath.Path, ...] = ()

    @property
    def rows(self) -> int:
        """Of all files."""
        return sum(self.counts)

    def batches(
        self, columns: Sequence[str] | None = None, wanted: "Wanted | None" = None
    ) -> Iterator[tuple[int, pa.Table]]:
        """The table in batches of at most `BATCH_ROWS` rows, each with the number of its first row.

        Args:
          columns: names of those to read; default: all.
          wanted: stretches of rows; row groups without one are passed over.
        """
        before = 0
        schema = self.schema
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns], schema.metadata)
        for path in self.paths:
            with _opened(path) as file:
                for group in range(file.num_row_groups):
                    count = file.metadata.row_group(group).num_rows
                    if wanted is None or wanted.touches(before, before + count):
                        yield from _of_group(file, group, schema, before)
                    before += count

    def stretches(self, wanted: "Wanted") -> pa.Table:
        """The rows of some stretches, one below the other."""
        found = []
        for first, table in self.batches(wanted=wanted):
            for begin, end in wanted.within(first, first + len(table)):
                found.append(table.slice(begin - first, end - begin))
        return pa.concat_tables(found)

    def identity(self) -> list[list[Any]]:
        """Names, sizes and times of the files: by which a later run knows them again."""
        return identity(self.origin or self.paths)


def identity(paths: Sequence[epath.Path]) -> list[list[Any]]:
    """Name, size and time of each of some files."""
    return [[os.fspath(path), path.stat().length, _changed(path)] for path in paths]


def _changed(path: epath.Path) -> str:
    """When a file was last written: of a local one to the nanosecond, of others to the second."""
    name = os.fspath(path)
    return str(path.stat().mtime if "://" in name else os.stat(name).st_mtime_ns)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Stretches of rows, rising and apart.

    Attributes:
      begins: first row of each.
      ends: the row after its last one.
    """

    begins: Int[np.ndarray, " stretch"]
    ends: Int[np.ndarray, " stretch"]

    def touches(self, begin: int, end: int) -> bool:
        """Whether some row of theirs is in this range."""
        return bool(((self.begins < end) & (self.ends > begin)).any())

    def within(self, begin: int, end: int) -> list[tuple[int, int]]:
        """What of them lies in this range."""
        low, high = np.maximum(self.begins, begin), np.minimum(self.ends, end)
        return [(int(a), int(b)) for a, b in zip(low, high, strict=True) if a < b]


def parquet(source: str, paths: Sequence[epath.Path]) -> Parquet:
    """Parquet files as one table; their footers are read.

    Raises:
      DataError: a file that is none, or with other columns than the first.
    """
    counts, schemas = [], []
    for path in paths:
        with _opened(path) as file:
            counts.append(file.metadata.num_rows)
            schemas.append(file.schema_arrow)
        check_names(schemas[-1].names, schemas[0].names, path, paths[0])
    try:
        schema = pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"{source}: a column differs in kind from file to file: {error}") from error
    return Parquet(source, tuple(paths), tuple(counts), schema)


def _of_group(
    file: pq.ParquetFile, group: int, schema: pa.Schema, first: int
) -> Iterator[tuple[int, pa.Table]]:
    batches = file.iter_batches(BATCH_ROWS, row_groups=[group], columns=schema.names)
    for batch in batches:
        table = pa.Table.from_batches([batch]).select(schema.names)
        same = table.schema.equals(schema, check_metadata=any(f.metadata for f in schema))
        yield first, table if same else table.cast(schema)
        first += len(batch)


@contextlib.contextmanager
def _opened(path: epath.Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file; local ones are read by Arrow itself, others through their file system.

    Raises:
      DataError: it cannot be read.
    """
    name = os.fspath(path)
    try:
        with contextlib.ExitStack() as stack:
            content = stack.enter_context(path.open("rb")) if "://" in name else name
            yield stack.enter_context(pq.ParquetFile(content, buffer_size=BUFFER))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{name} is not a readable Parquet file: {error}") from error
