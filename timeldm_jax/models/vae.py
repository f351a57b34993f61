"""The transformer β-VAE of TimeLDM (arXiv 2407.04211, Fig. 2 b and d)."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from timeldm_jax.errors import ConfigError
from timeldm_jax.models.kernels import layer_norm, linear
from timeldm_jax.models.transformer import Norm, Stack, TimeConv
from timeldm_jax.settings import COUNT, Rule, check_fields

Windows = Float[Array, "batch time feature"]
Latents = Float[Array, "batch time latent"]
Head = Literal["linear", "conv"]
LOG_VARIANCE_START = -6.0  # with skips, of the posterior: windows span about 1


class VAEOutput(NamedTuple):
    """What one pass through the VAE gives."""

    reconstruction: Windows
    mean: Latents
    log_variance: Latents


class VAE(nn.Module):
    """Maps a window `x ∈ R^{T×D}` to a Gaussian over latents `z ∈ R^{T×m}` and back.

    Two encoder stacks with separate weights read one embedded input; one gives μ, the other
    log σ². Each decoder block attends to z.

    Attributes:
      features: D, columns of the data.
      window: T, time steps of a window.
      latent: m, channels of the latent.
      width: channels inside the stacks. `head=None` needs `width == latent`.
      heads: attention heads, dividing `width`.
      mlp_ratio: hidden channels of a feed-forward, in units of `width`.
      encoder_layers: blocks in each of the two encoder stacks.
      decoder_layers: blocks in the decoder.
      norm: "pre" (released code) or "post" (the paper's figure); see `transformer.Block`.
      head: how stacks end. None is the released code: an encoder stack's output *is* μ or
        log σ², and only the decoder has a linear map to the features. "linear" and "conv" (kernel
        3, the paper's figure) end all three stacks, after a last norm when `norm="pre"`.
      block: steps of the blocks that attention stays within, halfway shifted in every second layer;
        0: the whole window, whose cost grows with the square of its length.
      skip: whether a linear map of each time step goes around the stacks, from x to μ and from z to
        the reconstruction. It starts as the identity, the heads at zero and σ near e⁻³, so that
        training starts from windows that come back as they are (where m ≥ D) and adds to that.
    """

    features: int
    window: int
    latent: int
    width: int
    heads: int
    mlp_ratio: int
    encoder_layers: int
    decoder_layers: int
    norm: Norm
    head: Head | None
    skip: bool
    block: int = 0

    def __post_init__(self) -> None:
        """Checks the sizes against each other; raises ConfigError."""
        super().__post_init__()
        sizes = ("features", "window", "latent", "width", "heads", "mlp_ratio")
        layers = ("encoder_layers", "decoder_layers")
        block = Rule(lambda value: value == 0 or value >= 4, "must be at least 4, or 0")
        check_fields(self, **dict.fromkeys((*sizes, *layers), COUNT), block=block)
        if self.width % self.heads:
            raise ConfigError(f"heads={self.heads} must divide width={self.width}")
        if self.head is None and self.width != self.latent:
            raise ConfigError(
                f"head=None makes a stack's output the latent, so width={self.width} must equal "
                f"latent={self.latent}; use head='linear' or equal sizes"
            )

    def setup(self) -> None:
        """Makes the submodules."""

        def stack(layers: int) -> Stack:
            return Stack(layers, self.width, self.heads, self.mlp_ratio, self.norm, self.block)

        def positions(name: str) -> Array:
            return self.param(name, _uniform_positions, (self.window, self.width))

        self.embed = TimeConv(self.width)
        self.encoder_positions = positions("encoder_positions_table")
        self.mean_stack = stack(self.encoder_layers)
        self.log_variance_stack = stack(self.encoder_layers)
        self.embed_latent = TimeConv(self.width)
        self.decoder_positions = positions("decoder_positions_table")
        self.decoder_stack = stack(self.decoder_layers)
        self.last_norms = (
            [layer_norm(), layer_norm(), layer_norm()]
            if self.norm == "pre" and self.head is not None
            else None
        )
        make_map: dict[Head, Callable[..., nn.Module]] = {"linear": linear, "conv": TimeConv}
        make_last = make_map[self.head] if self.head is not None else None
        kernel_init = nn.initializers.zeros if self.skip else nn.initializers.lecun_normal()
        self.last_maps = [
            make_last(self.latent, kernel_init) if make_last else None,
            make_last(self.latent) if make_last else None,
            make_last(self.features, kernel_init)
            if make_last
            else linear(self.features, kernel_init),
        ]
        self.skips = [_around(self.latent), _around(self.features)] if self.skip else None

    def encode(self, x: Windows) -> tuple[Latents, Latents]:
        """Posterior of `x` `(batch, time, feature)`: μ and log σ², each `(batch, time, latent)`."""
        batch = x.shape[0]
        tokens = self._with_positions(self.embed(x), self.encoder_positions)
        mean = self._finish(0, self.mean_stack(tokens, batch), batch)
        if self.skips is not None:
            mean = mean + self.skips[0](x)
        log_variance = self._finish(1, self.log_variance_stack(tokens, batch), batch)
        if self.skips is not None:
            log_variance = log_variance + LOG_VARIANCE_START
        return mean, log_variance

    def decode(self, z: Latents) -> Windows:
        """Windows `(batch, time, feature)` for latents `(batch, time, latent)`."""
        batch = z.shape[0]
        tokens = self._with_positions(self.embed_latent(z), self.decoder_positions)
        memory = z.reshape(-1, z.shape[-1])
        x = self._finish(2, self.decoder_stack(tokens, batch, memory), batch)
        return x if self.skips is None else x + self.skips[1](z)

    def __call__(self, x: Windows, noise: Latents) -> VAEOutput:
        """Encodes, draws `z = μ + exp(½ log σ²)·noise` and decodes."""
        mean, log_variance = self.encode(x)
        return VAEOutput(self.decode(draw(mean, log_variance, noise)), mean, log_variance)

    def _with_positions(self, tokens: Array, table: Array) -> Array:
        batched = tokens.reshape(-1, self.window, self.width) + table
        return batched.reshape(tokens.shape)

    def _finish(self, which: int, tokens: Array, batch: int) -> Array:
        if self.last_norms is not None:
            tokens = self.last_norms[which](tokens)
        last = self.last_maps[which]
        if isinstance(last, TimeConv):
            tokens = last(tokens.reshape(batch, self.window, self.width))
        elif last is not None:
            tokens = last(tokens)
        return tokens.reshape(batch, self.window, -1)


def draw(mean: Latents, log_variance: Latents, noise: Latents) -> Latents:
    """Reparametrised draw from the posterior, `μ + exp(½ log σ²)·ε`."""
    return mean + jnp.exp(0.5 * log_variance) * noise


def _around(features: int) -> nn.Dense:
    return nn.Dense(features, use_bias=False, kernel_init=_partial_identity)


def _partial_identity(key: Array, shape: tuple[int, int], dtype: Any) -> Array:
    del key
    return jnp.eye(*shape, dtype=dtype)


def _uniform_positions(key: Array, shape: tuple[int, ...]) -> Array:
    return jax.random.uniform(key, shape, minval=-0.02, maxval=0.02)
