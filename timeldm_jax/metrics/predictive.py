"""Predictive score: what a small GRU trained on synthetic windows knows about real ones."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from timeldm_jax.metrics import recurrent
from timeldm_jax.metrics.recurrent import Subset

STEPS = 5_000
Transfer = tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]


def predictive_runs(
    pool: Float[Array | np.ndarray, "pool time feature"],
    transfers: Sequence[Transfer],
    *,
    seed: int = 0,
    steps: int = STEPS,
) -> Float[np.ndarray, " runs"]:
    """Mean absolute error one step ahead, trained on one set, tested on another (TimeGAN).

    The first D−1 features up to time t predict the last feature at t+1; a GRU of ⌊D/2⌋ units with a
    sigmoid output, L1 loss, 128 windows a step. A single feature predicts itself, by one unit. All
    transfers run in one `vmap`.

    Args:
      pool: windows in [0, 1], `(pool, time, feature)` float32, at least 2 steps long.
      transfers: of each run, the numbers of the windows to train on, and of those to test on.
      seed: of the networks and the batches.
      steps: of training.

    Returns:
      One error a transfer.
    """
    random = np.random.default_rng(seed)
    train = recurrent.stack([random.permutation(source) for source, _ in transfers])
    test = recurrent.stack([target for _, target in transfers])
    keys = jax.random.split(jax.random.key(seed), len(transfers))
    return np.asarray(_runs(keys, jnp.asarray(pool), train, test, steps=steps))


@partial(jax.jit, static_argnames="steps")
def _runs(
    keys: PRNGKeyArray,
    pool: Float[Array, "pool time feature"],
    train: Subset,
    test: Subset,
    *,
    steps: int,
) -> Float[Array, " runs"]:
    features = pool.shape[2]
    inputs = max(features - 1, 1)

    def errors(
        network: recurrent.Network, windows: Float[Array, "time feature batch"]
    ) -> Float[Array, " batch"]:
        forecast = jax.nn.sigmoid(recurrent.outputs(network, windows[:-1, :inputs]))
        return jnp.abs(windows[1:, -1] - forecast).mean(axis=0)

    def run(key: PRNGKeyArray, train: Subset, test: Subset) -> Array:
        def loss(network: recurrent.Network, rows: Array) -> Array:
            return errors(network, recurrent.gather(pool, rows)).mean()

        init_key, train_key = jax.random.split(key)
        network = recurrent.init(init_key, inputs, max(features // 2, 1))
        network = recurrent.train(network, loss, recurrent.draw(train_key, train, steps))
        return recurrent.mean_over(test, pool, lambda windows: errors(network, windows))

    return jax.vmap(run)(keys, train, test)
