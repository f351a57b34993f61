"""The variants `paper` and `released`: sizes and training as published."""

from ml_collections import ConfigDict


def apply_published(config: ConfigDict, *, epoch_steps: int, epochs: int = 15_000) -> None:
    """Training as published (docs/method.md, 3): plateaus, raw latents, no averaging, churn 1.

    Patience is published in epochs. Learning rates are judged on the mean loss of an epoch; β on
    every step, so its patience becomes epochs x steps.

    Args:
      config: changed in place; batches must be set.
      epoch_steps: optimiser steps of an epoch.
      epochs: epochs of each stage.
    """
    for stage, every in ((config.vae, 500), (config.ldm, 500)):
        stage.steps = epochs * epoch_steps
        stage.eval_every = every * epoch_steps
        stage.chunk = 10 * epoch_steps
        stage.optimizer.schedule = "plateau"
        stage.optimizer.plateau_window = epoch_steps
        stage.optimizer.ema = 0.0
    config.vae.optimizer.learning_rate = 1e-3
    config.vae.optimizer.plateau_factor = 0.95
    config.vae.optimizer.plateau_patience = 10
    config.vae.beta.minimum = 1e-5
    config.vae.beta.patience = 10 * epoch_steps
    config.ldm.optimizer.learning_rate = 1e-4
    config.ldm.optimizer.b2 = 0.96
    config.ldm.optimizer.plateau_factor = 0.9
    config.ldm.optimizer.plateau_patience = 20
    config.ldm.latents = "raw"
    config.ldm.posterior = "draw"
    config.ldm.span = 0.0
    config.ldm.model.blocks = 0
    config.ldm.model.gated = False
    config.ldm.model.precision = "float32"
    config.ldm.noise.update({"sigma_data": 0.5, "P_mean": -1.2, "P_std": 1.2})
    config.sample.solver = "heun"
    config.sample.steps = 50
    config.sample.match_axes = False
    config.sample.match_marginals = False
    config.sample.hold_repeats = False
    config.sample.churn = 1.0


def apply_paper(
    config: ConfigDict,
    *,
    layers: tuple[int, int],
    batch: int,
    hidden: int,
    windows: int,
) -> None:
    """The paper's Table I and Fig. 2: 2 heads of 16, post-norm, convolution heads.

    The table gives neither the latent size nor the feed-forward factor: the latent is the width,
    32, and the factor 4.

    Args:
      config: changed in place.
      layers: encoder and decoder blocks.
      batch: examples a step, both stages.
      hidden: the denoiser's H.
      windows: training windows, for the steps of an epoch.
    """
    config.vae.model.update(
        {
            "latent": 32,
            "width": 32,
            "heads": 2,
            "mlp_ratio": 4,
            "encoder_layers": layers[0],
            "decoder_layers": layers[1],
            "norm": "post",
            "head": "conv",
            "skip": False,
        }
    )
    config.vae.batch = config.ldm.batch = batch
    config.ldm.model.hidden = hidden
    apply_published(config, epoch_steps=-(-windows // batch))


# Wide: the sizes in which the released scripts differ, by name.
def apply_released(
    config: ConfigDict,
    *,
    latent: int,
    heads: int,
    factor: int,
    layers: int,
    batch: int,
    hidden: int,
    windows: int,
) -> None:
    """The sizes of the authors' released scripts (docs/method.md, 5) and its β rule.

    Args:
      config: changed in place.
      latent: m, also the width.
      heads: attention heads.
      factor: feed-forward factor.
      layers: blocks in each stack.
      batch: examples a step, both stages.
      hidden: the denoiser's H.
      windows: training windows, for the steps of an epoch.
    """
    config.vae.model.update(
        {
            "latent": latent,
            "width": latent,
            "heads": heads,
            "mlp_ratio": factor,
            "encoder_layers": layers,
            "decoder_layers": layers,
            "norm": "pre",
            "head": None,
            "skip": False,
        }
    )
    config.vae.beta.restart = False
    config.vae.batch = config.ldm.batch = batch
    config.ldm.model.hidden = hidden
    apply_published(config, epoch_steps=-(-windows // batch))
