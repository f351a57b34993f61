"""One column of a table: what it is, its numbers, what they may be, and the column again.

`inference` works out what a column is; what follows from it is here: `encode`, `snap`, `decode`.
"""

import dataclasses
import logging
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float

from timeldm_jax.data import dtypes, formats, words
from timeldm_jax.data.formats import parse_times, row_of
from timeldm_jax.data.from_time import FromTime
from timeldm_jax.data.grids import Grid
from timeldm_jax.errors import DataError

_log = logging.getLogger(__name__)

Kind = Literal["float", "integer", "boolean", "category", "datetime", "drop"]
Scaling = Literal["minmax", "standard", "quantile", "log", "constant"]
KINDS: tuple[str, ...] = get_args(Kind)
SCALINGS: tuple[str, ...] = get_args(Scaling)

MOST_CATEGORIES = 20  # words that have a number each
FLAGS: dict[Any, float] = {True: 1.0, False: 0.0} | {
    word: float(flag)
    for flag, words in enumerate((("false", "f", "no", "n", "off", "0"),
                                  ("true", "t", "yes", "y", "on", "1")))
    for word in words
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table that is learnt.

    Attributes:
      name: its name.
      kind: what it holds.
      dtype: the pandas dtype that samples get, see `dtypes.name_of`.
      scaling: how values become numbers around [0, 1]; `constant` is put back, not learnt.
      decimals: digits after the point that floats are rounded to, or None.
      grid: the values that numbers can take, where decimals do not say it, or None.
      low: bound that samples keep, in the column's unit, or None.
      high: the same above.
      smallest: least value that samples of windows take: the data's, rounded outward, or the user's
        `low`.
      largest: the same above.
      categories: of a category: words of at least `FEWEST_ROWS` rows, or those that the user lists.
      ordered: whether the categories have an order, that of the list.
      coded: whether a word is a code (`words`) and not one number a word.
      value: of a constant column, None of an empty one; a datetime as ISO text.
      format: how times are written, where they are text; see `formats`.
      origin: start of a datetime column's first year, ISO text; the feature is seconds since.
      unit: seconds that datetimes are whole multiples of.
      missing: whether training rows lack values here.
      gaps_of: the column before this one that lacks values in the same rows, or "".
      static: whether a series has one value, in all of its rows.
      from_time: how it follows from the time of its row, or None.
    """

    name: str
    kind: Kind
    dtype: str
    scaling: Scaling
    decimals: int | None = None
    grid: Grid | None = None
    low: float | None = None
    high: float | None = None
    smallest: float | None = None
    largest: float | None = None
    categories: tuple[Any, ...] = ()
    ordered: bool = False
    coded: bool = False
    value: Any = None
    format: str = ""
    origin: str = ""
    unit: float = 1.0
    missing: bool = False
    gaps_of: str = ""
    static: bool = False
    from_time: FromTime | None = None


def encode(series: pd.Series, column: Column, place: int, where: str) -> Float[np.ndarray, " rows"]:
    """The numbers of one feature of a column, float64 in its own unit.

    A word that the schema does not list is none of its categories; the log says so.

    Args:
      series: the column.
      column: what it is.
      place: which category, or which number of its code, of a category.
      where: what to call the table in errors.

    Raises:
      DataError: it holds what the schema does not know.
    """
    at = f"{where}, column {column.name!r}"
    series = dtypes.plain(series)
    if column.kind == "category":
        strange = series.dropna()
        strange = strange[~strange.isin(column.categories)]
        if place == 0 and len(strange):
            _log.warning(
                "%s: %d rows hold words that are not learnt, such as %r in row %s; known: %s%s",
                at,
                len(strange),
                strange.iloc[0],
                row_of(strange),
                ", ".join(map(repr, column.categories[:MOST_CATEGORIES])),
                ", …" if column.coded else "",
            )
        if column.coded:
            code = dict(zip(column.categories, words.codes(len(column.categories)), strict=True))
            bits = {word: bits[place] for word, bits in code.items()}
            return series.astype(object).map(bits).astype(float).fillna(0.5).to_numpy()
        return (series == column.categories[place]).fillna(False).to_numpy(np.float64)
    if column.kind == "datetime":
        times = parse_times(series, at, column.format)
        times = times.dt.tz_localize(None) if times.dt.tz is not None else times
        return (times - pd.Timestamp(column.origin)).dt.total_seconds().to_numpy()
    if column.kind == "boolean":
        return _flags(series, at)
    numbers = as_numbers(series, at)
    infinite = series[np.isinf(numbers)]
    if len(infinite):
        raise DataError(
            f"{at}, row {row_of(infinite)} holds {infinite.iloc[0]}; expected a finite number, or "
            "an empty cell where it is missing"
        )
    return numbers


def snap(values: Float[np.ndarray, "..."], column: Column) -> Float[np.ndarray, "..."]:
    """Numbers as the column can hold them: rounded, and within its bounds."""
    low = -np.inf if column.low is None else column.low
    high = np.inf if column.high is None else column.high
    if column.kind == "boolean":
        return (values > 0.5).astype(np.float64)
    if column.grid is not None:
        return np.clip(column.grid.nearest(values), *column.grid.bounds(low, high))
    if column.kind == "integer":
        return np.clip(np.round(values), np.ceil(low), np.floor(high))
    if column.kind == "datetime":
        return np.round(values / column.unit) * column.unit
    if column.decimals is not None:
        digits = 10.0**column.decimals
        low, high = np.ceil(low * digits) / digits, np.floor(high * digits) / digits
        values = np.round(values, column.decimals)
    return np.clip(values, low, high)


def decode(
    values: Float[np.ndarray, "rows place"],
    column: Column,
    holes: np.ndarray,
    times: pd.Series | None = None,
) -> pd.Series:
    """The column again, of its dtype.

    Args:
      values: `(rows, places)`: one place a category or a number of its code, else one.
      column: what it is.
      holes: `(rows,)` where values are missing.
      times: of the rows, for columns that follow from them.
    """
    rows = len(values)
    if column.from_time is not None and times is not None:
        return _cast(column.from_time.at(times), column)
    if column.scaling == "constant":
        value = pd.Timestamp(column.value) if column.kind == "datetime" else column.value
        return _cast(pd.Series([value] * rows, dtype=object), column)
    if column.kind == "category":
        listed = np.array(column.categories, dtype=object)
        place = words.nearest(values, len(listed)) if column.coded else values.argmax(1)
        found = pd.Series(listed[place], dtype=object)
    elif column.kind == "datetime":
        whole = np.round(values[:, 0] / min(column.unit, 1.0)) * min(column.unit, 1.0)
        found = pd.Series(pd.Timestamp(column.origin) + pd.to_timedelta(whole, unit="s"))
    elif column.kind == "boolean":
        found = pd.Series(values[:, 0] > 0.5, dtype=object)
    else:
        found = pd.Series(values[:, 0])
    if holes.any():
        found = found.mask(pd.Series(holes))
        if column.dtype in ("int64", "int32", "bool"):  # cannot hold what is missing
            return found.astype("boolean" if column.dtype == "bool" else "Int64")
    return _cast(found, column)


def _cast(found: pd.Series, column: Column) -> pd.Series:
    """Values in the column's dtype; text as the column wrote it."""
    if column.kind == "datetime" and column.format and found.notna().any():
        times = pd.to_datetime(found)
        text = formats.write(pd.DatetimeIndex(times.dropna()), column.format)
        found = found.astype(object)
        found[times.notna()] = text.to_numpy()
    elif column.kind == "float" and column.decimals is not None and _is_text(column.dtype):
        found = found.map(lambda number: f"{number:.{column.decimals}f}", na_action="ignore")
    categories = column.categories if column.kind == "category" else None
    return dtypes.cast(
        found, column.dtype, digits=column.decimals, categories=categories, ordered=column.ordered
    )


def _is_text(dtype: str) -> bool:
    return dtype in ("str", "string", "object") or dtype.startswith("string[")


def as_numbers(series: pd.Series, at: str) -> Float[np.ndarray, " rows"]:
    """A column as float64, durations in seconds; NaN where it lacks a value.

    Raises:
      DataError: it holds what is no number.
    """
    if pd.api.types.is_timedelta64_dtype(series.dtype):
        return series.dt.total_seconds().to_numpy(np.float64)
    try:
        return pd.to_numeric(series).astype("Float64").to_numpy(np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise DataError(f"{at} must hold numbers: {error}") from error


def _flags(series: pd.Series, at: str) -> Float[np.ndarray, " rows"]:
    """Flags as 0 and 1, however a later table writes them."""
    words = series.astype(object).map(
        lambda flag: flag.strip().lower() if isinstance(flag, str) else flag
    )
    found = words.map(FLAGS).astype(np.float64)
    strange = series[found.isna() & series.notna()]
    if len(strange):
        raise DataError(
            f"{at}, row {row_of(strange)} holds {strange.iloc[0]!r}; expected true or false"
        )
    return found.to_numpy()
