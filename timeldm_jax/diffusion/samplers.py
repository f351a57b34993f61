"""Samplers: EDM's of Heun, as published, and one that is exact where latents are Gaussian.

Both follow the probability-flow equation `dz/dσ = (z − D(z; σ))/σ` (arXiv 2206.00364, eq. 3) from
much noise to none.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from timeldm_jax.diffusion.edm import Deviation
from timeldm_jax.errors import ConfigError
from timeldm_jax.settings import COUNT, POSITIVE, SEED, at_least, check_fields, one_of

SOLVERS = ("polar", "heun")


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """How windows are drawn.

    Attributes:
      count: windows of `samples.npz`.
      seed: of the noise.
      batch: windows a call, which bounds memory.
      solver: `polar`, TrigFlow by Adams–Bashforth 2, exact where latents are Gaussian; or `heun`,
        EDM's.
      steps: network evaluations of `polar`; `heun` takes 2·steps − 1.
      match_axes: whether each coordinate of the diffusion's samples is shifted and scaled to the
        mean and deviation that training measured.
      match_marginals: whether each value feature is mapped to the training data's distribution.
      hold_repeats: whether values that hardly change stay as they were, as often as in the training
        data; see `repeats`.
      marginal_windows: how many of its own windows a model is measured on for these, at most; 0: by
        `marginals.draws`, and `generator.DRIFT_SAMPLES`.
      band_windows: held-out windows that widths of forecasts are measured on; 0: they are as drawn;
        see `bands`.
      churn: S_churn, the noise that `heun` adds at each step; 0: none.
      sigma_min: lowest noise level before zero.
      sigma_max: noise level that sampling starts from.
      rho: how much denser noise levels lie towards `sigma_min` (arXiv 2206.00364, eq. 5).
      guidance: how strongly samples follow the static columns and the start that they are asked
        for: 1, as the data does; above, more than that, with less spread; 0: not at all.
    """

    count: int = 10_000
    seed: int = 0
    batch: int = 1_000
    solver: str = "polar"
    steps: int = 36
    match_axes: bool = True
    match_marginals: bool = False
    hold_repeats: bool = True
    marginal_windows: int = 0
    band_windows: int = 0
    churn: float = 0.0
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        """Checks the settings; raises ConfigError."""
        check_fields(
            self,
            count=COUNT,
            seed=SEED,
            batch=COUNT,
            solver=one_of(*SOLVERS),
            steps=at_least(2),
            marginal_windows=at_least(0),
            band_windows=at_least(0),
            churn=at_least(0),
            sigma_min=POSITIVE,
            rho=POSITIVE,
            guidance=at_least(0),
        )
        if self.sigma_min > self.sigma_max:
            raise ConfigError(
                f"sigma_min={self.sigma_min} must not exceed sigma_max={self.sigma_max}"
            )
        if self.churn > 0 and self.solver != "heun":
            raise ConfigError(
                f"churn={self.churn} needs solver='heun'; {self.solver!r} adds no noise"
            )


FlatLatents = Float[Array, "batch flat"]
Denoise = Callable[[FlatLatents, Float[Array, " 1"]], FlatLatents]
RawOutput = Callable[[FlatLatents, Float[Array, " 1"]], FlatLatents]
StepNoise = Callable[[Int[Array, ""]], FlatLatents]


def evaluations(solver: str, steps: int) -> int:
    """How often the network is called for a sample."""
    return steps if solver == "polar" else 2 * steps - 1


def karras_sigmas(
    steps: int, sigma_min: float, sigma_max: float, rho: float
) -> Float[np.ndarray, " steps+1"]:
    """Noise levels from `sigma_max` to `sigma_min`, then 0 (eq. 5), float32 `(steps + 1,)`."""
    ramp = np.linspace(0.0, 1.0, steps)
    levels = sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))
    return np.append(levels**rho, 0.0).astype(np.float32)


def heun(
    denoise: Denoise,
    unit_noise: FlatLatents,
    sigmas: Float[Array | np.ndarray, " levels"],
    *,
    churn: float = 0.0,
    step_noise: StepNoise | None = None,
) -> FlatLatents:
    """Integrates the probability-flow equation from `sigmas[0]` down to `sigmas[-1] = 0`.

    Each step is a second-order Heun step; the last, to zero, is an Euler step. With
    `churn > 0` noise is added before each step, `γ = min(churn/steps, √2 − 1)` (Alg. 2 with
    S_min = 0, S_max = ∞, S_noise = 1). The network is called `2·steps − 1` times.

    Args:
      denoise: `D(z; σ)` over `(batch, flat)` and `(1,)`: one noise level for the whole batch, so
        that what depends on it alone is computed once.
      unit_noise: standard normal start, `(batch, flat)`.
      sigmas: falling noise levels ending in 0, `(steps + 1,)`.
      churn: S_churn; 0 is the deterministic sampler.
      step_noise: standard normal `(batch, flat)` for a step number; needed when `churn > 0`.

    Returns:
      Samples `(batch, flat)`.

    Raises:
      ValueError: `churn` is positive and `step_noise` is missing.
    """
    if churn > 0 and step_noise is None:
        raise ValueError(f"churn={churn} needs step_noise, the fresh noise of each step")
    sigmas = jnp.asarray(sigmas, unit_noise.dtype)
    steps = sigmas.shape[0] - 1
    gamma = min(churn / steps, 2**0.5 - 1)

    def slope(z: FlatLatents, sigma: Array) -> FlatLatents:
        return (z - denoise(z, sigma[None])) / sigma

    def raise_noise(z: FlatLatents, i: Array) -> tuple[FlatLatents, Array]:
        sigma = sigmas[i]
        if step_noise is None or gamma == 0:
            return z, sigma
        raised = sigma * (1 + gamma)
        return z + jnp.sqrt(jnp.square(raised) - jnp.square(sigma)) * step_noise(i), raised

    def step(z: FlatLatents, i: Array) -> tuple[FlatLatents, None]:
        z, sigma = raise_noise(z, i)
        lower = sigmas[i + 1]
        first = slope(z, sigma)
        euler = z + (lower - sigma) * first
        second = slope(euler, lower)
        return z + (lower - sigma) * 0.5 * (first + second), None

    z, _ = jax.lax.scan(step, unit_noise * sigmas[0], jnp.arange(steps - 1))
    z, sigma = raise_noise(z, jnp.asarray(steps - 1))
    return z - sigma * slope(z, sigma)


def polar(
    raw_output: RawOutput,
    unit_noise: FlatLatents,
    sigmas: Float[Array | np.ndarray, " levels"],
    sigma_data: Deviation,
) -> FlatLatents:
    """TrigFlow's equation by Adams–Bashforth 2: one network evaluation a step.

    TrigFlow (arXiv 2410.11081) writes the probability-flow equation in an angle; here each
    coordinate has its own, by its own σ_d. With `θ = arctan(σ/σ_d)` and `v = z/√(σ² + σ_d²)` it is
    `dv/dθ = −F`: the skip path is a change of variables and only the network is left to integrate.
    Of Gaussian latents, F = 0, samples are exact with any number of steps, where Heun's method in z
    is off by 1 to 2% in each deviation at 79 evaluations.
    Steps are those of the two-step Adams–Bashforth method for unequal step sizes, in each
    coordinate by its own; the first and the last, to θ = 0, are Euler's.

    Args:
      raw_output: `F` at `(batch, flat)` noisy latents z and a noise level `(1,)`.
      unit_noise: standard normal start, `(batch, flat)`.
      sigmas: falling noise levels ending in 0, `(steps + 1,)`.
      sigma_data: standard deviation of the clean latents, of all coordinates or of each.

    Returns:
      Samples `(batch, flat)`.
    """
    sigmas = jnp.asarray(sigmas, unit_noise.dtype)
    deviation = jnp.broadcast_to(jnp.asarray(sigma_data, unit_noise.dtype), unit_noise.shape[1:])
    # As a complement, π/2 − θ: near π/2 float32 could not tell the levels of a narrow coordinate.
    complements = jnp.arctan2(deviation, sigmas[:, None])
    radii = jnp.hypot(sigmas[:, None], deviation)

    def step(carry: tuple[FlatLatents, FlatLatents, Array], i: Array) -> tuple[Any, None]:
        v, before, turned = carry
        slope = raw_output(v * radii[i], sigmas[i][None])
        turn = complements[i + 1] - complements[i]
        # At first nothing was turned before, `turned` is infinite and the step is Euler's.
        extrapolated = slope + 0.5 * turn / turned * (slope - before)
        return (v + turn * jnp.where(sigmas[i + 1] > 0, extrapolated, slope), slope, turn), None

    start = (unit_noise, jnp.zeros_like(unit_noise), jnp.full_like(deviation, jnp.inf))
    (v, _, _), _ = jax.lax.scan(step, start, jnp.arange(len(sigmas) - 1))
    return v * deviation
