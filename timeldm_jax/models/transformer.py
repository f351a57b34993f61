"""Transformer stacks over short windows, arranged for small channel counts.

Between attentions, activations are kept as a matrix of *tokens*, `(batch * time, channel)`: every
linear map and its gradient is then one matrix product. docs/speed.md has the
measurements behind this and behind `linear` and `LayerNorm`.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Norm = Literal["pre", "post"]
Tokens = Float[Array, "batch*time channel"]


@jax.custom_vjp
def linear(x: Tokens, kernel: Float[Array, "channel out"]) -> Float[Array, "batch*time out"]:
    """`x @ kernel`, with a weight gradient that suits many tokens and few channels.

    XLA's CPU backend runs `xᵀ @ g` at a quarter of its rate when the sum runs over the first axis
    of both. Transposing the narrower factor first costs less than that loses.
    """
    return x @ kernel


def _linear_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _linear_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = saved

    def transposed_first(x: Array, grad: Array) -> Array:
        barrier = jax.lax.optimization_barrier  # else XLA folds the transpose back in
        if x.shape[1] <= grad.shape[1]:
            return barrier(x.T) @ grad
        return barrier(barrier(grad.T) @ x).T

    kernel_grad = jax.lax.platform_dependent(
        x, grad, cpu=transposed_first, default=lambda x, grad: x.T @ grad
    )
    return grad @ kernel.T, kernel_grad


linear.defvjp(_linear_forward, _linear_backward)


class Linear(nn.Module):
    """Linear map with bias of tokens `(batch * time, channel)` to `(batch * time, features)`."""

    features: int
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Tokens) -> Float[Array, "batch*time out"]:
        """Maps tokens; see `linear`."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        return linear(x, kernel) + self.param("bias", nn.initializers.zeros, (self.features,))


class LayerNorm(nn.Module):
    """Layer normalisation over channels.

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


class Attention(nn.Module):
    """Multi-head scaled dot-product attention.

    With one head there is no output projection, as in the authors' code; it would only compose two
    linear maps.

    Attributes:
      heads: number of heads; must divide `width`.
      width: channels of the queries, keys, values and output.
    """

    heads: int
    width: int

    @nn.compact
    def __call__(self, queries: Tokens, memory: Tokens, batch: int) -> Tokens:
        """Lets each query token attend to the memory tokens of the same window.

        Args:
          queries: `(batch * time, channel)`.
          memory: `(batch * memory_time, memory_channel)`, source of keys and values.
          batch: number of windows.

        Returns:
          `(batch * time, width)`.
        """
        head_dim = self.width // self.heads
        q_kernel, q_bias = self._projection("query", queries.shape[-1], head_dim)
        k_kernel, k_bias = self._projection("key", memory.shape[-1], head_dim)
        v_kernel, v_bias = self._projection("value", memory.shape[-1], head_dim)

        # A loop over the (one or two) heads keeps every operand contiguous; a head axis beside
        # time would have to be transposed to the front and back around each product.
        heads = []
        for h in range(self.heads):
            q = (linear(queries, q_kernel[h]) + q_bias[h]) * head_dim**-0.5
            k = linear(memory, k_kernel[h]) + k_bias[h]
            v = linear(memory, v_kernel[h]) + v_bias[h]
            q, k, v = (a.reshape(batch, -1, head_dim) for a in (q, k, v))
            logits = jnp.einsum("btc,bsc->bts", q, k)
            weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
            # Normalising after the product touches head_dim numbers a token instead of time.
            mixed = jnp.einsum("bts,bsc->btc", weights, v) / weights.sum(-1, keepdims=True)
            heads.append(mixed.reshape(-1, head_dim))
        if self.heads == 1:
            return heads[0]
        out_kernel = self.param(
            "out_kernel",
            nn.initializers.lecun_normal(in_axis=(0, 1), out_axis=2),
            (self.heads, head_dim, self.width),
        )
        out_bias = self.param("out_bias", nn.initializers.zeros, (self.width,))
        return sum(linear(head, out_kernel[h]) for h, head in enumerate(heads)) + out_bias

    def _projection(self, name: str, channels: int, head_dim: int) -> tuple[Array, Array]:
        kernel_init = nn.initializers.lecun_normal(batch_axis=0)
        shape = (self.heads, channels, head_dim)
        kernel = self.param(f"{name}_kernel", kernel_init, shape)
        bias = self.param(f"{name}_bias", nn.initializers.zeros, (self.heads, head_dim))
        return kernel, bias


class Block(nn.Module):
    """One transformer block: self-attention, cross-attention if a memory is given, feed-forward.

    `norm="pre"` is the authors' released block: residual branches read a normalised state, self-
    and cross-attention share one norm, and the first block of a stack has no norm before its
    attention. `norm="post"` is the figure of the paper ("Add & Norm" after every branch).

    Attributes:
      width: channels of the running state.
      heads: attention heads.
      mlp_ratio: hidden channels of the feed-forward, in units of `width`.
      norm: where the layer norms stand.
      first: whether this is the first block of its stack (only "pre" cares).
    """

    width: int
    heads: int
    mlp_ratio: int
    norm: Norm
    first: bool

    @nn.compact
    def __call__(self, x: Tokens, batch: int, memory: Tokens | None = None) -> Tokens:
        """Maps `(batch * time, width)` to the same; `memory` is `(batch * time, channel)`."""
        if self.norm == "pre":
            attention_norm = (lambda y: y) if self.first else LayerNorm(name="attention_norm")
            y = attention_norm(x)
            x = x + Attention(self.heads, self.width, name="self_attention")(y, y, batch)
            if memory is not None:
                cross = Attention(self.heads, self.width, name="cross_attention")
                x = x + cross(attention_norm(x), memory, batch)
            return x + self._feed_forward(LayerNorm(name="ff_norm")(x))
        x = LayerNorm(name="attention_norm")(
            x + Attention(self.heads, self.width, name="self_attention")(x, x, batch)
        )
        if memory is not None:
            cross = Attention(self.heads, self.width, name="cross_attention")
            x = LayerNorm(name="cross_norm")(x + cross(x, memory, batch))
        return LayerNorm(name="ff_norm")(x + self._feed_forward(x))

    def _feed_forward(self, x: Tokens) -> Tokens:
        hidden = nn.relu(Linear(self.mlp_ratio * self.width, name="ff_in")(x))
        return Linear(self.width, name="ff_out")(hidden)


class Stack(nn.Module):
    """Blocks in sequence; see `Block` for the attributes."""

    layers: int
    width: int
    heads: int
    mlp_ratio: int
    norm: Norm

    @nn.compact
    def __call__(self, x: Tokens, batch: int, memory: Tokens | None = None) -> Tokens:
        """Maps `(batch * time, width)` to the same, each block reading `memory` if given."""
        for i in range(self.layers):
            block = Block(
                self.width, self.heads, self.mlp_ratio, self.norm, i == 0, name=f"block_{i}"
            )
            x = block(x, batch, memory)
        return x


class TimeConv(nn.Module):
    """1-D convolution over time, kernel 3, zero padding 1, as one matrix product.

    The kernel is a matrix `(3 * in, out)`: rows of the previous step, this step, the next step.
    """

    width: int
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "batch time channel"]) -> Tokens:
        """Maps `(batch, time, channel)` to tokens `(batch * time, width)`."""
        batch, time, channels = x.shape
        padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        taps = jnp.concatenate([padded[:, i : i + time] for i in range(3)], axis=-1)
        return Linear(self.width, self.kernel_init, name="taps")(
            taps.reshape(batch * time, 3 * channels)
        )
