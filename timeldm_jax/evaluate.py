"""`python -m timeldm_jax.evaluate`: scores of any generator's windows against real ones."""

import json
import sys
from typing import Any

from absl import app, flags
from etils import epath

from timeldm_jax.data.sources import DataError
from timeldm_jax.metrics import suite
from timeldm_jax.samples import read_windows

_REAL = flags.DEFINE_string("real", None, "Real windows, .npy or .npz (windows, time, features).")
_SYNTHETIC = flags.DEFINE_string("synthetic", None, "Synthetic windows, the same shape and units.")
_OUT = flags.DEFINE_string("out", "scores.json", "Where the scores go.")


def write_scores(path: epath.Path, scores: dict[str, Any]) -> None:
    """Writes scores as JSON, whole or not at all."""
    partial = path.parent / f"{path.name}.tmp"
    partial.write_text(json.dumps(scores, indent=1) + "\n")
    partial.replace(path)


def table(scores: dict[str, Any]) -> str:
    """The scores as a few lines for a terminal, each beside its floor."""
    correlational, wasserstein = scores["correlational"], scores["wasserstein"]
    lines = [
        f"{'score':<28}{'value':>10}{'± 95%':>10}{'floor':>10}",
        f"{'correlational':<28}{correlational['mean']:>10.4f}{correlational['half_width']:>10.4f}"
        f"{correlational['floor']['mean']:>10.4f}",
        f"{'Wasserstein, mean feature':<28}{wasserstein['mean']:>10.4f}{'':>10}"
        f"{wasserstein['floor']['mean']:>10.4f}",
    ]
    if "reconstruction" in scores:
        error = scores["reconstruction"]["mean_absolute"]
        lines.append(f"{'VAE mean absolute error':<28}{error:>10.4f}")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Scores two files; flags as in `--help`."""
    try:
        if len(argv) > 1:
            raise DataError(f"unexpected arguments {argv[1:]}; see --help")
        real, columns = read_windows(epath.Path(_REAL.value))
        synthetic, _ = read_windows(epath.Path(_SYNTHETIC.value))
        names = columns or tuple(f"feature_{i}" for i in range(real.shape[-1]))
        scores = suite.score(real, synthetic, names)
        write_scores(epath.Path(_OUT.value), scores)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(table(scores))


def run() -> None:
    """Entry point of the command."""
    flags.mark_flags_as_required(["real", "synthetic"])
    app.run(main)


if __name__ == "__main__":
    run()
