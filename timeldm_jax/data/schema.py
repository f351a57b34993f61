"""What the columns of a table are: inferred from the data, or said by the user, and kept as JSON.

A schema is all that leads from a table to numbers and back: kinds, scaling, rounding, bounds,
categories, the time column and the entity column. It holds plain values only, so that a saved model
carries it without pickle.
"""

import dataclasses
import difflib
import json
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from etils import epath
from pandas.api.types import pandas_dtype
from pandas.tseries.api import guess_datetime_format

from timeldm_jax.errors import DataError

Kind = Literal["float", "integer", "boolean", "category", "datetime", "drop"]
Scaling = Literal["minmax", "standard", "quantile", "log", "constant"]
KINDS: tuple[str, ...] = get_args(Kind)
SCALINGS: tuple[str, ...] = get_args(Scaling)

SERIES = "series"  # the id that synthetic windows get
PRESENT = "(row is present)"  # the feature that ends a series shorter than the window
MOST_CATEGORIES = 20
MOST_DECIMALS = 6
MOST_FEATURES = 2_000
SLOW_FEATURES = 200
LARGEST_INTEGER = 2**53  # beyond, float64 does not tell neighbours apart
SKEWED, HEAVY = 2.0, 8.0  # skewness and excess kurtosis from which a column is transformed
TIME_NAMES = ("date", "time", "datetime", "timestamp", "ds")
PERCENT_NAMES = ("%", "percent", "pct", "humidity")


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table that is learnt.

    Attributes:
      name: its name.
      kind: what it holds.
      dtype: the pandas dtype that samples get.
      scaling: how values become numbers around [0, 1]; `constant` is put back, not learnt.
      decimals: digits after the point that floats are rounded to, or None.
      low: bound that samples keep, in the column's unit, or None.
      high: the same above.
      smallest: least value that samples of windows take: the data's, or the user's `low`.
      largest: the same above.
      categories: of a category.
      value: of a constant column; a datetime as ISO text.
      origin: first time of a datetime column, ISO text; the feature is seconds since.
      unit: seconds that datetimes are whole multiples of.
      missing: whether training rows lack values here.
    """

    name: str
    kind: Kind
    dtype: str
    scaling: Scaling
    decimals: int | None = None
    low: float | None = None
    high: float | None = None
    smallest: float | None = None
    largest: float | None = None
    categories: tuple[Any, ...] = ()
    value: Any = None
    origin: str = ""
    unit: float = 1.0
    missing: bool = False


@dataclasses.dataclass(frozen=True)
class Clock:
    """The time column.

    Attributes:
      name: its name.
      dtype: the pandas dtype of the input.
      start: first time, ISO text or a number.
      step: seconds (or the column's own unit, where it holds numbers) between rows.
      offset: pandas offset alias where steps are not of one length (months, business days).
      format: strftime format where the input held text.
      zone: name of the time zone, or "".
    """

    name: str
    dtype: str
    start: str | float
    step: float
    offset: str = ""
    format: str = ""
    zone: str = ""

    def times(self, count: int) -> pd.Series:
        """`count` regular times from the start, of the input's dtype."""
        if isinstance(self.start, float):
            numbers = pd.Series(self.start + self.step * np.arange(count))
            return (
                numbers.round().astype(pandas_dtype(self.dtype))
                if "int" in self.dtype.lower()
                else numbers
            )
        start = pd.Timestamp(self.start)
        if self.offset:
            index = pd.date_range(start, periods=count, freq=self.offset)
        else:
            index = start + pd.to_timedelta(np.arange(count) * self.step, unit="s")
        if self.format:
            return pd.Series(index.strftime(self.format), dtype=pandas_dtype(self.dtype))
        return pd.Series(index).astype(pandas_dtype(self.dtype))

    def after(self, last: Any) -> "Clock":
        """The same clock, started at a time of the input's kind."""
        if isinstance(self.start, float):
            return dataclasses.replace(self, start=float(last))
        return dataclasses.replace(self, start=pd.Timestamp(last).isoformat())


@dataclasses.dataclass(frozen=True)
class Schema:
    """A whole table.

    Attributes:
      columns: what is learnt, in the table's order.
      order: names of all columns that samples have, in the table's order, the time included.
      clock: the time column, or None.
      entity: name of the column that says which series a row belongs to, or "".
      padded: whether some series are shorter than the window, so that samples have lengths too.
    """

    columns: tuple[Column, ...]
    order: tuple[str, ...]
    clock: Clock | None = None
    entity: str = ""
    padded: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Schema":
        """The inverse of `to_json`."""
        columns = tuple(
            Column(**{**column, "categories": tuple(column["categories"])})
            for column in content["columns"]
        )
        clock = None if content["clock"] is None else Clock(**content["clock"])
        return cls(
            columns, tuple(content["order"]), clock, content["entity"], bool(content["padded"])
        )

    def describe(self) -> list[str]:
        """A line a column, for people."""
        width = max([len(c.name) for c in self.columns], default=0)
        lines = []
        for column in self.columns:
            said = [column.kind, f"scaled by {column.scaling}"]
            if column.scaling == "constant":
                said = [column.kind, f"constant {column.value!r}, passed through"]
            elif column.kind in ("boolean", "category"):
                said = [f"{column.kind} of {len(column.categories) or 2}"]
            if column.decimals is not None:
                said.append(f"{column.decimals} decimals")
            if column.low is not None or column.high is not None:
                low = "-∞" if column.low is None else f"{column.low:g}"
                high = "∞" if column.high is None else f"{column.high:g}"
                said.append(f"kept in {low}..{high}")
            if column.missing:
                said.append("has missing values")
            lines.append(f"{column.name:<{width}}  {', '.join(said)}")
        return lines


def infer(
    frame: pd.DataFrame,
    where: str,
    *,
    clock: Clock | None,
    entity: str,
    overrides: Mapping[str, Mapping[str, Any]],
) -> Schema:
    """The schema of a table whose rows are in order.

    Args:
      frame: the table; time and entity columns may be among its columns.
      where: the file or object, for errors.
      clock: its time column, which is not learnt.
      entity: name of its entity column, likewise.
      overrides: by column, fields of `Column` that the user has set.

    Raises:
      DataError: a column that cannot be learnt, or an override that does not fit.
    """
    for name, fields in overrides.items():
        _check_override(name, fields, list(frame.columns), where)
    own = [] if clock is None else [clock.name]
    columns = []
    for name in frame.columns:
        if name in (*own, entity):
            continue
        given = dict(overrides.get(name, {}))
        if given.get("kind") != "drop":
            columns.append(_infer_column(frame[name], given, where))
    if not columns:
        raise DataError(f"{where} has no column to learn beside its time and entity columns")
    kept = {column.name for column in columns} | set(own)
    schema = Schema(
        tuple(columns), tuple(str(n) for n in frame.columns if n in kept), clock, entity
    )
    count = len(features(schema))
    if count == 0:
        raise DataError(f"{where}: every column is constant; there is nothing to learn")
    if count > MOST_FEATURES:
        raise DataError(
            f"{where} would give {count:,} features; scores of pairs of features take memory and "
            f"time by the square of that, and the model's width is a few hundred. Learn at most "
            f"{MOST_FEATURES:,}: leave columns out (kind 'drop' in the schema), or split the table"
        )
    return schema


@dataclasses.dataclass(frozen=True)
class Feature:
    """One number a row that the model learns.

    Attributes:
      name: of the feature.
      column: number of its column in the schema, or −1 for `PRESENT`.
      role: `value`, `category` (one of several, the largest counts), `missing` (1 where the column
        has no value) or `present`.
      place: which category.
      scaling: as of the column; roles other than `value` are 0 or 1 and scaled by `minmax`.
    """

    name: str
    column: int
    role: Literal["value", "category", "missing", "present"]
    place: int
    scaling: Scaling


def features(schema: Schema) -> tuple[Feature, ...]:
    """The features of a schema, in order: values of all columns, then what says they are there."""
    found = []
    for i, column in enumerate(schema.columns):
        if column.scaling == "constant":
            continue
        if column.kind == "category":
            found += [
                Feature(f"{column.name}={value}", i, "category", place, "minmax")
                for place, value in enumerate(column.categories)
            ]
        else:
            scaling = "minmax" if column.kind == "boolean" else column.scaling
            found.append(Feature(column.name, i, "value", 0, scaling))
    found += [
        Feature(f"{column.name} is missing", i, "missing", 0, "minmax")
        for i, column in enumerate(schema.columns)
        if column.missing
    ]
    if schema.padded:
        found.append(Feature(PRESENT, -1, "present", 0, "minmax"))
    return tuple(found)


def read_overrides(path: str) -> dict[str, Any]:
    """A user's schema file: `{"columns": {name: {field: value}}, "time": …, "entity": …}`.

    Raises:
      DataError: no such file, not JSON, or another key.
    """
    file = epath.Path(path)
    if not file.exists():
        raise DataError(f"the schema {path} does not exist")
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise DataError(f"the schema {path} is not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("columns", {}), dict):
        raise DataError(f"the schema {path} must be an object with an object `columns`")
    for key in content:
        known(key, ("columns", "time", "entity"), f"the schema {path}: key")
    return content


def known(given: str, names: Iterable[str], what: str) -> None:
    """Raises DataError, naming the closest, unless `given` is one of `names`."""
    names = list(names)
    if given not in names:
        close = difflib.get_close_matches(given, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"
        raise DataError(f"{what} {given!r} is not known{hint}")


def _check_override(name: str, given: Mapping[str, Any], columns: list[str], where: str) -> None:
    known(name, columns, f"{where}: the schema's column")
    at = f"the schema's column {name!r}:"
    if not isinstance(given, Mapping):
        raise DataError(f"{at} expected an object of fields, found {given!r}")
    settable = ("kind", "scaling", "decimals", "low", "high", "categories")
    for field, value in given.items():
        known(field, settable, f"{at} field")
        if field == "kind":
            known(value, KINDS, f"{at} kind")
        elif field == "scaling":
            known(value, SCALINGS, f"{at} scaling")
        elif field == "categories":
            if not isinstance(value, list) or not value:
                raise DataError(f"{at} categories={value!r} must be a list")
        elif value is not None and not isinstance(value, int | float):
            raise DataError(f"{at} {field}={value!r} must be a number or null")
    low, high = given.get("low"), given.get("high")
    if low is not None and high is not None and low >= high:
        raise DataError(f"{at} low={low} must be below high={high}")


def _infer_column(column: pd.Series, given: dict[str, Any], where: str) -> Column:
    name = str(column.name)
    at = f"{where}, column {name!r}"
    missing = bool(column.isna().any())
    present = column.dropna()
    if present.empty:
        raise DataError(
            f"{at} has no value in any of its {len(column):,} rows; leave it out "
            '(in the schema: {"columns": {"' + name + '": {"kind": "drop"}}})'
        )
    kind: Kind = given.get("kind") or _kind(present, at)
    dtype = str(column.dtype)
    fields: dict[str, Any] = {"dtype": dtype, "missing": missing}
    if kind == "category":
        fields |= _category(present, given, at)
    elif kind == "boolean":
        values = set(present.unique().tolist())
        if not values <= {0, 1}:
            raise DataError(f"{at} is said to be boolean and holds {sorted(map(str, values))[:5]}")
        fields |= {"scaling": "minmax", "low": 0.0, "high": 1.0}
    elif kind == "datetime":
        fields |= _datetime(parse_times(present, at))
    else:
        numbers = _numbers(present, at)
        fields |= _number(name, numbers, kind, given, at)
    first = present.iloc[0]
    if (present == first).all() and not missing:
        fields |= {"scaling": "constant", "value": _plain(first)}
    fields |= {k: v for k, v in given.items() if k not in ("kind", "categories")}
    if fields["scaling"] == "constant" and fields.get("value") is None:
        raise DataError(f"{at} is said to be constant and is not")
    return Column(name=name, kind=kind, **fields)


def _kind(present: pd.Series, at: str) -> Kind:
    dtype = present.dtype
    if pd.api.types.is_bool_dtype(dtype):
        return "boolean"
    if pd.api.types.is_integer_dtype(dtype):
        return "integer"
    if pd.api.types.is_float_dtype(dtype):
        return "float"
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return "datetime"
    if isinstance(dtype, pd.CategoricalDtype):
        return "category"
    if pd.api.types.is_timedelta64_dtype(dtype) or pd.api.types.is_complex_dtype(dtype):
        raise DataError(f"{at} has dtype {dtype}; turn it into numbers first")
    kinds = {type(value) for value in present}
    strange = {k for k in kinds if issubclass(k, Iterable) and not issubclass(k, str)}
    if strange:
        bad = present[[type(value) in strange for value in present]]
        raise DataError(
            f"{at}, row {row_of(bad)} holds a {type(bad.iloc[0]).__name__}, {bad.iloc[0]!r}; "
            "expected numbers, words, flags or times: take it apart into columns, or leave it out "
            "(kind 'drop' in the schema)"
        )
    if kinds <= {bool, np.bool_}:
        return "boolean"
    if kinds <= {int, float, np.int64, np.float64}:
        return "float"
    as_numbers = pd.to_numeric(present.astype(str), errors="coerce")
    share = float(as_numbers.notna().mean())
    if share > 0:
        bad = present[as_numbers.isna()]
        if bad.empty:
            return "float"
        commas = bad.astype(str).str.fullmatch(r"[+-]?\d+,\d+")
        if commas.any():
            raise DataError(
                f"{at}, row {row_of(bad[commas])} holds {bad[commas].iloc[0]!r}: a decimal comma. "
                "Say so with --config.data.decimal=, (or write points)"
            )
        if share > 0.5 or present.nunique() > MOST_CATEGORIES:
            raise DataError(
                f"{at} holds numbers ({share:.0%}) and words: row {row_of(bad)} has "
                f"{bad.iloc[0]!r}. Mend or empty these {len(bad):,} cells, or make the column a "
                'category in the schema ({"kind": "category"})'
            )
    commas = present.astype(str).str.fullmatch(r"[+-]?\d+,\d+")
    if commas.all():
        raise DataError(
            f"{at}, row {row_of(present)} holds {present.iloc[0]!r}: a decimal comma. Say so with "
            "--config.data.decimal=, (or write points)"
        )
    if share == 0 and looks_like_time(present):
        return "datetime"
    return "category"


def row_of(values: pd.Series) -> str:
    """The first row's label, counted as in a file: 1 is the first row below the header."""
    label = values.index[0]
    return str(label + 1) if isinstance(label, int | np.integer) else repr(label)


def _category(present: pd.Series, given: dict[str, Any], at: str) -> dict[str, Any]:
    listed = given.get("categories")
    counts = present.value_counts()
    if listed is not None:
        strange = [value for value in counts.index if value not in listed]
        if strange:
            raise DataError(
                f"{at} holds {strange[0]!r}, which is not among the schema's categories"
            )
        return {"scaling": "minmax", "categories": tuple(listed)}
    if len(counts) > MOST_CATEGORIES:
        raise DataError(
            f"{at} holds {len(counts):,} different values such as {counts.index[0]!r}; categories "
            f"are learnt up to {MOST_CATEGORIES}. Leave it out (kind 'drop' in the schema), name "
            "it as the entity (--config.data.entity) if it says which series a row belongs to, or "
            "group rare values"
        )
    values = sorted(counts.index.tolist(), key=str)
    return {"scaling": "minmax", "categories": tuple(map(_plain, values))}


def _plain(value: Any) -> Any:
    """A value that JSON can hold."""
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    return value.item() if isinstance(value, np.generic) else value


def _datetime(times: pd.Series) -> dict[str, Any]:
    origin = times.min()
    seconds = (times - origin).dt.total_seconds().to_numpy()
    units = (86_400.0, 3_600.0, 60.0, 1.0, 1e-3)
    unit = next((u for u in units if np.allclose(seconds / u, np.round(seconds / u))), 1e-6)
    return {"scaling": "minmax", "origin": origin.isoformat(), "unit": unit}


def _numbers(present: pd.Series, at: str) -> np.ndarray:
    try:
        numbers = pd.to_numeric(present).to_numpy(np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(f"{at} is said to be a number and is not: {error}") from error
    if not np.isfinite(numbers).all():
        bad = present[~np.isfinite(numbers)]
        raise DataError(
            f"{at}, row {row_of(bad)} holds {bad.iloc[0]} ({len(bad):,} such cells); a "
            "missing value must be an empty cell"
        )
    return numbers


def _number(
    name: str, numbers: np.ndarray, kind: Kind, given: dict[str, Any], at: str
) -> dict[str, Any]:
    if kind == "integer" and np.abs(numbers).max() > LARGEST_INTEGER:
        raise DataError(
            f"{at} holds integers beyond 2^53 ({numbers[np.abs(numbers).argmax()]:.0f}), as ids "
            "are; leave it out (kind 'drop' in the schema), or make it the entity"
        )
    low, high = _bounds(name, numbers)
    scaling = choose_scaling(numbers)
    found: dict[str, Any] = {
        "scaling": scaling,
        "low": low,
        "high": high,
        "smallest": float(numbers.min() if given.get("low") is None else given["low"]),
        "largest": float(numbers.max() if given.get("high") is None else given["high"]),
    }
    if kind == "float":
        found["decimals"] = _decimals(numbers)
    stray = [
        (side, bound)
        for side, bound, beyond in (
            ("low", given.get("low"), lambda b: numbers.min() < b),
            ("high", given.get("high"), lambda b: numbers.max() > b),
        )
        if bound is not None and beyond(bound)
    ]
    if stray:
        side, bound = stray[0]
        raise DataError(
            f"{at} runs from {numbers.min():g} to {numbers.max():g}, beyond the schema's "
            f"{side}={bound:g}"
        )
    return found


def _bounds(name: str, numbers: np.ndarray) -> tuple[float | None, float | None]:
    """Bounds that the data suggests: not negative stays so, and so do shares and percentages."""
    low, high = float(numbers.min()), float(numbers.max())
    if low < 0:
        return None, None
    if any(word in name.lower() for word in PERCENT_NAMES) and high <= 100:
        return 0.0, 100.0 if high > 1 else 1.0
    if high <= 1 and high > 0.9 and len(np.unique(numbers[:1000])) > 2:
        return 0.0, 1.0
    return 0.0, 100.0 if 99 <= high <= 100 else None


def _decimals(numbers: np.ndarray) -> int | None:
    for digits in range(MOST_DECIMALS + 1):
        if np.allclose(numbers, np.round(numbers, digits), rtol=1e-12, atol=1e-12):
            return digits
    return None


def choose_scaling(numbers: np.ndarray) -> Scaling:
    """Logarithm for positive skew, quantiles for heavy tails, min-max for the rest.

    A column takes logarithms where it is not negative and its skewness above `SKEWED` is at least
    halved by them, quantiles where its excess kurtosis is above `HEAVY` then, and the mean and
    deviation instead of the extremes where these lie beyond 5 deviations.
    """
    with np.errstate(all="ignore"):
        skewness, kurtosis = _moments(numbers)
        if numbers.min() >= 0 and skewness > SKEWED:
            logs = np.log1p(numbers / _log_unit(numbers))
            if abs(_moments(logs)[0]) < skewness / 2:
                return "log"
        if kurtosis > HEAVY:
            return "quantile"
        deviation = numbers.std()
        reach = np.abs(numbers - numbers.mean()).max()
    return "standard" if deviation > 0 and reach > 5 * deviation else "minmax"


def _log_unit(numbers: np.ndarray) -> float:
    """What one is to a column that takes logarithms: the median of what is positive."""
    positive = numbers[numbers > 0]
    return float(np.median(positive)) if positive.size else 1.0


def _moments(numbers: np.ndarray) -> tuple[float, float]:
    centred = numbers - numbers.mean()
    variance = np.square(centred).mean()
    if not variance > 0:
        return 0.0, 0.0
    standard = centred / math.sqrt(variance)
    return float((standard**3).mean()), float((standard**4).mean() - 3)


DATE = r"\d[-/:.T ]\d"


def looks_like_time(present: pd.Series, share: float = 1.0) -> bool:
    """Whether text is dates, or for `share` < 1 mostly means to be."""
    texts = present.head(50).astype(str)
    matches = texts.str.contains(DATE)
    if texts.empty or matches.mean() < share:
        return False
    try:
        pd.to_datetime(texts[matches], format=time_format(texts[matches]) or None, utc=True)
    except (ValueError, TypeError):
        return False
    return True


def parse_times(values: pd.Series, at: str) -> pd.Series:
    """Times of a column, from text or datetimes.

    Raises:
      DataError: text that is no time, or times of several zones.
    """
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return values
    form = time_format(values) or None
    try:
        return pd.to_datetime(values, format=form)
    except (ValueError, TypeError) as error:
        parsed = pd.to_datetime(values, errors="coerce", format="mixed", utc=True)
        bad = values[parsed.isna() & values.notna()]
        if len(bad):
            raise DataError(f"{at}, row {row_of(bad)} holds {bad.iloc[0]!r}, no time") from error
        if "timezones" in str(error) or "time zones" in str(error):
            raise DataError(f"{at} mixes time zones; write all times in one (UTC, say)") from error
        raise DataError(
            f"{at} writes times in several ways ({values.iloc[0]!r} first); use one"
        ) from error


def time_format(values: pd.Series) -> str:
    """The strftime format of a column of text, the day first where the month cannot be; or ""."""
    if not pd.api.types.is_string_dtype(values.dtype) or values.dropna().empty:
        return ""
    texts = values.dropna().astype(str)
    with warnings.catch_warnings():  # that the day is not first after all
        warnings.simplefilter("ignore")
        guesses = [guess_datetime_format(texts.iloc[0], dayfirst=first) for first in (False, True)]
    for guess in filter(None, guesses):
        parsed = pd.to_datetime(texts.head(1_000), format=guess, errors="coerce", utc=True)
        if parsed.notna().all():
            return guess
    return guesses[0] or ""
