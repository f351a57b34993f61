"""What makes tests quick: a small recipe, a small encoder of Context-FID, quick compilation."""

import contextlib
import dataclasses

import jax

import timeldm_jax
from timeldm_jax import config as configuration
from timeldm_jax.metrics import context_fid, suite

ENCODER = context_fid.Encoder(blocks=3, hidden=8, out=16)


@contextlib.contextmanager
def compilation():
    """Compiles without most optimizations."""
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


@contextlib.contextmanager
def scores():
    """Scores with a small encoder, whose Context-FID is nobody else's."""
    before = context_fid.ENCODER
    context_fid.ENCODER = ENCODER
    yield
    context_fid.ENCODER = before


class Quick(timeldm_jax.TimeLDM):
    """Ignores the budget: the smallest networks, a few steps."""

    def __init__(self, window=None, *, budget="10m", config=None):
        if config is None:
            config = configuration.base()
            configuration.apply_table(config)
            config.update_from_flattened_dict(SMALL)
            config.evaluate = dataclasses.asdict(suite.Evaluators(2, 5, 5, 2, 8))
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
    "sample.marginal_windows": 200,
    "sample.band_windows": 0,
}


def install():
    """Puts it in the place of `timeldm_jax.TimeLDM`, and the small encoder in its, for good."""
    timeldm_jax.TimeLDM = Quick
    context_fid.ENCODER = ENCODER
