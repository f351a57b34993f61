"""A saved model: a directory of JSON and arrays that is written whole, and checked when opened."""

import json
import pathlib
import shutil
from typing import Any

from timeldm_jax import config as configuration
from timeldm_jax.errors import CheckpointError, ConfigError
from timeldm_jax.generator import Generator, load_generator
from timeldm_jax.report.card import model_card
from timeldm_jax.training import checkpoint, stages
from timeldm_jax.workdir import Workdir


def check_new(target: pathlib.Path) -> None:
    """Raises FileExistsError unless a model can be saved to `target`: new, or an empty folder."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} is not an empty directory; save to a new one")


def save(target: pathlib.Path, workdir: Workdir, generator: Generator, *, report: bool) -> None:
    """Saves a model, whole or not at all.

    Args:
      target: new or empty.
      workdir: where the model was trained, or loaded from.
      generator: what `workdir` holds.
      report: whether its scores and its report go with it, where there are some.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    shutil.copy(workdir.config, partial)
    for stage in ("vae", "ldm"):
        best = checkpoint.best_step(workdir.stage(stage))
        shutil.copytree(workdir.stage(stage) / str(best), partial / stage / str(best))
    scores: dict[str, Any] | None = None
    if report:
        for path in (workdir.scores, workdir.report):
            if path.exists():
                shutil.copy(path, partial)
        if workdir.scores.exists():
            scores = json.loads(workdir.scores.read_text())
    (partial / "MODEL_CARD.md").write_text(model_card(generator, scores))
    if target.exists():
        target.rmdir()
    partial.replace(target)


def load(workdir: Workdir) -> Generator:
    """What a saved model, or a work directory, holds.

    Raises:
      CheckpointError: nothing there, or damaged; the message names the file.
    """
    try:
        config = stages.read_config(workdir)
    except ConfigError as error:
        raise CheckpointError(f"{workdir.config}: {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{workdir.config} is damaged: {error}") from error
    for stage in ("vae", "ldm"):
        checkpoint.best_step(workdir.stage(stage))  # its error names a damaged file
    generator = load_generator(workdir)
    # Checksums vouch for the configuration beside the weights, not for this file.
    changed = configuration.difference(
        configuration.upgrade(generator.meta["config"]), config.to_dict()
    )
    if changed:
        raise CheckpointError(f"{workdir.config} is not what was trained: {'; '.join(changed)}")
    return generator
