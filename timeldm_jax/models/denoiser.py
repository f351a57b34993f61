"""The denoising network over flattened latents (arXiv 2407.04211, section IV)."""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from timeldm_jax.errors import ConfigError
from timeldm_jax.models.kernels import PRECISIONS, dense
from timeldm_jax.settings import Rule, at_least, check_fields, one_of

FlatLatents = Float[Array, "batch flat"]
CONDITION = 128  # channels that carry the noise level in the residual network
LABEL_SCALE = 16.0  # its sinusoids' fastest runs through a period in ln σ of π/2


def noise_sinusoids(noise_label: Float[Array, " batch"], size: int) -> Float[Array, "batch size"]:
    """Sinusoids of the noise label: `sin`, then `cos`, of `label · 10000^{-k/(size/2)}`.

    Args:
      noise_label: `c_noise = ln(σ)/4`, `(batch,)`.
      size: number of sinusoids, even.
    """
    half = size // 2
    frequencies = jnp.asarray(10_000.0 ** (-np.arange(half) / half), noise_label.dtype)
    angles = noise_label[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class Denoiser(nn.Module):
    """The raw network `F(c_in·z, c_noise)` inside the EDM preconditioning.

    `blocks=0` is the paper's network: a linear map to H plus an embedding of the noise level, then
    an MLP H→2H→2H→H→out with SiLU. `blocks>0` is a residual MLP: each block normalises, lets the
    noise level scale and shift the channels (adaptive layer norm, arXiv 2212.09748), passes
    H→2H→H and is gated into the running state. The last map and the gates start at zero, so the
    preconditioned denoiser starts as `c_skip·z`.

    `gated` adds to the output each coordinate of z times a factor that the network gives it. Where
    windows are calm or rough as a whole, the best estimate of every narrow coordinate is itself,
    shrunk by one common factor: a product, which sums of SiLU only come near to.

    Attributes:
      hidden: H, even.
      blocks: number of residual blocks, or 0 for the plain MLP.
      precision: "float32", or "bfloat16" for what enters matrix products; weights, sums and all
        else are float32.
      gated: whether coordinates have factors of their own; of the residual network.
      condition: how the noise level enters the residual network: "wide", by 128 channels of 16
        times its label; or "narrow", by H of the label itself, as the first versions had it.
      context: numbers that a window is asked for by, which enter where the noise level does; 0:
        none. See `data.context`.
    """

    hidden: int
    blocks: int
    precision: str = "float32"
    gated: bool = False
    condition: Literal["wide", "narrow"] = "wide"
    context: int = 0

    def __post_init__(self) -> None:
        """Checks the sizes; raises ConfigError."""
        super().__post_init__()
        even = Rule(lambda value: value >= 2 and value % 2 == 0, "must be even and at least 2")
        check_fields(
            self,
            hidden=even,
            blocks=at_least(0),
            precision=one_of(*PRECISIONS),
            context=at_least(0),
        )
        if self.gated and self.blocks == 0:
            raise ConfigError("gated=True needs blocks of 1 or more; the plain MLP has no gates")

    @nn.compact
    def __call__(
        self,
        z: FlatLatents,
        noise_label: Float[Array, " #batch"],
        context: Float[Array, "batch two_number"] | None = None,
    ) -> FlatLatents:
        """Maps scaled latents `(batch, T·m)` and labels `(batch,)` or `(1,)` to `(batch, T·m)`.

        Args:
          z: scaled noisy latents.
          noise_label: of each, or of all.
          context: where the network has one, what windows are asked for by (`Context.vectors`);
            None: by nothing.
        """
        if self.context and context is None:
            context = jnp.zeros((1, 2 * self.context))
        if self.blocks == 0:
            return self._plain(z, noise_label, context)
        wide = self.condition == "wide"
        channels, factor = (CONDITION, LABEL_SCALE) if wide else (self.hidden, 1.0)
        condition = noise_sinusoids(factor * noise_label, channels)
        condition = nn.silu(self._dense(channels, name="embed_in")(condition))
        condition = self._dense(channels, name="embed_out")(condition)
        condition = nn.silu(self._with_context(condition, context))
        x = self._dense(self.hidden, name="project")(z)
        for i in range(self.blocks):
            x = self._residual_block(x, condition, i)
        scale, shift = jnp.split(self._modulation(2, "out_modulation")(condition), 2, axis=-1)
        x = _normalise(x) * (1 + scale) + shift
        zeros = nn.initializers.zeros
        out = self._dense(z.shape[-1], kernel_init=zeros, name="out")(x)
        if not self.gated:
            return out
        return out + z * self._dense(z.shape[-1], kernel_init=zeros, name="factor")(x)

    def _with_context(self, condition: Array, context: Array | None) -> Array:
        """The noise level's channels and what the context adds to them."""
        if context is None:
            return condition
        channels = condition.shape[-1]
        hidden = nn.silu(self._dense(channels, name="context_in")(context))
        return condition + self._dense(channels, name="context_out")(hidden)

    def _plain(self, z: Array, noise_label: Array, context: Array | None) -> Array:
        embedding = noise_sinusoids(noise_label, self.hidden)
        embedding = nn.silu(self._dense(self.hidden, name="embed_in")(embedding))
        embedding = self._with_context(
            self._dense(self.hidden, name="embed_out")(embedding), context
        )
        x = self._dense(self.hidden, name="project")(z) + embedding
        for i, size in enumerate((2 * self.hidden, 2 * self.hidden, self.hidden)):
            x = nn.silu(self._dense(size, name=f"mlp_{i}")(x))
        return self._dense(z.shape[-1], name="out")(x)

    def _residual_block(self, x: Array, condition: Array, i: int) -> Array:
        modulation = self._modulation(3, f"block_{i}_modulation")(condition)
        scale, shift, gate = jnp.split(modulation, 3, axis=-1)
        y = _normalise(x) * (1 + scale) + shift
        y = nn.silu(self._dense(2 * self.hidden, name=f"block_{i}_in")(y))
        return x + gate * self._dense(self.hidden, name=f"block_{i}_out")(y)

    def _dense(self, features: int, **options: Any) -> nn.Dense:
        return dense(features, self.precision, **options)

    def _modulation(self, parts: int, name: str) -> nn.Dense:
        return self._dense(parts * self.hidden, kernel_init=nn.initializers.zeros, name=name)


def _normalise(x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred * (jnp.mean(jnp.square(centred), -1, keepdims=True) + 1e-6) ** -0.5
