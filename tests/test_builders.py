"""The TFDS cache: exact round trips, and what happens when anything goes wrong with it."""

import hashlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from timeldm_jax.data import builders, cache, simulators, sources
from timeldm_jax.data.sources import FileSpec
from timeldm_jax.errors import DataError

SMALL = {"window": 12, "count": 30, "test_count": 20, "valid_count": 10}
ROOT = pathlib.Path(__file__).resolve().parents[1]
DATA_DIR = pathlib.Path(os.environ.get("TIMELDM_DATA_DIR") or ROOT.parent / "shared" / "data")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No settings from outside, and no network: a connection attempt fails the test."""

    def connect(self, address):
        pytest.fail(f"tried to reach {address}")

    monkeypatch.delenv(sources.DATA_DIR_VARIABLE, raising=False)
    monkeypatch.delenv(cache.CACHE_DIR_VARIABLE, raising=False)
    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """A public file of our own, `toy`, in the folder `tmp_path / "data"`."""
    values = np.random.default_rng(0).normal(size=(50, 2))
    text = "\n".join(["date,a,b", *(f"x,{a!r},{b!r}" for a, b in values.tolist())])
    path = tmp_path / "data" / "toy.csv"
    path.parent.mkdir()
    path.write_text(text)
    spec = FileSpec(
        name="stocks",
        filename="toy.csv",
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        urls=("https://example.invalid/toy.csv",),
        columns=("a", "b"),
        rows=50,
        drop=("date",),
    )
    monkeypatch.setitem(sources.FILES, "stocks", spec)
    return path, values


def load_toy(tmp_path, data_dir="data"):
    data_dir = data_dir and str(tmp_path / data_dir)
    return builders.load_table("stocks", data_dir=data_dir, cache_dir=str(tmp_path / "cache"))


def load_small(cache, name="sines"):
    return builders.load_trajectories(name, **SMALL, cache_dir=str(cache))


def forbid(monkeypatch):
    """Makes any preparation fail."""

    def fail(*args):
        raise AssertionError("prepared again")

    monkeypatch.setattr(builders, "SIMULATORS", {"sines": fail, "mujoco": fail})
    monkeypatch.setattr(sources, "read_file", fail)


# Round trips.


@pytest.mark.parametrize("name", ["sines", "mujoco"])
def test_trajectories_come_back_bit_for_bit_in_order(name, tmp_path, monkeypatch):
    if name == "mujoco":
        pytest.importorskip("mujoco", reason="mujoco is not installed: pip install '.[mujoco]'")
    simulate = builders.SIMULATORS[name]
    first = load_small(tmp_path, name)
    forbid(monkeypatch)
    second = load_small(tmp_path, name)
    for loaded in (first, second):
        for split, count in (("train", 30), ("valid", 10), ("test", 20)):
            values = getattr(loaded, split)
            assert values.dtype == np.float64
            np.testing.assert_array_equal(values, simulate(count, 12, builders.SEEDS[split]))
        assert loaded.columns == builders.COLUMNS[name]
        assert len(loaded.columns) == loaded.train.shape[2]


def test_train_split_of_hopper_is_the_published_set():
    assert builders.SEEDS["train"] == 123
    assert len(set(builders.SEEDS.values())) == 3


def test_more_trajectories_than_a_block_of_the_file_keep_their_order(tmp_path, monkeypatch):
    numbered = np.arange(3000.0)[:, None, None] + np.zeros((1, 4, 5))
    monkeypatch.setitem(builders.SIMULATORS, "sines", lambda n, window, seed: numbered[:n] + seed)
    loaded = builders.load_trajectories(
        "sines", window=4, count=3000, test_count=1, valid_count=1, cache_dir=str(tmp_path)
    )
    np.testing.assert_array_equal(loaded.train, numbered + builders.SEEDS["train"])


def test_each_window_and_count_has_its_own_cache(tmp_path):
    load_small(tmp_path)
    for change in ({"window": 13}, {"count": 31}, {"test_count": 21}, {"valid_count": 11}):
        size = {**SMALL, **change}
        loaded = builders.load_trajectories("sines", **size, cache_dir=str(tmp_path))
        assert loaded.train.shape == (size["count"], size["window"], 5)
        assert loaded.test.shape == (size["test_count"], size["window"], 5)
        assert loaded.valid.shape == (size["valid_count"], size["window"], 5)
    assert len(list((tmp_path / "timeldm_trajectories").iterdir())) == 5


@pytest.mark.parametrize("name", ["stocks", "etth", "fmri", "energy"])
def test_real_table_comes_back_bit_for_bit(name, tmp_path, monkeypatch):
    spec = sources.FILES[name]
    path = DATA_DIR / spec.filename
    if not path.is_file():
        pytest.skip(f"no {path}: set TIMELDM_DATA_DIR to the folder with the real files")
    expected = sources.read_file(spec, path)
    first = builders.load_table(name, data_dir=str(DATA_DIR), cache_dir=str(tmp_path))
    forbid(monkeypatch)
    second = builders.load_table(name, data_dir=None, cache_dir=str(tmp_path))
    for table in (first, second):
        np.testing.assert_array_equal(table.values, expected)
        assert table.values.dtype == np.float64
        assert table.columns == spec.columns


# Source files.


def test_prepared_table_needs_no_file(toy, tmp_path, monkeypatch):
    path, values = toy
    np.testing.assert_array_equal(load_toy(tmp_path).values, values)
    path.unlink()
    forbid(monkeypatch)
    np.testing.assert_array_equal(load_toy(tmp_path).values, values)
    np.testing.assert_array_equal(load_toy(tmp_path, data_dir=None).values, values)


def test_changed_file_is_an_error_although_prepared(toy, tmp_path):
    path, _ = toy
    load_toy(tmp_path)
    path.write_text(path.read_text() + "\nx,1,2")
    with pytest.raises(DataError, match="is not the file of data set 'stocks'"):
        load_toy(tmp_path)


def test_new_version_of_a_file_is_prepared_anew(toy, tmp_path, monkeypatch):
    path, values = toy
    load_toy(tmp_path)
    path.write_text("date,a,b\nx,5,6")
    spec = sources.FILES["stocks"]
    changed = FileSpec(**{**vars(spec), "sha256": sources.sha256_of(path), "rows": 1})
    monkeypatch.setitem(sources.FILES, "stocks", changed)
    np.testing.assert_array_equal(load_toy(tmp_path).values, [[5.0, 6.0]])
    monkeypatch.setitem(sources.FILES, "stocks", spec)
    np.testing.assert_array_equal(load_toy(tmp_path, data_dir=None).values, values)


def test_file_that_cannot_be_had(toy, tmp_path, monkeypatch):
    def unreachable(request, timeout):
        raise OSError("network is unreachable")

    monkeypatch.setattr(sources.urllib.request, "urlopen", unreachable)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="network is unreachable") as e:
        load_toy(tmp_path, data_dir="empty")
    assert sources.FILES["stocks"].sha256 in str(e.value)
    assert str(tmp_path / "empty") in str(e.value)
    np.testing.assert_array_equal(load_toy(tmp_path).values, toy[1])  # and no half state is left


def test_fault_in_a_file_passes_through_and_leaves_nothing(toy, tmp_path, monkeypatch):
    path, _ = toy
    path.write_text("date,a,b\nx,1,oops\n")
    spec = FileSpec(**{**vars(sources.FILES["stocks"]), "sha256": sources.sha256_of(path)})
    monkeypatch.setitem(sources.FILES, "stocks", spec)
    for _ in range(2):
        with pytest.raises(DataError, match="line 2, column 'b' holds 'oops'"):
            load_toy(tmp_path)


def test_missing_mujoco_passes_through(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(DataError, match=r"pip install 'timeldm_jax\[mujoco\]'"):
        load_small(tmp_path, "mujoco")


# Bad requests.


def test_unknown_names():
    with pytest.raises(DataError, match="no data set 'sines' here; there are stocks, etth, fmri"):
        builders.load_table("sines", data_dir=None, cache_dir=None)
    with pytest.raises(DataError, match="no data set 'hopper' here; there are sines, mujoco"):
        builders.load_trajectories("hopper", **SMALL)
    assert set(builders.REAL) == set(sources.FILES)
    assert set(builders.SIMULATED) == set(builders.SIMULATORS) == set(builders.COLUMNS)


@pytest.mark.parametrize(
    "change", [{"window": 1}, {"count": 0}, {"test_count": -1}, {"valid_count": 0}]
)
def test_sizes_too_small(change, tmp_path):
    with pytest.raises(DataError, match="a window needs 2 steps or more, and each count"):
        builders.load_trajectories("sines", **{**SMALL, **change}, cache_dir=str(tmp_path))


# The cache folder.


def test_default_cache_dir(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache.default_cache_dir() == pathlib.Path("/home/someone/.cache/timeldm_jax")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache.default_cache_dir() == pathlib.Path("/xdg/timeldm_jax")
    monkeypatch.setenv(cache.CACHE_DIR_VARIABLE, str(tmp_path / "named"))
    assert cache.default_cache_dir() == tmp_path / "named"
    builders.load_trajectories("sines", **SMALL)
    assert (tmp_path / "named" / "timeldm_trajectories").is_dir()


def test_says_one_line_when_it_prepares_and_none_when_it_reads(tmp_path, capfd):
    load_small(tmp_path)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"preparing sines: 60 trajectories of 12 steps (once, into {tmp_path})\n"
    load_small(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write prepared data to .*TIMELDM_CACHE_DIR"):
        load_small(tmp_path / "file" / "cache")


def test_prepared_cache_is_read_without_a_lock(tmp_path, monkeypatch):
    load_small(tmp_path)

    def refuse(*args):
        raise OSError("read-only file system")

    monkeypatch.setattr(builders, "FileLock", refuse)
    load_small(tmp_path)


def truncate_half(folder):
    file = next(folder.glob("*train.array_record*"))
    os.truncate(file, file.stat().st_size // 2)


def flip_a_bit(folder):
    file = next(folder.glob("*test.array_record*"))
    content = bytearray(file.read_bytes())
    content[content.index(b"values") + 200] ^= 1
    file.write_bytes(content)


def remove_a_split(folder):
    next(folder.glob("*valid.array_record*")).unlink()


def empty_the_index(folder):
    (folder / "dataset_info.json").write_text("")


def remove_the_index(folder):
    (folder / "dataset_info.json").unlink()


def remove_all(folder):
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    "damage",
    [truncate_half, flip_a_bit, remove_a_split, empty_the_index, remove_the_index, remove_all],
)
def test_damaged_cache_names_the_folder_to_delete(damage, tmp_path):
    expected = load_small(tmp_path)
    folder = tmp_path / "timeldm_trajectories" / "sines-w12-n30-v10-t20" / "1.0.0"
    damage(folder)
    with pytest.raises(DataError, match="is damaged") as e:
        load_small(tmp_path)
    assert f"{folder} is damaged" in str(e.value)
    assert "delete that folder" in str(e.value)
    shutil.rmtree(folder)
    np.testing.assert_array_equal(load_small(tmp_path).test, expected.test)


# Several processes.

LOADER = """
import os, signal, sys, time
from timeldm_jax.data import builders, simulators, sources
cache, what = sys.argv[1:]
def slow(count, window, seed):
    with open(cache + "/simulated", "a") as log:
        log.write(f"{os.getpid()}\\n")
    if what == "die" and seed == builders.SEEDS["test"]:
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "race":
        time.sleep(0.5)
    return simulators.simulate_sines(count, window, seed)
builders.SIMULATORS["sines"] = slow
loaded = builders.load_trajectories("sines", window=12, count=30, test_count=20, valid_count=10,
                                    cache_dir=cache)
print(loaded.train.sum(), loaded.valid.sum(), loaded.test.sum())
"""


def start_loader(cache, what):
    return subprocess.Popen(
        [sys.executable, "-c", LOADER, str(cache), what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_two_processes_at_once_prepare_once(tmp_path):
    processes = [start_loader(tmp_path, "race") for _ in range(2)]
    results = [(*p.communicate(timeout=60), p.returncode) for p in processes]
    assert [r[2] for r in results] == [0, 0], results
    assert results[0][0] == results[1][0]
    simulated = (tmp_path / "simulated").read_text().split()
    assert len(simulated) == 3  # three splits, ...
    assert len(set(simulated)) == 1  # ... by one of the two


def test_process_killed_half_way_leaves_nothing_that_counts(tmp_path, monkeypatch):
    process = start_loader(tmp_path, "die")
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, err
    parent = tmp_path / "timeldm_trajectories" / "sines-w12-n30-v10-t20"
    assert [p.name.split(".")[0] for p in parent.iterdir()] == ["incomplete"]
    loaded = load_small(tmp_path)
    np.testing.assert_array_equal(loaded.test, simulators.simulate_sines(20, 12, 125))
    assert [p.name for p in parent.iterdir()] == ["1.0.0"]
    forbid(monkeypatch)
    load_small(tmp_path)
