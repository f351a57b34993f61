"""Words of several columns that occur only together: a city and its country.

A combination is one word whose code is those of its words side by side. So the features stay those
of the columns, each of which can be known or missing alone, and what is drawn of them stands for
the nearest combination: of all that training rows have, or of those that agree with what is given.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from timeldm_jax.data import columns as kinds
from timeldm_jax.data import dtypes, words
from timeldm_jax.data.columns import Column
from timeldm_jax.data.rules import Rule, said
from timeldm_jax.errors import DataError

if TYPE_CHECKING:
    from timeldm_jax.data.schema import Schema

Windows = Float[np.ndarray, "n time feature"]

FEWEST_ROWS = 2  # of a combination, as of a word: no saved model tells that of a single row
MOST = 10_000  # combinations
MOST_COMPARED = 2**23  # rows times combinations at a time: 64 MiB
GIVEN = 1e6  # what a given word counts, beside one that is drawn


def learn(
    rules: Iterable[Rule], columns: Sequence[Column], frame: pd.DataFrame, where: str
) -> tuple[Rule, ...]:
    """Rules with the combinations that rows have: those of at least two rows, all words known.

    Args:
      rules: of the schema.
      columns: as learnt from these rows.
      frame: the rows.
      where: what to call them in errors.

    Raises:
      DataError: a column of another kind, or too few or too many combinations.
    """
    own = {column.name: column for column in columns}
    found = []
    for rule in rules:
        if rule.kind == "seen":
            for name in rule.names:
                _check(own[name], rule)
            numbers = np.stack([numbers_of(frame[n], own[n], where) for n in rule.names], axis=1)
            rows, counts = np.unique(numbers[(numbers >= 0).all(1)], axis=0, return_counts=True)
            rows = rows[counts >= FEWEST_ROWS]
            if not 0 < len(rows) <= MOST:
                raise DataError(
                    f"the schema: {said(rule)!r}: {where} have {len(rows):,} combinations that "
                    f"come again; at least one is needed, and at most {MOST:,} are kept"
                )
            rule = rule._replace(combinations=tuple(map(tuple, rows.tolist())))
        found.append(rule)
    return tuple(found)


def _check(column: Column, rule: Rule) -> None:
    if column.kind not in ("category", "boolean") or column.scaling == "constant":
        what = "does not vary" if column.scaling == "constant" else f"is of kind {column.kind!r}"
        raise DataError(
            f"the schema: {said(rule)!r} needs columns of words or flags, and {column.name!r} "
            f'{what}; codes become words with {{"kind": "category"}} in the schema'
        )


def numbers_of(series: pd.Series, column: Column, where: str) -> Int[np.ndarray, " rows"]:
    """The number of the word in each row, −1 where there is none that is learnt."""
    if column.kind == "boolean":
        flags = kinds.encode(series, column, 0, where)
        return np.where(np.isnan(flags), -1, flags).astype(np.int64)
    places = {word: place for place, word in enumerate(column.categories)}
    found = dtypes.plain(series).astype(object).map(places)
    return found.astype(float).fillna(-1).to_numpy(np.int64)


def _codes(column: Column) -> Float[np.ndarray, "word number"]:
    """The features of each word."""
    if column.kind == "boolean":
        return np.array([[0.0], [1.0]])
    count = len(column.categories)
    return words.codes(count) if column.coded else np.eye(count)


def together(windows: Windows, schema: "Schema", given: Windows | None = None) -> Windows:
    """Windows whose words are in combinations: the nearest of those that agree with what is given.

    Args:
      windows: in the columns' own units, as drawn or as they are to be kept.
      schema: with the rules.
      given: NaN where nothing is given. A word that no combination has counts as it is drawn.
    """
    rules = [rule for rule in schema.rules if rule.kind == "seen"]
    if not rules:
        return windows
    flat = np.array(windows).reshape(-1, windows.shape[-1])
    known = np.full_like(flat, np.nan) if given is None else given.reshape(flat.shape)
    layout = schema.layout()
    numbers = {column.name: number for number, column in enumerate(schema.columns)}
    for rule in rules:
        codes, places = [], []
        for member, name in enumerate(rule.names):
            number = numbers[name]
            own = [at for at, f in enumerate(layout) if f.column == number and f.role != "missing"]
            places.append(np.array(own))
            of_word = _codes(schema.columns[number])
            codes.append(of_word[[combination[member] for combination in rule.combinations]])
        whole = np.concatenate(codes, axis=1)
        chunk = max(MOST_COMPARED // len(whole), 1)
        for first in range(0, len(flat), chunk):
            rows = np.arange(first, min(first + chunk, len(flat)))
            near = [
                _nearness(flat[np.ix_(rows, own)], known[np.ix_(rows, own)], code)
                for own, code in zip(places, codes, strict=True)
            ]
            best = np.sum(near, axis=0).argmax(axis=1)
            flat[np.ix_(rows, np.concatenate(places))] = whole[best]
    return flat.reshape(windows.shape)


def _nearness(
    drawn: Float[np.ndarray, "row number"],
    given: Float[np.ndarray, "row number"],
    codes: Float[np.ndarray, "combination number"],
) -> Float[np.ndarray, "row combination"]:
    """Less than a constant of the row by the squared distance from each code."""
    known = ~np.isnan(given).any(axis=1)
    values = np.where(known[:, None], given, np.nan_to_num(drawn, nan=0.5))
    return (2 * values @ codes.T - codes.sum(1)) * np.where(known, GIVEN, 1.0)[:, None]


def check_asked(cells: pd.DataFrame, schema: "Schema", what: str) -> None:
    """Raises DataError where what is asked for contains words that are not seen together.

    Args:
      cells: some of the columns; empty cells are not asked for.
      schema: of the model.
      what: what to call it in errors.
    """
    own = {column.name: column for column in schema.columns}
    for rule in schema.rules:
        asked = [name for name in rule.names if name in cells.columns]
        if rule.kind != "seen" or not asked:
            continue
        numbers = np.stack([numbers_of(cells[name], own[name], what) for name in asked], axis=1)
        places = [rule.names.index(name) for name in asked]
        kept = np.array(rule.combinations)[:, places]
        for row in np.unique(numbers, axis=0):
            if not ((kept == row) | (row < 0)).all(axis=1).any():
                at = int(np.argmax((numbers == row).all(axis=1)))
                words_of = [name for name, n in zip(asked, row, strict=True) if n >= 0]
                cell = ", ".join(f"{name}={cells[name].iloc[at]}" for name in words_of)
                raise DataError(
                    f"{what}: {cell} is in no training row that comes again, and the model keeps "
                    f"{said(rule)!r}; ask for what is seen together, or leave one of them open"
                )
