"""`tests/tables/`: small files with one oddity each, what each is taken for, and what is refused.

The values are the same in many of them: what matters is that they come out as they were meant.
"""

import pathlib
import re
import sys

import numpy as np
import pandas as pd
import pytest

from timeldm_jax.data import gaps, numerals, reader, table
from timeldm_jax.data.table import Options
from timeldm_jax.errors import DataError

FOLDER = pathlib.Path(__file__).parent / "tables"
GUIDE = pathlib.Path(__file__).parents[1] / "docs" / "tables.md"
HOUR, DAY = 3_600.0, 86_400.0

# Files that hold the table of plain.csv, however they write it.
ALIKE = (
    "arrow.feather", "bars.txt", "byte_order_mark.csv", "decimal_comma.csv",
    "empty_rows_at_the_end.csv", "lines.jsonl", "packed.csv.gz", "packed.csv.zst", "packed.zip",
    "plain.csv", "preamble.csv", "row_names_of_r.csv", "row_numbers.csv", "sep_line.csv",
    "tabs.tsv", "trailing_separators.csv", "units.csv", "utf16.csv", "no_header.csv",
    "windows_1252.csv", "quoted_separator.csv", "time_in_the_last_column.csv", "spaces.txt",
    "station.data", "hash_header.csv", "notes_above.csv", "records.json", "columns.json",
    "degrees.csv", "readings_and_blanks.csv",
)  # fmt: skip

# What else is read: the options, the clock (its columns, first time, step) and a few values.
READ = {
    "business_days.csv": ({}, (("when",), "2024-01-02T00:00:00", "B"), {}),
    "date_of_birth.csv": ({"entity": "who"}, (("seen",), "2024-01-01T00:00:00", HOUR), {}),
    "day_and_time.csv": ({}, (("Date", "Time"), "2024-01-01T00:00:00", HOUR), {}),
    "day_first.csv": ({}, (("when",), "2024-01-05T00:00:00", DAY), {}),
    "epoch_ms.csv": ({}, (("timestamp",), "2023-11-14T22:13:20", 60.0), {}),
    "gaps_in_one_column.csv": ({}, None, {"level": {5: None, 6: None}}),
    "in_parts.csv": ({}, (("year", "month", "day", "hour"), "2024-01-01T00:00:00", HOUR), {}),
    "weeks.csv": ({}, (("week",), "2024-01-01T00:00:00", 7 * DAY), {}),
    "elapsed.csv": ({}, (("elapsed",), "1900-01-01T00:00:00", 10.0), {"level": {3: 4.5}}),
    "instrument_time.txt": ({}, (("Time (s)",), 0.0, 0.02), {"level": {3: 4.5}}),
    "readings.arff": ({}, None, {"level": {3: 4.5}, "state": {0: "off", 1: "on"}}),
    "narrow_spaces.csv": ({}, (("when",), "2024-01-01T00:00:00", HOUR), {"sold": {3: 206_000}}),
    "wide.csv": ({}, (("time",), "2024-01-05T00:00:00", DAY), {"shop": {0: "s0", 12: "s1"}}),
    "local_hours.csv": ({}, (("when",), "2024-10-26T15:00:00+02:00", HOUR), {}),
    "millions.csv": ({}, (("when",), "2024-01-01T00:00:00", HOUR), {}),
    "month_names.csv": ({}, (("when",), "2024-01-05T00:00:00", DAY), {}),
    "monthly_day_first.csv": ({}, (("when",), "2019-01-01T00:00:00", "MS"), {}),
    "none_and_codes.csv": ({}, (("when",), "2024-01-01T00:00:00", HOUR), {}),
    "offsets_at_a_switch.csv": ({}, (("when",), "2024-03-31T00:00:00+01:00", HOUR), {}),
    "one_column_of_commas.csv": ({}, None, {"level": {0: 0.5, 1: 12.25, 2: None, 3: -3}}),
    "percent_and_currency.csv": ({}, (("when",), "2024-01-01T00:00:00", HOUR), {}),
    "quarters.csv": ({}, (("when",), "2010-01-01T00:00:00", "3MS"), {}),
    "sentinel.csv": ({"na_values": "-200"}, (("when",), "2024-01-01T00:00:00", HOUR),
                     {"level": {3: None, 9: None, 10: None}}),
    "question_marks.csv": ({"na_values": "?"}, (("when",), "2024-01-01T00:00:00", HOUR),
                           {"level": {3: None, 9: None}}),
    "thousands.csv": ({}, (("when",), "2024-01-01T00:00:00", HOUR), {"sold": {3: 943, 4: 76_586}}),
    "two_digit_years.csv": ({}, (("when",), "1999-12-20T00:00:00", DAY), {}),
    "two_entities.csv": ({"entity": "store,item"}, (("day",), "2024-01-05T00:00:00", DAY), {}),
    "whole_number_dates.csv": ({}, (("date",), "2024-01-05T00:00:00", DAY), {}),
    "newest_first.csv": ({"irregular": "sort"}, (("when",), "2024-01-05T00:00:00", DAY), {}),
    "events.csv": ({"times": "generate"}, (("when",), "2024-01-01T08:03:00", 300.0),
                   {"count": {0: 9}}),
    "tickers.csv": ({"entity": "ticker"}, (("day",), "2024-01-05T00:00:00", DAY), {}),
    "hole_in_the_second_series.csv": ({"entity": "who", "irregular": "resample"},
                                      (("day",), "2024-01-05T00:00:00", DAY),
                                      {"level": {16: None}}),
}  # fmt: skip

WORKBOOKS = ("sheet.ods", "two_sheets.xlsx")

# What is refused as it is, and what the message says.
REFUSED = {
    "header_one_short.csv": ({}, "the header has 2 names and rows have 3 cells"),
    "ragged.csv": ({}, "line 6 has 4 cells, and most lines have 3"),
    "hole_in_the_second_series.csv": ({"entity": "who"}, "row 17 of series y .2024-01-10"),
    "tickers.csv": ({}, "not of one 'ticker'.*entity='ticker'$"),
    "newest_first.csv": ({}, "irregular='sort' puts them in order"),
    "events.csv": ({}, "is not evenly spaced.*times='generate' learns what lies between rows"),
    "question_marks.csv": ({}, r"row 4 has '\?'. If it stands for a missing value: na_values='\?'"),
}


def prepared(name, **options):
    chosen = Options(**options)
    frame, where = reader.read(str(FOLDER / name), chosen.decimal)
    return table.prepare(gaps.mark_missing(frame, where, chosen.na_values), where, chosen)


@pytest.mark.parametrize("name", ALIKE)
def test_a_plain_table_in_many_dialects(name):
    plain, found = prepared("plain.csv")
    frame, schema = prepared(name)
    assert schema.clock.step == (1 if name == "spaces.txt" else HOUR)
    values = [column.name for column in schema.columns]
    assert [column.kind for column in schema.columns] == [c.kind for c in found.columns]
    np.testing.assert_array_equal(frame[values].to_numpy(float), plain[["level", "count"]])
    if name not in ("spaces.txt", "arrow.feather"):
        assert list(frame[schema.clock.name]) == list(plain["when"])


@pytest.mark.parametrize("name", READ)
def test_what_a_file_is_taken_for(name):
    options, clock, cells = READ[name]
    frame, schema = prepared(name, **options)
    if clock is None:
        assert schema.clock is None
    else:
        found = schema.clock
        assert (found.names, found.start, found.offset or found.step) == clock
    for column, expected in cells.items():
        for row, value in expected.items():
            found = frame[column].iloc[row]
            assert pd.isna(found) if value is None else found == value


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    options, message = REFUSED[name]
    with pytest.raises(DataError, match=message) as raised:
        prepared(name, **options)
    assert "=" not in str(raised.value) or "config.data" not in str(raised.value)


def test_words_stay_words_and_numbers_become_numbers():
    frame, _ = prepared("none_and_codes.csv")
    assert set(frame["state"]) == {"None", "low", "high"}
    assert set(frame["place"]) == {"01000", "20099", "00731"}
    frame, _ = prepared("percent_and_currency.csv")
    raw = (FOLDER / "percent_and_currency.csv").read_text().splitlines()[1:]
    assert [f"{t},{s:g}%,€{p:.2f}" for t, s, p in frame.itertuples(index=False)] == raw
    frame, _ = prepared("millions.csv")
    raw = [line.split(",")[1] for line in (FOLDER / "millions.csv").read_text().splitlines()[1:]]
    expected = [float(cell[:-1]) * {"K": 1e3, "M": 1e6}[cell[-1]] for cell in raw]
    np.testing.assert_allclose(frame["volume"], expected, rtol=1e-12)


def test_every_file_is_tested_and_in_the_guide():
    files = {path.name for path in FOLDER.iterdir()}
    assert files == {*ALIKE, *READ, *REFUSED, *WORKBOOKS}
    listed = re.findall(r"\| `([\w.]+)` \| (?:`(.*)`|packed) \|$", GUIDE.read_text(), re.MULTILINE)
    assert {name for name, _ in listed} == files
    for name, line in listed:
        content = (FOLDER / name).read_bytes()
        encoding = "utf-16" if name == "utf16.csv" else "cp1252" if "1252" in name else "utf-8"
        shown = line.replace("→", "\t").replace("\\|", "|").removesuffix("…")
        assert not line or shown in content.decode(encoding), name


def test_workbooks_are_read():
    pytest.importorskip("python_calamine", reason="the extra `excel` is not installed")
    path = FOLDER / "two_sheets.xlsx"
    with pytest.raises(DataError, match=r"2 sheets with rows \(values, few\); name one, as in"):
        reader.read(str(path))
    with pytest.raises(DataError, match="has no sheet 'none'"):
        reader.read(f"{path}#none")
    expected = pd.read_csv(FOLDER / "plain.csv", parse_dates=["when"])
    for name in (f"{path}#values", str(FOLDER / "sheet.ods")):
        pd.testing.assert_frame_equal(reader.read(name)[0], expected, check_dtype=False)


def test_a_workbook_names_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    with pytest.raises(
        DataError, match=r"needs python-calamine: pip install 'timeldm_jax\[excel\]'"
    ):
        reader.read(str(FOLDER / "two_sheets.xlsx"))


def test_a_damaged_workbook_is_named(tmp_path):
    pytest.importorskip("python_calamine", reason="the extra `excel` is not installed")
    path = tmp_path / "old.xls"
    path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"0" * 600)
    with pytest.raises(DataError, match=r"old\.xls is not a readable workbook"):
        reader.read(str(path))


def test_a_wide_table_is_one_series_a_row():
    wide = pd.read_csv(FOLDER / "wide.csv")
    frame, schema = prepared("wide.csv")
    assert schema.entity == ("shop",)
    np.testing.assert_array_equal(frame["value"].to_numpy().reshape(5, 12), wide.iloc[:, 1:])
    frame, schema = table.prepare(*reader.read(wide.drop(columns="shop")), Options())
    assert schema.entity == ("row",)
    few = wide.iloc[:, :5]  # four days are no reason
    pd.testing.assert_frame_equal(reader.read(few)[0], few)


def test_numbers_with_a_unit_are_numbers_and_codes_with_a_letter_are_not():
    frame = numerals.convert(pd.DataFrame({"t": ["3.9 °C", "-4 °C", "5 °C", None]}), ".")
    np.testing.assert_array_equal(frame["t"], [3.9, -4, 5, np.nan])
    for words in (["1st", "2nd", "3rd"], ["12a", "13b", "14a"], ["4 °C", "5 °F", "6 °C"]):
        assert numerals.convert(pd.DataFrame({"t": words}), ".")["t"].tolist() == words


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}', "holds no table; expected a list of rows"),
        ("[1, 2]", "holds no table; expected a list of rows"),
        ("{", "is not a readable JSON file"),
    ],
)
def test_json_that_is_no_table_is_named(tmp_path, content, message):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        reader.read(str(path))


def test_files_of_a_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.csv").write_bytes((FOLDER / "plain.csv").read_bytes())
    assert len(reader.read("~/mine.csv")[0]) == 24
