"""Windows given as an array: parts share no row where the windows overlap."""

import numpy as np
import pytest

from timeldm_jax.data.dataset import from_windows


def rows_of(series, starts):
    return set(series.windows(starts)[..., 0].ravel().tolist())  # each row has a value of its own


@pytest.mark.parametrize("stride", [1, 3, 8])
def test_parts_of_overlapping_windows_share_no_row(stride):
    rows = np.random.default_rng(0).permutation(2_000).astype(float)[:, None]
    starts = np.arange(0, len(rows) - 12, stride)
    windows = rows[starts[:, None] + np.arange(12)]
    series = from_windows(windows, ("x",), "heldout").series
    parts = [rows_of(series, s) for s in (series.train, series.valid, series.test)]
    assert all(parts)
    assert not (parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2])


def test_windows_that_share_no_rows_are_all_kept():
    windows = np.random.default_rng(0).normal(size=(100, 12, 2))
    series = from_windows(windows, ("x", "y"), "heldout").series
    assert [len(s) for s in (series.train, series.valid, series.test)] == [70, 10, 20]
