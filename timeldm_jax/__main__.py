"""`timeldm COMMAND`, or `python -m timeldm_jax COMMAND`: all commands under one name.

    timeldm describe my.csv
    timeldm launch --config=configs/table.py --config.data.path=my.csv --workdir=runs/mine
    timeldm sample --model=runs/mine --count=1000 --out=more.csv

Each is `python -m timeldm_jax.COMMAND` too, and says its flags by `--help`.
"""

import importlib
import sys

COMMANDS = {
    "describe": "what a table is taken for, and what is wrong with it",
    "launch": "train, sample, score and report; the same command resumes",
    "sample": "draw from a saved model or a finished run",
    "impute": "fill the missing values of a table",
    "forecast": "draw what may follow the last rows of a series",
    "evaluate": "every score of any generator's windows against real ones",
    "report": "the page of a saved model or a finished run",
}


def run() -> None:
    """Runs the command that the first argument names; flags alone are those of `launch`."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        print(__doc__)
        print("\n".join(f"  {name:<{width}}  {about}" for name, about in COMMANDS.items()))
        return
    name, rest = ("launch", words) if words[0].startswith("-") else (words[0], words[1:])
    if name not in COMMANDS:
        print(f"error: no command {name!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"timeldm {name}", *rest]
    importlib.import_module(f"timeldm_jax.{name}").run()


if __name__ == "__main__":
    run()
