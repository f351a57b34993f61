"""`TimeLDM` on arrays: the same samples every time, in the data's units, and clear errors."""

import copy
import dataclasses
import html
import json
import pathlib
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
from etils import epath
from quick import SMALL

from timeldm_jax import TimeLDM, experiment
from timeldm_jax import config as c
from timeldm_jax.data import dataset as datasets
from timeldm_jax.data import schema as schemas
from timeldm_jax.data import table as tables
from timeldm_jax.errors import CheckpointError, ConfigError, DataError
from timeldm_jax.metrics import suite
from timeldm_jax.training import stages
from timeldm_jax.workdir import Workdir

pytestmark = pytest.mark.training

WINDOW = 8
NAMES = ("<script>", "a$b", "plain name")
# One column of large numbers, one with an offset, one small.
SCALE, OFFSET = np.array([1e6, 1.0, 1e-3]), np.array([0.0, 5e3, -1.0])


def tiny(window=WINDOW, steps=20):
    """A recipe of seconds. Fits that share it and the shape of the data share what compiles."""
    config = c.base()
    config.data.name = "array"
    config.data.window = window
    config.vae.model.update({"latent": 6, "width": 8, "encoder_layers": 1, "decoder_layers": 1})
    config.ldm.model.update({"hidden": 16, "blocks": 1})
    for stage in (config.vae, config.ldm):
        stage.update({"steps": steps, "chunk": 10, "eval_every": 10, "batch": 16})
        stage.optimizer.ema = 0.5
    config.sample.update({"steps": 3, "batch": 16})
    config.evaluate = dataclasses.asdict(suite.Evaluators(2, 5, 5, 2, 8))
    return config


def rows(count=120):
    """A series `(count, 3)` of sine waves with a little noise, in units of very different size."""
    time = np.arange(count)[:, None]
    noise = np.random.default_rng(0).normal(scale=0.05, size=(count, 3))
    return (np.sin(0.3 * time + np.arange(3)) + noise) * SCALE + OFFSET


@pytest.fixture(scope="module")
def model():
    return TimeLDM(config=tiny()).fit(rows(), columns=NAMES)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("api") / "new" / "model"
    model.save(str(folder), report=False)
    return folder


def test_samples_are_windows_in_the_datas_own_units(model):
    samples = model.sample(200)
    assert (samples.shape, samples.dtype) == ((200, WINDOW, 3), np.float32)
    assert model.columns == NAMES
    data = rows()
    low, high = data.min(axis=0), data.max(axis=0)
    # Twenty steps teach little but the unit, and the columns' units differ a thousandfold.
    span = high - low
    inside = (samples > low - 3 * span) & (samples < high + 3 * span)
    assert inside.mean(axis=(0, 1)).min() > 0.95
    assert (samples.std(axis=(0, 1)) > 0.01 * span).all()


def test_a_sample_is_a_function_of_the_seed(model):
    np.testing.assert_array_equal(model.sample(20, seed=3), model.sample(20, seed=3))
    other = model.sample(20, seed=4)
    assert (np.abs(model.sample(20, seed=3) - other).max(axis=(1, 2)) > 0).all()


def test_window_i_does_not_depend_on_count_or_batch(model, saved):
    # 16 a batch: 40 windows are three batches, the last one cut.
    forty = model.sample(40)
    span = np.ptp(rows(), axis=0)
    assert len(np.unique(forty.reshape(40, -1), axis=0)) == 40
    for count in (1, 17):
        np.testing.assert_allclose(
            model.sample(count) / span, forty[:count] / span, rtol=0, atol=2e-4
        )
    other = TimeLDM.load(str(saved))
    other._generator.config.sample.batch = 7
    np.testing.assert_allclose(other.sample(40) / span, forty / span, rtol=0, atol=2e-4)


def test_load_gives_the_same_samples_bit_for_bit(model, saved):
    loaded = TimeLDM.load(str(saved))
    assert loaded.columns == NAMES
    np.testing.assert_array_equal(loaded.sample(20, seed=5), model.sample(20, seed=5))


def test_a_loaded_model_can_be_saved_again(saved, tmp_path):
    TimeLDM.load(str(saved)).save(str(tmp_path / "copy"))
    assert files(tmp_path / "copy") == files(saved)


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_saved_model_is_small_and_holds_no_pickle(saved):
    names = ["MODEL_CARD.md", "config.json", "manifest.json", "model.json", "weights.npz"]
    assert sorted(p.name for p in saved.iterdir()) == names
    card = (saved / "MODEL_CARD.md").read_text()
    assert "Not scored" in card
    assert "plain name  float, scaled by minmax" in card
    # "\x80\x04" opens a pickle of the protocol that Python writes.
    for content in files(saved).values():
        assert b"\x80\x04\x95" not in content
        assert not content.startswith((b"\x80\x04", b"\x80\x05"))
    config = json.loads((saved / "config.json").read_text())
    assert config["ldm"]["model"]["hidden"] == 16


def test_saving_overwrites_nothing(model, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(FileExistsError, match=f"{name} is not an empty directory"):
            model.save(str(tmp_path / name))
    assert files(tmp_path) == {"full/notes.txt": b"mine", "file": b"mine"}
    (tmp_path / "empty").mkdir()
    model.save(str(tmp_path / "empty"), report=False)
    assert TimeLDM.load(str(tmp_path / "empty")).columns == NAMES


def test_a_model_that_lacks_a_part_is_not_loaded(saved, tmp_path):
    for name in ("config.json", "model.json", "weights.npz"):
        twin = tmp_path / name
        shutil.copytree(saved, twin)
        (twin / name).unlink()
        with pytest.raises(CheckpointError, match=f"{name} is missing"):
            TimeLDM.load(str(twin))
    with pytest.raises(CheckpointError, match=r"nowhere does not exist: it holds no model"):
        TimeLDM.load(str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file is not a directory: it holds no model"):
        TimeLDM.load(str(tmp_path / "file"))


def test_fit_resumes_in_a_work_directory_and_load_opens_it(model, tmp_path):
    folder = tmp_path / "run"
    TimeLDM(config=tiny()).fit(rows(), workdir=str(folder))
    expected = model.sample(5)
    before = files(folder)
    again = TimeLDM(config=tiny()).fit(rows(), workdir=str(folder))
    assert files(folder) == before  # finished: nothing was trained or written
    np.testing.assert_array_equal(again.sample(5), expected)
    np.testing.assert_array_equal(TimeLDM.load(str(folder)).sample(5), expected)
    with pytest.raises(ConfigError, match=r"config\.vae\.steps: 20 -> 30"):
        TimeLDM(config=tiny(steps=30)).fit(rows(), workdir=str(folder))
    with pytest.raises(CheckpointError, match="the data changed"):
        TimeLDM(config=tiny()).fit(rows() + 1, workdir=str(folder))


def test_windows_of_ones_own_have_the_length_that_was_asked_for():
    windows = np.stack([rows()[i : i + WINDOW] for i in range(0, 110, 4)])
    with pytest.raises(DataError, match="window='99' and the windows have 8 rows"):
        TimeLDM(config=tiny(window=99)).fit(windows)
    model = TimeLDM(config=tiny()).fit(windows)
    samples = model.sample(200)
    assert samples.shape == (200, WINDOW, 3)
    low, high = (f(windows, axis=(0, 1)).astype(np.float32) for f in (np.min, np.max))
    most = 0.02 * (high - low)  # bounds are rounded outward
    assert ((samples >= low - most) & (samples <= high + most)).all()
    assert (samples.std(axis=(0, 1)) > 0.01 * (high - low)).all()
    assert model.columns == ("feature_0", "feature_1", "feature_2")


def test_matched_samples_have_the_datas_quantiles_whatever_the_training(tmp_path):
    config = tiny()
    config.sample.update({"match_marginals": True, "batch": 1_000})
    windows = np.stack([rows()[i : i + WINDOW] for i in range(0, 110, 4)])
    model = TimeLDM(config=config).fit(windows)
    series = model._dataset.series
    levels = (0.1, 0.3, 0.5, 0.7, 0.9)

    def error(samples):
        found, real = (
            np.quantile(a, levels, axis=(0, 1)) for a in (samples, series.windows(series.train))
        )
        return np.abs((found - real) / SCALE).max()

    # The rows of a window depend on each other: these are 10,000 and the map's 20,000 windows.
    assert error(model.sample(10_000)) < 0.02
    unmatched = dataclasses.replace(model._trained(), marginals=None)
    assert error(np.concatenate(list(unmatched.sample(10_000, 0)))) > 0.06
    model.save(str(tmp_path / "model"), report=False)
    again = TimeLDM.load(str(tmp_path / "model")).sample(50)
    np.testing.assert_array_equal(again, model.sample(50))


def test_only_values_of_a_table_are_matched():
    config = tiny()
    config.sample.match_marginals = True
    config.data.window = 12
    frame, schema = tables.prepare(mixed(), "the table", tables.Options())
    dataset = datasets.from_table(frame, schema, config)
    roles = [feature.role for feature in schemas.features(schema)]
    found = stages._matched(config, dataset)["marginals"]
    assert [row is not None for row in found] == [role == "value" for role in roles]
    assert len(set(roles)) > 1


def test_a_data_frame_brings_its_names_and_a_temporary_directory_goes_with_its_model(model):
    frame = pd.DataFrame(rows(), columns=["x", "y", 3]).astype({"y": "Float64"})
    framed = TimeLDM(config=tiny()).fit(frame)
    assert framed.columns == ("x", "y", "3")
    samples = framed.sample(3)
    assert list(samples.columns) == ["series", "x", "y", "3"]
    assert samples["y"].dtype == "Float64"
    values = samples[["x", "y", "3"]].to_numpy(np.float32).reshape(3, WINDOW, 3)
    np.testing.assert_array_equal(values, model.sample(3))
    folder = pathlib.Path(framed._workdir.root)
    assert folder.exists()
    del framed
    assert not folder.exists()


# Tables.


def mixed(count=400, seed=0):
    """Times, floats, counts, words, a flag, a constant, and missing values in two columns."""
    random = np.random.default_rng(seed)
    time = np.arange(count)
    frame = pd.DataFrame(
        {
            "count": random.poisson(4, count),
            "time": pd.date_range("2024-01-01", periods=count, freq="h"),
            "level": np.round(50 + 30 * np.sin(0.3 * time) + random.normal(size=count), 1),
            "state": random.choice(["idle", "busy"], count),
            "flag": time % 7 == 0,
            "site": "north",
        }
    )
    frame.loc[random.random(count) < 0.2, "level"] = None
    frame.loc[50:70, "state"] = None
    return frame


@pytest.fixture(scope="module")
def mixed_model():
    config = tiny()
    config.data.protocol = "heldout"
    return TimeLDM(config=config).fit(mixed())


@pytest.fixture(scope="module")
def mixed_saved(mixed_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed") / "m.timeldm"
    mixed_model.save(folder)
    return folder


def test_samples_of_a_table_are_the_table_again(mixed_model, mixed_saved):
    samples = mixed_model.sample(5, seed=2)
    frame = mixed()
    assert list(samples.columns) == ["series", *frame.columns]
    assert samples.drop(columns="series").dtypes.to_dict() == frame.dtypes.to_dict()
    assert len(samples) == 5 * WINDOW
    assert not samples.isna().any().any()
    assert set(samples["state"]) <= {"idle", "busy"}
    assert (samples["site"] == "north").all()
    assert (samples["count"] >= 0).all()
    pd.testing.assert_frame_equal(TimeLDM.load(mixed_saved).sample(5, seed=2), samples)
    gaps = mixed_model.sample(200, missing="generate")
    assert gaps.drop(columns=["level", "state"]).notna().all().all()
    assert gaps["level"].isna().any()
    with pytest.raises(DataError, match="missing='mask' is not one of fill, generate"):
        mixed_model.sample(1, missing="mask")


def test_a_saved_model_brings_its_report_and_card(mixed_saved, tmp_path):
    card = (mixed_saved / "MODEL_CARD.md").read_text()
    for words in (
        "has missing values",
        "| Discriminative |",
        "A diagnostic, not a guarantee",
        "SHA-256",
    ):
        assert words in card
    loaded = TimeLDM.load(mixed_saved)
    loaded.report(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert loaded.evaluate()["verdict"] in html.unescape(page)
    assert "<img" not in page  # no rows of the data, of which a saved model has none
    assert not (tmp_path / "r").exists()
    assert loaded.evaluate()["protocol"] == "heldout"
    loaded.save(tmp_path / "again")
    assert files(tmp_path / "again") == files(mixed_saved)
    assert loaded.evaluate(mixed())["windows"]["real"] == 400 - WINDOW + 1


def test_long_series_keep_columns_and_time(mixed_model):
    series = mixed_model.sample_series(35, count=2)
    assert len(series) == 70
    assert series.groupby("series")["time"].diff().dropna().eq(pd.Timedelta("1h")).all()
    found = mixed_model.seam_score(series)
    assert set(found["features"]) == set(mixed_model.columns)
    assert 0 <= found["p"] <= 1
    pd.testing.assert_frame_equal(
        mixed_model.sample_series(5, count=2),
        series.groupby("series").head(5).reset_index(drop=True),
    )


def test_completions_share_noise_with_nothing_else(mixed_model):
    """Neighbouring seeds, neighbouring turns and windows drawn from nothing: all differ."""
    generator = mixed_model._trained()
    open_window = np.full((1, WINDOW, generator.models.vae.features), np.nan)
    drawn = [
        generator.complete(open_window, *numbers)
        for numbers in ((0,), (0, 0), (0, 1), (1, 0), (1,), (2,), (0, 0, 1), (0, 1, 0))
    ]
    assert len({window.tobytes() for window in drawn}) == len(drawn)
    again = generator.complete(open_window, 0, 1)
    np.testing.assert_array_equal(again, drawn[2])


def test_imputation_fills_gaps_and_touches_nothing_else(mixed_model):
    table = mixed(60, seed=1)
    filled = mixed_model.impute(table, seed=1)
    assert not filled.isna().any().any()
    assert filled.dtypes.to_dict() == table.dtypes.to_dict()
    for name in table.columns:
        known = table[name].notna()
        pd.testing.assert_series_equal(filled[name][known], table[name][known])
    assert filled["level"].between(-100, 200).all()
    again = mixed_model.impute(table, seed=1)
    pd.testing.assert_frame_equal(again, filled)
    short = mixed_model.impute(table.head(3))
    assert not short.isna().any().any()
    many = mixed_model.impute(table, draws=3)
    assert not many.isna().any().any()
    # Columns that had no gaps when they were learnt; pandas makes floats and objects of them.
    some = np.arange(60) % 5 > 0
    holes = table.assign(count=table["count"].where(some), flag=table["flag"].where(some))
    filled = mixed_model.impute(holes)
    assert filled.dtypes.to_dict() == table.dtypes.to_dict()
    pd.testing.assert_frame_equal(filled[some][["count", "flag"]], table[some][["count", "flag"]])


def test_forecasts_continue_the_history(mixed_model, tmp_path):
    found = mixed_model.forecast(mixed(60, seed=1), horizon=7, n=20)
    assert len(found.samples) == 140
    first = found.samples[found.samples["series"] == 0]["time"]
    assert first.iloc[0] == pd.Timestamp("2024-01-03 12:00")
    assert len(first) == 7
    assert found.columns == ("count", "level")
    levels = found.quantiles[found.quantiles["column"] == "level"]
    assert list(levels["time"]) == list(first)
    assert (levels[0.05] <= levels[0.5]).all()
    assert (levels[0.5] <= levels[0.95]).all()
    found.plot(tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="horizon=0 must be at least 1"):
        mixed_model.forecast(mixed(60), 0, n=5)


def test_arrays_are_completed_as_arrays(model):
    array = rows(50)
    array[10:14, 1] = np.nan
    filled = model.impute(array)
    assert filled.shape == (50, 3)
    known = ~np.isnan(array)
    np.testing.assert_array_equal(filled[known], array[known])
    assert np.isfinite(filled).all()
    assert model.sample_series(20).shape == (1, 20, 3)
    with pytest.raises(DataError, match=r"shape \(50, 2\); expected \(rows, 3\)"):
        model.impute(array[:, :2])


@pytest.mark.slow
def test_panels_of_uneven_length_give_series_of_uneven_length():
    random = np.random.default_rng(0)
    frame = pd.concat(
        pd.DataFrame({"patient": f"p{i}", "x": random.normal(size=n).cumsum()})
        for i, n in enumerate(random.integers(3, 14, 40))
    )
    config = tiny()
    config.data.protocol, config.data.split = "heldout", "entity"
    model = TimeLDM(config=config).fit(frame, entity="patient")
    lengths = model.sample(60).groupby("series").size()
    assert lengths.between(1, WINDOW).all()
    assert list(model.sample(2)["patient"].unique()) == ["p40", "p41"]  # of nobody
    filled = model.impute(frame.assign(x=frame["x"].where(random.random(len(frame)) > 0.2)))
    assert filled["x"].notna().all()
    with pytest.raises(DataError, match="several series; forecast one at a time"):
        model.forecast(frame, 3)
    assert model.forecast(frame[frame["patient"] == "p1"], 3, n=4).samples.shape[0] == 12


# What cannot be done.


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros(30), r"shape \(30,\)"),
        (np.zeros((2, 3, 4, 5)), r"shape \(2, 3, 4, 5\)"),
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
        (np.zeros((30, 0)), r"shape \(30, 0\)"),
        ([], r"shape \(0,\)"),
        ([["a", "b"]] * 30, "expected real numbers"),
        (np.array([[1, None]] * 30), "dtype object; expected real numbers"),
        (np.ones((30, 2)) + 1j, "dtype complex128"),
        (rows() * np.nan, "every column is constant, empty"),
        (np.full((30, 2), np.inf), "has inf at index"),
        (rows() * 0, "every column is constant, empty"),
        (rows().reshape(15, 8, 3) * 0, "every column is constant, empty"),
        (np.full((15, 8, 3), np.nan), "every column is constant, empty"),
        (rows(7), "7 rows, fewer than one window of 8"),
        (rows(64).reshape(8, 8, 3), "8 windows are too few"),
        (pd.DataFrame({"x": range(40), "y": [{}] * 40}), "column 'y'"),
        (pd.DataFrame({"x": np.arange(40) * 1j}), "has dtype complex128"),
        (pd.DataFrame(), "has 0 rows of 0 columns"),
        ("no_such_file.csv", "does not exist"),
        (rows(40), "40 rows are too few for windows of 8 under protocol 'heldout'"),
    ],
)
def test_data_that_cannot_be_used(data, message):
    with pytest.raises(DataError, match=message):
        TimeLDM(window=WINDOW).fit(data)


def test_names_that_do_not_match():
    with pytest.raises(DataError, match="2 column names for 3 features"):
        TimeLDM(window=WINDOW).fit(rows(), columns=("a", "b"))
    frame = pd.DataFrame(rows(), columns=["a", "b", "b"])
    with pytest.raises(DataError, match="two columns are called 'b'"):
        TimeLDM(window=WINDOW).fit(frame)


def test_a_model_that_is_not_trained():
    model = TimeLDM()
    with pytest.raises(ValueError, match=r"not trained: call fit, or TimeLDM\.load"):
        model.sample(1)
    with pytest.raises(ValueError, match="not trained"):
        model.save("never")
    with pytest.raises(ValueError, match="not trained"):
        _ = model.columns
    assert not pathlib.Path("never").exists()


def test_a_failed_fit_leaves_the_model_untrained(tmp_path):
    model = TimeLDM(window=WINDOW)
    with pytest.raises(DataError):
        model.fit(rows(7), workdir=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="not trained"):
        model.sample(1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("count", [0, -5])
def test_a_count_below_one(model, count):
    with pytest.raises(ValueError, match=f"count={count} must be at least 1"):
        model.sample(count)


def test_the_commands_table_is_that_of_the_interface(tmp_path):
    """Whole numbers beyond 16 million, and decimals on a large offset, stay what they are."""
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "whole": random.integers(10**7, 10**8, 400),
            "fine": (1e9 + random.normal(size=400).cumsum()).round(3),
            "flag": random.random(400) < 0.5,
            "word": random.choice(["low", "high"], 400),
        }
    )
    table.loc[5:9, "fine"] = np.nan
    table.to_csv(tmp_path / "my.csv", index=False)
    config = c.base()
    c.apply_table(config)
    config.update_from_flattened_dict(SMALL)
    config.data.update(name="table", path=str(tmp_path / "my.csv"), window=WINDOW)
    config.sample.seed = 3
    workdir = Workdir(epath.Path(tmp_path / "run"))
    experiment.run_stages(config, workdir, ("vae", "ldm", "sample"))
    written = pd.read_csv(workdir.table)
    count = config.sample.count
    drawn = TimeLDM.load(workdir.root).sample(count, seed=3)
    assert len(written) == count * WINDOW
    assert (drawn["whole"].astype(np.float32) != drawn["whole"]).mean() > 0.5
    for name in ("series", "whole", "fine", "flag"):
        np.testing.assert_array_equal(written[name], drawn[name])
    assert drawn["fine"].between(1e9 - 1e3, 1e9 + 1e3).all()
    assert drawn["fine"].nunique() > 100


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda m, v: m.sample(v), "count"),
        (lambda m, v: m.sample(2, seed=v), "seed"),
        (lambda m, v: m.sample_series(v), "length"),
        (lambda m, v: m.sample_series(20, v), "seed"),
        (lambda m, v: m.sample_series(20, count=v), "count"),
        (lambda m, v: m.impute(rows(20), draws=v), "draws"),
        (lambda m, v: m.impute(rows(20), v), "seed"),
        (lambda m, v: m.forecast(rows(20), v), "horizon"),
        (lambda m, v: m.forecast(rows(20), 3, n=v), "n"),
        (lambda m, v: m.forecast(rows(20), 3, seed=v), "seed"),
        (lambda m, v: m.evaluate(count=v), "count"),
        (lambda m, v: m.evaluate(seed=v), "seed"),
        (lambda m, v: m.report("never.html", count=v), "count"),
        (lambda m, v: m.report("never.html", seed=v), "seed"),
    ],
)
def test_whole_numbers_are_wanted_by_name(model, call, name):
    for value in (1.5, 2.0, True, np.bool_(True), "24", [3], np.nan, np.float32(3)):
        with pytest.raises(TypeError, match=rf"{name}=.* of type .*; expected a whole number"):
            call(model, value)
    for value in (-1, np.int64(-5), *([2**32] if name == "seed" else [0])):
        with pytest.raises(ValueError, match=f"{name}={int(value)} must be at "):
            call(model, value)
    assert not pathlib.Path("never.html").exists()


def test_numpys_integers_are_whole_numbers(model):
    assert TimeLDM(window=np.int64(12))._config.data.window == 12
    for value in (2.5, "12", True):
        with pytest.raises(TypeError, match=r"window=.* expected a whole number"):
            TimeLDM(window=value)
    np.testing.assert_array_equal(
        model.sample(np.int32(3), seed=np.uint8(4)), model.sample(3, seed=4)
    )


def test_a_copy_of_a_model_keeps_its_folder():
    original = TimeLDM(config=tiny()).fit(rows(), columns=NAMES)
    expected = original.sample(3)
    copies = [copy.copy(original), copy.deepcopy(original), copy.copy(copy.copy(original))]
    folder = pathlib.Path(original._workdir.root)
    del original
    for one in copies:
        np.testing.assert_array_equal(one.sample(3), expected)
        np.testing.assert_array_equal(TimeLDM.load(folder).sample(3), expected)
    del copies, one
    assert not folder.exists()


def test_models_are_saved_and_not_pickled(model):
    for one in (model, TimeLDM()):
        with pytest.raises(TypeError, match=r"use save\(directory\) and TimeLDM\.load"):
            pickle.dumps(one)
        assert copy.deepcopy([one])[0] is not one


def test_a_wrong_recipe_is_refused_at_once():
    with pytest.raises(ConfigError, match=r"config\.data\.window=0 must be at least 2"):
        TimeLDM(window=0).fit(rows())
    config = tiny()
    config.vae.model.heads = 3
    with pytest.raises(ConfigError, match=r"heads=3 must divide config\.vae\.model\.width=8"):
        TimeLDM(config=config)


@pytest.mark.slow
def test_a_fitted_model_scores_itself_as_a_run_does(tmp_path):
    model = TimeLDM(config=tiny()).fit(rows(), columns=NAMES)
    scores = model.evaluate(seed=3)
    assert scores["windows"]["real"] == scores["windows"]["synthetic"] == 120 - WINDOW + 1
    assert scores["protocol"] == "paper"
    assert scores["columns"] == list(NAMES)
    assert set(scores["scores"]) == set(suite.SCORES)
    assert scores["fingerprint"]
    series = model._dataset.series
    real = series.windows(series.test)
    expected = suite.score(
        real,
        np.concatenate(list(model.generator.sample(len(real), 3))),
        NAMES,
        seed=3,
        evaluators=suite.Evaluators(2, 5, 5, 2, 8),
    )
    assert scores["scores"] == expected["scores"]
    assert model.evaluate(count=30)["windows"]["synthetic"] == 30


@pytest.mark.slow
def test_a_loaded_model_scores_itself_against_given_windows(tmp_path):
    TimeLDM(config=tiny()).fit(rows(), columns=NAMES).save(tmp_path / "m", report=False)
    model = TimeLDM.load(tmp_path / "m")
    for call in (model.evaluate, lambda: model.report(tmp_path / "r.html")):
        with pytest.raises(ValueError, match="has no data and was saved without"):
            call()
    real = np.stack([rows()[i : i + WINDOW] for i in range(100)])
    assert model.evaluate(real)["windows"]["real"] == 100
    real[..., 0] *= 0.01  # samples then lie far outside, which the report says by the column's name
    model.report(tmp_path / "out" / "r.html", real)
    assert "&lt;script&gt;" in (tmp_path / "out" / "r.html").read_text()
    with pytest.raises(DataError, match="they must be the same"):
        model.evaluate(real[:, :4])
    with pytest.raises(ValueError, match="not trained"):
        TimeLDM().evaluate(real)
