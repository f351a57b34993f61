"""Stocks: Google's daily prices and volume, 2004 to 2019.

    python -m timeldm_jax.launch --config=configs/stocks.py --workdir=runs/stocks

Scores (`paper`, one training, docs/benchmarks.md): Context-FID .0038 ± .0009, discriminative
.0111 ± .0109, predictive .0374 ± .0002, correlational .0176 ± .0079. Costs 4.6 minutes of training
on 2 CPU cores with AMX. Variants: `paper`, `released`, `quick`.
"""

from ml_collections import ConfigDict

from timeldm_jax import config as c
from timeldm_jax.configs import _published as published

WINDOWS = 3_662


def get_config(variant: str = "") -> ConfigDict:
    """The recipe for this set; `variant` is "", "paper", "released" or "quick"."""
    config = c.base()
    config.data.name = "stocks"
    config.vae.model.latent = 6
    config.sample.count = WINDOWS
    return c.choose_variant(
        config, variant, {"paper": paper, "released": released, "quick": c.apply_quick}
    )


def paper(config: ConfigDict) -> None:
    """Table I of the paper."""
    published.apply_paper(config, layers=(2, 3), batch=512, hidden=1024, windows=WINDOWS)


def released(config: ConfigDict) -> None:
    """The released scripts' sizes."""
    published.apply_released(
        config,
        latent=12,
        heads=2,
        factor=16,
        layers=3,
        batch=512,
        hidden=1024,
        windows=WINDOWS,
    )
