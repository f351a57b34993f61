"""Floating-point operations of the matrix products that the models call for.

Counted from the shapes of the weights, two for a multiplication with its addition. Whatever an
implementation does beyond that (elementwise work, a norm's means as products, an embedding
computed twice) earns it nothing.
"""

import math
from collections.abc import Iterable
from typing import Any

import jax
from problems import Problem, make_training

from timeldm_jax.diffusion import samplers

# Maps whose input is data: training needs no gradient with respect to it.
FIRST_MAPS = {"vae": ("embed",), "ldm": ("project", "embed_in")}
DECODER = ("embed_latent", "decoder_stack", "last_maps_2")
EMBEDDING = ("embed_in", "embed_out")


def step_flops(problem: Problem, stage: str) -> float:
    """Of one training step: forward, gradients of weights, and of inputs where one is needed."""
    weights = _weights(problem, stage)
    all_maps = _maps(weights, weights)
    first = _maps(weights, FIRST_MAPS[stage])
    vae = problem.models.vae
    if stage == "vae":
        # Both factors of an attention's products need a gradient.
        attentions = 2 * vae.encoder_layers + 2 * vae.decoder_layers
        window = vae.window * (3 * all_maps - first) + 3 * attentions * _attention(problem)
    else:
        window = 3 * all_maps - first
    return float(window * problem.config[stage].batch)


def sampling_flops(problem: Problem, windows: int) -> float:
    """Of drawing `windows` windows in one batch: evaluations of the solver, then the decoder.

    All windows of a batch share a noise level, so its embedding is counted once an evaluation.
    """
    denoiser, vae = _weights(problem, "ldm"), _weights(problem, "vae")
    embedding = _maps(denoiser, EMBEDDING)
    evaluation = (_maps(denoiser, denoiser) - embedding) * windows + embedding
    attentions = 2 * problem.models.vae.decoder_layers
    decoding = problem.models.vae.window * _maps(vae, DECODER) + attentions * _attention(problem)
    sample = problem.config.sample
    evaluations = samplers.evaluations(sample.solver, sample.steps)
    return float(evaluations * evaluation + decoding * windows)


def xla_step_flops(problem: Problem, stage: str) -> float:
    """XLA's own count for the step's program before optimisation, elementwise work included.

    XLA counts the body of a loop once, so the batch is left in one part.
    """
    training = make_training(problem, stage, in_parts=False)
    state = jax.eval_shape(training.init)
    return float(jax.jit(training.step).lower(state, training.data).cost_analysis()["flops"])


def _weights(problem: Problem, stage: str) -> dict[str, Any]:
    """Shapes of a stage's weights by module."""
    return jax.eval_shape(make_training(problem, stage).init).params


def _maps(weights: dict[str, Any], modules: Iterable[str]) -> int:
    """FLOPs of one token or example through all linear maps of some modules."""
    kept = {name: weights[name] for name in modules}
    return sum(
        2 * math.prod(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(kept)
        if path[-1].key.endswith("kernel")
    )


def _attention(problem: Problem) -> int:
    """FLOPs of a window in the two products of one attention, over all heads."""
    vae = problem.models.vae
    return 2 * 2 * vae.window**2 * vae.width
