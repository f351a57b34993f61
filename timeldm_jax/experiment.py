"""One path from data to a trained model, for the commands and the interface alike.

Prepare the data, choose what was left open, claim the work directory, and run the stages over it in
order, each skipped where it is finished.
"""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from timeldm_jax import config as configuration
from timeldm_jax import recipe, results
from timeldm_jax.data import context as contexts
from timeldm_jax.data import dataset as datasets
from timeldm_jax.data import schema as schemas
from timeldm_jax.data.dataset import Dataset
from timeldm_jax.data.doubts import doubts
from timeldm_jax.data.given import Prepared, Table, take
from timeldm_jax.data.large import Large
from timeldm_jax.errors import ConfigError, DataError
from timeldm_jax.metrics.comparison import FEWEST_WINDOWS
from timeldm_jax.training import checkpoint, parallel, stages
from timeldm_jax.workdir import Workdir, only_run

_log = logging.getLogger(__name__)

STAGES = ("vae", "ldm", "sample", "evaluate", "report")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What is trained, and where.

    Attributes:
      config: with nothing left open.
      dataset: split and scaled.
      workdir: made with this configuration.
    """

    config: ConfigDict
    dataset: Dataset
    workdir: Workdir


def start(
    config: ConfigDict,
    workdir: Workdir,
    names: tuple[str, ...] = ("vae", "ldm"),
    data: Any = None,
    columns: Sequence[str] | None = None,
) -> Experiment:
    """Prepares the data, chooses what was left open, and claims the work directory.

    The one way from data to training, for the command and for `TimeLDM.fit`.

    Args:
      config: validated configuration; a table's may leave sizes and steps open.
      workdir: where everything of the run is kept.
      names: the stages to run, some of `STAGES`.
      data: of the user's, as for `dataset.take`; default: what `config.data` names.
      columns: names of an array's features.

    Raises:
      ConfigError: a setting that this data does not read, too short a budget, a directory made
        with another configuration, a stage that these need has not finished, or a batch that does
        not divide over the devices. Nothing was written.
      DataError: the data cannot be had, or is too little. Nothing was written.
    """
    asked, given = take(config, data, columns)
    configuration.validate(asked)
    refuse_if(lambda: conflict(asked, workdir))
    for stage in ("vae", "ldm"):
        if asked[stage].batch:
            stages.make_batch(asked, stage)
    prepared = datasets.prepare(given, asked)
    if isinstance(prepared, Table | Large):
        for doubt in doubts(prepared.frame, prepared.schema):
            _log.warning("%s: is that meant? `describe` says what to do about it", doubt.said)
    chosen, dataset = choose(asked, prepared, workdir)
    context, possible = chosen.ldm.model.context, contexts.numbers(dataset.schema)
    if context not in (0, possible):
        raise ConfigError(
            f"config.ldm.model.context={context}, and samples of {chosen.data.name} can be asked "
            f"for by {possible} numbers; set it to 0 for none, or leave it as it was"
        )
    refuse_if(lambda: _missing_stage(chosen, workdir, names))
    series = dataset.series
    _log.info(
        "%s: %d features, windows of %d: %d train, %d validate, %d test",
        chosen.data.name,
        len(series.columns),
        series.window,
        len(series.train),
        len(series.valid),
        len(series.test),
    )
    fewest = min(len(series.test), chosen.sample.count)
    if "evaluate" in names and fewest < FEWEST_WINDOWS:
        raise DataError(
            f"{len(series.test)} test windows and config.sample.count={chosen.sample.count}: the "
            f"evaluate stage needs at least {FEWEST_WINDOWS} of each"
        )
    claim(chosen, workdir, asked)
    return Experiment(chosen, dataset, workdir)


def run(experiment: Experiment, names: tuple[str, ...] = ("vae", "ldm")) -> None:
    """Runs the named stages in order; each is skipped where it is finished.

    Raises:
      ConfigError: another run is going on in the work directory.
    """
    workdir = experiment.workdir
    with contextlib.ExitStack() as stack:
        others = ""
        if jax.process_index() == 0:
            others = stack.enter_context(only_run(workdir))
        if others:
            others = (
                f"{workdir.root} is in use by another run ({others}); wait for it, stop it, or use "
                "another work directory"
            )
        refuse_if(lambda: others)
        refuse_if(lambda: _claimed_meanwhile(experiment))
        _run_stages(experiment, names)


def _claimed_meanwhile(experiment: Experiment) -> str:
    """Why this is no longer the run of the work directory, where two started at the same moment."""
    saved = json.loads(experiment.workdir.config.read_text())
    if not configuration.difference(configuration.upgrade(saved), experiment.config.to_dict()):
        return ""
    return (
        f"{experiment.workdir.root} was taken by another run a moment ago; run the same again to "
        "join it"
    )


def _run_stages(experiment: Experiment, names: tuple[str, ...]) -> None:
    config, dataset, workdir = experiment.config, experiment.dataset, experiment.workdir
    if "vae" in names:
        stages.train_vae(config, dataset, workdir)
    if "ldm" in names:
        stages.train_ldm(config, dataset, workdir)
    # Of what follows, samples and scores are shared by all processes, and process 0 does the rest
    # alone, on its own devices; an error of one process is one of all.
    if "ldm" in names:
        parallel.alone(lambda: results.calibrate(config, dataset, workdir))
    if "sample" in names:
        results.sample(config, workdir)
        schema = dataset.schema
        if schema is not None:
            parallel.alone(lambda: results.write_table(config, schema, workdir))
    if "evaluate" in names:
        results.evaluate_run(config, dataset, workdir)
    if "report" in names:
        parallel.alone(lambda: results.report(config, dataset, workdir))


def run_stages(config: ConfigDict, workdir: Workdir, names: tuple[str, ...]) -> None:
    """`start` and `run`: the command. The same call again resumes."""
    run(start(config, workdir, names), names)


def choose(asked: ConfigDict, prepared: Prepared, workdir: Workdir) -> tuple[ConfigDict, Dataset]:
    """The configuration with everything chosen that was left open, and its data set.

    A run that resumes takes what it chose first, whatever the machine's speed is now.

    Args:
      asked: as asked for.
      prepared: the data.
      workdir: of the run.

    Raises:
      ConfigError: a budget too short.
      DataError: data too small.
    """
    if prepared is None:  # a built-in set leaves nothing open
        return asked, datasets.cut(prepared, asked)
    lengths, features = prepared.sizes()
    if features > schemas.SLOW_FEATURES:
        _log.warning(
            "%d features: scores of pairs and the recurrent scores grow with the square of that; "
            "leaving columns out (kind 'drop' in a schema) makes everything faster",
            features,
        )

    def read_saved() -> str:
        return workdir.config.read_text() if workdir.request.exists() else ""

    saved = _first_says(read_saved)
    if saved:
        chosen = ConfigDict(configuration.upgrade(json.loads(saved)))
        return chosen, datasets.cut(prepared, chosen)
    config = recipe.choose_sizes(asked, lengths, features, stored=isinstance(prepared, Large))
    dataset = datasets.cut(prepared, config)
    if config.ldm.model.context == configuration.AUTOMATIC["ldm.model.context"]:
        config.ldm.model.context = contexts.numbers(dataset.schema)
    if config.budget:
        # All processes run the steps that are timed, which wait for each other. The stopwatch of
        # one decides, or hosts would train for different numbers of steps.
        text = _first_says(lambda: recipe.choose_steps(config, dataset).to_json(), all_run=True)
        config = ConfigDict(json.loads(text))
    configuration.validate(config)
    return config, dataset


def _first_says(find: Callable[[], str], *, all_run: bool = False) -> str:
    """What `find` gives on process 0, or the ConfigError that it raises there, on every process.

    Args:
      find: the question.
      all_run: whether the others ask it too, because it has all of them compute together.
    """
    text = problem = ""
    if all_run or jax.process_index() == 0:
        try:
            text = find()
        except ConfigError as error:
            problem = str(error)
    outcome = json.loads(parallel.share_text_from_first(json.dumps([text, problem])))
    if outcome[1]:
        raise ConfigError(outcome[1])
    return outcome[0]


def claim(config: ConfigDict, workdir: Workdir, asked: ConfigDict | None = None) -> None:
    """Makes the work directory this configuration's, where it is not yet.

    Args:
      config: what runs.
      workdir: of the run.
      asked: what the user asked for, where `config` fills in what that left open.

    Raises:
      ConfigError: the directory was made with another configuration.
    """
    asked = config if asked is None else asked
    refuse_if(lambda: conflict(asked, workdir))
    new = jax.process_index() == 0 and not workdir.config.exists()
    if parallel.any_process(new):
        if configuration.difference(asked.to_dict(), config.to_dict()):
            stages.write_config(asked, workdir.request)
        stages.write_config(config, workdir.config)


def conflict(config: ConfigDict, workdir: Workdir) -> str:
    """Why `workdir` cannot be used for this configuration, or ""."""
    if not workdir.config.exists():
        return ""
    path = workdir.request if workdir.request.exists() else workdir.config
    try:
        saved = configuration.upgrade(json.loads(path.read_text()))
        changed = configuration.difference(saved, config.to_dict())
    except ConfigError as error:
        return f"{path} cannot be read: {error}"
    except (ValueError, TypeError, AttributeError) as error:
        return f"{path} is not a configuration in JSON ({error}); use another work directory"
    if not changed:
        return ""
    lines = "\n  ".join(changed)
    return (
        f"{workdir.root} was made with another configuration:\n  {lines}\n"
        "use another work directory, or run with the saved values"
    )


def refuse_if(find_problem: Callable[[], str]) -> None:
    """Raises on every process the problem that process 0, which alone reads the disk, finds.

    Raises:
      ConfigError: there is one.
    """
    problem = find_problem() if jax.process_index() == 0 else ""
    if parallel.any_process(bool(problem)):
        raise ConfigError(problem or "process 0 cannot use the work directory; it says why")


def _missing_stage(config: ConfigDict, workdir: Workdir, names: tuple[str, ...]) -> str:
    """Which stage must run before `names` can, or "".

    A stage that is only half trained counts as missing: what is made from it would not fit what it
    ends as.
    """

    def trained(stage: str) -> bool:
        return config[stage].steps in checkpoint.steps(workdir.stage(stage))

    sampled = results.has_samples(workdir)
    for stage, earlier, there in (
        ("ldm", "vae", trained("vae")),
        ("sample", "ldm", sampled or trained("ldm")),
        ("evaluate", "sample", sampled),
        ("report", "sample", sampled),
        ("report", "evaluate", workdir.scores.exists()),
    ):
        if stage in names and earlier not in names and not there:
            return (
                f"stage {stage!r} needs stage {earlier!r}, which has not finished in "
                f"{workdir.root}; use --stages={earlier},{stage}"
            )
    return ""
