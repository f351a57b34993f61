"""What a column is, worked out from its values: kind, scaling, bounds, decimals, words."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from timeldm_jax.data import dtypes, grids, words
from timeldm_jax.data.columns import (
    MOST_CATEGORIES,
    Column,
    Kind,
    Scaling,
    as_numbers,
)
from timeldm_jax.data.formats import (
    foreign_months,
    looks_like_time,
    parse_times,
    row_of,
    time_format,
)
from timeldm_jax.data.scaling import GAP, outward
from timeldm_jax.errors import DataError, option

FEWEST_ROWS = 2  # a word of fewer is not listed, unless the user lists it
FEW_WORDS = 5  # words among numbers, no more of which may stand for what is missing
LISTED = 0.5  # share of rows whose words must be listed
LARGEST_INTEGER = 2**53  # beyond, float64 does not tell neighbours apart
WIDEST_CURVE = 2**40  # beyond this range a curve of quantiles loses whole units
SKEWED, HEAVY = 2.0, 8.0  # skewness and excess kurtosis from which a column is transformed
MOST_CODES = 50  # numbers of no more different values are codes or counts
LUMP = 0.05  # share of rows with one value, or on either side of a gap, that is no chance
PERCENT_NAMES = ("%", "percent", "pct", "humidity")


def infer(column: pd.Series, given: dict[str, Any], where: str) -> Column:
    """What a column is, by its values and dtype, and by the fields that the user has set.

    Raises:
      DataError: it cannot be learnt, or is not what the user said.
    """
    name = str(column.name)
    at = f"{where}, column {name!r}"
    missing = bool(column.isna().any())
    dtype, given_as = dtypes.name_of(column), column
    column = dtypes.plain(column)
    present = column.dropna()
    if present.empty:
        return Column(name, "float", dtype, "constant")
    words = isinstance(given_as.dtype, pd.CategoricalDtype)
    kind: Kind = given.get("kind") or ("category" if words else _kind(present, at))
    fields: dict[str, Any] = {"dtype": dtype, "missing": missing}
    if kind == "category":
        fields |= _category(present, given, at)
        fields |= _order(given_as, fields["categories"]) if "categories" not in given else {}
    elif kind == "boolean":
        values = set(present.unique().tolist())
        if not values <= {0, 1}:
            raise DataError(f"{at} is said to be boolean and holds {sorted(map(str, values))[:5]}")
        fields |= {"scaling": "minmax", "low": 0.0, "high": 1.0}
    elif kind == "datetime":
        form = time_format(present)
        fields |= _datetime(parse_times(present, at, form)) | {"format": form}
    else:
        numbers = _finite(present, at, given)
        fields |= _number(name, numbers, kind, given, at)
    first = present.iloc[0]
    if (present == first).all() and not missing:
        fields |= {"scaling": "constant", "value": _plain(first)}
    fields |= {k: v for k, v in given.items() if k not in ("kind", "categories", "step")}
    if fields["scaling"] == "constant" and fields.get("value") is None:
        raise DataError(f"{at} is said to be constant and is not")
    return Column(name=name, kind=kind, **fields)


def _kind(present: pd.Series, at: str) -> Kind:
    dtype = present.dtype
    if pd.api.types.is_bool_dtype(dtype):
        return "boolean"
    if pd.api.types.is_integer_dtype(dtype):
        return "integer"
    if pd.api.types.is_float_dtype(dtype) or pd.api.types.is_timedelta64_dtype(dtype):
        return "float"
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return "datetime"
    if pd.api.types.is_complex_dtype(dtype):
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
    return _kind_of_text(present, present.astype(str), at)


def _kind_of_text(present: pd.Series, texts: pd.Series, at: str) -> Kind:
    """Numbers in text, times or words; what is a mixture of them is refused.

    Args:
      present: the column without what is missing.
      texts: the same as text.
      at: what to call it in errors.
    """
    as_numbers = pd.to_numeric(texts, errors="coerce")
    share = float(as_numbers.notna().mean())
    bad = present[as_numbers.isna()]
    if bad.empty:
        return "category" if texts.str.fullmatch(r"0\d{2,}").any() else "float"  # 01000 is a word
    commas = bad.astype(str).str.fullmatch(r"[+-]?\d+,\d+")
    if commas.any():
        raise DataError(
            f"{at}, row {row_of(bad[commas])} holds {bad[commas].iloc[0]!r}, a number with a "
            "comma, and not all cells are numbers written so; write all of the column alike"
        )
    if share == 0:
        return "datetime" if looks_like_time(present) else "category"
    others = sorted(map(str, bad.unique()))
    few = len(others) <= FEW_WORDS and not any("," in word for word in others)
    if share > 0.5 or (few and present.nunique() > MOST_CATEGORIES):
        missing = ""
        if few:  # without these words the column is numbers
            stands = "it stands" if len(others) == 1 else "these stand"
            said = option("na_values", ",".join(others))
            missing = f"If {stands} for a missing value: {said}. "
        raise DataError(
            f"{at} holds numbers ({share:.0%}) and words: row {row_of(bad)} has "
            f"{bad.iloc[0]!r}. {missing}Mend or empty these {len(bad):,} cells, or make the "
            'column a category in the schema ({"kind": "category"})'
        )
    return "category"


def _category(present: pd.Series, given: dict[str, Any], at: str) -> dict[str, Any]:
    listed = given.get("categories")
    counts = present.value_counts()
    if listed is not None:
        strange = [value for value in counts.index if value not in listed]
        if strange:
            raise DataError(
                f"{at} holds {strange[0]!r}, which is not among the schema's categories"
            )
        return _words(tuple(listed))
    if foreign_months(present):
        raise DataError(
            f"{at} holds days such as {present.iloc[0]!r}: names of months are read in English; "
            "write months as numbers (2024-01-31), or leave the column out (kind 'drop' in the "
            "schema)"
        )
    common = counts[counts >= FEWEST_ROWS]
    advice = (
        f"Leave it out (kind 'drop' in the schema), name it as the entity ({option('entity')}) if "
        "it says which series a row belongs to, or group rare values"
    )
    if len(common) > words.MOST_CODED:
        raise DataError(
            f"{at} holds {len(counts):,} different values such as {counts.index[0]!r}; words are "
            f"learnt up to {words.MOST_CODED:,}. {advice}"
        )
    if common.empty:
        raise DataError(
            f"{at} holds another word in each row, such as {counts.index[0]!r}; leave it out (kind "
            "'drop' in the schema), or list its categories there"
        )
    if len(counts) > MOST_CATEGORIES and common.sum() < LISTED * len(present):
        raise DataError(
            f"{at} holds a word of its own in {len(counts) - len(common):,} of {len(present):,} "
            f"rows, such as {counts.index[-1]!r}; words are learnt that come again. {advice}"
        )
    return _words(tuple(_plain(word) for word in sorted(common.index.tolist(), key=str)))


def _order(present: pd.Series, listed: tuple[Any, ...]) -> dict[str, Any]:
    """The order of a column's categories, where its dtype has one."""
    if not isinstance(present.dtype, pd.CategoricalDtype):
        return {}
    names = dtypes.plain(pd.Series(present.cat.categories)).map(_plain).tolist()
    return {
        "categories": tuple(word for word in names if word in listed),
        "ordered": bool(present.cat.ordered),
    }


def _words(listed: tuple[Any, ...]) -> dict[str, Any]:
    return {"scaling": "minmax", "categories": listed, "coded": len(listed) > MOST_CATEGORIES}


def _plain(value: Any) -> Any:
    """A value that JSON can hold."""
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    if isinstance(value, pd.Timedelta):
        return value.total_seconds()
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, str | bool | int | float) else str(value)


def _datetime(times: pd.Series) -> dict[str, Any]:
    times = times.dt.tz_localize(None) if times.dt.tz is not None else times
    origin = times.min().replace(
        month=1, day=1, hour=0, minute=0, second=0, microsecond=0, nanosecond=0
    )
    seconds = (times - origin).dt.total_seconds().to_numpy()
    units = (86_400.0, 3_600.0, 60.0, 1.0, 1e-3)
    unit = next((u for u in units if np.allclose(seconds / u, np.round(seconds / u))), 1e-6)
    return {"scaling": "minmax", "origin": origin.isoformat(), "unit": unit}


def _finite(present: pd.Series, at: str, given: dict[str, Any]) -> np.ndarray:
    try:
        numbers = as_numbers(present, at)
    except DataError as error:
        if "kind" in given:
            raise DataError(f"{at} is said to be a number and is not: {error}") from error
        raise
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
    if kind == "integer" and scaling == "quantile" and np.ptp(numbers) > WIDEST_CURVE:
        scaling = "minmax"
    digits = grids.decimals(numbers) if kind == "float" else 0
    grid = grids.find(numbers, given.get("decimals", digits))
    if grid is not None and grid.single and "decimals" in given:  # as said, not as it was written
        grid = dataclasses.replace(grid, single=False, points=())
    if given.get("step") is not None:
        grid = grids.Grid(step=given["step"], decimals=digits) if given["step"] else None
    smallest, largest = outward(numbers, whole=kind == "integer")
    found: dict[str, Any] = {
        "scaling": scaling,
        "low": low,
        "high": high,
        "smallest": float(smallest if given.get("low") is None else given["low"]),
        "largest": float(largest if given.get("high") is None else given["high"]),
        "decimals": digits if kind == "float" else None,
        "grid": grid,
    }
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


def choose_scaling(numbers: np.ndarray) -> Scaling:
    """Quantiles for lumps, gaps and heavy tails, logarithm for positive skew, min-max for the rest.

    A column takes quantiles where it has few values, where one stands for many rows, or where none
    lies between its modes; logarithms where it is not negative and its skewness above `SKEWED` is
    at least halved by them; quantiles where its excess kurtosis is above `HEAVY` then; and the mean
    and deviation instead of the extremes where these lie beyond 5 deviations.
    """
    if _lumpy(numbers):
        return "quantile"
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


def _lumpy(numbers: np.ndarray) -> bool:
    values, counts = np.unique(numbers, return_counts=True)
    rows = len(numbers)
    if len(values) <= 2:
        return False
    if counts.max() >= max(LUMP * rows, 3) or len(values) <= min(MOST_CODES, rows // 10):
        return True
    below = np.cumsum(counts)[:-1]
    inner = (below >= LUMP * rows) & (below <= (1 - LUMP) * rows)
    return bool((np.diff(values)[inner] > GAP * np.ptp(numbers)).any())


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
    squares = standard * standard  # a power takes ten times as long as products
    return float((squares * standard).mean()), float((squares * squares).mean() - 3)
