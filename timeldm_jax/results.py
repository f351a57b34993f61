"""What a run makes of a trained model: samples, as a table too, scores, and the report.

Each is written whole or not at all, and left where it stands, unless it is damaged: then it is made
again from what the run still has.
"""

import functools
import json
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from etils import epath
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from timeldm_jax import bands, reconstruction, shards, writing
from timeldm_jax.asked import Asked
from timeldm_jax.data import context as contexts
from timeldm_jax.data import event_times, gaps, start_times
from timeldm_jax.data import table as tables
from timeldm_jax.data.dataset import Dataset
from timeldm_jax.data.schema import Schema
from timeldm_jax.errors import DataError
from timeldm_jax.generator import Generator
from timeldm_jax.loading import load_generator
from timeldm_jax.metrics import adherence, evaluation, plan, suite
from timeldm_jax.metrics.plan import Plan, joined, single
from timeldm_jax.samples import read_windows
from timeldm_jax.training import loop, parallel, stages
from timeldm_jax.workdir import Workdir, write_json

_log = logging.getLogger(__name__)

LARGEST_REPORT = 10_000  # windows that a report scores
TABLE_BATCH = 10_000  # windows turned into rows at a time
NEW, SHARDED, DONE = range(3)  # samples of which there is nothing, shards, or all


def calibrate(config: ConfigDict, dataset: Dataset, workdir: Workdir) -> None:
    """Writes `marginals.json`: how the model's own samples are distributed.

    See `marginals`, `latents.Drift`, `repeats` and `bands`.
    """
    c = config.sample
    if not (c.match_marginals or c.match_axes or c.hold_repeats or c.band_windows):
        return
    generator = load_generator(workdir)
    starts, pieces = _band_rows(config, dataset)
    if (generator.is_described or not generator.is_matched) and (
        generator.wider is not None or not len(starts)
    ):
        return
    found = generator.described()
    if len(starts) and generator.wider is None:
        steps = None if dataset.steps is None else dataset.steps[starts]
        known, more = bands.rows_of(dataset.series.window, pieces)
        rows = dataset.series.values[starts[:, None] + np.arange(known + more)]
        stretch = _stretches(dataset, starts)
        found["wider"] = bands.measure(generator, rows, steps, known, stretch).tolist()
    write_json(workdir.marginals, found)


def _band_rows(config: ConfigDict, dataset: Dataset) -> tuple[np.ndarray, int]:
    """Where the validation rows begin that widths of forecasts are measured on.

    Returns:
      Starts, and how many thirds of a window are forecast from there (`bands.rows_of`): as many as
      there are enough runs of rows for, else one, within a window.
    """
    series, schema = dataset.series, dataset.schema
    none = np.zeros(0, int)
    if schema is None or config.data.protocol == "paper":  # which validates on training windows
        return none, 0
    starts = start_times.few(series.valid, series.window * len(series.columns))
    if schema.padded:
        starts = starts[(series.windows(starts)[..., -1] > 0.5).all(axis=1)]
    longer = _long_runs(dataset, starts, sum(bands.rows_of(series.window, bands.PIECES)))
    starts, pieces = (longer, bands.PIECES) if len(longer) >= bands.FEWEST_WINDOWS else (starts, 1)
    count = min(config.sample.band_windows, len(starts))
    if count < bands.FEWEST_WINDOWS:
        return none, 0
    return starts[np.linspace(0, len(starts) - 1, count).astype(int)], pieces


def _stretches(dataset: Dataset, starts: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Numbers of the stretches of validation rows, or of the series, that windows are of."""
    every, series = dataset.series.valid[:], dataset.series
    ends = np.diff(every, prepend=every[:1]) > series.window
    others = np.diff(series.series_of(every), prepend=series.series_of(every[:1])) != 0
    return np.cumsum(ends | others)[np.searchsorted(every, starts)]


def _long_runs(dataset: Dataset, starts: np.ndarray, length: int) -> np.ndarray:
    """Those of the starts that so many validation rows of one series follow."""
    series, position = dataset.series, dataset.series.position
    padded = dataset.schema is not None and dataset.schema.padded
    if padded or not isinstance(position, np.ndarray) or not isinstance(series.valid, np.ndarray):
        return starts[:0]
    held = np.zeros(len(series.values) + 1, int)
    held[1:][np.unique(series.valid[:, None] + np.arange(series.window))] = 1
    within = np.cumsum(held)
    starts = starts[starts + length <= len(series.values)]
    ends = starts + length
    whole = within[ends] - within[starts] == length
    return starts[whole & (position[ends - 1] - position[starts] == length - 1)]


def sample(config: ConfigDict, workdir: Workdir) -> None:
    """Writes `samples.npz`, or leaves the one that is there and sound; every process calls it.

    Several processes write shards instead, each on its own devices, where they share the disk of
    the work directory; where they do not, process 0 draws all. A folder of shards that was begun is
    finished, whoever comes to it.
    """
    sharded = parallel.share_from_first(np.int32(_begun(workdir)))
    if sharded == DONE:
        _log.info("sample: finished before, skipped")
        return
    parallel.alone(lambda: stages.check_finished(config, workdir, "ldm"))
    if sharded == NEW and jax.process_count() > 1 and parallel.share_disk(workdir.root):
        sharded = SHARDED
    if sharded == SHARDED:
        generator = parallel.together(lambda: load_generator(workdir))
        asked, form = Asked(config.sample.count), writing.of_features(generator)
        wanted = shards.request(generator, asked, config.sample.seed, form)
        shards.fill(workdir.shards, generator, asked, form, wanted)
        return
    parallel.alone(lambda: _sample_alone(config, workdir))


def _sample_alone(config: ConfigDict, workdir: Workdir) -> None:
    generator = load_generator(workdir)
    part = writing.Part(workdir.samples, 0, config.sample.count)
    form = writing.of_features(generator)
    list(writing.write(generator, Asked(part.count), config.sample.seed, [part], form))


def _begun(workdir: Workdir) -> int:
    """What there is of the samples, as process 0 sees it."""
    if jax.process_index() != 0:
        return NEW
    if workdir.samples.exists():
        return DONE if _sound(lambda: read_windows(workdir.samples)) else NEW
    return SHARDED if workdir.shards.exists() else NEW


def has_samples(workdir: Workdir) -> bool:
    """Whether a run has its samples, in one file or in shards."""
    return workdir.samples.exists() or shards.is_whole(workdir.shards)


def read_samples(
    workdir: Workdir,
) -> tuple[Float[np.ndarray, "n window feature"], tuple[str, ...] | None]:
    """The samples of a run, as `samples.read_windows`.

    Raises:
      DataError: they are damaged or gone.
    """
    if shards.is_whole(workdir.shards):
        return shards.read(workdir.shards)
    return read_windows(workdir.samples)


def _sound(read: Callable[[], Any]) -> bool:
    """Whether a result can be read; says so where not, and that it is made again."""
    try:
        read()
    except DataError as error:
        _log.warning("%s; it is made again", error)
        return False
    return True


def write_table(config: ConfigDict, schema: Schema, workdir: Workdir) -> None:
    """Writes `samples.csv`, the windows of the samples as rows of the table; whole or absent."""
    path = workdir.table
    windows, _ = read_samples(workdir)
    rows = windows.shape[0] * windows.shape[1]
    if path.exists() and _sound(lambda: _check_lines(path, rows + 1)):
        return

    def frame(first: int) -> pd.DataFrame:
        return tables.decode(
            windows[first : first + TABLE_BATCH],
            schema,
            missing=config.data.missing,
            first_series=first,
            seed=config.sample.seed,
        )

    writing.write_csv(path, map(frame, range(0, len(windows), TABLE_BATCH)))
    _log.info("samples: %s", path)


def _check_lines(path: epath.Path, fewest: int) -> None:
    """Raises DataError for a file that was cut; a cell may have lines of its own."""
    lines = path.read_bytes().count(b"\n") if path.is_file() else 0
    if lines < fewest:
        raise DataError(f"{path} has {lines} lines, and the samples fill {fewest}")


def evaluate_run(config: ConfigDict, dataset: Dataset, workdir: Workdir) -> None:
    """Writes `scores.json`: the samples against the test windows, and the VAE on its own.

    Every process calls it. Those that share the disk of the work directory read the samples and
    share the parts of the scores; where they do not, process 0 does all.
    """
    path = workdir.scores

    def finished() -> bool:
        if not path.exists() or not _sound(lambda: evaluation.read(path)):
            return False
        _log.info("evaluate: finished before, skipped")
        print(evaluation.table(evaluation.read(path)))
        return True

    def write(scores: dict[str, Any]) -> None:
        write_json(path, scores)
        print(evaluation.table(scores))

    if parallel.any_process(bool(parallel.alone(finished))):
        return
    if jax.process_count() > 1 and parallel.share_disk(workdir.root):
        planned = parallel.together(lambda: _planned(config, dataset, workdir))
        place = jax.process_index(), jax.process_count()
        own = parallel.together(lambda: evaluation.own(planned.units, *place))
        found = plan.gathered(parallel.share_texts(json.dumps(own)))
        parallel.alone(lambda: write(planned.finish(found)))
    else:
        parallel.alone(lambda: write(_in_turn(_planned(config, dataset, workdir))))


def _planned(config: ConfigDict, dataset: Dataset, workdir: Workdir) -> Plan:
    """The scores of a run's samples."""
    synthetic, _ = read_samples(workdir)
    models = stages.build_models(config, len(dataset.series.columns))
    vae_params, _ = stages.load_vae(config, models, workdir)
    plans = [
        _samples_plan(config, dataset, synthetic, config.seed),
        reconstruction.planned(config, dataset, models.vae, vae_params, config.seed),
    ]
    if dataset.schema is not None:
        generator, seeds = load_generator(workdir), (config.sample.seed, config.seed)
        plans.append(_adherence_plan(generator, dataset, synthetic, *seeds))
    return joined(plans)


def _adherence_plan(
    generator: Generator, dataset: Dataset, synthetic: np.ndarray, drawn_with: int, seed: int
) -> Plan:
    """One part; none for what is no table."""
    if dataset.schema is None:
        return joined([])
    seconds = adherence.seconds(dataset.schema)
    judged = functools.partial(judge_adherence, generator, dataset, synthetic, drawn_with, seed)
    return single("adherence", seconds, judged)


def _in_turn(planned: Plan) -> dict[str, Any]:
    """All parts of scores, done here with a progress bar."""
    return planned.finish(list(evaluation.own(planned.units).values()))


def evaluate_samples(
    config: ConfigDict,
    dataset: Dataset,
    synthetic: Float[np.ndarray, "n window feature"],
    seed: int,
) -> dict[str, Any]:
    """Scores of samples against the test windows, with the floor that the split allows."""
    return _in_turn(_samples_plan(config, dataset, synthetic, seed))


def _samples_plan(
    config: ConfigDict,
    dataset: Dataset,
    synthetic: Float[np.ndarray, "n window feature"],
    seed: int,
) -> Plan:
    series = dataset.series
    real, training, synthetic = comparable(config, dataset, synthetic, seed)
    if config.data.protocol == "paper":  # the test windows are the training windows
        fresh = series.windows(series.fresh) if len(series.fresh) else None
        parts: dict[str, Any] = {"fresh": fresh}
    else:
        parts = {"training": training}
    if series.position is not None:
        train, test = series.position[series.few_train()], series.position[series.test]
        parts |= {"training_starts": train, "real_starts": test}
    scores = evaluation.planned(
        real,
        synthetic,
        series.columns,
        protocol=config.data.protocol,
        seed=seed,
        evaluators=suite.Evaluators(**config.evaluate),
        **parts,
    )
    return joined([scores, Plan((), lambda _: {"fingerprint": series.fingerprint()})])


def comparable(
    config: ConfigDict,
    dataset: Dataset,
    synthetic: Float[np.ndarray, "n window feature"],
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test, training and synthetic windows without gaps; see `gaps.close_gaps`."""
    series = dataset.series
    real, training = series.windows(series.test), series.windows(series.few_train())
    if dataset.schema is None:
        return real, training, synthetic
    synthetic, (real, training) = gaps.close_gaps(
        synthetic, [real, training], dataset.schema, config.data.missing, seed
    )
    return real, training, synthetic


def judge_adherence(
    generator: Generator,
    dataset: Dataset,
    synthetic: Float[np.ndarray, "n window feature"],
    drawn_with: int,
    seed: int,
) -> dict[str, Any]:
    """`adherence` of the scores of a table.

    Windows are drawn for the static columns of held-out windows.

    Args:
      generator: of the samples.
      dataset: that it was trained on.
      synthetic: samples that nothing was asked of.
      drawn_with: the seed of these, of which their times are.
      seed: of the windows that are drawn here, and of judges.
    """
    config, schema, context = generator.config, generator.schema, generator.models.denoiser.context
    assert schema is not None
    series, random = dataset.series, np.random.default_rng(seed)
    time, steps = np.arange(series.window), dataset.steps

    def part(starts: Int[np.ndarray, " n"]) -> adherence.Part:
        chosen = starts[adherence.few(len(starts), series.window, random)]
        own = None if steps is None else steps[chosen[:, None] + time]
        return adherence.Part(series.windows(chosen), own, series.series_of(chosen))

    train, test = series.few_train(), series.test
    if config.data.protocol == "paper":  # the test windows are the training windows
        train, test = adherence.halves(train, series.series_of(train), series.window, random)
    training, held_out = part(train), part(random.permutation(test))
    begins = None
    if schema.starts is not None and schema.clock is not None:
        begins = schema.starts.draw(synthetic, schema.clock, drawn_with)
        begins = event_times.steps_of(schema, synthetic, begins)
    sampled = adherence.Part(synthetic, begins, np.arange(len(synthetic)))
    asked = None
    count = adherence.asked_windows(schema, context, len(held_out.windows), len(synthetic))
    if count:
        rows = contexts.asked_rows(held_out.windows[:count], schema)
        asked = np.concatenate(list(generator.sample(count, seed, Asked(count, rows))))
    parts = adherence.Parts(training, held_out, sampled, asked)
    propose = not dataset.is_stored  # a table that is read in batches keeps no rules
    found = adherence.adherence(parts, schema, context, seed, propose=propose)
    return {"adherence": found}


def report(config: ConfigDict, dataset: Dataset, workdir: Workdir) -> None:
    """Writes `report.html`, and its figures as `report/*.png`."""
    from timeldm_jax.report.page import write_report  # plotting takes seconds to import

    synthetic, columns = read_samples(workdir)
    real, training, synthetic = comparable(config, dataset, synthetic, config.seed)
    written = write_report(
        workdir.report,
        evaluation.read(workdir.scores),
        real,
        synthetic,
        columns or dataset.series.columns,
        training=training,
        records=loop.Journal(workdir).records(),
        config=config.to_dict(),
        seed=config.seed,
    )
    print(f"report: {written[0]}")


class Scored(NamedTuple):
    """Scores, and the real, synthetic and training windows that they are of."""

    scores: dict[str, Any]
    real: Float[np.ndarray, "n window feature"]
    synthetic: Float[np.ndarray, "n window feature"]
    training: Float[np.ndarray, "n window feature"]


def score(
    generator: Generator,
    dataset: Dataset | None,
    real: Float[np.ndarray, "n window feature"] | None,
    count: int | None,
    seed: int,
) -> Scored:
    """Scores of fresh samples.

    Args:
      generator: of the samples.
      dataset: that it was trained on; needed where `real` is None.
      real: windows to score against; default: the test windows of the dataset.
      count: how many samples; default: as many as real windows, at most `LARGEST_REPORT`.
      seed: of the samples and the evaluators.
    """
    config = generator.config

    def drawn(size: int) -> Float[np.ndarray, "n window feature"]:
        return np.concatenate(list(generator.sample(count or min(size, LARGEST_REPORT), seed)))

    if real is None:
        assert dataset is not None
        synthetic = drawn(len(dataset.series.test))
        vae, params = generator.models.vae, generator.vae_params
        plans = [
            _samples_plan(config, dataset, synthetic, seed),
            reconstruction.planned(config, dataset, vae, params, seed),
            _adherence_plan(generator, dataset, synthetic, seed, seed),
        ]
        scores = _in_turn(joined(plans))
        windows, training, synthetic = comparable(config, dataset, synthetic, seed)
        return Scored(scores, windows, synthetic, training)
    synthetic = drawn(len(real))
    if generator.schema is not None:
        missing = config.data.missing
        synthetic, (real,) = gaps.close_gaps(synthetic, [real], generator.schema, missing, seed)
    evaluators = suite.Evaluators(**config.evaluate)
    scores = evaluation.evaluate(
        real, synthetic, generator.columns, seed=seed, evaluators=evaluators
    )
    return Scored(scores, real, synthetic, real)
