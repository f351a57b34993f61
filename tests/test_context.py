"""Samples are asked for by static columns and times: what is asked, and that it is obeyed."""

import copy
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from etils import epath
from quick import SMALL

from timeldm_jax import TimeLDM, convert, experiment, forecast, latents, sample
from timeldm_jax import asked as asking
from timeldm_jax import config as configuration
from timeldm_jax.asked import Asked
from timeldm_jax.data import clock as clocks
from timeldm_jax.data import context, start_times, table
from timeldm_jax.data.scaling import Scaler
from timeldm_jax.data.schema import features
from timeldm_jax.data.start_times import StartTimes
from timeldm_jax.data.table import Options
from timeldm_jax.errors import ConfigError, DataError
from timeldm_jax.generator import Generator
from timeldm_jax.models.denoiser import Denoiser
from timeldm_jax.training import stages
from timeldm_jax.workdir import Workdir


def panel(series=24, rows=40, seed=0):
    """Hourly series: the level is that of the kind, and runs with the hour of the day."""
    random = np.random.default_rng(seed)
    hours = pd.date_range("2024-01-01", periods=rows, freq="h")
    parts = []
    for i in range(series):
        kind = ["low", "high"][i % 2]
        wave = np.sin(2 * np.pi * hours.hour / 24)
        level = {"low": 0.0, "high": 10.0}[kind] + wave + 0.1 * random.normal(size=rows)
        known = {"kind": kind, "age": 20 + i, "level": level.round(3)}
        parts.append(pd.DataFrame({"time": hours, "who": f"p{i:02d}", **known}))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def schema():
    found = table.prepare(panel(), "it", Options(entity="who"))[1]
    starts = StartTimes(6, 0, 30, 0, (), ("day",), (), (), (), leads=True)
    return dataclasses.replace(found, starts=starts)


def scaler(schema):
    count = len(features(schema))
    return Scaler((0.0,) * count, (2.0,) * count)


def test_a_context_has_what_is_known_and_says_so(schema):
    names = [feature.name for feature in features(schema)]
    rows = np.full((3, len(names)), np.nan)
    rows[0, names.index("kind=high")], rows[0, names.index("kind=low")] = 1.0, 0.0
    rows[1, names.index("age")] = 30.0
    found = context.make(schema, scaler(schema), 3, rows=rows, steps=np.array([0, 6, 30]))
    assert context.numbers(schema) == found.values.shape[1] == 3 + 8
    assert found.part.tolist() == [0, 0, 1] + [2] * 8
    # Scaled by a range of 2; the order of columns is the table's.
    np.testing.assert_allclose(found.values[:, :3], [[0.5, 0, 0], [0, 0, 15.0], [0, 0, 0]])
    np.testing.assert_array_equal(found.known[:, :3], [[1, 1, 0], [0, 0, 1], [0, 0, 0]])
    angles = 2 * np.pi * np.array([0, 6, 6]) / 24
    expected = [wave(k * angles) for k in (1, 2, 3, 4) for wave in (np.sin, np.cos)]
    np.testing.assert_allclose(found.values[:, 3:], np.transpose(expected), atol=1e-6)
    assert found.known[:, 3:].all()
    blind = context.make(schema, scaler(schema), 2)
    assert not blind.known.any()
    assert context.numbers(None) == 0


def test_what_is_completed_is_told_what_training_rows_show_often(schema):
    """The fixture's rows are 30 hours: more than one day, and fewer than three."""
    steps = np.array([4, 5])

    def told(of, often):
        size = context.numbers(of)
        asked = asking.observed(np.full((2, 6, 4), np.nan), steps, often=often)
        return asked.vectors(of, scaler(of))[0][:, size + 3 :].any()

    assert told(schema, often=False)
    assert not told(schema, often=True)
    longer = dataclasses.replace(schema, starts=dataclasses.replace(schema.starts, last=72))
    assert longer.starts.seen_often(longer.clock) == ("day",)
    assert told(longer, often=True)


def test_parts_are_dropped_whole_and_as_often_as_is_said():
    part = np.array([0, 0, 1, 2, 2, 2])
    count = 20_000
    ones = np.ones((count, 6), np.float32)
    whole = context.Context(ones, ones, part)
    normal = jax.random.normal(jax.random.key(0), (count, 7))
    kept = np.asarray(whole.dropped(normal).known)
    for number in range(3):
        columns = kept[:, part == number]
        assert (columns == columns[:, :1]).all()
    # .15 none and ½ all by the first number; and each of three by chance in what is left.
    by_chance = 0.35 / 8
    error = 4 * np.sqrt(0.25 / count)
    assert (kept.sum(axis=1) == 6).mean() == pytest.approx(0.5 + by_chance, abs=error)
    assert (kept.sum(axis=1) == 0).mean() == pytest.approx(0.15 + by_chance, abs=error)


def test_nothing_known_is_no_context():
    with_context = Denoiser(hidden=8, blocks=2, context=3)
    z, label = jax.random.normal(jax.random.key(1), (4, 5)), jnp.zeros(4)
    params = with_context.init(jax.random.key(0), z, label)
    params = jax.tree.map(lambda x: x + 0.1, params)  # gates start at zero
    found = with_context.apply(params, z, label)
    nothing = context.Context(np.ones((4, 3)), np.zeros((4, 3)), np.arange(3))
    np.testing.assert_array_equal(found, with_context.apply(params, z, label, nothing.vectors()))
    asked = context.Context(np.ones((4, 3)), np.ones((4, 3)), np.arange(3))
    assert np.abs(found - with_context.apply(params, z, label, asked.vectors())).max() > 1e-3


def test_what_cannot_be_asked_for_is_told(schema):
    for cells, message in (
        ({"level": [1.0]}, "'level' cannot be asked for; .*'kind', 'age'"),
        ({"kin": ["low"]}, "'kin' cannot be asked for"),
        ({"kind": ["middle"]}, "'kind' is asked to be 'middle', .*known: 'high', 'low'"),
        ({"age": ["old"]}, "'age' must hold numbers"),
    ):
        with pytest.raises(DataError, match=message):
            context.encode(pd.DataFrame(cells), schema)
    found = context.encode(pd.DataFrame({"kind": ["low", None], "age": [None, 33]}), schema)
    known = {feature.name for place, feature in enumerate(features(schema)) if found[0, place] == 1}
    assert known == {"kind=low"}
    assert np.isnan(found[1]).sum() == len(features(schema)) - 1


BERLIN = pd.date_range("2024-03-30", periods=72, freq="h", tz="Europe/Berlin")


def clock_of(times, **options):
    frame = pd.DataFrame({"date": times, "x": np.arange(len(times)) * 1.5})
    return table.prepare(frame, "it", Options(**options))[1].clock


@pytest.mark.parametrize(
    ("times", "start", "step"),
    [
        (pd.date_range("2024-01-01", periods=60, freq="h"), "2024-01-02 05:00", 29),
        (pd.date_range("2024-01-01", periods=60, freq="h"), pd.Timestamp("2023-12-31 22:00"), -2),
        (list(pd.date_range("2024-01-05", periods=60).strftime("%d/%m/%Y")), "07/01/2024", 2),
        (list(pd.date_range("2024-01-05", periods=60).strftime("%d/%m/%Y")), "2024-02-04", 30),
        (pd.date_range("2020-01-01", periods=60, freq="MS"), "2021-03-01", 14),
        (BERLIN, "2024-03-31 03:00", 26),
        (np.arange(100.0, 400.0, 5.0), 130, 6),
    ],
)  # fmt: skip
def test_a_time_is_a_step_of_the_clock(times, start, step):
    clock = clock_of(times)
    assert clocks.steps_at(clock, start, 3).tolist() == [step] * 3
    assert clocks.steps_at(clock, [start, start], 2).tolist() == [step] * 2


@pytest.mark.parametrize(
    "times",
    [
        pd.date_range("2024-01-01", periods=60, freq="h"),
        list(pd.date_range("2024-01-05", periods=60).strftime("%d/%m/%Y")),
        pd.date_range("2020-01-01", periods=60, freq="MS"),
        BERLIN,
    ],
)
def test_rows_of_a_later_table_are_at_steps_of_the_models_clock(times):
    """Else a history that begins at six would be taken for one that begins at midnight."""
    frame = pd.DataFrame({"date": times, "x": np.arange(len(times)) * 1.5})
    found = table.prepare(frame, "it", Options())[1]
    later = table.arrange(frame.iloc[30:45], "it", found)
    steps = start_times.counted(table.encode(later.frame, found).clock, found.clock)
    assert steps.tolist() == list(range(30, 45))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("2024-01-02 05:30", "is no step of the model's clock, which runs from 2024-01-01"),
        ("tomorrow", "is no time; write it as 2024-01-31 13:00"),
        (["2024-01-01 00:00"] * 2, "start has 2 times; expected one, or one for each of 3"),
    ],
)
def test_a_time_between_steps_is_told(start, message):
    clock = clock_of(pd.date_range("2024-01-01", periods=60, freq="h"))
    with pytest.raises(DataError, match=message):
        clocks.steps_at(clock, start, 3)


def test_times_before_windows_follow_those_of_training():
    clock = clock_of(pd.date_range("2024-01-01", periods=400, freq="h"))
    begins = np.repeat(np.arange(8, 380, 24), 5)  # at eight in the morning
    windows = np.random.default_rng(0).normal(size=(len(begins), 6, 1))
    starts = start_times.learn(windows, begins, clock)
    drawn = starts.before(500, seed=3)
    assert set(drawn % 24) == {8}
    np.testing.assert_array_equal(starts.before(200, seed=3, first=300), drawn[300:])
    assert (starts.before(500, seed=4) != drawn).any()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = configuration.base()
    configuration.apply_table(config)
    steps = {"vae.steps": 150, "ldm.steps": 600, "ldm.batch": 64, "ldm.model.hidden": 64}
    small = SMALL | steps | {"data.window": 6, "data.stride": 1, "data.split": "entity"}
    config.update_from_flattened_dict(small | {"sample.steps": 12, "ldm.optimizer.ema": 0.99})
    folder = tmp_path_factory.mktemp("model") / "model"
    TimeLDM(config=config).fit(panel(rows=48), entity="who").save(folder, report=False)
    return folder, TimeLDM.load(folder)


@pytest.mark.training
def test_what_is_asked_for_is_obeyed(model):
    """Levels are 10 apart, of windows that go up and down by 1."""
    _, model = model
    for kind, level in (("low", 0.0), ("high", 10.0)):
        found = model.sample(60, given={"kind": kind})
        assert set(found["kind"]) == {kind}
        assert found["level"].mean() == pytest.approx(level, abs=1.5)
        assert (found.groupby("series")["age"].nunique() == 1).all()
    rows = pd.DataFrame({"kind": ["high", None, "low"], "age": [None, 25, 30]})
    found = model.sample(context=rows).groupby("series").first()
    assert found["kind"].iloc[[0, 2]].tolist() == ["high", "low"]
    assert found["age"].iloc[1:].tolist() == [25, 30]
    with pytest.raises(DataError, match="context has 3 rows and count is 4"):
        model.sample(4, context=rows)


@pytest.mark.training
def test_samples_begin_when_they_are_asked_to(model):
    _, model = model
    found = model.sample(3, start="2024-01-01 06:00").groupby("series")["time"].first()
    assert set(found) == {pd.Timestamp("2024-01-01 06:00")}
    long = model.sample_series(15, count=2, start=["2024-01-01 06:00", "2024-01-02 00:00"])
    first = long.groupby("series")["time"].agg(["first", "last"])
    assert first["first"].tolist() == [pd.Timestamp("2024-01-01 06:00"), pd.Timestamp("2024-01-02")]
    assert (first["last"] - first["first"] == pd.Timedelta(hours=14)).all()
    # Without being asked they begin as the data has them, and the same whatever the count.
    one, more = model.sample(5, seed=2), model.sample(40, seed=2)
    pd.testing.assert_frame_equal(one, more.head(len(one)))
    assert more.groupby("series")["time"].first().nunique() > 10


@pytest.mark.training
def test_a_cycle_seen_once_tells_samples_and_no_forecast(model):
    """Of a table of 48 hours; the hour would be one more way to tell which rows these are like."""
    _, model = model
    generator = model.generator
    starts = generator.schema.starts
    days = dataclasses.replace(starts, last=starts.first + 96)
    often = dataclasses.replace(generator.schema, starts=days)
    history = panel(series=1, rows=6)
    later = history.assign(time=history["time"] + pd.Timedelta(hours=6))
    holed = [rows.assign(level=rows["level"].where(rows.index != 3)) for rows in (history, later)]

    def levels(schema, rows):
        one = copy.copy(model)
        one._generator = dataclasses.replace(generator, schema=schema)
        found = one.forecast(rows[0], 4, n=5).samples, one.impute(rows[1])
        return np.concatenate([table["level"].to_numpy() for table in found])

    early, late = (history, holed[0]), (later, holed[1])
    np.testing.assert_array_equal(levels(generator.schema, early), levels(generator.schema, late))
    assert (levels(often, early) != levels(often, late)).any()


@pytest.mark.training
def test_the_command_asks_the_same(model, tmp_path):
    folder, model = model
    asked = json.dumps({"kind": "high"})
    arguments = ["--count=4", f"--given={asked}", "--start=2024-01-01 06:00", f"--model={folder}"]
    sample.main(["sample", *arguments, f"--out={tmp_path / 'found.csv'}"])
    found = pd.read_csv(tmp_path / "found.csv", parse_dates=["time"])
    expected = model.sample(4, given={"kind": "high"}, start="2024-01-01 06:00")
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


def test_another_number_than_there_is_to_ask_for_is_refused_before_training():
    config = configuration.base()
    configuration.apply_table(config)
    config.update_from_flattened_dict(SMALL | {"data.window": 6, "ldm.model.context": 99})
    with pytest.raises(ConfigError, match=r"context=99, .* by 3 numbers; set it to 0"):
        TimeLDM(config=config).fit(panel(), entity="who")
    sines = configuration.load("configs/sines.py", "quick")
    sines.ldm.model.context, sines.data.count = 4, 40
    with pytest.raises(ConfigError, match=r"context=4, .* of sines .* by 0 numbers"):
        experiment.start(sines, Workdir(epath.Path("/nonexistent/run")))


@pytest.mark.training
def test_a_model_without_context_says_so(tmp_path):
    config = configuration.base()
    configuration.apply_table(config)
    config.update_from_flattened_dict(SMALL | {"data.window": 6, "ldm.model.context": 0})
    model = TimeLDM(config=config).fit(panel(), entity="who")
    assert model.generator.config.ldm.model.context == 0
    with pytest.raises(DataError, match="no static columns to ask for"):
        model.sample(3, given={"kind": "low"})
    assert len(model.sample(3, start="2024-01-01 06:00")) == 18


def driven(rows=1_500, seed=0):
    """A load that is 3 per unit of a switch, which is on in stretches, and forgets half a row."""
    random = np.random.default_rng(seed)
    switch = np.repeat(random.integers(0, 2, rows // 5), 5).astype(float)
    load = np.zeros(rows)
    for t in range(1, rows):
        load[t] = 0.5 * load[t - 1] + 1.5 * switch[t] + 0.1 * random.normal()
    days = pd.date_range("2024-01-01", periods=rows, freq="h")
    return pd.DataFrame({"time": days, "switch": switch > 0.5, "load": load.round(3)})


@pytest.mark.slow
def test_what_is_known_ahead_moves_a_forecast():
    config = configuration.base()
    configuration.apply_table(config)
    steps = {"vae.steps": 300, "vae.batch": 64, "ldm.steps": 600, "ldm.batch": 64}
    small = SMALL | steps | {"data.window": 8, "data.stride": 1, "ldm.model.hidden": 64}
    config.update_from_flattened_dict(small | {"vae.model.width": 16, "ldm.optimizer.ema": 0.99})
    frame = driven()
    model = TimeLDM(config=config).fit(frame.head(1_400))
    history = frame.head(1_400)
    found = {}
    for on in (False, True):
        future = model.forecast(history, 10, n=20, known=pd.DataFrame({"switch": [on] * 10}))
        assert set(future.samples["switch"]) == {on}
        found[on] = future.samples.groupby("series")["load"].last().mean()
    # In the long run the load is 3 with the switch on and 0 without; trained for seconds.
    assert found[True] - found[False] == pytest.approx(3.0, abs=0.6)
    rest = frame[["time", "switch"]].iloc[1_400:1_410]
    assert (model.forecast(history, 10, n=2, known=rest).samples["time"].head(10).to_numpy()
            == rest["time"].to_numpy()).all()  # fmt: skip


def test_what_is_known_ahead_must_fit_the_rows_to_come():
    frame, found = table.prepare(driven(), "it", Options())
    times = found.clock.following(frame.head(1_400), 10)
    rest = frame.iloc[1_400:1_410]
    known = rest[["time", "switch"]].assign(load=[1.5] + [None] * 9)
    encoded = forecast.encode_known(known, found, times, 10)
    names = [feature.name for feature in features(found)]
    np.testing.assert_array_equal(encoded[:, names.index("switch")], rest["switch"])
    assert encoded[0, names.index("load")] == 1.5
    assert np.isnan(encoded[1:, names.index("load")]).all()
    for wrong, message in (
        (known.head(3), "known has 3 rows; expected one for each of 10"),
        (known.rename(columns={"switch": "swich"}), "known: column 'swich' .*mean 'switch'"),
        (frame[["time", "switch"]].head(10), "known, row 1 is of .*; the history goes on at"),
    ):
        with pytest.raises(DataError, match=message):
            forecast.encode_known(wrong, found, times, 10)


@pytest.fixture(scope="module")
def untrained():
    """A generator of the panel whose weights are noise: what guides it needs no training."""
    config = configuration.base()
    configuration.apply_table(config)
    config.update_from_flattened_dict(SMALL | {"data.window": 6, "vae.model.block": 0})
    config.update_from_flattened_dict({"sample.match_axes": False, "sample.match_marginals": False})
    found = table.prepare(panel(), "it", Options(entity="who"))[1]
    starts = StartTimes(6, 0, 30, 0, (), ("day",), (), (), (), leads=True)
    found = dataclasses.replace(found, starts=starts)
    names = tuple(feature.name for feature in features(found))
    config.vae.model.latent = 4
    config.ldm.update(axes=0, latents="raw")
    config.ldm.model.context = context.numbers(found)
    models = stages.build_models(config, len(names))
    stats = latents.zero_stats((24, 1), 24, "raw")._replace(scale=np.ones(24, np.float32))
    random = np.random.default_rng(0)

    def noisy(params):
        return jax.tree.map(
            lambda a: a + 0.1 * random.normal(size=a.shape).astype(np.float32), params
        )

    high = tuple(50.0 if name == "age" else 1.0 for name in names)
    return Generator(
        config=config,
        models=models,
        vae_params=noisy(stages.init_vae_state(config, models).params),
        ldm_params=noisy(stages.init_ldm_state(config, models, stats).params),
        stats=stats,
        scaler=Scaler((0.0,) * len(names), high),
        columns=names,
        schema=found,
        meta={},
    )


def latents_of(generator, asked):
    numbers = np.arange(asked.windows, dtype=np.int32)
    vectors = generator._vectors(asked.timed(generator.schema, 0))
    return generator._draw_latents, (*generator._weights[1:], jax.random.key(0), numbers, vectors)


def products(generator, asked):
    """Matrix products of a step of the sampler: what it evaluates."""
    draw, arguments = latents_of(generator, asked)
    return str(jax.make_jaxpr(draw)(*arguments)).count("dot_general")


def test_a_strength_of_one_is_what_is_drawn_without_any(untrained):
    rows = context.encode(pd.DataFrame({"kind": ["low", "high"]}), untrained.schema)
    plain, guided = Asked(2, rows), Asked(2, rows, guidance=2.0)
    draw, arguments = latents_of(untrained, plain)
    before = np.asarray(draw(*arguments))
    one = latents_of(untrained, plain._replace(guidance=1.0))[1]
    np.testing.assert_array_equal(draw(*one), before)
    assert products(untrained, plain._replace(guidance=1.0)) == products(untrained, plain) > 0
    assert products(untrained, guided) == 2 * products(untrained, plain)
    assert np.abs(draw(*latents_of(untrained, guided)[1]) - before).max() > 1e-3
    # Nobody asked: times that were drawn are followed as they are.
    free = Asked(2, guidance=3.0)
    assert products(untrained, free) == products(untrained, plain)
    config = untrained.config.copy_and_resolve_references()
    config.sample.guidance = 2.0
    set_once = dataclasses.replace(untrained, config=config)
    assert products(set_once, plain) == 2 * products(untrained, plain)
    assert products(set_once, plain._replace(guidance=1.0)) == products(untrained, plain)
    assert len(set_once._vectors(asking.observed(rows[:, None], np.arange(2)))) == 1


def test_only_what_was_asked_for_is_left_out_of_the_other_estimate(untrained):
    rows = context.encode(pd.DataFrame({"kind": ["low", None]}), untrained.schema)
    steps = np.array([3, 4])
    size = context.numbers(untrained.schema)
    for asked, kept in (
        (Asked(2, rows, guidance=2.0).timed(untrained.schema, 0), True),  # times were drawn
        (Asked(2, rows, steps, guidance=2.0), False),
        (Asked(2, None, steps, guidance=2.0), False),
    ):
        found, free, strength = untrained._vectors(asked)
        known, left = found[:, size:], free[:, size:]
        static, calendar = slice(0, 3), slice(3, None)
        assert known[:, calendar].all()
        assert left[:, calendar].all() == kept
        assert not left[:, static].any()
        assert known[0, static].any() == (asked.rows is not None)
        assert not known[1, static].any()
        np.testing.assert_array_equal(strength, [[2.0], [2.0]])
        if kept:  # who asked for nothing has two estimates that are the same
            np.testing.assert_array_equal(found[1], free[1])


@pytest.mark.parametrize("guidance", [-1, float("nan"), float("inf"), "much", True])
def test_a_strength_is_a_number_from_zero_on(untrained, guidance):
    with pytest.raises(DataError, match=f"guidance={guidance!r} must be a number from 0 on"):
        convert.asked(untrained, 2, {"kind": "low"}, None, None, guidance)


def test_a_strength_of_nothing_is_refused(untrained):
    with pytest.raises(DataError, match=r"guidance=2 .* nothing is: say given, context or start"):
        convert.asked(untrained, 2, None, None, None, 2)
    assert convert.asked(untrained, 2, None, None, None, 1).guidance == 1
    denoiser = untrained.models.denoiser.clone(context=0)
    models = dataclasses.replace(untrained.models, denoiser=denoiser)
    blind = dataclasses.replace(untrained, models=models)
    with pytest.raises(DataError, match=r"guidance=2 .*trained without context: leave it out"):
        convert.asked(blind, 2, None, None, "2024-01-01 06:00", 2)


@pytest.mark.training
def test_the_command_and_python_guide_alike(model, tmp_path):
    folder, model = model
    arguments = [f"--model={folder}", "--count=4", '--given={"kind": "high"}', "--guidance=2"]
    sample.main(["sample", *arguments, f"--out={tmp_path / 'found.csv'}"])
    found = pd.read_csv(tmp_path / "found.csv", parse_dates=["time"])
    expected = model.sample(4, given={"kind": "high"}, guidance=2)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    plain = model.sample(4, given={"kind": "high"})
    assert (plain["level"] != expected["level"]).any()
    pd.testing.assert_frame_equal(plain, model.sample(4, given={"kind": "high"}, guidance=1))
    assert len(model.sample_series(9, count=2, given={"kind": "low"}, guidance=1.5)) == 18
