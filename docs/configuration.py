"""Writes configuration.md from `timeldm_jax.config.SECTIONS`: every key, its default and meaning.

    python docs/configuration.py

A key's meaning is its line in the "Attributes:" of the dataclass that has it as a field. `make
docs` runs this before it builds the site.
"""

import inspect
import pathlib
import re
from typing import Any

from timeldm_jax import config as configuration

PAGE = pathlib.Path(__file__).with_suffix(".md")
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


def rows() -> list[tuple[str, Any, str]]:
    """(key, default, meaning) of every key; keys without a section come first."""
    return [
        (f"{prefix}.{field}".lstrip("."), getattr(default, field), meanings.get(field, ""))
        for prefix, default in configuration.SECTIONS
        for meanings in [attributes(type(default))]
        for field in configuration.settings_fields(default)
    ]


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
