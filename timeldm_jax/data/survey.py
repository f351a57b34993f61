"""Rows that stand for a table too large to be looked at whole.

A pass over all rows keeps one at random of each of many equal stretches, at most `MOST_ROWS`, and
every row that shows what such a sample may lack: the ends of each column, rare words, gaps of
another pattern, numbers of more decimals, changes within a series. What is inferred of these rows
is then exact where single rows decide (bounds, gaps, words, decimals, static columns) and off by
chance where shares do: a quantile by .05 % of the rows, as a standard deviation. A sketch would not
do for the scalings here, which ask which values come again and where none lie. A table of no more
rows is taken whole.

The choice within a stretch is a hash of its number, so a period of the data cannot meet that of
the sample.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, Int, UInt64

from timeldm_jax.data import dtypes, grids, words
from timeldm_jax.data.columns import Column
from timeldm_jax.data.parts import Wanted

MOST_ROWS = 1_000_000
MOST_CELLS = 2**24
OFTEN = 2  # rows of a kind that are kept: what a single row has is treated in another way
MOST_PATTERNS = 1_000  # of gaps


class Batch(NamedTuple):
    """Some rows of a table.

    Attributes:
      rows: their numbers, rising.
      table: as read.
      frame: as pandas.
      groups: number of the series of each.
    """

    rows: Int[np.ndarray, " rows"]
    table: pa.Table
    frame: pd.DataFrame
    groups: Int[np.ndarray, " rows"]

    def within(self, wanted: Wanted) -> "Batch":
        """Those of some stretches."""
        first = int(self.rows[0])
        parts = wanted.within(first, int(self.rows[-1]) + 1)
        nothing = np.zeros(0, np.int64)
        places = np.concatenate([nothing, *(np.arange(a - first, b - first) for a, b in parts)])
        if len(places) == len(self.rows):
            return self
        frame, table = self.frame.iloc[places], self.table.take(places)
        return Batch(self.rows[places], table, frame, self.groups[places])


class Found(NamedTuple):
    """The rows that stand for a table, in its order: their numbers, the rows, and their series."""

    rows: Int[np.ndarray, " rows"]
    table: pa.Table
    groups: Int[np.ndarray, " rows"]


def survey(batches: Iterable[Batch], count: int, columns: Iterable[Column]) -> Found:
    """The rows that stand for `count` rows that come in batches.

    Args:
      batches: all of them, in order.
      count: how many they are.
      columns: as known from some rows; their decimals are what rows with more differ from.
    """
    notable, done = Notable({column.name: column for column in columns}), 0
    rows, tables, groups = [], [], []
    for batch in batches:
        most = max(min(MOST_ROWS, MOST_CELLS // max(batch.frame.shape[1], 1)), 1)
        places = sampled(done, len(batch.rows), count, -(-count // most))
        if count > most:
            places = np.union1d(places, notable.of(batch))
        done += len(batch.rows)
        rows.append(batch.rows[places])
        groups.append(batch.groups[places])
        tables.append(batch.table if count <= most else batch.table.take(places))
    return Found(np.concatenate(rows), pa.concat_tables(tables), np.concatenate(groups))


def sampled(first: int, count: int, of: int, stretch: int) -> Int[np.ndarray, " chosen"]:
    """Which of `count` rows from number `first` on are the ones of their stretch.

    Args:
      first: number of the first.
      count: how many.
      of: all rows.
      stretch: rows that one is chosen of.
    """
    if stretch == 1:
        return np.arange(count)
    number = np.arange(first // stretch, (first + count - 1) // stretch + 1)
    size = np.minimum(stretch, of - number * stretch).astype(np.uint64)
    place = number * stretch + (_hash(number.astype(np.uint64)) % size).astype(np.int64) - first
    return place[(place >= 0) & (place < count)]


def _hash(numbers: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        x = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


class Notable:
    """Finds the rows that a sample may lack, batch by batch."""

    def __init__(self, columns: dict[str, Column]) -> None:
        """Nothing was seen yet."""
        self._columns = columns
        self._ends: dict[tuple[str, int], tuple[float, int]] = {}
        self._words: dict[str, dict[object, int]] = {}
        self._patterns: dict[bytes, int] = {}
        self._changes: dict[str, int] = {}
        self._digits = {name: column.decimals for name, column in columns.items()}

    def of(self, batch: Batch) -> Int[np.ndarray, " notable"]:
        """Places of such rows in a batch."""
        found = [places for name in batch.frame for places in self._in_column(batch, str(name))]
        found.append(self._by_gaps(batch.frame))
        return np.unique(np.concatenate(found)).astype(np.int64)

    def _in_column(self, batch: Batch, name: str) -> Iterator[Int[np.ndarray, " notable"]]:
        column = dtypes.plain(batch.frame[name])
        numbers = _as_numbers(column)
        if numbers is None:
            yield self._by_words(name, column)
        else:
            known = np.isfinite(numbers)
            if known.any():
                yield self._at_end(name, -1, np.where(known, -numbers, -np.inf))
                yield self._at_end(name, 1, np.where(known, numbers, -np.inf))
                yield self._by_digits(name, np.where(known, numbers, 0.0))
        if self._changes.get(name, 0) < OFTEN:
            yield self._where_it_changes(name, column, batch.groups)

    def _at_end(self, name: str, side: int, values: np.ndarray) -> Int[np.ndarray, " notable"]:
        """Rows with the largest value so far."""
        largest, had = self._ends.get((name, side), (-np.inf, 0))
        own = float(values.max())
        if own < largest or (own == largest and had >= OFTEN):
            return np.zeros(0, np.int64)
        had = 0 if own > largest else had
        places = np.flatnonzero(values == own)[: OFTEN - had]
        self._ends[name, side] = own, had + len(places)
        return places

    def _by_digits(self, name: str, values: np.ndarray) -> Int[np.ndarray, " notable"]:
        """Rows of more decimals than those before."""
        digits = self._digits.get(name)
        if digits is None:
            return np.zeros(0, np.int64)
        single = self._columns[name].dtype.lower().startswith("float32")
        tolerance = grids.SINGLE if single else 1e-12
        more = np.abs(values - np.round(values, digits)) > tolerance * np.abs(values) + 1e-12
        places = np.flatnonzero(more)[:OFTEN]
        if len(places):
            found = grids.decimals(values[more])
            self._digits[name] = None if found is None else max(found, digits + 1)
        return places

    def _by_words(self, name: str, column: pd.Series) -> Int[np.ndarray, " notable"]:
        """Rows with words that came less than twice before; not of a column of ids."""
        counts = self._words.setdefault(name, {})
        if len(counts) > 2 * words.MOST_CODED:
            return np.zeros(0, np.int64)
        codes, levels = pd.factorize(column)
        order = np.argsort(codes, kind="stable")
        begin = np.searchsorted(codes[order], np.arange(len(levels) + 1))
        places = []
        for number, level in enumerate(levels):
            had = counts.get(level, 0)
            if had < OFTEN:
                own = order[begin[number] : begin[number + 1]][: OFTEN - had]
                counts[level] = had + len(own)
                places.append(own)
        return np.concatenate(places) if places else np.zeros(0, np.int64)

    def _by_gaps(self, frame: pd.DataFrame) -> Int[np.ndarray, " notable"]:
        """Rows that lack other columns than those before."""
        gaps = frame.isna().to_numpy()
        rows = np.flatnonzero(gaps.any(axis=1))
        if not len(rows) or len(self._patterns) > MOST_PATTERNS:
            return np.zeros(0, np.int64)
        packed = np.packbits(gaps[rows], axis=1)
        codes, levels = pd.factorize(np.ascontiguousarray(packed).view(f"S{packed.shape[1]}")[:, 0])
        places = []
        for number, level in enumerate(levels):
            had = self._patterns.get(level, 0)
            if had < OFTEN:
                own = rows[np.flatnonzero(codes == number)[: OFTEN - had]]
                self._patterns[level] = had + len(own)
                places.append(own)
        return np.concatenate(places) if places else np.zeros(0, np.int64)

    def _where_it_changes(
        self, name: str, column: pd.Series, groups: Int[np.ndarray, " rows"]
    ) -> Int[np.ndarray, " notable"]:
        """Two rows of one series that differ, which show that a column is not static."""
        codes = pd.factorize(column)[0]
        changes: Bool[np.ndarray, " gaps"] = (np.diff(codes) != 0) & (np.diff(groups) == 0)
        first = np.flatnonzero(changes)[:OFTEN]
        self._changes[name] = self._changes.get(name, 0) + len(first)
        return np.concatenate([first, first + 1])


def _as_numbers(column: pd.Series) -> np.ndarray | None:
    """A column as float64, times in microseconds; None of words and flags."""
    if pd.api.types.is_bool_dtype(column.dtype):
        return None
    if pd.api.types.is_numeric_dtype(column.dtype) and column.dtype.kind != "c":
        return column.to_numpy(np.float64, na_value=np.nan)
    for kind, known in (
        ("M8[us]", pd.api.types.is_datetime64_any_dtype(column.dtype)),
        ("m8[us]", pd.api.types.is_timedelta64_dtype(column.dtype)),
    ):
        if known:
            stamps = column.to_numpy(dtype=kind)
            return np.where(np.isnat(stamps), np.nan, stamps.astype(np.int64))
    return None
