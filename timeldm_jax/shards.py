"""A folder of samples in shards: files that are each whole, and a manifest of them.

    samples-00001-of-00016.parquet, …, manifest.json

Which windows a shard holds follows from the request alone, and window i from (seed, i): whichever
process draws a shard, and however often it was begun, its bytes are the same. The processes of a
run share the shards; each is written under another name and renamed, and then recorded with its
checksum. A run that was killed keeps what is recorded and undamaged, and draws the rest. The
manifest is written last: a folder that has one is whole.
"""

import contextlib
import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from timeldm_jax import model_folder, writing
from timeldm_jax.asked import Asked
from timeldm_jax.errors import BAD_CONTENT, DataError, whole_seed
from timeldm_jax.generator import Generator
from timeldm_jax.samples import Windows, read_windows
from timeldm_jax.training import parallel
from timeldm_jax.workdir import Workdir, only_run, write_json
from timeldm_jax.writing import Form, Part

_log = logging.getLogger(__name__)

FORMAT = 1
MANIFEST = "manifest.json"
UNFINISHED = ".unfinished"  # the request, and a record of each shard that is there
REQUEST = "request.json"
SHARD_NUMBERS = 2**25  # of the features of a shard's windows: 256 MiB in float64
_OURS = (UNFINISHED, ".lock", ".holder.json")


def request(
    generator: Generator, asked: Asked, seed: int, form: Form, **said: Any
) -> dict[str, Any]:
    """What samples are asked for by, as JSON: two requests that are alike give the same files.

    Args:
      generator: of the windows.
      asked: of all windows, without times that nobody asked for.
      seed: of the noise.
      form: of the files.
      **said: more that they depend on, in the words of the interface.
    """

    def digest(each: np.ndarray | None) -> str | None:
        if each is None:
            return None
        alike = each.strides[0] == 0  # one row, however many there are
        return hashlib.sha256((each[:1] if alike else each).tobytes()).hexdigest()

    return {
        "model": model_folder.fingerprint(generator),
        "seed": whole_seed(seed),
        "count": asked.windows,
        "kind": form.suffix,
        **said,
        "static columns": digest(asked.rows),
        "start": digest(asked.steps),
        "guidance": asked.guidance,
    }


def fill(
    folder: epath.Path,
    generator: Generator,
    asked: Asked,
    form: Form,
    wanted: dict[str, Any],
    number: int | None = None,
) -> dict[str, Any]:
    """Draws what a folder lacks of the samples that are asked for; every process calls it.

    Args:
      folder: new, empty, or of the same request; on a disk that all processes share.
      generator: of the windows.
      asked: of all windows, without times that nobody asked for.
      form: of the files.
      wanted: from `request`.
      number: of shards; default: as many as the folder was begun with, else by the size of the
        samples, and one a process at least.

    Returns:
      The manifest.

    Raises:
      DataError: the folder holds other samples, or something else, or more shards than windows are
        asked for; or another process failed.
    """
    if not parallel.share_disk(folder):
        raise DataError(
            f"{folder} is not the same folder for all {jax.process_count()} processes: shards need "
            "a disk that they share"
        )
    with contextlib.ExitStack() as stack:
        parallel.alone(lambda: _take(folder, stack))
        return _fill(folder, generator, asked, form, wanted, number)


def _take(folder: epath.Path, stack: contextlib.ExitStack) -> None:
    """Keeps other runs from the folder while the stack is open; DataError where one is on."""
    folder.mkdir(parents=True, exist_ok=True)
    if others := stack.enter_context(only_run(Workdir(folder))):
        raise DataError(f"{folder} is in use by another run ({others}); wait for it or stop it")


def _fill(
    folder: epath.Path,
    generator: Generator,
    asked: Asked,
    form: Form,
    wanted: dict[str, Any],
    number: int | None,
) -> dict[str, Any]:
    features = generator.models.vae.window * len(generator.columns)
    usual = max(-(-asked.windows * features // SHARD_NUMBERS), jax.process_count())
    usual = min(usual, asked.windows)

    def claimed() -> str:
        return json.dumps(_claim(folder, wanted, number, usual))

    text = parallel.alone(claimed) or ""
    shards = json.loads(parallel.share_text_from_first(text))["shards"]
    parts = [
        Part(folder / _name(place, shards, form.suffix), first, count)
        for place, (first, count) in enumerate(_ranges(asked.windows, shards, generator.largest))
    ]
    own = slice(jax.process_index(), None, jax.process_count())

    def sound() -> list[dict[str, Any]]:
        (folder / UNFINISHED).mkdir(exist_ok=True)
        return [record for part in parts[own] if (record := _sound_record(part))]

    there = _gathered(sound)
    names = {each["file"] for each in there}
    missing = [part for part in parts if part.path.name not in names]
    if there:
        _log.info("%s: %d of %d shards are there", folder, len(there), len(parts))

    def drawn() -> list[dict[str, Any]]:
        found = []
        for part, length in writing.write(generator, asked, wanted["seed"], missing[own], form):
            found.append(_describe(part) | ({} if form.suffix == ".npz" else {"rows": length}))
            write_json(_record_of(part), found[-1])
        return found

    records = sorted(there + _gathered(drawn), key=lambda each: each["first"])
    manifest = {
        "format": FORMAT,
        "request": wanted | {"shards": shards},
        "columns": form.columns,
        "shards": records,
    }
    parallel.alone(lambda: _finish(folder, manifest))
    return manifest


def _gathered(work: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What all processes found, on each: a shared disk may show it to the others only later."""
    texts = parallel.share_texts(json.dumps(parallel.together(work)))
    return list(itertools.chain(*map(json.loads, texts)))


def _ranges(count: int, shards: int, batch: int) -> Iterator[tuple[int, int]]:
    """First window and windows of each shard: alike, in whole batches where there are as many."""
    unit = batch if count >= shards * batch else 1
    edges = [place * count // shards // unit * unit for place in range(shards)]
    for first, end in itertools.pairwise([*edges, count]):
        yield first, end - first


def _name(place: int, shards: int, suffix: str) -> str:
    return f"samples-{place + 1:05d}-of-{shards:05d}{suffix}"


def _claim(
    folder: epath.Path, wanted: dict[str, Any], number: int | None, usual: int
) -> dict[str, Any]:
    """Makes the folder this request's, which is returned with its number of shards."""
    begun = _begun(folder)
    if begun is not None:
        asked = wanted | {"shards": begun.get("shards") if number is None else number}
        changed = [
            f"{name} {begun.get(name)!r}, now {asked.get(name)!r}"
            for name in asked | begun
            if begun.get(name) != asked.get(name)
        ]
        if changed:
            raise DataError(
                f"{folder} holds other samples ({'; '.join(changed)}); use another folder, or "
                "ask for the same"
            )
        return asked
    strange = [each.name for each in folder.iterdir() if each.name not in _OURS]
    if strange:
        raise DataError(
            f"{folder} is not empty and holds no samples in shards (there is {strange[0]!r}); use "
            "a new folder"
        )
    shards = usual if number is None else number
    if not 1 <= shards <= wanted["count"]:
        raise DataError(f"{shards} shards of {wanted['count']} samples: expected one to that many")
    asked = wanted | {"shards": shards}
    (folder / UNFINISHED).mkdir(exist_ok=True)
    write_json(folder / UNFINISHED / REQUEST, asked)
    return asked


def _begun(folder: epath.Path) -> dict[str, Any] | None:
    """The request that a folder was begun with, or None."""
    if (folder / MANIFEST).exists():
        return read_manifest(folder)["request"]
    path = folder / UNFINISHED / REQUEST
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except BAD_CONTENT as error:
        raise DataError(f"{path} is damaged ({error}); delete {folder} to draw it anew") from error


def _record_of(part: Part) -> epath.Path:
    return part.path.parent / UNFINISHED / f"{part.path.name}.json"


def _describe(part: Part) -> dict[str, Any]:
    """What the manifest says of a shard that is there."""
    with part.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    windows = {"file": part.path.name, "first": part.first, "windows": part.count}
    return windows | {"size": size, "sha256": digest}


def _sound_record(part: Part) -> dict[str, Any] | None:
    """The record of a shard that is there, whole; a warning says where it was and is damaged."""
    recorded = _recorded(part)
    if recorded is None:
        return None
    if not part.path.exists():
        _log.warning("%s is missing; it is drawn again", part.path)
        return None
    size = part.path.stat().length
    if size != recorded["size"] or not _describe(part).items() <= recorded.items():
        _log.warning("%s is damaged; it is drawn again", part.path)
        return None
    return recorded


def _recorded(part: Part) -> dict[str, Any] | None:
    """What was written down of a shard: beside it, or in the manifest of a whole folder."""
    path = _record_of(part)
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        if not (part.path.parent / MANIFEST).exists():
            return None
    except BAD_CONTENT:
        return None
    listed = read_manifest(part.path.parent)["shards"]
    return next((each for each in listed if each["file"] == part.path.name), None)


def _finish(folder: epath.Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest of shards that are all there."""
    if not (folder / MANIFEST).exists() or read_manifest(folder) != manifest:
        write_json(folder / MANIFEST, manifest)
    (folder / UNFINISHED).rmtree(missing_ok=True)


def is_whole(folder: epath.Path) -> bool:
    """Whether a folder holds samples in shards, all of them."""
    return (folder / MANIFEST).exists()


def read_manifest(folder: epath.Path) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
      DataError: there is none, it is damaged, or of a newer version.
    """
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text())
        if found["format"] > FORMAT:
            raise DataError(f"{path} is of a newer version of timeldm_jax: upgrade timeldm_jax")
        if {"request", "columns", "shards"} - found.keys():
            raise ValueError("it is no manifest")
    except FileNotFoundError:
        raise DataError(
            f"{path} is not there: {folder} holds no samples, or not all of them yet"
        ) from None
    except DataError:
        raise
    except BAD_CONTENT as error:
        raise DataError(f"{path} is damaged ({error})") from error
    return found


def files(folder: epath.Path) -> list[epath.Path]:
    """The shards of a folder in the order of their windows.

    Raises:
      DataError: the folder is not whole, or a shard has another size than it was written with.
    """
    found = []
    for each in read_manifest(folder)["shards"]:
        path = folder / each["file"]
        if not path.exists() or path.stat().length != each["size"]:
            raise DataError(f"{path} is damaged or gone; sample into {folder} again to mend it")
        found.append(path)
    return found


def read(folder: epath.Path) -> tuple[Windows, tuple[str, ...] | None]:
    """All windows of a folder of `.npz` shards, as `samples.read_windows`.

    Raises:
      DataError: as `files`, or the shards are tables.
    """
    kind = read_manifest(folder)["request"]["kind"]
    if kind != ".npz":
        raise DataError(f"{folder} holds tables ({kind}); say of which model (--model)")
    parts = [read_windows(path) for path in files(folder)]
    return np.concatenate([windows for windows, _ in parts]), parts[0][1]
