"""Rows keep who they are: an index is no column, and what comes back aligns with what went in."""

import numpy as np
import pandas as pd
import pytest
from quick import Quick

from timeldm_jax import convert
from timeldm_jax.data import clock, order, table
from timeldm_jax.data.table import Options
from timeldm_jax.errors import DataError

ROWS = 120
HOURS = pd.date_range("2024-01-01", periods=ROWS, freq="h")
MANY = pd.date_range("2024-01-01", periods=400, freq="h")  # enough to train on


def wave(index=None, rows=ROWS):
    random = np.random.default_rng(0)
    x = np.round(20 + 5 * np.sin(0.3 * np.arange(rows)) + random.normal(size=rows), 2)
    return pd.DataFrame({"x": x, "n": random.poisson(5, rows)}, index=index)


def learnt(frame, **options):
    return table.prepare(frame, "the table", Options(**options))[1]


# Which part of an index becomes a column.


@pytest.mark.parametrize(
    "index",
    [
        range(5, 5 + ROWS),
        np.random.default_rng(1).permutation(ROWS),
        [f"row {i}" for i in range(ROWS)],
        pd.Index(np.arange(ROWS) * 7, name="id"),
        np.zeros(ROWS, int),
        np.linspace(0, 1, ROWS),
    ],
)
def test_an_index_is_not_learnt(index):
    schema = learnt(wave(index))
    assert schema.order == ("x", "n")
    assert schema.clock is None


@pytest.mark.parametrize(
    ("index", "name"),
    [
        (HOURS, "time"),
        (HOURS.rename("when"), "when"),
        (pd.Index(HOURS.strftime("%d/%m/%Y %H:%M"), name="stamp"), "stamp"),
        (pd.period_range("2024-01", periods=ROWS, freq="M"), "time"),
        (HOURS.tz_localize("Europe/Paris"), "time"),
    ],
)
def test_an_index_of_times_is_the_clock(index, name):
    schema = learnt(wave(index))
    assert schema.clock.name == name
    assert schema.order == (name, "x", "n")
    samples = table.decode(np.zeros((1, 3, 2)), schema)
    assert list(samples.columns) == ["series", name, "x", "n"]
    later = table.arrange(wave(index), "it", schema)
    assert list(later.frame.columns) == [name, "x", "n"]


def test_a_named_level_can_be_the_time_or_the_entity():
    steps = pd.Index(np.arange(ROWS), name="step")
    assert learnt(wave(steps), time="step").clock.step == 1
    who = pd.Index(np.repeat(["a", "b"], ROWS // 2), name="who")
    assert learnt(wave(who), entity="who").entity == ("who",)
    with pytest.raises(DataError, match="time: column 'stpe' is not known"):
        learnt(wave(steps), time="stpe")


def test_another_column_can_be_the_time():
    frame = wave(HOURS).assign(step=np.arange(ROWS) * 2)
    schema = learnt(frame, time="step")
    assert (schema.clock.name, schema.clock.step) == ("step", 2)
    assert schema.order == ("x", "n", "step")


@pytest.mark.parametrize("names", [("who", "when"), (None, None)])
def test_two_levels_are_entity_and_time(names):
    index = pd.MultiIndex.from_product([["a", "b"], HOURS[: ROWS // 2]], names=names)
    frame = wave(index)
    for given in (frame, frame.swaplevel(), frame.sort_index(level=1)):
        schema = learnt(given)
        (entity,) = schema.entity
        assert entity == (names[0] or "entity")
        assert schema.clock.name == (names[1] or "time")
        assert [c.name for c in schema.columns] == ["x", "n"]
        later = table.arrange(given, "it", schema).frame
        assert list(later[entity]) == ["a"] * (ROWS // 2) + ["b"] * (ROWS // 2)


def test_levels_that_nobody_named():
    index = pd.MultiIndex.from_product([["a", "b"], range(ROWS // 2)], names=("who", "step"))
    with pytest.raises(DataError, match=r"several levels.*\(time, entity\).*reset_index\(\)"):
        learnt(wave(index))
    schema = learnt(wave(index), time="step")
    assert (schema.entity, schema.clock.name) == (("who",), "step")


def test_an_index_called_as_a_column():
    frame = wave().assign(when=HOURS).set_index("when", drop=False)
    assert learnt(frame).order == ("x", "n", "when")
    frame.index = frame.index[::-1]
    with pytest.raises(DataError, match="its index and a column are both called 'when'"):
        learnt(frame)


def test_an_index_or_a_column_of_times_fit_one_model():
    schema = learnt(wave(HOURS.rename("when")))
    column = wave().assign(when=HOURS)
    for later in (wave(HOURS), wave(HOURS.rename("stamp")), column):
        values = table.encode(table.arrange(later, "it", schema).frame, schema).values
        np.testing.assert_array_equal(values, wave().to_numpy())
    without = learnt(wave())
    assert table.arrange(wave(HOURS), "it", without).clock is None
    with pytest.raises(DataError, match="has no column 'when'"):
        table.arrange(wave(), "it", schema)


# Order.


def put_back(frame, schema, irregular="error"):
    """Imputation with a known answer: what is missing becomes the row's place in order."""
    ordered = table.arrange(frame, "it", schema, irregular)
    rows = len(ordered.frame)
    filled = pd.DataFrame(
        {c.name: pd.Series(np.arange(rows)).astype(c.dtype) for c in schema.columns}
    )
    return convert.put_back(frame, filled, ordered.place, schema)


def panel():
    frame = pd.concat([wave().assign(who=w, step=np.arange(ROWS), note=f"of {w}") for w in "cab"])
    return frame.reset_index(drop=True)


def test_a_shuffled_panel_comes_back_shuffled():
    frame = panel()
    drop = '{"columns": {"note": {"kind": "drop"}}}'
    schema = learnt(frame, time="step", entity="who", schema=drop)
    mixed = frame.sample(frac=1, random_state=3).sort_values("step", kind="stable")
    mixed.index = [f"row {i}" for i in range(len(mixed))]
    mixed.loc[mixed.index[::4], "x"] = None
    found = put_back(mixed, schema)
    assert list(found.columns) == list(mixed.columns)
    pd.testing.assert_index_equal(found.index, mixed.index)
    pd.testing.assert_frame_equal(found.drop(columns="x"), mixed.drop(columns="x"))
    known = mixed["x"].notna()
    pd.testing.assert_series_equal(found["x"][known], mixed["x"][known])
    expected = mixed["who"].map({"a": 0, "b": ROWS, "c": 2 * ROWS}) + mixed["step"]
    assert (found["x"][~known] == expected[~known]).all()


def test_rows_that_are_sorted_or_resampled_find_their_place():
    frame = wave().assign(when=HOURS)
    schema = learnt(frame)
    mixed = frame.sample(frac=1, random_state=0)
    mixed.loc[mixed.index[::3], "x"] = None
    with pytest.raises(DataError, match=r"row 2: .* comes after"):
        table.arrange(mixed.iloc[np.argsort(mixed.index)[[1, 0, *range(2, ROWS)]]], "it", schema)
    found = put_back(mixed, schema, "sort")
    lacks = mixed["x"].isna()
    assert (found["x"][lacks] == mixed.index[lacks]).all()
    holes = mixed.drop(index=[7, 8, 40])
    found = put_back(holes, schema, "resample")  # a row that is not there has its place, too
    lacks = holes["x"].isna()
    assert (found["x"][lacks] == holes.index[lacks]).all()


def test_errors_count_rows_as_they_were_given():
    frame = panel()
    frame["x"] = frame["x"].astype(object)
    frame.loc[4, "x"] = "wet"
    with pytest.raises(DataError, match="row 5 has 'wet'"):
        learnt(frame, entity="who", time="step")
    frame = panel()
    frame.loc[10, "step"] = 3
    with pytest.raises(DataError, match="row 11: 3 comes after 9"):
        learnt(frame, entity="who", time="step")


def test_entities_of_numbers_and_words():
    frame = panel()
    frame["who"] = frame["who"].map({"a": 7, "b": "b", "c": 1})
    ordered = order.order(frame, "it", ("step",), ("who",), clock.Reading(irregular="error"))
    assert ordered.frame["who"].nunique() == 3
    assert (np.diff(pd.factorize(ordered.frame["who"])[0]) >= 0).all()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float64", "int64"),  # what pandas makes of whole numbers with gaps
        ("object", "int64"),
        ("Int64", "Int64"),
        ("Int8", "Int8"),
        ("float32", "float32"),
    ],
)
def test_dtypes_hold_as_far_as_they_can(dtype, expected):
    frame = wave(rows=60)
    schema = learnt(frame)
    holes = frame.assign(n=frame["n"].astype("Int64").mask(frame.index % 4 == 0).astype(dtype))
    found = put_back(holes, schema)
    assert found["n"].dtype == expected
    assert found["n"].notna().all()
    known = holes["n"].notna()
    assert (found["n"][known] == frame["n"][known]).all()


def test_narrow_dtypes_hold_what_fits():
    schema = learnt(wave(rows=3).assign(x=[0.1, 0.2, 0.3]))
    filled = pd.DataFrame({"x": [0.1, 0.7, 0.3], "n": [1, 130, 3]})
    holes = pd.DataFrame({"x": np.float32([0.1, np.nan, 0.3]), "n": pd.array([1, None, 3], "Int8")})
    found = convert.put_back(holes, filled, np.arange(3), schema)
    assert found["x"].dtype == np.float32
    np.testing.assert_allclose(found["x"], filled["x"], rtol=1e-6)
    assert list(found["n"]) == [1, 130, 3]


def test_words_outside_a_given_category_are_kept():
    frame = wave(rows=40).assign(word=["a", "b"] * 20)
    schema = learnt(frame)
    holes = frame.assign(word=pd.Categorical(["a", None] * 20))
    filled = pd.DataFrame({"x": frame["x"], "n": frame["n"], "word": ["b"] * 40})
    found = convert.put_back(holes, filled, np.arange(40), schema)
    assert list(found["word"]) == ["a", "b"] * 20


# Through a model.


@pytest.fixture(scope="module")
def clocked():
    return Quick(window=8).fit(wave(MANY, 400)["x"])


@pytest.mark.training
def test_impute_gives_the_table_back(clocked):
    holes = wave(MANY, 400).assign(note="kept")[["note", "n", "x"]]
    holes.loc[MANY[::5], "x"] = None
    filled = clocked.impute(holes)
    assert filled["x"].notna().all()
    pd.testing.assert_index_equal(filled.index, holes.index)
    pd.testing.assert_frame_equal(filled[["note", "n"]], holes[["note", "n"]])
    assert holes["x"].isna().any()  # untouched
    assert list(clocked.sample(2).columns) == ["series", "time", "x"]
    forecast = clocked.forecast(wave(MANY, 400), 3, n=2)
    assert forecast.samples["time"].iloc[0] == MANY[-1] + pd.Timedelta("1h")


@pytest.mark.training
def test_a_series_gives_a_series(clocked):
    series = wave(MANY, 400)["x"]
    filled = clocked.impute(series.where(np.arange(400) % 9 > 0))
    assert isinstance(filled, pd.Series)
    assert (filled.name, filled.dtype) == ("x", series.dtype)
    assert filled.notna().all()
    pd.testing.assert_index_equal(filled.index, series.index)
