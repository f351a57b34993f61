"""Windows drawn one after the other: what long series and forecasts are made of.

Rows are drawn by completing windows (`Generator.complete`) whose beginning is known, a third of a
window at a time.
"""

import numpy as np
from jaxtyping import Float, Int

from timeldm_jax.asked import Asked
from timeldm_jax.data import event_times
from timeldm_jax.data import table as tables
from timeldm_jax.data.clock import Steps
from timeldm_jax.generator import Generator
from timeldm_jax.progress import progress

MARGIN = 2  # rows at the end of a window that extensions do not use


def extend(
    generator: Generator,
    before: Float[np.ndarray, "n rows feature"],
    count: int,
    seed: int,
    begins: Steps | None = None,
    known: Float[np.ndarray, "n count feature"] | None = None,
    forecast: bool = False,
) -> Float[np.ndarray, "n count feature"]:
    """What may follow rows, a third of a window at a time, in the data's own units, float64.

    Args:
      generator: of the windows.
      before: at least a row; the last of them, up to a window less what is drawn, count.
      count: rows to draw.
      seed: of the noise.
      begins: the clock's step of the first row before; None: not known.
      known: what is known of the rows to come, NaN where nothing is.
      forecast: whether what comes is forecast, from what of the calendar training rows show often
        (`asked.observed`), not sampled.
    """
    window, rows = generator.models.vae.window, before.shape[1]
    stage = "forecast" if forecast else "extension"
    ends = rows + np.append(joins(count, window), count)
    series = np.full((len(before), rows + count, before.shape[2]), np.nan)
    series[:, :rows] = before
    if known is not None:
        series[:, rows:] = known
    start = rows
    with progress("extend", count, unit="row") as show:
        for step, end in enumerate(ends):
            observed = np.full((len(before), window, before.shape[2]), np.nan)
            # The last rows of a window bend more than others: they are drawn and thrown away.
            new = end - start
            ahead = min(new + MARGIN, window - 1)
            around = series[:, max(start + ahead - window, 0) : start + ahead]
            first = window - ahead - (start - max(start + ahead - window, 0))
            observed[:, first : first + around.shape[1]] = around
            if generator.schema is not None and generator.schema.padded:
                observed[..., -1] = 1.0
            steps = None
            if begins is not None:
                row = start + ahead - window
                steps = event_times.begun(generator.schema, series, begins, row)
            drawn = generator.complete(
                observed, seed, step, steps=steps, often=forecast, stage=stage
            )
            series[:, start:end] = drawn[:, window - ahead :][:, :new]
            start = end
            show(int(end) - rows, {})
    return series[:, rows:]


def lengthen(
    generator: Generator,
    windows: Float[np.ndarray, "n window feature"],
    length: int,
    seed: int,
    asked: Asked,
) -> Float[np.ndarray, "n rows feature"]:
    """Windows as series of at least so many rows.

    Args:
      generator: of the windows.
      windows: in the data's own units.
      length: rows wanted.
      seed: of the noise.
      asked: what they were asked for by.
    """
    schema = generator.schema
    if schema is not None and schema.padded:  # a series that goes on does not end
        windows = windows.copy()
        windows[..., -1] = 1.0
    rest = max(length - windows.shape[1], 0)
    if not rest:
        return windows
    more = extend(generator, windows, rest, seed, begins=asked.timed(schema, seed).steps)
    series = np.concatenate([windows, more], axis=1)
    return series if schema is None else tables.within_range(series, schema)


def block(window: int) -> tuple[int, int]:
    """Rows of a window that an extension draws at once, and those of them that it keeps."""
    new = max(window // 3, 1)
    return min(new + MARGIN, window - 1), new


def joins(count: int, window: int) -> Int[np.ndarray, " joins"]:
    """Rows of an extension by `count` rows at which another window begins to be drawn.

    A quarter to a third of a window apart, so that no rhythm of the data (a day of hours) always
    meets a join.
    """
    random = np.random.default_rng(0)
    most = max(window // 3, 1)
    steps_apart = random.integers(max(window // 4, 1), most + 1, count)
    found = np.cumsum(steps_apart)
    return found[found < count]


def join_rows(length: int, window: int) -> Int[np.ndarray, " joins"]:
    """Rows of a series of `lengthen` at which another window begins to be drawn."""
    more = max(length - window, 0)
    return window + np.append(0, joins(more, window)) if more else np.zeros(0, int)
