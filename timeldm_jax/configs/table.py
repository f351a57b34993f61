"""A table of your own: CSV or Parquet.

    python -m timeldm_jax.launch --config=configs/table.py --config.data.path=my.csv --workdir=run

Scores against rows held out, beside floors, in `scores.json`. Costs the ten minutes of its budget,
scores and report included; `--config.budget=1h` gives it more. Sizes and steps that are left open
are chosen from the data and the budget; see `timeldm_jax/recipe.py`.
"""

from ml_collections import ConfigDict

from timeldm_jax import config as c


def get_config(variant: str = "") -> ConfigDict:
    """The recipe for any table; `variant` is ""."""
    config = c.base()
    c.apply_table(config)
    return c.choose_variant(config, variant, {})
