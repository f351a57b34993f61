"""The windows that scores compare: checked, in one scale, drawn in equal numbers, and ruined."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from timeldm_jax.data.scaling import fit_scaler
from timeldm_jax.errors import DataError

SPLITS = 10  # draws for the floors of scores that train nothing, or one network for all of them
FEWEST_WINDOWS = 10
LARGEST = 1e12  # scaled values whose squares still sum up in float32
OUTSIDE = 0.5  # ranges beyond the real range that a note mentions
Scale = Literal["range", "none"]
Windows = Float[np.ndarray, "n time feature"]


class Split(NamedTuple):
    """One draw of windows to compare, as many of each, by their number.

    Attributes:
      real: of the real windows.
      other: of the reference; without one, of the real windows too, and none that `real` has.
      synthetic: of the synthetic windows.
    """

    real: Int[np.ndarray, " k"]
    other: Int[np.ndarray, " k"]
    synthetic: Int[np.ndarray, " k"]


def check(sets: dict[str, Windows], columns: tuple[str, ...]) -> None:
    """Raises DataError unless the sets, of which one is `real`, can be compared."""
    for name, windows in sets.items():
        if windows.ndim != 3:
            raise DataError(
                f"{name} windows have shape {windows.shape}; expected (windows, time, features)"
            )
        if len(windows) < FEWEST_WINDOWS:
            raise DataError(
                f"{len(windows)} {name} windows are too few to score; at least {FEWEST_WINDOWS}"
            )
        if not np.isfinite(windows).all():
            i, t, f = np.argwhere(~np.isfinite(windows))[0]
            named = f" ({columns[f]!r})" if f < len(columns) else ""
            raise DataError(
                f"{name} windows have {windows[i, t, f]} at window {i}, time {t}, "
                f"feature {f}{named}"
            )
    real = sets["real"]
    for name, windows in sets.items():
        if real.shape[1:] != windows.shape[1:]:
            raise DataError(
                f"real windows are (time, features) = {real.shape[1:]}, {name} ones "
                f"{windows.shape[1:]}; they must be the same"
            )
    if len(columns) != real.shape[2]:
        raise DataError(f"{len(columns)} column names for {real.shape[2]} features")


def scale(
    sets: dict[str, Windows], columns: tuple[str, ...], by: Scale = "range"
) -> tuple[dict[str, Windows], tuple[str, ...], list[str]]:
    """Sets in one scale, without features constant in the real windows; and what to note.

    Args:
      sets: one of them `real`.
      columns: names of the features.
      by: `range` stretches the real windows to [0, 1]; `none` leaves values as they are.
    """
    known = [windows for name, windows in sets.items() if name != "synthetic"]
    low = np.min([windows.min(axis=(0, 1)) for windows in known], axis=0)
    high = np.max([windows.max(axis=(0, 1)) for windows in known], axis=0)
    varies = high > low
    if not varies.any():
        raise DataError("every feature of the real windows is constant: there is nothing to score")
    notes = []
    fake = sets["synthetic"]
    for i in np.flatnonzero(~varies):
        stray = float(np.abs(fake[:, :, i] - low[i]).max())
        says = (
            "so it is in the synthetic ones" if stray == 0 else f"synthetic ones stray by {stray:g}"
        )
        notes.append(
            f"{columns[i]!r} is constant ({low[i]:g}) in the real windows and left out of the "
            f"scores; {says}."
        )
    used = tuple(name for name, keep in zip(columns, varies, strict=True) if keep)
    scaler = fit_scaler(np.stack([low, high])[:, varies], used)
    with np.errstate(over="ignore"):
        scaled = {
            name: scaler.scale(windows[:, :, varies]).astype(np.float32)
            for name, windows in sets.items()
        }
    fake = scaled["synthetic"]
    reach = np.maximum(fake.max(axis=(0, 1)) - 1, -fake.min(axis=(0, 1)))
    for i in np.flatnonzero(~(reach < LARGEST)):
        raise DataError(
            f"synthetic windows of {used[i]!r} reach {reach[i]:.1e} times the range of the real "
            "ones: are they in the same units?"
        )
    notes += [
        f"Synthetic windows of {used[i]!r} reach {reach[i]:.1f} times the real range beyond it."
        for i in np.flatnonzero(reach > OUTSIDE)
    ]
    if by == "none":
        scaled = {name: windows[:, :, varies].astype(np.float32) for name, windows in sets.items()}
    return scaled, used, notes


def draw_splits(real: int, synthetic: int, reference: int | None, seed: int) -> list[Split]:
    """Draws for the floor; each set gives at most half of its windows, so that draws differ."""
    size = min(real // 2 if reference is None else min(real, reference // 2), synthetic // 2)
    random = np.random.default_rng(seed)

    def draws() -> Iterator[Split]:
        for _ in range(SPLITS):
            order = random.permutation(real)
            rest = order[size : 2 * size]
            if reference is not None:
                rest = random.permutation(reference)[:size]
            yield Split(order[:size], rest, random.permutation(synthetic)[:size])

    return list(draws())


def make_ceilings(real: Windows, other: Windows, seed: int) -> dict[str, Windows]:
    """What a useless generator makes of real windows: in another order, or as noise."""
    random = np.random.default_rng(seed)
    shuffled = random.permuted(other, axis=1)  # each feature in an order of its own
    noise = random.standard_normal(real.shape)
    mean = real.mean(axis=0)
    centred = (real - mean).transpose(1, 0, 2)
    covariance = centred.transpose(0, 2, 1) @ centred / len(real)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))[:, None, :]
    gaussian = mean + np.einsum("ntf,tgf->ntg", noise, root)
    return {"shuffled": shuffled, "gaussian": gaussian}
