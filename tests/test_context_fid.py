"""Context-FID against direct definitions: convolutions, crops, contrasts, Fréchet distance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
import scipy.linalg

from timeldm_jax.metrics import context_fid
from timeldm_jax.metrics.context_fid import Dilated, Encoder, Representations

pytestmark = pytest.mark.training

# With every part of the published one: several blocks, the last with a projection.
ENCODER = quick.ENCODER


@pytest.mark.parametrize("dilation", [1, 2, 3, 8, 1024])
def test_convolution_is_its_definition(dilation):
    x = np.random.default_rng(0).normal(size=(2, 8, 3)).astype(np.float32)
    layer = Dilated(4, dilation)
    params = layer.init(jax.random.key(0), x)
    kernel, bias = (np.asarray(params["params"][name]) for name in ("kernel", "bias"))
    middle = len(kernel) // 2
    expected = np.zeros((2, 8, 4)) + bias
    for t in range(8):
        for tap in (-1, 0, 1):
            if 0 <= t + tap * dilation < 8 and abs(tap) <= middle:
                expected[:, t] += x[:, t + tap * dilation] @ kernel[middle + tap]
    np.testing.assert_allclose(layer.apply(params, x), expected, atol=1e-5)
    # PyTorch's bound, √(1 / fan in) with all three taps, also where two of them read padding only.
    assert np.abs(kernel).max() <= 9**-0.5
    assert np.abs(kernel).max() > 0.6 * 9**-0.5


def test_a_crop_in_a_longer_buffer_encodes_as_the_crop_alone():
    """Against the network on the crop itself, whose own padding is what the mask must imitate."""
    x = np.random.default_rng(0).normal(size=(2, 16, 3)).astype(np.float32)
    params = ENCODER.init(jax.random.key(0), x)
    inside = jnp.broadcast_to(jnp.arange(16) < 11, (2, 16))
    padded = ENCODER.apply(params, x, inside)[:, :11]
    # Dilations are powers of 2: 8 is the largest that reaches, in 11 steps as in 16.
    alone = ENCODER.apply(params, x[:, :11])
    np.testing.assert_allclose(padded, alone, atol=2e-5)


def test_published_scores_are_of_ts2vecs_own_sizes():
    """Its repository's defaults: 10 blocks and a last one of 320 channels."""
    assert Encoder() == Encoder(blocks=11, hidden=64, out=320)


def test_masked_inputs_do_not_matter():
    x = np.random.default_rng(0).normal(size=(1, 6, 2)).astype(np.float32)
    params = ENCODER.init(jax.random.key(0), x)
    inside = jnp.ones((1, 6), bool)
    kept = jnp.array([[True, False, True, True, False, True]])
    changed = x.copy()
    changed[0, [1, 4]] = 100
    np.testing.assert_array_equal(
        ENCODER.apply(params, x, inside, kept), ENCODER.apply(params, changed, inside, kept)
    )


def contrast_oracle(first, second):
    """Yue et al. 2022, Eq. 1 to 3, term by term in float64."""

    def instance(a, b):
        total, (batch, time, _) = 0.0, a.shape
        for t in range(time):
            views = np.concatenate([a[:, t], b[:, t]])
            for i in range(2 * batch):
                others = [views[i] @ views[j] for j in range(2 * batch) if j != i]
                total -= views[i] @ views[(i + batch) % (2 * batch)] - np.logaddexp.reduce(others)
        return total / (2 * batch * time)

    def temporal(a, b):
        total, (batch, time, _) = 0.0, a.shape
        for i in range(batch):
            views = np.concatenate([a[i], b[i]])
            for t in range(2 * time):
                others = [views[t] @ views[s] for s in range(2 * time) if s != t]
                total -= views[t] @ views[(t + time) % (2 * time)] - np.logaddexp.reduce(others)
        return total / (2 * batch * time)

    a, b = first.astype(np.float64), second.astype(np.float64)
    terms = []
    while a.shape[1] > 1:
        terms.append(0.5 * instance(a, b) + 0.5 * temporal(a, b))
        half = a.shape[1] // 2
        a, b = (z[:, : 2 * half].reshape(len(z), half, 2, -1).max(axis=2) for z in (a, b))
    terms.append(0.5 * instance(a, b))
    return np.mean(terms)


contrast = jax.jit(context_fid.hierarchical_contrast)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 7, 8, 9])
def test_contrast_is_its_definition_on_the_steps_that_count(length):
    random = np.random.default_rng(length)
    first, second = random.normal(size=(2, 3, 9, 4)).astype(np.float32)
    found = contrast(first, second, jnp.asarray(length))
    expected = contrast_oracle(first[:, :length], second[:, :length])
    np.testing.assert_allclose(float(found), expected, rtol=1e-5)


def test_contrast_has_finite_gradients_at_every_length():
    views = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 9, 4)), jnp.float32)
    gradient_of = jax.jit(jax.grad(lambda v, length: contrast(v[0], v[1], length)))
    for length in range(1, 10):
        gradient = gradient_of(views, jnp.asarray(length))
        assert bool(jnp.isfinite(gradient).all())
        assert float(jnp.abs(gradient[:, :, length:]).max(initial=0)) == 0


def test_frechet_distance_is_the_formula_with_a_matrix_root():
    random = np.random.default_rng(0)
    sets = [random.normal(size=(60, 8)) @ random.normal(size=(8, 8)) + i for i in range(2)]
    one, two = (context_fid.describe(s) for s in sets)
    np.testing.assert_allclose(one.covariance, np.cov(sets[0].T))
    root = scipy.linalg.sqrtm(one.covariance @ two.covariance).real
    expected = np.square(one.mean - two.mean).sum() + np.trace(
        one.covariance + two.covariance - 2 * root
    )
    assert context_fid.frechet_distance(one, two) == pytest.approx(expected, rel=1e-9)
    assert context_fid.frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_known_gaussians():
    # Commuting covariances: |Δμ|² + Σ(√a − √b)²; the second is singular.
    one = Representations(np.zeros(3), np.diag([4.0, 9, 1]))
    two = Representations(np.array([1.0, 2, 2]), np.diag([1.0, 0, 1]))
    assert context_fid.frechet_distance(one, two) == pytest.approx(9 + 1 + 9)


def test_repeats_differ_and_the_seed_repeats_them():
    windows = np.random.default_rng(0).uniform(size=(30, 6, 2)).astype(np.float32)
    params = context_fid.fit(windows, repeats=2, steps=3)
    again = context_fid.fit(windows, repeats=2, steps=3)
    leaf = params["params"]["input"]
    assert leaf.shape == (2, 2, ENCODER.hidden)
    np.testing.assert_array_equal(leaf, again["params"]["input"])
    assert not np.allclose(leaf[0], leaf[1])


@pytest.mark.slow
def test_weights_are_the_mean_of_all_steps_the_first_included():
    """Steps of one run are the starts of a longer one, so means of 1 and 2 steps tell the rest."""
    windows = np.random.default_rng(0).uniform(size=(30, 6, 2)).astype(np.float32)

    def mean(steps):
        return np.asarray(context_fid.fit(windows, repeats=1, steps=steps)["params"]["input"][0])

    # A first AdamW step moves each weight by the learning rate (and the decay, 1e-5 of it), so the
    # mean of start and first step lies half as far from the start; three such means are in line.
    one, two = mean(1), mean(2)
    key = jax.random.split(jax.random.split(jax.random.key(0), 1)[0], 3)[0]
    start = np.asarray(ENCODER.init(key, windows[:1])["params"]["input"])
    np.testing.assert_allclose(np.abs(one - start), 0.5e-3, rtol=0.02)
    assert np.abs(two - start).max() < 1.05e-3
    assert np.abs(3 * two - 2 * one - start).max() < 2.1e-3  # the second step's own weights


def test_encoding_does_not_depend_on_the_batch():
    windows = np.random.default_rng(0).uniform(size=(300, 6, 2))
    params = jax.tree.map(lambda p: p[0], context_fid.fit(windows[:50], repeats=1, steps=2))
    encoded = context_fid.encode(params, windows)
    assert encoded.shape == (300, ENCODER.out)
    some = context_fid.encode(params, windows[[250, 3]])
    np.testing.assert_allclose(some, encoded[[250, 3]], atol=1e-5)
    direct = np.asarray(ENCODER.apply(params, windows[:5].astype(np.float32))).max(axis=1)
    np.testing.assert_allclose(encoded[:5], direct, atol=1e-5)


@pytest.mark.parametrize(
    "shape",
    [(12, 1, 2), *(pytest.param(s, marks=pytest.mark.slow) for s in ((5, 4, 1), (20, 40, 3)))],
)
def test_short_few_and_single(shape):
    windows = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    params = context_fid.fit(windows, repeats=1, steps=2)
    encoded = context_fid.encode(jax.tree.map(lambda p: p[0], params), windows)
    assert np.isfinite(encoded).all()
