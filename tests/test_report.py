"""Figures of a run: what is drawn, under which name, and how large."""

import io

import matplotlib.image
import numpy as np
import pytest
from etils import epath

from timeldm_jax.report import figures


def windows(count, features, time=6, seed=0):
    return np.random.default_rng(seed).normal(size=(count, time, features))


def names(features):
    return tuple(f"c{i}" for i in range(features))


def picture(figure, tmp_path):
    """The saved PNG as an array `(height, width, 4)` in [0, 1]."""
    path = epath.Path(tmp_path) / "figure.png"
    figures.save(figure, path)
    assert [child.name for child in path.parent.iterdir()] == ["figure.png"]
    return matplotlib.image.imread(io.BytesIO(path.read_bytes()))


def test_a_panel_draws_every_window_where_there_are_few():
    real, synthetic = windows(12, 2), windows(7, 2, seed=1)
    figure = figures.windows_figure(real, synthetic, ("left", "right"))
    axes = np.reshape(figure.axes, (2, 2))
    for row in range(2):
        for side, shown in enumerate((real, synthetic)):
            drawn = np.array([line.get_ydata() for line in axes[row, side].lines])
            assert drawn.shape == (len(shown), 6)
            expected = shown[:, :, row]
            # Each window once, in any order.
            np.testing.assert_array_equal(
                drawn[np.argsort(drawn[:, 0])], expected[np.argsort(expected[:, 0])]
            )
        assert axes[row, 0].get_ylabel() == ("left", "right")[row]
        # The same axes for both, or the eye compares nothing.
        assert axes[row, 0].get_ylim() == axes[row, 1].get_ylim()
    assert axes[0, 0].get_title("left") == "real (12 of 12 windows)"
    assert axes[0, 1].get_title("left") == "synthetic (7 of 7 windows)"
    assert [a.get_xlabel() for a in axes[1]] == ["time step", "time step"]


def test_of_many_windows_a_sample_is_drawn():
    figure = figures.windows_figure(windows(3000, 1), windows(100, 1), ("a",))
    assert [len(axis.lines) for axis in figure.axes] == [40, 40]
    assert figure.axes[0].get_title("left") == "real (40 of 3,000 windows)"
    assert figure.axes[1].get_title("left") == "synthetic (40 of 100 windows)"


@pytest.mark.parametrize("name", ["a$b$c", "$\\frac{", "<script>", "a\\$b", "μ ± °C", "%s {x} _^"])
def test_names_are_shown_as_they_are(name, tmp_path):
    figure = figures.windows_figure(windows(3, 1), windows(3, 1), (name,))
    label = figure.axes[0].yaxis.label
    assert label.get_text() == name
    # Drawn as text: the "formula" `$\\frac{` would be an error, and `a$b$c` would lose its dollars.
    assert not label.get_parse_math()
    assert picture(figure, tmp_path).std() > 0.01


def test_a_long_name_is_cut_and_the_panels_stay_wide():
    figure = figures.windows_figure(windows(3, 1), windows(3, 1), ("x" * 300,))
    assert figure.axes[0].get_ylabel() == "x" * 23 + "…"
    figure.canvas.draw()
    assert figure.axes[0].get_position().width > 0.25


@pytest.mark.parametrize(("features", "shown"), [(1, 1), (12, 12), (13, 12), (50, 12)])
def test_the_picture_stays_readable_with_many_features(features, shown, tmp_path):
    figure = figures.windows_figure(windows(5, features), windows(5, features), names(features))
    assert len(figure.axes) == 2 * shown
    title = figure.get_suptitle()
    assert title == ("" if shown == features else f"the first 12 of {features} features")
    height, width, _ = picture(figure, tmp_path).shape
    assert width == 990
    assert 200 <= height <= 2200
    # Every panel keeps a height that can be read.
    assert min(axis.get_position().height for axis in figure.axes) * height > 60


RECORDS = [
    {"stage": "vae", "step": 10, "reconstruction": 4.0, "loss": 5.0, "beta": 0.01, "kl": 2.0},
    {
        "stage": "vae",
        "step": 20,
        "reconstruction": 3.0,
        "loss": 4.0,
        "beta": 0.007,
        "kl": 2.5,
        "valid_loss": 3.5,
    },
    {"stage": "ldm", "step": 10, "loss": 1.0},
    {"stage": "ldm", "step": 20, "loss": 0.5, "valid_loss": 0.75},
]


def curves(axis):
    return [line.get_xydata().tolist() for line in axis.lines]


def test_loss_curves(tmp_path):
    figure = figures.loss_figure(RECORDS)
    vae, ldm = figure.axes
    assert curves(vae) == [[[10, 4], [20, 3]], [[20, 3.5]]]
    assert curves(ldm) == [[[10, 1], [20, 0.5]], [[20, 0.75]]]
    assert [text.get_text() for text in vae.get_legend().texts] == [
        "training",
        "validation, averaged weights",
    ]
    assert (vae.get_yscale(), vae.get_xlabel(), vae.get_ylabel()) == ("log", "step", "loss")
    assert picture(figure, tmp_path).std() > 0.01


def test_beta_and_what_it_weights(tmp_path):
    figure = figures.beta_figure(RECORDS)
    beta, kl = figure.axes
    assert curves(beta) == [[[10, 0.01], [20, 0.007]]]
    assert curves(kl) == [[[10, 2], [20, 2.5]]]
    assert beta.get_ylabel() == "β"
    assert picture(figure, tmp_path).std() > 0.01


@pytest.mark.parametrize("records", [[], RECORDS[:2], RECORDS[2:], RECORDS[:1]])
def test_a_stage_that_has_not_run_is_an_empty_panel(records, tmp_path):
    losses = figures.loss_figure(records)
    for axis, stage in zip(losses.axes, ("vae", "ldm"), strict=True):
        trained = any(record["stage"] == stage for record in records)
        assert bool(axis.lines) == trained
        assert [text.get_text() for text in axis.texts] == ([] if trained else ["not trained yet"])
    assert picture(losses, tmp_path).std() > 0.01
    assert picture(figures.beta_figure(records), tmp_path).std() > 0.01


def test_a_picture_is_written_whole_or_not_at_all(tmp_path):
    path = epath.Path(tmp_path) / "figure.png"
    path.write_text("old")

    class Broken:
        def savefig(self, file, **_):
            file.write(b"half")
            raise RuntimeError("no more ink")

    with pytest.raises(RuntimeError, match="ink"):
        figures.save(Broken(), path)
    assert path.read_text() == "old"
