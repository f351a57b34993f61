"""Adaptive β: the KL weight falls when reconstruction stops improving (arXiv 2407.04211, IV-B)."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from timeldm_jax.errors import ConfigError
from timeldm_jax.settings import COUNT, Rule, at_least, check_fields


@dataclasses.dataclass(frozen=True)
class BetaConfig:
    """Settings of adaptive β.

    Attributes:
      maximum: β at the start.
      minimum: β never falls below it.
      decay: λ, the factor of one fall.
      patience: training steps without a new best loss before a fall.
      restart: whether the count restarts after a fall, so that β falls again while the plateau
        lasts (the paper's text). False is the released code: one fall a plateau.
    """

    maximum: float
    minimum: float
    decay: float
    patience: int
    restart: bool

    def __post_init__(self) -> None:
        """Checks the settings; raises ConfigError."""
        check_fields(
            self,
            maximum=at_least(0),
            minimum=at_least(0),
            decay=Rule(lambda value: 0 < value <= 1, "must be in (0, 1]"),
            patience=COUNT,
        )
        if self.minimum > self.maximum:
            raise ConfigError(f"minimum={self.minimum} must not exceed maximum={self.maximum}")


class BetaState(NamedTuple):
    """β, the best loss so far and the number of steps since, all scalars."""

    beta: Float[Array, ""]
    best: Float[Array, ""]
    waited: Int[Array, ""]


def init(config: BetaConfig) -> BetaState:
    """β at its maximum, nothing seen."""
    return BetaState(jnp.float32(config.maximum), jnp.float32(jnp.inf), jnp.int32(0))


def update(state: BetaState, loss: Float[Array, ""], config: BetaConfig) -> BetaState:
    """One step: a new best resets the count; at `patience` steps without one, β falls.

    Without branches, so that it lives inside `lax.scan`. A NaN loss is never a new best.
    """
    improved = loss < state.best
    waited = jnp.where(improved, 0, state.waited + 1)
    falls = waited == config.patience
    beta = jnp.where(falls, jnp.maximum(state.beta * config.decay, config.minimum), state.beta)
    if config.restart:
        waited = jnp.where(falls, 0, waited)
    return BetaState(beta, jnp.where(improved, loss, state.best), waited)
