"""Splits, scaling and arrays of one's own: who may see which row, and in what unit."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeldm_jax.data import holdout
from timeldm_jax.data.arrays import check_array
from timeldm_jax.data.dataset import from_windows, make_dataset
from timeldm_jax.data.scaling import Scaler, fit_scaler
from timeldm_jax.data.series import (
    DeviceWindows,
    Series,
    gather,
    join_trajectories,
    split_series,
)
from timeldm_jax.errors import DataError

FEW = settings(max_examples=60, deadline=None)


def table(rows, features=2, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, features))


def split(rows, window, protocol, features=2):
    names = tuple(f"c{i}" for i in range(features))
    return split_series(table(rows, features), names, window, protocol)


def rows_of(series, starts):
    """The rows that windows cover, by walking through them."""
    return {row for start in starts for row in range(start, start + series.window)}


# Splits of one long series.


@FEW
@given(
    rows=st.integers(200, 3000),
    window=st.integers(2, 60),
    protocol=st.sampled_from(["heldout", "future"]),
)
def test_parts_share_no_row(rows, window, protocol):
    # Validation, the smallest part, is a twentieth of the rows: one block if need be.
    if round(0.05 * rows) < window:
        with pytest.raises(DataError, match=f"{rows} rows are too few for windows of {window}"):
            split(rows, window, protocol)
        return
    series = split(rows, window, protocol)
    parts = [series.train, series.valid, series.test]
    for starts in parts:
        assert starts.dtype == np.int32
        assert (np.diff(starts) > 0).all()
        assert starts[0] >= 0
        assert starts[-1] <= rows - window
    train, valid, test = (rows_of(series, starts) for starts in parts)
    assert not train & valid
    assert not train & test
    assert not valid & test


@FEW
@given(
    rows=st.integers(1500, 6000),
    window=st.integers(2, 12),
    protocol=st.sampled_from(["heldout", "future"]),
)
def test_a_fifth_of_the_rows_tests_and_a_twentieth_validates(rows, window, protocol):
    series = split(rows, window, protocol)
    share = {
        name: len(rows_of(series, starts)) / rows
        for name, starts in (("valid", series.valid), ("test", series.test))
    }
    # Blocks are whole numbers of rows: at most one row of each of 10 or 5 is lost.
    assert share["test"] == pytest.approx(0.2, abs=11 / rows)
    assert share["valid"] == pytest.approx(0.05, abs=6 / rows)
    # Nothing else is withheld from training but the windows that would cross a border.
    assert share["test"] + share["valid"] + len(rows_of(series, series.train)) / rows == (
        pytest.approx(1, abs=17 * window / rows)
    )


@pytest.mark.parametrize("window", [2, 24])
def test_heldout_blocks_are_spread_over_time(window):
    rows = 5000
    series = split(rows, window, "heldout")
    test = np.array(sorted(rows_of(series, series.test)))
    in_tenths = np.histogram(test, bins=10, range=(0, rows))[0]
    assert (in_tenths == rows // 50).all()
    valid = np.array(sorted(rows_of(series, series.valid)))
    in_fifths = np.histogram(valid, bins=5, range=(0, rows))[0]
    assert (in_fifths == rows // 100).all()


@pytest.mark.parametrize("protocol", ["heldout", "future"])
def test_between_parts_lies_a_gap_of_a_window_less_one(protocol):
    window = 24
    series = split(5000, window, protocol)
    part = np.full(5000, -1)
    for number, starts in enumerate((series.train, series.valid, series.test)):
        part[starts] = number
    borders = [
        (a, b)
        for a, b in zip(np.flatnonzero(part >= 0), np.flatnonzero(part >= 0)[1:], strict=False)
        if part[a] != part[b]
    ]
    assert len(borders) == (30 if protocol == "heldout" else 11)
    for last, first in borders:
        # `window - 1` starts between them are in no part: their windows would cross the border.
        assert first - last - 1 == window - 1


def marked_row_by_row(times, window, protocol):
    """The parts of a timeline, by an array of all its times."""

    def mark(part, number, blocks, total):
        for share in np.array_split(np.flatnonzero(part == 0), blocks):
            first = (len(share) - total // blocks) // 2
            part[share[first : first + total // blocks]] = number

    part, validate = np.zeros(times, int), round(times * 0.05)
    blocks, before = max(1, min(5, validate // window)), times
    if protocol == "future":
        before = times - round(times * 0.2)
        part[before:] = 1
    else:
        mark(part, 1, 2 * blocks, round(times * 0.2))
    mark(part[:before], 2, blocks, validate)
    return part


@pytest.mark.parametrize("protocol", ["heldout", "future"])
def test_stretches_of_a_timeline_are_the_blocks_of_its_rows(protocol):
    for times in [*range(1, 130), 1234, 9999]:
        for window in (2, 24):
            found = holdout.blocks_of_time(times, window, protocol)
            assert np.array_equal(found.of_each(), marked_row_by_row(times, window, protocol))
            assert len(found.part) < 40


def test_future_tests_on_the_last_fifth():
    series = split(1000, 10, "future")
    np.testing.assert_array_equal(series.test, np.arange(800, 991))
    assert max(series.train.max(), series.valid.max()) == 790


@FEW
@given(rows=st.integers(10, 4000), window=st.integers(2, 10))
def test_paper_trains_and_tests_on_every_window(rows, window):
    series = split(rows, window, "paper")
    every = np.arange(rows - window + 1)
    np.testing.assert_array_equal(series.train, every)
    np.testing.assert_array_equal(series.test, every)
    assert set(series.valid) <= set(every)
    assert len(series.valid) == min(1024, len(every))
    assert (series.valid[0], series.valid[-1]) == (0, every[-1])


@pytest.mark.parametrize("protocol", ["paper", "heldout", "future"])
def test_fewer_rows_than_a_window(protocol):
    with pytest.raises(DataError, match="has 7 rows, fewer than one window of 8"):
        split(7, 8, protocol)


def test_too_few_rows_for_the_blocks_says_what_each_part_would_get():
    with pytest.raises(DataError, match=r"100 rows are too few for windows of 24 .*'paper'"):
        split(100, 24, "heldout")


def test_unknown_protocol():
    with pytest.raises(DataError, match="'papre' is not one of paper, heldout, future"):
        split(100, 8, "papre")


# Simulated sets.


def trajectories(protocol, window=4):
    draws = [np.random.default_rng(i).normal(size=(n, window, 2)) for i, n in enumerate((6, 3, 5))]
    return draws, join_trajectories(*draws, ("a", "b"), protocol)


def test_simulated_windows_come_back_whole():
    (train, valid, test), series = trajectories("heldout")
    np.testing.assert_array_equal(series.windows(series.train), train)
    np.testing.assert_array_equal(series.windows(series.valid), valid)
    np.testing.assert_array_equal(series.windows(series.test), test)
    np.testing.assert_array_equal(series.training_rows(), train.reshape(-1, 2))


def test_the_paper_scores_simulated_sets_against_the_training_draws():
    (train, valid, _), series = trajectories("paper")
    np.testing.assert_array_equal(series.windows(series.train), train)
    np.testing.assert_array_equal(series.windows(series.test), train)
    np.testing.assert_array_equal(series.windows(series.valid), valid)


def test_simulated_sets_have_no_future():
    with pytest.raises(DataError, match="'future' needs one series in time"):
        trajectories("future")


# Scaling.


@pytest.mark.parametrize("protocol", ["heldout", "future"])
def test_the_scaler_sees_training_rows_only(protocol):
    values = table(3000)
    series = split_series(values, ("a", "b"), 12, protocol)
    train = np.array(sorted(rows_of(series, series.train)))
    np.testing.assert_array_equal(series.training_rows(), values[train])
    scaler = make_dataset(series).scaler
    assert scaler.low == tuple(values[train].min(axis=0))
    assert scaler.high == tuple(values[train].max(axis=0))
    changed = values.copy()
    others = np.setdiff1d(np.arange(len(values)), train)
    changed[others] = 1e6
    assert make_dataset(split_series(changed, ("a", "b"), 12, protocol)).scaler == scaler
    assert len(others) > 0.2 * len(values)


numbers = st.floats(-1e6, 1e6, width=64)


@FEW
@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=30), st.floats(-3, 3))
def test_unscale_inverts_scale(rows, outside):
    values = np.array(rows)
    if (np.ptp(values, axis=0) == 0).any():
        with pytest.raises(DataError, match="is constant"):
            fit_scaler(values, ("a", "b"))
        return
    scaler = fit_scaler(values, ("a", "b"))
    scaled = scaler.scale(values)
    assert scaled.min() == 0
    assert scaled.max() == 1
    # Rounding of float64 in [0, 1], in the column's unit, and of sums of the size of its ends.
    ends = np.abs(values).max(axis=0)
    tolerance = (np.ptp(values, axis=0) + 2 * ends) * 2.0**-51 + 1e-300
    assert (np.abs(scaler.unscale(scaled) - values) <= 1.01 * tolerance).all()
    # Nothing is cut off outside the training range.
    beyond = np.float32(outside)
    low, high = np.array(scaler.low), np.array(scaler.high)
    np.testing.assert_allclose(
        scaler.unscale(np.full((1, 2), beyond)),
        [low + float(beyond) * (high - low)],
        rtol=1e-6,
        atol=1e-44,
    )


def test_scale_of_known_numbers():
    scaler = Scaler((-2.0, 10.0), (2.0, 30.0))
    np.testing.assert_array_equal(
        scaler.scale(np.array([[-2, 30], [0, 15], [4, 10]])), [[0, 1], [0.5, 0.25], [1.5, 0]]
    )


def test_a_constant_column_is_named():
    values = table(50)
    values[:, 1] = 3.5
    with pytest.raises(DataError, match=r"column 'b' is constant \(3\.5\) in the training rows"):
        fit_scaler(values, ("a", "b"))


@pytest.mark.parametrize("offset", [1e9, 1e300])
def test_a_column_too_fine_for_float32_is_named(offset):
    values = table(50) * np.array([1, max(1, offset * 1e-12)]) + np.array([0, offset])
    with pytest.raises(DataError, match=r"column 'b' runs from .*; subtract an offset"):
        make_dataset(split_series(values, ("a", "b"), 4, "paper"))


# The device's view.


def test_gather_is_what_the_host_cuts():
    series = split(1000, 9, "heldout", features=3)
    index = np.array([0, 5, 5, len(series.train) - 1])
    data = DeviceWindows(jnp.asarray(series.values, jnp.float32), jnp.asarray(series.train))
    on_device = gather(data, jnp.asarray(index), 9)
    expected = [series.values[s : s + 9] for s in series.train[index]]
    np.testing.assert_array_equal(on_device, np.array(expected, np.float32))
    np.testing.assert_array_equal(series.windows(series.train[index]), expected)


# The fingerprint.


def variations(series):
    """The series with one thing changed, for each thing there is."""
    values = series.values.copy()
    values[3, 1] = np.nextafter(values[3, 1], np.inf)
    yield dataclasses.replace(series, values=values)
    yield dataclasses.replace(series, values=series.values[:-1])
    yield dataclasses.replace(series, columns=("c0", "d"))
    yield dataclasses.replace(series, window=series.window + 1)
    yield dataclasses.replace(series, train=series.train[1:])
    yield dataclasses.replace(series, valid=series.valid[::-1].copy())
    yield dataclasses.replace(series, test=series.test[:-1])
    # The same numbers in the same order, dealt to other parts.
    yield dataclasses.replace(
        series,
        train=series.train[:-1],
        valid=np.concatenate([series.train[-1:], series.valid]),
    )
    yield dataclasses.replace(
        series,
        valid=np.concatenate([series.valid, series.test[:1]]),
        test=series.test[1:],
    )


def test_any_change_shows_in_the_fingerprint():
    series = split(300, 5, "paper")
    prints = [series.fingerprint(), *(s.fingerprint() for s in variations(series))]
    assert len(set(prints)) == len(prints)
    assert split(300, 5, "paper").fingerprint() == prints[0]


def test_the_fingerprint_is_stable():
    # A resumed run compares with one written by an earlier process, perhaps an earlier version.
    series = Series(
        np.arange(6.0).reshape(3, 2),
        ("a", "b"),
        2,
        *(np.array(starts, np.int32) for starts in ([0], [1], [0, 1])),
    )
    assert (
        series.fingerprint() == "0d355f1f36a74ea6dc6d68efefd310b38a3851d6632b77c75cab12b4c37923f9"
    )


# Arrays of one's own.


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), r"shape \(5,\); expected \(rows, features\)"),
        (np.zeros((2, 3, 4, 5)), r"shape \(2, 3, 4, 5\)"),
        (np.float64(3), r"shape \(\)"),
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
        (np.zeros((5, 0)), r"shape \(5, 0\)"),
        (np.array([["a", "b"]] * 9), "dtype <U1; expected real numbers"),
        (np.array([[1, None]] * 9), "dtype object; expected real numbers"),
        (np.ones((9, 2)) * 1j, "dtype complex128; expected real numbers"),
        (np.ones((9, 2), bool), "dtype bool; expected real numbers"),
        (np.ones((9, 2), "m8[s]"), r"dtype timedelta64\[s\]; expected real numbers"),
    ],
)
def test_arrays_that_cannot_be_used(array, message):
    with pytest.raises(DataError, match=message):
        check_array(array, None)


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_the_first_value_that_is_not_finite_is_named(bad):
    values = table(30, 3)
    values[7, 1] = values[9, 2] = bad
    names = ("x", "y", "z")
    with pytest.raises(
        DataError, match=rf"'y' has {bad} at index \[1, 3\] \(2 such values in all\)"
    ):
        check_array(values[:28].reshape(7, 4, 3), names)
    with pytest.raises(DataError, match=rf"'y' has {bad} at index \[7\]"):
        check_array(values, names)


def test_names_must_match_the_features():
    with pytest.raises(DataError, match="1 column names for 2 features"):
        check_array(table(9), ("a",))
    with pytest.raises(DataError, match="two columns are called 'a'"):
        check_array(table(9), ("a", "a"))
    values, names = check_array(table(9).astype(np.float32), np.array(["a", "b"]))
    assert values.dtype == np.float64
    assert names == ("a", "b")
    assert {type(name) for name in names} == {str}
    assert check_array(table(9), None)[1] == ("feature_0", "feature_1")


@pytest.mark.parametrize("protocol", ["paper", "heldout"])
def test_windows_of_ones_own(protocol):
    windows = np.random.default_rng(1).normal(size=(40, 6, 2))
    series = from_windows(windows, ("a", "b"), protocol).series
    assert series.window == 6
    parts = [series.windows(s) for s in (series.train, series.valid, series.test)]
    numbers = [{int(np.flatnonzero((windows == w).all((1, 2)))[0]) for w in p} for p in parts]
    train, valid, test = numbers
    assert [len(p) for p in parts] == [len(n) for n in numbers]  # no window twice in a part
    if protocol == "paper":
        assert train == test == set(range(40))
        assert len(valid) == 4
    else:
        assert [len(n) for n in numbers] == [28, 4, 8]
        assert train | valid | test == set(range(40))  # and so disjoint


def test_too_few_windows_of_ones_own():
    with pytest.raises(DataError, match="9 windows are too few; at least 10"):
        from_windows(np.random.default_rng(0).normal(size=(9, 6, 2)), ("a", "b"), "paper")
    with pytest.raises(DataError, match="'future' needs one series in time"):
        from_windows(np.random.default_rng(0).normal(size=(20, 6, 2)), ("a", "b"), "future")


def panel_rows(series, rows):
    groups = np.repeat(np.arange(series), rows)
    clock = np.tile(np.arange(rows, dtype=float), series)
    return np.arange(series * rows, dtype=float)[:, None], groups, clock


@pytest.mark.parametrize(
    ("series", "rows", "window"), [(500, 24, 24), (200, 100, 24), (60, 30, 12)]
)
def test_series_that_share_a_short_clock_are_held_out_whole(series, rows, window):
    """As by entity, where no block of time of a fifth or a twentieth holds a window."""
    values, groups, clock = panel_rows(series, rows)
    found, whole = (
        split_series(values, ("x",), window, "heldout", groups=groups, clock=clock, by=by)
        for by in ("auto", "entity")
    )
    with pytest.raises(DataError, match="too few"):
        split_series(values, ("x",), window, "heldout", groups=groups, clock=clock, by="time")
    for part in ("train", "valid", "test"):
        np.testing.assert_array_equal(getattr(found, part), getattr(whole, part))
    held = [set(groups[getattr(found, part)]) for part in ("train", "valid", "test")]
    assert not held[0] & held[1]
    assert not held[0] & held[2]
    assert not held[1] & held[2]


def test_blocks_of_time_are_held_out_where_they_hold_windows():
    values, groups, clock = panel_rows(5, 2000)
    found, by_time = (
        split_series(values, ("x",), 24, "heldout", groups=groups, clock=clock, by=by)
        for by in ("auto", "time")
    )
    np.testing.assert_array_equal(found.test, by_time.test)


def test_one_short_series_is_not_held_out_whole():
    with pytest.raises(DataError, match="too few"):
        split_series(np.arange(30.0)[:, None], ("x",), 24, "heldout", by="auto")
