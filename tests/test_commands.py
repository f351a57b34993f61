"""The commands that use a trained model: the interface's results, in files that are whole."""

import json
import pathlib

import numpy as np
import pandas as pd
import pytest

from timeldm_jax import TimeLDM, __main__, command, evaluate, forecast, impute, sample
from timeldm_jax.metrics import suite
from timeldm_jax.report import __main__ as report_command
from timeldm_jax.samples import read_windows

pytestmark = pytest.mark.training

GOLDEN = pathlib.Path(__file__).parent / "golden"
TABLE = GOLDEN / "model_8ed8097" / "model"
RUN = GOLDEN / "workdir_8ed8097"


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """Rows of one series as the model's table has them."""
    rows = pd.read_csv(GOLDEN / "model_8ed8097" / "samples.csv")
    rows = rows[rows["series"] == 0].drop(columns="series")
    path = tmp_path_factory.mktemp("history") / "recent.csv"
    rows.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("suffix", [".csv", pytest.param(".parquet", marks=pytest.mark.slow)])
def test_sample_writes_what_the_interface_draws(tmp_path, suffix):
    out = tmp_path / f"more{suffix}"
    sample.main(["sample", f"--model={TABLE}", "--count=3", "--seed=5", f"--out={out}"])
    expected = TimeLDM.load(TABLE).sample(3, seed=5)
    found = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    assert list(found.columns) == list(expected.columns)
    for name in ("level", "stock", "drift"):
        np.testing.assert_array_equal(found[name], expected[name])


def test_sample_of_a_run_goes_on_where_a_smaller_one_ended(tmp_path):
    for count in (2, 4):
        out = tmp_path / f"{count}.npz"
        sample.main(["sample", f"--model={RUN}", f"--count={count}", f"--out={out}"])
    few, names = read_windows(tmp_path / "2.npz")
    many, _ = read_windows(tmp_path / "4.npz")
    assert few.shape == (2, 8, 5)
    assert names == tuple(f"sine_{i}" for i in range(5))
    np.testing.assert_allclose(few, many[:2], rtol=1e-6)
    # A run of arrays as a table: one row a time, numbered.
    sample.main(["sample", f"--model={RUN}", "--count=2", f"--out={tmp_path / 'it.csv'}"])
    rows = pd.read_csv(tmp_path / "it.csv")
    assert list(rows["series"]) == [0] * 8 + [1] * 8
    np.testing.assert_allclose(rows.to_numpy()[:, 1:].reshape(2, 8, 5), few, rtol=1e-5)


@pytest.mark.parametrize("command_of", [impute, forecast], ids=["impute", "forecast"])
def test_uneven_times_follow_the_flag(tmp_path, history, capsys, command_of):
    """Newest first is refused in the words of the command, and taken with what it advises."""
    newest = tmp_path / "newest.csv"
    pd.read_csv(history).iloc[::-1].to_csv(newest, index=False)
    name = command_of.__name__.rsplit(".", 1)[1]
    out = tmp_path / "out.csv"
    more = ["--horizon=3", "--count=4"] if command_of is forecast else []
    flags = [name, f"--model={TABLE}", f"--data={newest}", f"--out={out}", *more]
    with pytest.raises(SystemExit):
        command_of.main(flags)
    assert "--irregular=sort puts them in order" in capsys.readouterr().err
    assert not out.exists()
    command_of.main([*flags, "--irregular=sort"])
    assert len(pd.read_csv(out))
    with pytest.raises(SystemExit):
        command_of.main([*flags, "--irregular=maybe"])
    assert "--irregular=maybe is not one of error, sort, resample" in capsys.readouterr().err


def test_evaluate_reads_the_tables_of_a_model(tmp_path, monkeypatch, capsys):
    """The tool's own samples, words and all, against another table of the same columns."""
    monkeypatch.setattr(suite, "PROTOCOL", suite.Evaluators(2, 5, 5, 2, 8))
    out, page = tmp_path / "scores.json", tmp_path / "page.html"
    samples = tmp_path / "samples.csv"
    sample.main(["sample", f"--model={TABLE}", "--count=20", f"--out={samples}"])
    rows = pd.read_csv(samples).drop(columns="series").drop_duplicates("when", ignore_index=True)
    real = tmp_path / "real.csv"
    pd.concat([rows.head(8)] * 4, ignore_index=True).assign(
        when=pd.date_range("2023-03-01", periods=32, freq="6h").strftime("%d/%m/%Y %H:%M")
    ).to_csv(real, index=False)
    flags = [f"--model={TABLE}", f"--real={real}", f"--synthetic={samples}", f"--out={out}"]
    evaluate.main(["evaluate", *flags, "--scale=none"])
    found = json.loads(out.read_text())
    assert found["columns"] == list(TimeLDM.load(TABLE).columns)
    assert found["evaluators"]["scale"] == "none"
    capsys.readouterr()
    with pytest.raises(SystemExit):
        evaluate.main(["evaluate", *flags, "--window=8"])
    assert "--window is not read with --model" in capsys.readouterr().err
    report_command.main(["report", f"--model={TABLE}", f"--out={page}"])
    assert "<html" in page.read_text()


def test_sample_gives_longer_series(tmp_path):
    out = tmp_path / "long.csv"
    sample.main(["sample", f"--model={TABLE}", "--count=2", "--length=13", f"--out={out}"])
    assert list(pd.read_csv(out)["series"].value_counts()) == [13, 13]


def test_impute_fills_gaps_and_keeps_the_rest(tmp_path, history):
    rows = pd.read_csv(history)
    rows.loc[[2, 5], "level"] = np.nan
    rows.to_csv(tmp_path / "gaps.csv", index=False)
    out = tmp_path / "filled.csv"
    impute.main(["impute", f"--model={TABLE}", f"--data={tmp_path / 'gaps.csv'}", f"--out={out}"])
    found = pd.read_csv(out)
    assert found["level"].notna().all()
    known = rows["level"].notna()
    np.testing.assert_array_equal(found["level"][known], rows["level"][known])
    np.testing.assert_array_equal(found["stock"], rows["stock"])


def test_forecast_writes_quantiles_futures_and_a_picture(tmp_path, history):
    names = ("out", "samples", "plot")
    files = dict(zip(names, ("q.csv", "futures.parquet", "it.png"), strict=True))
    where = [f"--{name}={tmp_path / file}" for name, file in files.items()]
    forecast.main(
        ["forecast", f"--model={TABLE}", f"--data={history}", "--horizon=3", "--count=4", *where]
    )
    quantiles = pd.read_csv(tmp_path / "q.csv")
    assert quantiles["column"].value_counts()["level"] == 3
    levels = quantiles[[name for name in quantiles if name[0].isdigit()]].to_numpy()
    assert (np.diff(levels, axis=1) >= 0).all()
    assert len(pd.read_parquet(tmp_path / "futures.parquet")) == 4 * 3
    assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([f"--model={TABLE}", "--out={}/it.txt"], "expected a file that ends in .csv or"),
        ([f"--model={TABLE}", "--out={}/none/it.csv"], "its folder does not exist"),
        ([f"--model={TABLE}", "--out={}/it.npz", "--count=1"], "the model gives tables"),
        ([f"--model={TABLE}", "--out={}/it.csv", "--count=0"], "--count=0 must be at least 1"),
        (["--model={}/none", "--out={}/it.csv"], "holds no model"),
        (["--out={}/it.csv"], "--model"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(tmp_path, capsys, flags, said):
    with pytest.raises(SystemExit) as stopped:
        sample.main(["sample", *(flag.format(tmp_path) for flag in flags)])
    assert stopped.value.code == command.EXIT_USAGE
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_one_name_has_all_commands(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["timeldm", "--help"])
    __main__.run()
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in __main__.COMMANDS)
    monkeypatch.setattr("sys.argv", ["timeldm", "smaple"])
    with pytest.raises(SystemExit) as stopped:
        __main__.run()
    assert stopped.value.code == 2
    assert "no command 'smaple'" in capsys.readouterr().err


@pytest.mark.parametrize("name", __main__.COMMANDS)
def test_each_command_has_help_that_fits_a_screen(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["timeldm", name, "--help"])
    with pytest.raises(SystemExit) as stopped:
        __main__.run()
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"timeldm_jax.{name}" in lines[0]
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
