"""MuJoCo: 10,000 trajectories of dm_control's hopper, 7 positions and 7 velocities.

    python -m timeldm_jax.launch --config=configs/mujoco.py --workdir=runs/mujoco

Scores (`paper`, three trainings, docs/benchmarks.md): Context-FID .0069 ± .0027, discriminative
.0098 ± .0098, predictive .0082 ± .0009, correlational .188 ± .0213. Costs 3.0 minutes of training
on 2 CPU cores with AMX. Variants: `paper`, `released`, `quick`.
"""

from ml_collections import ConfigDict

from timeldm_jax import config as c
from timeldm_jax.configs import _published as published

WINDOWS = 10_000


def get_config(variant: str = "") -> ConfigDict:
    """The recipe for this set; `variant` is "", "paper", "released" or "quick"."""
    config = c.base()
    config.data.name = "mujoco"
    c.apply_draws(config, P_mean=0.3, P_std=1.9)  # positions are smooth: some axes are very narrow
    config.vae.model.latent = 14
    config.ldm.steps = 7_000  # the loss of trajectories that were not trained on rises later
    config.sample.count = WINDOWS
    config.sample.match_marginals = True  # some of its wide axes keep tails that are too heavy
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
        latent=14,
        heads=2,
        factor=32,
        layers=3,
        batch=1024,
        hidden=1024,
        windows=WINDOWS,
    )
