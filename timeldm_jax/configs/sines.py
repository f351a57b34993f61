"""Sines: five sinusoids a window, frequency and phase drawn at random.

    python -m timeldm_jax.launch --config=configs/sines.py --workdir=runs/sines

Scores (`paper`, three trainings, docs/benchmarks.md): Context-FID .0026 ± .0012, discriminative
.0089 ± .0027, predictive .0945 ± .0002, correlational .0170 ± .0022. Costs 4.0 minutes of training
on 2 CPU cores with AMX. Variants: `paper`, `released`, `quick`.
"""

from ml_collections import ConfigDict

from timeldm_jax import config as c
from timeldm_jax.configs import _published as published

WINDOWS = 10_000


def get_config(variant: str = "") -> ConfigDict:
    """The recipe for this set; `variant` is "", "paper", "released" or "quick"."""
    config = c.base()
    config.data.name = "sines"
    c.apply_draws(config)
    config.vae.model.latent = 5
    config.sample.count = WINDOWS
    return c.choose_variant(
        config, variant, {"paper": paper, "released": released, "quick": c.apply_quick}
    )


def paper(config: ConfigDict) -> None:
    """Table I of the paper."""
    published.apply_paper(config, layers=(1, 2), batch=1024, hidden=1024, windows=WINDOWS)


def released(config: ConfigDict) -> None:
    """The released scripts' sizes."""
    published.apply_released(
        config,
        latent=10,
        heads=1,
        factor=16,
        layers=2,
        batch=1024,
        hidden=2048,
        windows=WINDOWS,
    )
