"""Samples as files, of any number: drawn, finished and written at the same time.

The devices draw in a thread of its own, several threads make tables of what they gave, and the
caller's writes them. Memory is a few groups of windows, however many there are, and what a file
holds follows from the seed and the numbers of its windows alone.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from etils import epath
from jaxtyping import Float
from pyarrow import parquet

from timeldm_jax import convert, overlap
from timeldm_jax.asked import Asked
from timeldm_jax.data import arrays, spreadsheet
from timeldm_jax.data import schema as schemas
from timeldm_jax.errors import DataError
from timeldm_jax.generator import Generator
from timeldm_jax.progress import progress
from timeldm_jax.samples import write_npz
from timeldm_jax.workdir import open_atomic

GROUP_NUMBERS = 2**20  # of the features of windows that are finished together: 8 MiB in float64
Windows = Float[np.ndarray, "n window feature"]


@dataclasses.dataclass(frozen=True)
class Part:
    """A file of samples.

    Attributes:
      path: of the file.
      first: number of its first window.
      count: windows.
    """

    path: epath.Path
    first: int
    count: int


@dataclasses.dataclass(frozen=True)
class Form:
    """How windows become the content of files.

    Attributes:
      suffix: of the files: `.parquet`, `.csv` or `.npz`.
      piece: what is written of finished windows, which are asked for so; called by many threads.
      write: writes a file, whole or not at all, of pieces of so many windows in all.
      columns: what files hold, as JSON: names and types.
    """

    suffix: str
    piece: Callable[[Windows, Asked], Any]
    write: Callable[[Part, Iterator[Any]], None]
    columns: list[dict[str, Any]]


def write(
    generator: Generator, asked: Asked, seed: int, parts: Sequence[Part], form: Form
) -> Iterator[tuple[Part, int]]:
    """Draws windows into files; yields each part when its file is there, whole, with its length.

    That is rows of a table, or windows of arrays.

    Args:
      generator: of the windows.
      asked: of all windows of all parts, without times that nobody asked for.
      seed: of the noise.
      parts: the files, in the order in which they are written.
      form: what they hold.

    Raises:
      NonFiniteSamplesError: the networks gave NaN or infinity; the part is not there.
      OSError: a file cannot be written; it is not there.
    """
    generator.described()  # measured before several threads ask for it
    size = _group(generator)

    def drawn() -> Iterator[tuple[int, Windows]]:
        for part in parts:
            first = part.first
            batches = generator.draws(part.count, seed, asked.part(first, part.count))
            for scaled in _regrouped(batches, size):
                yield first, scaled
                first += len(scaled)

    def finished(group: tuple[int, Windows]) -> tuple[int, Any]:
        first, scaled = group
        own = asked.part(first, len(scaled)).timed(generator.schema, seed)
        return len(scaled), form.piece(generator.finished(scaled, own), own)

    with contextlib.ExitStack() as stack:
        show = stack.enter_context(
            progress("sample", sum(part.count for part in parts), unit="window")
        )
        workers = overlap.threads()
        raw = stack.enter_context(contextlib.closing(overlap.ahead(drawn(), 2)))
        pieces = stack.enter_context(contextlib.closing(overlap.in_order(finished, raw, workers)))
        done = length = 0

        def of(part: Part) -> Iterator[Any]:
            nonlocal done, length
            left = part.count
            while left:
                count, piece = next(pieces)
                left, done, length = left - count, done + count, length + len(piece)
                yield piece
                show(done, {})

        for part in parts:
            length = 0
            form.write(part, of(part))
            yield part, length


def _regrouped(batches: Iterable[Windows], size: int) -> Iterator[Windows]:
    """The windows of batches in groups of `size`, so that files do not depend on the batches."""
    waiting: list[Windows] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        while count >= size:
            whole = np.concatenate(waiting)
            yield whole[:size]
            waiting, count = [whole[size:]], count - size
    if count:
        yield np.concatenate(waiting)


def of_features(generator: Generator) -> Form:
    """Windows of features as `.npz`: what a run's scores and report are made of."""
    # Float32 would change whole numbers of a table beyond 16 million.
    dtype = convert.dtype(generator) if generator.schema is None else np.float64
    return _of_arrays(generator, lambda windows, _: windows, generator.columns, dtype)


def of_user(
    generator: Generator, seed: int, suffix: str = "", missing: str = "fill", count: int = 0
) -> Form:
    """Windows as the user gave their data: rows of a table, or arrays.

    Args:
      generator: of the windows.
      seed: of the times of windows that show them.
      suffix: of the files; default: `.parquet` of tables and of series of different lengths,
        `.npz` of other arrays.
      missing: as for `TimeLDM.sample`.
      count: windows of the only file, whose columns are typed by what it holds where it is small;
        0: there are several files, which must be alike.

    Raises:
      DataError: `missing` is nothing known, or the model gives no arrays and `.npz` is asked for.
    """

    def presented(windows: Windows, asked: Asked) -> Any:
        return convert.present(generator, windows, seed, missing, asked=asked)

    names = generator.columns if generator.schema is None else generator.schema.order
    examples = _examples(generator)
    example = presented(examples, Asked(len(examples)))
    suffix = suffix or (".npz" if isinstance(example, np.ndarray) else ".parquet")
    if suffix == ".npz":
        check_arrays(example)
        return _of_arrays(generator, presented, names, convert.dtype(generator))

    def rows(windows: Windows, asked: Asked) -> pd.DataFrame:
        return as_table(presented(windows, asked), names, asked.first)

    frame = as_table(example, names)
    if suffix == ".csv":
        columns = [{"name": str(name), "type": str(kind)} for name, kind in frame.dtypes.items()]
        return Form(suffix, rows, lambda part, frames: write_csv(part.path, frames), columns)
    fixed = _alike(_arrow(frame, None))
    columns = [{"name": each.name, "type": str(each.type)} for each in fixed]
    one_group = 0 < count <= _group(generator)

    def arrow(windows: Windows, asked: Asked) -> pa.Table:
        return _arrow(rows(windows, asked), None if one_group else fixed)

    return Form(suffix, arrow, lambda part, made: _write_arrow(part.path, made), columns)


def _group(generator: Generator) -> int:
    """How many windows are finished together."""
    return max(1, GROUP_NUMBERS // (generator.models.vae.window * len(generator.columns)))


def _of_arrays(
    generator: Generator,
    piece: Callable[[Windows, Asked], Windows],
    names: tuple[str, ...],
    dtype: type[np.floating],
) -> Form:
    window = generator.models.vae.window

    def write_part(part: Part, pieces: Iterator[Windows]) -> None:
        write_npz(part.path, pieces, (part.count, window, len(names)), names, dtype)

    columns = [{"name": name, "type": np.dtype(dtype).name} for name in names]
    return Form(".npz", piece, write_part, columns)


def _examples(generator: Generator) -> Windows:
    """Two windows that show the types of all columns: one without and one with what is missing."""
    windows = np.zeros((2, generator.models.vae.window, len(generator.columns)))
    if generator.schema is not None:
        windows[1][:, list(schemas.flags(generator.schema).values())] = 1
    return windows


def check_arrays(found: Any) -> Windows:
    """Windows as they are; raises DataError for what `.npz` cannot hold."""
    if not isinstance(found, np.ndarray):
        kind = "tables" if isinstance(found, pd.DataFrame) else "series of different lengths"
        raise DataError(f"the model gives {kind}, which .npz cannot hold; write .csv or .parquet")
    return found


def as_table(found: Any, names: Sequence[str], first: int = 0) -> pd.DataFrame:
    """A table as it is; windows, or series, as one, with a column `series` that numbers them."""
    if isinstance(found, pd.DataFrame):
        return found
    frame = arrays.stack(arrays.Arrays(tuple(found)), names)
    frame[schemas.SERIES] += first
    return frame


def write_csv(path: epath.Path, frames: Iterable[pd.DataFrame]) -> None:
    """Writes tables one below the other, whole or not at all; see `spreadsheet.quote`."""
    timed: list[Any] | None = None
    with open_atomic(path) as file:
        for frame in frames:
            dates = frame.select_dtypes(["datetime", "datetimetz"])
            own = [name for name in dates if (dates[name].dt.normalize() != dates[name]).any()]
            # Of dates that all lie at midnight pandas writes no time: here those before had one.
            for name in set(timed or ()) - set(own):
                frame = frame.assign(**{name: frame[name].map(str, na_action="ignore")})
            spreadsheet.quote(frame).to_csv(file, index=False, header=timed is None)
            timed = own if timed is None else timed


def write_parquet(path: epath.Path, frame: pd.DataFrame) -> None:
    """Writes a table, whole or not at all."""
    _write_arrow(path, iter([_arrow(frame, None)]))


def _write_arrow(path: epath.Path, made: Iterator[pa.Table]) -> None:
    """Writes tables one below the other, a group of rows each."""
    first = next(made)
    with (
        open_atomic(path, "wb") as file,
        parquet.ParquetWriter(file, first.schema, compression="snappy") as writer,
    ):
        for table in itertools.chain([first], made):
            writer.write_table(table)


def _arrow(frame: pd.DataFrame, schema: pa.Schema | None) -> pa.Table:
    try:
        found = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        if schema is None:
            raise
        raise DataError(f"no Parquet of one type a column ({error}); write .csv") from error
    return found if schema is None else found.replace_schema_metadata(schema.metadata)


def _alike(example: pa.Table) -> pa.Schema:
    """Types that hold the values of any samples: the digits of decimals are not those of two.

    Raises:
      DataError: Parquet has no such type.
    """
    schema = example.schema
    try:
        parquet.write_table(example, pa.BufferOutputStream())
    except pa.ArrowNotImplementedError as error:
        raise DataError(f"Parquet cannot hold the model's columns ({error}); write .csv") from error
    for place, field in enumerate(schema):
        if pa.types.is_decimal128(field.type):
            wide = field.with_type(pa.decimal128(38, field.type.scale))
            schema = schema.set(place, wide)
    return schema
