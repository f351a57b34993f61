"""The errors that a user can do something about; each message says what."""

import contextlib
import logging
import logging.handlers
import operator
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

LARGEST_SEED = 2**32 - 1

Setting = Literal[
    "cache_dir", "count", "dayfirst", "decimal", "dir", "entity", "entity_names", "irregular",
    "missing", "na_values", "name", "path", "placement", "protocol", "schema", "split", "stride",
    "time", "time_format", "times", "window", "zone",
]  # fmt: skip
# What Python calls a setting that is an argument there; it sets the others in a configuration.
_SAME = (
    "dayfirst", "decimal", "entity", "entity_names", "irregular", "missing", "na_values",
    "placement", "protocol", "schema", "split", "stride", "time", "time_format", "times", "window",
    "zone",
)  # fmt: skip
_ARGUMENTS = {"path": "data"} | {name: name for name in _SAME}
_OPTION = re.compile(r"\{option:(\w+)(?:=([^}]*))?\}")


def option(name: Setting, value: str = "") -> str:
    """A setting of `config.data` within an error's message, named as the user would set it.

    `str` of the error has the words of Python (`irregular='sort'`), `in_flags` those of the
    command line (`--config.data.irregular=sort`).
    """
    return f"{{option:{name}={value}}}" if value else f"{{option:{name}}}"


def in_flags(error: BaseException, prefix: str = "--config.data.") -> str:
    """An error's message, settings as flags of the command, whose names begin with `prefix`."""

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        return f"{prefix}{name}" + (f"={shlex.quote(value)}" if value else "")

    text = error.args[0] if isinstance(error, DataError) and error.args else str(error)
    return _OPTION.sub(flag, str(text))


def _in_python(found: re.Match[str]) -> str:
    name, value = found.groups()
    name = _ARGUMENTS.get(name, f"config.data.{name}")
    return f"{name}={value!r}" if value else name


class DataError(ValueError):
    """A fault in the data, or in how it was asked for, that the user can fix; see `option`.

    Attributes:
      parts: the faults that this one lists, where it is several at once.
    """

    parts: "Sequence[DataError]" = ()

    def __str__(self) -> str:
        """The message in the words of Python."""
        return _OPTION.sub(_in_python, super().__str__())


GUESSES = logging.getLogger("timeldm_jax.guesses")


def guess(text: str, level: int = logging.INFO) -> None:
    """Says what reading a table guessed; `describe` repeats it.

    Args:
      text: with settings as in `option`.
      level: how much it matters.
    """
    GUESSES.log(level, DataError(text))


class Guess(NamedTuple):
    """What reading a table guessed, and how much it matters; see `guess`."""

    text: str
    level: int


@contextlib.contextmanager
def guesses_kept(*, aside: bool = False) -> Iterator[list[Guess]]:
    """What is guessed meanwhile, in a list that is full at the end.

    Args:
      aside: whether nobody else is told.
    """
    found: list[Guess] = []
    keep = logging.handlers.BufferingHandler(sys.maxsize)
    before = GUESSES.handlers, GUESSES.level, GUESSES.propagate
    GUESSES.handlers = [keep] if aside else [*GUESSES.handlers, keep]
    GUESSES.propagate = GUESSES.propagate and not aside
    GUESSES.setLevel(logging.INFO)
    try:
        yield found
    finally:
        GUESSES.handlers, _, GUESSES.propagate = before
        GUESSES.setLevel(before[1])
        said = [(record.msg, record.levelno) for record in keep.buffer]
        # As they were written: `str` has Python's words.
        found += [Guess(each.args[0], level) for each, level in said if isinstance(each, DataError)]


class InFlags(logging.Formatter):
    """A command's log: settings of the data as its flags."""

    def format(self, record: logging.LogRecord) -> str:
        """The message alone."""
        told = record.msg
        return in_flags(told) if isinstance(told, DataError) else super().format(record)


class Problems:
    """Collects faults in data, so that a person hears of all of them at once."""

    def __init__(self) -> None:
        self.found: list[DataError] = []

    @contextlib.contextmanager
    def collect(self) -> Iterator[None]:
        """Keeps the DataError of a part of the work, and goes on after it."""
        try:
            yield
        except DataError as error:
            self.found += error.parts or [error]

    def raise_all(self) -> None:
        """Raises what was found as one DataError, if anything was."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            lines = [f"- {error.args[0]}" for error in self.found]
            whole = DataError("\n".join([f"{len(lines)} problems:", *lines]))
            whole.parts = self.found
            raise whole


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the key."""


class CheckpointError(RuntimeError):
    """No checkpoint, or no saved model, that can be used."""


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite."""


class NonFiniteSamplesError(RuntimeError):
    """A model gave NaN or infinity where it should have given windows."""


class Preempted(RuntimeError):
    """SIGTERM arrived; what was done is saved, and the same command resumes."""


# What reading a file that is not what it should be can raise, however it was damaged or altered.
BAD_CONTENT = (
    ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError,
    MemoryError, NotImplementedError,
)  # fmt: skip
USER_ERRORS = (ConfigError, DataError, CheckpointError, NonFiniteLossError, NonFiniteSamplesError)


def whole(name: str, value: Any, *, least: int | None = 1, most: int | None = None) -> int:
    """An argument that must be a whole number, as an int; numpy's integers are some.

    Args:
      name: of the argument.
      value: what the caller gave.
      least: the smallest that it may be; None: any.
      most: the largest; default: any.

    Raises:
      TypeError: it is no whole number (a truth value, or 2.0, is none).
      ValueError: it is out of range.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name}={value!r} is of type {type(value).__name__}; expected a whole number"
        ) from None
    if least is not None and number < least:
        raise ValueError(f"{name}={number} must be at least {least}")
    if most is not None and number > most:
        raise ValueError(f"{name}={number} must be at most {most}")
    return number


def whole_seed(seed: Any) -> int:
    """A seed, from 0 to 2³² − 1: what the keys of random numbers hold; see `whole`."""
    return whole("seed", seed, least=0, most=LARGEST_SEED)
