"""`samples.npz`: synthetic windows written as they come, and windows read from `.npy` or `.npz`."""

import io
import zipfile
import zlib
from collections.abc import Iterable

import numpy as np
from etils import epath
from jaxtyping import Float

from timeldm_jax.data.sources import DataError

Windows = Float[np.ndarray, "n time feature"]


def write_npz(
    path: epath.Path,
    batches: Iterable[Windows],
    shape: tuple[int, int, int],
    columns: tuple[str, ...],
) -> None:
    """Streams batches into an `.npz` with `samples` float32 and `columns`; whole or absent.

    Memory is one batch, however many windows there are.

    Args:
      path: the file.
      batches: `(n, time, feature)` arrays whose lengths sum to `shape[0]`.
      shape: `(windows, time, features)`.
      columns: names of the features.
    """
    partial = path.parent / f"{path.name}.tmp"
    with partial.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open("samples.npy", "w", force_zip64=True) as member:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            for batch in batches:
                member.write(np.ascontiguousarray(batch, "<f4").tobytes())
        with archive.open("columns.npy", "w") as member:
            buffer = io.BytesIO()
            np.save(buffer, np.array(columns), allow_pickle=False)
            member.write(buffer.getvalue())
    partial.replace(path)


def read_windows(path: epath.Path) -> tuple[Windows, tuple[str, ...] | None]:
    """Windows of an `.npy`, or of an `.npz` with `samples` (and `columns`), and their columns.

    An `.npz` with a single array may call it anything.

    Raises:
      DataError: missing file, wrong format, not real numbers, or not three axes.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist")
    try:
        loaded = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            windows, names = loaded, None
        else:
            windows = loaded[_name_of_windows(path, loaded.files)]
            names = loaded["columns"] if "columns" in loaded.files else None
    except DataError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not a readable .npy or .npz file: {error}") from error
    if windows.dtype.kind not in "fiu":
        raise DataError(f"{path} holds {windows.dtype}; expected real numbers")
    if windows.ndim != 3:
        raise DataError(
            f"{path} holds an array of shape {windows.shape}; expected (windows, time, features)"
        )
    columns = None if names is None else tuple(str(name) for name in np.atleast_1d(names))
    return windows.astype(np.float64), columns


def _name_of_windows(path: epath.Path, names: list[str]) -> str:
    """Which array of an `.npz` holds the windows."""
    others = [name for name in names if name != "columns"]
    if "samples" in others:
        return "samples"
    if len(others) != 1:
        raise DataError(f"{path} has arrays {sorted(names)}; expected one called 'samples'")
    return others[0]
