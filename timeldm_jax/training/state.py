"""The state of a training stage as one pytree, and the randomness it implies.

Batch order and noise are pure functions of (seed, stream, step, position in the global batch):
there is no iterator or generator to lose, and one device or eight draw the same numbers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray, UInt32

from timeldm_jax import streams
from timeldm_jax.streams import Stream
from timeldm_jax.training.beta import BetaState

PyTree = Any


class TrainState(NamedTuple):
    """Everything a stage needs to go on, and all that a checkpoint keeps.

    Attributes:
      step: optimiser steps taken, int32.
      params: the weights.
      opt_state: Optax state.
      ema: exponential moving average of the weights; starts at the weights.
      beta: adaptive β of the VAE, `()` for the latent diffusion model.
      latent_stats: mean and scale of the latents for the diffusion model, `()` for the VAE.
      key: PRNG key data, uint32; never advanced, the step is folded in.
    """

    step: Int[Array, ""]
    params: PyTree
    opt_state: optax.OptState
    ema: PyTree
    beta: BetaState | tuple[()]
    latent_stats: Any
    key: UInt32[Array, " words"]


def init(
    params: PyTree,
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
    *,
    beta: BetaState | tuple[()] = (),
    latent_stats: Any = (),
) -> TrainState:
    """A fresh state at step 0 whose average starts at the weights."""
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params),  # a copy: both are donated
        beta=beta,
        latent_stats=latent_stats,
        key=jax.random.key_data(key),
    )


def step_key(state: TrainState, stream: Stream) -> PRNGKeyArray:
    """The key of one stream of randomness at this step."""
    return streams.key(jax.random.wrap_key_data(state.key), stream, state.step)


def normal(key: PRNGKeyArray, positions: Int[Array, " batch"], shape: tuple[int, ...]) -> Array:
    """Standard normal numbers `(batch, *shape)`, each row a function of its position alone."""
    return jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), shape))(positions)


# Wide: whose order, where in it, and of what.
def epoch_order(
    state: TrainState,
    positions: Int[Array, " batch"],
    batch: int,
    examples: int,
    device: Int[Array, ""] | int = 0,
) -> Int[Array, " batch"]:
    """Which examples this step trains on: a fresh shuffle of all of them each epoch.

    The shuffle is a keyed bijection of {0, …, examples − 1} (a Feistel network, walked until it
    lands in range), evaluated only at this batch's places: no permutation is stored or sorted.

    Args:
      state: for the key and the step.
      positions: places in the global batch, `(batch,)`.
      batch: size of the global batch.
      examples: number of examples in the set, at least 1.
      device: number of the device whose examples they are, where each has its own: the shuffles of
        two differ, and the first device's is that of a set that is nobody's.

    Returns:
      Example numbers, int32 `(batch,)`.
    """
    key = streams.key(jax.random.wrap_key_data(state.key), Stream.ORDER)
    # Place `step · batch + position`, by epochs, within 32 bits: step = whole · examples + rest.
    whole, rest = jnp.divmod(state.step.astype(jnp.uint32), jnp.uint32(examples))
    epochs, left = _multiply_divide(rest, batch, examples)
    offset = left + positions.astype(jnp.uint32)
    epoch = whole * jnp.uint32(batch) + epochs + offset // jnp.uint32(examples)
    place = offset % jnp.uint32(examples)
    if not isinstance(device, int):  # by the golden ratio, so that no two come to the same epoch
        epoch += device.astype(jnp.uint32) * jnp.uint32(0x9E3779B9)
    return _shuffle(key, epoch, place, examples).astype(jnp.int32)


def _multiply_divide(
    rest: UInt32[Array, ""], factor: int, divisor: int
) -> tuple[UInt32[Array, ""], UInt32[Array, ""]]:
    """Quotient and remainder of `rest · factor` by `divisor`, where the product may be too long.

    Bit by bit of the factor, by doubling: nothing exceeds twice the divisor.

    Args:
      rest: less than `divisor`.
      factor: at least 1.
      divisor: at most 2³¹.
    """

    def carried(quotient: Array, remainder: Array) -> tuple[Array, Array]:
        over = (remainder >= jnp.uint32(divisor)).astype(jnp.uint32)
        return quotient + over, remainder - over * jnp.uint32(divisor)

    quotient = remainder = jnp.uint32(0)
    for bit in f"{factor:b}":
        quotient, remainder = carried(2 * quotient, 2 * remainder)
        if bit == "1":
            quotient, remainder = carried(quotient, remainder + rest)
    return quotient, remainder


def _shuffle(
    key: PRNGKeyArray, epoch: UInt32[Array, " n"], place: UInt32[Array, " n"], size: int
) -> UInt32[Array, " n"]:
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = jnp.uint32(2**half_bits - 1)
    words = jax.random.bits(key, (4,), jnp.uint32)

    def mix(x: Array) -> Array:  # the 32-bit finaliser of MurmurHash3
        x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
        x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
        return x ^ (x >> 16)

    seeds = [mix(word ^ mix(epoch + jnp.uint32(1))) for word in words]

    def permute(x: Array) -> Array:
        left, right = x >> half_bits, x & mask
        for seed in seeds:
            left, right = right, left ^ (mix(right ^ seed) & mask)
        return (left << half_bits) | right

    # The network permutes the next power of four; walking its cycle from a place in range until
    # it is back in range permutes the range itself.
    return jax.lax.while_loop(
        lambda x: jnp.any(x >= size), lambda x: jnp.where(x >= size, permute(x), x), permute(place)
    )
