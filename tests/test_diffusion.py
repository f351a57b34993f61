"""EDM and its samplers against a Gaussian, whose exact denoiser and flow are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from timeldm_jax.diffusion import edm, samplers
from timeldm_jax.errors import ConfigError
from timeldm_jax.models.denoiser import Denoiser

MEAN = np.array([1.0, -2.0, 0.5])
STD = np.array([0.5, 1.0, 2.0])


def gaussian_denoiser(z, sigma):
    """E[clean | z] for clean ~ N(MEAN, STD²) per coordinate."""
    sigma = sigma[:, None]
    return (STD**2 * z + sigma**2 * MEAN) / (STD**2 + sigma**2)


def exact_flow(unit, sigma_max):
    """Where the probability-flow equation carries `sigma_max · unit` at σ = 0."""
    return MEAN + (sigma_max * unit - MEAN) * STD / np.sqrt(STD**2 + sigma_max**2)


def test_preconditioning_closed_form():
    sigma = np.array([0.002, 0.5, 3.0, 80.0])
    c = edm.precondition(jnp.asarray(sigma, jnp.float32), 0.5)
    np.testing.assert_allclose(c.skip, 0.25 / (sigma**2 + 0.25), rtol=1e-6)
    np.testing.assert_allclose(c.out, 0.5 * sigma / np.hypot(sigma, 0.5), rtol=1e-6)
    np.testing.assert_allclose(c.input, 1 / np.hypot(sigma, 0.5), rtol=1e-6)
    np.testing.assert_allclose(c.noise, np.log(sigma) / 4, rtol=1e-6)
    # The weight makes the network's own squared error count once at every level.
    weight = edm.loss_weight(jnp.asarray(sigma, jnp.float32), 0.5)
    np.testing.assert_allclose(weight * c.out**2, np.ones(4), rtol=1e-5)


def test_noise_levels_are_log_normal():
    normal = jax.random.normal(jax.random.key(0), (100_000,))
    log_sigma = np.log(edm.noise_level(normal, -1.2, 1.2))
    # Standard errors of mean and deviation at n = 1e5: 0.0038 and 0.0027; 4 of each.
    assert abs(log_sigma.mean() + 1.2) < 0.016
    assert abs(log_sigma.std() - 1.2) < 0.011


def test_denoising_loss_of_the_exact_denoiser():
    """The loss of the ideal network is the weighted posterior variance."""
    sigma_data, sigma = 0.7, 0.9
    n = 200_000
    keys = jax.random.split(jax.random.key(1))
    clean = MEAN + STD * jax.random.normal(keys[0], (n, 3))
    noise = jax.random.normal(keys[1], (n, 3))
    levels = jnp.full(n, sigma)
    c = edm.precondition(levels, sigma_data)

    def ideal(scaled, label):
        del label
        z = scaled / c.input[:, None]
        return (gaussian_denoiser(z, levels) - c.skip[:, None] * z) / c.out[:, None]

    loss = edm.denoising_loss(ideal, clean, noise, levels, sigma_data)
    variance = (STD**2 * sigma**2 / (STD**2 + sigma**2)).mean()
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    # Relative standard error of a mean of n·3 squares: under sqrt(2/n) = 0.003; 4 of it.
    np.testing.assert_allclose(loss.mean(), weight * variance, rtol=0.013)


def test_schedule():
    sigmas = samplers.karras_sigmas(5, 0.002, 80.0, 7.0)
    i = np.arange(5)
    expected = (80 ** (1 / 7) + i / 4 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(sigmas, [*expected, 0], rtol=1e-5)


def test_heun_is_second_order():
    with jax.enable_x64(True):
        unit = np.random.default_rng(0).normal(size=(64, 3))
        exact = exact_flow(unit, 10.0)
        errors = []
        for steps in (16, 32, 64, 128):
            # σ falls to σ_min with n steps, then the exact Gaussian step to 0 hides the Euler
            # step's own first-order error: compare at σ_min.
            sigmas = samplers.karras_sigmas(steps, 0.05, 10.0, 7.0).astype(np.float64)
            at_min = exact_min(unit, sigmas[0], sigmas[-2])
            reached = heun_to_min(unit, sigmas)
            errors.append(np.abs(reached - at_min).max())
        orders = np.log2(np.array(errors[:-1]) / errors[1:])
    # Order 2 means a factor 4 a doubling; the first halvings are not yet asymptotic.
    np.testing.assert_allclose(orders, 2.0, atol=0.15)
    assert np.isfinite(exact).all()


def exact_min(unit, sigma_max, sigma_min):
    return MEAN + (sigma_max * unit - MEAN) * np.sqrt(
        (STD**2 + sigma_min**2) / (STD**2 + sigma_max**2)
    )


def heun_to_min(unit, sigmas):
    """Undoes the sampler's last Euler step: out = D(z; σ_min) for the z it reached."""
    out = np.asarray(samplers.heun(gaussian_denoiser, jnp.asarray(unit), jnp.asarray(sigmas)))
    sigma = sigmas[-2]
    return (out * (STD**2 + sigma**2) - sigma**2 * MEAN) / STD**2


def test_deterministic_sampler_follows_the_exact_flow():
    unit = np.random.default_rng(1).normal(size=(256, 3)).astype(np.float32)
    sigmas = samplers.karras_sigmas(320, 0.002, 80, 7)
    out = samplers.heun(gaussian_denoiser, jnp.asarray(unit), sigmas)
    # The largest error was 0.040 at 40 steps; second order makes that 6e-4 at 320. Float32 adds
    # the rounding of numbers near 80·3, about 1e-5 a step.
    np.testing.assert_allclose(out, exact_flow(unit, 80.0), atol=2e-3)


@pytest.mark.parametrize("churn", [0.0, 1.0, 10.0])
def test_moments_of_samples(churn):
    n = 40_000
    index = jnp.arange(n)

    def noise(i):
        return jax.random.normal(jax.random.fold_in(jax.random.key(2), i), (n, 3))

    out = samplers.heun(
        gaussian_denoiser,
        jax.random.normal(jax.random.key(3), (len(index), 3)),
        samplers.karras_sigmas(100, 0.002, 80, 7),
        churn=churn,
        step_noise=noise,
    )
    # Standard errors: STD/sqrt(n) = 0.005·STD of the mean, 0.0035 relative of the deviation;
    # 4 of each, and 0.2% for the steps. The start has mean 0 instead of MEAN at σ = 80, of which
    # the flow keeps the share STD/80.
    assert np.all(np.abs(out.mean(axis=0) - MEAN) < 0.021 * STD + np.abs(MEAN) * STD / 80)
    np.testing.assert_allclose(out.std(axis=0), STD, rtol=0.016)
    # Coordinates stay independent.
    correlation = np.corrcoef(np.asarray(out).T)[np.triu_indices(3, 1)]
    assert np.all(np.abs(correlation) < 0.02)


def test_churn_raises_noise_as_published():
    """Against Algorithm 2 written as a plain loop in float64."""
    steps, churn = 6, 3.0
    unit = np.random.default_rng(4).normal(size=(8, 3))
    fresh = np.random.default_rng(5).normal(size=(steps, 8, 3))
    sigmas = samplers.karras_sigmas(steps, 0.02, 10, 7).astype(np.float64)
    z = unit * sigmas[0]
    for i in range(steps):
        gamma = min(churn / steps, np.sqrt(2) - 1)
        raised = sigmas[i] * (1 + gamma)
        z = z + np.sqrt(raised**2 - sigmas[i] ** 2) * fresh[i]
        slope = (z - gaussian_denoiser(z, np.full(8, raised))) / raised
        lower = z + (sigmas[i + 1] - raised) * slope
        if sigmas[i + 1] > 0:
            estimate = gaussian_denoiser(lower, np.full(8, sigmas[i + 1]))
            corrected = (lower - estimate) / sigmas[i + 1]
            lower = z + (sigmas[i + 1] - raised) * 0.5 * (slope + corrected)
        z = lower
    with jax.enable_x64(True):
        out = samplers.heun(
            gaussian_denoiser,
            jnp.asarray(unit),
            jnp.asarray(sigmas),
            churn=churn,
            step_noise=lambda i: jnp.asarray(fresh)[i],
        )
    np.testing.assert_allclose(out, z, rtol=1e-9)


def test_churn_without_noise_is_an_error():
    with pytest.raises(ValueError, match="step_noise"):
        samplers.heun(gaussian_denoiser, jnp.zeros((2, 3)), jnp.array([1.0, 0.5, 0.0]), churn=1.0)


def test_one_deviation_a_coordinate_makes_the_skip_path_the_gaussian_denoiser():
    centred = jnp.asarray(np.random.default_rng(6).normal(size=(5, 3)), jnp.float32)
    sigma = jnp.array([0.01, 0.3, 1.0, 4.0, 80.0])
    exact = gaussian_denoiser(centred + MEAN, sigma) - MEAN
    silent = edm.denoise(lambda z, label: 0 * z, centred, sigma, STD)
    np.testing.assert_allclose(silent, exact, rtol=1e-5, atol=1e-6)


def test_what_the_network_reads_when_coordinates_differ():
    """Each scaled by its own signal to noise, the clearest to unit variance."""
    sigma = 0.7
    seen = []

    def network(z, label):
        seen.append((z, label))
        return jnp.zeros_like(z)

    edm.denoise(network, jnp.ones((2, 3)), jnp.full(2, sigma), STD)
    total = STD**2 + sigma**2
    expected = np.sqrt(STD**2 / total) / np.sqrt(STD[-1] ** 2 / total[-1]) / np.sqrt(total)
    np.testing.assert_allclose(seen[0][0], np.tile(expected, (2, 1)), rtol=1e-5)
    np.testing.assert_allclose(seen[0][1], np.full(2, np.log(sigma) / 4), rtol=1e-6)


def test_denoising_loss_weighs_coordinates_by_the_scale_of_their_output():
    sigma = np.array([0.1, 2.0])
    clean, noise = np.random.default_rng(7).normal(size=(2, 2, 3)).astype(np.float32)
    raw = np.random.default_rng(8).normal(size=(2, 3)).astype(np.float32)
    loss = edm.denoising_loss(
        lambda z, label: jnp.asarray(raw), clean, noise, jnp.asarray(sigma, jnp.float32), STD
    )
    total = STD**2 + sigma[:, None] ** 2
    out = sigma[:, None] * STD / np.sqrt(total)
    target = (clean - STD**2 / total * (clean + sigma[:, None] * noise)) / out
    expected = np.average((raw - target) ** 2, axis=1, weights=out)
    np.testing.assert_allclose(loss, expected, rtol=2e-4)


def test_gates_scale_each_coordinate():
    """With all of the trunk's weights at hand: out + z · factor, both linear in its last state."""
    gated, plain = (Denoiser(hidden=16, blocks=1, gated=gated) for gated in (True, False))
    z, label = jax.random.normal(jax.random.key(0), (5, 3)), jnp.linspace(-1, 1, 5)
    params = gated.init(jax.random.key(1), z, label)["params"]
    assert (gated.apply({"params": params}, z, label) == 0).all()  # starts as c_skip·z
    moved = jax.tree.map(lambda a: a + 0.3, params)
    factor = {"out": moved["factor"]} | {
        k: v for k, v in moved.items() if k not in ("out", "factor")
    }
    out = {k: v for k, v in moved.items() if k != "factor"}
    expected = plain.apply({"params": out}, z, label) + z * plain.apply(
        {"params": factor}, z, label
    )
    np.testing.assert_allclose(gated.apply({"params": moved}, z, label), expected, rtol=1e-5)
    with pytest.raises(ConfigError, match="gated=True needs blocks of 1 or more"):
        Denoiser(hidden=16, blocks=0, gated=True)


def polar_of_a_gaussian(unit, steps, sigma_data, sigma_max):
    """`polar` for clean ~ N(MEAN, STD²), whatever the deviation that it is told."""

    def raw_output(z, sigma):
        c = edm.precondition(sigma[:, None], sigma_data)
        return (gaussian_denoiser(z, sigma) - c.skip * z) / c.out

    sigmas = samplers.karras_sigmas(steps, 0.002, sigma_max, 7.0).astype(np.float64)
    return np.asarray(samplers.polar(raw_output, jnp.asarray(unit), sigmas, sigma_data))


def polar_exact_flow(unit, sigma_data, sigma_max):
    """Where the flow carries what `polar` starts from, `unit · √(σ_max² + σ_data²)`."""
    start = unit * np.hypot(sigma_max, sigma_data)
    return MEAN + (start - MEAN) * STD / np.hypot(STD, sigma_max)


@pytest.mark.parametrize("sigma_data", [0.8, np.array([1.0, 0.3, 2.5])])
def test_polar_is_second_order_where_its_deviation_is_not_the_datas(sigma_data):
    with jax.enable_x64(True):
        unit = np.random.default_rng(0).normal(size=(64, 3))
        exact = polar_exact_flow(unit, sigma_data, 10.0)
        errors = [
            np.abs(polar_of_a_gaussian(unit, steps, sigma_data, 10.0) - exact).max()
            for steps in (20, 40, 80, 160)
        ]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    # Order 2 is a factor of 4 a doubling. The last step, Euler's, covers σ_min/σ_d of the angle
    # whatever the steps, so the order falls a little where that shows.
    assert np.all(orders > 1.6), (errors, orders)
    assert errors[-1] < 2e-3


def test_polar_is_exact_where_the_deviation_is_the_datas():
    """Centred, so that the network has nothing to say: two steps do."""
    with jax.enable_x64(True):
        unit = np.random.default_rng(1).normal(size=(64, 3))
        sigmas = samplers.karras_sigmas(2, 0.002, 80.0, 7.0).astype(np.float64)
        out = samplers.polar(lambda z, sigma: jnp.zeros_like(z), jnp.asarray(unit), sigmas, STD)
    np.testing.assert_allclose(out, unit * STD, rtol=1e-12)


# Of all windows, and of those that something is known of: N(0, WIDE²), and N(SHIFT, NARROW²).
WIDE, NARROW, SHIFT = np.array([1.5, 0.4]), np.array([0.6, 0.3]), np.array([1.0, -0.2])


def exact_network(mean, std):
    """F of clean ~ N(mean, std²), for a skip path of σ_d = WIDE."""

    def network(scaled, label):
        sigma = jnp.exp(4 * label)[:, None]
        c = edm.precondition(sigma, WIDE)
        z = scaled / (c.input * jnp.sqrt(c.skip / c.skip.max(axis=-1, keepdims=True)))
        estimate = (std**2 * z + sigma**2 * mean) / (std**2 + sigma**2)
        return (estimate - c.skip * z) / c.out

    return network


def guided_flow(strength, sigma_max):
    """Mean at σ = 0, from 0 at σ_max, and what the deviation there is multiplied by.

    The guided flow is `dz/dσ = σ·((1 − w)/(s_u² + σ²) + w/(s_c² + σ²))·z − w·σ·m/(s_c² + σ²)`.
    """

    def shrunk(sigma, i):
        free = WIDE[i] / np.hypot(WIDE[i], sigma)
        known = NARROW[i] / np.hypot(NARROW[i], sigma)
        return free ** (1 - strength) * known**strength

    def pull(sigma, i):
        return strength * sigma * SHIFT[i] / (NARROW[i] ** 2 + sigma**2) * shrunk(sigma, i)

    means = [
        integrate.quad(pull, 0, sigma_max, (i,), points=[0.1, 1.0], limit=400)[0] for i in (0, 1)
    ]
    return np.array(means), np.array([shrunk(sigma_max, i) for i in (0, 1)])


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("solver", ["polar", "heun"])
def test_guided_samples_of_gaussians_are_as_the_closed_form(strength, solver):
    """Above 1 they go beyond the mean of what is known, with less spread; at 0 it is not known."""
    network = edm.guided(
        exact_network(SHIFT, NARROW), exact_network(0.0, WIDE), jnp.full((64, 1), strength)
    )
    mean, factor = guided_flow(strength, 20.0)
    unit = np.random.default_rng(0).normal(size=(64, 2))
    with jax.enable_x64(True):
        sigmas = samplers.karras_sigmas(400, 0.002, 20.0, 7.0).astype(np.float64)
        if solver == "polar":
            start = unit * np.hypot(20.0, WIDE)
            found = samplers.polar(
                lambda z, sigma: edm.raw_output(network, z, sigma, WIDE),
                jnp.asarray(unit),
                sigmas,
                WIDE,
            )
        else:
            start = unit * 20.0
            found = samplers.heun(
                lambda z, sigma: edm.denoise(network, z, sigma, WIDE), jnp.asarray(unit), sigmas
            )
    # Both are of second order; at 400 steps and σ_min = .002 what is left is below 2e-3.
    np.testing.assert_allclose(found, mean + start * factor, atol=2e-3)
    if strength > 1:
        alone, whole = guided_flow(1.0, 20.0)
        assert (np.abs(mean) > np.abs(alone)).all()
        assert (factor < whole).all()
