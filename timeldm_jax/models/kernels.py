"""Products, norms and attention, arranged for the machine that runs them.

On accelerators these are Flax's layers and the formulas as they are written. On a CPU, with few
channels and many tokens, the same mathematics runs faster in another order; docs/speed.md has the
measurements. Parameters have the same names and shapes on both, so a checkpoint loads anywhere.

Between attentions, activations are kept as a matrix of *tokens*, `(batch * time, channel)`: every
linear map and its gradient is then one matrix product.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, BFloat16, Float

PRECISIONS = ("float32", "bfloat16")
LECUN_NORMAL = nn.initializers.lecun_normal()

Tokens = Float[Array, "batch*time channel"]
# One matrix of tokens a head: an array, or on a CPU a tuple.
Heads = Float[Array, "head batch*time head_dim"] | tuple[Float[Array, "batch*time head_dim"], ...]


def on_cpu() -> bool:
    """Whether what is traced now is arranged for a CPU."""
    return jax.default_backend() == "cpu"


def linear(
    features: int,
    kernel_init: nn.initializers.Initializer = LECUN_NORMAL,
    name: str | None = None,
) -> nn.Dense:
    """Linear map with bias of tokens `(batch * time, channel)` to `(batch * time, features)`."""
    product = _narrow_dot_general if on_cpu() else None
    return nn.Dense(features, kernel_init=kernel_init, dot_general=product, name=name)


def dense(
    features: int,
    precision: str,
    kernel_init: nn.initializers.Initializer = LECUN_NORMAL,
    name: str | None = None,
) -> nn.Dense:
    """Linear map with bias of wide rows `(batch, in)` to `(batch, features)`.

    Args:
      features: columns of the output.
      precision: "float32", or "bfloat16" for the factors of products; see `bfloat16_product`.
      kernel_init: of the kernel, `(in, features)`.
      name: of the layer.
    """
    product = _bfloat16_dot_general if precision == "bfloat16" else None
    return nn.Dense(features, kernel_init=kernel_init, dot_general=product, name=name)


def layer_norm(name: str | None = None) -> nn.Module:
    """Layer normalisation over the channels of tokens, with scale and bias."""
    if on_cpu():
        return ProductLayerNorm(name=name)
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)


class Projection(NamedTuple):
    """A linear map for each head."""

    kernel: Float[Array, "head channel head_dim"]
    bias: Float[Array, "head head_dim"]


class Projections(NamedTuple):
    """What makes the queries, keys and values of each head."""

    query: Projection
    key: Projection
    value: Projection


def attention(queries: Tokens, memory: Tokens, projections: Projections, batch: int) -> Heads:
    """Scaled dot-product attention within each window, `softmax(q kᵀ / √head_dim) v` a head.

    Args:
      queries: `(batch * time, channel)`.
      memory: `(batch * memory_time, memory_channel)`, source of keys and values.
      projections: the heads' linear maps.
      batch: number of windows.
    """
    if on_cpu():
        return _attention_head_by_head(queries, memory, projections, batch)
    heads, _, head_dim = projections.query.kernel.shape
    q, k, v = (
        (jnp.einsum("nc,hcd->hnd", x, kernel) + bias[:, None]).reshape(heads, batch, -1, head_dim)
        for x, (kernel, bias) in zip((queries, memory, memory), projections, strict=True)
    )
    weights = jax.nn.softmax(jnp.einsum("hbtd,hbsd->hbts", q, k) * head_dim**-0.5)
    return jnp.einsum("hbts,hbsd->hbtd", weights, v).reshape(heads, -1, head_dim)


def into_blocks(x: Tokens, batch: int, block: int, before: int) -> tuple[Tokens, int]:
    """Windows cut into blocks of steps, as shorter windows, zeros before and after the steps.

    Args:
      x: `(batch * time, channel)`.
      batch: number of windows.
      block: steps of a block.
      before: zeros before the first step, so that blocks begin elsewhere.

    Returns:
      `(batch * blocks * block, channel)`, and how many blocks there are in all.
    """
    time = x.shape[0] // batch
    blocks = -(-(time + before) // block)
    after = blocks * block - time - before
    padded = jnp.pad(x.reshape(batch, time, -1), ((0, 0), (before, after), (0, 0)))
    return padded.reshape(batch * blocks * block, -1), batch * blocks


def out_of_blocks(x: Tokens, batch: int, time: int, before: int) -> Tokens:
    """The inverse of `into_blocks`: `(batch * time, channel)`."""
    found = x.reshape(batch, -1, x.shape[-1])[:, before : before + time]
    return found.reshape(batch * time, -1)


def _attention_head_by_head(
    queries: Tokens, memory: Tokens, projections: Projections, batch: int
) -> tuple[Tokens, ...]:
    # A loop over the (one or two) heads keeps every operand contiguous; a head axis beside
    # time would have to be transposed to the front and back around each product.
    heads, _, head_dim = projections.query.kernel.shape
    mixed = []
    for h in range(heads):
        q, k, v = (
            narrow_product(x, kernel[h]) + bias[h]
            for x, (kernel, bias) in zip((queries, memory, memory), projections, strict=True)
        )
        q, k, v = (a.reshape(batch, -1, head_dim) for a in (q * head_dim**-0.5, k, v))
        logits = jnp.einsum("btc,bsc->bts", q, k)
        weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
        # Normalising after the product touches head_dim numbers a token instead of time.
        head = jnp.einsum("bts,bsc->btc", weights, v) / weights.sum(-1, keepdims=True)
        mixed.append(head.reshape(-1, head_dim))
    return tuple(mixed)


def merge_heads(heads: Heads, kernel: Float[Array, "head head_dim out"]) -> Tokens:
    """Linear map of all heads side by side, as the sum of each head's own."""
    if isinstance(heads, tuple):
        return functools.reduce(jnp.add, map(narrow_product, heads, kernel))
    return jnp.einsum("hnd,hdo->no", heads, kernel)


class ProductLayerNorm(nn.Module):
    """Layer normalisation for a CPU; parameters are those of `nn.LayerNorm`.

    The means are products with a constant matrix of 1/channels: with few channels that is cheaper
    than a reduction and the broadcast of its result, forward and backward.
    """

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """Normalises each token of `(batch * time, channel)`."""
        channels = x.shape[-1]
        average = jnp.full((channels, channels), 1 / channels, x.dtype)
        centred = x - jnp.matmul(x, average, precision="highest")
        variance = jnp.matmul(jnp.square(centred), average, precision="highest")
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        return centred * jax.lax.rsqrt(variance + 1e-5) * scale + bias


@jax.custom_vjp
def narrow_product(
    x: Tokens, kernel: Float[Array, "channel out"]
) -> Float[Array, "batch*time out"]:
    """`x @ kernel`, with a weight gradient that suits a CPU, many tokens and few channels.

    XLA's CPU backend runs `xᵀ @ g` at a quarter of its rate when the sum runs over the first axis
    of both. Transposing the narrower factor first costs less than that loses.
    """
    return x @ kernel


def _narrow_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _narrow_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = saved
    barrier = jax.lax.optimization_barrier  # else XLA folds the transpose back in
    if x.shape[1] <= grad.shape[1]:
        return grad @ kernel.T, barrier(x.T) @ grad
    return grad @ kernel.T, barrier(barrier(grad.T) @ x).T


narrow_product.defvjp(_narrow_forward, _narrow_backward)


@jax.custom_vjp
def bfloat16_product(
    x: Float[Array, "batch in"], kernel: Float[Array, "in out"]
) -> Float[Array, "batch out"]:
    """`x @ kernel` of float32 arrays: factors rounded to bfloat16, sums in float32.

    So are the products of its gradient. Processors with bfloat16 units (TPUs, GPUs, Intel's AMX)
    are several times as fast at it; others compute it at float32's rate.
    """
    return _float32_sums(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), (1, 0))


def _float32_sums(
    left: BFloat16[Array, "_ _"], right: BFloat16[Array, "_ _"], summed: tuple[int, int]
) -> Float[Array, "_ _"]:
    axes = (((summed[0],), (summed[1],)), ((), ()))
    return jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)


def _bfloat16_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    rounded = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    return _float32_sums(*rounded, (1, 0)), rounded


def _bfloat16_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = saved
    grad = grad.astype(jnp.bfloat16)
    if on_cpu():
        # XLA's CPU backend falls back to float32 where the sum runs over the first axis of both,
        # or where the transpose is only a change of layout.
        transposed = with_layout_constraint(x.T, Layout(major_to_minor=(0, 1)))
        kernel_grad = _float32_sums(transposed, grad, (1, 0))
    else:
        kernel_grad = _float32_sums(x, grad, (0, 0))
    return _float32_sums(grad, kernel, (1, 1)), kernel_grad


bfloat16_product.defvjp(_bfloat16_forward, _bfloat16_backward)


# For `nn.Dense`, whose axes are those of a plain matrix product.


def _narrow_dot_general(x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    return narrow_product(x, kernel)


def _bfloat16_dot_general(x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    return bfloat16_product(x, kernel)
