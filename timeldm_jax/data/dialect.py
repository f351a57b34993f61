"""How a text file writes a table: its separator, header, and lines that are no rows."""

import io
import re
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from timeldm_jax.data import lines as texts
from timeldm_jax.data import numerals
from timeldm_jax.data.formats import looks_like_time
from timeldm_jax.data.lines import SEPARATORS, SPACES, Block, Line, Lines
from timeldm_jax.errors import DataError, guess

# Words that stand for nothing. "None" is a word among words, and nothing among numbers.
NOTHING = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "n/a", "nan", "null",
)  # fmt: skip
UNNAMED = "Unnamed: 0"
_BLANK = SEPARATORS + " "
HEAD = 200  # lines by which the separator is found
_PREAMBLE = 50  # most lines above a header


class Layout(NamedTuple):
    """Where a table is in a file.

    Attributes:
      separator: between cells, or a pattern of spaces.
      names: of the columns.
      first: number of the first line of the rows, from 0.
      last: number of the line after the last row.
      drop: places of columns that hold nothing, or row numbers.
    """

    separator: str
    names: list[str]
    first: int
    last: int
    drop: tuple[int, ...]


def read_csv(content: bytes, where: str, decimal: str = "") -> pd.DataFrame:
    """The table of a text file, numbers as numbers however they are written.

    Args:
      content: of the file.
      where: what to call it in errors.
      decimal: `.` or `,`; "" finds out.

    Raises:
      DataError: no text, no rows, rows of unequal length, or a column named twice.
    """
    lines = texts.decode(content, where).split("\n")
    first, separator = start(lines[:HEAD], where, decimal)
    block = Block(0, lines, texts.widths(lines, separator))
    found = layout(Lines([block], separator, first), separator, where)
    body = "\n".join(lines[found.first : found.last])
    frame = parse(body, found, decimal or ".")
    if not decimal:
        seen = {name: numerals.Seen.of(frame[name]) for name in frame.columns}
        if numerals.decimal_of(seen.values(), found.separator) == ",":
            frame, decimal = parse(body, found, ","), ","
    frame = numerals.convert(frame, decimal or ".")
    frame = _keep_leading_zeros(frame, body, found)
    return _name_the_unnamed(frame.drop(columns=[found.names[place] for place in found.drop]))


def start(head: list[str], where: str, decimal: str) -> tuple[int, str]:
    """The number of the first line that is no word to a spreadsheet, and the separator.

    Args:
      head: the first lines, `HEAD` of them.
      where: what to call the file in errors.
      decimal: as of `read_csv`.

    Raises:
      DataError: they say nothing.
    """
    if not any(line.strip() for line in head):
        raise _empty(where)
    said = re.fullmatch(r'"?sep=(.)"?', head[0].strip() or "x")
    return (1, said.group(1)) if said else (0, separator_of(head, decimal))


def _empty(where: str) -> DataError:
    return DataError(f"{where} is empty; it needs a header line and rows")


def layout(lines: Lines, separator: str, where: str) -> Layout:
    """Where a table is in a file.

    Args:
      lines: all lines of the file.
      separator: between cells.
      where: what to call the file in errors.

    Raises:
      DataError: as `read_csv`.
    """
    used = lines.used
    if not used or lines.last is None:
        raise _empty(where)
    width = lines.counts.most_common(1)[0][0]
    # A header that stands alone, or among few rows, says the width.
    if lines.counts.total() < 3:
        width = max(line.width for line in used)
    place = _header(used, width, separator)
    before = used[:place]
    if place > _PREAMBLE:
        place = 0
    names = [name.strip() for name in texts.cells(used[place].text, separator)]
    names[0] = names[0].lstrip("#").strip() or names[0]  # as numpy.savetxt writes it
    rows = used[place + 1 :]
    if _is_data(names) and rows:
        names, rows = [f"column_{i}" for i in range(len(names))], used[place:]
    elif len(rows) > 2 and _are_units([texts.cells(line.text, separator) for line in rows[:3]]):
        guess(f"{where}: its line {rows[0].number + 1} is taken for units: remove it if it is none")
        rows = rows[1:]
    if before:
        lines_left = "line" if len(before) == 1 else f"{len(before)} lines"
        guess(f"{where}: the {lines_left} above its header left out")
    some = [line.text for line in (*rows[:HEAD], *([lines.last] if rows else ()))]
    names, drop = _fit(names, some, width, separator, where)
    for line in (*rows, *sorted(lines.others.values())):
        if line.width != width:
            raise DataError(
                f"{where}, line {line.number + 1} has {line.width} cells, and most lines have "
                f"{width}; mend or remove it"
            )
    for name in names:
        if name and names.count(name) > 1:
            raise DataError(f"{where}: two columns are called {name!r}; names must differ")
    names = [name or f"Unnamed: {place}" for place, name in enumerate(names)]
    return Layout(separator, names, rows[0].number if rows else lines.end, lines.end, drop)


def _header(used: list[Line], width: int, separator: str) -> int:
    """The place of the header among the first lines; more than `_PREAMBLE` where it is none."""
    place = next((i for i, line in enumerate(used) if line.width == width), len(used))
    if place == len(used):
        return place
    # A header one name short stands above rows, and not above a header of its own.
    short = place > 0 and used[place - 1].width == width - 1
    start = texts.cells(used[place].text, separator)
    if short and not _is_data(start) and len(used) > 2:
        below = (texts.cells(line.text, separator) for line in used[place + 1 : place + 3])  # units
        short = any(map(numerals.is_number, start)) or not any(map(_is_data, below))
    if short and not _is_data(texts.cells(used[place - 1].text, separator)):
        place -= 1
    return place


def separator_of(lines: list[str], decimal: str) -> str:
    """What cuts most lines into as many cells; a decimal comma does not."""
    used = [line for line in lines if line.strip()]
    if not decimal and _is_one_column(used):
        decimal = ","
    # Of one column, a separator that is in none of its lines.
    best, most = ";" if decimal == "," else ",", 0.0
    for candidate in SEPARATORS:
        if candidate == decimal:
            continue
        widths = Counter(len(texts.cells(line, candidate)) for line in used)
        width, count = widths.most_common(1)[0]
        if width == 1:
            widths.pop(1)
            width, count = widths.most_common(1)[0] if widths else (1, 0)
        # Few lines are enough where they are the only ones: a header above ragged rows.
        share = count / len(used)
        if width > 1 and share > most + 1e-9:
            best, most = candidate, share
    if most == 0:
        widths = Counter(len(line.split()) for line in used)
        width, count = widths.most_common(1)[0]
        if width > 1 and count == len(used) and len(used) > 2:
            return SPACES
    return best


def _is_one_column(lines: list[str]) -> bool:
    """Whether a name without a comma stands above numbers of one comma at most, as in 0,5."""
    name, *rest = (line.strip().strip('"') for line in lines)
    numbers = [cell for cell in rest if cell not in NOTHING]
    whole = [cell.split(",")[0] for cell in numbers if "," in cell]
    return (
        not re.search(r"[,;\t|]|^[\s\d.+-]*$", name)
        and all(re.fullmatch(r"[+-]?\d+(,\d+)?", cell) for cell in numbers)
        and bool(whole)
        and not (len(whole) > 2 and _counts([cell.lstrip("+") for cell in whole]))  # row numbers
    )


def _is_data(cells: list[str]) -> bool:
    """Whether a line is numbers and times only, and not years or numbers of columns in a row."""
    present = [cell.strip() for cell in cells if cell.strip()]
    numbers = [numerals.is_number(cell) for cell in present]
    if not present or not all(
        number or looks_like_time(pd.Series([cell]))
        for number, cell in zip(numbers, present, strict=True)
    ):
        return False
    if all(re.fullmatch(r"\d+", cell) for cell in present) and len(present) > 1:
        return bool((np.diff([int(cell) for cell in present]) != 1).any())
    return True


def _are_units(rows: list[list[str]]) -> bool:
    """Whether the first of some lines is words where all others are numbers or times."""
    if len({len(row) for row in rows}) > 1:
        return False
    units, *others = rows
    said = 0
    for cell, *below in zip(units, *others, strict=True):
        cell = cell.strip()
        if numerals.is_number(cell) or (cell and looks_like_time(pd.Series([cell]))):
            return False
        if cell and cell not in (*NOTHING, "None", "?", "-"):
            said += all(numerals.is_number(other.strip()) for other in below)
    return said > 0


def _fit(
    names: list[str], some_rows: list[str], width: int, separator: str, where: str
) -> tuple[list[str], tuple[int, ...]]:
    """As many names as cells, and the places of columns that hold nothing but row numbers."""
    some = [texts.cells(line, separator) for line in some_rows]
    full = [cells for cells in some if len(cells) == width]
    if len(names) == width - 1 and full:
        if not any(cells[-1].strip() for cells in full):  # a separator ends each row
            return [*names, "(nothing)"], (width - 1,)
        first = [cells[0].strip() for cells in full]
        if looks_like_time(pd.Series(first)):
            return ["time", *names], ()
        if all(re.fullmatch(r"\d+", cell) for cell in first) and _counts(first[:-1]):
            return ["(row)", *names], (0,)
        raise DataError(
            f"{where}: the header has {len(names)} names and rows have {width} cells, such as "
            f"{separator.join(full[0])!r}; name every column"
        )
    named = len(names)
    while named and not names[named - 1].strip(_BLANK):
        named -= 1
    if full and not any(cell.strip(_BLANK) for cells in full for cell in cells[named:]):
        empty = tuple(range(named, len(names)))
        return [*names[:named], *(f"(nothing {place})" for place in empty)], empty
    return names, ()


def _counts(cells: list[str]) -> bool:
    numbers = [int(cell) for cell in cells]
    return numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True


def parse(body: str, layout: Layout, decimal: str, dtype: Any = None) -> pd.DataFrame:
    """The rows of a table.

    Args:
      body: their lines.
      layout: of the file.
      decimal: the point of its numbers.
      dtype: of the columns; default: what all their cells can be.
    """
    return pd.read_csv(
        io.StringIO(body),
        sep=layout.separator,
        header=None,
        names=layout.names,
        index_col=False,
        dtype=dtype,
        decimal=decimal,
        skipinitialspace=True,
        skip_blank_lines=len(layout.names) > 1,
        keep_default_na=False,
        na_values=list(NOTHING),
        low_memory=False,
    )


def _keep_leading_zeros(frame: pd.DataFrame, body: str, layout: Layout) -> pd.DataFrame:
    """Codes such as 01000 are words, which a number would shorten."""
    whole = [name for name in frame.columns if are_whole(frame[name])]
    if not whole or not may_have_codes(body, layout):
        return frame
    words = parse(body, layout, ".", str)
    for name in whole:
        codes = Codes()
        codes.add(words[name])
        if codes.found:
            frame[name] = words[name]
    return frame


def may_have_codes(body: str, layout: Layout) -> bool:
    """Whether some cell is digits of which the first is zero."""
    edge = rf'[{layout.separator}"]'
    code = rf"(?:^|{edge}) *0\d\d+ *(?:$|{edge})"
    return layout.separator != SPACES and bool(re.search(code, body, re.MULTILINE))


class Codes:
    """Whether a column of whole numbers is codes: as many digits each, and a zero before some."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._digits, self._zero, self._lengths = True, False, set[int]()

    def add(self, words: pd.Series) -> None:
        """The next cells, as text."""
        cells = words.dropna()
        self._digits &= bool(cells.str.fullmatch(r"\d{3,}").all())
        self._zero |= bool(cells.str.match("0").any())
        self._lengths |= set(cells.str.len().unique())

    @property
    def found(self) -> bool:
        """Whether all cells so far are."""
        return self._digits and self._zero and len(self._lengths) == 1


def are_whole(column: pd.Series) -> bool:
    """Whether a column is whole numbers, or nothing but whole numbers and gaps."""
    if not pd.api.types.is_float_dtype(column.dtype):
        return pd.api.types.is_integer_dtype(column.dtype)
    return bool((column.dropna() % 1 == 0).all())


def _name_the_unnamed(frame: pd.DataFrame) -> pd.DataFrame:
    first = frame.columns[0]
    if first != UNNAMED or frame[first].isna().any():
        return frame
    column = frame[first]
    whole = pd.api.types.is_integer_dtype(column.dtype)
    name = name_of_first(
        list(frame.columns), column, counts=whole and bool((column.diff().dropna() == 1).all())
    )
    return frame.rename(columns={first: name}) if name else frame.drop(columns=first)


def name_of_first(names: list[str], column: pd.Series, *, counts: bool) -> str:
    """What a first column without a name is called; "" where it is row numbers, as of pandas.

    Args:
      names: of all columns.
      column: its first cells, none of them missing.
      counts: whether each of its numbers is one more than the one before.
    """
    if len(names) == 1:
        return UNNAMED
    if pd.api.types.is_integer_dtype(column.dtype):
        return "" if counts and column.iloc[0] in (0, 1) else UNNAMED
    text = pd.api.types.is_string_dtype(column.dtype)
    return "time" if text and "time" not in names and looks_like_time(column) else UNNAMED
