"""Columns of every dtype that pandas, Python and Arrow have come back as they were."""

import datetime
import decimal
import json

import numpy as np
import pandas as pd
import pytest

from timeldm_jax.data import dtypes, reader, schema, table

ROWS = 240
RANDOM = np.random.default_rng(0)
NUMBERS = RANDOM.normal(size=ROWS)
COUNTS = RANDOM.integers(0, 9, ROWS)
LEVELS = np.array(["low", "middle", "high"])[COUNTS % 3]
DAYS = pd.Series(pd.Timestamp("2024-01-01") + pd.to_timedelta(RANDOM.integers(0, 300, ROWS), "D"))
DURATIONS = pd.Series(pd.to_timedelta(COUNTS + 1, "s"))
EXACT = [decimal.Decimal(f"{number:.2f}") for number in NUMBERS]


def arrow(name):
    pa = pytest.importorskip("pyarrow")
    types = {
        "decimal": (EXACT, pa.decimal128(10, 2)),
        "dictionary": (LEVELS, pa.dictionary(pa.int8(), pa.string())),
        "date": (DAYS.dt.date, pa.date32()),
        "duration": (DURATIONS, pa.duration("s")),
        "timestamp": (DAYS, pa.timestamp("us")),
        "double": (NUMBERS, pa.float64()),
        "integer": (COUNTS, pa.int16()),
        "string": (LEVELS, pa.string()),
    }
    values, kind = types[name]
    return pd.Series(pa.array(list(values)).cast(kind).to_pandas(types_mapper=pd.ArrowDtype))


COLUMNS = {
    "ordered": lambda: pd.Series(pd.Categorical(LEVELS, ["low", "middle", "high"], ordered=True)),
    "not ordered": lambda: pd.Series(pd.Categorical(LEVELS, ["middle", "low", "high"])),
    "categories of numbers": lambda: pd.Series(pd.Categorical(COUNTS % 3)),
    "intervals": lambda: pd.cut(pd.Series(NUMBERS), 5),
    "intervals of time": lambda: pd.Series(pd.cut(DAYS, 3)),
    "decimal numbers": lambda: pd.Series(EXACT, dtype=object),
    "durations": lambda: DURATIONS,
    "dates": lambda: DAYS.dt.date,
    "times of day": lambda: pd.Series([datetime.time(int(n)) for n in COUNTS], dtype=object),
    "months": lambda: DAYS.dt.to_period("M"),
    "nullable integers": lambda: pd.Series(pd.array(COUNTS, dtype="Int16")),
    "nullable flags": lambda: pd.Series(pd.array(COUNTS > 4, dtype="boolean")),
    "eight bits": lambda: pd.Series(COUNTS.astype(np.int8)),
    "half precision": lambda: pd.Series(NUMBERS.astype(np.float16)),
    "numbers as text": lambda: pd.Series([f"{number:.2f}" for number in NUMBERS]),
    "codes with zeros before them": lambda: pd.Series(np.array(["01000", "94110"])[COUNTS % 2]),
    "days as text": lambda: DAYS.dt.strftime("%d.%m.%Y"),
    "tiny": lambda: pd.Series(NUMBERS * 1e-21),
    "huge": lambda: pd.Series(NUMBERS * 1e15),
    "nothing": lambda: pd.Series([np.nan] * ROWS),
    "no object": lambda: pd.Series([None] * ROWS, dtype=object),
    "one date": lambda: pd.Series([datetime.date(2024, 1, 1)] * ROWS, dtype=object),
    "one duration": lambda: pd.Series(pd.to_timedelta([5] * ROWS, "s")),
    "one decimal number": lambda: pd.Series([decimal.Decimal("1.50")] * ROWS, dtype=object),
    "one month": lambda: pd.Series(pd.PeriodIndex(["2024-01"] * ROWS, freq="M")),
    "one interval": lambda: pd.cut(pd.Series([1] * ROWS), [0, 2]),
} | {
    f"Arrow's {name}": lambda name=name: arrow(name)
    for name in (
        "decimal", "dictionary", "date", "duration", "timestamp", "double", "integer", "string",
    )
}  # fmt: skip


def there_and_back(column, missing="fill"):
    """The column that samples have of a table's own rows, and its features."""
    when = pd.date_range("2024-01-01", periods=ROWS, freq="h")
    given = pd.DataFrame({"when": when, "number": NUMBERS, "column": column})
    frame, found = table.prepare(*reader.read(given), table.Options())
    found = schema.Schema.from_json(json.loads(json.dumps(found.to_json())))  # as it is saved
    assert found.clock.name == "when"
    encoded = table.encode(frame, found).values
    back = table.decode(table.snap(encoded[None], found), found, missing=missing)
    return back["column"], encoded


def same(back, column):
    # Tiny numbers keep twelve digits: no absolute tolerance.
    pd.testing.assert_series_equal(
        back, column, check_names=False, rtol=1e-12, atol=0, check_exact=False
    )


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_comes_back_as_it_was(name):
    column = COLUMNS[name]()
    same(there_and_back(column)[0], column)


@pytest.mark.parametrize("name", [n for n in COLUMNS if n not in ("nothing", "no object")])
def test_missing_values_of_every_dtype_stay_missing(name):
    holes = np.arange(ROWS) % 7 == 0
    column = COLUMNS[name]().mask(holes)
    back, encoded = there_and_back(column, "generate")
    assert np.isnan(encoded[holes, 1]).all()
    assert back.isna().to_numpy().tolist() == holes.tolist()
    same(back, column)


def test_what_is_no_scalar_is_left_as_it_is():
    lists = pd.Series([[1, 2], [3]])
    pd.testing.assert_series_equal(dtypes.plain(lists), lists)
