"""Damaged and strange files: whatever is wrong, the reader says so in its own errors."""

import pathlib
import random

import pytest

from timeldm_jax.data import gaps, reader, table
from timeldm_jax.errors import ConfigError, DataError

FOLDER = pathlib.Path(__file__).parent / "tables"
SEEDS = (
    "plain.csv", "decimal_comma.csv", "day_and_time.csv", "offsets_at_a_switch.csv", "tickers.csv",
    "percent_and_currency.csv", "quarters.csv", "in_parts.csv", "wide.csv", "records.json",
    "lines.jsonl", "readings.arff",
)  # fmt: skip
MUTANTS = 2_000
CELLS = (
    "", " ", "nan", "inf", "-inf", "1e400", "-0", "1e-320", "9" * 40, "NULL", "=1+1", "'", '"',
    '""', "2024-02-30", "24:00", "99:99", "0000-00-00", "31/31/2024", "2024-13-01T25:61:61Z", "@",
    "\u0660", "\u2212", "1,2,3", "1.2.3", "--1", "+", "0x10", "True", "\u00e9", "\U0001f600",
    "\t", "{}", "[]", "%", "$", "1_000", "1e", "10000-01-01", "-5000-01-01",
    "1970-01-01T00:00:00.123456789123Z",
)  # fmt: skip
BYTES = (
    b"\0", b"\xff", b"\xfe\xff", b"\r", b'"', b"\n\n", b";", b",", b"\xef\xbb\xbf", b"#",
    b"\x1a",
)  # fmt: skip


def mutant(content: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 5))):
        lines = content.split(b"\n")
        place = rng.randrange(len(lines))
        kind = rng.randrange(8)
        if kind == 0:
            spot = rng.randrange(len(content) + 1)
            content = content[:spot] + rng.choice(BYTES) + content[spot + rng.randrange(3) :]
            continue
        if kind == 1:
            content = content[: rng.randrange(len(content) + 1)]
            continue
        if kind == 2:
            del lines[place]
        elif kind == 3:
            lines.insert(place, lines[rng.randrange(len(lines))])
        elif kind == 4:
            rng.shuffle(lines)
        else:
            separator = next((s for s in (b";", b",", b"\t") if s in lines[place]), b",")
            cells = lines[place].split(separator)
            cells[rng.randrange(len(cells))] = rng.choice(CELLS).encode()
            if kind == 7:  # the same cell in all lines below
                column = rng.randrange(len(cells))
                value = rng.choice(CELLS).encode()
                for number in range(place, len(lines)):
                    other = lines[number].split(separator)
                    if column < len(other):
                        other[column] = value
                        lines[number] = separator.join(other)
            else:
                lines[place] = separator.join(cells)
        content = b"\n".join(lines)
        if not content:
            break
    return content


def taken(path: pathlib.Path, **options: str) -> None:
    chosen = table.Options(**options)
    frame, where = reader.read(str(path), chosen.decimal)
    frame, found = table.prepare(gaps.mark_missing(frame, where, chosen.na_values), where, chosen)
    table.encode(frame, found, where)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.filterwarnings("ignore")  # of pandas, about strange numbers and dates
def test_mutants_are_read_or_refused(seed, tmp_path):
    rng = random.Random(seed)
    content = (FOLDER / seed).read_bytes()
    path = tmp_path / seed
    rules = ({}, {"irregular": "sort"}, {"irregular": "resample"}, {"na_values": "?,-200"})
    for number in range(MUTANTS // len(SEEDS) + 1):
        path.write_bytes(mutant(content, rng))
        try:
            taken(path, **rules[number % 4])
        except (DataError, ConfigError):
            continue
        except Exception as error:
            kept = path.read_bytes()
            raise AssertionError(f"mutant {number} of {seed}: {kept[:3000]!r}") from error
