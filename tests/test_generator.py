"""The generator: batches, devices and noise, what it completes, and samples that are no numbers."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from timeldm_jax import config as configuration
from timeldm_jax import described, drawing, extension, forecast, latents, marginals, results
from timeldm_jax import generator as generators
from timeldm_jax.data.scaling import Curve, Scaler
from timeldm_jax.errors import USER_ERRORS, NonFiniteSamplesError
from timeldm_jax.generator import Generator
from timeldm_jax.models.vae import VAE
from timeldm_jax.streams import Stream
from timeldm_jax.training import stages
from timeldm_jax.workdir import Workdir

pytestmark = pytest.mark.training

WINDOW, NAMES = 8, ("a", "b", "c")


def made(layout="principal", window=WINDOW, latent=4, **changes):
    """A generator whose weights are noise: what it draws needs no training to be checked."""
    config = configuration.base()
    config.data.window = window
    config.vae.model.update(latent=latent, width=8, encoder_layers=1, decoder_layers=1)
    config.ldm.model.update(hidden=16, blocks=1)
    config.ldm.latents = layout
    config.sample.update(steps=3, batch=64 if window == WINDOW else 1_000)
    models = stages.build_models(config, len(NAMES))
    random = np.random.default_rng(0)
    flat = models.flat
    mixed = random.normal(size=(min(flat, 64), flat))
    mean = random.normal(size=(200, len(mixed))) @ mixed / len(mixed) ** 0.5
    posteriors = latents.Posteriors(mean.astype(np.float32), np.full((200, flat), -5.0, np.float32))
    stats = latents.latent_stats(
        posteriors, latents.LatentConfig(layout, span=0), config.ldm.noise.sigma_data
    )

    def noisy(state):
        return jax.tree.map(
            lambda a: np.asarray(a) + 0.1 * random.normal(size=a.shape).astype(np.float32),
            state.params,
        )

    parts = {
        "vae_params": noisy(stages.init_vae_state(config, models)),
        "ldm_params": noisy(stages.init_ldm_state(config, models, stats)),
        "scaler": Scaler((-1e8, 0.0, 0.0), (1e8, 1.0, 1.0)),
    }
    return Generator(
        config=config,
        models=models,
        stats=stats,
        columns=NAMES,
        schema=None,
        meta={},
        **(parts | changes),
    )


@pytest.fixture(scope="module")
def generator():
    return made()


def drawn(generator, count, seed=0):
    return np.concatenate(list(generator.sample(count, seed)))


def half_known(count):
    """Windows `(count, WINDOW, 3)` whose second half is for the model to say."""
    windows = np.random.default_rng(1).random((count, WINDOW, 3))
    windows[:, WINDOW // 2 :] = np.nan
    return windows


def test_window_i_is_the_same_whatever_the_batches(generator):
    many = drawn(generator, 150)
    assert many.dtype == np.float64
    assert many.shape == (150, WINDOW, 3)
    assert len(np.unique(many.reshape(150, -1), axis=0)) == 150
    scale = np.array([1e8, 1, 1])
    for count in (1, 33, 65):
        np.testing.assert_allclose(drawn(generator, count) / scale, many[:count] / scale, atol=1e-5)
    observed = half_known(70)
    together = generator.complete(observed, 0, 3)
    apart = generator.complete(observed[41:43], 0, 3, numbers=np.array([41, 42]))
    np.testing.assert_allclose(apart / scale, together[41:43] / scale, atol=1e-4)
    assert (drawn(generator, 3, seed=1) != many[:3]).any(axis=(1, 2)).all()


def test_axes_of_samples_are_those_that_training_measured(generator, monkeypatch):
    monkeypatch.setattr("timeldm_jax.generator.DRIFT_SAMPLES", 4_000)
    apart = dataclasses.replace(generator)  # knows nothing of its samples yet
    z, deviation = apart._latents(Stream.AXES, 4_000), apart.stats.deviation
    found = apart._own_drift
    mended = np.asarray(found.mend(z))
    np.testing.assert_allclose(mended.mean(0) / deviation, 0, atol=1e-4)
    factors = deviation / z.std(0)
    assert np.abs(np.log(factors)).max() > 0.05  # noisy weights: there is something to mend
    inside = (factors > 0.5) & (factors < 2)
    np.testing.assert_allclose(mended.std(0)[inside], deviation[inside], rtol=1e-4)
    # What is drawn is decoded from mended latents, and a model that says so gives the same.
    index, key = np.arange(8, dtype=np.int32), apart._key(5)
    raw = apart._draw_latents(*apart._weights[1:], key, jnp.asarray(index))
    expected = drawing.decode(apart.models.vae, apart.vae_params, apart.stats, found.mend(raw))
    np.testing.assert_allclose(apart._draw_numbered(key, index), expected, atol=1e-5)
    said = json.loads(json.dumps(apart.described()))
    again = dataclasses.replace(apart, drift=described.drift({"drawn_marginals": said}))
    assert again.is_described
    np.testing.assert_array_equal(
        again._draw_numbered(key, index), apart._draw_numbered(key, index)
    )
    other_weights = {"drawn_marginals": said, "step": 7}
    assert described.drift(other_weights) is None


def test_samples_stay_float64_from_unscaling_on(generator):
    windows = drawn(generator, 20)
    inside = np.abs(windows[..., 0]) < 1e8
    whole = np.round(windows[..., 0][inside])
    assert (whole.astype(np.float32) != whole).any()


def test_a_model_compiles_once_a_batch_size(generator):
    for count in (1, 5, 31, 40, 64, 100, 150):
        drawn(generator, count)
        generator.complete(half_known(count), 0)
    assert generator._draw._cache_size() == 2
    assert generator._complete._cache_size() == 1


def test_weights_are_placed_once(generator):
    expected, observed = drawn(generator, 70, seed=2), half_known(40)
    completed = generator.complete(observed, 5, 1)
    with jax.transfer_guard("disallow"):
        np.testing.assert_array_equal(drawn(generator, 70, seed=2), expected)
        np.testing.assert_array_equal(generator.complete(observed, 5, 1), completed)


def test_long_windows_are_taken_in_smaller_batches():
    def vae(window):
        return VAE(
            features=7, window=window, latent=7, width=64, heads=4, mlp_ratio=4, encoder_layers=2,
            decoder_layers=3, norm="pre", head="linear", skip=True,
        )  # fmt: skip

    sizes = [latents.windows_per_call(vae(window), 1_000) for window in (24, 1_024, 4_096, 100_000)]
    assert sizes[0] == 1_000
    assert sizes[3] == 1
    # Two maps of attention of four heads, float32.
    for window, size in zip((1_024, 4_096), sizes[1:3], strict=True):
        assert 1 <= size <= latents.CALL_BYTES / (2 * 4 * 4 * window**2)
    assert made().models.vae.window == WINDOW
    assert made().largest == 64


LONG = """
import resource, sys
import numpy as np
import test_generator
from timeldm_jax.diffusion import conditional

resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30,) * 2)  # fail rather than fill the machine
conditional.LEVELS = 1
generator = test_generator.made("standard", window=2_048, latent=2)
test_generator.generators.PRIOR_SAMPLES = 64
windows = np.concatenate(list(generator.sample(40, 0)))
windows[:, 1_024:] = np.nan
assert np.isfinite(generator.complete(windows[:3], 0)).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
def test_sampling_and_completing_long_windows_takes_bounded_memory():
    """At 1,000 windows a call a layer of this attention is 32 GiB."""
    folder = pathlib.Path(__file__).parent
    found = subprocess.run(
        [sys.executable, "-c", LONG], cwd=folder, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr[-2_000:]
    assert float(found.stdout.split()[-1]) < 5  # GiB


# Noise.


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, True, "0", None])
def test_seeds_are_whole_numbers_that_a_key_holds(generator, seed):
    with pytest.raises((ValueError, TypeError), match="seed="):
        drawn(generator, 1, seed=seed)


def test_the_largest_seed_and_numpys_are_seeds(generator):
    np.testing.assert_array_equal(
        drawn(generator, 1, seed=np.uint32(2**32 - 1)), drawn(generator, 1, seed=2**32 - 1)
    )


# The covariance of completions.


def test_on_principal_axes_the_covariance_is_what_training_measured(generator):
    nowhere = jax.tree.map(lambda a: np.full_like(a, np.nan), generator.ldm_params)
    prior = dataclasses.replace(generator, ldm_params=nowhere)._prior  # draws nothing
    np.testing.assert_allclose(prior.values, np.square(generator.stats.deviation), rtol=1e-6)
    unit = jnp.asarray(np.random.default_rng(0).normal(size=(2, len(prior.values))), jnp.float32)
    np.testing.assert_array_equal(prior.colour(unit, prior.values), unit * prior.values)


@pytest.mark.parametrize("layout", ["raw", "standard"])
def test_a_covariance_of_fewer_samples_than_latents_is_not_singular(monkeypatch, layout):
    generator = made(layout)
    monkeypatch.setattr(generators, "PRIOR_SAMPLES", generator.models.flat // 2)
    values = np.asarray(generator._prior.values, np.float64)
    # The plain covariance has `flat / 2` eigenvalues of 0.
    assert values.min() > 1e-3 * values.max()
    assert np.isfinite(generator.complete(half_known(3), 0)).all()


def test_a_covariance_too_large_for_memory_is_diagonal(monkeypatch):
    generator = made("standard")
    monkeypatch.setattr(generators, "PRIOR_SAMPLES", 64)
    monkeypatch.setattr(generators, "MOST_AXES", generator.models.flat - 1)
    assert generator._prior.vectors == ()
    assert (np.asarray(generator._prior.values) > 0).all()
    assert np.isfinite(generator.complete(half_known(3), 0)).all()


# Gaps.


def test_only_blocks_with_gaps_are_completed(generator, monkeypatch):
    values = np.random.default_rng(0).random((200, 3)) * [1e8, 1, 1]
    values[30, 1] = np.nan
    groups = np.zeros(200, int)
    counts, complete = [], Generator.complete

    def counted(self, observed, *arguments, **options):
        counts.append(len(observed))
        return complete(self, observed, *arguments, **options)

    monkeypatch.setattr(Generator, "complete", counted)
    filled = forecast.fill_gaps(generator, values, groups, 0, 0)
    assert counts == [1]
    known = ~np.isnan(values)
    np.testing.assert_array_equal(filled[known], values[known])
    # Elsewhere more is missing; the same noise fills the gap.
    values[100:120] = np.nan
    values[3] = np.nan
    more = forecast.fill_gaps(generator, values, groups, 0, 0)
    assert np.isfinite(more).all()
    np.testing.assert_allclose(more[30], filled[30], rtol=1e-4)
    whole = np.nan_to_num(values)
    np.testing.assert_array_equal(forecast.fill_gaps(generator, whole, groups, 0, 0), whole)
    assert len(counts) == 3


# Samples that are no numbers.


def poisoned(generator, what, value):
    params = getattr(generator, what)
    broken = jax.tree.map(np.array, params)
    jax.tree.leaves(broken)[-1].flat[0] = value
    return dataclasses.replace(generator, **{what: broken})


@pytest.mark.parametrize("what", ["vae_params", "ldm_params"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_give_no_samples(generator, what, value):
    broken = poisoned(generator, what, value)
    levels, drawn_levels = (
        np.tile(np.float32(each), (3, 1)) for each in (marginals.LEVELS, marginals.DRAWN_LEVELS)
    )
    for one in (broken, dataclasses.replace(broken, marginals=levels, drawn=drawn_levels)):
        with pytest.raises(NonFiniteSamplesError, match=r"sampling.* gave (nan|-?inf) for '[abc]'"):
            drawn(one, 5)
    with pytest.raises(NonFiniteSamplesError, match="completion gave"):
        broken.complete(half_known(3), 0)
    with pytest.raises(NonFiniteSamplesError, match="forecast gave"):
        extension.extend(broken, np.ones((2, 5, 3)), 4, 0, forecast=True)
    values = np.ones((20, 3))
    values[3, 1] = np.nan
    with pytest.raises(NonFiniteSamplesError, match="imputation gave"):
        forecast.fill_gaps(broken, values, np.zeros(20, int), 0, 0)


def test_one_window_that_is_no_number_stops_it(generator):
    one = dataclasses.replace(generator)
    draw = one._draw

    def broken(*arguments):
        windows = np.array(draw(*arguments))
        windows[arguments[-2] == 90, 3, 1] = np.inf
        return windows

    one.__dict__["_draw"] = broken
    assert len(drawn(one, 90)) == 90
    with pytest.raises(NonFiniteSamplesError, match="sampling gave inf for 'b' in window 90"):
        drawn(one, 120)


def test_values_that_overflow_in_the_datas_units_are_not_given_out(generator):
    scaler = Scaler((0.0, 0.0, 0.0), (1.0, 1e6, 1.0), ((1, Curve("log", unit=1.0)),))
    with np.errstate(over="ignore"), pytest.raises(NonFiniteSamplesError, match="inf for 'b'"):
        drawn(dataclasses.replace(generator, scaler=scaler), 50)


def test_the_sample_stage_writes_nothing_that_is_no_number(generator, tmp_path, monkeypatch):
    assert NonFiniteSamplesError in USER_ERRORS
    broken = poisoned(generator, "vae_params", np.nan)
    monkeypatch.setattr(results, "load_generator", lambda workdir: broken)
    with pytest.raises(NonFiniteSamplesError):
        results.sample(generator.config, Workdir(epath.Path(tmp_path)))
    assert not (tmp_path / "samples.npz").exists()
