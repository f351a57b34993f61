"""Conditional sampling against the posterior of a Gaussian, and the joins of long series."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timeldm_jax.diffusion import conditional
from timeldm_jax.metrics.seams import seam_score

TIME, FEATURES, FLAT = 6, 2, 8


class Gaussian:
    """Latents N(0, S) with the exact denoiser, and a linear decoder: all has a closed form."""

    def __init__(self, seed=0):
        random = np.random.default_rng(seed)
        self.decoder = random.normal(size=(FLAT, TIME * FEATURES)) * 0.15
        mixed = random.normal(size=(FLAT, FLAT))
        covariance = mixed @ mixed.T
        deviation = np.sqrt(np.diag(covariance))
        self.covariance = covariance / np.outer(deviation, deviation)
        values, vectors = np.linalg.eigh(self.covariance)
        self.prior = conditional.Prior(*(jnp.asarray(a, jnp.float32) for a in (values, vectors)))
        latent = random.multivariate_normal(np.zeros(FLAT), self.covariance)
        self.truth = (latent @ self.decoder).reshape(TIME, FEATURES) + 0.5

    def denoise(self, z, sigma):
        gain = self.prior.values / (self.prior.values + sigma**2)
        return (z @ self.prior.vectors * gain) @ self.prior.vectors.T

    def decode(self, z):
        return (z @ self.decoder.astype(np.float32)).reshape(-1, TIME, FEATURES) + 0.5

    def complete(self, observed):
        def noise(i):
            return jax.random.normal(
                jax.random.fold_in(jax.random.key(0), i), (len(observed), FLAT)
            )

        observed = jnp.asarray(observed, jnp.float32)
        found = conditional.complete(self.denoise, self.decode, observed, noise, self.prior)
        return np.asarray(found, np.float64)


@pytest.mark.parametrize("seed", [0, 1])
def test_completions_follow_the_posterior(seed):
    model, count = Gaussian(seed), 4_000
    known = np.random.default_rng(seed).random((TIME, FEATURES)) < 0.4
    observed = np.repeat(np.where(known, model.truth, np.nan)[None], count, axis=0)
    found = model.complete(observed).reshape(count, -1)
    seen = known.ravel()
    full = model.decoder.T @ model.covariance @ model.decoder
    noise = conditional.TOLERANCE**2 * np.eye(seen.sum())
    gain = full[:, seen] @ np.linalg.inv(full[np.ix_(seen, seen)] + noise)
    mean = 0.5 + gain @ (model.truth.ravel()[seen] - 0.5)
    deviation = np.sqrt(np.maximum(np.diag(full - gain @ full[seen]), 1e-12))
    # The mean of 4,000 draws wanders by .016 deviations.
    assert (np.abs(found.mean(0) - mean) / deviation)[~seen].max() < 0.08
    # Their standard deviation wanders by 1.1% of itself; 12 of them, so 3.5 times that.
    np.testing.assert_allclose((found.std(0) / deviation)[~seen], 1, atol=0.04)
    np.testing.assert_allclose(found[:, seen], observed.reshape(count, -1)[:, seen], rtol=1e-6)


def test_with_nothing_observed_windows_are_plain_samples():
    model = Gaussian()
    found = model.complete(np.full((4_000, TIME, FEATURES), np.nan)).reshape(4_000, -1)
    deviation = np.sqrt(np.diag(model.decoder.T @ model.covariance @ model.decoder))
    np.testing.assert_allclose(found.std(0), deviation, rtol=0.04)
    np.testing.assert_allclose(found.mean(0), 0.5, atol=0.05)


# Joins.


def walk(seed, length=2_000):
    return np.random.default_rng(seed).normal(size=(1, length, 3)).cumsum(axis=1)


def test_joins_of_a_whole_series_cannot_be_told():
    rows = np.arange(24, 2_000, 12)
    told = sum(seam_score(walk(seed), rows, "abc")["p"] < 0.05 for seed in range(40))
    assert told <= 6  # 2 expected at the 5% level; P(more than 6) is under 1%


def test_a_jump_at_each_join_is_told():
    series, rows = walk(0), np.arange(24, 2_000, 12)
    series[0, :, 1] += np.repeat(np.arange(len(rows) + 1) % 2 * 3.0, np.diff([0, *rows, 2_000]))
    found = seam_score(series, rows, "abc")
    assert found["p"] < 1e-6
    assert found["column"] == "b"
    assert found["verdict"].startswith("joins can be told: 'b'")
    assert set(found["features"]) == set("abc")


def test_a_single_window_has_no_joins():
    assert seam_score(walk(0, 24), np.arange(24, 24, 12), "abc")["verdict"] == "no joins"
