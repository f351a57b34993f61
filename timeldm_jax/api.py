"""`TimeLDM`: both stages on tables and arrays, for Python users."""

import contextlib
import copy
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from timeldm_jax import config as configuration
from timeldm_jax import convert, experiment, extension, model_folder, results
from timeldm_jax import forecast as forecasts
from timeldm_jax.data import frames, reader
from timeldm_jax.data.dataset import Dataset
from timeldm_jax.data.reader import Source
from timeldm_jax.describe import Description, OfClassToo, describe
from timeldm_jax.errors import ConfigError, DataError, whole, whole_seed
from timeldm_jax.generator import Generator
from timeldm_jax.loading import load_generator
from timeldm_jax.metrics import evaluation, seams
from timeldm_jax.training import loop
from timeldm_jax.workdir import TemporaryFolder, Workdir, absolute, told_where, write_json


class TimeLDM:
    """Learns a table or an array of series and samples new ones, in the data's own units.

    model = TimeLDM(window=48).fit("my.csv")
    synthetic = model.sample(1000, seed=0)
    model.save("mine.timeldm"); TimeLDM.load("mine.timeldm")
    """

    def __init__(
        self,
        window: int | None = None,
        *,
        budget: str | None = None,
        config: ConfigDict | None = None,
    ) -> None:
        """A model that is not trained yet.

        Args:
          window: time steps of a window; default: chosen from the data.
          budget: time that training and later scores may take, such as `90s` or `1h`; default
            `10m`. Sizes and steps follow from it and the data (`timeldm_jax.recipe`).
          config: the whole recipe instead, from `timeldm_jax.config`, which has keys for both.

        Raises:
          ConfigError: an invalid configuration, or one beside a window or budget.
          TypeError: `window` is no whole number.
        """
        if config is None:
            config = configuration.base()
            configuration.apply_table(config)
            if budget is not None:
                config.budget = budget
            if window is not None:
                config.data.window = whole("window", window, least=None)
                configuration.check_window(config.data.window)
        else:
            for name, value in {"window": window, "budget": budget}.items():
                key = "data.window" if name == "window" else name
                if value is not None:
                    raise ConfigError(
                        f"{name}={value!r} beside a config: set config.{key} in the config instead"
                    )
        configuration.validate(config)
        self._config = config
        self._workdir: Workdir | None = None
        self._generator: Generator | None = None
        self._dataset: Dataset | None = None
        self._scores: dict[str, Any] | None = None  # of a loaded model
        self._temporary: TemporaryFolder | None = None
        self._kind = frames.PANDAS  # of tables that samples are

    # Wide: keyword settings of the user.
    def fit(
        self,
        data: Source,
        *,
        columns: Sequence[str] | None = None,
        time: str | None = None,
        entity: str | Sequence[str] | None = None,
        schema: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        irregular: str | None = None,
        decimal: str | None = None,
        na_values: Any = None,
        workdir: str | None = None,
        **more: Any,
    ) -> "TimeLDM":
        """Trains both stages.

        `time` to `na_values` are settings of `config.data`: what is given here counts, what is not
        stays as the model's configuration has it, and what the data has no use for is refused.

        Args:
          data: a file, a DataFrame, an array `(rows, features)` in time order or one of windows
            `(windows, time, features)`, or what `data.reader.accept` takes for one of these.
          columns: names of an array's features; default: `feature_0`, ….
          time: the time column; default: looked for.
          entity: the column, or columns, that say whose a row is; default: one series.
          schema: overrides what is inferred of columns, JSON or its file; see `data.schema`.
          irregular: what to do with times out of order or uneven; see `data.table.Options`.
          decimal: the decimal point of a CSV file.
          na_values: a value, or a list of them, that stands for a missing one; or such by column.
          workdir: of checkpoints and metrics, so that the same call resumes; default: a temporary
            one, deleted with the model.
          **more: all else of `data.table.Options`; `split`, `stride`, `protocol`, `missing` of
            `data.dataset.DataConfig`.

        Returns:
          This model, trained.

        Raises:
          DataError: data that cannot be used; the message says what and where.
          ConfigError: `workdir` was made with another configuration, or is in use, or too short a
            budget.
          KeyboardInterrupt: Ctrl-C; what was done is kept, and the message says where.
        """
        kind, data = frames.kind_of(data), reader.accept(data)
        asked = convert.settings(
            self._config, time=time, entity=entity, irregular=irregular, decimal=decimal,
            schema=schema, na_values=na_values, **more,
        )  # fmt: skip
        if workdir is None:
            self._temporary = TemporaryFolder()
            workdir = self._temporary.path
        path = Workdir(epath.Path(absolute(workdir)))
        with told_where(path, self._temporary):
            started = experiment.start(asked, path, data=data, columns=columns)
            experiment.run(started)
        self._generator = load_generator(path)
        self._workdir = path
        self._dataset, self._kind = started.dataset, kind
        return self

    @OfClassToo
    def describe(
        self, data: Source, *, columns: Sequence[str] | None = None, **given: Any
    ) -> Description:
        """What `fit` would take this data for, and what is wrong with it, without training.

        `TimeLDM.describe(data)` is that of a model with nothing set.

        Args:
          data: as for `fit`.
          columns: as for `fit`.
          **given: `time` to `na_values`, and `more`, as for `fit`.

        Raises:
          DataError, ConfigError: as `fit`: a wrong setting, or data that cannot be used.
        """
        asked = convert.settings(self._config, **given)
        return describe(asked, reader.accept(data), columns).checked()

    def sample(
        self,
        count: int | None = None,
        seed: int = 0,
        *,
        missing: str = "fill",
        given: Mapping[str, Any] | None = None,
        context: Source | None = None,
        start: Any = None,
        guidance: float | None = None,
    ) -> Any:
        """Synthetic windows in the data's own units.

        Window i depends on (seed, i), and on what it is asked for by, alone.

        Args:
          count: how many windows; where `context` is given it may be left out.
          seed: of the noise.
          missing: `fill` gives every value, `generate` leaves out what the model leaves out.
          given: of a panel, values of static columns that all windows have: `{"sex": "F"}`.
          context: a table of these, a row for each window, whose empty cells are drawn.
          start: the time of their first rows, or one for each; default: as the data has them.
          guidance: how strongly that is followed; default: as configured, which is 1.

        Returns:
          A table with the columns, order and dtypes of the data, and `series` first, which numbers
          the windows, of the library that the data was of (a loaded model's is of pandas); of an
          array, windows `(count, window, features)`, float64 where its numbers have decimals or lie
          on a grid, else float32, and of series of different lengths a list.

        Raises:
          NonFiniteSamplesError: the model gave NaN or infinity.
          DataError: what is asked for is nothing that the model knows.
          ValueError: `count` below 1, or a model that is not trained.
          TypeError: `count` or `seed` is no whole number.
        """
        generator, seed = self._trained(), whole_seed(seed)
        asked = convert.asked(generator, count, given, context, start, guidance)
        windows = np.concatenate(list(generator.sample(asked.windows, seed, asked)))
        found = convert.present(generator, windows, seed, missing, asked=asked)
        return frames.of_kind(found, self._kind)

    def sample_series(
        self,
        length: int,
        seed: int = 0,
        *,
        count: int | None = None,
        given: Mapping[str, Any] | None = None,
        context: Source | None = None,
        start: Any = None,
        guidance: float | None = None,
    ) -> Any:
        """Series longer than a window, drawn a third of a window at a time given the rows before.

        `seam_score` says whether the joins can be told from the rest.

        Args:
          length: rows of each.
          seed: of the noise.
          count: how many series; default: one, or one for each row of `context`.
          given: as for `sample`, and so are `context` and `start`.
          context: see there.
          start: see there.
          guidance: see there; of the first window, which the rest follows.

        Returns:
          As `sample`.

        Raises:
          ValueError: `length` or `count` below 1, or a model that is not trained.
        """
        generator, length, seed = self._trained(), whole("length", length), whole_seed(seed)
        count = 1 if count is None and context is None else count
        asked = convert.asked(generator, count, given, context, start, guidance)
        first = np.concatenate(list(generator.sample(asked.windows, seed, asked)))
        series = extension.lengthen(generator, first, length, seed, asked)
        found = convert.present(generator, series, seed, rows=length, asked=asked)
        return frames.of_kind(found, self._kind)

    def seam_score(self, series: Source) -> dict[str, Any]:
        """Whether joins of windows in `sample_series`'s result can be told; see `metrics.seams`."""
        generator = self._trained()
        values = convert.encode_samples(generator, series)
        rows = extension.join_rows(values.shape[1], generator.models.vae.window)
        return seams.seam_score(values, rows, generator.columns)

    def impute(
        self, table: Source, seed: int = 0, *, draws: int = 1, irregular: str | None = None
    ) -> Any:
        """The table with its missing values filled, given all that is there.

        Args:
          table: with the columns that the model was trained on.
          seed: of the noise.
          draws: completions to take the median of (of words, the commonest): one keeps the spread.
          irregular: as for `fit`; default: as in training.

        Returns:
          The same rows, columns and index in the same order: as a Series or an array where one was
          given, else as a table.

        Raises:
          DataError: a table that does not fit the model.
          ValueError: a model that is not trained.
        """
        generator, draws, seed = self._trained(), whole("draws", draws), whole_seed(seed)
        ordered, encoded, given = convert.encode(generator, table, irregular)
        filled = forecasts.impute(generator, encoded, seed, draws)
        back = convert.put_back(given, filled, ordered.place, convert.schema_of(generator))
        return convert.like(table, back)

    def forecast(
        self,
        history: Source,
        horizon: int,
        n: int = 100,
        seed: int = 0,
        *,
        known: Source | None = None,
        irregular: str | None = None,
    ) -> forecasts.Forecast:
        """Draws what may follow the last rows of a series.

        Args:
          history: one series; its last rows, up to a window's, count.
          horizon: rows to forecast.
          n: futures to draw.
          seed: of the noise.
          known: of the rows to come: a table of `horizon` rows with some of the columns.
          irregular: as for `fit`; default: as in training.

        Raises:
          DataError: a history that does not fit the model, or of several series.
          ValueError: `horizon` or `n` below 1, or a model that is not trained.
        """
        generator = self._trained()
        horizon, n, seed = whole("horizon", horizon), whole("n", n), whole_seed(seed)
        ordered, encoded, _ = convert.encode(generator, history, irregular)
        ahead = convert.known_ahead(generator, ordered.frame, known, horizon)
        return forecasts.forecast(generator, ordered.frame, encoded, horizon, n, seed, ahead)

    def evaluate(
        self, real: Source | None = None, *, count: int | None = None, seed: int = 0
    ) -> dict[str, Any]:
        """All scores of fresh samples, as in `scores.json`.

        Args:
          real: what to score against, taken for what the model was trained on: a table, or windows
            `(n, window, features)`. Default: the test windows of what was fitted; of a model that
            was loaded, the scores that it was saved with.
          count: how many samples; default: as many as real windows, at most 10,000.
          seed: of the samples and the evaluators.

        Raises:
          DataError: windows that cannot be compared.
          ValueError: a model that is not trained, or a loaded one that was saved without scores.
        """
        count, seed = None if count is None else whole("count", count), whole_seed(seed)
        if real is None and self._dataset is None:
            return copy.deepcopy(self._saved_scores())
        return self._score(real, count, seed)[0]

    def report(
        self,
        path: str | os.PathLike[str],
        real: Source | None = None,
        *,
        count: int | None = None,
        seed: int = 0,
    ) -> None:
        """Scores fresh samples and writes an HTML page that opens offline, and PNGs beside it.

        Args:
          path: of the page; its figures go to a folder of its name.
          real: as for `evaluate`, and so are `count` and `seed`; of a loaded model, the scores that
            it was saved with, and no figures, which show windows of the data.
          count: see there.
          seed: see there.

        Raises:
          DataError: windows that cannot be compared.
          ValueError: a model that is not trained, or a loaded one that was saved without scores.
        """
        count, seed = None if count is None else whole("count", count), whole_seed(seed)
        target, generator = epath.Path(absolute(path)), self._trained()
        from timeldm_jax.report.page import write_report, write_scores  # plotting imports slowly

        if real is None and self._dataset is None:
            write_scores(target, self._saved_scores(), generator.config.to_dict())
            return
        scores, windows, synthetic, training = self._score(real, count, seed)
        if real is None and self._workdir is not None:  # what a saved model takes with it
            write_json(self._workdir.scores, scores)
        write_report(
            target,
            scores,
            windows,
            synthetic,
            generator.columns,
            training=training,
            records=loop.Journal(self._workdir).records() if self._workdir else (),
            config=generator.config.to_dict(),
            seed=seed,
        )

    @property
    def generator(self) -> Generator:
        """What draws: networks, statistics and scaling."""
        return self._trained()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the features: of a table, its columns and what its categories become."""
        return self._trained().columns

    def save(self, directory: str | os.PathLike[str], *, report: bool = True) -> None:
        """Saves the model as a directory: JSON and arrays, no pickle, and a model card.

        Args:
          directory: new or empty.
          report: whether scores go with it, from which `report` makes a page: scoring takes a
            minute or two where it was not done before.

        Raises:
          FileExistsError: the directory is not empty, or a file.
          OSError: it cannot be written; nothing is left there.
          ValueError: the model is not trained.
        """
        generator, target = self._trained(), absolute(directory)
        model_folder.check_new(target)
        model_folder.save(target, generator, self._known_scores() if report else None)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> "TimeLDM":
        """Opens a saved model, or the work directory of a run. Runs no code that is in it.

        Raises:
          CheckpointError: nothing there, damaged, or saved by a newer version; the message names
            the file.
        """
        opened = model_folder.load(absolute(directory))
        model = cls(config=opened.generator.config)
        model._generator, model._scores, model._workdir = opened
        return model

    def __copy__(self) -> "TimeLDM":
        """A model of its own that shares what is trained, which nothing changes."""
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        copied._config = self._config.copy_and_resolve_references()
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> "TimeLDM":
        """As a shallow copy."""
        return self.__copy__()

    def __reduce__(self) -> Any:
        """Refuses: a pickle can run code when it is opened, a saved model cannot."""
        raise TypeError("a TimeLDM is not pickled: use save(directory) and TimeLDM.load(directory)")

    def _trained(self) -> Generator:
        if self._generator is None:
            raise ValueError("the model is not trained: call fit, or TimeLDM.load")
        return self._generator

    def _saved_scores(self) -> dict[str, Any]:
        self._trained()
        if self._scores is None:
            raise ValueError("the loaded model has no data and was saved without scores: give real")
        return self._scores

    def _known_scores(self) -> dict[str, Any] | None:
        """The scores that a saved model takes with it, made where they are not there yet."""
        if self._dataset is None:
            return self._scores
        assert self._workdir is not None
        with contextlib.suppress(FileNotFoundError, DataError):
            return evaluation.read(self._workdir.scores)
        try:
            scores = self._score(None, None, 0)[0]
        except DataError as error:  # too few windows to say anything
            logging.getLogger(__name__).warning("saved without scores: %s", error)
            return None
        write_json(self._workdir.scores, scores)
        return scores

    def _score(self, real: Source | None, count: int | None, seed: int) -> results.Scored:
        generator = self._trained()
        windows = None if real is None else convert.real_windows(generator, real)
        return results.score(generator, self._dataset, windows, count, seed)
