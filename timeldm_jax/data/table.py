"""A table of a user's own as numbers, and numbers as a table.

A table becomes `(rows, features)` in its own units, NaN where a value is missing, with the series
and the time of each row. Rows of one series are in order, side by side.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from timeldm_jax.data import clock as clocks
from timeldm_jax.data import columns as kinds
from timeldm_jax.data import (
    combinations,
    entities,
    event_times,
    proposals,
    rules,
    time_columns,
    words,
    zones,
)
from timeldm_jax.data import order as orders
from timeldm_jax.data import schema as schemas
from timeldm_jax.data.clock import Reading, Steps
from timeldm_jax.data.order import Ordered
from timeldm_jax.data.schema import Schema
from timeldm_jax.errors import ConfigError, DataError, Problems, option
from timeldm_jax.settings import Rule, check_fields, one_of

_log = logging.getLogger(__name__)

MISSING = ("fill", "generate")
TIMES = ("steps", "generate")
NAMES = ("new", "real")  # of series, in samples
_DAYFIRST = Rule(lambda value: value in ("", "true", "false"), "must be 'true', 'false' or ''")
Windows = Float[np.ndarray, "n time feature"]


@dataclasses.dataclass(frozen=True)
class Options:
    """How a table is read; each field is a key `config.data.<field>`.

    Attributes:
      time: name of the time column, or of those that make a time with commas between (a day and a
        time of day; year, month, day, hour); "" looks for one.
      entity: name of the column that says which series a row belongs to, or of several with commas
        between; or "".
      schema: path of a JSON schema that overrides what is inferred, or its text, or "".
      irregular: what to do where times are out of order or unevenly spaced: `error`; `sort` puts
        rows in order and takes each for one step; `resample` makes rows regular by the median
        step, the mean of several, missing where there is none.
      decimal: the decimal point of a CSV file; "" finds out.
      times: what uneven times are: `steps`, all alike, once `irregular` allows them; or data, which
        samples have too (`generate`, see `event_times`). Times at even steps are always `steps`.
      time_format: how the time column is written, such as `%d/%m/%Y %H:%M`; "" finds out. See
        `data.formats`.
      dayfirst: whether 01/02/2024 is the first of February (`true`) or January 2nd (`false`), where
        the column leaves that open; "": by which of both makes steps even.
      zone: the time zone whose local clock the times follow, such as `Europe/Berlin`; "" finds out.
      entity_names: what samples have in the entity column: `new` ids of the same form, or the
        `real` ones, which are learnt like words, where they are no secret.
      na_values: values that stand for a missing one, separated by commas, such as `-200,?`; or JSON
        by column, such as `{"CO": [-200]}`.
    """

    time: str = ""
    entity: str = ""
    schema: str = ""
    irregular: str = "error"
    times: str = "steps"
    decimal: str = ""
    na_values: str = ""
    time_format: str = ""
    dayfirst: str = ""
    zone: str = ""
    entity_names: str = "new"

    def __post_init__(self) -> None:
        """Checks the settings; raises ConfigError."""
        point = Rule(lambda value: value in ("", ".", ","), "must be '.' or ','")
        check_fields(
            self,
            irregular=one_of(*orders.IRREGULAR),
            decimal=point,
            dayfirst=_DAYFIRST,
            entity_names=one_of(*NAMES),
            times=one_of(*TIMES),
        )
        if (self.times, self.irregular) == ("generate", "resample"):
            raise ConfigError(
                "times='generate' learns uneven steps and irregular='resample' makes them even: "
                "choose one"
            )


class Encoded(NamedTuple):
    """A table as numbers.

    Attributes:
      values: `(rows, features)` float64 in the columns' own units; NaN where missing.
      groups: `(rows,)` number of the series that a row belongs to, in order of appearance.
      clock: `(rows,)` steps since the schema's clock starts, for splits and for the calendar.
    """

    values: Float[np.ndarray, "rows feature"]
    groups: Int[np.ndarray, " rows"]
    clock: Float[np.ndarray, " rows"]


def prepare(
    frame: pd.DataFrame, where: str, options: Options, stretch: str = ""
) -> tuple[pd.DataFrame, Schema]:
    """Puts rows in order and works out the schema.

    Args:
      frame: as from `read`.
      where: what to call it in errors.
      options: what the user said.
      stretch: a column of numbers that tells stretches of rows apart, between which others are
        left out; it is none of the table's. "": there is none.

    Raises:
      DataError: columns that are not there or cannot be learnt, or rows out of order.
    """
    declared = schemas.read_overrides(options.schema) if options.schema else {}
    frame, time, entity = time_columns.named(frame, where, options, declared)
    real_names = options.entity_names == "real"
    entities.check(frame, where, entity, real=real_names, own=schemas.SERIES)
    overrides = declared.get("columns", {})
    apart = (*entity, stretch) if stretch else entity
    free = [name for name in frame.columns if name not in apart and name not in overrides]
    time = time_columns.with_hours(frame, time, free)
    time = time or time_columns.find_time(frame, apart, overrides)
    if options.times == "generate" and not time:
        raise DataError(
            f"{where} has no time column that is found by itself, and "
            f"{option('times', 'generate')} needs one: {option('time')} names it"
        )
    zone = zones.check(options.zone)
    reading = Reading(options.irregular, options.time_format, options.dayfirst, zone, options.times)
    problems, clock = Problems(), None
    with problems.collect():
        frame, clock, _ = orders.order(frame, where, time, apart, reading)
        frame = event_times.with_gaps(frame, clock, clocks.groups_of(frame, apart), where)
    frame = frame.drop(columns=stretch) if stretch else frame
    with problems.collect():
        learnt = frame if clock is not None or not time else frame.drop(columns=list(time))
        inferred = schemas.infer(
            learnt,
            where,
            clock=clock,
            entity=entity,
            overrides=overrides,
            real_names=real_names,
            derived=True,
        )
    problems.raise_all()
    frame = frame.reset_index(drop=True)
    return frame, with_rules(inferred, declared.get("rules", ()), frame, where)


def with_rules(schema: Schema, texts: Any, frame: pd.DataFrame, where: str) -> Schema:
    """A schema with the rules of a user's texts, or `proposed` ones.

    Raises:
      DataError: a text that is no rule, or a rule that rows break.
    """
    groups = clocks.groups_of(frame, schema.entity)
    if texts == schemas.PROPOSED:
        texts = proposals.propose(frame, schema.shown(), groups)
    kept = rules.parse(texts, [column.name for column in schema.shown()])
    rising = rules.rising(kept)
    columns = tuple(
        rules.ranked(column, frame[column.name], groups) if column.name in rising else column
        for column in schema.columns
    )
    rules.check(kept, columns, frame, groups)
    kept = combinations.learn(kept, columns, frame, "the rows of " + where)
    return dataclasses.replace(schema, columns=columns, rules=kept)


def relearn(
    frame: pd.DataFrame, whole: Schema, overrides: Mapping[str, Mapping[str, Any]]
) -> Schema:
    """The schema of a table, with scalings, bounds and words learnt from its training rows.

    What a table is made of stays that of the whole: kinds, which columns lack values, and which
    are constant; a column that varies only elsewhere is still learnt. Combinations of words are
    those of these rows.

    Args:
      frame: the training rows.
      whole: from `prepare`.
      overrides: by column, what the user has set.

    Raises:
      DataError: these rows have no combination of words that comes again.
    """
    own = () if whole.clock is None else whole.clock.names
    given = {c.name: {"kind": c.kind, **overrides.get(c.name, {})} for c in whole.columns}
    frame = frame[[name for name in frame.columns if name in (*given, *own, *whole.entity)]]
    found = schemas.infer(
        frame,
        "the training rows",
        clock=whole.clock,
        entity=whole.entity,
        overrides=given,
        real_names=any(column.name in whole.entity for column in whole.columns),
    )
    columns, rising = [], rules.rising(whole.rules)
    for before, column in zip(whole.columns, found.columns, strict=True):
        empty = column.scaling == "constant" and column.value is None
        if empty and before.scaling != "constant":
            _log.warning(
                "column %r has no value in the training rows; samples will have none", column.name
            )
        elif column.scaling == "constant" and before.scaling != "constant":
            column = dataclasses.replace(column, scaling="minmax", value=None)
        if column.name in rising:  # whose words keep their order
            kept = tuple(word for word in before.categories if word in column.categories)
            column = dataclasses.replace(column, categories=kept)
        if before.from_time is not None:
            columns.append(before)
            continue
        columns.append(
            dataclasses.replace(
                column,
                missing=before.missing and not empty,
                gaps_of=before.gaps_of,
                static=before.static,
            )
        )
    kept = combinations.learn(whole.rules, columns, frame, "the training rows")
    return dataclasses.replace(whole, columns=tuple(columns), rules=kept)


def arrange(frame: pd.DataFrame, where: str, schema: Schema, irregular: str = "error") -> Ordered:
    """Rows of a later table as the schema's clock and entity want them.

    Args:
      frame: with the user's index.
      where: what to call it in errors.
      schema: of the model.
      irregular: as the table that it learnt was read; see `Options`.

    Raises:
      DataError: a column that is not there, or rows out of order.
    """
    time = schema.clock.names if schema.clock else ()
    if irregular == "resample" and event_times.uneven(schema):
        raise DataError(
            f"{where}: {option('irregular', 'resample')} makes steps even, and the model has "
            "learnt uneven ones: leave it out"
        )
    first = time[0] if time else ""
    frame, _, _ = time_columns.from_index(frame, where, first, schema.entity, later=True)
    for name in (*schema.entity, *time):
        if name not in frame.columns:
            raise DataError(f"{where} has no column {name!r}; the model was trained with it")
    time = time if len(frame) > 1 else ()
    return orders.order(frame, where, time, schema.entity, Reading(irregular), schema.clock)


def encode(frame: pd.DataFrame, schema: Schema, where: str = "the table") -> Encoded:
    """The features of every row.

    Args:
      frame: a table with the schema's columns, rows in order.
      schema: from `prepare`; a later table may lack values.
      where: what to call the table in errors.

    Raises:
      DataError: a column is not there, or holds what the schema does not know.
    """
    groups = clocks.groups_of(frame, schema.entity)
    frame = event_times.with_gaps(frame, schema.clock, groups, where)
    values = encode_rows(frame, schema, groups, where)
    return Encoded(values, groups, clocks.positions(frame, schema.clock, schema.entity, where))


def encode_rows(
    frame: pd.DataFrame, schema: Schema, groups: Int[np.ndarray, " rows"], where: str
) -> Float[np.ndarray, "rows feature"]:
    """As `encode`, the values alone; times are not read.

    Args:
      frame: as for `encode`.
      schema: likewise.
      groups: number of the series of each row.
      where: as for `encode`.
    """
    rows = len(frame)
    names = [c.name for c in schema.columns]
    for name in names:
        if name not in frame.columns:
            raise DataError(f"{where} has no column {name!r}; the model was trained with it")
    layout = schemas.features(schema)
    values = np.empty((rows, len(layout)))
    for place, feature in enumerate(layout):
        if feature.role == "present":
            values[:, place] = 1.0
            continue
        column = schema.columns[feature.column]
        series = frame[column.name]
        missing = series.isna().to_numpy()
        if feature.role == "missing":
            values[:, place] = missing
            continue
        numbers = kinds.encode(series, column, feature.place, where)
        if feature.role == "increment":
            numbers = rules.increments(numbers, groups)
        values[:, place] = np.where(missing, np.nan, numbers)
    return values


def snap(windows: Windows, schema: Schema, given: Windows | None = None) -> Windows:
    """Features as a table can hold them: rounded, within bounds, one category each, 0 or 1.

    Args:
      windows: `(n, time, feature)` in the columns' own units, float64.
      schema: whose features they are.
      given: NaN where nothing is: which words others must agree with; see `combinations`.
    """
    layout = schemas.features(schema)
    found = np.array(combinations.together(windows, schema, given), np.float64)
    for place, feature in enumerate(layout):
        values = found[..., place]
        if feature.role in ("missing", "present"):
            found[..., place] = values > 0.5
        elif feature.role == "value":
            found[..., place] = kinds.snap(values, schema.columns[feature.column])
        elif feature.role == "code" and feature.place == 0:
            count = len(schema.columns[feature.column].categories)
            code = found[..., place : place + words.length(count)]
            number = words.nearest(code.reshape(-1, code.shape[-1]), count)
            code[...] = words.codes(count)[number].reshape(code.shape)
        elif feature.role == "category" and feature.place == 0:
            size = len(schema.columns[feature.column].categories)
            one_hot = found[..., place : place + size]
            found[..., place : place + size] = one_hot.argmax(-1)[..., None] == np.arange(size)
    if schema.padded:  # a series ends once
        found[..., -1] = np.minimum.accumulate(found[..., -1], axis=1)
        found[:, 0, -1] = 1.0
    return found


def within_range(windows: Windows, schema: Schema) -> Windows:
    """Windows whose values lie between the smallest and largest that the table showed.

    Few do not: the model's tails are a little wider than the data's. For samples of windows; what
    continues or completes rows of the user's may go further.

    Args:
      windows: `(n, time, feature)`, snapped.
      schema: whose features they are.
    """
    low, high = np.full(windows.shape[2], -np.inf), np.full(windows.shape[2], np.inf)
    for place, feature in enumerate(schemas.features(schema)):
        if feature.role == "value":
            column = schema.columns[feature.column]
            least = -np.inf if column.smallest is None else column.smallest
            most = np.inf if column.largest is None else column.largest
            bounds = (least, most) if column.grid is None else column.grid.bounds(least, most)
            low[place], high[place] = bounds
    return rules.keep(np.clip(windows, low, high), schema)


def decode(
    windows: Windows,
    schema: Schema,
    *,
    missing: str = "fill",
    first_series: int = 0,
    times: pd.DataFrame | None = None,
    begins: Steps | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """A table of windows: the schema's columns and dtypes, with a number of each before them.

    Entity columns get new ids, one a window; see `data.entities`.

    Args:
      windows: `(n, time, feature)` in the columns' own units.
      schema: whose features they are.
      missing: `fill` gives every value, `generate` leaves out what the model leaves out.
      first_series: id of the first window.
      times: of the rows of each window; default: they begin as the schema's `starts` draw them,
        or where it has none at the clock's start.
      begins: the clock's step of each window's first row, where that is known.
      seed: of these draws.
    """
    if missing not in MISSING:
        raise DataError(f"{option('missing', missing)} is not one of {', '.join(MISSING)}")
    snapped = snap(windows, schema)
    count, time, _ = snapped.shape
    layout, flags = schemas.features(schema), schemas.flags(schema)
    flat = snapped.reshape(count * time, len(layout))
    data: dict[str, Any] = {
        schemas.SERIES: np.repeat(np.arange(first_series, first_series + count), time)
    }
    if schema.clock is not None:
        if times is None:
            times = event_times.of_windows(snapped, schema, seed, first_series, begins)
        times = times if len(times) > time else pd.concat([times] * count)
        times = times.reset_index(drop=True)
    stamps = _stamps(times, schema)
    ids = {each.name: each for each in schema.ids}
    for name in schema.order:
        if name in ids:
            data[name] = ids[name].new(data[schemas.SERIES])
            continue
        if times is not None and name in times:
            data[name] = times[name]
            continue
        number = next(i for i, c in enumerate(schema.columns) if c.name == name)
        own = ("missing", "increment")
        places = [p for p, f in enumerate(layout) if f.column == number and f.role not in own]
        holes = np.zeros(count * time, bool)
        if missing == "generate" and number in flags:
            holes = flat[:, flags[number]] > 0.5
        data[name] = kinds.decode(flat[:, places], schema.columns[number], holes, stamps)
    frame = pd.DataFrame(data)
    if schema.padded:
        frame = frame[flat[:, -1] > 0.5].reset_index(drop=True)
    return frame


def _stamps(times: pd.DataFrame | None, schema: Schema) -> pd.Series | None:
    """The times as such, where a column follows from them."""
    if schema.clock is None or times is None:
        return None
    if all(column.from_time is None for column in schema.columns):
        return None
    return schema.clock.read(times, "samples")
