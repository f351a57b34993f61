"""Arrays as people have them: with gaps, of different lengths, or of which axis is unclear."""

import numpy as np
import pytest
import quick

from timeldm_jax.data import arrays, reader
from timeldm_jax.data.arrays import check_array
from timeldm_jax.errors import DataError


def test_an_array_whose_second_axis_may_be_time_is_asked_about():
    walks = np.random.default_rng(0).normal(size=(200, 24)).cumsum(axis=1)
    with pytest.raises(DataError, match=r"200 windows of 24 steps of one feature. If they are"):
        check_array(walks, None)
    names = [f"x{i}" for i in range(24)]
    np.testing.assert_array_equal(check_array(walks, names)[0], walks)
    check_array(walks.cumsum(axis=0), None)  # runs on along both
    check_array(np.random.default_rng(0).normal(size=(200, 24)), None)  # along none


def test_series_of_different_lengths_become_a_table():
    random = np.random.default_rng(0)
    parts = [random.normal(size=(rows, 2)) for rows in (3, 5, 4)]
    data = reader.accept(parts)
    frame = arrays.stack(data, ("a", "b"))
    assert frame["series"].tolist() == [0] * 3 + [1] * 5 + [2] * 4
    np.testing.assert_array_equal(frame[["a", "b"]], np.concatenate(parts))
    flat = arrays.stack(reader.accept([part[:, 0] for part in parts]), None)
    np.testing.assert_array_equal(flat["feature_0"], np.concatenate(parts)[:, 0])
    with pytest.raises(DataError, match=r"the series have \[2, 3\] features"):
        arrays.stack(reader.accept([parts[0], random.normal(size=(4, 3))]), None)


@pytest.fixture(scope="module")
def windows():
    random = np.random.default_rng(0)
    values = random.normal(size=(60, 8, 3)).cumsum(axis=1)
    values[..., 1] = 5.0
    values[random.random((60, 8)) < 0.2, 2] = np.nan
    return values


@pytest.mark.slow
@pytest.mark.training
def test_windows_with_gaps_and_a_constant_feature_train(windows):
    model = quick.Quick().fit(windows)
    samples = model.sample(4)
    assert samples.shape == (4, 8, 3)
    assert np.isfinite(samples).all()
    assert (samples[..., 1] == 5.0).all()
    gaps = np.isnan(model.sample(50, missing="generate"))
    assert not gaps[..., :2].any()
    filled = model.impute(windows)
    known = ~np.isnan(windows)
    assert filled.shape == windows.shape
    np.testing.assert_allclose(filled[known], windows[known], rtol=1e-6)
    assert np.isfinite(filled).all()


@pytest.mark.slow
@pytest.mark.training
def test_a_list_of_series_gives_a_list(tmp_path):
    random = np.random.default_rng(0)
    parts = [random.normal(size=(rows, 2)).cumsum(axis=0) for rows in (*range(4, 40), 300)]
    model = quick.Quick(window=12).fit(parts)
    samples = model.sample(5)
    assert len(samples) == 5
    assert all(part.shape[1] == 2 and 1 <= len(part) <= 12 for part in samples)
    parts[0][1, 0] = np.nan
    filled = model.impute(parts)
    assert [part.shape for part in filled] == [part.shape for part in parts]
    assert np.isfinite(filled[0]).all()
    np.testing.assert_allclose(filled[-1], parts[-1], rtol=1e-6)


def test_files_of_arrays_are_arrays(tmp_path):
    values = np.random.default_rng(0).normal(size=(40, 3)).cumsum(axis=0)
    np.save(tmp_path / "mine.npy", values)
    np.savez(tmp_path / "mine.npz", anything=values)
    np.savez(tmp_path / "two.npz", a=values, b=values)
    for name in ("mine.npy", "mine.npz"):
        np.testing.assert_array_equal(arrays.read_array(str(tmp_path / name)), values)
    with pytest.raises(DataError, match="holds 2 arrays"):
        arrays.read_array(str(tmp_path / "two.npz"))
    with pytest.raises(DataError, match=r"none\.npy does not exist"):
        arrays.read_array(str(tmp_path / "none.npy"))
    assert arrays.read_array("mine.csv") is None
