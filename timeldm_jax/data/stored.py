"""Scaled rows of a table in a file of this machine, mapped into memory.

The file is float32, row after row, and nothing else; beside it stands what it is, written last. Of
what is read from it the system keeps what fits in memory; this process holds none of it beyond a
call.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import mmap
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import Float, Float32, Int

from timeldm_jax.data import columns as kinds
from timeldm_jax.data import schema as schemas
from timeldm_jax.data.cache import CACHE_DIR_VARIABLE
from timeldm_jax.data.scaling import Scaler
from timeldm_jax.data.schema import Schema
from timeldm_jax.errors import DataError, option

_log = logging.getLogger(__name__)

ROWS, NOTE = "rows.f32", "rows.json"
HASHED = 2**24  # bytes at a time
ROOM = 2**28  # bytes that a disk should have left


@dataclasses.dataclass(frozen=True)
class Stored:
    """The rows of a table; `stored[places]` gives them in the columns' own units, float64.

    Numbers are within float32's rounding of the table's, and on the column's grid or decimals.

    Attributes:
      path: of the file.
      shape: rows and features.
      digest: SHA-256 of its content, 64 hexadecimal digits.
      scaler: that they were scaled with.
      schema: whose features they are.
    """

    path: Path
    shape: tuple[int, int]
    digest: str
    scaler: Scaler
    schema: Schema

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: Int[np.ndarray, "*lead"]) -> Float[np.ndarray, "*lead feature"]:
        scaled = self.scaled(places)
        missing = np.isnan(scaled)
        values = self.scaler.unscale(np.nan_to_num(scaled, nan=0.5))
        for place, feature in enumerate(schemas.features(self.schema)):
            own = values[..., place]
            if feature.role == "value":
                own = kinds.snap(own, self.schema.columns[feature.column])
            else:  # 0 or 1, or a half where a word is not known
                own = np.round(2 * own) / 2
            values[..., place] = own
        return np.where(missing, np.nan, values)

    def content(self) -> bytes:
        """What it is, for a fingerprint."""
        return self.digest.encode()

    def scaled(self, places: Int[np.ndarray, "*lead"]) -> Float32[np.ndarray, "*lead feature"]:
        """Rows as they are stored."""
        rows = np.frombuffer(self._map, np.float32).reshape(self.shape)
        found = rows[places]
        # Pages stay in the system's cache, and no longer count as this process's.
        self._map.madvise(mmap.MADV_DONTNEED)
        return found

    @functools.cached_property
    def _map(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        found.madvise(mmap.MADV_RANDOM)  # windows lie anywhere: reading ahead would read in vain
        return found


# Wide: what is stored, where, and how to read it again.
def store(
    cache: Path,
    key: str,
    batches: Iterable[Float[np.ndarray, "rows feature"]],
    rows: int,
    scaler: Scaler,
    schema: Schema,
) -> Stored:
    """Writes scaled rows, or opens those that an earlier run has written whole.

    Args:
      cache: folder for prepared data.
      key: what the content depends on, as a name.
      batches: the rows in the columns' own units; read only where they are to be written.
      rows: how many there are.
      scaler: of the features.
      schema: of the features.

    Raises:
      DataError: the cache cannot be written, or has no room.
    """
    folder, shape = cache / "tables" / key, (rows, len(scaler.low))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            digest = _sound(folder, shape)
            if not digest:
                _check_room(folder, shape)
                digest = _write(folder, batches, scaler, shape)
    except OSError as error:
        raise DataError(
            f"cannot write prepared data to {folder}: {error}; name another folder with "
            f"{option('cache_dir')} or {CACHE_DIR_VARIABLE}"
        ) from error
    return Stored(folder / ROWS, shape, digest, scaler, schema)


def _sound(folder: Path, shape: tuple[int, int]) -> str:
    """The digest of what stands there, read again; "" where it is not whole or is damaged."""
    try:
        said = json.loads((folder / NOTE).read_text())
        with (folder / ROWS).open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(HASHED):
                digest.update(block)
        if (said["shape"], said["sha256"]) == (list(shape), digest.hexdigest()):
            return digest.hexdigest()
        _log.warning("%s is damaged; it is made again", folder / ROWS)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return ""


def _check_room(folder: Path, shape: tuple[int, int]) -> None:
    needed, free = 4 * shape[0] * shape[1], shutil.disk_usage(folder).free
    if needed + ROOM > free:
        raise DataError(
            f"{folder} has {free / 1e9:.1f} GB left, and the rows of the table take "
            f"{needed / 1e9:.1f} GB; name another folder with {option('cache_dir')} or "
            f"{CACHE_DIR_VARIABLE}"
        )


def _write(
    folder: Path,
    batches: Iterable[Float[np.ndarray, "rows feature"]],
    scaler: Scaler,
    shape: tuple[int, int],
) -> str:
    """Writes the rows, then the note that makes them count; returns their digest."""
    _log.info("%.1f GB of rows are written to %s, once", 4e-9 * shape[0] * shape[1], folder)
    digest, count = hashlib.sha256(), 0
    partial = folder / f".{ROWS}.partial"
    (folder / NOTE).unlink(missing_ok=True)
    try:
        with partial.open("wb") as file:
            for values in batches:
                block = scaler.scale(values).astype(np.float32).tobytes()
                file.write(block)
                digest.update(block)
                count += len(values)
        if count != shape[0]:
            raise DataError(f"the table had {shape[0]:,} rows and now has {count:,}; run it again")
        partial.replace(folder / ROWS)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    note = folder / f".{NOTE}.partial"
    note.write_text(json.dumps({"shape": list(shape), "sha256": digest.hexdigest()}))
    note.replace(folder / NOTE)
    return digest.hexdigest()
