"""Whether the joins of a long synthetic series can be told from the rest of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

NEAR = 1  # rows either side of a join whose bends belong to it
SIGNIFICANT = 0.05


def seam_score(
    series: Float[np.ndarray, "n length feature"],
    rows: Int[np.ndarray, " joins"],
    columns: Sequence[str],
) -> dict[str, Any]:
    """Compares how a series bends at its joins with how it bends elsewhere.

    A join that does not fit is a jump or a kink: a second difference larger than usual. Each
    feature's absolute second differences at the joins are compared with all others by the
    two-sample Kolmogorov-Smirnov test; p-values are multiplied by the number of features
    (Bonferroni).

    Args:
      series: in any unit.
      rows: of each join, the first row after it.
      columns: names of the features.

    Returns:
      `largest`, the largest statistic (0: alike, 1: apart) and its `column`; `p`, the smallest
      corrected p-value; `verdict`; and `features`, the statistic of each.
    """
    bends = np.abs(np.diff(series, n=2, axis=1))  # bend t is about row t + 1
    about = np.arange(bends.shape[1]) + 1
    joins = np.zeros(bends.shape[1], bool)
    for row in rows:
        joins |= (about >= row - NEAR) & (about <= row - 1 + NEAR)
    if not joins.any() or joins.all():
        return {"largest": 0.0, "column": None, "p": 1.0, "verdict": "no joins", "features": {}}
    tests = [
        stats.ks_2samp(bends[:, joins, i].ravel(), bends[:, ~joins, i].ravel())
        for i in range(series.shape[2])
    ]
    p = float(min(len(tests) * min(test.pvalue for test in tests), 1.0))
    worst = int(np.argmax([test.statistic for test in tests]))
    told = p < SIGNIFICANT
    verdict = (
        f"joins can be told: {columns[worst]!r} bends otherwise there (p {p:.2g})"
        if told
        else f"joins cannot be told from the rest (p {p:.2g})"
    )
    return {
        "largest": float(tests[worst].statistic),
        "column": columns[worst],
        "p": p,
        "verdict": verdict,
        "features": {
            name: float(test.statistic) for name, test in zip(columns, tests, strict=True)
        },
    }
