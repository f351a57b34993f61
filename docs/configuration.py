"""Writes configuration.md from `timeldm_jax/config.py`: every key, its default and its meaning.

    python docs/configuration.py

A key's meaning is the comment beside it in `base()` or, where a section is a dataclass, the
"Attributes:" of its docstring. `make docs` runs this before it builds the site.
"""

import inspect
import pathlib
import re
from typing import Any

import ml_collections

from timeldm_jax import config as configuration
from timeldm_jax.metrics.suite import Evaluators
from timeldm_jax.models.denoiser import Denoiser
from timeldm_jax.models.vae import VAE
from timeldm_jax.training.beta import BetaConfig
from timeldm_jax.training.steps import NoiseConfig, OptimizerConfig

PAGE = pathlib.Path(__file__).with_suffix(".md")
CLASSES = {
    "vae.model": VAE,
    "vae.beta": BetaConfig,
    "vae.optimizer": OptimizerConfig,
    "ldm.model": Denoiser,
    "ldm.optimizer": OptimizerConfig,
    "ldm.noise": NoiseConfig,
    "evaluate": Evaluators,
}
# Meanings that stand nowhere in the code.
ELSEWHERE = {
    "seed": "of everything random in it",
    "batch": "examples a step, over all devices",
    "steps": "optimiser steps",
    "rho": "curvature of the noise levels, ρ",
    "sigma_min": "lowest noise level",
    "sigma_max": "highest noise level",
    "sigma_data": "σ_d where latents are not principal",
    "P_mean": "mean of ln σ in training",
    "P_std": "standard deviation of ln σ in training",
}
HEAD = """# Configuration

Every key, as `--config.<key>=<value>` on the command line. Written by `docs/configuration.py` from
`timeldm_jax/config.py`; a set's own recipe is in `timeldm_jax/configs/`.
"""


def attributes(kind: type) -> dict[str, str]:
    """The "Attributes:" of a Google-style docstring, by name."""
    text = inspect.getdoc(kind) or ""
    _, _, section = text.partition("Attributes:\n")
    found = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", section, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in found}


def comments() -> dict[str, str]:
    """The comments beside keys of `base()` and its helper, by section and name, or by name."""
    found: dict[str, str] = {}
    section = ""
    for line in inspect.getsource(configuration).splitlines():
        if opened := re.match(r"    config\.(\w+) = ConfigDict", line):
            section = opened[1]
        elif line.startswith("def "):
            section = ""
        key = re.search(r'(?:"(\w+)": .*|config\.(\w+) = [^#]*)[,{]?\s+# (.*)', line)
        if key:
            name = key[1] or key[2]
            found.setdefault(f"{section}.{name}" if key[1] and section else name, key[3])
    return found


def rows() -> list[tuple[str, Any, str]]:
    """(key, default, meaning) of every key; keys without a section come first."""
    beside = comments()
    found = []
    for key, default in sorted(flat(configuration.base()), key=lambda pair: "." in pair[0]):
        section, _, name = key.rpartition(".")
        documented = attributes(CLASSES[section]) if section in CLASSES else {}
        top = key.split(".")[0]
        meaning = beside.get(f"{top}.{name}") or documented.get(name) or ELSEWHERE.get(name)
        # Both stages have the keys of a loop; their comments stand beside the first.
        found.append((key, default, meaning or beside.get(f"vae.{name}") or beside.get(name, "")))
    return found


def flat(config: ml_collections.ConfigDict, prefix: str = "") -> list[tuple[str, Any]]:
    """Keys with dots, and their values."""
    found: list[tuple[str, Any]] = []
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            found += flat(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, value))
    return found


def page() -> str:
    """The page in Markdown, a table a section."""
    lines = [HEAD]
    section = None
    for key, default, meaning in rows():
        top = key.split(".")[0] if "." in key else ""
        if top != section:
            section = top
            lines += [f"\n## {section or 'Run'}\n", "| key | default | |", "|---|---|---|"]
        cell = meaning.replace("|", "\\|")
        lines.append(f"| `{key}` | `{default!r}` | {cell} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
