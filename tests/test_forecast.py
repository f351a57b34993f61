"""What a forecast says of its futures: bands that hold what they say."""

import dataclasses
import itertools
import types

import numpy as np
import pandas as pd
import pytest
import quick

import timeldm_jax
from timeldm_jax import bands, described, forecast, results
from timeldm_jax.data import dataset as datasets
from timeldm_jax.data import schema as schemas
from timeldm_jax.data import table as tables
from timeldm_jax.data.table import Options
from timeldm_jax.generator import Generator


def schema_of(frame):
    return tables.prepare(frame, "it", Options())[1]


@pytest.mark.parametrize("futures", [19, 50])
def test_a_band_holds_one_more_future_as_often_as_it_says(futures):
    """Of n + 1 draws of one distribution, the last is within the band of the others."""
    random = np.random.default_rng(0)
    horizon = 4_000  # trials, a step each
    schema = schema_of(pd.DataFrame({"x": random.gumbel(size=300), "y": random.gumbel(size=300)}))
    drawn = random.gumbel(size=(futures, horizon, 2))
    samples = pd.DataFrame(drawn.reshape(-1, 2), columns=["x", "y"])
    samples.insert(0, schemas.SERIES, np.repeat(np.arange(futures), horizon))
    found = forecast.summarise(samples, schema, None, samples.head(0)).quantiles
    truth = random.gumbel(size=(horizon, 2))
    for place, name in enumerate("xy"):
        own = found[found["column"] == name]
        inside = (own[0.05].to_numpy() <= truth[:, place]) & (
            truth[:, place] <= own[0.95].to_numpy()
        )
        # 4,000 trials of .9: a standard error of .005.
        assert inside.mean() == pytest.approx(0.9, abs=0.015)
        np.testing.assert_allclose(own[0.5], np.median(drawn[..., place], axis=0))


def test_futures_that_lack_values_have_the_quantiles_of_the_others():
    frame = pd.DataFrame({"x": np.arange(300.0) ** 1.5})
    samples = pd.DataFrame(
        {schemas.SERIES: np.repeat([0, 1, 2], 2), "x": [1.0, np.nan, np.nan, np.nan, 3.0, np.nan]}
    )
    found = forecast.summarise(samples, schema_of(frame), None, frame).quantiles
    assert found[0.5].tolist()[0] == 2.0
    assert np.isnan(found[0.5].tolist()[1])


def gaussian(windows, draws, spread, seed=0):
    """Futures that are so much wider than what came, of deviation 1 around a level."""
    random = np.random.default_rng(seed)
    level = random.normal(0, 5, (windows, 1, 8, 1))
    came = level + random.normal(size=(windows, 1, 8, 3))
    return level + spread * random.normal(size=(windows, draws, 8, 3)), came[:, 0]


@pytest.mark.parametrize("spread", [0.6, 0.8, 1.0])
def test_forecasts_become_as_wide_as_what_came(spread):
    drawn, came = gaussian(400, 20, np.array([spread, 1.0, spread]))
    by = bands.factors(drawn, came, np.arange(400) // 100)
    # The rank of a ratio among 3,200: a standard error of about .02 of the factor.
    np.testing.assert_allclose(by, 1 / np.array([spread, 1.0, spread]), rtol=0.07)
    # Never narrower.
    assert (bands.factors(*gaussian(400, 20, 1.5), np.arange(400) // 100) == 1).all()
    futures, truth = gaussian(400, 50, np.array([spread, 1.0, spread]), seed=1)
    wide = np.stack([bands.widen(window, by[None], 1) for window in futures])
    low, high = np.quantile(wide, (0.05, 0.95), axis=1, method="weibull")
    assert ((low <= truth) & (truth <= high)).mean() == pytest.approx(0.9, abs=0.02)


def test_stretches_that_differ_ask_for_more():
    """Shares that bands hold, counted one by one."""
    stretch = np.repeat(np.arange(5), 40)
    harder = np.array([0.8, 0.9, 1.0, 1.1, 1.6])[stretch]
    drawn, came = gaussian(200, 20, 1.0)
    level = np.median(drawn, axis=1, keepdims=True)
    drawn = level + (drawn - level) / harder[:, None, None, None]
    by = bands.factors(drawn, came, stretch)

    def held(factor):
        wide = level + factor * (drawn - level)
        low, high = np.quantile(wide, (0.05, 0.95), axis=1, method="weibull")
        inside = (low <= came) & (came <= high)
        shares = np.array([inside[stretch == k].mean(axis=(0, 1)) for k in range(5)])
        return shares.mean(axis=0) - shares.std(axis=0, ddof=1) / np.sqrt(5), shares.mean(axis=0)

    for i in range(3):
        assert held(by[i] + 1e-9)[0][i] >= 0.9 > held(by[i] - 0.01)[0][i]
        assert held(by[i])[1][i] > 0.915  # more than nine in ten of these


def two_series():
    """Of 4,000 rows each, in windows of 9, parts of both held out."""
    frame = pd.DataFrame({"who": np.repeat(["a", "b"], 4000), "x": np.arange(8e3) ** 2})
    config = quick.Quick(window=9)._config
    config.data.update(window=9, stride=1, entity="who", protocol="heldout", split="time")
    table, schema = tables.prepare(frame, "it", Options(entity="who"))
    return datasets.from_table(table, schema, config)


def test_stretches_of_time_and_series_are_told_apart():
    data = two_series()
    starts = np.asarray(data.series.valid)
    found = results._stretches(data, starts)
    apart = [(b - a > 9) or (a // 4000 != b // 4000) for a, b in itertools.pairwise(starts)]
    np.testing.assert_array_equal(np.diff(found), np.array(apart).astype(int))
    assert found[-1] > 3
    np.testing.assert_array_equal(results._stretches(data, starts[::7]), found[::7])


def test_what_no_width_mends_is_left():
    drawn, came = gaussian(50, 20, 1.0)
    drawn[..., 0] = 0.0  # a point, and something else came
    came[..., 1] = np.nan  # nothing is known of it
    drawn[..., 2], came[..., 2] = 3.0, 3.0  # a point, and it came
    found = bands.factors(drawn, came, np.zeros(50, int))
    np.testing.assert_array_equal(found, [bands.MOST, 1.0, bands.LEAST])
    point = np.full((20, 8, 1), 3.0)
    np.testing.assert_array_equal(bands.widen(point, np.array([[2.0]]), 1), point)


def test_what_comes_later_has_a_factor_of_its_own():
    random = np.random.default_rng(0)
    futures = random.normal(size=(20, 7, 2))
    found = bands.widen(futures, np.array([[2.0, 1.0], [3.0, 0.5]]), 2)
    middle = np.median(futures, axis=0)
    times = (found - middle) / (futures - middle)
    np.testing.assert_allclose(times[0, :, 0], [2, 2, 3, 3, 3, 3, 3])
    np.testing.assert_allclose(times[0, :, 1], [1, 1, 0.5, 0.5, 0.5, 0.5, 0.5])


def test_widths_are_measured_on_validation_rows_that_go_on_in_one_series():
    """Against a look at each row of each run."""
    data = two_series()
    starts = np.asarray(data.series.valid)
    held = {int(row) for start in starts for row in range(start, start + 9)}
    found = set(results._long_runs(data, starts, 14).tolist())
    for start in starts.tolist():
        rows = range(start, start + 14)
        whole = all(row in held for row in rows) and rows[0] // 4000 == rows[-1] // 4000
        assert (start in found) == whole, start
    assert 0 < len(found) < len(starts)


@pytest.mark.parametrize("window", [4, 9, 24])
def test_a_run_takes_as_many_completions_as_the_budget_is_told(monkeypatch, window):
    calls = []

    def complete(self, observed, *arguments, **options):
        calls.append(len(observed))
        return np.nan_to_num(observed)

    monkeypatch.setattr(Generator, "complete", complete)
    schema = tables.prepare(pd.DataFrame({"x": np.arange(99.0) ** 2}), "it", Options())[1]
    vae = types.SimpleNamespace(window=window)
    generator = Generator(None, types.SimpleNamespace(vae=vae), *(None,) * 5, schema, {})
    known, more = bands.rows_of(window, bands.PIECES)
    bands.measure(generator, np.ones((1, known + more, 1)), None, known, np.zeros(1, int))
    assert sum(calls) == bands.completions(window)


def test_a_model_that_had_one_width_for_all_that_comes_keeps_it():
    meta = {"step": 3, "drawn_marginals": {"step": 3, "wider": [1.5, 0.9]}}
    np.testing.assert_array_equal(described.wider(meta), [[1.5, 0.9]])


@pytest.mark.slow
def test_a_model_knows_how_wide_its_forecasts_are(tmp_path):
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"x": random.normal(size=1500).cumsum(), "y": random.normal(size=1500)})
    config = quick.Quick(window=6)._config
    config.sample.band_windows, config.data.stride = 24, 1
    model = quick.Quick(config=config).fit(frame)
    generator = model.generator
    assert generator.wider is not None
    assert generator.wider.shape == (2, 2)  # the first third of a window, and later
    assert ((generator.wider >= bands.LEAST) & (generator.wider <= bands.MOST)).all()
    history = frame.tail(20)
    wide = model.forecast(history, 4, n=30).samples
    model.save(tmp_path / "saved")
    again = timeldm_jax.TimeLDM.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.generator.wider, generator.wider)
    pd.testing.assert_frame_equal(again.forecast(history, 4, n=30).samples, wide)
    again._generator = dataclasses.replace(generator, wider=None)
    drawn = again.forecast(history, 4, n=30).samples
    for place, name in enumerate("xy"):
        one, other = (each[name].to_numpy().reshape(30, 4) for each in (drawn, wide))
        by = np.repeat(generator.wider[:, place], 2)  # rows of a third of a window
        expected = np.median(one, 0) + by * (one - np.median(one, 0))
        np.testing.assert_allclose(other, expected, atol=1e-6 * np.abs(expected).max())
