"""Words of a CSV file that a spreadsheet would run as formulas, and the same words again.

A spreadsheet runs a cell that begins with `=`, `+`, `-` or `@`, in full width too, or with a tab or
a line break before them: https://owasp.org/www-community/attacks/CSV_Injection. Such words are
written with an apostrophe before them, and so are words that begin with apostrophes and then one of
these; reading takes one away, so that the words come back and a file written again is the same.
Numbers are left as they are: a spreadsheet reads `-1.5` as that number.
"""

import re
from collections.abc import Callable

import pandas as pd

_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]inf")


def quote(frame: pd.DataFrame) -> pd.DataFrame:
    """A table whose words, and names of columns, no spreadsheet takes for a formula."""
    return _map_words(frame, _quoted, _FORMULA.pattern)


def unquote(frame: pd.DataFrame) -> pd.DataFrame:
    """The inverse of `quote`, of a table as read from a file."""
    return _map_words(frame, _unquoted, "'")


def _quoted(word: str) -> str:
    return f"'{word}" if _FORMULA.match(word) and not _NUMBER.fullmatch(word) else word


def _unquoted(word: str) -> str:
    return word[1:] if word.startswith("'") and _FORMULA.match(word) else word


def _map_words(frame: pd.DataFrame, change: Callable[[str], str], start: str) -> pd.DataFrame:
    """A table with words changed, those that begin with a pattern at most."""
    found = frame.copy(deep=False)
    for name, column in frame.items():
        if pd.api.types.is_numeric_dtype(column.dtype):
            continue
        if column.dtype != object and not column.astype("string").str.match(start).any():
            continue
        words = {word for word in column.unique() if isinstance(word, str)}
        changed = {word: change(word) for word in words if change(word) != word}
        if changed:
            found[name] = column.astype(object).map(lambda word, to=changed: to.get(word, word))
    return found.rename(columns=lambda name: change(name) if isinstance(name, str) else name)
