"""`python -m timeldm_jax.report`: the page of a saved model or a finished run, scored anew or not.

    python -m timeldm_jax.report --model=runs/mine --real=my.csv --out=report.html

With `--real`, fresh samples are scored against it, with pictures; without it, the page shows the
scores that the model was saved with, and no picture, as these show rows of the data.
"""

import sys

from absl import flags

from timeldm_jax import command


def define_flags() -> flags.FlagValues:
    """The command's flags."""
    own = command.model_flags(
        out="Where the page goes, .html; its pictures go to a folder of its name.",
        real="A table, or windows, to score against.",
    )
    flags.DEFINE_integer("count", 0, "Samples to score; 0: as many as real.", flag_values=own)
    flags.DEFINE_integer("seed", 0, "Of the samples and the evaluators.", flag_values=own)
    flags.mark_flags_as_required(["model", "out"], own)
    return own


def main(argv: list[str]) -> None:
    """Writes the page; flags as in `--help`."""
    own = define_flags()
    command.parse(own, argv, __doc__)
    with command.one_line_errors(ValueError):
        target = command.output(own.out, (".html",))
        command.check_whole("count", own.count, 0)
        if own.real is None and (own.count or own.seed):
            raise command.DataError("--count and --seed are read with --real only")
        model = command.open_model(own.model)
        model.report(target, own.real, count=own.count or None, seed=own.seed)
        print(target)


def run() -> None:
    """Entry point of the command."""
    main(sys.argv)


if __name__ == "__main__":
    run()
