"""Rules between columns are kept exactly: in samples, after rounding, beside what is given."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import SMALL

from timeldm_jax import TimeLDM
from timeldm_jax import config as configuration
from timeldm_jax.data import dataset as datasets
from timeldm_jax.data import proposals, rules, table
from timeldm_jax.data.rules import Rule
from timeldm_jax.data.schema import Schema
from timeldm_jax.data.table import Options
from timeldm_jax.errors import DataError

RULES = [
    "low <= open <= high",
    "low <= close <= high",
    "volume = bought + sold",
    "meter never falls",
    "dead never falls",
]


def bars(series=1, rows=300, seed=0):
    """Prices of a day, a volume in two parts, a meter, and a flag that never falls back."""
    random = np.random.default_rng(seed)
    parts = []
    for i in range(series):
        price = 50 + random.normal(size=rows).cumsum()
        opening, closing = price + random.normal(size=(2, rows)) / 2
        bought, sold = random.poisson(9, (2, rows))
        parts.append(
            pd.DataFrame(
                {
                    "day": pd.date_range("2020-01-01", periods=rows),
                    "who": f"s{i}",
                    "open": opening.round(2),
                    "high": (np.maximum(opening, closing) + random.exponential(size=rows)).round(2),
                    "low": (np.minimum(opening, closing) - random.exponential(size=rows)).round(2),
                    "close": closing.round(2),
                    "volume": bought + sold,
                    "bought": bought,
                    "sold": sold,
                    "meter": (random.exponential(size=rows) * (random.random(rows) < 0.7))
                    .cumsum()
                    .round(1),
                    "dead": np.arange(rows) > rows - 20 * i - 5,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def prepared(frame, texts=RULES, **options):
    given = json.dumps({"rules": texts})
    return table.prepare(frame, "the table", Options(schema=given, **options))


def broken(frame, by="series"):
    """How often each rule does not hold, by plain comparisons."""
    rises = frame[["meter", "dead"]].astype(float).groupby(frame[by]).diff()
    found = {
        "low": (frame["low"] > frame[["open", "close"]].min(axis=1)).sum(),
        "high": (frame["high"] < frame[["open", "close"]].max(axis=1)).sum(),
        "volume": (frame["volume"] != frame["bought"] + frame["sold"]).sum(),
        "rises": (rises.fillna(0).astype(float) < 0).sum().sum(),
    }
    return {name: int(count) for name, count in found.items() if count}


def test_rules_are_read_in_an_order_in_which_they_can_be_made():
    names = [column.name for column in prepared(bars())[1].columns]
    found = rules.parse(["c <= d", "b >= a", "b <= c", "t = d + a", "m never falls"], "abcdtm")
    made = [rule.column for rule in found if rule.kind != "rises"]
    assert made.index("b") < made.index("c") < made.index("d") < made.index("t")
    assert Rule("rises", "m") in found
    for text, message in (
        (["low < high"], "is no rule; expected one as"),
        (["lo <= high"], "names 'lo', which is no column"),
        (["low <= high >= open"], "is no rule"),
        (["open <= close", "close <= open"], "go round in circles"),
        (["volume = bought + sold", "sold <= volume"], "both a sum and above"),
        (["meter never falls", "sold <= meter"], "never falls and is a sum or above others"),
    ):
        with pytest.raises(DataError, match=message):
            rules.parse(text, names)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["high <= low"], r"'high <= low' does not hold in 300 of 300 rows, such as row 1: low="),
        (["volume = bought + open"], "does not hold in"),
        (["open never falls"], "does not hold in"),
        (["day <= high"], "names 'day', which is no column"),
    ],
)
def test_a_rule_that_the_table_breaks_is_told(texts, message):
    with pytest.raises(DataError, match=message):
        prepared(bars(), texts)


def test_a_column_that_does_not_vary_is_a_bound():
    frame = bars().assign(floor=-5.0)
    with pytest.raises(DataError, match=r"'floor' does not vary; say it as a bound of the other"):
        prepared(frame, ["floor <= low"])


def test_what_is_proposed_can_be_declared_though_a_meter_lies_above():
    frame = bars().assign(base=lambda f: f["meter"] - f["sold"] - 1)  # below the meter, always
    ordered, found = table.prepare(frame, "it", Options())
    proposed = proposals.propose(ordered, found.columns, np.zeros(len(frame), int))
    assert "meter never falls" in proposed
    assert not any(text.endswith("<= meter") for text in proposed)
    prepared(frame, proposed)


def test_the_rules_of_a_table_are_proposed():
    frame, found = table.prepare(bars(), "it", Options())
    proposed = proposals.propose(frame, found.columns, np.zeros(len(frame), int))
    assert set(proposed) >= {
        "low <= open", "low <= close", "open <= high", "close <= high",
        "volume = bought + sold", "meter never falls",
    }  # fmt: skip
    assert "low <= high" not in proposed  # others say it
    declared = prepared(bars(), proposed)[1]
    assert prepared(bars(), "proposed")[1] == declared  # by a word
    with pytest.raises(DataError, match="or 'proposed', for those"):
        prepared(bars(), "all")


def scaled(frame, **options):
    found, schema = prepared(frame, **options)
    config = configuration.base()
    configuration.apply_table(config)
    config.data.schema = json.dumps({"rules": RULES})
    config.data.window, config.data.stride = 8, 1
    return datasets.from_table(found, schema, config)


def test_scaling_comes_back_and_whatever_is_scaled_keeps_the_rules():
    data = scaled(bars())
    values = data.series.training_rows()
    np.testing.assert_allclose(data.scaler.unscale(data.scaler.scale(values)), values, atol=1e-6)
    wild = np.random.default_rng(0).normal(0.5, 1.0, (200, 8, values.shape[1]))
    windows = rules.keep(table.snap(data.scaler.unscale(wild), data.schema), data.schema)
    for limited in (windows, table.within_range(windows, data.schema)):
        assert not broken(table.decode(limited, data.schema))
    # How far a column lies above the others is what the model sees.
    names = list(data.series.columns)
    place = names.index("open")
    link = next(link for link in rules.links(data.schema) if link.place == place)
    above = link.apart(values)
    expected = values[:, place] - values[:, names.index("low")]
    np.testing.assert_allclose(above, expected)
    again = type(data.scaler).from_json(json.loads(json.dumps(data.scaler.to_json())))
    assert again == data.scaler
    schema = Schema.from_json(json.loads(json.dumps(data.schema.to_json())))
    assert schema.rules == data.schema.rules


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), known=st.floats(0, 1))
def test_what_is_given_stays_and_the_rest_fits_it(seed, known):
    schema = SCALED.schema
    random = np.random.default_rng(seed)
    starts = random.integers(0, 290, 20)
    truth = SCALED.series.values[starts[:, None] + np.arange(8)]
    given_values = np.where(random.random(truth.shape) < known, truth, np.nan)
    drawn = random.permutation(truth)
    drawn = np.where(np.isnan(given_values), drawn, given_values)
    found = rules.keep(drawn, schema, given_values)
    there = ~np.isnan(given_values)
    np.testing.assert_array_equal(found[there], truth[there])
    assert not broken(table.decode(found, schema))


SCALED = scaled(bars())


def patients(count=30, rows=20, seed=0):
    """Stays in a hospital: what has happened stays so, as a word, a flag, a number and a stage."""
    random = np.random.default_rng(seed)
    parts = []
    for i in range(count):
        ill, worse = np.sort(random.integers(2, rows + 6, 2))
        after = np.arange(rows) >= ill
        parts.append(
            pd.DataFrame(
                {
                    "day": np.arange(rows),
                    "who": f"p{i:02d}",
                    "pulse": random.normal(70, 9, rows).round(),
                    "status": np.where(after, "dead", "in"),  # the later word comes first by name
                    "told": np.where(after, "yes", "no"),
                    "flag": after.astype(int),
                    "sure": after,
                    "stage": np.where(np.arange(rows) >= worse, "III", np.where(after, "II", "I")),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


FLAGS = ["status never falls", "told never falls", "flag never falls", "sure never falls"]
ORDER = {"status": ["in", "dead"], "told": ["no", "yes"], "stage": ["I", "II", "III"]}


def fallen(frame, by="series"):
    """How often a flag or word falls back, by plain comparisons."""
    ranks = {name: frame[name].map(words.index) for name, words in ORDER.items()}
    ranks |= {name: frame[name].astype(int) for name in ("flag", "sure")}
    steps = pd.DataFrame(ranks).groupby(frame[by]).diff().fillna(0)
    return int((steps < 0).sum().sum())


def test_flags_and_words_never_fall_back():
    frame, found = table.prepare(patients(), "it", Options(entity="who", time="day"))
    groups = np.repeat(np.arange(30), 20)
    proposed = proposals.propose(frame, found.columns, groups)
    assert set(proposed) >= set(FLAGS)
    texts = [*FLAGS, "stage never falls"]
    frame, found = prepared(patients(), texts, entity="who", time="day")
    assert {c.name: list(c.categories) for c in found.columns if c.categories} == ORDER
    later = table.relearn(frame[frame["who"] < "p20"], found, {})
    assert {c.name: list(c.categories) for c in later.columns if c.categories} == ORDER
    values = table.encode(frame, found).values
    random = np.random.default_rng(1)
    wild = random.normal(0.5, 1, (200, 9, values.shape[1]))
    drawn = rules.keep(table.snap(wild, found), found)
    assert not fallen(table.decode(drawn, found))
    assert set(table.decode(drawn, found)["flag"]) == {0, 1}
    # What is given before and after bounds what is drawn between.
    truth = values.reshape(30, 20, -1)
    given_values = np.where(random.random((30, 20, 1)) < 0.4, truth, np.nan)
    mixed = np.where(np.isnan(given_values), random.permutation(truth), given_values)
    kept = rules.keep(mixed, found, given_values)
    there = ~np.isnan(given_values)
    np.testing.assert_array_equal(kept[there], truth[there])
    assert not fallen(table.decode(kept, found))
    mixed_up = patients()
    mixed_up["status"] = random.permutation(mixed_up["status"])
    with pytest.raises(DataError, match=r"does not hold in .* \(words in the order .*\)"):
        prepared(mixed_up, ["status never falls"], entity="who", time="day")


@pytest.mark.training
def test_samples_forecasts_and_imputations_keep_them(tmp_path):
    frame = bars(series=3)
    config = configuration.base()
    configuration.apply_table(config)
    config.update_from_flattened_dict(SMALL | {"data.window": 8, "data.stride": 2})
    schema = {"rules": RULES}
    model = TimeLDM(config=config).fit(frame, entity="who", schema=schema)
    model.save(tmp_path / "model", report=False)
    model = TimeLDM.load(tmp_path / "model")
    assert not broken(model.sample(200))
    assert not broken(model.sample_series(30, count=3))
    history = frame[frame["who"] == "s1"]
    future = model.forecast(history, 9, n=5).samples
    assert not broken(future)
    assert (future.groupby("series")["meter"].first() >= history["meter"].iloc[-1]).all()
    holes = frame.astype({"volume": float, "bought": float, "sold": float, "dead": "boolean"})
    hidden = np.random.default_rng(0).random(holes.shape) < 0.3
    hidden[:, :2] = False
    filled = model.impute(holes.mask(hidden))
    assert filled.notna().all().all()
    assert not broken(filled, by="who")


def test_the_description_proposes_rules():
    said = str(TimeLDM.describe(bars()))
    assert "'low <= open'" in said
    assert '"rules"' in said


def test_the_description_says_what_can_be_asked_for():
    said = str(TimeLDM.describe(bars(3).assign(kind=lambda f: f["who"] + "!"), entity="who"))
    assert "Samples can be asked for by 'kind', the time of their first rows." in said
