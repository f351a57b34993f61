"""Latents between the two stages: posteriors, their statistics, and the diffusion's coordinates."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from jax.scipy import fft
from jaxtyping import Array, Float, Int

from timeldm_jax.data import runs
from timeldm_jax.data.context import Context
from timeldm_jax.data.runs import Runs
from timeldm_jax.data.series import DeviceWindows, fill, gather
from timeldm_jax.diffusion import edm
from timeldm_jax.errors import ConfigError
from timeldm_jax.models import bind
from timeldm_jax.models.vae import VAE
from timeldm_jax.settings import Rule, at_least, check_fields, one_of

ENCODE_BATCH = 1024
SMALL_BATCH = 32  # windows; see `batches`
CALL_BYTES = 2 * 2**30  # of activations, in calls of `windows_per_call` windows
LATENT_COPIES = 8  # posterior, draw, noises and what the denoiser makes of them
STATS_BATCH = 16_384
STATS_WINDOWS = 200_000  # a deviation is known to within .2 %
STATS_BYTES = 2**29
GRAM_WINDOWS = 4_096  # that the widest axes are found from
EMPTY = 1e-5  # of the widest deviation
UNHEARD = 1e-12  # whose gradients are lost in Adam's epsilon
LAYOUTS = ("raw", "standard", "principal", "cosine")
POSTERIORS = ("draw", "mean", "exact")
ROUNDS = 2  # of `exact`; each leaves a hundredth of the error, a third one rounding


@dataclasses.dataclass(frozen=True)
class LatentConfig:
    """What the diffusion sees of the VAE's latents.

    Attributes:
      latents: `raw`, as the VAE gives them; `standard`, to zero mean and one scale; `principal`,
        turned to the principal axes of a window's latents; or `cosine`, turned to frequencies and
        then, in each, to the principal axes of its channels, whose cost is linear in the window's
        length; see `latent_stats`.
      axes: of principal axes, how many of the widest there are; 0: all. Fewer than the training
        windows.
      span: of principal axes, how many times the deviation of the narrowest that of the widest may
        be; larger ones are raised to the power that makes it so. 0: they stay as they are.
      posterior: whether the diffusion learns a fresh `draw` of the posterior at each visit; its
        `mean`, which holds no noise that the data has not; or, near the mean, the `exact` latent
        that the decoder makes the window of (`vae.model.skip` only); see `exact`.
    """

    latents: str = "principal"
    axes: int = 0
    span: float = 200.0
    posterior: str = "exact"

    def __post_init__(self) -> None:
        """Checks the settings; raises ConfigError."""
        check_fields(
            self,
            latents=one_of(*LAYOUTS),
            axes=at_least(0),
            span=Rule(lambda value: value == 0 or value >= 1, "must be at least 1, or 0"),
            posterior=one_of(*POSTERIORS),
        )


class Posteriors(NamedTuple):
    """The posterior of every training window, flattened: what the latent diffusion trains on.

    Attributes:
      mean: of each.
      log_variance: of each; `()` where the diffusion learns one latent a window.
      context: of each, what it can be asked for by; `()` where there is nothing.
    """

    mean: Float[Array | np.ndarray, "windows flat"]
    log_variance: Float[Array | np.ndarray, "windows flat"] | tuple[()] = ()
    context: Context | tuple[()] = ()


class Drift(NamedTuple):
    """How coordinates of the diffusion's own samples lie beside those that it learnt from.

    A diffusion that is not trained to the end gives narrow coordinates too little deviation, a
    tenth or so, which shows in the spectrum long before a judge sees it.

    Attributes:
      mean: of each coordinate in samples.
      factor: that takes its deviation to the one that training measured.
    """

    mean: Float[Array | np.ndarray, " axis"]
    factor: Float[Array | np.ndarray, " axis"]

    def mend(self, z: Float[Array, "batch axis"]) -> Float[Array, "batch axis"]:
        """Samples with mean zero and the deviations of training."""
        return (z - self.mean) * self.factor


def drift(z: Float[np.ndarray, "batch axis"], deviation: Float[np.ndarray, " axis"]) -> Drift:
    """That of samples, whose deviations should be `deviation`; factors from ½ to 2."""
    found = z.std(axis=0, dtype=np.float64)
    factor = np.clip(deviation / np.maximum(found, 1e-30), 0.5, 2)
    return Drift(z.mean(axis=0, dtype=np.float64).astype(np.float32), factor.astype(np.float32))


class LatentStats(NamedTuple):
    """The affine map between the VAE's latents and those that the diffusion sees.

    Attributes:
      mean: subtracted first, `(flat,)`.
      scale: divided by last, `(axis,)`.
      axes: orthonormal columns that latents are turned to in between, `(flat, axis)`, or those of
        each frequency, `(time, latent, axis)`; `()` where they are not turned.
      deviation: standard deviation of each coordinate after that, `(axis,)`; `()` where it is the
        noise's one `sigma_data` for all.
    """

    mean: Float[Array | np.ndarray, " flat"]
    scale: Float[Array | np.ndarray, " axis"]
    axes: Float[Array | np.ndarray, "*flat axis"] | tuple[()] = ()
    deviation: Float[Array | np.ndarray, " axis"] | tuple[()] = ()

    def apply(self, z: Float[Array, "batch flat"]) -> Float[Array, "batch axis"]:
        """From the VAE's latents to the diffusion's."""
        z = z - self.mean
        if isinstance(self.axes, tuple):
            return z / self.scale
        if self.axes.ndim == 2:
            return z @ self.axes / self.scale
        frequencies = fft.dct(z.reshape(-1, *self.axes.shape[:2]), axis=1, norm="ortho")
        return jnp.einsum("btm,tma->bta", frequencies, self.axes).reshape(z.shape) / self.scale

    def invert(self, z: Float[Array, "batch axis"]) -> Float[Array, "batch flat"]:
        """From the diffusion's latents to the VAE's."""
        z = z * self.scale
        if isinstance(self.axes, tuple):
            return z + self.mean
        if self.axes.ndim == 2:
            return z @ self.axes.T + self.mean
        frequencies = jnp.einsum("bta,tma->btm", z.reshape(-1, *self.axes.shape[:2]), self.axes)
        return fft.idct(frequencies, axis=1, norm="ortho").reshape(z.shape) + self.mean

    def sigma_data(self, common: float) -> edm.Deviation:
        """σ_data of each coordinate, or the one of all."""
        return common if isinstance(self.deviation, tuple) else self.deviation


def windows_per_call(vae: VAE, most: int, kept: int = 2) -> int:
    """How many windows networks take at once on a device, at least 1, within `CALL_BYTES`.

    Attention holds `heads · T²` float32 numbers a window, before the softmax and after it, or
    `heads · T · block`; the layers around it a few times the width of the feed-forward for each of
    T steps.

    Args:
      vae: the network.
      most: the number to take where memory allows it.
      kept: how many such maps are held at a time: two where layers follow one another, and all of
        them where a derivative is to come.
    """
    time = vae.window
    reach = min(time, 2 * vae.block) if vae.block else time
    numbers = vae.heads * time * reach + 2 * time * vae.width * vae.mlp_ratio
    return max(1, min(most, int(CALL_BYTES // (4 * kept * numbers))))


def windows_per_gradient(vae: VAE, most: int) -> int:
    """As `windows_per_call`, where a reverse derivative keeps both maps of every attention.

    There is one in each block of the two encoder stacks, and two in each of the decoder.
    """
    return windows_per_call(vae, most, kept=4 * (vae.encoder_layers + vae.decoder_layers))


def latents_per_call(flat: int, most: int) -> int:
    """How many latents of `flat` numbers the denoiser takes at once, as `windows_per_call`."""
    return max(1, min(most, CALL_BYTES // (4 * LATENT_COPIES * flat)))


def batches(count: int, largest: int) -> Iterator[tuple[int, int]]:
    """First window and size of each batch of `count` windows, the last one padded.

    There are two sizes, so that a model compiles at most twice whatever is asked of it: the large
    one where it is at least half full, else small ones. Both divide over the local devices.
    """
    devices = jax.local_device_count()
    small, large = (-(-min(n, largest) // devices) * devices for n in (SMALL_BATCH, largest))
    first = 0
    while first < count:
        size = large if 2 * (count - first) >= large else small
        yield first, size
        first += size


def encode(
    vae: VAE,
    params: Any,
    windows: DeviceWindows,
    posterior: str = "draw",
) -> Posteriors:
    """The posteriors of windows, numpy `(windows, T·m)`, in large batches; see `posterior_of`."""
    params, data = jax.device_put((params, windows))
    count, size = len(windows.starts), windows_per_call(vae, ENCODE_BATCH)

    shape = (count, vae.window * vae.latent)
    found = [np.empty(shape, np.float32) for _ in range(2 if posterior == "draw" else 1)]
    for first in range(0, count, size):
        # The last batch repeats its last window rather than compile for another size.
        index = np.minimum(np.arange(first, first + size), count - 1)
        parts = _encode_batch(vae, params, data, index, posterior)
        for array, part in zip(found, parts, strict=True):
            array[first : first + size] = np.asarray(part).reshape(size, -1)[: count - first]
    return Posteriors(found[0], found[1] if len(found) > 1 else ())


@functools.partial(jax.jit, static_argnames=("vae", "posterior"))
def _encode_batch(
    vae: VAE, params: Any, data: DeviceWindows, index: Array, posterior: str
) -> tuple[Array, ...]:
    return posterior_of(vae, params, gather(data, index, vae.window), posterior)


def posterior_of(
    vae: VAE, params: Any, x: Float[Array, "batch time feature"], posterior: str
) -> tuple[Float[Array, "batch time latent"], ...]:
    """What the diffusion is to know of windows: means and log variances, or one latent each.

    Args:
      vae: the network.
      params: its weights.
      x: scaled, NaN where missing.
      posterior: as in `LatentConfig`.
    """
    mean, log_variance = bind(vae, params, "encode")(fill(x))
    if posterior == "draw":
        return mean, log_variance
    return (mean if posterior == "mean" else exact(vae, params, mean, x),)


def exact(
    vae: VAE,
    params: Any,
    z: Float[Array, "batch time latent"],
    x: Float[Array, "batch time feature"],
) -> Float[Array, "batch time latent"]:
    """The latents that the decoder makes the windows `x` of, found from `z` near them.

    A decoder with a linear map W around its stack is that map and a little more. So `z + W⁺ (x -
    decode(z))` lies nearer where the rest bends less than W does: a fixed-point iteration, which
    stops for windows that it does not help. It ends at rounding where latents have as many channels
    as windows have features, else at the windows that the decoder can make. Missing values ask for
    nothing: there the decoder says what it says.

    Cost: `ROUNDS + 1` passes of the decoder.
    """
    decode = bind(vae, params, "decode")
    back = jnp.linalg.pinv(params["skips_1"]["kernel"])

    def missed(z: Float[Array, "batch time latent"]) -> Float[Array, "batch time feature"]:
        return jnp.where(jnp.isnan(x), 0, x - decode(z))

    def size(error: Float[Array, "batch time feature"]) -> Float[Array, "batch 1 1"]:
        return jnp.square(error).sum(axis=(1, 2), keepdims=True)

    def nearer(pair: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        z, error = pair
        moved = z + error @ back
        left = missed(moved)
        better = size(left) < size(error)
        return (jnp.where(better, moved, z), jnp.where(better, left, error)), None

    return jax.lax.scan(nearer, (z, missed(z)), None, length=ROUNDS)[0][0]


def few_encoded(
    starts: Int[np.ndarray, " windows"] | Runs, numbers: int
) -> Int[np.ndarray, " few"]:
    """The windows that statistics are of where those of all do not fit, evenly spread.

    Args:
      starts: of all windows.
      numbers: of a window, or of its latent, whichever are more.
    """
    return runs.evenly(starts, max(min(STATS_WINDOWS, STATS_BYTES // (4 * numbers)), 2))


def latent_stats(
    posteriors: Posteriors, config: LatentConfig, sigma_data: float, window: int = 1
) -> LatentStats:
    """How latents are laid out for the diffusion, from what it learns of the training windows.

    - `raw`: as they are.
    - `standard`: zero mean and unit variance per coordinate.
    - `principal`: turned to the principal axes of the covariance, widest first, and scaled as a
      whole to a mean square of `sigma_data²`; each keeps its own deviation, within the `span`.
    - `cosine`: the same with axes that are products of a cosine over time (type II) and of an axis
      of the channels, the principal ones of that frequency. Where the latents are stationary these
      are the principal axes, but for what happens at a window's ends (Ahmed and others 1974).

    The covariance of draws is that of the means plus the mean of the variances.

    Args:
      posteriors: of the training windows.
      config: the layout.
      sigma_data: of the noise.
      window: rows of a window, T, which `cosine` makes frequencies of.

    Raises:
      ConfigError: more axes than the windows have.
    """
    flat = posteriors.mean.shape[1]
    if config.latents == "raw":
        return LatentStats(np.zeros(flat, np.float32), np.ones(flat, np.float32))
    mean = np.asarray(posteriors.mean.mean(axis=0, dtype=np.float64))
    if config.latents == "standard":
        variance = _sums(posteriors, mean, np.zeros(flat)) / len(posteriors.mean)
        return LatentStats(mean.astype(np.float32), np.sqrt(variance).astype(np.float32))
    if config.latents == "cosine":
        variance, axes = np.linalg.eigh(_of_frequencies(posteriors, mean, window))
        variance, axes = variance[:, ::-1].ravel(), axes[..., ::-1]
    elif config.axes and config.axes < flat:
        variance, axes = _widest_axes(posteriors, mean, config.axes)
        variance, axes = variance[::-1], axes[:, ::-1]
    else:
        covariance = _sums(posteriors, mean, np.zeros((flat, flat))) / len(posteriors.mean)
        variance, axes = np.linalg.eigh(covariance)
        variance, axes = variance[::-1], axes[:, ::-1]
    widest = variance.max()
    variance = np.maximum(variance, 1e-12 * widest)
    deviation = _within_span(np.sqrt(variance / widest), config.span)
    deviation *= sigma_data / np.sqrt(np.square(deviation).mean())
    stats = LatentStats(mean, np.sqrt(variance) / deviation, axes, deviation)
    return jax.tree.map(lambda array: np.ascontiguousarray(array, np.float32), stats)


def _sums(
    posteriors: Posteriors, mean: Float[np.ndarray, " flat"], sums: Float[np.ndarray, "*flat"]
) -> Float[np.ndarray, "*flat"]:
    """Sums over windows of squares about the mean, or of products, as many as `sums` holds."""
    for first in range(0, len(posteriors.mean), STATS_BATCH):  # bounds the memory of float64
        part = slice(first, first + STATS_BATCH)
        centred = posteriors.mean[part] - mean
        own = np.zeros(len(mean))
        if not isinstance(posteriors.log_variance, tuple):
            own = np.exp(posteriors.log_variance[part], dtype=np.float64).sum(axis=0)
        if sums.ndim == 1:
            sums += np.square(centred).sum(axis=0) + own
        else:
            sums += centred.T @ centred + np.diag(own)
    return sums


def _of_frequencies(
    posteriors: Posteriors, mean: Float[np.ndarray, " flat"], window: int
) -> Float[np.ndarray, "time latent latent"]:
    """The covariance of the latents' channels in each frequency."""
    count = len(posteriors.mean)
    channels = len(mean) // window
    found = np.zeros((window, channels, channels))
    most = max(STATS_BYTES // (8 * len(mean)), 1)
    own = np.zeros(len(mean))
    for first in range(0, count, most):
        part = slice(first, first + most)
        centred = (posteriors.mean[part] - mean).reshape(-1, window, channels)
        turned = scipy.fft.dct(centred, axis=1, norm="ortho").transpose(1, 2, 0)
        found += turned @ turned.transpose(0, 2, 1)
        if not isinstance(posteriors.log_variance, tuple):
            own += np.exp(posteriors.log_variance[part], dtype=np.float64).sum(axis=0)
    weights = np.square(scipy.fft.dct(np.eye(window), axis=0, norm="ortho"))
    spread = weights @ own.reshape(window, channels)
    return (found + spread[..., None] * np.eye(channels)) / count


def _widest_axes(
    posteriors: Posteriors, mean: Float[np.ndarray, " flat"], count: int
) -> tuple[Float[np.ndarray, " axis"], Float[np.ndarray, "flat axis"]]:
    """Variances, rising, and axes of the means, from at most `GRAM_WINDOWS` of them.

    From the products of windows with each other, which are fewer than those of latents.
    """
    every = len(posteriors.mean)
    chosen = np.linspace(0, every - 1, min(GRAM_WINDOWS, every)).astype(int)
    if count >= len(chosen):
        raise ConfigError(
            f"config.ldm.axes={count} must be below the number of training windows, {len(chosen)}"
        )
    centred = posteriors.mean[chosen] - mean
    variance, weights = np.linalg.eigh(centred @ centred.T / len(chosen))
    variance, weights = variance[-count:], weights[:, -count:]
    axes = centred.T @ weights
    # Where windows are alike there are fewer axes than asked for: what is left has no length.
    lengths = np.linalg.norm(axes, axis=0)
    return variance, axes / np.maximum(lengths, EMPTY * lengths.max())


def _within_span(deviation: Float[np.ndarray, " flat"], span: float) -> Float[np.ndarray, " flat"]:
    """Deviations from 1 down, raised to one power so that the widest is `span` times the last.

    Smooth windows have axes a hundred thousand times as narrow as the widest; noise that reaches
    from one to the other would leave each level few examples. Axes below `EMPTY` hold rounding:
    they are made so narrow that they count for nothing.
    """
    if span == 0:
        return deviation
    live = deviation >= EMPTY
    power = min(1.0, math.log(span) / max(-math.log(deviation[live].min()), 1e-9))
    return np.where(live, deviation**power, UNHEARD)


def zero_stats(shape: tuple[int, int], axes: int, latents: str) -> LatentStats:
    """Statistics of the shapes that `latent_stats` gives: the template of a checkpoint.

    Args:
      shape: of a latent, `(T, m)`.
      axes: numbers that the diffusion sees of it.
      latents: a layout.
    """
    zeros, flat = jnp.zeros(axes), math.prod(shape)
    if latents == "cosine":
        return LatentStats(zeros, zeros, jnp.zeros((*shape, shape[1])), zeros)
    if latents != "principal":
        return LatentStats(zeros, zeros)
    return LatentStats(jnp.zeros(flat), zeros, jnp.zeros((flat, axes)), zeros)
