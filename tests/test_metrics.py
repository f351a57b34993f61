"""Scores against closed forms, a second implementation, and the original evaluators' figures."""

import importlib
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
from timeldm_jax.errors import DataError
from timeldm_jax.metrics import (
    comparison,
    context_fid,
    detection,
    distribution,
    evaluation,
    suite,
    verdicts,
)
from timeldm_jax.metrics.correlational import (
    correlational_runs,
    correlational_score,
    cross_correlations,
    fifths,
)
from timeldm_jax.samples import read_windows, write_npz

pytestmark = pytest.mark.training

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


@pytest.fixture
def whole_encoder(monkeypatch):
    """Context-FID's own encoder, as `conftest.quickly` has a small one in its place."""
    monkeypatch.setattr(context_fid, "ENCODER", context_fid.Encoder())


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


# The suite.


@pytest.fixture
def light(monkeypatch):
    """The suite without training: what it asks of the trained evaluators, and figures by rule."""
    asked = {}

    def compare(name):
        def runs(pool, pairs, *, seed, steps):
            asked[name] = (pool, pairs)
            # Distance of mean values, which tells sets apart a little.
            return np.array([abs(pool[a].mean() - pool[b].mean()) for a, b in pairs])

        return runs

    monkeypatch.setattr(detection, "TREES", 3)
    monkeypatch.setattr(detection.convolutions, "KERNELS", 20)
    monkeypatch.setattr(suite, "discriminative_runs", compare("discriminative"))
    monkeypatch.setattr(suite, "predictive_runs", compare("predictive"))
    monkeypatch.setattr(
        suite.context_fid, "fit", lambda windows, *, repeats, seed, steps: np.zeros((repeats, 1))
    )
    monkeypatch.setattr(
        suite.context_fid,
        "encode",
        lambda params, windows: windows.reshape(len(windows), -1)[:, :8],
    )
    return asked


def score(real, synthetic, **kwargs):
    columns = tuple(f"c{i}" for i in range(real.shape[-1]))
    return suite.score(real, synthetic, columns, **kwargs)


def test_each_score_is_asked_for_as_the_module_says(light):
    real, synthetic = windows(80), windows(70, seed=1)
    found = score(real, synthetic)
    assert list(found["scores"]) == list(suite.SCORES)
    assert found["windows"] == {
        "real": 80, "synthetic": 70, "reference": None, "calibration": 35, "time": 6, "features": 3,
    }  # fmt: skip
    pool, pairs = light["discriminative"]
    low, high = real.min(axis=(0, 1)), real.max(axis=(0, 1))
    np.testing.assert_allclose(pool[:80], (real - low) / (high - low), atol=1e-6)
    np.testing.assert_allclose(pool[80:150], (synthetic - low) / (high - low), atol=1e-5)
    assert len(pairs) == 5 + 5 + 5 + 2
    for one, two in pairs[:5]:
        np.testing.assert_array_equal(one, np.arange(80))
        np.testing.assert_array_equal(two, np.arange(80, 150))
    for (one, two), (same, other) in zip(pairs[5:10], pairs[10:15], strict=True):
        assert len(set(one)) == len(set(two)) == len(set(other)) == 35
        assert max(one) < 80 <= min(two)
        assert max(two) < 150
        np.testing.assert_array_equal(one, same)  # floor and score against the same real windows
        assert set(same).isdisjoint(other)
        assert max(other) < 80
    assert len({tuple(one) for one, _ in pairs[5:10]}) == 5
    # Trained on the second of a pair, tested on the first.
    _, transfers = light["predictive"]
    for (one, two), (source, target) in zip(pairs, transfers[: len(pairs)], strict=True):
        np.testing.assert_array_equal(one, target)
        np.testing.assert_array_equal(two, source)
    # And on real windows with synthetic ones, beside real windows alone: what is gained.
    both = transfers[len(pairs) :]
    assert len(both) == suite.AUGMENTED_RUNS
    for (source, target), floor, calibrated in zip(both, pairs[10:], pairs[5:], strict=False):
        np.testing.assert_array_equal(source, np.concatenate([floor[1], calibrated[1]]))
        np.testing.assert_array_equal(target, floor[0])
    predictive = found["scores"]["predictive"]
    alone, augmented = predictive["floor"]["runs"][: len(both)], predictive["augmented"]["runs"]
    np.testing.assert_allclose(predictive["gain"]["runs"], np.subtract(alone, augmented))


def test_moments_are_scipys():
    real = np.random.default_rng(0).gamma(2.0, size=(300, 5, 2))
    other = np.random.default_rng(1).normal(size=(200, 5, 2))
    found = distribution.errors(distribution.describe(real), distribution.describe(other))
    for name, moment in (("skewness", stats.skew), ("kurtosis", stats.kurtosis)):
        one, two = (moment(windows.reshape(-1, 2), axis=0) for windows in (real, other))
        np.testing.assert_allclose(found[name], np.abs(one - two).mean(), rtol=1e-9)


def test_with_a_reference_the_floor_is_against_it(light):
    found = score(windows(40), windows(90, seed=1), reference=windows(100, seed=2))
    assert found["windows"]["reference"] == 100
    assert found["windows"]["calibration"] == 40  # all real ones, half of neither other set
    pool, pairs = light["discriminative"]
    assert len(pool) == 40 + 90 + 100 + 2 * 40
    for one, other in pairs[10:15]:
        assert sorted(one) == list(range(40))
        assert min(other) >= 130
        assert max(other) < 230
        assert len(set(other)) == 40


def test_ceilings_keep_what_they_should_and_nothing_else(light):
    real = windows(4000)
    score(real, windows(4000, seed=1))
    pool, pairs = light["discriminative"]
    shuffled, gaussian = (pool[at].astype(float) for _, at in pairs[15:])
    other = pool[pairs[10][1]].astype(float)
    np.testing.assert_allclose(np.sort(shuffled, axis=1), np.sort(other, axis=1))
    assert not np.allclose(shuffled, other)
    one = pool[pairs[10][0]].astype(float)
    for t in range(6):
        # 2,000 draws: a mean's standard error is 2% of the deviation, a covariance's 3%.
        deviation = one[:, t].std(axis=0)
        np.testing.assert_allclose(gaussian[:, t].mean(axis=0), one[:, t].mean(axis=0), atol=0.02)
        scale = np.outer(deviation, deviation)
        difference = np.cov(gaussian[:, t].T) - np.cov(one[:, t].T)
        assert (np.abs(difference) < 0.15 * scale).all()
    # No memory: steps of the noise are independent.
    assert abs(np.corrcoef(gaussian[:, 0, 0], gaussian[:, 1, 0])[0, 1]) < 0.1


def test_scores_do_not_depend_on_the_unit():
    real, synthetic = windows(80), windows(80, seed=1)
    scale, offset = np.array([1e-3, 1.0, 1e6]), np.array([5.0, -2e3, 0.0])
    sizes = suite.Evaluators(2, 20, 20, 2, 8)
    first = score(real, synthetic, evaluators=sizes)["scores"]
    second = score(real * scale + offset, synthetic * scale + offset, evaluators=sizes)["scores"]
    for name in first:
        # float32 of scaled values differs in its last digit; an accuracy moves in steps of 1/32.
        tolerance = 0.07 if name == "discriminative" else 1e-3
        assert first[name]["mean"] == pytest.approx(second[name]["mean"], rel=1e-2, abs=tolerance)


def test_the_same_seed_gives_the_same_scores():
    real, synthetic = windows(80), windows(80, seed=1)
    sizes = suite.Evaluators(2, 20, 20, 2, 8)
    first = score(real, synthetic, evaluators=sizes)
    assert first == score(real, synthetic, evaluators=sizes)
    other = score(real, synthetic, evaluators=sizes, seed=1)
    for name in ("discriminative", "predictive", "context_fid", "correlational"):
        assert first["scores"][name]["runs"] != other["scores"][name]["runs"]


def test_a_verdict_says_where_a_score_lies():
    floor = [0.9, 1.0, 1.1, 1.0, 1.0]
    # By hand: standard deviation √.005, t(.995; 4) = 4.604, limit 1 + .0707·4.604·√1.2 = 1.357.
    assert verdicts.compare([1.35], floor)["verdict"] == "within the floor"
    assert verdicts.compare([1.36], floor) == {
        "ratio": pytest.approx(1.36), "within_floor": False, "verdict": "1.4× the floor"
    }  # fmt: skip
    assert verdicts.compare([38.2], floor)["verdict"] == "38× the floor"
    close = [1.0, 1.001, 0.999, 1.0, 1.0]
    assert verdicts.compare([1.02], close)["verdict"] == "1.020× the floor"
    assert verdicts.compare([0.1], [0.0, 0.0])["verdict"] == "above the floor"


def test_a_fair_generator_is_within_the_floor_and_what_is_wrong_is_not(light):
    """Fast scores only; `test_the_whole_suite_tells_good_from_bad` has them all."""
    real = sines_like(1000, 0)
    fair = score(real, sines_like(1000, 1))["scores"]
    # At 99.5% a score, 16 of them: one may stray. Those of two light runs may say nothing.
    strays = [entry for entry in fair.values() if entry["tells"] and not entry["within_floor"]]
    assert len(strays) <= 1
    for ceiling in ("shuffled", "gaussian"):
        ratios = [entry["ceilings"][ceiling]["ratio"] for entry in fair.values()]
        assert max(ratios) > 10
    assert fair["wasserstein"]["ceilings"]["shuffled"]["verdict"] == "not seen by this score"
    noisy = sines_like(1000, 1) + np.random.default_rng(2).normal(scale=0.02, size=real.shape)
    found = score(real, noisy)["scores"]
    assert not found["increments"]["within_floor"]
    assert not found["spectrum"]["within_floor"]
    backwards = score(real, sines_like(1000, 1)[:, ::-1])["scores"]
    assert not backwards["time_reversal"]["within_floor"]
    assert backwards["wasserstein"]["within_floor"]


def sines_like(count, seed):
    """docs/method.md, 6's Sines, drawn here: a rising quarter wave, so time has a direction."""
    random = np.random.default_rng(seed)
    frequency, phase = random.uniform(0, 0.1, size=(2, count, 1, 5))
    return (np.sin(frequency * np.arange(24)[:, None] + phase) + 1) / 2


@pytest.mark.slow
@pytest.mark.usefixtures("whole_encoder")
def test_the_whole_suite_tells_good_from_bad():
    real, fresh = sines_like(4000, 0), sines_like(4000, 1)
    names = tuple("abcde")

    def evaluated(synthetic):
        return evaluation.evaluate(real, synthetic, names, fresh=fresh)

    def seen(found):
        return {name for name, s in found["scores"].items() if not s["within_floor"]}

    good = evaluated(sines_like(4000, 2))
    assert seen(good) == set()
    assert not good["memorisation"]["memorised"]
    for name in ("discriminative", "context_fid"):
        for ceiling in good["scores"][name]["ceilings"].values():
            assert not ceiling["within_floor"]
    # Of waves, Gaussian windows of the same covariance teach a predictor nearly as much: worse than
    # each floor run (.1985 for .185-.192), but five runs do not rule that out.
    predictive = good["scores"]["predictive"]
    assert not predictive["ceilings"]["shuffled"]["within_floor"]
    assert predictive["ceilings"]["gaussian"]["mean"] > max(predictive["floor"]["runs"])
    assert evaluated(real.copy())["memorisation"]["memorised"]
    noise = np.random.default_rng(3).normal(scale=0.02, size=real.shape)
    assert {"increments", "spectrum"} <= seen(evaluated(sines_like(4000, 2) + noise))
    assert {"time_reversal", "context_fid"} <= seen(evaluated(sines_like(4000, 2)[:, ::-1]))
    # A tenth of the real windows is of a kind of its own, which the generator leaves out.
    two_kinds = [w.copy() for w in (real, fresh)]
    for w in two_kinds:
        w[::10] = w[::10, :, ::-1] * 0.5
    left_out = evaluation.evaluate(two_kinds[0], sines_like(4000, 2), names, fresh=two_kinds[1])
    assert "context_fid" in seen(left_out)


def test_a_score_that_useless_windows_pass_says_nothing():
    def judged(floor, ceiling, runs=(0.16, 0.9, 0.02)):
        ceilings = {"shuffled": ceiling, "gaussian": ceiling}
        found = verdicts.judge(verdicts.summaries(runs, runs, floor, ceilings))
        return found | {"label": "Discriminative"}

    wide = judged([0.05, 0.4, 0.1], 0.5)  # ½ is the worst that there is
    assert not wide["tells"]
    assert not wide["within_floor"]
    assert wide["verdict"].startswith("says nothing")
    sharp = judged([0.05, 0.06, 0.07], 0.5, (0.06, 0.06, 0.06))
    assert sharp["tells"]
    assert sharp["within_floor"]
    said = verdicts.overall({"a": sharp, "b": wide})
    assert said.startswith("All 1 scores are within the floor")
    assert said.endswith("Discriminative says nothing: there are too few windows for it.")
    assert verdicts.overall({"a": wide}) == "No score tells anything of so few windows."


def test_the_interval_is_students():
    # By hand: mean 3, standard deviation √2.5, t(0.975; 4) = 2.776445.
    summary = verdicts.summary(np.array([1.0, 2, 3, 4, 5]))
    assert summary["mean"] == 3
    assert summary["half_width"] == pytest.approx(2.7764451 * (2.5 / 5) ** 0.5)
    assert verdicts.summary(np.array([1.0]))["half_width"] is None


def test_reconstruction_error_of_known_windows():
    real = np.zeros((2, 2, 2))
    reconstructed = np.array([[[3.0, 0], [3, 0]], [[-3, 0], [-3, 4]]])
    error = suite.reconstruction_error(real, reconstructed, ("a", "b"))
    assert error["mean_absolute"] == pytest.approx(2)
    assert error["root_mean_square"] == pytest.approx((52 / 8) ** 0.5)
    assert error["features"] == pytest.approx({"a": 3, "b": 1})


def test_a_generator_that_collapsed_still_gets_numbers(light):
    flat = windows(50, seed=1)
    flat[:, :, 2] = flat[0, 0, 2]
    text = json.dumps(score(windows(50), flat), allow_nan=False)
    assert json.loads(text)["scores"]["correlational"]["mean"] > 0


def test_a_feature_that_is_constant_is_left_out_and_named(light):
    real, synthetic = windows(50), windows(50, seed=1)
    expected = score(real[:, :, [0, 2]], synthetic[:, :, [0, 2]])
    real[:, :, 1], synthetic[:, :, 1] = 7, 7.5
    found = score(real, synthetic)
    assert found["notes"] == [
        "'c1' is constant (7) in the real windows and left out of the scores; "
        "synthetic ones stray by 0.5."
    ]
    assert set(found["scores"]["wasserstein"]["features"]) == {"c0", "c2"}
    assert found["scores"]["increments"]["runs"] == expected["scores"]["increments"]["runs"]
    synthetic[:, :, 1] = 7
    assert "so it is in the synthetic ones" in score(real, synthetic)["notes"][0]


def test_values_far_outside_the_real_range_are_noted(light):
    synthetic = windows(50, seed=1)
    synthetic[3, 2, 1] = windows(50)[:, :, 1].max() + 2 * np.ptp(windows(50)[:, :, 1])
    notes = score(windows(50), synthetic)["notes"]
    assert "Synthetic windows of 'c1' reach 2.0 times the real range beyond it." in notes
    assert not any("'c0'" in note for note in notes)


def test_one_feature_and_one_step(light):
    found = score(windows(50, features=1), windows(50, features=1, seed=1))["scores"]
    for name in ("correlational", "cross_correlation", "tail_dependence"):
        assert found[name]["skipped"] == "needs two features"
    assert "skipped" not in found["predictive"]
    found = score(windows(50, time=1), windows(50, time=1, seed=1))["scores"]
    for name in ("predictive", "autocorrelation", "spectrum", "increments", "time_reversal"):
        assert found[name]["skipped"] == "needs windows of two time steps"
    assert "skipped" not in found["wasserstein"]


def test_unequal_numbers_are_said(light):
    assert score(windows(50), windows(50, seed=1))["notes"] == []
    notes = score(windows(50), windows(20, seed=1))["notes"]
    assert notes[0].startswith("50 real and 20 synthetic windows: the discriminative score draws")


@pytest.mark.parametrize(
    ("real", "synthetic", "message"),
    [
        (windows(9), windows(20), "9 real windows are too few to score; at least 10"),
        (windows(20), windows(9), "9 synthetic windows are too few"),
        (windows(20), windows(20, time=7), r"real windows .* \(6, 3\), synthetic ones \(7, 3\)"),
        (windows(20), windows(20, features=4), r"\(6, 3\), synthetic ones \(6, 4\)"),
        (windows(20)[0], windows(20), r"real windows have shape \(6, 3\)"),
        (windows(20) * 0, windows(20), "every feature of the real windows is constant"),
        (windows(20), windows(20) * 1e200, "synthetic windows of 'c0' reach .* times the range"),
    ],
)
def test_sets_that_cannot_be_compared(real, synthetic, message):
    with pytest.raises(DataError, match=message):
        score(real, synthetic)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_first_bad_value_is_named(bad):
    synthetic = windows(20)
    synthetic[3, 2, 1] = bad
    message = rf"synthetic windows have {bad} at window 3, time 2, feature 1 \('c1'\)"
    with pytest.raises(DataError, match=message):
        score(windows(20), synthetic)
    with pytest.raises(DataError, match="2 column names for 3 features"):
        suite.score(windows(20), windows(20), ("a", "b"))


# Parity with the original evaluators; `benchmarks/scores.py --parity` prints the table.


@pytest.mark.slow
@pytest.mark.usefixtures("whole_encoder")
@pytest.mark.parametrize("name", ["discriminative", "predictive", "context_fid"])
def test_means_lie_within_the_originals_interval(sines, name, monkeypatch):
    monkeypatch.syspath_prepend(TESTS.parent / "benchmarks")
    benchmark = importlib.import_module("scores")
    sets = benchmark.SETS
    ours = benchmark.parity_runs(sines, name, repeats=10)
    for i, one in enumerate(sets):
        original = verdicts.summary(np.array(FIGURES[one][name]))
        mine = verdicts.summary(ours[one])
        reach = original["half_width"] + mine["half_width"]
        assert abs(mine["mean"] - original["mean"]) <= reach, (one, mine["mean"], original["mean"])
        for other in sets[:i]:
            theirs = verdicts.summary(np.array(FIGURES[other][name]))
            apart = abs(original["mean"] - theirs["mean"])
            if apart > original["half_width"] + theirs["half_width"]:
                order = original["mean"] - theirs["mean"]
                assert (mine["mean"] - ours[other].mean()) * order > 0, (one, other)


def test_values_may_be_left_in_their_own_scale():
    real, fake = windows(40), windows(30, seed=1)
    sets = {"real": real, "synthetic": fake}
    kept, _, _ = comparison.scale(sets, ("a", "b", "c"), "none")
    np.testing.assert_array_equal(kept["real"], real.astype(np.float32))
    stretched, _, _ = comparison.scale(sets, ("a", "b", "c"))
    assert (stretched["real"].min(), stretched["real"].max()) == (0, 1)


# The command.


def test_the_command_scores_any_generators_files(tmp_path, monkeypatch, capsys):
    sizes = suite.Evaluators(2, 20, 20, 2, 8)
    monkeypatch.setattr(suite, "PROTOCOL", sizes)
    monkeypatch.chdir(tmp_path)
    real, synthetic = windows(40), windows(30, seed=1)
    np.save("real.npy", real)
    np.savez("fake.npz", anything=synthetic.astype(np.float32))
    evaluate.main(["", "--real=real.npy", "--synthetic=fake.npz", "--out=out.json"])
    done = capsys.readouterr()
    assert all(line.startswith("evaluate: part") for line in done.err.splitlines())
    found = json.loads((tmp_path / "out.json").read_text())
    names = ("feature_0", "feature_1", "feature_2")
    expected = evaluation.evaluate(
        real, synthetic.astype(np.float32).astype(float), names, evaluators=sizes
    )
    assert found == json.loads(json.dumps(expected))
    assert done.out == evaluation.table(expected) + "\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fake.npz", "out.json", "real.npy"]


def test_the_command_of_scores_is_a_script():
    command = [sys.executable, "-m", "timeldm_jax.evaluate", "--real=none.npy", "--synthetic=b.npy"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: none.npy")


def evaluate_here(folder, real, synthetic="good.npy", out="scores.json"):
    """The exit code of the command's `main` in this process."""
    files = {"real": real, "synthetic": synthetic, "out": out}
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(["evaluate", *(f"--{flag}={folder / file}" for flag, file in files.items())])
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
    yield "flat.npy", "flat.npy holds a table of 6 rows; say how long windows are (--window=24)"
    (folder / "words.csv").write_text("date,x,y\n2020-01-01,1,2\n")
    yield "words.csv", "words.csv: column 'date' holds '2020-01-01'; expected numbers"
    (folder / "ragged.csv").write_text("series,x\n0,1\n0,2\n1,3\n")
    yield "ragged.csv", "ragged.csv: series 0 has 2 rows and 1 has 1; windows must be of one length"
    (folder / "empty.csv").write_text("")
    yield "empty.csv", "empty.csv is not a readable .csv file: No columns to parse"
    (folder / "holes.csv").write_text("series,a,b,c\n" + "0,1,,3\n" * 6)
    yield "holes.csv", "1 real windows are too few"
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


def test_each_bad_file_is_one_line_and_no_scores(tmp_path, capsys):
    np.save(tmp_path / "good.npy", windows(20))
    for name, message in bad_files(tmp_path):
        assert evaluate_here(tmp_path, name) == 2, name
        error = capsys.readouterr().err
        assert error.startswith("error: "), name
        assert message in error, (name, error)
        assert error.count("\n") == 1, (name, error)
    assert not (tmp_path / "scores.json").exists()


def test_a_result_that_cannot_be_written(tmp_path, capsys):
    np.save(tmp_path / "good.npy", windows(20))
    assert evaluate_here(tmp_path, "good.npy", out="no/such/folder.json") == 2
    assert "no/such/folder.json" in capsys.readouterr().err


# Files of windows.


def test_csv_with_series_and_tables_with_a_window(tmp_path):
    path = epath.Path(tmp_path) / "a.csv"
    # Rows of a series stay in order, however the file interleaves them.
    path.write_text("series,x,y\n7,1,2\n3,5,6\n7,3,4\n3,7,8.5\n")
    found, columns = read_windows(path)
    np.testing.assert_array_equal(found, [[[5, 6], [7, 8.5]], [[1, 2], [3, 4]]])
    assert columns == ("x", "y")
    table = np.arange(12.0).reshape(6, 2)
    np.save(tmp_path / "t.npy", table)
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{a},{b}\n" for a, b in table))
    expected = np.stack([table[i : i + 4] for i in range(3)])
    for name, names in (("t.npy", None), ("t.csv", ("x", "y"))):
        found, columns = read_windows(epath.Path(tmp_path) / name, 4)
        np.testing.assert_array_equal(found, expected)
        assert columns == names
    for window in (0, 7):
        with pytest.raises(DataError, match=f"has 6 rows; --window={window} is not within 1 to"):
            read_windows(epath.Path(tmp_path) / "t.npy", window)


def test_columns_of_the_synthetic_file_may_come_in_another_order(tmp_path, light):
    real, synthetic = windows(30), windows(30, seed=1)
    np.savez(tmp_path / "r.npz", samples=real, columns=np.array(["a", "b", "c"]))
    np.savez(tmp_path / "s.npz", samples=synthetic[:, :, ::-1], columns=np.array(["c", "b", "a"]))
    files = {"real": "r.npz", "synthetic": "s.npz", "out": "o.json"}
    evaluate.main(["evaluate", *(f"--{flag}={tmp_path / file}" for flag, file in files.items())])
    found = json.loads((tmp_path / "o.json").read_text())["scores"]["wasserstein"]
    expected = suite.score(real, synthetic, ("a", "b", "c"))["scores"]["wasserstein"]
    assert found["features"] == expected["features"]


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
