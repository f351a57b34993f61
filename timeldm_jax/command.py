"""What the commands share: flags of their own, help that fits a screen, and errors in one line.

A command's flags live in a `FlagValues` that it makes when it starts, never among absl's global
ones: a program that imports this package keeps every flag name for itself.
"""

import contextlib
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pandas as pd
from absl import flags
from etils import epath

from timeldm_jax.errors import USER_ERRORS, DataError, Preempted, in_flags

if TYPE_CHECKING:
    from timeldm_jax.api import TimeLDM

EXIT_USAGE = 2
HEARTBEAT = 30  # seconds without a sign of life after which a process counts as lost
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_PREEMPTED = 128 + signal.SIGTERM
IRREGULAR_HELP = "Uneven times: error, sort or resample; by default as in training."
TABLE_FILES = (".csv", ".parquet")
_HELP = {"-h", "-help", "--help", "--helpfull"}


def parse(
    own: flags.FlagValues,
    argv: Sequence[str],
    about: str | None,
    explain: Callable[[Exception], str] = str,
    first: str = "",
) -> None:
    """Parses a command's flags; prints its help, or one line about what is wrong, and exits.

    Args:
      own: the command's flags.
      argv: the command and its arguments.
      about: the command's docstring, for `--help`.
      explain: says in one line what an error of a flag's value means.
      first: a flag, which must be given, whose value may also stand without its name.
    """
    if _HELP & set(argv[1:]):
        print(help_text(own, about or ""))
        sys.exit(0)
    try:
        rest = own(list(argv))
    except (flags.Error, KeyError, AttributeError, TypeError, ValueError) as error:
        fail(ValueError((explain(error) or type(error).__name__).splitlines()[0]))
    if first and len(rest) == 2 and own[first].value is None:
        own[first].value = rest.pop()
    if first and own[first].value is None:
        fail(ValueError(f"no --{first}; see --help"))
    if len(rest) > 1:
        fail(ValueError(f"unexpected arguments {rest[1:]}; see --help"))


def help_text(own: flags.FlagValues, about: str) -> str:
    """The command's docstring and a line or two for each flag."""
    lines = [about.strip(), "", "Flags:"]
    for name in own:
        text = f"--{name}: {own[name].help}"
        if own[name].default not in (None, False):
            text += f" Default: {own[name].default_as_str}."
        lines += textwrap.wrap(text, 98, initial_indent="  ", subsequent_indent="      ")
    return "\n".join(lines)


def model_flags(**meanings: str) -> flags.FlagValues:
    """Flags of a command that uses a trained model: `--model`, and others that hold text."""
    own = flags.FlagValues()
    meanings = {"model": "A folder from `save`, or the work directory of a run.", **meanings}
    for name, meaning in meanings.items():
        flags.DEFINE_string(name, None, meaning, flag_values=own)
    return own


def define_processes(own: flags.FlagValues) -> None:
    """Flags of a command that several processes run together."""
    flags.DEFINE_bool(
        "distributed",
        False,
        "Join the other processes of a pod or cluster; every host runs this.",
        flag_values=own,
    )
    flags.DEFINE_string(
        "coordinator_address",
        None,
        "host:port of process 0, where JAX cannot detect the cluster.",
        flag_values=own,
    )
    for name, meaning in (
        ("num_processes", "How many processes, where JAX cannot detect it."),
        ("process_id", "This process's number, where JAX cannot detect it."),
    ):
        flags.DEFINE_integer(name, None, meaning, flag_values=own)


@contextlib.contextmanager
def joined(own: flags.FlagValues) -> Iterator[None]:
    """Joins the other processes where the flags say so, and keeps compiled programs between runs.

    A process that is lost ends the others within a minute, with a line of JAX's that says so.
    """
    import jax

    use_compilation_cache()
    if own.distributed:
        # A failure here must end the job: N hosts working alone would look like success.
        jax.distributed.initialize(
            coordinator_address=own.coordinator_address,
            num_processes=own.num_processes,
            process_id=own.process_id,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=HEARTBEAT,
        )
    with stopped_by_signals():  # again, as JAX has a handler of its own by now
        yield


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, unless the user has said where."""
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        from timeldm_jax.data.cache import default_cache_dir

        jax.config.update("jax_compilation_cache_dir", str(default_cache_dir() / "xla"))


@contextlib.contextmanager
def one_line_errors(*also: type[Exception], then: str = "", prefix: str = "--") -> Iterator[None]:
    """Ends the command with one line where a user or the system made an error, or it was stopped.

    Args:
      *also: further errors that a user can do something about.
      then: how to go on after a fault of the system or a stop, added to the line.
      prefix: of the command's flags for settings of the data.
    """
    try:
        with stopped_by_signals():
            yield
    except Preempted as stopped:
        print(f"stopped: {stopped}{then}", file=sys.stderr)
        sys.exit(EXIT_PREEMPTED)
    except KeyboardInterrupt as stopped:
        print(f"stopped: {str(stopped) or 'by Ctrl-C'}{then}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        fail(OSError(f"{error.strerror or error}{where}{then}"))
    except Exception as error:
        if not isinstance(error, (*USER_ERRORS, *also)):
            raise
        fail(error, prefix)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGTERM raises Preempted, and SIGINT KeyboardInterrupt; the next one ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals can only be handled in the main thread
        return

    def stop(number: int, _: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        raise KeyboardInterrupt if number == signal.SIGINT else Preempted("by a signal")

    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    for each in before:
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def check_whole(name: str, value: int, least: int) -> None:
    """Raises DataError where a number that a flag gives is too small."""
    if value < least:
        raise DataError(f"--{name}={value} must be at least {least}")


def open_model(folder: str) -> "TimeLDM":
    """The model of a folder from `save`, or of a run's work directory."""
    from timeldm_jax.api import TimeLDM

    return TimeLDM.load(epath.Path(folder).expanduser())


def output(path: str, kinds: Sequence[str], *, folders: bool = False) -> epath.Path:
    """Where a command writes, checked before any work.

    Args:
      path: as the flag gives it.
      kinds: of files, by the end of their names.
      folders: whether it may be a folder, too; see `is_folder`.

    Raises:
      DataError: a folder that does not exist, or a kind of file that is not one of `kinds`.
    """
    target = epath.Path(path).expanduser()
    if not (folders and is_folder(path)) and target.suffix.lower() not in kinds:
        more = "; or a folder, which ends in /" if folders else ""
        expected = f"a file that ends in {' or '.join(kinds)}{more}"
        raise DataError(f"--out={path}: expected {expected}")
    if "://" not in path and not target.absolute().parent.is_dir():
        raise DataError(f"--out={path}: its folder does not exist; make it first")
    return target


def is_folder(path: str) -> bool:
    """Whether a path names a folder: there is one, or it ends in a slash."""
    return path.endswith(("/", os.sep)) or epath.Path(path).expanduser().is_dir()


def write_result(
    path: epath.Path,
    result: "pd.DataFrame | np.ndarray | list[np.ndarray]",
    names: Sequence[str],
) -> None:
    """Writes a table, or windows `(n, time, feature)` with the names of their features.

    Whole or not at all. Windows in a table get a column `series`, which numbers them.

    Raises:
      DataError: a table, or series of different lengths, as `.npz`.
    """
    from timeldm_jax import samples, writing

    if path.suffix.lower() == ".npz":
        whole = writing.check_arrays(result)
        samples.write_npz(path, [whole], whole.shape, tuple(names))
    elif path.suffix.lower() == ".parquet":
        writing.write_parquet(path, writing.as_table(result, names))
    else:
        writing.write_csv(path, [writing.as_table(result, names)])
    say_written(path, len(result), "rows" if isinstance(result, pd.DataFrame) else "windows")


def say_written(path: epath.Path, count: int, what: str) -> None:
    """Prints what a file, or a folder, holds."""
    print(f"{path}: {count:,} {what}")


def fail(error: Exception, prefix: str = "--config.data.") -> NoReturn:
    """Prints an error in the words of the command line and exits."""
    print(f"error: {in_flags(error, prefix)}", file=sys.stderr)
    sys.exit(EXIT_USAGE)
