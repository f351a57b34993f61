"""The six raw sets: simulators against an oracle, files against their hashes, every bad input."""

import dataclasses
import hashlib
import io
import os
import pathlib
import sys
import tarfile
import urllib.error
import urllib.request

import numpy as np
import pytest

from timeldm_jax.data import simulators, sources
from timeldm_jax.data.sources import FILES, FileSpec
from timeldm_jax.errors import DataError

DATA_DIR = pathlib.Path(
    os.environ.get("TIMELDM_DATA_DIR")
    or pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
)


def real_file(name):
    path = DATA_DIR / FILES[name].filename
    if not path.is_file():
        pytest.skip(f"no {path}: set TIMELDM_DATA_DIR to the folder with the real files")
    return path


@pytest.fixture(autouse=True)
def no_data_dir(monkeypatch):
    monkeypatch.delenv(sources.DATA_DIR_VARIABLE, raising=False)


# Sines.


def test_sines_are_sines_of_constant_frequency_and_phase():
    waves = 2.0 * simulators.simulate_sines(200, 50, seed=3) - 1.0
    # sin(a + f) + sin(a - f) = 2 cos(f) sin(a) holds at every step of a sine, and of nothing else.
    ratio = (waves[:, 2:] + waves[:, :-2]) / (2.0 * waves[:, 1:-1])
    frequency = np.arccos(np.clip(ratio[:, -1], -1.0, 1.0))
    phase = np.arcsin(waves[:, 0])
    time = np.arange(50)[:, None]
    rebuilt = np.sin(frequency[:, None] * time + phase[:, None])
    # arccos loses digits near frequency 0, and the error grows with time.
    np.testing.assert_allclose(rebuilt, waves, atol=2e-5)
    assert frequency.min() >= -1e-6
    assert frequency.max() <= 0.1 + 1e-6
    assert phase.min() >= 0.0
    assert phase.max() <= 0.1 + 1e-12


def test_sines_draw_frequency_and_phase_uniformly_and_apart():
    waves = 2.0 * simulators.simulate_sines(20_000, 2, seed=0) - 1.0
    phase = np.arcsin(waves[:, 0])
    frequency = np.arcsin(waves[:, 1]) - phase  # f + p <= 0.2, so arcsin is exact
    for draws in (frequency, phase):
        # Five standard errors of a mean and a variance of 100,000 draws from U(0, 0.1).
        assert abs(draws.mean() - 0.05) < 5 * 0.1 / np.sqrt(12 * draws.size)
        assert abs(draws.var() / (0.01 / 12) - 1) < 5 * np.sqrt(0.8 / draws.size)
        assert abs(np.quantile(draws, 0.25) - 0.025) < 1e-3
    columns = np.concatenate([frequency, phase], axis=1)
    assert np.abs(np.corrcoef(columns.T) - np.eye(10)).max() < 5 / np.sqrt(len(columns))


def test_sines_follow_the_seed():
    first = simulators.simulate_sines(7, 24, seed=1)
    assert first.shape == (7, 24, 5)
    assert first.dtype == np.float64
    np.testing.assert_array_equal(first, simulators.simulate_sines(7, 24, seed=1))
    assert not np.array_equal(first, simulators.simulate_sines(7, 24, seed=2))


# Hopper.


def hopper_through_dm_control(count, window, seed):
    """The published recipe, as published: through dm_control, three draws a trajectory."""
    pytest.importorskip("dm_control", reason="dm_control is not installed: pip install '.[mujoco]'")
    os.environ.setdefault("MUJOCO_GL", "disable")
    from dm_control import suite

    random = np.random.RandomState(seed)
    physics = suite.load("hopper", "stand").physics
    states = np.zeros((count, window, 14))
    for trajectory in states:
        with physics.reset_context():
            physics.data.qpos[:2] = random.uniform(0.0, 0.5, size=2)
            physics.data.qpos[2:] = random.uniform(-2.0, 2.0, size=5)
            physics.data.qvel[:] = random.uniform(-5.0, 5.0, size=7)
        for state in trajectory:
            state[:7] = physics.data.qpos
            state[7:] = physics.data.qvel
            physics.step()
    return states


@pytest.mark.parametrize(("count", "window", "seed"), [(40, 24, 123), (3, 400, 5)])
def test_hopper_is_bitwise_what_dm_control_gives(count, window, seed):
    expected = hopper_through_dm_control(count, window, seed)
    np.testing.assert_array_equal(simulators.simulate_hopper(count, window, seed), expected)


def test_hopper_longer_runs_extend_shorter_ones():
    pytest.importorskip("mujoco", reason="mujoco is not installed: pip install '.[mujoco]'")
    long = simulators.simulate_hopper(6, 48, seed=9)
    assert long.shape == (6, 48, 14)
    assert len(simulators.HOPPER_COLUMNS) == 14
    np.testing.assert_array_equal(simulators.simulate_hopper(4, 24, seed=9), long[:4, :24])
    assert not np.array_equal(long, simulators.simulate_hopper(6, 48, seed=10))


def test_hopper_without_mujoco_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(DataError, match=r"mujoco is not installed.*'timeldm_jax\[mujoco\]'"):
        simulators.simulate_hopper(1, 2, seed=0)


def test_hopper_without_dm_control_says_what_to_install(monkeypatch):
    pytest.importorskip("mujoco", reason="mujoco is not installed: pip install '.[mujoco]'")
    monkeypatch.setattr(simulators.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"dm_control is not installed.*'timeldm_jax\[mujoco\]'"):
        simulators.simulate_hopper(1, 2, seed=0)


# Real files.


@pytest.mark.parametrize("name", ["stocks", "etth", "fmri", "energy"])
def test_real_file_is_the_known_one(name, tmp_path):
    spec = FILES[name]
    real_file(name)
    path = sources.find_file(spec, str(DATA_DIR), tmp_path)
    values = sources.read_file(spec, path)
    assert values.shape == (spec.rows, len(spec.columns))
    assert values.dtype == np.float64
    assert values.flags.c_contiguous


def test_real_values_are_those_of_the_file():
    stocks = sources.read_file(FILES["stocks"], real_file("stocks"))
    np.testing.assert_array_equal(
        stocks[0], [49.676899, 51.693783, 47.669952, 49.845802, 49.845802, 44994500.0]
    )
    etth = sources.read_file(FILES["etth"], real_file("etth"))
    np.testing.assert_array_equal(etth[0, [0, 6]], [5.827000141143799, 30.5310001373291])


def test_data_dir_from_the_environment(monkeypatch, tmp_path):
    path = real_file("stocks")
    monkeypatch.setenv(sources.DATA_DIR_VARIABLE, str(DATA_DIR))
    assert sources.find_file(FILES["stocks"], None, tmp_path) == path


def test_benchmark_tables_have_the_published_sizes():
    sizes = {spec.name: (spec.rows - 23, len(spec.columns)) for spec in FILES.values()}
    expected = {"stocks": (3662, 6), "etth": (17397, 7), "fmri": (9977, 50), "energy": (19712, 28)}
    assert sizes == expected


# Finding and downloading.

CONTENT = b"a,b\n1,2\n3,4\n"
SPEC = FileSpec(
    name="toy",
    filename="toy.csv",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    urls=("https://one.example/toy.csv", "https://two.example/toy.tar.gz"),
    columns=("a", "b"),
    rows=2,
)


def archive_of(name, content):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, data in (("sims/other.csv", b"x"), (name, content)):
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def web(monkeypatch):
    """Stands in for the network: a dict of address to content or exception; records requests."""
    answers, asked = {}, []

    def urlopen(request, timeout):
        assert timeout > 0
        asked.append(request.full_url)
        answer = answers.get(request.full_url, urllib.error.URLError("no route to host"))
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(answer)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    answers["asked"] = asked
    return answers


def test_download_then_reuse(web, tmp_path):
    web[SPEC.urls[0]] = CONTENT
    path = sources.find_file(SPEC, None, tmp_path / "new")
    assert path == tmp_path / "new" / "toy.csv"
    assert path.read_bytes() == CONTENT
    assert sources.find_file(SPEC, None, tmp_path / "new") == path
    assert web["asked"] == [SPEC.urls[0]]
    assert os.listdir(path.parent) == ["toy.csv"]


def test_download_takes_the_member_of_an_archive(web, tmp_path):
    web[SPEC.urls[1]] = archive_of("sims/toy.csv", CONTENT)
    assert sources.find_file(SPEC, None, tmp_path).read_bytes() == CONTENT
    assert web["asked"] == list(SPEC.urls)


def test_data_dir_comes_before_the_download(web, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "toy.csv").write_bytes(CONTENT)
    assert sources.find_file(SPEC, str(own), tmp_path / "down") == own / "toy.csv"
    assert web["asked"] == []


def test_no_network_says_where_to_put_which_file(web, tmp_path):
    with pytest.raises(DataError) as e:
        sources.find_file(SPEC, None, tmp_path)
    for part in (*SPEC.urls, str(tmp_path), "toy.csv", SPEC.sha256, "no route to host", "'toy'"):
        assert part in str(e.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (TimeoutError("timed out"), b"not gzip", "ReadError"),
        (
            CONTENT[:-1],
            archive_of("sims/toy.csv", CONTENT)[:60],
            "(?s)has SHA-256.*EOFError|ReadError",
        ),
        (b"", archive_of("sims/elsewhere.csv", CONTENT), "the archive has no member toy.csv"),
        (b"<html>", archive_of("toy.csv", b"changed"), hashlib.sha256(b"changed").hexdigest()),
    ],
    # Archives hold the time, so as ids they would differ between pytest's workers.
    ids=("no archive", "cut short", "no such member", "changed"),
)
def test_bad_downloads_are_not_trusted(web, tmp_path, first, second, reason):
    web[SPEC.urls[0]], web[SPEC.urls[1]] = first, second
    with pytest.raises(DataError, match=reason):
        sources.find_file(SPEC, None, tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("where", ["own", "down"])
def test_wrong_local_file_is_an_error_and_not_replaced(web, tmp_path, where):
    for folder in ("own", "down"):
        (tmp_path / folder).mkdir()
    bad = tmp_path / where / "toy.csv"
    bad.write_bytes(b"a,b\n1,2\n3,5\n")
    with pytest.raises(DataError) as e:
        sources.find_file(SPEC, str(tmp_path / "own"), tmp_path / "down")
    found = hashlib.sha256(bad.read_bytes()).hexdigest()
    for part in (str(bad), SPEC.sha256, found, SPEC.urls[0], "Delete it"):
        assert part in str(e.value)
    assert web["asked"] == []


def test_missing_data_dir_is_an_error(web, tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist; correct config\.data\.dir"):
        sources.find_file(SPEC, str(tmp_path / "nowhere"), tmp_path)
    assert web["asked"] == []


def test_download_dir_that_cannot_be_made(web, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"FileExistsError|NotADirectoryError"):
        sources.find_file(SPEC, None, tmp_path / "file" / "down")


# Tables.


def table(tmp_path, text, columns=("a", "b"), drop=()):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return sources.read_table(path, columns, drop)


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n3,4\n",
        "a,b\r\n1,2\r\n\r\n3,4\r\n\r\n",
        "\ufeffa,b\n1,2\n3,4",
        '"a", b\n"1", 2 \n3,4e0\n',
        "b,day,a\n2,x,1\n4,,3\n",
    ],
)
def test_table_is_read(tmp_path, text):
    values = table(tmp_path, text, drop=("day",))
    np.testing.assert_array_equal(values, [[1.0, 2.0], [3.0, 4.0]])
    assert values.dtype == np.float64


def test_table_is_exact_to_the_last_bit(tmp_path):
    values = np.random.default_rng(0).normal(size=(500, 2)) * 10.0 ** np.arange(-250, 250)[:, None]
    lines = "\n".join(",".join(map(repr, row)) for row in values.tolist())
    np.testing.assert_array_equal(table(tmp_path, f"a,b\n{lines}\n"), values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"t\.csv is empty; it needs a header line"),
        ("\n\n", r"t\.csv is empty"),
        ("a,b\n", r"has a header line and no rows"),
        ("a,c\n1,2\n", r"has no column 'b'; its header line is a,c and must have a,b"),
        ("a,b,c\n1,2,3\n", r"has an unexpected column 'c'"),
        ("a,b,a\n1,2,3\n", r"has twice a column 'a'"),
        ("1,2\n3,4\n", r"has no column 'a', 'b'"),
        ("a,b\n1,2\n\n3,x4\n", r"line 4, column 'b' holds 'x4', which is not a finite number"),
        ("a,b\n1,2\nTrue,4\n", r"line 3, column 'a' holds 'True'"),
        ("a,b\n1,2\n3,\n", r"line 3, column 'b' is empty; fix the value or remove the line"),
        ("a,b\n1,nan\n", r"line 2, column 'b' holds 'nan'"),
        ("a,b\n1,2\n-inf,4\n", r"line 3, column 'a' holds '-inf'"),
        ("a,b\n1e999,2\n", r"line 2, column 'a' holds '1e999'"),
        ("a,b\n1,2,3\n", r"line 2 has 3 cells, and the header line has 2"),
        ("a,b\n1,2\n3\n", r"line 3 has 1 cells, and the header line has 2"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", r"cannot be read as a CSV table"),
    ],
)
def test_bad_table_says_what_is_wrong(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as e:
        table(tmp_path, text)
    assert str(tmp_path / "t.csv") in str(e.value)


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*none\.csv"):
        sources.read_table(tmp_path / "none.csv", ("a",))
    with pytest.raises(DataError, match=r"there is no file .*none\.mat"):
        sources.read_mat(tmp_path / "none.mat", "ts")
    with pytest.raises(DataError, match=r"cannot be read as a CSV table"):
        sources.read_table(tmp_path, ("a",))


def test_table_of_another_shape_than_the_spec(tmp_path):
    path = tmp_path / "toy.csv"
    path.write_bytes(CONTENT)
    np.testing.assert_array_equal(sources.read_file(SPEC, path), [[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(DataError, match=r"holds 2 rows of 2 columns, and data set 'toy' has 9 of"):
        sources.read_file(dataclasses.replace(SPEC, rows=9), path)


def test_mat_is_read(tmp_path):
    import scipy.io

    path = tmp_path / "t.mat"
    scipy.io.savemat(path, {"ts": np.arange(6, dtype=np.int16).reshape(3, 2)})
    values = sources.read_mat(path, "ts")
    np.testing.assert_array_equal(values, [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    assert values.dtype == np.float64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other": np.ones((2, 2))}, r"has no variable 'ts'; it has 'other'"),
        ({"ts": "text"}, r"'ts' is <U4 of shape \(1,\); it must be a matrix of real numbers"),
        ({"ts": np.ones((2, 2)) * 1j}, r"'ts' is complex128"),
        ({"ts": np.ones((2, 2, 2))}, r"of shape \(2, 2, 2\)"),
        ({"ts": np.ones((0, 3))}, r"of shape \(0, 3\)"),
        ({"ts": np.array([[1, 2], [np.nan, 3]])}, r"'ts', row 2, column 1 holds nan"),
        ({"ts": np.array([[1, np.inf], [2, 3]])}, r"'ts', row 1, column 2 holds inf"),
        (b"", r"cannot be read as a MAT file"),
        (b"\x00" * 400, r"cannot be read as a MAT file"),
        (b"a,b\n1,2\n" * 50, r"cannot be read as a MAT file"),
    ],
)
def test_bad_mat_says_what_is_wrong(tmp_path, content, message):
    import scipy.io

    path = tmp_path / "t.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        scipy.io.savemat(path, content)
    with pytest.raises(DataError, match=message) as e:
        sources.read_mat(path, "ts")
    assert str(path) in str(e.value)
