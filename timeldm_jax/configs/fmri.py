"""fMRI: simulated BOLD signals of 50 brain regions (NetSim sim4).

    python -m timeldm_jax.launch --config=configs/fmri.py --workdir=runs/fmri

Scores (`paper`, three trainings, docs/benchmarks.md): Context-FID .103 ± .0030, discriminative
.0132 ± .0222, predictive .0988 ± .0001, correlational .745 ± .0424. Costs 5.1 minutes of training
on 2 CPU cores with AMX, 3.2 where nothing else runs. Variants: `paper`, `released`, `quick`.
"""

from ml_collections import ConfigDict

from timeldm_jax import config as c
from timeldm_jax.configs import _published as published

WINDOWS = 9_977


def get_config(variant: str = "") -> ConfigDict:
    """The recipe for this set; `variant` is "", "paper", "released" or "quick"."""
    config = c.base()
    config.data.name = "fmri"
    config.vae.model.latent = 50
    config.vae.model.width = 64
    # Beyond the Gaussian of its principal axes, which needs no training, there is little to learn
    # but the windows themselves (docs/studies.md).
    c.apply_draws(config)
    config.ldm.steps = 3_000
    config.ldm.optimizer.learning_rate = 5e-4
    config.sample.count = WINDOWS
    return c.choose_variant(
        config, variant, {"paper": paper, "released": released, "quick": c.apply_quick}
    )


def paper(config: ConfigDict) -> None:
    """Table I of the paper."""
    published.apply_paper(config, layers=(1, 2), batch=1024, hidden=4096, windows=WINDOWS)


def released(config: ConfigDict) -> None:
    """The released scripts' sizes."""
    published.apply_released(
        config,
        latent=100,
        heads=1,
        factor=16,
        layers=2,
        batch=1024,
        hidden=4096,
        windows=WINDOWS,
    )
