"""From a configuration, and the user's data, to the split and scaled series that all else reads.

`take` says what kind of data it is, `prepare` reads it, `cut` splits and scales it.
"""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from timeldm_jax.data import arrays, entities, gaps, reader, rules, start_times
from timeldm_jax.data import context as contexts
from timeldm_jax.data import schema as schemas
from timeldm_jax.data import table as tables
from timeldm_jax.data.clock import groups_of, positions
from timeldm_jax.data.context import Context
from timeldm_jax.data.scaling import Scaler, fit_scaler
from timeldm_jax.data.schema import Schema
from timeldm_jax.data.series import (
    PROTOCOLS,
    SPLITS,
    Missing,
    Series,
    join_trajectories,
    overlaps,
    pad,
    split_series,
    split_windows,
)
from timeldm_jax.errors import ConfigError, DataError, Setting, option
from timeldm_jax.settings import COUNT, at_least, check_fields, one_of

_log = logging.getLogger(__name__)

FEWEST_LEVELS = 1024  # numbers of the dtype of samples that a column's range must at least hold


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which data set, and how it is cut and split; `table.Options` says how a table is read.

    Attributes:
      name: a built-in set, or `table`.
      window: T, time steps of a window.
      protocol: what scores compare with: `paper`, the training windows; `heldout`, blocks that
        are left out; `future`, the last fifth.
      dir: where raw files lie; "": TIMELDM_DATA_DIR, then the cache.
      cache_dir: where prepared data goes; "": TIMELDM_CACHE_DIR, then ~/.cache.
      count: training trajectories of a simulated set.
      path: of a table, .csv or .parquet.
      split: what `heldout` holds out: blocks of `time`, or whole series, `entity`; `auto` takes
        series where no block of time holds a window.
      stride: rows between the starts of training windows.
      missing: missing values in samples: `fill`, or `generate` as in the data.
    """

    name: str = ""
    window: int = 24
    protocol: str = "paper"
    dir: str = ""
    cache_dir: str = ""
    count: int = 10_000
    path: str = ""
    split: str = "time"
    stride: int = 1
    missing: str = "fill"

    def __post_init__(self) -> None:
        """Checks the settings; raises ConfigError."""
        check_fields(
            self,
            window=at_least(2),
            protocol=one_of(*PROTOCOLS),
            count=COUNT,
            split=one_of(*SPLITS),
            stride=COUNT,
            missing=one_of(*tables.MISSING),
        )


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A split series and the scaler of its training part.

    Attributes:
      series: the table in its own units and the windows of each part.
      scaler: fitted on the rows that training windows cover.
      schema: what the columns are, where the data is a table of the user's own.
      steps: of the schema's clock, of each row; None where it has no calendar.
    """

    series: Series
    scaler: Scaler
    schema: Schema | None = None
    steps: Int[np.ndarray, " rows"] | None = None

    def scaled(self) -> Float[np.ndarray, "rows feature"]:
        """The whole table in [0, 1] (training range), float32; NaN where a value is missing."""
        return self.scaler.scale(self.series.values).astype(np.float32)

    def contexts(self, starts: Int[np.ndarray, " n"]) -> Context:
        """What windows can be asked for by, of those that begin at `starts`."""
        assert self.schema is not None
        steps = None if self.steps is None else self.steps[starts]
        rows = self.series.values[starts]
        return contexts.make(self.schema, self.scaler, len(starts), rows=rows, steps=steps)

    @property
    def missing(self) -> Missing | None:
        """Which features have gaps; None where none has."""
        if self.schema is None:
            return None
        layout, flags = schemas.features(self.schema), schemas.flags(self.schema)
        if not flags and not self.schema.padded:
            return None
        values = [p for p, f in enumerate(layout) if f.role != "missing" and f.column in flags]
        return Missing(tuple(values), tuple(flags[layout[p].column] for p in values))


class Table(NamedTuple):
    """A table of the user's own.

    Attributes:
      frame: rows of a series side by side and in order.
      schema: what its columns are.
    """

    frame: pd.DataFrame
    schema: Schema

    def sizes(self) -> tuple[Int[np.ndarray, " series"], int]:
        """Rows of each series, and the number of features."""
        lengths = np.array([len(self.frame)])
        if self.schema.entity:
            lengths = np.bincount(groups_of(self.frame, self.schema.entity))
        return lengths, len(schemas.features(self.schema))


class Windows(NamedTuple):
    """Windows of the user's own, `(n, window, feature)` float64, and names of the features."""

    values: Float[np.ndarray, "n window feature"]
    columns: tuple[str, ...]

    def sizes(self) -> tuple[Int[np.ndarray, " series"], int]:
        """Rows of each window, and the number of features."""
        count, window, features = self.values.shape
        return np.full(count, window), features


Given = str | pd.DataFrame | Windows | None  # a file, a table, windows, or a built-in set's nothing
Prepared = Table | Windows | None

# Which keys of `config.data` each kind of data reads, beside its window and protocol. Where files
# lie is a matter of the machine, and may stand in any configuration.
_ANYWHERE = {"name", "window", "protocol", "dir", "cache_dir"}
_COLUMNS = {*tables.Options.__dataclass_fields__, "split", "stride", "missing"} - {"decimal"}
_KINDS = {
    "a file": _COLUMNS | {"path", "decimal"},
    "a table in memory": _COLUMNS,
    "windows": set(),
    "simulated": {"count"},
    "a public set": set(),
}


def take(
    config: ConfigDict, data: Any = None, columns: Sequence[str] | None = None
) -> tuple[ConfigDict, Given]:
    """The configuration of this data, and the data in one of few forms.

    Args:
      config: as asked for.
      data: as from `reader.accept`: a path, a DataFrame, an array `(rows, features)` or
        `(windows, time, features)`, or several; default: what `config.data` names.
      columns: names of an array's features.

    Raises:
      ConfigError: a budget for a built-in set.
      DataError: a setting that this kind of data does not read; an array of the wrong shape, dtype
        or content, or of other windows than asked for.
    """
    config = config.copy_and_resolve_references()
    given: Given = None
    if data is None:
        kind = _kind_of_set(config.data.name)
        if kind == "a file":
            data = config.data.path
    if isinstance(data, str):
        array = arrays.read_array(data)
        data, config.data.path = (data, config.data.path) if array is None else (array, "")
    if isinstance(data, np.ndarray):
        kind, given = _take_array(config, data, columns)
    elif isinstance(data, arrays.Arrays):
        kind, given = _take_series(config, data, columns)
    elif data is not None:
        if columns is not None:
            raise DataError(
                f"columns={list(columns)} names the features of an array; a table's columns have "
                "names of their own"
            )
        config.data.name = "table"
        kind = "a table in memory" if isinstance(data, pd.DataFrame) else "a file"
        given = data
    _refuse_unread(config, kind)
    return config, given


def _take_array(
    config: ConfigDict, data: np.ndarray, columns: Sequence[str] | None
) -> tuple[str, Given]:
    """One series, or windows; sets what follows in the configuration."""
    values, names = arrays.check_array(data, columns)
    if values.ndim == 2:
        config.data.name = "array"
        return "a table in memory", pd.DataFrame(values, columns=list(names))
    if config.data.window not in (0, values.shape[1]):
        raise DataError(
            f"{option('window', str(config.data.window))} and the windows have "
            f"{values.shape[1]} rows: cut them to that length, or leave the window open"
        )
    config.data.window = values.shape[1]
    if arrays.needs_rows(values):
        return _take_series(config, arrays.Arrays(tuple(values)), names)
    config.data.name = "array"
    return "windows", Windows(values, names)


def _take_series(
    config: ConfigDict, data: arrays.Arrays, columns: Sequence[str] | None
) -> tuple[str, Given]:
    """Series of different lengths or with gaps: a table, held out series by series."""
    frame = arrays.stack(data, columns)
    config.data.name, config.data.entity, config.data.split = "array", schemas.SERIES, "entity"
    return "a table in memory", frame


def _kind_of_set(name: str) -> str:
    if name == "table":
        return "a file"
    from timeldm_jax.data import builders  # here, as a table needs no TFDS

    if name in builders.SIMULATED:
        return "simulated"
    if name in builders.REAL:
        return "a public set"
    known = ", ".join(sorted((*builders.SIMULATED, *builders.REAL, "table")))
    raise DataError(f"{option('name', name)} is not a known set; known: {known}")


def _refuse_unread(config: ConfigDict, kind: str) -> None:
    """Raises where a setting would do nothing: it is used, or refused by name."""
    defaults = dataclasses.asdict(DataConfig()) | dataclasses.asdict(tables.Options())
    for key, value in config.data.items():
        # 0 and "auto" were left open, in a configuration of any table.
        if key in _ANYWHERE | _KINDS[kind] or value in (defaults[key], 0, "auto", "."):
            continue
        setting = option(cast(Setting, key), str(value))
        raise DataError(
            f"{setting} is not read for {kind} ({config.data.name}); leave it out, or at "
            f"{defaults[key]!r}"
        )
    if config.budget and kind in ("simulated", "a public set"):
        raise ConfigError(
            f"config.budget={config.budget!r} is not read for {kind} ({config.data.name}), whose "
            "recipe has its steps: set config.vae.steps and config.ldm.steps"
        )


def prepare(given: Given, config: ConfigDict) -> Prepared:
    """What `take` gave, read; None for a built-in set, which is prepared once and cached.

    Raises:
      DataError: a file that is no table, columns that cannot be learnt, or rows out of order.
    """
    if given is None or isinstance(given, Windows):
        return given
    options = table_options(config)
    frame, where = reader.read(given, options.decimal)
    frame = gaps.mark_missing(frame, where, options.na_values)
    return Table(*tables.prepare(frame, where, options))


def cut(prepared: Prepared, config: ConfigDict) -> Dataset:
    """The data set of a configuration with nothing left open.

    Raises:
      DataError: files missing or damaged, too few rows, or a column without variation.
    """
    if isinstance(prepared, Table):
        return from_table(prepared.frame, prepared.schema, config)
    if isinstance(prepared, Windows):
        return from_windows(prepared.values, prepared.columns, config.data.protocol)
    return _built_in(config)


def load_dataset(config: ConfigDict) -> Dataset:
    """The data set that `config.data` names, where the configuration leaves nothing open.

    Raises:
      ConfigError: as `take`.
      DataError: as `prepare` and `cut`.
    """
    config, given = take(config)
    return cut(prepare(given, config), config)


def _built_in(config: ConfigDict) -> Dataset:
    from timeldm_jax.data import builders  # here, as a table needs no TFDS

    data = config.data
    cache_dir = data.cache_dir or None
    if data.name in builders.SIMULATED:
        drawn = builders.load_trajectories(
            data.name,
            window=data.window,
            count=data.count,
            test_count=data.count,
            valid_count=max(data.count // 10, 1),
            cache_dir=cache_dir,
        )
        return make_dataset(
            join_trajectories(drawn.train, drawn.valid, drawn.test, drawn.columns, data.protocol)
        )
    table = builders.load_table(data.name, data_dir=data.dir or None, cache_dir=cache_dir)
    return make_dataset(split_series(table.values, table.columns, data.window, data.protocol))


def table_options(config: ConfigDict) -> tables.Options:
    """How the table of `config.data` is read."""
    names = [field.name for field in dataclasses.fields(tables.Options)]
    return tables.Options(**{name: config.data[name] for name in names})


def from_table(frame: pd.DataFrame, schema: Schema, config: ConfigDict) -> Dataset:
    """The data set of a user's table, from `tables.prepare`.

    Series shorter than the window are padded, and a feature says where they end.

    Raises:
      DataError: too few rows, or a column that is constant where it is trained on.
    """
    data = config.data
    groups = groups_of(frame, schema.entity)
    place, there = pad(groups, data.window if schema.entity else 0)
    schema = dataclasses.replace(schema, padded=not there.all())
    # Split before anything is learnt of the values: all that is needed are the rows' numbers.
    numbers = np.where(there, place, np.nan)[:, None]
    clock = positions(frame, schema.clock, schema.entity, "the table")
    by = data.split
    if data.entity_names == "real":
        entities.check_split(by)
        by = "time"
    series = split_series(
        numbers,
        ("row",),
        data.window,
        data.protocol,
        groups=groups[place],
        clock=clock[place] if schema.entity else None,
        by=by,
        stride=data.stride,
    )
    seen = series.training_rows()[:, 0]
    overrides = schemas.read_overrides(data.schema).get("columns", {}) if data.schema else {}
    schema = tables.relearn(frame.iloc[seen[np.isfinite(seen)].astype(int)], schema, overrides)
    for line in schema.describe():
        _log.info("  %s", line)
    values = tables.encode(frame, schema).values[place]
    if schema.padded:
        values[~there, :-1], values[~there, -1] = np.nan, 0.0
    layout = schemas.features(schema)
    names = tuple(feature.name for feature in layout)
    series = dataclasses.replace(series, values=values, columns=names)
    chosen = start_times.few(series.train, data.window * values.shape[1])
    steps = clock[place]
    starts = start_times.learn(series.windows(chosen), steps[chosen], schema.clock)
    if starts is not None:
        leads = config.ldm.model.context != 0 and bool(starts.cycles)
        starts = dataclasses.replace(starts, leads=leads)
    schema = dataclasses.replace(schema, starts=starts)
    # Samples of a table stay float64; those of an array are given out as float32.
    kept = np.float32 if data.name == "array" else np.float64
    found = make_dataset(
        series, tuple(feature.scaling for feature in layout), schema, kept, rounded=True
    )
    if starts is None or schema.clock is None:
        return found
    return dataclasses.replace(found, steps=start_times.counted(steps, schema.clock))


def from_windows(
    windows: Float[np.ndarray, "n window feature"], names: tuple[str, ...], protocol: str
) -> Dataset:
    """The data set of a user's own windows.

    A tenth of them validates, and under `heldout` a fifth tests; see `split_windows`.

    Args:
      windows: from `arrays.check_array`.
      names: of the features.
      protocol: `paper` or `heldout`.

    Raises:
      DataError: a constant column, or too few windows.
    """
    places = overlaps(windows)
    if protocol == "heldout":
        train_part, test_part, valid_part = split_windows(len(windows), windows.shape[1], places)
    else:
        train_part = np.random.default_rng(0).permutation(len(windows))
        test_part, valid_part = train_part[:0], train_part[: len(windows) // 10]
    if min(len(valid_part), len(train_part)) == 0:
        raise DataError(f"{len(windows)} windows are too few; at least 10 are needed")
    if places is not None:
        places = places[np.concatenate([train_part, valid_part, test_part])]
    train, valid, test = (windows[part] for part in (train_part, valid_part, test_part))
    series = join_trajectories(train, valid, test, names, protocol, places)
    return make_dataset(series, rounded=True)


def make_dataset(
    series: Series,
    scalings: tuple[str, ...] = (),
    schema: Schema | None = None,
    kept: type = np.float32,
    *,
    rounded: bool = False,
) -> Dataset:
    """Adds the scaler, fitted on the training part only.

    Args:
      series: in its own units.
      scalings: of the features; default: from the smallest to the largest.
      schema: of a table.
      kept: dtype of samples.
      rounded: as of `fit_scaler`, for data that is somebody's own.

    Raises:
      DataError: a column that is constant there, or too fine for the dtype of samples.
    """
    rows = series.training_rows()
    links = () if schema is None else rules.links(schema)
    scaler = fit_scaler(rows, series.columns, scalings, rounded=rounded, links=links)
    if schema is None:
        scaler = scaler.on_grids(rows)
    low, high = np.nanmin(rows, axis=0), np.nanmax(rows, axis=0)
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32: NaN, which is not fine
        grain = np.spacing(np.maximum(abs(low), abs(high)).astype(kept))
    coarse = np.flatnonzero((high != low) & ~(grain < (high - low) / FEWEST_LEVELS))
    if coarse.size:
        i = int(coarse[0])
        raise DataError(
            f"column {series.columns[i]!r} runs from {low[i]:.9g} to {high[i]:.9g}: samples are "
            f"{np.dtype(kept)}, whose steps there are {grain[i]:.2g}; subtract an offset, or "
            "change the unit"
        )
    return Dataset(series, scaler, schema)
