"""Missing values: what stands for one in a table, and how gaps are closed for scores."""

import dataclasses
import json
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from timeldm_jax.data import schema as schemas
from timeldm_jax.data.schema import Schema
from timeldm_jax.errors import DataError, option

Windows = Float[np.ndarray, "n time feature"]


def mark_missing(frame: pd.DataFrame, where: str, na_values: str) -> pd.DataFrame:
    """A table without the values that stand for a missing one.

    Whole numbers stay whole, and words that leave numbers alone leave a column of numbers.

    Args:
      frame: as from `reader.read`.
      where: what to call it in errors.
      na_values: as in `Options`.

    Raises:
      DataError: a column that is not there, or no list of values.
    """
    frame = frame.copy(deep=False)
    for name, words in words_of(na_values, list(frame.columns), where).items():
        frame[name] = without(frame[name], words)
    return frame


def words_of(na_values: str, names: Sequence[str], where: str) -> dict[str, list[str]]:
    """What stands for a missing value, by column; see `mark_missing`.

    Args:
      na_values: as in `Options`.
      names: of the columns.
      where: what to call the table in errors.
    """
    if not na_values:
        return {}
    if not na_values.lstrip().startswith("{"):
        by_column = dict.fromkeys(names, na_values.split(","))
    else:
        try:
            by_column = json.loads(na_values)
        except ValueError as error:
            raise DataError(f"{option('na_values', na_values)} is not JSON: {error}") from error
        for name in by_column:
            schemas.known(name, names, f"{where}: {option('na_values')}: column")
    return {
        name: [str(value).strip() for value in (given if isinstance(given, list) else [given])]
        for name, given in by_column.items()
    }


@dataclasses.dataclass
class Rest:
    """What a column of text holds beside the words that stand for a missing value; parts add up.

    Attributes:
      hits: whether it has such words.
      words: whether something else is no number.
      numbers: whether something else is one.
      points: whether something else has a point.
      parts: whether a number is not whole.
    """

    hits: bool = False
    words: bool = False
    numbers: bool = False
    points: bool = False
    parts: bool = False

    def add(self, column: pd.Series, words: list[str]) -> None:
        """The next cells."""
        text = column.astype("string").str.strip()
        hits = text.isin(words).fillna(False).astype(bool)
        rest = column.mask(hits)
        numbers = pd.to_numeric(rest, errors="coerce")
        self.hits |= bool(hits.any())
        self.words |= bool((numbers.isna() & rest.notna()).any())
        self.numbers |= bool(numbers.notna().any())
        self.points |= bool(text[~hits].str.contains(".", regex=False).any())
        self.parts |= bool((without(numbers, words).dropna() % 1).any())

    @property
    def dtype(self) -> str:
        """Of the column without those words: "" that it has, "float64" or "Int64"."""
        if not self.hits or self.words or not self.numbers:
            return ""
        return "float64" if self.points or self.parts else "Int64"


def without(column: pd.Series, words: list[str], dtype: str | None = None) -> pd.Series:
    """A column, or some rows of it, without the words that stand for a missing value.

    Args:
      column: of numbers, or text.
      words: that stand for one.
      dtype: of a column of text, from `Rest`; None finds out.
    """
    if pd.api.types.is_numeric_dtype(column.dtype):
        hits = column.isin(pd.to_numeric(pd.Series(words), errors="coerce").dropna())
        whole = pd.api.types.is_integer_dtype(column.dtype)
        return (column.astype("Int64") if whole and hits.any() else column).mask(hits)
    hits = column.astype("string").str.strip().isin(words).fillna(False).astype(bool)
    if dtype is None and hits.any():
        rest = Rest()
        rest.add(column, words)
        dtype = rest.dtype
    if not dtype:
        return column.mask(hits) if hits.any() else column
    numbers = without(pd.to_numeric(column.mask(hits), errors="coerce"), words)  # -200.0 for -200
    return numbers.astype("Int64") if dtype == "Int64" else numbers


def close_gaps(
    synthetic: Windows, real: Sequence[Windows], schema: Schema, missing: str, seed: int
) -> tuple[Windows, list[Windows]]:
    """Windows without NaN, gaps alike in all sets, so that scores compare what is known.

    Synthetic windows get the gaps that the model generated, or (`missing="fill"`) those of real
    windows drawn at random. Then gaps in all sets are closed the same way: by the last value before
    in the window, else the first after, else the mean of the real ones.

    Args:
      synthetic: `(n, time, feature)`, snapped.
      real: sets of real windows; the first gives the patterns.
      schema: of the features.
      missing: `fill` or `generate`.
      seed: of the draw of patterns.
    """
    layout, flags = schemas.features(schema), schemas.flags(schema)
    if not flags and not schema.padded:
        return synthetic, list(real)
    synthetic = synthetic.copy()
    if missing == "fill":
        rows = np.random.default_rng(seed).integers(0, len(real[0]), len(synthetic))
        for place in flags.values():
            synthetic[..., place] = np.nan_to_num(real[0][rows, :, place])
    for place, feature in enumerate(layout):
        if feature.role != "missing" and feature.column in flags:
            gaps = synthetic[..., flags[feature.column]] > 0.5
            synthetic[..., place] = np.where(gaps, np.nan, synthetic[..., place])
    if schema.padded:
        synthetic[..., :-1][synthetic[..., -1] < 0.5] = np.nan
    means = np.nanmean(real[0], axis=(0, 1))
    return _close(synthetic, means), [_close(windows, means) for windows in real]


def close_as(real: Windows, others: Mapping[str, Windows]) -> tuple[Windows, dict[str, Windows]]:
    """Windows without NaN, where what was made of each real window gets the gaps of that one.

    Args:
      real: `(n, time, feature)`.
      others: by name, windows made of `real`, one each.
    """
    lacks = np.isnan(real)
    if not lacks.any():
        return real, dict(others)
    with warnings.catch_warnings():  # a feature without a value in these windows
        warnings.simplefilter("ignore", RuntimeWarning)
        means = np.nan_to_num(np.nanmean(real, axis=(0, 1)))
    made = {name: np.where(lacks, np.nan, windows) for name, windows in others.items()}
    return _close(real, means), {name: _close(windows, means) for name, windows in made.items()}


def _close(windows: Windows, means: Float[np.ndarray, " feature"]) -> Windows:
    found = np.array(windows)
    for t in range(1, found.shape[1]):
        found[:, t] = np.where(np.isnan(found[:, t]), found[:, t - 1], found[:, t])
    for t in range(found.shape[1] - 2, -1, -1):
        found[:, t] = np.where(np.isnan(found[:, t]), found[:, t + 1], found[:, t])
    return np.where(np.isnan(found), means, found)
