"""`TimeLDM` with a recipe of seconds, for pages that would train for minutes."""

import dataclasses

import timeldm_jax
from timeldm_jax import config as configuration
from timeldm_jax.metrics import suite


class Quick(timeldm_jax.TimeLDM):
    """Ignores the budget: the smallest networks, a few steps."""

    def __init__(self, window=None, *, budget="10m", config=None):
        if config is None:
            config = configuration.base()
            configuration.apply_table(config)
            config.update_from_flattened_dict(SMALL)
            config.evaluate = dataclasses.asdict(suite.Evaluators(2, 5, 5, 2))
            if window is not None:
                config.data.window = window
        super().__init__(config=config)


SMALL = {
    "data.stride": 20,
    "vae.steps": 20,
    "vae.batch": 16,
    "vae.chunk": 10,
    "vae.eval_every": 10,
    "vae.model.width": 8,
    "vae.model.encoder_layers": 1,
    "vae.model.decoder_layers": 1,
    "ldm.steps": 20,
    "ldm.batch": 16,
    "ldm.chunk": 10,
    "ldm.eval_every": 10,
    "ldm.model.hidden": 16,
    "ldm.model.blocks": 1,
    "sample.count": 40,
    "sample.steps": 3,
}


def install():
    """Puts it in the place of `timeldm_jax.TimeLDM`, for good."""
    timeldm_jax.TimeLDM = Quick
