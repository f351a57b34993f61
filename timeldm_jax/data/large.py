"""A table larger than memory: looked at in stretches, surveyed and encoded in batches.

Files are read four times, in the order of their rows: stretches of them, by which times and kinds
are known; the entity and time columns, for the layout; all of it, for rows that stand for the whole
(`survey`); and the training rows in the same way, from which scalings are learnt. Then rows are
encoded and stored once (`stored`). Memory is bounded by the batch, the sample and the number of
series, whatever the number of rows.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from timeldm_jax.data import entities, gaps, layout, relations, survey, time_columns, wide
from timeldm_jax.data import schema as schemas
from timeldm_jax.data import table as tables
from timeldm_jax.data.layout import Layout
from timeldm_jax.data.parts import DTYPE, Parquet, Wanted
from timeldm_jax.data.scaling import Scaler, check_grain, fit_scaler
from timeldm_jax.data.schema import Schema
from timeldm_jax.data.survey import Batch, Found
from timeldm_jax.data.table import Options
from timeldm_jax.errors import DataError, option

_log = logging.getLogger(__name__)

STRETCHES, STRETCH_ROWS = 64, 8_192  # that times and kinds are known by
STRETCH_CELLS = 2**22
FORMAT = 1  # of what is stored
_STRETCH = "(stretch)"


class Large(NamedTuple):
    """A table that is read in batches.

    Attributes:
      files: where its rows are.
      options: how it is read.
      frame: rows of some stretches of it, the first and the last among them.
      schema: what its columns are.
      layout: where its series are, and when their rows are.
      sample: the rows that stand for the whole.
    """

    files: Parquet
    options: Options
    frame: pd.DataFrame
    schema: Schema
    layout: Layout
    sample: Found

    def sizes(self) -> tuple[Int[np.ndarray, " series"], int]:
        """Rows of each series, and the number of features."""
        return self.layout.lengths(), len(schemas.features(self.schema))

    def batches(self) -> Iterator[Batch]:
        """All rows."""
        for first, part in self.files.batches():
            frame = _frame(part, self.files.source, self.options, self.schema)
            groups = self.layout.series_of(first, len(part))
            yield Batch(np.arange(first, first + len(part)), part, frame, groups)


class Plan(NamedTuple):
    """How a large table is cut and scaled.

    Attributes:
      windows: where windows of each part start.
      schema: with scalings, bounds and words of the training rows.
      scaler: of the features.
    """

    windows: layout.Windows
    schema: Schema
    scaler: Scaler


def prepare(files: Parquet, options: Options) -> Large:
    """What a large table is.

    Raises:
      DataError: as `table.prepare`, or what a table that is read in batches cannot have.
    """
    where = files.source
    declared = schemas.read_overrides(options.schema) if options.schema else {}
    _check_supported(files, options, declared)
    wanted = stretches(files.rows, len(files.schema.names))
    frame = _plain(files.stretches(wanted), where, options)
    if wide.lengthen(frame) is not frame:
        raise _unsupported(files, "times across its columns")
    several = len(wanted.begins) > 1
    if several:
        frame[_STRETCH] = np.repeat(np.arange(len(wanted.begins)), wanted.ends - wanted.begins)
    frame, schema = tables.prepare(frame, where, options, _STRETCH if several else "")
    found, clock, ids = layout.find(
        where,
        _own_columns(files, options, schema),
        schema.clock,
        schema.entity,
        even=options.irregular == "error",
    )
    schema = dataclasses.replace(schema, clock=clock)
    nothing = Found(np.zeros(0, np.int64), files.schema.empty_table(), np.zeros(0, np.int64))
    large = Large(files, options, frame, schema, found, nothing)
    sample = survey.survey(large.batches(), files.rows, schema.columns)
    whole = schemas.infer(
        _frame(sample.table, where, options, schema),
        where,
        clock=clock,
        entity=schema.entity,
        overrides=declared.get("columns", {}),
        real_names=options.entity_names == "real",
    )
    if ids is not None:
        new = tuple(entities.learn(ids[own.name]) for own in whole.ids)
        whole = dataclasses.replace(whole, ids=new)
    return large._replace(schema=whole, sample=sample)


def stretches(rows: int, columns: int) -> Wanted:
    """The rows that are looked at first: all, or stretches evenly spread, both ends included."""
    length = max(min(STRETCH_ROWS, STRETCH_CELLS // (STRETCHES * columns)), 2)
    if rows <= STRETCHES * length:
        return Wanted(np.zeros(1, np.int64), np.array([rows]))
    begins = np.linspace(0, rows - length, STRETCHES).astype(np.int64)
    return Wanted(begins, begins + length)


def plan(large: Large, config: ConfigDict) -> Plan:
    """How a large table is cut and scaled by a configuration with nothing left open.

    Raises:
      DataError: too few rows, or a column without variation.
    """
    data, where = config.data, large.files.source
    by = data.split
    if data.entity_names == "real":
        entities.check_split(by)
        by = "time"
    windows = layout.split(large.layout, data.window, data.protocol, by=by, stride=data.stride)
    _warn_of_short(large.layout, data.window)
    sample, rows = large.sample, int((windows.training.ends - windows.training.begins).sum())
    if rows < large.files.rows:
        training = (batch.within(windows.training) for batch in large.batches())
        some = (batch for batch in training if len(batch.rows))
        sample = survey.survey(some, rows, large.schema.columns)
    overrides = schemas.read_overrides(data.schema).get("columns", {}) if data.schema else {}
    frame = _frame(sample.table, where, large.options, large.schema)
    schema = tables.relearn(frame, large.schema, overrides)
    for line in schema.describe():
        _log.info("  %s", line)
    values = tables.encode_rows(frame, schema, sample.groups, where)
    features = schemas.features(schema)
    names, scalings = zip(*((each.name, each.scaling) for each in features), strict=True)
    # Columns that agree in a sample may differ elsewhere.
    links = relations.copies(values, schema, ()) if len(values) == rows else ()
    scaler = fit_scaler(values, names, scalings, rounded=True, links=links)
    check_grain(values, names, np.float64)
    return Plan(windows, schema, scaler)


def encoded(large: Large, schema: Schema) -> Iterator[Float[np.ndarray, "rows feature"]]:
    """All rows in the columns' own units, batch by batch."""
    for batch in large.batches():
        yield tables.encode_rows(batch.frame, schema, batch.groups, large.files.source)


def key(large: Large, schema: Schema, scaler: Scaler) -> str:
    """The name of what is stored of a table: all that it depends on."""
    content = [
        FORMAT,
        large.files.identity(),
        large.options.na_values,
        schema.to_json(),
        scaler.to_json(),
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _own_columns(files: Parquet, options: Options, schema: Schema) -> Iterator[pd.DataFrame]:
    """The entity and time columns, batch by batch; the first column where there are none."""
    names = [*schema.entity, *(schema.clock.names if schema.clock else ())]
    if set(names) <= set(files.schema.names):
        for _, part in files.batches(columns=names or files.schema.names[:1]):
            yield part.replace_schema_metadata(None).to_pandas()  # an index is a column, too
        return
    for _, part in files.batches():  # the index of a pandas table
        yield _frame(part, files.source, options, schema)


def _plain(part: pa.Table, where: str, options: Options) -> pd.DataFrame:
    frame = part.to_pandas()
    for field in part.schema:
        if (field.metadata or {}).get(DTYPE) == b"object":
            frame[field.name] = frame[field.name].astype(object)
    frame.columns = [str(name) for name in frame.columns]
    return gaps.mark_missing(frame, where, options.na_values)


def _frame(part: pa.Table, where: str, options: Options, schema: Schema) -> pd.DataFrame:
    """Rows as the schema knows them: an index that is its time or entity as columns."""
    first = schema.clock.name if schema.clock else ""
    frame = _plain(part, where, options)
    return time_columns.from_index(frame, where, first, schema.entity, later=True)[0]


def _check_supported(files: Parquet, options: Options, declared: dict[str, Any]) -> None:
    if options.irregular == "resample":
        raise _unsupported(files, option("irregular", "resample"))
    if options.times != "steps":
        raise _unsupported(files, option("times", options.times))
    if declared.get("rules"):
        raise _unsupported(files, "rules between columns in a schema")


def _unsupported(files: Parquet, what: str) -> DataError:
    return DataError(
        f"{files.source} has {files.rows:,} rows of {len(files.schema.names)} columns and is read "
        f"in batches, for which there is no {what}; {option('placement', 'replicated')} reads it "
        "whole, which takes its memory several times"
    )


def _warn_of_short(found: Layout, window: int) -> None:
    lengths = found.lengths()
    short = int((lengths < window).sum())
    if short:
        _log.warning(
            "%d of %d series have fewer than %d rows, and hold no window: they are left out",
            short,
            len(lengths),
            window,
        )
