"""What pandas' many dtypes hold, as the few that are worked with here, and as they were again."""

import datetime
import decimal
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import pandas_dtype

OBJECTS = ("date", "time", "Decimal")  # that pandas keeps as objects
INTERVALS = "Interval"  # categories that are intervals
_ARROW = "[pyarrow]"


def name_of(series: pd.Series) -> str:
    """The name of a column's dtype; of objects that pandas has none for, that of their class."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        return INTERVALS if series.cat.categories.inferred_type == "interval" else "category"
    if series.dtype == object and (name := _class(series)) in (*OBJECTS, INTERVALS):
        return name
    return str(series.dtype)


def _class(series: pd.Series) -> str:
    """The class of all objects of a column, or ""."""
    classes = {type(value).__name__ for value in series.dropna()}
    return classes.pop() if len(classes) == 1 else ""


def plain(series: pd.Series) -> pd.Series:
    """A column as numbers, flags, words, datetimes or durations, whatever its dtype.

    Periods are the time of their start, and categories words.
    """
    dtype, name = series.dtype, name_of(series)
    if isinstance(dtype, pd.PeriodDtype):
        return series.dt.to_timestamp()
    if isinstance(dtype, pd.ArrowDtype):
        series = _of_arrow(series, dtype.pyarrow_dtype)
    if name == "date":
        return pd.to_datetime(series)
    if name == "Decimal":
        return series.astype(np.float64)
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(object)
    if series.dtype == object:
        name = _class(series)
        if name == "Period":
            return series.map(lambda period: period.to_timestamp(), na_action="ignore").astype(
                "datetime64[us]"
            )
        if name in ("Timedelta", "timedelta", "timedelta64"):
            return pd.to_timedelta(series)
        words = (pd.Interval, datetime.time)
        return series.map(lambda v: str(v) if isinstance(v, words) else v, na_action="ignore")
    return series


def named(name: str) -> Any:
    """The dtype of a name, those of Arrow with parameters too."""
    if not name.endswith(_ARROW):
        return pandas_dtype(name)
    import pyarrow as pa

    inner = name.removesuffix(_ARROW)
    if inner == "string":
        return pd.ArrowDtype(pa.string())
    number = re.fullmatch(r"decimal(128|256)\((\d+), (-?\d+)\)", inner)
    if number:
        kind = pa.decimal128 if number[1] == "128" else pa.decimal256
        return pd.ArrowDtype(kind(int(number[2]), int(number[3])))
    words = re.fullmatch(r"dictionary<values=(\w+), indices=(\w+), ordered=[01]>", inner)
    if words:
        types = (pa.type_for_alias(words[2]), pa.type_for_alias(words[1]))
        return pd.ArrowDtype(pa.dictionary(*types))
    return pandas_dtype(name)


def cast(
    found: pd.Series,
    name: str,
    *,
    digits: int | None = None,
    categories: Sequence[Any] | None = None,
    ordered: bool = False,
) -> pd.Series:
    """Values of a `plain` column as a dtype has them.

    Args:
      found: numbers, seconds, flags, words or datetimes; missing where there is none.
      name: of the dtype, from `name_of`.
      digits: after the point of decimal numbers.
      categories: of a category or of intervals, as words are.
      ordered: whether they have an order.
    """
    if name in (*OBJECTS, INTERVALS):
        missing = found.isna()
        found = found.astype(object).map(_object(name, digits), na_action="ignore")
        found = found.astype(object).mask(missing, np.nan)
        if name == INTERVALS:
            known = [_interval(word) for word in categories or ()]
            return found.astype(pd.CategoricalDtype(known, ordered=ordered))
        return found
    if name == "category" and categories is not None:
        return found.astype(pd.CategoricalDtype(list(categories), ordered=ordered))
    dtype = named(name)
    if isinstance(dtype, pd.PeriodDtype):
        return pd.to_datetime(found).dt.to_period(name[7:-1])
    if dtype.kind == "m":
        found = pd.to_timedelta(found.astype(np.float64), unit="s")
    if isinstance(dtype, pd.ArrowDtype) and "decimal" in name:
        exact = found.astype(object).map(
            _object("Decimal", dtype.pyarrow_dtype.scale), na_action="ignore"
        )
        return pd.Series(exact.tolist(), dtype=dtype)
    return found.astype(dtype)


def _object(name: str, digits: int | None) -> Callable[[Any], Any]:
    convert: dict[str, Callable[[Any], Any]] = {
        "date": lambda time: pd.Timestamp(time).date(),
        "time": lambda word: datetime.time.fromisoformat(str(word)),
        "Decimal": lambda number: decimal.Decimal(
            repr(float(number)) if digits is None else f"{number:.{digits}f}"
        ),
        INTERVALS: _interval,
    }
    return convert[name]


def _of_arrow(series: pd.Series, kind: Any) -> pd.Series:
    import pyarrow as pa

    dtype: Any = None
    if pa.types.is_decimal(kind):
        dtype = np.float64
    elif pa.types.is_date(kind):
        dtype = "datetime64[s]"
    elif pa.types.is_timestamp(kind):
        dtype = f"datetime64[{kind.unit}{f', {kind.tz}' if kind.tz else ''}]"
    elif pa.types.is_duration(kind):
        dtype = f"timedelta64[{kind.unit}]"
    elif pa.types.is_dictionary(kind) or pa.types.is_time(kind):
        dtype = object
    return series if dtype is None else series.astype(dtype)


def _interval(word: Any) -> pd.Interval:
    """The inverse of `str(interval)`."""
    text = str(word)
    low, high = text[1:-1].split(", ")
    sides: dict[str, Any] = {"[]": "both", "(]": "right", "[)": "left", "()": "neither"}
    closed = sides[text[0] + text[-1]]
    if re.match(r"\d{4}-", low):
        return pd.Interval(pd.Timestamp(low), pd.Timestamp(high), closed=closed)
    number = float if {".", "e", "n"} & set(low + high) else int
    return pd.Interval(number(low), number(high), closed=closed)
