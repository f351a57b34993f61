"""Which packages made a model or a score."""

import platform
from importlib import metadata

PACKAGES = (
    "timeldm_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy",
)  # fmt: skip


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that weights and figures depend on, by name."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in PACKAGES
    }
