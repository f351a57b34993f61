"""What a table is: its columns, the features that they become, its clock and its entities.

A schema is all that leads from a table to numbers and back: kinds, scaling, rounding, bounds,
categories, the time column and the entity column. It is inferred from the data, or said by the
user, and holds plain values only, so that a saved model carries it without pickle.
"""

import dataclasses
import difflib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pandas as pd
from etils import epath

from timeldm_jax.data import (
    entities,
    event_times,
    from_time,
    inference,
    relations,
    rules,
    words,
)
from timeldm_jax.data.clock import Clock, groups_of
from timeldm_jax.data.columns import KINDS, SCALINGS, Column, Scaling
from timeldm_jax.data.entities import Ids
from timeldm_jax.data.from_time import FromTime
from timeldm_jax.data.grids import Grid
from timeldm_jax.data.rules import Rule
from timeldm_jax.data.start_times import StartTimes
from timeldm_jax.errors import DataError, Problems

PROPOSED = "proposed"  # for rules: all that hold in the table
SERIES = "series"  # the id that synthetic windows get
PRESENT = "(row is present)"  # the feature that ends a series shorter than the window
MOST_FEATURES = 2_000
SLOW_FEATURES = 200


@dataclasses.dataclass(frozen=True)
class Schema:
    """A whole table.

    Attributes:
      columns: what is learnt, in the table's order.
      order: names of all columns that samples have, in the table's order, the time included.
      clock: the time column, or None.
      entity: names of the columns that say which series a row belongs to.
      padded: whether some series are shorter than the window, so that samples have lengths too.
      ids: what samples get in the entity columns; () in models saved before they got any.
      rules: between columns, which samples keep; see `rules`.
      starts: at what times samples begin; None where the clock has no calendar, and in models saved
        before there was a choice: they begin where the table does.
    """

    columns: tuple[Column, ...]
    order: tuple[str, ...]
    clock: Clock | None = None
    entity: tuple[str, ...] = ()
    padded: bool = False
    ids: tuple[Ids, ...] = ()
    starts: StartTimes | None = None
    rules: tuple[Rule, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Schema":
        """The inverse of `to_json`."""
        columns = tuple(
            Column(
                **{
                    **column,
                    "categories": tuple(column["categories"]),
                    "grid": column.get("grid") and Grid.from_json(column["grid"]),
                    "from_time": column.get("from_time")
                    and FromTime.from_json(column["from_time"]),
                }
            )
            for column in content["columns"]
        )
        clock = None if content["clock"] is None else Clock.from_json(content["clock"])
        entity = content["entity"]  # one name, of models saved before there could be several
        entity = tuple(filter(None, [entity] if isinstance(entity, str) else entity))
        ids = tuple(Ids(**each) for each in content.get("ids", ()))
        starts = content.get("starts") and StartTimes.from_json(content["starts"])
        kept = tuple(Rule.from_json(fields) for fields in content.get("rules", ()))
        order, padded = tuple(content["order"]), bool(content["padded"])
        return cls(columns, order, clock, entity, padded, ids, starts, kept)

    def describe(self) -> list[str]:
        """A line a column, for people."""
        width = max([len(c.name) for c in self.columns], default=0)
        lines = []
        for column in self.columns:
            said = [column.kind, f"scaled by {column.scaling}"]
            if column.from_time is not None:
                said = [column.kind, f"follows from the time ({column.from_time.part})"]
            elif column.scaling == "constant" and column.value is None:
                said = ["empty, passed through"]
            elif column.scaling == "constant":
                said = [column.kind, f"constant {column.value!r}, passed through"]
            elif column.kind in ("boolean", "category"):
                said = [f"{column.kind} of {len(column.categories) or 2}"]
                if column.coded:
                    said.append(f"coded in {words.length(len(column.categories))} numbers")
            if column.decimals is not None:
                said.append(f"{column.decimals} decimals")
            if column.grid is not None:
                said.append(column.grid.describe())
            if column.low is not None or column.high is not None:
                low = "-∞" if column.low is None else f"{column.low:g}"
                high = "∞" if column.high is None else f"{column.high:g}"
                said.append(f"kept in {low}..{high}")
            if column.static:
                said.append("one value a series")
            if column.gaps_of:
                said.append(f"missing together with {column.gaps_of!r}")
            elif column.missing:
                said.append("has missing values")
            lines.append(f"{column.name:<{width}}  {', '.join(said)}")
        for rule in self.rules:
            count = f" ({len(rule.combinations):,} combinations)" * (rule.kind == "seen")
            lines.append(f"always: {rules.said(rule)}{count}")
        return lines

    def shown(self) -> tuple[Column, ...]:
        """The columns that samples have, too: without that of `event_times`."""
        return tuple(column for column in self.columns if column.name in self.order)

    def layout(self) -> tuple["Feature", ...]:
        """As `features`."""
        return features(self)

    def static_features(self) -> list[tuple[int, "Feature"]]:
        """The places and features of columns with one value a series."""
        return [
            (place, feature)
            for place, feature in enumerate(features(self))
            if feature.column >= 0 and self.columns[feature.column].static
        ]


def infer(
    frame: pd.DataFrame,
    where: str,
    *,
    clock: Clock | None,
    entity: tuple[str, ...],
    overrides: Mapping[str, Mapping[str, Any]],
    real_names: bool = False,
    derived: bool = False,
) -> Schema:
    """The schema of a table whose rows are in order.

    Args:
      frame: the table; time and entity columns may be among its columns.
      where: the file or object, for errors.
      clock: its time column, which is not learnt.
      entity: names of its entity columns, likewise.
      overrides: by column, fields of `Column` that the user has set.
      real_names: whether the entity column is learnt, so that samples have its names.
      derived: whether columns that follow from the time are looked for.

    Raises:
      DataError: columns that cannot be learnt, all of them, or an override that does not fit.
    """
    problems = Problems()
    for name, fields in overrides.items():
        with problems.collect():
            _check_override(name, fields, list(frame.columns), where)
    problems.raise_all()
    own = [] if clock is None else list(clock.names)
    hidden = own if real_names else [*own, *entity]
    asked = {name: {"kind": "category"} for name in entity} | dict(overrides)
    if event_times.GAP in frame.columns:
        asked[event_times.GAP] = event_times.fields(frame[event_times.GAP])
    columns = _infer_columns(frame.drop(columns=hidden, errors="ignore"), asked, where)
    if not columns:
        raise DataError(f"{where} has no column to learn beside its time and entity columns")
    said = {name: given["static"] for name, given in overrides.items() if "static" in given}
    said |= dict.fromkeys(entity, True)
    groups = groups_of(frame, entity)
    if derived:
        columns = from_time.find(columns, frame, clock, groups, {*overrides, *entity}, where)
    columns = relations.learn(columns, frame, groups, said)
    kept = {*(column.name for column in columns), *own, *entity} - {SERIES, event_times.GAP}
    unnamed = [name for name in entity if name in hidden and name != SERIES]
    schema = Schema(
        columns=tuple(columns),
        order=tuple(str(name) for name in frame.columns if name in kept),
        clock=clock,
        entity=entity,
        ids=tuple(entities.learn(frame[name]) for name in unnamed),
    )
    _check_size(schema, where)
    return schema


def _check_size(schema: Schema, where: str) -> None:
    """Raises DataError where there is nothing to learn, or too much."""
    count = len(features(schema))
    if count == 0:
        raise DataError(
            f"{where}: every column is constant, empty or follows from the time; there is nothing "
            "to learn"
        )
    if count > MOST_FEATURES:
        raise DataError(
            f"{where} would give {count:,} features; scores of pairs of features take memory and "
            f"time by the square of that, and the model's width is a few hundred. Learn at most "
            f"{MOST_FEATURES:,}: leave columns out (kind 'drop' in the schema), or split the table"
        )


def _infer_columns(
    frame: pd.DataFrame, asked: Mapping[str, Mapping[str, Any]], where: str
) -> list[Column]:
    """What each column is, those left out that are to be dropped; raises all faults at once."""
    problems, columns = Problems(), []
    for name in frame.columns:
        given = dict(asked.get(name, {}))
        if given.get("kind") != "drop":
            with problems.collect():
                columns.append(inference.infer(frame[name], given, where))
    problems.raise_all()
    return columns


@dataclasses.dataclass(frozen=True)
class Feature:
    """One number a row that the model learns.

    Attributes:
      name: of the feature.
      column: number of its column in the schema, or −1 for `PRESENT`.
      role: `value`, `increment` (by how much it rose, of what never falls), `category` (one of
        several, the largest counts), `code` (one number of a word's code), `missing` (1 where the
        column has no value) or `present`.
      place: which category, or which number of the code.
      scaling: as of the column; features that are 0 or 1 are `unit`, left as they are.
    """

    name: str
    column: int
    role: Literal["value", "increment", "category", "code", "missing", "present"]
    place: int
    scaling: Scaling | Literal["unit"]


def features(schema: Schema) -> tuple[Feature, ...]:
    """The features of a schema, in order: values of all columns, then what says they are there."""
    above = {rule.column for rule in schema.rules if rule.kind == "above"}
    rising = rules.rising(schema.rules)
    found = []
    for i, column in enumerate(schema.columns):
        if column.scaling == "constant":
            continue
        if column.coded:
            found += [
                Feature(f"{column.name}, code {place + 1}", i, "code", place, "unit")
                for place in range(words.length(len(column.categories)))
            ]
        elif column.kind == "category":
            found += [
                Feature(f"{column.name}={value}", i, "category", place, "unit")
                for place, value in enumerate(column.categories)
            ]
        else:
            scaling = "unit" if column.kind == "boolean" else column.scaling
            if column.name in above:
                scaling = "quantile"  # of how far it lies above others
            found.append(Feature(column.name, i, "value", 0, scaling))
            if column.name in rising and column.kind != "boolean":
                found.append(Feature(f"{column.name}, increment", i, "increment", 0, "quantile"))
    found += [
        Feature(f"{column.name} is missing", i, "missing", 0, "unit")
        for i, column in enumerate(schema.columns)
        if column.missing and not column.gaps_of
    ]
    if schema.padded:
        found.append(Feature(PRESENT, -1, "present", 0, "unit"))
    return tuple(found)


def flags(schema: Schema) -> dict[int, int]:
    """The feature that says where a column lacks values, by the column's number."""
    layout = enumerate(features(schema))
    own = {feature.column: place for place, feature in layout if feature.role == "missing"}
    numbers = {column.name: i for i, column in enumerate(schema.columns)}
    sharing = {
        i: own[numbers[column.gaps_of]]
        for i, column in enumerate(schema.columns)
        if column.missing and column.gaps_of
    }
    return own | sharing


def read_overrides(given: str) -> dict[str, Any]:
    """A user's schema: `{"columns": {name: {field: value}}, "time": …, "entity": …, "rules": […]}`.

    Rules are texts, or `"proposed"` for those that hold in all rows; see `rules` and `proposals`.

    Args:
      given: path of a JSON file, or the JSON itself.

    Raises:
      DataError: no such file, not JSON, or another key.
    """
    where, text = "the schema", given
    if not given.lstrip().startswith("{"):
        where, file = f"the schema {given}", epath.Path(given)
        if not file.exists():
            raise DataError(f"{where} does not exist")
        text = file.read_text()
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("columns", {}), dict):
        raise DataError(f"{where} must be an object with an object `columns`")
    for key in content:
        known(key, ("columns", "time", "entity", "rules"), f"{where}: key")
    listed = content.get("rules", [])
    texts = isinstance(listed, list) and all(isinstance(text, str) for text in listed)
    if not texts and listed != PROPOSED:
        raise DataError(
            f"{where}: rules={listed!r} must be a list of texts: ['low <= high']; or {PROPOSED!r}, "
            "for those that `describe` proposes"
        )
    for key in ("time", "entity"):
        named = content.get(key, "")
        listed = isinstance(named, list) and key == "entity"
        if not all(isinstance(name, str) for name in (named if listed else [named])):
            raise DataError(f"{where}: {key}={named!r} must be the name of a column")
    return content


def known(given: str, names: Iterable[str], what: str) -> None:
    """Raises DataError, naming the closest, unless `given` is one of `names`."""
    names = list(names)
    if given not in names:
        close = difflib.get_close_matches(given, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"
        raise DataError(f"{what} {given!r} is not known{hint}")


def _check_override(name: str, given: Mapping[str, Any], columns: list[str], where: str) -> None:
    known(name, columns, f"{where}: the schema's column")
    at = f"the schema's column {name!r}:"
    if not isinstance(given, Mapping):
        raise DataError(f"{at} expected an object of fields, found {given!r}")
    settable = ("kind", "scaling", "decimals", "step", "low", "high", "categories", "static")
    for field, value in given.items():
        known(field, settable, f"{at} field")
        if field == "kind":
            known(value, KINDS, f"{at} kind")
        elif field == "scaling":
            known(value, SCALINGS, f"{at} scaling")
        elif field == "static":
            if not isinstance(value, bool):
                raise DataError(f"{at} static={value!r} must be true or false")
        elif field == "categories":
            if not isinstance(value, list) or not value:
                raise DataError(f"{at} categories={value!r} must be a list")
        elif value is not None and not isinstance(value, int | float):
            raise DataError(f"{at} {field}={value!r} must be a number or null")
        elif field == "decimals" and value is not None and value not in range(16):
            raise DataError(f"{at} decimals={value!r} must be a whole number from 0 to 15")
        elif field == "step" and value is not None and not 0 <= value < math.inf:
            raise DataError(f"{at} step={value!r} must be positive, or 0 for none")
    low, high = given.get("low"), given.get("high")
    if low is not None and high is not None and low >= high:
        raise DataError(f"{at} low={low} must be below high={high}")
