"""The guide and the notebook run as they are printed, with smaller networks."""

import itertools
import os
import pathlib
import re
import shlex

import nbclient
import nbformat
import pytest
import quick

import timeldm_jax
from timeldm_jax import describe

pytestmark = pytest.mark.training

ROOT = pathlib.Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "table.md"
# The guide first: other pages go on with the model that it saves.
OTHERS = [
    p for p in sorted((ROOT / "docs").glob("*.md")) if p != GUIDE and "```python" in p.read_text()
]
NOTEBOOK = ROOT / "docs" / "table.ipynb"
ROWS = 6_100  # of the table: the notebook looks as far as row 6,024


def blocks(language, page=GUIDE):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the table of the example, which is the working directory."""
    data = pathlib.Path(os.environ.get("TIMELDM_DATA_DIR", ROOT / ".." / "shared" / "data"))
    source = (data / "ETTh1.csv").resolve()
    if not source.exists():
        pytest.skip(f"{source} is not there: the guide is not run (set TIMELDM_DATA_DIR)")
    with source.open() as whole:  # a part: what takes time here should be what the pages say
        (tmp_path / "ETTh1.csv").write_text("".join(itertools.islice(whole, ROWS + 1)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_blocks_of_the_pages_run_in_order(folder, monkeypatch):
    monkeypatch.setattr(timeldm_jax, "TimeLDM", quick.Quick)
    assert len(blocks("python")) >= 6
    for page in (GUIDE, *OTHERS):
        names = {}
        for number, code in enumerate(blocks("python", page)):
            exec(compile(code, f"docs/{page.name}, block {number}", "exec"), names)
    assert {path.name for path in folder.iterdir()} >= {
        "forecast.png",
        "mine.timeldm",
        "report.html",
    }


def test_the_guide_describes_its_table(folder, capsys):
    words = shlex.split(blocks("sh")[0])
    assert words[:3] == ["python", "-m", "timeldm_jax.describe"]
    describe.main(["describe", *(f"{folder}/{word}" for word in words[3:])])
    assert capsys.readouterr().out.endswith("Ready to train.\n")


@pytest.mark.slow
def test_the_command_of_the_guide_runs(folder, server):
    words = shlex.split(blocks("sh")[1])
    assert words[:3] == ["python", "-m", "timeldm_jax.launch"]
    # The server has a working directory of its own.
    words = [re.sub(r"=(ETTh1|runs)", rf"={folder}/\1", word) for word in words]
    small = [f"--config.{key}={value}" for key, value in quick.SMALL.items()]
    small += ["--config.evaluate.repeats=2", "--config.evaluate.context_fid_steps=2"]
    small += [f"--config.evaluate.{name}_steps=5" for name in ("discriminative", "predictive")]
    child = server.run(*words[3:], *small, log=folder / "log")
    assert child.code == 0, child.output[-2000:]
    assert {path.name for path in (folder / "runs" / "mine").iterdir()} >= {
        "samples.csv",
        "report.html",
        "scores.json",
    }
    first = (folder / "runs" / "mine" / "samples.csv").read_text().splitlines()[:2]
    assert first[0] == "series,date,HUFL,HULL,MUFL,MULL,LUFL,LULL,OT"
    assert re.match(r"0,201[67]-\d\d-\d\d \d\d:00:00,", first[1])  # at one of the table's hours


@pytest.mark.filterwarnings("ignore")  # of Jupyter's own
@pytest.mark.slow
def test_the_notebook_runs(folder, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    quickly = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import quick; quick.install()"
    )
    notebook.cells.insert(0, nbformat.v4.new_code_cell(quickly))
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()  # raises what a cell raises
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 3
