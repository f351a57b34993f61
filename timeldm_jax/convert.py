"""Between what users hold and what a model draws: tables and arrays as features, and back."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from timeldm_jax import forecast as forecasts
from timeldm_jax.asked import Asked
from timeldm_jax.data import arrays, event_times, frames, gaps, reader
from timeldm_jax.data import clock as clocks
from timeldm_jax.data import context as contexts
from timeldm_jax.data import schema as schemas
from timeldm_jax.data import table as tables
from timeldm_jax.data.order import IRREGULAR, Ordered
from timeldm_jax.data.reader import Source
from timeldm_jax.data.schema import Schema
from timeldm_jax.data.series import split_series
from timeldm_jax.data.table import Options
from timeldm_jax.errors import DataError, option, whole
from timeldm_jax.generator import Generator

_MORE = (
    "placement",
    "protocol",
    "split",
    "stride",
    "missing",
)  # of `DataConfig`, beside those of a table


def settings(
    config: ConfigDict,
    *,
    schema: Any = None,
    na_values: Any = None,
    entity: Any = None,
    dayfirst: Any = None,
    **given: Any,
) -> ConfigDict:
    """A copy with the settings of `config.data` that were given as arguments, not None.

    Args:
      config: of the model.
      schema: a path, JSON text or a mapping.
      na_values: a value, a list of values, or a mapping of columns to either.
      entity: a name or a list of them.
      dayfirst: true or false, or the words.
      **given: settings that are text, and `stride`.

    Raises:
      DataError: another name or type.
    """
    config = config.copy_and_resolve_references()
    settable = [*(field.name for field in dataclasses.fields(Options)), *_MORE]
    for name in given:
        schemas.known(name, settable, "argument")
    if isinstance(schema, Mapping):
        try:
            given["schema"] = json.dumps(dict(schema), sort_keys=True)
        except (TypeError, ValueError) as error:
            raise DataError(f"schema holds what JSON cannot: {error}") from error
    elif schema is not None:
        given["schema"] = os.fspath(schema) if isinstance(schema, os.PathLike) else schema
    if isinstance(na_values, Mapping):
        given["na_values"] = json.dumps(
            {str(k): list(v) if isinstance(v, list | tuple) else [v] for k, v in na_values.items()}
        )
    elif na_values is not None:
        listed = na_values if isinstance(na_values, list | tuple) else [na_values]
        given["na_values"] = ",".join(str(value) for value in listed)
    given["entity"] = ",".join(map(str, entity)) if isinstance(entity, list | tuple) else entity
    given["dayfirst"] = str(dayfirst).lower() if isinstance(dayfirst, bool) else dayfirst
    for name, value in given.items():
        if name == "stride" and value is not None:
            config.data.stride = whole(name, value)
            continue
        if value is not None and not isinstance(value, str):
            expected = "a path or a mapping" if name == "schema" else "text"
            raise DataError(
                f"{name} is {value!r}, of type {type(value).__name__}; expected {expected}"
            )
        if value is not None:
            config.data[name] = value
    return config


def schema_of(generator: Generator) -> Schema:
    """The schema of a model of a table or series.

    Raises:
      ValueError: it is of windows.
    """
    if generator.schema is None:
        raise ValueError("the model was trained on windows, not on a table or series")
    return generator.schema


def dtype(generator: Generator) -> type[np.floating]:
    """Of samples as arrays: float64 where numbers are those of the data to the last bit."""
    columns = () if generator.schema is None else generator.schema.columns
    written = any(c.grid is not None or c.decimals is not None for c in columns)
    return np.float64 if written or generator.scaler.grids else np.float32


def present(
    generator: Generator,
    windows: Float[np.ndarray, "n time feature"],
    seed: int,
    missing: str = "fill",
    rows: int | None = None,
    asked: Asked | None = None,
) -> Any:
    """Windows of a seed as the user gave their data, a table or an array; their first `rows`.

    They are stamped and numbered as they were asked for.
    """
    if generator.schema is None:
        return windows[:, :rows].astype(dtype(generator))
    asked = (asked or Asked(len(windows))).timed(generator.schema, seed)
    frame = tables.decode(
        windows,
        generator.schema,
        missing=missing,
        begins=asked.steps,
        seed=seed,
        first_series=asked.first,
    )
    if rows is not None:
        frame = frame[frame.groupby(schemas.SERIES).cumcount() < rows].reset_index(drop=True)
        windows = windows[:, :rows]
    if generator.config.data.name == "table":
        return frame
    values = frame[list(generator.schema.order)].to_numpy(dtype(generator))
    if generator.schema.padded:  # series of different lengths
        starts = np.flatnonzero(np.diff(frame[schemas.SERIES])) + 1
        return np.split(values, starts)
    return values.reshape(*windows.shape[:2], -1)


def asked(
    generator: Generator,
    count: int | None,
    given: Mapping[str, Any] | None,
    context: Source | None,
    start: Any,
    guidance: Any = None,
) -> Asked:
    """What a caller asks of samples, as the generator takes it.

    Args:
      generator: of the samples.
      count: how many; None: as many as `context` has rows.
      given: as for `TimeLDM.sample`.
      context: likewise.
      start: likewise.
      guidance: likewise.

    Raises:
      DataError: columns, words or times that the model cannot be asked for, or a strength that
        there is no use for.
    """
    frame = None if context is None else _named_table(context, "context")
    count = len(frame) if count is None and frame is not None else whole("count", count)
    if frame is not None and len(frame) != count:
        raise DataError(f"context has {len(frame)} rows and count is {count}: one series a row")
    rows = steps = None
    if given or frame is not None:
        schema = _with_context(generator)
        # All rows are alike without a context: one is encoded, however many samples there are.
        cells = pd.DataFrame(index=range(1)) if frame is None else frame.reset_index(drop=True)
        for name in given or {}:
            if name in cells.columns:
                raise DataError(f"{name!r} stands in both given and context; say it once")
            value = given[name]  # type: ignore[index]
            cells[name] = pd.Series([value] * len(cells), index=cells.index)
        rows = contexts.encode(cells, schema)
        rows = np.broadcast_to(rows, (count, rows.shape[1]))
    if start is not None:
        steps = clocks.steps_at(schema_of(generator).clock, start, count)
    found = Asked(count, rows, steps)
    if guidance is not None:
        found = found._replace(guidance=_strength(generator, guidance, found))
    return found


def _strength(generator: Generator, guidance: Any, asked: Asked) -> float:
    """The strength that a caller names of what is asked for."""
    try:
        strength = math.nan if isinstance(guidance, bool) else float(guidance)
    except (TypeError, ValueError):
        strength = math.nan
    if not 0 <= strength < math.inf:
        raise DataError(f"guidance={guidance!r} must be a number from 0 on; 1 is as the data is")
    if strength != 1 and not generator.models.denoiser.context:
        raise DataError(
            f"guidance={strength:g} strengthens what samples are asked for, and the model was "
            "trained without context: leave it out"
        )
    if strength != 1 and not asked.anything:
        raise DataError(
            f"guidance={strength:g} strengthens what samples are asked for, and nothing is: say "
            "given, context or start, or leave it out"
        )
    return strength


def known_ahead(
    generator: Generator, history: pd.DataFrame, known: Source | None, horizon: int
) -> Float[np.ndarray, "horizon feature"] | None:
    """Features of what is known of the rows that follow a history; see `forecast.encode_known`."""
    if known is None:
        return None
    schema, frame = schema_of(generator), _named_table(known, "known")
    times = None
    if event_times.uneven(schema):
        frame = event_times.known_gaps(frame, schema, history)
    elif schema.clock is not None:
        times = schema.clock.following(history, horizon)
    return forecasts.encode_known(frame, schema, times, horizon)


def _named_table(given: Source, what: str) -> pd.DataFrame:
    data = reader.accept(given)
    if not isinstance(data, str | pd.DataFrame):
        raise DataError(f"{what} must be a table, or the path of one, with names of columns")
    return reader.read(data)[0]


def _with_context(generator: Generator) -> Schema:
    schema = generator.schema
    if schema is None or not generator.models.denoiser.context or not schema.static_features():
        raise DataError(
            "the model has no static columns to ask for: train it on a panel (entity) some of "
            "whose columns have one value a series"
        )
    return schema


def encode(
    generator: Generator, data: Source, irregular: str | None = None
) -> tuple[Ordered, tables.Encoded, pd.DataFrame]:
    """A later table in order, its features, and the frame that was given.

    Args:
      generator: of a table or series.
      data: the table.
      irregular: what to do with uneven times; default: as in training.
    """
    schema, config = schema_of(generator), generator.config.data
    if irregular not in (None, *IRREGULAR):
        raise DataError(
            f"{option('irregular', str(irregular))} is not one of {', '.join(IRREGULAR)}"
        )
    data = reader.accept(data)
    if isinstance(data, np.ndarray) and data.ndim == 3 and schema.entity == (schemas.SERIES,):
        data = arrays.Arrays(tuple(data))
    if isinstance(data, arrays.Arrays):
        data = arrays.stack(data, schema.order)
    if isinstance(data, np.ndarray):
        if data.ndim != 2 or data.shape[1] != len(schema.order):
            raise DataError(f"data has shape {data.shape}; expected (rows, {len(schema.order)})")
        data = pd.DataFrame(arrays.check_array(data, schema.order)[0], columns=schema.order)
    frame, where = reader.read(data, config.decimal)
    if config.na_values:
        data = frame = gaps.mark_missing(frame, where, config.na_values)
    ordered = tables.arrange(frame, where, schema, irregular or config.irregular)
    encoded = tables.encode(ordered.frame, schema, where)
    given = data if isinstance(data, pd.DataFrame) and len(data) == len(frame) else frame
    return ordered, encoded, given


def put_back(
    given: pd.DataFrame, filled: pd.DataFrame, place: Int[np.ndarray, " given"], schema: Schema
) -> pd.DataFrame:
    """The table as the user gave it, only that what it lacked is there.

    Rows, index, and columns that are not learnt stay as they are, and so do dtypes that can hold
    what was lacking; numbers and objects, which pandas makes of other dtypes with gaps, become what
    the model learnt.

    Args:
      given: as the user gave it. Flags that are written as words become flags where some are
        filled.
      filled: from `tables.decode`, of the rows that `tables.arrange` gave.
      place: the row of `filled` of each given row.
      schema: of the model.
    """
    found = given.copy()
    labels = {str(label): label for label in given.columns}
    for column in schema.shown():
        if column.scaling == "constant" and column.value is None:
            continue  # empty in training, too
        label = labels[column.name]
        lacks = given[label].isna().to_numpy()
        if lacks.any():
            cells = given[label].astype(object).to_numpy(copy=True)
            new = filled[column.name].astype(object).to_numpy()[place]
            if column.from_time is not None and schema.clock is not None:
                new = column.from_time.at(schema.clock.read(given, "the table")).to_numpy()
            words = column.kind == "boolean" and not pd.api.types.is_bool_dtype(given[label].dtype)
            cells[lacks if not words else slice(None)] = new if words else new[lacks]
            found[label] = _with_dtype(cells, given[label], filled[column.name].dtype)
    return found


def _with_dtype(cells: np.ndarray, given: pd.Series, learnt: Any) -> pd.Series:
    """Cells as the first dtype, of that given and that learnt, that holds all; else objects."""
    whole = pd.Series(cells, index=given.index, dtype=object)
    stopgap = given.dtype in (np.float64, object)
    for dtype in (learnt, given.dtype) if stopgap else (given.dtype, learnt):
        if isinstance(dtype, pd.CategoricalDtype) and not whole.isin(dtype.categories).all():
            continue
        try:
            cast = whole.astype(dtype)
            same = (cast == whole).fillna(False).to_numpy(bool)
        except (ValueError, TypeError, OverflowError):
            continue
        if pd.api.types.is_float_dtype(dtype):  # a narrow one rounds what was filled in
            same = same | np.isclose(cast.astype(np.float64), whole.astype(np.float64), 1e-6)
        if same.all():
            return cast
    return whole


def like(given: Source, frame: pd.DataFrame) -> Any:
    """A table as what was given: a Series, arrays, or a table of another library."""
    if isinstance(given, pd.Series):
        column = frame.iloc[:, 0]
        column.name = given.name
        return column
    data = reader.accept(given)
    if isinstance(data, arrays.Arrays):
        values = frame.drop(columns=schemas.SERIES).to_numpy(np.float64)
        return np.split(values, np.cumsum([len(part) for part in data.series])[:-1])
    if isinstance(data, np.ndarray):
        features = frame.drop(columns=schemas.SERIES) if data.ndim == 3 else frame
        dtype = data.dtype if data.dtype.kind == "f" else np.float64
        return features.to_numpy(dtype).reshape(data.shape)
    return frames.of_kind(frame, frames.kind_of(given))


def encode_samples(generator: Generator, series: Source) -> Float[np.ndarray, "n length feature"]:
    """The features of what `sample_series` gave."""
    given = reader.accept(series)
    if isinstance(given, np.ndarray):
        return _encode_windows(generator, arrays.real_numbers(given))
    if isinstance(given, arrays.Arrays):
        given = arrays.stack(given, schema_of(generator).order)
    frame, _ = reader.read(given)
    count = frame[schemas.SERIES].nunique()
    schema = dataclasses.replace(schema_of(generator), entity=(schemas.SERIES,))
    encoded = tables.encode(frame, schema)
    return encoded.values.reshape(count, -1, encoded.values.shape[1])


def real_windows(generator: Generator, real: Source) -> Float[np.ndarray, "n window feature"]:
    """The windows to score against: those given, or all that a table has.

    Args:
      generator: of the samples.
      real: windows `(n, window, column)`, or a table.
    """
    window = generator.models.vae.window
    real = reader.accept(real)
    if isinstance(real, np.ndarray):
        return _encode_windows(generator, arrays.real_numbers(real))
    _, encoded, _ = encode(generator, real)
    series = split_series(encoded.values, generator.columns, window, "paper", groups=encoded.groups)
    return series.windows(series.test)


def _encode_windows(
    generator: Generator, windows: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """The features of windows `(n, time, column)`; other shapes are refused where they are used."""
    if windows.ndim != 3 or generator.schema is None:
        return windows
    flat = pd.DataFrame(windows.reshape(-1, windows.shape[2]), columns=list(generator.schema.order))
    return tables.encode(flat, generator.schema).values.reshape(*windows.shape[:2], -1)
