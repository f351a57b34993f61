"""Words occur only in the combinations that training rows have, whatever is given or missing."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import SMALL

from timeldm_jax import TimeLDM
from timeldm_jax import config as configuration
from timeldm_jax.data import combinations, proposals, schema, table
from timeldm_jax.data import context as contexts
from timeldm_jax.data.rules import Rule
from timeldm_jax.data.table import Options
from timeldm_jax.errors import DataError
from timeldm_jax.forecast import encode_known

RULE = "city, country, capital as seen"
PLACES = [
    ("Paris", "FR", True), ("Lyon", "FR", False), ("Nice", "FR", False), ("Rome", "IT", True),
    ("Turin", "IT", False), ("Paris", "US", False), ("Oslo", "NO", True),
]  # fmt: skip


def visits(rows=700, cities=0, seed=0):
    """Rows that are somewhere; with `cities` of as many places as that, whose words are codes."""
    random = np.random.default_rng(seed)
    places = PLACES or []
    if cities:
        places = [(f"c{i % (cities - 5)}", f"land {i % 7}", i < 7) for i in range(cities)]
    which = random.integers(0, len(places), rows)
    which[: 2 * len(places)] = np.tile(np.arange(len(places)), 2)
    return pd.DataFrame(
        {
            "time": pd.date_range("2024-01-01", periods=rows, freq="h"),
            "city": [places[i][0] for i in which],
            "guests": random.poisson(5, rows),
            "country": [places[i][1] for i in which],
            "capital": [places[i][2] for i in which],
        }
    )


def prepared(frame, texts=(RULE,), **options):
    return table.prepare(frame, "it", Options(schema=json.dumps({"rules": list(texts)}), **options))


def seen(frame, names=("city", "country", "capital")):
    """The combinations of a table's complete rows."""
    return set(frame[list(names)].dropna().itertuples(index=False, name=None))


@pytest.mark.parametrize("cities", [0, 60])
def test_whatever_is_drawn_is_a_combination_of_the_rows(cities):
    frame, found = prepared(visits(cities=cities))
    assert found.columns[0].coded == bool(cities)
    values = table.encode(frame, found).values
    again = table.decode(values[None], found)
    pd.testing.assert_frame_equal(again[frame.columns], frame)
    wild = np.random.default_rng(1).normal(0.5, 1.0, (40, 50, values.shape[1]))
    drawn = table.decode(wild, found)
    assert seen(drawn) <= seen(frame)
    assert len(seen(drawn)) > len(seen(frame)) / 2
    # Columns alone would be anything.
    free = table.prepare(visits(cities=cities), "it", Options())[1]
    assert not seen(table.decode(wild, free)) <= seen(frame)
    again = schema.Schema.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    assert f"{RULE} ({len(seen(frame))} combinations)" in found.describe()[-1]


def test_the_nearest_combination_is_the_one_by_squared_distance():
    frame, found = prepared(visits(cities=60))
    values = table.encode(frame, found).values
    own = [at for at, f in enumerate(found.layout()) if found.columns[f.column].name != "guests"]
    every = np.unique(values[:, own], axis=0)
    wild = np.random.default_rng(2).normal(0.5, 0.7, (1, 300, values.shape[1]))
    apart = np.square(wild[0][:, None, own] - every).sum(-1)
    np.testing.assert_array_equal(
        combinations.together(wild, found)[0][:, own], every[apart.argmin(1)]
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1), coded=st.booleans())
def test_what_is_given_stays_and_the_rest_agrees_with_it(seed, share, coded):
    frame, found, values = CASES[coded]
    random = np.random.default_rng(seed)
    rows = random.integers(0, len(values), 60)
    known = random.random((60, 3)) < share
    place = {"city": 0, "country": 1, "capital": 2}
    cells = values[rows].copy()
    for at, feature in enumerate(found.layout()):
        member = place.get(found.columns[feature.column].name)
        hidden = np.ones(60, bool) if member is None else ~known[:, member]
        cells[hidden, at] = np.nan
    drawn = random.normal(0.5, 1.0, cells.shape)
    made = table.decode(table.snap(drawn[None], found, cells[None]), found)
    assert seen(made) <= seen(frame)
    for name, member in place.items():
        there = known[:, member]
        assert (made[name].to_numpy() == frame[name].to_numpy()[rows])[there].all()


CASES = {}
for _coded in (False, True):
    _frame, _found = prepared(visits(cities=60 * _coded))
    CASES[_coded] = _frame, _found, table.encode(_frame, _found).values


def test_combinations_are_those_of_training_rows_that_come_again():
    frame = visits()
    frame.loc[0, ["city", "country", "capital"]] = ["Rome", "US", False]  # once
    frame.loc[1:3, "country"] = None  # part of the words
    whole = prepared(frame)[1]
    words = {
        tuple(
            column.categories[number] if column.categories else bool(number)
            for column, number in zip((whole.columns[i] for i in (0, 2, 3)), each, strict=True)
        )
        for each in whole.rules[0].combinations
    }
    assert words == set(PLACES)
    few = frame[~frame["city"].isin(["Oslo"])].reset_index(drop=True)
    fewer = table.relearn(few, whole, {})
    assert len(fewer.rules[0].combinations) == len(PLACES) - 1
    values = np.random.default_rng(0).normal(0.5, 1, (20, 30, len(fewer.layout())))
    assert seen(table.decode(values, fewer)) <= set(PLACES) - {PLACES[-1]}
    gone = table.decode(values, fewer, missing="generate")
    assert gone["country"].isna().any()
    assert seen(gone) <= set(PLACES)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["city as seen"], "is no rule"),
        (["city, town as seen"], "names 'town', which is no column"),
        (["city, guests as seen"], "'guests' is of kind 'integer'"),
        (["city, land as seen"], "'land' does not vary"),
        (
            ["city, country as seen", "capital, country as seen"],
            "'country' stands in 'as seen' and",
        ),
        (["city, capital as seen", "capital never falls"], "'capital' stands in 'as seen' and"),
    ],
)
def test_rules_that_cannot_be_are_told(texts, message):
    with pytest.raises(DataError, match=message):
        prepared(visits().assign(land="x"), texts)


def test_columns_never_seen_together_are_told():
    frame = visits()
    frame.loc[::2, "city"] = None
    frame.loc[1::2, "country"] = None
    with pytest.raises(DataError, match="have 0 combinations that come again"):
        prepared(frame, ["city, country as seen"])


def panel(series=24, rows=20, seed=0):
    """Sensors, each in a city, and what they read."""
    random = np.random.default_rng(seed)
    parts = []
    for i in range(series):
        city, country, capital = PLACES[i % len(PLACES)]
        parts.append(
            pd.DataFrame(
                {
                    "time": pd.date_range("2024-01-01", periods=rows, freq="h"),
                    "who": f"s{i:02d}",
                    "city": city,
                    "country": country,
                    "capital": capital,
                    "level": random.normal(size=rows).round(2),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def test_what_is_asked_for_must_be_seen():
    found = prepared(panel(), entity="who")[1]
    assert all(column.static for column in found.columns[:3])
    contexts.encode(pd.DataFrame({"city": ["Paris", None], "country": ["US", "IT"]}), found)
    with pytest.raises(DataError, match="city=Oslo, country=FR is in no training row"):
        contexts.encode(pd.DataFrame({"city": [None, "Oslo"], "country": ["FR", "FR"]}), found)
    moving = prepared(visits())[1]
    ahead = pd.DataFrame({"city": ["Rome"], "country": ["FR"]})
    with pytest.raises(DataError, match="known: city=Rome, country=FR is in no"):
        encode_known(ahead, moving, None, 1)


@pytest.mark.training
def test_samples_forecasts_and_imputations_keep_them(tmp_path):
    frame = visits()
    frame.loc[np.random.default_rng(3).random(len(frame)) < 0.2, "country"] = None
    config = configuration.base()
    configuration.apply_table(config)
    config.update_from_flattened_dict(SMALL | {"data.window": 8, "data.stride": 2})
    model = TimeLDM(config=config).fit(frame, schema={"rules": [RULE]})
    model.save(tmp_path / "model", report=False)
    model = TimeLDM.load(tmp_path / "model")
    assert seen(model.sample(100)) <= set(PLACES)
    assert seen(model.sample(100, missing="generate")) <= set(PLACES)
    assert seen(model.sample_series(30, count=3)) <= set(PLACES)
    ahead = pd.DataFrame({"city": ["Paris", None, "Rome"], "country": [None, "NO", None]})
    future = model.forecast(frame, 3, n=40, known=ahead).samples
    assert seen(future) <= set(PLACES)
    assert set(future["city"][::3]) == {"Paris"}
    assert set(future["city"][1::3]) == {"Oslo"}
    assert set(future["country"][::3]) <= {"FR", "US"}
    for draws in (1, 3):
        filled = model.impute(frame, draws=draws)
        assert filled["country"].notna().all()
        assert seen(filled) <= set(PLACES)
        assert (filled["city"] == frame["city"]).all()


@pytest.mark.training
def test_series_of_a_panel_have_one_combination_each():
    config = configuration.base()
    configuration.apply_table(config)
    config.update_from_flattened_dict(SMALL | {"data.window": 8, "data.stride": 2})
    frame = panel(42)  # so that training has series of each place
    holes = frame.copy()
    holes.loc[holes["who"] < "s06", "country"] = None
    model = TimeLDM(config=config).fit(holes, entity="who", schema={"rules": [RULE]})
    drawn = model.sample(60, given={"country": "IT"})
    assert seen(drawn) <= {place for place in PLACES if place[1] == "IT"}
    assert (drawn.groupby("series")["city"].nunique() == 1).all()
    for draws in (1, 3):
        filled = model.impute(holes, draws=draws)
        assert seen(filled) <= set(PLACES)
        assert (filled.groupby("who")["country"].nunique() == 1).all()
        assert (filled["city"] == frame["city"]).all()


def test_the_rules_of_words_are_proposed():
    frame, found = table.prepare(visits(), "it", Options())
    none = np.zeros(len(frame), int)
    assert "city, country as seen" in proposals.propose(frame, found.columns, none)
    assert "'city, country as seen'" in str(TimeLDM.describe(visits()))
    # Independent words, and a panel of few series, which shows little of what can be.
    random = np.random.default_rng(0)
    free = visits().assign(country=random.permutation(visits()["country"]))
    assert not proposals.propose(free, table.prepare(free, "it", Options())[1].columns, none)
    few = panel(series=4)
    frame, found = table.prepare(few, "it", Options(entity="who"))
    groups = np.repeat(np.arange(4), 20)
    assert not proposals.propose(frame, found.columns, groups)
    # What is proposed can be declared.
    many, found = table.prepare(panel(70), "it", Options(entity="who"))
    proposed = proposals.propose(many, found.columns, np.repeat(np.arange(70), 20))
    assert proposed == ["city, country as seen"]
    prepared(panel(70), proposed, entity="who")


def test_rules_of_words_do_not_share_columns():
    frame = visits().assign(state=lambda f: f["city"].str[:1] + f["country"])
    assert Rule("seen", "a", ("b",)).names == ("a", "b")
    found = proposals.propose(
        frame, table.prepare(frame, "it", Options())[1].columns, np.zeros(700)
    )
    assert found == ["city, country, state as seen"]
    prepared(frame, found)
