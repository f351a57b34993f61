"""One table of every oddity: it trains, and what comes back is of the same kind."""

import datetime
import decimal

import numpy as np
import pandas as pd
import pytest
import quick

from timeldm_jax import TimeLDM
from timeldm_jax.convert import put_back
from timeldm_jax.data import reader, schema, table
from timeldm_jax.errors import DataError

ROWS = 600


def odd_table():
    random = np.random.default_rng(0)
    normal = random.normal(size=ROWS)
    frame = pd.DataFrame(
        {
            "when": pd.date_range("2024-01-01", periods=ROWS, freq="h"),
            "x": normal.cumsum().round(2),
            "mostly empty": np.where(np.arange(ROWS) % 33 == 0, normal, np.nan),
            "one or empty": np.where(random.random(ROWS) < 0.2, 1.0, np.nan),
            "yes or empty": np.where(random.random(ROWS) < 0.2, "yes", None),
            "small": random.integers(-100, 120, ROWS).astype(np.int8),
            "lasts": pd.to_timedelta(random.integers(1, 100, ROWS), unit="s"),
            "price": [decimal.Decimal(f"{value:.2f}") for value in normal],
            "level": pd.Categorical(random.choice(["low", "high"], ROWS), ["low", "high"], True),
            "range": pd.cut(pd.Series(normal), 4),
            "month": pd.Series(pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(ROWS), "D"))
            .sample(frac=1, random_state=0, ignore_index=True)
            .dt.to_period("M"),
            "born": [datetime.date(1950 + n % 50, 1, 1) for n in random.integers(0, 50, ROWS)],
            "flag": random.random(ROWS) < 0.5,
            "empty": np.nan,
        }
    )
    frame["late flag"] = frame.index >= 550
    frame["late"] = pd.Series(normal).where(frame.index >= 590)
    frame["rare"] = np.where(frame.index >= 590, "fault", "fine")
    return frame


@pytest.mark.slow
@pytest.mark.training
def test_a_table_of_every_oddity_trains(tmp_path):
    frame = odd_table()
    model = quick.Quick(window=12).fit(frame)
    samples = model.sample(30, missing="generate")
    assert samples.drop(columns="series").dtypes.tolist() == frame.dtypes.tolist()
    assert set(samples["one or empty"].dropna()) <= {1.0}
    assert set(samples["yes or empty"].dropna()) <= {"yes"}
    assert samples["level"].cat.categories.tolist() == ["low", "high"]
    assert all(isinstance(price, decimal.Decimal) for price in samples["price"])
    assert samples["empty"].isna().all()

    gaps = frame.tail(60).copy()
    for column, row in zip(
        ("x", "level", "flag", "lasts", "price", "month"), range(6), strict=True
    ):
        gaps[column] = gaps[column].astype(object)
        gaps.loc[gaps.index[row], column] = None
    filled = model.impute(gaps)
    assert filled.drop(columns=["empty", "late"]).notna().all(axis=None)
    assert filled.dtypes.tolist() == frame.dtypes.tolist()

    found = model.forecast(frame.tail(40), 6, n=5).quantiles
    assert set(found["column"]) >= {"x", "small", "lasts", "price"}
    model.save(tmp_path / "saved", report=False)
    again = TimeLDM.load(tmp_path / "saved")
    pd.testing.assert_frame_equal(again.sample(3, seed=1), model.sample(3, seed=1))


def learnt():
    frame, found = table.prepare(*reader.read(odd_table()), table.Options())
    return frame, found


def test_what_fills_a_gap_fits_where_it_goes():
    """130 is no int8, and flags that a later table writes as words are flags."""
    frame, found = learnt()
    given = frame.tail(20).reset_index(drop=True)
    given["small"] = given["small"].astype(object)
    given.loc[3, "small"] = 130
    given.loc[4, "small"] = None
    given["flag"] = given["flag"].map({True: "Yes", False: "no"})
    given.loc[5, "flag"] = None
    encoded = table.encode(given, found).values
    flag = [feature.name for feature in schema.features(found)].index("flag")
    assert np.isnan(encoded[:, flag]).tolist() == [row == 5 for row in range(20)]
    filled = table.decode(np.nan_to_num(encoded)[None], found).drop(columns="series")
    back = put_back(given, filled, np.arange(20), found)
    assert back["small"].tolist()[3:5] == [130, 0]
    assert back["flag"].dtype == bool
    assert back["flag"].tolist()[:3] == frame["flag"].tolist()[-20:-17]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("x", np.inf, "row 4 holds inf; expected a finite number"),
        ("flag", "perhaps", "row 4 holds 'perhaps'; expected true or false"),
    ],
)
def test_a_later_table_is_checked_as_the_first_was(column, value, message):
    frame, found = learnt()
    frame[column] = frame[column].astype(object)
    frame.loc[3, column] = value
    with pytest.raises(DataError, match=message):
        table.encode(frame, found)
