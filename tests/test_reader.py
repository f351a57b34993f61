"""What users may give: every kind of table and array, and one clear error for all else."""

import datetime
import io
import pathlib

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from timeldm_jax import TimeLDM
from timeldm_jax.data import frames, reader, table
from timeldm_jax.data.table import Options
from timeldm_jax.errors import DataError

NUMBERS = np.arange(12.0).reshape(4, 3)
FRAME = pd.DataFrame({"x": [1.5, 2.5, None], "n": [1, 2, 3], "w": ["a", "b", "c"]})


class Foreign:
    """An array of another library."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        if self.values is None:
            raise RuntimeError("on another device")
        return np.asarray(self.values, dtype)


class Frames:
    """A table of another library, which has an array too."""

    def __array__(self, dtype=None, copy=None):
        raise AssertionError

    def to_pandas(self):
        return FRAME


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (NUMBERS, np.float64),
        (NUMBERS.astype(np.float32), np.float32),
        (NUMBERS.tolist(), np.float64),
        (tuple(map(tuple, NUMBERS)), np.float64),
        ([list(map(int, row)) for row in NUMBERS], np.int64),
        (list(NUMBERS), np.float64),
        (NUMBERS.view(np.matrix), np.float64),
        (jnp.asarray(NUMBERS), np.float32),
        (jnp.asarray(NUMBERS, jnp.bfloat16), np.float32),
        (Foreign(NUMBERS), np.float64),
        (np.asfortranarray(NUMBERS), np.float64),
    ],
)
def test_arrays(given, dtype):
    found = reader.accept(given)
    assert type(found) is np.ndarray
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, NUMBERS)


def test_what_a_mask_hides_is_missing():
    mask = NUMBERS % 5 == 0
    for values in (NUMBERS, NUMBERS.astype(int)):
        found = reader.accept(np.ma.array(values, mask=mask))
        np.testing.assert_array_equal(found, np.where(mask, np.nan, NUMBERS))
    np.testing.assert_array_equal(reader.accept([[1, None], [2, 3.5]]), [[1, np.nan], [2, 3.5]])


@pytest.mark.parametrize("given", [FRAME, pa.Table.from_pandas(FRAME), Frames()])
def test_tables(given):
    pd.testing.assert_frame_equal(reader.accept(given), FRAME)


@pytest.mark.parametrize("library", ["pyarrow", "polars"])
def test_tables_of_other_libraries_come_back_in_kind(library):
    module = pytest.importorskip(library)
    given = module.Table.from_pandas(FRAME) if library == "pyarrow" else module.from_pandas(FRAME)
    kind = frames.kind_of(given)
    assert kind == library
    pd.testing.assert_frame_equal(reader.accept(given), FRAME)
    back = frames.of_kind(reader.accept(given), kind)
    assert type(back) is type(given)
    assert back.equals(given)
    if library == "polars":
        pd.testing.assert_frame_equal(reader.accept(given.lazy()), FRAME)
    assert frames.of_kind(FRAME, frames.kind_of(FRAME)) is FRAME
    assert frames.of_kind(FRAME, frames.kind_of([[1.0]])) is FRAME


def test_columns():
    for name, expected in (("x", "x"), (None, "value"), (3, 3)):
        frame = reader.accept(pd.Series([1.0, 2.0], name=name, index=[4, 9]))
        assert list(frame.columns) == [expected]
        assert list(frame.index) == [4, 9]
    assert list(reader.accept(pa.chunked_array([[1, 2], [3]]))["value"]) == [1, 2, 3]


def test_fields_are_columns():
    fields = [("t", "<M8[h]"), ("x", ">f8"), ("n", "i4"), ("w", "S3"), ("ok", "?")]
    rows = [("2024-01-01T00", 1.5, 2, b"ab", True), ("2024-01-01T01", 2.5, 3, b"c", False)]
    array = np.array(rows, dtype=fields)
    for given in (array, array.view(np.recarray)):
        frame = reader.accept(given)
        assert frame["t"].tolist() == list(pd.to_datetime(["2024-01-01 00:00", "2024-01-01 01:00"]))
        assert frame["x"].tolist() == [1.5, 2.5]
        assert frame["n"].dtype == np.int32
        assert frame["w"].tolist() == ["ab", "c"]
        assert frame["ok"].dtype == bool
    masked = np.ma.array(array, mask=[(0, 1, 0, 0, 0), (0, 0, 0, 1, 0)])
    frame = reader.accept(masked)
    assert frame["x"].isna().tolist() == [True, False]
    assert frame["w"].isna().tolist() == [False, True]
    with pytest.raises(DataError, match=r"column 'v' holds arrays of shape \(2,\)"):
        reader.accept(np.zeros(3, [("v", "f8", 2)]))
    with pytest.raises(DataError, match=r"structured array has shape \(2, 2\)"):
        reader.accept(np.zeros((2, 2), [("v", "f8")]))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (None, "NoneType"),
        (3, "int"),
        (b"my.csv", "bytes"),
        ({"x": [1, 2]}, "dict"),
        ({1, 2}, "set"),
        (iter([1]), "list_iterator"),
        (io.StringIO("a,b"), "_io.StringIO"),
        (np.ndarray, "type"),
        (pd.DataFrame, "type"),
    ],
)
def test_anything_else_is_named(given, named):
    for call in (reader.accept, TimeLDM(window=4).fit):
        with pytest.raises(DataError, match=rf"is of type {named}; expected a path, a table") as e:
            call(given)
        assert "array (NumPy, JAX, PyTorch)" in str(e.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[1, 2], [3]], "data is a list that is no array"),
        (([1, {}], [2, 3]), "data is a tuple that is no array"),
        (Foreign(None), "Foreign cannot be read: on another device"),
        (np.ma.array(["a"], mask=[True]), "dtype <U1; expected real numbers"),
    ],
)
def test_what_cannot_be_read_is_said(given, message):
    with pytest.raises(DataError, match=message):
        reader.accept(given)


def test_paths(tmp_path):
    FRAME.to_csv(tmp_path / "t.csv", index=False)
    for given in (tmp_path / "t.csv", str(tmp_path / "t.csv"), pathlib.PurePath(tmp_path, "t.csv")):
        frame, _ = reader.read(reader.accept(given))
        pd.testing.assert_frame_equal(frame, FRAME)


def test_numbers_of_a_file_are_exact(tmp_path):
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"x": random.normal(size=2_000) * 1e5, "n": random.integers(10**7, 10**8, 2_000)}
    )
    for name in ("t.csv", "t.parquet"):
        getattr(frame, f"to_{name[2:]}")(tmp_path / name, index=False)
        pd.testing.assert_frame_equal(reader.read(str(tmp_path / name))[0], frame, check_exact=True)


def test_dates_of_arrow_and_parquet_are_times(tmp_path):
    days = [datetime.date(2024, 1, day) for day in range(1, 21)]
    given = pa.table({"day": pa.array(days, pa.date32()), "x": np.arange(20.0)})
    pa.parquet.write_table(given, tmp_path / "t.parquet")
    for source in (reader.accept(given), str(tmp_path / "t.parquet")):
        _, schema = table.prepare(*reader.read(source), Options())
        assert (schema.clock.name, schema.clock.step) == ("day", 86_400)
