"""Files that are packed: `.gz`, `.bz2`, `.xz`, `.zst`, and `.zip` with one file in it."""

import bz2
import contextlib
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

from etils import epath

from timeldm_jax.errors import DataError

SUFFIXES = (".gz", ".zip", ".zst", ".bz2", ".xz")
_FAULTS = (OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


@contextlib.contextmanager
def opened(path: epath.Path, where: str) -> Iterator[tuple[str, "Content"]]:
    """The name, in small letters and without the packing, and the content of a file.

    Args:
      path: of the file.
      where: what to call it in errors.

    Raises:
      DataError: it cannot be unpacked, or an archive has other than one file.
    """
    name = path.name.lower()
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")
    with contextlib.ExitStack() as stack:
        raw: Any = stack.enter_context(path.open("rb"))
        if not suffix:
            yield name, Content(raw, raw, "")
            return
        try:
            name, inner = _unpacked(name.removesuffix(suffix), suffix, raw, where)
        except _FAULTS as error:
            raise DataError(f"{where} cannot be unpacked: {error}") from error
        yield name, Content(stack.enter_context(inner), raw, where)


class Content:
    """What a file holds, read in pieces.

    Attributes:
      raw: the file as it lies there.
      packed: what to call it in errors; "": it is not packed.
    """

    def __init__(self, stream: IO[bytes], raw: IO[bytes], packed: str) -> None:
        """A stream over the file."""
        self.raw = raw
        self._stream = stream
        self.packed = packed

    def read(self, size: int = -1) -> bytes:
        """The next bytes, all by default; none at the end.

        Raises:
          DataError: it cannot be unpacked.
        """
        if not self.packed:
            return self._stream.read(size)
        try:
            return self._stream.read() if size < 0 else self._stream.read(size)
        except _FAULTS as error:
            raise DataError(f"{self.packed} cannot be unpacked: {error}") from error


def _unpacked(name: str, suffix: str, raw: Any, where: str) -> tuple[str, Any]:
    if suffix == ".zip":
        archive = zipfile.ZipFile(raw)
        inner = [m for m in archive.namelist() if not m.endswith("/") and "__MACOSX" not in m]
        if len(inner) != 1:
            raise DataError(f"{where} holds {len(inner)} files, {inner[:3]}; expected one")
        return inner[0].lower(), archive.open(inner[0])
    if suffix == ".zst":
        import pyarrow as pa

        return name, pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
    unpack: Any = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[suffix]
    return name, unpack(raw)
