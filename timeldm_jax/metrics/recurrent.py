"""The one-layer GRU that the discriminative and the predictive score train, many at once.

The cell is TensorFlow 1's `GRUCell`: the reset gate multiplies the state before its matrix
product, gate biases start at 1, kernels are Glorot-uniform over input and state together. A GRU of
2 units is a few thousand numbers a step, so what costs is the number of operations, not their size:
all runs of a score are one `vmap`, and the batch is the last axis, where processors vectorise.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

BATCH = 128
LEARNING_RATE = 1e-3
FEW = 4  # units up to which a sum of products beats a call of the matrix product
SMALL = 32  # entries of a kernel up to which sums of products beat a call of the matrix product
CHUNK = 1_000  # windows tested at a time: bounds memory
CHUNK_STEPS = 256_000  # time steps of them, where windows are long
T = TypeVar("T")
Three = tuple[T, T, T]  # of the reset gate, the update gate and the candidate


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
    kernels = (network.gates[:, :hidden], network.gates[:, hidden:], network.candidate)
    biases = (network.gate_bias[:hidden], network.gate_bias[hidden:], network.candidate_bias)
    entering = tuple(
        _project(x, kernel[:inputs]) + bias[:, None]
        for kernel, bias in zip(kernels, biases, strict=True)
    )
    return _recur(tuple(kernel[inputs:] for kernel in kernels), entering)


@jax.custom_vjp
def _recur(
    kernels: Three[Float[Array, "hidden hidden"]],
    entering: Three[Float[Array, "time hidden batch"]],
) -> Float[Array, "time hidden batch"]:
    """The states, from what the inputs add to reset gate, update gate and candidate.

    The derivative is written out because the usual one sums each weight's gradient at each step:
    reductions of a few numbers each, half of all the time. Here steps give the gradient of what
    enters the activations, and the weights' follow in one product over time and batch. The three
    are kept apart, as joining and cutting arrays costs XLA more than all else here.
    """
    return _recur_forward(kernels, entering)[0]


def _recur_forward(
    kernels: Three[Array], entering: Three[Array]
) -> tuple[Array, tuple[Three[Array], tuple[Array, ...]]]:
    def cell(state: Array, now: Three[Array]) -> tuple[Array, tuple[Array, ...]]:
        reset = jax.nn.sigmoid(now[0] + _product(kernels[0], state))
        update = jax.nn.sigmoid(now[1] + _product(kernels[1], state))
        proposal = jnp.tanh(now[2] + _product(kernels[2], reset * state))
        new = update * state + (1 - update) * proposal
        return new, (new, state, reset, update, proposal)

    _, (states, *saved) = jax.lax.scan(cell, jnp.zeros_like(entering[0][0]), entering)
    return states, (kernels, tuple(saved))


def _recur_backward(
    saved: tuple[Three[Array], tuple[Array, ...]], grad_states: Array
) -> tuple[Three[Array], Three[Array]]:
    kernels, (before, *activations) = saved
    backward = [kernel.T for kernel in kernels]

    def cell(grad: Array, now: tuple[Array, ...]) -> tuple[Array, Three[Array]]:
        grad_state, state, reset, update, proposal = now
        grad = grad + grad_state
        into_proposal = grad * (1 - update) * (1 - jnp.square(proposal))
        into_update = grad * (state - proposal) * update * (1 - update)
        kept = _product(backward[2], into_proposal)
        into_reset = kept * state * reset * (1 - reset)
        grad = grad * update + kept * reset
        grad = grad + _product(backward[0], into_reset) + _product(backward[1], into_update)
        return grad, (into_reset, into_update, into_proposal)

    inputs = (grad_states, before, *activations)
    _, into = jax.lax.scan(cell, jnp.zeros_like(before[0]), inputs, reverse=True)
    reset = activations[0]
    of_reset, of_update = _contract(before, into[0]), _contract(before, into[1])
    return (of_reset, of_update, _contract(reset * before, into[2])), into


_recur.defvjp(_recur_forward, _recur_backward)


@jax.custom_vjp
def _project(
    x: Float[Array, "time inputs batch"], kernel: Float[Array, "inputs out"]
) -> Float[Array, "time out batch"]:
    if kernel.size > SMALL:
        return jnp.einsum("tdb,dk->tkb", x, kernel)
    terms = (x[:, i, None] * row[:, None] for i, row in enumerate(kernel))
    return sum(terms, jnp.zeros(()))


_project.defvjp(
    lambda x, kernel: (_project(x, kernel), (x, kernel)),
    lambda saved, grad: (_project(grad, saved[1].T), _contract(saved[0], grad)),
)


def _contract(
    first: Float[Array, "time rows batch"], second: Float[Array, "time columns batch"]
) -> Float[Array, "rows columns"]:
    """The sum over time and batch of products."""
    if first.shape[1] * second.shape[1] > SMALL:
        return jnp.einsum("tib,tjb->ij", first, second)
    return (first[:, :, None] * second[:, None]).sum((0, 3))


def _product(
    kernel: Float[Array, "rows out"], columns: Float[Array, "rows batch"]
) -> Float[Array, "out batch"]:
    if len(kernel) > FEW:
        return kernel.T @ columns
    total = kernel[0][:, None] * columns[0]
    for row, unit in zip(kernel[1:], columns[1:], strict=True):
        total = total + row[:, None] * unit
    return total


def outputs(network: Network, x: Float[Array, "time inputs batch"]) -> Float[Array, "time batch"]:
    """The head's number after each step."""
    return jnp.einsum("thb,h->tb", states(network, x), network.head) + network.head_bias


def draw(key: PRNGKeyArray, subset: Subset, steps: int) -> Int[Array, "steps batch"]:
    """Rows of the pool for each step's batch, each as likely as another and none of them twice.

    A batch has one row from each of `BATCH` parts of the subset, whose order must be random. Parts
    are not quite alike, so their borders move with each batch. With fewer windows than `BATCH`, all
    come, some more than once. All steps at once: inside a step, XLA draws the numbers of a row anew
    for each value that is gathered from it.
    """

    def rows(key: PRNGKeyArray) -> Int[Array, " batch"]:
        part_key, shift_key = jax.random.split(key)
        borders = (jnp.arange(BATCH + 1) * (subset.size / BATCH)).astype(jnp.int32)
        width = jnp.maximum(jnp.diff(borders), 1)
        within = (jax.random.uniform(part_key, (BATCH,)) * width).astype(jnp.int32)
        shift = jax.random.randint(shift_key, (), 0, subset.size)
        return subset.rows[(borders[:-1] + jnp.minimum(within, width - 1) + shift) % subset.size]

    return jax.lax.map(lambda i: rows(jax.random.fold_in(key, i)), jnp.arange(steps))


def gather(
    pool: Float[Array, "pool time feature"], rows: Int[Array, " batch"]
) -> Float[Array, "time feature batch"]:
    """Windows of the pool, the batch as the last axis."""
    return pool[rows].transpose(1, 2, 0)


def train(network: Network, loss: Callable[[Network, Any], Array], batches: Any) -> Network:
    """A step of Adam on the loss of each batch; `batches` has a leading axis of steps."""
    optimizer = optax.adam(LEARNING_RATE)

    def step(carry: tuple[Network, optax.OptState], batch: Any) -> tuple[tuple, None]:
        network, state = carry
        updates, state = optimizer.update(jax.grad(loss)(network, batch), state)
        return (optax.apply_updates(network, updates), state), None

    (network, _), _ = jax.lax.scan(step, (network, optimizer.init(network)), batches)
    return network


def mean_over(
    subset: Subset,
    pool: Float[Array, "pool time feature"],
    figure: Callable[[Float[Array, "time feature batch"]], Float[Array, " batch"]],
) -> Float[Array, ""]:
    """The mean of a figure of each window of a subset, `CHUNK` windows or fewer at a time."""
    longest = len(subset.rows)
    chunk = min(CHUNK, max(CHUNK_STEPS // pool.shape[1], BATCH), longest)
    places = jnp.arange(-(-longest // chunk) * chunk).reshape(-1, chunk)

    def add(total: Array, place: Array) -> tuple[Array, None]:
        windows = gather(pool, subset.rows[jnp.minimum(place, longest - 1)])
        return total + jnp.sum(jnp.where(place < subset.size, figure(windows), 0)), None

    return jax.lax.scan(add, jnp.zeros(()), places)[0] / subset.size
