"""Checkpoints of a stage: Orbax arrays, JSON beside them, and checksums over every file.

A step's folder counts once `checksums.json` stands in it, written last: a kill before that leaves a
folder that is ignored. Orbax restores a flipped byte in array data without a word, so each file's
SHA-256 is checked before anything is read, and the step before is used when one is damaged.

Only process 0 touches the disk; the others receive its arrays.
"""

import hashlib
import json
import logging
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from timeldm_jax.training import parallel

_log = logging.getLogger(__name__)

CHECKSUMS = "checksums.json"


class CheckpointError(RuntimeError):
    """No checkpoint can be used."""


def save(
    folder: epath.Path, step: int, tree: Any, meta: dict[str, Any], *, loss: float | None, keep: int = 2
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
    """
    if jax.process_index() == 0:
        target = folder / str(step)
        if target.exists():
            # A kill between Orbax's commit and our checksums: the content was never vouched for.
            target.rmtree()
        with _checkpointer() as checkpointer:
            checkpointer.save(
                target,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(tree),
                    meta=ocp.args.JsonSave(meta | {"step": step, "loss": loss}),
                ),
            )
        _write_json(target / CHECKSUMS, _checksums(target))
        finished = steps(folder)
        best = min(finished, key=lambda s: _loss(folder / str(s)))
        for old in finished[:-keep]:
            if old != best:
                # Without its checksums a half-deleted folder is no checkpoint.
                (folder / str(old) / CHECKSUMS).unlink()
                (folder / str(old)).rmtree()
    parallel.barrier(f"saved {folder.name} {step}")


def steps(folder: epath.Path) -> list[int]:
    """Steps of finished checkpoints, oldest first."""
    if not folder.exists():
        return []
    return sorted(
        int(child.name)
        for child in folder.iterdir()
        if child.name.isdigit() and (child / CHECKSUMS).exists()
    )


def restore_latest(folder: epath.Path, template: Any) -> tuple[Any, dict[str, Any]] | None:
    """The newest undamaged checkpoint, or None where none was ever finished.

    A damaged one is deleted after a warning that names the bad file, so that training resumed
    from the one before can write it anew.

    Args:
      folder: the stage's folder.
      template: pytree of arrays or `jax.ShapeDtypeStruct` with the shapes and dtypes to restore.

    Returns:
      The pytree of numpy arrays and the metadata.

    Raises:
      CheckpointError: checkpoints exist and every one is damaged.
    """
    found = None
    failure = None
    if jax.process_index() == 0:
        for leftover in folder.glob("*orbax-checkpoint-tmp*"):  # of a killed save
            leftover.rmtree()
        try:
            found = _first_sound(folder, steps(folder)[::-1], template, delete_damaged=True)
        except CheckpointError as error:
            failure = error
    return _share(found, failure, template)


def restore_best(folder: epath.Path, template: Any) -> tuple[Any, dict[str, Any]]:
    """The undamaged checkpoint with the lowest validation loss.

    Raises:
      CheckpointError: there is none.
    """
    found = None
    failure = None
    if jax.process_index() == 0:
        try:
            ranked = sorted(steps(folder), key=lambda step: _loss(folder / str(step)))
            found = _first_sound(folder, ranked, template, delete_damaged=False)
            if found is None:
                raise CheckpointError(
                    f"no finished checkpoint in {folder}; run the {folder.name} stage first"
                )
        except CheckpointError as error:
            failure = error
    restored = _share(found, failure, template)
    assert restored is not None
    return restored


def best_step(folder: epath.Path) -> int:
    """Step of the undamaged checkpoint with the lowest validation loss.

    Raises:
      CheckpointError: there is none.
    """
    for step in sorted(steps(folder), key=lambda step: _loss(folder / str(step))):
        if _damage(folder / str(step)) is None:
            return step
    raise CheckpointError(f"no undamaged checkpoint in {folder}")


def read_meta(folder: epath.Path) -> dict[str, Any] | None:
    """Metadata of the newest finished checkpoint whose JSON can be read, or None."""
    for step in steps(folder)[::-1]:
        if _damage(folder / str(step)) is None:
            return json.loads((folder / str(step) / "meta" / "metadata").read_text())
    return None


def _checkpointer() -> ocp.Checkpointer:
    """An Orbax checkpointer that waits for no other process."""
    return ocp.Checkpointer(
        ocp.CompositeCheckpointHandler(),
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes={0}
        ),
    )


def _first_sound(
    folder: epath.Path, candidates: list[int], template: Any, *, delete_damaged: bool
) -> tuple[Any, dict[str, Any]] | None:
    """Restores the first candidate whose files match their checksums."""
    damaged = []
    for step in candidates:
        path = folder / str(step)
        damage = _damage(path)
        if damage is None:
            return _read(path, template)
        damaged.append(damage)
        _log.warning("%s; using another checkpoint", damage)
        if delete_damaged:
            path.rmtree()
    if damaged:
        raise CheckpointError(
            "every checkpoint is damaged: " + "; ".join(damaged) + f". Delete {folder} to train "
            "this stage again"
        )
    return None


def _read(path: epath.Path, template: Any) -> tuple[Any, dict[str, Any]]:
    abstract = jax.tree.map(lambda a: np.empty(a.shape, a.dtype), template)
    with _checkpointer() as checkpointer:
        restored = checkpointer.restore(
            path,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
            ),
        )
    return restored.state, restored.meta


def _share(
    found: tuple[Any, dict[str, Any]] | None, failure: CheckpointError | None, template: Any
) -> tuple[Any, dict[str, Any]] | None:
    """Gives process 0's outcome to every process."""
    if jax.process_count() == 1:
        if failure:
            raise failure
        return found
    text = json.dumps(
        {"failure": str(failure) if failure else None, "meta": found[1] if found else None}
    ).encode()
    length = int(parallel.share_from_first(np.int32(len(text))))
    buffer = np.zeros(length, np.uint8)
    if jax.process_index() == 0:
        buffer[:] = np.frombuffer(text, np.uint8)
    outcome = json.loads(bytes(np.asarray(parallel.share_from_first(buffer))).decode())
    if outcome["failure"]:
        raise CheckpointError(outcome["failure"])
    if outcome["meta"] is None:
        return None
    tree = found[0] if found else jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), template)
    return jax.tree.map(np.asarray, parallel.share_from_first(tree)), outcome["meta"]


def _files(path: epath.Path) -> Iterator[tuple[str, epath.Path]]:
    for child in sorted(path.iterdir()):
        if child.is_dir():
            for name, file in _files(child):
                yield f"{child.name}/{name}", file
        elif child.name != CHECKSUMS:
            yield child.name, child


def _checksums(path: epath.Path) -> dict[str, str]:
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in _files(path)}


def _damage(path: epath.Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        expected = json.loads((path / CHECKSUMS).read_text())
    except ValueError:
        return f"{path / CHECKSUMS} is not readable JSON"
    found = _checksums(path)
    for name, digest in expected.items():
        if name not in found:
            return f"{path / name} is missing"
        if found[name] != digest:
            return f"{path / name} is damaged (SHA-256 {found[name][:12]}…, saved as {digest[:12]}…)"
    return None


def _loss(path: epath.Path) -> float:
    try:
        loss = json.loads((path / "meta" / "metadata").read_text())["loss"]
    except (OSError, ValueError, KeyError):
        return math.inf  # damaged; the checksum says so when its turn comes
    return math.inf if loss is None else float(loss)


def _write_json(path: epath.Path, content: Any) -> None:
    """Writes a file that is either whole or absent."""
    partial = path.parent / f"{path.name}.tmp"
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(path)
