"""Sampling with part of the data held: imputation, forecasts, and series longer than a window.

A series is covered by overlapping windows, each with a latent of its own. At every noise level,
from high to low (decoupled annealing, Zhang et al. 2024, arXiv 2407.01521):

1. each latent is denoised to a clean sample by a few Heun steps;
2. half of the windows, the even ones and the odd ones in turn, are moved to fit what is observed
   and what their neighbours have where they overlap: a Gauss-Newton step on the decoder's output,
   within the posterior that a Gaussian of the latents' covariance has at this noise level, solved
   by conjugate gradients;
3. noise of the next level is added.

The covariance is what carries an observation to what is not observed. Windows that nothing is
observed of and that overlap no other are left alone: they are plain samples.

From high noise, windows that know nothing of each other meet in the middle and lose variance. So a
long series starts as a chain: of many samples, one whose first half is close to the last half of
the window before is drawn, and only moderate noise is added before the windows are joined.

Cost: a level takes `2 · INNER_STEPS` evaluations of the denoiser and `CG_STEPS` forward and reverse
derivatives of the decoder, for all windows at once; a chain, one product of series by samples a
window.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from timeldm_jax.diffusion import samplers

LEVELS, JOIN_LEVELS = 20, 10
SIGMA_MAX, SIGMA_JOIN, SIGMA_MIN = 10.0, 0.6, 0.02  # of latents of unit scale
INNER_STEPS = 3
CG_STEPS = 8
CLOSEST = 3  # samples that a chain's next one is drawn from
SHARP = 0.05  # windows over which one gives way to the next
TOLERANCE = 0.01  # of the range, to which observed values are met
AGREEMENT = 0.01  # of the range, to which neighbours must agree
LEAST_SHARE = 0.02  # of a row that a window must account for to be followed there

Decode = Callable[[Float[Array, "batch flat"]], Float[Array, "batch time feature"]]
Rows = Float[Array, "n length feature"]


class Cover(NamedTuple):
    """Overlapping windows that cover a series.

    Attributes:
      starts: row of each window's start, increasing.
      length: rows of the series.
      window: rows of a window.
    """

    starts: Int[np.ndarray, " windows"]
    length: int
    window: int

    def rows(self) -> Int[np.ndarray, "windows window"]:
        """The rows that each window covers."""
        return self.starts[:, None] + np.arange(self.window)

    def weights(self) -> Float[np.ndarray, "windows window"]:
        """How much a window counts at each of its rows: to the middle of an overlap, not beyond.

        Each row belongs to the window whose centre is nearest, with a soft edge of a few rows.
        """
        middle = self.starts[:, None] + (self.window - 1) / 2
        away = np.abs(self.rows() - middle) / self.window
        raw = np.exp(-0.5 * np.square(away / SHARP))
        total = np.zeros(self.length)
        np.add.at(total, self.rows(), raw)
        return raw / total[self.rows()]

    def seams(self) -> Int[np.ndarray, " joins"]:
        """Rows from which another window counts most than at the row before."""
        claim = np.zeros((len(self.starts), self.length))
        np.put_along_axis(claim, self.rows(), self.weights(), axis=1)
        return np.flatnonzero(np.diff(claim.argmax(axis=0))) + 1


def cover(length: int, window: int) -> Cover:
    """Windows that overlap by a half to two thirds, the last one flush with the end.

    Steps between them vary, so that no rhythm of the data (a day of hours) always meets a join.

    Raises:
      ValueError: the series is shorter than a window.
    """
    if length < window:
        raise ValueError(f"{length} rows are fewer than a window of {window}")
    random = np.random.default_rng(0)
    least, most = max(window // 3, 1), max(window // 2, 1)
    starts = [0]
    while starts[-1] + most < length - window:
        starts.append(starts[-1] + int(random.integers(least, most + 1)))
    if starts[-1] != length - window:
        starts.append(length - window)
    return Cover(np.array(starts), length, window)


class Prior(NamedTuple):
    """Eigenvalues `(flat,)` and eigenvectors `(flat, flat)` of the latents' covariance."""

    values: Float[Array, " flat"]
    vectors: Float[Array, "flat flat"]


def levels(steps: int, highest: float) -> tuple[np.ndarray, np.ndarray]:
    """Noise levels `(steps + 1,)` ending in 0, and of the Heun steps from each but the last."""
    outer = samplers.karras_sigmas(steps, SIGMA_MIN, highest, 7.0)
    inner = [samplers.karras_sigmas(INNER_STEPS, SIGMA_MIN / 2, sigma, 7.0) for sigma in outer[:-1]]
    return outer, np.stack(inner)


def complete(
    denoise: samplers.Denoise,
    decode: Decode,
    observed: Rows,
    windows: Cover,
    noise: Callable[[Array | int], Float[Array, "batch flat"]],
    prior: Prior,
    start: Float[Array, "batch flat"] | None = None,
) -> Rows:
    """Draws series that agree with what is observed of them.

    Args:
      denoise: `D(z; σ)` over standardised latents.
      decode: windows in [0, 1] for latents `(batch, flat)`.
      observed: `(n, length, feature)` in [0, 1], NaN where anything may stand.
      windows: that cover `length`.
      noise: standard normal `(n · windows, flat)` for a number of its own.
      prior: covariance of the latents.
      start: latents to start from at moderate noise, as from a chain; default: from noise alone.

    Returns:
      `(n, length, feature)`, the observed values where there are any.
    """
    count = len(windows.starts)
    n, length, _ = observed.shape
    rows = jnp.asarray(windows.rows())
    share = jnp.asarray(windows.weights(), observed.dtype)[..., None]
    seen = observed[:, rows]  # (n, windows, window, feature)
    known = ~jnp.isnan(seen)
    seen = jnp.where(known, seen, 0)
    beside = jnp.asarray(_overlaps(windows))[..., None]

    def join(x: Array, part: Array) -> tuple[Array, Array]:
        """Rows that the windows in `part` say, and how much of them there is."""
        weight = share * part[:, None, None]
        total = jnp.zeros((length, 1)).at[rows].add(weight)
        joined = jnp.zeros((n, length, x.shape[-1])).at[:, rows].add(weight * x.reshape(seen.shape))
        return joined / jnp.maximum(total, 1e-6), total

    def fit(clean: Array, leads: Array, root: Array) -> Array:
        """Moves latents towards observations and, where windows follow, towards those that lead.

        Minimises `|u|² + Σ weight · (decode(z + root·u) − target)²`, linearised at z.
        """
        x, pull_x = jax.vjp(decode, clean)
        # The decoder has a reverse derivative of its own, so the forward one is its transpose.
        push_x = jax.linear_transpose(lambda y: pull_x(y)[0], x)
        said, total = join(x, leads.astype(x.dtype))
        follows = (total > LEAST_SHARE)[rows] & ~leads[:, None, None] & beside
        target = jnp.where(known, seen, said[:, rows]).reshape(x.shape)
        weight = jnp.where(known, TOLERANCE**-2, jnp.where(follows, AGREEMENT**-2, 0.0))
        weight = weight.reshape(x.shape)

        def pull(y: Array) -> Array:
            return pull_x(weight * y)[0] @ root

        def system(u: Array) -> Array:
            return u + pull(push_x(u @ root.T)[0])

        return clean + _conjugate_gradients(system, pull(target - x)) @ root.T

    def level(z: Array, step: Any) -> tuple[Array, Array]:
        i, sigma, lower, schedule = step
        clean = samplers.heun(denoise, z / sigma, schedule)
        leads = (jnp.arange(count) + i) % 2 == 0
        spread = prior.values * jnp.square(sigma) / (prior.values + jnp.square(sigma))
        root = prior.vectors * jnp.sqrt(spread)
        clean = fit(clean, leads, root)
        return clean + lower * noise(i + 1), clean

    outer, inner = levels(LEVELS, SIGMA_MAX) if start is None else levels(JOIN_LEVELS, SIGMA_JOIN)
    z = noise(0) * outer[0] if start is None else start + noise(0) * outer[0]
    steps = (jnp.arange(len(inner)), *map(jnp.asarray, (outer[:-1], outer[1:], inner)))
    _, clean = jax.lax.scan(level, z, steps)
    found, _ = join(decode(clean[-1]), jnp.ones(count))
    return jnp.where(jnp.isnan(observed), found, observed)


def chain(
    samples: Float[np.ndarray, "samples window feature"], count: int, links: int, seed: int
) -> Int[np.ndarray, "count links"]:
    """Numbers of samples such that each one's first half fits the last half of the one before.

    The next one is drawn among the `CLOSEST` whose half is nearest, in deviations of each feature.
    A sample is not used again in the same series as long as there are others.

    Args:
      samples: in [0, 1].
      count: series.
      links: samples a series.
      seed: of the draws.
    """
    random = np.random.default_rng(seed)
    time = samples.shape[1]
    half = time - max(time // 2, 1)
    deviation = np.maximum(samples.std(axis=(0, 1)), 1e-6)
    heads = (samples[:, :half] / deviation).reshape(len(samples), -1).astype(np.float32)
    tails = (samples[:, -half:] / deviation).reshape(len(samples), -1).astype(np.float32)
    squares = np.square(heads).sum(axis=1)

    def distances(tail: Float[np.ndarray, "n numbers"]) -> Float[np.ndarray, "n samples"]:
        found = squares - 2 * tail @ heads.T + np.square(tail).sum(axis=1, keepdims=True)
        return np.maximum(found, 0)

    chosen = np.empty((count, links), np.int64)
    chosen[:, 0] = random.integers(0, len(samples), count)
    used = np.zeros((count, len(samples)), np.float32)
    for link in range(1, links):
        before = chosen[:, link - 1]
        used[np.arange(count), before] += 1
        away = distances(tails[before]) + 1e6 * used
        closest = np.argpartition(away, CLOSEST, axis=1)[:, :CLOSEST]
        chosen[:, link] = closest[np.arange(count), random.integers(0, CLOSEST, count)]
    return chosen


def _overlaps(windows: Cover) -> np.ndarray:
    """Which rows of each window another window covers too."""
    covered = np.zeros(windows.length, int)
    np.add.at(covered, windows.rows(), 1)
    return covered[windows.rows()] > 1


def _conjugate_gradients(
    system: Callable[[Array], Array], right: Float[Array, "batch time feature"]
) -> Float[Array, "batch time feature"]:
    """A few steps towards `system(v) = right`, each window with step sizes of its own."""

    def dot(a: Array, b: Array) -> Array:
        return jnp.sum(a * b, axis=-1, keepdims=True)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        v, residual, direction, square = carry
        image = system(direction)
        curvature = dot(direction, image)
        size = jnp.where(curvature > 1e-12, square / jnp.maximum(curvature, 1e-12), 0)
        v, residual = v + size * direction, residual - size * image
        new = dot(residual, residual)
        direction = residual + new / jnp.maximum(square, 1e-12) * direction
        return (v, residual, direction, new), None

    start = (jnp.zeros_like(right), right, right, dot(right, right))
    (v, *_), _ = jax.lax.scan(step, start, None, length=CG_STEPS)
    return v
