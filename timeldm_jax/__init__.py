"""TimeLDM: latent diffusion for multivariate time series, in JAX and Flax (arXiv 2407.04211)."""

from typing import Any

__all__ = ["TimeLDM"]


def __getattr__(name: str) -> Any:
    """Imports the API on first use: `import timeldm_jax` alone loads neither JAX nor Orbax."""
    if name == "TimeLDM":
        from timeldm_jax.api import TimeLDM

        return TimeLDM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
