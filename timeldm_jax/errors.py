"""The errors that a user can do something about; each message says what."""

import re
import shlex
from typing import Literal

Setting = Literal[
    "cache_dir", "count", "decimal", "dir", "entity", "irregular", "missing", "name", "path",
    "protocol", "schema", "split", "stride", "time", "window",
]  # fmt: skip
# What Python calls a setting that is an argument there; it sets the others in a configuration.
_ARGUMENTS = {"path": "data"} | {
    name: name for name in ("decimal", "entity", "irregular", "missing", "schema", "time", "window")
}
_OPTION = re.compile(r"\{option:(\w+)(?:=([^}]*))?\}")


def option(name: Setting, value: str = "") -> str:
    """A setting of `config.data` within an error's message, named as the user would set it.

    `str` of the error has the words of Python (`irregular='sort'`), `in_flags` those of the
    command line (`--config.data.irregular=sort`).
    """
    return f"{{option:{name}={value}}}" if value else f"{{option:{name}}}"


def in_flags(error: BaseException) -> str:
    """An error's message, settings as flags of the command."""

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        return f"--config.data.{name}" + (f"={shlex.quote(value)}" if value else "")

    text = error.args[0] if isinstance(error, DataError) and error.args else str(error)
    return _OPTION.sub(flag, str(text))


def _in_python(found: re.Match[str]) -> str:
    name, value = found.groups()
    name = _ARGUMENTS.get(name, f"config.data.{name}")
    return f"{name}={value!r}" if value else name


class DataError(ValueError):
    """A fault in the data, or in how it was asked for, that the user can fix; see `option`."""

    def __str__(self) -> str:
        """The message in the words of Python."""
        return _OPTION.sub(_in_python, super().__str__())


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the key."""


class CheckpointError(RuntimeError):
    """No checkpoint, or no saved model, that can be used."""


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite."""


class Preempted(RuntimeError):
    """SIGTERM or SIGINT arrived; the state is saved and the same command resumes."""


USER_ERRORS = (ConfigError, DataError, CheckpointError, NonFiniteLossError)
