"""ETTh: hourly load and oil temperature of an electricity transformer (ETTh1).

    python -m timeldm_jax.launch --config=configs/etth.py --workdir=runs/etth

Scores (`paper`, one training, docs/benchmarks.md): Context-FID .0050 ± .0004, discriminative
.0061 ± .0072, predictive .121 ± .0029, correlational .0219 ± .0093. Costs 5.2 minutes of training
on 2 CPU cores with AMX. Variants: `paper`, `released`, `quick`.
"""

from ml_collections import ConfigDict

from timeldm_jax import config as c
from timeldm_jax.configs import _published as published

WINDOWS = 17_397


def get_config(variant: str = "") -> ConfigDict:
    """The recipe for this set; `variant` is "", "paper", "released" or "quick"."""
    config = c.base()
    config.data.name = "etth"
    config.vae.model.latent = 7
    config.sample.count = WINDOWS
    return c.choose_variant(
        config, variant, {"paper": paper, "released": released, "quick": c.apply_quick}
    )


def paper(config: ConfigDict) -> None:
    """Table I of the paper."""
    published.apply_paper(config, layers=(2, 3), batch=1024, hidden=1024, windows=WINDOWS)


def released(config: ConfigDict) -> None:
    """The released scripts' sizes."""
    published.apply_released(
        config,
        latent=14,
        heads=2,
        factor=16,
        layers=3,
        batch=1024,
        hidden=1024,
        windows=WINDOWS,
    )
