"""Random convolution kernels: how often a kernel's output passes a threshold within a window.

After ROCKET and MiniRocket (Dempster et al. 2020, 2021): kernels are drawn and not trained, dilated
so that they reach from one step to the whole window, and thresholds are quantiles of outputs.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from timeldm_jax.metrics.comparison import Windows

KERNELS = 500
TAPS = 9
LENGTHS = (2, 3, 5, 9)
THRESHOLDS = 2  # of each kernel
CHANNELS = 8  # features that a kernel reads, at most
UNCENTRED = 0.25  # of the kernels, which see levels; the others see changes alone
VALUES = 4_000_000  # numbers held at a time


class Bank(NamedTuple):
    """Kernels of one dilation.

    Attributes:
      dilation: steps between taps.
      weights: of each tap and feature, by kernel.
      thresholds: of each kernel's output.
    """

    dilation: int
    weights: Float[np.ndarray, "tap feature kernel"]
    thresholds: Float[np.ndarray, "kernel threshold"]


def draw(windows: Windows, seed: int = 0) -> list[Bank]:
    """Kernels for windows of this form; thresholds are quantiles of outputs on some of them.

    Args:
      windows: `(n, time, feature)` of which some are looked at.
      seed: of the draw.
    """
    random = np.random.default_rng(seed)
    time, features = windows.shape[1:]
    deviation = windows.std(axis=(0, 1))
    scale = 1 / np.where(deviation > 0, deviation, 1)
    seen = windows[random.permutation(len(windows))[:100]]
    taps = min(TAPS, time)
    largest = int(np.log2(max((time - 1) / max(taps - 1, 1), 1)))
    dilations = 2 ** np.arange(largest + 1)
    banks = []
    for dilation, count in zip(dilations, _shares(KERNELS, len(dilations)), strict=True):
        weights = np.stack([_kernel(random, taps, features) for _ in range(count)], axis=-1)
        weights = (weights * scale[:, None]).astype(np.float32)
        outputs = _outputs(seen, int(dilation), weights)
        levels = random.uniform(0.02, 0.98, (count, THRESHOLDS))
        thresholds = [np.quantile(outputs[..., k], level) for k, level in enumerate(levels)]
        banks.append(Bank(int(dilation), weights, np.array(thresholds, np.float32)))
    return banks


def describe(windows: Windows, banks: list[Bank]) -> Float[np.ndarray, "n description"]:
    """Of each window and kernel, the share of places where the output passes a threshold."""
    time, features = windows.shape[1:]
    widest = max(bank.weights.shape[2] for bank in banks)
    batch = max(VALUES // (time * max(widest, TAPS * features)), 1)
    parts = []
    for first in range(0, len(windows), batch):
        part = windows[first : first + batch].astype(np.float32)
        shares = []
        for bank in banks:
            outputs = _outputs(part, bank.dilation, bank.weights)
            shares += [
                (outputs > bank.thresholds[:, i]).mean(axis=1, dtype=np.float32)
                for i in range(THRESHOLDS)
            ]
        parts.append(np.concatenate(shares, axis=1))
    return np.concatenate(parts)


def _kernel(
    random: np.random.Generator, taps: int, features: int
) -> Float[np.ndarray, "tap feature"]:
    """Normal weights at the first taps of some features; of most kernels their sum is zero."""
    kernel = np.zeros((taps, features))
    length = min(int(random.choice(LENGTHS)), taps)
    most = np.log2(min(CHANNELS, features) + 1)
    channels = random.permutation(features)[: int(2 ** random.uniform(0, most))]
    weights = random.normal(size=(length, len(channels)))
    if length > 1 and random.random() > UNCENTRED:
        weights -= weights.mean(axis=0)
    kernel[:length, channels] = weights
    return kernel


def _outputs(
    windows: Float[np.ndarray, "n time feature"],
    dilation: int,
    weights: Float[np.ndarray, "tap feature kernel"],
) -> Float[np.ndarray, "n place kernel"]:
    """Every kernel at every place where it fits, by one matrix product."""
    taps = len(weights)
    reach = (taps - 1) * dilation + 1
    view = np.lib.stride_tricks.sliding_window_view(windows, reach, axis=1)
    patches = np.moveaxis(view[..., ::dilation], -1, 2)  # (n, place, tap, feature)
    shape = patches.shape[:2]
    flat = np.ascontiguousarray(patches, np.float32).reshape(shape[0] * shape[1], -1)
    return (flat @ weights.reshape(-1, weights.shape[2])).reshape(*shape, -1)


def _shares(total: int, parts: int) -> Int[np.ndarray, " part"]:
    """`total` in parts as equal as can be."""
    return np.diff(np.linspace(0, total, parts + 1).astype(int))
