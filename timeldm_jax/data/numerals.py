"""Numbers as people write them: 1,234.5 and 1.234,5, 45%, €3, 1.2M, (7).

A column is numbers only where every cell of it is one, written in one way.
"""

import dataclasses
import re
from collections.abc import Iterable

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


@dataclasses.dataclass
class Seen:
    """What the cells of a column of text show of how its numbers are written; parts add up.

    Attributes:
      head: the first cells that are there, by which most text is known at once.
      first: the first cell that holds something; "": none does.
      different: some different cells, `FEWEST_MEASURED` at most.
      units: what cells are measured in; "" stands for nothing.
      commas: whether a cell has one.
      gaps: whether a cell holds nothing.
      plain: whether all are digits, points, commas and spaces.
      points: the decimal points that some cell has.
      words: by decimal point and whether units are taken off, that some cell is no number then.
      parts: likewise, that some number is not whole.
    """

    head: list[str] = dataclasses.field(default_factory=list)
    first: str = ""
    different: set[str] = dataclasses.field(default_factory=set)
    units: set[str] = dataclasses.field(default_factory=set)
    commas: bool = False
    gaps: bool = False
    plain: bool = True
    points: set[str] = dataclasses.field(default_factory=set)
    words: set[tuple[str, bool]] = dataclasses.field(default_factory=set)
    parts: set[tuple[str, bool]] = dataclasses.field(default_factory=set)

    @classmethod
    def of(cls, column: pd.Series) -> "Seen":
        """What a whole column shows."""
        found = cls()
        found.add(column)
        return found

    def add(self, column: pd.Series) -> None:
        """The next cells; those of a column of numbers, or that begins as words, are not read."""
        if pd.api.types.is_numeric_dtype(column.dtype):
            return
        room = _HEAD - len(self.head)
        self.head += column.dropna().iloc[:room].astype(str).tolist() if room else []
        if self.is_text:
            return
        found = column.astype("string").str.strip()
        self.gaps |= bool((found.isna() | found.isin(("", *_MISSING))).any())
        for cell in _cells(column):
            self._add(cell)

    def _add(self, cell: str) -> None:
        self.first = self.first or cell
        if len(self.different) < FEWEST_MEASURED:
            self.different.add(cell)
        match = _WITH_UNIT.fullmatch(cell)
        unit = match.group(2) if match else ""
        if len(self.units) < 2:
            self.units.add(unit)
        self.commas |= "," in cell
        self.plain &= bool(re.fullmatch(r"[+-]?\d[\d.,\s]*", cell))
        self.points |= set(".,") & set(cell)
        for point in ".,":
            for bare in (False, True) if unit else (False,):
                text = cell.removesuffix(unit).strip() if bare else cell
                value = _value(text, point)
                cases = {(point, bare)} if unit else {(point, False), (point, True)}
                self.words |= cases if value is None else set()
                self.parts |= cases if value is not None and value % 1 else set()

    @property
    def is_text(self) -> bool:
        """Whether the first cells are there and are no numbers, whatever comes after them."""
        return len(self.head) == _HEAD and not self.may_be_numbers()

    def may_be_numbers(self) -> bool:
        """Whether the first cells are numbers in some writing."""
        cells = _cells(pd.Series(self.head, dtype="str"))
        unit = _unit(cells)
        bare = [cell.removesuffix(unit).strip() for cell in cells]
        return any(all(_value(cell, point) is not None for cell in bare) for point in ".,")

    @property
    def unit(self) -> str:
        """What all cells are measured in, where each is a number with the same word after it."""
        return _common(self.units) if len(self.different) == FEWEST_MEASURED else ""

    def number(self, decimal: str) -> bool:
        """Whether every cell is a number."""
        known = bool(self.first) and (decimal, bool(self.unit)) not in self.words
        return known and self.may_be_numbers()

    def whole(self, decimal: str) -> bool:
        """Whether the numbers are written as whole ones, and none is missing."""
        point = decimal in self.points or not self.plain
        return not point and not self.gaps and (decimal, bool(self.unit)) not in self.parts


def decimal_of(columns: Iterable[Seen], separator: str) -> str:
    """The decimal point of a file: that in which most columns of text are numbers.

    `76,586` beside `943` is 76 thousand; `1,5` beside `2` is one and a half; where a column could
    be either, commas are decimal in a file whose separator is another.

    Args:
      columns: of the file, as read with points.
      separator: between cells.
    """
    votes = {".": 0, ",": 0}
    either = False
    for seen in columns:
        if not seen.first or not seen.commas or not seen.may_be_numbers():
            continue
        fits = {point: (point, False) not in seen.words for point in votes}
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
        seen = Seen.of(frame[name])
        if seen.number(decimal):
            frame[name] = numbers_of(frame[name], seen, decimal)
            say(str(name), seen, decimal)
    return frame


def numbers_of(column: pd.Series, seen: Seen, decimal: str) -> pd.Series:
    """Cells of a column whose cells are all numbers, as numbers.

    Args:
      column: some of it.
      seen: of all of it.
      decimal: their point.
    """
    values = {
        cell: _value(cell.removesuffix(seen.unit).strip(), decimal) for cell in _cells(column)
    }
    numbers = column.astype("string").str.strip().map(values).astype(np.float64)
    return numbers.astype("int64") if seen.whole(decimal) else numbers


def say(name: str, seen: Seen, decimal: str) -> None:
    """Says how the numbers of a column are read."""
    value = _value(seen.first.removesuffix(seen.unit).strip(), decimal)
    guess(
        f"column {name!r}: {seen.first!r} is read as {value:.15g}, and so on; "
        f"{option('decimal')} names the decimal point"
    )


def _cells(column: pd.Series) -> list[str]:
    """The different cells of a column that hold something."""
    cells = column.dropna().astype(str).str.strip().unique()
    return [cell for cell in cells if cell not in ("", *_MISSING)]


def _unit(cells: list[str]) -> str:
    """What all cells are measured in, where each is a number with the same word after it; or ""."""
    if len(cells) < FEWEST_MEASURED:
        return ""
    found = [_WITH_UNIT.fullmatch(cell) for cell in cells]
    return _common({match.group(2) if match else "" for match in found})


def _common(units: set[str]) -> str:
    unit = next(iter(units))
    return "" if len(units) > 1 or unit in _SCALES or unit == "%" else unit


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
