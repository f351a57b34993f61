"""Figures of a run: what is drawn, under which name, and how large."""

import html.parser
import io

import matplotlib.image
import numpy as np
import pytest
from etils import epath

from timeldm_jax.metrics import evaluation, suite
from timeldm_jax.report import figures
from timeldm_jax.report import page as page_module
from timeldm_jax.report.page import write_report
from timeldm_jax.workdir import write_bytes

pytestmark = pytest.mark.training


def windows(count, features, time=6, seed=0):
    return np.random.default_rng(seed).normal(size=(count, time, features))


def names(features):
    return tuple(f"c{i}" for i in range(features))


def picture(figure, tmp_path):
    """The saved PNG as an array `(height, width, 4)` in [0, 1]."""
    path = epath.Path(tmp_path) / "figure.png"
    write_bytes(path, figures.png(figure))
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


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = epath.Path(tmp_path) / "figure.png"
    path.write_text("old")
    with pytest.raises(TypeError):
        write_bytes(path, "not bytes")
    assert path.read_text() == "old"


# What is drawn.


def lines_of(axis):
    return [np.asarray(line.get_ydata()) for line in axis.lines]


def test_autocorrelation_is_its_definition():
    real, synthetic = windows(30, 2), windows(20, 2, seed=1).cumsum(axis=1)
    figure = figures.autocorrelation_figure(real, synthetic, ("a", "b"))
    for f, axis in enumerate(figure.axes):
        for line, w in zip(lines_of(axis), (real, synthetic), strict=True):
            x = w[:, :, f]
            expected = [
                np.mean(
                    [(r[t] - x.mean()) * (r[t + k] - x.mean()) for r in x for t in range(6 - k)]
                )
                / x.var()
                for k in range(6)
            ]
            np.testing.assert_allclose(line, expected, atol=1e-12)


def test_spectrum_of_a_wave_is_one_line():
    time = np.arange(16)
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, size=(50, 1, 1))
    wave = 3 * np.cos(2 * np.pi * 4 / 16 * time[None, :, None] + phases)
    figure = figures.spectrum_figure(wave, 2 * wave, ("a",))
    real, synthetic = lines_of(figure.axes[0])
    # |A/2 · T|² / T at the wave's frequency, nothing elsewhere (the windows' mean is near 0).
    assert real[4] == pytest.approx((3 / 2 * 16) ** 2 / 16, rel=1e-6)
    assert synthetic[4] == pytest.approx(4 * real[4], rel=1e-6)
    assert np.delete(real, 4).max() < 1e-6 * real[4]


def test_correlations_are_pearsons():
    real, synthetic = windows(40, 3), windows(40, 3, seed=1).cumsum(axis=2)
    figure = figures.correlation_figure(real, synthetic, names(3))
    shown = [axis.images[0].get_array() for axis in figure.axes[:3]]
    expected = [np.corrcoef(w.reshape(-1, 3).T) for w in (real, synthetic)]
    np.testing.assert_allclose(shown[0], expected[0], atol=1e-12)
    np.testing.assert_allclose(shown[1], expected[1], atol=1e-12)
    np.testing.assert_allclose(shown[2], expected[1] - expected[0], atol=1e-12)


def test_pairs_are_the_windows_named():
    training, synthetic = windows(10, 2), windows(5, 2, seed=1)
    pairs = [{"synthetic": 3, "training": 7, "distance": 0.25}]
    figure = figures.pairs_figure(synthetic, training, pairs, names(2))
    for row, axis in enumerate(figure.axes):
        one, two = lines_of(axis)
        np.testing.assert_array_equal(one, training[7, :, row])
        np.testing.assert_array_equal(two, synthetic[3, :, row])
    assert figure.axes[0].get_title("left") == "distance 0.25"
    assert figures.pairs_figure(synthetic, training, [], names(2)) is None


def test_densities_integrate_to_what_lies_in_the_range():
    real = windows(400, 1)
    figure = figures.density_figure(real, real + 100, ("a",))
    grid = figure.axes[0].lines[0].get_xdata()
    inside, outside = (np.trapezoid(y, grid) for y in lines_of(figure.axes[0]))
    assert inside == pytest.approx(1, abs=0.01)
    assert outside == pytest.approx(0, abs=1e-6)  # far away: nothing within the real range


# The page.


def scores_of(real, synthetic, columns):
    """`scores.json` of two sets, without minutes of training."""
    return evaluation.evaluate(real, synthetic, columns, evaluators=suite.Evaluators(2, 2, 2, 1))


HOSTILE = ("<script>document.title='run'</script>", "$\\frac{", "a\"b'c", "😀", "x" * 300)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    real, synthetic = windows(80, 5), windows(80, 5, seed=1)  # enough for the judges
    scores = scores_of(real, synthetic, HOSTILE)
    path = epath.Path(tmp_path_factory.mktemp("page")) / "report.html"
    config = {"data": {"name": "<b>mine</b>", "window": 6}, "seed": 0}
    written = write_report(path, scores, real, synthetic, HOSTILE, records=RECORDS, config=config)
    return path, written, scores


class Tags(html.parser.HTMLParser):
    """Tags with their attributes, and text, of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_page_opens_offline_and_runs_nothing(page):
    path, _, _ = page
    found = Tags(path.read_text())
    assert not {"script", "iframe", "object", "embed", "form", "base"} & {t for t, _ in found.tags}
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "srcset", "href"):
            if name in attributes:
                assert attributes[name].startswith("data:"), (tag, attributes[name][:50])
    style = path.read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    images = [a for t, a in found.tags if t == "img"]
    assert all(len(image["alt"]) > 20 for image in images)
    assert len(images) == 9
    assert path.stat().length < 6e6


def test_the_page_shows_the_scores_and_names(page):
    path, _, scores = page
    found = Tags(path.read_text())
    words = " ".join(found.text.split())
    assert scores["verdict"] in words
    assert scores["memorisation"]["verdict"] in words
    assert scores["memorisation"]["caveat"] in words
    for entry in scores["scores"].values():
        assert entry["label"] in words
        assert entry["verdict"] in words
    detected = scores["scores"]["detection"]
    assert detected["given_away"] in words
    for view in detected["by_view"].values():
        assert f"± {page_module._number(view['half_width'])} (floor" in words
    assert words.index(scores["verdict"]) < words.index("Discriminative") < words.index("Maps")
    assert "<b>mine</b>" in words
    assert "window = 6" in words
    headings = [tag for tag, _ in found.tags if tag in ("h1", "h2", "h3")]
    assert headings[0] == "h1"
    assert set(headings[1:]) == {"h2"}


def test_each_figure_is_a_file_too(page):
    path, written, _ = page
    assert written[0] == path
    assert [p.name for p in written[1:]] == [
        f"{name}.png"
        for name in (
            "windows", "embedding", "densities", "autocorrelation", "spectra", "correlations",
            "pairs", "losses", "beta",
        )
    ]  # fmt: skip
    for picture_path in written[1:]:
        assert picture_path.parent == path.parent / "report"
        assert matplotlib.image.imread(str(picture_path))[..., :3].std() > 0.01


@pytest.mark.parametrize(
    ("count", "time", "features"),
    [
        (10, 1, 1),
        pytest.param(12, 6, 1, marks=pytest.mark.slow),
        pytest.param(15, 2, 13, marks=pytest.mark.slow),
    ],
)
def test_small_sets_make_a_page(count, time, features, tmp_path):
    real, synthetic = windows(count, features, time), windows(count, features, time, seed=1)
    synthetic[0] *= 1e6
    if features > 1:
        real[:, :, 1] = 3
    scores = scores_of(real, synthetic, names(features))
    path = epath.Path(tmp_path) / "r.html"
    write_report(path, scores, real, synthetic, names(features))
    words = Tags(path.read_text()).text
    assert ("Windows of one time step have none." in words) == (time == 1)
    assert ("One feature has none." in words) == (features == 1)
    assert "Training" not in words.split("Closest pairs")[1]
    assert any(note in words for note in scores["notes"])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.123"), (0.0012345, "0.00123"), (12.345, "12.3"), (0, "0"), (None, "–"),
     (1234.5, "1,234"), (1.5e-7, "1.5e-07"), (3e8, "3.0e+08")],
)  # fmt: skip
def test_numbers_have_three_digits(value, text):
    assert page_module._number(value) == text


def test_the_bar_is_logarithmic():
    entry = {
        "floor": {"mean": 0.01},
        "calibrated": {"mean": 0.1},
        "ceilings": {"a": {"mean": 0.5}, "b": {"mean": 0.2}},
    }
    # From .005 to .5: .01 lies at log 2 / log 100, .1 at log 20 / log 100.
    assert page_module._place(entry) == {"floor": 15.1, "value": 65.1}
