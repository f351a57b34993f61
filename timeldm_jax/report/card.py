"""The model card that goes with a saved model."""

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
        lines += ["```", *generator.schema.describe(), "```", ""]
        if generator.schema.clock is not None:
            clock = generator.schema.clock
            lines += [f"Time: `{clock.name}`, a row every {clock.step:g} (seconds, of dates).", ""]
    else:
        lines += [f"Features: {', '.join(f'`{name}`' for name in generator.columns)}.", ""]
    lines += ["## Scores", ""]
    if scores is None:
        lines += ["Not scored.", ""]
    else:
        lines += [scores["verdict"], "", scores["memorisation"]["verdict"], ""]
        lines += ["| score | value | floor | verdict |", "|---|---:|---:|---|"]
        lines += [
            f"| {entry['label']} | {entry['mean']:.4g} | {entry['floor']['mean']:.4g} "
            f"| {entry['verdict']} |"
            for entry in scores["scores"].values()
            if "skipped" not in entry
        ]
        lines += ["", *scores["notes"], ""]
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
