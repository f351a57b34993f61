"""Long windows are taken in parts that fit in memory, and parts change no figure.

Attention holds a number for every two steps of a window: at T = 4,096 a layer over 1,024 windows
would be 128 GiB.
"""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import quick

from timeldm_jax import config as configuration
from timeldm_jax import latents, streams
from timeldm_jax.data.series import DeviceWindows, fill
from timeldm_jax.metrics import context_fid
from timeldm_jax.models import bind
from timeldm_jax.models.vae import VAE
from timeldm_jax.streams import Stream
from timeldm_jax.training import losses, stages, state, validation

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def problem():
    """A configuration, its networks, weights that are not as initialised, and rows with gaps."""
    config = configuration.base()
    config.data.window = 8
    config.vae.model.update(latent=3, width=8, encoder_layers=1, decoder_layers=1)
    config.ldm.model.update(hidden=16, blocks=1, precision="float32")
    models = stages.build_models(config, 3)
    random = np.random.default_rng(0)

    def noisy(params):
        return jax.tree.map(lambda a: a + 0.1 * random.normal(size=a.shape).astype("f4"), params)

    stats = latents.zero_stats(
        (models.vae.window, models.vae.latent), models.flat, "standard"
    )._replace(scale=jnp.ones(models.flat))
    rows = random.normal(size=(60, 3)).astype(np.float32)
    rows[random.random(60) < np.linspace(0.9, 0, 60), 0] = np.nan  # most of them early
    return {
        "config": config,
        "models": models,
        "stats": stats,
        "vae": noisy(stages.init_vae_state(config, models).params),
        "ldm": noisy(stages.init_ldm_state(config, models, stats).params),
        "data": DeviceWindows(rows, np.arange(11, dtype=np.int32)),
    }


@pytest.mark.slow
def test_a_model_of_frequencies_is_kept_and_asked_like_any_other(tmp_path):
    config = quick.Quick(window=8)._config
    config.ldm.latents, config.ldm.axes = "cosine", 0
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"x": random.normal(size=900).cumsum(), "y": random.normal(size=900)})
    model = quick.Quick(config=config).fit(frame)
    assert model.generator.stats.axes.shape == (8, 2, 2)
    model.save(tmp_path / "saved", report=False)
    again = quick.Quick.load(tmp_path / "saved")
    for one, other in (
        (model.sample(5), again.sample(5)),
        (model.forecast(frame.head(9), 4, n=3).samples,) * 2,
    ):
        pd.testing.assert_frame_equal(one, other)
        assert np.isfinite(one[["x", "y"]].to_numpy()).all()


def in_parts(monkeypatch, windows):
    """From now on memory is for so many windows."""
    monkeypatch.setattr(latents, "windows_per_call", lambda vae, most, kept=2: min(most, windows))
    monkeypatch.setattr(latents, "latents_per_call", lambda flat, most: min(most, windows))


@pytest.mark.parametrize("windows", [1, 4, 10])  # of 11: the last part is whole only for 1
def test_validation_in_parts_is_validation_at_once(problem, monkeypatch, windows):
    models, noise = problem["models"], configuration.noise_config(problem["config"])
    random = np.random.default_rng(1)
    shape = (11, models.flat)
    posteriors = latents.Posteriors(
        random.normal(size=shape).astype("f4"), random.normal(size=shape).astype("f4") - 3
    )

    def validated():
        vae = validation.of_vae(models.vae, problem["data"])(problem["vae"])
        args = models.denoiser, noise, problem["stats"], posteriors
        return vae | {"ldm": validation.of_ldm(*args)(problem["ldm"])["loss"]}

    whole = validated()
    in_parts(monkeypatch, windows)
    found = validated()
    for name, value in whole.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name


def test_a_validation_loss_is_that_of_its_windows(problem):
    """Against the loss of all windows at once, at the same noise, in NumPy's sums."""
    vae, data = problem["models"].vae, problem["data"]
    x = data.values[data.starts[:, None] + np.arange(vae.window)]
    key = streams.key(streams.seed_key(validation.VALIDATION_SEED), Stream.VAE_VALIDATION)
    noise = state.normal(key, jnp.arange(11), (vae.window, vae.latent))
    loss = validation.of_vae(vae, data)(problem["vae"])["loss"]
    output = bind(vae, problem["vae"])(fill(x), noise)
    known = ~np.isnan(x)
    error = np.where(known, output.reconstruction - x, 0).astype(np.float64)
    spectrum = np.fft.fft(error, axis=1, norm="forward")
    expected = np.abs(error).sum() + np.square(error).sum()
    expected += 3 * np.square(error.mean(axis=2)).sum()
    expected += losses.fft_weight(8) * (np.abs(spectrum.real) + np.abs(spectrum.imag)).sum()
    assert loss == pytest.approx(expected / known.sum(), rel=1e-4)


@pytest.mark.parametrize("windows", [1, 4, 10])
def test_encoding_in_parts_is_encoding_at_once(problem, monkeypatch, windows):
    vae, data = problem["models"].vae, problem["data"]
    whole = latents.encode(vae, problem["vae"], data)
    in_parts(monkeypatch, windows)
    found = latents.encode(vae, problem["vae"], data)
    means = latents.encode(vae, problem["vae"], data, "mean")
    np.testing.assert_allclose(means.mean, found.mean, atol=1e-6)
    assert means.log_variance == found.context == ()
    for one, other in zip(whole[:2], found[:2], strict=True):
        assert one.shape == (11, vae.window * vae.latent)
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


def test_training_holds_fewer_windows_the_longer_they_are():
    def held(window, micro):
        config = configuration.base()
        config.data.window, config.vae.microbatch = window, micro
        models = stages.build_models(config, 7)
        sizes = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                stages.steps, "vae_step", lambda *arguments: sizes.append(arguments[4].micro)
            )
            stages.make_vae_step(config, models, None)
        return sizes[0]

    assert held(24, 0) == 128  # the batch
    assert held(24, 16) == 16
    assert held(4_096, 0) == held(4_096, 16) == 1
    # 16 maps of two heads, float32.
    assert 1 <= held(1_024, 0) <= latents.CALL_BYTES / (16 * 2 * 4 * 1_024**2)


@pytest.mark.parametrize("time", [24, pytest.param(64, marks=pytest.mark.slow)])
def test_a_long_windows_contrast_is_a_short_ones(monkeypatch, time):
    """One table of pairs at a time, made again for the gradient."""
    first, second = np.random.default_rng(0).normal(size=(2, 3, time, 5)).astype("f4")

    def found():
        # A function of its own each time: it is traced anew.
        contrast = partial(context_fid.hierarchical_contrast, length=time - 3)
        return jax.jit(jax.value_and_grad(contrast))(first, second)

    (whole, slope), _ = found(), monkeypatch.setattr(context_fid, "LONG", 16)
    parts, other_slope = found()
    assert float(parts) == pytest.approx(float(whole), rel=1e-5)
    np.testing.assert_allclose(other_slope, slope, rtol=1e-4, atol=1e-6)


def test_representations_of_long_windows_are_encoded_in_smaller_batches(monkeypatch):
    windows = np.random.default_rng(0).random((9, 40, 2), np.float32)
    params = context_fid.ENCODER.init(jax.random.key(0), windows[:1])
    whole = context_fid.encode(params, windows)
    sizes = []
    real = context_fid._encode
    monkeypatch.setattr(context_fid, "LONG", 1)
    monkeypatch.setattr(
        context_fid,
        "_encode",
        lambda p, batches, *rest: sizes.append(batches.shape[1]) or real(p, batches, *rest),
    )
    np.testing.assert_allclose(context_fid.encode(params, windows), whole, rtol=1e-4, atol=1e-5)
    assert set(sizes) == {3}  # 128 windows of one step each


LONG_RUN = """
import resource, sys
from timeldm_jax import launch

try:
    launch.run()
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""
# ETTh's sizes; few steps, and no more windows than each stage needs.
FLAGS = (
    "--config=configs/table.py",
    *(f"--config.data.{key}" for key in ("window=4096", "stride=512", "protocol=heldout")),
    *(f"--config.vae.{key}" for key in ("model.latent=7", "steps=2", "batch=4", "chunk=1")),
    *(f"--config.ldm.{key}" for key in ("latents=standard", "steps=2", "batch=4", "chunk=1")),
    *(f"--config.{stage}.eval_every=1" for stage in ("vae", "ldm")),
    *(f"--config.sample.{key}" for key in ("count=12", "steps=3", "match_marginals=False")),
    *(f"--config.evaluate.{key}" for key in ("repeats=2", "context_fid_steps=1")),
    *(f"--config.evaluate.{key}=1" for key in ("discriminative_steps", "predictive_steps")),
)


@pytest.mark.slow
def test_a_run_on_windows_of_4096_steps_takes_less_than_8_gib(tmp_path):
    """All stages. At 8ed8097 the first validation asked for 9 GiB at T = 1,024."""
    random = np.random.default_rng(0)
    rows = np.sin(np.arange(83_000)[:, None] / random.uniform(5, 500, 7)) + random.normal(
        scale=0.1, size=(83_000, 7)
    )
    pd.DataFrame(rows.round(3), columns=list("abcdefg")).to_csv(tmp_path / "t.csv", index=False)
    workdir = tmp_path / "run"
    flags = (*FLAGS, f"--config.data.path={tmp_path / 't.csv'}", f"--workdir={workdir}")
    found = subprocess.run(
        [sys.executable, "-c", LONG_RUN, *flags],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert found.returncode == 0, found.stdout[-2_000:] + found.stderr[-4_000:]
    assert (workdir / "report.html").exists()
    assert float(found.stdout.split("peak")[-1]) < 8  # GiB
    print(found.stdout[-2_000:])


def test_windows_of_vaes_with_more_layers_are_fewer():
    small, large = (
        VAE(
            features=7, window=1_024, latent=7, width=32, heads=2, mlp_ratio=2,
            encoder_layers=layers, decoder_layers=layers, norm="pre", head="linear", skip=True,
        )
        for layers in (1, 4)
    )  # fmt: skip
    fewer, more = (latents.windows_per_gradient(vae, 10_000) for vae in (large, small))
    assert more == pytest.approx(4 * fewer, abs=4)
