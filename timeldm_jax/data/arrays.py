"""Arrays that users give: of any library, masked, as lists, of different lengths."""

import io
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from etils import epath
from jaxtyping import Float

from timeldm_jax.data.schema import SERIES
from timeldm_jax.errors import DataError

# An array (rows, features) of at least so many is asked about where neighbours along its second
# axis correlate so much, and along its first so little.
FEWEST_ROWS, FEWEST_STEPS = 20, 8
ALIKE, APART = 0.6, 0.2


class Arrays(NamedTuple):
    """Series of different lengths, each `(rows, features)` float64."""

    series: tuple[np.ndarray, ...]


def of_lists(data: Sequence[Any]) -> np.ndarray | Arrays:
    """An array of nested lists, or series of different lengths of a list of arrays; None is NaN."""
    ragged = len(data) > 1 and len({np.shape(series)[:1] for series in data if _one(series)}) > 1
    if ragged and all(_one(series) for series in data):
        parts = [np.asarray(of_array(np.asanyarray(series))) for series in data]
        parts = [part[:, None] if part.ndim == 1 else part for part in parts]
        if len({len(part) for part in parts}) > 1:
            return Arrays(tuple(parts))
    try:
        array = np.asarray(data)
        if array.dtype == object and not any(isinstance(v, str) for v in array.flat):
            array = np.asarray(data, np.float64)  # None is missing
    except (ValueError, TypeError) as error:
        raise DataError(f"data is a {type(data).__name__} that is no array: {error}") from error
    return array


def _one(series: Any) -> bool:
    return isinstance(series, np.ndarray) and series.ndim in (1, 2)


def of_array(array: np.ndarray) -> pd.DataFrame | np.ndarray:
    """A frame of a structured array; else the array, what a mask hides NaN."""
    if array.dtype.names is not None:
        if array.ndim != 1:
            raise DataError(f"a structured array has shape {array.shape}; expected (rows,)")
        return pd.DataFrame({name: _of_field(name, array[name]) for name in array.dtype.names})
    if isinstance(array, np.ma.MaskedArray):
        if array.dtype.kind not in "fiu":
            raise DataError(f"data has dtype {array.dtype}; expected real numbers")
        return np.where(np.ma.getmaskarray(array), np.nan, np.ma.getdata(array).astype(np.float64))
    if array.dtype.kind == "V":  # bfloat16 and its like
        return np.asarray(array, np.float32)
    return np.asarray(array)


def _of_field(name: str, values: np.ndarray) -> pd.Series:
    if values.ndim != 1:
        raise DataError(
            f"column {name!r} holds arrays of shape {values.shape[1:]}; take it apart into columns"
        )
    hidden = np.ma.getmaskarray(values)
    plain = np.ma.getdata(values)
    if plain.dtype.kind == "S":
        plain = np.char.decode(plain, "utf-8")
    column = pd.Series(plain.astype(plain.dtype.newbyteorder("=")))
    return column.mask(hidden) if hidden.any() else column


def stack(arrays: Arrays, columns: Sequence[str] | None) -> pd.DataFrame:
    """Series one below the other: which each row is of (`SERIES`), and its features.

    Args:
      arrays: the series.
      columns: names of their features, or None for `feature_0`, ….

    Raises:
      DataError: as `check_array`, or series of different features.
    """
    widths = {part.shape[1] for part in arrays.series}
    if len(widths) > 1:
        raise DataError(f"the series have {sorted(widths)} features; expected the same in all")
    frames = []
    for number, part in enumerate(arrays.series):
        values, names = check_array(part, columns)
        frame = pd.DataFrame(values, columns=list(names))
        frame.insert(0, SERIES, number)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def needs_rows(windows: Float[np.ndarray, "n time feature"]) -> bool:
    """Whether windows have gaps or features that do not vary, which tables can have."""
    flat = windows.reshape(-1, windows.shape[-1])
    return bool(np.isnan(flat).any() or (flat == flat[0]).all(axis=0).any())


def read_array(path: str) -> np.ndarray | None:
    """The array in an .npy file, or the only one in an .npz; None of a path of another name.

    Raises:
      DataError: no such file, no array, or several.
    """
    if not path.lower().endswith((".npy", ".npz")):
        return None
    file = epath.Path(path).expanduser()
    if not file.exists():
        raise DataError(f"{path} does not exist")
    try:
        content = np.load(io.BytesIO(file.read_bytes()), allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        if len(content.files) != 1:
            raise DataError(f"{path} holds {len(content.files)} arrays, {content.files[:3]}")
        return content[content.files[0]]
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a readable array: {error}") from error


def real_numbers(array: np.ndarray) -> Float[np.ndarray, "..."]:
    """An array as float64.

    Raises:
      DataError: it holds no real numbers.
    """
    if array.dtype.kind not in "fiu":
        raise DataError(f"data has dtype {array.dtype}; expected real numbers")
    return array.astype(np.float64)


def check_array(
    array: Float[np.ndarray, "..."], columns: Sequence[str] | None
) -> tuple[Float[np.ndarray, "..."], tuple[str, ...]]:
    """A user's array as float64, and the names of its features.

    Args:
      array: `(rows, features)`, one series in time order, NaN where a value is missing; or
        `(windows, time, features)`.
      columns: names of the features, or None for `feature_0`, ….

    Raises:
      DataError: wrong shape or dtype, infinite values, names that do not match the features, or
        what may be `(windows, time)`.
    """
    values = np.asarray(array)
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise DataError(
            f"data has shape {values.shape}; expected (rows, features) or (windows, time, features)"
        )
    values = real_numbers(values)
    features = values.shape[-1]
    if columns is None:
        names = tuple(f"feature_{i}" for i in range(features))
    else:
        names = tuple(str(name) for name in columns)
    if len(names) != features:
        raise DataError(f"{len(names)} column names for {features} features")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"two columns are called {twice[0]!r}; names must differ")
    if values.ndim == 2 and columns is None:
        _ask_which_axis(values)
    bad = np.argwhere(np.isinf(values))
    if bad.size:
        *where, feature = bad[0]
        raise DataError(
            f"column {names[feature]!r} has {values[tuple(bad[0])]} at index "
            f"{[int(i) for i in where]} ({len(bad)} such values in all); fill or drop them first"
        )
    return values, names


def _ask_which_axis(values: Float[np.ndarray, "rows feature"]) -> None:
    """Raises where numbers run on along the second axis and not along the first, as windows do."""
    rows, features = values.shape
    if rows < FEWEST_ROWS or features < FEWEST_STEPS or not np.isfinite(values).all():
        return
    along = (values[:, :-1] - values.mean(), values[:, 1:] - values.mean())
    centred = values - values.mean(axis=0)
    across = (centred[:-1], centred[1:])
    alike, apart = (
        float((a * b).sum() / max(np.sqrt((a**2).sum() * (b**2).sum()), 1e-300))
        for a, b in (along, across)
    )
    if alike > ALIKE and abs(apart) < APART:
        raise DataError(
            f"data has shape {values.shape}, and numbers run on along its second axis, not along "
            f"its first, as in {rows} windows of {features} steps of one feature. If they are: "
            f"data[:, :, None]. If they are {rows} steps of {features} features: name these "
            "(columns=[…])"
        )
