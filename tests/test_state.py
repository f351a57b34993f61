"""Randomness as a pure function of (seed, step, position)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeldm_jax.streams import Stream
from timeldm_jax.training import state


def fresh(seed=0, step=0):
    train = state.init({"w": jnp.ones(3)}, optax.sgd(0.1), jax.random.key(seed))
    return train._replace(step=jnp.int32(step))


def order(train, batch, examples):
    return np.asarray(state.epoch_order(train, jnp.arange(batch), batch, examples))


@settings(max_examples=8, deadline=None)
@given(examples=st.integers(1, 300), batch=st.integers(1, 40), seed=st.integers(0, 5))
def test_each_epoch_visits_every_example_once(examples, batch, seed):
    visits = 3 * examples
    steps = -(-visits // batch)
    of_step = jax.vmap(
        lambda step: state.epoch_order(fresh(seed, step), jnp.arange(batch), batch, examples)
    )
    seen = np.ravel(jax.jit(of_step)(jnp.arange(min(steps, 40))))
    for epoch in range(len(seen) // examples):
        part = np.sort(seen[epoch * examples : (epoch + 1) * examples])
        np.testing.assert_array_equal(part, np.arange(examples))


def test_epochs_and_seeds_differ_and_look_random():
    n = 5_000
    first, second = (order(fresh(0, s), n, n) for s in (0, 1))
    other = order(fresh(1, 0), n, n)
    for a, b in ((first, second), (first, other), (first, np.arange(n))):
        # A random permutation agrees with another at about one place, and is uncorrelated.
        assert (a == b).sum() < 8
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(n)
    # Neighbours in the order are uncorrelated too.
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 4 / np.sqrt(n)


def test_shares_of_a_batch_join_to_the_whole():
    train = fresh(3, 17)
    whole = order(train, 32, 100)
    shares = [state.epoch_order(train, jnp.arange(8) + 8 * device, 32, 100) for device in range(4)]
    np.testing.assert_array_equal(np.concatenate(shares), whole)
    key = state.step_key(train, Stream.NOISE)
    noise = state.normal(key, jnp.arange(32), (2, 3))
    parts = [state.normal(key, jnp.arange(8) + 8 * device, (2, 3)) for device in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts), noise)


def test_order_far_into_a_run_does_not_overflow():
    examples, batch = 19_712, 2048
    step = 2**31 // batch + 12_345  # step · batch is beyond 32 bits
    places = step * batch + np.arange(batch)
    epoch = places // examples
    index = order(fresh(0, step), batch, examples)
    assert ((index >= 0) & (index < examples)).all()
    for e in np.unique(epoch):
        part = index[epoch == e]
        assert len(np.unique(part)) == len(part)
    # The epoch boundary falls where 64-bit arithmetic says: the part after it continues there.
    following = order(fresh(0, step + 1), batch, examples)
    left = examples - places[-1] % examples - 1
    same_epoch = np.concatenate([index[epoch == epoch[-1]], following[:left]])
    assert len(np.unique(same_epoch)) == len(same_epoch)


@pytest.mark.parametrize(
    ("examples", "batch"),
    [
        (2**21 + 3, 2**11),
        (2**16 + 1, 2**16),
        (1_000_003, 2**20 + 7),
        (2**31 - 1, 5),
        (7, 1_000_000),
    ],
)
def test_places_are_those_of_unbounded_whole_numbers(monkeypatch, examples, batch):
    """Also where examples x batch is beyond 2^32."""
    monkeypatch.setattr(
        state, "_shuffle", lambda key, epoch, place, size: jnp.stack([epoch, place])
    )
    positions = np.unique([0, 1, batch // 3, batch - 1])
    random = np.random.default_rng(0)
    for step in (0, examples - 1, examples, 2**31 - 1, *random.integers(0, 2**31, 20)):
        if step * batch // examples >= 2**32 or step >= 2**31:
            continue  # more epochs than are counted, or steps than an int32 holds
        expected = [divmod(int(step) * batch + int(p), examples) for p in positions]
        found = state.epoch_order(fresh(0, step), jnp.asarray(positions), batch, examples)
        np.testing.assert_array_equal(np.asarray(found).astype(np.uint32).T, expected)


def test_streams_steps_and_seeds_give_different_noise():
    draws = [
        state.normal(state.step_key(fresh(seed, step), stream), jnp.arange(4), (5,))
        for seed in (0, 1)
        for step in (0, 1)
        for stream in (Stream.POSTERIOR, Stream.NOISE_LEVEL, Stream.NOISE)
    ]
    flat = np.array(draws).reshape(len(draws), -1)
    assert len(np.unique(flat)) == flat.size


def test_noise_is_standard_normal():
    noise = state.normal(jax.random.key(0), jnp.arange(2_000), (50,))
    # n = 1e5: standard errors 0.0032 of the mean, 0.0022 of the deviation; 4 of each.
    assert abs(noise.mean()) < 0.013
    assert abs(noise.std() - 1) < 0.009


def test_average_starts_at_the_weights():
    train = fresh()
    np.testing.assert_array_equal(train.ema["w"], train.params["w"])
    assert train.ema["w"].unsafe_buffer_pointer() != train.params["w"].unsafe_buffer_pointer()


@pytest.mark.parametrize("stream", [Stream.POSTERIOR, Stream.NOISE])
def test_key_data_round_trips(stream):
    train = fresh(9, 4)
    assert train.key.dtype == jnp.uint32
    expected = jax.random.fold_in(jax.random.fold_in(jax.random.key(9), stream.salt), 4)
    assert state.step_key(train, stream) == expected
