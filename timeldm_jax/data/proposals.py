"""Which rules between columns hold in all rows of a table, and say something."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from timeldm_jax.data.rules import FALLS, Rule, broken, numbers, said

MOST_PAIRS, MOST_SUMS = 40, 16  # columns among which orders and sums are looked for
FEW_ROWS = 200  # that a rule is tried on first


def propose(
    frame: pd.DataFrame, names: Sequence[str], groups: Int[np.ndarray, " rows"]
) -> list[str]:
    """Rules that hold in all rows and say something, as their texts."""
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


def _holds(
    rule: Rule, values: Mapping[str, Float[np.ndarray, " rows"]], groups: Int[np.ndarray, " rows"]
) -> bool:
    """Whether all rows keep a rule; a few are asked first, as most rules break at once."""
    for step in (max(len(groups) // FEW_ROWS, 1), 1):
        some = {name: values[name][::step] for name in (rule.column, *rule.others)}
        if broken(rule, some, groups[::step]).any():
            return False
    return True
