"""The GRU of the discriminative and predictive scores, and the scores on known sets."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from timeldm_jax.metrics import recurrent
from timeldm_jax.metrics.discriminative import discriminative_runs
from timeldm_jax.metrics.predictive import predictive_runs

pytestmark = pytest.mark.training


def cell_by_definition(p, window, xp):
    """TensorFlow 1's GRUCell from its documentation, one window, one step at a time."""
    hidden = len(p.head)
    h, found = xp.zeros(hidden), []
    for x in window:
        gates = 1 / (1 + xp.exp(-(xp.concatenate([x, h]) @ p.gates + p.gate_bias)))
        reset, update = gates[:hidden], gates[hidden:]
        c = xp.tanh(xp.concatenate([x, reset * h]) @ p.candidate + p.candidate_bias)
        h = update * h + (1 - update) * c
        found.append(h)
    return xp.stack(found)


def oracle(network, window):
    """In float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), network)
    return cell_by_definition(p, window.astype(np.float64), np)


SIZES = [1, 4, 5, 9]  # sums of products up to 4 units and up to 32 weights of 6 inputs, or not


@pytest.mark.parametrize("hidden", SIZES)
def test_states_are_the_cells_definition(hidden):
    network = recurrent.init(jax.random.key(hidden), 6, hidden)
    network = jax.tree.map(lambda x: x + 0.1, network)  # biases that are not all alike
    x = np.random.default_rng(0).normal(size=(7, 6, 3)).astype(np.float32)
    found = np.asarray(recurrent.states(network, jnp.asarray(x)))
    heads = np.asarray(recurrent.outputs(network, jnp.asarray(x)))
    for i in range(3):
        expected = oracle(network, x[:, :, i])
        np.testing.assert_allclose(found[:, :, i], expected, atol=2e-6)  # float32
        answer = expected @ np.asarray(network.head) + float(network.head_bias)
        np.testing.assert_allclose(heads[:, i], answer, atol=5e-6)


@pytest.mark.parametrize("hidden", SIZES)
def test_gradients_are_those_of_the_cells_definition(hidden):
    """The derivative is written by hand; JAX's own of the definition is the oracle."""
    network = recurrent.init(jax.random.key(hidden), 6, hidden)
    x = jax.random.normal(jax.random.key(0), (7, 6, 3))
    weight = jax.random.normal(jax.random.key(1), (7, hidden, 3))  # every state counts, differently

    def ours(network, x):
        return jnp.sum(weight * recurrent.states(network, x))

    def definition(network, x):
        states = [cell_by_definition(network, x[:, :, i], jnp) for i in range(3)]
        return jnp.sum(weight * jnp.stack(states, axis=-1))

    found = jax.jit(jax.grad(ours, (0, 1)))(network, x)
    expected = jax.jit(jax.grad(definition, (0, 1)))(network, x)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)  # float32 sums of 21


def test_a_network_starts_as_in_tensorflow():
    network = recurrent.init(jax.random.key(0), 60, 40)
    assert (network.gate_bias == 1).all()
    assert (network.candidate_bias == 0).all()
    # Glorot: uniform on ±√(6 / (fan in + fan out)), the fan in being inputs and state.
    for kernel, fans in ((network.gates, 100 + 80), (network.candidate, 100 + 40)):
        bound = (6 / fans) ** 0.5
        assert 0.99 * bound < float(jnp.abs(kernel).max()) <= bound
        # Standard error of the standard deviation of 4,000 uniform numbers is 0.7%.
        assert float(kernel.std()) == pytest.approx(bound / 3**0.5, rel=0.03)


def test_a_batch_holds_no_window_twice_and_every_window_comes_as_often():
    subset = recurrent.Subset(jnp.asarray(np.r_[100:400, [0] * 50]), jnp.asarray(300))
    drawn = np.asarray(recurrent.draw(jax.random.key(0), subset, 2000))
    assert drawn.shape == (2000, 128)
    assert all(len(set(row)) == 128 for row in drawn)
    counts = np.bincount(drawn.ravel(), minlength=500)
    assert counts[:100].sum() == counts[400:].sum() == 0
    # Binomial(2000, 128/300): standard deviation 22; 5 of them for 300 windows.
    assert abs(counts[100:400] - 2000 * 128 / 300).max() < 5 * 22


def test_means_leave_padding_out():
    pool = jnp.arange(3000.0).reshape(3000, 1, 1)
    for size in (1, 999, 1000, 1001, 2500):
        rows = np.resize(np.random.default_rng(size).permutation(3000)[:size], 2600)
        subset = recurrent.Subset(jnp.asarray(rows), jnp.asarray(size))
        found = recurrent.mean_over(subset, pool, lambda x: x[0, 0])
        np.testing.assert_allclose(float(found), rows[:size].mean(), rtol=1e-5)


def walks(count, seed, drift=0.0):
    random = np.random.default_rng(seed)
    steps = random.normal(size=(count, 12, 3)) * 0.05 + drift
    return (0.5 + steps.cumsum(axis=1)).astype(np.float32)


def test_discriminative_tells_what_differs_from_what_does_not():
    pool = np.concatenate([walks(1000, 0), walks(1000, 1), walks(1000, 2, drift=0.04)])
    first, second, drifting = np.arange(3000).reshape(3, 1000)
    pairs = [(first, second), *[(first, drifting)] * 3]
    runs = discriminative_runs(pool, pairs, steps=1500)
    # 400 tested windows: an accuracy's standard deviation is .025 at ½. The means of the last
    # values are .48 apart and their deviation .17, so that the best accuracy is Φ(.48 / .34) = .92.
    assert runs[0] < 0.075
    assert (runs[1:] > 0.33).all()
    assert len(set(runs[1:])) > 1  # every run has a network, a split and batches of its own
    np.testing.assert_array_equal(runs, discriminative_runs(pool, pairs, steps=1500))
    assert (runs != discriminative_runs(pool, pairs, steps=1500, seed=1)).any()


def test_the_larger_set_gives_no_head_start():
    """Nine times as many synthetic windows: always answering "synthetic" must score nothing."""
    pool = np.concatenate([walks(200, 0), walks(1800, 1)])
    runs = discriminative_runs(pool, [(np.arange(200), np.arange(200, 2000))] * 3, steps=100)
    assert runs.mean() < 0.15  # 80 tested windows: 3 runs' mean of |accuracy - ½| is .045 ± .02


def test_predictive_learns_a_rule_and_not_another_sets():
    random = np.random.default_rng(0)
    x = random.uniform(size=(2000, 10, 3)).astype(np.float32)
    rule, inverse = x.copy(), x.copy()
    rule[:, 1:, 2] = x[:, :-1, 0]  # the last feature repeats the first one, a step later
    inverse[:, 1:, 2] = 1 - x[:, :-1, 0]
    noise = x[:, :, :]
    pool = np.concatenate([rule, inverse, noise])
    learned, other, none = np.arange(6000).reshape(3, 2000)
    runs = predictive_runs(
        pool, [(learned, learned), (other, learned), (none, learned)], steps=2000
    )
    # Knowing nothing costs E|u − ½| = ¼; the opposite rule E|2u − 1| = ½.
    assert runs[0] < 0.08
    assert runs[2] == pytest.approx(0.25, abs=0.01)
    assert runs[1] > 0.4


def test_predictive_error_of_an_untrained_network_is_its_definition():
    """With no steps the error is that of the initial network, which the oracle has too."""
    windows = np.random.default_rng(3).uniform(size=(50, 6, 4)).astype(np.float32)
    found = predictive_runs(windows, [(np.arange(50), np.arange(50))], seed=7, steps=0)
    key = jax.random.split(jax.random.key(7), 1)[0]
    network = recurrent.init(jax.random.split(key)[0], 3, 2)
    head = np.asarray(network.head, np.float64)
    forecasts = np.array([expit(oracle(network, w[:-1, :3]) @ head) for w in windows])
    np.testing.assert_allclose(found[0], np.abs(windows[:, 1:, 3] - forecasts).mean(), rtol=1e-5)


def test_one_feature_predicts_itself():
    pool = walks(400, 0)[:, :, :1]
    runs = predictive_runs(pool, [(np.arange(200), np.arange(200, 400))], steps=500)
    assert 0.02 < runs[0] < 0.12  # a step is .05·√(2/π) = .04; the spread of a window is .1
