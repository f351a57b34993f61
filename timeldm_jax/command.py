"""What the commands share: flags of their own, help that fits a screen, and errors in one line.

A command's flags live in a `FlagValues` that it makes when it starts, never among absl's global
ones: a program that imports this package keeps every flag name for itself.
"""

import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import flags

from timeldm_jax.errors import in_flags

EXIT_USAGE = 2
_HELP = {"-h", "-help", "--help", "--helpfull"}


def parse(
    own: flags.FlagValues,
    argv: Sequence[str],
    about: str | None,
    explain: Callable[[Exception], str] = str,
) -> None:
    """Parses a command's flags; prints its help, or one line about what is wrong, and exits.

    Args:
      own: the command's flags.
      argv: the command and its arguments.
      about: the command's docstring, for `--help`.
      explain: says in one line what an error of a flag's value means.
    """
    if _HELP & set(argv[1:]):
        print(help_text(own, about or ""))
        sys.exit(0)
    try:
        rest = own(list(argv))
    except (flags.Error, KeyError, AttributeError, TypeError, ValueError) as error:
        fail(ValueError((explain(error) or type(error).__name__).splitlines()[0]))
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


def fail(error: Exception) -> NoReturn:
    """Prints an error in the words of the command line and exits."""
    print(f"error: {in_flags(error)}", file=sys.stderr)
    sys.exit(EXIT_USAGE)
