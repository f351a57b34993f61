"""One step of each stage: gradients, parts of a batch, the average, latents."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from timeldm_jax import config as configuration
from timeldm_jax import latents
from timeldm_jax.data.series import DeviceWindows, Missing
from timeldm_jax.diffusion import samplers
from timeldm_jax.errors import ConfigError
from timeldm_jax.generator import Generator
from timeldm_jax.models.denoiser import Denoiser
from timeldm_jax.models.vae import VAE
from timeldm_jax.training import beta, parallel, stages, state, steps

pytestmark = pytest.mark.training

BETA = beta.BetaConfig(maximum=1e-2, minimum=1e-5, decay=0.7, patience=3, restart=True)
OPTIMIZER = steps.OptimizerConfig(1e-3, 0.999, "cosine", 0.9, 2, 3, ema=0.9)
SMALL_VAE = VAE(
    features=3,
    window=8,
    latent=2,
    width=8,
    heads=2,
    mlp_ratio=2,
    encoder_layers=1,
    decoder_layers=1,
    norm="pre",
    head="linear",
    skip=True,
)
DENOISER = Denoiser(hidden=16, blocks=1)
NOISE = steps.NoiseConfig(sigma_data=1.0, P_mean=-0.5, P_std=1.2)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def vae_problem(micro=None, missing=None):
    batch = steps.Batch(16, micro=micro)
    optimizer = steps.make_optimizer(OPTIMIZER, 10)
    step = steps.vae_step(SMALL_VAE, optimizer, OPTIMIZER, BETA, batch, missing)
    params = SMALL_VAE.init(jax.random.key(0), jnp.zeros((1, 8, 3)), jnp.zeros((1, 8, 2)))["params"]
    train = state.init(params, optimizer, jax.random.key(1), beta=beta.init(BETA))
    data = DeviceWindows(normal(4, 60, 3), jnp.arange(53))
    return step, batch, train, data


def laid_out(layout):
    """Deviations as they are."""
    return latents.LatentConfig(layout, span=0)


def ldm_problem(layout="principal"):
    batch = steps.Batch(16)
    optimizer = steps.make_optimizer(OPTIMIZER, 10)
    step = steps.ldm_step(DENOISER, optimizer, OPTIMIZER, NOISE, batch)
    posteriors = latents.Posteriors(normal(5, 53, 6), normal(6, 53, 6) - 3)
    host = jax.tree.map(np.asarray, posteriors)
    stats = latents.latent_stats(host, laid_out(layout), NOISE.sigma_data)
    params = DENOISER.init(jax.random.key(0), jnp.zeros((1, 6)), jnp.zeros(1))["params"]
    train = state.init(params, optimizer, jax.random.key(1), latent_stats=stats)
    return step, batch, train, posteriors


def test_parts_of_a_batch_add_up_to_the_whole():
    results = []
    for micro in (None, 5):  # 5 does not divide 16: the next number of equal parts does
        step, batch, train, data = vae_problem(micro)
        assert batch.positions().shape == {None: (1, 16), 5: (4, 4)}[micro]
        results.append(parallel.chunk_runner(step, batch)(5)(train, data))
    for other in results[1:]:
        # Only the order of sums differs. Adam divides by the root of a squared gradient, which
        # makes rounding of near-zero gradients visible: learning rate 1e-3 x 5 steps x 1e-2.
        chex.assert_trees_all_close(results[0][1], other[1], rtol=1e-4)
        chex.assert_trees_all_close(
            without_key_bias(results[0][0].params), without_key_bias(other[0].params), atol=5e-5
        )


def with_gaps(rows):
    """Feature 0 has gaps, most of them early, and feature 2 says where."""
    rows = np.array(rows)
    gaps = np.random.default_rng(0).random(len(rows)) < np.linspace(0.9, 0, len(rows))
    rows[gaps, 0] = np.nan
    rows[:, 2] = gaps
    return jnp.asarray(rows)


def test_parts_of_a_batch_with_gaps_add_up_to_the_whole():
    """The mean over known values is not the mean of the parts' means."""
    results = []
    for micro in (None, 4):
        step, _, train, data = vae_problem(micro, Missing((0,), (2,)))
        data = data._replace(values=with_gaps(data.values))
        after, metrics = jax.jit(step)(train, data)
        moments = next(s for s in jax.tree.leaves(after.opt_state, is_leaf=is_adam) if is_adam(s))
        results.append((metrics, without_key_bias(moments.mu)))
    for other in results[1:]:
        # Only the order of sums differs.
        chex.assert_trees_all_close(results[0], other, rtol=1e-4, atol=1e-7)


def without_key_bias(params):
    """A key bias shifts all logits of a query alike: its gradient is zero but for rounding."""
    return {
        "/".join(str(k.key) for k in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if "key_bias" not in str(path)
    }


@pytest.mark.parametrize("problem", [vae_problem, ldm_problem])
def test_a_chunk_is_traced_once_and_the_average_follows_the_weights(problem):
    step, batch, train, data = problem()
    traced = chex.assert_max_traces(step, n=1)
    run = parallel.chunk_runner(traced, batch)(1)
    average = jax.tree.map(np.array, train.ema)  # a copy: the state is donated
    for i in range(4):
        train, metrics = run(train, data)
        average = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * np.array(p), average, train.params)
        chex.assert_trees_all_close(train.ema, average, rtol=1e-5, atol=1e-7)
        chex.assert_tree_all_finite(metrics)
        assert int(train.step) == i + 1


@pytest.mark.parametrize("problem", [vae_problem, ldm_problem])
def test_gradient_is_of_the_loss_that_is_reported(problem):
    """A tiny step of plain descent lowers the reported loss by its squared gradient."""
    step, _, train, data = problem()
    step = jax.jit(step)
    after, _ = step(train, data)
    # Adam's first moment after one step from zero is (1 - b1) times the gradient.
    moments = next(s for s in jax.tree.leaves(after.opt_state, is_leaf=is_adam) if is_adam(s))
    gradient = jax.tree.map(lambda mu: mu / 0.1, moments.mu)
    size = 1e-3 / float(optax.tree.norm(gradient))
    losses = []
    for sign in (-1, 1):
        moved = jax.tree.map(lambda p, g, s=sign: p + s * size * g, train.params, gradient)
        losses.append(float(step(train._replace(params=moved), data)[1]["loss"]))
    slope = (losses[1] - losses[0]) / (2 * size)
    # A central difference in float32: rounding of the loss (1e-7) over the change (1e-3 x norm).
    np.testing.assert_allclose(slope, optax.tree.norm(gradient, squared=True), rtol=0.02)


def is_adam(node):
    return isinstance(node, optax.ScaleByAdamState)


def test_a_vae_with_skips_starts_as_the_identity():
    """With a latent channel a feature: nothing of a window is lost before training adds to it."""
    vae = SMALL_VAE.clone(latent=3)
    x = normal(0, 5, 8, 3)
    params = vae.init(jax.random.key(0), x, x)
    output = vae.apply(params, x, jnp.zeros((5, 8, 3)))
    np.testing.assert_array_equal(output.mean, x)
    np.testing.assert_array_equal(output.reconstruction, x)
    # A posterior narrow enough to show it: e^(-6/2) is 0.05 of a range of 1; the head adds to it.
    assert -9 < output.log_variance.mean() < -3


def test_a_window_gets_a_fresh_posterior_draw_at_each_visit():
    _, _, train, posteriors = ldm_problem()
    index = positions = jnp.arange(16)

    def loss(step_number):
        moved = train._replace(step=jnp.int32(step_number))
        each = steps.latent_losses(DENOISER, NOISE, moved, posteriors, index, positions)
        return each(train.params).mean()

    assert float(loss(0)) == float(loss(0))
    assert len({float(loss(i)) for i in range(4)}) == 4


def test_a_program_compiled_in_less_time_draws_the_same_weights():
    config = configuration.load("configs/sines.py", "quick")
    models = stages.build_models(config, 5)
    every = (stages._first_vae_state(config, models), stages.init_vae_state(config, models))
    one, other = (jax.tree.map(lambda a: np.asarray(a, copy=True), s.params) for s in every)
    chex.assert_trees_all_equal(one, other)


def test_standardised_draws_have_mean_zero_and_variance_one():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(20_000, 3)) * [0.1, 1.0, 5.0] + [1.0, -2.0, 0.0]
    log_variance = np.log([0.04, 1.0, 0.01]) + np.zeros((20_000, 3))
    posteriors = latents.Posteriors(mean.astype(np.float32), log_variance.astype(np.float32))
    stats = latents.latent_stats(posteriors, laid_out("standard"), 1.0)
    draws = mean + np.exp(log_variance / 2) * rng.normal(size=mean.shape)
    standard = stats.apply(draws)
    # Standard errors at n = 2e4: 0.007 of the mean, 0.005 of the deviation; 4 of each.
    np.testing.assert_allclose(standard.mean(axis=0), 0, atol=0.028)
    np.testing.assert_allclose(standard.std(axis=0), 1, atol=0.02)
    raw = latents.latent_stats(posteriors, laid_out("raw"), 1.0)
    np.testing.assert_array_equal(raw.apply(draws), draws)


def test_principal_draws_are_uncorrelated_and_come_back(monkeypatch):
    monkeypatch.setattr(latents, "STATS_BATCH", 7_000)  # parts that do not divide the set
    rng = np.random.default_rng(1)
    mean = rng.normal(size=(20_000, 4)) @ rng.normal(size=(4, 4)) + [1.0, -2.0, 0.0, 5.0]
    log_variance = np.log([0.04, 1.0, 0.01, 0.1]) + np.zeros((20_000, 4))
    posteriors = latents.Posteriors(mean.astype(np.float32), log_variance.astype(np.float32))
    stats = latents.latent_stats(posteriors, laid_out("principal"), 0.5)
    draws = mean + np.exp(log_variance / 2) * rng.normal(size=mean.shape)
    covariance = np.cov(stats.apply(draws).T)
    # Widest first; as a whole of the mean square asked for. Sampling error at n = 2e4, as above.
    assert (np.diff(stats.deviation) <= 0).all()
    np.testing.assert_allclose(np.mean(stats.deviation**2), 0.25, rtol=1e-5)
    outer = np.outer(stats.deviation, stats.deviation)
    np.testing.assert_allclose(covariance / outer, np.eye(4), atol=0.04)
    np.testing.assert_allclose(stats.invert(stats.apply(draws)), draws, atol=1e-4)
    # A rotation and one scale: distances keep their proportions.
    np.testing.assert_allclose(stats.axes.T @ stats.axes, np.eye(4), atol=1e-6)
    assert len(set(stats.scale.tolist())) == 1


def rough(count=4_000, time=16, seed=2):
    """Two channels that go back to their mean at each end, of which one follows the other."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(time, count, 2))
    walks = [steps[0]]
    for step in steps[1:]:
        walks.append(0.8 * walks[-1] + 0.6 * step)
    walks = np.stack(walks, axis=1) * [2.0, 0.1]
    walks[..., 1] += 0.5 * walks[..., 0]
    return (walks + np.array([3.0, -1.0])).astype(np.float32)


@pytest.mark.parametrize("drawn", [False, True])
def test_frequencies_are_turned_to_their_own_axes_and_come_back(monkeypatch, drawn):
    """Against cosines written out, and the covariance of each frequency."""
    monkeypatch.setattr(latents, "STATS_BYTES", 8 * 32 * 900)  # parts that do not divide the set
    windows = rough()
    count, time, channels = windows.shape
    flat, spread = windows.reshape(count, -1), np.linspace(0.01, 0.09, time * channels)
    log_variance = np.log(spread) + np.zeros((count, 1)) if drawn else ()
    posteriors = latents.Posteriors(flat, np.float32(log_variance) if drawn else ())
    stats = latents.latent_stats(posteriors, laid_out("cosine"), 1.0, time)
    k, t = np.meshgrid(np.arange(time), np.arange(time), indexing="ij")
    cosines = np.cos(np.pi * k * (t + 0.5) / time) * np.sqrt(2 / time)
    cosines[0] /= np.sqrt(2)
    turned = np.einsum("kt,ntm->nkm", cosines, windows.astype(np.float64) - windows.mean(0))
    noise = np.einsum("kt,tm->km", cosines**2, spread.reshape(time, channels)) * drawn
    seen = np.asarray(stats.apply(flat)).reshape(count, time, channels)
    scale = stats.scale.reshape(time, channels)
    for i in range(time):
        covariance = np.cov(turned[:, i].T, bias=True) + np.diag(noise[i])
        variance = np.linalg.eigvalsh(covariance)[::-1]
        deviation = stats.deviation.reshape(time, channels)[i] * scale[i]
        np.testing.assert_allclose(np.square(deviation), variance, rtol=1e-4)
        if not drawn:  # uncorrelated: of draws only with their noise
            np.testing.assert_allclose(
                np.cov(seen[:, i].T, bias=True), np.diag(np.square(deviation / scale[i])), atol=1e-4
            )
    np.testing.assert_allclose(np.square(stats.deviation).mean(), 1, rtol=1e-5)
    # A rotation and one scale.
    lengths = [
        np.linalg.norm(each, axis=1) for each in (seen.reshape(count, -1), flat - flat.mean(0))
    ]
    np.testing.assert_allclose(lengths[0] * stats.scale[0], lengths[1], rtol=1e-4)
    np.testing.assert_allclose(stats.invert(seen.reshape(count, -1)), flat, atol=1e-5)


def test_one_frequency_has_the_principal_axes():
    posteriors = latents.Posteriors(rough().reshape(4_000, -1))
    one = latents.latent_stats(posteriors, laid_out("cosine"), 1.0)
    other = latents.latent_stats(posteriors, laid_out("principal"), 1.0)
    np.testing.assert_allclose(one.deviation, other.deviation, rtol=1e-4)
    agree = np.sum(one.axes[0] * other.axes, axis=0)  # axes have no sign
    np.testing.assert_allclose(np.abs(agree), 1, atol=1e-3)


def wide_and_narrow(count=3_000):
    """Latents along six axes of deviations 1, .3, .01, .001, .0002 and none, turned."""
    rng = np.random.default_rng(3)
    turned = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    deviations = np.array([1, 0.3, 1e-2, 1e-3, 2e-4, 0])
    drawn = rng.normal(size=(count, 6))
    drawn = (drawn - drawn.mean(0)) / drawn.std(0)
    return (drawn * deviations @ turned.T).astype(np.float32), deviations


def test_deviations_are_brought_within_the_span():
    mean, deviations = wide_and_narrow()
    stats = latents.latent_stats(latents.Posteriors(mean), latents.LatentConfig(span=50), 1.0)
    # By hand: the ratio of 5,000 is 50 at the power ln 50 / ln 5000.
    power = np.log(50) / np.log(5_000)
    found = stats.deviation / stats.deviation[0]
    np.testing.assert_allclose(found[:5], deviations[:5] ** power, rtol=0.1)
    assert found[5] < 1e-6  # counts for nothing
    np.testing.assert_allclose(np.square(stats.deviation).mean(), 1, rtol=1e-5)
    # What the diffusion sees has these deviations, and comes back.
    seen = np.asarray(stats.apply(mean))
    np.testing.assert_allclose(seen.std(0)[:5], stats.deviation[:5], rtol=0.02)
    np.testing.assert_allclose(stats.invert(seen), mean, atol=1e-6)
    # Within the span already: as they are.
    kept = latents.latent_stats(latents.Posteriors(mean), latents.LatentConfig(span=1e4), 1.0)
    np.testing.assert_allclose((kept.deviation / kept.deviation[0])[:5], deviations[:5], rtol=0.1)


def test_the_widest_axes_are_those_of_all(monkeypatch):
    mean, _ = wide_and_narrow(60)
    posteriors = latents.Posteriors(mean)
    every = latents.latent_stats(posteriors, latents.LatentConfig(span=0), 1.0)
    few = latents.latent_stats(posteriors, latents.LatentConfig(axes=3, span=0), 1.0)
    assert few.axes.shape == (6, 3)
    np.testing.assert_allclose(abs(np.sum(few.axes * every.axes[:, :3], axis=0)), 1, atol=1e-5)
    scaled = few.deviation / few.deviation[0]
    np.testing.assert_allclose(scaled, every.deviation[:3] / every.deviation[0], rtol=1e-4)
    # What is left out is the narrowest: .001 and less.
    np.testing.assert_allclose(few.invert(few.apply(mean)), mean, atol=5e-3)
    # Of windows that are alike there are fewer axes than asked for, and still only numbers.
    alike = latents.Posteriors(np.repeat(mean[:3], 20, axis=0))
    found = latents.latent_stats(alike, latents.LatentConfig(axes=4), 1.0)
    assert all(np.isfinite(part).all() for part in found)
    np.testing.assert_allclose(found.invert(found.apply(alike.mean)), alike.mean, atol=5e-3)
    with pytest.raises(ConfigError, match=r"config.ldm.axes=5 must be below .* windows, 5"):
        latents.latent_stats(latents.Posteriors(mean[:5]), latents.LatentConfig(axes=5), 1.0)


def test_narrow_axes_are_sampled_with_their_deviations():
    """Float32 cannot tell the angles of the widest levels from π/2: their complements it can."""
    deviation = jnp.float32(np.array([5, 1, 1e-3, 1e-6, 1e-9]))
    unit, sigmas = normal(7, 20_000, 5), samplers.karras_sigmas(18, 0.002, 80.0, 7.0)
    # A network that is off by a tenth of each coordinate, to integrate at all.
    z = samplers.polar(
        lambda z, sigma: 0.1 * z / jnp.hypot(sigma, deviation), unit, sigmas, deviation
    )
    # dv/dθ = −.1 v over a quarter turn: deviations grow by exp(.1·π/2); 4 standard errors of 2 %.
    np.testing.assert_allclose(z.std(0) / deviation, np.exp(0.05 * np.pi), rtol=0.03)


def test_untrained_samples_have_the_latents_covariance():
    """A network that answers 0 leaves the denoiser of the Gaussian: samples are its draws."""
    rng = np.random.default_rng(2)
    mean = (rng.normal(size=(5_000, 4)) @ rng.normal(size=(4, 4)) + 3).astype(np.float32)
    posteriors = latents.Posteriors(mean, np.full(mean.shape, -4, np.float32))
    stats = latents.latent_stats(posteriors, laid_out("principal"), 1.0)
    deviation = stats.sigma_data(1.0)
    unit, sigmas = normal(7, 40_000, 4), samplers.karras_sigmas(4, 0.002, 80.0, 7.0)
    z = samplers.polar(lambda z, sigma: 0 * z, unit, sigmas, deviation)
    z = stats.invert(np.asarray(z))
    expected = np.cov(mean.T) + np.exp(-4) * np.eye(4)
    # Errors of a covariance at n = 4e4 are 0.7% of the product of deviations; 4 of it. Steps add
    # nothing, however few.
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(np.cov(z.T) / scale, expected / scale, atol=0.028)
    np.testing.assert_allclose(z.mean(0), mean.mean(0), atol=0.1)


def test_a_generator_draws_the_same_latents_with_either_solver():
    """One equation, one start, many steps: what differs is Heun's start, by (σ_d/80)² / 2."""
    config = configuration.base()
    config.data.window = 4
    config.vae.model.update(latent=3, width=8, encoder_layers=1, decoder_layers=1)
    config.ldm.model.update(hidden=16, blocks=1, precision="float32")
    models = stages.build_models(config, 3)
    mixed = normal(1, 500, 12) @ normal(2, 12, 12)
    posteriors = latents.Posteriors(np.asarray(mixed), np.full(mixed.shape, -5, np.float32))
    stats = latents.latent_stats(posteriors, laid_out("principal"), 1.0)
    initial = stages.init_ldm_state(config, models, stats).params
    params = jax.tree.map(lambda a: a + 0.1 * normal(a.size, *a.shape), initial)
    index = jnp.arange(64)

    def drawn(solver, params):
        config.sample.update(solver=solver, steps=300)
        parts = dict.fromkeys(("vae_params", "scaler", "schema", "meta"), None)
        generator = Generator(
            config=config, models=models, ldm_params=params, stats=stats, columns=(), **parts
        )
        return generator._draw_latents(params, stats, jax.random.key(3), index) / stats.deviation

    polar = drawn("polar", params)
    # .005 at 300 steps, most of it Heun's, in deviations.
    np.testing.assert_allclose(polar, drawn("heun", params), atol=0.01)
    # The network matters: without it the same start ends elsewhere.
    assert np.abs(polar - drawn("polar", initial)).mean() > 0.1


def test_plateau_schedule_cuts_the_rate_once_a_plateau_lasts():
    config = steps.OptimizerConfig(1e-3, 0.999, "plateau", 0.5, 2, 3, ema=0.0)
    optimizer = steps.make_optimizer(config, 100)
    params = jnp.zeros(())
    opt_state = optimizer.init(params)
    sizes = []
    for _ in range(14):
        update, opt_state = optimizer.update(jnp.ones(()), opt_state, params, value=jnp.ones(()))
        sizes.append(-float(update))
    # Constant gradient: Adam's step is the rate. Three losses make a judgement; the first is the
    # best, the next two no better: the rate halves with the ninth.
    np.testing.assert_allclose(sizes[:8], 1e-3, rtol=1e-4)
    np.testing.assert_allclose(sizes[9:], 5e-4, rtol=1e-4)
