"""Uneven times as data: what lies between rows is learnt, and samples have such times."""

import json

import numpy as np
import pandas as pd
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import SMALL

from timeldm_jax import TimeLDM, experiment
from timeldm_jax import config as configuration
from timeldm_jax.data import clock as clocks
from timeldm_jax.data import dataset as datasets
from timeldm_jax.data import event_times, relations, start_times, table
from timeldm_jax.data.event_times import GAP
from timeldm_jax.data.schema import Schema
from timeldm_jax.data.table import Options
from timeldm_jax.errors import ConfigError, DataError
from timeldm_jax.workdir import Workdir

DAY = 86_400.0


def events(rows=600, seed=0, unit=1.0, ties=False):
    """Rows that come the sooner the higher a load is; seconds between them are log-normal."""
    random = np.random.default_rng(seed)
    load = np.zeros(rows)
    for t in range(1, rows):
        load[t] = 0.8 * load[t - 1] + 0.6 * random.normal()
    gaps = np.exp(6 - load + 0.3 * random.normal(size=rows))
    gaps = np.maximum((gaps / unit).round(), 0 if ties else 1) * unit
    if ties:
        gaps[random.random(rows) < 0.2] = 0
    times = pd.Timestamp("2024-01-01 08:00") + pd.to_timedelta(gaps.cumsum(), unit="s")
    return pd.DataFrame({"at": times, "load": load.round(2)})


def prepared(frame, **options):
    return table.prepare(frame, "the table", Options(times="generate", **options))


def features(frame, schema):
    """Encoded rows, and what a saved model knows of them."""
    schema = Schema.from_json(json.loads(json.dumps(schema.to_json())))
    return table.encode(frame, schema).values, schema


def cut(values, window=10):
    """Windows one after the other."""
    count = len(values) // window
    return values[: count * window].reshape(count, window, -1)


WAYS = {
    "timestamps": lambda t: t,
    "nanoseconds": lambda t: t.astype("datetime64[ns]"),
    "days first": lambda t: t.dt.strftime("%d/%m/%Y %H:%M:%S"),
    "iso": lambda t: t.dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "zone": lambda t: t.dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin"),
    "epoch": lambda t: (t - pd.Timestamp("1970-01-01")) // pd.Timedelta("1s"),
    "seconds": lambda t: (t - t.iloc[0]).dt.total_seconds() / 10,
    "duration": lambda t: t - t.iloc[0],
}


@pytest.mark.parametrize("way", WAYS)
def test_times_come_back_as_they_were_written(way):
    frame = events()
    frame["at"] = WAYS[way](frame["at"])
    ordered, found = prepared(frame, time="at")
    assert found.clock.uneven
    assert [c.name for c in found.columns] == ["load", GAP]
    assert found.order == ("at", "load")
    values, found = features(ordered, found)
    windows = cut(values)
    steps = clocks.positions(frame, found.clock, (), "it")[::10][: len(windows)]
    again = table.decode(windows, found, begins=steps)
    assert list(again.columns) == ["series", "at", "load"]
    pd.testing.assert_frame_equal(again.drop(columns="series"), frame, check_exact=False, rtol=1e-9)
    assert again["at"].dtype == frame["at"].dtype


def test_minutes_stay_minutes_however_few_rows_there_are():
    """Seconds would not be written, and rows of one minute would look alike."""
    frame = events(60, unit=60.0)
    frame["at"] = frame["at"].dt.strftime("%Y-%m-%d %H:%M")
    found = prepared(frame)[1]
    assert next(column for column in found.columns if column.name == GAP).grid.step == 60
    wild = np.random.default_rng(0).exponential(100, (40, 20, 2))
    drawn = table.decode(table.snap(wild, found), found)
    times = pd.to_datetime(drawn["at"]).groupby(drawn["series"]).diff().dropna()
    assert (times >= pd.Timedelta("1min")).all()


def test_gaps_are_what_lies_between_rows_of_a_series():
    frame = pd.concat([events(30, s).assign(who=f"p{s}") for s in (1, 2)], ignore_index=True)
    alone = events(1, 3).assign(who="p3")
    ordered, found = prepared(pd.concat([frame, alone], ignore_index=True), entity="who")
    gaps = ordered[GAP].to_numpy()
    for who in ("p1", "p2"):
        own = frame["at"][frame["who"] == who].diff().dt.total_seconds().to_numpy()
        found_gaps = gaps[(ordered["who"] == who).to_numpy()]
        np.testing.assert_allclose(found_gaps[1:], own[1:])
        assert found_gaps[0] == found_gaps[1]  # before the first nothing is known
    inside = np.r_[gaps[1:30], gaps[31:60]]
    assert gaps[60] == np.median(inside)
    place = event_times.place(found)
    np.testing.assert_array_equal(table.encode(ordered, found).values[:, place], gaps)


def test_even_times_stay_as_they_are():
    frame = pd.DataFrame({"at": pd.date_range("2024-01-01", periods=200, freq="h")})
    frame["load"] = np.arange(200) % 7 * 1.5
    assert prepared(frame)[1] == table.prepare(frame, "it", Options())[1]
    business = frame.assign(at=pd.bdate_range("2024-01-01", periods=200))
    assert prepared(business)[1] == table.prepare(business, "it", Options())[1]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    unit=st.sampled_from([1.0, 60.0, 0.001]),
    ties=st.booleans(),
    spread=st.floats(0.1, 5),
)
def test_times_never_fall_and_are_apart_where_those_of_the_table_are(seed, unit, ties, spread):
    frame, found = CASES[unit, ties]
    random = np.random.default_rng(seed)
    scaled = random.normal(0.5, spread, (20, 12, 2))
    data = DATA[unit, ties]
    drawn = table.within_range(table.snap(data.scaler.unscale(scaled), found), found)
    times = table.decode(drawn, found, seed=seed % 99)["at"].to_numpy().reshape(20, 12)
    gaps = np.diff(times).astype("m8[us]").astype(float) / 1e6
    assert (gaps >= 0).all()
    assert ties or (gaps > 0).all()
    real = frame["at"].diff().dt.total_seconds().max()
    assert gaps.max() <= 1.02 * real
    passed = (times - frame["at"].iloc[0].to_datetime64()).astype("m8[us]").astype(float) / 1e6
    np.testing.assert_allclose(passed / unit, np.round(passed / unit), atol=0.01, rtol=0)


def dataset(frame, **options):
    found, schema = prepared(frame, **options)
    config = configuration.base()
    configuration.apply_table(config)
    config.data.window, config.data.stride, config.data.times = 10, 1, "generate"
    return datasets.from_table(found, schema, config)


CASES, DATA = {}, {}
for _unit in (1.0, 60.0, 0.001):
    for _ties in (False, True):
        _frame = events(800, unit=_unit, ties=_ties)
        DATA[_unit, _ties] = dataset(_frame)
        CASES[_unit, _ties] = _frame, DATA[_unit, _ties].schema


def test_business_days_with_long_breaks_stay_business_days():
    days = pd.bdate_range("2020-01-01", periods=900)
    kept = days[np.random.default_rng(0).random(900) < 0.4]
    frame = pd.DataFrame({"day": kept, "x": np.arange(len(kept)) % 9 * 1.0})
    ordered, found = prepared(frame)
    assert (found.clock.offset, found.clock.uneven) == ("B", True)
    slots = np.busday_count(kept[:-1].to_numpy("M8[D]"), kept[1:].to_numpy("M8[D]"))
    np.testing.assert_array_equal(ordered[GAP].to_numpy()[1:], slots)
    wild = np.random.default_rng(1).exponential(3, (30, 20, 2))
    drawn = table.decode(table.snap(wild, found), found, begins=np.arange(30))
    assert (drawn["day"].dt.day_of_week < 5).all()
    assert (drawn.groupby("series")["day"].diff().dropna() >= pd.Timedelta("1D")).all()
    months = pd.date_range("2000-01-01", periods=300, freq="MS")
    kept = months[np.random.default_rng(0).random(300) < 0.5]
    found = prepared(pd.DataFrame({"month": kept, "x": np.arange(len(kept)) % 9 * 1.0}))[1]
    drawn = table.decode(table.snap(wild, found), found, begins=np.arange(30))
    assert (drawn["month"].dt.day == 1).all()


def test_windows_begin_at_hours_and_days_as_in_the_table():
    random = np.random.default_rng(0)
    days = pd.bdate_range("2024-01-01", periods=150)
    times = [day + pd.Timedelta(minutes=int(m)) for day in days
             for m in np.sort(random.choice(480, 6, replace=False)) + 540]  # fmt: skip
    frame = pd.DataFrame({"at": times, "x": random.normal(size=900).round(2)})
    found = dataset(frame).schema
    assert found.clock.step == 300.0
    assert found.starts.cycle == 2016
    steps = start_times.counted(clocks.positions(frame, found.clock, (), "it"), found.clock)
    assert np.abs(steps * 300 - clocks.seconds(frame["at"])).max() <= 150
    drawn = found.starts.before(500, seed=0)
    begun = pd.DatetimeIndex(found.clock.stamps(drawn))
    assert (begun.day_of_week < 5).all()
    minutes = begun.hour * 60 + begun.minute  # a step is five of them
    assert ((minutes >= 9 * 60 - 5) & (minutes <= 17 * 60 + 5)).all()


@pytest.mark.parametrize(
    ("gaps", "step"),
    [
        (np.array([1.0, 3, 7, 2]) * DAY, DAY),
        (np.array([1.0, 3, 7, 2]) * 3_600, 3_600.0),
        (np.array([7.0, 11, 4_000, 350]), DAY / 479),  # a median of 180.5
        (np.array([700.0, 1_100, 4_000, 0]), 300.0),
        (np.array([90.0, 100, 200]) * DAY + 1, 100 * DAY + 1),
    ],
)
def test_the_steps_of_an_uneven_clock_make_a_day(gaps, step):
    assert event_times.step_of(gaps, dates=True) == pytest.approx(step)
    assert event_times.step_of(gaps, dates=False) == np.median(gaps[gaps > 0])


def test_what_is_refused_and_what_is_advised():
    frame = events(60)
    with pytest.raises(DataError, match="times='generate' learns what lies between rows"):
        table.prepare(frame, "it", Options())
    with pytest.raises(ConfigError, match=r"times='generate' learns .* choose one"):
        Options(times="generate", irregular="resample")
    with pytest.raises(ConfigError, match="times='drawn' is not one of steps, generate"):
        Options(times="drawn")
    with pytest.raises(DataError, match=r"times='generate' needs one: time names it"):
        prepared(frame[["load"]])
    with pytest.raises(DataError, match="the model has learnt uneven ones: leave it out"):
        table.arrange(frame, "it", prepared(frame)[1], "resample")
    with pytest.raises(DataError, match="irregular='sort' puts them in order"):
        prepared(frame.iloc[::-1].reset_index(drop=True))
    assert prepared(frame.iloc[::-1].reset_index(drop=True), irregular="sort")[1].clock.uneven
    assert "uneven, what lies between rows is learnt" in str(
        TimeLDM.describe(events(), times="generate")
    )
    sorted_too = str(TimeLDM.describe(events(), irregular="sort"))
    assert "do not come one step after the row before" in sorted_too
    assert "times='generate'" in sorted_too
    tied = events(600, ties=True).assign(at=lambda f: f["at"].dt.floor("2h"))
    assert "have the time of the row before" in str(TimeLDM.describe(tied, times="generate"))


def test_an_earlier_configuration_takes_times_for_steps():
    config = configuration.base()
    configuration.apply_table(config)
    saved = configuration.to_saved(config)
    del saved["data"]["times"]
    saved["format"] = 5
    assert configuration.upgrade(saved)["data"]["times"] == "steps"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = configuration.base()
    configuration.apply_table(config)
    config.update_from_flattened_dict(SMALL | {"data.window": 8, "data.stride": 2})
    made = TimeLDM(config=config).fit(events(), times="generate")
    folder = tmp_path_factory.mktemp("model") / "model"
    made.save(folder, report=False)
    return TimeLDM.load(folder)


@pytest.mark.training
def test_samples_and_long_series_have_increasing_times(model):
    frame = events()
    for drawn in (model.sample(50), model.sample_series(40, count=5)):
        assert list(drawn.columns) == ["series", "at", "load"]
        assert (drawn.groupby("series")["at"].diff().dropna() > pd.Timedelta(0)).all()
        assert (drawn["at"] == drawn["at"].dt.floor("s")).all()
    first = model.sample(300).groupby("series")["at"].first()
    assert first.between(frame["at"].min(), frame["at"].max()).all()
    assert first.nunique() > 100
    asked = model.sample(3, start="2024-01-03 06:00:17").groupby("series")["at"].first()
    assert set(asked) == {pd.Timestamp("2024-01-03 06:00:17")}
    assert np.isfinite(model.seam_score(model.sample_series(60, count=40))["largest"])


@pytest.mark.training
def test_forecasts_draw_times_or_take_those_that_are_known(model):
    history = events(100, seed=5)
    future = model.forecast(history, 6, n=20)
    first = future.samples.groupby("series")["at"].first()
    assert (first > history["at"].iloc[-1]).all()
    assert first.nunique() > 1
    assert (future.samples.groupby("series")["at"].diff().dropna() > pd.Timedelta(0)).all()
    medians = future.quantiles[future.quantiles["column"] == "load"]["at"]
    steps = future.samples.groupby("series").cumcount()
    expected = future.samples["at"].groupby(steps).quantile(0.5, interpolation="lower")
    assert (medians.to_numpy() == expected.to_numpy()).all()
    # Off the table's grid of whole seconds, too.
    ahead = history["at"].iloc[-1] + pd.to_timedelta([0.5, 60, 61, 500, 501, 9_000], unit="s")
    known = model.forecast(history, 6, n=4, known=pd.DataFrame({"at": ahead}))
    for _, each in known.samples.groupby("series"):
        assert list(each["at"]) == list(ahead)
    assert list(known.quantiles["at"]) == list(ahead)
    with pytest.raises(DataError, match=r"known, row 1 is of .*before the history ends"):
        model.forecast(history, 6, known=pd.DataFrame({"at": ahead - pd.Timedelta("1h")}))
    with pytest.raises(DataError, match=r"known, row 4 is of .*before the row above it"):
        model.forecast(history, 6, known=pd.DataFrame({"at": ahead[[0, 1, 3, 2, 4, 5]]}))


@pytest.mark.training
def test_imputation_keeps_the_times(model):
    frame = events(120, seed=6)
    holes = frame.copy()
    holes.loc[10:20, "load"] = np.nan
    filled = model.impute(holes)
    assert filled["load"].notna().all()
    pd.testing.assert_series_equal(filled["at"], frame["at"])
    assert list(filled.columns) == ["at", "load"]


def test_series_with_a_step_of_their_own_keep_to_one():
    """Half of them hourly, half daily: what lies between rows is one value a series."""
    parts = [
        pd.DataFrame({"at": pd.date_range("2024-01-01", periods=30, freq="hD"[s % 2]), "who": s})
        for s in range(8)
    ]
    frame = pd.concat(parts, ignore_index=True).assign(x=np.arange(240) % 11 * 0.5)
    found = prepared(frame, entity="who")[1]
    column = next(column for column in found.columns if column.name == GAP)
    assert column.static
    assert "asked for by the time of their first rows" in str(
        TimeLDM.describe(frame, entity="who", times="generate")
    )
    values = table.encode(*prepared(frame, entity="who")).values.reshape(8, 30, -1)
    noisy = values + np.random.default_rng(0).normal(0, 0.1, values.shape)
    drawn = table.decode(relations.settle_windows(noisy, found), found)
    gaps = drawn.groupby("series")["at"].diff().dropna()
    assert (gaps.groupby(drawn["series"]).nunique() == 1).all()


@pytest.mark.slow
def test_a_panel_of_events_and_its_run(tmp_path):
    """Series of a few rows, by the whole path of the command: samples, their table, scores."""
    frame = pd.concat(
        [events(25, s).assign(who=f"p{s:02d}", kind=["a", "b"][s % 2]) for s in range(30)],
        ignore_index=True,
    )
    config = configuration.base()
    configuration.apply_table(config)
    small = {"data.window": 8, "data.stride": 1, "data.times": "generate", "data.entity": "who"}
    tiny = {"evaluate.repeats": 2, "evaluate.discriminative_steps": 5,
            "evaluate.predictive_steps": 5, "evaluate.context_fid_steps": 2,
            "evaluate.trees": 8}  # fmt: skip
    config.update_from_flattened_dict(SMALL | small | tiny)
    path = tmp_path / "events.csv"
    frame.to_csv(path, index=False)
    config.data.path = str(path)
    run = Workdir(epath.Path(tmp_path / "run"))
    started = experiment.start(config, run, experiment.STAGES)
    experiment.run(started, experiment.STAGES)
    written = pd.read_csv(run.table, parse_dates=["at"])
    assert list(written.columns) == ["series", "at", "load", "who", "kind"]
    assert (written.groupby("series")["at"].diff().dropna() > pd.Timedelta(0)).all()
    assert GAP in run.scores.read_text()
    drawn = TimeLDM.load(run.root).sample(10, given={"kind": "a"})
    assert set(drawn["kind"]) == {"a"}
