"""Blocks of time in the memorisation check's interval."""

import numpy as np
import pytest

from timeldm_jax.data.dataset import from_windows
from timeldm_jax.data.series import split_series
from timeldm_jax.metrics import membership
from timeldm_jax.metrics.memorisation import memorisation

TIME, BLOCK, BLOCKS = 12, 120, 11


def _parts(stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts of training and held-out windows: 11 held-out stretches with training between."""
    starts = np.arange(0, (2 * BLOCKS + 1) * BLOCK, stride)
    number, offset = starts // BLOCK, starts % BLOCK
    whole = offset <= BLOCK - TIME
    return starts[whole & (number % 2 == 0)], starts[whole & (number % 2 == 1)]


def _blocks(training: np.ndarray, held_out: np.ndarray) -> int:
    random = np.random.default_rng(0)
    series = random.uniform(size=(max(training.max(), held_out.max()) + TIME, 1))
    one, two = (series[starts[:, None] + np.arange(TIME)] for starts in (training, held_out))
    synthetic = random.uniform(size=(1_000, TIME, 1))
    found = memorisation(synthetic, one, two, training_starts=training, held_out_starts=held_out)
    return found["share_closer_to_training"]["blocks"]


@pytest.mark.parametrize("stride", [1, 2, 5, TIME, 2 * TIME])
def test_blocks_are_stretches_of_time_whatever_the_stride(stride):
    assert _blocks(*_parts(stride)) == BLOCKS


def test_a_window_left_out_does_not_split_its_block():
    training, held_out = _parts(1)
    assert _blocks(training, np.delete(held_out, [5, 40, 300])) == BLOCKS


@pytest.mark.parametrize("stride", [1, 3])
def test_few_blocks_are_counted_in_parts_of_four_windows_of_rows(stride):
    training, held_out = _parts(stride)
    first = held_out[held_out < 2 * BLOCK]
    assert _blocks(training, first) == -(-(BLOCK - TIME + 1) // (4 * TIME))


def _position(series, starts):
    assert series.position is not None
    return series.position[starts]


@pytest.mark.parametrize("stride", [1, 7, TIME, 2 * TIME, 3 * TIME])
def test_blocks_of_a_panel_do_not_run_from_one_series_into_the_next(stride):
    rows, count = 400, 8
    groups, clock = np.repeat(np.arange(count), rows), np.tile(np.arange(rows), count)
    values = np.zeros((rows * count, 1))
    series = split_series(
        values, ("x",), TIME, "future", groups=groups, clock=clock.astype(float), stride=stride
    )
    # The last fifth of each series is held out: a stretch each, whatever the stride.
    assert len(series.test) >= 2 * count
    assert _blocks(*(_position(series, starts) for starts in (series.train, series.test))) == count


@pytest.mark.parametrize("stride", [1, 5])
def test_blocks_of_overlapping_windows_given_as_an_array_are_of_time(stride):
    rows = np.random.default_rng(0).normal(size=(6_000, 1))
    starts = np.arange(0, len(rows) - TIME, stride)
    series = from_windows(rows[starts[:, None] + np.arange(TIME)], ("x",), "heldout").series
    # Ten held-out blocks, as of a series; each window on its own would be hundreds.
    assert _blocks(*(_position(series, starts) for starts in (series.train, series.test))) == 10


def test_windows_that_share_no_row_have_no_position():
    windows = np.random.default_rng(0).normal(size=(100, TIME, 2))
    assert from_windows(windows, ("x", "y"), "heldout").series.position is None


def _pair_counts(member, other):
    closer = np.less.outer(member, other).mean()
    return closer + np.equal.outer(member, other).mean() / 2


def test_the_attackers_area_counts_pairs():
    random = np.random.default_rng(0)
    member, other = (
        random.integers(0, 9, 40).astype(float),
        random.integers(2, 12, 30).astype(float),
    )
    assert membership._area(member, other) == pytest.approx(_pair_counts(member, other))
    assert membership._area(member[:0], other) == 0.5


@pytest.mark.parametrize("independent", [True, False])
def test_an_attacker_finds_members_of_a_generator_that_repeats_them(independent):
    training, held_out = _parts(1)
    random = np.random.default_rng(0)
    if independent:
        one, two, fair = (random.normal(size=(900, TIME, 1)).cumsum(axis=1) for _ in range(3))
        starts = {}
    else:  # of one walk, and of a walk of its own, as far from both
        series, own = (random.normal(size=(9_000, 1)).cumsum(axis=0) for _ in range(2))
        one, two = (series[starts[:, None] + np.arange(TIME)] for starts in (training, held_out))
        fair = own[random.integers(0, 8_000, 900)[:, None] + np.arange(TIME)]
        starts = {"training_starts": training, "held_out_starts": held_out}
    repeated = one[random.permutation(len(one))[:900]]
    repeated = repeated + 0.01 * random.normal(size=repeated.shape)
    found = memorisation(repeated, one, two, **starts)["membership_inference"]
    assert found["low"] > 0.7
    found = memorisation(fair, one, two, **starts)["membership_inference"]
    assert found["low"] < 0.5 < found["high"]


def test_without_held_out_windows_there_is_nobody_to_tell_members_from():
    windows = np.random.default_rng(0).normal(size=(60, TIME, 1))
    assert memorisation(windows, windows + 1)["membership_inference"] is None
