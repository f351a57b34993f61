"""Columns of more words than have a number each."""

import json

import numpy as np
import pandas as pd
import pytest
import quick

from timeldm_jax.data import inference, schema, table, words
from timeldm_jax.data.table import Options
from timeldm_jax.errors import DataError


def shop(count, rows=4_000, seed=0):
    """Rows of products, some of them often, and how many were sold."""
    random = np.random.default_rng(seed)
    number = np.minimum(random.geometric(3 / count, rows) - 1, count - 1)
    number[: 2 * count] = np.tile(np.arange(count), 2)  # each in two rows at least
    return pd.DataFrame(
        {
            "time": pd.date_range("2024-01-01", periods=rows, freq="h"),
            "product": [f"sku {n:03d}" for n in number],
            "sold": random.poisson(5, rows),
        }
    )


@pytest.mark.parametrize("count", [2, 21, 36, 500, 2_000])
def test_codes_are_apart_and_short(count):
    codes = words.codes(count)
    assert codes.shape == (count, words.length(count))
    assert words.length(count) <= 22
    assert set(np.unique(codes)) <= {0.0, 1.0}
    apart = np.abs(codes[:200, None] - codes[None, :200]).sum(-1) + 99 * np.eye(min(count, 200))
    assert apart.min() >= (2 if count > 2 else 1)


def test_codes_are_those_that_saved_models_were_trained_with():
    assert words.codes(21)[20].astype(int).tolist() == [1, 1, 0, 1, 0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize("count", [36, 500])
def test_words_come_back_through_a_decoders_noise(count):
    frame, found = table.prepare(shop(count), "the table", Options())
    column = next(c for c in found.columns if c.name == "product")
    assert column.coded
    assert len(column.categories) == count
    found = schema.Schema.from_json(json.loads(json.dumps(found.to_json())))
    values = table.encode(frame, found).values
    assert values.shape[1] == words.length(count) + 1
    noisy = values + np.random.default_rng(1).normal(scale=0.15, size=values.shape)
    again = table.decode(noisy[None], found)
    assert (again["product"].to_numpy() == frame["product"].to_numpy()).mean() > 0.999
    assert f"category of {count}, coded in {words.length(count)} numbers" in found.describe()[0]


def test_a_word_that_was_not_learnt_is_none_of_them(caplog):
    frame, found = table.prepare(shop(36), "the table", Options())
    later = frame.head(30).copy()
    later.loc[3, "product"] = "new"
    values = table.encode(later, found).values
    assert (values[3, :-1] == 0.5).all()
    assert caplog.text.count("words that are not learnt, such as 'new' in row 4") == 1


def test_twenty_words_have_a_number_each_as_ever():
    _, found = table.prepare(shop(20), "the table", Options())
    assert [f.role for f in schema.features(found)] == ["category"] * 20 + ["value"]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([f"w{i % 2_100}" for i in range(6_300)], r"2,100 different values .* up to 2,000.*entity"),
        ([f"w{i}" for i in range(300)], "another word in each row"),
        ([f"w{i if i < 200 else 0}" for i in range(300)], r"word of its own in 199 of 300 rows"),
    ],
)
def test_words_that_cannot_be_learnt_say_what_to_do(names, says):
    frame = pd.DataFrame({"word": names, "x": np.arange(len(names)) % 7})
    with pytest.raises(DataError, match=says):
        table.prepare(frame, "the table", Options())


def test_words_that_the_user_lists_are_coded_too():
    listed = [f"sku {n:03d}" for n in range(40)]
    column = inference.infer(shop(36)["product"], {"categories": listed}, "the table")
    assert column.coded
    assert column.categories == tuple(listed)


@pytest.mark.slow
def test_a_table_of_many_words_trains_and_samples_them():
    model = quick.Quick(window=12).fit(shop(36, rows=800))
    samples = model.sample(20)
    assert set(samples["product"]) <= set(shop(36)["product"])
    assert samples["product"].nunique() > 1
    gaps = shop(36, rows=200)
    gaps.loc[10:20, "product"] = None
    assert set(model.impute(gaps)["product"]) <= set(shop(36)["product"])
