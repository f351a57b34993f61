"""A saved model: a closed folder of JSON and arrays, written whole and checked before it is used.

`manifest.json` lists every other file with its size and SHA-256. There are no folders in it, no
links, and nothing that is not listed. `weights.npz` holds averaged weights only, float32 and not
compressed, so that its size follows from the shapes that `model.json` lists: nothing is read, and
no network built, before sizes agree. Each file is read once, and what was read is what was checked.

Folders of earlier versions, and work directories of runs, are opened too; see `_open_run`.
"""

import hashlib
import io
import json
import logging
import math
import os
import pathlib
import secrets
import shutil
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from timeldm_jax import config as configuration
from timeldm_jax import loading
from timeldm_jax import model_checks as checks
from timeldm_jax.errors import BAD_CONTENT, CheckpointError, DataError
from timeldm_jax.generator import Generator
from timeldm_jax.metrics import evaluation
from timeldm_jax.report.card import model_card
from timeldm_jax.training import checkpoint, checksums
from timeldm_jax.workdir import FORMAT, Workdir, to_json

_log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
CONFIG, MODEL, WEIGHTS = "config.json", "model.json", "weights.npz"
SCORES, CARD = "scores.json", "MODEL_CARD.md"
NEEDED = (CONFIG, MODEL, WEIGHTS)
KNOWN = (*NEEDED, SCORES, CARD)
# What `model.json` has of a diffusion checkpoint's metadata, beside the shapes of the arrays.
DESCRIPTION = (
    "columns", "scaler", "schema", "marginals", "repeats", "drawn_marginals", "fingerprint",
    "versions", "vae_step", "step",
)  # fmt: skip
LARGEST_JSON = 2**28  # bytes; a table of 2,000 columns with a thousand quantiles each has 2**27
ARRAY_HEADER = 2**12  # bytes in `weights.npz` that are not an array's numbers, at most
Arrays = dict[str, np.ndarray]


class Opened(NamedTuple):
    """What a folder holds.

    Attributes:
      generator: the model.
      scores: `scores.json`, checked, or None where there is none.
      workdir: of a run, or of what an earlier version saved; None of a saved model.
    """

    generator: Generator
    scores: dict[str, Any] | None
    workdir: Workdir | None = None


def check_new(target: pathlib.Path) -> None:
    """Raises FileExistsError unless a model can be saved to `target`: new, or an empty folder."""
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise FileExistsError(f"{target} is not an empty directory; save to a new one")


def save(target: pathlib.Path, model: Generator, scores: dict[str, Any] | None) -> None:
    """Saves a model, whole or not at all.

    Args:
      target: new or empty.
      model: the model.
      scores: as in `scores.json`, to go with it, or None.

    Raises:
      FileExistsError: the target is not empty.
      OSError: it cannot be written; nothing is left of it.
    """
    check_new(target)
    arrays = _arrays_of(model)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{n: np.asarray(a, "<f4") for n, a in arrays.items()})
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    contents = {
        CONFIG: to_json(configuration.to_saved(model.config), sort_keys=True).encode(),
        MODEL: to_json({**_description(model.meta), **_drawn(model), "arrays": shapes}).encode(),
        WEIGHTS: buffer.getvalue(),
        CARD: model_card(model, scores).encode(),
    }
    if scores is not None:
        contents[SCORES] = to_json(scores).encode()
    files = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    contents[MANIFEST] = to_json(
        {"format": FORMAT, "files": files, "sha256": _digest(files)}
    ).encode()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.partial")
    partial.mkdir()
    try:
        for name, content in contents.items():
            (partial / name).write_bytes(content)
        if target.exists():
            target.rmdir()
        partial.replace(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def fingerprint(model: Generator) -> str:
    """The SHA-256 of all that a model draws by: its configuration, description and weights."""
    found = hashlib.sha256()
    description = {**_description(model.meta), **_drawn(model)}
    for content in (configuration.to_saved(model.config), description):
        found.update(json.dumps(content, sort_keys=True).encode())
    for name, array in sorted(_arrays_of(model).items()):
        found.update(f"{name} {array.shape}".encode())
        found.update(np.ascontiguousarray(array, "<f4").tobytes())
    return found.hexdigest()


def _arrays_of(model: Generator) -> Arrays:
    stats = {n: a for n, a in model.stats._asdict().items() if not isinstance(a, tuple)}
    return checks.named({"vae": model.vae_params, "ldm": model.ldm_params, "stats": stats})


def load(root: pathlib.Path) -> Opened:
    """Opens a saved model of any version, or the work directory of a run. Runs no code in it.

    Args:
      root: the folder, absolute.

    Raises:
      CheckpointError: nothing there, damaged, altered, or saved by a newer version; the message
        names the file.
    """
    try:
        if not root.is_dir():
            problem = "is not a directory" if root.exists() else "does not exist"
            raise CheckpointError(f"{root} {problem}: it holds no model")
        return _open_saved(root) if os.path.lexists(root / MANIFEST) else _open_run(root)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or root} cannot be read: {error.strerror or error}"
        ) from error


def _open_saved(root: pathlib.Path) -> Opened:
    sizes, digests = _listed(root)
    for name, size in sizes.items():
        if name != WEIGHTS and size > LARGEST_JSON:
            raise CheckpointError(f"{root / name} is too large for what it holds: {size:,} bytes")

    def read(name: str) -> bytes:
        content = checks.read_plain(root / name, sizes[name])
        if len(content) != sizes[name] or hashlib.sha256(content).hexdigest() != digests[name]:
            raise CheckpointError(f"{root / name} is damaged (it does not match {MANIFEST})")
        return content

    config = checks.read_config(root / CONFIG, checks.parse(root / CONFIG, read(CONFIG)))
    meta = checks.parse(root / MODEL, read(MODEL))
    shapes = checks.listed_shapes(root / MODEL, meta)
    numbers = sum(map(math.prod, shapes.values()))
    room = ARRAY_HEADER * (len(shapes) + 1)
    if not 4 * numbers <= sizes[WEIGHTS] <= 4 * numbers + room:
        raise CheckpointError(
            f"{root / WEIGHTS} has {sizes[WEIGHTS]:,} bytes; {MODEL} lists {numbers:,} numbers"
        )
    models, template = checks.fitting(root / CONFIG, config, meta, shapes)
    arrays = _arrays(root / WEIGHTS, read(WEIGHTS))
    if {name: array.shape for name, array in arrays.items()} != shapes:
        raise CheckpointError(f"{root / WEIGHTS} does not hold the arrays that {MODEL} lists")
    parts = jax.tree.unflatten(
        jax.tree.structure(template), [arrays[n] for n in checks.named(template)]
    )
    diffusion = checkpoint.Averaged(parts["ldm"], parts["stats"])
    try:
        made = loading.assemble(config, models, parts["vae"], diffusion, _description(meta))
    except BAD_CONTENT as error:
        raise checks.no_model(root / MODEL, error) from error
    checks.check_description(root / MODEL, made)
    scores = None
    if SCORES in sizes:
        try:
            scores = evaluation.check(checks.parse(root / SCORES, read(SCORES)))
        except DataError as error:
            raise CheckpointError(f"{root / SCORES}: {error}") from error
    if CARD in sizes:
        read(CARD)
    return Opened(made, scores)


def _listed(root: pathlib.Path) -> tuple[dict[str, int], dict[str, str]]:
    """Size and SHA-256 of each file, by the manifest; the folder holds them and nothing else."""
    path = root / MANIFEST
    content = checks.parse(path, checks.read_plain(path, LARGEST_JSON))
    version = content.get("format")
    if type(version) is int and version > FORMAT:
        raise CheckpointError(
            f"{root} was saved by a newer version of timeldm_jax (format {version}, this one reads "
            f"up to {FORMAT}): upgrade timeldm_jax"
        )
    files: Any = content.get("files")
    if type(version) is not int or version < 2 or content.get("sha256") != _digest(files):
        raise CheckpointError(f"{path} is damaged (it does not match its own checksum)")
    try:
        sizes = {name: entry["size"] for name, entry in files.items()}
        digests = {name: entry["sha256"] for name, entry in files.items()}
    except BAD_CONTENT as error:
        raise CheckpointError(f"{path} is damaged: it is no list of files") from error
    for name in (*NEEDED, *sizes):
        if name not in sizes:
            raise CheckpointError(f"{path} lists no {name}, which a model needs")
        if name not in KNOWN or type(sizes[name]) is not int:
            raise CheckpointError(f"{path} lists {name!r}, which is no file of a model")
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name != MANIFEST and entry.name not in sizes:
                raise CheckpointError(
                    f"{entry.path} is not listed in {MANIFEST}: a saved model holds nothing else"
                )
    return sizes, digests


def _digest(files: Any) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _arrays(path: pathlib.Path, content: bytes) -> Arrays:
    """The arrays of an `.npz`: float32, not compressed, none over another."""
    found = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if sum(m.file_size for m in members) > len(content):
                raise ValueError("its members are larger than itself")
            for member in members:
                if member.compress_type != zipfile.ZIP_STORED:
                    raise ValueError("it is compressed")
                found[member.filename.removesuffix(".npy")] = _array(archive.read(member))
    except (*BAD_CONTENT, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise CheckpointError(f"{path} is damaged ({checks.cause(error)})") from error
    return found


def _array(content: bytes) -> np.ndarray:
    buffer = io.BytesIO(content)
    version = np.lib.format.read_magic(buffer)
    if version != (1, 0):
        raise ValueError(f"an array of format {version}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(buffer)
    if dtype != np.dtype("<f4") or fortran or len(content) - buffer.tell() != 4 * math.prod(shape):
        raise ValueError("an array that is no float32 of its shape")
    array = np.frombuffer(content, "<f4", offset=buffer.tell()).reshape(shape)
    if not np.isfinite(array).all():
        raise ValueError("weights that are no numbers")
    return array


def _description(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What a model keeps of its diffusion checkpoint's metadata."""
    kept = {name: meta.get(name) for name in DESCRIPTION}
    kept["marginals"] = meta.get("marginals", meta.get("margins"))  # as earlier versions said
    return kept


def _drawn(model: Generator) -> dict[str, Any]:
    """How the model's own samples are distributed, so that nobody has to draw them again."""
    if not model.is_matched and model.wider is None:
        return {}
    return {"drawn_marginals": model.described()}


def _open_run(root: pathlib.Path) -> Opened:
    """A work directory, or what a version saved that had no manifest: checkpoints of both stages.

    A run's own folder may hold more than a model does; what is read of it is checked alike.
    """
    workdir = Workdir(epath.Path(root))
    _check_no_links(root)
    config = checks.read_config(
        root / CONFIG, checks.parse(root / CONFIG, checks.read_plain(root / CONFIG, LARGEST_JSON))
    )
    shapes: dict[str, tuple[int, ...]] = {}
    meta: dict[str, Any] = {}
    try:
        for stage in ("vae", "ldm"):
            best = workdir.stage(stage) / str(checkpoint.best_step(workdir.stage(stage)))
            checksums.check_closed(best)
            meta = checkpoint.read_best_meta(workdir.stage(stage))
            found = checkpoint.shapes(best).items()
            names = {"ema": stage, "latent_stats": "stats"}
            shapes |= {f"{names[n.split('/')[0]]}/{n.partition('/')[2]}": s for n, s in found}
        checks.fitting(root / CONFIG, config, meta, shapes)
        made = loading.load_generator(workdir)
        # Checksums vouch for the configuration beside the weights, not for this file.
        trained = configuration.upgrade(meta["config"])
    except BAD_CONTENT as error:
        raise CheckpointError(
            f"{root} is damaged: it describes no model ({checks.cause(error)})"
        ) from error
    changed = configuration.difference(trained, config.to_dict())
    if changed:
        raise CheckpointError(f"{root / CONFIG} is not what was trained: {'; '.join(changed)}")
    checks.check_description(workdir.ldm, made)
    scores = None
    if workdir.scores.exists():
        try:
            scores = evaluation.read(workdir.scores)
        except DataError as error:
            _log.warning("%s; the model is opened without it", error)
    return Opened(made, scores, workdir)


def _check_no_links(root: pathlib.Path) -> None:
    """Raises CheckpointError where something of a run is a link, or neither folder nor file."""
    for name in (CONFIG, SCORES, "metrics.jsonl"):
        if name == CONFIG or os.path.lexists(root / name):
            checks.check_plain(root / name)
    for stage in ("vae", "ldm"):
        if (root / stage).is_symlink():
            checks.check_plain(root / stage)
        for parent, folders, files in os.walk(root / stage):
            for name in folders:
                if os.path.islink(os.path.join(parent, name)):
                    checks.check_plain(pathlib.Path(parent) / name)
            for name in files:
                checks.check_plain(pathlib.Path(parent) / name)
