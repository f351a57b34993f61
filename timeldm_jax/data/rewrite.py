"""A CSV file as the Parquet file that it is read from in batches, written once.

A file is read several times, a block of lines at a time, by the reader that reads others whole:
where the table is in it; what all cells of each column can be; where there is text, how its numbers
are written; and once more to write it. So no block decides what another would decide otherwise.
"""

import csv
import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath
from filelock import FileLock

from timeldm_jax.data import dialect, gaps, lines, numerals, parts, spreadsheet
from timeldm_jax.data.cache import CACHE_DIR_VARIABLE
from timeldm_jax.data.dialect import Codes, Layout
from timeldm_jax.data.gaps import Rest
from timeldm_jax.data.lines import Lines
from timeldm_jax.data.numerals import Seen
from timeldm_jax.data.parts import Parquet
from timeldm_jax.data.sources import sha256_of
from timeldm_jax.errors import DataError, guess, guesses_kept, option

_log = logging.getLogger(__name__)

FORMAT = 2  # of what is written
ROWS, NOTE = "rows.parquet", "rows.json"
_ARROW = {
    "int64": pa.int64(),
    "uint64": pa.uint64(),
    "Int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "flags": pa.bool_(),  # some of them missing
    "str": pa.string(),
    "object": pa.string(),
    "": pa.null(),  # nothing in any row
}
_SAID = dict.fromkeys(_ARROW, "numbers") | {
    "bool": "true or false",
    "flags": "true or false",
    "str": "text",
    "object": "text",
}
ROOM = 2**28  # bytes that a disk should have left


@dataclasses.dataclass
class _Cells:
    """What the cells of a column are, as pandas finds it block by block.

    Attributes:
      kinds: of the blocks.
      gaps: whether a cell is missing.
      negative: whether a number is.
      whole: whether all numbers are.
      counts: whether each is one more than the one before.
      head: the first cells.
      last: the last cell.
    """

    kinds: set[str] = dataclasses.field(default_factory=set)
    gaps: bool = False
    negative: bool = False
    whole: bool = True
    counts: bool = True
    head: pd.Series | None = None
    last: Any = None

    def add(self, column: pd.Series) -> None:
        """The next cells."""
        kind = _kind(column)
        self.kinds |= {kind} - {""}
        self.gaps |= bool(column.isna().any())
        self.head = column.iloc[:50] if self.head is None else self.head
        if kind not in ("int64", "uint64", "float64"):
            return
        self.negative |= bool((column < 0).any())
        self.whole &= dialect.are_whole(column)
        if kind == "int64":
            numbers = column.to_numpy()
            follows = self.last is None or numbers[0] == self.last + 1
            self.counts &= follows and bool((np.diff(numbers) == 1).all())
            self.last = numbers[-1]

    @property
    def whole_numbers(self) -> bool:
        """Whether all cells are, or are missing."""
        return self.whole and bool(self.kinds) and self.kinds <= {"int64", "uint64", "float64"}

    @property
    def kind(self) -> str:
        """What pandas would make of all cells."""
        if self.kinds <= {"bool", "flags"} and self.kinds:
            return "flags" if self.gaps else "bool"
        if self.kinds <= {"int64"}:
            return "int64" if self.kinds and not self.gaps else "float64" if self.kinds else ""
        if "float64" in self.kinds and self.kinds <= {"int64", "uint64", "float64"}:
            return "float64"
        big = self.kinds <= {"int64", "uint64"} and not (self.gaps or self.negative)
        return "uint64" if big else "str"


def _kind(column: pd.Series) -> str:
    if not column.notna().any():
        return ""
    if column.dtype == object:
        flags = all(isinstance(cell, bool) for cell in column.dropna())
        return "flags" if flags else "str"
    return str(column.dtype)


@dataclasses.dataclass(frozen=True)
class _Source:
    """Where a table is in a file; what its columns are is found by reading it."""

    path: epath.Path
    where: str
    encoding: str
    layout: Layout

    def bodies(self) -> Iterator[str]:
        """The lines of its rows, as one text a block."""
        found, layout = lines.pieces(self.path, self.where, self.encoding), self.layout
        for block in lines.blocks(found, layout.separator):
            begin = max(layout.first - block.first, 0)
            end = min(layout.last - block.first, len(block.lines))
            if begin < end and (len(layout.names) == 1 or any(block.widths[begin:end])):
                yield "\n".join(block.lines[begin:end]) + "\n"


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How the cells of a file are read.

    Attributes:
      decimal: the point of its numbers.
      dtypes: of each column of the file, as it is parsed.
      numerals: of columns of text that are numbers, how they are written.
      first: what the first column without a name is called, "" where it is left out.
      words: by name in the table, what stands for a missing value.
      rest: of columns of text with such words, their dtype without them.
    """

    decimal: str
    dtypes: dict[str, str]
    numerals: dict[str, Seen]
    first: str
    words: dict[str, list[str]]
    rest: dict[str, str]

    def named(self, frame: pd.DataFrame, layout: Layout) -> pd.DataFrame:
        """The columns of the table, under its names, and words as they were."""
        frame = frame.drop(columns=[layout.names[place] for place in layout.drop])
        if frame.columns[0] == dialect.UNNAMED:
            named = {dialect.UNNAMED: self.first}
            frame = frame.rename(columns=named) if self.first else frame.iloc[:, 1:]
        return spreadsheet.unquote(frame)

    def kinds(self, layout: Layout) -> dict[str, str]:
        """What each column of the table is, as a key of `_ARROW`."""
        dtypes = self.dtypes | {
            name: "int64" if seen.whole(self.decimal) else "float64"
            for name, seen in self.numerals.items()
        }
        kept = [name for place, name in enumerate(layout.names) if place not in layout.drop]
        names = self.named(pd.DataFrame(columns=layout.names), layout).columns
        named = zip(names, kept[-len(names) :], strict=True)
        return {str(name): dtypes[own] for name, own in named} | self.rest

    def read(self, body: str, layout: Layout) -> pd.DataFrame:
        """The rows of a block as they are written."""
        flags = {name for name, dtype in self.dtypes.items() if dtype == "flags"}
        dtypes = {
            name: "boolean" if name in flags else dtype or "float64"
            for name, dtype in self.dtypes.items()
        }
        frame = dialect.parse(body, layout, self.decimal, dtypes)
        for name, seen in self.numerals.items():
            frame[name] = numerals.numbers_of(frame[name], seen, self.decimal)
        frame = self.named(frame, layout)
        for name, dtype in self.rest.items():
            frame[name] = gaps.without(frame[name], self.words[name], dtype)
        return frame


def parquet(
    source: str, paths: Sequence[epath.Path], cache: Path, decimal: str, na_values: str
) -> Parquet:
    """CSV files as Parquet files in the cache, which are written where they are not there.

    Args:
      source: what the user called them.
      paths: of the files, in order.
      cache: folder for prepared data.
      decimal: the point of their numbers; "" finds out.
      na_values: as in `table.Options`.

    Raises:
      DataError: a file that is no table, as `reader.read`; columns of different kinds; or the cache
        cannot be written.
    """
    made, notes = [], []
    for path in paths:
        where = source if len(paths) == 1 else os.fspath(path)
        file, note = _written(path, where, cache, decimal, na_values)
        made.append(file)
        notes.append(note)
        names, first = ([name for name, _ in each["columns"]] for each in (note, notes[0]))
        parts.check_names(names, first, path, paths[0])
    counts = [note["rows"] for note in notes]
    if not sum(counts):
        raise DataError(f"{source} has 0 rows of {len(first)} columns: nothing to learn")
    kinds = [dict(note["columns"]) for note in notes]
    fields = [_field(name, [kind[name] for kind in kinds], paths) for name in first]
    # By which Arrow gives such whole numbers back as pandas' own, with gaps.
    whole = {
        field.name: pd.Series([], dtype="Int64")
        for field in fields
        if (field.metadata or {}).get(parts.DTYPE) == b"Int64"
    }
    metadata = pa.Schema.from_pandas(pd.DataFrame(whole), preserve_index=False).metadata
    schema = pa.schema(fields, metadata if whole else None)
    return Parquet(source, tuple(made), tuple(counts), schema, tuple(paths))


def _field(name: str, kinds: list[str], paths: Sequence[epath.Path]) -> pa.Field:
    """A column of several files, of a kind that holds those of each."""
    found = {kind for kind in kinds if kind}
    for several in ({"int64", "Int64"}, {"str", "object"}, {"bool", "flags"}):
        if found <= several and len(found) == 2:
            found = {"Int64", "object", "flags"} & several
    if len(found) == 2 and found <= {"int64", "uint64", "Int64", "float64"}:
        found = {"float64"}
    if len(found) > 1:
        other = next(i for i, kind in enumerate(kinds) if kind and kind != kinds[0])
        raise DataError(
            f"column {name!r} is {_SAID[kinds[0]]} in {paths[0]} and {_SAID[kinds[other]]} in "
            f"{paths[other]}; the columns of a table must be of one kind in all its files"
        )
    kind = found.pop() if found else "float64"
    own = {parts.DTYPE: kind} if kind in ("Int64", "object") else None
    return pa.field(name, _ARROW[kind], metadata=own)


def _written(
    path: epath.Path, where: str, cache: Path, decimal: str, na_values: str
) -> tuple[epath.Path, dict[str, Any]]:
    """The Parquet file of a CSV file, and what is noted of it."""
    content = [FORMAT, *parts.identity((path,)), decimal, na_values]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
    folder = cache / "tables" / f"csv-{key}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            note = _sound(folder)
            if note is None:
                note = _write(folder, path, where, decimal, na_values)
    except OSError as error:
        raise DataError(
            f"cannot write prepared data to {folder}: {error}; name another folder with "
            f"{option('cache_dir')} or {CACHE_DIR_VARIABLE}"
        ) from error
    for text, level in note["guesses"]:
        guess(text, level)
    return epath.Path(folder / ROWS), note


def _sound(folder: Path) -> dict[str, Any] | None:
    """The note of what stands there; None where it is not whole or is damaged."""
    try:
        note: dict[str, Any] = json.loads((folder / NOTE).read_text())
        if note["sha256"] == sha256_of(folder / ROWS):
            return note
        _log.warning("%s is damaged; it is made again", folder / ROWS)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _write(
    folder: Path, path: epath.Path, where: str, decimal: str, na_values: str
) -> dict[str, Any]:
    """Writes the rows, then the note that makes them count."""
    _log.info("%s is written to %s as Parquet, once", where, folder)
    free = shutil.disk_usage(folder).free
    if path.stat().length + ROOM > free:
        raise DataError(
            f"{folder} has {free / 1e9:.1f} GB left, and {where} is to be written there as "
            f"Parquet; name another folder with {option('cache_dir')} or {CACHE_DIR_VARIABLE}"
        )
    (folder / NOTE).unlink(missing_ok=True)
    partial = folder / f".{ROWS}.partial"
    try:
        with guesses_kept(aside=True) as guesses:
            source = _source(path, where, decimal)
            plan = _plan(source, decimal, na_values)
            rows, columns = _write_rows(partial, source, plan)
        partial.replace(folder / ROWS)
    except (ValueError, csv.Error) as error:
        if isinstance(error, DataError | pa.ArrowInvalid):
            raise
        raise DataError(f"{where} is not a readable CSV file: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    note = {
        "rows": rows,
        "columns": columns,
        "guesses": guesses,
        "sha256": sha256_of(folder / ROWS),
    }
    written = folder / f".{NOTE}.partial"
    written.write_text(json.dumps(note))
    written.replace(folder / NOTE)
    return note


def _write_rows(file: Path, source: _Source, plan: _Plan) -> tuple[int, list[tuple[str, str]]]:
    """Writes the rows of a file; how many they are, and the name and kind of each column."""
    kinds = plan.kinds(source.layout)
    schema = pa.schema([(name, _ARROW[kind]) for name, kind in kinds.items()])
    rows = 0
    with pq.ParquetWriter(file, schema) as writer:
        for body in source.bodies():
            frame = plan.read(body, source.layout)
            kinds |= {str(name): "object" for name in frame if frame[name].dtype == object}
            for name in (name for name, kind in kinds.items() if not kind):
                frame[name] = None
            writer.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False))
            rows += len(frame)
    return rows, list(kinds.items())


def _source(path: epath.Path, where: str, decimal: str) -> _Source:
    encoding = lines.encoding_of(path, where)
    head: list[str] = []
    for some in lines.pieces(path, where, encoding):
        head += some
        if len(head) >= dialect.HEAD:
            break
    first, separator = dialect.start(head[: dialect.HEAD], where, decimal)
    blocks = lines.blocks(lines.pieces(path, where, encoding), separator)
    layout = dialect.layout(Lines(blocks, separator, first), separator, where)
    return _Source(path, where, encoding, layout)


def _plan(source: _Source, decimal: str, na_values: str) -> _Plan:
    """What all cells of a file say of how they are read."""
    layout = source.layout
    cells, coded = _cells(source, decimal or ".")
    seen = _texts(source, cells)
    if not decimal:
        decimal = numerals.decimal_of(seen.values(), layout.separator)
        if decimal == ",":
            cells, coded = _cells(source, decimal)
            seen = _texts(source, cells)
    found = {name: text for name, text in seen.items() if text.number(decimal)}
    for name, text in found.items():
        numerals.say(name, text, decimal)
    dtypes = {name: own.kind for name, own in cells.items()} | dict.fromkeys(coded, "str")
    first = _name_of_first(layout, dtypes, cells, seen)
    plan = _Plan(decimal, dtypes, found, first, {}, {})
    words = gaps.words_of(na_values, list(plan.kinds(layout)), source.where)
    return plan if not words else _without(source, dataclasses.replace(plan, words=words))


def _cells(source: _Source, decimal: str) -> tuple[dict[str, _Cells], list[str]]:
    """What the cells of each column are, and which columns are codes such as 01000."""
    layout = source.layout
    found = {name: _Cells() for name in layout.names}
    codes = False
    for body in source.bodies():
        frame = dialect.parse(body, layout, decimal)
        for name, own in found.items():
            own.add(frame[name])
        whole = any(own.whole_numbers for own in found.values())
        codes = codes or (whole and dialect.may_have_codes(body, layout))
    coded = {name: Codes() for name, own in found.items() if own.whole_numbers and codes}
    for body in source.bodies() if coded else ():
        frame = dialect.parse(body, layout, ".", str)
        for name, code in coded.items():
            code.add(frame[name])
    return found, [name for name, code in coded.items() if code.found]


def _texts(source: _Source, cells: dict[str, _Cells]) -> dict[str, Seen]:
    """How the columns of text are written."""
    seen = {name: Seen() for name, own in cells.items() if own.kind == "str"}
    for body in source.bodies() if seen else ():
        frame = dialect.parse(body, source.layout, ".", str)
        for name, own in seen.items():
            own.add(frame[name])
        if all(own.is_text for own in seen.values()):
            break
    return seen


def _name_of_first(
    layout: Layout, dtypes: dict[str, str], cells: dict[str, _Cells], seen: dict[str, Seen]
) -> str:
    """What the first column is called where it has no name; see `dialect.name_of_first`."""
    names = [name for place, name in enumerate(layout.names) if place not in layout.drop]
    own = cells[names[0]]
    if names[0] != dialect.UNNAMED or own.gaps or own.head is None:
        return names[0]
    text = dtypes[names[0]] == "str"
    head = pd.Series(seen[names[0]].head, dtype="str") if text and names[0] in seen else own.head
    return dialect.name_of_first(names, head, counts=own.counts and own.kind == "int64")


def _without(source: _Source, plan: _Plan) -> _Plan:
    """A plan that knows which columns of text are numbers beside words for a missing value."""
    kinds = plan.kinds(source.layout)
    rest = {name: Rest() for name in plan.words if kinds[name] == "str"}
    for body in source.bodies() if rest else ():
        frame = plan.read(body, source.layout)
        for name, own in rest.items():
            own.add(frame[name], plan.words[name])
    dtypes = {name: own.dtype for name, own in rest.items() if own.dtype}
    return dataclasses.replace(plan, rest=dtypes)
