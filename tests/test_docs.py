"""The pages say what is so: names, links, tables and length. What builds the site is optional."""

import importlib.util
import json
import pathlib
import re
import runpy
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
NOTES = ROOT / "BUILD_NOTES.md"
PAGES = [*sorted((ROOT / "docs").glob("*.md")), README, NOTES, ROOT / "CONTRIBUTING.md"]
# Written so that this file does not cite them itself.
ELSEWHERE = re.compile(r"\bDES[I]GN\b|\bENVIR[O]NMENT\b|\bthe iss[u]e\b|\.\./sh[a]red")


def test_readme_is_short():
    assert len(README.read_text().split()) <= 900


def test_notes_are_two_pages():
    assert len(NOTES.read_text().split()) <= 1_100


def test_the_map_names_what_exists_and_every_module():
    text = README.read_text().split("## Map of the code")[1].split("## More")[0]
    package, beside = text.split("| beside it |")
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", package))
    found = {path.name for path in (ROOT / "timeldm_jax").glob("[!_]*.py")}
    found |= {f"{path.parent.name}/" for path in (ROOT / "timeldm_jax").glob("*/__init__.py")}
    assert named == found
    for name in re.findall(r"`([\w/]+/)`", beside):
        assert (ROOT / name).is_dir(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" in target or target == "configuration.md":  # the latter is generated
            continue
        assert (page.parent / target).exists(), f"{page.name}: {target}"
        inside = page.parent.name != "docs" or not target.startswith("..")
        assert inside, f"{page.name}: {target} is not on the site"


def test_no_text_cites_pages_that_are_not_here():
    names = subprocess.run(
        ["git", "ls-files", "timeldm_jax", "docs", "benchmarks", "tests", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if names.returncode:
        pytest.skip("not a git checkout: the texts are not searched")
    found = []
    for name in names.stdout.splitlines():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".ipynb", ".html"} and path.exists():
            lines = enumerate(path.read_text().splitlines(), 1)
            found += [f"{name}:{n}: {line}" for n, line in lines if ELSEWHERE.search(line)]
    assert not found, "\n".join(found)


def test_the_tables_are_those_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    quality = importlib.import_module("quality")
    published = json.loads((ROOT / "benchmarks" / "published.json").read_text())
    results = quality.load_results(quality.SETS)
    assert len(results) >= 5
    for page, make in ((README, quality.summary), (ROOT / "docs/benchmarks.md", quality.table)):
        between = page.read_text().split(quality.START)[1].split(quality.END)[0]
        assert between.strip() == make(results, published), f"run quality.py --docs: {page.name}"
    page = (ROOT / "docs/benchmarks.md").read_text()
    between = page.split(quality.LONG_START)[1].split(quality.LONG_END)[0]
    long = quality.long_table(quality.load_results(quality.LONG), published)
    assert between.strip() == long, "run quality.py --docs: benchmarks.md"


def test_every_key_of_the_configuration_has_a_meaning():
    rows = runpy.run_path(str(ROOT / "docs" / "configuration.py"))["rows"]()
    assert {"seed", "vae.model.width", "ldm.noise.P_mean", "evaluate.repeats"} <= {
        r[0] for r in rows
    }
    assert [key for key, _, meaning in rows if not meaning] == []


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("zensical", "mkdocstrings")),
    reason="zensical or mkdocstrings is not installed: the site is not built (extra `docs`)",
)
def test_the_site_builds_strictly():
    made = runpy.run_path(str(ROOT / "docs" / "configuration.py"))
    made["PAGE"].write_text(made["page"]())
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
