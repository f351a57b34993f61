"""How times are written: read from text, and the format that they are written back in."""

import warnings

import numpy as np
import pandas as pd
from pandas.tseries.api import guess_datetime_format

from timeldm_jax.errors import DataError

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
    """The strftime format of a column of text, or "".

    Where day and month could be either, the one counts in whose reading times run on evenly.
    """
    if not pd.api.types.is_string_dtype(values.dtype) or values.dropna().empty:
        return ""
    texts = values.dropna().astype(str)
    with warnings.catch_warnings():  # that the day is not first after all
        warnings.simplefilter("ignore")
        guesses = [guess_datetime_format(texts.iloc[0], dayfirst=first) for first in (False, True)]
    best, least = guesses[0] or "", np.inf
    for guess in dict.fromkeys(filter(None, guesses)):
        parsed = pd.to_datetime(texts, format=guess, errors="coerce", utc=True)
        if parsed.notna().all() and _unevenness(parsed) < least:
            best, least = guess, _unevenness(parsed)
    return best


def _unevenness(times: pd.Series) -> float:
    """The share of gaps that are not, within the lengths of months, the median gap."""
    gaps = times.diff().dt.total_seconds().to_numpy()[1:]
    if not gaps.size:
        return 0.0
    usual = np.median(gaps)
    return float((abs(gaps - usual) > abs(usual) / 5).mean())


def row_of(values: pd.Series) -> str:
    """The first row's label, counted as in a file: 1 is the first row below the header."""
    label = values.index[0]
    return str(label + 1) if isinstance(label, int | np.integer) else repr(label)
