"""`samples.npz`: synthetic windows written as they come, and windows read from files."""

import io
import zipfile
import zlib
from collections.abc import Iterable

import numpy as np
import pandas as pd
from etils import epath
from jaxtyping import Float

from timeldm_jax.errors import DataError
from timeldm_jax.workdir import open_atomic

Windows = Float[np.ndarray, "n time feature"]


def write_npz(
    path: epath.Path,
    batches: Iterable[Windows],
    shape: tuple[int, int, int],
    columns: tuple[str, ...],
    dtype: type = np.float32,
) -> None:
    """Streams batches into an `.npz` with `samples` and `columns`; whole or absent.

    Memory is one batch, however many windows there are.

    Args:
      path: the file.
      batches: `(n, time, feature)` arrays whose lengths sum to `shape[0]`.
      shape: `(windows, time, features)`.
      columns: names of the features.
      dtype: of `samples`; float64 where whole numbers of a table must stay what they are.
    """
    kept = np.dtype(dtype).newbyteorder("<")
    with open_atomic(path, "wb") as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open("samples.npy", "w", force_zip64=True) as member:
            header = {"descr": kept.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            for batch in batches:
                member.write(np.ascontiguousarray(batch, kept).tobytes())
        with archive.open("columns.npy", "w") as member:
            buffer = io.BytesIO()
            np.save(buffer, np.array(columns), allow_pickle=False)
            member.write(buffer.getvalue())


def read_windows(
    path: epath.Path, window: int | None = None
) -> tuple[Windows, tuple[str, ...] | None]:
    """Windows of a file of any generator, float64, and the names of their features.

    - `.npz`: an array `samples` (or a single one of any name), and `columns` if there.
    - `.npy`: one array.
    - `.csv`: a table with a header. A column `series` numbers the window that a row belongs to.

    An array `(windows, time, features)` is taken as it is. A table `(rows, features)`, or a CSV
    without `series`, is one series in time order, cut into all its windows of `window` rows.

    Raises:
      DataError: missing file, wrong format, not real numbers, windows of unequal length, or a table
        and no `window`.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if path.suffix.lower() == ".csv":
        values, columns, length = _read_csv(path)
        if length is not None:
            return values.reshape(-1, length, len(columns)), columns
        names: tuple[str, ...] | None = columns
    else:
        values, names = _read_array(path)
    if values.ndim == 3:
        return values.astype(np.float64), names
    if values.ndim != 2:
        raise DataError(
            f"{path} holds an array of shape {values.shape}; expected (windows, time, features), "
            "or (rows, features) with --window"
        )
    if window is None:
        raise DataError(
            f"{path} holds a table of {len(values)} rows; say how long windows are (--window=24)"
        )
    if not 1 <= window <= len(values):
        raise DataError(f"{path} has {len(values)} rows; --window={window} is not within 1 to that")
    cut = np.lib.stride_tricks.sliding_window_view(values, window, axis=0)
    return cut.transpose(0, 2, 1).astype(np.float64), names


def _read_array(path: epath.Path) -> tuple[np.ndarray, tuple[str, ...] | None]:
    try:
        loaded = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            values, names = loaded, None
        else:
            values = loaded[_name_of_windows(path, loaded.files)]
            names = loaded["columns"] if "columns" in loaded.files else None
    except DataError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not a readable .npy or .npz file: {error}") from error
    if values.dtype.kind not in "fiu":
        raise DataError(f"{path} holds {values.dtype}; expected real numbers")
    return values, None if names is None else tuple(str(name) for name in np.atleast_1d(names))


def _read_csv(path: epath.Path) -> tuple[np.ndarray, tuple[str, ...], int | None]:
    """The rows of a CSV file, names of columns, and rows a window where `series` says it."""
    try:
        table = pd.read_csv(io.BytesIO(path.read_bytes()))
    except (ValueError, pd.errors.ParserError) as error:  # ValueError: not UTF-8, or empty
        raise DataError(f"{path} is not a readable .csv file: {error}") from error
    length = None
    if "series" in table.columns:
        table = table.sort_values("series", kind="stable")
        counts = table["series"].value_counts(dropna=False)
        if counts.nunique() != 1:
            raise DataError(
                f"{path}: series {counts.index[0]} has {counts.iloc[0]} rows and "
                f"{counts.index[-1]} has {counts.iloc[-1]}; windows must be of one length"
            )
        length = int(counts.iloc[0])
        table = table.drop(columns="series")
    for name in table.columns:
        if table[name].dtype.kind not in "fiu":
            cell = next((v for v in table[name] if not isinstance(v, (int, float))), None)
            raise DataError(
                f"{path}: column {name!r} holds {cell!r}; expected numbers. Leave columns of dates "
                "or words out"
            )
    return table.to_numpy(np.float64), tuple(str(name) for name in table.columns), length


def _name_of_windows(path: epath.Path, names: list[str]) -> str:
    """Which array of an `.npz` holds the windows."""
    others = [name for name in names if name != "columns"]
    if "samples" in others:
        return "samples"
    if len(others) != 1:
        raise DataError(f"{path} has arrays {sorted(names)}; expected one called 'samples'")
    return others[0]
