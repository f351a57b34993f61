"""What of a table trains as it is but looks wrong, and what to do about it."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from timeldm_jax.data import clock as clocks
from timeldm_jax.data.schema import Schema
from timeldm_jax.errors import option

FAR = 20.0  # a value is far off where it is this many spreads beyond the nearest other
MOSTLY = 0.5  # share of missing values from which a column is said to be mostly empty
LONE = 0.001  # share of rows with the only negative value, from which it is no measurement
FEWEST_BLOCKS = 3  # stretches of rows that are counted anew, from which they are series
UNEVEN = 0.1  # of a step, by which a gap may differ from it
TIED = (
    0.3  # share of rows with the time of the row before, from which they may be of several series
)
MOST_NAMED = 5  # columns that one sentence names


class Doubt(NamedTuple):
    """What looks wrong, and the advice, with options as in `errors.option`."""

    said: str
    advice: str


def doubts(frame: pd.DataFrame, schema: Schema, *, some: bool = False) -> list[Doubt]:
    """What looks wrong in a table.

    Args:
      frame: from `table.prepare`.
      schema: of the whole table.
      some: whether the frame is some stretches of it, between which time jumps.
    """
    found = [*_series(frame, schema), *(() if some else _steps(frame, schema))]
    stray: dict[float, list[tuple[str, str]]] = {}
    for column in schema.shown():
        if column.scaling == "constant":
            continue
        values = frame[column.name]
        share = float(values.isna().mean())
        if share > MOSTLY:
            drop = f'{{"columns": {{"{column.name}": {{"kind": "drop"}}}}}}'
            found.append(
                Doubt(
                    f"column {column.name!r} lacks {share:.0%} of its values",
                    f"A schema leaves it out: {drop}",
                )
            )
        if column.kind in ("float", "integer") and pd.api.types.is_numeric_dtype(values.dtype):
            numbers = values.dropna().to_numpy(np.float64)
            if column.kind == "integer" and len(numbers) > 2 and (np.diff(numbers) == 1).all():
                when = ""
                if schema.clock is None:
                    when = f", or, if it says when a row is: {option('time', column.name)}"
                advice = f"It is no measurement: leave it out (kind 'drop' in the schema){when}"
                found.append(Doubt(f"column {column.name!r} counts the rows", advice))
            for value, text in _far_values(numbers):
                stray.setdefault(value, []).append((column.name, text))
    return found + [_together(value, columns) for value, columns in stray.items()]


def _together(value: float, columns: list[tuple[str, str]]) -> Doubt:
    """One sentence for a value that is stray in several columns."""
    name, text = columns[0]
    said = f"column {name!r} holds {text}"
    if len(columns) > 1:
        more = [name for name, _ in columns[1:]]
        rest = f" and {len(more) - MOST_NAMED} more" if len(more) > MOST_NAMED else ""
        said += f"; so do {', '.join(map(repr, more[:MOST_NAMED]))}{rest}"
    stands = option("na_values", f"{value:.15g}")
    return Doubt(said, f"If it stands for a missing value: {stands}")


def _series(frame: pd.DataFrame, schema: Schema) -> Iterator[Doubt]:
    """Rows that are counted anew from block to block, as those of several series are."""
    if schema.entity or schema.clock is not None:
        return
    whole = [
        name
        for name in frame.columns
        if pd.api.types.is_integer_dtype(frame[name].dtype) and not frame[name].isna().any()
    ]
    for name in whole:
        steps = np.diff(frame[name].to_numpy(np.int64))
        starts = np.flatnonzero(steps != 1) + 1
        if not FEWEST_BLOCKS - 1 <= len(starts) < len(frame) / 3 or (steps[starts - 1] >= 0).any():
            continue
        for other in frame.columns:
            if other == name or pd.api.types.is_float_dtype(frame[other].dtype):
                continue
            codes = pd.factorize(frame[other])[0]
            changes = np.flatnonzero(np.diff(codes)) + 1
            if np.array_equal(changes, starts) and codes.max() == len(starts):
                entity, time = option("entity", str(other)), option("time", str(name))
                yield Doubt(
                    f"column {name!r} counts rows anew wherever column {other!r} changes: these "
                    f"look like {len(starts) + 1:,} series, and are taken for one",
                    f"If they are: {entity} and {time}",
                )
                return


def _steps(frame: pd.DataFrame, schema: Schema) -> Iterator[Doubt]:
    """Uneven times that are taken for steps; and times that come so often that series are mixed."""
    clock = schema.clock
    if clock is None or clock.offset:
        return
    groups = clocks.groups_of(frame, schema.entity)
    gaps = np.diff(clocks.seconds(clock.read(frame, "the table")))[np.diff(groups) == 0]
    if clock.uneven:
        tied = float((gaps <= 0).mean())
        if tied >= TIED and not schema.entity:
            yield Doubt(
                f"{tied:.0%} of rows have the time of the row before",
                "If they are of several series, name the column that tells them apart: "
                + option("entity"),
            )
        return
    odd = np.abs(gaps / clock.step - 1) > UNEVEN
    if odd.any():
        yield Doubt(
            f"{odd.mean():.0%} of rows do not come one step after the row before, and are taken "
            "for one step each",
            f"{option('times', 'generate')} learns what lies between rows and samples it",
        )


def _far_values(numbers: np.ndarray) -> Iterator[tuple[float, str]]:
    """Values at an end that are far from all others: what stands for a missing one, or a slip."""
    levels, counts = np.unique(numbers, return_counts=True)
    if len(levels) < 3:
        return
    for end, rest in ((0, levels[1:]), (-1, levels[:-1])):
        others = counts[1:] if end == 0 else counts[:-1]
        low, high = np.quantile(np.repeat(rest, others), [0.02, 0.98])
        value, nearest = levels[end], rest[0 if end == 0 else -1]
        spread = max(high - low, np.finfo(np.float64).tiny)
        typical = float(np.median(np.diff(rest))) if len(rest) > 1 else spread
        gap = abs(value - nearest)
        often = counts[end] > 1 and gap > max(spread, 50 * typical)
        far = gap >= 0.5 * (rest[-1] - rest[0]) and (often or gap > FAR * spread)
        # The only value below zero, far more often than chance has one value.
        alone = end == 0 and value < 0 <= nearest and value % 1 == 0
        lone = alone and counts[end] > max(LONE * len(numbers), 1) and len(levels) > 20
        if far or (lone and gap > 5 * typical):
            rows = "1 row" if counts[end] == 1 else f"{counts[end]:,} rows"
            yield (
                float(value),
                f"{value:.15g} in {rows}, far from the rest ({rest[0]:.15g} to {rest[-1]:.15g})",
            )
