"""The judges: chance where there is nothing to tell, certainty where there is, and no row twice."""

import itertools

import numpy as np
import pytest
from scipy import signal

from timeldm_jax.metrics import convolutions, detection, evaluation, judges, plan, suite


def walks(count, seed, time=12, features=2, noise=0.0):
    """Random walks, each on its own, with noise on every value."""
    random = np.random.default_rng(seed)
    steps = random.normal(size=(count, time, features))
    return np.cumsum(steps, axis=1) + noise * random.normal(size=steps.shape)


def series_windows(rows, time, stride=1):
    return np.stack([rows[i : i + time] for i in range(0, len(rows) - time + 1, stride)])


def pooled(one, two):
    pool = np.concatenate([one, two]).astype(np.float32)
    pair = (np.arange(len(one)), np.arange(len(one), len(pool)))
    return pool, pair, detection.pool_blocks(pool, pair)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(detection, "TREES", 10)
    monkeypatch.setattr(convolutions, "KERNELS", 100)


JUDGES = {"trees": lambda pool: detection.trees(pool, (0, 1)), "kernels": detection.kernels}


@pytest.mark.parametrize("judge", JUDGES)
def test_the_interval_of_equal_distributions_holds_a_half(judge, quick):
    pool, pair, blocks = pooled(walks(600, 0), walks(700, 1))
    runs = detection.detection_runs(JUDGES[judge](pool), [pair] * 4, blocks)
    mean, half = detection.accuracies(runs).mean(), detection.half_width(runs)
    assert abs(mean - 0.5) < half
    # 600 + 700 windows, each asked about: √(¼ / 1300) · 1.96 = .027 where answers are independent.
    assert 0.02 < half < 0.06


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("wrong", ["shifted", "noisy", "reversed features"])
def test_what_is_wrong_is_told_apart(judge, wrong, quick):
    real, fake = walks(600, 0), walks(600, 1, noise=1.0 if wrong == "noisy" else 0.0)
    real[..., 1] *= 3
    fake[..., 1] *= 3
    if wrong == "shifted":
        fake += 100
    if wrong == "reversed features":
        fake = fake[:, :, ::-1]
    pool, pair, blocks = pooled(real, fake)
    runs = detection.detection_runs(JUDGES[judge](pool), [pair], blocks)
    assert detection.accuracies(runs)[0] > (0.999 if wrong == "shifted" else 0.8)


def test_an_accuracy_is_a_count_and_both_sets_weigh_the_same():
    """Of a judge that knows its rows: right on every real window, on half of the others."""
    blocks = np.arange(160)

    def fit(rows, labels, seed):
        assert sorted(set(labels)) == [0, 1]
        assert labels.sum() == len(labels) / 2
        return lambda asked: np.where(asked < 80, 0.0, asked % 2)

    runs = detection.detection_runs(fit, [(np.arange(80), np.arange(80, 160))] * 50, blocks)
    assert detection.accuracies(runs).mean() == pytest.approx(0.75, abs=0.02)
    right = np.concatenate([run.right[1] for run in runs])
    independent = np.sqrt(right.mean() * (1 - right.mean()) / 80 / 4)
    # 80 windows asked about again and again are no more than 80; t(.975; 79) = 1.990.
    assert detection.half_width(runs) == pytest.approx(1.990 * independent, rel=0.1)


def test_windows_of_a_series_are_blocks_of_time_that_share_no_rows():
    time = 10
    for stride in (1, 3):
        rows = np.random.default_rng(0).normal(size=(1_500, 2))
        windows = series_windows(rows, time, stride)
        blocks = detection.time_blocks(windows)
        starts = np.arange(len(windows)) * stride
        held = [set() for _ in range(blocks.max() + 1)]
        for start, block in zip(starts, blocks, strict=True):
            if block >= 0:
                held[block] |= set(range(start, start + time))
        assert len(held) == detection.BLOCKS
        for one, two in itertools.combinations(held, 2):
            assert not one & two
        # What is left out at a border is no more than it must be.
        assert (blocks < 0).sum() == 19 * np.ceil((time - 1) / stride)


def test_windows_that_share_no_rows_are_blocks_of_their_own():
    windows = walks(50, 0)
    np.testing.assert_array_equal(detection.time_blocks(windows), np.arange(50))
    np.testing.assert_array_equal(detection.time_blocks(windows[:, :1]), np.arange(50))
    apart = series_windows(np.random.default_rng(0).normal(size=(600, 2)), 12, stride=12)
    np.testing.assert_array_equal(detection.time_blocks(apart), np.arange(50))


def test_a_judge_is_never_asked_about_rows_that_it_was_fitted_on():
    rows = np.random.default_rng(0).normal(size=(700, 1))
    real = series_windows(rows, 8)
    pool, pair, blocks = pooled(real, walks(400, 1, time=8, features=1))
    # Real against itself, too, as the floor of a series without other windows.
    half = np.random.default_rng(1).permutation(len(real))
    for one, two in (pair, (half[:300], half[300:600])):
        known, asked = detection.separate((one, two), blocks, np.random.default_rng(2))
        assert len({len(side) for side in known}) == len({len(side) for side in asked}) == 1
        flat = [set(pool[np.concatenate(part)].ravel().tolist()) for part in (known, asked)]
        assert not flat[0] & flat[1]


def test_repeated_training_windows_are_never_told_apart_and_said_to_be_close(quick):
    """A judge of likeness passes them; that it errs more often than by chance says why."""
    real = walks(400, 0)
    pool, pair, blocks = pooled(real, real[np.random.default_rng(1).permutation(400)])
    runs = detection.detection_runs(detection.trees(pool, (0, 1)), [pair] * 3, blocks)
    assert detection.accuracies(runs).max() < 0.5
    views = detection.by_view(pool, [pair], [pair], blocks)
    found = detection.given_away(pool, ("a", "b"), pair, blocks, views)
    assert found == {"given_away": detection.CLOSE}


def test_stages_are_judged_on_windows_of_other_blocks(quick):
    """What is all but the original is a toss-up, though judges saw originals; noise is told."""
    real = walks(500, 0)
    noise = np.random.default_rng(1).normal(size=real.shape)
    made = {"same": real.copy(), "close": real + 1e-9 * noise, "noisy": real + noise}
    found = detection.by_stage(real, made)
    assert set(found) == set(made)
    for name in ("values", "changes", "second_differences"):
        assert found["same"][name]["mean"] == 0.5
        # 2 x 500 answers: a deviation of .016, and copies that tell of each other.
        assert found["close"][name]["mean"] == pytest.approx(0.5, abs=0.06)
    assert found["noisy"]["second_differences"]["mean"] > 0.8
    assert detection.by_stage(real[:30], {"same": real[:30]}) == {}


def test_differences_are_numpys_and_a_spread():
    windows = walks(5, 0)
    np.testing.assert_array_equal(detection.differences(windows, 0), windows.reshape(5, -1))
    changes = windows[:, 1:] - windows[:, :-1]
    np.testing.assert_array_equal(detection.differences(windows, 1), changes.reshape(5, -1))
    second = windows[:, 2:] - 2 * windows[:, 1:-1] + windows[:, :-2]
    found = detection.differences(windows, 2)
    np.testing.assert_allclose(found[:, :-2], second.reshape(5, -1), atol=1e-12)
    np.testing.assert_allclose(found[:, -2:], second.std(axis=1), atol=1e-12)


@pytest.mark.parametrize("columns", [8, 90])  # fewer than rows, and more
def test_ridge_is_the_closed_form_whose_left_out_error_is_least(columns):
    random = np.random.default_rng(0)
    x = random.normal(size=(60, columns))
    x -= x.mean(axis=0)
    y = (x[:, 0] + random.normal(size=60) > 0).astype(float)
    weights, offset = detection._ridge(x, y)
    errors = {}
    for strength in detection.RIDGES:
        errors[strength] = 0.0
        for i in range(60):
            kept = np.arange(60) != i
            design = np.column_stack([x[kept], np.ones(59)])
            penalty = np.diag([strength] * columns + [0])
            solved = np.linalg.solve(design.T @ design + penalty, design.T @ y[kept])
            errors[strength] += (np.append(x[i], 1) @ solved - y[i]) ** 2
    best = min(errors, key=lambda strength: errors[strength])
    expected = np.linalg.solve(x.T @ x + best * np.eye(columns), x.T @ (y - y.mean()))
    np.testing.assert_allclose(weights, expected, rtol=1e-6, atol=1e-9)
    assert offset == pytest.approx(y.mean())


def test_kernels_are_correlations_and_their_descriptions_shares(monkeypatch):
    monkeypatch.setattr(convolutions, "KERNELS", 6)
    windows = walks(7, 0, time=20, features=3).astype(np.float32)
    banks = convolutions.draw(windows, seed=3)
    assert [bank.dilation for bank in banks] == [1, 2]
    found = convolutions.describe(windows, banks)
    place = 0
    for bank in banks:
        taps, _, count = bank.weights.shape
        for threshold in range(convolutions.THRESHOLDS):
            for k in range(count):
                wide = np.zeros(((taps - 1) * bank.dilation + 1, 3))
                wide[:: bank.dilation] = bank.weights[:, :, k]
                for i, window in enumerate(windows):
                    output = signal.correlate(window, wide, mode="valid")[:, 0]
                    share = (output > bank.thresholds[k, threshold]).mean()
                    assert found[i, place] == pytest.approx(share, abs=1 / len(output) + 1e-6)
                place += 1
    assert place == found.shape[1] == 12
    one = convolutions.describe(windows[:, :1], convolutions.draw(windows[:, :1]))
    assert np.isfinite(one).all()


def test_a_feature_and_a_lag_are_named(quick):
    real, fake = walks(600, 0, features=3), walks(600, 1, features=3)
    fake[:, :, 1] += 2.0 * (-1.0) ** np.arange(12)  # a saw, which changes show best
    pool, pair, blocks = pooled(real, fake)
    views = detection.by_view(pool, [pair], [(pair[0][:300], pair[0][300:])], blocks)
    assert set(views) == {"values", "changes", "second_differences"}
    found = detection.given_away(pool, ("a", "b", "c"), pair, blocks, views)
    assert found["given_away"].startswith("Given away by ")
    assert "differences" in found["given_away"] or "changes" in found["given_away"]
    assert "'b'" in found["given_away"]
    assert max(found["features"], key=found["features"].get) == "b"
    fair = {name: dict(view, mean=0.5) for name, view in views.items()}
    text = detection.given_away(pool, ("a", "b", "c"), pair, blocks, fair)["given_away"]
    assert text == "Nothing gives the synthetic windows away."


SIZES = suite.Evaluators(2, 2, 2, 1)


@pytest.fixture
def judges_alone(monkeypatch):
    """The suite without what trains for long."""
    skipped = {"skipped": "not looked at"}
    for name in ("discriminative", "predictive", "context_fid"):
        left_out = plan.Plan((), lambda _, name=name: {name: skipped})
        monkeypatch.setattr(suite, f"_{name}", lambda _, left_out=left_out: left_out)


def test_the_suite_has_both_judges_and_says_what_gave_windows_away(quick, judges_alone):
    real, noisy = walks(160, 0), walks(160, 1, noise=2.0)
    columns = ("left", "right")
    scores = evaluation.evaluate(real, noisy, columns, fresh=walks(160, 2), evaluators=SIZES)
    evaluation.check(scores)
    for name in judges.MEANINGS:
        entry = scores["scores"][name]
        assert not entry["published"]
        assert entry["mean"] > 0.7
        assert len(entry["runs"]) == len(entry["floor"]["runs"]) == 2
        assert abs(entry["floor"]["mean"] - 0.5) < 0.15
        assert entry["ceilings"]["shuffled"]["mean"] > 0.6
        assert 0 < entry["half_width"] < 0.2
    detected = scores["scores"]["detection"]
    assert set(detected["by_view"]) == set(detection.VIEWS)
    assert detected["given_away"] in evaluation.table(scores)
    again = evaluation.evaluate(real, noisy, columns, fresh=walks(160, 2), evaluators=SIZES)
    assert again["scores"]["detection"] == detected


def test_too_few_windows_are_skipped(judges_alone):
    real = series_windows(np.random.default_rng(0).normal(size=(40, 2)), 12)
    found = suite.score(real, walks(60, 1), ("a", "b"), evaluators=SIZES)["scores"]
    for name in judges.MEANINGS:
        assert found[name]["skipped"] == "needs more windows that share no rows"
