"""What every score reads: scaled sets of windows, and which of them are compared."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from timeldm_jax.metrics import detection
from timeldm_jax.metrics.comparison import Split, Windows
from timeldm_jax.metrics.verdicts import summaries

if TYPE_CHECKING:
    from timeldm_jax.metrics.suite import Evaluators


class Compared(NamedTuple):
    """What every score reads: scaled sets and which of their windows to compare."""

    real: Windows
    synthetic: Windows
    other: Windows
    ceilings: dict[str, Windows]
    splits: list[Split]
    columns: tuple[str, ...]
    notes: list[str]
    seed: int
    evaluators: "Evaluators"

    # Seconds of parts are in proportion to these. What they are multiplied by is what
    # benchmarks/results/scores_cost_10000.json took: 20,000 windows of 24 x 5 in all.

    @property
    def length(self) -> float:
        """How long windows are, beside those."""
        return self.real.shape[1] / 24

    @property
    def size(self) -> float:
        """Numbers in both sets, beside those."""
        return (self.real.size + self.synthetic.size) / (20_000 * 24 * 5)

    @property
    def fit_seconds(self) -> float:
        """Of a judge's fit."""
        columns = min(2 * self.real[0].size, detection.COLUMNS)
        return columns / 235 * min(len(self.real), len(self.synthetic), 4_000) / 4_000

    def pool(self) -> tuple[Windows, dict[str, Int[np.ndarray, " n"]]]:
        """All windows in one array, and where each set's are."""
        sets = {"real": self.real, "synthetic": self.synthetic}
        if self.other is not self.real:
            sets["other"] = self.other
        sets |= self.ceilings
        ends = np.cumsum([len(windows) for windows in sets.values()])
        places = {
            name: np.arange(end - len(windows), end)
            for (name, windows), end in zip(sets.items(), ends, strict=True)
        }
        places.setdefault("other", places["real"])
        return np.concatenate(list(sets.values())).astype(np.float32), places


def comparisons(
    context: Compared, at: dict[str, Int[np.ndarray, " n"]]
) -> list[tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]]:
    """What is told apart, by rows of the pool, in the order of `parts`."""
    repeats = context.evaluators.repeats
    splits = context.splits[:repeats]
    published = [(at["real"], at["synthetic"])] * repeats
    calibrated = [(at["real"][s.real], at["synthetic"][s.synthetic]) for s in splits]
    floor = [(at["real"][s.real], at["other"][s.other]) for s in splits]
    ceilings = [(at["real"][splits[0].real], at[name]) for name in context.ceilings]
    return published + calibrated + floor + ceilings


def parts(runs: Float[np.ndarray, " runs"], context: Compared) -> dict[str, Any]:
    """Runs in the order published, calibrated, floor, one a ceiling."""
    n = context.evaluators.repeats
    ceilings = dict(zip(context.ceilings, runs[3 * n :], strict=True))
    return summaries(runs[:n], runs[n : 2 * n], runs[2 * n : 3 * n], ceilings)
