"""Blocks of time in the memorisation check's interval."""

import numpy as np
import pytest

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
    series = random.uniform(size=((2 * BLOCKS + 1) * BLOCK, 1))
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
