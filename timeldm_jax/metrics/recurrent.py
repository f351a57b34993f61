"""The one-layer GRU that the discriminative and the predictive score train, many at once.

The cell is TensorFlow 1's `GRUCell`: the reset gate multiplies the state before its matrix
product, gate biases start at 1, kernels are Glorot-uniform over input and state together. A GRU of
2 units is a few thousand numbers a step, so what costs is the number of operations, not their size:
all runs of a score are one `vmap`, and the batch is the last axis, where processors vectorise.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

BATCH = 128
LEARNING_RATE = 1e-3
EXPLICIT = 4  # units up to which a sum of products beats a call of the matrix product
CHUNK = 1_000  # windows tested at a time: bounds memory


class Network(NamedTuple):
    """A GRU cell of H units on D inputs, and a linear head to one number.

    Attributes:
      gates: `(D + H, 2H)`, the reset gate's columns first.
      gate_bias: `(2H,)`.
      candidate: `(D + H, H)`.
      candidate_bias: `(H,)`.
      head: `(H,)`.
      head_bias: scalar.
    """

    gates: Float[Array, "inputs 2*hidden"]
    gate_bias: Float[Array, " 2*hidden"]
    candidate: Float[Array, "inputs hidden"]
    candidate_bias: Float[Array, " hidden"]
    head: Float[Array, " hidden"]
    head_bias: Float[Array, ""]


class Subset(NamedTuple):
    """Rows of a pool of windows, padded so that subsets of several runs stack.

    Attributes:
      rows: `(n,)` int32, of which the first `size` are meant.
      size: int32.
    """

    rows: Int[Array, " n"]
    size: Int[Array, ""]


def stack(subsets: Sequence[Int[np.ndarray, " n"]]) -> Subset:
    """Subsets of different sizes as one pytree with a leading axis."""
    longest = max(len(subset) for subset in subsets)
    rows = np.stack([np.resize(subset, longest) for subset in subsets])
    sizes = [len(subset) for subset in subsets]
    return Subset(jnp.asarray(rows, jnp.int32), jnp.asarray(sizes, jnp.int32))


def init(key: PRNGKeyArray, inputs: int, hidden: int) -> Network:
    """A network as TensorFlow 1 initialises it."""
    gates, candidate, head = jax.random.split(key, 3)
    glorot = jax.nn.initializers.glorot_uniform()
    return Network(
        glorot(gates, (inputs + hidden, 2 * hidden)),
        jnp.ones(2 * hidden),
        glorot(candidate, (inputs + hidden, hidden)),
        jnp.zeros(hidden),
        glorot(head, (hidden, 1))[:, 0],
        jnp.zeros(()),
    )


def states(
    network: Network, x: Float[Array, "time inputs batch"]
) -> Float[Array, "time hidden batch"]:
    """The state after each step, from zeros (Cho et al. 2014, arXiv 1406.1078)."""
    inputs, hidden = x.shape[1], len(network.head)
    kernel = jnp.concatenate([network.gates[:inputs], network.candidate[:inputs]], 1)
    bias = jnp.concatenate([network.gate_bias, network.candidate_bias])
    projected = jnp.einsum("tdb,dk->tkb", x, kernel) + bias[:, None]
    gates, candidate = network.gates[inputs:], network.candidate[inputs:]

    def cell(state: Array, now: Array) -> tuple[Array, Array]:
        reset, update = jnp.split(
            jax.nn.sigmoid(now[: 2 * hidden] + _product(gates, state)), 2, axis=0
        )
        proposal = jnp.tanh(now[2 * hidden :] + _product(candidate, reset * state))
        state = update * state + (1 - update) * proposal
        return state, state

    start = jnp.zeros((hidden, x.shape[2]))
    return jax.lax.scan(cell, start, projected)[1]


def _product(
    kernel: Float[Array, "hidden out"], state: Float[Array, "hidden batch"]
) -> Float[Array, "out batch"]:
    if len(kernel) > EXPLICIT:
        return kernel.T @ state
    total = kernel[0][:, None] * state[0]
    for row, unit in zip(kernel[1:], state[1:], strict=True):
        total = total + row[:, None] * unit
    return total


def outputs(network: Network, x: Float[Array, "time inputs batch"]) -> Float[Array, "time batch"]:
    """The head's number after each step."""
    return jnp.einsum("thb,h->tb", states(network, x), network.head) + network.head_bias


def draw(
    key: PRNGKeyArray, pool: Float[Array, "pool time feature"], subset: Subset
) -> Float[Array, "time feature batch"]:
    """A batch of windows, each as likely as another and none of them twice.

    One from each of `BATCH` parts of the subset, whose order must be random. Parts are not quite
    alike, so their borders move with each batch. With fewer windows than `BATCH`, all come, some
    more than once.
    """
    part_key, shift_key = jax.random.split(key)
    borders = (jnp.arange(BATCH + 1) * (subset.size / BATCH)).astype(jnp.int32)
    width = jnp.maximum(jnp.diff(borders), 1)
    within = (jax.random.uniform(part_key, (BATCH,)) * width).astype(jnp.int32)
    shift = jax.random.randint(shift_key, (), 0, subset.size)
    place = (borders[:-1] + jnp.minimum(within, width - 1) + shift) % subset.size
    return pool[subset.rows[place]].transpose(1, 2, 0)


def train(
    network: Network, loss: Callable[[Network, PRNGKeyArray], Array], key: PRNGKeyArray, steps: int
) -> Network:
    """Adam on a loss that draws its own batch from the key of each step."""
    optimizer = optax.adam(LEARNING_RATE)

    def step(carry: tuple[Network, optax.OptState], i: Array) -> tuple[tuple, None]:
        network, state = carry
        gradient = jax.grad(loss)(network, jax.random.fold_in(key, i))
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(network, updates), state), None

    (network, _), _ = jax.lax.scan(step, (network, optimizer.init(network)), jnp.arange(steps))
    return network


def mean_over(
    subset: Subset,
    pool: Float[Array, "pool time feature"],
    figure: Callable[[Float[Array, "time feature batch"]], Float[Array, " batch"]],
) -> Float[Array, ""]:
    """The mean of a figure of each window of a subset, `CHUNK` windows at a time."""
    longest = len(subset.rows)
    chunk = min(CHUNK, longest)
    places = jnp.arange(-(-longest // chunk) * chunk).reshape(-1, chunk)

    def add(total: Array, place: Array) -> tuple[Array, None]:
        windows = pool[subset.rows[jnp.minimum(place, longest - 1)]].transpose(1, 2, 0)
        return total + jnp.sum(jnp.where(place < subset.size, figure(windows), 0)), None

    return jax.lax.scan(add, jnp.zeros(()), places)[0] / subset.size
