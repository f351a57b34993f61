"""The model card that goes with a saved model."""

import re
from typing import Any

from timeldm_jax.generator import Generator
from timeldm_jax.metrics.memorisation import CAVEAT


def model_card(generator: Generator, scores: dict[str, Any] | None) -> str:
    """What the model is of, how good it is, and what it cannot do, as Markdown.

    Args:
      generator: the model.
      scores: `scores.json`, or None where it was not scored.
    """
    config, meta, vae = generator.config, generator.meta, generator.models.vae
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    lines = [
        "# Model card",
        "",
        f"TimeLDM (timeldm_jax): windows of {vae.window} rows, {vae.features} features.",
        'Open it with `TimeLDM.load("this directory")`. It holds JSON and arrays, no code.',
        "",
        "## Data",
        "",
        f"SHA-256 of the data and its split: `{meta['fingerprint']}`.",
        f"Protocol `{config.data.protocol}`.",
        "",
    ]
    if generator.schema is not None:
        lines += [*_block("\n".join(generator.schema.describe())), ""]
        if generator.schema.clock is not None:
            clock = generator.schema.clock
            every = f"a row every {clock.step:g} (seconds, of dates)"
            every = "at uneven times, which are drawn, too" if clock.uneven else every
            lines += [f"Time: {_code(clock.name)}, {every}.", ""]
    else:
        lines += [f"Features: {', '.join(map(_code, generator.columns))}.", ""]
    lines += ["## Scores", ""]
    if scores is None:
        lines += ["Not scored.", ""]
    else:
        lines += [_plain(scores["verdict"]), "", _plain(scores["memorisation"]["verdict"]), ""]
        lines += ["| score | value | floor | verdict |", "|---|---:|---:|---|"]
        lines += [
            f"| {_plain(entry['label'])} | {entry['mean']:.4g} | {entry['floor']['mean']:.4g} "
            f"| {_plain(entry['verdict'])} |"
            for entry in scores["scores"].values()
            if "skipped" not in entry
        ]
        followed = scores.get("adherence", {}).get("said", [])
        lines += ["", *map(_plain, scores["notes"]), *map(_plain, followed), ""]
    lines += [
        "## Limits",
        "",
        f"- Samples are windows of {vae.window} rows. Rules between columns (High ≥ Low, sums) are "
        "learnt, not promised.",
        "- What the training rows lack, samples lack: other regimes, rarer events, later drift.",
        f"- Privacy: {CAVEAT}",
        "",
        "## Configuration",
        "",
        f"Trained with {versions}, seed {config.seed}; VAE {config.vae.steps} steps, diffusion "
        f"{config.ldm.steps}. Everything else is in `config.json`.",
        "",
    ]
    return "\n".join(lines)


def _block(text: str) -> list[str]:
    """Text of any kind as a code block; its fence is longer than any run of backticks within."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return [fence, text, fence]


def _code(text: str) -> str:
    """A name of any kind as code within a line."""
    fence = "`" * (_longest_run(text) + 1)
    inside = " ".join(text.split())
    return f"{fence} {inside} {fence}" if len(fence) > 1 else f"`{inside}`"


def _plain(text: str) -> str:
    """A sentence that may quote names of any kind, as one line without Markdown or HTML."""
    escaped = re.sub(r"([\\`*_\[\]#|~])", r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
