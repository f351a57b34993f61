"""Scores against closed forms, a second implementation, and the original evaluators' figures."""

import json
import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
from etils import epath
from scipy import stats

from timeldm_jax import evaluate
from timeldm_jax.data.sources import DataError
from timeldm_jax.metrics import suite
from timeldm_jax.metrics.correlational import (
    correlational_runs,
    correlational_score,
    cross_correlations,
    fifths,
)
from timeldm_jax.metrics.wasserstein import feature_distances
from timeldm_jax.samples import read_windows, write_npz

TESTS = pathlib.Path(__file__).resolve().parent
# The originals' figures are in the repository; the 4 MB they were computed on lie with the data.
FIGURES = json.loads((TESTS / "golden" / "sines_original.json").read_text())
DATA_DIR = pathlib.Path(os.environ.get("TIMELDM_DATA_DIR") or TESTS.parents[1] / "shared" / "data")
ARRAYS = DATA_DIR.parent / "golden" / "sines.npz"


@pytest.fixture(scope="module")
def sines():
    if not ARRAYS.exists():
        pytest.skip(f"{ARRAYS} is absent: the original evaluators' figures are NOT checked")
    with np.load(ARRAYS) as arrays:
        return dict(arrays)


def windows(count=50, time=6, features=3, seed=0):
    """Windows with features of different scale that depend on each other."""
    random = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(features, features))
    return random.normal(size=(count, time, features)) @ mix * np.arange(1, features + 1)


# Correlational.


def oracle(real, synthetic):
    """From the definition, pair by pair: Pearson's r of n values, times (n - 1)/n."""

    def correlations(w):
        flat = [w[:, :, f].ravel() for f in range(w.shape[2])]
        n = len(flat[0])
        return np.array(
            [
                stats.pearsonr(flat[i], flat[j]).statistic * (n - 1) / n
                for i in range(len(flat))
                for j in range(i + 1)
            ]
        )

    return np.abs(correlations(real) - correlations(synthetic)).sum() / 10


@pytest.mark.parametrize("features", [1, 2, 5])
def test_correlational_score_is_its_definition(features):
    real, synthetic = windows(60, features=features), windows(45, features=features, seed=1) ** 3
    expected = oracle(real, synthetic)
    score = correlational_score(real.astype(np.float32), synthetic.astype(np.float32))
    np.testing.assert_allclose(score, expected, rtol=1e-5, atol=1e-7)
    assert correlational_score(real.astype(np.float32), real.astype(np.float32)) == 0


def test_cross_correlations_of_known_series():
    # y = -x and z is orthogonal to both; 8 values, so the diagonal is 7/8.
    x = np.array([1.0, -1, 1, -1, 1, -1, 1, -1])
    z = np.array([1.0, 1, -1, -1, 1, 1, -1, -1])
    w = np.stack([x, -5 * x + 3, z], axis=-1).reshape(2, 4, 3).astype(np.float32)
    np.testing.assert_allclose(
        cross_correlations(w), np.array([1, -1, 1, 0, 0, 1]) * 7 / 8, atol=1e-6
    )


def test_a_constant_feature_correlates_with_nothing():
    w = windows(20).astype(np.float32)
    flat = w.copy()
    flat[:, :, 1] = 0.1
    matrix = np.zeros((3, 3))
    matrix[np.tril_indices(3)] = cross_correlations(flat)
    assert (matrix[1] == 0).all()
    assert (matrix[:, 1] == 0).all()
    original = np.zeros((3, 3))
    original[np.tril_indices(3)] = cross_correlations(w)
    np.testing.assert_array_equal(matrix[[0, 2, 2], [0, 0, 2]], original[[0, 2, 2], [0, 0, 2]])


@pytest.mark.parametrize("name", ["fresh", "noisy", "slow", "swapped"])
def test_correlational_agrees_with_the_original_on_all_windows(sines, name):
    score = correlational_score(sines["real"].astype(np.float32), sines[name].astype(np.float32))
    np.testing.assert_allclose(score, FIGURES[name]["correlational_all_windows"], rtol=1e-5)


@pytest.mark.parametrize("name", ["fresh", "noisy", "slow", "swapped"])
def test_resampled_correlational_lies_within_the_originals_spread(sines, name):
    runs = correlational_runs(sines["real"], sines[name], repeats=20)
    original = np.array(FIGURES[name]["correlational"])
    assert len(original) == 20
    # Means of 20 draws each from what must be one distribution.
    standard_error = np.hypot(stats.sem(runs), stats.sem(original))
    assert abs(runs.mean() - original.mean()) < 3.5 * standard_error
    assert original.min() < runs.mean() < original.max()
    assert 0.4 < runs.std() / original.std() < 2.5


def test_each_repeat_draws_afresh_and_the_seed_repeats_it():
    real, synthetic = windows(60), windows(60, seed=1)
    runs = correlational_runs(real, synthetic)
    assert runs.shape == (5,)
    assert len(set(runs)) == 5
    np.testing.assert_array_equal(runs, correlational_runs(real, synthetic))
    assert set(runs).isdisjoint(correlational_runs(real, synthetic, seed=1))
    # The two sets are drawn with different keys: a set against itself is not its own twin.
    assert (correlational_runs(real, real) > 0).all()


def test_draws_are_a_fifth_of_each_set_unless_given():
    assert fifths(np.zeros((60, 1)), np.zeros((14, 1))) == (12, 2)
    assert fifths(np.zeros((3, 1)), np.zeros((1, 1))) == (1, 1)
    real, synthetic = windows(60), windows(60, seed=1)
    default = correlational_runs(real, synthetic)
    np.testing.assert_array_equal(default, correlational_runs(real, synthetic, draws=(12, 12)))
    # Of a set against itself the score is all noise, which falls with the root of the draws.
    few, many = (correlational_runs(real, real, draws=(n, n), repeats=20) for n in (20, 2000))
    assert 5 < few.mean() / many.mean() < 20


# Wasserstein.


def test_a_shift_is_the_distance():
    real = windows()
    shift = np.array([0.0, 2.5, -4.0])
    np.testing.assert_allclose(feature_distances(real, real + shift), np.abs(shift), atol=1e-12)


def test_distances_of_known_sets():
    # Sorted values lie 0, 1 and 2 apart: mean 1. Of twice as many points, each counts half.
    real = np.array([0.0, 10, 20]).reshape(3, 1, 1)
    synthetic = np.array([0.0, 11, 22]).reshape(3, 1, 1)
    np.testing.assert_allclose(feature_distances(real, synthetic), [1])
    np.testing.assert_allclose(feature_distances(real, np.concatenate([synthetic] * 2)), [1])
    # A doubled scale of U(0, 1) on an even grid: mean of |2u - u| = 1/2.
    grid = ((np.arange(1000) + 0.5) / 1000).reshape(100, 10, 1)
    np.testing.assert_allclose(feature_distances(grid, 2 * grid), [0.5])


def test_order_in_time_does_not_matter():
    real = windows()
    shuffled = np.random.default_rng(0).permuted(windows(seed=1), axis=1)
    np.testing.assert_allclose(
        feature_distances(real, shuffled), feature_distances(real, windows(seed=1))
    )


# The suite.


def score(real, synthetic, **kwargs):
    columns = tuple(f"c{i}" for i in range(real.shape[-1]))
    return suite.score(real, synthetic, columns, **kwargs)


def test_scores_do_not_depend_on_the_unit():
    real, synthetic = windows(80), windows(80, seed=1)
    scale, offset = np.array([1e-3, 1.0, 1e6]), np.array([5.0, -2e3, 0.0])
    first = score(real, synthetic)
    second = score(real * scale + offset, synthetic * scale + offset)
    np.testing.assert_allclose(
        first["correlational"]["runs"], second["correlational"]["runs"], rtol=1e-3
    )
    np.testing.assert_allclose(
        list(first["wasserstein"]["features"].values()),
        list(second["wasserstein"]["features"].values()),
        rtol=1e-3,
    )


def test_wasserstein_is_in_units_of_the_real_range():
    real = windows(80)
    span = np.ptp(real, axis=(0, 1))
    scores = score(real, real + 0.25 * span)
    assert scores["wasserstein"]["mean"] == pytest.approx(0.25, rel=1e-5)
    assert scores["wasserstein"]["features"] == pytest.approx(
        {"c0": 0.25, "c1": 0.25, "c2": 0.25}, rel=1e-5
    )


def test_the_floor_is_real_windows_against_real_windows():
    real = windows(200)
    scores = score(real, windows(200, seed=1))
    floor = scores["correlational"]["floor"]
    # A fair generator's score and the floor are draws of one thing.
    assert 0.3 < scores["correlational"]["mean"] / floor["mean"] < 3
    bad = score(real, windows(200, seed=1) * np.array([1, 1, 0.1]) + np.array([0, 0, 30]))
    assert bad["wasserstein"]["mean"] > 5 * bad["wasserstein"]["floor"]["mean"]
    # The floor knows only the real windows and how many were drawn.
    assert bad["correlational"]["floor"] == floor
    assert bad["wasserstein"]["floor"] == scores["wasserstein"]["floor"]


def test_the_interval_is_students():
    # By hand: mean 3, standard deviation √2.5, t(0.975; 4) = 2.776445.
    summary = suite.summary(np.array([1.0, 2, 3, 4, 5]))
    assert summary["mean"] == 3
    assert summary["half_width"] == pytest.approx(2.7764451 * (2.5 / 5) ** 0.5)


def test_reconstruction_error_of_known_windows():
    real = np.zeros((2, 2, 2))
    reconstructed = np.array([[[3.0, 0], [3, 0]], [[-3, 0], [-3, 4]]])
    error = suite.reconstruction_error(real, reconstructed, ("a", "b"))
    assert error["mean_absolute"] == pytest.approx(2)
    assert error["root_mean_square"] == pytest.approx((52 / 8) ** 0.5)
    assert error["features"] == pytest.approx({"a": 3, "b": 1})


def test_a_generator_that_collapsed_still_gets_numbers():
    flat = windows(50, seed=1)
    flat[:, :, 2] = flat[0, 0, 2]
    text = json.dumps(score(windows(50), flat), allow_nan=False)
    assert json.loads(text)["correlational"]["mean"] > 0


@pytest.mark.parametrize(
    ("real", "synthetic", "message"),
    [
        (windows(9), windows(20), "9 real windows are too few to score; at least 10"),
        (windows(20), windows(9), "9 synthetic windows are too few"),
        (windows(20), windows(20, time=7), r"real windows .* \(6, 3\), synthetic ones \(7, 3\)"),
        (windows(20), windows(20, features=4), r"\(6, 3\), synthetic ones \(6, 4\)"),
        (windows(20)[0], windows(20), r"real windows have shape \(6, 3\)"),
        (windows(20) * 0, windows(20), "column 'c0' is constant"),
        (windows(20), windows(20) * 1e200, "synthetic windows reach .* times the range"),
    ],
)
def test_sets_that_cannot_be_compared(real, synthetic, message):
    with pytest.raises(DataError, match=message):
        score(real, synthetic)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_first_bad_value_is_named(bad):
    synthetic = windows(20)
    synthetic[3, 2, 1] = bad
    with pytest.raises(DataError, match=f"synthetic windows have {bad} at window 3, time 2, fea"):
        score(windows(20), synthetic)
    with pytest.raises(DataError, match="2 column names for 3 features"):
        suite.score(windows(20), windows(20), ("a", "b"))


# The command.


def run_evaluate(folder, real, synthetic, *more):
    return subprocess.run(
        [
            *(sys.executable, "-m", "timeldm_jax.evaluate"),
            *(f"--real={real}", f"--synthetic={synthetic}", *more),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_scores_any_generators_files(tmp_path):
    real, synthetic = windows(40), windows(30, seed=1)
    np.save(tmp_path / "real.npy", real)
    np.savez(tmp_path / "fake.npz", anything=synthetic.astype(np.float32))
    done = run_evaluate(tmp_path, "real.npy", "fake.npz", "--out=out.json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads((tmp_path / "out.json").read_text())
    expected = suite.score(
        real, synthetic.astype(np.float32).astype(float), ("feature_0", "feature_1", "feature_2")
    )
    assert found == json.loads(json.dumps(expected))
    assert f"{expected['correlational']['mean']:.4f}" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fake.npz", "out.json", "real.npy"]


def evaluate_here(monkeypatch, folder, real, synthetic="good.npy", out="scores.json"):
    """The command's `main` in this process: flags set, exit code returned."""
    for flag, value in (("_REAL", real), ("_SYNTHETIC", synthetic), ("_OUT", out)):
        holder = type("Flag", (), {"value": str(folder / value)})
        monkeypatch.setattr(evaluate, flag, holder)
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(["evaluate"])
    return stopped.value.code


def bad_files(folder):
    """Files that cannot be scored, with what the error must say."""
    np.save(folder / "nan.npy", np.where(windows(20) > 3, np.nan, windows(20)))
    yield "nan.npy", "windows have nan at window"
    np.save(folder / "longer.npy", windows(20, time=9))
    yield "longer.npy", "(time, features) = (9, 3), synthetic ones (6, 3)"
    np.save(folder / "wider.npy", windows(20, features=4))
    yield "wider.npy", "(6, 4), synthetic ones (6, 3)"
    np.save(folder / "few.npy", windows(9))
    yield "few.npy", "9 real windows are too few to score"
    np.save(folder / "scalar.npy", np.float64(3))
    yield "scalar.npy", "scalar.npy holds an array of shape ()"
    np.save(folder / "flat.npy", windows(20)[0])
    yield "flat.npy", "flat.npy holds an array of shape (6, 3)"
    np.save(folder / "text.npy", np.array([[["a"]]]))
    yield "text.npy", "text.npy holds <U1; expected real numbers"
    np.save(folder / "complex.npy", windows(20) * 1j)
    yield "complex.npy", "complex.npy holds complex128"
    np.save(folder / "objects.npy", np.array([[[None]]]), allow_pickle=True)
    yield "objects.npy", "objects.npy is not a readable .npy or .npz file: Object arrays"
    (folder / "pickled.npy").write_bytes(pickle.dumps([1, 2]))
    yield "pickled.npy", "pickled.npy is not a readable .npy or .npz file"
    (folder / "empty.npy").write_bytes(b"")
    yield "empty.npy", "empty.npy is not a readable"
    np.savez(folder / "two.npz", a=windows(20), b=windows(20))
    yield "two.npz", "has arrays ['a', 'b']; expected one called 'samples'"
    np.savez(folder / "names.npz", columns=np.array(["a"]))
    yield "names.npz", "has arrays ['columns']; expected one called 'samples'"
    np.savez(folder / "columns.npz", samples=windows(20), columns=np.array(["a", "b"]))
    yield "columns.npz", "2 column names for 3 features"
    np.savez_compressed(folder / "whole.npz", samples=windows(20))
    whole = (folder / "whole.npz").read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    yield "cut.npz", "cut.npz is not a readable"
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    (folder / "flipped.npz").write_bytes(flipped)
    yield "flipped.npz", "flipped.npz is not a readable"
    np.save(folder / "whole.npy", windows(20))
    (folder / "cut.npy").write_bytes((folder / "whole.npy").read_bytes()[:-50])
    yield "cut.npy", "cut.npy is not a readable"
    (folder / "folder.npy").mkdir()
    yield "folder.npy", "folder.npy"
    yield "absent.npy", "absent.npy does not exist"


def test_each_bad_file_is_one_line_and_no_scores(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "good.npy", windows(20))
    for name, message in bad_files(tmp_path):
        assert evaluate_here(monkeypatch, tmp_path, name) == 2, name
        error = capsys.readouterr().err
        assert error.startswith("error: "), name
        assert message in error, (name, error)
        assert error.count("\n") == 1, (name, error)
    assert not (tmp_path / "scores.json").exists()


def test_a_result_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "good.npy", windows(20))
    assert evaluate_here(monkeypatch, tmp_path, "good.npy", out="no/such/folder.json") == 2
    assert "no/such/folder.json" in capsys.readouterr().err


# Files of windows.


def test_windows_written_in_batches_are_read_back(tmp_path):
    path = epath.Path(tmp_path) / "samples.npz"
    expected = windows(25).astype(np.float32)
    batches = (expected[i : i + 10] for i in range(0, 25, 10))
    write_npz(path, batches, expected.shape, ("a", "b", "<c>"))
    found, columns = read_windows(path)
    np.testing.assert_array_equal(found, expected)
    assert columns == ("a", "b", "<c>")
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["samples"].dtype == np.float32
        np.testing.assert_array_equal(arrays["samples"], expected)
    assert [p.name for p in path.parent.iterdir()] == ["samples.npz"]


def test_windows_are_written_whole_or_not_at_all(tmp_path):
    path = epath.Path(tmp_path) / "samples.npz"

    def batches():
        yield windows(10)
        raise RuntimeError("the device is gone")

    with pytest.raises(RuntimeError, match="gone"):
        write_npz(path, batches(), (20, 6, 3), ("a", "b", "c"))
    assert not path.exists()


def test_other_arrays_beside_the_samples_are_not_read(tmp_path):
    path = epath.Path(tmp_path) / "mixed.npz"
    np.savez(path, allow_pickle=True, samples=windows(3), notes=np.array([{"by": "me"}]))
    found, columns = read_windows(path)
    np.testing.assert_array_equal(found, windows(3))
    assert columns is None
