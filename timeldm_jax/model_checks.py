"""Whether the parts of a model's folder fit together, told before anything large is done with them.

What is read may be damaged, or made to do harm: each check here costs little, whatever it finds,
and ends in a CheckpointError that names the file.
"""

import json
import math
import os
import pathlib
import stat
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from timeldm_jax import config as configuration
from timeldm_jax import convert
from timeldm_jax.data import schema as schemas
from timeldm_jax.data import table as tables
from timeldm_jax.data.scaling import Scaler
from timeldm_jax.errors import BAD_CONTENT, CheckpointError, ConfigError
from timeldm_jax.generator import Generator
from timeldm_jax.marginals import DRAWN_LEVELS, LEVELS
from timeldm_jax.settings import conforms
from timeldm_jax.training import stages
from timeldm_jax.training.stages import Models

MOST_ARRAYS = 5_000
Shapes = dict[str, tuple[int, ...]]


def check_plain(path: pathlib.Path) -> int:
    """The size of a file that is neither a link, nor a folder, nor a device."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a link" if stat.S_ISLNK(found.st_mode) else "no file"
        raise CheckpointError(f"{path} is {kind}: a saved model holds plain files only")
    return found.st_size


def read_plain(path: pathlib.Path, most: int) -> bytes:
    """The content of a plain file of at most `most` bytes."""
    size = check_plain(path)
    if size > most:
        raise CheckpointError(f"{path} is damaged: {size:,} bytes, expected at most {most:,}")

    def no_link(name: str, flags: int) -> int:  # it may have become one since
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0))

    with open(path, "rb", opener=no_link) as file:
        return file.read(most + 1)


def parse(path: pathlib.Path, content: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
      CheckpointError: it is none.
    """
    try:
        found = json.loads(content)
    except BAD_CONTENT as error:
        raise CheckpointError(f"{path} is damaged: no JSON ({cause(error)})") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is damaged: no JSON object")
    return found


def no_model(path: pathlib.Path, error: BaseException) -> CheckpointError:
    """What to raise where parts of a model are read, and do not make one."""
    return CheckpointError(f"{path} is damaged: it describes no model ({cause(error)})")


def cause(error: BaseException) -> str:
    """An error of a library, in a line."""
    said = str(error).partition("\n")[0][:300]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def read_config(path: pathlib.Path, content: dict[str, Any]) -> ConfigDict:
    """The configuration of a `config.json` of any version.

    Raises:
      CheckpointError: it is none.
    """
    try:
        config = ConfigDict(configuration.upgrade(content))
        configuration.validate(config)
    except BAD_CONTENT as error:
        raise CheckpointError(f"{path}: {_said(error)}") from error
    return config


def _said(error: BaseException) -> str:
    return str(error) if isinstance(error, ConfigError) else f"is damaged ({cause(error)})"


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by their path in it, such as `vae/embed/kernel`, in its order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def listed_shapes(path: pathlib.Path, meta: dict[str, Any]) -> Shapes:
    """The shapes of the arrays that `model.json` lists."""
    listed = meta.pop("arrays", None)
    if not isinstance(listed, dict) or not 0 < len(listed) <= MOST_ARRAYS:
        raise CheckpointError(f"{path} lists no arrays, or more than {MOST_ARRAYS:,}")
    for name, shape in listed.items():
        sizes = shape if isinstance(shape, list) and len(shape) < 5 else [-1]
        if not all(type(size) is int and 0 < size < 2**40 for size in sizes):
            raise CheckpointError(f"{path} gives {name!r} the shape {str(shape)[:40]}")
    return {name: tuple(shape) for name, shape in listed.items()}


def fitting(
    path: pathlib.Path,
    config: ConfigDict,
    meta: Mapping[str, Any],
    shapes: Shapes,
) -> tuple[Models, Any]:
    """The networks of a configuration and the pytree of their weights, if those are of `shapes`.

    Cheap bounds come first, as tracing networks takes time by their layers and fails by its size.
    """
    columns = meta.get("columns")
    if not isinstance(columns, list) or not columns:
        raise CheckpointError(f"{path}: the model beside it names no columns")
    vae, denoiser, window = config.vae.model, config.ldm.model, config.data.window
    numbers, latent = sum(map(math.prod, shapes.values())), shapes.get("stats/mean", (0,))
    fewest = 12 * (2 * vae.encoder_layers + vae.decoder_layers) + 6 * denoiser.blocks
    needs = (len(columns), vae.width * vae.mlp_ratio, vae.width * window, denoiser.hidden)
    try:
        if (window * vae.latent,) != latent or fewest > len(shapes) or max(needs) > numbers:
            raise ValueError("other sizes")
        models = stages.build_models(config, len(columns))
        template = jax.eval_shape(lambda: _weights(config, models))
        found = {name: leaf.shape for name, leaf in named(template).items()}
    except BAD_CONTENT as error:
        raise CheckpointError(
            f"{path} is not of the weights beside it, which have other sizes ({cause(error)})"
        ) from error
    if found != shapes:
        name = next(n for n in (*found, *shapes) if found.get(n) != shapes.get(n))
        raise CheckpointError(
            f"{path} is not of the weights beside it: {name} has shape "
            f"{shapes.get(name, '(absent)')}, expected {found.get(name, '(absent)')}"
        )
    return models, template


def _weights(config: ConfigDict, models: Models) -> dict[str, Any]:
    """Weights of the shapes that a configuration has."""
    ldm = stages.init_ldm_state(config, models, stages.zero_stats(config, models))
    vae = stages.init_vae_state(config, models)
    stats = {n: a for n, a in ldm.latent_stats._asdict().items() if not isinstance(a, tuple)}
    return {"vae": vae.ema, "ldm": ldm.ema, "stats": stats}


def check_description(path: pathlib.Path, made: Generator) -> None:
    """Raises CheckpointError unless the model's windows can be made what the user's data was."""
    features, meta, scaler = len(made.columns), made.meta, made.scaler
    levels = np.linspace(0, 1, 11)[:, None] * np.ones(features)
    try:
        versions = meta["versions"]
        texts = (*made.columns, meta["fingerprint"], *versions, *versions.values())
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("its columns, fingerprint or versions are no text")
        if not conforms(scaler, Scaler) or {len(scaler.low), len(scaler.high)} != {features}:
            raise ValueError("its scaler is not of its columns")
        steps = np.diff(scaler.unscale(levels), axis=0)
        if not np.isfinite(steps).all() or (steps < 0).any():
            raise ValueError("its scaler is not increasing")
        scaler.within_range(scaler.nearest(scaler.unscale(levels)))
        for found, its in ((made.marginals, LEVELS), (made.drawn, DRAWN_LEVELS)):
            if found is not None and (
                found.shape != (features, len(its)) or (np.diff(found) < 0).any()
            ):
                raise ValueError("its marginals are not of its columns")
        if made.drift is not None and (
            any(part.shape != (made.models.axes,) for part in made.drift)
            or not np.isfinite(made.drift).all()
            or not (made.drift.factor > 0).all()
        ):
            raise ValueError("its drift is not of its latents")
        for found in (made.shares, made.close, *([] if made.wider is None else made.wider)):
            if found is not None and (found.shape != (features,) or not np.isfinite(found).all()):
                raise ValueError("its repeats or bands are not of its columns")
        if made.schema is not None:
            names = tuple(feature.name for feature in schemas.features(made.schema))
            if not conforms(made.schema, schemas.Schema) or names != made.columns:
                raise ValueError("its schema is not of its columns")
            window = scaler.unscale(np.full((1, made.models.vae.window, features), 0.5))
            window = tables.within_range(tables.snap(window, made.schema), made.schema)
            convert.present(made, window, 0)
    except BAD_CONTENT as error:
        raise CheckpointError(
            f"{path} is damaged: it describes no model ({cause(error)})"
        ) from error
