"""Loss terms against definitions written out in numpy, in float64."""

import jax
import numpy as np
import pytest

from timeldm_jax.training import losses


@pytest.mark.parametrize("window", [1, 2, 7, 24])
def test_fourier_term_is_the_full_complex_transform(window):
    rng = np.random.default_rng(window)
    x, y = rng.normal(size=(2, 3, window, 4))
    transform = np.exp(-2j * np.pi * np.outer(np.arange(window), np.arange(window)) / window)
    fx, fy = (np.einsum("kt,btd->bkd", transform, a) / window for a in (x, y))
    expected = np.abs(fx.real - fy.real).mean() + np.abs(fx.imag - fy.imag).mean()
    terms = losses.reconstruction_terms(x.astype(np.float32), y.astype(np.float32))
    np.testing.assert_allclose(terms.fft, expected, rtol=1e-5)


def test_elementwise_terms_and_total():
    x = np.array([[[0.0, 1.0], [2.0, 4.0]]], np.float32)
    y = np.array([[[0.0, 2.0], [0.0, 4.0]]], np.float32)
    terms = losses.reconstruction_terms(x, y)
    # errors 0, 1, -2, 0; feature means of the error 0.5, -1; transform over 2 steps / 2:
    # feature 0: (-1, 1), feature 1: (0.5, 0.5)
    assert float(terms.l1) == 0.75
    assert float(terms.l2) == 1.25
    assert float(terms.feature_mean) == 0.625
    assert float(terms.fft) == 0.75
    total = 0.75 + 1.25 + 0.625 + np.sqrt(2) / 5 * 0.75
    np.testing.assert_allclose(losses.reconstruction_loss(terms, 2), total, rtol=1e-6)


def gapped(seed):
    """Windows of which some have many gaps and some none, and a reconstruction."""
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(2, 8, 6, 5)).astype(np.float32)
    x[random.random(x.shape) < np.linspace(0, 0.9, 8)[:, None, None]] = np.nan
    return x, y


def test_terms_with_gaps_are_means_over_what_is_known():
    x, y = gapped(0)
    error = np.nan_to_num(y.astype(np.float64) - x)
    known = np.isfinite(x).sum()
    transform = np.fft.fft(error, axis=1) / 6
    expected = losses.ReconstructionTerms(
        l1=np.abs(error).sum() / known,
        l2=np.square(error).sum() / known,
        feature_mean=np.square(error.mean(-1)).sum() * 5 / known,
        fft=(np.abs(transform.real) + np.abs(transform.imag)).sum() / known,
    )
    np.testing.assert_allclose(losses.reconstruction_terms(x, y, gaps=True), expected, rtol=1e-5)
    assert losses.known_count(x) == known


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_terms_of_parts_with_gaps_add_up_to_those_of_the_whole(parts):
    x, y = gapped(1)
    whole = losses.reconstruction_terms(x, y, gaps=True)
    total = losses.known_count(x)
    found = [
        losses.reconstruction_terms(a, b, gaps=True, total=total)
        for a, b in zip(np.split(x, parts), np.split(y, parts), strict=True)
    ]
    np.testing.assert_allclose(np.sum(found, axis=0), whole, rtol=1e-5)
    # The mean of the parts' own means, which it was, is another number.
    means = [
        losses.reconstruction_terms(a, b, gaps=True)
        for a, b in zip(np.split(x, parts), np.split(y, parts), strict=True)
    ]
    assert (np.abs(np.mean(means, axis=0) / np.array(whole) - 1) > 0.01).all()


def test_nothing_known_is_no_error():
    x, y = np.full((1, 4, 2), np.nan, np.float32), np.ones((1, 4, 2), np.float32)
    assert tuple(map(float, losses.reconstruction_terms(x, y, gaps=True))) == (0, 0, 0, 0)


def test_kl_of_a_gaussian():
    # KL(N(3, 0.5²) || N(0, 1)) = ln(1/0.5) + (0.25 + 9)/2 - 1/2
    mean, log_variance = np.full((2, 3), 3.0), np.full((2, 3), 2 * np.log(0.5))
    expected = np.log(2) + 9.25 / 2 - 0.5
    np.testing.assert_allclose(losses.kl_divergence(mean, log_variance), expected, rtol=1e-6)
    assert float(losses.kl_divergence(np.zeros(3), np.zeros(3))) == 0.0


def test_gradient_is_zero_at_a_perfect_reconstruction_of_l2_terms():
    x = np.random.default_rng(0).normal(size=(2, 8, 3)).astype(np.float32)

    def smooth(y):
        terms = losses.reconstruction_terms(x, y)
        return terms.l2 + terms.feature_mean

    np.testing.assert_array_equal(jax.grad(smooth)(x), np.zeros_like(x))
