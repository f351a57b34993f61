"""The report in a real browser: nothing runs, nothing overflows, every picture opens."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from etils import epath

from timeldm_jax.metrics import evaluation, suite
from timeldm_jax.report.page import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.training,
    pytest.mark.skipif(
        BROWSER is None,
        reason=f"none of {', '.join(NAMES)} is installed: the report is NOT checked in a browser",
    ),
]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--allow-file-access-from-files",
]
COLUMNS = ("<script>document.title='run'</script>", "<img src=x onerror=alert(1)>", "w" * 300)

# Waits for the page in a frame of a phone's or a screen's width, measures it, writes what it found.
MEASURE = """<!doctype html><iframe src="report.html" style="width:WIDTHpx;height:900px;border:0">
</iframe><pre id="found"></pre><script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, root = page.scrollingElement;
  const images = [...page.images];
  const small = [...page.querySelectorAll("main *")].filter(e => !e.closest("svg") &&
    parseFloat(frame.contentWindow.getComputedStyle(e).fontSize) < 14);
  document.getElementById("found").textContent = JSON.stringify({
    width: root.scrollWidth, client: root.clientWidth, title: page.title,
    images: images.map(image => image.naturalWidth), scripts: page.scripts.length,
    requests: frame.contentWindow.performance.getEntriesByType("resource")
      .map(entry => entry.name).filter(name => !name.startsWith("data:")),
    small: small.length, paper: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
    dark: images.map(i => i.currentSrc === i.parentElement.querySelector("source").srcset),
    text: page.body.innerText,
    caption: Math.min(...[...page.querySelectorAll("caption")].map(c => c.clientWidth)),
  });
};
</script>"""


OTHER_SCREENS = ((360, False), (1200, False), (1200, True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    random = np.random.default_rng(0)
    real, synthetic = random.normal(size=(2, 40, 6, 3))
    scores = evaluation.evaluate(real, synthetic, COLUMNS, evaluators=suite.Evaluators(2, 2, 2, 1))
    path = tmp_path_factory.mktemp("browser")
    write_report(epath.Path(path) / "report.html", scores, real, synthetic, COLUMNS)
    return path


def measure(folder, profile, width, *more):
    (folder / "measure.html").write_text(MEASURE.replace("WIDTH", str(width)))
    done = subprocess.run(
        [BROWSER, *FLAGS, *more, f"--user-data-dir={profile}", "--window-size=1300,1000",
         "--virtual-time-budget=20000", "--dump-dom", (folder / "measure.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return json.loads(html.unescape(re.search(r'<pre id="found">(.*)</pre>', done.stdout, re.S)[1]))


@pytest.mark.parametrize(
    ("width", "dark"),
    [(360, True), *(pytest.param(*each, marks=pytest.mark.slow) for each in OTHER_SCREENS)],
)
def test_the_page_in_a_browser(folder, tmp_path, width, dark):
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    found = measure(folder, tmp_path, width, *scheme)
    assert found["client"] <= width
    assert found["width"] <= found["client"]  # nothing to scroll sideways
    assert len(found["images"]) == 7
    assert min(found["images"]) > 500
    assert found["dark"] == [dark] * 7
    assert found["scripts"] == 0
    assert found["requests"] == []
    assert found["title"] == "Synthetic windows: report"
    assert found["small"] == 0
    assert found["caption"] > 250  # not a letter a line
    red = int(re.match(r"rgb\((\d+)", found["paper"])[1])
    assert (red < 60) == dark
    assert "Discriminative" in found["text"]


def test_names_of_columns_are_text(folder, tmp_path):
    """Where a name is listed: the notes."""
    random = np.random.default_rng(1)
    real, synthetic = random.normal(size=(2, 40, 6, 3))
    synthetic[0, 0, :2] = 1e3
    scores = evaluation.evaluate(real, synthetic, COLUMNS, evaluators=suite.Evaluators(2, 2, 2, 1))
    write_report(epath.Path(folder) / "report.html", scores, real, synthetic, COLUMNS)
    found = measure(folder, tmp_path, 360)
    assert COLUMNS[0] in found["text"]
    assert COLUMNS[1] in found["text"]
    assert found["scripts"] == 0
    assert found["title"] == "Synthetic windows: report"
    assert found["width"] <= found["client"]
