"""Latents that the decoder makes a window of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from timeldm_jax import config as configuration
from timeldm_jax import latents
from timeldm_jax.data.context import Context
from timeldm_jax.data.series import DeviceWindows
from timeldm_jax.errors import ConfigError
from timeldm_jax.models import bind
from timeldm_jax.models.vae import VAE
from timeldm_jax.training import steps

WINDOW, FEATURES = 6, 3


def network(latent=FEATURES, scale=0.05, seed=0):
    """A VAE whose stacks say something, `scale` of it, and its weights."""
    vae = VAE(
        features=FEATURES,
        window=WINDOW,
        latent=latent,
        width=8,
        heads=2,
        mlp_ratio=2,
        encoder_layers=1,
        decoder_layers=1,
        norm="pre",
        head="linear",
        skip=True,
    )
    x, noise = jnp.zeros((1, WINDOW, FEATURES)), jnp.zeros((1, WINDOW, latent))
    params = vae.init(jax.random.key(seed), x, noise)["params"]
    leaves, tree = jax.tree.flatten(params)
    random = np.random.default_rng(seed)
    moved = [leaf + scale * random.normal(size=leaf.shape).astype("f4") for leaf in leaves]
    return vae, jax.tree.unflatten(tree, moved)


def windows(count=5, seed=1):
    return np.random.default_rng(seed).uniform(size=(count, WINDOW, FEATURES)).astype("f4")


def found(vae, params, x, posterior="exact"):
    return latents.posterior_of(vae, params, jnp.asarray(x), posterior)[0]


def decoded(vae, params, z):
    return np.asarray(bind(vae, params, "decode")(z))


def test_they_are_the_roots_of_the_decoder():
    """Against SciPy's root finder, begun at the posterior means."""
    vae, params = network(scale=0.015)
    x = windows(2)
    mean, exact = found(vae, params, x, "mean"), np.asarray(found(vae, params, x))
    assert np.abs(decoded(vae, params, mean) - x).max() > 0.01  # the means are not it
    decode = jax.jit(bind(vae, params, "decode"))
    for one, start, z in zip(x, np.asarray(mean), exact, strict=True):

        def left(flat, one=one):
            return np.asarray(decode(flat.reshape(1, WINDOW, -1).astype("f4"))[0] - one).ravel()

        root = optimize.root(left, start.ravel(), method="krylov", options={"fatol": 1e-6})
        np.testing.assert_allclose(z.ravel(), root.x, atol=1e-4)  # of float32 differences


def test_the_decoder_makes_the_windows_of_them_and_fills_gaps_as_it_likes():
    vae, params = network()
    x = windows(64)
    x[::2, 1:3, 1] = np.nan
    mean, exact = found(vae, params, x, "mean"), found(vae, params, x)
    known = ~np.isnan(x)
    error = np.abs(np.where(known, decoded(vae, params, exact) - x, 0))
    before = np.abs(np.where(known, decoded(vae, params, mean) - x, 0))
    # This decoder bends by a seventh of what it is given at most, and there are two rounds.
    assert error.max() < (1 / 7) ** 2 * 1.5 * before.max()
    # In a gap the value of means is kept but for what its neighbours move; the filling, ½, is not
    # asked for.
    gap = decoded(vae, params, exact)[~known]
    np.testing.assert_allclose(gap, decoded(vae, params, mean)[~known], atol=0.1)
    assert np.abs(gap - 0.5).mean() > 0.02


@pytest.mark.parametrize(("latent", "scale"), [(FEATURES, 1.0), (2, 0.05)])
def test_where_there_are_none_no_window_is_worse_than_its_mean(latent, scale):
    """A decoder that bends more than its linear map, and one of fewer channels than features."""
    vae, params = network(latent, scale)
    x = windows(64)

    def error(posterior):
        z = found(vae, params, x, posterior)
        return np.square(decoded(vae, params, z) - x).sum(axis=(1, 2))

    assert (error("exact") <= error("mean") * (1 + 1e-5)).all()
    assert error("exact").sum() < error("mean").sum()


def test_a_step_that_is_sent_windows_encodes_them_likewise():
    vae, params = network()
    x = windows(8)
    x[2, 3, 0] = np.nan
    rows = DeviceWindows(x.reshape(-1, FEATURES), np.arange(8, dtype=np.int32) * WINDOW)
    whole = latents.encode(vae, params, rows, "exact")
    own = jnp.asarray([5, 2, 7])
    part = steps.encoder(vae, "exact")(steps.Fed((x, ()), params), own)
    assert part.log_variance == whole.log_variance == part.context == ()
    np.testing.assert_allclose(part.mean, whole.mean[np.asarray(own)], atol=1e-6)
    asked = Context(jnp.arange(16.0).reshape(8, 2), jnp.ones((8, 2)), jnp.zeros(2, int))
    part = steps.encoder(vae, "exact")(steps.Fed((x, asked), params), own)
    assert part.context.values.tolist() == [[10, 11], [4, 5], [14, 15]]


def test_a_decoder_without_a_linear_map_has_none():
    config = configuration.base()
    config.data.name = "etth"
    config.ldm.posterior, config.vae.model.skip = "exact", False
    with pytest.raises(ConfigError, match=r"config\.vae\.model\.skip=False; use .*'mean'"):
        configuration.validate(config)
