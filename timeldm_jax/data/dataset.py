"""From a configuration, and the user's data, to the split and scaled series that all else reads.

`take` says what kind of data it is, `prepare` reads it, `cut` splits and scales it.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Callable

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from timeldm_jax.data import (
    batched,
    entities,
    gaps,
    large,
    reader,
    relations,
    rules,
    runs,
    start_times,
    stored,
)
from timeldm_jax.data import context as contexts
from timeldm_jax.data import schema as schemas
from timeldm_jax.data import table as tables
from timeldm_jax.data.cache import default_cache_dir
from timeldm_jax.data.clock import Clock, groups_of, positions
from timeldm_jax.data.context import Context
from timeldm_jax.data.given import Given, Prepared, Table, Windows, take
from timeldm_jax.data.large import Large
from timeldm_jax.data.runs import Runs
from timeldm_jax.data.scaling import Scaler, check_grain, fit_scaler
from timeldm_jax.data.schema import Schema
from timeldm_jax.data.series import (
    DeviceWindows,
    Missing,
    Series,
    join_trajectories,
    overlaps,
    pad,
    split_series,
    split_windows,
)
from timeldm_jax.data.stored import Stored
from timeldm_jax.errors import DataError

_log = logging.getLogger(__name__)

MOST_SCORED = 20_000  # test windows of a table larger than memory


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
    steps: Int[np.ndarray, " rows"] | Runs | None = None

    @property
    def is_stored(self) -> bool:
        """Whether rows are in a file (`data.stored`), and too many to be held."""
        return isinstance(self.series.values, Stored)

    def scaled(self) -> Float[np.ndarray, "rows feature"]:
        """The whole table in [0, 1] (training range), float32; NaN where a value is missing."""
        assert not isinstance(self.series.values, Stored)
        return self.scaler.scale(self.series.values).astype(np.float32)

    def some_scaled(
        self, starts: Int[np.ndarray, "*lead"]
    ) -> Float[np.ndarray, "*lead window feature"]:
        """Windows of `scaled`."""
        places = starts[..., None] + np.arange(self.series.window)
        values = self.series.values
        if isinstance(values, Stored):
            return values.scaled(places)
        return self.scaler.scale(values[places]).astype(np.float32)

    def for_devices(
        self, *, whole: bool = True
    ) -> Callable[[Int[np.ndarray, " n"]], DeviceWindows]:
        """From starts to windows for the devices.

        Args:
          whole: with all rows; of a file, and without it, with those of the windows.
        """
        if whole and not self.is_stored:
            scaled = self.scaled()
            return lambda starts: DeviceWindows(scaled, starts)

        def of_some(starts: Int[np.ndarray, " n"]) -> DeviceWindows:
            windows = self.some_scaled(starts)
            own = np.arange(len(starts), dtype=np.int32) * self.series.window
            return DeviceWindows(windows.reshape(-1, windows.shape[2]), own)

        return of_some

    def contexts(self, starts: Int[np.ndarray, " n"] | Runs) -> Context:
        """What windows can be asked for by, of those that begin at `starts`."""
        assert self.schema is not None
        starts = np.asarray(starts[:])
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


def prepare(given: Given, config: ConfigDict) -> Prepared:
    """What `take` gave, read; None for a built-in set, which is prepared once and cached.

    Raises:
      DataError: a file that is no table, columns that cannot be learnt, or rows out of order.
    """
    if given is None or isinstance(given, Windows):
        return given
    options = table_options(config)
    files = None
    if not isinstance(given, pd.DataFrame):
        files = batched.large(given, config.data.placement, _cache(config), options)
    if files is not None:
        return large.prepare(files, options)
    frame, where = reader.read(given, options.decimal)
    frame = gaps.mark_missing(frame, where, options.na_values)
    return Table(*tables.prepare(frame, where, options))


def cut(prepared: Prepared, config: ConfigDict, *, store: bool = True) -> Dataset:
    """The data set of a configuration with nothing left open.

    Args:
      prepared: from `prepare`.
      config: with nothing left open.
      store: whether rows of a table larger than memory are written to its file; without them the
        data set says how many windows there are, and no more.

    Raises:
      DataError: files missing or damaged, too few rows, or a column without variation.
    """
    if isinstance(prepared, Table):
        return from_table(prepared.frame, prepared.schema, config)
    if isinstance(prepared, Large):
        return from_large(prepared, config, store=store)
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
    counted = _counted(clock[place], schema.clock)
    schema = _with_starts(schema, series, counted, config)
    # Samples of a table stay float64; those of an array are given out as float32.
    kept = np.float32 if data.name == "array" else np.float64
    found = make_dataset(
        series, tuple(feature.scaling for feature in layout), schema, kept, rounded=True
    )
    return dataclasses.replace(found, steps=counted)


def from_large(prepared: Large, config: ConfigDict, *, store: bool = True) -> Dataset:
    """The data set of a table larger than memory, its rows in a file of the cache.

    Raises:
      DataError: too few rows, or a column that is constant where it is trained on; or the cache
        cannot be written.
    """
    data = config.data
    windows, schema, scaler = large.plan(prepared, config)
    names = tuple(feature.name for feature in schemas.features(schema))
    test = runs.evenly(windows.test, MOST_SCORED)
    nothing = np.zeros((0, len(names)))
    series = Series(nothing, names, data.window, windows.train, windows.valid, test)
    if not store:
        return Dataset(series, scaler, schema)
    key = large.key(prepared, schema, scaler)
    rows = large.encoded(prepared, schema)
    values = stored.store(_cache(config), key, rows, prepared.files.rows, scaler, schema)
    series = dataclasses.replace(series, values=values, position=prepared.layout.position())
    steps = prepared.layout.steps() if _has_calendar(schema.clock) else None
    return Dataset(series, scaler, _with_starts(schema, series, steps, config), steps)


def _cache(config: ConfigDict) -> pathlib.Path:
    named = config.data.cache_dir
    return pathlib.Path(named) if named else default_cache_dir()


def _has_calendar(clock: Clock | None) -> bool:
    return clock is not None and not isinstance(clock.start, float)


def _counted(
    steps: Float[np.ndarray, " rows"], clock: Clock | None
) -> Int[np.ndarray, " rows"] | None:
    """Whole steps of each row of a clock with a calendar; None of another."""
    if clock is None or not _has_calendar(clock):
        return None
    return start_times.counted(steps, clock)


def _with_starts(
    schema: Schema,
    series: Series,
    steps: Int[np.ndarray, " rows"] | Runs | None,
    config: ConfigDict,
) -> Schema:
    """The schema with what training windows say of the times at which they begin."""
    if steps is None or schema.clock is None:
        return dataclasses.replace(schema, starts=None)
    chosen = start_times.few(series.train, config.data.window * len(series.columns))
    starts = start_times.learn(series.windows(chosen), steps[chosen], schema.clock)
    leads = config.ldm.model.context != 0 and bool(starts.cycles)
    return dataclasses.replace(schema, starts=dataclasses.replace(starts, leads=leads))


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
    links += relations.copies(rows, schema, links)
    scaler = fit_scaler(rows, series.columns, scalings, rounded=rounded, links=links)
    if schema is None:
        scaler = scaler.on_grids(rows)
    check_grain(rows, series.columns, kept)
    return Dataset(series, scaler, schema)
