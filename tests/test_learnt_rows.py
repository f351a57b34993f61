"""What is learnt of a table beside the weights: of training rows only, and no value of one row."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
from quick import Quick

from timeldm_jax import config as configuration
from timeldm_jax.data import dataset as datasets
from timeldm_jax.data import table
from timeldm_jax.data.grids import Grid
from timeldm_jax.data.scaling import Curve, Scaler, outward
from timeldm_jax.data.table import Options
from timeldm_jax.errors import CheckpointError
from timeldm_jax.training import loop

ROWS = 600


def rows_of_a_person(seed=0):
    """A table with a column of each scaling, each of whose numbers stands in one row."""
    random = np.random.default_rng(seed)
    smooth = 50 + random.normal(size=ROWS).cumsum() / 7
    far = random.normal(size=ROWS) * 3
    far[17] = 16.4159265358979
    return pd.DataFrame(
        {
            "when": pd.date_range("2021-03-04 05:00", periods=ROWS, freq="h"),
            "smooth": smooth,
            "heavy": random.standard_t(1.3, ROWS),
            "income": np.exp(random.normal(size=ROWS) * 2),
            "far": far,
            "rain": np.where(random.random(ROWS) < 0.6, 0.0, random.gamma(0.7, 3, ROWS)),
            "steps": random.permutation(900_000)[:ROWS] + 1_000,
            "born": pd.Timestamp("1960-01-01")
            + pd.to_timedelta(random.permutation(10**6)[:ROWS] * 61 + 7, "s"),
            "ward": [*["north", "south", "east"] * 199, "Zanzibar", "north", "Quixote"],
            "open": random.random(ROWS) < 0.3,
        }
    )


def dataset_of(frame, protocol, **options):
    config = configuration.base()
    config.data.update({"name": "table", "window": 12, "protocol": protocol, **options})
    frame, schema = table.prepare(frame, "the table", Options(**options))
    return datasets.from_table(frame, schema, config)


def training_rows(dataset):
    """By another way than the library's: every row of every window."""
    series = dataset.series
    return np.unique(series.train[:, None] + np.arange(series.window))


@pytest.mark.parametrize("protocol", ["heldout", "future"])
def test_rows_that_are_held_out_change_nothing_that_is_learnt(protocol):
    frame = rows_of_a_person()
    before = dataset_of(frame, protocol)
    others = np.setdiff1d(np.arange(ROWS), training_rows(before))
    assert len(others) > ROWS / 10
    assert {column.scaling for column in before.schema.columns if column.kind == "float"} == {
        "minmax", "standard", "log", "quantile"
    }  # fmt: skip
    changed = frame.copy()
    changed.loc[others, ["smooth", "heavy", "income", "rain"]] *= -1_000
    changed.loc[others, "steps"] += 10**9
    changed.loc[others, "born"] += pd.Timedelta(5_000.5, "D")
    changed.loc[others, "ward"] = "elsewhere"
    changed.loc[others, "open"] = True
    after = dataset_of(changed, protocol)
    assert after.schema == before.schema
    assert after.scaler == before.scaler
    seen = training_rows(before)
    np.testing.assert_array_equal(after.scaled()[seen], before.scaled()[seen])
    assert np.isfinite(after.scaled()).all()


def test_what_varies_in_held_out_rows_only_is_learnt_all_the_same():
    frame = rows_of_a_person()
    others = np.setdiff1d(np.arange(ROWS), training_rows(dataset_of(frame, "future")))
    still = frame[["when", "smooth"]].assign(flag=0, level=7.5, word="on", gap=1.0, alarm=False)
    still.loc[others[:20], ["flag", "level", "word", "alarm"]] = [1, 900.0, "off", True]
    still.loc[others[3], "gap"] = None
    dataset = dataset_of(still, "future")
    assert dataset.series.columns == (
        "smooth", "flag", "level", "word=on", "gap", "alarm", "gap is missing"
    )  # fmt: skip
    scaled = dataset.scaled()
    assert np.isfinite(scaled).sum() == scaled.size - 1
    back = table.decode(dataset.scaler.unscale(scaled[None, :12]), dataset.schema)
    pd.testing.assert_frame_equal(
        back[["flag", "level", "word", "alarm"]], still.loc[:11, ["flag", "level", "word", "alarm"]]
    )


def test_a_column_without_a_value_in_the_training_rows_stays_empty(caplog):
    frame = rows_of_a_person().assign(late=np.nan)
    others = np.setdiff1d(
        np.arange(ROWS), training_rows(dataset_of(frame[["when", "smooth"]], "future"))
    )
    frame.loc[others[-20:], "late"] = 1.5
    dataset = dataset_of(frame, "future")
    assert not any("late" in name for name in dataset.series.columns)
    assert "column 'late' has no value in the training rows" in caplog.text


@pytest.mark.parametrize("seed", range(20))
def test_bounds_are_rounded_outward_and_nobodys(seed):
    random = np.random.default_rng(seed)
    values = random.normal(size=50) * 10.0 ** random.integers(-6, 12) + random.choice([0, 1e3])
    low, high = outward(values)
    reach = np.ptp(values)
    assert values.min() - 0.02 * reach <= low < values.min()
    assert values.max() < high <= values.max() + 0.02 * reach
    assert len(f"{high:.15g}") < 14
    whole = np.round(random.normal(size=50) * 10.0 ** random.integers(2, 9))
    low, high = outward(whole, whole=True)
    assert low == round(low) < whole.min() < whole.max() < high == round(high)


def test_bounds_that_tell_nothing_stay():
    assert outward(np.array([0.0, 0.0, 3.5, 3.5])) == (0, 3.5)
    assert outward(np.array([1.0, 2, 3, 4, 5]), whole=True) == (1, 5)
    assert outward(np.array([7.5])) == (7.5 - 0.01, 7.5 + 0.01)
    assert outward(np.array([7.5, 7.5])) == (7.5, 7.5)


@pytest.mark.training
@pytest.mark.parametrize("kind", ["table", pytest.param("windows", marks=pytest.mark.slow)])
def test_a_saved_model_holds_no_value_of_a_single_row(tmp_path, kind, caplog):
    frame = rows_of_a_person()
    model = Quick(12)
    model._config.sample.match_marginals = True
    numbers = frame[["smooth", "heavy", "income", "far", "rain", "steps"]]
    if kind == "table":
        model.fit(frame)
    else:
        model._config.data.stride = 1
        model.fit(numbers.to_numpy(np.float64).reshape(-1, 12, numbers.shape[1]))
    model.sample(2)
    # Scores are of sets of windows. Of so few rows of a table there are none.
    model.save(tmp_path / "m.timeldm", report=kind == "table")
    texts, arrays = read_folder(tmp_path / "m.timeldm")
    found = {float(number) for number in re.findall(r"-?\d+\.?\d*(?:[eE][-+]?\d+)?", texts)}
    for name in numbers:
        values, counts = np.unique(numbers[name].to_numpy(np.float64), return_counts=True)
        single = values[counts == 1]
        assert len(single) > 200
        # A whole number is also a count or a size that has nothing to do with the data.
        assert found & set(single[single > 50_000] if name == "steps" else single) == set(), name
        for key, array in arrays.items():
            # Weights are trained numbers by the ten thousand: now and then one is, by chance, the
            # float32 nearest to one of hundreds of values (2% for 128 × 128 and `income`).
            by_chance = 1 if key.startswith(("vae/", "ldm/")) else 0
            assert np.isin(single.astype(array.dtype), array).sum() <= by_chance, (name, key)
    model_json = json.loads((tmp_path / "m.timeldm" / "model.json").read_text())
    scaled = model._dataset.scaled()
    for i, marginal in enumerate(model_json["marginals"]):
        if marginal is not None:  # float32, so only its own feature's values are looked for
            values, counts = np.unique(scaled[:, i], return_counts=True)
            assert not np.isin(values[counts == 1], np.float32(marginal)).any(), model.columns[i]
    if kind == "table":
        assert "saved without scores: 4 real windows are too few" in caplog.text
        assert "north" in texts
        assert not [word for word in ("Zanzibar", "Quixote") if word in texts]
        assert not [time for time in frame["born"] if time.isoformat() in texts]
        assert model.sample(2).equals(type(model).load(tmp_path / "m.timeldm").sample(2))


def read_folder(folder):
    """All text of a saved model, and its arrays by name."""
    texts, arrays = "", {}
    for path in folder.iterdir():
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as content:
                arrays |= {name: content[name] for name in content.files}
        else:
            texts += path.read_text()
    return texts, {name: array for name, array in arrays.items() if array.dtype.kind == "f"}


def test_words_that_the_user_lists_are_kept_however_rare():
    listed = {
        "columns": {"ward": {"categories": ["north", "south", "east", "Zanzibar", "Quixote"]}}
    }
    dataset = dataset_of(rows_of_a_person(), "paper", schema=json.dumps(listed))
    assert dataset.schema.columns[-2].categories[-1] == "Quixote"
    assert "ward=Quixote" in dataset.series.columns


def test_training_does_not_go_on_from_another_scaler(tmp_path):
    scaler = Scaler((0.0,), (1.0,), open=(0,))
    meta = {"scaler": scaler.to_json()}
    first = {"scaler": {"low": [0.0], "high": [1.0]}}  # as the first versions saved it
    gridded = {"scaler": dataclasses.replace(scaler, grids=((0, Grid(0.5)),), open=()).to_json()}
    for same in (meta, first, gridded):
        loop.check_scaler(tmp_path, json.loads(json.dumps(same)), meta)
    curve = Curve("log", 2.0)
    for other in (Scaler((0.0,), (1.5,)), Scaler((0.0,), (1.0,), ((0, curve),))):
        saved = {"scaler": json.loads(json.dumps(other.to_json()))}
        with pytest.raises(CheckpointError, match="scaled in another way, by an earlier version"):
            loop.check_scaler(tmp_path, saved, meta)
