"""Tables that are read in batches: the same schema, scaler, rows and windows as read whole."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import quick
from etils import epath

from timeldm_jax import TimeLDM, experiment, recipe
from timeldm_jax import config as configuration
from timeldm_jax.data import batched, large, layout, parts, runs, stored, survey
from timeldm_jax.data import dataset as datasets
from timeldm_jax.data.large import Large
from timeldm_jax.data.table import Options
from timeldm_jax.errors import DataError
from timeldm_jax.loading import load_generator
from timeldm_jax.training import feed, state, steps
from timeldm_jax.workdir import Workdir


def hourly(rows, seed=0):
    """A table of one series, with gaps, words, flags and a heavy tail."""
    random = np.random.default_rng(seed)
    hours = np.arange(rows)
    frame = pd.DataFrame(
        {
            "time": pd.date_range("2023-01-01", periods=rows, freq="h"),
            "load": np.round(
                50 + 20 * np.sin(hours / 24 * 2 * np.pi) + random.normal(size=rows), 2
            ),
            "price": np.round(np.exp(1.5 * random.normal(size=rows)), 3),
            "count": random.integers(0, 900, rows),
            "state": random.choice(["on", "off", "idle"], rows),
            "flag": random.random(rows) < 0.3,
        }
    )
    frame.loc[random.random(rows) < 0.05, "load"] = np.nan
    return frame


def panel(series_count, rows, seed=0):
    """Series by name, with a static column, of lengths that differ."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(series_count):
        own = rows + int(random.integers(0, 20))
        start = pd.Timestamp("2023-01-01") + pd.Timedelta(days=int(random.integers(0, 9)))
        found.append(
            pd.DataFrame(
                {
                    "site": f"s{number:03d}",
                    "day": pd.date_range(start, periods=own, freq="D"),
                    "area": ["north", "south"][number % 2],
                    "level": np.round(random.normal(number % 5, 1, own), 2),
                }
            )
        )
    return pd.concat(found, ignore_index=True)


def write(folder, frame, cuts):
    """The table in several files."""
    folder.mkdir()
    for number, first in enumerate(cuts):
        last = [*cuts, len(frame)][number + 1]
        part = frame.iloc[first:last]
        part = part.reset_index(drop=True) if frame.index.name is None else part
        part.to_parquet(folder / f"{number:03d}.parquet", row_group_size=97)
    return str(folder)


def asked(path, cache, **settings):
    config = configuration.base()
    configuration.apply_table(config)
    config.data.path = path
    config.data.cache_dir = str(cache)
    config.update_from_flattened_dict({f"data.{key}": value for key, value in settings.items()})
    return config


def made(path, cache, **settings):
    """What is prepared of a table, and its data set."""
    config, given = datasets.take(asked(path, cache, **settings))
    prepared = datasets.prepare(given, config)
    is_large = isinstance(prepared, Large)
    config = recipe.choose_sizes(config, *prepared.sizes(), stored=is_large)
    config.data.stride = settings.get("stride", 1)
    return prepared, datasets.cut(prepared, config)


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(parts, "BATCH_ROWS", 131)


TABLES = {
    "hourly": (hourly(3_000), {"window": 12}),
    "future": (hourly(3_000), {"window": 12, "protocol": "future", "stride": 3}),
    "paper": (hourly(2_000).drop(columns="time"), {"window": 12, "protocol": "paper"}),
    "panel": (panel(30, 150), {"window": 10, "entity": "site"}),
    "whole series": (panel(30, 150), {"window": 10, "entity": "site", "split": "entity"}),
    "real names": (panel(6, 300), {"window": 10, "entity": "site", "entity_names": "real"}),
}


@pytest.mark.parametrize("name", TABLES)
def test_batches_give_what_the_whole_gives(tmp_path, small_batches, name):
    frame, settings = TABLES[name]
    path = write(tmp_path / "table", frame, [0, 400, 401, 1_500])
    whole, expected = made(path, tmp_path, placement="replicated", **settings)
    read, found = made(path, tmp_path, placement="streamed", **settings)
    assert isinstance(read, Large)
    assert not isinstance(whole, Large)
    assert read.schema == whole.schema
    assert np.array_equal(*(each.sizes()[0] for each in (read, whole)))
    assert found.scaler == expected.scaler
    schemas = [dataclasses.replace(each.schema, starts=None) for each in (found, expected)]
    assert schemas[0] == schemas[1]
    every = np.arange(len(frame))
    scaled = found.series.values.scaled(every)
    np.testing.assert_array_equal(scaled, expected.scaled())
    for part in ("train", "valid", "test"):
        own, of_whole = getattr(found.series, part), getattr(expected.series, part)
        assert np.array_equal(own[np.arange(len(own))], of_whole), part
    # A file holds float32: decimals and whole numbers come back exactly all the same.
    np.testing.assert_allclose(found.series.values[every], expected.series.values, rtol=1e-6)
    if expected.steps is not None:
        assert np.array_equal(found.steps[every], expected.steps)
        starts = np.asarray(expected.series.train[::7])
        for mine, other in zip(found.contexts(starts), expected.contexts(starts), strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-6)
        mine, other = (each.schema.starts for each in (found, expected))
        assert (mine.first, mine.last, mine.phases, mine.leads) == (
            other.first,
            other.last,
            other.phases,
            other.leads,
        )
        np.testing.assert_allclose(mine.mean, other.mean, rtol=1e-4, atol=1e-4)
    assert np.array_equal(
        found.series.position[every] - found.series.position[0], expected.series.position
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.set_index("time"),
        lambda frame: frame.assign(time=frame["time"].dt.strftime("%d/%m/%Y %H:%M")),
        lambda frame: frame.assign(time=pd.date_range("1900-01-01", periods=900, freq="MS")),
        lambda frame: frame.assign(
            time=frame["time"].dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin"),
            count=frame["count"].astype("Int64").mask(frame["flag"]),
            state=pd.Categorical(frame["state"], ["idle", "off", "on"], ordered=True),
        ),
        lambda frame: frame.assign(time=0.5 * np.arange(900), again=frame["count"], one=1),
    ],
)
def test_columns_of_any_kind_are_the_same_in_batches(tmp_path, small_batches, change):
    frame = change(hourly(900))
    path = write(tmp_path / "table", frame, [0, 400])
    whole, expected = made(path, tmp_path, placement="replicated", window=8)
    read, found = made(path, tmp_path, placement="streamed", window=8)
    assert read.schema == whole.schema
    assert found.scaler == expected.scaler
    scaled = found.series.values.scaled(np.arange(900))
    np.testing.assert_array_equal(scaled, expected.scaled())


TINY = {key: value for key, value in quick.SMALL.items() if key != "data.stride"} | {
    "vae.steps": 30,
    "ldm.steps": 30,
    "ldm.model.precision": "float32",  # bfloat16 may round elsewhere in another program
    "evaluate.repeats": 2,
    "evaluate.discriminative_steps": 5,
    "evaluate.predictive_steps": 5,
    "evaluate.context_fid_steps": 2,
    "evaluate.trees": 8,
}


def trained(path, cache, workdir, *, names=("vae", "ldm"), **settings):
    """The generator of a run."""
    config = asked(path, cache, **settings)
    config.update_from_flattened_dict(TINY)
    config.data.stride = 1
    started = experiment.start(config, Workdir(epath.Path(workdir)), names)
    experiment.run(started, names)
    return load_generator(started.workdir)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hourly", "panel"])
def test_training_on_what_is_sent_is_training_on_what_is_held(tmp_path, small_batches, name):
    """The same windows in the same order: weights agree as far as compilers let them."""
    frame, settings = TABLES[name]
    path = write(tmp_path / "table", frame, [0, 400, 1_500])
    held, sent = (
        trained(path, tmp_path, tmp_path / placement, placement=placement, **settings)
        for placement in ("replicated", "streamed")
    )
    for part in ("vae_params", "ldm_params"):
        chex.assert_trees_all_close(getattr(held, part), getattr(sent, part), atol=2e-6, rtol=1e-5)
    chex.assert_trees_all_close(held.stats, sent.stats, atol=1e-5, rtol=1e-4)
    assert held.meta["scaler"] == sent.meta["scaler"]
    samples = [np.concatenate(list(each.sample(20, 0))) for each in (held, sent)]
    np.testing.assert_allclose(*samples, rtol=1e-3, atol=0.011)


def test_a_chunk_holds_the_windows_that_a_step_would_find(tmp_path):
    """Numbers on the host are those of `epoch_order`, whatever the chunks, across epochs."""
    train = state.TrainState(
        jnp.int32(0), (), (), (), (), (), jax.random.key_data(jax.random.key(3))
    )
    starts = runs.of_lengths(np.array([0, 1_000]), np.array([37, 20]))
    for beside in (0, 1):
        fed = feed.Feed(lambda at: at[..., None], starts, steps.Batch(16), beside)
        key = np.asarray(train.key)
        for first, length in ((0, 5), (5, 3), (1_000_000, 2)):
            found = np.asarray(fed.chunk(key, first, length).each)[..., 0]
            for place in range(length):
                at = train._replace(step=jnp.int32(first + place))
                own = state.epoch_order(at, jnp.arange(16), 16, 57)
                expected = starts[np.asarray(own)]
                assert found[place, :16].tolist() == expected.tolist()
                assert found[place, 16:].tolist() == expected[:beside].tolist()
        parts = [(0, 5), (5, 3)]
        ahead = [np.asarray(each.each) for each in fed.chunks(key, iter(parts))]
        whole = np.asarray(fed.chunk(key, 0, 8).each)
        np.testing.assert_array_equal(np.concatenate(ahead), whole)


def test_chunks_fit_in_memory():
    assert feed.within_memory(50, feed.CHUNK_BYTES // 50) == 50
    assert feed.within_memory(50, feed.CHUNK_BYTES // 30) == 25
    assert feed.within_memory(50, 2 * feed.CHUNK_BYTES) == 1


def test_what_single_rows_show_is_found(tmp_path, small_batches, monkeypatch):
    """Ends, rare words, gaps, decimals: exact, where the sample is a fiftieth of the rows."""
    frame = hourly(20_000).drop(columns="time")  # times of windows take long to learn
    frame["level"] = np.round(np.sin(np.arange(20_000)), 1)
    frame.loc[[70, 15_001], "load"] = [-300.25, 900.5]
    frame.loc[[7_777, 12_000], "level"] = [0.123, 0.456]
    frame.loc[[4_000, 4_001], "state"] = "broken"
    frame.loc[[13_000], "price"] = np.nan
    path = write(tmp_path / "table", frame, [0, 9_000])
    whole, _ = made(path, tmp_path, placement="replicated", protocol="paper")
    monkeypatch.setattr(survey, "MOST_ROWS", 400)
    monkeypatch.setattr(large, "STRETCHES", 4)
    monkeypatch.setattr(large, "STRETCH_ROWS", 200)
    read, found = made(path, tmp_path, placement="streamed", protocol="paper")
    assert len(read.sample.rows) < 700
    for mine, other in zip(read.schema.columns, whole.schema.columns, strict=True):
        for field in (
            "name",
            "kind",
            "dtype",
            "low",
            "high",
            "smallest",
            "largest",
            "categories",
            "missing",
            "decimals",
            "static",
            "gaps_of",
        ):
            assert getattr(mine, field) == getattr(other, field), (mine.name, field)
    scaled = found.series.values.scaled(np.arange(20_000))
    assert np.nanmin(scaled) >= 0
    assert np.nanmax(scaled[:, :3]) <= 1 + 1e-6


def test_a_sample_is_one_row_of_each_stretch():
    for of, stretch in ((1_000, 7), (1_000, 1), (64, 64), (5, 10)):
        every = survey.sampled(0, of, of, stretch)
        assert len(every) == -(-of // stretch)
        assert np.array_equal(every // stretch, np.arange(len(every)))
        cut = [
            first + survey.sampled(first, min(13, of - first), of, stretch)
            for first in range(0, of, 13)
        ]
        assert np.array_equal(np.concatenate(cut), every)
    # No period of the rows is that of the sample.
    hours = np.bincount(survey.sampled(0, 240_000, 240_000, 48) % 24, minlength=24)
    assert hours.min() > 120


def test_a_static_column_stays_so_where_the_sample_has_one_row_a_series(
    tmp_path, small_batches, monkeypatch
):
    frame = panel(200, 30)
    path = write(tmp_path / "table", frame, [0, 2_000])
    whole, _ = made(path, tmp_path, placement="replicated", entity="site", window=5)
    monkeypatch.setattr(survey, "MOST_ROWS", 150)
    monkeypatch.setattr(large, "STRETCHES", 3)
    monkeypatch.setattr(large, "STRETCH_ROWS", 200)
    read, _ = made(path, tmp_path, placement="streamed", entity="site", window=5)
    assert [c.static for c in read.schema.columns] == [True, False]
    assert read.schema.ids == whole.schema.ids
    assert read.schema.clock == whole.schema.clock
    assert read.layout.lengths().tolist() == whole.sizes()[0].tolist()


def test_a_number_looked_up_is_that_of_the_array():
    sequence = runs.of_lengths(np.array([5, 100, 90]), np.array([3, 0, 4]))
    array = np.array([5, 6, 7, 90, 91, 92, 93])
    assert np.array_equal(sequence[:], array)
    assert np.array_equal(sequence[np.array([[6, 0], [3, 2]])], [[93, 5], [90, 7]])
    assert np.array_equal(sequence.every(2)[:], array[::2])
    assert len(sequence.every(3)) == len(array[::3])
    assert np.array_equal(sequence.covered(3)[:], [5, 6, 7, 8, 9, 90, 91, 92, 93, 94, 95])
    assert np.array_equal(runs.evenly(sequence, 3), array[[0, 3, 6]])


def test_a_billion_windows_are_a_few_numbers():
    found = layout.split(layout.one_series(10**9), 24, "heldout")
    assert len(found.train.first) == 16
    assert len(found.train) == 750_000_000 - 16 * 23
    assert found.train[np.array([len(found.train) - 1])] == 10**9 - 24


def test_stored_rows_are_trusted_only_whole(tmp_path, caplog):
    frame = hourly(500)
    path = write(tmp_path / "table", frame, [0])
    settings = {"placement": "streamed", "window": 6}
    _, first = made(path, tmp_path / "cache", **settings)
    file = first.series.values.path
    written = file.stat().st_mtime_ns
    _, again = made(path, tmp_path / "cache", **settings)
    assert file.stat().st_mtime_ns == written  # read, not made again
    assert again.series.fingerprint() == first.series.fingerprint()
    content = bytearray(file.read_bytes())
    content[1_234] ^= 1
    file.write_bytes(content)
    _, mended = made(path, tmp_path / "cache", **settings)
    assert "is damaged; it is made again" in caplog.text
    assert mended.series.fingerprint() == first.series.fingerprint()
    file.with_name(stored.NOTE).unlink()  # as a kill before the end leaves it
    _, mended = made(path, tmp_path / "cache", **settings)
    assert mended.series.fingerprint() == first.series.fingerprint()
    frame.loc[3, "load"] += 1  # the file is as long as before, and may be of the same second
    frame.to_parquet(f"{path}/000.parquet", row_group_size=97)
    _, other = made(path, tmp_path / "cache", **settings)
    assert other.series.fingerprint() != first.series.fingerprint()


def shuffled(frame):
    return frame.sample(frac=1, random_state=0).reset_index(drop=True)


@pytest.mark.parametrize(
    ("frame", "settings", "message"),
    [
        (
            hourly(300),
            {"irregular": "resample"},
            "no irregular=.resample.; placement=.repl",
        ),
        (hourly(300), {"schema": '{"rules": ["count <= load"]}'}, "there is no rules between"),
        (hourly(300).drop(index=[100, 101]), {}, "not evenly spaced|3 steps after the row before"),
        (shuffled(panel(4, 80)), {"entity": "site"}, "must be in order of time|do not stand side"),
        (
            pd.concat([panel(2, 80), panel(2, 80)], ignore_index=True).drop(columns="day"),
            {"entity": "site"},
            "series s000 do not stand side by side; .* sorted by its entity",
        ),
    ],
)
def test_what_batches_cannot_have_is_said(tmp_path, small_batches, frame, settings, message):
    path = write(tmp_path / "table", frame.reset_index(drop=True), [0, 150])
    with pytest.raises(DataError, match=message):
        made(path, tmp_path, placement="streamed", window=5, **settings)


def test_rows_in_order_but_uneven_are_taken_for_steps(tmp_path, small_batches):
    frame = hourly(3_000).drop(index=[1_000, 1_001, 2_000]).reset_index(drop=True)
    path = write(tmp_path / "table", frame, [0, 900])
    settings = {"irregular": "sort", "window": 6, "protocol": "paper"}
    _, expected = made(path, tmp_path, placement="replicated", **settings)
    _, found = made(path, tmp_path, placement="streamed", **settings)
    assert np.array_equal(found.steps[np.arange(len(frame))], expected.steps)
    assert np.array_equal(found.series.train[:], expected.series.train)


def test_size_decides(tmp_path, monkeypatch):
    path = write(tmp_path / "table", hourly(300), [0, 100])

    def found(placement):
        return batched.large(path, placement, tmp_path, Options())

    assert found("auto") is None
    monkeypatch.setattr(batched, "MOST_CELLS", 1_700)
    assert found("auto").rows == 300
    assert found("replicated") is None
    with pytest.raises(DataError, match="placement='streamed' is not read for a table in memory"):
        TimeLDM(window=6).fit(hourly(300), placement="streamed")


def test_a_jump_between_stretches_is_no_doubt(tmp_path, monkeypatch):
    monkeypatch.setattr(large, "STRETCHES", 3)
    monkeypatch.setattr(large, "STRETCH_ROWS", 200)
    path = write(tmp_path / "table", hourly(2_000), [0])
    assert not TimeLDM(window=6).describe(path, placement="streamed").doubts


def test_a_table_of_millions_of_rows_is_not_thinned():
    config = asked("x", "y")
    rows, held = np.array([10_000_000]), recipe.choose_sizes
    assert held(config, rows, 8).data.stride == 100
    assert held(config, rows, 8, stored=True).data.stride == 1
    assert held(config, rows, 8, stored=True).vae.model.latent == 8
