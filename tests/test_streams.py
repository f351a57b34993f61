"""No two uses of randomness share a key."""

import collections
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timeldm_jax import config as configuration
from timeldm_jax import latents, streams
from timeldm_jax.data.scaling import Scaler
from timeldm_jax.data.series import DeviceWindows
from timeldm_jax.generator import Generator
from timeldm_jax.streams import Stream
from timeldm_jax.training import stages, state, validation


def test_salts_come_from_names_alone_and_differ():
    assert Stream.ORDER.salt == zlib.crc32(b"order") == 4113142680
    salts = {stream.salt for stream in Stream}
    assert len(salts) == len(Stream)
    # Numbers folded into a key that streams come from too (members, devices) stay far below.
    assert min(salts) > 1_000_000


def test_a_key_is_the_salt_then_the_numbers_folded_in():
    source = streams.seed_key(3)
    assert source == jax.random.key(3)
    expected = jax.random.fold_in(jax.random.fold_in(source, Stream.PRIOR.salt), 7)
    assert streams.key(source, Stream.PRIOR, 7) == expected
    assert jax.jit(lambda i: streams.key(source, Stream.PRIOR, i))(7) == expected


def test_keys_are_made_without_an_implicit_transfer():
    jax.random.fold_in(jax.random.key(0), 0)  # compiled before
    with jax.transfer_guard("disallow"):
        streams.key(streams.seed_key(2**32 - 1), Stream.NOISE, 5)


@pytest.fixture
def draws(monkeypatch):
    """Counts the draws from each key, where nothing is traced."""
    counts = collections.Counter()
    normal, bits, param = state.normal, jax.random.bits, nn.Module.param

    def record(key):
        if not isinstance(key, jax.core.Tracer):  # Flax looks at shapes with abstract keys
            counts[np.asarray(jax.random.key_data(key)).tobytes()] += 1

    def recorded_normal(key, positions, shape):
        # A row's own key, which that of the stream is not, and which no other stream has.
        record(key)
        for i in np.asarray(positions):
            record(jax.random.fold_in(key, int(i)))
        return normal(key, positions, shape)

    def recorded_bits(key, *rest, **options):
        record(key)
        return bits(key, *rest, **options)

    def recorded_param(self, name, init, *rest, **options):
        def recorded_init(key, *arguments):
            record(key)
            return init(key, *arguments)

        return param(self, name, recorded_init, *rest, **options)

    monkeypatch.setattr(state, "normal", recorded_normal)
    monkeypatch.setattr(jax.random, "bits", recorded_bits)
    monkeypatch.setattr(nn.Module, "param", recorded_param)
    with jax.disable_jit():
        yield counts


def tiny():
    config = configuration.base()
    config.seed = 0
    config.data.window = 4
    config.vae.steps = config.ldm.steps = 10
    config.vae.batch = config.ldm.batch = 4
    config.vae.microbatch = 4
    config.vae.model.update(latent=2, width=4, heads=1, encoder_layers=1, decoder_layers=1)
    config.ldm.model.update(hidden=4, blocks=1, precision="float32")
    config.sample.update(solver="heun", steps=3, churn=1.0, batch=4, count=4)
    return config


@pytest.mark.slow
def test_every_use_of_one_seed_draws_from_a_key_of_its_own(draws, monkeypatch):
    """Both stages' weights, two steps, validations; samples, completions and what they rest on."""
    monkeypatch.setattr("timeldm_jax.generator.PRIOR_SAMPLES", 4)
    monkeypatch.setattr("timeldm_jax.latents.SMALL_BATCH", 4)  # a padded window repeats its key
    monkeypatch.setattr("timeldm_jax.diffusion.conditional.LEVELS", 2)
    config = tiny()
    config.sample.marginal_windows = 4
    models = stages.build_models(config, 2)
    values = np.random.default_rng(0).random((20, 2), np.float32)
    windows = DeviceWindows(values, np.arange(4))
    stats = latents.zero_stats((models.vae.window, models.vae.latent), models.flat, "raw")._replace(
        scale=jnp.ones(models.flat)
    )
    posteriors = latents.Posteriors(*(np.zeros((4, models.flat), np.float32),) * 2)

    vae, ldm = stages.init_vae_state(config, models), stages.init_ldm_state(config, models, stats)
    weights = vae.params, ldm.params
    vae_step, ldm_step = (
        stages.make_vae_step(config, models, None),
        stages.make_ldm_step(config, models),
    )
    for _ in range(2):
        vae, _ = vae_step(vae, DeviceWindows(*map(jnp.asarray, windows)))
        ldm, _ = ldm_step(ldm, latents.Posteriors(*map(jnp.asarray, posteriors)))
    orders = {name: draws.pop(order_key(config, name)) for name in ("VAE", "LDM")}
    validation.of_vae(models.vae, windows)(weights[0])
    noise_config = configuration.noise_config(config)
    validation.of_ldm(models.denoiser, noise_config, stats, posteriors)(weights[1])
    generator = Generator(
        config=config,
        models=models,
        vae_params=weights[0],
        ldm_params=weights[1],
        stats=stats,
        scaler=Scaler((0.0,) * 2, (1.0,) * 2),
        columns=("a", "b"),
        schema=None,
        meta={},
    )
    list(generator.sample(4, seed=0))
    gaps = np.full((4, 4, 2), np.nan)
    for turns in ((), (0,), (0, 0), (0, 1)):
        generator.complete(gaps, 0, *turns)
    generator.own_marginals  # noqa: B018

    # An epoch's order is one bijection, evaluated at each step's places.
    assert orders == {"VAE": 2, "LDM": 2}
    shared = [key for key, count in draws.items() if count > 1]
    assert shared == []
    # 4 windows × (start, 3 steps) for samples, prior and marginals; 4 completions of 6 noises.
    assert sum(draws.values()) > 3 * 16 + 4 * 24


def order_key(config, stage):
    seed = streams.seed_key(config.seed)
    training = streams.key(seed, Stream[f"{stage}_TRAINING"])
    return np.asarray(jax.random.key_data(streams.key(training, Stream.ORDER))).tobytes()


def test_the_prior_is_not_made_of_the_samples_of_seed_0(monkeypatch):
    """Nor of their noise: that of `sample(seed=0)` was the prior's."""
    monkeypatch.setattr("timeldm_jax.generator.PRIOR_SAMPLES", 8)
    config = tiny()
    config.sample.update(solver="polar", churn=0.0, batch=8)
    models = stages.build_models(config, 2)
    stats = latents.zero_stats((models.vae.window, models.vae.latent), models.flat, "raw")._replace(
        scale=jnp.ones(models.flat)
    )
    generator = Generator(
        config=config,
        models=models,
        vae_params=stages.init_vae_state(config, models).params,
        ldm_params=stages.init_ldm_state(config, models, stats).params,
        stats=stats,
        scaler=Scaler((0.0,) * 2, (1.0,) * 2),
        columns=("a", "b"),
        schema=None,
        meta={},
    )
    found = []
    real = generator._draw_latents

    def recorded(params, stats, key, index, *context):
        z = real(params, stats, key, index, *context)
        if not isinstance(z, jax.core.Tracer):
            found.append(np.asarray(z))
        return z

    generator.__dict__["_draw_latents"] = recorded
    generator._prior  # noqa: B018
    (prior,) = found
    sampled = np.asarray(real(generator.ldm_params, stats, streams.seed_key(0), jnp.arange(8)))
    assert np.abs(prior - sampled).min() > 0
    assert abs(np.corrcoef(prior.ravel(), sampled.ravel())[0, 1]) < 0.5
