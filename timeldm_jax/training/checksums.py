"""`checksums.json`: the SHA-256 of every file of a checkpoint, and of the list itself."""

import hashlib
import json
from collections.abc import Iterator

from etils import epath

from timeldm_jax.errors import BAD_CONTENT, CheckpointError
from timeldm_jax.workdir import write_json

CHECKSUMS = "checksums.json"


def write(path: epath.Path) -> None:
    """Lists all files of a folder; with that it counts as whole."""
    listed = of(path)
    write_json(path / CHECKSUMS, listed | {CHECKSUMS: digest(listed)})


def check_closed(path: epath.Path) -> None:
    """Raises CheckpointError where a step's folder holds files that its checksums do not list."""
    listed = json.loads((path / CHECKSUMS).read_text())
    for name, file in _files(path):
        if name not in listed:
            raise CheckpointError(f"{file} is not listed in {CHECKSUMS}")


def _files(path: epath.Path) -> Iterator[tuple[str, epath.Path]]:
    for child in sorted(path.iterdir()):
        if child.is_dir():
            for name, file in _files(child):
                yield f"{child.name}/{name}", file
        elif child.name != CHECKSUMS:
            yield child.name, child


def of(path: epath.Path) -> dict[str, str]:
    """The SHA-256 of each file of a folder and those below, by its path there."""
    return {name: _sha256(file) for name, file in _files(path)}


def _sha256(path: epath.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(sums: dict[str, str]) -> str:
    """The SHA-256 of a list."""
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def damage(path: epath.Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        expected = dict(json.loads((path / CHECKSUMS).read_text()))
    except BAD_CONTENT:
        return f"{path / CHECKSUMS} is not readable JSON"
    found = of(path)
    # The first versions' lists have no checksum of their own; they have every file.
    own = expected.pop(CHECKSUMS, None if expected.keys() == found.keys() else "")
    if own is not None and own != digest(expected):
        return f"{path / CHECKSUMS} is damaged (its entries do not match their own checksum)"
    for name, saved in expected.items():
        if name not in found:
            return f"{path / name} is missing"
        if found[name] != saved:
            return (
                f"{path / name} is damaged (SHA-256 {found[name][:12]}…, saved as {saved:.12}…)"
                if isinstance(saved, str)
                else f"{path / CHECKSUMS} is damaged (no checksum of {name})"
            )
    return None
