"""Rules between columns that samples keep exactly: orders, sums, words, and what never falls.

    "low <= open"                  also with several: "low <= open <= high"
    "total = walk_in + booked"
    "meter never falls"            also words in order: "status never falls"
    "city, country as seen"        see `combinations`

They hold by construction. Of an order the model learns how far a column lies above those that must
not exceed it; of a sum nothing but its parts; of what never falls its increments too. Rounding and
given values are reconciled afterwards (`keep`).
"""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from timeldm_jax.data import columns as kinds
from timeldm_jax.data import dtypes
from timeldm_jax.data.columns import Column
from timeldm_jax.errors import DataError

if TYPE_CHECKING:
    from timeldm_jax.data.schema import Schema

Windows = Float[np.ndarray, "n time feature"]
FALLS, SEEN = " never falls", " as seen"
EXACT = 1e-9  # of a sum's size: what its rounding may leave


class Rule(NamedTuple):
    """One rule.

    Attributes:
      kind: `above`: the column is at least each of the others; `sum`: it is their sum; `rises`: it
        never falls within a series; `seen`: its word and theirs occur as in training rows.
      column: its name.
      others: names.
      combinations: of `seen`, numbers of the words of all these columns; see `combinations.learn`.
    """

    kind: Literal["above", "sum", "rises", "seen"]
    column: str
    others: tuple[str, ...] = ()
    combinations: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def from_json(cls, fields: Sequence[Any]) -> "Rule":
        """The inverse of `dataclasses.asdict`; earlier models had no combinations."""
        kind, column, others, *more = fields
        combinations = tuple(tuple(each) for each in (more[0] if more else ()))
        return cls(kind, column, tuple(others), combinations)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all its columns."""
        return (self.column, *self.others)

    @property
    def makes(self) -> bool:
        """Whether its column is made of the others."""
        return self.kind in ("above", "sum")


class Link(NamedTuple):
    """A rule between features, by their places; see `Rule`."""

    kind: Literal["above", "sum"]
    place: int
    others: tuple[int, ...]

    @property
    def is_copy(self) -> bool:
        """Whether the feature is always equal to one other."""
        return self.kind == "sum" and len(self.others) == 1

    def apart(self, values: Float[np.ndarray, "*lead feature"]) -> Float[np.ndarray, "*lead"]:
        """How far the column lies above the others; exactly 0 of a sum."""
        if self.kind == "sum":
            return np.where(np.isnan(values[..., self.place]), np.nan, 0.0)
        return values[..., self.place] - np.fmax.reduce(values[..., list(self.others)], axis=-1)

    def joined(self, values: Float[np.ndarray, "*lead feature"]) -> Float[np.ndarray, "*lead"]:
        """The column again, of others that are final."""
        others = values[..., list(self.others)]
        if self.kind == "sum":
            return others.sum(axis=-1)
        return others.max(axis=-1) + np.maximum(values[..., self.place], 0.0)


def parse(texts: Iterable[str], names: Sequence[str]) -> tuple[Rule, ...]:
    """Rules of their texts, in an order in which each follows those that it builds on.

    Raises:
      DataError: no rule, a column that is not there, or rules that go round in circles.
    """
    above: dict[str, list[str]] = {}
    found: list[Rule] = []
    for text in texts:
        if text.endswith(FALLS):
            found.append(Rule("rises", _known(text.removesuffix(FALLS), names, text)))
        elif text.endswith(SEEN):
            words = [_known(part, names, text) for part in text.removesuffix(SEEN).split(",")]
            if len(set(words)) < 2:
                raise _no_rule(text)
            found.append(Rule("seen", words[0], tuple(dict.fromkeys(words[1:]))))
        elif "<=" in text or ">=" in text:
            chain = [_known(part, names, text) for part in re.split("<=|>=", text)]
            if "<=" in text and ">=" in text:
                raise _no_rule(text)
            chain = chain if "<=" in text else chain[::-1]
            for lower, upper in itertools.pairwise(chain):
                above.setdefault(upper, []).append(lower)
        elif "=" in text:
            column, _, rest = text.partition("=")
            parts = [_known(part, names, text) for part in rest.split(" + ")]
            if len(parts) < 2:
                raise _no_rule(text)
            found.append(Rule("sum", _known(column, names, text), tuple(parts)))
        else:
            raise _no_rule(text)
    found += [Rule("above", upper, tuple(dict.fromkeys(low))) for upper, low in above.items()]
    return _in_order(found)


def _no_rule(text: str) -> DataError:
    return DataError(
        f"the schema: {text!r} is no rule; expected one as 'low <= open <= high', "
        "'total = part + part', 'meter never falls' or 'city, country as seen'"
    )


def _known(part: str, names: Sequence[str], text: str) -> str:
    if part.strip() not in names:
        raise DataError(
            f"the schema: the rule {text!r} names {part.strip()!r}, which is no column; there are "
            f"{', '.join(map(repr, names))}"
        )
    return part.strip()


def _in_order(rules: list[Rule]) -> tuple[Rule, ...]:
    left, done = list(rules), []
    made = [rule.column for rule in rules if rule.makes]
    twice = {name for name in made if made.count(name) > 1}
    if twice:
        raise DataError(f"the schema: {twice.pop()!r} is both a sum and above others, or two sums")
    risen = {rule.column for rule in rules if rule.kind == "rises"} & set(made)
    if risen:
        raise DataError(
            f"the schema: {risen.pop()!r} never falls and is a sum or above others; name one rule "
            "of it, or give the other to the columns that it is made of"
        )
    named = [name for rule in rules for name in dict.fromkeys(rule.names)]
    also = [n for rule in rules if rule.kind == "seen" for n in rule.names if named.count(n) > 1]
    if also:
        raise DataError(
            f"the schema: {also[0]!r} stands in 'as seen' and in another rule; name one rule of it "
            "(of several 'as seen', one with all their columns)"
        )
    while left:
        open_columns = {rule.column for rule in left if rule.makes}
        free = [rule for rule in left if not open_columns & set(rule.others)]
        if not free:
            names = ", ".join(map(repr, sorted(open_columns)))
            raise DataError(f"the schema: the rules of {names} go round in circles")
        done += free
        left = [rule for rule in left if rule not in free]
    return tuple(done)


def check(
    rules: Iterable[Rule],
    columns: Iterable[Column],
    frame: pd.DataFrame,
    groups: Int[np.ndarray, " rows"],
) -> None:
    """Raises DataError where the table itself breaks a rule, or a column cannot have one."""
    kind = {column.name: column for column in columns}
    for rule in rules:
        if rule.kind == "seen":
            continue
        values = {
            name: None if kind[name].kind == "category" else numbers(frame[name])
            for name in rule.names
        }
        own = kind[rule.column]
        if rule.kind == "rises" and own.kind == "category" and not own.coded:
            values[own.name] = word_ranks(frame[own.name], own)
        for name, found in values.items():
            if found is not None and not np.nanmax(found) > np.nanmin(found):
                raise DataError(
                    f"the schema: {said(rule)!r}: {name!r} does not vary; say it as a bound of the "
                    'other column ({"low": …} or {"high": …} in the schema)'
                )
            if found is None or (rule.kind == "rises" and np.isnan(found).any()):
                raise DataError(
                    f"the schema: {said(rule)!r} needs columns of numbers or flags"
                    f"{', or of up to 20 words,' if rule.kind == 'rises' else ''}"
                    f"{' without gaps' if rule.kind == 'rises' else ''}; {name!r} is none"
                )
        wrong = broken(rule, {n: v for n, v in values.items() if v is not None}, groups)
        if wrong.any():
            row = int(np.argmax(wrong))
            cells = ", ".join(f"{name}={frame[name].iloc[row]}" for name in values)
            words = kind[rule.column].categories
            order = f" (words in the order {', '.join(map(str, words))})" if words else ""
            raise DataError(
                f"the schema: {said(rule)!r} does not hold in {wrong.sum():,} of {len(frame):,} "
                f"rows, such as row {row + 1}: {cells}{order}"
            )


def ranked(column: Column, series: pd.Series, groups: Int[np.ndarray, " rows"]) -> Column:
    """A column of two words, the one first that comes before the other; others as they are.

    Of words that are flags (no and yes), no; else the one that rows of a series have first.
    """
    if column.kind != "category" or column.ordered or len(column.categories) != 2:
        return column
    flags = [kinds.FLAGS.get(str(word).strip().lower()) for word in column.categories]
    turned = flags == [1.0, 0.0]
    if None in flags:
        steps = np.diff(word_ranks(series, column))[np.diff(groups) == 0]
        turned = bool((steps < 0).any()) and not (steps > 0).any()
    return dataclasses.replace(column, categories=column.categories[::-1]) if turned else column


def word_ranks(series: pd.Series, column: Column) -> Float[np.ndarray, " rows"]:
    """The number of each word in the column's order; NaN where there is none."""
    places = {word: float(place) for place, word in enumerate(column.categories)}
    return dtypes.plain(series).astype(object).map(places).to_numpy(np.float64)


def broken(
    rule: Rule, values: Mapping[str, Float[np.ndarray, " rows"]], groups: Int[np.ndarray, " rows"]
) -> Bool[np.ndarray, " rows"]:
    """Which rows break a rule; `values` are the numbers of its columns."""
    column = values[rule.column]
    with np.errstate(invalid="ignore"):
        if rule.kind == "rises":
            return np.r_[False, (np.diff(column) < 0) & (np.diff(groups) == 0)]
        others = np.stack([values[name] for name in rule.others])
        if rule.kind == "sum":
            size = np.maximum(np.abs(others).sum(axis=0), 1.0)
            return np.abs(column - others.sum(axis=0)) > EXACT * size
        return column < np.fmax.reduce(others)


def numbers(series: pd.Series) -> Float[np.ndarray, " rows"] | None:
    """A column's numbers, flags as 0 and 1; None of another kind."""
    if not pd.api.types.is_numeric_dtype(series.dtype):
        return None
    return series.astype("Float64").to_numpy(np.float64, na_value=np.nan)


def said(rule: Rule) -> str:
    """The rule as a user writes it."""
    if rule.kind == "rises":
        return rule.column + FALLS
    if rule.kind == "seen":
        return ", ".join(rule.names) + SEEN
    if rule.kind == "sum":
        return f"{rule.column} = {' + '.join(rule.others)}"
    return "; ".join(f"{other} <= {rule.column}" for other in rule.others)


def rising(rules: Iterable[Rule]) -> set[str]:
    """The names of columns that never fall."""
    return {rule.column for rule in rules if rule.kind == "rises"}


def links(schema: "Schema") -> tuple[Link, ...]:
    """The rules between features, for the scaler."""
    place = _places(schema)
    return tuple(
        Link(rule.kind, place[rule.column], tuple(place[name] for name in rule.others))
        for rule in schema.rules
        if rule.kind != "rises" and rule.kind != "seen" and all(n in place for n in rule.names)
    )


def _places(schema: "Schema") -> dict[str, int]:
    """The place of the value of each column that has one."""
    return {
        schema.columns[feature.column].name: place
        for place, feature in enumerate(schema.layout())
        if feature.role == "value"
    }


def increments(
    level: Float[np.ndarray, " rows"], groups: Int[np.ndarray, " rows"]
) -> Float[np.ndarray, " rows"]:
    """By how much a column rose since the row before; 0 in the first row of a series."""
    steps = np.diff(level, prepend=level[:1])
    return np.where(np.diff(groups, prepend=groups[:1]) == 0, steps, 0.0)


def keep(windows: Windows, schema: "Schema", given: Windows | None = None) -> Windows:
    """Windows that keep all rules, after rounding.

    Args:
      windows: in the columns' own units, snapped.
      schema: with the rules.
      given: NaN where nothing is given; what is given stays.
    """
    if not schema.rules:
        return windows
    place = _places(schema)
    free = np.ones(windows.shape, bool) if given is None else np.isnan(given)
    found = windows.copy() if given is None else np.where(free, windows, given)
    columns = {column.name: column for column in schema.columns}
    # What is given above bounds what is drawn below, through as many rules as there are.
    most = np.where(free, np.inf, found)
    for rule in reversed(schema.rules):
        if rule.kind == "above" and rule.column in place:
            for other in (place[name] for name in rule.others if name in place):
                most[..., other] = np.minimum(most[..., other], most[..., place[rule.column]])
    made = [rule for rule in schema.rules if rule.makes]
    bounded = [place[name] for rule in made for name in rule.others if name in place]
    found[..., bounded] = np.minimum(found[..., bounded], most[..., bounded])
    for rule in schema.rules:
        if rule.kind == "rises":
            _rise(found, free, schema, columns[rule.column])
        at = place.get(rule.column)
        others = [place[name] for name in rule.others if name in place]
        if not rule.makes or at is None or len(others) < len(rule.others):
            continue
        if rule.kind == "sum":
            parts = [columns[name] for name in rule.others]
            found[..., others] = _parts(
                found[..., others], free[..., others], found[..., at], ~free[..., at], parts
            )
            total = found[..., others].sum(axis=-1)
            found[..., at] = np.where(free[..., at], total, found[..., at])
        else:
            least = found[..., others].max(axis=-1)
            value = np.clip(found[..., at], least, np.maximum(most[..., at], least))
            found[..., at] = np.where(free[..., at], value, found[..., at])
    return found


def _rise(found: Windows, free: Bool[np.ndarray, "..."], schema: "Schema", column: Column) -> None:
    """Makes a column never fall, in place; its words go on in their order."""
    places: dict[str, list[int]] = {}
    for at, feature in enumerate(schema.layout()):
        if feature.column >= 0 and schema.columns[feature.column].name == column.name:
            places.setdefault(feature.role, []).append(at)
    if "category" in places:
        own = places["category"]
        word = found[..., own].argmax(axis=-1).astype(np.float64)
        word = _between(word, word, ~free[..., own[0]])
        found[..., own] = word[..., None] == np.arange(len(own))
    elif "value" in places:
        at = places["value"][0]
        known, steps = ~free[..., at], places.get("increment")
        level = _risen(found[..., at], None if not steps else found[..., steps[0]], known)
        whole = column.kind == "integer" or column.decimals == 0
        if whole and (column.smallest, column.largest) == (0, 1):
            level = np.minimum(level, 1.0)  # a flag that is written as a whole number
        level = _between(kinds.snap(level, column), found[..., at], known)
        found[..., at] = np.where(known, found[..., at], level)


def _parts(
    values: Float[np.ndarray, "n time part"],
    free: Bool[np.ndarray, "n time part"],
    total: Float[np.ndarray, "n time"],
    given: Bool[np.ndarray, "n time"],
    columns: list[Column],
) -> Float[np.ndarray, "n time part"]:
    """Parts that make up a total where that is given: those that are free change in proportion."""
    rest = total - np.where(free, 0, values).sum(axis=-1)
    drawn = np.where(free, values, 0)
    size = drawn.sum(axis=-1)
    share = np.where((size > 0) & (rest >= 0), rest / np.where(size > 0, size, 1), 1.0)
    mend = given & free.any(axis=-1)
    found = np.where(free & mend[..., None], values * share[..., None], values)
    for i, column in enumerate(columns):
        found[..., i] = np.where(
            free[..., i] & mend, kinds.snap(found[..., i], column), values[..., i]
        )
    last = free.shape[-1] - 1 - np.argmax(free[..., ::-1], axis=-1)
    left = np.where(mend, total - found.sum(axis=-1), 0.0)
    return found + left[..., None] * (np.arange(free.shape[-1]) == last[..., None])


def _between(
    level: Float[np.ndarray, "n time"],
    values: Float[np.ndarray, "n time"],
    known: Bool[np.ndarray, "n time"],
) -> Float[np.ndarray, "n time"]:
    """Levels that never fall, within those that are known before and after."""
    low = np.maximum.accumulate(np.where(known, values, -np.inf), axis=1)
    high = np.minimum.accumulate(np.where(known, values, np.inf)[:, ::-1], axis=1)[:, ::-1]
    return np.maximum.accumulate(np.clip(level, low, np.maximum(low, high)), axis=1)


def _risen(
    level: Float[np.ndarray, "n time"],
    steps: Float[np.ndarray, "n time"] | None,
    known: Bool[np.ndarray, "n time"],
) -> Float[np.ndarray, "n time"]:
    """Levels that never fall, by their increments, through those that are known."""
    if steps is None:  # flags
        return level
    count, time = level.shape
    whole = np.cumsum(np.r_["1", np.zeros((count, 1)), np.maximum(steps[:, 1:], 0)], axis=1)
    rows = np.arange(time)
    before = np.maximum.accumulate(np.where(known, rows, -1), axis=1)
    after = np.minimum.accumulate(np.where(known, rows, time)[:, ::-1], axis=1)[:, ::-1]
    first, last = np.clip(before, 0, None), np.clip(after, None, time - 1)

    def at(values: Float[np.ndarray, "n time"], index: Int[np.ndarray, "n time"]) -> np.ndarray:
        return np.take_along_axis(values, index, axis=1)

    start, end = at(level, first), at(level, last)
    passed, span = whole - at(whole, first), at(whole, last) - at(whole, first)
    rows_passed, rows_span = rows - first, np.maximum(last - first, 1)
    share = np.where(span > 0, passed / np.where(span > 0, span, 1), rows_passed / rows_span)
    between = start + share * (end - start)
    onward = start + passed  # from the first row, where nothing before is known
    backward = end - (at(whole, last) - whole)
    inside = (before >= 0) & (after < time)
    found = np.where(inside, between, np.where(before >= 0, onward, backward))
    return np.where((before < 0) & (after == time), onward, found)
