"""How a text file writes a table: its encoding, separator, header, and lines that are no rows."""

import codecs
import csv
import io
import re
from collections import Counter
from typing import NamedTuple

import numpy as np
import pandas as pd

from timeldm_jax.data import numerals
from timeldm_jax.data.formats import looks_like_time
from timeldm_jax.errors import DataError, guess

# Words that stand for nothing. "None" is a word among words, and nothing among numbers.
NOTHING = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "n/a", "nan", "null",
)  # fmt: skip
_SEPARATORS = "\t;|,"
_BLANK = _SEPARATORS + " "
_SPACES = r"\s+"
_HEAD = 200  # lines by which the separator is found
_PREAMBLE = 50  # most lines above a header
_UTF16 = 0.3  # share of zero bytes from which text without a mark is taken for UTF-16


class _Layout(NamedTuple):
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
    text = decode(content, where)
    lines = text.split("\n")
    if not text.strip():
        raise DataError(f"{where} is empty; it needs a header line and rows")
    layout = _layout(lines, where, decimal)
    body = "\n".join(lines[layout.first : layout.last])
    frame = _parse(body, layout, decimal or ".")
    if not decimal:
        found = numerals.decimal_of(frame, layout.separator)
        if found == ",":
            frame, decimal = _parse(body, layout, ","), ","
    frame = numerals.convert(frame, decimal or ".")
    frame = _keep_leading_zeros(frame, body, layout)
    return _name_the_unnamed(frame.drop(columns=[layout.names[place] for place in layout.drop]))


def decode(content: bytes, where: str) -> str:
    """The text of a file: UTF-8, UTF-16, or else Windows' western encoding; lines end alike."""
    encoding = "utf-8-sig"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif content[:1000].count(0) > _UTF16 * len(content[:1000]):
        encoding = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError as error:
            raise DataError(f"{where} is no text that can be read; save it as UTF-8") from error
        guess(f"{where} is not UTF-8; read as Windows-1252: save it as UTF-8 if words look wrong")
    if "\0" in text:
        raise DataError(f"{where} is no text: it holds zero bytes; expected a CSV file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _layout(lines: list[str], where: str, decimal: str) -> _Layout:
    first = 0
    said = re.fullmatch(r'"?sep=(.)"?', lines[0].strip() or "x")
    if said:
        first, separator = 1, said.group(1)
    else:
        separator = _separator(lines[:_HEAD], decimal)
    widths = _widths(lines, separator)
    last = len(lines)
    while last > first and not lines[last - 1].strip(_SEPARATORS + separator + " "):
        last -= 1  # blank lines, and rows of separators alone
    used = [number for number in range(first, last) if widths[number]]
    if not used:
        raise DataError(f"{where} is empty; it needs a header line and rows")
    width = Counter(widths[number] for number in used).most_common(1)[0][0]
    # A header that stands alone, or among few rows, says the width.
    if len(used) < 3:
        width = max(widths[number] for number in used)
    start = next(number for number in used if widths[number] == width)
    before = [number for number in used if number < start]
    # A header one name short stands above rows, and not above a header of its own.
    short = bool(before) and widths[before[-1]] == width - 1
    if short and not _is_data(_cells(lines[start], separator)) and len(used) > 2:
        after = used.index(start) + 1
        below = (_cells(lines[number], separator) for number in used[after : after + 2])  # units
        short = any(map(numerals.is_number, _cells(lines[start], separator)))
        short = short or not any(map(_is_data, below))
    if short and not _is_data(_cells(lines[before[-1]], separator)):
        start = before.pop()
    if len(before) > _PREAMBLE:
        start = used[0]
    header = _cells(lines[start], separator)
    names = [name.strip() for name in header]
    names[0] = names[0].lstrip("#").strip() or names[0]  # as numpy.savetxt writes it
    rows = [number for number in used if number > start]
    if _is_data(names) and rows:
        names, rows = [f"column_{i}" for i in range(len(names))], [start, *rows]
    elif len(rows) > 2 and _are_units([_cells(lines[number], separator) for number in rows[:3]]):
        guess(f"{where}: its line {rows[0] + 1} is taken for units: remove it if it is none")
        rows = rows[1:]
    if before:
        lines_left = "line" if len(before) == 1 else f"{len(before)} lines"
        guess(f"{where}: the {lines_left} above its header left out")
    names, drop = _fit(names, [lines[number] for number in rows], width, separator, where)
    for number in rows:
        if widths[number] != width:
            raise DataError(
                f"{where}, line {number + 1} has {widths[number]} cells, and most lines have "
                f"{width}; mend or remove it"
            )
    for name in names:
        if name and names.count(name) > 1:
            raise DataError(f"{where}: two columns are called {name!r}; names must differ")
    names = [name or f"Unnamed: {place}" for place, name in enumerate(names)]
    return _Layout(separator, names, rows[0] if rows else last, last, drop)


def _separator(lines: list[str], decimal: str) -> str:
    """What cuts most lines into as many cells; a decimal comma does not."""
    used = [line for line in lines if line.strip()]
    if not decimal and _is_one_column(used):
        decimal = ","
    # Of one column, a separator that is in none of its lines.
    best, most = ";" if decimal == "," else ",", 0.0
    for candidate in _SEPARATORS:
        if candidate == decimal:
            continue
        widths = Counter(len(_cells(line, candidate)) for line in used)
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
            return _SPACES
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


def _cells(line: str, separator: str) -> list[str]:
    if separator == _SPACES:
        return line.split()
    return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])


def _widths(lines: list[str], separator: str) -> list[int]:
    """Cells of each line, 0 of a blank one and of the rest of a cell with line breaks."""
    if separator == _SPACES:
        return [len(line.split()) for line in lines]
    if not any('"' in line for line in lines):
        return [line.count(separator) + 1 if line.strip() else 0 for line in lines]
    widths = [0] * (len(lines) + 1)
    reader = csv.reader(io.StringIO("\n".join(lines)), delimiter=separator, skipinitialspace=True)
    before = 0
    for cells in reader:
        widths[before] = len(cells) if any(cells) or len(cells) > 1 else 0
        before = reader.line_num
    return widths[: len(lines)]


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
    names: list[str], rows: list[str], width: int, separator: str, where: str
) -> tuple[list[str], tuple[int, ...]]:
    """As many names as cells, and the places of columns that hold nothing but row numbers."""
    some = [_cells(line, separator) for line in (*rows[:_HEAD], *rows[-1:])]
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


def _parse(body: str, layout: _Layout, decimal: str) -> pd.DataFrame:
    return pd.read_csv(
        io.StringIO(body),
        sep=layout.separator,
        header=None,
        names=layout.names,
        index_col=False,
        decimal=decimal,
        skipinitialspace=True,
        skip_blank_lines=len(layout.names) > 1,
        keep_default_na=False,
        na_values=list(NOTHING),
        low_memory=False,
    )


def _keep_leading_zeros(frame: pd.DataFrame, body: str, layout: _Layout) -> pd.DataFrame:
    """Codes such as 01000 are words, which a number would shorten."""
    if not any(_are_whole(frame[name]) for name in frame.columns):
        return frame
    edge = rf'[{layout.separator}"]'
    code = rf"(?:^|{edge}) *0\d\d+ *(?:$|{edge})"
    if layout.separator == _SPACES or not re.search(code, body, re.MULTILINE):
        return frame
    words = pd.read_csv(
        io.StringIO(body), sep=layout.separator, header=None, names=layout.names, index_col=False,
        dtype=str, skipinitialspace=True, keep_default_na=False, na_values=list(NOTHING),
        skip_blank_lines=len(layout.names) > 1,
    )  # fmt: skip
    for name in frame.columns:
        if _are_whole(frame[name]):
            cells = words[name].dropna()
            coded = cells.str.fullmatch(r"\d{3,}").all() and cells.str.match("0").any()
            if coded and cells.str.len().nunique() == 1:
                frame[name] = words[name]
    return frame


def _are_whole(column: pd.Series) -> bool:
    """Whether a column is whole numbers, or nothing but whole numbers and gaps."""
    if not pd.api.types.is_float_dtype(column.dtype):
        return pd.api.types.is_integer_dtype(column.dtype)
    return bool((column.dropna() % 1 == 0).all())


def _name_the_unnamed(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the row numbers that pandas writes; times that have no name are called `time`."""
    first = frame.columns[0] if len(frame.columns) > 1 else ""
    if first != "Unnamed: 0" or frame[first].isna().any():
        return frame
    column = frame[first]
    if pd.api.types.is_integer_dtype(column.dtype):
        counts = bool((column.diff().dropna() == 1).all())
        return frame.drop(columns=first) if counts and column.iloc[0] in (0, 1) else frame
    text = pd.api.types.is_string_dtype(column.dtype)
    if text and looks_like_time(column) and "time" not in frame.columns:
        return frame.rename(columns={first: "time"})
    return frame
