"""Figures of a report, in a light or a dark theme, as PNG.

Each function returns a Matplotlib figure, or None where there is nothing to draw. Names of columns
come from data: none is read as a formula, and glyphs that no font has are replaced.
"""

import contextlib
import io
import math
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from timeldm_jax.metrics.distribution import autocorrelation, standardise

REAL, SYNTHETIC = "#2b83c6", "#e06a12"  # seen on white and on black, by the colour-blind too
SHOWN = 40  # windows a panel
ROWS = 12  # features drawn: a taller picture is hard to read and to keep
LABEL = 24  # characters of a column's name
CLOUD = 600  # windows of each set in PCA and t-SNE
VALUES = 4_000  # of each feature in a density
WIDTH = 9.0  # inches, of every figure
Windows = Float[np.ndarray, "n time feature"]
Maps = tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "m 2"]]

INK = {"light": "#22272e", "dark": "#d8dee6"}
PAPER = {"light": "#ffffff", "dark": "#161b22"}


@contextlib.contextmanager
def theme(name: str) -> Iterator[None]:
    """Draws what is within in the theme `light` or `dark`."""
    ink, paper = INK[name], PAPER[name]
    settings: dict[str, Any] = dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), ink
    )
    settings |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), paper)
    settings |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]
        yield


def windows_figure(
    real: Windows, synthetic: Windows, columns: tuple[str, ...], seed: int = 0
) -> Figure:
    """Real beside synthetic windows, one row a feature, the same axes for both.

    At most `SHOWN` windows of the first `ROWS` features, in the features' own units.
    """
    random = np.random.default_rng(seed)
    rows = min(len(columns), ROWS)
    figure = Figure(figsize=(WIDTH, 1.5 * rows + 0.8), layout="constrained")
    axes = figure.subplots(rows, 2, sharex=True, sharey="row", squeeze=False)
    sets = (("real", real, REAL), ("synthetic", synthetic, SYNTHETIC))
    marker = "." if real.shape[1] == 1 else None  # a line of one point is not seen
    for side, (name, windows, colour) in enumerate(sets):
        shown = windows[random.permutation(len(windows))[:SHOWN]]
        for row in range(rows):
            axes[row, side].plot(
                shown[:, :, row].T, color=colour, alpha=0.35, linewidth=0.8, marker=marker
            )
        axes[0, side].set_title(f"{name} ({len(shown)} of {len(windows):,} windows)", loc="left")
        axes[-1, side].set_xlabel("time step")
    for axis, column in zip(axes[:, 0], columns, strict=False):
        _name(axis, column)
    _say_how_many(figure, rows, len(columns))
    return figure


def embed(real: Windows, synthetic: Windows, seed: int = 0) -> dict[str, Maps]:
    """PCA and t-SNE of both sets together, at most `CLOUD` windows of each: points by name.

    Windows are flattened, features standardised by the real windows.
    """
    random = np.random.default_rng(seed)
    picked = [w[random.permutation(len(w))[:CLOUD]] for w in (real, synthetic)]
    deviation = real.std(axis=(0, 1))
    scale = np.where(deviation > 0, deviation, 1)
    flat = np.concatenate([(w - real.mean(axis=(0, 1))) / scale for w in picked])
    flat = flat.reshape(len(flat), -1)
    flat = np.clip(flat, -50, 50)  # a stray value must not be all that is seen
    if flat.shape[1] == 1:
        flat = np.concatenate([flat, np.zeros_like(flat)], axis=1)
    neighbours = TSNE(perplexity=min(30.0, (len(flat) - 1) / 3), random_state=seed, init="random")
    maps = {
        "principal components": PCA(2, random_state=seed).fit_transform(flat),
        "t-SNE": neighbours.fit_transform(flat),
    }
    cut = len(picked[0])
    return {name: (points[:cut], points[cut:]) for name, points in maps.items()}


def embedding_figure(maps: dict[str, Maps]) -> Figure:
    """The maps of `embed`, side by side."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    for axis, (name, (real, synthetic)) in zip(figure.subplots(1, 2), maps.items(), strict=True):
        for part, label, colour in ((real, "real", REAL), (synthetic, "synthetic", SYNTHETIC)):
            axis.scatter(*part.T, s=7, alpha=0.5, color=colour, label=label, linewidths=0)
        axis.set_title(name, loc="left")
        axis.set(xticks=[], yticks=[])
        axis.legend(markerscale=2.5)
    return figure


def density_figure(
    real: Windows, synthetic: Windows, columns: tuple[str, ...], seed: int = 0
) -> Figure:
    """Kernel densities of each feature's values, over the range of the real ones and a bit."""
    random = np.random.default_rng(seed)
    figure, axes, shown = _panels(columns)
    for i, axis in enumerate(axes):
        low, high = real[:, :, i].min(), real[:, :, i].max()
        margin = 0.1 * (high - low) or 1.0
        grid = np.linspace(low - margin, high + margin, 200)
        for windows, label, colour in ((real, "real", REAL), (synthetic, "synthetic", SYNTHETIC)):
            values = random.permutation(windows[:, :, i].ravel())[:VALUES]
            if np.ptp(values) > 1e-9 * max(high - low, np.abs(values).max()):
                density = stats.gaussian_kde(values)(grid)
                axis.plot(grid, density, color=colour, label=label, linewidth=1.4)
                axis.fill_between(grid, density, color=colour, alpha=0.15, linewidth=0)
            else:  # constant: no density
                axis.axvline(values[0], color=colour, label=f"{label} (constant)", linewidth=1.4)
        axis.set_yticks([])
    axes[0].legend(fontsize=8)
    _say_how_many(figure, shown, len(columns))
    return figure


def autocorrelation_figure(
    real: Windows, synthetic: Windows, columns: tuple[str, ...]
) -> Figure | None:
    """Autocorrelation by lag of each feature, within windows, about the mean of its set."""
    if real.shape[1] < 2:
        return None
    curves = [autocorrelation(standardise(windows[:, :, :ROWS])) for windows in (real, synthetic)]
    return _curves_figure(curves, columns, "lag", np.arange(real.shape[1]))


def spectrum_figure(real: Windows, synthetic: Windows, columns: tuple[str, ...]) -> Figure | None:
    """Mean power of windows by frequency, of each feature."""
    if real.shape[1] < 2:
        return None
    curves = []
    for windows in (real, synthetic):
        part = windows[:, :, :ROWS]
        transform = np.fft.rfft(part - real[:, :, :ROWS].mean(axis=(0, 1)), axis=1)
        curves.append((np.abs(transform) ** 2).mean(axis=0) / part.shape[1])
    frequencies = np.fft.rfftfreq(real.shape[1])
    figure = _curves_figure(curves, columns, "cycles a step", frequencies)
    for i, axis in enumerate(figure.axes):
        if curves[0][:, i].max() > 0:
            axis.set_yscale("log", nonpositive="mask")
    return figure


def profile_figure(profiles: dict[str, dict[str, list[float | None]]], mark: str) -> Figure:
    """Means of columns by hour, weekday or month, of training rows and of samples.

    Args:
      profiles: as `metrics.calendar.follow` has them, of columns by name.
      mark: what is stamped.
    """
    columns = tuple(profiles)
    curves = [
        np.array([profiles[name][kind] for name in columns[:ROWS]], np.float64).T
        for kind in ("real", "sampled")
    ]
    there = np.flatnonzero(np.isfinite(curves).any(axis=(0, 2)))  # of rows every six hours, four
    first = 1 if mark == "month" else 0
    label = "weekday (0: Monday)" if mark == "weekday" else mark
    return _curves_figure([curve[there] for curve in curves], columns, label, first + there)


def correlation_figure(
    real: Windows, synthetic: Windows, columns: tuple[str, ...]
) -> Figure | None:
    """Correlations of features, of both sets and their difference."""
    if len(columns) < 2:
        return None
    matrices = [_correlations(windows) for windows in (real, synthetic)]
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    names = ("real", "synthetic", "synthetic − real")
    for axis, matrix, name in zip(axes, [*matrices, matrices[1] - matrices[0]], names, strict=True):
        image = axis.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set_title(name, loc="left")
        few = len(columns) <= ROWS
        axis.set(xticks=[], yticks=range(len(columns)) if few and axis is axes[0] else [])
        if few and axis is axes[0]:
            axis.set_yticklabels([_shown(c) for c in columns], parse_math=False, fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.8)
    return figure


def pairs_figure(
    synthetic: Windows, training: Windows, pairs: list[dict[str, Any]], columns: tuple[str, ...]
) -> Figure | None:
    """Synthetic windows over the training windows closest to them, up to four features."""
    if not pairs:
        return None
    rows, shown = min(len(columns), 4), pairs[:4]
    figure = Figure(figsize=(WIDTH, 1.5 * rows + 0.8), layout="constrained")
    axes = figure.subplots(rows, len(shown), sharex=True, sharey="row", squeeze=False)
    for side, pair in enumerate(shown):
        for row in range(rows):
            for windows, key, colour, label, style in (
                (training, "training", REAL, "training", "-"),
                (synthetic, "synthetic", SYNTHETIC, "synthetic", "--"),
            ):
                line = windows[pair[key], :, row]
                axes[row, side].plot(line, style, color=colour, label=label, linewidth=1.3)
        axes[0, side].set_title(f"distance {pair['distance']:.2g}", loc="left", fontsize=10)
        axes[-1, side].set_xlabel("time step")
    axes[0, 0].legend(fontsize=8)
    for axis, column in zip(axes[:, 0], columns, strict=False):
        _name(axis, column)
    _say_how_many(figure, rows, len(columns))
    return figure


def forecast_figure(
    history: pd.DataFrame, quantiles: pd.DataFrame, columns: tuple[str, ...]
) -> Figure:
    """A history and the median and bands of what may follow, a panel a column.

    Args:
      history: a table.
      quantiles: as `api.Forecast` has them: a time or step, `column`, and a column a level.
      columns: what to draw, at most `ROWS`.
    """
    shown = columns[:ROWS]
    figure = Figure(figsize=(WIDTH, 1.7 * len(shown) + 0.6), layout="constrained")
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    past = np.arange(-len(history), 0)
    for axis, name in zip(axes, shown, strict=True):
        part = quantiles[quantiles["column"] == name]
        levels = part.drop(columns=[part.columns[0], "column"])
        future = np.arange(len(part))
        axis.plot(past, history[name].to_numpy(float), color=REAL, label="history", linewidth=1.2)
        middle = levels.shape[1] // 2
        for i in range(middle):
            low, high = levels.columns[i], levels.columns[-1 - i]
            axis.fill_between(
                future,
                levels[low],
                levels[high],
                color=SYNTHETIC,
                alpha=0.22,
                linewidth=0,
                label=f"{float(high) - float(low):.0%} of futures",
            )
        median = levels.iloc[:, middle]
        axis.plot(future, median, color=SYNTHETIC, label="median", linewidth=1.2)
        _name(axis, name)
    axes[0].legend(fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    axes[-1].set_xlabel("rows from the end of the history")
    _say_how_many(figure, len(shown), len(columns))
    return figure


def loss_figure(records: list[dict[str, Any]]) -> Figure:
    """Training and validation loss of both stages against steps."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
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
            axis.legend()
        else:
            axis.text(0.5, 0.5, "not trained yet", transform=axis.transAxes, ha="center")
    return figure


def beta_figure(records: list[dict[str, Any]]) -> Figure:
    """Adaptive β, and the KL that it weights, against steps."""
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    for axis, (key, label) in zip(
        figure.subplots(1, 2), (("beta", "β"), ("kl", "KL, mean of elements")), strict=True
    ):
        steps, values = _curve(records, "vae", key)
        axis.plot(steps, values, color=REAL, linewidth=1.1)
        axis.set(xlabel="step", ylabel=label, yscale="log")
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, small enough to keep inside a page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _panels(columns: tuple[str, ...]) -> tuple[Figure, list[Axes], int]:
    """A panel a feature, three a row."""
    shown = min(len(columns), ROWS)
    rows = math.ceil(shown / 3)
    figure = Figure(figsize=(WIDTH, 2.0 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False).ravel().tolist()
    for axis in axes[shown:]:
        axis.remove()
    for axis, column in zip(axes, columns, strict=False):
        axis.set_title(_shown(column), loc="left", fontsize=10, parse_math=False)
    return figure, axes[:shown], shown


def _curves_figure(
    curves: list[Float[np.ndarray, "x feature"]],
    columns: tuple[str, ...],
    label: str,
    places: Float[np.ndarray, " x"],
) -> Figure:
    figure, axes, shown = _panels(columns)
    for i, axis in enumerate(axes):
        for values, name, colour, style in (
            (curves[0], "real", REAL, "-"),
            (curves[1], "synthetic", SYNTHETIC, "--"),
        ):
            axis.plot(places, values[:, i], style, color=colour, label=name, linewidth=1.4)
        axis.set_xlabel(label, fontsize=9)
    axes[0].legend(fontsize=8)
    _say_how_many(figure, shown, len(columns))
    return figure


def _correlations(windows: Windows) -> Float[np.ndarray, "feature feature"]:
    """A constant feature correlates with nothing: 0."""
    standard = standardise(windows).reshape(-1, windows.shape[2])
    return standard.T @ standard / len(standard)


def _name(axis: Axes, column: str) -> None:
    axis.set_ylabel(_shown(column), rotation=0, ha="right", va="center", parse_math=False)


def _shown(column: str) -> str:
    """A column's name as a figure can hold it: short, in glyphs that the font has."""
    glyphs = get_font(findfont(FontProperties())).get_charmap()
    known = "".join(c if ord(c) in glyphs else "?" for c in column)
    return known if len(known) <= LABEL else f"{known[: LABEL - 1]}…"


def _say_how_many(figure: Figure, shown: int, features: int) -> None:
    if shown < features:
        figure.suptitle(f"the first {shown} of {features} features", ha="left", x=0.01)


def _curve(records: list[dict[str, Any]], stage: str, key: str) -> tuple[list[int], list[float]]:
    points = [(r["step"], r[key]) for r in records if r["stage"] == stage and key in r]
    return [step for step, _ in points], [value for _, value in points]
