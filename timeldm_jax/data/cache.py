"""Where prepared data goes on this machine."""

import os
from pathlib import Path

CACHE_DIR_VARIABLE = "TIMELDM_CACHE_DIR"


def default_cache_dir() -> Path:
    """`TIMELDM_CACHE_DIR`, else `timeldm_jax` in the user's cache folder."""
    named = os.environ.get(CACHE_DIR_VARIABLE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "timeldm_jax"
