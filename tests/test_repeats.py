"""Values that repeat: counted, held as often as in the data, and never where they are given."""

import numpy as np
import pandas as pd
import pytest

from timeldm_jax import config as configuration
from timeldm_jax import recipe, repeats
from timeldm_jax.data import dataset as datasets
from timeldm_jax.data import relations
from timeldm_jax.data.given import take
from timeldm_jax.data.scaling import Scaler, fit_scaler


def sensor(count=400, time=24, share=0.3, seed=0):
    """Windows of a walk that stays at a share of its steps, and of one that never does."""
    random = np.random.default_rng(seed)
    steps = random.normal(size=(count, time, 2))
    steps[..., 0] *= random.random((count, time)) >= share
    return steps.cumsum(axis=1)


def test_shares_are_counted_over_known_steps():
    windows = np.array(
        [[[1.0], [1.0], [np.nan], [2.0], [2.0]], [[0.0], [1.0], [1.0], [1.0], [3.0]]]
    )
    # Six pairs are known in all (two of the first window, four of the second); four repeat.
    assert repeats.shares(windows) == pytest.approx([4 / 6])
    assert repeats.shares(sensor())[0] == pytest.approx(0.3, abs=0.01)
    assert repeats.shares(sensor())[1] == 0


def test_samples_repeat_as_often_as_the_data():
    wanted = repeats.shares(sensor())
    blurred = sensor(seed=1) + np.random.default_rng(2).normal(0, 0.02, (400, 24, 2))
    assert (repeats.shares(blurred) == 0).all()
    close = repeats.closeness(blurred, wanted, lambda windows: windows)
    assert close[1] == repeats.NEVER
    held = repeats.hold(blurred, close)
    np.testing.assert_allclose(repeats.shares(held), wanted, atol=0.002)
    np.testing.assert_array_equal(held[..., 1], blurred[..., 1])
    # The true steps are 1, the blur .03: most of what is held did stay, and nothing moves far.
    stayed = np.diff(sensor(seed=1)[..., 0], axis=1) == 0
    assert (np.diff(held[..., 0], axis=1)[stayed] == 0).mean() > 0.9
    assert np.abs(held - blurred).max() < 0.5


def test_what_rounding_repeats_by_itself_counts():
    """A grid of step 1 under a walk of steps 1 repeats more than asked for: nothing is held."""
    walk = np.random.default_rng(3).normal(size=(200, 24, 1)).cumsum(axis=1)
    own = repeats.shares(np.round(walk))
    assert own > 0.3
    assert repeats.closeness(walk, own - 0.1, np.round) == repeats.NEVER
    fine = lambda windows: np.round(windows, 1)  # noqa: E731
    assert repeats.shares(fine(walk)) < 0.1
    close = repeats.closeness(walk, np.array([0.3]), fine)
    held = fine(repeats.hold(walk, close))
    np.testing.assert_allclose(repeats.shares(held), 0.3, atol=0.01)


def test_what_is_given_stays():
    windows, given = np.zeros((1, 5, 1)), np.full((1, 5, 1), np.nan)
    windows[0, :, 0] = [0.0, 0.1, 0.2, 1.0, 1.1]
    given[0, 1, 0] = 0.15
    held = repeats.hold(windows, np.array([0.12]), given)
    # 0.2 is within reach of the given 0.15, which stays itself although it is near 0.
    np.testing.assert_array_equal(held[0, :, 0], [0.0, 0.15, 0.15, 1.0, 1.0])


def test_no_step_and_no_repeats():
    one = np.ones((3, 1, 2))
    assert (repeats.shares(one) == 0).all()
    np.testing.assert_array_equal(repeats.hold(one, np.array([0.1, 0.1])), one)


def test_a_copy_of_a_column_stays_one():
    """As Energy's two random variables, which are equal in all rows."""
    random = np.random.default_rng(5)
    one = random.normal(size=600).cumsum()
    frame = pd.DataFrame({"a": one, "b": random.normal(size=600), "c": one, "d": np.exp(one / 20)})
    for data in (frame, frame.to_numpy()):
        config = configuration.base()
        configuration.apply_table(config)
        asked, given = take(config, data, None)
        prepared = datasets.prepare(given, asked)
        dataset = datasets.cut(prepared, recipe.choose_sizes(asked, *prepared.sizes()))
        (link,) = dataset.scaler.links
        assert (link.place, link.others) == (2, (0,))
        scaled = dataset.scaled()
        assert (scaled[:, 2] == 0).all()
        back = dataset.scaler.unscale(scaled + random.normal(0, 0.01, scaled.shape))
        np.testing.assert_array_equal(back[:, 2], back[:, 0])
        np.testing.assert_allclose(back[:, 1], frame["b"], atol=0.3)
        # What is known of the copy alone says what the column is.
        hidden = dataset.series.values[:5].copy()
        hidden[:, 0] = np.nan
        np.testing.assert_allclose(dataset.scaler.scale(hidden), scaled[:5], atol=1e-6)
        assert Scaler.from_json(dataset.scaler.to_json()) == dataset.scaler


def test_samples_of_a_built_in_set_keep_copies_within_its_range():
    values = np.random.default_rng(6).normal(size=(300, 2))
    rows = values[:, [0, 1, 0]] * 50 + 100
    links = relations.copies(rows, None, ())
    scaler = fit_scaler(rows, ("a", "b", "c"), links=links)
    wild = scaler.unscale(np.random.default_rng(7).normal(0.5, 1, (40, 3)))
    inside = scaler.within_range(wild)
    assert inside.min() >= rows.min()
    assert inside.max() <= rows.max()
    np.testing.assert_array_equal(inside[:, 2], inside[:, 0])
