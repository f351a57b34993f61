"""Which rules between columns hold in all rows of a table, and say something."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from timeldm_jax.data.columns import Column
from timeldm_jax.data.combinations import numbers_of
from timeldm_jax.data.rules import FALLS, Rule, broken, numbers, ranked, said, word_ranks

MOST_PAIRS, MOST_SUMS = 40, 16  # columns among which orders and sums are looked for
FEW_ROWS = 200  # that a rule is tried on first
MOST_WORDS = 20  # columns of words among which combinations are looked for
FEW = 0.5  # share of the combinations that chance would show, of which fewer are no chance


def propose(
    frame: pd.DataFrame, columns: Iterable[Column], groups: Int[np.ndarray, " rows"]
) -> list[str]:
    """Rules that hold in all rows and say something, as their texts.

    Args:
      frame: the rows.
      columns: that are learnt.
      groups: number of the series of each row.
    """
    columns = [column for column in columns if column.scaling != "constant"]
    words = [column for column in columns if column.kind in ("category", "boolean")]
    others = [column.name for column in columns if column.kind != "category"]
    found = _flags(frame, columns, groups) + _numbers(frame, others, groups)
    taken = {name for text in found for name in re.split(f" (?:<=|=|[+]) |{FALLS}", text)}
    return found + _together(frame, [c for c in words if c.name not in taken], groups)


def _flags(
    frame: pd.DataFrame, columns: Iterable[Column], groups: Int[np.ndarray, " rows"]
) -> list[str]:
    """Columns of two words, of which one never comes after the other."""
    found = []
    for column in columns:
        if column.kind == "category" and len(column.categories) == 2 and not column.missing:
            ranks = word_ranks(frame[column.name], ranked(column, frame[column.name], groups))
            steps = np.diff(ranks)[np.diff(groups) == 0]
            if (steps > 0).any() and (steps >= 0).all():
                found.append(column.name + FALLS)
    return found


def _numbers(
    frame: pd.DataFrame, names: Sequence[str], groups: Int[np.ndarray, " rows"]
) -> list[str]:
    """Orders and sums, and numbers and flags that never fall."""
    values = {n: v for n in names if (v := numbers(frame[n])) is not None and np.ptp(v) > 0}
    found = []
    for name, column in values.items():
        steps = np.diff(column)[np.diff(groups) == 0]
        if steps.size and (steps >= 0).all() and (steps > 0).mean() > 0 and np.ptp(steps) > 0:
            found.append(name + FALLS)
    rising = {text.removesuffix(FALLS) for text in found}  # which no other rule makes
    some = list(values)[:MOST_SUMS]
    made: set[str] = set()
    for total, (one, two) in itertools.product(some, itertools.combinations(some, 2)):
        rule = Rule("sum", total, (one, two))
        new = len({total, one, two}) == 3 and total not in made | rising
        if new and _holds(rule, values, groups):
            found.append(said(rule))
            made.add(total)
    orders = [name for name in list(values)[:MOST_PAIRS] if name not in made]
    pairs = [
        (low, high)
        for low in orders
        for high in orders
        if low != high
        and high not in rising
        and _holds(Rule("above", high, (low,)), values, groups)
        and values[low].max() > values[high].min()  # else their ranges say it
        and (values[low] < values[high]).any()
    ]
    # Of a chain a ≤ b ≤ c the pair a ≤ c says nothing more.
    kept = [
        (low, high)
        for low, high in pairs
        if not any((low, mid) in pairs and (mid, high) in pairs for mid in orders)
    ]
    return found + [f"{low} <= {high}" for low, high in kept]


def _together(
    frame: pd.DataFrame, columns: Iterable[Column], groups: Int[np.ndarray, " rows"]
) -> list[str]:
    """Columns of words of which few combinations occur.

    What counts is how many there would be if words were drawn independently of each other, as often
    as they change: a panel of five series says little of two static columns.
    """
    named = [column for column in columns if "," not in column.name][:MOST_WORDS]
    words = {c.name: numbers_of(frame[c.name], c, "the table") for c in named}
    pairs = {
        (one, two)
        for one, two in itertools.combinations(words, 2)
        if _few(words[one], words[two], groups)
    }
    found: list[list[str]] = []
    for name in words:
        alike = (names for names in found if all((other, name) in pairs for other in names))
        home = next(alike, None)
        if home is None:
            found.append([name])
        else:
            home.append(name)
    return [said(Rule("seen", first, tuple(more))) for first, *more in found if more]


def _few(
    one: Int[np.ndarray, " rows"], two: Int[np.ndarray, " rows"], groups: Int[np.ndarray, " rows"]
) -> bool:
    """Whether two columns' words occur in few of the combinations that chance would show."""
    new = np.ones(len(one), bool)
    new[1:] = (np.diff(one) != 0) | (np.diff(two) != 0) | (np.diff(groups) != 0)
    new &= (one >= 0) & (two >= 0)
    table = pd.crosstab(one[new], two[new]).to_numpy()
    if not table.size or min(table.shape) < 2:
        return False
    count = table.sum()
    chance = np.outer(table.sum(1), table.sum(0)) / count**2
    expected = (1 - (1 - chance) ** count).sum()
    return bool((table > 0).sum() <= FEW * expected)


def _holds(
    rule: Rule, values: Mapping[str, Float[np.ndarray, " rows"]], groups: Int[np.ndarray, " rows"]
) -> bool:
    """Whether all rows keep a rule; a few are asked first, as most rules break at once."""
    for step in (max(len(groups) // FEW_ROWS, 1), 1):
        some = {name: values[name][::step] for name in rule.names}
        if broken(rule, some, groups[::step]).any():
            return False
    return True
