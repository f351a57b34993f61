"""`python -m timeldm_jax.sample`: draws from a saved model or a finished run.

    python -m timeldm_jax.sample --model=runs/mine --count=1000 --seed=1 --out=more.csv
    python -m timeldm_jax.sample --model=runs/mine --count=10000000 --out=many/

Window i depends on the seed and i alone, so a larger count goes on where a smaller one ended. A
file is written whole or not at all. A folder gets shards, of Parquet or .npz, and a manifest; the
same command again draws what is missing. Static columns of a panel can be asked for:

    python -m timeldm_jax.sample --model=runs/mine --count=100 --given='{"sex": "F"}' --out=f.csv
"""

import json
import sys
from typing import Any

from absl import flags
from etils import epath

from timeldm_jax import command


def define_flags() -> flags.FlagValues:
    """The command's flags."""
    own = command.model_flags(
        out="Where the samples go: .csv or .parquet, .npz of a model of arrays, or a folder/.",
    )
    flags.DEFINE_integer(
        "count", 1000, "Windows, or series where --length is given.", flag_values=own
    )
    flags.DEFINE_integer("seed", 0, "Of the noise.", flag_values=own)
    flags.DEFINE_integer(
        "shards", None, "Files of a folder; by default by the size of the samples.", flag_values=own
    )
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
    command.define_processes(own)
    flags.mark_flags_as_required(["model", "out"], own)
    return own


def main(argv: list[str]) -> None:
    """Draws samples into a file or a folder; flags as in `--help`."""
    own = define_flags()
    command.parse(own, argv, __doc__)
    folder = command.is_folder(own.out)
    then = "; the same command goes on from there" if folder else ""
    with command.one_line_errors(ValueError, then=then):
        target = command.output(own.out, (*command.TABLE_FILES, ".npz"), folders=True)
        command.check_whole("count", own.count, 1)
        command.check_whole("length", own.length, 0)
        if own.shards is not None:
            command.check_whole("shards", own.shards, 1)
            if not folder:
                raise command.DataError(
                    f"--shards={own.shards} are files of a folder: end --out={own.out} in /"
                )
        if own.distributed and not folder:
            raise command.DataError("--distributed writes shards: end --out in /, for a folder")
        if own.context and own["count"].present:
            raise command.DataError("--context has a row for each sample: leave --count out")
        if own.length and folder:
            raise command.DataError("--length writes one file; leave it out, or name a file")
        if own.length and own.missing != "fill":
            raise command.DataError("--missing is not read with --length; leave one out")
        with command.joined(own):
            _sample(own, target, folder)


def _sample(own: flags.FlagValues, target: epath.Path, folder: bool) -> None:
    model = command.open_model(own.model)
    said: dict[str, Any] = {
        "given": _given(own.given),
        "context": own.context or None,
        "start": own.start or None,
        "guidance": own.guidance,
    }
    count = None if own.context else own.count
    if own.length:
        found = model.sample_series(own.length, own.seed, count=count, **said)
        command.write_result(target, found, model.columns)
        return
    from timeldm_jax import convert, shards, writing

    generator = model.generator
    asked = convert.asked(generator, count, *said.values())
    suffix, only = ("", 0) if folder else (target.suffix.lower(), asked.windows)
    form = writing.of_user(generator, own.seed, suffix, own.missing, only)
    unit = "windows" if form.suffix == ".npz" else "rows"
    if folder:
        wanted = shards.request(generator, asked, own.seed, form, missing=own.missing)
        found = shards.fill(target, generator, asked, form, wanted, own.shards)
        command.say_written(target, sum(each[unit] for each in found["shards"]), unit)
    else:
        part = writing.Part(target, asked.first, asked.windows)
        [(_, length)] = writing.write(generator, asked, own.seed, [part], form)
        command.say_written(target, length, unit)


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
