"""CSV files read in batches: what a file read whole is, block by block, and trusted only whole."""

import gzip
import json
import os
import pathlib
import random

import numpy as np
import pandas as pd
import pytest
from etils import epath
from test_large import made
from test_tables import ALIKE, FOLDER, READ, REFUSED, WORKBOOKS

from timeldm_jax.data import batched, gaps, large, lines, parts, reader, rewrite, sources
from timeldm_jax.data.large import Large
from timeldm_jax.data.table import Options
from timeldm_jax.errors import DataError, guesses_kept, in_flags

OTHER_KINDS = (".feather", ".json", ".jsonl", ".arff", ".ods", ".xlsx")
# What is no part of reading: times across columns, rows out of order, uneven times.
NOT_IN_BATCHES = (
    "wide.csv",
    "newest_first.csv",
    "events.csv",
    "tickers.csv",
    "hole_in_the_second_series.csv",
)
TEXTS = [name for name in (*ALIKE, *READ) if not name.endswith(OTHER_KINDS)]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(lines, "BLOCK", 90)


def whole_and_batched(path, cache, decimal="", na_values=""):
    """The frame of a file read whole and in batches, and what each guessed; or the error's text."""
    options, found = Options(decimal=decimal, na_values=na_values), []

    def whole():
        return gaps.mark_missing(reader.read(str(path), decimal)[0], str(path), na_values)

    def in_batches():
        files = batched.large(str(path), "streamed", cache, options)
        every = parts.Wanted(np.array([0]), np.array([files.rows]))
        return large._plain(files.stretches(every), str(path), options)

    for read in (whole, in_batches):
        with guesses_kept(aside=True) as said:
            try:
                found.append((read(), said))
            except DataError as error:
                found.append((str(error), []))
    return [(each, sorted(set(said))) for each, said in found]


def assert_same(path, cache, **options):
    (whole, guessed), (found, guessed_again) = whole_and_batched(path, cache, **options)
    if isinstance(whole, str) or isinstance(found, str):
        assert found == whole
        return
    assert list(found.columns) == list(whole.columns)
    for name in whole.columns:
        assert found[name].dtype == whole[name].dtype, name
        there = whole[name].notna().tolist()
        assert found[name].notna().tolist() == there, name
        assert found[name][there].tolist() == whole[name][there].tolist(), name
    assert guessed_again == guessed


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "wide.csv"])
def test_an_odd_file_is_read_in_batches_as_it_is_whole(tmp_path, small_blocks, name):
    options = READ[name][0] if name in READ else {}
    kept = {key: options[key] for key in ("na_values",) if key in options}
    assert_same(FOLDER / name, tmp_path, **kept)


@pytest.mark.parametrize("name", [name for name in REFUSED if name.endswith(".csv")])
def test_what_is_refused_whole_is_refused_in_batches_in_the_same_words(
    tmp_path, small_blocks, name
):
    options = REFUSED[name][0]
    with pytest.raises(DataError) as whole:
        made(str(FOLDER / name), tmp_path, placement="replicated", window=4, **options)
    with pytest.raises(DataError) as found:
        made(str(FOLDER / name), tmp_path, placement="streamed", window=4, **options)
    assert str(found.value) == str(whole.value)


@pytest.mark.parametrize("name", [name for name in TEXTS[::4] if name not in NOT_IN_BATCHES])
def test_an_odd_file_is_encoded_in_batches_as_it_is_whole(tmp_path, small_blocks, name):
    options = READ[name][0] if name in READ else {}
    settings = {"window": 4, "protocol": "paper", **options}
    whole, expected = made(str(FOLDER / name), tmp_path, placement="replicated", **settings)
    read, found = made(str(FOLDER / name), tmp_path, placement="streamed", **settings)
    assert isinstance(read, Large)
    assert read.schema == whole.schema
    assert found.scaler == expected.scaler
    scaled = found.series.values.scaled(np.arange(len(expected.series.values)))
    np.testing.assert_array_equal(scaled, expected.scaled())


PLACES = {  # of public files that are there only where a folder holds them
    "ETTh1.csv": {},
    "field/air_quality_uci.csv": {"na_values": "-200"},
    "field/bike_hour.csv": {},
    "field/cmapss_fd001_25_units.txt": {},
    "field/covid_countries.csv": {},
    "field/eeg_eye_state.csv": {},
    "field/opsd_daily.csv": {},
    "field/stock_panel.csv": {},
}


@pytest.mark.parametrize("name", PLACES)
def test_public_files_are_read_in_batches_as_they_are_whole(tmp_path, monkeypatch, name):
    folder = pathlib.Path(os.environ.get(sources.DATA_DIR_VARIABLE, "none"))
    if not (folder / name).exists():
        pytest.skip(f"{name} is not in the data folder")
    monkeypatch.setattr(lines, "BLOCK", 100_000)
    assert_same(folder / name, tmp_path, **PLACES[name])


CELLS = (
    lambda r: str(r.randint(-5, 900)),
    lambda r: f"{r.uniform(-3, 3):.3f}",
    lambda r: r.choice(["a", "b c", "None", "x'y", "True", "False", "inf", "?", "1.5e3"]),
    lambda r: r.choice(["True", "False", "TRUE"]),
    lambda r: f"{r.randint(0, 3)},{r.randint(100, 999)}",
    lambda r: f"{r.randint(0, 99)},{r.randint(0, 9)}",
    lambda r: f"{r.randint(1_000, 99_999)} kg",
    lambda r: f"{r.randint(1, 99):05d}",
    lambda r: r.choice(["45%", "€3.5", "1.2M", "(7)", "-200"]),
    lambda r: r.choice(["'=1+2", "'-x", 'he said ""yes""', "two\nlines"]),
    lambda r: f"2024-01-{r.randint(1, 28):02d}",
    lambda r: str(r.randint(10**8, 10**18)),
)


def odd_column(r, count):
    """Cells of one kind, of one kind with a few of another, or of two after each other."""
    one, other, cut = r.choice(CELLS), r.choice(CELLS), r.randrange(count)
    few, way = {r.randrange(count) for _ in range(3)}, r.choice(["one", "few", "two"])
    cells = [
        (other if (way == "few" and i in few) or (way == "two" and i >= cut) else one)(r)
        for i in range(count)
    ]
    for _ in range(r.choice([0, 0, 1, count])):
        cells[r.randrange(count)] = r.choice(["", "NA", "NaN"])
    return cells


@pytest.mark.parametrize("seed", range(40))
def test_columns_that_change_on_the_way_are_what_they_are_whole(tmp_path, small_blocks, seed):
    """Numbers then words, codes with a late zero, quotes with line breaks, gaps, any encoding."""
    r = random.Random(seed)
    count, width = r.choice([3, 20, 120]), r.randint(2, 5)
    separator = r.choice([";", "\t", "|"])
    columns = [odd_column(r, count) for _ in range(width)]
    names = [f"{r.choice(['', 'c', chr(39) + '=x'])}{i}" for i in range(width)]
    if r.random() < 0.2:
        names[0], columns[0] = "", [str(i) for i in range(count)]

    def cell(text):
        quoted = any(mark in text for mark in (separator, '"', "\n")) or r.random() < 0.02
        return f'"{text}"' if quoted else text

    rows = [separator.join(map(cell, row)) for row in zip(*columns, strict=True)]
    end = r.choice(["", "\n", "\n\n", f"\n{separator * (width - 1)}\n"])
    text = "\n".join([separator.join(names), *rows]) + end
    text = text.replace("\n", r.choice(["\n", "\n", "\r\n", "\r"]))
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(r.choice(["utf-8", "utf-8-sig", "cp1252", "utf-16"])))
    decimal, na_values = r.choice(["", "", ".", ","]), r.choice(["", "?,-200", "None"])
    assert_same(path, tmp_path, decimal=decimal, na_values=na_values)


def hourly(rows):
    random_ = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "time": pd.date_range("2024-01-01", periods=rows, freq="h").astype(str),
            "level": np.round(random_.normal(size=rows), 2),
            "count": random_.integers(0, 900, rows),
        }
    )


def test_a_folder_of_parts_is_one_table_whatever_each_part_shows(tmp_path, small_blocks):
    """A column is whole numbers in one file, has gaps in another, and nothing in a third."""
    frame, folder = hourly(90), tmp_path / "all"
    frame["more"] = np.where(np.arange(90) < 60, np.nan, 1.5)
    frame["half"] = np.where(np.arange(90) < 30, 4.0, 2.5)
    frame.loc[40, "count"] = np.nan
    folder.mkdir()
    for number, first in enumerate((0, 30, 60)):
        part = frame.iloc[first : first + 30]
        if number < 1:
            part = part.astype({"half": int, "count": int})
        with gzip.open(folder / f"{number}.csv.gz", "wt") as file:
            part.to_csv(file, index=False)
    assert_same(folder, tmp_path)
    with gzip.open(folder / "3.csv.gz", "wt") as file:
        part.assign(level="low").to_csv(file, index=False)
    with pytest.raises(DataError, match=r"'level' is numbers in .*0.csv.gz and text in .*3.csv.gz"):
        batched.large(str(folder), "streamed", tmp_path, Options())
    with gzip.open(folder / "3.csv.gz", "wt") as file:
        part.rename(columns={"level": "depth"}).to_csv(file, index=False)
    with pytest.raises(DataError, match=r"3.csv.gz has a column 'depth' and .*0.csv.gz has none"):
        batched.large(str(folder), "streamed", tmp_path, Options())


def test_a_file_is_written_once_and_trusted_only_whole(tmp_path, caplog, monkeypatch):
    path, cache = tmp_path / "t.csv", tmp_path / "cache"
    hourly(50).to_csv(path, index=False)

    def read():
        files = rewrite.parquet(str(path), (epath.Path(path),), cache, "", "")
        return files, pathlib.Path(files.paths[0])

    files, file = read()
    assert files.identity() == parts.identity((epath.Path(path),))  # not of what is made of it
    content, written = file.read_bytes(), file.stat().st_mtime_ns
    assert read()[1] == file
    assert file.stat().st_mtime_ns == written
    file.write_bytes(content[:-9])
    assert read()[1].read_bytes() == content
    assert "is damaged; it is made again" in caplog.text
    note = file.with_name(rewrite.NOTE)
    note.unlink()  # as a kill before the end leaves it
    file.write_bytes(content[:100])
    assert read()[1].read_bytes() == content
    assert json.loads(note.read_text())["rows"] == 50

    note.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(rewrite, "_Plan", None)  # something fails on the way
        with pytest.raises(TypeError):
            read()
    assert not note.exists()
    assert not list(file.parent.glob(".*partial"))
    hourly(51).to_csv(path, index=False)
    assert read()[0].rows == 51
    assert read()[1] != file


def test_a_guess_names_the_flag_where_a_command_reads_in_batches(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("x,y\n" + "".join(f"{i},{i}.5%\n" for i in range(300)))
    for _ in range(2):  # written, then found
        with guesses_kept(aside=True) as said:
            batched.large(str(file), "streamed", tmp_path / "cache", Options())
        text = next(in_flags(DataError(each.text)) for each in said if "decimal" in each.text)
        assert "--config.data.decimal names the decimal point" in text


def test_what_is_no_table_is_said_with_file_and_line(tmp_path, small_blocks):
    path = tmp_path / "t.csv"
    text = "\n".join(["a,b", *(f"{i},{i}.5" for i in range(400))])
    for content, message in (
        (
            text.replace("370,370.5", "370,370.5,9").encode(),
            "t.csv, line 372 has 3 cells",
        ),
        (text.replace("a,b", "a,a").encode(), "two columns are called 'a'"),
        (text.encode() + b"\n\x81,\x8d", "t.csv is no text that can be read; save it as UTF-8"),
        (text.encode() + b"\n\0,1", "t.csv is no text: it holds zero bytes"),
        (b"\n \n", "t.csv is empty"),
        (b"a,b\n", "has 0 rows of 2 columns"),
    ):
        path.write_bytes(content)
        (whole, _), (found, _) = whole_and_batched(path, tmp_path)
        assert message in whole
        assert found == whole
    for more in (10, 60_000):
        path.write_text(text.replace("370.5", '"370.5') + "\n1,2" * more)
        (whole, _), (found, _) = whole_and_batched(path, tmp_path)
        for said in (whole, found):
            assert "t.csv is not a readable CSV file: " in said
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode())[:-200])
    (whole, _), (found, _) = whole_and_batched(tmp_path / "t.csv.gz", tmp_path)
    assert "t.csv.gz cannot be unpacked" in found
    assert found == whole


def test_cells_are_reckoned_and_decide(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    hourly(40_000).to_csv(path, index=False)
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    for head in (10_000, 10**8):  # a part of the file, and all of it
        monkeypatch.setattr(batched, "_HEAD", head)
        for each in (path, packed):
            assert batched._reckoned(epath.Path(each), "") == pytest.approx(120_000, rel=0.05)
    monkeypatch.setattr(batched, "_HEAD", 10_000)
    monkeypatch.setattr(batched, "_UNPACKED", 10**6)
    assert batched._reckoned(epath.Path(packed), "") == pytest.approx(120_000, rel=0.3)

    def files(placement):
        return batched.large(str(path), placement, tmp_path, Options())

    assert files("auto") is None
    monkeypatch.setattr(batched, "MOST_CELLS", 100_000)
    assert files("auto").rows == 40_000
    assert files("replicated") is None
    assert batched.large(str(tmp_path / "none.csv"), "auto", tmp_path, Options()) is None


@pytest.mark.parametrize("name", [*WORKBOOKS, "two_sheets.xlsx#Sheet1", "lines.jsonl"])
def test_other_kinds_of_files_are_read_whole_and_say_so(tmp_path, name):
    path = str(FOLDER / name)
    with pytest.raises(DataError, match=r"Parquet and CSV files, and .* is none: other files"):
        batched.large(path, "streamed", tmp_path, Options())
    assert batched.large(path, "auto", tmp_path, Options()) is None
