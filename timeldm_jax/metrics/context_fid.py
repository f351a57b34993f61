"""Context-FID: Fréchet distance of learned representations of windows.

The representations are TS2Vec's (Yue et al. 2022, arXiv 2106.10466), fitted on the real windows
alone; the score is Jeha et al.'s (2022, PSA-GAN). Its cost is the encoding: 0.6 million
multiplications a time step of a window, for T = 24.

The network has 11 residual blocks of dilated convolutions, dilations 1 to 1024. Where a dilation is
at least the window, the outer taps read padding only, so that just the middle one is computed.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

DROPOUT = 0.1
BATCH = 8
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2
STEPS, FEW_STEPS, FEW_VALUES = 600, 200, 100_000
LONGEST_CROP = 3_000  # time steps of a window that a training step reads
ENCODE_BATCH = 128  # windows a call: activations stay in cache
LONG = 512  # time steps, beyond which memory decides how much is computed at once


def _uniform(fan_in: int) -> Any:
    """PyTorch's initialiser of linear and convolution layers, weights and biases alike."""
    bound = 1 / math.sqrt(fan_in)
    return lambda key, shape: jax.random.uniform(key, shape, minval=-bound, maxval=bound)


class Dilated(nn.Module):
    """Convolution of kernel 3 over time with "same" zero padding."""

    features: int
    dilation: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch time channel"]) -> Float[Array, "batch time out"]:
        """Convolves `(batch, time, channel)`."""
        time, channels = x.shape[1:]
        reaches = self.dilation < time
        start = _uniform(3 * channels)
        kernel = self.param("kernel", start, (3 if reaches else 1, channels, self.features))
        bias = self.param("bias", start, (self.features,))
        if reaches:
            pad = jnp.pad(x, ((0, 0), (self.dilation, self.dilation), (0, 0)))
            taps = [pad[:, i * self.dilation : i * self.dilation + time] for i in range(3)]
            x = jnp.concatenate(taps, axis=2)
        return x @ kernel.reshape(-1, self.features) + bias


class Encoder(nn.Module):
    """TS2Vec's encoder, `(batch, time, feature)` to `(batch, time, out)`.

    `inside` is where a window has values, for crops in a longer buffer: zero elsewhere, as the
    padding of a convolution is. `kept` is where inputs are not masked.

    Attributes:
      blocks: residual blocks, of dilations 1, 2, 4, …; the last one is as wide as the output.
      hidden: channels of the others.
      out: size of a representation.
    """

    blocks: int = 11
    hidden: int = 64
    out: int = 320

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch time feature"],
        inside: Bool[Array, "batch time"] | None = None,
        kept: Bool[Array, "batch time"] | None = None,
    ) -> Float[Array, "batch time out"]:
        """Encodes each time step."""

        def within(x: Array) -> Array:
            return x if inside is None else jnp.where(inside[..., None], x, 0)

        start = _uniform(x.shape[2])
        x = x @ self.param("input", start, (x.shape[2], self.hidden))
        x = x + self.param("input_bias", start, (self.hidden,))
        if kept is not None:
            x = jnp.where(kept[..., None], x, 0)
        for i in range(self.blocks):
            last = i == self.blocks - 1
            width = self.out if last else self.hidden
            skip = x
            if last:
                start = _uniform(self.hidden)
                skip = x @ self.param("projection", start, (self.hidden, self.out))
                skip = skip + self.param("projection_bias", start, (self.out,))
            for name in ("a", "b"):
                x = within(nn.gelu(x, approximate=False))
                x = Dilated(width, 2**i, name=f"block{i}{name}")(x)
            x = x + skip
        return x


ENCODER = Encoder()  # of published scores


def _apply(encoder: Encoder, params: Any, *inputs: Array) -> Array:
    z: Any = encoder.apply(params, *inputs)
    return z


class Representations(NamedTuple):
    """Mean and covariance of the representations of a set, float64.

    Attributes:
      mean: `(out,)`.
      covariance: `(out, out)`.
    """

    mean: Float[np.ndarray, " out"]
    covariance: Float[np.ndarray, "out out"]


def fit(
    windows: Float[Array | np.ndarray, "n time feature"],
    *,
    repeats: int,
    seed: int = 0,
    steps: int | None = None,
) -> Any:
    """Encoders fitted on windows, one a repeat, stacked: averages of the weights of all steps.

    Args:
      windows: real windows in [0, 1], float32.
      repeats: how many, from different seeds; in one `vmap`, or in turn for long windows.
      seed: of weights, batches, crops and masks.
      steps: of training; default: 600, or 200 where there are at most 100,000 values.

    Returns:
      Parameters of `ENCODER` with a leading axis of repeats.
    """
    if steps is None:
        steps = FEW_STEPS if math.prod(windows.shape) <= FEW_VALUES else STEPS
    keys = jax.random.split(jax.random.key(seed), repeats)
    return _fit(keys, jnp.asarray(windows), steps, ENCODER)


@partial(jax.jit, static_argnames=("steps", "encoder"))
def _fit(
    keys: PRNGKeyArray, windows: Float[Array, "n time feature"], steps: int, encoder: Encoder
) -> Any:
    count, time, _ = windows.shape
    batch = min(BATCH, count)
    crop = min(time, LONGEST_CROP)
    optimizer = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def run(key: PRNGKeyArray) -> Any:
        init_key, order_key, key = jax.random.split(key, 3)
        params = encoder.init(init_key, windows[:1, :crop])

        def epoch(epoch: Array) -> Array:
            shuffled = jax.random.permutation(jax.random.fold_in(order_key, epoch), count)
            return shuffled[: count // batch * batch].reshape(-1, batch)

        # Whole epochs, the rest of an epoch dropped, as a shuffled loader does.
        epochs = -(-steps // (count // batch))
        order = jax.lax.map(epoch, jnp.arange(epochs)).reshape(-1, batch)

        def step(carry: tuple, i: Array) -> tuple[tuple, None]:
            params, mean, state = carry
            key_i = jax.random.fold_in(key, i)
            gradient = jax.grad(_loss)(params, encoder, windows[order[i]], key_i, crop)
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            mean = jax.tree.map(lambda m, p: m + (p - m) / (i + 2), mean, params)
            return (params, mean, state), None

        carry = (params, params, optimizer.init(params))
        (_, mean, _), _ = jax.lax.scan(step, carry, jnp.arange(steps))
        return mean

    return jax.vmap(run)(keys) if crop <= LONG else jax.lax.map(run, keys)


def _loss(
    params: Any,
    encoder: Encoder,
    windows: Float[Array, "batch time feature"],
    key: PRNGKeyArray,
    crop: int,
) -> Float[Array, ""]:
    """Contrast of two overlapping random crops of each window, on their overlap."""
    batch, time, _ = windows.shape
    keys = jax.random.split(key, 8)

    def below(key: PRNGKeyArray, low: Any, high: Any, shape: tuple[int, ...] = ()) -> Array:
        return jax.random.randint(key, shape, low, high)

    if time > crop:
        first = below(keys[6], 0, time - crop + 1)
        windows = jax.lax.dynamic_slice_in_dim(windows, first, crop, axis=1)
    length = below(keys[0], min(2, crop), crop + 1)
    left = below(keys[1], 0, crop - length + 1)
    right = left + length
    outer_left = below(keys[2], 0, left + 1)
    outer_right = below(keys[3], right, crop + 1)
    # Each window is cropped at a place of its own; both its crops move together.
    offset = below(keys[4], -outer_left, crop - outer_right + 1, (batch,))
    place = jnp.arange(crop)

    def cut(start: Array, size: Array) -> tuple[Array, Array]:
        index = jnp.clip(offset[:, None] + start + place, 0, crop - 1)
        inside = jnp.broadcast_to(place < size, index.shape)
        return jnp.take_along_axis(windows, index[..., None], axis=1), inside

    first, first_inside = cut(outer_left, right - outer_left)
    second, second_inside = cut(left, outer_right - left)
    x = jnp.concatenate([first, second])
    inside = jnp.concatenate([first_inside, second_inside])
    kept = jax.random.bernoulli(keys[5], 0.5, inside.shape)
    z = _apply(encoder, params, x, inside, kept)
    z = jnp.where(jax.random.bernoulli(keys[7], 1 - DROPOUT, z.shape), z / (1 - DROPOUT), 0)
    # The overlap: the end of the first crop, the start of the second.
    overlap = jnp.clip(place + left - outer_left, 0, crop - 1)
    return hierarchical_contrast(z[:batch, overlap], z[batch:], length)


def hierarchical_contrast(
    first: Float[Array, "batch time out"],
    second: Float[Array, "batch time out"],
    length: Int[Array, ""],
) -> Float[Array, ""]:
    """TS2Vec's loss: contrast over instances and over time, at each level of max-pooling by 2.

    Args:
      first: one view, of which the first `length` steps count.
      second: the other view of the same steps.
      length: at least 1.
    """
    total, levels = jnp.zeros(()), jnp.zeros(())
    for level in range(first.shape[1].bit_length()):
        now = length >> level
        instance = _instance_contrast(first, second, now)
        temporal = _temporal_contrast(first, second, now)
        term = 0.5 * instance + 0.5 * jnp.where(now > 1, temporal, 0)
        total = total + jnp.where(now > 0, term, 0)
        levels = levels + (now > 0)
        if first.shape[1] == 1:
            break
        even = first.shape[1] // 2 * 2
        first, second = (
            z[:, :even].reshape(len(z), even // 2, 2, -1).max(axis=2) for z in (first, second)
        )
    return total / levels


def _instance_contrast(first: Array, second: Array, length: Array) -> Array:
    """At each time, the other view of a window against all other windows of the batch."""
    batch, time, _ = first.shape
    if batch == 1:
        return jnp.zeros(())
    z = jnp.concatenate([first, second])
    similar = jnp.einsum("itc,jtc->tij", z, z)
    similar = jnp.where(jnp.eye(2 * batch, dtype=bool), -jnp.inf, similar)
    log_likelihood = jax.nn.log_softmax(similar)
    own = jnp.arange(batch)
    both = log_likelihood[:, own, own + batch] + log_likelihood[:, own + batch, own]
    counted = (jnp.arange(time) < length)[:, None]
    return -jnp.where(counted, both, 0).sum() / (2 * batch * jnp.maximum(length, 1))


def _temporal_contrast(first: Array, second: Array, length: Array) -> Array:
    """In each window, the other view of a time against all other times."""
    batch, time, _ = first.shape
    counted = jnp.tile(jnp.arange(time) < length, 2)
    # Finite, for rows that are all masked: their gradient must be zero, not NaN.
    masked = jnp.eye(2 * time, dtype=bool) | ~counted
    own = jnp.arange(time)

    def pairs(z: Array) -> Array:
        similar = jnp.einsum("bic,bjc->bij", z, z)
        log_likelihood = jax.nn.log_softmax(jnp.where(masked, -1e30, similar))
        return log_likelihood[:, own, own + time] + log_likelihood[:, own + time, own]

    z = jnp.concatenate([first, second], axis=1)
    if time > LONG:  # a window at a time, whose table of pairs is made again for its gradient
        both = jax.lax.map(jax.checkpoint(lambda window: pairs(window[None])[0]), z)
    else:
        both = pairs(z)
    return -jnp.where(counted[:time], both, 0).sum() / (2 * batch * jnp.maximum(length, 1))


def encode(params: Any, windows: Float[np.ndarray, "n time feature"]) -> Float[np.ndarray, "n out"]:
    """Representations of windows, the maximum over time, float32; one repeat's parameters.

    All devices of this host encode, each whole batches: the numbers are those of one device.
    """
    parts, devices = [], jax.local_device_count()
    size = max(1, min(ENCODE_BATCH, ENCODE_BATCH * LONG // windows.shape[1]))
    span = size * 32 * devices  # windows on the devices at once
    for first in range(0, len(windows), span):
        part = np.asarray(windows[first : first + span], np.float32)
        rows = -(-len(part) // (size * devices)) * size * devices
        batches = np.resize(part, (rows, *part.shape[1:])).reshape(-1, size, *part.shape[1:])
        found = np.asarray(_encode(params, batches, ENCODER, devices))
        parts.append(found.reshape(rows, -1)[: len(part)])
    return np.concatenate(parts)


@partial(jax.jit, static_argnames=("encoder", "devices"))
def _encode(
    params: Any, batches: Float[Array, "k batch time feature"], encoder: Encoder, devices: int
) -> Float[Array, "k batch out"]:
    def run(params: Any, batches: Array) -> Array:
        return jax.lax.map(lambda x: _apply(encoder, params, x).max(axis=1), batches)

    if devices == 1:
        return run(params, batches)
    mesh = Mesh(np.array(jax.local_devices()[:devices]), ("device",))
    each, same = PartitionSpec("device"), PartitionSpec()
    return jax.shard_map(run, mesh=mesh, in_specs=(same, each), out_specs=each)(params, batches)


def describe(representations: Float[np.ndarray, "n out"]) -> Representations:
    """Mean and sample covariance."""
    wide = representations.astype(np.float64)
    return Representations(wide.mean(axis=0), np.cov(wide, rowvar=False))


def frechet_distance(first: Representations, second: Representations) -> float:
    """`|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½)` (Heusel et al. 2017, arXiv 1706.08500, Eq. 6).

    The root's trace is that of `(Σ₁^½ Σ₂ Σ₁^½)^½`, which is symmetric: no complex numbers from
    rounding, as with a general matrix root.
    """
    values, vectors = np.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ second.covariance @ root)
    trace = np.sqrt(np.maximum(product, 0)).sum()
    shift = np.square(first.mean - second.mean).sum()
    total = np.trace(first.covariance) + np.trace(second.covariance) - 2 * trace
    return float(shift + total)
