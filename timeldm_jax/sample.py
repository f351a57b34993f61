"""`python -m timeldm_jax.sample`: draws from a saved model or a finished run.

    python -m timeldm_jax.sample --model=runs/mine --count=1000 --seed=1 --out=more.csv

Window i depends on the seed and i alone, so a larger count goes on where a smaller one ended. The
file is written whole or not at all. Of a panel, static columns can be asked for:

    python -m timeldm_jax.sample --model=runs/mine --count=100 --given='{"sex": "F"}' --out=f.csv
"""

import json
import sys
from typing import Any

from absl import flags

from timeldm_jax import command


def define_flags() -> flags.FlagValues:
    """The command's flags."""
    own = command.model_flags(
        out="Where the samples go: .csv or .parquet, or .npz of a model of arrays.",
    )
    flags.DEFINE_integer(
        "count", 1000, "Windows, or series where --length is given.", flag_values=own
    )
    flags.DEFINE_integer("seed", 0, "Of the noise.", flag_values=own)
    flags.DEFINE_integer("length", 0, "Rows of each series; 0: a window's.", flag_values=own)
    flags.DEFINE_string(
        "given", "", 'Values of static columns, as JSON: {"sex": "F"}.', flag_values=own
    )
    flags.DEFINE_string(
        "context", "", "A table of static columns, a row for each sample.", flag_values=own
    )
    flags.DEFINE_string(
        "start", "", "When samples begin; by default as the data has them.", flag_values=own
    )
    flags.DEFINE_float(
        "guidance",
        None,
        "How strongly what is asked for is followed; 1 is as the data does. More costs spread.",
        flag_values=own,
    )
    flags.DEFINE_string(
        "missing",
        "fill",
        "fill, or generate: leave out what the model leaves out.",
        flag_values=own,
    )
    flags.mark_flags_as_required(["model", "out"], own)
    return own


def main(argv: list[str]) -> None:
    """Draws samples into a file; flags as in `--help`."""
    own = define_flags()
    command.parse(own, argv, __doc__)
    with command.one_line_errors(ValueError):
        target = command.output(own.out, (*command.TABLE_FILES, ".npz"))
        command.check_whole("count", own.count, 1)
        command.check_whole("length", own.length, 0)
        model = command.open_model(own.model)
        if own.context and own["count"].present:
            raise command.DataError("--context has a row for each sample: leave --count out")
        asked: dict[str, Any] = {
            "count": None if own.context else own.count,
            "given": _given(own.given),
            "context": own.context or None,
            "start": own.start or None,
            "guidance": own.guidance,
        }
        if own.length:
            if own.missing != "fill":
                raise command.DataError("--missing is not read with --length; leave one out")
            found = model.sample_series(own.length, own.seed, **asked)
        else:
            found = model.sample(seed=own.seed, missing=own.missing, **asked)
        command.write_result(target, found, model.columns)


def _given(text: str) -> dict[str, Any] | None:
    """The values of `--given`."""
    try:
        found = json.loads(text) if text else None
    except ValueError as error:
        raise command.DataError(f"--given={text} is not JSON: {error}") from error
    if found is not None and not isinstance(found, dict):
        raise command.DataError(f'--given={text}: expected an object, such as {{"sex": "F"}}')
    return found


def run() -> None:
    """Entry point of the command."""
    main(sys.argv)


if __name__ == "__main__":
    run()
