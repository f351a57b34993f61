"""`python -m timeldm_jax.describe`: what a table is taken for, before anything is trained.

    python -m timeldm_jax.describe my.csv

What each column is, the clock and its step, series and their lengths, windows for each part, what
will be slow, and everything that looks wrong, with the option that mends it. Exits 1 where the
table cannot be trained on as it is.
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from absl import flags
from ml_collections import ConfigDict

from timeldm_jax import command, recipe
from timeldm_jax import config as configuration
from timeldm_jax.data import dataset as datasets
from timeldm_jax.data import proposals
from timeldm_jax.data import schema as schemas
from timeldm_jax.data import table as tables
from timeldm_jax.data.clock import Clock, groups_of
from timeldm_jax.data.dataset import Dataset
from timeldm_jax.data.doubts import doubts as found_doubts
from timeldm_jax.data.given import Table, take
from timeldm_jax.data.large import Large
from timeldm_jax.data.schema import Schema
from timeldm_jax.errors import USER_ERRORS, DataError, Guess, guesses_kept, in_flags

EXIT_PROBLEMS = 1
LONG_WINDOW = 256  # rows; the scores' recurrent networks take a step for each
MOST_RULES = 12  # that are proposed


@dataclasses.dataclass(frozen=True)
class Description:
    """What data is taken for; `str` of it is the text for people.

    Attributes:
      facts: what it is, as text: columns, clock, series, windows.
      schema: of a table, whose `columns` have a `name`, a `kind`, `decimals` and more; else None.
      rows: of all series.
      series: how many there are.
      windows: how many of them are for what: `train`, `valid`, `test`.
      slow: what will take long.
      doubts: what trains as it is but looks wrong, and what to do about it.
      guesses: what reading it took for granted.
      faults: why it cannot be trained on; none where it can. `TimeLDM.describe` raises them.
    """

    facts: tuple[str, ...] = ()
    schema: Schema | None = None
    rows: int = 0
    series: int = 0
    windows: Mapping[str, int] = dataclasses.field(default_factory=dict)
    slow: tuple[str, ...] = ()
    doubts: tuple[DataError, ...] = ()
    guesses: tuple[DataError, ...] = ()
    faults: tuple[Exception, ...] = ()

    @property
    def clock(self) -> Clock | None:
        """The time column, with its `name`; None where rows have no times."""
        return None if self.schema is None else self.schema.clock

    @property
    def problems(self) -> tuple[str, ...]:
        """What looks wrong or was guessed, and the option that mends it, in the words of Python."""
        return tuple(str(each) for each in (*self.doubts, *self.guesses))

    def checked(self) -> "Description":
        """Itself; raises the first of its faults."""
        for fault in self.faults:
            raise fault
        return self

    def __str__(self) -> str:
        """All of it, settings in the words of Python."""
        return self.text()

    def text(self, *, flags_of_command: bool = False) -> str:
        """All of it as lines, settings in the words of Python or of the command."""
        say: Callable[[Exception], str] = str
        if flags_of_command:
            say = functools.partial(in_flags, prefix="--")
        lines = list(self.facts)
        for title, entries in (
            ("Will be slow:", list(self.slow)),
            ("Looks wrong:", [say(doubt) for doubt in self.doubts]),
            ("Guessed:", [say(guess) for guess in self.guesses]),
            ("Cannot be trained on:", [say(fault) for fault in self.faults]),
        ):
            if entries:
                lines += ["", title, *("  " + entry.replace("\n", "\n  ") for entry in entries)]
        if not self.faults:
            lines += ["", "Ready to train."]
        return "\n".join(lines)


class OfClassToo:
    """A method that the class has, too, as one of a new object."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.__doc__ = method.__doc__
        self._method = method

    def __get__(self, instance: Any, owner: type) -> Callable[..., Any]:
        return functools.partial(self._method, owner() if instance is None else instance)


def describe(
    config: ConfigDict, data: Any = None, columns: Sequence[str] | None = None
) -> Description:
    """What `experiment.start` would make of this data, without training.

    What `experiment.start` would raise is among the `faults`, beside all that is known of the data.

    Args:
      config: validated; a table's may leave sizes and steps open.
      data: as for `dataset.take`.
      columns: names of an array's features.
    """
    found = Description()
    try:
        with guesses_kept() as guessed:
            asked, given = take(config, data, columns)
            prepared = datasets.prepare(given, asked)
    except USER_ERRORS as error:
        faults = (error,)
        return dataclasses.replace(found, guesses=_errors_of(guessed), faults=faults)
    if isinstance(prepared, Table | Large):
        some = isinstance(prepared, Large)
        looked = found_doubts(prepared.frame, prepared.schema, some=some)
        doubts = [DataError(f"{said}. {advice}") for said, advice in looked]
        found = Description(tuple(_table_facts(prepared)), prepared.schema, doubts=tuple(doubts))
    if prepared is not None:
        lengths, _ = prepared.sizes()
        rows, guesses = int(lengths.sum()), _errors_of(guessed)
        found = dataclasses.replace(found, guesses=guesses, rows=rows, series=len(lengths))
    try:
        chosen = asked
        if prepared is not None:
            stored = isinstance(prepared, Large)
            chosen = recipe.choose_sizes(asked, *prepared.sizes(), stored=stored)
        dataset = datasets.cut(prepared, chosen, store=False)
    except USER_ERRORS as error:
        return dataclasses.replace(found, faults=(error,))
    parts = dataset.series
    return dataclasses.replace(
        found,
        facts=(*found.facts, *_window_facts(chosen, dataset)),
        windows={name: len(getattr(parts, name)) for name in ("train", "valid", "test")},
        slow=tuple(_slow(chosen, dataset)),
    )


def _errors_of(guessed: Sequence[Guess]) -> tuple[DataError, ...]:
    return tuple(DataError(each.text) for each in guessed)


def _table_facts(table: Table | Large) -> list[str]:
    frame, schema = table.frame, table.schema
    lengths, features = table.sizes()
    facts = [
        f"{lengths.sum():,} rows; {len(schema.columns)} columns to learn, as {features} features:",
        *(f"  {line}" for line in schema.describe()),
    ]
    clock = schema.clock
    if clock is None:
        facts.append("No time column: rows are taken in their order, as equal steps.")
    else:
        times = frame[list(clock.names)].astype(str).agg(" ".join, axis=1)
        step = clock.offset or (
            f"{clock.step:g}"
            if isinstance(clock.start, float)
            else str(pd.Timedelta(seconds=clock.step))
        )
        said = "uneven, what lies between rows is learnt" if clock.uneven else f"step {step}"
        facts.append(
            f"Time: {_listed(clock.names)}, from {times.iloc[0]} to {times.iloc[-1]}, {said}"
            + (f", zone {clock.zone}" if clock.zone else "")
        )
    if schema.entity:
        facts.append(
            f"Series: {len(lengths):,} by {_listed(schema.entity)}, of {lengths.min():,} to "
            f"{lengths.max():,} rows (median {np.median(lengths):,.0f})"
        )
    return facts + _proposed(table)


def _proposed(table: Table | Large) -> list[str]:
    """Rules that hold in all rows, and how samples keep them."""
    frame, schema = table.frame, table.schema
    if schema.rules or isinstance(table, Large):  # which has none
        return []
    found = proposals.propose(frame, schema.shown(), groups_of(frame, schema.entity))
    if not found:
        return []
    asked = json.dumps({"rules": found[:MOST_RULES]})
    return [
        f"Holds in all rows: {', '.join(map(repr, found[:MOST_RULES]))}. Samples keep what is no "
        f'accident of it with a schema: {asked}; {{"rules": "proposed"}} takes all'
    ]


def _listed(names: tuple[str, ...]) -> str:
    return " and ".join(map(repr, names))


def _window_facts(config: ConfigDict, dataset: Dataset) -> list[str]:
    series = dataset.series
    return [
        f"Windows of {series.window} rows x {len(series.columns)} features"
        + (f", every {config.data.stride} rows" if config.data.stride > 1 else "")
        + f": {len(series.train):,} train, {len(series.valid):,} validate, "
        f"{len(series.test):,} test ({config.data.protocol})",
        *_askable(dataset),
    ]


def _askable(dataset: Dataset) -> list[str]:
    """What samples can be asked for by."""
    schema = dataset.schema
    if schema is None:
        return []
    by = [repr(column.name) for column in schema.shown() if column.static]
    by += ["the time of their first rows"] if schema.clock is not None else []
    return [f"Samples can be asked for by {', '.join(by)}."] if by else []


def _slow(config: ConfigDict, dataset: Dataset) -> list[str]:
    features, window = len(dataset.series.columns), dataset.series.window
    slow = []
    if features > schemas.SLOW_FEATURES:
        slow.append(
            f"{features} features: scores of pairs and the recurrent scores grow with the square "
            "of that; leave columns out (kind 'drop' in a schema)"
        )
    if window > LONG_WINDOW:
        slow.append(f"windows of {window} rows: scores take time in proportion to that")
    return slow


def define_flags() -> flags.FlagValues:
    """The command's flags."""
    own = flags.FlagValues()
    own.set_gnu_getopt(True)  # the file may stand before its options
    flags.DEFINE_string("data", None, "A table: CSV, Parquet, ….", flag_values=own)
    for field in dataclasses.fields(tables.Options):
        flags.DEFINE_string(field.name, str(field.default), _MEANINGS[field.name], flag_values=own)
    flags.DEFINE_integer("window", 0, "Rows of a window; 0 chooses.", flag_values=own)
    return own


_MEANINGS = {
    "time": "The time column; looked for by default.",
    "entity": "The column that says which series a row belongs to.",
    "entity_names": "Ids of samples: new of the same form, or the real names, where few.",
    "schema": "A JSON file that says what columns are, or its text.",
    "irregular": "Times out of order or uneven: error, sort or resample.",
    "decimal": "The decimal point of a CSV file; found out by default.",
    "times": "Uneven times: steps, all alike, or generate, which learns and samples them.",
    "time_format": "How times are written, as in %d/%m/%Y %H:%M; found out by default.",
    "dayfirst": "Whether 01/02/2024 is in February: true or false; by default what fits.",
    "zone": "The time zone whose local clock times follow, as Europe/Berlin; found by default.",
    "na_values": "Values that stand for a missing one, as in -200,-999; or JSON by column.",
}


def main(argv: list[str]) -> None:
    """Describes a table; flags as in `--help`."""
    own = define_flags()
    command.parse(own, argv, __doc__, first="data")
    config = configuration.base()
    configuration.apply_table(config)
    for field in dataclasses.fields(tables.Options):
        config.data[field.name] = own[field.name].value
    config.data.window = own.window
    with command.one_line_errors():
        configuration.validate(config)
        found = describe(config, own.data)
    print(found.text(flags_of_command=True))
    if found.faults:
        sys.exit(EXIT_PROBLEMS)


def run() -> None:
    """Entry point of the command."""
    main(sys.argv)


if __name__ == "__main__":
    run()
