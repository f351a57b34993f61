"""TimeLDM in plain PyTorch: what `throughput.py` compares with.

The same networks, losses, optimiser steps and sampler as `timeldm_jax`, written as one would write
them in PyTorch without a thought of JAX: float32, default threads, on PyTorch's default device.
Three ways of running are compared: eager with attention by product and softmax, eager with
`scaled_dot_product_attention`, and `torch.compile` of the whole loss with the latter. Where other
things can be done in several natural ways, the fastest at the paper's sizes on a CPU stands here:
separate query, key and value maps (3 to 5 % less than one fused map), Adam's `fused=True` (a sixth
less a small LDM step than its default), and a noise embedding computed once for a whole batch in
sampling. A real transform in place of the complex one, gradients over parts of the batch, and
convolutions as products made no difference. What a paper run can do without is left out, in
PyTorch's favour: schedules of the learning rate and β, metrics, and the moving average of the
weights while its decay is 0.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention; with one head there is no output projection.

    `sdpa` says whether `scaled_dot_product_attention` does it; see `use_sdpa`.
    """

    sdpa = False

    def __init__(self, width: int, heads: int, memory_channels: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(memory_channels, width)
        self.value = nn.Linear(memory_channels, width)
        self.out = nn.Linear(width, width) if heads > 1 else nn.Identity()

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q, k, v = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (self.query(x), self.key(memory), self.value(memory))
        )
        if self.sdpa:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = torch.softmax(q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1), dim=-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


def use_sdpa(model: nn.Module) -> nn.Module:
    """The same model, its attention by PyTorch's own function."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.sdpa = True
    return model


class Block(nn.Module):
    """Self-attention, cross-attention if there is a memory, feed-forward; pre- or post-norm."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: int, norm: str, first: bool, memory: int | None
    ):
        super().__init__()
        self.norm = norm
        self.self_attention = Attention(width, heads, width)
        self.cross_attention = None if memory is None else Attention(width, heads, memory)
        bare = norm == "pre" and first
        self.attention_norm = nn.Identity() if bare else nn.LayerNorm(width)
        self.cross_norm = nn.LayerNorm(width) if norm == "post" and memory is not None else None
        self.ff_norm = nn.LayerNorm(width)
        self.ff_in = nn.Linear(width, mlp_ratio * width)
        self.ff_out = nn.Linear(mlp_ratio * width, width)

    def forward(self, x: Tensor, memory: Tensor | None) -> Tensor:
        if self.norm == "pre":
            y = self.attention_norm(x)
            x = x + self.self_attention(y, y)
            if self.cross_attention is not None:
                x = x + self.cross_attention(self.attention_norm(x), memory)
            return x + self.feed_forward(self.ff_norm(x))
        x = self.attention_norm(x + self.self_attention(x, x))
        if self.cross_attention is not None:
            x = self.cross_norm(x + self.cross_attention(x, memory))
        return self.ff_norm(x + self.feed_forward(x))

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.ff_out(F.relu(self.ff_in(x)))


class Stack(nn.Module):
    """Blocks in sequence."""

    def __init__(self, layers: int, memory: int | None = None, **block: Any):
        super().__init__()
        self.block = nn.ModuleList(
            Block(first=i == 0, memory=memory, **block) for i in range(layers)
        )

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        for block in self.block:
            x = block(x, memory)
        return x


class TimeConv(nn.Conv1d):
    """Convolution over time of `(batch, time, channel)`, kernel 3, zero padding."""

    def __init__(self, channels: int, out: int):
        super().__init__(channels, out, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class VAE(nn.Module):
    """The transformer β-VAE; arguments as those of `timeldm_jax.models.vae.VAE`."""

    def __init__(
        self,
        features: int,
        window: int,
        latent: int,
        width: int,
        heads: int,
        mlp_ratio: int,
        encoder_layers: int,
        decoder_layers: int,
        norm: str,
        head: str,
    ):
        super().__init__()
        block = {"width": width, "heads": heads, "mlp_ratio": mlp_ratio, "norm": norm}
        self.embed = TimeConv(features, width)
        self.encoder_positions_table = _positions(window, width)
        self.mean_stack = Stack(encoder_layers, **block)
        self.log_variance_stack = Stack(encoder_layers, **block)
        self.embed_latent = TimeConv(latent, width)
        self.decoder_positions_table = _positions(window, width)
        self.decoder_stack = Stack(decoder_layers, memory=latent, **block)
        normed = norm == "pre" and head is not None
        self.last_norms = nn.ModuleList(
            nn.LayerNorm(width) if normed else nn.Identity() for _ in range(3)
        )
        last = TimeConv if head == "conv" else nn.Linear
        self.last_maps = nn.ModuleList(
            nn.Identity() if head is None and i < 2 else last(width, size)
            for i, size in enumerate((latent, latent, features))
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(x) + self.encoder_positions_table
        return self._finish(0, self.mean_stack(x)), self._finish(1, self.log_variance_stack(x))

    def decode(self, z: Tensor) -> Tensor:
        x = self.embed_latent(z) + self.decoder_positions_table
        return self._finish(2, self.decoder_stack(x, z))

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, mean and log-variance."""
        mean, log_variance = self.encode(x)
        return self.decode(mean + torch.exp(0.5 * log_variance) * noise), mean, log_variance

    def _finish(self, which: int, x: Tensor) -> Tensor:
        return self.last_maps[which](self.last_norms[which](x))


def _positions(window: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(window, width).uniform_(-0.02, 0.02))


def vae_loss(
    x: Tensor, reconstruction: Tensor, mean: Tensor, log_variance: Tensor, beta: float
) -> Tensor:
    """L1 + L2 + L2 of the feature means + (√T/5)·Fourier + β·KL."""
    error = reconstruction - x
    spectrum = torch.fft.fft(error, dim=1, norm="forward")
    fourier = spectrum.real.abs().mean() + spectrum.imag.abs().mean()
    kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).mean()
    return (
        error.abs().mean()
        + error.square().mean()
        + error.mean(-1).square().mean()
        + x.shape[1] ** 0.5 / 5 * fourier
        + beta * kl
    )


class Denoiser(nn.Module):
    """The paper's denoising MLP, `timeldm_jax.models.denoiser.Denoiser` with `blocks=0`."""

    def __init__(self, flat: int, hidden: int):
        super().__init__()
        self.embed_in = nn.Linear(hidden, hidden)
        self.embed_out = nn.Linear(hidden, hidden)
        self.project = nn.Linear(flat, hidden)
        sizes = (hidden, 2 * hidden, 2 * hidden, hidden)
        self.mlp = nn.ModuleList(nn.Linear(sizes[i], sizes[i + 1]) for i in range(3))
        self.out = nn.Linear(hidden, flat)
        half = hidden // 2
        frequencies = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        self.register_buffer("frequencies", frequencies.float())

    def forward(self, z: Tensor, noise_label: Tensor) -> Tensor:
        """Takes `(batch, flat)` and labels `(batch,)`, or `(1,)` for one level that all share."""
        angles = noise_label[:, None] * self.frequencies
        embedding = F.silu(self.embed_in(torch.cat([angles.sin(), angles.cos()], dim=-1)))
        x = self.project(z) + self.embed_out(embedding)
        for layer in self.mlp:
            x = F.silu(layer(x))
        return self.out(x)


def denoise(network: nn.Module, z: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """EDM's preconditioned estimate of the clean latents; sigma `(batch,)` or `(1,)`."""
    variance = sigma.square() + sigma_data**2
    skip = (sigma_data**2 / variance)[:, None]
    out = (sigma * sigma_data / variance.sqrt())[:, None]
    return skip * z + out * network(variance.rsqrt()[:, None] * z, sigma.log() / 4)


def denoising_loss(
    network: nn.Module, z: Tensor, noise: Tensor, sigma: Tensor, sigma_data: float
) -> Tensor:
    """EDM's weighted denoising error, a mean over the batch."""
    estimate = denoise(network, z + sigma[:, None] * noise, sigma, sigma_data)
    weight = (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()
    return (weight * (estimate - z).square().mean(-1)).mean()


@torch.inference_mode()
def sample(
    vae: VAE,
    denoiser: nn.Module,
    config: ConfigDict,
    unit_noise: Tensor,
    decode: Callable[[Tensor], Tensor] | None = None,
) -> np.ndarray:
    """Windows for standard normal `(count, flat)`: EDM's stochastic Heun sampler, the decoder.

    Either network may be compiled: pass the denoiser, and `vae.decode` as `decode`.
    """
    c, sigma_data = config.sample, config.ldm.noise.sigma_data
    ramp = torch.linspace(0, 1, c.steps, dtype=torch.float64)
    high, low = c.sigma_max ** (1 / c.rho), c.sigma_min ** (1 / c.rho)
    sigmas = (
        torch.cat([(high + ramp * (low - high)) ** c.rho, torch.zeros(1)])
        .float()
        .to(unit_noise.device)
    )
    gamma = min(c.churn / c.steps, 2**0.5 - 1)
    z = unit_noise * sigmas[0]
    for i in range(c.steps):
        sigma, lower = sigmas[i : i + 1], sigmas[i + 1 : i + 2]
        if gamma > 0:
            raised = sigma * (1 + gamma)
            z = z + (raised.square() - sigma.square()).sqrt() * torch.randn_like(z)
            sigma = raised
        first = (z - denoise(denoiser, z, sigma, sigma_data)) / sigma
        euler = z + (lower - sigma) * first
        if i == c.steps - 1:
            z = euler
        else:
            second = (euler - denoise(denoiser, euler, lower, sigma_data)) / lower
            z = z + (lower - sigma) * 0.5 * (first + second)
    windows = (decode or vae.decode)(z.unflatten(-1, (config.data.window, -1)))
    return windows.cpu().numpy()


@dataclasses.dataclass
class Average:
    """Moving average of a model's weights; nothing to do while the decay is 0."""

    model: nn.Module
    decay: float

    def __post_init__(self) -> None:
        self.weights = [p.detach().clone() for p in self.model.parameters()] if self.decay else []

    @torch.no_grad()
    def update(self) -> None:
        if self.decay:
            torch._foreach_lerp_(self.weights, list(self.model.parameters()), 1 - self.decay)


def batches(examples: int, size: int) -> Iterator[Tensor]:
    """Example numbers of one step after another, a fresh shuffle each epoch."""
    queue = torch.randperm(examples)
    while True:
        while len(queue) < size:
            queue = torch.cat([queue, torch.randperm(examples)])
        yield queue[:size]
        queue = queue[size:]


def train_vae(
    model: VAE,
    config: ConfigDict,
    values: np.ndarray,
    starts: np.ndarray,
    *,
    compiled: bool = False,
) -> Iterator[Tensor]:
    """One optimiser step per item: its loss."""

    def loss_fn(x: Tensor, noise: Tensor) -> Tensor:
        return vae_loss(x, *model(x, noise), config.vae.beta.maximum)

    loss_fn = torch.compile(loss_fn) if compiled else loss_fn
    rows, firsts = to_tensor(values), to_tensor(starts)
    steps = torch.arange(config.data.window)
    optimizer, average = _optimizer(model, config.vae.optimizer)
    for index in batches(len(starts), config.vae.batch):
        x = rows[firsts[index][:, None] + steps]
        noise = torch.randn(*x.shape[:2], config.vae.model.latent)
        yield _descend(loss_fn(x, noise), optimizer, average)


def train_ldm(
    model: Denoiser,
    config: ConfigDict,
    mean: np.ndarray,
    log_variance: np.ndarray,
    *,
    compiled: bool = False,
) -> Iterator[Tensor]:
    """One optimiser step per item: its loss. A fresh posterior draw at each visit."""
    loss_fn = torch.compile(denoising_loss) if compiled else denoising_loss
    means, log_variances = to_tensor(mean), to_tensor(log_variance)
    c = config.ldm.noise
    optimizer, average = _optimizer(model, config.ldm.optimizer)
    for index in batches(len(mean), config.ldm.batch):
        z = means[index]
        z = z + torch.exp(0.5 * log_variances[index]) * torch.randn_like(z)
        sigma = torch.exp(c.P_mean + c.P_std * torch.randn(len(z)))
        loss = loss_fn(model, z, torch.randn_like(z), sigma, c.sigma_data)
        yield _descend(loss, optimizer, average)


def to_tensor(array: np.ndarray) -> Tensor:
    """An array on PyTorch's default device."""
    return torch.from_numpy(np.asarray(array)).to(torch.get_default_device())


def _optimizer(model: nn.Module, c: ConfigDict) -> tuple[torch.optim.Optimizer, Average]:
    optimizer = torch.optim.Adam(
        model.parameters(), lr=c.learning_rate, betas=(0.9, c.b2), fused=True
    )
    return optimizer, Average(model, c.ema)


def _descend(loss: Tensor, optimizer: torch.optim.Optimizer, average: Average) -> Tensor:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average.update()
    return loss.detach()


@torch.no_grad()
def copy_weights(module: nn.Module, params: Mapping[str, Any]) -> None:
    """Copies the Flax weights of the same network; modules have the names they have there."""
    if isinstance(module, Attention):
        _copy_attention(module, params)
    elif isinstance(module, TimeConv):
        kernel = np.asarray(params["taps"]["kernel"]).reshape(3, module.in_channels, -1)
        _set(module.weight, kernel.transpose(2, 1, 0))
        _set(module.bias, params["taps"]["bias"])
    elif isinstance(module, nn.Linear):
        _set(module.weight, np.asarray(params["kernel"]).T)
        _set(module.bias, params["bias"])
    elif isinstance(module, nn.LayerNorm):
        _set(module.weight, params["scale"])
        _set(module.bias, params["bias"])
    else:
        for name, value in params.items():
            if isinstance(value, Mapping):
                copy_weights(_child(module, name), value)
            else:
                _set(getattr(module, name), value)


def _child(module: nn.Module, name: str) -> nn.Module:
    """The submodule `name`, or number i of the list `x` for a name `x_i`."""
    listed = re.fullmatch(r"(\w+)_(\d+)", name)
    return getattr(module, listed[1])[int(listed[2])] if listed else getattr(module, name)


def _copy_attention(module: Attention, params: Mapping[str, Any]) -> None:
    for name in ("query", "key", "value"):
        kernel = np.asarray(params[f"{name}_kernel"])  # (head, in, head channel)
        linear = getattr(module, name)
        _set(linear.weight, kernel.transpose(0, 2, 1).reshape(-1, kernel.shape[1]))
        _set(linear.bias, np.asarray(params[f"{name}_bias"]).reshape(-1))
    if isinstance(module.out, nn.Linear):
        kernel = np.asarray(params["out_kernel"])
        _set(module.out.weight, kernel.reshape(-1, kernel.shape[-1]).T)
        _set(module.out.bias, params["out_bias"])


def _set(parameter: Tensor, value: Any) -> None:
    array = np.array(value)
    if array.shape != parameter.shape:
        raise ValueError(f"weights of shape {array.shape} for a parameter {tuple(parameter.shape)}")
    parameter.copy_(torch.from_numpy(array))
