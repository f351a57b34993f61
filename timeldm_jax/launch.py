"""`python -m timeldm_jax.launch`: train, sample, score and report from one command.

    python -m timeldm_jax.launch --config=configs/mujoco.py:quick --workdir=runs/mujoco

The same command again resumes. On several hosts, add `--distributed` on each.
"""

import functools
import logging
import os
import sys
import traceback

from absl import flags
from absl import logging as absl_logging
from etils import epath
from ml_collections import config_flags

from timeldm_jax import command, experiment
from timeldm_jax import config as configuration
from timeldm_jax.errors import ConfigError, InFlags
from timeldm_jax.workdir import Workdir

THEN = "; the same command resumes there"


def define_flags(argv: list[str]) -> flags.FlagValues:
    """The command's flags, with the keys of the configuration that `argv` sets."""
    own = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file, path.py or path.py:variant; looked up here, then in the package. "
        "--config.vae.steps=2000 sets a key.",
        flag_values=own,
        sys_argv=argv,
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "Directory of the run: checkpoints, samples, scores, report.",
        flag_values=own,
    )
    flags.DEFINE_list(
        "stages", list(experiment.STAGES), "Stages to run, separated by commas.", flag_values=own
    )
    command.define_processes(own)
    flags.mark_flags_as_required(["workdir", "config"], own)
    return own


def main(argv: list[str]) -> None:
    """Runs the stages that the flags name."""
    try:
        found = _find_configs(argv)
    except ConfigError as error:
        command.fail(error)
    own = define_flags(found)
    command.parse(own, found, __doc__, functools.partial(_explain, found))
    absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax says what it does at every save
    with command.one_line_errors(then=THEN, prefix="--config.data."):
        configuration.read_none(own.config)
        configuration.validate(own.config)
        stages = _check_stages(own.stages)
        with command.joined(own):
            experiment.run_stages(own.config, Workdir(workdir_path(own.workdir)), stages)


def workdir_path(given: str) -> epath.Path:
    """The work directory as an absolute path; an address such as gs://bucket/run is one."""
    return epath.Path(given if "://" in given else os.path.abspath(os.path.expanduser(given)))


def _check_stages(stages: list[str]) -> tuple[str, ...]:
    known = ", ".join(experiment.STAGES)
    if not stages:
        raise ConfigError(f"--stages names no stage; known: {known}")
    for stage in stages:
        if stage not in experiment.STAGES:
            raise ConfigError(f"--stages: unknown stage {stage!r}; known: {known}")
    return tuple(stages)


def _find_configs(argv: list[str]) -> list[str]:
    """Resolves the path in `--config=path.py:variant` against the package too."""
    resolved = list(argv)
    for i, argument in enumerate(resolved):
        if argument in ("--config", "-config") and i + 1 < len(resolved):
            resolved[i + 1] = _find_config(resolved[i + 1])
        elif argument.startswith(("--config=", "-config=")):
            name, _, value = argument.partition("=")
            resolved[i] = f"{name}={_find_config(value)}"
    return resolved


def _find_config(value: str) -> str:
    path, separator, variant = value.partition(".py:")
    if not separator:
        return configuration.find_config_file(path)
    return f"{configuration.find_config_file(path + '.py')}:{variant}"


def _explain(argv: list[str], error: Exception) -> str:
    """One line for flags that did not parse, naming the closest key to one that is unknown."""
    known = dict(configuration.leaves(configuration.base()))
    for argument in argv[1:]:
        name = argument.lstrip("-").partition("=")[0]
        key = name.removeprefix("config.")
        if isinstance(error, flags.UnrecognizedFlagError) and error.flagname == name in known:
            return f"unknown flag --{name}; did you mean --config.{name}?"
        if not name.startswith("config.") or key in known:
            continue
        if any(leaf.startswith(f"{key}.") for leaf in known):
            return f"--{name} is a group of keys; set one of them, as in --{name}.key="
        return f"unknown key --{name}{configuration.closest(key, known)}"
    text = str(error)
    # What a config file raises comes wrapped, the traceback in its text: find where it arose.
    inner: BaseException | None = error
    while inner is not None:
        for frame in traceback.extract_tb(inner.__traceback__):
            if any(frame.filename in argument for argument in argv[1:]):
                text = f"{frame.filename}, line {frame.lineno}: {type(inner).__name__}: {inner}"
        if isinstance(inner, ConfigError):
            text = str(inner)
        inner = inner.__context__
    return text


def run() -> None:
    """Entry point of the command."""
    # Our own lines, not those of every library underneath.
    handler = logging.StreamHandler()
    handler.setFormatter(InFlags("%(message)s"))
    logger = logging.getLogger("timeldm_jax")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    main(sys.argv)


if __name__ == "__main__":
    run()
