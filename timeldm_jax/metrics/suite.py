"""All scores of a set of synthetic windows against real ones, each beside its floor."""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from timeldm_jax.data.scaling import fit_scaler
from timeldm_jax.data.sources import DataError
from timeldm_jax.metrics.correlational import correlational_runs, fifths
from timeldm_jax.metrics.wasserstein import feature_distances

SCHEMA = 1
REPEATS = 5
FEWEST_WINDOWS = 10
LARGEST = 1e12  # scaled values whose squares still sum up in float32
Windows = Float[np.ndarray, "n time feature"]


def score(
    real: Windows, synthetic: Windows, columns: tuple[str, ...], seed: int = 0
) -> dict[str, Any]:
    """Scores in the scale of the real windows, min-max per feature.

    The floor of a score is what real windows get against real windows: two random halves, with as
    many draws as the score itself where it draws.

    Args:
      real: `(n, time, feature)` in the data's own units.
      synthetic: `(m, time, feature)`, the same units.
      columns: names of the features.
      seed: of the resampling and the halves.

    Returns:
      A dictionary that JSON can hold.

    Raises:
      DataError: shapes that do not match, too few windows, non-finite values, a constant real
        feature, or synthetic values that dwarf the real ones.
    """
    check(real, synthetic, columns)
    scaler = fit_scaler(real.reshape(-1, real.shape[-1]), columns)
    with np.errstate(over="ignore"):
        real, synthetic = scaler.scale(real), scaler.scale(synthetic)
    largest = float(np.abs(synthetic).max())
    if not largest < LARGEST:
        raise DataError(
            f"synthetic windows reach {largest:.1e} times the range of the real ones: are they "
            "in the same units?"
        )
    order = np.random.default_rng(seed).permutation(len(real))
    first, second = np.array_split(real[order], 2)
    correlational = correlational_runs(real, synthetic, repeats=REPEATS, seed=seed)
    distances = feature_distances(real, synthetic)
    floor = feature_distances(first, second)
    correlational_floor = correlational_runs(
        first, second, draws=fifths(real, synthetic), repeats=REPEATS, seed=seed
    )
    return {
        "schema": SCHEMA,
        "windows": {"real": len(real), "synthetic": len(synthetic)},
        "correlational": summary(correlational) | {"floor": summary(correlational_floor)},
        "wasserstein": {
            "mean": float(distances.mean()),
            "features": dict(zip(columns, distances.tolist(), strict=True)),
            "floor": {
                "mean": float(floor.mean()),
                "features": dict(zip(columns, floor.tolist(), strict=True)),
            },
        },
    }


def reconstruction_error(
    real: Windows, reconstructed: Windows, columns: tuple[str, ...]
) -> dict[str, Any]:
    """Error of the VAE alone, on windows scaled to [0, 1]."""
    error = reconstructed - real
    return {
        "mean_absolute": float(np.abs(error).mean()),
        "root_mean_square": float(np.sqrt(np.square(error).mean())),
        "features": dict(zip(columns, np.abs(error).mean(axis=(0, 1)).tolist(), strict=True)),
    }


def summary(runs: Float[np.ndarray, " repeats"]) -> dict[str, Any]:
    """Runs, mean and half-width of the 95% t-interval of the mean."""
    half = stats.t.ppf(0.975, len(runs) - 1) * stats.sem(runs)
    return {"runs": runs.tolist(), "mean": float(runs.mean()), "half_width": float(half)}


def check(real: Windows, synthetic: Windows, columns: tuple[str, ...]) -> None:
    """Raises DataError unless the two sets can be compared."""
    for name, windows in (("real", real), ("synthetic", synthetic)):
        if windows.ndim != 3:
            raise DataError(
                f"{name} windows have shape {windows.shape}; expected (windows, time, features)"
            )
        if len(windows) < FEWEST_WINDOWS:
            raise DataError(
                f"{len(windows)} {name} windows are too few to score; at least {FEWEST_WINDOWS}"
            )
        bad = np.argwhere(~np.isfinite(windows))
        if bad.size:
            i, t, f = bad[0]
            raise DataError(
                f"{name} windows have {windows[i, t, f]} at window {i}, time {t}, feature {f}"
            )
    if real.shape[1:] != synthetic.shape[1:]:
        raise DataError(
            f"real windows are (time, features) = {real.shape[1:]}, synthetic ones "
            f"{synthetic.shape[1:]}; they must be the same"
        )
    if len(columns) != real.shape[2]:
        raise DataError(f"{len(columns)} column names for {real.shape[2]} features")
