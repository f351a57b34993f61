"""Pure Flax modules: the transformer, the VAE built from it, and the latent denoiser."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn


def bind(model: nn.Module, params: Any, method: str = "__call__") -> Callable[..., Any]:
    """A method of the model as a function of its inputs."""
    return lambda *inputs: model.apply({"params": params}, *inputs, method=method)
