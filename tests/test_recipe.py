"""Sizes and steps that follow from a table and a budget, and the command on a table."""

import json
import re
from functools import partial

import numpy as np
import pandas as pd
import pytest
import quick

from timeldm_jax import config as configuration
from timeldm_jax import generator, recipe
from timeldm_jax.data import dataset as datasets
from timeldm_jax.data import table
from timeldm_jax.errors import ConfigError
from timeldm_jax.training import stages

pytestmark = pytest.mark.training

WORKER = "device_worker"


def asked(**data):
    config = configuration.base()
    configuration.apply_table(config)
    config.data.update(data)
    return config


@pytest.mark.parametrize(
    ("budget", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("1h30m", 5400)]
)
def test_budgets(budget, seconds):
    assert recipe.seconds_of(budget) == seconds


@pytest.mark.parametrize(
    ("budget", "message"),
    [("", "is not a time"), ("ten", "is not a time"), ("10", "is not a time"), ("20s", "at least")],
)
def test_what_is_no_budget(budget, message):
    with pytest.raises(ConfigError, match=message):
        recipe.seconds_of(budget)


@pytest.mark.parametrize(
    ("lengths", "features", "expected"),
    [
        ([17_420], 7, (24, 1, 7, 10_000)),
        ([400], 3, (4, 1, 3, 397)),
        ([1_000_000], 20, (24, 10, 20, 10_000)),
        ([17_420], 300, (24, 1, 300, 10_000)),
        ([3_459] * 60, 2, (24, 3, 2, 10_000)),
        ([10] * 500, 4, (10, 1, 4, 500)),
    ],
)
def test_sizes_follow_from_the_shape(lengths, features, expected):
    config = recipe.choose_sizes(asked(), np.array(lengths), features)
    found = (config.data.window, config.data.stride, config.vae.model.latent, config.sample.count)
    assert found == expected


def test_long_windows_are_given_what_they_need(caplog):
    caplog.set_level("INFO", "timeldm_jax")
    config = recipe.choose_sizes(asked(window=3_459), np.array([3_459] * 60), 2)
    assert (config.vae.model.block, config.vae.batch, config.ldm.axes) == (32, 8, 30)
    assert "config.vae.batch=8, as windows have 3459 rows" in caplog.text
    short = recipe.choose_sizes(asked(window=48), np.array([9_000]), 5)
    assert (short.vae.model.block, short.vae.batch, short.ldm.axes) == (0, 128, 0)
    wide = recipe.choose_sizes(asked(window=24), np.array([9_000]), 300)
    assert (wide.ldm.latents, wide.ldm.axes) == ("principal", recipe.MOST_AXES)


def test_long_windows_are_learnt_by_frequency_where_they_are_many():
    def chosen(window, rows, features, **said):
        config = asked(window=window)
        config.update_from_flattened_dict({key.replace("__", "."): said[key] for key in said})
        found = recipe.choose_sizes(config, np.array([rows]), features)
        return found.ldm.latents, found.ldm.axes

    assert chosen(1_024, 17_000, 7) == ("cosine", 0)
    assert chosen(512, 17_000, 7) == ("principal", 0)  # 3,584 numbers
    assert chosen(1_024, 3_000, 7) == ("principal", 988)  # half of 1,977 windows
    assert chosen(1_024, 17_000, 40, vae__model__latent=40) == ("principal", 1_024)  # 40,960
    # What is said stands.
    assert chosen(1_024, 17_000, 7, ldm__latents="principal") == ("principal", 1_024)
    assert chosen(1_024, 17_000, 7, ldm__axes=200) == ("principal", 200)
    assert chosen(1_024, 17_000, 7, ldm__latents="standard") == ("standard", 1_024)
    assert chosen(1_024, 3_000, 7, ldm__latents="cosine") == ("cosine", 0)


def test_what_is_said_stands():
    said = {
        "data.stride": 3,
        "vae.model.latent": 5,
        "vae.model.block": 0,
        "vae.batch": 128,
        "vae.chunk": 50,
        "ldm.latents": "principal",
        "ldm.axes": 0,
        "ldm.chunk": 20,
        "sample.count": 77,
    }
    config = asked(window=1_000)  # which would have blocks, fewer axes and small batches
    config.update_from_flattened_dict(said)
    assert recipe.choose_sizes(config, np.array([90_000]), 5) == config


@pytest.fixture
def dataset():
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(2_000, 3)).cumsum(0), columns=list("abc"))
    frame, schema = table.prepare(frame, "table", table.Options())
    config = recipe.choose_sizes(asked(window=20), np.array([2_000]), 3)
    return config, datasets.from_table(frame, schema, config)


def test_steps_fill_the_budget(dataset, monkeypatch):
    """Steps of 10 and 40 ms: what is left of ten minutes, VAE_SHARE of it for the VAE."""
    config, data = dataset
    monkeypatch.setattr(
        stages, "step_seconds", lambda config, data, stage: {"vae": 0.01, "ldm": 0.04}[stage]
    )
    monkeypatch.setattr(recipe, "_scores_seconds", lambda config, data: (60.0, 30.0, 10.0))
    chosen = recipe.choose_steps(config, data)
    trained = chosen.vae.steps * 0.01 + chosen.ldm.steps * 0.04
    own = chosen.sample.marginal_windows
    windows = config.sample.count + own + min(own, generator.DRIFT_SAMPLES)
    sampling = 0.04 / config.ldm.batch / 3 * config.sample.steps * windows
    total = trained + sampling + 100 + recipe.START_SECONDS + recipe.REPORT_SECONDS
    # Steps come in chunks of 50: 2 s at most of each stage; the probes took no time.
    assert 600 - 4 < total <= 600
    assert chosen.vae.steps * 0.01 / trained == pytest.approx(recipe.VAE_SHARE, abs=0.01)
    configuration.validate(chosen)


def test_a_short_budget_takes_from_the_evaluators_or_says_so(dataset, monkeypatch):
    config, data = dataset
    monkeypatch.setattr(stages, "step_seconds", lambda *_: 0.01)
    monkeypatch.setattr(recipe, "_scores_seconds", lambda config, data: (250.0, 40.0, 10.0))
    config.budget = "3m"
    chosen = recipe.choose_steps(config, data)
    published = configuration.base().evaluate
    assert chosen.evaluate.discriminative_steps < published.discriminative_steps
    monkeypatch.setattr(stages, "step_seconds", lambda *_: 1.0)
    advice = r"is too short .*budget=([\d.]+m) would do"
    with pytest.raises(ConfigError, match="budget=3m " + advice) as no:
        recipe.choose_steps(config, data)
    config.budget = re.search(advice, str(no.value))[1]
    assert recipe.choose_steps(config, data).vae.steps >= recipe.FEWEST_STEPS
    config.budget = "1m"  # said before anything is timed
    monkeypatch.setattr(stages, "step_seconds", None)
    with pytest.raises(ConfigError, match="budget=1m " + advice):
        recipe.choose_steps(config, data)


def test_a_budget_that_is_just_enough_is_enough(dataset):
    config, _ = dataset
    for step in np.linspace(0.05, 0.4, 200):
        seconds = recipe.Seconds({"vae": step, "ldm": 0.02}, 0.001, 5.0, 20.0, 5.0, 5.0, 20.0)
        # 60 s besides these, and twice what the VAE's fewest steps take.
        budget = seconds.besides_training() + 2 * recipe.FEWEST_STEPS * step
        assert recipe._steps(config, seconds, budget)["vae"] >= recipe.FEWEST_STEPS


@pytest.mark.parametrize(
    ("most", "shorter", "trees"),
    [
        (1_000.0, 1.0, 1.0),  # all of it
        (85.0, 0.5, 0.5),  # networks and trees alike
        (35.0, (35 - 10 - 50 / 3) / 100, 1 / 3),  # trees keep a third: networks give way
        (20.0, recipe.LEAST_TRAINING, 1 / 3),  # and no further
    ],
)
def test_scores_are_shortened_as_far_as_they_can_be(most, shorter, trees):
    """100 s of networks, 50 of trees, of which a third stays, 10 of the rest."""
    seconds = recipe.Seconds({"vae": 1.0, "ldm": 1.0}, 0.0, 0.0, 100.0, 50.0, 10.0, 0.0)
    found = seconds.within(most)
    assert found.shorter == pytest.approx(shorter)
    assert found.fewer == pytest.approx(trees)
    assert found.scores == pytest.approx(10 + 100 * shorter + 50 * trees)


def test_a_measured_step_is_of_this_model(dataset):
    config, data = dataset
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(quick.SMALL | {"ldm.model.context": 0})
    small = stages.step_seconds(config, data, "ldm")
    config.ldm.model.hidden = 1024
    assert 0 < small < stages.step_seconds(config, data, "ldm")


@pytest.fixture
def own(tmp_path):
    random = np.random.default_rng(1)
    count = 1_500
    frame = pd.DataFrame(
        {
            "when": pd.date_range("2024-03-01", periods=count, freq="15min"),
            "load": np.round(np.abs(random.normal(size=count)).cumsum() % 50, 2),
            "people": random.poisson(3, count),
            "open": random.random(count) > 0.4,
            "weather": random.choice(["dry", "wet"], count),
        }
    )
    frame.loc[5:9, "load"] = None
    frame.to_csv(tmp_path / "own.csv", index=False)
    return tmp_path / "own.csv"


def test_the_command_on_a_table(own, server, tmp_path):
    workdir = tmp_path / "run"
    small = [f"--config.{key}={value}" for key, value in quick.SMALL.items() if "steps" not in key]
    small += ["--config.vae.steps=20", "--config.sample.steps=3", "--config.ldm.steps=0"]
    small += ["--config.evaluate.repeats=2", "--config.evaluate.context_fid_steps=2"]
    small += [f"--config.evaluate.{name}_steps=5" for name in ("discriminative", "predictive")]
    small += ["--stages=vae,ldm,sample"]
    flags = ["--config=configs/table.py", f"--config.data.path={own}", f"--workdir={workdir}"]
    # A stopwatch that says a second a step: some 500 steps, which take seconds.
    timed = partial(server.run, "launch-timed", *flags, *small, module=WORKER)
    run = timed("--config.budget=10m", log=tmp_path / "log")
    assert run.code == 0, run.output[-2000:]
    assert re.search(r"estimate: (9\.\d|10\.0) min in all", run.output), run.output[:2000]
    assert "load" in run.output

    read = pd.read_csv(own)
    made = pd.read_csv(workdir / "samples.csv")
    assert list(made.columns) == ["series", *read.columns]
    assert (made.dtypes[read.columns] == read.dtypes).all()
    assert made["load"].between(0, read["load"].max() + 5).all()
    assert set(made["weather"]) <= {"dry", "wet"}
    window = json.loads((workdir / "config.json").read_text())["data"]["window"]
    assert (made.groupby("series").size() == window).all()

    # The same command finds it finished, whatever the clock says now; another budget is refused.
    before = (workdir / "config.json").read_text()
    again = timed("--config.budget=10m", log=tmp_path / "log2")
    assert again.code == 0, again.output[-2000:]
    assert (workdir / "config.json").read_text() == before
    other = timed("--config.budget=20m", log=tmp_path / "log3")
    assert other.code != 0
    assert "budget" in other.output


def test_the_command_without_a_table(server, tmp_path):
    flags = ["--config=configs/table.py", f"--workdir={tmp_path / 'run'}"]
    missing = server.run(*flags, "--config.data.path=none.csv", log=tmp_path / "log")
    assert missing.code != 0
    assert "none.csv does not exist" in missing.output
    unsaid = server.run(*flags, log=tmp_path / "log2")
    assert unsaid.code != 0
    assert "config.data.path" in unsaid.output
    assert not (tmp_path / "run").exists()
