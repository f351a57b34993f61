"""Samples begin at times that fit what they show, and as often as the data's windows do."""

import numpy as np
import pandas as pd
import pytest

from timeldm_jax import config as configuration
from timeldm_jax.data import start_times, table
from timeldm_jax.data.clock import Clock
from timeldm_jax.data.dataset import from_table
from timeldm_jax.data.schema import Schema

HOURLY = Clock("t", "datetime64[ns]", "2024-01-01T00:00:00", 3600.0)  # a Monday
ROWS = 24 * 7 * 20


def windows_of(values, starts, window=24):
    return values[starts[:, None] + np.arange(window)]


def daily(noise, seed=0, rows=ROWS):
    hours = np.arange(rows)
    values = np.sin(2 * np.pi * hours / 24)[:, None]
    return values + noise * np.random.default_rng(seed).normal(size=values.shape)


def test_a_daily_curve_says_its_hour():
    starts = np.arange(ROWS - 24)
    learnt = start_times.learn(windows_of(daily(0.3), starts), starts, HOURLY)
    drawn = learnt.draw(windows_of(daily(0.3, 1), starts), HOURLY, 0)
    # The slope of 24 noisy rows gives the phase within .3·√(2/24) = .087 rad, a third of an hour.
    away = (drawn - starts + 12) % 24 - 12
    assert np.mean(abs(away) <= 1) > 0.98
    assert abs(away.mean()) < 0.05
    # Weeks are alike: where in them a window lies is left as the data has it.
    weekday = np.bincount(drawn // 24 % 7, minlength=7) / len(drawn)
    np.testing.assert_allclose(weekday, 1 / 7, atol=0.03)


def test_the_mean_by_stamped_hour_is_that_of_the_data():
    starts = np.arange(ROWS - 24)
    learnt = start_times.learn(windows_of(daily(0.3), starts), starts, HOURLY)
    fresh = windows_of(daily(0.3, 1), starts)
    drawn = learnt.draw(fresh, HOURLY, 0)

    def profile(begins):
        hours = (begins[:, None] + np.arange(24)) % 24
        return [fresh[..., 0][hours == hour].mean() for hour in range(24)]

    # A phase off by .087 rad at random takes .4 % of the amplitude; 3 % are asked for.
    np.testing.assert_allclose(profile(drawn), profile(starts), atol=0.03)


def test_weekends_and_trends_are_seen():
    rows = np.arange(ROWS)
    weekend = (rows // 24 % 7 >= 5).astype(float)
    values = np.stack([weekend, rows / ROWS], axis=1)
    values += 0.05 * np.random.default_rng(0).normal(size=values.shape)
    starts = np.arange(0, ROWS - 24, 6)
    learnt = start_times.learn(windows_of(values, starts), starts, HOURLY)
    drawn = learnt.draw(windows_of(values, starts), HOURLY, 0)
    same = (starts // 24 % 7 >= 5) == (drawn // 24 % 7 >= 5)
    assert same.mean() > 0.9
    assert np.median(abs(drawn - starts)) < 0.02 * ROWS  # .05/√24 of the range, one deviation


def test_windows_that_show_nothing_begin_as_the_data_does():
    noise = np.random.default_rng(0).normal(size=(4_000, 24, 2))
    begins = 7 + 24 * np.random.default_rng(1).integers(0, 140, 4_000)  # at seven, any day
    learnt = start_times.learn(noise, begins, HOURLY)
    drawn = learnt.draw(np.random.default_rng(2).normal(size=(2_000, 24, 2)), HOURLY, 0)
    assert set(drawn % 24) == {7}
    counts = np.bincount(drawn // 24 // 20, minlength=7)
    assert counts.min() > 200  # of 286 a seventh, 15 a deviation; B is not quite 0


def test_a_draw_depends_on_seed_number_and_window_alone():
    starts = np.arange(ROWS - 24)
    learnt = start_times.learn(windows_of(daily(3.0), starts), starts, HOURLY)
    windows = windows_of(daily(3.0, 1), starts[:3_000])
    whole = learnt.draw(windows, HOURLY, 5)
    parts = [learnt.draw(windows[a : a + 700], HOURLY, 5, a) for a in range(0, 3_000, 700)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (learnt.draw(windows, HOURLY, 6) != whole).mean() > 0.5


def samples_of(frame, window=6, **options):
    """Real windows as if they were samples, and what the table was read as."""
    frame, schema = table.prepare(frame, "the table", table.Options(**options))
    config = table_config(window)
    dataset = from_table(frame, schema, config)
    schema = dataset.schema
    assert Schema.from_json(schema.to_json()) == schema
    windows = dataset.series.windows(dataset.series.train)
    return table.decode(windows, schema), schema


def table_config(window):
    config = configuration.base()
    config.data.update(name="table", window=window, protocol="paper")
    return config


@pytest.mark.parametrize("freq", ["B", "MS", "QS", "W-MON", "D", "15min", "h"])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_stamps_are_times_of_the_table(freq, zone):
    times = pd.date_range("2020-02-03", periods=120, freq=freq, tz=zone)
    frame = pd.DataFrame({"t": times, "x": np.random.default_rng(0).normal(size=120)})
    samples, _ = samples_of(frame)
    assert set(samples["t"]) <= set(times)
    assert samples["t"].dtype == frame["t"].dtype
    first = samples.groupby("series")["t"].first()
    assert first.nunique() > 20
    place = {time: number for number, time in enumerate(times)}
    steps = samples["t"].map(place).groupby(samples["series"]).diff().dropna()
    assert (steps == 1).all()


def test_text_of_local_days_stays_midnight():
    times = pd.date_range("2021-01-01", periods=400, freq="D", tz="Europe/Paris")
    text = [time.isoformat() for time in times]
    frame = pd.DataFrame({"t": text, "x": np.random.default_rng(0).normal(size=400)})
    samples, _ = samples_of(frame)
    assert set(samples["t"]) <= set(text)


def test_series_of_a_panel_begin_when_theirs_do():
    random, parts = np.random.default_rng(0), []
    for entity in range(30):
        times = pd.Timestamp("2024-03-01 08:00") + pd.Timedelta(days=int(random.integers(0, 90)))
        t = pd.date_range(times, periods=12, freq="h")
        parts.append(pd.DataFrame({"id": entity, "t": t, "x": random.normal(size=12)}))
    samples, _ = samples_of(pd.concat(parts), window=12, entity="id")
    first = samples.groupby("series")["t"].first()
    assert set(first.dt.hour) == {8}
    assert first.min() >= pd.Timestamp("2024-03-01")
    assert first.max() < pd.Timestamp("2024-06-01")


def test_fewer_rows_than_a_window_begin_where_the_table_does():
    times = pd.date_range("2020-02-03", periods=120, freq="h")
    frame = pd.DataFrame({"t": times, "x": np.random.default_rng(0).normal(size=120)})
    _, schema = samples_of(frame)
    few = table.decode(np.zeros((2, 3, 1)), schema)
    assert list(few["t"]) == [*times[:3], *times[:3]]


def test_counters_have_no_calendar():
    frame = pd.DataFrame({"t": np.arange(200) * 5, "x": np.random.default_rng(0).normal(size=200)})
    samples, schema = samples_of(frame, time="t")
    assert schema.starts is None
    assert set(samples.groupby("series")["t"].first()) == {0}


def test_long_windows_are_learnt_from_few():
    starts = np.arange(50_000)
    assert len(start_times.few(starts, 24 * 7)) == start_times.FIT_WINDOWS
    assert len(start_times.few(starts, 4_096 * 7)) * 4_096 * 7 * 8 <= 2**27


def test_gaps_and_many_features_are_taken():
    values = np.random.default_rng(0).normal(size=(300, 24, 70))
    values[np.random.default_rng(1).random(values.shape) < 0.2] = np.nan
    values[:, :, 3] = np.nan
    learnt = start_times.learn(values, np.arange(300), HOURLY)
    assert len(learnt.mean) <= start_times.MOST_DESCRIBED
    assert np.isfinite(learnt.weights).all()
    drawn = learnt.draw(np.nan_to_num(values), HOURLY, 0)
    assert drawn.min() >= 0
    assert drawn.max() <= 299
