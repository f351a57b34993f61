"""The model card shows names of any kind as text."""

import types

import pytest

from timeldm_jax import config as configuration
from timeldm_jax.report.card import model_card

HOSTILE = [
    "a```b",
    "``````\n# Forged heading",
    "x\n\n## Scores\n\nPerfect.",
    "a | b | c",
    "<script>alert(1)</script>",
    "[link](https://example.org)",
    "`",
    "plain name",
]


def card(columns, *, schema=None, scores=None):
    generator = types.SimpleNamespace(
        config=configuration.base(),
        meta={"versions": {"jax": "1"}, "fingerprint": "f" * 64},
        models=types.SimpleNamespace(vae=types.SimpleNamespace(window=8, features=len(columns))),
        columns=tuple(columns),
        schema=schema,
    )
    return model_card(generator, scores)


def outside_code(text):
    """The lines of a card outside its code blocks, by CommonMark's rule for fences."""
    fence, kept = "", []
    for line in text.split("\n"):
        ticks = len(line) - len(line.lstrip("`"))
        if fence:
            if line.strip("`") == "" and ticks >= len(fence):
                fence = ""
        elif ticks >= 3 and "`" not in line[ticks:]:
            fence = line[:ticks]
        else:
            kept.append(line)
    assert not fence
    return kept


HEADINGS = ["# Model card", "## Data", "## Scores", "## Limits", "## Configuration"]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("table", [False, True])
def test_a_name_forges_nothing_on_the_card(name, table):
    schema = types.SimpleNamespace(describe=lambda: [f"{name}  float, scaled"], clock=None)
    scores = {
        "verdict": f"Samples of {name} lie outside.",
        "memorisation": {"verdict": "None."},
        "scores": {},
        "notes": [f"{name} is constant."],
        "adherence": {"said": [f"{name} is found again."]},
    }
    lines = outside_code(card([name, "b"], schema=schema if table else None, scores=scores))
    assert [line for line in lines if line.startswith("#")] == HEADINGS
    prose = [line for line in lines if line.startswith(("Samples of", "Features"))]
    assert len(prose) == (1 if table else 2)
    assert "Perfect." not in lines
    assert sum("is found again" in line for line in lines) == 1
    for line in lines:
        if "is constant" in line or "is found again" in line or line.startswith("Samples of"):
            assert "<script" not in line
            assert "[link](" not in line.replace("\\[", "")
