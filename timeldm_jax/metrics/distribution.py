"""Scores beyond the published four: distributions, dependence in time, dependence of features.

Each set is described once, then descriptions are compared. Cost is linear in windows, up to a sort
of each feature; pairs of features cost a matrix product.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

Windows = Float[np.ndarray, "n time feature"]

LEVELS = 2_000  # equally likely quantiles that stand for a distribution
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
TAIL = 0.01  # share of values that a tail's mean is taken over
JOINT_TAIL = 0.05
LONGEST_CROSS_LAG = 12

MEANINGS: dict[str, tuple[str, str]] = {
    "autocorrelation": ("Autocorrelation", "mean difference over lags and features"),
    "cross_correlation": (
        "Cross-correlation",
        f"mean difference over pairs of features and lags up to {LONGEST_CROSS_LAG} either way",
    ),
    "spectrum": ("Power spectrum", "mean difference of log power over frequencies and features"),
    "wasserstein": (
        "Wasserstein",
        "distance of values' distributions, in ranges, mean of features",
    ),
    "kolmogorov_smirnov": (
        "Kolmogorov–Smirnov",
        "largest difference of distribution functions, mean of features",
    ),
    "quantiles": ("Quantiles", "mean difference of nine quantiles from 1% to 99%, in ranges"),
    "tails": ("Tails", "difference of the mean of the lowest and highest 1%, in ranges"),
    "skewness": (
        "Skewness",
        "difference of the third standardised moment of values, mean of features",
    ),
    "kurtosis": (
        "Kurtosis",
        "difference of the fourth standardised moment of values, mean of features",
    ),
    "increments": (
        "Increments",
        "Wasserstein distance of one-step changes, in real mean absolute changes",
    ),
    "time_reversal": (
        "Time reversal",
        "difference of what tells a window from its reverse: drift, and skewness of changes",
    ),
    "tail_dependence": (
        "Joint tails",
        "difference of how often pairs of features are extreme together",
    ),
}


class Description(NamedTuple):
    """What the scores need to know of a set of windows; float64.

    Attributes:
      quantiles: `(LEVELS, feature)`, values at equally likely levels.
      tails: `(2, feature)`, means of the lowest and the highest `TAIL` of values.
      moments: `(2, feature)`, third and fourth standardised moments of values.
      increments: `(LEVELS, feature)`, quantiles of one-step changes.
      change: `(feature,)`, mean absolute one-step change.
      correlation: `(lag, feature, feature)`, of feature i now with feature j `lag` steps later,
        lags from 0.
      autocorrelation: `(time, feature)`, by lag.
      power: `(frequency, feature)`, mean power of windows about the feature's mean.
      floor: `(feature,)`, power that counts as none.
      drift: `(time, feature)`, odd part of the mean course about its middle, in deviations.
      skewness: `(lag, feature)`, of changes over a lag.
      joint: `(2, feature, feature)`, lower and upper tail dependence.
    """

    quantiles: Float[np.ndarray, "level feature"]
    tails: Float[np.ndarray, "2 feature"]
    moments: Float[np.ndarray, "2 feature"]
    increments: Float[np.ndarray, "level feature"]
    change: Float[np.ndarray, " feature"]
    correlation: Float[np.ndarray, "lag feature feature"]
    autocorrelation: Float[np.ndarray, "time feature"]
    power: Float[np.ndarray, "frequency feature"]
    floor: Float[np.ndarray, " feature"]
    drift: Float[np.ndarray, "time feature"]
    skewness: Float[np.ndarray, "lag feature"]
    joint: Float[np.ndarray, "2 feature feature"]


def describe(windows: Windows) -> Description:
    """Describes windows `(n, time, feature)`, scaled so that real ones lie in [0, 1].

    A feature that is constant in this set has no correlation, no drift, no skewness: all 0.
    """
    time, features = windows.shape[1:]
    ordered = np.sort(windows.reshape(-1, features).astype(np.float32), axis=0)
    tail = max(round(len(ordered) * TAIL), 1)
    tails = np.stack(
        [part.mean(axis=0, dtype=np.float64) for part in (ordered[:tail], ordered[-tail:])]
    )
    steps = np.sort(np.diff(windows, axis=1).reshape(-1, features).astype(np.float32), axis=0)
    mean = windows.mean(axis=(0, 1))
    centred = windows - mean
    variance = np.square(centred).mean(axis=(0, 1))
    varies = ordered[-1] > ordered[0]
    standard = standardise(windows)

    lags = min(time - 1, LONGEST_CROSS_LAG)
    correlation = np.empty((lags + 1, features, features))
    for lag in range(lags + 1):
        now = standard[:, : time - lag].reshape(-1, features)
        later = standard[:, lag:].reshape(-1, features)
        correlation[lag] = now.T @ later / len(now)
    transform = np.fft.rfft(centred, axis=1)
    power = (np.square(transform.real) + np.square(transform.imag)).mean(axis=0) / time
    course = standard.mean(axis=0)
    return Description(
        quantiles=_at_levels(ordered),
        tails=tails,
        moments=np.stack([(standard**power).mean(axis=(0, 1)) for power in (3, 4)]),
        increments=_at_levels(steps),
        change=np.abs(steps).mean(axis=0, dtype=np.float64) if time > 1 else np.zeros(features),
        correlation=correlation,
        autocorrelation=autocorrelation(standard),
        power=power,
        floor=1e-8 * np.where(varies, variance, 1),
        drift=(course - course[::-1]) / 2,
        skewness=_skewness(standard),
        joint=_joint_tails(windows, ordered),
    )


def errors(real: Description, other: Description) -> dict[str, float]:
    """All scores of one set against the real one; NaN where a score is not defined."""
    time, features = real.autocorrelation.shape
    by_feature = _by_feature(real, other)
    found = dict.fromkeys(MEANINGS, float("nan"))
    found |= {name: float(values.mean()) for name, values in by_feature.items()}
    joint = np.abs(real.joint - other.joint)
    if time > 1:
        found["autocorrelation"] = float(_autocorrelation_by_lag(real, other).mean())
        found["spectrum"] = float(np.abs(_log_power(real) - _log_power(other, real.floor)).mean())
        drift = np.abs(real.drift - other.drift).mean()
        skewness = np.abs(real.skewness - other.skewness).mean()
        found["time_reversal"] = float(drift + skewness)
    if features > 1:
        pairs = np.tril_indices(features, -1)
        found["tail_dependence"] = float(joint[:, pairs[0], pairs[1]].mean())
        found["cross_correlation"] = float(_cross_correlation_by_lag(real, other).mean())
    return found


def details(real: Description, other: Description) -> dict[str, dict[str, Any]]:
    """Scores by feature (`features`, in order) and by lag (`by_lag`)."""
    found: dict[str, dict[str, Any]] = {
        name: {"features": values} for name, values in _by_feature(real, other).items()
    }
    time, features = real.autocorrelation.shape
    if time > 1:
        found["autocorrelation"] = {"by_lag": _autocorrelation_by_lag(real, other)}
    if features > 1:
        found["cross_correlation"] = {"by_lag": _cross_correlation_by_lag(real, other)}
    return found


def _by_feature(real: Description, other: Description) -> dict[str, Float[np.ndarray, " feature"]]:
    levels = (np.array(QUANTILES) * LEVELS).astype(int)
    found = {
        "wasserstein": np.abs(real.quantiles - other.quantiles).mean(axis=0),
        "kolmogorov_smirnov": _largest_difference(real.quantiles, other.quantiles),
        "quantiles": np.abs(real.quantiles[levels] - other.quantiles[levels]).mean(axis=0),
        "tails": np.abs(real.tails - other.tails).mean(axis=0),
        "skewness": np.abs(real.moments[0] - other.moments[0]),
        "kurtosis": np.abs(real.moments[1] - other.moments[1]),
    }
    if len(real.autocorrelation) > 1:
        change = np.where(real.change > 0, real.change, 1)
        found["increments"] = np.abs(real.increments - other.increments).mean(axis=0) / change
    return found


def _at_levels(ordered: Float[np.ndarray, "n feature"]) -> Float[np.ndarray, "level feature"]:
    """Sorted values at `LEVELS` equally likely levels, the mid of each; zeros where there are none.

    W1 of two sets is the mean difference of their quantiles, so sets of any size compare.
    """
    if len(ordered) == 0:
        return np.zeros((LEVELS, ordered.shape[1]))
    place = (np.arange(LEVELS) + 0.5) / LEVELS * len(ordered) - 0.5
    below = np.clip(np.floor(place).astype(int), 0, len(ordered) - 1)
    above = np.minimum(below + 1, len(ordered) - 1)
    share = np.clip(place - below, 0, 1)[:, None]
    return (1 - share) * ordered[below] + share * ordered[above].astype(np.float64)


def _largest_difference(
    first: Float[np.ndarray, "level feature"], second: Float[np.ndarray, "level feature"]
) -> Float[np.ndarray, " feature"]:
    """Kolmogorov–Smirnov's statistic of two sets of quantiles, to 1/LEVELS."""
    found = []
    for one, two in zip(first.T, second.T, strict=True):
        both = np.concatenate([one, two])
        counts = [np.searchsorted(values, both, side="right") for values in (one, two)]
        found.append(np.abs(counts[0] - counts[1]).max() / LEVELS)
    return np.array(found)


def standardise(windows: Windows) -> Windows:
    """Each feature with mean 0 and variance 1 over the whole set, 0 where it is constant."""
    mean, deviation = windows.mean(axis=(0, 1)), windows.std(axis=(0, 1))
    varies = windows.max(axis=(0, 1)) > windows.min(axis=(0, 1))
    return np.where(varies, (windows - mean) / np.where(varies, deviation, 1), 0)


def autocorrelation(standard: Windows) -> Float[np.ndarray, "time feature"]:
    """Correlation of values `lag` apart within windows, about the mean of the whole set.

    By the Fourier transform of windows padded to twice their length (Wiener–Khinchin).

    Args:
      standard: from `standardise`.
    """
    time = standard.shape[1]
    transform = np.fft.rfft(standard, 2 * time, axis=1)
    power = (np.square(transform.real) + np.square(transform.imag)).mean(axis=0)
    products = np.fft.irfft(power, 2 * time, axis=0)[:time]
    return products / np.arange(time, 0, -1)[:, None]


def _autocorrelation_by_lag(real: Description, other: Description) -> Float[np.ndarray, " lag"]:
    return np.abs(real.autocorrelation - other.autocorrelation)[1:].mean(axis=1)


def _cross_correlation_by_lag(real: Description, other: Description) -> Float[np.ndarray, " lag"]:
    """From lag 0; both orders of a pair."""
    apart = ~np.eye(real.correlation.shape[1], dtype=bool)
    return np.abs(real.correlation - other.correlation)[:, apart].mean(axis=1)


def _log_power(
    description: Description, floor: Float[np.ndarray, " feature"] | None = None
) -> Float[np.ndarray, "frequency feature"]:
    """In logarithms, so that the weak high frequencies of a smooth series count: noise is there."""
    return np.log(description.power + (description.floor if floor is None else floor))


def _skewness(standard: Windows) -> Float[np.ndarray, "lag feature"]:
    """Skewness of changes over lags 1, 2, 4, …: reversing a series turns its sign."""
    time, features = standard.shape[1:]
    lags = [2**i for i in range(time.bit_length()) if 2**i < time]
    found = np.zeros((len(lags), features))
    for row, lag in enumerate(lags):
        change = standard[:, lag:] - standard[:, :-lag]
        change = change - change.mean(axis=(0, 1))
        square = np.square(change).mean(axis=(0, 1))
        cube = (np.square(change) * change).mean(axis=(0, 1))
        found[row] = np.where(square > 1e-12, cube / np.where(square > 1e-12, square, 1) ** 1.5, 0)
    return found


def _joint_tails(
    windows: Windows, ordered: Float[np.ndarray, "n feature"]
) -> Float[np.ndarray, "2 feature feature"]:
    """P(both beyond their quantiles) / `JOINT_TAIL`, lower and upper; 1 where always together."""
    flat = windows.reshape(-1, windows.shape[2]).astype(np.float32)
    count = max(round(len(flat) * JOINT_TAIL), 1)
    found = []
    for beyond in (flat <= ordered[count - 1], flat >= ordered[-count]):
        share = beyond.astype(np.float32)
        found.append((share.T @ share).astype(np.float64) / count)
    return np.stack(found)
