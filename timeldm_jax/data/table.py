"""A table of a user's own: read from a file, turned into numbers, and back into a table.

A table becomes `(rows, features)` in its own units, NaN where a value is missing, with the series
and the time of each row. Rows of one series are in order, side by side.
"""

import csv
import dataclasses
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from etils import epath
from jaxtyping import Float, Int
from pandas.api.types import pandas_dtype

from timeldm_jax.data import schema as schemas
from timeldm_jax.data.schema import Clock, Column, Schema
from timeldm_jax.errors import DataError

_log = logging.getLogger(__name__)

IRREGULAR = ("error", "sort", "resample")
MISSING = ("fill", "generate")
Windows = Float[np.ndarray, "n time feature"]


@dataclasses.dataclass(frozen=True)
class Options:
    """How a table is read; each field is a key `config.data.<field>`.

    Attributes:
      time: name of the time column; "" looks for one.
      entity: name of the column that says which series a row belongs to, or "".
      schema: path of a JSON schema that overrides what is inferred, or "".
      irregular: what to do where times are out of order or unevenly spaced: `error`; `sort` puts
        rows in order and takes each for one step; `resample` makes rows regular by the median
        step, the mean of several, missing where there is none.
      decimal: the decimal point of a CSV file.
    """

    time: str = ""
    entity: str = ""
    schema: str = ""
    irregular: str = "error"
    decimal: str = "."


class Encoded(NamedTuple):
    """A table as numbers.

    Attributes:
      values: `(rows, features)` float64 in the columns' own units; NaN where missing.
      groups: `(rows,)` number of the series that a row belongs to, in order of appearance.
      clock: `(rows,)` steps since the first time, for splits by time.
    """

    values: Float[np.ndarray, "rows feature"]
    groups: Int[np.ndarray, " rows"]
    clock: Float[np.ndarray, " rows"]


def read(source: str | pd.DataFrame, decimal: str = ".") -> tuple[pd.DataFrame, str]:
    """A table of a CSV or Parquet file, or a DataFrame as it is; and what to call it.

    Raises:
      DataError: no such file, another format, empty, or a column named twice.
    """
    if isinstance(source, pd.DataFrame):
        frame, where = source.reset_index(drop=isinstance(source.index, pd.RangeIndex)), "the table"
        if isinstance(source.index, pd.MultiIndex):
            raise DataError("the table has an index of several levels; call reset_index() first")
    else:
        if not str(source):
            raise DataError("no table is named: set --config.data.path to a .csv or .parquet file")
        path = epath.Path(source)
        where = str(source)
        if not path.exists() or path.is_dir():
            raise DataError(
                f"{where} does not exist" if not path.exists() else f"{where} is a folder"
            )
        suffix = path.suffix.lower()
        if suffix in (".parquet", ".pq"):
            try:
                frame = pd.read_parquet(io.BytesIO(path.read_bytes()))
            except (ValueError, OSError) as error:
                raise DataError(f"{where} is not a readable Parquet file: {error}") from error
        elif suffix in (".csv", ".tsv", ".txt"):
            frame = _read_csv(path, where, decimal)
        else:
            raise DataError(
                f"{where}: expected a .csv or .parquet file, found {suffix or 'no suffix'}"
            )
    frame.columns = [str(name) for name in frame.columns]
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise DataError(f"{where}: two columns are called {twice[0]!r}; names must differ")
    if frame.shape[1] == 0 or len(frame) == 0:
        raise DataError(
            f"{where} has {len(frame)} rows of {frame.shape[1]} columns: nothing to learn"
        )
    return frame, where


def _read_csv(path: epath.Path, where: str, decimal: str) -> pd.DataFrame:
    content = path.read_bytes()
    try:
        head = content[:65_536].decode("utf-8-sig", errors="ignore")
        lines = head.splitlines()
        if not any(line.strip() for line in lines):
            raise DataError(f"{where} is empty; it needs a header line and rows")
        separator = _separator(lines, decimal)
        header = next(csv.reader([lines[0]], delimiter=separator))
        names = [name.strip() for name in header]
        for name in names:
            if name and names.count(name) > 1:
                raise DataError(f"{where}: two columns are called {name!r}; names must differ")
        return pd.read_csv(
            io.BytesIO(content),
            sep=separator,
            decimal=decimal,
            encoding="utf-8-sig",
            skipinitialspace=True,
            low_memory=False,
        ).rename(columns=str.strip)
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text: {error}; save it as CSV UTF-8") from error
    except (ValueError, pd.errors.ParserError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where} is not a readable CSV file: {error}") from error


def _separator(lines: list[str], decimal: str) -> str:
    """The one of , ; tab | that the header has most of; a decimal comma is none."""
    candidates = [c for c in ",;\t|" if c != decimal]
    return max(candidates, key=lambda c: (lines[0].count(c), -candidates.index(c)))


def prepare(
    frame: pd.DataFrame, where: str, options: Options, declared: Mapping[str, Any] | None = None
) -> tuple[pd.DataFrame, Schema]:
    """Puts rows in order and works out the schema.

    Args:
      frame: as from `read`.
      where: what to call it in errors.
      options: what the user said.
      declared: the content of a schema file; default: that of `options.schema`.

    Raises:
      DataError: columns that are not there or cannot be learnt, or rows out of order.
    """
    if options.irregular not in IRREGULAR:
        raise DataError(
            f"config.data.irregular={options.irregular!r} is not one of {', '.join(IRREGULAR)}"
        )
    if declared is None:
        declared = schemas.read_overrides(options.schema) if options.schema else {}
    entity = options.entity or declared.get("entity", "")
    time = options.time or declared.get("time", "")
    for what, name in (("entity", entity), ("time", time)):
        if name:
            schemas.known(name, frame.columns, f"{where}: config.data.{what}: column")
    if schemas.SERIES in frame.columns and entity != schemas.SERIES:
        raise DataError(
            f"{where} has a column {schemas.SERIES!r}, the name of the id that samples get; if it "
            f"says which series a row belongs to: --config.data.entity={schemas.SERIES}; "
            "otherwise rename it"
        )
    if entity and frame[entity].isna().any():
        raise DataError(f"{where}, column {entity!r} (the entity) lacks values in some rows")
    overrides = declared.get("columns", {})
    time = time or _find_time(frame, entity, overrides)
    clock = None
    if entity:
        frame = frame.sort_values(entity, kind="stable", ignore_index=True)
    if time:
        frame, clock = _order(frame, where, time, entity, options.irregular)
    inferred = schemas.infer(frame, where, clock=clock, entity=entity, overrides=overrides)
    return frame, inferred


def _find_time(frame: pd.DataFrame, entity: str, overrides: Mapping[str, Any]) -> str:
    """The column that is a time by dtype, or by its name and text; "" where there is none."""
    free = [name for name in frame.columns if name != entity and name not in overrides]
    for name in free:
        if pd.api.types.is_datetime64_any_dtype(frame[name].dtype):
            return name
    for name in free:
        text = pd.api.types.is_string_dtype(frame[name].dtype)
        if not text or frame[name].isna().all():
            continue
        named = name.lower().strip() in schemas.TIME_NAMES
        share = 0.5 if named else 1.0  # where the name says so, a strange cell is an error
        if (named or name == frame.columns[0]) and schemas.looks_like_time(
            frame[name].dropna(), share
        ):
            return name
    return ""


def _order(
    frame: pd.DataFrame, where: str, name: str, entity: str, rule: str
) -> tuple[pd.DataFrame, Clock]:
    """Rows in order of time within each series, and the clock; see `Options.irregular`."""
    at = f"{where}, column {name!r} (the time)"
    column = frame[name]
    if column.isna().any():
        row = schemas.row_of(column[column.isna()])
        raise DataError(f"{at} has no value in row {row}; fill it, or remove the row")
    numeric = pd.api.types.is_numeric_dtype(column.dtype)
    times = column.astype(np.float64) if numeric else schemas.parse_times(column, at)
    stamps = times.to_numpy() if numeric else _seconds(times)
    groups = _groups(frame, entity)
    key = np.lexsort((stamps, groups))
    if rule == "error" and (np.diff(key) < 0).any():
        first = int(np.flatnonzero(np.diff(stamps) * (np.diff(groups) == 0) < 0)[0]) + 1
        raise DataError(
            f"{at}, row {first + 1}: {column.iloc[first]} comes after {column.iloc[first - 1]}. "
            "Rows must be in order of time; --config.data.irregular=sort puts them in order"
        )
    frame, stamps, groups = frame.iloc[key].reset_index(drop=True), stamps[key], groups[key]
    times = times.iloc[key]
    inside = np.diff(groups) == 0
    gaps = np.diff(stamps)
    if not inside.any():
        raise DataError(f"{at}: no series has two rows")
    step = float(np.median(gaps[inside]))
    uneven = np.flatnonzero(inside & ~np.isclose(gaps, step, rtol=1e-6, atol=0))
    even = len(uneven) == 0 and step > 0
    offset = "" if numeric or even else _offset(times, groups)
    if rule == "error" and not even and (not offset or (gaps[inside] <= 0).any()):
        bad = int(uneven[0]) + 1 if len(uneven) else 1
        hint = ""
        if (gaps[inside] <= 0).any() and not entity:
            hint = "If several series share times, name their column (--config.data.entity). "
        raise DataError(
            f"{at} is not evenly spaced: the usual step is {_words(step, numeric)}, and row "
            f"{bad + 1} ({frame[name].iloc[bad]}) comes {_words(gaps[bad - 1], numeric)} after the "
            f"one before. {hint}--config.data.irregular=sort takes every row for one step; "
            "--config.data.irregular=resample makes steps even, missing where there is no row"
        )
    if rule == "resample" and not even:
        frame, stamps = _resample(frame, name, entity, stamps, groups, step, numeric)
        _log.info("%s: resampled to a row every %s", where, _words(step, numeric))
        offset = ""
    elif not (even or offset):
        _log.info("%s: unevenly spaced; every row is taken for one step", where)
    start: str | float = float(stamps[0]) if numeric else pd.Timestamp(times.iloc[0]).isoformat()
    zone = "" if numeric else str(getattr(times.dtype, "tz", None) or "")
    form = "" if numeric else schemas.time_format(column)
    step = step if step > 0 else 1.0
    return frame, Clock(name, str(column.dtype), start, step, offset, form, zone)


def arrange(frame: pd.DataFrame, where: str, schema: Schema) -> pd.DataFrame:
    """Rows of a later table as the schema's clock and entity want them.

    Raises:
      DataError: a column that is not there, or rows out of order.
    """
    for name in (schema.entity, schema.clock.name if schema.clock else ""):
        if name and name not in frame.columns:
            raise DataError(f"{where} has no column {name!r}; the model was trained with it")
    frame = frame.copy()
    if schema.entity:
        frame = frame.sort_values(schema.entity, kind="stable", ignore_index=True)
    if schema.clock is not None and len(frame) > 1:
        frame, _ = _order(frame, where, schema.clock.name, schema.entity, "error")
    return frame


def _groups(frame: pd.DataFrame, entity: str) -> Int[np.ndarray, " rows"]:
    if not entity:
        return np.zeros(len(frame), np.int64)
    return pd.factorize(frame[entity])[0]


def _seconds(times: pd.Series) -> Float[np.ndarray, " rows"]:
    origin = times.iloc[0]
    return (times - origin).dt.total_seconds().to_numpy()


def _offset(times: pd.Series, groups: Int[np.ndarray, " rows"]) -> str:
    """The calendar rule of steps of uneven length (months, business days), or ""."""
    index = pd.DatetimeIndex(times.iloc[: int((groups == groups[0]).sum())])
    try:
        with warnings.catch_warnings():  # that pandas 4 will give an object instead of its name
            warnings.simplefilter("ignore")
            found = pd.infer_freq(index)
    except (ValueError, TypeError):  # fewer than three times, or repeated ones
        return ""
    return str(getattr(found, "freqstr", found) or "")


def _words(step: float, numeric: bool) -> str:
    return f"{step:g}" if numeric else str(pd.Timedelta(seconds=step))


def _resample(
    frame: pd.DataFrame,
    name: str,
    entity: str,
    stamps: Float[np.ndarray, " rows"],
    groups: Int[np.ndarray, " rows"],
    step: float,
    numeric: bool,
) -> tuple[pd.DataFrame, Float[np.ndarray, " rows"]]:
    """A row every `step` in each series: means of floats, else the first; missing elsewhere."""
    if step <= 0:
        raise DataError(f"column {name!r} (the time): most rows repeat the time before")
    slot = np.round((stamps - stamps[0]) / step).astype(np.int64)
    rules = {
        column: "mean" if pd.api.types.is_float_dtype(frame[column].dtype) else "first"
        for column in frame.columns
        if column not in (name, entity)
    }
    merged = frame.groupby([groups, slot]).agg(rules)
    first, last = (pd.Series(slot).groupby(groups).agg(kind) for kind in ("min", "max"))
    full = pd.MultiIndex.from_tuples(
        [(g, s) for g in first.index for s in range(first[g], last[g] + 1)]
    )
    merged = merged.reindex(full)
    for column in merged.columns:  # an integer column with holes: nullable, still whole
        if pd.api.types.is_integer_dtype(frame[column].dtype) and merged[column].isna().any():
            merged[column] = merged[column].astype("Int64")
    slots = full.get_level_values(1).to_numpy()
    even = stamps[0] + slots * step
    if numeric:
        merged[name] = even
    else:
        start = schemas.parse_times(frame[name], name).iloc[0]
        stepped = start + pd.to_timedelta(slots * step, unit="s")
        form = schemas.time_format(frame[name])
        merged[name] = stepped.strftime(form) if form else stepped
    if entity:
        ids = frame[entity].to_numpy()
        of_group = {g: ids[i] for g, i in zip(*np.unique(groups, return_index=True), strict=True)}
        merged[entity] = [of_group[g] for g in full.get_level_values(0)]
    return merged.reset_index(drop=True)[list(frame.columns)], even


def encode(frame: pd.DataFrame, schema: Schema, where: str = "the table") -> Encoded:
    """The features of every row.

    Args:
      frame: a table with the schema's columns, rows in order.
      schema: from `prepare`; a later table may lack values but not bring new categories.
      where: what to call the table in errors.

    Raises:
      DataError: a column is not there, or holds what the schema does not know.
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
        numbers = _to_numbers(series, column, feature.place, where)
        values[:, place] = np.where(missing, np.nan, numbers)
    groups = _groups(frame, schema.entity)
    position = np.arange(rows, dtype=np.float64)
    if schema.clock is not None:
        times = frame[schema.clock.name]
        if isinstance(schema.clock.start, float):
            position = times.to_numpy(np.float64) / schema.clock.step
        else:
            stamps = schemas.parse_times(times, f"{where}, column {schema.clock.name!r}")
            position = (stamps - stamps.min()).dt.total_seconds().to_numpy() / schema.clock.step
    elif schema.entity:
        first = np.r_[True, np.diff(groups) != 0]
        position = position - np.maximum.accumulate(np.where(first, position, 0))
    return Encoded(values, groups, position)


def _to_numbers(
    series: pd.Series, column: Column, place: int, where: str
) -> Float[np.ndarray, " rows"]:
    at = f"{where}, column {column.name!r}"
    if column.kind == "category":
        strange = series.dropna()
        strange = strange[~strange.isin(column.categories)]
        if len(strange):
            raise DataError(
                f"{at}, row {schemas.row_of(strange)} holds {strange.iloc[0]!r}; the model knows "
                f"{', '.join(map(repr, column.categories))}"
            )
        return (series == column.categories[place]).fillna(False).to_numpy(np.float64)
    if column.kind == "datetime":
        times = schemas.parse_times(series, at)
        return (times - pd.Timestamp(column.origin)).dt.total_seconds().to_numpy()
    if column.kind == "boolean":
        return series.astype("object").map({True: 1.0, False: 0.0}).to_numpy(np.float64)
    try:
        return pd.to_numeric(series).astype("Float64").to_numpy(np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise DataError(f"{at} must hold numbers: {error}") from error


def snap(windows: Windows, schema: Schema) -> Windows:
    """Features as a table can hold them: rounded, within bounds, one category each, 0 or 1.

    Args:
      windows: `(n, time, feature)` in the columns' own units, float64.
      schema: whose features they are.
    """
    layout = schemas.features(schema)
    found = np.array(windows, np.float64)
    for place, feature in enumerate(layout):
        values = found[..., place]
        if feature.role in ("missing", "present"):
            found[..., place] = values > 0.5
        elif feature.role == "value":
            found[..., place] = _snap_value(values, schema.columns[feature.column])
        elif feature.place == 0:
            size = len(schema.columns[feature.column].categories)
            one_hot = found[..., place : place + size]
            found[..., place : place + size] = one_hot.argmax(-1)[..., None] == np.arange(size)
    if schema.padded:  # a series ends once
        found[..., -1] = np.minimum.accumulate(found[..., -1], axis=1)
        found[:, 0, -1] = 1.0
    return found


def _snap_value(values: Float[np.ndarray, "..."], column: Column) -> Float[np.ndarray, "..."]:
    low = -np.inf if column.low is None else column.low
    high = np.inf if column.high is None else column.high
    if column.kind == "boolean":
        return (values > 0.5).astype(np.float64)
    if column.kind == "integer":
        return np.clip(np.round(values), np.ceil(low), np.floor(high))
    if column.kind == "datetime":
        return np.round(values / column.unit) * column.unit
    if column.decimals is not None:
        digits = 10.0**column.decimals
        low, high = np.ceil(low * digits) / digits, np.floor(high * digits) / digits
        values = np.round(values, column.decimals)
    return np.clip(values, low, high)


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
            low[place] = -np.inf if column.smallest is None else column.smallest
            high[place] = np.inf if column.largest is None else column.largest
    return np.clip(windows, low, high)


def close_gaps(
    synthetic: Windows, real: Sequence[Windows], schema: Schema, missing: str, seed: int
) -> tuple[Windows, list[Windows]]:
    """Windows without NaN, gaps alike in all sets, so that scores compare what is known.

    Synthetic windows get the gaps that the model generated, or (`missing="fill"`) those of real
    windows drawn at random. Then gaps in all sets are closed the same way: by the last value before
    in the window, else the first after, else the mean of the real ones.

    Args:
      synthetic: `(n, time, feature)`, snapped.
      real: sets of real windows; the first gives the patterns.
      schema: of the features.
      missing: `fill` or `generate`.
      seed: of the draw of patterns.
    """
    layout = schemas.features(schema)
    flags = {f.column: p for p, f in enumerate(layout) if f.role == "missing"}
    if not flags and not schema.padded:
        return synthetic, list(real)
    synthetic = synthetic.copy()
    if missing == "fill":
        rows = np.random.default_rng(seed).integers(0, len(real[0]), len(synthetic))
        for place in flags.values():
            synthetic[..., place] = np.nan_to_num(real[0][rows, :, place])
    for place, feature in enumerate(layout):
        if feature.role != "missing" and feature.column in flags:
            gaps = synthetic[..., flags[feature.column]] > 0.5
            synthetic[..., place] = np.where(gaps, np.nan, synthetic[..., place])
    if schema.padded:
        synthetic[..., :-1][synthetic[..., -1] < 0.5] = np.nan
    means = np.nanmean(real[0], axis=(0, 1))
    return _close(synthetic, means), [_close(windows, means) for windows in real]


def _close(windows: Windows, means: Float[np.ndarray, " feature"]) -> Windows:
    found = np.array(windows)
    for t in range(1, found.shape[1]):
        found[:, t] = np.where(np.isnan(found[:, t]), found[:, t - 1], found[:, t])
    for t in range(found.shape[1] - 2, -1, -1):
        found[:, t] = np.where(np.isnan(found[:, t]), found[:, t + 1], found[:, t])
    return np.where(np.isnan(found), means, found)


def decode(
    windows: Windows,
    schema: Schema,
    *,
    missing: str = "fill",
    first_series: int = 0,
    times: pd.Series | None = None,
) -> pd.DataFrame:
    """A table of windows: the schema's columns and dtypes, with an id of each window before them.

    Args:
      windows: `(n, time, feature)` in the columns' own units.
      schema: whose features they are.
      missing: `fill` gives every value, `generate` leaves out what the model leaves out.
      first_series: id of the first window.
      times: of the rows of each window; default: from the clock's start.
    """
    if missing not in MISSING:
        raise DataError(f"missing={missing!r} is not one of {', '.join(MISSING)}")
    snapped = snap(windows, schema)
    count, time, _ = snapped.shape
    layout = schemas.features(schema)
    flat = snapped.reshape(count * time, len(layout))
    data: dict[str, Any] = {
        schemas.SERIES: np.repeat(np.arange(first_series, first_series + count), time)
    }
    for name in schema.order:
        if schema.clock is not None and name == schema.clock.name:
            times = schema.clock.times(time) if times is None else times
            data[name] = pd.concat([times] * count, ignore_index=True)
            continue
        number = next(i for i, c in enumerate(schema.columns) if c.name == name)
        places = [p for p, f in enumerate(layout) if f.column == number and f.role != "missing"]
        holes = np.zeros(count * time, bool)
        if missing == "generate":
            for p, f in enumerate(layout):
                if f.column == number and f.role == "missing":
                    holes = flat[:, p] > 0.5
        data[name] = _to_column(flat[:, places], schema.columns[number], holes)
    frame = pd.DataFrame(data)
    if schema.padded:
        frame = frame[flat[:, -1] > 0.5].reset_index(drop=True)
    return frame


def _to_column(
    values: Float[np.ndarray, "rows place"], column: Column, holes: np.ndarray
) -> pd.Series:
    rows = len(values)
    if column.scaling == "constant":
        value = pd.Timestamp(column.value) if column.kind == "datetime" else column.value
        return pd.Series([value] * rows, dtype=pandas_dtype(column.dtype))
    if column.kind == "category":
        words = np.array(column.categories, dtype=object)[values.argmax(1)]
        found = pd.Series(words, dtype=object)
    elif column.kind == "datetime":
        whole = np.round(values[:, 0] / min(column.unit, 1.0)) * min(column.unit, 1.0)
        found = pd.Series(pd.Timestamp(column.origin) + pd.to_timedelta(whole, unit="s"))
        if "datetime" not in column.dtype:
            found = found.astype(str)
    elif column.kind == "boolean":
        found = pd.Series(values[:, 0] > 0.5, dtype=object)
    else:
        found = pd.Series(values[:, 0])
    if holes.any():
        found = found.mask(pd.Series(holes))
        if column.dtype in ("int64", "int32", "bool"):  # cannot hold what is missing
            return found.astype("boolean" if column.dtype == "bool" else "Int64")
    return found.astype(pandas_dtype(column.dtype))
