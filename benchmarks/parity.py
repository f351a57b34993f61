"""Whether the PyTorch networks compute what ours compute, weights and inputs being equal.

Each figure is the largest difference, relative to the largest entry.
"""

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytorch_baseline
import torch
from problems import Problem, make_training, with_sample_steps
from torch import nn

from timeldm_jax.diffusion import edm, samplers
from timeldm_jax.models import bind
from timeldm_jax.training import losses

WINDOWS = 16
BETA = 0.01
HEUN_STEPS = 18  # with much fewer, a step divides rounding errors by a far smaller σ
TOLERANCE = 1e-4

Differences = dict[str, float]


def make_networks(problem: Problem) -> tuple[pytorch_baseline.VAE, pytorch_baseline.Denoiser]:
    """The PyTorch networks of a problem, with PyTorch's initial weights."""
    models, config = problem.models, problem.config
    features, window = models.vae.features, models.vae.window
    sizes = {key: size for key, size in config.vae.model.items() if key != "skip"}
    vae = pytorch_baseline.VAE(features=features, window=window, **sizes)
    return vae, pytorch_baseline.Denoiser(models.flat, models.denoiser.hidden)


def compare(problem: Problem) -> Differences:
    """Differences of outputs, losses and gradients in all weights, and of a short sampling."""
    vae, denoiser = make_networks(problem)
    vae_params = _give_weights(vae, problem, "vae")
    ldm_params = _give_weights(denoiser, problem, "ldm")
    return {
        **_compare_vae(problem, vae, vae_params),
        **_compare_denoiser(problem, denoiser, ldm_params),
        "samples": _compare_sampling(problem, (vae, denoiser), (vae_params, ldm_params)),
    }


def check(problem: Problem) -> Differences:
    """`compare`, refusing differences that rounding does not explain.

    Raises:
      AssertionError: the two do not compute the same.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # not TensorFloat-32, whatever is timed
    with jax.default_matmul_precision("highest"):
        found = compare(problem)
    torch.set_float32_matmul_precision(precision)
    wrong = {name: value for name, value in found.items() if not value <= TOLERANCE}
    if wrong:
        raise AssertionError(f"PyTorch and JAX differ by more than {TOLERANCE:g}: {wrong}")
    return found


def _give_weights(module: nn.Module, problem: Problem, stage: str) -> Any:
    """Flax weights, biases and scales moved off zero and one, which `module` has afterwards too."""
    random = np.random.default_rng(1)

    def weights(path: Any, leaf: Any) -> np.ndarray:
        value = np.asarray(leaf)
        if path[-1].key.endswith("kernel"):
            return value
        return value + 0.1 * random.standard_normal(value.shape, np.float32)

    params = make_training(problem, stage).init().params
    params = jax.tree_util.tree_map_with_path(weights, params)
    pytorch_baseline.copy_weights(module, params)
    return params


def _compare_vae(problem: Problem, module: nn.Module, params: Any) -> Differences:
    vae = problem.models.vae
    random = np.random.default_rng(2)
    x = random.random((WINDOWS, vae.window, vae.features), np.float32)
    noise = random.standard_normal((WINDOWS, vae.window, vae.latent), np.float32)

    def loss_fn(params: Any) -> tuple[jax.Array, jax.Array]:
        output = vae.apply({"params": params}, x, noise)
        terms = losses.reconstruction_terms(x, output.reconstruction)
        kl = losses.kl_divergence(output.mean, output.log_variance)
        return losses.reconstruction_loss(terms, vae.window) + BETA * kl, output.reconstruction

    (loss, reconstruction), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params)
    outputs = module(*map(pytorch_baseline.to_tensor, (x, noise)))
    their_loss = pytorch_baseline.vae_loss(pytorch_baseline.to_tensor(x), *outputs, BETA)
    their_loss.backward()
    return {
        "reconstruction": _difference(outputs[0], reconstruction),
        "VAE loss": _difference(their_loss, loss),
        "VAE gradient": _gradient_difference(module, grads),
    }


def _compare_denoiser(problem: Problem, module: nn.Module, params: Any) -> Differences:
    random = np.random.default_rng(3)
    shape = (WINDOWS, problem.models.flat)
    z, noise = (random.standard_normal(shape, np.float32) for _ in range(2))
    sigma = np.exp(random.standard_normal(WINDOWS, np.float32))
    sigma_data = problem.config.ldm.noise.sigma_data

    def loss_fn(params: Any) -> tuple[jax.Array, jax.Array]:
        network = bind(problem.models.denoiser, params)
        loss = jnp.mean(edm.denoising_loss(network, z, noise, sigma, sigma_data))
        return loss, network(z, sigma)

    (loss, output), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params)
    z, noise, sigma = map(pytorch_baseline.to_tensor, (z, noise, sigma))
    their_loss = pytorch_baseline.denoising_loss(module, z, noise, sigma, sigma_data)
    their_loss.backward()
    return {
        "denoiser": _difference(module(z, sigma), output),
        "LDM loss": _difference(their_loss, loss),
        "LDM gradient": _gradient_difference(module, grads),
    }


def _compare_sampling(problem: Problem, modules: tuple[Any, Any], params: tuple[Any, Any]) -> float:
    config = with_sample_steps(problem.config, HEUN_STEPS)
    config.sample.churn = 0.0
    vae, denoiser = problem.models.vae, problem.models.denoiser
    start = np.random.default_rng(4).standard_normal((WINDOWS, problem.models.flat), np.float32)

    @jax.jit
    def sample(vae_params: Any, ldm_params: Any) -> jax.Array:
        network, c = bind(denoiser, ldm_params), config.sample
        sigma_data = config.ldm.noise.sigma_data
        z = samplers.heun(
            lambda z, sigma: edm.denoise(network, z, sigma, sigma_data),
            jnp.asarray(start),
            samplers.karras_sigmas(c.steps, c.sigma_min, c.sigma_max, c.rho),
        )
        z = z.reshape(-1, vae.window, vae.latent)
        return vae.apply({"params": vae_params}, z, method="decode")

    theirs = pytorch_baseline.sample(*modules, config, pytorch_baseline.to_tensor(start))
    return _difference(torch.from_numpy(theirs), sample(*params))


def _difference(theirs: torch.Tensor, ours: Any) -> float:
    ours = np.asarray(ours)
    return float(np.abs(theirs.detach().cpu().numpy() - ours).max() / np.abs(ours).max())


def _gradient_difference(module: nn.Module, grads: Any) -> float:
    """The largest over parameters, relative to the largest entry of all gradients."""
    twin = copy.deepcopy(module)
    pytorch_baseline.copy_weights(twin, grads)
    pairs = list(zip(module.parameters(), twin.parameters(), strict=True))
    with torch.no_grad():
        scale = max(float(ours.abs().max()) for _, ours in pairs)
        return max(float((p.grad - ours).abs().max()) for p, ours in pairs) / scale
