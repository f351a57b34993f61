"""The grids that numbers lie on: found where they are, not where they are not."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import quick
from hypothesis import given, settings
from hypothesis import strategies as st

from timeldm_jax.data import grids
from timeldm_jax.data import table as tables
from timeldm_jax.data.grids import Grid
from timeldm_jax.data.scaling import Scaler, fit_scaler
from timeldm_jax.data.table import Options
from timeldm_jax.errors import DataError


def walk(count=4_000, size=0.1, seed=0):
    """Smooth values around 20 of deviation 5, as a sensor's."""
    x = np.zeros(count)
    noise = np.random.default_rng(seed).normal(size=count)
    for t in range(1, count):
        x[t] = 0.98 * x[t - 1] + size * noise[t]
    return 20 + 5 * x / x.std()


def on(step, offset=0.0, decimals=None):
    """That walk as an instrument with such steps writes it."""
    values = offset + step * np.round((walk() - offset) / step)
    return values if decimals is None else np.round(values, decimals)


@pytest.mark.parametrize(
    ("step", "offset", "decimals"),
    [(0.06698, 0.011, 3), (0.51282, 0.0, 2), (1 / 3, 0.1, None), (0.25, 0.0, 2), (0.1, 0.03, 2)],
)
def test_the_step_and_offset_of_an_instrument_are_found(step, offset, decimals):
    values = on(step, offset, decimals)
    grid = grids.find(values, grids.decimals(values))
    assert grid.step == pytest.approx(step, rel=1e-4)
    # Rounded twice, a number may come out a grain beside what was written.
    grain = 0.0 if decimals is None else 1.01 * 10.0**-decimals
    np.testing.assert_allclose(grid.nearest(values), values, atol=max(grain, 1e-9), rtol=0)
    apart = np.abs(np.diff(np.unique(grid.nearest(walk(seed=1)))))
    assert apart.min() > 0.9 * step


def test_whole_numbers_that_are_multiples_stay_exact():
    values = 10 * np.round(walk(size=1.0))
    grid = grids.find(values, 0)
    assert grid == Grid(step=10.0, offset=0.0, decimals=0)
    assert (grid.nearest(walk() * 10) % 10 == 0).all()


@pytest.mark.parametrize(
    "values",
    [walk(), np.round(walk(), 1), np.round(walk(), 3), np.round(walk(size=3.0)), np.full(50, 7.0)],
    ids=["continuous", "tenths", "thousandths", "whole", "constant"],
)
def test_what_decimals_say_is_no_other_grid(values):
    assert grids.find(values, grids.decimals(values)) is None


def test_outliers_and_a_few_other_values_do_not_hide_a_grid():
    values = on(0.06698, 0.0, 3)
    values[[5, 900]] = [309_231.0, 999.123]
    values[100:130] += 0.029  # less than a hundredth of the rows
    grid = grids.find(values, 3)
    assert grid.step == pytest.approx(0.06698, rel=1e-4)


def test_numbers_that_were_float32_have_decimals():
    assert grids.decimals(np.round(walk(), 3).astype(np.float32).astype(float)) == 3
    assert grids.decimals(walk().astype(np.float32).astype(float)) is None
    assert grids.decimals(np.arange(20.0)) == 0


def test_means_of_a_few_readings_are_points():
    """Thirds and halves of tenths: no even grid that nearly all lie on is coarse."""
    random = np.random.default_rng(0)
    readings = np.round(walk(20_000), 1)
    values = readings + random.choice([0, 1 / 30, 1 / 15, 0.05, 1 / 70], 20_000)
    values[::97] = walk(20_000)[::97]  # values of a single row
    grid = grids.find(values, grids.decimals(values))
    assert grid.points
    np.testing.assert_array_equal(grid.nearest(np.array(grid.points)), grid.points)
    alone, counts = np.unique(values, return_counts=True)
    assert not set(grid.points) & set(alone[counts == 1])
    beyond = np.array([np.nan, -400.0, 9_999.0])  # an outlier is no point, and stays
    np.testing.assert_array_equal(grid.nearest(beyond), beyond)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    step=st.floats(1e-3, 1e3),
    offset=st.floats(0, 0.99),
    values=st.lists(st.floats(-1e5, 1e5), min_size=1, max_size=20),
    bounds=st.tuples(st.floats(-1e4, 0), st.floats(0.1, 1e4)),
)
def test_the_nearest_number_is_nearest_and_bounds_are_on_the_grid(step, offset, values, bounds):
    grid = Grid(step=step, offset=offset * step)
    found = grid.nearest(np.array(values))
    assert (np.abs(found - values) <= step / 2 * (1 + 1e-6)).all()
    np.testing.assert_allclose(grid.nearest(found), found, rtol=1e-9, atol=1e-9 * step)
    low, high = grid.bounds(*bounds)
    assert bounds[0] - 1e-5 * step <= low <= high <= bounds[1] + 1e-5 * step
    if (low, high) != bounds:
        np.testing.assert_allclose(grid.nearest(np.array([low, high])), [low, high], rtol=1e-9)


@pytest.mark.parametrize("made", [Grid(step=0.3, offset=0.1, decimals=2), Grid(points=(1.0, 4.0))])
def test_a_grid_is_plain_values(made):
    assert Grid.from_json(json.loads(json.dumps(dataclasses.asdict(made)))) == made


@pytest.mark.parametrize("wrong", [{}, {"step": -1.0}, {"step": np.nan}, {"points": (2.0, 1.0)}])
def test_no_grid_is_an_error(wrong):
    with pytest.raises(ValueError, match="no grid"):
        Grid(**wrong)


def test_a_scaler_of_arrays_holds_grids_and_old_ones_had_none():
    rows = np.stack([on(0.25, 0.0, 2), walk()], 1)
    scaler = fit_scaler(rows, ("a", "b")).on_grids(rows)
    again = Scaler.from_json(json.loads(json.dumps(scaler.to_json())))
    assert again == scaler
    assert [i for i, _ in scaler.grids] == [0]
    near = again.within_range(again.nearest(rows + 0.1))
    assert (near[:, 0] % 0.25 == 0).all()
    assert scaler.open == (1,)
    content = scaler.to_json()
    del content["grids"], content["open"]
    old = Scaler.from_json(content)
    assert old.grids == old.open == ()
    cut = old.within_range(rows + 0.1)
    np.testing.assert_allclose(cut[:, 1], np.minimum(rows[:, 1] + 0.1, scaler.high[1]))


@pytest.fixture(scope="module")
def table():
    """A meter in steps of .067, power in tens, the same meter once more, and numbers of no grid."""
    meter = on(0.06698, 0.0, 3)
    power = 10 * np.round(walk(seed=3))
    return pd.DataFrame({"meter": meter, "power": power, "as is": meter, "free": walk(seed=4)})


@pytest.mark.slow
@pytest.mark.training
def test_samples_and_what_fills_gaps_are_on_the_grid(table):
    model = quick.Quick(window=12).fit(table, schema={"columns": {"as is": {"step": 0}}})
    samples = model.sample(30)
    off = np.abs(samples / 0.06698 - np.round(samples / 0.06698)).max()
    assert off["meter"] < 0.002 / 0.06698  # rounded to three decimals
    assert off["as is"] > 0.1
    assert (samples["power"] % 10 == 0).all()
    gaps = table.mask(np.random.default_rng(0).random(table.shape) < 0.1)
    filled = model.impute(gaps.head(200))
    assert (filled["power"] % 10 == 0).all()


@pytest.mark.slow
def test_samples_of_an_array_are_on_the_grid(table):
    array = quick.Quick(window=12).fit(table.to_numpy())
    assert (array.sample(20)[..., 1] % 10 == 0).all()


def test_a_step_that_is_none_is_refused(table):
    with pytest.raises(DataError, match=r"step=-1 must be positive"):
        tables.prepare(
            table, "the table", Options(schema=json.dumps({"columns": {"meter": {"step": -1}}}))
        )


@pytest.mark.parametrize(
    "written",
    [
        lambda step: np.round(step * np.round(walk() / step), 3).astype(np.float32).astype(float),
        lambda step: np.array([float(f"{v:.15g}") for v in step * np.round(walk() / step)]),
        lambda step: np.round(np.round(walk() / step) * step + 1e-4, 3),
        lambda step: np.round(walk() / step) * step,
    ],
    ids=["float32", "fifteen digits", "rounded", "as computed"],
)
@pytest.mark.parametrize("step", [0.06698, 1 / 6, 1 / 60])
def test_numbers_are_written_to_the_last_bit(written, step):
    values = written(step)
    grid = grids.find(values, grids.decimals(values))
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    often = counts[places] > 1  # no value of a single row is kept, so few of those are met by luck
    # What was rounded twice may have two forms of one number: the usual one stands for both.
    assert (grid.nearest(values) == values)[often].mean() > 0.97
    moved = grid.nearest(values + 0.2 * step * np.sin(np.arange(len(values))))
    assert (moved == values)[often].mean() > 0.97
    assert Grid.from_json(json.loads(json.dumps(dataclasses.asdict(grid)))) == grid
