"""The lines of a text file, whole or block by block, and how many cells each has.

A block ends where a row ends: a cell in quotes may go on for many lines.
"""

import codecs
import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from etils import epath

from timeldm_jax.data import packed
from timeldm_jax.errors import DataError, guess

SEPARATORS = "\t;|,"
SPACES = r"\s+"
KEPT = 300  # lines by which a table is known
BLOCK = 2**23  # bytes that are read at once
_WESTERN = "cp1252"
_UTF16 = 0.3  # share of zero bytes from which text without a mark is taken for UTF-16


def decode(content: bytes, where: str) -> str:
    """The text of a file: UTF-8, UTF-16, or else Windows' western encoding; lines end alike."""
    try:
        text = content.decode(encoding_of_head(content[:1000]))
    except UnicodeDecodeError:
        try:
            text = content.decode(_WESTERN)
        except UnicodeDecodeError as error:
            raise _no_text(where) from error
        _guess_western(where)
    _check_text(text, where)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def encoding_of_head(head: bytes) -> str:
    """The encoding of a text by its first bytes, where it is none that only its words tell."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if head.count(0) > _UTF16 * len(head):
        return "utf-16-le" if head[1:2] == b"\0" else "utf-16-be"
    return "utf-8-sig"


def _guess_western(where: str) -> None:
    guess(f"{where} is not UTF-8; read as Windows-1252: save it as UTF-8 if words look wrong")


def _no_text(where: str) -> DataError:
    return DataError(f"{where} is no text that can be read; save it as UTF-8")


def _check_text(text: str, where: str) -> None:
    if "\0" in text:
        raise DataError(f"{where} is no text: it holds zero bytes; expected a CSV file")


def encoding_of(path: epath.Path, where: str) -> str:
    """The encoding in which `decode` reads a file, which is read to its end.

    Raises:
      DataError: it is no text.
    """
    with packed.opened(path, where) as (_, content):
        found = encoding_of_head(content.read(1000))
    try:
        for _ in pieces(path, where, found):
            pass
    except UnicodeDecodeError:
        try:
            for _ in pieces(path, where, _WESTERN):
                pass
        except UnicodeDecodeError as error:
            raise _no_text(where) from error
        _guess_western(where)
        return _WESTERN
    return found


def pieces(path: epath.Path, where: str, encoding: str) -> Iterator[list[str]]:
    """All lines of a file, as those of `decode`, some at a time."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(), translate=True)
    rest = ""
    with packed.opened(path, where) as (_, content):
        while True:
            block = content.read(BLOCK)
            text = decoder.decode(block, final=not block)
            _check_text(text, where)
            lines = (rest + text).split("\n")
            if not block:
                yield lines
                return
            rest = lines.pop()
            if lines:
                yield lines


class Block(NamedTuple):
    """Lines that follow each other.

    Attributes:
      first: number of the first, from 0.
      lines: without their ends.
      widths: cells of each; see `widths`.
    """

    first: int
    lines: list[str]
    widths: list[int]


def blocks(found: Iterable[list[str]], separator: str) -> Iterator[Block]:
    """Lines with their widths, cut where rows end.

    Args:
      found: as from `pieces`.
      separator: between cells.
    """
    number, rest = 0, list[str]()
    for some in found:
        lines = rest + some
        counts, whole = widths(lines, separator), _last_row(lines, separator)
        if whole:
            yield Block(number, lines[:whole], counts[:whole])
        number, rest = number + whole, lines[whole:]
    if rest:
        yield Block(number, rest, widths(rest, separator))


def _last_row(lines: list[str], separator: str) -> int:
    """The line that the last row begins with, which may go on."""
    if separator == SPACES or not any('"' in line for line in lines):
        return len(lines) - 1
    reader = csv.reader(io.StringIO("\n".join(lines)), delimiter=separator, skipinitialspace=True)
    before = after = 0
    for _ in reader:
        before, after = after, reader.line_num
    return before


def cells(line: str, separator: str) -> list[str]:
    """The cells of a line."""
    if separator == SPACES:
        return line.split()
    return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])


def widths(lines: list[str], separator: str) -> list[int]:
    """Cells of each line, 0 of a blank one and of the rest of a cell with line breaks."""
    if separator == SPACES:
        return [len(line.split()) for line in lines]
    if not any('"' in line for line in lines):
        return [line.count(separator) + 1 if line.strip() else 0 for line in lines]
    found = [0] * (len(lines) + 1)
    reader = csv.reader(io.StringIO("\n".join(lines)), delimiter=separator, skipinitialspace=True)
    before = 0
    for row in reader:
        found[before] = len(row) if any(row) or len(row) > 1 else 0
        before = reader.line_num
    return found[: len(lines)]


class Line(NamedTuple):
    """A line that holds cells: its number from 0, how many cells, and what it says."""

    number: int
    width: int
    text: str


class Lines:
    """What the place of a table in a file is known by.

    Lines after the last one that says something, blank or of separators alone, are no part of it.

    Attributes:
      used: the first lines that hold cells, `KEPT` of them.
      counts: how many lines have so many cells, by the number of cells.
      others: by a number of cells, the first line beyond `used` that has so many.
      last: the last line that holds cells; None where none does.
      end: number of the line after the last one that says something.
    """

    def __init__(self, found: Iterable[Block], separator: str, first: int) -> None:
        """Reads blocks to their end; lines before `first` are left out."""
        self.used: list[Line] = []
        self.counts: Counter[int] = Counter()
        self.others: dict[int, Line] = {}
        self.last: Line | None = None
        self.end = first
        blank = SEPARATORS + separator + " "
        pending: list[tuple[Block, int, int]] = []
        for block in found:
            said, count = len(block.lines), len(block.lines)
            while said and not block.lines[said - 1].strip(blank):
                said -= 1
            skipped = max(first - block.first, 0)
            if said > skipped:
                for part in (*pending, (block, skipped, said)):
                    self._add(*part)
                pending = []
                self.end = block.first + said
            pending.append((block, max(said, skipped), count))

    def _add(self, block: Block, begin: int, end: int) -> None:
        own = block.widths[begin:end]
        self.counts.update(width for width in own if width)
        for place in range(begin, end):
            if len(self.used) == KEPT:
                break
            begin = place + 1
            if block.widths[place]:
                self.used.append(_line(block, place))
        for width in set(block.widths[begin:end]) - {0, *self.others}:
            self.others[width] = _line(block, block.widths.index(width, begin, end))
        last = next((i for i in range(end - 1, end - len(own) - 1, -1) if block.widths[i]), None)
        if last is not None:
            self.last = _line(block, last)


def _line(block: Block, place: int) -> Line:
    return Line(block.first + place, block.widths[place], block.lines[place])
