"""What a caller gives as data: a file, a table, windows, or the name of a built-in set."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from timeldm_jax.data import arrays
from timeldm_jax.data import schema as schemas
from timeldm_jax.data import table as tables
from timeldm_jax.data.clock import groups_of
from timeldm_jax.data.large import Large
from timeldm_jax.data.parts import PLACEMENTS
from timeldm_jax.data.schema import Schema
from timeldm_jax.data.series import PROTOCOLS, SPLITS
from timeldm_jax.errors import ConfigError, DataError, Setting, option
from timeldm_jax.settings import COUNT, at_least, check_fields, one_of


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
      path: of a table, .csv or .parquet; or a folder or a glob of such files.
      placement: `replicated` reads a table whole, and every device holds all rows; `sharded` reads
        it whole, and each device holds rows of its own and trains on no others, so that results
        depend on how many devices there are; `streamed` reads a file in batches, and devices are
        sent the windows of each step; `auto` chooses the first or the last by its size.
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
    placement: str = "auto"
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
            placement=one_of(*PLACEMENTS),
            split=one_of(*SPLITS),
            stride=COUNT,
            missing=one_of(*tables.MISSING),
        )


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
Prepared = Table | Large | Windows | None

# Which keys of `config.data` each kind of data reads, beside its window and protocol. Where files
# lie is a matter of the machine, and may stand in any configuration.
_ANYWHERE = {"name", "window", "protocol", "dir", "cache_dir"}
_COLUMNS = {*tables.Options.__dataclass_fields__, "split", "stride", "missing"} - {"decimal"}
_KINDS = {
    "a file": _COLUMNS | {"path", "decimal", "placement"},
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
        if key == "placement" and value != "streamed":  # of whatever is held
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
