"""Static columns have one value a series, gaps that come together stay together, names are kept."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import SMALL

from timeldm_jax import TimeLDM
from timeldm_jax import config as configuration
from timeldm_jax.data import relations, table
from timeldm_jax.data.schema import Schema, features, flags
from timeldm_jax.data.table import Options
from timeldm_jax.errors import DataError


def panel(series=4, rows=60, seed=0):
    """Tickers with a sector, a year that one lacks, a level, and a laboratory's value and day."""
    random = np.random.default_rng(seed)
    parts = []
    for i in range(series):
        lab = np.where(random.random(rows) < 0.6, np.nan, random.normal(size=rows).round(1))
        parts.append(
            pd.DataFrame(
                {
                    "day": pd.date_range("2024-01-01", periods=rows),
                    "ticker": f"{'ABCDEFGH'[i % 8]}{i // 8 or ''}X",
                    "sector": ["ore", "gas", "ore"][i % 3],
                    "founded": [1901, 1950, None, 1999][i % 4],
                    "listed": i % 2 == 0,
                    "level": (random.normal(size=rows).cumsum() + 10 * i).round(2),
                    "lab": lab,
                    "lab_day": np.where(np.isnan(lab), np.nan, random.integers(0, 9, rows)),
                    "other": np.where(random.random(rows) < 0.1, np.nan, random.normal(size=rows)),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


STATIC = {"sector", "founded", "listed"}


def prepared(frame, **options):
    return table.prepare(frame, "the table", Options(entity="ticker", **options))[1]


def test_static_columns_are_found_in_a_panel_and_not_in_one_series():
    found = prepared(panel())
    assert {column.name for column in found.columns if column.static} == STATIC
    one = panel(1)
    assert not any(c.static for c in table.prepare(one, "it", Options(entity="ticker"))[1].columns)


def test_the_user_says_what_is_static():
    given = json.dumps({"columns": {"sector": {"static": False}, "level": {"static": True}}})
    found = {column.name: column.static for column in prepared(panel(), schema=given).columns}
    assert found["level"]
    assert not found["sector"]
    with pytest.raises(DataError, match="static='yes' must be true or false"):
        prepared(panel(), schema=json.dumps({"columns": {"sector": {"static": "yes"}}}))


def test_columns_that_lack_values_together_share_what_says_so():
    found = prepared(panel())
    by_name = {column.name: column.gaps_of for column in found.columns}
    assert by_name["lab_day"] == "lab"
    assert by_name["lab"] == by_name["other"] == ""
    places = {found.columns[number].name: place for number, place in flags(found).items()}
    assert places["lab"] == places["lab_day"] != places["other"]
    names = [feature.name for feature in features(found)]
    assert "lab is missing" in names
    assert "lab_day is missing" not in names


def test_samples_lack_them_together():
    found = prepared(panel())
    random = np.random.default_rng(0).normal(0.5, 1, (50, 12, len(features(found))))
    samples = table.decode(random, found, missing="generate")
    assert (samples["lab"].isna() == samples["lab_day"].isna()).all()
    assert 0.1 < samples["lab"].isna().mean() < 0.9
    assert (samples["other"].isna() != samples["lab"].isna()).any()


def test_samples_have_one_value_a_series_whatever_the_model_gives():
    found = prepared(panel(8), entity_names="real")
    random = np.random.default_rng(0).normal(0.5, 1, (50, 12, len(features(found))))
    samples = table.decode(relations.settle_windows(random, found), found)
    kinds = samples.groupby("series")[["ticker", *STATIC]].nunique()
    assert (kinds == 1).all().all()
    assert set(samples["ticker"]) <= set(panel(8)["ticker"])
    assert samples["ticker"].nunique() > 1
    assert list(samples.columns) == ["series", *panel().columns]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), known=st.floats(0, 1), padded=st.booleans())
def test_what_is_given_counts_and_else_the_mean_of_what_is_there(seed, known, padded):
    schema = prepared(panel())
    schema = Schema(schema.columns, schema.order, entity=schema.entity, padded=padded)
    random = np.random.default_rng(seed)
    width = len(features(schema))
    groups = np.repeat(np.arange(3), random.integers(1, 6, 3))
    values = random.normal(size=(len(groups), width))
    truth = random.normal(size=(3, width))[groups]
    given_values = np.where(random.random(values.shape) < known, truth, np.nan)
    found = relations.settle(values, groups, schema, given_values)
    static = [place for place, _ in schema.static_features()]
    others = np.setdiff1d(np.arange(width), static)
    np.testing.assert_array_equal(found[:, others], values[:, others])
    for group in range(3):
        rows = groups == group
        there = values[rows, -1] > 0.5 if padded else np.ones(rows.sum(), bool)
        there = there if there.any() else np.ones(rows.sum(), bool)
        for place in static:
            expected = values[rows, place][there].mean()
            if np.isfinite(given_values[rows, place]).any():
                expected = truth[rows, place][0]
            # Another order of the sum, of five numbers at most.
            np.testing.assert_allclose(found[rows, place], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (panel(), {"entity": "ticker,sector"}, "there are 2 entity columns"),
        (panel(), {}, "there is none"),
        (panel(110, 12), {"entity": "ticker"}, "has 110 names .* learns up to 100"),
        (panel(9, 6), {"entity": "ticker"}, "of 10 rows each"),
    ],
)
def test_names_that_cannot_be_learnt(frame, options, message):
    with pytest.raises(DataError, match=message):
        table.prepare(frame, "it", Options(entity_names="real", **options))


def test_series_whose_names_are_learnt_are_not_held_out():
    with pytest.raises(DataError, match=r"split='entity' .*use split='time'"):
        TimeLDM().fit(panel(), entity="ticker", entity_names="real", split="entity")


@pytest.mark.training
def test_a_model_keeps_names_and_static_columns(tmp_path):
    config = configuration.base()
    configuration.apply_table(config)
    config.update_from_flattened_dict(SMALL | {"data.window": 6, "data.stride": 3})
    frame = panel(rows=160)
    model = TimeLDM(config=config).fit(frame, entity="ticker", entity_names="real")
    model.save(tmp_path / "model", report=False)
    model = TimeLDM.load(tmp_path / "model")
    names = ["ticker", *STATIC]
    for samples in (model.sample(20), model.sample_series(20, count=4)):
        assert (samples.groupby("series")[names].nunique(dropna=False) == 1).all().all()
        assert set(samples["ticker"]) <= set(frame["ticker"])
    last = frame[frame["ticker"] == "BX"]
    future = model.forecast(last, 4, n=3).samples
    for name in names:
        assert {str(value) for value in future[name]} == {str(last[name].iloc[0])}
    hidden = frame.astype({"listed": "boolean"})
    hidden.loc[::2, "sector"] = None  # known of each
    hidden.loc[frame["ticker"] == "AX", "listed"] = None  # not known of one
    filled = model.impute(hidden)
    assert (filled["sector"] == frame["sector"]).all()
    assert filled.groupby("ticker")["listed"].nunique().max() == 1
