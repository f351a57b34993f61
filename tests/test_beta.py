"""Adaptive β: transitions, bounds, and `scan` against a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeldm_jax.training import beta

PAPER = beta.BetaConfig(maximum=1e-2, minimum=1e-5, decay=0.7, patience=3, restart=True)
RELEASED = beta.BetaConfig(maximum=1e-2, minimum=1e-5, decay=0.7, patience=3, restart=False)

# (config, β, best, count, loss) -> (β, best, count)
TRANSITIONS = [
    (PAPER, 1e-2, np.inf, 0, 5.0, 1e-2, 5.0, 0),  # first loss is a new best
    (PAPER, 1e-2, 5.0, 0, 5.0, 1e-2, 5.0, 1),  # a tie is no improvement
    (PAPER, 1e-2, 5.0, 1, 6.0, 1e-2, 5.0, 2),
    (PAPER, 1e-2, 5.0, 2, 6.0, 7e-3, 5.0, 0),  # patience reached: falls, count restarts
    (PAPER, 1e-2, 5.0, 2, 4.0, 1e-2, 4.0, 0),  # saved by an improvement
    (PAPER, 1.2e-5, 5.0, 2, 6.0, 1e-5, 5.0, 0),  # never below the minimum
    (PAPER, 1e-5, 5.0, 2, 6.0, 1e-5, 5.0, 0),
    (PAPER, 1e-2, 5.0, 1, np.nan, 1e-2, 5.0, 2),  # NaN is no improvement
    (RELEASED, 1e-2, 5.0, 2, 6.0, 7e-3, 5.0, 3),  # falls, the count goes on
    (RELEASED, 7e-3, 5.0, 3, 6.0, 7e-3, 5.0, 4),  # so only once a plateau
    (RELEASED, 7e-3, 5.0, 9, 4.0, 7e-3, 4.0, 0),  # until the next best
]


@pytest.mark.parametrize(
    ("config", "value", "best", "count", "loss", "new_value", "new_best", "new_count"), TRANSITIONS
)
def test_transitions(config, value, best, count, loss, new_value, new_best, new_count):
    state = beta.BetaState(jnp.float32(value), jnp.float32(best), jnp.int32(count))
    after = beta.update(state, jnp.float32(loss), config)
    np.testing.assert_allclose(after.beta, new_value, rtol=1e-6)
    assert float(after.best) == new_best
    assert int(after.waited) == new_count


def plain_loop(losses, config):
    """The rule in ordinary Python, float32 like the original."""
    value, best, count, path = np.float32(config.maximum), np.inf, 0, []
    for loss in losses:
        if loss < best:
            best, count = loss, 0
        else:
            count += 1
            if count == config.patience:
                value = max(value * np.float32(config.decay), np.float32(config.minimum))
                if config.restart:
                    count = 0
        path.append((value, best, count))
    return path


@settings(max_examples=30, deadline=None)
@given(
    losses=st.lists(st.floats(0, 10, width=32, allow_subnormal=False), min_size=40, max_size=40),
    restart=st.booleans(),
)
def test_scan_equals_python_loop(losses, restart):
    config = PAPER if restart else RELEASED

    def step(state, loss):
        state = beta.update(state, loss, config)
        return state, state

    _, path = jax.lax.scan(step, beta.init(config), jnp.array(losses, jnp.float32))
    expected = plain_loop(np.array(losses, np.float32), config)
    np.testing.assert_allclose(path.beta, [e[0] for e in expected], rtol=1e-6)
    np.testing.assert_array_equal(path.best, [e[1] for e in expected])
    np.testing.assert_array_equal(path.waited, [e[2] for e in expected])
    assert np.all(np.diff(path.beta) <= 0)
    assert path.beta.min() >= np.float32(config.minimum)
