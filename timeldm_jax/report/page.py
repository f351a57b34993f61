"""`report.html`: verdicts, scores and figures as one file that opens offline."""

import base64
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from etils import epath
from jaxtyping import Float
from matplotlib.figure import Figure

from timeldm_jax.report import figures
from timeldm_jax.workdir import write_bytes, write_text

Windows = Float[np.ndarray, "n time feature"]


class Picture(NamedTuple):
    """A figure of the page.

    Attributes:
      name: of its PNG.
      title: its heading.
      text: what to look at.
      draw: makes it, or None where there is nothing to draw.
      missing: why there is nothing, where that needs saying.
    """

    name: str
    title: str
    text: str
    draw: Callable[[], Figure | None]
    missing: str = ""


# Wide: what a page shows has many sources, and each caller has some of them.
def write_report(
    path: epath.Path,
    scores: dict[str, Any],
    real: Windows,
    synthetic: Windows,
    columns: Sequence[str],
    *,
    training: Windows | None = None,
    records: Sequence[dict[str, Any]] = (),
    config: dict[str, Any] | None = None,
    seed: int = 0,
) -> list[epath.Path]:
    """Writes the page, and a PNG of each figure in a folder of its name beside it.

    Args:
      path: of the page.
      scores: `scores.json`.
      real: `(n, time, feature)`, in the data's own units.
      synthetic: `(m, time, feature)`.
      columns: names of the features; any text.
      training: what the pairs of the memorisation check count; default: `real`.
      records: of `metrics.jsonl`, or none.
      config: of the run, or None.
      seed: which windows are drawn.

    Returns:
      The page, then the figures.
    """
    folder = path.parent / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    pairs = scores["memorisation"]["pairs"]
    known = real if training is None else training
    pictures = [
        *_window_pictures(real, synthetic, tuple(columns), seed),
        *_calendar_pictures(scores.get("adherence", {}).get("calendar", {})),
        _pairs_picture(synthetic, known, tuple(columns), pairs),
        *(_training_pictures(records) if records else ()),
    ]
    written, drawn = _draw(pictures, folder)
    write_text(path, _page(scores, config, drawn))
    return [path, *written]


def write_scores(path: epath.Path, scores: dict[str, Any], config: dict[str, Any]) -> None:
    """Writes the page of scores alone, for a model that has no data to draw windows of.

    Args:
      path: of the page.
      scores: `scores.json`, as `metrics.evaluation.check` wants it.
      config: of the model.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _page(scores, config, []))


def _draw(
    pictures: Sequence[Picture], folder: epath.Path
) -> tuple[list[epath.Path], list[dict[str, Any]]]:
    """The PNGs written into the folder, and what the page shows."""
    written, drawn = [], []
    for picture in pictures:
        images = {}
        for theme in ("light", "dark"):
            with figures.theme(theme):
                figure = picture.draw()
                if figure is not None:
                    images[theme] = figures.png(figure)
        if images:
            target = folder / f"{picture.name}.png"
            write_bytes(target, images["light"])
            written.append(target)
        elif not picture.missing:
            continue
        sources = {theme: _inline(image) for theme, image in images.items()}
        drawn.append({"picture": picture, "sources": sources})
    return written, drawn


def _page(
    scores: dict[str, Any], config: dict[str, Any] | None, drawn: list[dict[str, Any]]
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("timeldm_jax.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    return environment.get_template("report.html").render(
        scores=scores,
        published=[e for e in scores["scores"].values() if e["published"]],
        others=[e for e in scores["scores"].values() if not e["published"]],
        judged=next((e for e in scores["scores"].values() if "by_view" in e), None),
        stages=scores.get("by_stage", {}),
        adherence=scores.get("adherence"),
        place=_place,
        memorisation=scores["memorisation"],
        name=None if config is None else config["data"]["name"],
        figures=drawn,
        config=None if config is None else _lines(config),
    )


def _window_pictures(
    real: Windows, synthetic: Windows, columns: tuple[str, ...], seed: int
) -> list[Picture]:
    short = "Windows of one time step have none."
    maps = figures.embed(real, synthetic, seed)
    return [
        Picture(
            "windows",
            "Windows",
            "Real beside synthetic windows, drawn at random, on the same axes.",
            lambda: figures.windows_figure(real, synthetic, columns, seed),
        ),
        Picture(
            "embedding",
            "Maps of windows",
            "Each point is a window. Where one colour has no other beside it, windows are missing "
            "or invented.",
            lambda: figures.embedding_figure(maps),
        ),
        Picture(
            "densities",
            "Distributions of values",
            "Kernel densities of each feature, over windows and time.",
            lambda: figures.density_figure(real, synthetic, columns, seed),
        ),
        Picture(
            "autocorrelation",
            "Autocorrelation",
            "Correlation of a feature with itself some steps later.",
            lambda: figures.autocorrelation_figure(real, synthetic, columns),
            short,
        ),
        Picture(
            "spectra",
            "Power spectra",
            "Mean power by frequency, on a logarithmic axis. Noise that should not be there, or "
            "detail that is missing, shows on the right.",
            lambda: figures.spectrum_figure(real, synthetic, columns),
            short,
        ),
        Picture(
            "correlations",
            "Correlations of features",
            "On the right the difference, which should be blank.",
            lambda: figures.correlation_figure(real, synthetic, columns),
            "One feature has none.",
        ),
    ]


def _calendar_pictures(calendar: dict[str, Any]) -> list[Picture]:
    return [
        Picture(
            f"by_{mark}",
            f"The {mark}",
            f"Means by the {mark} that rows are stamped with, in training rows and in samples. "
            "Where lines lie on each other, samples follow the calendar.",
            functools.partial(figures.profile_figure, entry["profiles"], mark),
        )
        for mark, entry in calendar.items()
    ]


def _pairs_picture(
    synthetic: Windows,
    training: Windows,
    columns: tuple[str, ...],
    pairs: list[dict[str, Any]],
) -> Picture:
    return Picture(
        "pairs",
        "Closest pairs",
        "The synthetic windows closest to a training window, each over it.",
        lambda: figures.pairs_figure(synthetic, training, pairs, columns),
    )


def _training_pictures(records: Sequence[dict[str, Any]]) -> list[Picture]:
    return [
        Picture(
            "losses",
            "Training",
            "Losses of both stages.",
            lambda: figures.loss_figure(list(records)),
        ),
        Picture(
            "beta",
            "β",
            "The weight of the KL term, which falls as reconstruction stops improving.",
            lambda: figures.beta_figure(list(records)),
        ),
    ]


def _place(entry: dict[str, Any]) -> dict[str, float]:
    """Where floor, value and highest ceiling lie on a logarithmic axis, in percent of its length.

    The axis runs from half the floor to the highest ceiling; what is compared with the floor is the
    score on as many windows as the floor has.
    """
    floor = max(entry["floor"]["mean"], 1e-12)
    value = max(entry["calibrated"]["mean"], 1e-12)
    top = max(max(c["mean"] for c in entry["ceilings"].values()), 2 * floor, value)
    low = min(floor, value) / 2
    length = math.log(top / low)
    return {
        "floor": round(100 * math.log(floor / low) / length, 1),
        "value": round(100 * math.log(value / low) / length, 1),
    }


def _number(value: float | None) -> str:
    """Three significant digits, without exponent where that stays short."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e5:
        return f"{value:.1e}"
    digits = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{min(digits, 5)}f}"


def _inline(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def _lines(config: dict[str, Any], depth: int = 0) -> list[str]:
    """A configuration as indented lines."""
    found = []
    for key, value in config.items():
        if isinstance(value, dict):
            found += [f"{'  ' * depth}{key}", *_lines(value, depth + 1)]
        else:
            found.append(f"{'  ' * depth}{key} = {value!r}")
    return found
