"""`TimeLDM`: the pipeline on arrays, for Python users."""

import pathlib
import shutil
import tempfile
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float
from ml_collections import ConfigDict

from timeldm_jax import config as configuration
from timeldm_jax import pipeline
from timeldm_jax.data.load import from_array
from timeldm_jax.training import checkpoint


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
            latent twice the number of features.

        Raises:
          ConfigError: an invalid configuration.
        """
        self._config = config
        self._window = window
        self._workdir: epath.Path | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._generator: pipeline.Generator | None = None
        if config is not None:
            configuration.validate(config)

    def fit(
        self,
        data: Float[np.ndarray, "..."],
        *,
        columns: tuple[str, ...] | None = None,
        workdir: str | None = None,
    ) -> "TimeLDM":
        """Trains both stages.

        Args:
          data: `(rows, features)`, one series in time order, or `(windows, time, features)`.
          columns: names of the features.
          workdir: where checkpoints and metrics go, so that the same call resumes; default: a
            temporary directory.

        Returns:
          This model, trained.

        Raises:
          DataError: data that cannot be used; the message says what and where.
          ConfigError: `workdir` was made with another configuration.
        """
        from timeldm_jax.run import prepare

        array = np.asarray(data)
        config = self._recipe(array)
        dataset = from_array(array, config.data.window, config.data.protocol, columns)
        if workdir is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="timeldm-")
            workdir = self._temporary.name
        self._workdir = epath.Path(pathlib.Path(workdir).absolute())
        prepare(config, self._workdir)
        pipeline.train_vae(config, dataset, self._workdir)
        pipeline.train_ldm(config, dataset, self._workdir)
        self._generator = pipeline.load_generator(self._workdir)
        return self

    def sample(self, count: int, seed: int = 0) -> Float[np.ndarray, "count window feature"]:
        """Synthetic windows `(count, window, features)` float32, in the data's own units.

        Window i depends on (seed, i) alone.

        Raises:
          ValueError: `count` below 1, or a model that is not trained.
        """
        if count < 1:
            raise ValueError(f"count={count} must be at least 1")
        return np.concatenate(list(self._trained().sample(count, seed)))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the features."""
        return self._trained().columns

    def save(self, directory: str) -> None:
        """Saves the model as a directory: JSON and Orbax arrays, no pickle.

        Raises:
          FileExistsError: the directory is not empty.
          ValueError: the model is not trained.
        """
        self._trained()
        assert self._workdir is not None
        target = pathlib.Path(directory)
        if target.exists() and any(target.iterdir()):
            raise FileExistsError(f"{target} is not empty; save to a new directory")
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
        generator = pipeline.load_generator(workdir)
        model = cls(config=generator.config)
        model._workdir = workdir
        model._generator = generator
        return model

    def _recipe(self, array: np.ndarray) -> ConfigDict:
        if self._config is not None:
            config = self._config.copy_and_resolve_references()
        else:
            config = configuration.base()
            config.data.window = self._window
            if array.ndim >= 1:
                config.vae.model.latent = 2 * array.shape[-1]
        config.data.name = "array"
        if array.ndim == 3:
            config.data.window = array.shape[1]
        configuration.validate(config)
        return config

    def _trained(self) -> Any:
        if self._generator is None:
            raise ValueError("the model is not trained: call fit, or TimeLDM.load")
        return self._generator
