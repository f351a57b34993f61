"""The six benchmark sets as TFDS data sets, prepared once and read from a cache.

A public file becomes one example that holds the whole table, in row order; a simulated set becomes
one example a trajectory, in the order drawn. The file format is array_record, the one that TFDS
reads and writes without TensorFlow; its blocks carry checksums, so damage is seen on reading.

The name of a cached configuration holds all that its content depends on: the hash of the source
file, or the window and the counts. A change of a simulator or of a seed needs a new `VERSION`.
"""

import contextlib
import dataclasses
import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from filelock import FileLock
from jaxtyping import Float

from timeldm_jax.data import simulators, sources
from timeldm_jax.data.cache import CACHE_DIR_VARIABLE, default_cache_dir
from timeldm_jax.errors import DataError, option

REAL = ("stocks", "etth", "fmri", "energy")
SIMULATED = ("sines", "mujoco")

COLUMNS = {"sines": simulators.SINES_COLUMNS, "mujoco": simulators.HOPPER_COLUMNS}
SIMULATORS = {"sines": simulators.simulate_sines, "mujoco": simulators.simulate_hopper}
# Seed 123 gives the published hopper set; the others need only differ from it.
SEEDS = {"train": 123, "valid": 124, "test": 125}

Examples = Iterator[tuple[int, dict[str, np.ndarray]]]


@dataclasses.dataclass(frozen=True)
class Table:
    """One long series.

    Attributes:
      values: `(rows, features)` float64, in the data's own units.
      columns: names of the features.
    """

    values: Float[np.ndarray, "rows feature"]
    columns: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Trajectories:
    """A simulated set: independent series of one length, in three fresh draws.

    Attributes:
      train: `(count, window, features)` float64.
      valid: `(valid_count, window, features)` float64.
      test: `(test_count, window, features)` float64.
      columns: names of the features.
    """

    train: Float[np.ndarray, "n window feature"]
    valid: Float[np.ndarray, "v window feature"]
    test: Float[np.ndarray, "t window feature"]
    columns: tuple[str, ...]


def load_table(name: str, *, data_dir: str | None, cache_dir: str | None) -> Table:
    """A public series, prepared on first use.

    Args:
      name: one of `REAL`.
      data_dir: folder with the user's own copies of the files; None for that of
        `TIMELDM_DATA_DIR`, if set, and else downloads.
      cache_dir: None for `default_cache_dir()`.

    Raises:
      DataError: unknown name; the file cannot be had or is not the known one; the cache cannot
        be written or is damaged.
    """
    _check_name(name, REAL)
    spec = sources.FILES[name]
    cache = Path(cache_dir) if cache_dir else default_cache_dir()
    downloads = cache / "downloads"
    # A local file is verified each time, prepared or not: one that was changed is an error and
    # not silently passed over for the cached copy.
    path = sources.local_file(spec, data_dir, downloads)
    config = TableConfig(name=f"{name}-{spec.sha256[:12]}", spec=spec, path=path)
    if path is None and not _folder(TimeldmTable, cache, config).exists():
        config.path = sources.find_file(spec, data_dir, downloads)
    _prepare(TimeldmTable, cache, config, f"{name}: {spec.rows:,} rows of {config.path}")
    values = _read(TimeldmTable, cache, config, {"series": 1})["series"][0]
    return Table(values, spec.columns)


def load_trajectories(
    name: str,
    *,
    window: int,
    count: int = 10_000,
    test_count: int = 10_000,
    valid_count: int = 1_000,
    cache_dir: str | None = None,
) -> Trajectories:
    """A simulated set, drawn on first use.

    Args:
      name: one of `SIMULATED`.
      window: time steps of a trajectory, at least 2.
      count: training trajectories.
      test_count: trajectories to score against.
      valid_count: trajectories that choose the best weights.
      cache_dir: None for `default_cache_dir()`.

    Raises:
      DataError: unknown name; a window or count too small; mujoco is not installed; the cache
        cannot be written or is damaged.
    """
    _check_name(name, SIMULATED)
    counts = {"train": count, "valid": valid_count, "test": test_count}
    if window < 2 or min(counts.values()) < 1:
        raise DataError(
            f"data set {name!r} was asked for with windows of {window} steps and counts "
            f"{counts}; a window needs 2 steps or more, and each count must be 1 or more"
        )
    cache = Path(cache_dir) if cache_dir else default_cache_dir()
    config = TrajectoryConfig(
        name=f"{name}-w{window}-n{count}-v{valid_count}-t{test_count}",
        source=name,
        window=window,
        counts=counts,
    )
    what = f"{name}: {sum(counts.values()):,} trajectories of {window} steps"
    _prepare(TimeldmTrajectories, cache, config, what)
    splits = _read(TimeldmTrajectories, cache, config, counts)
    return Trajectories(**splits, columns=COLUMNS[name])


# The TFDS builders.


@dataclasses.dataclass(eq=False)
class TableConfig(tfds.core.BuilderConfig):
    """A public series: what it must be, and the verified file (needed only to prepare it)."""

    spec: sources.FileSpec | None = None
    path: Path | None = None


@dataclasses.dataclass(eq=False)
class TrajectoryConfig(tfds.core.BuilderConfig):
    """A simulated set: its simulator, the window, and the trajectories of each split."""

    source: str = ""
    window: int = 0
    counts: dict[str, int] = dataclasses.field(default_factory=dict)


class TimeldmTable(tfds.core.GeneratorBasedBuilder):
    """A long series: split `series`, one example `values` `(rows, features)` float64."""

    # TFDS 4.9.10 looks for checksum files beside the module that defines a builder, and needs
    # importlib_resources for it, which it does not declare. There are none: skip the search.
    code_path = None
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return _describe(self, (None, len(self.builder_config.spec.columns)))

    def _split_generators(self, dl_manager: Any) -> dict[str, Examples]:
        return {"series": self._generate_examples()}

    def _generate_examples(self) -> Examples:
        config = self.builder_config
        yield 0, {"values": sources.read_file(config.spec, config.path)}


class TimeldmTrajectories(tfds.core.GeneratorBasedBuilder):
    """Simulated series: splits of one example `values` `(window, features)` a trajectory."""

    code_path = None  # as in TimeldmTable
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        return _describe(self, (config.window, len(COLUMNS[config.source])))

    def _split_generators(self, dl_manager: Any) -> dict[str, Examples]:
        return {
            split: self._generate_examples(count, SEEDS[split])
            for split, count in self.builder_config.counts.items()
        }

    def _generate_examples(self, count: int, seed: int) -> Examples:
        simulate = SIMULATORS[self.builder_config.source]
        for index, values in enumerate(simulate(count, self.builder_config.window, seed)):
            yield index, {"values": values}


def _describe(builder: Any, shape: tuple[int | None, ...]) -> tfds.core.DatasetInfo:
    """Examples of one float64 array, in the order of their integer keys."""
    # Raw bytes: the default encoding of a float64 is a list of float32, which loses digits.
    values = tfds.features.Tensor(shape=shape, dtype=np.float64, encoding="bytes")
    return tfds.core.DatasetInfo(
        builder=builder,
        features=tfds.features.FeaturesDict({"values": values}),
        disable_shuffling=True,
    )


# Preparing and reading.


def _folder(builder: Any, cache: Path, config: tfds.core.BuilderConfig) -> Path:
    """Where TFDS keeps a configuration. It has this name only once it is complete."""
    return cache / builder.name / config.name / str(builder.VERSION)


def _open(builder: Any, cache: Path, config: tfds.core.BuilderConfig) -> Any:
    return builder(data_dir=str(cache), config=config, file_format="array_record")


def _prepare(builder: Any, cache: Path, config: tfds.core.BuilderConfig, what: str) -> None:
    """Writes a configuration into the cache, unless it is there.

    TFDS writes into a folder of another name and renames it at the end, so a killed process leaves
    nothing that looks complete.

    Raises:
      DataError: the cache cannot be written, or the source data is at fault.
    """
    folder = _folder(builder, cache, config)
    if folder.exists():  # without the lock: a prepared cache may be read-only
        return
    try:
        with _lock(cache, config.name):
            if folder.exists():  # another process was first
                return
            print(f"preparing {what} (once, into {cache})", file=sys.stderr, flush=True)
            # What a killed process left; no one else is writing, since we hold the lock.
            for leftover in folder.parent.glob("incomplete.*"):
                shutil.rmtree(leftover, ignore_errors=True)
            with _quiet():
                _open(builder, cache, config).download_and_prepare(
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
                )
    except OSError as e:
        raise DataError(
            f"cannot write prepared data to {cache}: {e}; name another folder with "
            f"{option('cache_dir')} or {CACHE_DIR_VARIABLE}"
        ) from e


def _read(
    builder: Any, cache: Path, config: tfds.core.BuilderConfig, counts: dict[str, int]
) -> dict[str, np.ndarray]:
    """Every split of a prepared configuration, `(examples, ...)` float64.

    Raises:
      DataError: the cached files are damaged, or hold another number of examples than `counts`.
    """
    splits = {}
    try:
        with _quiet():
            opened = _open(builder, cache, config)
            for split, count in counts.items():
                examples = opened.as_data_source(split).__getitems__(range(count))
                splits[split] = np.stack([example["values"] for example in examples])
    except Exception as e:  # of many kinds: RuntimeError, ValueError, ParseError, KeyError, ...
        raise DataError(
            f"the prepared data in {_folder(builder, cache, config)} is damaged "
            f"({type(e).__name__}: {e}); delete that folder, and it is prepared again"
        ) from e
    return splits


@contextlib.contextmanager
def _lock(cache: Path, name: str) -> Iterator[None]:
    """Keeps other processes of this machine from preparing `name` at the same time.

    TFDS alone is not enough: the second of two would fail on the rename. The kernel frees the lock
    of a killed process.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{name}.lock"):
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS's progress bars, prints and log lines."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def _check_name(name: str, known: tuple[str, ...]) -> None:
    """Raises DataError unless `name` is in `known`."""
    if name not in known:
        raise DataError(f"there is no data set {name!r} here; there are {', '.join(known)}")
