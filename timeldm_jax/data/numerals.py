"""Numbers as people write them: 1,234.5 and 1.234,5, 45%, €3, 1.2M, (7).

A column is numbers only where every cell of it is one, written in one way.
"""

import re

import numpy as np
import pandas as pd

from timeldm_jax.errors import guess, option

_HEAD = 50  # cells by which a column of text is known
_MISSING = ("None", "none")
_PLAIN = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_COMMA = r"(?:\d+,?\d*|,\d+)(?:[eE][+-]?\d+)?"
_SPACES = " \u00a0\u2009\u202f'\u2019"  # between thousands: spaces of any width, apostrophes
# A number whose thousands are apart, and the same with the other decimal point.
_THOUSANDS = {
    ".": re.compile(rf"\d{{1,3}}(?:[,{_SPACES}]\d{{3}})*(?:\.\d+)?"),
    ",": re.compile(rf"\d{{1,3}}(?:[.{_SPACES}]\d{{3}})*(?:,\d+)?"),
}
_NUMBER = {".": re.compile(_PLAIN), ",": re.compile(_COMMA)}
_CURRENCY = re.compile(r"[€$£¥₹]|(?:USD|EUR|GBP|CHF|JPY) | (?:USD|EUR|GBP|CHF|JPY|€|kr)$")
# A number with what it is measured in after it: 3.9 °C, 12kWh.
_WITH_UNIT = re.compile(r"([+\-\u2212]?[\d.,]*\d)\s*([^\W\d_][^\s]{0,9}|[°µ%‰Ω][^\s]{0,9})")
FEWEST_MEASURED = 3  # different cells with one unit, from which it is no code
_SCALES = {"": 1.0, "K": 1e3, "k": 1e3, "M": 1e6, "B": 1e9}


def is_number(cell: str) -> bool:
    """Whether a cell is a number, whatever its decimal point."""
    return bool(re.fullmatch(rf"[+-]?(?:{_PLAIN}|{_COMMA})%?", cell))


def decimal_of(frame: pd.DataFrame, separator: str) -> str:
    """The decimal point of a file: that in which most columns of text are numbers.

    `76,586` beside `943` is 76 thousand; `1,5` beside `2` is one and a half; where a column could
    be either, commas are decimal in a file whose separator is another.

    Args:
      frame: as read with points.
      separator: between cells.
    """
    votes = {".": 0, ",": 0}
    either = False
    for column in (frame[name] for name in frame.columns):
        if pd.api.types.is_numeric_dtype(column.dtype):
            continue
        if not _may_be_numbers(column):
            continue
        cells = _cells(column)
        if not cells or not any("," in cell for cell in cells):
            continue
        fits = {point: all(_value(cell, point) is not None for cell in cells) for point in votes}
        if fits["."] and fits[","]:
            either = True
        else:
            for point, fit in fits.items():
                votes[point] += fit
    if votes["."] != votes[","]:
        return max(votes, key=lambda point: votes[point])
    return "," if either and separator == ";" else "."


def convert(frame: pd.DataFrame, decimal: str) -> pd.DataFrame:
    """A table with columns of text as numbers where all their cells are.

    Args:
      frame: as read from a file.
      decimal: the point of its numbers.
    """
    for name in frame.columns:
        column = frame[name]
        if pd.api.types.is_numeric_dtype(column.dtype):
            continue
        if not _may_be_numbers(column):
            continue
        cells = _cells(column)
        unit = _unit(cells)
        values = {cell: _value(cell.removesuffix(unit).strip(), decimal) for cell in cells}
        if not cells or None in values.values():
            continue
        numbers = column.astype("string").str.strip().map(values).astype(np.float64)
        plain = all(re.fullmatch(r"[+-]?\d[\d.,\s]*", cell) for cell in cells)
        point = any(decimal in cell for cell in cells) or not plain
        whole = not point and not numbers.isna().any() and (numbers % 1 == 0).all()
        frame[name] = numbers.astype("int64") if whole else numbers
        guess(
            f"column {name!r}: {cells[0]!r} is read as {values[cells[0]]:.15g}, and so on; "
            f"{option('decimal')} names the decimal point"
        )
    return frame


def _may_be_numbers(column: pd.Series) -> bool:
    """Whether the first cells are numbers in some writing; most text is known by them at once."""
    cells = _cells(column.dropna().iloc[:_HEAD])
    unit = _unit(cells)
    bare = [cell.removesuffix(unit).strip() for cell in cells]
    return any(all(_value(cell, point) is not None for cell in bare) for point in ".,")


def _cells(column: pd.Series) -> list[str]:
    """The different cells of a column that hold something."""
    cells = column.dropna().astype(str).str.strip().unique()
    return [cell for cell in cells if cell not in ("", *_MISSING)]


def _unit(cells: list[str]) -> str:
    """What all cells are measured in, where each is a number with the same word after it; or ""."""
    if len(cells) < FEWEST_MEASURED:
        return ""
    found = [_WITH_UNIT.fullmatch(cell) for cell in cells]
    units = {match.group(2) if match else "" for match in found}
    unit = units.pop()
    return "" if units or unit in _SCALES or unit == "%" else unit


def _value(cell: str, decimal: str) -> float | None:
    """The number in a cell, or None."""
    bare = _CURRENCY.sub("", cell.replace("\u2212", "-")).strip()
    if bare.startswith("(") and bare.endswith(")"):
        bare = f"-{bare[1:-1]}"
    bare = bare.removesuffix("%").strip()
    sign = -1.0 if bare.startswith("-") else 1.0
    bare = _CURRENCY.sub("", bare.lstrip("+-")).strip() if bare[:1] in "+-" else bare
    scale = bare[-1:] if bare[-1:] in _SCALES and bare[-1:] else ""
    bare = bare.removesuffix(scale).strip() if scale else bare
    if _NUMBER[decimal].fullmatch(bare):
        return sign * float(bare.replace(",", ".")) * _SCALES[scale]
    if _THOUSANDS[decimal].fullmatch(bare):
        kept = re.sub(rf"[{'.' if decimal == ',' else ','}{_SPACES}]", "", bare)
        return sign * float(kept.replace(",", ".")) * _SCALES[scale]
    return None
