"""Figures of a run, as PNG files: windows, loss curves, and β over training."""

from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float
from matplotlib.figure import Figure

REAL, SYNTHETIC = "#1f77b4", "#d95f02"
SHOWN = 40  # windows a panel
ROWS = 12  # features drawn: a taller picture is hard to read and to keep
LABEL = 24  # characters of a column's name
Windows = Float[np.ndarray, "n time feature"]


def windows_figure(
    real: Windows, synthetic: Windows, columns: tuple[str, ...], seed: int = 0
) -> Figure:
    """Real beside synthetic windows, one row a feature, the same axes for both.

    At most `SHOWN` windows of the first `ROWS` features, in the features' own units.
    """
    random = np.random.default_rng(seed)
    rows = min(len(columns), ROWS)
    figure = Figure(figsize=(9, 1.5 * rows + 0.8), layout="constrained")
    axes = figure.subplots(rows, 2, sharex=True, sharey="row", squeeze=False)
    sets = (("real", real, REAL), ("synthetic", synthetic, SYNTHETIC))
    for side, (name, windows, colour) in enumerate(sets):
        shown = windows[random.permutation(len(windows))[:SHOWN]]
        for row in range(rows):
            axes[row, side].plot(shown[:, :, row].T, color=colour, alpha=0.35, linewidth=0.8)
        axes[0, side].set_title(f"{name} ({len(shown)} of {len(windows):,} windows)", loc="left")
        axes[-1, side].set_xlabel("time step")
    for axis, column in zip(axes[:, 0], columns, strict=False):
        # Names come from data: "$" must not start a formula.
        label = column if len(column) <= LABEL else f"{column[: LABEL - 1]}…"
        axis.set_ylabel(label, rotation=0, ha="right", va="center", parse_math=False)
    if rows < len(columns):
        figure.suptitle(f"the first {rows} of {len(columns)} features", ha="left", x=0.01)
    return _without_frames(figure)


def loss_figure(records: list[dict[str, Any]]) -> Figure:
    """Training and validation loss of both stages against steps."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axis, (stage, name) in zip(
        figure.subplots(1, 2),
        (("vae", "VAE: reconstruction"), ("ldm", "latent diffusion: denoising")),
        strict=True,
    ):
        train_key = "reconstruction" if stage == "vae" else "loss"
        for key, label, colour in (
            (train_key, "training", REAL),
            ("valid_loss", "validation, averaged weights", SYNTHETIC),
        ):
            steps, values = _curve(records, stage, key)
            if steps:
                axis.plot(steps, values, label=label, color=colour, linewidth=1.1)
        axis.set(title=name, xlabel="step", ylabel="loss", yscale="log")
        if axis.lines:
            axis.legend(frameon=False)
        else:
            axis.text(0.5, 0.5, "not trained yet", transform=axis.transAxes, ha="center")
    return _without_frames(figure)


def beta_figure(records: list[dict[str, Any]]) -> Figure:
    """Adaptive β, and the KL that it weights, against steps."""
    figure = Figure(figsize=(9, 3.0), layout="constrained")
    for axis, (key, label) in zip(
        figure.subplots(1, 2), (("beta", "β"), ("kl", "KL, mean of elements")), strict=True
    ):
        steps, values = _curve(records, "vae", key)
        axis.plot(steps, values, color=REAL, linewidth=1.1)
        axis.set(xlabel="step", ylabel=label, yscale="log")
    return _without_frames(figure)


def save(figure: Figure, path: epath.Path) -> None:
    """Writes a PNG, whole or not at all."""
    partial = path.parent / f"{path.name}.tmp"
    with partial.open("wb") as file:
        figure.savefig(file, format="png", dpi=110)
    partial.replace(path)


def _without_frames(figure: Figure) -> Figure:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _curve(records: list[dict[str, Any]], stage: str, key: str) -> tuple[list[int], list[float]]:
    points = [(r["step"], r[key]) for r in records if r["stage"] == stage and key in r]
    return [step for step, _ in points], [value for _, value in points]
