"""Samples in files of any number: ranges of windows, shards, kills, damage, and their manifest."""

import dataclasses
import hashlib
import json
import shutil
import signal
import threading
import time

import numpy as np
import pandas as pd
import pytest
import test_dtypes
from etils import epath
from test_commands import GOLDEN
from test_devices import WORKER, free_port
from test_generator import WINDOW, made

from timeldm_jax import TimeLDM, convert, evaluate, marginals, overlap, sample, shards, writing
from timeldm_jax.asked import Asked
from timeldm_jax.data import clock as clocks
from timeldm_jax.data import reader, schema, start_times, table
from timeldm_jax.errors import DataError, NonFiniteSamplesError
from timeldm_jax.samples import read_windows
from timeldm_jax.writing import Part

pytestmark = pytest.mark.training

TABLE = GOLDEN / "model_8ed8097" / "model"
COUNT = 50
SEED = 5


@pytest.fixture(scope="module")
def model():
    return TimeLDM.load(TABLE)


@pytest.fixture(scope="module")
def rows(model):
    """The table of a single draw."""
    return model.sample(COUNT, SEED)


@pytest.fixture(scope="module")
def arrays():
    """A generator of arrays whose samples are mapped to other quantiles."""
    levels = np.tile(np.sqrt(marginals.LEVELS).astype(np.float32), (3, 1))
    drawn = np.tile(np.float32(marginals.DRAWN_LEVELS), (3, 1))
    return dataclasses.replace(made(), marginals=levels, drawn=drawn)


def drawn(generator, first, count, seed=0, asked=None):
    part = (asked or Asked(first + count)).part(first, count)
    return np.concatenate(list(generator.sample(count, seed, part)))


RANGES = [(0, 1), (1, 64), (60, 33), (97, 53), (149, 1)]


def test_a_window_is_the_same_whatever_range_it_is_drawn_in(arrays):
    """Shares of another size only round differently; noise of size 80 has a last digit of 1e-5."""
    many = drawn(arrays, 0, 150) / [1e8, 1, 1]
    for first, count in RANGES:
        found = drawn(arrays, first, count) / [1e8, 1, 1]
        np.testing.assert_allclose(found, many[first : first + count], atol=1e-4)
    # Whole batches of the same size are the same batches.
    np.testing.assert_array_equal(drawn(arrays, 64, 64) / [1e8, 1, 1], many[64:128])


def test_rows_of_a_range_are_those_of_the_table(model, rows):
    """Words, bounds, ids, times that fit what windows show: of windows by their numbers."""
    generator = model.generator
    form = writing.of_user(generator, SEED, ".csv")
    for first, count in ((0, 7), (7, 40), (47, 3)):
        own = Asked(COUNT).part(first, count).timed(generator.schema, SEED)
        found = form.piece(drawn(generator, first, count, SEED), own)
        expected = rows[rows["series"].between(first, first + count - 1)].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, expected, rtol=1e-4)


def test_what_is_asked_of_a_range_is_that_of_its_windows():
    clock = clocks.Clock("when", "datetime64[ns]", "2024-01-01", 3600.0)
    phases = tuple(range(1, 25))
    starts = start_times.StartTimes(6, 0, 99, 24, phases, (), (), (), (), leads=True)
    untimed = schema.Schema((), ("when",), clock)
    timed = dataclasses.replace(untimed, starts=starts)
    whole = Asked(1_000, np.arange(2_000.0).reshape(1_000, 2)).timed(timed, 3)
    assert len(np.unique(whole.steps)) > 50
    part = Asked(1_000, whole.rows).part(300, 200).timed(timed, 3)
    np.testing.assert_array_equal(part.steps, whole.steps[300:500])
    again = part.part(450, 50)
    for found in again, whole.of(np.arange(450, 500)):
        np.testing.assert_array_equal(found.rows, whole.rows[450:500])
        np.testing.assert_array_equal(found.steps, whole.steps[450:500])
    padded = again.of(np.arange(490, 510))  # beyond the last window of a batch
    np.testing.assert_array_equal(padded.rows[9:], np.tile(whole.rows[499], (11, 1)))


# Files.


def flags(out, *more):
    return [f"--model={TABLE}", f"--count={COUNT}", f"--seed={SEED}", f"--out={out}", *more]


def read_all(folder):
    files = shards.files(epath.Path(folder))
    return pd.concat([pd.read_parquet(path) for path in files], ignore_index=True)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    """A folder of four shards, each of several groups, that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run = server.run(
        "sample", 0, *flags(f"{folder}/", "--shards=4"), module=WORKER, log=f"{folder}.log"
    )
    assert run.code == 0, run.output
    return folder


def test_shards_hold_the_windows_of_a_single_draw(undisturbed, rows):
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    pd.testing.assert_frame_equal(read_all(undisturbed), rows, rtol=1e-4)
    names = [f"samples-0000{i}-of-00004.parquet" for i in (1, 2, 3, 4)]
    assert sorted(contents(undisturbed)) == [".lock", "manifest.json", *names]
    assert [each["file"] for each in manifest["shards"]] == names
    assert [(each["first"], each["windows"]) for each in manifest["shards"]] == [
        (0, 12), (12, 13), (25, 12), (37, 13),
    ]  # fmt: skip
    for each in manifest["shards"]:
        content = (undisturbed / each["file"]).read_bytes()
        assert each["sha256"] == hashlib.sha256(content).hexdigest()
        assert each["size"] == len(content)
        assert each["rows"] == 8 * each["windows"]
    assert [each["name"] for each in manifest["columns"]] == list(rows)
    assert manifest["request"]["seed"] == SEED
    assert manifest["request"]["count"] == COUNT
    assert len(manifest["request"]["model"]) == 64


def test_scores_read_the_shards_of_tables_and_of_arrays(undisturbed, arrays, model, tmp_path):
    generator = model.generator
    found = convert.encode_samples(generator, str(undisturbed))
    expected = convert.encode_samples(generator, read_all(undisturbed))
    np.testing.assert_array_equal(found, expected)
    assert found.shape == (COUNT, 8, len(generator.columns))
    with pytest.raises(DataError, match=r"holds tables \(.parquet\); say of which model"):
        evaluate._read(str(undisturbed), None)
    form, asked, folder = writing.of_user(arrays, 0), Asked(20), epath.Path(tmp_path / "many")
    shards.fill(folder, arrays, asked, form, shards.request(arrays, asked, 0, form), 2)
    windows, names = evaluate._read(str(folder), None)
    assert (windows.shape, names) == ((20, WINDOW, 3), ("a", "b", "c"))


def test_a_run_killed_at_any_moment_writes_the_same_files(server, undisturbed, tmp_path):
    """Within a shard, after one, and at its last group; each time it goes on."""
    out = tmp_path / "many"
    for killed_after, there in ((2, 0), (6, 1), (4, 2), (1, 2)):
        run = server.run(
            "sample", killed_after, *flags(f"{out}/", "--shards=4"), module=WORKER,
            log=tmp_path / "log",
        )  # fmt: skip
        assert run.code == -signal.SIGKILL, run.output
        found = [path for path in out.iterdir() if path.name.startswith("samples-")]
        assert len(found) == there
        assert not shards.is_whole(epath.Path(out))
    with pytest.raises(DataError, match=r"holds no samples, or not all of them yet"):
        shards.files(epath.Path(out))
    # The number of shards is known from the first time.
    run = server.run("sample", 0, *flags(f"{out}/"), module=WORKER, log=tmp_path / "log")
    assert run.code == 0, run.output
    assert contents(out) == contents(undisturbed)


def test_damaged_shards_are_drawn_again(undisturbed, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(writing, "GROUP_NUMBERS", 4 * 8 * 12)
    out = tmp_path / "many"
    shutil.copytree(undisturbed, out)
    flipped, cut, gone, _ = sorted(out.glob("*.parquet"))
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    cut.write_bytes(cut.read_bytes()[:-9])
    gone.unlink()
    with pytest.raises(DataError, match=rf"{cut.name} is damaged or gone"):
        shards.files(epath.Path(out))
    sample.main(["sample", *flags(out)])
    for each in (flipped, cut):
        assert f"{each} is damaged; it is drawn again" in caplog.text
    assert f"{gone} is missing; it is drawn again" in caplog.text
    frame = read_all(out)
    pd.testing.assert_frame_equal(frame, read_all(undisturbed), rtol=1e-4)
    assert not (out / ".unfinished").exists()
    before = contents(out)
    sample.main(["sample", *flags(out)])
    assert contents(out) == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--seed=6"], "seed 5, now 6"),
        (["--count=51"], "count 50, now 51"),
        (["--shards=5"], "shards 4, now 5"),
        (["--missing=generate"], "missing 'fill', now 'generate'"),
        (["--start=01/03/2023 06:00"], "start None, now '"),
        ([f"--model={GOLDEN / 'workdir_8ed8097'}"], "model '"),
    ],
)
def test_another_request_is_an_error_that_says_what_differs(undisturbed, capsys, more, said):
    before = contents(undisturbed)
    with pytest.raises(SystemExit) as stopped:
        sample.main(["sample", *flags(undisturbed), *more])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "holds other samples" in error
    assert said in error
    assert error.count("\n") == 1
    assert contents(undisturbed) == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--out={}/"], "is not empty and holds no samples in shards (there is 'mine.txt')"),
        (["--out={}/new/", "--shards=51"], "51 shards of 50 samples"),
        (["--out={}/new/", "--shards=0"], "--shards=0 must be at least 1"),
        (["--out={}/it.csv", "--shards=2"], "are files of a folder: end --out="),
        (["--out={}/it.csv", "--distributed"], "--distributed writes shards"),
        (["--out={}/new/", "--length=20"], "--length writes one file"),
        (["--out={}/none/new/"], "its folder does not exist"),
        (["--out={}/new/", "--missing=maybe"], "--missing=maybe is not one of"),
    ],
)
def test_what_no_folder_can_hold_is_refused(tmp_path, capsys, more, said):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit):
        sample.main(["sample", *flags("unused"), *(each.format(tmp_path) for each in more)])
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*samples-*"))
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_arrays_are_shards_of_npz(arrays, tmp_path):
    form = writing.of_user(arrays, 0)
    folder, asked = epath.Path(tmp_path / "many"), Asked(200)
    wanted = shards.request(arrays, asked, 0, form)
    manifest = shards.fill(folder, arrays, asked, form, wanted, 3)
    # Whole batches of 64, so that none is drawn in small ones but at the end.
    assert [each["windows"] for each in manifest["shards"]] == [64, 64, 72]
    assert manifest["columns"] == [{"name": name, "type": "float32"} for name in "abc"]
    windows, names = shards.read(folder)
    assert names == ("a", "b", "c")
    expected = drawn(arrays, 0, 200).astype(np.float32)
    np.testing.assert_array_equal(windows[:192], expected[:192])
    np.testing.assert_allclose(windows / [1e8, 1, 1], expected / [1e8, 1, 1], atol=1e-4)


def test_other_weights_are_another_model(arrays):
    form = writing.of_user(arrays, 0)
    one = shards.request(arrays, Asked(3), 0, form)["model"]
    scaled = {name: 2 * part for name, part in arrays.stats._asdict().items() if len(part)}
    other = dataclasses.replace(arrays, stats=arrays.stats._replace(**scaled))
    assert shards.request(dataclasses.replace(arrays), Asked(3), 0, form)["model"] == one
    assert shards.request(other, Asked(3), 0, form)["model"] != one


def test_a_folder_in_use_is_refused(undisturbed, capsys):
    from timeldm_jax.workdir import Workdir, only_run

    with only_run(Workdir(epath.Path(undisturbed))) as others:
        assert not others
        with pytest.raises(SystemExit):
            sample.main(["sample", *flags(undisturbed)])
    assert "is in use by another run (process" in capsys.readouterr().err


def test_one_file_of_many_groups_is_that_of_one(tmp_path, monkeypatch):
    names = ("it.csv", "it.parquet")
    for name in names:
        sample.main(["sample", *flags(tmp_path / name)])
    text, frame = (tmp_path / "it.csv").read_text(), pd.read_parquet(tmp_path / "it.parquet")
    monkeypatch.setattr(writing, "GROUP_NUMBERS", 4 * 8 * 12)
    for name in names:
        sample.main(["sample", *flags(tmp_path / name)])
    assert (tmp_path / "it.csv").read_text() == text
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "it.parquet"), frame)


def test_dates_at_midnight_in_a_later_part_keep_their_time(tmp_path):
    days = pd.date_range("2024-01-01", periods=3, freq="D")
    frames = [pd.DataFrame({"t": days + pd.Timedelta("6h"), "d": days})] * 2
    frames.append(pd.DataFrame({"t": days, "d": days}))
    writing.write_csv(epath.Path(tmp_path / "it.csv"), frames)
    pd.concat(frames).to_csv(tmp_path / "expected.csv", index=False)
    assert (tmp_path / "it.csv").read_text() == (tmp_path / "expected.csv").read_text()


# Parquet has no intervals as categories, and pandas does not read Arrow's dictionaries back.
WRITTEN = [n for n in test_dtypes.COLUMNS if "interval" not in n and "dictionary" not in n]


def learnt(generator, column):
    """A generator of a table with such a column, and windows as its rows are."""
    when = pd.date_range("2024-01-01", periods=test_dtypes.ROWS, freq="h")
    given = pd.DataFrame({"when": when, "number": test_dtypes.NUMBERS, "column": column})
    frame, found = table.prepare(*reader.read(given), table.Options())
    names = tuple(feature.name for feature in schema.features(found))
    windows = np.nan_to_num(table.encode(frame, found).values).reshape(-1, WINDOW, len(names))
    config = generator.config.copy_and_resolve_references()
    config.data.name = "table"
    return dataclasses.replace(generator, schema=found, columns=names, config=config), windows


def test_what_parquet_cannot_hold_is_said_before_anything_is_drawn(arrays):
    generator, _ = learnt(arrays, test_dtypes.COLUMNS["intervals"]())
    with pytest.raises(DataError, match=r"Parquet cannot hold the model's columns .*write .csv"):
        writing.of_user(generator, 0)
    assert writing.of_user(generator, 0, ".csv").suffix == ".csv"


@pytest.mark.parametrize("name", WRITTEN)
def test_columns_of_every_dtype_have_one_type_in_all_groups(name, arrays, tmp_path):
    """Also where a group lacks no value, or all of them."""
    random = np.random.default_rng(0)
    for holes in (False, True):
        column = test_dtypes.COLUMNS[name]()
        if holes:
            column = column.mask(random.random(test_dtypes.ROWS) < 0.2)
        generator, windows = learnt(arrays, column)
        form = writing.of_user(generator, 0, missing="generate")
        pieces = [form.piece(windows[i : i + 3], Asked(3, first=i)) for i in range(0, 30, 3)]
        assert len({piece.schema for piece in pieces}) == 1
        out = epath.Path(tmp_path / "it.parquet")
        form.write(Part(out, 0, 30), iter(pieces))
        whole = table.decode(windows, generator.schema, missing="generate")
        expected = epath.Path(tmp_path / "expected.parquet")
        writing.write_parquet(expected, whole)
        read = pd.read_parquet(out)
        assert [str(kind).lower() for kind in read.dtypes] == [
            str(kind).lower() for kind in pd.read_parquet(expected).dtypes
        ]
        pd.testing.assert_frame_equal(read, pd.read_parquet(expected), check_dtype=False)


# What goes on at the same time.


def test_a_source_runs_ahead_and_ends_with_its_reader():
    made_items = []

    def items():
        for i in range(100):
            made_items.append(i)
            yield i
        raise AssertionError("nobody asked")

    before = threading.active_count()
    source = overlap.ahead(items(), 2)
    assert next(source) == 0
    time.sleep(0.3)
    assert 3 <= len(made_items) <= 5
    source.close()
    assert threading.active_count() == before
    assert list(overlap.ahead(iter(range(50)), 3)) == list(range(50))


def test_errors_of_threads_come_to_the_reader_in_their_place():
    def items():
        yield from (1, 2)
        raise OSError("full")

    source = overlap.ahead(items(), 5)
    assert [next(source), next(source)] == [1, 2]
    with pytest.raises(OSError, match="full"):
        next(source)
    threads = set()

    def invert(number):
        threads.add(threading.get_ident())
        time.sleep(0.01 * (number % 3))
        return 1 / number

    assert list(overlap.in_order(invert, range(1, 30), 4)) == [1 / i for i in range(1, 30)]
    assert threading.get_ident() not in threads
    found = overlap.in_order(invert, [2, 0, 4], 2)
    assert next(found) == 0.5
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_a_window_that_is_no_number_leaves_no_file(arrays, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "GROUP_NUMBERS", 40 * WINDOW * 3)
    broken = dataclasses.replace(arrays)
    draw = broken._draw

    def poisoned(*arguments):
        windows = np.array(draw(*arguments))
        windows[arguments[-2] == 150, 3, 1] = np.inf
        return windows

    broken.__dict__["_draw"] = poisoned
    form, asked, folder = writing.of_user(arrays, 0), Asked(192), epath.Path(tmp_path / "many")
    with pytest.raises(NonFiniteSamplesError, match="'b' in window 150"):
        shards.fill(folder, broken, asked, form, shards.request(arrays, asked, 0, form), 3)
    assert sorted(path.name for path in folder.glob("samples-*")) == [
        "samples-00001-of-00003.npz", "samples-00002-of-00003.npz",
    ]  # fmt: skip


# Several processes.


def start(server, tmp_path, out, count, killed_after=()):
    """The command as processes of one device each, some of them killed."""
    port = free_port()
    return [
        server.start(
            "sample",
            dict(killed_after).get(number, 0),
            *flags(f"{out}/", "--shards=4", "--distributed"),
            f"--coordinator_address=127.0.0.1:{port}",
            f"--num_processes={count}",
            f"--process_id={number}",
            module=WORKER,
            log=tmp_path / f"process {number}, {port}.log",
        )
        for number in range(count)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_shards_and_write_the_same_files(server, undisturbed, tmp_path, count):
    children = start(server, tmp_path, tmp_path / "many", count)
    for child in children:
        assert child.wait() == 0, child.output
    assert contents(tmp_path / "many") == contents(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_other_and_the_rest_is_drawn_later(
    server, undisturbed, tmp_path, lost
):
    out = tmp_path / "many"
    children = start(server, tmp_path, out, 2, {lost: 2})
    assert children[lost].wait() == -signal.SIGKILL
    began = time.monotonic()
    assert children[1 - lost].wait(60) != 0
    assert time.monotonic() - began < 60
    assert not shards.is_whole(epath.Path(out))
    children = start(server, tmp_path, out, 2)
    for child in children:
        assert child.wait() == 0, child.output
    assert contents(out) == contents(undisturbed)


def test_windows_of_another_seed_are_others(arrays):
    assert (drawn(arrays, 3, 2, seed=1) != drawn(arrays, 3, 2)).any(axis=(1, 2)).all()


def test_npz_shards_read_as_windows(arrays, tmp_path):
    part = Part(epath.Path(tmp_path / "it.npz"), 5, 4)
    [(_, length)] = writing.write(arrays, Asked(9), 0, [part], writing.of_user(arrays, 0))
    assert length == 4
    windows, _ = read_windows(part.path)
    np.testing.assert_array_equal(windows, drawn(arrays, 5, 4).astype(np.float32))
