"""`TimeLDM`: the pipeline on arrays, for Python users."""

import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from etils import epath
from jaxtyping import Float
from ml_collections import ConfigDict

from timeldm_jax import config as configuration
from timeldm_jax import evaluate, pipeline
from timeldm_jax import run as runs
from timeldm_jax.data.load import Dataset, check_array, from_array
from timeldm_jax.data.sources import DataError
from timeldm_jax.metrics import suite
from timeldm_jax.training import checkpoint
from timeldm_jax.training.checkpoint import CheckpointError


class TimeLDM:
    """Learns windows of a multivariate series and samples new ones, in the data's own units.

    model = TimeLDM(window=24).fit(array)
    synthetic = model.sample(1000, seed=0)
    model.save("mine"); TimeLDM.load("mine")
    """

    def __init__(self, window: int = 24, *, config: ConfigDict | None = None) -> None:
        """A model that is not trained yet.

        Args:
          window: time steps of a window; ignored if a config is given.
          config: the whole recipe, from `timeldm_jax.config`; default: the base recipe with the
            latent twice the number of features, as far as the denoiser is wider than the
            flattened latent.

        Raises:
          ConfigError: an invalid configuration.
        """
        self._config = config
        self._window = window
        self._workdir: epath.Path | None = None
        self._generator: pipeline.Generator | None = None
        self._dataset: Dataset | None = None
        if config is not None:
            configuration.validate(config)

    def fit(
        self,
        data: Float[np.ndarray, "..."] | pd.DataFrame,
        *,
        columns: Sequence[str] | None = None,
        workdir: str | None = None,
    ) -> "TimeLDM":
        """Trains both stages.

        Args:
          data: `(rows, features)`, one series in time order, or `(windows, time, features)`. A
            DataFrame is the former.
          columns: names of the features; default: those of a DataFrame, or `feature_0`, ….
          workdir: where checkpoints and metrics go, so that the same call resumes; default: a
            temporary directory, deleted with the model.

        Returns:
          This model, trained.

        Raises:
          DataError: data that cannot be used; the message says what and where.
          ConfigError: `workdir` was made with another configuration.
        """
        if isinstance(data, pd.DataFrame):
            data, columns = _from_frame(data, columns)
        array, names = check_array(data, columns)
        config = self._recipe(array)
        dataset = from_array(array, config.data.window, config.data.protocol, names)
        if workdir is None:
            workdir = tempfile.mkdtemp(prefix="timeldm-")
            weakref.finalize(self, shutil.rmtree, workdir, ignore_errors=True)
        path = epath.Path(pathlib.Path(workdir).absolute())
        runs.claim(config, path)
        pipeline.train_vae(config, dataset, path)
        pipeline.train_ldm(config, dataset, path)
        self._generator = pipeline.load_generator(path)
        self._workdir = path
        self._dataset = dataset
        return self

    def sample(self, count: int, seed: int = 0) -> Float[np.ndarray, "count window feature"]:
        """Synthetic windows `(count, window, features)` float32, in the data's own units.

        Window i depends on (seed, i) alone.

        Raises:
          ValueError: `count` below 1, or a model that is not trained.
        """
        if count < 1:
            raise ValueError(f"count={count} must be at least 1")
        return np.concatenate([w.astype(np.float32) for w in self._trained().sample(count, seed)])

    def evaluate(
        self,
        real: Float[np.ndarray, "n window feature"] | None = None,
        *,
        count: int | None = None,
        seed: int = 0,
    ) -> dict[str, Any]:
        """All scores of fresh samples, as in `scores.json`.

        Args:
          real: windows to score against, `(n, window, features)` in the data's own units, taken for
            what the model was trained on. Default: the test windows of what was fitted, which a
            model that was loaded does not have.
          count: how many samples; default: as many as real windows, at most 10,000.
          seed: of the samples and the evaluators.

        Raises:
          DataError: windows that cannot be compared.
          ValueError: a model that is not trained, or a loaded one and no `real`.
        """
        return self._score(real, count, seed)[0]

    def report(
        self,
        path: str,
        real: Float[np.ndarray, "n window feature"] | None = None,
        *,
        count: int | None = None,
        seed: int = 0,
    ) -> None:
        """Scores fresh samples and writes an HTML page that opens offline, and PNGs beside it.

        Args:
          path: of the page; figures go to a folder of its name.
          real: as for `evaluate`.
          count: as for `evaluate`.
          seed: as for `evaluate`.

        Raises:
          DataError: windows that cannot be compared.
          ValueError: a model that is not trained, or a loaded one and no `real`.
        """
        from timeldm_jax.report.page import write_report  # plotting takes seconds to import

        scores, windows, synthetic, training = self._score(real, count, seed)
        generator = self._trained()
        target = epath.Path(pathlib.Path(path).absolute())
        target.parent.mkdir(parents=True, exist_ok=True)
        assert self._workdir is not None
        write_report(
            target,
            scores,
            windows,
            synthetic,
            generator.columns,
            training=training,
            records=runs.read_metrics(self._workdir),
            config=generator.config.to_dict(),
            seed=seed,
        )

    def _score(
        self, real: np.ndarray | None, count: int | None, seed: int
    ) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray]:
        """Scores, and the real, synthetic and training windows that they are of."""
        generator = self._trained()
        if real is None and self._dataset is None:
            raise ValueError("a loaded model has no data: give `real`, (windows, time, features)")
        if real is not None:
            real = np.asarray(real, np.float64)
            synthetic = self.sample(count or min(len(real), 10_000), seed)
            scores = evaluate.evaluate(
                real,
                synthetic,
                generator.columns,
                seed=seed,
                evaluators=suite.Evaluators(**generator.config.evaluate),
            )
            return scores, real, synthetic, real
        assert self._dataset is not None
        series = self._dataset.series
        synthetic = self.sample(count or min(len(series.test), 10_000), seed)
        scores = runs.evaluate_samples(generator.config, self._dataset, synthetic, seed)
        return scores, series.windows(series.test), synthetic, series.windows(series.train)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the features."""
        return self._trained().columns

    def save(self, directory: str) -> None:
        """Saves the model as a directory: JSON and Orbax arrays, no pickle.

        Raises:
          FileExistsError: the directory is not empty, or a file.
          ValueError: the model is not trained.
        """
        self._trained()
        assert self._workdir is not None
        target = pathlib.Path(directory)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise FileExistsError(f"{target} is not an empty directory; save to a new one")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.tmp")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        shutil.copy(self._workdir / "config.json", partial)
        for stage in ("vae", "ldm"):
            best = checkpoint.best_step(self._workdir / stage)
            shutil.copytree(self._workdir / stage / str(best), partial / stage / str(best))
        if target.exists():
            target.rmdir()
        partial.replace(target)

    @classmethod
    def load(cls, directory: str) -> "TimeLDM":
        """Opens a saved model, or the work directory of a run.

        Raises:
          CheckpointError: nothing there, or damaged; the message names the file.
        """
        workdir = epath.Path(pathlib.Path(directory).absolute())
        try:
            config = pipeline.read_config(workdir)
        except ValueError as error:
            raise CheckpointError(f"{workdir / 'config.json'} is damaged: {error}") from error
        for stage in ("vae", "ldm"):
            checkpoint.best_step(workdir / stage)  # its error names a damaged file
        generator = pipeline.load_generator(workdir)
        # Checksums vouch for the configuration beside the weights, not for this file.
        changed = configuration.difference(generator.meta["config"], config.to_dict())
        if changed:
            raise CheckpointError(
                f"{workdir / 'config.json'} is not what was trained: {'; '.join(changed)}"
            )
        model = cls(config=generator.config)
        model._workdir = workdir
        model._generator = generator
        return model

    def _recipe(self, array: np.ndarray) -> ConfigDict:
        if self._config is not None:
            config = self._config.copy_and_resolve_references()
        else:
            config = configuration.base()
            config.data.window = array.shape[1] if array.ndim == 3 else self._window
            widest = config.ldm.model.hidden // max(config.data.window, 1)
            config.vae.model.latent = min(2 * array.shape[-1], max(widest, 4))
        config.data.name = "array"
        if array.ndim == 3:
            config.data.window = array.shape[1]
        configuration.validate(config)
        return config

    def _trained(self) -> pipeline.Generator:
        if self._generator is None:
            raise ValueError("the model is not trained: call fit, or TimeLDM.load")
        return self._generator


def _from_frame(
    frame: pd.DataFrame, columns: Sequence[str] | None
) -> tuple[Float[np.ndarray, "rows feature"], Sequence[str]]:
    """The values of a DataFrame `(rows, features)`, and its column names unless others are given.

    Raises:
      DataError: a column that does not hold real numbers.
    """
    for name, kind in frame.dtypes.items():
        if kind.kind not in "fiu":
            raise DataError(f"column {name!r} has dtype {kind}; expected real numbers")
    names = [str(name) for name in frame.columns] if columns is None else columns
    return frame.to_numpy(np.float64, na_value=np.nan), names
