"""Tables of one's own: what is inferred, that nothing is lost on the way, and what is refused."""

import json
import string

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from timeldm_jax.data import dataset as datasets
from timeldm_jax.data import gaps, inference, reader, schema, table
from timeldm_jax.data.scaling import Curve, Scaler, fit_scaler
from timeldm_jax.data.schema import Schema
from timeldm_jax.data.series import Missing, hide, split_series
from timeldm_jax.data.table import Options
from timeldm_jax.errors import DataError

ROWS = 60


def every_kind(rows=ROWS, seed=0):
    """A table with a column of each kind, in an order of no system."""
    random = np.random.default_rng(seed)
    walk = random.normal(size=rows).cumsum()
    return pd.DataFrame(
        {
            "when": pd.date_range("2024-03-01", periods=rows, freq="6h"),
            "price": np.round(100 + walk, 2),
            "count": random.poisson(3, rows),
            "level": random.choice(["low", "mid", "high"], rows),
            "open": random.random(rows) < 0.3,
            "income": np.exp(random.normal(size=rows) * 2),
            "shock": random.standard_t(1.5, rows),
            "site": ["north"] * rows,
            "humidity": np.round(random.uniform(20, 99, rows), 1),
            "due": pd.Timestamp("2024-05-01") + pd.to_timedelta(random.integers(0, 90, rows), "D"),
            "small": random.integers(0, 5, rows).astype(np.int8),
        }
    )


def prepared(frame, **options):
    return table.prepare(frame, "the table", Options(**options))


def test_what_is_inferred():
    _, found = prepared(every_kind(2_000))
    by_name = {column.name: column for column in found.columns}
    assert found.clock.name == "when"
    assert found.clock.step == 6 * 3600
    kinds = {name: column.kind for name, column in by_name.items()}
    assert kinds == {
        "price": "float", "count": "integer", "level": "category", "open": "boolean",
        "income": "float", "shock": "float", "site": "category", "humidity": "float",
        "due": "datetime", "small": "integer",
    }  # fmt: skip
    assert by_name["price"].decimals == 2
    assert by_name["income"].decimals is None
    assert by_name["level"].categories == ("high", "low", "mid")
    assert by_name["income"].scaling == "log"
    assert by_name["shock"].scaling == "quantile"
    assert by_name["price"].scaling == "minmax"
    assert by_name["site"].scaling == "constant"
    assert by_name["site"].value == "north"
    assert (by_name["humidity"].low, by_name["humidity"].high) == (0, 100)
    assert (by_name["count"].low, by_name["count"].high) == (0, None)
    assert (by_name["shock"].low, by_name["shock"].high) == (None, None)
    assert by_name["due"].unit == 86_400
    names = [feature.name for feature in schema.features(found)]
    assert names == [
        "price", "count", "level=high", "level=low", "level=mid", "open", "income", "shock",
        "humidity", "due", "small",
    ]  # fmt: skip
    assert "price  " in "\n".join(found.describe())


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (np.linspace(0, 1, 500), "minmax"),
        (np.random.default_rng(0).normal(size=500), "minmax"),
        (np.exp(np.random.default_rng(0).normal(size=500) * 2), "log"),
        (np.random.default_rng(0).standard_t(1, 500), "quantile"),
        (np.append(np.zeros(2), [0, 0, 1.0]), "minmax"),
        (np.r_[np.zeros(30), np.random.default_rng(0).normal(size=470)], "quantile"),
        (np.random.default_rng(0).poisson(3, 500), "quantile"),
        (np.repeat([10, 20, 40], 20), "quantile"),
        (np.r_[np.linspace(0, 1, 99), np.linspace(2, 3, 99)], "quantile"),
        (np.r_[np.linspace(0, 1, 99), 1.5], "minmax"),
        (np.r_[np.random.default_rng(0).normal(size=3000), 6, -6], "standard"),
        (np.full(5, 2.0), "minmax"),
    ],
)
def test_which_scaling_is_chosen(numbers, expected):
    assert inference.choose_scaling(numbers) == expected


def test_a_schema_survives_json():
    frame = every_kind()
    frame.loc[3:5, ["price", "level"]] = None
    _, found = prepared(frame)
    assert Schema.from_json(json.loads(json.dumps(found.to_json()))) == found


# There and back.


def round_trip(frame, **options):
    """The table that is left after encoding, scaling, unscaling and decoding it as one window."""
    frame, found = prepared(frame, **options)
    encoded = table.encode(frame, found)
    layout = schema.features(found)
    names = tuple(feature.name for feature in layout)
    scaler = fit_scaler(encoded.values, names, tuple(f.scaling for f in layout))
    scaler = Scaler.from_json(json.loads(json.dumps(scaler.to_json())))
    values = scaler.unscale(scaler.scale(encoded.values))
    return frame, table.decode(values[None], found, missing="generate").drop(columns="series")


def test_a_table_of_every_kind_comes_back_exactly():
    before, after = round_trip(every_kind())
    floats = ["income", "shock"]  # as many digits as they please: to a part in 10^12
    pd.testing.assert_frame_equal(after.drop(columns=floats), before.drop(columns=floats))
    pd.testing.assert_frame_equal(after[floats], before[floats], rtol=1e-11, atol=0)


def test_missing_values_come_back_missing():
    frame = every_kind()
    frame["count"] = frame["count"].astype("Int64")
    frame["open"] = frame["open"].astype("boolean")
    for i, name in enumerate(["price", "count", "level", "open", "income", "due"]):
        frame.loc[3 * i : 3 * i + 4, name] = None
    before, after = round_trip(frame)
    pd.testing.assert_frame_equal(after, before, rtol=1e-11)


def column_of(kind):
    rows = st.integers(8, 40)

    def lists(values):
        return rows.flatmap(lambda n: st.lists(values, min_size=n, max_size=n))

    if kind == "decimals":
        return lists(st.integers(-(10**8), 10**8).map(lambda i: i / 100))
    if kind == "float":
        return lists(st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 9)))
    if kind == "integer":
        return lists(st.integers(-(2**50), 2**50))
    if kind == "boolean":
        return lists(st.booleans())
    if kind == "category":
        return lists(st.text(string.ascii_letters, min_size=1, max_size=1).map(lambda c: "c" + c))
    return lists(
        st.integers(0, 10**6).map(lambda d: pd.Timestamp(1990, 1, 1) + pd.Timedelta(d, "min"))
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    data=st.data(),
    kind=st.sampled_from(["decimals", "float", "integer", "boolean", "category", "datetime"]),
)
def test_unscaling_what_was_scaled_gives_the_column_back(data, kind):
    values = data.draw(column_of(kind))
    if kind == "category":  # a word of a single row is not learnt
        values = 2 * values
    if len(set(values)) < 2 or (kind == "category" and len(set(values)) > 20):
        return
    frame = pd.DataFrame({"step": range(len(values)), "x": values})
    before, after = round_trip(frame, time="step")
    if kind == "float":  # its own precision is that of its range
        span = np.ptp(before["x"])
        np.testing.assert_allclose(after["x"], before["x"], rtol=1e-12, atol=1e-12 * span)
    else:
        pd.testing.assert_series_equal(after["x"], before["x"])


@pytest.mark.parametrize("scaling", ["minmax", "standard", "log", "quantile"])
def test_scalings_invert_beyond_the_training_range_too(scaling):
    random = np.random.default_rng(0)
    values = np.abs(random.normal(size=(300, 1))) ** 3
    scaler = fit_scaler(values, ("x",), (scaling,))
    wide = np.concatenate([values, [[0.0], [-2.0], [50.0]]])
    np.testing.assert_allclose(scaler.unscale(scaler.scale(wide)), wide, rtol=1e-9, atol=1e-9)
    scaled = scaler.scale(values)
    assert scaled.min() > -0.6
    assert scaled.max() < (5 if scaling == "standard" else 1.001)  # 11 deviations from the mean
    if scaling == "quantile":  # normal, whatever came in
        straight = dict(scaler.curves)[0].straighten(np.sort(values[:, 0]))
        # A value lies between its neighbours' middles, which are half a share away on each side.
        assert np.abs(ndtr(straight) - (np.arange(300) + 0.5) / 300).max() < 0.51 / 300


def test_a_quantile_curve_of_repeated_values_puts_them_in_their_middle():
    values = np.array([0.0] * 60 + list(range(1, 41)))[:, None]
    scaler = fit_scaler(values, ("x",), ("quantile",))
    curve = dict(scaler.curves)[0]
    assert isinstance(curve, Curve)
    # Shares between a quarter of a row and 59 rows are theirs; what lies between is, too.
    assert curve.straighten(np.array([0.0]))[0] == pytest.approx(ndtri((0.0025 + 0.59) / 2))
    assert (curve.bend(ndtri(np.linspace(0.003, 0.589, 50))) == 0).all()
    assert curve.bend(ndtri(np.array([0.601])))[0] > 0
    assert scaler.unscale(scaler.scale(np.array([[0.0]])))[0, 0] == 0


def test_samples_keep_bounds_and_wholeness():
    frame, found = prepared(every_kind())
    wild = np.random.default_rng(0).normal(size=(50, 12, len(schema.features(found)))) * 500
    samples = table.decode(wild, found)
    assert list(samples.columns) == ["series", *frame.columns]
    assert samples.drop(columns="series").dtypes.to_dict() == frame.dtypes.to_dict()
    assert samples["humidity"].between(0, 100).all()
    assert (samples["count"] >= 0).all()
    assert set(samples["level"]) <= {"low", "mid", "high"}
    assert (samples["site"] == "north").all()
    assert np.allclose(samples["price"], samples["price"].round(2))
    assert samples.groupby("series")["when"].diff().dropna().nunique() == 1
    snapped = table.snap(wild, found)
    np.testing.assert_array_equal(table.snap(snapped, found), snapped)


def test_windows_stay_within_the_range_of_the_table_or_the_users():
    frame, found = prepared(every_kind())
    wild = np.random.default_rng(0).normal(size=(50, 12, len(schema.features(found)))) * 500
    windows = table.within_range(table.snap(wild, found), found)
    samples = table.decode(windows, found)
    for name in ("price", "count", "humidity", "income"):
        most = 0.02 * np.ptp(frame[name])  # bounds are rounded outward
        assert samples[name].between(frame[name].min() - most, frame[name].max() + most).all()
    np.testing.assert_array_equal(table.snap(windows, found), windows)
    wider = {"columns": {"price": {"low": -1e3, "high": 1e3}}}
    _, found = table.prepare(every_kind(), "the table", Options(schema=json.dumps(wider)))
    samples = table.decode(table.within_range(table.snap(wild, found), found), found)
    assert samples["price"].min() < frame["price"].min()
    assert samples["price"].between(-1e3, 1e3).all()


# Time.


def timed(times, **more):
    return pd.DataFrame({"date": times, "x": np.arange(len(times)) * 1.5, **more})


def test_text_times_keep_their_format():
    frame = timed([f"{day:02d}/01/2024 06:00" for day in range(1, 29)])
    _, found = prepared(frame)
    assert found.clock.step == 86_400
    samples = table.decode(np.zeros((2, 3, 1)), found)
    assert list(samples["date"][:3]) == ["01/01/2024 06:00", "02/01/2024 06:00", "03/01/2024 06:00"]
    assert samples["date"].dtype == frame["date"].dtype


def test_months_are_a_step():
    frame = timed(pd.date_range("2020-01-31", periods=24, freq="ME"))
    _, found = prepared(frame)
    samples = table.decode(np.zeros((1, 3, 1)), found)
    assert list(samples["date"].dt.strftime("%m-%d")) == ["01-31", "02-29", "03-31"]


def test_numbered_time():
    _, found = prepared(timed(np.arange(10, 30, 2)), time="date")
    assert list(table.decode(np.zeros((1, 3, 1)), found)["date"]) == [10, 12, 14]


def test_time_zones_are_kept():
    frame = timed(pd.date_range("2024-01-01", periods=20, freq="h", tz="Europe/Paris"))
    _, found = prepared(frame)
    assert table.decode(np.zeros((1, 3, 1)), found)["date"].dtype == frame["date"].dtype


def test_uneven_times_are_a_choice():
    times = (
        pd.Series(pd.date_range("2024-01-01", periods=20, freq="D"))
        .drop([5, 6])
        .reset_index(drop=True)
    )
    frame = timed(times)
    with pytest.raises(DataError, match=r"row 6 \(2024-01-08.*comes 3 days.*irregular='sort'"):
        prepared(frame)
    kept, found = prepared(frame, irregular="sort")
    assert len(kept) == 18
    assert found.clock.step == 86_400
    even, found = prepared(frame, irregular="resample")
    assert len(even) == 20
    assert even["x"].isna().sum() == 2
    assert found.columns[0].missing


def test_unordered_times_are_a_choice():
    frame = timed(pd.date_range("2024-01-01", periods=20, freq="D")).iloc[[0, 2, 1, *range(3, 20)]]
    with pytest.raises(DataError, match="row 3: 2024-01-02 00:00:00 comes after 2024-01-03"):
        prepared(frame.reset_index(drop=True))
    kept, _ = prepared(frame.reset_index(drop=True), irregular="sort")
    assert kept["date"].is_monotonic_increasing


def test_resampling_averages_what_falls_together():
    days = ["01 00", "02 00", "02 01", "03 00", "04 00", "05 00"]
    frame = timed(pd.to_datetime([f"2024-01-{day}:00" for day in days]), word=list("abcabc"))
    even, _ = prepared(frame, irregular="resample")
    assert list(even["x"]) == [0, 2.25, 4.5, 6.0, 7.5]
    assert list(even["word"]) == ["a", "b", "a", "b", "c"]


# Panels.


def panel(lengths, seed=0):
    random = np.random.default_rng(seed)
    parts = [
        pd.DataFrame({"who": f"e{i:02d}", "t": range(n), "x": random.normal(size=n).cumsum()})
        for i, n in enumerate(lengths)
    ]
    return pd.concat(parts).sample(frac=1, random_state=1).reset_index(drop=True)


def table_config(**data):
    from timeldm_jax import config as c

    config = c.base()
    config.data.update({"name": "table", "entity": "who", "time": "t", "window": 6} | data)
    return config


def test_windows_never_cross_entities():
    frame, found = prepared(panel([400, 300, 500, 250]), entity="who", time="t", irregular="sort")
    for protocol in ("paper", "heldout"):
        dataset = datasets.from_table(frame, found, table_config(protocol=protocol))
        who = pd.factorize(frame["who"])[0]
        for starts in (dataset.series.train, dataset.series.valid, dataset.series.test):
            assert len(starts)
            assert (who[starts] == who[starts + 5]).all()
    assert "who" not in dataset.series.columns


def test_entities_can_be_held_out_whole():
    frame, found = prepared(panel([30] * 10), entity="who", time="t", irregular="sort")
    series = datasets.from_table(
        frame, found, table_config(protocol="heldout", split="entity")
    ).series
    who = pd.factorize(frame["who"])[0]
    parts = [set(who[starts]) for starts in (series.train, series.valid, series.test)]
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == 10
    assert len(parts[2]) == 2


def test_panels_are_cut_at_the_same_times():
    frame, found = prepared(panel([600, 600]), entity="who", time="t", irregular="sort")
    series = datasets.from_table(frame, found, table_config(protocol="heldout")).series
    when = frame["t"].to_numpy()
    tested = {t for start in series.test for t in when[start : start + 6]}
    trained = {t for start in series.train for t in when[start : start + 6]}
    assert not tested & trained


def test_short_entities_are_padded_and_come_back_short():
    frame, found = prepared(panel([4, 9, 6, 3, 12]), entity="who", time="t", irregular="sort")
    dataset = datasets.from_table(frame, found, table_config(protocol="paper"))
    assert dataset.schema.padded
    assert dataset.series.columns[-1] == schema.PRESENT
    windows = dataset.series.windows(dataset.series.train)
    lengths = windows[..., -1].sum(axis=1)
    assert sorted(lengths) == [3, 4, *[6] * (4 + 1 + 7)]
    assert np.isnan(windows[..., 0][windows[..., -1] == 0]).all()
    samples = table.decode(windows, dataset.schema)
    assert list(samples.groupby("series").size()) == lengths.tolist()


# Gaps.


def test_hidden_values_are_judged_and_missing_ones_are_not():
    nan = np.nan
    x = jnp.asarray([[[1.0, 5.0, 0.0], [nan, 6.0, 1.0], [3.0, 7.0, 0.0]]])
    other = jnp.asarray([[[nan, 1.0, 1.0], [2.0, 1.0, 0.0], [2.0, 1.0, 0.0]]])
    read, target = hide(x, other, Missing(values=(0,), flags=(2,)))
    np.testing.assert_array_equal(read, [[[0.5, 5, 1], [0.5, 6, 1], [3, 7, 0]]])
    np.testing.assert_array_equal(target, [[[1, 5, 1], [nan, 6, 1], [3, 7, 0]]])


def test_gaps_are_made_and_closed_alike_in_all_sets():
    frame = every_kind(200)[["price", "humidity"]]
    frame.loc[::3, "price"] = None
    frame, found = prepared(frame)
    encoded = table.encode(frame, found)
    real = np.stack([encoded.values[i : i + 6] for i in range(150)])
    names = [feature.name for feature in schema.features(found)]
    assert names == ["price", "humidity", "price is missing"]
    full = real.copy()
    full[..., 0] = 7.0
    full[..., 2] = 0.0
    synthetic, (closed,) = gaps.close_gaps(full, [real], found, "fill", 0)
    assert np.isfinite(synthetic).all()
    assert np.isfinite(closed).all()
    assert (synthetic[..., 0] == 7).all()  # carried values are its own
    assert synthetic[..., 2].mean() == pytest.approx(real[..., 2].mean(), abs=0.02)
    known = np.isfinite(real)
    np.testing.assert_array_equal(closed[known], real[known])
    later = closed[:, 1:, 0][~known[:, 1:, 0]]
    np.testing.assert_array_equal(later, closed[:, :-1, 0][~known[:, 1:, 0]])


def test_stride_thins_training_windows():
    series = split_series(np.arange(100.0)[:, None], ("x",), 10, "paper", stride=7)
    np.testing.assert_array_equal(series.train, np.arange(0, 91, 7))


# Files, and what is refused.


def write(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_files_are_read_whatever_their_separator(tmp_path):
    for name, text in {
        "comma.csv": "a,b\n1,2.5\n3,4\n",
        "semicolon.csv": "a;b\n1;2,5\n3;4\n",
        "tab.tsv": "a\tb\n1\t2.5\n3\t4\n",
        "bom.csv": "\ufeffa, b\n1,2.5\n3,4\n",
    }.items():
        decimal = "," if name == "semicolon.csv" else "."
        frame, _ = reader.read(write(tmp_path, text, name), decimal)
        assert list(frame.columns) == ["a", "b"]
        assert frame.to_numpy().tolist() == [[1, 2.5], [3, 4]]
    every_kind().to_parquet(tmp_path / "t.parquet")
    frame, _ = reader.read(str(tmp_path / "t.parquet"))
    pd.testing.assert_frame_equal(frame, every_kind())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; it needs a header line"),
        ("a,b\n", "has 0 rows of 2 columns"),
        ("a,a\n1,2\n3,4\n", "two columns are called 'a'"),
        ("a,b\n1,2,3,4\n5,6\n7,8,9,10,11\n", "line 2 has 4 cells, and most lines have 2"),
        ("a,b\n1,x\n2,3\n3,4\n4,5\n", r"column 'b' holds numbers \(75%\) and words: row 1 has 'x'"),
        ("a,b\n1,\n1,\n1,\n", "every column is constant, empty"),
        ("a;b\n1,5;2\n2.5;3\n3;4\n", "column 'a', row 1 holds '1,5', a number with a comma"),
        ("series,x\n1,2\n2,3\n", "has a column 'series', the name of the id"),
        ("a,b\n1,inf\n2,3\n", r"column 'b', row 1 holds inf"),
        ("a\n1\n1\n1\n", "every column is constant"),
        (
            "date,x\n2024-01-01T00:00+01:00,1\n2024-01-01T01:00+02:00,2\n2024-01-01T02:00Z,3\n",
            "mixes time zones; write all times in one",
        ),
        ("date,x\n2024-01-01,1\n2024-01-02,2\nsoon,3\n", "row 3 holds 'soon', no time"),
        ("date,x\n2024-01-01,1\n,2\n2024-01-03,3\n", r"\(the time\) has no value in row 2"),
        (
            "date,x\n2024-01-01,1\n2024-01-01,2\n2024-01-02,3\n2024-01-02,4\n2024-01-03,5\n",
            "if they are of several series, name the column that",
        ),
        (
            "id,x\n" + "".join(f"k{i},{i}\n" for i in range(30)),
            "holds another word in each row, such as",
        ),
        (f"id,x\n{2**60},1\n{2**60 + 1},2\n", r"integers beyond 2\^53"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        table.prepare(*reader.read(write(tmp_path, text)), Options())


def test_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        reader.read(str(tmp_path / "nothing.csv"))
    with pytest.raises(DataError, match="no file is there"):
        reader.read(str(tmp_path))
    with pytest.raises(DataError, match=r"expected .*parquet.*, found .docx"):
        reader.read(write(tmp_path, "x", "t.docx"))
    with pytest.raises(DataError, match="not a readable Parquet file"):
        reader.read(write(tmp_path, "x", "t.parquet"))
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\r\n\x00\x00\x81\x00")
    with pytest.raises(DataError, match="is no text"):
        reader.read(str(tmp_path / "picture.csv"))


def test_too_many_columns_say_what_to_do():
    wide = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 2_500))).add_prefix("c")
    with pytest.raises(DataError, match=r"would give 2,500 features.*at most 2,000.*'drop'"):
        prepared(wide)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"columns": {"pricee": {}}}, "column 'pricee' is not known; did you mean 'price'"),
        ({"columns": {"price": {"sclaing": "log"}}}, "field 'sclaing' is not known"),
        ({"columns": {"price": {"scaling": "lgo"}}}, "scaling 'lgo' is not known; did you mean"),
        ({"columns": {"price": {"kind": "money"}}}, "kind 'money' is not known"),
        ({"columns": {"price": {"low": "0"}}}, "low='0' must be a number"),
        ({"columns": {"price": {"low": 5, "high": 1}}}, "low=5 must be below high=1"),
        ({"columns": {"price": {"decimals": 400}}}, "decimals=400 must be a whole number from 0"),
        ({"columns": {"price": {"kind": "datetime"}}}, "column 'price', row 1 holds .*, no time"),
        ({"columns": {"pric": {}, "level": {"kind": "x"}}}, "(?s)2 problems.*'pric'.*kind 'x'"),
        ({"entity": 3}, "entity=3 must be the name of a column"),
        ({"time": ["when"]}, "must be the name of a column"),
        ({"columns": {"price": {"high": 1}}}, "beyond the schema's high=1"),
        ({"columns": {"price": 3}}, "expected an object of fields"),
        ({"columns": {"price": {"scaling": "constant"}}}, "said to be constant and is not"),
        ({"columns": {"level": {"categories": ["low"]}}}, "among the schema's categories"),
        ({"columns": {"level": {"kind": "float"}}}, "said to be a number and is not"),
        ({"columns": {"price": {"kind": "boolean"}}}, "said to be boolean and holds"),
    ],
)
def test_schemas_that_do_not_fit(declared, message):
    with pytest.raises(DataError, match=message):
        table.prepare(every_kind(), "the table", Options(schema=json.dumps(declared)))


def test_a_schema_file_overrides(tmp_path):
    declared = {
        "time": "when",
        "columns": {
            "price": {"scaling": "standard", "decimals": 0, "low": -1000},
            "site": {"kind": "drop"},
            "small": {"kind": "category"},
        },
    }
    path = write(tmp_path, json.dumps(declared), "s.json")
    _, found = prepared(every_kind(), schema=path)
    by_name = {column.name: column for column in found.columns}
    assert "site" not in by_name
    assert by_name["small"].categories == (0, 1, 2, 3, 4)
    assert (by_name["price"].scaling, by_name["price"].decimals) == ("standard", 0)
    samples = table.decode(np.full((1, 3, len(schema.features(found))), 3.7), found)
    assert samples["small"].dtype == np.int8
    for text, message in (("{", "is not JSON"), ('{"colums": {}}', "did you mean 'columns'")):
        with pytest.raises(DataError, match=message):
            schema.read_overrides(write(tmp_path, text, "bad.json"))
    with pytest.raises(DataError, match="does not exist"):
        schema.read_overrides(str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": "whem"}, "the table: time: column 'whem' is not known; did you mean 'when'"),
        ({"entity": "sites"}, "the table: entity: column 'sites' is not known"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(DataError, match=message):
        prepared(every_kind(), **options)


def test_later_tables_must_fit(caplog):
    _, found = prepared(every_kind())
    with pytest.raises(DataError, match="has no column 'price'"):
        table.encode(every_kind().drop(columns="price"), found)
    strange = every_kind()
    strange.loc[4, "level"] = "extreme"
    with caplog.at_level("WARNING"):
        encoded = table.encode(strange, found)
    assert "column 'level': 1 rows hold words that are not learnt, such as 'extreme'" in caplog.text
    words = [p for p, f in enumerate(schema.features(found)) if f.name.startswith("level=")]
    assert (encoded.values[4, words] == 0).all()
    assert (encoded.values[5, words].sum()) == 1
    with pytest.raises(DataError, match="has no column 'when'"):
        table.arrange(every_kind().drop(columns="when"), "it", found)
