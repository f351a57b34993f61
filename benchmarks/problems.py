"""What the benchmarks run: a configuration's models and stages on random data of a set's shape.

The numbers in the data do not matter to the time a step takes, so nothing is downloaded or
simulated.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from timeldm_jax import config as configuration
from timeldm_jax import latents
from timeldm_jax.data.scaling import Scaler
from timeldm_jax.data.series import DeviceWindows
from timeldm_jax.generator import Generator
from timeldm_jax.training import stages, steps
from timeldm_jax.training.state import TrainState

FEATURES = {"sines": 5, "mujoco": 14, "stocks": 6, "etth": 7, "fmri": 50, "energy": 28}
STAGES = ("vae", "ldm")


@dataclasses.dataclass(frozen=True)
class Problem:
    """A configuration with its networks and data.

    Attributes:
      config: the configuration.
      models: its networks.
      values: scaled rows `(rows, features)`.
      starts: of the training windows.
      posteriors: of those windows, as if from a trained VAE.
    """

    config: ConfigDict
    models: stages.Models
    values: np.ndarray
    starts: np.ndarray
    posteriors: latents.Posteriors


def with_sample_steps(config: ConfigDict, heun_steps: int) -> ConfigDict:
    """A copy of a configuration with another number of Heun steps."""
    config = copy.deepcopy(config)
    config.sample.steps = heun_steps
    return config


def make_problem(config: ConfigDict, features: int, windows: int) -> Problem:
    """Random data of `features` columns in `windows` windows, stride 1, for `config`."""
    models = stages.build_models(config, features)
    random = np.random.default_rng(0)
    shape = (windows, models.flat)
    mean = random.standard_normal(shape, np.float32)
    return Problem(
        config=config,
        models=models,
        values=random.random((windows + config.data.window - 1, features), np.float32),
        starts=np.arange(windows, dtype=np.int32),
        posteriors=latents.Posteriors(mean, np.full(shape, -5, np.float32)),
    )


def load_problem(name: str, variant: str) -> Problem:
    """The problem of a shipped configuration, such as `load_problem("etth", "paper")`."""
    config = configuration.load(f"configs/{name}.py", variant)
    return make_problem(config, FEATURES[name], config.sample.count)


@dataclasses.dataclass(frozen=True)
class Training:
    """A stage as `stages` trains it.

    Attributes:
      step: the step's body.
      batch: the batch it is for.
      init: makes the first state.
      data: what the step reads, on the device.
    """

    step: steps.Step
    batch: steps.Batch
    init: Callable[[], TrainState]
    data: Any


def make_training(problem: Problem, stage: str, *, in_parts: bool = True) -> Training:
    """The stage "vae" or "ldm" of a problem.

    Args:
      problem: what to train.
      stage: which of its networks.
      in_parts: False puts the whole batch through at once, whatever the configuration says.
    """
    config, models = problem.config, problem.models
    optimizer_config = configuration.optimizer_config(config[stage])
    optimizer = steps.make_optimizer(optimizer_config, config[stage].steps)
    batch = stages.make_batch(config, stage)
    if not in_parts:
        batch = dataclasses.replace(batch, micro=None)
    if stage == "vae":
        beta = configuration.beta_config(config)
        return Training(
            steps.vae_step(models.vae, optimizer, optimizer_config, beta, batch),
            batch,
            lambda: stages.init_vae_state(config, models),
            jax.tree.map(jnp.asarray, DeviceWindows(problem.values, problem.starts)),
        )
    noise = configuration.noise_config(config)
    stats = _latent_stats(problem)
    return Training(
        steps.ldm_step(models.denoiser, optimizer, optimizer_config, noise, batch),
        batch,
        lambda: stages.init_ldm_state(config, models, stats),
        jax.tree.map(jnp.asarray, problem.posteriors),
    )


def _latent_stats(problem: Problem) -> latents.LatentStats:
    layout = configuration.latent_config(problem.config)
    sigma_data = problem.config.ldm.noise.sigma_data
    return latents.latent_stats(problem.posteriors, layout, sigma_data)


def make_generator(problem: Problem) -> Generator:
    """An untrained generator of a problem."""
    config, models = problem.config, problem.models
    stats = _latent_stats(problem)
    features = models.vae.features
    return Generator(
        config=config,
        models=models,
        vae_params=stages.init_vae_state(config, models).params,
        ldm_params=stages.init_ldm_state(config, models, stats).params,
        stats=stats,
        scaler=Scaler((0.0,) * features, (1.0,) * features),
        columns=tuple(f"column {i}" for i in range(features)),
        schema=None,
        meta={},
    )
