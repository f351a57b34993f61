"""Wide tables, one series a row and time across the columns, as long ones."""

import numpy as np
import pandas as pd

from timeldm_jax.data import formats
from timeldm_jax.errors import guess

FEWEST = 8  # columns named by times, from which a table is wide
TIME, VALUE, ROW = "time", "value", "row"
ENTITY = "entity"  # where `attrs` of a long table say whose its rows are


def lengthen(frame: pd.DataFrame) -> pd.DataFrame:
    """A long table of a wide one: whose a row is, the time, the value; another table as it is.

    A table is wide where most of its columns are named by times in one format, at one step, and
    hold numbers. The other columns stay with each row; `attrs` names those that tell series apart.

    Args:
      frame: columns named by text.
    """
    names = [str(name) for name in frame.columns]
    timely = [name for name in names if name[:1].isdigit() or name[:1].isalpha()]
    form = _form(timely)
    if not form:
        return frame
    times = formats.read(pd.Series(names, dtype="string"), form)
    across = [name for name, time in zip(names, times, strict=True) if pd.notna(time)]
    stamps = times.dropna()
    numeric = all(pd.api.types.is_numeric_dtype(frame[name].dtype) for name in across)
    if len(across) < FEWEST or len(across) <= len(names) / 2 or not numeric:
        return frame
    if not (stamps.diff().dropna() > pd.Timedelta(0)).all():
        return frame
    rest = [name for name in names if name not in across]
    whose = next((name for name in rest if frame[name].is_unique), "")
    if not whose:
        whose = ROW
        frame = frame.assign(**{ROW: np.arange(len(frame))})
        rest = [*rest, ROW]
    long = frame.reset_index(drop=True)
    long = long.melt(id_vars=rest, value_vars=across, var_name=TIME, value_name=VALUE)
    order = np.arange(len(long)).reshape(len(across), len(frame)).T.ravel()  # series by series
    long = long.iloc[order].reset_index(drop=True)[[whose, TIME, *_without(rest, whose), VALUE]]
    long.attrs[ENTITY] = whose
    guess(f"times across {len(across)} columns: taken for {len(frame)} series, one a row")
    return long


def _form(names: list[str]) -> str:
    """The format of most names, or ""."""
    texts = pd.Series(names, dtype="string")
    matches = texts.str.contains(formats.DATE)
    if matches.sum() < FEWEST or not matches.mean() > 0.5:
        return ""
    form = formats.time_format(texts[matches])
    return form if formats.has_date(form) else ""


def _without(names: list[str], one: str) -> list[str]:
    return [name for name in names if name != one]
