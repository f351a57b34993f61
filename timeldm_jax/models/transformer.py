"""Transformer stacks over windows, whose activations are a matrix of tokens (see `kernels`)."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from timeldm_jax.models.kernels import (
    Heads,
    Projection,
    Projections,
    Tokens,
    attention,
    into_blocks,
    layer_norm,
    linear,
    merge_heads,
    out_of_blocks,
)

Norm = Literal["pre", "post"]


class Attention(nn.Module):
    """Multi-head scaled dot-product attention.

    With one head there is no output projection, as in the authors' code; it would only compose two
    linear maps.

    Attributes:
      heads: number of heads; must divide `width`.
      width: channels of the queries, keys, values and output.
      block: steps of the blocks that attention stays within, which makes its cost linear in time;
        0: the whole window.
      shifted: whether blocks begin half a block earlier, so that layers in turn reach across.
    """

    heads: int
    width: int
    block: int = 0
    shifted: bool = False

    @nn.compact
    def __call__(self, queries: Tokens, memory: Tokens, batch: int) -> Tokens:
        """Lets each query token attend to the memory tokens of the same window, or block of it.

        Args:
          queries: `(batch * time, channel)`.
          memory: `(batch * memory_time, memory_channel)`, source of keys and values.
          batch: number of windows.

        Returns:
          `(batch * time, width)`.
        """
        head_dim = self.width // self.heads
        projections = Projections(
            query=self._projection("query", queries.shape[-1], head_dim),
            key=self._projection("key", memory.shape[-1], head_dim),
            value=self._projection("value", memory.shape[-1], head_dim),
        )
        time = queries.shape[0] // batch
        whole = self.block == 0 or self.block >= time
        before, windows = self.block // 2 if self.shifted else 0, batch
        if not whole:
            memory = into_blocks(memory, batch, self.block, before)[0]
            queries, windows = into_blocks(queries, batch, self.block, before)
        found = self._merged(attention(queries, memory, projections, windows))
        return found if whole else out_of_blocks(found, batch, time, before)

    def _merged(self, heads: Heads) -> Tokens:
        if self.heads == 1:
            return heads[0]
        kernel_init = nn.initializers.lecun_normal(in_axis=(0, 1), out_axis=2)
        shape = (self.heads, self.width // self.heads, self.width)
        kernel = self.param("out_kernel", kernel_init, shape)
        bias = self.param("out_bias", nn.initializers.zeros, (self.width,))
        return merge_heads(heads, kernel) + bias

    def _projection(self, name: str, channels: int, head_dim: int) -> Projection:
        kernel_init = nn.initializers.lecun_normal(batch_axis=0)
        shape = (self.heads, channels, head_dim)
        kernel = self.param(f"{name}_kernel", kernel_init, shape)
        bias = self.param(f"{name}_bias", nn.initializers.zeros, (self.heads, head_dim))
        return Projection(kernel, bias)


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
      block: of `Attention`.
      shifted: of `Attention`.
    """

    width: int
    heads: int
    mlp_ratio: int
    norm: Norm
    first: bool
    block: int = 0
    shifted: bool = False

    @nn.compact
    def __call__(self, x: Tokens, batch: int, memory: Tokens | None = None) -> Tokens:
        """Maps `(batch * time, width)` to the same; `memory` is `(batch * time, channel)`."""
        if self.norm == "pre":
            attention_norm = (lambda y: y) if self.first else layer_norm(name="attention_norm")
            y = attention_norm(x)
            x = x + self._attention("self_attention")(y, y, batch)
            if memory is not None:
                cross = self._attention("cross_attention")
                x = x + cross(attention_norm(x), memory, batch)
            return x + self._feed_forward(layer_norm(name="ff_norm")(x))
        x = layer_norm(name="attention_norm")(x + self._attention("self_attention")(x, x, batch))
        if memory is not None:
            cross = self._attention("cross_attention")
            x = layer_norm(name="cross_norm")(x + cross(x, memory, batch))
        return layer_norm(name="ff_norm")(x + self._feed_forward(x))

    def _attention(self, name: str) -> Attention:
        return Attention(self.heads, self.width, self.block, self.shifted, name=name)

    def _feed_forward(self, x: Tokens) -> Tokens:
        hidden = nn.relu(linear(self.mlp_ratio * self.width, name="ff_in")(x))
        return linear(self.width, name="ff_out")(hidden)


class Stack(nn.Module):
    """Blocks in sequence; see `Block` for the attributes."""

    layers: int
    width: int
    heads: int
    mlp_ratio: int
    norm: Norm
    block: int = 0

    @nn.compact
    def __call__(self, x: Tokens, batch: int, memory: Tokens | None = None) -> Tokens:
        """Maps `(batch * time, width)` to the same, each block reading `memory` if given."""
        for i in range(self.layers):
            layer = Block(
                self.width,
                self.heads,
                self.mlp_ratio,
                self.norm,
                first=i == 0,
                block=self.block,
                shifted=i % 2 == 1,
                name=f"block_{i}",
            )
            x = layer(x, batch, memory)
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
        return linear(self.width, self.kernel_init, name="taps")(
            taps.reshape(batch * time, 3 * channels)
        )
