"""Energy: appliances energy use and weather, 28 columns (UCI).

    python -m timeldm_jax.launch --config=configs/energy.py --workdir=runs/energy

Scores (`paper`, one training, docs/benchmarks.md): Context-FID .0058 ± .0004, discriminative
.0071 ± .0042, predictive .250 ± .0002, correlational .579 ± .230. Costs 37 minutes of training
on 2 CPU cores that other work shared. Variants: `paper`, `released`, `quick`.
"""

from ml_collections import ConfigDict

from timeldm_jax import config as c
from timeldm_jax.configs import _published as published

WINDOWS = 19_712


def get_config(variant: str = "") -> ConfigDict:
    """The recipe for this set; `variant` is "", "paper", "released" or "quick"."""
    config = c.base()
    config.data.name = "energy"
    config.vae.model.latent = 28
    config.vae.model.width = 64
    config.ldm.model.hidden = 1_024
    config.sample.match_marginals = True  # columns are lumps: one value in 77% of rows
    config.sample.count = WINDOWS
    return c.choose_variant(
        config, variant, {"paper": paper, "released": released, "quick": c.apply_quick}
    )


def paper(config: ConfigDict) -> None:
    """Table I has no Energy: the layers and sizes of ETTh, H as released."""
    published.apply_paper(config, layers=(2, 3), batch=1024, hidden=6144, windows=WINDOWS)


def released(config: ConfigDict) -> None:
    """The released scripts' sizes."""
    published.apply_released(
        config,
        latent=56,
        heads=1,
        factor=16,
        layers=3,
        batch=2048,
        hidden=6144,
        windows=WINDOWS,
    )
