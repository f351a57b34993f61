"""A run that is stopped, killed or repeated ends as one that nothing disturbed, bit for bit."""

import collections
import contextlib
import dataclasses
import functools
import json
import pathlib
import random
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from timeldm_jax import latents
from timeldm_jax.data.dataset import make_dataset
from timeldm_jax.data.series import split_series
from timeldm_jax.errors import CheckpointError, NonFiniteLossError, Preempted
from timeldm_jax.training import checkpoint, loop, parallel, stages, validation
from timeldm_jax.workdir import Workdir

pytestmark = pytest.mark.training

STAGES = ("vae", "ldm")


# What a run leaves, and when two runs left the same.


def final_states(workdir):
    """Leaves of the last checkpoint of each stage, as bytes by path in the tree, and its meta."""
    config = stages.read_config(Workdir(epath.Path(workdir)))
    meta = checkpoint.read_meta(epath.Path(workdir) / "vae")
    models = stages.build_models(config, len(meta["columns"]))
    templates = {
        "vae": lambda: stages.init_vae_state(config, models),
        "ldm": lambda: stages.init_ldm_state(config, models, stages.zero_stats(config, models)),
    }
    found = {}
    for stage, template in templates.items():
        folder = epath.Path(workdir) / stage
        if folder.exists():
            state, meta = checkpoint.restore_latest(folder, jax.eval_shape(template))
            for path, leaf in jax.tree_util.tree_leaves_with_path(state):
                found[stage + jax.tree_util.keystr(path)] = leaf.tobytes()
            found[f"{stage} meta"] = meta
            with contextlib.suppress(CheckpointError):  # a stage that was not validated yet
                found[f"{stage} best"] = checkpoint.best_step(folder)
    return found


def records(workdir):
    """The lines of `metrics.jsonl`; a broken one is an error."""
    lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_same_run(workdir, reference):
    assert final_states(workdir) == final_states(reference)
    found = records(workdir)
    counts = collections.Counter((record["stage"], record["step"]) for record in found)
    assert max(counts.values()) == 1
    assert found == records(reference)
    with np.load(workdir / "samples.npz") as one, np.load(reference / "samples.npz") as other:
        assert one["samples"].tobytes() == other["samples"].tobytes()
        assert one["columns"].tolist() == other["columns"].tolist()
    assert (workdir / "scores.json").read_text() == (reference / "scores.json").read_text()


# In this process: the loop itself, stopped where the test says.


@pytest.fixture(scope="module")
def dataset():
    values = np.cumsum(np.random.default_rng(0).normal(size=(120, 3)), axis=0)
    return make_dataset(split_series(values, ("a", "b", "c"), 8, "paper"))


@pytest.fixture
def config(tiny_config):
    for stage in STAGES:
        tiny_config[stage].steps = 50  # a last chunk that is whole, a last evaluation that is not
    return tiny_config


TRAIN = {"vae": stages.train_vae, "ldm": stages.train_ldm}


class Chunks:
    """Stands between the loop and its compiled chunks, compiled once for all tests.

    Attributes:
      before: called with the chunk's number and the state, which it may replace.
      stop: the event that the loop takes for the arrival of a signal.
    """

    def __init__(self):
        self.before = lambda number, state: state
        self.stop = loop.StopRequest()
        self.number = 0
        self._compiled = {}

    def runner(self, real_runner, step, batch, *, fed):
        key = step.__qualname__
        runner = self._compiled.setdefault(key, functools.cache(real_runner(step, batch, fed=fed)))

        def compile_chunk(length):
            def chunk(state, data):
                with jax.transfer_guard("allow"):
                    state = self.before(self.number, state)
                self.number += 1
                return runner(length)(state, data)

            return chunk

        return compile_chunk

    def stop_before(self, *numbers):
        """A signal during these chunks, counted over all calls of `train`."""

        def before(number, state):
            if number in numbers:
                self.stop.set()
            return state

        self.before = before


@pytest.fixture(scope="module")
def compiled_chunks():
    return Chunks()


@pytest.fixture
def chunks(compiled_chunks, monkeypatch):
    compiled_chunks.__dict__.update(number=0, before=lambda number, state: state)
    real = parallel.chunk_runner
    monkeypatch.setattr(parallel, "chunk_runner", functools.partial(compiled_chunks.runner, real))

    @contextlib.contextmanager
    def stop_signal():
        compiled_chunks.stop = loop.StopRequest()
        yield compiled_chunks.stop

    monkeypatch.setattr(loop, "_stop_signal", stop_signal)
    train = loop.train

    def guarded(*arguments):
        with jax.transfer_guard("disallow"):
            return train(*arguments)

    monkeypatch.setattr(loop, "train", guarded)
    return compiled_chunks


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path / "run")


@pytest.fixture(scope="module")
def trained_vae(tmp_path_factory):
    return tmp_path_factory.mktemp("trained") / "run"


def start(config, dataset, workdir, trained_vae, stage):
    """A work directory at the start of a stage."""
    if stage == "ldm" and trained_vae.exists():
        shutil.copytree(trained_vae, workdir)
    stages.write_config(config, workdir / "config.json")
    if stage == "ldm" and not trained_vae.exists():
        stages.train_vae(config, dataset, Workdir(workdir))
        shutil.copytree(workdir, trained_vae)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_training_in_parts_is_training_at_once(
    config, dataset, tmp_path, trained_vae, chunks, stage
):
    whole, parts = epath.Path(tmp_path / "whole"), epath.Path(tmp_path / "parts")
    for workdir in (whole, parts):
        start(config, dataset, workdir, trained_vae, stage)
    train = TRAIN[stage]
    chunks.number = 0
    train(config, dataset, Workdir(whole))

    # Chunks are of 5 steps and evaluations at 20, 40 and 50: the stops are at a chunk's end that
    # is no evaluation, at an evaluation, and at another chunk's end.
    chunks.number = 0
    chunks.stop_before(1, 3, 6)
    for step in (10, 20, 35):
        with pytest.raises(Preempted, match=f"stage {stage}; step {step} is saved"):
            train(config, dataset, Workdir(parts))
        assert checkpoint.steps(parts / stage)[-1] == step
    train(config, dataset, Workdir(parts))
    assert chunks.number == 10  # no chunk was trained twice
    states = final_states(parts)
    assert states == final_states(whole)
    assert any(name.startswith(f"{stage}.ema") for name in states)
    assert records(parts) == records(whole)


def test_a_signal_in_the_last_chunk_is_not_lost(config, dataset, workdir, chunks):
    stages.write_config(config, workdir / "config.json")
    chunks.stop_before(9)
    with pytest.raises(Preempted, match="step 50 is saved"):
        stages.train_vae(config, dataset, Workdir(workdir))
    stages.train_vae(config, dataset, Workdir(workdir))
    assert chunks.number == 10


def test_a_signal_in_the_last_save_is_not_lost(config, dataset, workdir, chunks, monkeypatch):
    stages.write_config(config, workdir / "config.json")
    save = checkpoint.save

    def save_and_stop(folder, step, *rest, **options):
        save(folder, step, *rest, **options)
        if step == 50:
            chunks.stop.set()

    monkeypatch.setattr(checkpoint, "save", save_and_stop)
    with pytest.raises(Preempted, match="step 50 is saved"):
        stages.train_vae(config, dataset, Workdir(workdir))


def test_a_damaged_last_checkpoint_is_trained_again(config, dataset, tmp_path, trained_vae, chunks):
    whole, again = epath.Path(tmp_path / "whole"), epath.Path(tmp_path / "again")
    start(config, dataset, whole, trained_vae, "ldm")
    stages.train_ldm(config, dataset, Workdir(whole))
    shutil.copytree(whole, again)
    (again / "vae" / "50" / "state" / "_METADATA").write_text("")
    shutil.rmtree(again / "ldm" / "50")
    with pytest.raises(CheckpointError, match="run the vae stage first"):
        stages.train_ldm(config, dataset, Workdir(again))
    stages.train_vae(config, dataset, Workdir(again))
    stages.train_ldm(config, dataset, Workdir(again))
    assert final_states(again) == final_states(whole)


def test_a_diffusion_waits_for_a_finished_vae(config, dataset, workdir, chunks):
    stages.write_config(config, workdir / "config.json")
    with pytest.raises(CheckpointError, match="run the vae stage first"):
        stages.train_ldm(config, dataset, Workdir(workdir))
    chunks.stop_before(5)
    with pytest.raises(Preempted):
        stages.train_vae(config, dataset, Workdir(workdir))
    with pytest.raises(CheckpointError, match="not trained to step 50; run the vae stage first"):
        stages.train_ldm(config, dataset, Workdir(workdir))


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_other_data_is_an_error(config, dataset, workdir, trained_vae, chunks, stage, finished):
    start(config, dataset, workdir, trained_vae, stage)
    chunks.number = 0
    if finished:
        TRAIN[stage](config, dataset, Workdir(workdir))
    else:
        chunks.stop_before(2)
        with pytest.raises(Preempted):
            TRAIN[stage](config, dataset, Workdir(workdir))
    values = dataset.series.values.copy()
    values[3, 1] += 1e-9
    changed = dataclasses.replace(
        dataset, series=dataclasses.replace(dataset.series, values=values)
    )
    before = final_states(workdir)
    with pytest.raises(CheckpointError, match=r"the data changed since .*put the data back"):
        TRAIN[stage](config, changed, Workdir(workdir))
    assert final_states(workdir) == before


@pytest.mark.parametrize("stage", STAGES)
def test_a_loss_that_is_not_finite_names_where_and_the_last_good(
    config, dataset, workdir, trained_vae, chunks, stage
):
    start(config, dataset, workdir, trained_vae, stage)

    def poison(number, state):
        if number != 5:  # the chunk of steps 26 to 30
            return state
        return state._replace(params=jax.tree.map(lambda a: a * jnp.nan, state.params))

    chunks.number = 0
    chunks.before = poison
    with pytest.raises(NonFiniteLossError) as failure:
        TRAIN[stage](config, dataset, Workdir(workdir))
    message = str(failure.value)
    assert f"the {stage} loss is not finite at step 26: loss=nan" in message
    assert ("reconstruction=nan" in message and "kl=nan" in message) == (stage == "vae")
    assert f"the last good checkpoint is {workdir / stage / '20'}" in message
    assert f"config.{stage}.optimizer.learning_rate" in message
    assert checkpoint.steps(workdir / stage) == [20]
    chunks.before = lambda number, state: state
    TRAIN[stage](config, dataset, Workdir(workdir))  # the fault was passing: the run goes on


@pytest.mark.parametrize("chunk", [3, 4])  # which ends in a validation, and which in none
def test_weights_that_are_not_finite_are_never_saved(config, dataset, workdir, chunks, chunk):
    """A step with a finite loss and an infinite gradient is seen only in the weights."""
    stages.write_config(config, workdir / "config.json")
    real_to_host = parallel.to_host

    def to_host(tree):
        tree = real_to_host(tree)
        if isinstance(tree, loop.TrainState) and chunks.number > chunk:
            tree = tree._replace(params=jax.tree.map(lambda a: a * np.inf, tree.params))
        return tree

    chunks.stop_before(chunk)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "to_host", to_host)
        with np.errstate(invalid="ignore"), pytest.raises(NonFiniteLossError) as failure:
            stages.train_vae(config, dataset, Workdir(workdir))
    assert f"the vae weights are not finite at step {5 * chunk + 5}" in str(failure.value)
    assert checkpoint.steps(workdir / "vae") == ([] if chunk == 3 else [20])


def test_validations_that_are_not_finite_stop(config, dataset, workdir, chunks, monkeypatch):
    stages.write_config(config, workdir / "config.json")
    monkeypatch.setattr(validation, "of_vae", lambda *_: lambda params: {"loss": 1.0, "l1": np.nan})
    with pytest.raises(NonFiniteLossError, match="vae validation loss is not finite at step 20"):
        stages.train_vae(config, dataset, Workdir(workdir))
    assert checkpoint.steps(workdir / "vae") == []


@pytest.mark.parametrize("layout", latents.LAYOUTS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(("posterior", "part"), [("draw", "log_variance"), ("mean", "mean")])
def test_latents_that_are_not_finite_stop_and_name_the_stage(
    config, dataset, workdir, trained_vae, chunks, monkeypatch, layout, bad, posterior, part
):
    config.ldm.latents, config.ldm.posterior = layout, posterior
    start(config, dataset, workdir, trained_vae, "ldm")
    encode = latents.encode

    def broken(*arguments, **options):
        found = encode(*arguments, **options)
        getattr(found, part)[3, 1] = bad
        return found

    monkeypatch.setattr(latents, "encode", broken)
    with pytest.raises(NonFiniteLossError, match=f"ldm stage cannot start: the {part} of"):
        stages.train_ldm(config, dataset, Workdir(workdir))


BAD_LINES = (
    b"\xff\xfe",
    b'{"stage": "vae", "st',
    b"[1, 2]",
    b"3",
    b"null",
    b'{"stage": "vae"}',
    b'{"step": 3}',
    b'{"stage": "vae", "step": "3"}',
    b'{"stage": "vae", "step": 3, "loss": "low"}',
    b'{"stage": "vae", "step": 3, "loss": [1]}',
    b'{"stage": "vae", "step": 3, "loss": NaN}',
    b'{"stage": "vae", "step": 3, "loss": 1' + b"0" * 400 + b"}",
    b"[" * 100_000,
    b"",
)


def test_damaged_lines_of_the_journal_do_not_stop_a_run(workdir, caplog):
    workdir.mkdir(parents=True)
    journal = loop.Journal(Workdir(workdir))
    good = [{"stage": "vae", "step": s, "loss": 0.1 * s} for s in (10, 20, 30)]
    lines = [json.dumps(record).encode() for record in good]
    journal.path.write_bytes(
        b"\n".join([*lines, *BAD_LINES]) + b"\n" + lines[0].replace(b"1", b"\xb1")
    )
    with caplog.at_level("WARNING"):
        assert journal.records() == good
    (warning,) = caplog.records
    assert f"{journal.path}: {len(BAD_LINES) + 1} of" in warning.message
    journal.rewind("vae", 20)
    assert records(workdir) == good[:2]


@pytest.mark.parametrize("place", [0, 10, -2])
def test_a_bad_byte_in_the_journal_does_not_end_training(
    config, dataset, workdir, chunks, place, caplog
):
    stages.write_config(config, workdir / "config.json")
    chunks.stop_before(5)
    with pytest.raises(Preempted):
        stages.train_vae(config, dataset, Workdir(workdir))
    path = workdir / "metrics.jsonl"
    content = bytearray(path.read_bytes())
    content[place] = 0xFF
    path.write_bytes(bytes(content))
    stages.train_vae(config, dataset, Workdir(workdir))
    assert str(path) in caplog.text
    found = records(workdir)
    assert len(found) == 9
    assert found[-1]["step"] == 50


# As processes: the command itself.


@pytest.fixture
def launch(server, launch_flags, tmp_path):
    """Starts the command on `tmp_path/run`; each start has a log of its own."""

    def start_command(*flags):
        number = len(list(tmp_path.glob("*.log")))
        return server.start(
            *launch_flags, f"--workdir={tmp_path / 'run'}", *flags, log=tmp_path / f"{number}.log"
        )

    return start_command


def lines(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_until(condition, child, timeout=200):
    """Waits for `condition()`; False if the child ends first."""
    limit = time.monotonic() + timeout
    while not condition():
        if child.ended():
            return False
        assert time.monotonic() < limit, child.output
        time.sleep(0.001)
    return True


def unfinished(workdir):
    """The step folders, and Orbax's temporary ones, of saves and deletions that are not over."""
    found = set()
    for folder in (workdir / stage for stage in STAGES):
        with contextlib.suppress(OSError):  # a folder that was renamed or deleted meanwhile
            for path in folder.iterdir():
                cut = path.name.isdigit() and not (path / "checksums.json").exists()
                if cut or "orbax-checkpoint-tmp" in path.name:
                    found.add(path)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("starts", "grown_by", "saves"),
    [(2, 3, 3), (9, 13, 12)],
    ids=["a few", "many"],
)
def test_kill_at_any_moment_and_the_same_command_finishes_the_same_run(
    launch, reference_run, tmp_path, starts, grown_by, saves
):
    workdir = tmp_path / "run"
    choice = random.Random(0)
    # When to kill: seconds after the start; once the journal has grown by some lines; seconds into
    # a save; and as soon as a file stands that ends a stage.
    moments = [("start", choice.uniform(0.05, 1.5)) for _ in range(starts)]
    moments += [("lines", choice.randint(1, 5)) for _ in range(grown_by)]
    moments += [("save", choice.uniform(0, 0.02)) for _ in range(saves)]
    choice.shuffle(moments)
    moments.insert(len(moments) // 2, ("file", "vae/240/checksums.json"))
    moments += [("file", "samples.npz"), ("file", "scores.json")]
    in_saves = 0
    for kind, value in moments:
        already = unfinished(workdir)
        child = launch()
        if kind == "start":
            time.sleep(value)
        elif kind == "lines":
            fewest = lines(workdir)

            def grown(by=value):
                nonlocal fewest  # a resumed run first drops what it will write again
                fewest = min(fewest, lines(workdir))
                return lines(workdir) >= fewest + by

            wait_until(grown, child)
            time.sleep(choice.uniform(0, 0.02))
        elif kind == "save":
            wait_until(lambda old=already: unfinished(workdir) - old, child)
            time.sleep(value)
        else:
            wait_until(lambda name=value: (workdir / name).exists(), child)
        child.kill()
        assert child.code == -signal.SIGKILL, f"{kind} {value}: {child.code}\n{child.output}"
        in_saves += bool(unfinished(workdir) - already)
    assert in_saves >= saves // 2
    child = launch()
    assert child.wait() == 0, child.output
    assert_same_run(workdir, reference_run)


def test_sigterm_saves_and_the_same_command_finishes_the_same_run(launch, reference_run, tmp_path):
    workdir = tmp_path / "run"
    for stage in STAGES:
        child = launch()
        assert wait_until(lambda s=stage: (workdir / s / "40" / "checksums.json").exists(), child)
        child.signal(signal.SIGTERM)
        assert child.wait() == 143, child.output
        saved = checkpoint.steps(epath.Path(workdir) / stage)[-1]
        assert f"stopped by a signal in stage {stage}; step {saved} is saved" in child.output
        assert "the same command resumes there" in child.output
        assert "Traceback" not in child.output
        assert max(r["step"] for r in records(workdir) if r["stage"] == stage) == saved
    child = launch()
    assert child.wait() == 0, child.output
    assert f"ldm: resuming at step {saved}" in child.output
    assert_same_run(workdir, reference_run)


@pytest.mark.slow
def test_stages_one_by_one_are_the_run_at_once(launch, reference_run, tmp_path):
    child = launch("--stages=ldm")
    assert child.wait() == 2
    assert "stage 'ldm' needs stage 'vae'" in child.output
    child = launch("--stages=vae")
    assert child.wait() == 0, child.output
    assert not (tmp_path / "run" / "ldm").exists()
    child = launch("--stages=ldm,sample,evaluate,report")
    assert child.wait() == 0, child.output
    assert_same_run(tmp_path / "run", reference_run)


@pytest.fixture
def finished_run(reference_run, tmp_path):
    """A copy of the undisturbed run, where `launch` finds it."""
    shutil.copytree(reference_run, tmp_path / "run")
    return tmp_path / "run"


def test_a_finished_run_is_left_alone(launch, finished_run):
    def times():
        return {
            path: path.stat().st_mtime_ns
            for path in finished_run.rglob("*")
            if path.is_file() and path.suffix not in (".png", ".html")
        }

    before = times()
    child = launch("--stages=vae,ldm,sample,evaluate")
    assert child.wait() == 0, child.output
    assert child.output.count("finished before, skipped") == 4
    assert times() == before


def test_another_configuration_is_an_error_that_shows_the_difference(launch, finished_run):
    before = final_states(finished_run)
    child = launch("--config.vae.batch=32", "--config.seed=5", "--config.data.protocol=heldout")
    assert child.wait() == 2
    assert "config.vae.batch: 16 -> 32" in child.output
    assert "config.seed: 0 -> 5" in child.output
    assert "config.data.protocol: 'paper' -> 'heldout'" in child.output
    assert "use another work directory" in child.output
    assert "Traceback" not in child.output
    assert final_states(finished_run) == before


def test_damage_is_an_error_not_a_traceback(launch, finished_run):
    for number in checkpoint.steps(epath.Path(finished_run) / "ldm"):
        (finished_run / "ldm" / str(number) / "state" / "manifest.ocdbt").write_bytes(b"")
    (finished_run / "samples.npz").unlink()
    for named in ("--stages=ldm", "--stages=sample"):
        child = launch(named)
        assert child.wait() == 2
        assert "manifest.ocdbt" in child.output
        assert "Traceback" not in child.output


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def spoil(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] = 0xFF  # no UTF-8
    path.write_bytes(bytes(content))


def become_a_folder(path):
    if path.is_file():
        path.unlink()
        path.mkdir()


def lose(path):
    path.unlink()


# Of the files beside the checkpoints, those that a run makes again from what is left of it.
MADE_AGAIN = ("samples.npz", "scores.json", "report.html", "metrics.jsonl")
QUICKLY = [("samples.npz", cut)]
SIDE_FILES = [
    pytest.param(name, harm, marks=[] if (name, harm) in QUICKLY else pytest.mark.slow)
    for name in (*MADE_AGAIN, "config.json")
    for harm in (cut, empty, spoil, lose, become_a_folder)
]


@pytest.mark.parametrize(("name", "harm"), SIDE_FILES)
def test_a_damaged_side_file_is_made_again_or_named(
    launch, finished_run, reference_run, name, harm
):
    with np.load(finished_run / "samples.npz") as before:
        samples = before["samples"]
    scores = json.loads((finished_run / "scores.json").read_text())
    harm(finished_run / name)
    child = launch()
    code = child.wait()
    assert "Traceback" not in child.output
    if code == 0:
        with np.load(finished_run / "samples.npz") as after:
            np.testing.assert_array_equal(after["samples"], samples)
        assert json.loads((finished_run / "scores.json").read_text()) == scores
    else:
        # A folder in a file's place is the user's; without its configuration it is no run.
        assert code == 2
        assert harm is become_a_folder or name == "config.json"
        assert str(finished_run / name) in child.output.splitlines()[-1]


def test_samples_need_the_vae_that_the_diffusion_was_trained_on(launch, finished_run):
    best = checkpoint.best_step(epath.Path(finished_run) / "vae")
    (finished_run / "vae" / str(best) / "state" / "_METADATA").write_text("")
    (finished_run / "samples.npz").unlink()
    child = launch("--stages=sample")
    assert child.wait() == 2
    assert f"was trained on the VAE of step {best}, which is damaged or gone" in child.output
    assert not (finished_run / "samples.npz").exists()


def lose_step(path):
    shutil.rmtree(path)


def lose_checksums(path):
    (path / "checksums.json").unlink()


def lose_metadata(path):
    (path / "meta" / "metadata").write_text("{")


def lose_arrays(path):
    (path / "state" / "_METADATA").write_text("")


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("lose", [lose_step, lose_checksums, lose_metadata, lose_arrays])
def test_a_lost_best_gives_the_same_samples_or_an_error(launch, finished_run, lose, stage):
    best = checkpoint.best_step(epath.Path(finished_run) / stage)
    last = checkpoint.steps(epath.Path(finished_run) / stage)[-1]
    before = (finished_run / "samples.npz").read_bytes()
    lose(finished_run / stage / str(best))
    (finished_run / "samples.npz").unlink()
    child = launch()
    code = child.wait()
    assert "Traceback" not in child.output
    if best == last:
        assert code == 0, child.output
        assert (finished_run / "samples.npz").read_bytes() == before
        return
    assert code == 2, child.output
    assert f"step {best}" in child.output
    assert "damaged or gone" in child.output
    assert not (finished_run / "samples.npz").exists()


def test_samples_wait_for_the_last_step_where_it_is_damaged(launch, finished_run):
    (finished_run / "ldm" / "240" / "state" / "_METADATA").write_text("")
    (finished_run / "samples.npz").unlink()
    child = launch("--stages=sample")
    assert child.wait() == 2, child.output
    assert "run the ldm stage first" in child.output
    assert not (finished_run / "samples.npz").exists()


def test_an_absurd_learning_rate_is_an_error_that_names_stage_step_and_terms(launch, tmp_path):
    child = launch("--config.vae.optimizer.learning_rate=1e30")
    assert child.wait() == 2
    assert "the vae loss is not finite at step " in child.output
    assert "reconstruction=" in child.output
    assert "kl=" in child.output
    assert "none is saved yet" in child.output
    assert "Traceback" not in child.output
    assert not (tmp_path / "run" / "vae").exists()
