"""What follows rows and what is missing of them: forecasts and imputation.

All is made of completed windows (`Generator.complete`), a third of a window at a time.
`python -m timeldm_jax.forecast` draws forecasts into a file.
"""

import dataclasses
import os
import sys

import numpy as np
import pandas as pd
from absl import flags
from etils import epath
from jaxtyping import Float, Int

from timeldm_jax import bands, command, extension
from timeldm_jax.data import (
    columns,
    combinations,
    dtypes,
    event_times,
    relations,
    rules,
    start_times,
)
from timeldm_jax.data import schema as schemas
from timeldm_jax.data import table as tables
from timeldm_jax.data.schema import Schema
from timeldm_jax.errors import DataError
from timeldm_jax.generator import Generator
from timeldm_jax.workdir import write_bytes

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
IMPUTATION = "imputation"  # what errors call it


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What may come after a history.

    Attributes:
      samples: a table of `n` futures, told apart by `series`.
      quantiles: of each numeric column at each time, one row each: the time (or step), `column`,
        and a column a level.
      history: the rows that the forecast continues.
      columns: the numeric columns.
    """

    samples: pd.DataFrame
    quantiles: pd.DataFrame
    history: pd.DataFrame
    columns: tuple[str, ...]

    def plot(self, path: str) -> None:
        """Draws history, median and bands of each column as a PNG file."""
        from timeldm_jax.report import figures  # plotting takes seconds to import

        with figures.theme("light"):
            figure = figures.forecast_figure(self.history, self.quantiles, self.columns)
            write_bytes(epath.Path(os.path.abspath(path)), figures.png(figure))


def forecast(
    generator: Generator,
    frame: pd.DataFrame,
    encoded: tables.Encoded,
    horizon: int,
    n: int,
    seed: int,
    known: Float[np.ndarray, "horizon feature"] | None = None,
) -> Forecast:
    """Draws what may follow the last rows of one series.

    Args:
      generator: of a table or series.
      frame: the history; its last rows, up to a window's, count.
      encoded: its features, from `tables.encode`.
      horizon: rows to forecast.
      n: futures to draw.
      seed: of the noise.
      known: features of the rows to come, from `encode_known`; NaN where the model is to say.

    Raises:
      DataError: the history is of several series.
    """
    schema, window = generator.schema, generator.models.vae.window
    assert schema is not None
    if encoded.groups.max() > 0:
        raise DataError("the history holds several series; forecast one at a time")
    before = np.repeat(encoded.values[None, -window:], n, axis=0)
    before[..., _flags(schema)] = np.nan
    first = _step(schema, encoded, len(encoded.values) - before.shape[1])
    begins = None if first is None else np.full(n, first)
    known = None if known is None else np.repeat(known[None], n, axis=0)
    futures = extension.extend(generator, before, horizon, seed, begins, known, forecast=True)
    if generator.wider is not None:
        new = extension.block(window)[1]
        apart = tables.snap(bands.widen(futures, generator.wider, new), schema, known)
        futures = rules.keep(apart, schema, known)
    times = every = None
    if event_times.uneven(schema):
        every, times = event_times.following(schema, frame, futures)
    elif schema.clock is not None:
        every = times = schema.clock.following(frame, horizon)
    samples = tables.decode(futures, schema, times=every)
    for ids in schema.ids:  # the future of the series that was given
        samples[ids.name] = frame[ids.name].iloc[-1]
    return summarise(samples, schema, times, frame.tail(2 * window))


def encode_known(
    known: pd.DataFrame, schema: Schema, times: pd.DataFrame | None, horizon: int
) -> Float[np.ndarray, "horizon feature"]:
    """The features of what is known of rows to come, NaN where nothing is.

    Args:
      known: `horizon` rows with some of the columns; empty cells are not known.
      schema: of the model.
      times: of these rows, where there is a time column.
      horizon: rows.

    Raises:
      DataError: another number of rows, other times, or a column that is not learnt.
    """
    if len(known) != horizon:
        raise DataError(f"known has {len(known)} rows; expected one for each of {horizon} to come")
    own = () if schema.clock is None else schema.clock.names
    learnt = [column.name for column in schema.columns]
    for name in known.columns:
        if name not in (*own, *schema.entity):
            schemas.known(str(name), learnt, "known: column")
    if times is not None and set(own) <= set(known.columns):
        assert schema.clock is not None
        given, expected = (schema.clock.read(each, "known") for each in (known, times))
        apart = np.flatnonzero(given.to_numpy() != expected.to_numpy())
        if apart.size:
            row = int(apart[0])
            raise DataError(
                f"known, row {row + 1} is of {known[own[0]].iloc[row]!r}; the history goes on at "
                f"{times[own[0]].iloc[row]!r}"
            )
    frame = known.reset_index(drop=True).reindex(columns=learnt)
    found = np.full((horizon, len(schemas.features(schema))), np.nan)
    for place, feature in enumerate(schemas.features(schema)):
        column = schema.columns[feature.column]
        there = frame[column.name].notna().to_numpy()
        if feature.role in ("missing", "present") or not there.any():
            continue
        found[there, place] = columns.encode(
            frame[column.name][there], column, feature.place, "known"
        )
    combinations.check_asked(known, schema, "known")
    return found


def summarise(
    samples: pd.DataFrame, schema: Schema, times: pd.DataFrame | None, history: pd.DataFrame
) -> Forecast:
    """A forecast from its futures.

    Args:
      samples: futures of one length, told apart by `series`.
      schema: of their columns.
      times: of the forecast rows, where there is a time column; of uneven ones the medians.
      history: the rows that it continues.
    """
    numeric = tuple(
        c.name for c in schema.shown() if c.kind in ("float", "integer") and c.scaling != "constant"
    )
    futures = samples[schemas.SERIES].nunique()
    parts = []
    for name in numeric:
        numbers = columns.as_numbers(dtypes.plain(samples[name]), name).reshape(futures, -1)
        # By Weibull's places, what comes is within the band of n futures like it as often as the
        # band says; other definitions, which describe the n alone, are too narrow.
        known = np.isfinite(numbers).any(axis=0)
        found = np.full((len(QUANTILES), numbers.shape[1]), np.nan)
        found[:, known] = np.nanquantile(numbers[:, known], QUANTILES, axis=0, method="weibull")
        levels = pd.DataFrame(found.T, columns=pd.Index(QUANTILES))
        levels.insert(0, "column", name)
        if times is None:
            levels.insert(0, "step", levels.index)
        else:
            levels = pd.concat([times, levels.reset_index(drop=True)], axis=1)
        parts.append(levels)
    quantiles = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return Forecast(samples, quantiles, history, numeric)


def impute(generator: Generator, encoded: tables.Encoded, seed: int, draws: int) -> pd.DataFrame:
    """The rows of a table with missing values filled, given all that is there; see `put_back`.

    Args:
      generator: of a table or series.
      encoded: the table's features, from `tables.encode`.
      seed: of the noise.
      draws: how many completions to take the median of.
    """
    schema = generator.schema
    assert schema is not None
    values, groups = encoded.values, encoded.groups
    steps = None
    if schema.starts is not None and schema.clock is not None:
        steps = start_times.counted(encoded.clock, schema.clock)
    many = [fill_gaps(generator, values, groups, seed, draw, steps) for draw in range(draws)]
    found = many[0] if draws == 1 else _kept(np.median(many, axis=0), groups, schema, values)
    times = None if schema.clock is None else schema.clock.times(found.shape[0])
    return tables.decode(found[None], schema, times=times)  # times stay those that were given


def _step(schema: Schema, encoded: tables.Encoded, row: int) -> int | None:
    """The clock's step of a row; None where the model has no calendar."""
    if schema.starts is None or schema.clock is None:
        return None
    return int(start_times.counted(encoded.clock, schema.clock)[row])


def fill_gaps(
    generator: Generator,
    values: Float[np.ndarray, "rows feature"],
    groups: Int[np.ndarray, " rows"],
    seed: int,
    draw: int,
    steps: Int[np.ndarray, " rows"] | None = None,
) -> Float[np.ndarray, "rows feature"]:
    """The rows with NaN filled, in blocks of a third of a window.

    Every other block that lacks something is drawn in the middle of a window, given what is known
    of it and around it; then those between, given their neighbours too. The noise of a block is
    numbered by its first row: it is the same whichever other blocks are drawn.
    """
    window, schema = generator.models.vae.window, generator.schema
    flags = _flags(schema)
    third = max(window // 3, 1)
    rows = np.arange(window) - (window - third) // 2
    middle = (rows >= 0) & (rows < third)
    found = np.array(values)
    if schema is not None:
        found = relations.settle(found, groups, schema, values)
    found[:, flags] = 0.0
    lacks = np.isnan(found).any(axis=1)
    found[:, flags] = np.nan  # the values are wanted, whether or not they would be there
    ends = np.cumsum(np.bincount(groups))
    firsts = np.concatenate([[0], ends[:-1]])
    for turn in range(2):
        starts = [
            np.arange(first + turn * third, end, 2 * third)
            for first, end in zip(firsts, ends, strict=True)
        ]
        blocks = np.concatenate(starts)
        places = blocks[:, None] + rows  # (blocks, window), some beyond the series
        inside = np.clip(places, 0, len(values) - 1)
        whole = (places == inside) & (groups[inside] == groups[blocks][:, None])
        lacking = (lacks[inside] & whole)[:, middle].any(axis=1)
        if not lacking.any():
            continue
        blocks, inside, whole = blocks[lacking], inside[lacking], whole[lacking]
        observed = np.where(whole[..., None], found[inside], np.nan)
        begins = None
        if steps is not None and event_times.uneven(schema):
            begun = np.maximum(blocks + rows[0], firsts[groups[blocks]])
            begins = steps[begun] + (blocks + rows[0] - begun)
        elif steps is not None:
            begins = steps[blocks] + rows[0]
        drawn = generator.complete(
            observed, seed, draw, turn, numbers=blocks, steps=begins, often=True, stage=IMPUTATION
        )
        found[inside[:, middle][whole[:, middle]]] = drawn[:, middle][whole[:, middle]]
        found[:, flags] = np.nan
    if schema is None:
        return found
    return _kept(relations.settle(found, groups, schema, values), groups, schema, values)


def _kept(
    rows: Float[np.ndarray, "rows feature"],
    groups: Int[np.ndarray, " rows"],
    schema: Schema,
    given: Float[np.ndarray, "rows feature"],
) -> Float[np.ndarray, "rows feature"]:
    """Rows whose series keep all rules; what is given stays."""
    if not schema.rules:
        return rows
    ends = np.cumsum(np.bincount(groups))[:-1]
    parts = zip(np.split(rows, ends), np.split(given, ends), strict=True)
    return np.concatenate(
        [
            rules.keep(tables.snap(part[None], schema, own[None]), schema, own[None])[0]
            for part, own in parts
        ]
    )


def _flags(schema: Schema | None) -> list[int]:
    """Places of the features that say what is missing."""
    return [] if schema is None else list(schemas.flags(schema).values())


HELP = """`python -m timeldm_jax.forecast`: draws what may follow the last rows of a series.

    python -m timeldm_jax.forecast --model=runs/mine --data=recent.csv --horizon=24 --out=next.csv

The quantiles of each column at each time go to the file, whole or not at all.
"""


def define_flags() -> flags.FlagValues:
    """The command's flags."""
    own = command.model_flags(
        data="The history: one series; its last rows, up to a window's, count.",
        known="What is known of the rows to come: a table with some of the columns.",
        out="Where the quantiles go: .csv or .parquet.",
        samples="Where the drawn futures go, too: .csv or .parquet.",
        plot="Where a picture goes: .png.",
    )
    flags.DEFINE_integer("horizon", None, "Rows to forecast.", flag_values=own)
    flags.DEFINE_integer("count", 100, "Futures to draw.", flag_values=own)
    flags.DEFINE_integer("seed", 0, "Of the noise.", flag_values=own)
    flags.DEFINE_string("irregular", None, command.IRREGULAR_HELP, flag_values=own)
    flags.mark_flags_as_required(["model", "data", "out", "horizon"], own)
    return own


def main(argv: list[str]) -> None:
    """Forecasts a series into files; flags as in `--help`."""
    own = define_flags()
    command.parse(own, argv, HELP)
    with command.one_line_errors(ValueError):
        target = command.output(own.out, command.TABLE_FILES)
        samples = command.output(own.samples, command.TABLE_FILES) if own.samples else None
        picture = command.output(own.plot, (".png",)) if own.plot else None
        command.check_whole("horizon", own.horizon, 1)
        command.check_whole("count", own.count, 1)
        model = command.open_model(own.model)
        found = model.forecast(
            own.data,
            own.horizon,
            own.count,
            own.seed,
            known=own.known or None,
            irregular=own.irregular,
        )
        command.write_result(target, found.quantiles, ())
        if samples is not None:
            command.write_result(samples, found.samples, ())
        if picture is not None:
            found.plot(str(picture))


def run() -> None:
    """Entry point of the command."""
    main(sys.argv)


if __name__ == "__main__":
    run()
