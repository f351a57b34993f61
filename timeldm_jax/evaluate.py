"""`python -m timeldm_jax.evaluate`: every score of any generator's windows against real ones.

python -m timeldm_jax.evaluate --real=real.npy --synthetic=fake.npy --out=scores.json
python -m timeldm_jax.evaluate --model=runs/mine --real=my.csv --synthetic=runs/mine/samples.csv
"""

import dataclasses
import sys

from absl import flags
from etils import epath

from timeldm_jax import command, shards
from timeldm_jax.data import gaps
from timeldm_jax.errors import DataError
from timeldm_jax.metrics import evaluation, suite
from timeldm_jax.samples import Windows, read_windows
from timeldm_jax.workdir import write_json


def define_flags() -> flags.FlagValues:
    """The command's flags."""
    own = flags.FlagValues()
    for name, default, meaning in (
        ("real", None, "Real windows: .npy, .npz or .csv, (windows, time, features) or a table."),
        ("synthetic", None, "Synthetic windows, the same units; or a folder of shards."),
        ("train", None, "Windows that the generator was trained on, where --real are others."),
        ("model", None, "Of which both are tables: columns become its features."),
        ("out", "scores.json", "Where the scores go."),
        ("report", None, "Where an HTML report goes; none without it."),
    ):
        flags.DEFINE_string(name, default, meaning, flag_values=own)
    for name, number, meaning in (
        ("window", None, "Time steps of a window, where a file is a table."),
        ("seed", 0, "Of the evaluators' networks, batches and draws."),
    ):
        flags.DEFINE_integer(name, number, meaning, flag_values=own)
    flags.DEFINE_enum(
        "scale", "range", ["range", "none"],
        "Stretch the real windows to [0, 1], or leave values as they are.", flag_values=own,
    )  # fmt: skip
    flags.mark_flags_as_required(["real", "synthetic"], own)
    return own


def main(argv: list[str]) -> None:
    """Scores files; flags as in `--help`."""
    own = define_flags()
    command.parse(own, argv, __doc__)
    with command.one_line_errors():
        window = own.window
        for target in (own.out, own.report):  # before minutes of work
            if target is not None and not epath.Path(target).absolute().parent.is_dir():
                raise DataError(f"{target}: its folder does not exist; make it first")
        if own.model is not None:
            _evaluate_tables(own)
            return
        real, columns = _read(own.real, window)
        synthetic, synthetic_columns = _read(own.synthetic, window)
        if columns and synthetic_columns and columns != synthetic_columns:
            if sorted(columns) != sorted(synthetic_columns):
                raise DataError(
                    f"{own.real} has columns {list(columns)}, {own.synthetic} "
                    f"{list(synthetic_columns)}; they must be the same"
                )
            synthetic = synthetic[:, :, [synthetic_columns.index(name) for name in columns]]
        training = None
        if own.train is not None:
            training, _ = _read(own.train, window)
        unnamed = tuple(f"feature_{i}" for i in range(real.shape[-1]))
        names = columns or synthetic_columns or unnamed
        _write(own, real, synthetic, names, training)


def _read(given: str, window: int | None) -> tuple[Windows, tuple[str, ...] | None]:
    """The windows of a file, or of a folder of shards."""
    path = epath.Path(given)
    return shards.read(path) if path.is_dir() else read_windows(path, window)


def _evaluate_tables(own: flags.FlagValues) -> None:
    """Scores tables of a model's columns: words, flags and gaps as it learnt them."""
    from timeldm_jax import convert

    for name in ("train", "window"):
        if own[name].value is not None:
            raise DataError(f"--{name} is not read with --model; leave it out")
    generator = command.open_model(own.model).generator
    real = convert.real_windows(generator, own.real)
    synthetic = convert.encode_samples(generator, own.synthetic)
    schema = generator.schema
    if schema is not None:
        synthetic, (real,) = gaps.close_gaps(synthetic, [real], schema, "fill", own.seed)
    _write(own, real, synthetic, generator.columns, None)


def _write(
    own: flags.FlagValues,
    real: Windows,
    synthetic: Windows,
    names: tuple[str, ...],
    training: Windows | None,
) -> None:
    evaluators = dataclasses.replace(suite.PROTOCOL, scale=own.scale)
    scores = evaluation.evaluate(
        real, synthetic, names, training=training, seed=own.seed, evaluators=evaluators
    )
    write_json(epath.Path(own.out), scores)
    if own.report is not None:
        from timeldm_jax.report.page import write_report  # plotting takes seconds to import

        known = real if training is None else training
        write_report(epath.Path(own.report), scores, real, synthetic, names, training=known)
    print(evaluation.table(scores))


def run() -> None:
    """Entry point of the command."""
    main(sys.argv)


if __name__ == "__main__":
    run()
