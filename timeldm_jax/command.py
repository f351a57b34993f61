"""What the commands share: flags of their own, help that fits a screen, and errors in one line.

A command's flags live in a `FlagValues` that it makes when it starts, never among absl's global
ones: a program that imports this package keeps every flag name for itself.
"""

import contextlib
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
from timeldm_jax.workdir import open_atomic

if TYPE_CHECKING:
    from timeldm_jax.api import TimeLDM

EXIT_USAGE = 2
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


def output(path: str, kinds: Sequence[str]) -> epath.Path:
    """Where a command writes, checked before any work.

    Raises:
      DataError: a folder that does not exist, or a kind of file that is not one of `kinds`.
    """
    target = epath.Path(path).expanduser()
    if target.suffix.lower() not in kinds:
        raise DataError(f"--out={path}: expected a file that ends in {' or '.join(kinds)}")
    if not target.absolute().parent.is_dir():
        raise DataError(f"--out={path}: its folder does not exist; make it first")
    return target


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
    from timeldm_jax.data import arrays, spreadsheet
    from timeldm_jax.samples import write_npz

    if path.suffix.lower() == ".npz":
        if not isinstance(result, np.ndarray):
            kind = "tables" if isinstance(result, pd.DataFrame) else "series of different lengths"
            raise DataError(f"--out={path}: the model gives {kind}; write .csv or .parquet")
        write_npz(path, [result], result.shape, tuple(names))
    else:
        if not isinstance(result, pd.DataFrame):
            result = arrays.stack(arrays.Arrays(tuple(result)), names)
        if path.suffix.lower() == ".parquet":
            with open_atomic(path, "wb") as file:
                result.to_parquet(file, index=False)
        else:
            with open_atomic(path) as file:
                spreadsheet.quote(result).to_csv(file, index=False)
    print(f"{path}: {len(result):,} {'rows' if isinstance(result, pd.DataFrame) else 'windows'}")


def fail(error: Exception, prefix: str = "--config.data.") -> NoReturn:
    """Prints an error in the words of the command line and exits."""
    print(f"error: {in_flags(error, prefix)}", file=sys.stderr)
    sys.exit(EXIT_USAGE)
