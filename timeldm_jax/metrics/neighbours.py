"""Closest windows: distances are root mean squares over time and features.

The cost is linear in the windows that are compared with.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

CHUNK = 8_192  # windows compared with at a time: bounds memory

Windows = Float[np.ndarray, "n time feature"]


class Nearest(NamedTuple):
    """Of each query, the closest window of a set.

    Attributes:
      row: `(queries,)`, its number.
      distance: `(queries,)`, infinite where every window was left out.
    """

    row: Int[np.ndarray, " query"]
    distance: Float[np.ndarray, " query"]


def nearest(
    queries: Float[np.ndarray, "query time feature"],
    windows: Windows,
    left_out: Any = None,
) -> Nearest:
    """The closest of `windows` to each query, by matrix products over chunks of `windows`.

    Args:
      queries: `(query, time, feature)`.
      windows: `(n, time, feature)`.
      left_out: of a slice of `windows`, which to leave out for which query, `(query, slice)` bool.
    """
    flat, flat_windows = queries.reshape(len(queries), -1), windows.reshape(len(windows), -1)
    center = flat.mean(axis=0)
    a = (flat - center).astype(np.float32)
    squares = np.square(a).sum(axis=1)
    best = np.full(len(a), np.inf, np.float32)
    index = np.zeros(len(a), np.int64)
    for first in range(0, len(windows), CHUNK):
        chunk = slice(first, min(first + CHUNK, len(windows)))
        b = (flat_windows[chunk] - center).astype(np.float32)
        # As the difference of large squares this is good to 1e-4 of the range: enough to choose by.
        distance = squares[:, None] + np.square(b).sum(axis=1) - 2 * (a @ b.T)
        if left_out is not None:
            distance[left_out(chunk)] = np.inf
        at = distance.argmin(axis=1)
        found = distance[np.arange(len(a)), at]
        index = np.where(found < best, at + first, index)
        best = np.minimum(found, best)
    exact = np.sqrt(np.square(flat - flat_windows[index]).mean(axis=1, dtype=np.float64))
    return Nearest(index, np.where(np.isfinite(best), exact, np.inf))


def shifted(
    queries: Float[np.ndarray, "query time feature"],
    windows: Windows,
    largest: int,
    left_out: Any = None,
) -> Float[np.ndarray, " query"]:
    """Distance to the closest window moved by up to `largest` steps, over the steps they share."""
    time = windows.shape[1]
    best = np.full(len(queries), np.inf)
    for shift in range(-largest, largest + 1):
        now = slice(max(shift, 0), time + min(shift, 0))
        then = slice(max(-shift, 0), time + min(-shift, 0))
        found = nearest(queries[:, now], windows[:, then], left_out)
        best = np.minimum(best, found.distance)
    return best
