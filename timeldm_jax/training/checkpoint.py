"""Checkpoints of a stage: Orbax arrays, JSON beside them, and checksums over every file.

A step's folder counts once `checksums.json` stands in it, written last: a kill before that leaves a
folder that is ignored. Orbax restores a flipped byte in array data without a word, so each file's
SHA-256 is checked before anything is read, and the step before is used when one is damaged. The
list of checksums carries its own.

Each step's metadata says which step was the best so far, so that a best one that is lost is missed:
another would be drawn from in its place, and give other samples.

In training only process 0 touches the disk; the others receive its arrays.
"""

import errno
import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from timeldm_jax.errors import BAD_CONTENT, CheckpointError
from timeldm_jax.training import checksums, parallel
from timeldm_jax.training.checksums import CHECKSUMS

_log = logging.getLogger(__name__)

BESIDE_ARRAYS = 500_000  # bytes of a checkpoint's other files, and the blocks that they fill


def save(
    folder: epath.Path,
    step: int,
    tree: Any,
    meta: dict[str, Any],
    *,
    loss: float | None,
    keep: int = 2,
) -> None:
    """Writes one checkpoint and prunes older ones; returns when it is safely on disk.

    Keeps the newest `keep` steps and the one with the lowest loss.

    Args:
      folder: the stage's folder, such as `<workdir>/vae`.
      step: training step, the checkpoint's name.
      tree: pytree of numpy arrays.
      meta: anything JSON can hold; kept as `meta` beside the arrays.
      loss: validation loss, by which the best checkpoint is known; None where there was no
        validation, which is never the best.
      keep: how many of the newest to keep.

    Raises:
      OSError: the disk is too full, or fails.
    """
    if jax.process_index() == 0:
        _check_space(folder, tree)
        target = folder / str(step)
        if target.exists():
            # A kill between Orbax's commit and our checksums: the content was never vouched for.
            target.rmtree()
        best = _best_so_far(folder, step, loss)
        with _checkpointer() as checkpointer:
            checkpointer.save(
                target,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(tree),
                    meta=ocp.args.JsonSave(meta | {"step": step, "loss": loss, "best": best}),
                ),
            )
        checksums.write(target)
        for old in steps(folder)[:-keep]:
            if best is None or old != best["step"]:
                # Without its checksums a half-deleted folder is no checkpoint.
                (folder / str(old) / CHECKSUMS).unlink()
                (folder / str(old)).rmtree()
    parallel.barrier(f"saved {folder.name} {step}")


def _check_space(folder: epath.Path, tree: Any) -> None:
    """Raises OSError where the disk is too full for a checkpoint.

    Asked beforehand, because Orbax's threads answer a full disk with hundreds of lines.
    """
    if "://" in os.fspath(folder):
        return
    needed = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree)) + BESIDE_ARRAYS
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if shutil.disk_usage(there).free < needed:
        raise OSError(
            errno.ENOSPC,
            f"no space left for a checkpoint of {needed / 1e6:.1f} MB",
            os.fspath(folder),
        )


def steps(folder: epath.Path) -> list[int]:
    """Steps of finished checkpoints, oldest first."""
    if not folder.exists():
        return []
    return sorted(
        int(child.name)
        for child in folder.iterdir()
        if _names_a_step(child) and (child / CHECKSUMS).exists()
    )


def restore_latest(folder: epath.Path, template: Any) -> tuple[Any, dict[str, Any]] | None:
    """The newest undamaged checkpoint, or None where none was ever finished.

    A damaged one is passed over with a warning that names the bad file, and deleted once a sound
    one is found, so that training resumed from that can write it anew. What killed saves left is
    deleted too.

    Args:
      folder: the stage's folder.
      template: pytree of arrays or `jax.ShapeDtypeStruct` with the shapes and dtypes to restore.

    Returns:
      The pytree of numpy arrays and the metadata.

    Raises:
      CheckpointError: checkpoints exist and every one is damaged, or Orbax cannot read one into
        `template`.
    """
    return _share(lambda: _read_latest(folder, template), template)


def restore_best(
    folder: epath.Path, template: Any, *, share: bool = False
) -> tuple[Any, dict[str, Any]]:
    """The checkpoint with the lowest validation loss.

    Args:
      folder: the stage's folder.
      template: as for `restore_latest`.
      share: whether every process calls this, to receive what process 0 reads; otherwise the
        calling process reads for itself.

    Raises:
      CheckpointError: as `best_step`, or Orbax cannot read it into `template`.
    """

    def read() -> tuple[Any, dict[str, Any]]:
        return _read(folder / str(best_step(folder)), template)

    restored = _share(read, template) if share else read()
    assert restored is not None
    return restored


# Parts of the VAE that the first versions called otherwise.
_RENAMED = {
    "mean_norm": "last_norms_0",
    "log_variance_norm": "last_norms_1",
    "decoder_norm": "last_norms_2",
}


class Averaged(NamedTuple):
    """What is drawn with, of a training state.

    Attributes:
      ema: averaged weights.
      latent_stats: the fields of the diffusion's `LatentStats` by name, none of a VAE.
    """

    ema: Any
    latent_stats: dict[str, Any]


def restore_averaged(
    folder: epath.Path, template: Any, *, share: bool = False
) -> tuple[Averaged, dict[str, Any]]:
    """Of `restore_best`, what is drawn with; the rest of the state may be of another version.

    Args:
      folder: the stage's folder.
      template: a whole state, as for `restore_latest`.
      share: as for `restore_best`.

    Raises:
      CheckpointError: as `restore_best`.
    """
    stats = template.latent_stats._asdict() if template.latent_stats else {}
    wanted = Averaged(template.ema, {k: v for k, v in stats.items() if not isinstance(v, tuple)})

    def read() -> tuple[Any, dict[str, Any]]:
        return _read_averaged(folder / str(best_step(folder)), wanted)

    restored = _share(read, wanted) if share else read()
    assert restored is not None
    return restored


def shapes(path: epath.Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays that `restore_averaged` reads of a step's folder, by path in the state.

    Raises:
      CheckpointError: Orbax cannot say, or they are not float32 in chunks of at most their size.
    """
    try:
        tree = _stored(path)
        parts = {name: tree[name] for name in Averaged._fields if tree.get(name)}
        parts["ema"] = {_RENAMED.get(name, name): part for name, part in parts["ema"].items()}
        found = {}
        for place, array in jax.tree_util.tree_leaves_with_path(parts):
            name = jax.tree_util.keystr(place, simple=True, separator="/")
            chunk = math.prod(array.storage.chunk_shape)
            if array.dtype != np.float32 or chunk > max(math.prod(array.shape), 1):
                raise ValueError(f"{name} is of {array.dtype}, in chunks of {chunk}")
            found[name] = tuple(array.shape)
    except Exception as error:  # of many kinds
        raise CheckpointError(
            f"{path / 'state'} is no checkpoint ({type(error).__name__}: {error})"
        ) from error
    return found


def best_step(folder: epath.Path) -> int:
    """Step of the lowest validation loss, as the newest undamaged checkpoint recorded it.

    Raises:
      CheckpointError: there is none, or it is damaged or gone.
    """
    newest = _first_sound(folder, steps(folder)[::-1])
    best = None if newest is None else _best_so_far(folder, newest + 1, None)
    if best is None:
        raise CheckpointError(
            f"no finished checkpoint in {folder}; run the {folder.name} stage first"
        )
    path = folder / str(best["step"])
    damage = (
        checksums.damage(path) if (path / CHECKSUMS).exists() else f"{path / CHECKSUMS} is missing"
    )
    if damage is not None:
        raise CheckpointError(
            f"the best checkpoint of {folder}, of step {best['step']} (validation loss "
            f"{best['loss']:.6g}), is damaged or gone: {damage}. Put it back, or delete {folder} "
            "to train this stage again"
        )
    return best["step"]


def read_best_meta(folder: epath.Path) -> dict[str, Any]:
    """Metadata of `best_step`.

    Raises:
      CheckpointError: there is none.
    """
    return json.loads(_meta_file(folder / str(best_step(folder))).read_text())


def read_meta(folder: epath.Path) -> dict[str, Any] | None:
    """Metadata of the newest undamaged checkpoint, or None."""
    for step in steps(folder)[::-1]:
        if checksums.damage(folder / str(step)) is None:
            return json.loads(_meta_file(folder / str(step)).read_text())
    return None


def share_meta(folder: epath.Path) -> dict[str, Any] | None:
    """`read_meta` by process 0, on every process."""
    meta = read_meta(folder) if jax.process_index() == 0 else None
    return json.loads(parallel.share_text_from_first(json.dumps(meta)))


def _checkpointer() -> ocp.Checkpointer:
    """An Orbax checkpointer that waits for no other process, in none of its layers."""
    alone = _alone()
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        state=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
        meta=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _alone() -> ocp.options.MultiprocessingOptions:
    process = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=str(process)
    )


def _read_latest(folder: epath.Path, template: Any) -> tuple[Any, dict[str, Any]] | None:
    for leftover in folder.glob("*orbax-checkpoint-tmp*"):  # of a killed save
        leftover.rmtree()
    finished = steps(folder)
    unfinished = _unfinished(folder)
    for path in unfinished:
        _log.warning("%s is missing: the save was cut short and does not count", path / CHECKSUMS)
    step = _first_sound(folder, finished[::-1])
    if step is None:
        return None  # what is unfinished is overwritten when training gets there
    restored = _read(folder / str(step), template)
    newer = [folder / str(s) for s in finished if s > step]
    for path in newer + unfinished:
        path.rmtree()
    return restored


def _unfinished(folder: epath.Path) -> list[epath.Path]:
    """Folders of steps whose save, or whose deletion, was cut short."""
    if not folder.exists():
        return []
    finished = {str(step) for step in steps(folder)}
    return [c for c in folder.iterdir() if _names_a_step(c) and c.name not in finished]


def _names_a_step(path: epath.Path) -> bool:
    return path.name.isascii() and path.name.isdigit()


def _best_so_far(folder: epath.Path, step: int, loss: float | None) -> dict[str, Any] | None:
    """`step` and `loss` of the best validation up to `step`, whose own loss is `loss`.

    The earlier of two equal ones; None where there was no validation.
    """
    for earlier in [s for s in steps(folder) if s < step][::-1]:
        meta = _readable_meta(folder / str(earlier))
        if meta is None:
            continue
        own = meta["loss"]
        # Earlier versions recorded no best: there it is the best of the steps that are left.
        known = meta["best"] if "best" in meta else _best_so_far(folder, earlier, own)
        break
    else:
        known = None
    if loss is None or (known is not None and known["loss"] <= loss):
        return known
    return {"step": step, "loss": loss}


def _first_sound(folder: epath.Path, candidates: list[int]) -> int | None:
    """The first candidate whose files match their checksums, or None without candidates.

    Raises:
      CheckpointError: every candidate is damaged.
    """
    damaged = []
    for step in candidates:
        damage = checksums.damage(folder / str(step))
        if damage is None:
            return step
        damaged.append(damage)
        _log.warning("%s; trying another checkpoint", damage)
    if damaged:
        raise CheckpointError(
            "every checkpoint is damaged: " + "; ".join(damaged) + f". Delete {folder} to train "
            "this stage again"
        )
    return None


def _read(path: epath.Path, template: Any) -> tuple[Any, dict[str, Any]]:
    abstract = jax.tree.map(lambda a: np.empty(a.shape, a.dtype), template)
    try:
        with _checkpointer() as checkpointer:
            restored = checkpointer.restore(
                path,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
                ),
            )
    except Exception as error:  # of many kinds: ValueError, KeyError, FileNotFoundError, ...
        raise _unreadable(path, error) from error
    return restored.state, restored.meta


def _read_averaged(path: epath.Path, wanted: Averaged) -> tuple[Averaged, dict[str, Any]]:
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=_alone())
    try:
        earlier = {new: old for old, new in _RENAMED.items() if old in _stored(path)["ema"]}
        item = {name: tree for name, tree in wanted._asdict().items() if tree}
        item["ema"] = {earlier.get(name, name): part for name, part in wanted.ema.items()}
        item = jax.tree.map(lambda a: np.empty(a.shape, a.dtype), item)
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        found = handler.restore(
            path / "state",
            args=ocp.args.PyTreeRestore(item, restore_args=as_numpy, partial_restore=True),
        )
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(item), strict=True):
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                raise ValueError(f"found {a.dtype}{a.shape}, expected {b.dtype}{b.shape}")
        meta = json.loads(_meta_file(path).read_text())
    except Exception as error:  # as in `_read`
        raise _unreadable(path, error) from error
    ema = {name: found["ema"][earlier.get(name, name)] for name in wanted.ema}
    return Averaged(ema, found.get("latent_stats", {})), meta


def _stored(path: epath.Path) -> Any:
    """What Orbax says of the arrays of a step's folder: a pytree like the state."""
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=_alone())
    return handler.metadata(path / "state").tree


def _unreadable(path: epath.Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is undamaged but cannot be read as this configuration's training state "
        f"({type(error).__name__}: {error}); was it written by another version?"
    )


def _share(
    read: Callable[[], tuple[Any, dict[str, Any]] | None], template: Any
) -> tuple[Any, dict[str, Any]] | None:
    """What `read` gives on process 0, or the CheckpointError it raises, on every process."""
    if jax.process_count() == 1:
        return read()
    found = failure = None
    if jax.process_index() == 0:
        try:
            found = read()
        except CheckpointError as error:
            failure = str(error)
    outcome = json.loads(
        parallel.share_text_from_first(
            json.dumps({"failure": failure, "meta": found[1] if found else None})
        )
    )
    if outcome["failure"]:
        raise CheckpointError(outcome["failure"])
    if outcome["meta"] is None:
        return None
    tree = found[0] if found else jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), template)
    return jax.tree.map(np.asarray, parallel.share_from_first(tree)), outcome["meta"]


def _meta_file(path: epath.Path) -> epath.Path:
    """Where Orbax's JsonSave puts the item `meta`."""
    return path / "meta" / "metadata"


def _readable_meta(path: epath.Path) -> dict[str, Any] | None:
    """Metadata whether or not anything is damaged; None where it cannot be read."""
    try:
        meta = json.loads(_meta_file(path).read_text())
        best = meta.get("best")
        known = best is None or (type(best["step"]) is int and math.isfinite(best["loss"]))
        return meta if known and math.isfinite(meta["loss"] or 0) else None
    except (OSError, *BAD_CONTENT):
        return None
