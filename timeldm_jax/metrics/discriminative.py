"""Discriminative score: how well a small GRU tells synthetic windows from real ones."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from timeldm_jax.metrics import recurrent
from timeldm_jax.metrics.recurrent import Subset

STEPS = 2_000
TRAIN_SHARE = 0.8
Comparison = tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]


def discriminative_runs(
    pool: Float[Array | np.ndarray, "pool time feature"],
    comparisons: Sequence[Comparison],
    *,
    seed: int = 0,
    steps: int = STEPS,
) -> Float[np.ndarray, " runs"]:
    """`|0.5 - accuracy|` on windows kept from training (Yoon et al. 2019, TimeGAN).

    Each comparison trains a GRU of ⌊D/2⌋ units (at least 1) on four fifths of both sets, 128
    windows of each a step, and is tested on the rest. All of them run in one `vmap`. Sets of
    different size are cut to the smaller one, at random: with the larger whole, always answering
    its name would score.

    Args:
      pool: windows in [0, 1], `(pool, time, feature)` float32, that comparisons number.
      comparisons: of each run, the numbers of its real and of its synthetic windows.
      seed: of the splits, the networks and the batches.
      steps: of training.

    Returns:
      One score a comparison.
    """
    random = np.random.default_rng(seed)
    train, test = [], []
    for pair in comparisons:
        size = min(len(windows) for windows in pair)
        cut = int(size * TRAIN_SHARE)
        shuffled = [random.permutation(windows)[:size] for windows in pair]
        train.append([windows[:cut] for windows in shuffled])
        test.append([windows[cut:] for windows in shuffled])
    subsets = [recurrent.stack(side) for part in (train, test) for side in zip(*part, strict=True)]
    keys = jax.random.split(jax.random.key(seed), len(comparisons))
    return np.asarray(_runs(keys, jnp.asarray(pool), *subsets, steps=steps))


@partial(jax.jit, static_argnames="steps")
def _runs(
    keys: PRNGKeyArray,
    pool: Float[Array, "pool time feature"],
    real: Subset,
    synthetic: Subset,
    real_test: Subset,
    synthetic_test: Subset,
    *,
    steps: int,
) -> Float[Array, " runs"]:
    features = pool.shape[2]

    def logit(network: recurrent.Network, x: Float[Array, "time feature batch"]) -> Array:
        last = recurrent.states(network, x)[-1]
        return network.head @ last + network.head_bias

    def run(
        key: PRNGKeyArray, real: Subset, synthetic: Subset, real_test: Subset, fake_test: Subset
    ) -> Array:
        def loss(network: recurrent.Network, rows: Array) -> Array:
            answers = logit(network, recurrent.gather(pool, rows)).reshape(2, -1)
            entropy = optax.sigmoid_binary_cross_entropy(answers, jnp.array([[1.0], [0.0]]))
            return entropy.mean(axis=1).sum()

        init_key, real_key, synthetic_key = jax.random.split(key, 3)
        network = recurrent.init(init_key, features, max(features // 2, 1))
        drawn = [
            recurrent.draw(key, side, steps)
            for key, side in ((real_key, real), (synthetic_key, synthetic))
        ]
        network = recurrent.train(network, loss, jnp.concatenate(drawn, axis=1))
        right = recurrent.mean_over(real_test, pool, lambda x: logit(network, x) > 0)
        caught = recurrent.mean_over(fake_test, pool, lambda x: logit(network, x) <= 0)
        return jnp.abs(0.5 - (right + caught) / 2)

    return jax.vmap(run)(keys, real, synthetic, real_test, synthetic_test)
