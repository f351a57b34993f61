"""Words in `samples.csv` are no formulas of a spreadsheet, and numbers stay what they are."""

import csv

import numpy as np
import pandas as pd
import pytest

from timeldm_jax import config as configuration
from timeldm_jax import results
from timeldm_jax.data import reader, spreadsheet, table
from timeldm_jax.data.table import Options
from timeldm_jax.samples import write_npz
from timeldm_jax.workdir import Workdir

WORDS = [
    "=1+1", "=HYPERLINK(\"http://x\",\"y\")", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1",
    "\uff1d1+1", "-", "+49 30", "'=1", "''@a", "plain", "a=b", "it's", "'quoted'", "100%",
]  # fmt: skip


def written(frame, tmp_path):
    """`samples.csv` of windows that repeat a table's rows."""
    _, schema = table.prepare(frame, "the table", Options())
    windows = table.encode(frame, schema).values[None]
    workdir = Workdir(tmp_path)
    write_npz(workdir.samples, [windows], windows.shape, ("f",) * windows.shape[2])
    config = configuration.base()
    configuration.apply_table(config)
    results.write_table(config, schema, workdir)
    return workdir.table


def test_words_are_no_formulas_and_come_back(tmp_path):
    words = WORDS * 2  # a word of a single row is not learnt
    frame = pd.DataFrame({"@word": words, "x": np.linspace(-4, 4, len(words)).round(2)})
    path = written(frame, tmp_path)
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["series", "'@word", "x"]
    for row, (word, x) in zip(rows[1:], frame.itertuples(index=False), strict=True):
        assert row[1][0] not in "=+-@\t\r\n\uff1d"
        assert row[1].removeprefix("'") == word.removeprefix("'") or row[1] == f"'{word}"
        assert float(row[2]) == x
        assert not row[2].startswith("'")
    again, _ = reader.read(str(path))
    pd.testing.assert_frame_equal(again.drop(columns="series"), frame)


@pytest.mark.parametrize("number", ["-5", "+1.5", "-.5", "-1e-3", "-2.", "-inf"])
def test_numbers_that_are_words_stay(number):
    frame = pd.DataFrame({"w": [number, "none"]})
    assert spreadsheet.quote(frame)["w"].tolist() == [number, "none"]


def test_every_word_comes_back():
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("'=-+@1a\t"), random.integers(0, 6))) for _ in range(2_000)]
    frame = pd.DataFrame({"w": words, "n": range(2_000)}).astype({"w": "category"})
    quoted = spreadsheet.quote(frame)
    assert spreadsheet.unquote(quoted)["w"].tolist() == words
    risky = quoted["w"].astype(str).str.match(r"[=+\-@\t]")
    assert pd.to_numeric(quoted["w"][risky], errors="coerce").notna().all()
    assert quoted["n"].equals(frame["n"])
