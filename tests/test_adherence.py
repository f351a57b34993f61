"""Whether samples keep to what they are asked for, on made-up windows whose answers are known."""

import copy
import dataclasses
import html
import json
import pathlib

import numpy as np
import pandas as pd
import pytest
from etils import epath
from quick import SMALL
from scipy import stats

from timeldm_jax import TimeLDM, reconstruction, results
from timeldm_jax import config as configuration
from timeldm_jax.data import proposals, table
from timeldm_jax.data.rules import Rule
from timeldm_jax.data.schema import features
from timeldm_jax.data.start_times import StartTimes
from timeldm_jax.data.table import Options
from timeldm_jax.errors import DataError
from timeldm_jax.metrics import adherence, calendar, evaluation, plan, recovery
from timeldm_jax.metrics.adherence import Part, Parts
from timeldm_jax.report import figures, page

TIME = 12


def panel(series=40, rows=24, seed=0):
    """Hourly series whose level is that of the kind plus a part that goes with the age."""
    random = np.random.default_rng(seed)
    hours = pd.date_range("2024-01-01", periods=rows, freq="h")
    parts = []
    for i in range(series):
        kind, age = ["low", "high"][i % 2], int(random.integers(20, 80))
        x = {"low": 0.0, "high": 4.0}[kind] + age / 20 + 0.3 * random.normal(size=rows)
        known = {"kind": kind, "age": age, "sex": "fm"[int(random.integers(2))]}
        top = (x + random.exponential(size=rows)).round(2)
        values = {"x": x.round(2), "top": top}
        parts.append(pd.DataFrame({"time": hours, "who": f"p{i:02d}", **known, **values}))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def schema():
    found = table.prepare(panel(), "it", Options(entity="who"))[1]
    starts = StartTimes(TIME, 0, 12, 0, (), ("day",), (), (), (), leads=True)
    return dataclasses.replace(found, starts=starts, rules=(Rule("above", "top", ("x",)),))


def cut(frame, schema):
    """Windows one after the other in each series, with steps and the number of the series."""
    encoded = table.encode(frame, schema)
    rows = frame.groupby("who").ngroup().to_numpy()
    starts = [i for i in range(0, len(frame) - TIME + 1, TIME) if rows[i] == rows[i + TIME - 1]]
    place = np.array(starts)[:, None] + np.arange(TIME)
    steps = np.round(encoded.clock).astype(int)
    return Part(encoded.values[place], steps[place], rows[place[:, 0]])


def places(schema):
    return {feature.name: place for place, feature in enumerate(features(schema))}


@pytest.fixture(scope="module")
def parts(schema):
    training, held_out, other = (cut(panel(series=n, seed=s), schema) for n, s in
                                 ((120, 1), (60, 2), (60, 3)))  # fmt: skip
    sampled = other._replace(series=np.arange(len(other.windows)))
    return Parts(training, held_out, sampled, obedient(held_out.windows, schema))


def obedient(windows, schema, seed=4):
    """Windows of the same static columns with values of their own, as the panel makes them."""
    random, at = np.random.default_rng(seed), places(schema)
    found = windows.copy()
    level = 4.0 * windows[:, :1, at["kind=high"]] + windows[:, :1, at["age"]] / 20
    found[..., at["x"]] = level + 0.3 * random.normal(size=windows.shape[:2])
    found[..., at["top"]] = found[..., at["x"]] + random.exponential(size=windows.shape[:2])
    return found


def test_labels_that_are_obeyed_are_found_again_as_in_real_windows(parts, schema):
    found = adherence.adherence(parts, schema, 3)["labels"]
    assert set(found) == {"kind", "age", "sex"}
    kind, age, sex = found["kind"], found["age"], found["sex"]
    assert (kind["kind"], age["kind"]) == ("words", "number")
    assert kind["chance"] == pytest.approx(0.5, abs=0.05)
    # Levels of the kinds are 4 apart and those of ages reach over 3: nearly all can be told.
    assert kind["real"]["mean"] > 0.9
    for entry in (kind, age):
        assert entry["tells"]
        assert entry["as_real"]
        assert entry["obeyed"] == pytest.approx(1, abs=0.15)
    # Nothing shows the sex: nothing can be said.
    assert not sex["tells"]
    assert sex["obeyed"] is None


def test_labels_that_are_ignored_are_found_again_by_chance(parts, schema):
    order = np.random.default_rng(5).permutation(len(parts.asked))
    at, asked = places(schema), parts.asked.copy()
    for name in ("x", "top"):
        asked[..., at[name]] = asked[order][..., at[name]]
    found = adherence.adherence(parts._replace(asked=asked), schema, 3)["labels"]
    # Four standard errors of a share of 120 windows about a half.
    assert found["kind"]["sampled"]["mean"] == pytest.approx(0.5, abs=4 * 0.5 / 120**0.5)
    assert not found["kind"]["as_real"]
    assert found["kind"]["obeyed"] < 0.4
    assert found["age"]["sampled"]["mean"] < 0.2 < found["age"]["real"]["mean"]
    assert not found["age"]["as_real"]


def test_each_label_has_scores_of_its_own(parts, schema):
    """Samples of one label that is drawn too narrow show it there alone."""
    at, asked = places(schema), np.tile(parts.asked, (2, 1, 1))
    held_out = parts.held_out._replace(
        windows=np.tile(parts.held_out.windows, (2, 1, 1)),
        series=np.tile(parts.held_out.series, 2),
    )
    narrow = asked[:, 0, at["kind=low"]] == 1
    asked[narrow, :, at["x"]] += 6.0
    label = recovery.labels(schema, parts.training.windows)[0]
    assert label.name == "kind"
    compared = recovery.Asked(
        parts.training.windows, held_out.windows, asked, held_out.series, parts.training.series
    )
    found = recovery.by_label(label, compared, recovery.moving(schema), 0)
    assert set(found) == {"low", "high"}
    for entry in found.values():
        assert entry["windows"] == 120
        assert entry["autocorrelation"]["floor"] < 0.2
    assert found["low"]["wasserstein"]["mean"] > 5 * found["low"]["wasserstein"]["floor"]
    assert found["high"]["wasserstein"]["mean"] < 2 * found["high"]["wasserstein"]["floor"]
    assert found["low"]["detection"]["mean"] > 0.9 > found["high"]["detection"]["mean"]


def test_an_interval_counts_series_not_windows():
    """Windows of a series that are all alike are one: t of that many series."""
    values = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    series = np.repeat(np.arange(5), 20)
    expected = stats.t.ppf(0.975, 4) * values.std(ddof=1) / 5**0.5
    assert recovery.half_width(np.repeat(values, 20), series) == pytest.approx(expected)
    alone = np.random.default_rng(0).normal(size=400)
    expected = stats.t.ppf(0.975, 399) * alone.std(ddof=1) / 400**0.5
    assert recovery.half_width(alone, np.arange(400)) == pytest.approx(expected, rel=1e-9)


def test_windows_are_described_whatever_their_phase_and_gaps():
    time = np.arange(24)
    wave = np.sin(2 * np.pi * time / 6)
    found = recovery.describe(np.stack([3 + 2 * wave, 3 + 2 * np.roll(wave, 2)])[..., None])
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    np.testing.assert_allclose(found[0][:4], [3, 2**0.5, 3 - 3**0.5, 3 + 3**0.5], atol=1e-9)
    holes = np.full((2, 4, 1), np.nan)
    holes[0, 1:3, 0] = [1.0, 3.0]
    found = recovery.describe(holes)
    np.testing.assert_allclose(found[0, :5], [2, 1, 1, 3, 2])
    assert np.isnan(found[1, :6]).all()
    assert recovery.describe(np.ones((3, 1, 2))).shape[0] == 3


def hourly(days, shift=0, step=1, start="2023-01-01"):
    """A clock, and rows of a wave of the day, ahead by `shift` hours, and of one of the year."""
    frame = pd.DataFrame({"t": pd.date_range(start, periods=24 * days // step, freq=f"{step}h")})
    hours = (frame["t"].dt.hour + shift) * 2 * np.pi / 24
    frame["x"] = 10 + 3 * np.sin(hours)
    frame["y"] = np.cos(frame["t"].dt.day_of_year * 2 * np.pi / 365)
    clock = table.prepare(frame, "it", Options())[1].clock
    return frame, clock


@pytest.mark.parametrize("step", [1, 6])
def test_a_profile_that_is_three_hours_late_is_seen(step):
    frame, clock = hourly(400, step=step)
    late, _ = hourly(400, shift=3, step=step)
    steps = np.arange(len(frame))
    rows = {"training": (frame[["x", "y"]].to_numpy(), steps),
            "held_out": (frame[["x", "y"]].to_numpy()[:-24], steps[:-24])}  # fmt: skip
    late_rows = late[["x", "y"]].to_numpy()
    cycles = ("day", "week", "year")
    found = calendar.follow(rows | {"sampled": (late_rows, steps)}, ("x", "y"), clock, cycles)
    assert set(found) == {"hour", "weekday", "month"}
    by_hour = [each.groupby(each["t"].dt.hour)["x"].mean() for each in (frame, late)]
    expected = (by_hour[0] - by_hour[1]).abs() / frame["x"].std(ddof=0)
    assert found["hour"]["largest"] == pytest.approx(expected.max())
    # Of a wave that runs 45° ahead: a chord of 2·sin(22.5°), in deviations of a wave, 1/√2.
    assert found["hour"]["largest"] == pytest.approx(2 * np.sin(np.pi / 8) * 2**0.5, rel=0.08)
    assert found["hour"]["worst"] == "x"
    profile = found["hour"]["profiles"]["x"]
    assert [value for value in profile["real"] if value is not None] == pytest.approx(by_hour[0])
    assert len(profile["sampled"]) == 24
    assert found["hour"]["floor"]["largest"] < 0.02  # a day is missing
    for mark in ("weekday", "month"):  # of what does not depend on the hour nothing is off
        assert found[mark]["largest"] < 0.01
    same = calendar.follow(rows | {"sampled": rows["training"]}, ("x", "y"), clock, cycles)
    assert all(entry["largest"] == 0 for entry in same.values())


def test_marks_are_those_that_are_stamped():
    frame, clock = hourly(400, start="2022-05-03 07:00")
    steps = np.array([0, 5, 24 * 30, 9_000])
    times = frame["t"].iloc[steps].dt
    assert calendar.marks(clock, steps, "day").tolist() == times.hour.tolist()
    assert calendar.marks(clock, steps, "week").tolist() == times.day_of_week.tolist()
    assert calendar.marks(clock, steps, "year").tolist() == (times.month - 1).tolist()


def test_the_calendar_of_a_panel_is_measured_by_the_steps_of_windows(parts, schema):
    """A wave by the hour in all sets, and one that samples have three hours late."""
    at = places(schema)["x"]

    def waved(part, shift):
        windows = part.windows.copy()
        windows[..., at] = np.sin(2 * np.pi * (part.steps + shift) / 24)
        return part._replace(windows=windows)

    right = Parts(*(waved(part, 0) for part in parts[:3]), None)
    found = adherence.adherence(right, schema, 3)["calendar"]["hour"]
    assert found["profiles"]["x"]["real"] == pytest.approx(found["profiles"]["x"]["sampled"])
    late = right._replace(sampled=waved(parts.sampled, 3))
    found = adherence.adherence(late, schema, 3)["calendar"]["hour"]
    assert found["largest"] == pytest.approx(1.07, abs=0.02)
    assert found["worst"] == "x"


def test_a_broken_rule_is_counted(parts, schema):
    at, windows = places(schema), parts.sampled.windows.copy()
    rows = windows.shape[0] * windows.shape[1]
    windows[3, 4:6, at["top"]] = windows[3, 4:6, at["x"]] - 0.01
    windows[5, 0, at["top"]] = np.nan
    found = adherence.kept(windows, schema)
    assert found == {"x <= top": pytest.approx(1 - 2 / (rows - 1))}
    assert adherence.kept(parts.sampled.windows, schema) == {"x <= top": 1.0}
    broken = parts._replace(sampled=parts.sampled._replace(windows=windows))
    said = adherence.adherence(broken, schema, 0)
    assert said["said"] == [f"The rule is kept in {100 * found['x <= top']:.2f}% of rows."]
    assert (said["labels"], said["calendar"], said["static"]) == ({}, {}, None)


def test_rules_that_real_rows_keep_are_proposed(parts, schema):
    """In the panel `top` is above `x`, and `kind` and `age` are each patient's own."""
    at, windows = places(schema), parts.sampled.windows.copy()
    windows[3, 4:6, at["top"]] = windows[3, 4:6, at["x"]] - 0.01
    rows = windows.shape[0] * windows.shape[1]
    free = dataclasses.replace(schema, rules=())
    broken = parts._replace(sampled=parts.sampled._replace(windows=windows))
    found = adherence.adherence(broken, free, 0, propose=True)
    assert found["proposed"]["x <= top"] == pytest.approx(1 - 2 / rows)
    texts = proposals.propose(panel(), free.shown(), panel().groupby("who").ngroup().to_numpy())
    assert set(texts) <= set(found["proposed"])  # fewer rows may keep more
    line = next(line for line in found["said"] if "'x <= top'" in line)
    assert '{"rules": ["x <= top"]}' in line
    assert f"{100 * (1 - 2 / rows):.2f}% of sampled rows" in line
    # What is declared is not proposed again, and what samples keep is not said.
    known = adherence.adherence(parts, schema, 0, propose=True)
    assert "x <= top" not in known["proposed"]
    assert not any("training window" in line for line in known["said"])
    assert "proposed" not in adherence.adherence(parts, schema, 0)


def test_words_that_fall_or_that_are_not_seen_together_are_counted(schema):
    """Of 40 rows, in windows of 4: numbers of words, none of which is missing."""
    at = places(schema)
    windows = np.zeros((10, 4, len(at)))
    windows[..., at["kind=high"]] = windows[..., at["sex=f"]] = 1.0
    windows[2, 1, [at["kind=high"], at["kind=low"]]] = 0.0, 1.0  # low, of which the next is high
    windows[3, 3, [at["sex=f"], at["sex=m"]]] = 0.0, 1.0
    numbers = {name: place for name, place in at.items() if name.startswith(("kind", "sex"))}
    assert list(numbers) == ["kind=high", "kind=low", "sex=f", "sex=m"]
    kept = (Rule("rises", "kind"), Rule("seen", "kind", ("sex",), ((0, 0), (1, 0))))
    found = adherence.kept(windows, dataclasses.replace(schema, rules=kept))
    assert found == {"kind never falls": 1 - 1 / 40, "kind, sex as seen": 1 - 1 / 40}


def test_static_columns_are_compared_as_they_are_distributed(parts, schema):
    at = places(schema)
    windows = parts.sampled.windows.copy()
    windows[:6, 3, at["age"]] += 1  # of 120 windows, six are not constant
    windows[..., at["kind=low"]], windows[..., at["kind=high"]] = 1.0, 0.0
    found = adherence.adherence(
        parts._replace(sampled=parts.sampled._replace(windows=windows)), schema, 3
    )["static"]
    assert found["constant"] == pytest.approx(1 - 6 / 120)
    # Half of the training windows are "high", and no sample is.
    assert found["columns"]["kind"]["distance"] == pytest.approx(0.5)
    assert found["columns"]["kind"]["floor"] == pytest.approx(0, abs=1e-9)
    ages = [part.windows[:, 0, at["age"]] for part in (parts.training, parts.sampled)]
    expected = stats.ks_2samp(*ages).statistic
    assert found["columns"]["age"]["distance"] == pytest.approx(expected)
    assert found["pairs"]["distance"] > 0.3 > found["pairs"]["floor"]


def test_columns_that_are_each_right_and_together_wrong_are_seen(parts, schema):
    """Total variation of two flags that agree always, where real ones are independent: a half."""
    one = np.array([[0, 0, 1, 1], [0, 1, 0, 1]])
    other = np.array([[0, 0, 1, 1], [0, 0, 1, 1]])
    assert adherence.variation(one, other) == pytest.approx(0.5)
    assert adherence.variation(one[:1], other[:1]) == 0
    assert adherence.variation(one, np.array([[2], [3]])) == 1
    missing = np.array([[0, 0, 1, 1, 0], [0, 1, 0, 1, -1]])
    assert adherence.variation(one, missing) == 0


def test_rows_after_the_end_of_a_series_do_not_count(parts, schema):
    padded = dataclasses.replace(schema, padded=True)
    there = np.ones((*parts.sampled.windows.shape[:2], 1))
    there[:, 8:] = 0
    windows = np.concatenate([parts.sampled.windows, there], axis=2)
    windows[:, 8:, places(schema)["top"]] = -99.0
    windows[:, 8:, places(schema)["age"]] = 1.0

    def with_ends(part):
        ones = np.ones((*part.windows.shape[:2], 1))
        return part._replace(windows=np.concatenate([part.windows, ones], axis=2))

    short = Parts(
        with_ends(parts.training), with_ends(parts.held_out),
        parts.sampled._replace(windows=windows), None,
    )  # fmt: skip
    found = adherence.adherence(short, padded, 3)
    assert found["rules"] == {"x <= top": 1.0}
    assert found["static"]["constant"] == 1.0


def test_where_nothing_is_held_out_halves_share_no_row():
    starts, random = np.arange(100), np.random.default_rng(0)
    one, two = adherence.halves(starts, np.zeros(100, int), 12, random)
    assert one.max() + 12 <= two.min()
    assert min(len(one), len(two)) > 30
    groups = np.repeat(np.arange(4), 25)
    one, two = adherence.halves(starts, groups, 12, random)
    assert len(set(groups[one])) == len(set(groups[two])) == 2
    assert not set(groups[one]) & set(groups[two])
    assert len(one) + len(two) == 100


def test_windows_are_asked_for_where_there_is_something_to_ask_for(schema):
    assert adherence.asked_windows(schema, 3, 5_000, 9_000) == adherence.ASKED
    assert adherence.asked_windows(schema, 3, 200, 90) == 90
    assert adherence.asked_windows(schema, 0, 200, 90) == 0


GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def scores(parts, schema):
    """Scores of an earlier version, with an adherence beside them."""
    known = json.loads((GOLDEN / "model_8ed8097/model/scores.json").read_text())
    found = adherence.adherence(parts, schema, 3)
    return known | {"adherence": json.loads(json.dumps(found))}


def test_scores_with_it_are_checked_as_the_others_are(scores):
    assert evaluation.check(scores) is scores
    assert scores["adherence"]["said"] == evaluation.table(scores).split("\n")[-6:]
    for path, value in (
        (("said",), ["x", 3]),
        (("labels", "kind", "real", "mean"), "0.9"),
        (("labels", "kind", "obeyed"), "all"),
        (("calendar", "hour", "floor"), {}),
        (("calendar", "hour", "profiles", "x", "real"), [1.0, "two"]),
        (("static", "constant"), None),
        (("rules", "x <= top"), "all"),
    ):
        damaged = copy.deepcopy(scores)
        node = damaged["adherence"]
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        with pytest.raises(DataError, match=f"adherence.{path[0]}"):
            evaluation.check(damaged)


def test_the_page_says_it_in_words(scores, tmp_path):
    scores = copy.deepcopy(scores)
    labels = scores["adherence"]["labels"]
    labels["<script>alert(1)</script>"] = labels.pop("kind")
    path = epath.Path(tmp_path) / "report.html"
    page.write_scores(path, scores, configuration.base().to_dict())
    text = path.read_text()
    words = html.unescape(text)
    assert "<h2>Adherence</h2>" in text
    assert "x &lt;= top" in text
    assert "<script" not in text
    assert "samples show it as real windows do" in text
    for line in scores["adherence"]["said"]:
        assert line in words
    del scores["adherence"]
    page.write_scores(path, scores, configuration.base().to_dict())
    assert "Adherence" not in path.read_text()


def test_hours_are_drawn_where_there_are_rows():
    times = {"real": [None, 1.0, None, 3.0], "sampled": [None, 2.0, None, None]}
    picture = page._calendar_pictures({"hour": {"profiles": {"a$b": times}}})[0]
    assert picture.name == "by_hour"
    lines = picture.draw().axes[0].lines
    np.testing.assert_array_equal([line.get_xdata() for line in lines], [[1, 3]] * 2)
    np.testing.assert_array_equal([line.get_ydata() for line in lines], [[1, 3], [2, np.nan]])
    months = figures.profile_figure({"x": {"real": [1.0] * 12, "sampled": [2.0] * 12}}, "month")
    assert months.axes[0].lines[0].get_xdata().tolist() == list(range(1, 13))


def small(**changes):
    config = configuration.base()
    configuration.apply_table(config)
    steps = {"data.window": TIME, "data.stride": 1, "data.split": "entity", "sample.count": 60}
    config.update_from_flattened_dict(SMALL | steps | changes)
    return config


@pytest.mark.training
def test_a_trained_model_is_scored_by_it(monkeypatch):
    """The other scores, which take minutes, are left out."""
    given = {"rules": ["x <= top"]}
    fitted = TimeLDM(config=small()).fit(panel(30), entity="who", schema=given)
    for module in (evaluation, reconstruction):
        nothing = plan.Plan((), lambda _: {})
        monkeypatch.setattr(module, "planned", lambda *_, nothing=nothing, **__: nothing)
    scores = fitted.evaluate(count=50)
    found = scores["adherence"]
    assert found["static"]["constant"] == 1.0
    assert found["rules"] == {"x <= top": 1.0}
    assert set(found["labels"]) == {"kind", "age", "sex"}
    assert found["labels"]["kind"]["windows"] == 50
    assert json.loads(json.dumps(scores)) == scores
    assert scores.pop("fingerprint") == fitted._dataset.series.fingerprint()
    generator, dataset = fitted.generator, fitted._dataset
    windows = np.concatenate(list(generator.sample(50, 0)))
    assert results.judge_adherence(generator, dataset, windows, 0, 0) == scores
    # Of a model without context rules are all there is, and without these they are proposed.
    denoiser = generator.models.denoiser.clone(context=0)
    models = dataclasses.replace(generator.models, denoiser=denoiser)
    blind = dataclasses.replace(generator, models=models)
    found = results.judge_adherence(blind, dataset, windows, 0, 0)["adherence"]
    assert (found["labels"], found["static"], found["calendar"]) == ({}, None, {})
    free = dataclasses.replace(blind, schema=dataclasses.replace(generator.schema, rules=()))
    found = results.judge_adherence(free, dataset, windows, 0, 0)["adherence"]
    assert (found["labels"], found["static"], found["rules"]) == ({}, None, {})
    assert found["proposed"]["x <= top"] == 1.0
