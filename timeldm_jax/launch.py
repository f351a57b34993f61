"""`python -m timeldm_jax.launch`: train, sample, score and report from one command.

    python -m timeldm_jax.launch --config=configs/mujoco.py:quick --workdir=runs/mujoco

The same command again resumes. On several hosts, add `--distributed` on each.
"""

import logging
import os
import pathlib
import signal
import sys

import jax
from absl import app, flags
from absl import logging as absl_logging
from etils import epath
from ml_collections import config_flags

from timeldm_jax import config as configuration
from timeldm_jax import run as runs
from timeldm_jax.config import ConfigError
from timeldm_jax.data.sources import DataError
from timeldm_jax.training.checkpoint import CheckpointError
from timeldm_jax.training.loop import NonFiniteLossError, Preempted

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, path.py or path.py:variant; looked up here, then in the package."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run: checkpoints, samples, report.")
_STAGES = flags.DEFINE_list(
    "stages", list(runs.STAGES), f"Stages to run, some of {','.join(runs.STAGES)}."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the other processes of a pod or cluster; every host runs this."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "host:port of process 0, where JAX cannot detect the cluster."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many processes, where JAX cannot detect it."
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "This process's number, where JAX cannot detect it."
)

EXIT_USAGE = 2
EXIT_PREEMPTED = 128 + signal.SIGTERM
USER_ERRORS = (ConfigError, DataError, CheckpointError, NonFiniteLossError)


def main(argv: list[str]) -> None:
    """Runs the stages that the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax says what it does at every save
    try:
        config = _CONFIG.value
        configuration.validate(config)
        stages = _check_stages(_STAGES.value)
        _use_compilation_cache()
        if _DISTRIBUTED.value:
            # A failure here must end the job: N hosts training alone would look like success.
            jax.distributed.initialize(
                coordinator_address=_COORDINATOR.value,
                num_processes=_NUM_PROCESSES.value,
                process_id=_PROCESS_ID.value,
            )
        runs.run_stages(config, epath.Path(os.path.abspath(_WORKDIR.value)), stages)
    except Preempted as stopped:
        print(f"stopped: {stopped}", file=sys.stderr)
        sys.exit(EXIT_PREEMPTED)
    except USER_ERRORS as error:
        _fail(error)


def _check_stages(stages: list[str]) -> tuple[str, ...]:
    for stage in stages:
        if stage not in runs.STAGES:
            raise ConfigError(f"--stages: unknown stage {stage!r}; known: {', '.join(runs.STAGES)}")
    return tuple(stages)


def _use_compilation_cache() -> None:
    """Keeps compiled programs between runs, unless the user has said where."""
    if jax.config.jax_compilation_cache_dir is None:
        from timeldm_jax.data.builders import default_cache_dir

        jax.config.update(
            "jax_compilation_cache_dir", str(pathlib.Path(default_cache_dir()) / "xla")
        )


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses flags, turning a traceback about a flag into one line that says what to do."""
    try:
        return flags.FLAGS(_find_configs(argv))
    except ConfigError as error:
        _fail(error)
    except (flags.Error, KeyError, AttributeError, TypeError, ValueError) as error:
        _fail(_explain(argv, error))
    raise AssertionError("unreachable")


def _find_configs(argv: list[str]) -> list[str]:
    """Resolves the path in `--config=path.py:variant` against the package too."""
    resolved = list(argv)
    for i, argument in enumerate(resolved):
        for prefix in ("--config=", "-config="):
            if argument.startswith(prefix):
                path, separator, variant = argument[len(prefix) :].partition(".py:")
                file = configuration.find_config_file(path + (".py" if separator else ""))
                resolved[i] = f"{prefix}{file}{':' if separator else ''}{variant}"
    return resolved


def _explain(argv: list[str], error: Exception) -> ConfigError:
    """One line for an override that did not parse, naming the closest key."""
    known = dict(configuration.leaves(configuration.base()))
    for argument in argv[1:]:
        name = argument.lstrip("-").partition("=")[0]
        key = name.removeprefix("config.")
        if name.startswith("config.") and key not in known:
            return ConfigError(f"unknown key --{name}{configuration.closest(key, known)}")
    return ConfigError(str(error).strip("'\"").splitlines()[0])


def _fail(error: Exception) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(EXIT_USAGE)


def run() -> None:
    """Entry point of the command."""
    flags.mark_flags_as_required(["config", "workdir"])
    # Our own lines, not those of every library underneath.
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("timeldm_jax")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    app.run(main, flags_parser=_parse_flags)


if __name__ == "__main__":
    run()
