"""Tables in several files, and larger than memory."""

import itertools

import numpy as np
import pandas as pd
import pytest

from timeldm_jax.data import parts, reader
from timeldm_jax.errors import DataError


def hourly(rows, seed=0):
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "time": pd.date_range("2024-01-01", periods=rows, freq="h"),
            "level": np.round(np.cumsum(random.normal(size=rows)), 2),
            "count": random.integers(0, 900, rows),
        }
    )


def in_files(folder, frame, edges, suffix=".parquet"):
    """A folder with one file from edge to edge, named in order, some of them deeper."""
    for number, (first, last) in enumerate(itertools.pairwise(edges)):
        path = folder / f"day={number // 2}" / f"part-{number:03d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = frame.iloc[first:last].reset_index(drop=True)
        part.to_csv(path, index=False) if suffix == ".csv" else part.to_parquet(path)
    (folder / "_SUCCESS").write_text("")
    (folder / ".part-000.crc").write_text("")
    (folder / "manifest.json").write_text("{}")
    return str(folder)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_folder_or_a_glob_is_one_table(tmp_path, suffix):
    frame = hourly(100)
    folder = in_files(tmp_path / "all", frame, [0, 30, 31, 80, 100], suffix)
    if suffix == ".csv":
        frame["time"] = frame["time"].astype(str)
    for source in (folder, f"{folder}/*/part-*{suffix}", f"{folder}/**/*{suffix}"):
        pd.testing.assert_frame_equal(reader.read(source)[0], frame)
    some = reader.read(f"{folder}/day=0/part-00[01]{suffix}")[0]
    pd.testing.assert_frame_equal(some, frame.iloc[:31])


def test_batches_are_the_rows_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "BATCH_ROWS", 7)
    frame = hourly(100)
    source = in_files(tmp_path / "all", frame, [0, 30, 31, 80, 100])
    table = parts.parquet(source, parts.find(source))
    assert table.rows == 100
    found = list(table.batches())
    firsts = np.cumsum([0, *(len(batch) for _, batch in found)])
    assert [first for first, _ in found] == firsts[:-1].tolist()
    assert max(len(batch) for _, batch in found) == 7
    joined = pd.concat([batch.to_pandas() for _, batch in found], ignore_index=True)
    pd.testing.assert_frame_equal(joined, frame)
    only = list(table.batches(columns=["count"]))
    assert np.concatenate([b["count"].to_numpy() for _, b in only]).tolist() == list(frame["count"])
    wanted = parts.Wanted(np.array([3, 29, 90]), np.array([10, 40, 100]))
    rows = [*range(3, 10), *range(29, 40), *range(90, 100)]
    some = table.stretches(wanted).to_pandas().reset_index(drop=True)
    pd.testing.assert_frame_equal(some, frame.iloc[rows].reset_index(drop=True))


def test_files_of_a_table_must_fit_each_other(tmp_path):
    frame = hourly(20)
    source = in_files(tmp_path / "all", frame, [0, 10, 20])
    whole = frame.astype({"count": "int32"}).drop(index=3).reset_index(drop=True)
    whole.to_parquet(tmp_path / "all" / "z.parquet")
    assert parts.parquet(source, parts.find(source)).schema.field("count").type == "int64"
    assert len(reader.read(source)[0]) == 39
    frame.rename(columns={"level": "depth"}).to_parquet(tmp_path / "all" / "z.parquet")
    for read in (reader.read, lambda s: parts.parquet(s, parts.find(s))):
        with pytest.raises(DataError, match=r"has a column 'depth' and .* has none"):
            read(source)
    frame.to_csv(tmp_path / "all" / "more.csv")
    with pytest.raises(DataError, match=r"several kinds \(.csv, .parquet\); name those of one"):
        reader.read(source)
    with pytest.raises(DataError, match="no file is there"):
        reader.read(f"{source}/*.feather")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.parquet").write_text("PAR1 no more")
    with pytest.raises(DataError, match=r"x.parquet is not a readable Parquet file"):
        reader.read(str(tmp_path / "bad"))
