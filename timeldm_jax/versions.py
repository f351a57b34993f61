"""Which packages made a model or a score."""

import platform
from importlib import metadata

PACKAGES = (
    "timeldm_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy",
)  # fmt: skip


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that weights and figures depend on, by name.

    A package that runs from a checkout, not installed, has none: "unknown".
    """
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
