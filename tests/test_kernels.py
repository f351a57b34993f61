"""Products, norms and attention of the models: the CPU's forms against the plain ones."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timeldm_jax.models import kernels
from timeldm_jax.models.denoiser import Denoiser
from timeldm_jax.models.transformer import Attention, Block
from timeldm_jax.models.vae import VAE


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.fixture
def on_accelerator(monkeypatch):
    """A call after which what is traced is as on an accelerator."""
    return lambda: monkeypatch.setattr(kernels, "on_cpu", lambda: False)


def results(model, *inputs):
    """First parameters; outputs and gradients at others. Traced anew at each call."""
    start = jax.jit(lambda: model.init(jax.random.key(0), *inputs))()["params"]
    leaves, treedef = jax.tree.flatten(start)
    # No parameter at zero or one, so that each one counts.
    moved = [np.asarray(leaf) + 0.3 * normal(i, *leaf.shape) for i, leaf in enumerate(leaves)]

    def loss(params):
        given = model.apply({"params": params}, *inputs)
        return jnp.sum(jnp.sin(given)), given

    return start, jax.jit(jax.grad(loss, has_aux=True))(jax.tree.unflatten(treedef, moved))


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "heads"), [("pre", 2), ("post", 1)])
def test_a_block_of_an_accelerator_is_that_of_the_cpu(norm, heads, on_accelerator):
    """The same parameters, name by name, the same outputs and gradients to rounding."""
    block = Block(width=8, heads=heads, mlp_ratio=2, norm=norm, first=False)
    batch, time = 3, 5
    with jax.enable_x64(True):
        inputs = normal(100, batch * time, 8), batch, normal(101, batch * time, 3)
        start, on_cpu = results(block, *inputs)
        on_accelerator()
        other_start, accelerated = results(block, *inputs)
    chex.assert_trees_all_equal(other_start, start)
    chex.assert_trees_all_close(accelerated, on_cpu, rtol=1e-9, atol=1e-9)


def test_a_vae_of_an_accelerator_has_the_parameters_of_one_on_the_cpu(on_accelerator):
    def shapes():
        vae = VAE(3, 5, 3, 8, 2, 2, 1, 1, norm="pre", head="linear", skip=True)
        inputs = jnp.zeros((1, 5, 3)), jnp.zeros((1, 5, 3))
        return jax.eval_shape(lambda: vae.init(jax.random.key(0), *inputs))

    on_cpu = shapes()
    on_accelerator()
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes(), on_cpu)


def test_a_bfloat16_denoiser_of_an_accelerator_is_that_of_the_cpu(on_accelerator):
    denoiser = Denoiser(hidden=16, blocks=1, precision="bfloat16")
    inputs = jnp.float32(normal(100, 5, 6)), jnp.float32(normal(101, 5))
    start, on_cpu = results(denoiser, *inputs)
    on_accelerator()
    other_start, accelerated = results(denoiser, *inputs)
    chex.assert_trees_all_equal(other_start, start)
    # A sum in another order may round to the next number of eight bits, .004 away.
    chex.assert_trees_all_close(accelerated, on_cpu, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("time", [16, 18])
@pytest.mark.parametrize("shifted", [False, True])
def test_attention_in_blocks_is_that_of_each_block(time, shifted):
    batch, channels, block = 3, 8, 4
    x, memory = normal(0, batch, time, channels), normal(1, batch, time, 5)
    one = Attention(2, channels, block=block, shifted=shifted)
    flat = [jnp.float32(a.reshape(batch * time, -1)) for a in (x, memory)]
    params = one.init(jax.random.key(0), *flat, batch)
    found = one.apply(params, *flat, batch).reshape(batch, time, channels)
    # Blocks begin at 0, 4, … or at −2, 2, …; those at the ends see zeros beyond the window.
    before = 2 if shifted else 0
    ends = ((0, 0), (before, -(time + before) % block), (0, 0))
    whole = Attention(2, channels)
    for first in range(0, time + before, block):
        part = [
            jnp.float32(np.pad(a, ends)[:, first : first + block].reshape(batch * block, -1))
            for a in (x, memory)
        ]
        expected = whole.apply(params, *part, batch).reshape(batch, block, channels)
        steps = np.arange(first - before, first - before + block)
        inside = (steps >= 0) & (steps < time)
        np.testing.assert_allclose(found[:, steps[inside]], expected[:, inside], atol=1e-5)


def test_blocks_beyond_the_window_are_the_whole_window():
    vaes = [
        VAE(3, 12, 3, 8, 2, 2, 2, 1, norm="pre", head="linear", skip=True, block=block)
        for block in (0, 12, 4)
    ]
    x, noise = jnp.float32(normal(0, 5, 12, 3)), jnp.float32(normal(1, 5, 12, 3))
    params = vaes[0].init(jax.random.key(0), x, noise)["params"]
    params = jax.tree.map(lambda a: a + jnp.float32(normal(a.size, *a.shape)), params)
    whole, same, local = (vae.apply({"params": params}, x, noise).mean for vae in vaes)
    np.testing.assert_array_equal(same, whole)
    assert np.abs(local - whole).max() > 1e-4


def test_attention_is_that_of_jax():
    heads, batch, time, channels, head_dim = 2, 3, 5, 4, 6
    queries, memory = normal(0, batch * time, channels), normal(1, batch * (time + 2), channels)
    query, key, value = (
        kernels.Projection(normal(2 + i, heads, channels, head_dim), normal(5 + i, heads, head_dim))
        for i in range(3)
    )

    def projected(x, to):
        each = jnp.einsum("bsc,hcd->bshd", x.reshape(batch, -1, channels), to.kernel)
        return each + to.bias

    expected = jax.nn.dot_product_attention(
        projected(queries, query), projected(memory, key), projected(memory, value)
    )
    found = kernels.attention(queries, memory, kernels.Projections(query, key, value), batch)
    for h in range(heads):
        chex.assert_trees_all_close(
            found[h].reshape(batch, time, head_dim), expected[:, :, h], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(("channels", "features"), [(3, 7), (7, 3), (4, 4)])
def test_narrow_product_has_the_gradients_of_a_matrix_product(channels, features):
    x, kernel = normal(0, 50, channels), normal(1, channels, features)
    weight = normal(2, 50, features)
    ours = jax.grad(lambda *a: jnp.sum(kernels.narrow_product(*a) * weight), (0, 1))(x, kernel)
    plain = jax.grad(lambda x, k: jnp.sum((x @ k) * weight), (0, 1))(x, kernel)
    # Sums of 50 products near 1, in another order: rounding of a few 1e-6.
    chex.assert_trees_all_close(ours, plain, rtol=1e-5, atol=1e-5)


def test_layer_norm_is_flax_layer_norm():
    x = jnp.float32(3 + 2 * normal(0, 40, 8))
    params = {"scale": jnp.float32(normal(1, 8)), "bias": jnp.float32(normal(2, 8))}
    weight = jnp.float32(normal(3, 40, 8))

    def loss(module):
        return lambda params, x: jnp.sum(module.apply({"params": params}, x) * weight)

    flax = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)
    for value in (loss, lambda module: jax.grad(loss(module), (0, 1))):
        chex.assert_trees_all_close(
            value(kernels.ProductLayerNorm())(params, x),
            value(flax)(params, x),
            rtol=2e-5,
            atol=2e-5,
        )


def test_bfloat16_product_and_its_gradients_are_those_of_rounded_factors():
    """Sums are float32: against float64 products of the rounded factors they are off by float32."""
    random = np.random.default_rng(0)
    x, kernel, weight = (random.normal(size=shape) for shape in ((33, 65), (65, 17), (33, 17)))

    def rounded(array):
        return np.asarray(jnp.asarray(array).astype(jnp.bfloat16)).astype(np.float64)

    def loss(x, kernel):
        return jnp.sum(weight * kernels.bfloat16_product(x, kernel))

    product = jax.jit(kernels.bfloat16_product)(x, kernel)
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(x, kernel)
    expected = (
        rounded(x) @ rounded(kernel),
        rounded(weight) @ rounded(kernel).T,
        rounded(x).T @ rounded(weight),
    )
    for found, exact in zip((product, *gradients), expected, strict=True):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, exact, atol=1e-5 * np.abs(exact).max())


@pytest.mark.slow
def test_bfloat16_denoiser_is_the_float32_denoiser_to_bfloat16s_precision():
    z = jax.random.normal(jax.random.key(0), (16, 6))
    label = jnp.linspace(-1, 1, 16)
    single = Denoiser(hidden=16, blocks=2)
    params = single.init(jax.random.key(1), z, label)
    noise = jax.random.split(jax.random.key(2), len(jax.tree.leaves(params)))
    treedef = jax.tree.structure(params)
    params = jax.tree.map(  # else its last map and gates are zero
        lambda leaf, key: leaf + 0.1 * jax.random.normal(key, leaf.shape),
        params,
        jax.tree.unflatten(treedef, list(noise)),
    )
    half = Denoiser(hidden=16, blocks=2, precision="bfloat16")
    expected, found = single.apply(params, z, label), half.apply(params, z, label)
    error = jnp.abs(found - expected).max() / jnp.abs(expected).max()
    # Eight bits: each factor is off by up to .004, through four products.
    assert 1e-5 < error < 0.02
