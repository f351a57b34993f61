"""The command line: a run from end to end, and one clear line for whatever goes wrong.

Commands run as processes of their own, forked from one that has imported the package: the import
alone takes seconds.
"""

import contextlib
import json
import multiprocessing
import os
import pty
import subprocess
import sys
import termios
import threading

import jax
import matplotlib.image
import numpy as np
import pytest
import quick
from etils import epath

from timeldm_jax.data.builders import SEEDS
from timeldm_jax.data.dataset import load_dataset
from timeldm_jax.data.simulators import SINES_COLUMNS, simulate_sines
from timeldm_jax.loading import load_generator
from timeldm_jax.metrics import context_fid, evaluation, judges, suite
from timeldm_jax.training import stages
from timeldm_jax.workdir import Workdir

pytestmark = pytest.mark.training

WINDOW, COUNT = 8, 40
TINY = {
    "data.window": WINDOW,
    "data.count": COUNT,
    "vae.model.latent": 6,
    "vae.model.width": 8,
    "vae.model.encoder_layers": 1,
    "vae.model.decoder_layers": 1,
    "ldm.model.hidden": 16,
    "ldm.model.blocks": 1,
    "sample.count": COUNT,
    "sample.steps": 3,
    "evaluate.repeats": 2,
    "evaluate.discriminative_steps": 5,
    "evaluate.predictive_steps": 5,
    "evaluate.context_fid_steps": 2,
    "evaluate.trees": 8,
} | {
    f"{stage}.{key}": value
    for stage in ("vae", "ldm")
    for key, value in (("steps", 20), ("chunk", 10), ("eval_every", 10), ("batch", 16))
}
OVERRIDES = [f"--config.{key}={value}" for key, value in TINY.items()]

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["timeldm_jax.launch", "timeldm_jax.report.page"])


class Result:
    """What a command left: exit code, standard output and standard error."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


def in_child(arguments, folder, cache, out, err):
    """Runs the command in this process, as the console script would."""
    for path, number in ((out, 1), (err, 2)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY, 0o600)
        os.dup2(opened, number)
    os.chdir(folder)
    os.environ["TIMELDM_CACHE_DIR"] = str(cache)
    jax.config.update("jax_disable_most_optimizations", True)
    context_fid.ENCODER = quick.ENCODER
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    sys.argv = ["timeldm", *arguments]
    from timeldm_jax import launch

    launch.run()


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Prepared data and compiled programs, kept between the commands of one session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def timeldm(cache, tmp_path):
    """A function that runs the command in `tmp_path` and returns its `Result`."""
    return lambda *arguments, **kwargs: run_command(cache, tmp_path, arguments, **kwargs)


def run_command(cache, folder, arguments, *, err=None):
    out, log = folder / ".out", folder / ".err"
    for path in (out, log):
        path.write_text("")
    process = _processes.Process(
        target=in_child, args=(list(arguments), folder, cache, out, err or log)
    )
    process.start()
    process.join(300)
    if process.exitcode is None:
        process.kill()
        pytest.fail(f"the command hangs: {log.read_text()}")
    return Result(process.exitcode, out.read_text(), log.read_text())


def made(folder):
    """What a command made in its folder, the lock of a run aside."""
    return sorted(p.name for p in folder.iterdir() if p.name not in {".out", ".err", ".lock"})


def files(folder):
    """Content of each file below a folder, with the time of its last change."""
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes())
        for p in folder.rglob("*")
        if p.is_file()
    }


# A run from end to end.


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    """A folder with the finished run `run`, and what its command printed. Not to be changed."""
    folder = tmp_path_factory.mktemp("launch")
    result = run_command(cache, folder, ["--config=configs/sines.py", "--workdir=run", *OVERRIDES])
    assert result.code == 0, result.err
    return folder, result


def test_a_run_leaves_what_the_readme_says(finished):
    folder, _ = finished
    assert made(folder) == ["run"]
    assert made(folder / "run") == [
        "config.json",
        "ldm",
        "metrics.jsonl",
        "report",
        "report.html",
        "samples.npz",
        "scores.json",
        "tensorboard",
        "vae",
    ]
    leftovers = [p for p in (folder / "run").rglob("*") if "tmp" in p.name]
    assert leftovers == []


def test_the_configuration_is_kept(finished):
    folder, _ = finished
    config = json.loads((folder / "run" / "config.json").read_text())
    for key, value in TINY.items():
        found = config
        for part in key.split("."):
            found = found[part]
        assert found == value
    assert config["data"]["name"] == "sines"


def test_samples_are_in_the_datas_units(finished):
    folder, _ = finished
    with np.load(folder / "run" / "samples.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["columns", "samples"]
        samples, columns = arrays["samples"], arrays["columns"]
    assert (samples.shape, samples.dtype) == ((COUNT, WINDOW, 5), np.float32)
    assert tuple(columns) == SINES_COLUMNS
    # The same that Python's interface draws from the work directory.
    generator = load_generator(Workdir(epath.Path(folder / "run")))
    drawn = np.concatenate(list(generator.sample(COUNT, 0)))
    np.testing.assert_allclose(drawn, samples, rtol=0, atol=1e-3)  # compiled otherwise
    # The scaler is that of the training trajectories, which go from about .5 up to 1.
    train = simulate_sines(COUNT, WINDOW, SEEDS["train"])
    assert generator.scaler.low == tuple(train.min(axis=(0, 1)))
    assert generator.scaler.high == tuple(train.max(axis=(0, 1)))


def test_the_journal_has_a_record_for_each_chunk(finished):
    folder, _ = finished
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [(r["stage"], r["step"]) for r in records] == [
        (stage, step) for stage in ("vae", "ldm") for step in (10, 20)
    ]
    for record in records:
        numbers = [value for key, value in record.items() if key != "stage"]
        assert np.isfinite(numbers).all()
        assert record["valid_loss"] > 0
    vae = records[0]
    assert vae["loss"] == pytest.approx(vae["reconstruction"] + vae["beta"] * vae["kl"], rel=1e-3)


def test_tensorboard_shows_the_same_numbers(finished):
    folder, _ = finished
    records = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    expected = {
        (f"{r['stage']}/{name}", r["step"]): value
        for r in records
        for name, value in r.items()
        if name not in {"stage", "step"}
    }
    found = {}
    for path in (folder / "run" / "tensorboard").rglob("events.out.tfevents.*"):
        found |= scalars(path)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-6)


def scalars(path):
    """(tag, step) -> value of a TensorBoard file.

    Its records are length (8 bytes), checksum (4), content, checksum (4).
    """
    from tensorboardX.proto.event_pb2 import Event

    content = path.read_bytes()
    found, place = {}, 0
    while place < len(content):
        length = int.from_bytes(content[place : place + 8], "little")
        event = Event.FromString(content[place + 12 : place + 12 + length])
        for value in event.summary.value:
            found[value.tag, event.step] = value.simple_value
        place += 12 + length + 4
    return found


def test_scores_are_those_of_the_public_functions(finished, cache, monkeypatch):
    folder, result = finished
    scores = json.loads((folder / "run" / "scores.json").read_text())
    with np.load(folder / "run" / "samples.npz") as arrays:
        samples = arrays["samples"].astype(float)
    real = simulate_sines(COUNT, WINDOW, SEEDS["train"])  # protocol `paper`
    fresh = np.concatenate([simulate_sines(n, WINDOW, SEEDS[p]) for p, n in (("test", COUNT),)])
    sizes = suite.Evaluators(2, 5, 5, 2, 8)
    expected = evaluation.evaluate(
        real, samples, SINES_COLUMNS, fresh=fresh, protocol="paper", evaluators=sizes
    )
    assert scores["schema"] == expected["schema"]
    assert scores["windows"] == expected["windows"]
    assert scores["windows"]["reference"] == COUNT  # a simulator's floor is fresh draws
    for name, score in scores["scores"].items():
        if name in judges.MEANINGS:
            assert score["skipped"] == expected["scores"][name]["skipped"]  # 40 windows are few
            continue
        for part in (score, score["floor"], score["calibrated"]):
            other = expected["scores"][name]
            other = (
                other
                if part is score
                else other["floor" if part is score["floor"] else "calibrated"]
            )
            # Compiled otherwise; an accuracy of few windows moves in steps.
            assert part["mean"] == pytest.approx(
                other["mean"], rel=1e-2, abs=0.1 if name == "discriminative" else 1e-3
            )
    assert scores["memorisation"]["windows"] == expected["memorisation"]["windows"]
    assert scores["protocol"] == "paper"
    monkeypatch.setenv("TIMELDM_CACHE_DIR", str(cache))
    config = stages.read_config(Workdir(epath.Path(folder / "run")))
    assert scores["fingerprint"] == load_dataset(config).series.fingerprint()
    assert 0 < scores["reconstruction"]["mean_absolute"] < 5
    assert result.out.startswith(evaluation.table(scores))


def test_the_reconstruction_is_decoded_posterior_means(finished):
    folder, _ = finished
    scores = json.loads((folder / "run" / "scores.json").read_text())
    generator = load_generator(Workdir(epath.Path(folder / "run")))
    real = simulate_sines(COUNT, WINDOW, SEEDS["train"])
    low, high = np.array(generator.scaler.low), np.array(generator.scaler.high)
    scaled = ((real - low) / (high - low)).astype(np.float32)
    vae, variables = generator.models.vae, {"params": generator.vae_params}
    mean, _ = vae.apply(variables, scaled, method="encode")
    decoded = vae.apply(variables, mean, method="decode")
    assert scores["reconstruction"]["mean_absolute"] == pytest.approx(
        float(np.abs(decoded - scaled).mean()), rel=1e-4
    )


def test_the_report_has_pictures(finished):
    folder, result = finished
    page = (folder / "run" / "report.html").read_text()
    assert "Context-FID" in page
    assert "report: run/report.html" in result.out.replace(str(folder) + "/", "")
    for name in ("windows", "losses", "beta"):
        path = folder / "run" / "report" / f"{name}.png"
        picture = matplotlib.image.imread(path)
        assert picture.shape[1] == 990
        assert picture[..., :3].std() > 0.02  # not blank


def test_progress_is_plain_lines_where_there_is_no_terminal(finished):
    _, result = finished
    assert "\r" not in result.err
    assert "\x1b" not in result.err
    lines = result.err.splitlines()
    for start in (
        "preparing sines: 84 trajectories of 8 steps",
        "sines: 5 features, windows of 8: 40 train, 4 validate, 40 test",
        "vae: step 10/20, loss ",
        "vae: step 20/20, loss ",
        "ldm: step 20/20, loss ",
        "sample: window 40/40",
        "evaluate: part 15/15, done, ",
    ):
        assert any(line.startswith(start) for line in lines), start
    # Nothing else: no warnings of the libraries underneath.
    known = (
        "preparing sines",
        "sines: ",
        "vae: step",
        "ldm: step",
        "sample: window",
        "evaluate: part",
    )
    assert [line for line in lines if not line.startswith(known)] == []


def test_the_same_command_again_does_nothing(finished, cache):
    folder, first = finished
    before = files(folder / "run")
    again = run_command(cache, folder, ["--config=configs/sines.py", "--workdir=run", *OVERRIDES])
    assert again.code == 0
    for stage in ("vae", "ldm", "sample", "evaluate"):
        assert f"{stage}: finished before, skipped" in again.err
    assert again.out == first.out
    after = files(folder / "run")
    # Pictures are drawn anew: they show what is there, and take a second.
    unchanged = {name for name in before if not name.startswith("report")}
    assert {name: after[name] for name in unchanged} == {name: before[name] for name in unchanged}
    assert after.keys() == before.keys()


def test_another_configuration_is_refused_with_the_difference(finished, cache):
    folder, _ = finished
    before = files(folder / "run")
    result = run_command(
        cache,
        folder,
        [
            *("--config=configs/sines.py", "--workdir=run", *OVERRIDES),
            *("--config.vae.batch=32", "--config.seed=1"),
        ],
    )
    assert result.code == 2
    lines = result.err.splitlines()
    assert lines[0].startswith("error: ")
    assert lines[0].endswith("run was made with another configuration:")
    assert lines[1:3] == ["  config.seed: 0 -> 1", "  config.vae.batch: 16 -> 32"]
    assert files(folder / "run") == before


@pytest.mark.slow
def test_stages_one_by_one_make_the_same_samples(finished, timeldm, tmp_path):
    folder, _ = finished
    common = ("--config=configs/sines.py", "--workdir=run", *OVERRIDES)
    for named, made_since in (
        ("vae", {"vae", "config.json", "metrics.jsonl", "tensorboard"}),
        ("ldm", {"ldm"}),
        ("sample", {"samples.npz"}),
    ):
        before = set(made(tmp_path / "run")) if (tmp_path / "run").exists() else set()
        result = timeldm(*common, f"--stages={named}")
        assert result.code == 0, result.err
        assert set(made(tmp_path / "run")) - before == made_since
    assert (tmp_path / "run/samples.npz").read_bytes() == (folder / "run/samples.npz").read_bytes()


def test_on_a_terminal_a_bar_shows_progress(timeldm):
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 120))
    shown = bytearray()

    def read():
        with contextlib.suppress(OSError):
            while part := os.read(master, 4096):
                shown.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    result = timeldm(
        "--config=configs/sines.py",
        "--workdir=run",
        *OVERRIDES,
        "--stages=vae",
        err=os.ttyname(slave),
    )
    os.close(slave)
    reader.join(10)
    os.close(master)
    assert result.code == 0
    text = shown.decode()
    assert "\r" in text
    assert "vae: 100%|" in text
    assert "20/20" in text
    assert "valid_loss" in text
    assert "so far" not in text  # not the plain lines


# What goes wrong.


CONFIG, WORKDIR = "--config=configs/sines.py", "--workdir=run"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([CONFIG, WORKDIR, "--config.vae.stpes=5"], "unknown key --config.vae.stpes; did you me"),
        ([CONFIG, WORKDIR, "--config.vae.stpes", "5"], "did you mean config.vae.steps?"),
        ([CONFIG, WORKDIR, "--config.vea.steps=5"], "did you mean config.vae.steps?"),
        ([CONFIG, WORKDIR, "--config.vae=5"], "--config.vae is a group of keys"),
        ([CONFIG, WORKDIR, "--config.vae.steps=abc"], "--config.vae.steps=abc: invalid literal"),
        ([CONFIG, WORKDIR, "--config.vae.steps=5.5"], "--config.vae.steps=5.5: invalid literal"),
        ([CONFIG, WORKDIR, "--config.vae.beta.restart=maybe"], "--config.vae.beta.restart=maybe"),
        ([CONFIG, WORKDIR, "--config.vae.steps=0"], "config.vae.steps=0 must be at least 1"),
        ([CONFIG, WORKDIR, "--config.vae.model.heads=3"], "config.vae.model.heads=3 must divide"),
        ([CONFIG, WORKDIR, "--config.data.protocol=papre"], "'papre' is not one of paper"),
        ([CONFIG, WORKDIR, "--config.data.name=sinus"], "name=sinus is not a known set; known: en"),
        ([CONFIG, WORKDIR, "--stages=vae,train"], "--stages: unknown stage 'train'; known: vae,"),
        ([CONFIG, WORKDIR, "--stages="], "--stages names no stage; known: vae,"),
        ([CONFIG, WORKDIR, "--wrokdir=x"], "Unknown command line flag 'wrokdir'. Did you mean: wo"),
        ([CONFIG, WORKDIR, "--seed=5"], "unknown flag --seed; did you mean --config.seed?"),
        ([CONFIG, WORKDIR, "--real=r.npy"], "Unknown command line flag 'real'"),
        ([CONFIG], "flag --workdir=None: Flag --workdir must have a value"),
        ([WORKDIR], "flag --config=None: Flag --config must have a value"),
        ([], "must have a value"),
        ([CONFIG, WORKDIR, "extra"], "unexpected arguments ['extra']"),
        (["--config=configs/sinus.py", WORKDIR], "--config=configs/sinus.py: no such file here or"),
        (["--config", "configs/sinus.py", WORKDIR], "no such file here or in the package"),
        (["--config=configs/sines.py:papre", WORKDIR], "unknown variant 'papre'; this config has"),
        ([CONFIG, WORKDIR, "--stages=ldm"], "stage 'ldm' needs stage 'vae'"),
        ([CONFIG, WORKDIR, "--stages=sample"], "stage 'sample' needs stage 'ldm'"),
        ([CONFIG, WORKDIR, "--stages=evaluate"], "stage 'evaluate' needs stage 'sample'"),
        ([CONFIG, WORKDIR, "--stages=vae,report"], "stage 'report' needs stage 'sample'"),
        ([CONFIG, WORKDIR, "--config.sample.count=9", "--config.data.window=8",
          "--config.data.count=40"], "config.sample.count=9: the evaluate stage needs at least 10"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_one_line_and_exit_code_2(timeldm, tmp_path, arguments, message):
    result = timeldm(*arguments)
    assert result.code == 2, result.err
    assert result.out == ""
    lines = [line for line in result.err.splitlines() if not line.startswith(("prep", "sines:"))]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert made(tmp_path) == []  # no work directory, not even a started one


def test_a_config_file_of_ones_own(timeldm, tmp_path):
    own = tmp_path / "mine.py"
    head = (
        "from timeldm_jax.configs import sines\n"
        "def get_config(variant=''):\n"
        "  config = sines.get_config(variant)\n"
    )
    for line, message in (
        ("config.vae.stpes = 5", "unknown key config.vae.stpes; did you mean config.vae.steps?"),
        ("config.vae.steps = 'many'", "mine.py, line 4: TypeError: "),
        ("config.vea.steps = 5", "mine.py, line 4: AttributeError: "),
        ("raise ValueError('no luck')", "mine.py, line 4: ValueError: no luck"),
        ("del config.sample['rho']", "config.sample.rho is missing"),
        ("config.data.count = 0", "config.data.count=0 must be at least 1"),
    ):
        own.write_text(f"{head}  {line}\n  return config\n")
        result = timeldm("--config=mine.py", WORKDIR)
        assert result.code == 2
        assert result.err.startswith("error: ")
        assert message in result.err
        assert result.err.count("\n") == 1
        assert "run" not in made(tmp_path)


def test_a_damaged_run_says_so(finished, cache, tmp_path):
    folder, _ = finished
    copy(folder / "run", tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("{")
    result = run_command(cache, tmp_path, [CONFIG, WORKDIR, *OVERRIDES])
    assert result.code == 2
    assert "config.json is not a configuration in JSON" in result.err
    for content in ("[1]", "3", '"x"'):
        (tmp_path / "run" / "config.json").write_text(content)
        assert "config.json is not" in run_command(cache, tmp_path, [CONFIG, WORKDIR]).err


@pytest.mark.slow
def test_a_report_passes_over_a_cut_line_of_the_journal(finished, cache, tmp_path):
    folder, _ = finished
    copy(folder / "run", tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "ldm", "st')
    result = run_command(cache, tmp_path, [CONFIG, WORKDIR, *OVERRIDES, "--stages=report"])
    assert result.code == 0, result.err


def copy(source, target):
    for path in source.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())


def test_the_module_runs_as_a_script(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "timeldm_jax.launch", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "--stages" in done.stdout
    assert "--workdir" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("given", "expected"), [("gs://bucket/run", "gs://bucket/run"), ("/a/../b", "/b")]
)
def test_a_bucket_stays_an_address(given, expected):
    from timeldm_jax import launch

    assert launch.workdir_path(given).as_uri().removeprefix("file://") == expected
