"""Whatever an earlier version saved loads: see golden/README.md for what was saved and how."""

import json
import pathlib

import numpy as np
import pandas as pd
import pytest
from etils import epath

from timeldm_jax import TimeLDM
from timeldm_jax.loading import load_generator
from timeldm_jax.workdir import Workdir

GOLDEN = pathlib.Path(__file__).parent / "golden"

TABLES = ["model_8ed8097", "model_0445eac"]
MODELS = [*TABLES, "model_fe41211"]


@pytest.mark.parametrize("name", [*MODELS, "workdir_8ed8097"])
def test_saved_by_an_earlier_version_it_draws_finite_windows(name):
    saved = GOLDEN / name
    generator = load_generator(Workdir(epath.Path(saved / "model" if "model" in name else saved)))
    windows = np.concatenate(list(generator.sample(20, seed=1)))
    assert windows.shape == (20, 8, len(generator.columns))
    assert np.isfinite(windows).all()
    assert (windows.std(axis=(0, 1)) > 0).mean() > 0.8


@pytest.mark.parametrize("name", MODELS)
def test_an_earlier_vae_reconstructs_as_it_did(name):
    generator = load_generator(Workdir(epath.Path(GOLDEN / name / "model")))
    expected = np.load(GOLDEN / name / "rows.npz")
    scaled = generator.scaler.scale(expected["windows"])
    np.testing.assert_allclose(scaled, expected["scaled"], rtol=1e-5, atol=1e-6)
    vae, params = generator.models.vae, {"params": generator.vae_params}
    filled = np.nan_to_num(expected["scaled"], nan=0.5)
    mean, log_variance = vae.apply(params, filled, method="encode")
    reconstruction = vae.apply(params, mean, method="decode")
    for found, key in (
        (mean, "mean"),
        (log_variance, "log_variance"),
        (reconstruction, "reconstruction"),
    ):
        np.testing.assert_allclose(found, expected[key], rtol=1e-5, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("name", TABLES)
def test_an_earlier_model_of_a_table_gives_the_tables_columns_and_dtypes(name):
    model = TimeLDM.load(GOLDEN / name / "model")
    samples = model.sample(4, seed=0)
    kinds = json.loads((GOLDEN / name / "dtypes.json").read_text())
    assert {column: str(dtype) for column, dtype in samples.dtypes.items()} == kinds
    assert samples.notna().all().all()
    was = pd.read_csv(GOLDEN / name / "samples.csv")
    for column in ("state", "shock", "open"):
        assert set(samples[column].map(type)) == set(was[column].map(type))
    assert set(samples["state"]) <= {"idle", "busy", "off, or not"}
    if name == "model_8ed8097":
        assert len(samples) == 4 * 8
        assert list(samples["when"]) == list(was["when"].astype(str))
        assert (samples["site"] == "north").all()
    assert model.evaluate()["windows"]


def test_an_earlier_model_of_an_array_gives_arrays():
    samples = TimeLDM.load(GOLDEN / "model_fe41211" / "model").sample(4, seed=0)
    was = np.load(GOLDEN / "model_fe41211" / "samples.npz")["samples"]
    assert (samples.shape, samples.dtype) == (was.shape, was.dtype)
