"""A generator from what a run, or a saved model, holds."""

from typing import Any

import jax
from ml_collections import ConfigDict

from timeldm_jax import described
from timeldm_jax.data.scaling import Scaler
from timeldm_jax.data.schema import Schema
from timeldm_jax.generator import Generator
from timeldm_jax.latents import LatentStats
from timeldm_jax.training import checkpoint, stages
from timeldm_jax.training.stages import Models
from timeldm_jax.training.state import TrainState
from timeldm_jax.workdir import Workdir

PyTree = Any


def load_generator(workdir: Workdir) -> Generator:
    """The generator that a work directory or a saved model holds.

    Raises:
      CheckpointError: a part is missing or damaged.
    """
    config = stages.read_config(workdir)
    columns = tuple(checkpoint.read_best_meta(workdir.ldm)["columns"])
    models = stages.build_models(config, len(columns))

    def ldm_template() -> TrainState:
        return stages.init_ldm_state(config, models, stages.zero_stats(config, models))

    restored, meta = checkpoint.restore_averaged(workdir.ldm, jax.eval_shape(ldm_template))
    meta = meta | {"drawn_marginals": described.read(workdir)}
    vae_params, _ = stages.load_vae(config, models, workdir)
    return assemble(config, models, vae_params, restored, meta)


def assemble(
    config: ConfigDict,
    models: Models,
    vae_params: PyTree,
    diffusion: checkpoint.Averaged,
    meta: dict[str, Any],
) -> Generator:
    """The generator of weights and a description, as any version saved them.

    Args:
      config: as trained.
      models: the networks of `config`.
      vae_params: averaged weights of the VAE.
      diffusion: averaged weights of the denoiser, and the statistics of its latents.
      meta: metadata of the diffusion checkpoint.
    """
    schema = meta.get("schema")  # the first versions knew no tables
    return Generator(
        config=config,
        models=models,
        vae_params=vae_params,
        ldm_params=diffusion.ema,
        stats=LatentStats(**diffusion.latent_stats),
        scaler=Scaler.from_json(meta["scaler"]),
        columns=tuple(meta["columns"]),
        schema=None if schema is None else Schema.from_json(schema),
        meta=meta,
        marginals=described.marginals_of(meta),
        drawn=described.drawn(meta),
        drift=described.drift(meta),
        shares=described.shares(meta),
        close=described.close(meta),
        wider=described.wider(meta),
    )
