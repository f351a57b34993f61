"""`python -m timeldm_jax.impute`: fills the missing values of a table.

    python -m timeldm_jax.impute --model=runs/mine --data=with_gaps.csv --out=filled.csv

Rows, their order and what is known stay as they are. The file is written whole or not at all.
"""

import sys

from absl import flags

from timeldm_jax import command


def define_flags() -> flags.FlagValues:
    """The command's flags."""
    own = command.model_flags(
        data="The table, with the columns that the model was trained on.",
        out="Where the filled table goes: .csv or .parquet.",
    )
    flags.DEFINE_integer(
        "draws", 1, "Completions to take the median of; many give the least error.", flag_values=own
    )
    flags.DEFINE_integer("seed", 0, "Of the noise.", flag_values=own)
    flags.DEFINE_string("irregular", None, command.IRREGULAR_HELP, flag_values=own)
    flags.mark_flags_as_required(["model", "data", "out"], own)
    return own


def main(argv: list[str]) -> None:
    """Fills a table's gaps; flags as in `--help`."""
    own = define_flags()
    command.parse(own, argv, __doc__)
    with command.one_line_errors(ValueError):
        target = command.output(own.out, command.TABLE_FILES)
        command.check_whole("draws", own.draws, 1)
        model = command.open_model(own.model)
        command.write_result(
            target, model.impute(own.data, own.seed, draws=own.draws, irregular=own.irregular), ()
        )


def run() -> None:
    """Entry point of the command."""
    main(sys.argv)


if __name__ == "__main__":
    run()
