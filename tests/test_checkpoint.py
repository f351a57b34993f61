"""Checkpoints: what is saved comes back bit for bit, and damage is seen, named and survived."""

import json
import logging
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

import timeldm_jax
from timeldm_jax.errors import CheckpointError
from timeldm_jax.latents import LatentStats
from timeldm_jax.training import beta, checkpoint, checksums, state, steps

LOGGER = "timeldm_jax.training.checkpoint"
META = {"columns": ["a", "b"], "fingerprint": "f" * 64, "scaler": {"low": [0.1], "high": [1e300]}}


def train_state(seed=0, *, stage="vae", schedule="plateau"):
    """A state with everything that a stage keeps, and values that are easily lost on the way."""
    random = np.random.default_rng(seed)
    params = {
        "map": {"kernel": random.normal(size=(3, 4)).astype(np.float32)},
        "odd": np.array([-0.0, 1e-45, 3.4e38, 1 / 3], np.float32),
        "half": jnp.asarray(random.normal(size=5), jnp.bfloat16),
    }
    config = steps.OptimizerConfig(1e-3, 0.999, schedule, 0.5, 2, 3, 0.9)
    optimizer = steps.make_optimizer(config, 100)
    extra = (
        {"beta": beta.init(beta.BetaConfig(1e-2, 1e-5, 0.7, 3, restart=True))}
        if stage == "vae"
        else {"latent_stats": LatentStats(np.arange(3.0, dtype=np.float32), np.ones(3, np.float32))}
    )
    train = state.init(params, optimizer, jax.random.key(seed), **extra)
    return jax.tree.map(np.asarray, train._replace(step=jnp.int32(seed)))


def assert_same(actual, expected):
    """Bit for bit, with the same structure and dtypes."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.tobytes() == other.tobytes()


def save(folder, step, loss=1.0, **options):
    checkpoint.save(folder, step, train_state(step), META, loss=loss, **options)


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path / "vae")


@pytest.mark.parametrize("stage", ["vae", "ldm"])
@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_the_whole_state_comes_back_bit_for_bit(folder, stage, schedule):
    saved = train_state(7, stage=stage, schedule=schedule)
    checkpoint.save(folder, 7, saved, META, loss=0.25)
    template = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, saved))
    for restored, meta in (
        checkpoint.restore_latest(folder, template),
        checkpoint.restore_best(folder, template),
    ):
        assert_same(restored, saved)
        assert (restored.beta if stage == "ldm" else restored.latent_stats) == ()
        assert meta == META | {"step": 7, "loss": 0.25, "best": {"step": 7, "loss": 0.25}}


def test_nothing_saved_is_none_and_best_says_what_to_run(folder):
    assert checkpoint.restore_latest(folder, train_state()) is None
    assert checkpoint.read_meta(folder) is None
    assert checkpoint.steps(folder) == []
    with pytest.raises(CheckpointError, match="run the vae stage first"):
        checkpoint.restore_best(folder, train_state())
    with pytest.raises(CheckpointError, match="run the vae stage first"):
        checkpoint.best_step(folder)


def test_the_newest_two_and_the_best_are_kept(folder):
    kept = []
    for step, loss in ((10, 5.0), (20, 2.0), (30, 3.0), (40, 4.0), (50, 6.0), (60, 1.0), (70, 9.0)):
        save(folder, step, loss)
        kept.append(checkpoint.steps(folder))
    assert kept == [
        [10],
        [10, 20],
        [20, 30],
        [20, 30, 40],
        [20, 40, 50],
        [50, 60],
        [60, 70],
    ]
    assert checkpoint.best_step(folder) == 60
    assert {path.name for path in folder.iterdir()} == {"60", "70"}


def test_the_earlier_of_two_equal_losses_is_the_best(folder):
    for step in (10, 20, 30, 40):
        save(folder, step, 1.0)
    assert checkpoint.best_step(folder) == 10
    assert checkpoint.steps(folder) == [10, 30, 40]


def test_a_checkpoint_without_validation_is_never_the_best(folder):
    save(folder, 5, None)
    with pytest.raises(CheckpointError, match="run the vae stage first"):
        checkpoint.best_step(folder)
    save(folder, 10, 1e30)
    save(folder, 15, None)
    save(folder, 20, None)
    assert checkpoint.best_step(folder) == 10
    assert checkpoint.steps(folder) == [10, 15, 20]
    assert checkpoint.restore_best(folder, train_state())[1]["step"] == 10
    assert checkpoint.restore_latest(folder, train_state())[1]["step"] == 20


def test_saving_a_step_again_replaces_it(folder):
    save(folder, 10)
    again = train_state(11)
    checkpoint.save(folder, 10, again, META, loss=3.0)
    restored, meta = checkpoint.restore_latest(folder, again)
    assert_same(restored, again)
    assert meta["loss"] == 3.0


# Files of a checkpoint, one of each kind.
FILES = {
    "arrays": "state/ocdbt.process_0/d/*",
    "arrays' index": "state/d/*",
    "process manifest": "state/ocdbt.process_0/manifest.ocdbt",
    "manifest": "state/manifest.ocdbt",
    "tree": "state/_METADATA",
    "metadata": "meta/metadata",
    "checkpoint metadata": "_CHECKPOINT_METADATA",
    "checksums": "checksums.json",
}


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def flip_early_bit(path):
    content = bytearray(path.read_bytes())
    content[min(7, len(content) - 1)] ^= 16
    path.write_bytes(bytes(content))


DAMAGES = (truncate, empty, flip_bit, flip_early_bit, pathlib.Path.unlink)


def pick(path, kind):
    """The largest file of a kind: what array files hold varies."""
    return max(pathlib.Path(path).glob(FILES[kind]), key=lambda file: file.stat().st_size)


def test_every_file_of_a_checkpoint_is_of_a_known_kind(folder):
    save(folder, 10)
    root = pathlib.Path(folder / "10")
    known = {file for pattern in FILES.values() for file in root.glob(pattern)}
    others = {file for file in root.rglob("*") if file.is_file()} - known
    assert {file.name for file in others} <= {"commit_success.txt", "_sharding"}
    assert set(FILES) == {kind for kind in FILES if list(root.glob(FILES[kind]))}


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    """Steps 10 and 20, of which 20 is the better."""
    made = epath.Path(tmp_path_factory.mktemp("two") / "vae")
    save(made, 10, 2.0)
    save(made, 20, 1.0)
    return made


@pytest.fixture
def two(two_checkpoints, tmp_path):
    return epath.Path(shutil.copytree(two_checkpoints, tmp_path / "vae"))


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_the_one_before_a_damaged_newest_is_used(two, caplog, kind, damage):
    file = pick(two / "20", kind)
    damage(file)

    with caplog.at_level(logging.WARNING, LOGGER):
        best, best_meta = checkpoint.restore_best(two, train_state())
        meta = checkpoint.read_meta(two)
        assert checkpoint.best_step(two) == 10
    assert best_meta["step"] == meta["step"] == 10
    assert_same(best, train_state(10))
    # Without checksums it is no checkpoint, so to readers there is nothing to warn of.
    unfinished = kind == "checksums" and damage is pathlib.Path.unlink
    assert (str(file) in caplog.text) is not unfinished
    caplog.clear()

    with caplog.at_level(logging.WARNING, LOGGER):
        latest, latest_meta = checkpoint.restore_latest(two, train_state())
    assert latest_meta["step"] == 10
    assert_same(latest, train_state(10))
    assert [record.name for record in caplog.records] == [LOGGER]
    assert str(file) in caplog.text

    save(two, 20, 0.5)  # training gets there again
    assert checkpoint.restore_latest(two, train_state())[1]["loss"] == 0.5


def remove_step(path):
    shutil.rmtree(path)


def remove_checksums(path):
    (path / "checksums.json").unlink()


def damage_arrays(path):
    flip_bit(pick(path, "arrays"))


def damage_metadata(path):
    flip_bit(pick(path, "metadata"))


LOSSES = (remove_step, remove_checksums, damage_arrays, damage_metadata)


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_no_other_checkpoint_stands_in_for_a_lost_best(folder, lose):
    for step, loss in ((10, 5.0), (20, 1.0), (30, 3.0), (40, None), (50, 4.0)):
        save(folder, step, loss)
    assert checkpoint.steps(folder) == [20, 40, 50]
    lose(folder / "20")
    for read in (
        checkpoint.best_step,
        checkpoint.read_best_meta,
        lambda folder: checkpoint.restore_best(folder, train_state()),
    ):
        with pytest.raises(CheckpointError, match=r"of step 20 \(validation loss 1\), is damaged"):
            read(folder)
    # Training goes on from the newest, and does not forget.
    assert checkpoint.restore_latest(folder, train_state())[1]["step"] == 50
    save(folder, 60, 2.0)
    with pytest.raises(CheckpointError, match="of step 20"):
        checkpoint.best_step(folder)
    save(folder, 70, 0.5)
    assert checkpoint.best_step(folder) == 70


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_a_lost_best_that_is_the_newest_is_trained_again(folder, lose):
    for step, loss in ((10, 3.0), (20, 5.0), (30, 4.0), (40, 1.0)):
        save(folder, step, loss)
    assert checkpoint.steps(folder) == [30, 40]  # step 10 was no longer the best
    lose(folder / "40")
    with pytest.raises(CheckpointError, match="of step 10"):
        checkpoint.best_step(folder)
    assert checkpoint.restore_latest(folder, train_state())[1]["step"] == 30
    save(folder, 40, 1.0)
    assert checkpoint.best_step(folder) == 40


def test_the_best_of_an_earlier_version_is_that_of_the_steps_it_left(two):
    for step in (10, 20):  # nothing was recorded
        path = pathlib.Path(two / str(step))
        meta = json.loads((path / "meta" / "metadata").read_text())
        (path / "meta" / "metadata").write_text(
            json.dumps({name: value for name, value in meta.items() if name != "best"})
        )
        checksums.write(epath.Path(path))
    assert checkpoint.best_step(two) == 20
    save(two, 30, 9.0)
    assert checkpoint.read_meta(two)["best"] == {"step": 20, "loss": 1.0}


def test_a_file_that_was_renamed_is_named(two, caplog):
    file = pick(two / "20", "arrays")
    file.rename(file.with_name("other"))
    checkpoint.restore_latest(two, train_state())
    assert f"{file} is missing" in caplog.text


@pytest.mark.parametrize(
    "content", ["{}", "[]", "3", "null", '{"checksums.json": "x"}', '{"a": 1}']
)
def test_checksums_that_vouch_for_nothing_are_damage(two, caplog, content):
    (two / "20" / "checksums.json").write_text(content)
    assert checkpoint.restore_latest(two, train_state())[1]["step"] == 10
    assert str(two / "20" / "checksums.json") in caplog.text


def test_every_checkpoint_damaged_is_an_error_that_says_what_to_do(two):
    files = [pick(two / "10", "arrays"), pick(two / "20", "metadata")]
    for file in files:
        flip_bit(file)
    for _ in range(2):  # the second attempt too: nothing was deleted, so nothing starts over
        for restore in (checkpoint.restore_latest, checkpoint.restore_best):
            with pytest.raises(CheckpointError) as failure:
                restore(two, train_state())
            for file in files:
                assert str(file) in str(failure.value)
            assert f"Delete {two} to train this stage again" in str(failure.value)
    assert checkpoint.read_meta(two) is None
    assert checkpoint.steps(two) == [10, 20]


def test_a_template_of_other_shapes_is_an_error_and_deletes_nothing(two):
    wrong = train_state()
    wrong = wrong._replace(params={"map": {"kernel": np.zeros((9, 9), np.float32)}})
    for restore in (checkpoint.restore_latest, checkpoint.restore_best):
        with pytest.raises(CheckpointError, match="20 is undamaged but cannot be read"):
            restore(two, wrong)
    assert checkpoint.steps(two) == [10, 20]


def test_what_killed_saves_left_is_ignored_and_removed(two, caplog):
    # Killed in Orbax's save; between its commit and the checksums; while deleting an old step.
    (two / "30.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    shutil.copytree(two / "20", two / "25")
    (two / "25" / "checksums.json").unlink()
    (two / "5" / "state").mkdir(parents=True)
    assert checkpoint.steps(two) == [10, 20]
    assert checkpoint.best_step(two) == 20
    assert checkpoint.restore_latest(two, train_state())[1]["step"] == 20
    assert {path.name for path in two.iterdir()} == {"10", "20"}
    assert str(two / "25" / "checksums.json") in caplog.text


def test_a_first_save_that_was_killed_counts_for_nothing(folder):
    save(folder, 10)
    (folder / "10" / "checksums.json").unlink()
    (folder / "20.orbax-checkpoint-tmp").mkdir()
    assert checkpoint.restore_latest(folder, train_state()) is None
    save(folder, 10)
    assert checkpoint.restore_latest(folder, train_state())[1]["step"] == 10


def test_a_failed_save_leaves_the_one_before(two, monkeypatch):
    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(checksums, "write_json", full_disk)
    with pytest.raises(OSError, match="No space"):
        save(two, 30)
    monkeypatch.undo()
    assert checkpoint.steps(two) == [10, 20]
    assert checkpoint.restore_latest(two, train_state())[1]["step"] == 20


def test_checkpoints_are_orbax_and_json_only(folder):
    save(folder, 10)
    root = pathlib.Path(folder / "10")
    for name in ("checksums.json", "meta/metadata", "state/_METADATA", "_CHECKPOINT_METADATA"):
        json.loads((root / name).read_text())
    for file in root.rglob("*"):
        assert file.is_dir() or file.suffix in ("", ".json", ".ocdbt", ".txt"), file
    sources = pathlib.Path(timeldm_jax.__file__).parent.rglob("*.py")
    for source in sources:
        text = source.read_text()
        assert "import pickle" not in text, source
        assert "allow_pickle=True" not in text, source
        for call in text.split("np.load(")[1:]:
            assert "allow_pickle=False" in call.split("\n")[0], source
