"""Columns that the time decides: found, not learnt, and right in whatever comes out."""

import json

import numpy as np
import pandas as pd
import pytest
import quick

from timeldm_jax.data import schema as schemas
from timeldm_jax.data import table as tables
from timeldm_jax.data.schema import Schema
from timeldm_jax.data.table import Options

DAYS = ["Mo", "Tu", "We", "Th", "Fr", "Sa", "Su"]


def hourly(rows=24 * 40, zone=None, seed=0):
    random = np.random.default_rng(seed)
    times = pd.date_range("2023-12-04", periods=rows, freq="h", tz=zone)
    return pd.DataFrame(
        {
            "when": times,
            "load": random.normal(size=rows).cumsum(),
            "hour": times.hour,
            "day": [DAYS[d] for d in times.day_of_week],
            "weekend": times.day_of_week >= 5,
            "year": times.year,
            "yr": times.year - 2023,
            "month": times.month,
            "shift": np.where(times.hour < 8, 0.5, np.where(times.hour < 16, 1.5, 2.5)),
            "holiday": (random.random(rows) < 0.1).astype(int),
        }
    )


PARTS = {
    "hour": "hour",
    "day": "weekday",
    "weekend": "weekday",
    "year": "year",
    "yr": "year",
    "month": "month",
    "shift": "hour",
}


def follows(schema):
    return {c.name: c.from_time.part for c in schema.columns if c.from_time is not None}


def agree(samples):
    """Whether the columns of samples say what their times say."""
    times = pd.DatetimeIndex(samples["when"])
    assert (samples["hour"] == times.hour).all()
    assert (samples["day"] == [DAYS[d] for d in times.day_of_week]).all()
    assert (samples["weekend"] == (times.day_of_week >= 5)).all()
    assert (samples["yr"] == times.year - 2023).all()
    assert (samples["month"] == times.month).all()
    assert (samples["shift"] == 0.5 + times.hour // 8).all()


@pytest.mark.parametrize("zone", [None, "Europe/Berlin", "UTC"])
def test_they_are_found_and_written_for_any_time(zone):
    frame, schema = tables.prepare(hourly(zone=zone), "it", Options())
    assert follows(schema) == PARTS
    assert [f.name for f in schemas.features(schema)] == ["load", "holiday"]
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    windows = np.zeros((30, 24, 2))
    begins = np.arange(30) * 101  # far beyond the rows, too
    samples = tables.decode(windows, schema, begins=begins)
    agree(samples)
    assert samples["year"].max() >= 2024
    assert {n: str(samples[n].dtype) for n in PARTS} == {n: str(frame[n].dtype) for n in PARTS}
    again = tables.relearn(frame.head(24 * 20), schema, {})
    assert follows(again) == PARTS


def test_what_the_time_does_not_decide_is_learnt():
    frame = hourly()
    frame.loc[7, "day"] = "Su"  # one row says otherwise
    frame["regime"] = np.where(
        frame["when"] < "2024-01-01", 10, 20
    )  # changes once, as a label does
    frame["count"] = np.arange(len(frame)) % 24  # is the hour, as all rows begin at midnight
    frame["phase"] = (np.arange(len(frame)) // 5) % 7
    found = follows(tables.prepare(frame, "it", Options())[1])
    assert not {"day", "regime", "phase", "holiday", "load"} & set(found)
    assert found["count"] == "hour"
    few = hourly(20).assign(count=np.arange(20))  # a counter as well as the hour
    assert "count" not in follows(tables.prepare(few, "it", Options())[1])
    said = Options(schema='{"columns": {"hour": {"kind": "integer"}}}')
    assert "hour" not in follows(tables.prepare(hourly(), "it", said)[1])


def test_what_one_series_has_one_value_of_is_a_static_column():
    parts = []
    for week in range(6):
        part = hourly().iloc[168 * week : 168 * (week + 1), :2].assign(week=f"week {week}")
        parts.append(part.assign(month=part["when"].dt.month.iloc[0]))
    frame = pd.concat(parts)
    schema = tables.prepare(frame, "it", Options(entity="week"))[1]
    assert not follows(schema)
    assert {c.name for c in schema.columns if c.static} == {"month"}


@pytest.mark.slow
def test_samples_forecasts_and_completions_agree_with_their_times():
    frame = hourly(24 * 60)
    model = quick.Quick(window=8).fit(frame)
    agree(model.sample(20))
    agree(model.sample_series(60, start="2024-02-29 03:00"))
    agree(model.forecast(frame.tail(30), 30, n=3).samples)
    rows = hourly(24 * 3, seed=5).iloc[5:60].reset_index(drop=True)
    rows["weekend"] = rows["weekend"].astype("boolean")
    names = ["load", "hour", "day", "weekend", "yr", "month", "shift"]
    for name in names:
        rows[name] = rows[name].mask(np.arange(len(rows)) % 3 == 0)
    filled = model.impute(rows)
    assert filled["load"].notna().all()
    agree(filled)
