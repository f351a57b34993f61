"""Streams of randomness: every use of a seed has a name, and draws from a key of its own.

A key of a stream is the key that it comes from with the stream's salt folded in, then numbers (a
step, which of several draws). The salt is a hash of the name, so that a new stream changes no other
one's numbers, and that small numbers folded into the same key are no stream's salt.
"""

import enum
import zlib

import jax
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

Number = int | np.integer | Int[Array, ""]


class Stream(enum.StrEnum):
    """All streams. Those of a group come from one key: that of a seed, or of a stage's training."""

    # Of `config.seed`.
    VAE_WEIGHTS = "vae/weights"
    VAE_TRAINING = "vae/training"
    LDM_WEIGHTS = "ldm/weights"
    LDM_TRAINING = "ldm/training"
    # Of a fixed seed, so that validation losses of runs can be compared.
    VAE_VALIDATION = "vae/validation"
    LDM_VALIDATION = "ldm/validation"
    # Of the key of a stage's training or validation.
    ORDER = "order"
    POSTERIOR = "posterior"
    NOISE_LEVEL = "noise level"
    CONTEXT = "context"
    NOISE = "noise"
    # Of a seed of samples, or of a fixed one for what a model says of itself.
    SAMPLE_START = "sample/start"
    SAMPLE_CHURN = "sample/churn"
    COMPLETION = "completion"
    PRIOR = "prior"
    MARGINALS = "marginals"
    AXES = "axes"
    REPEATS = "repeats"
    START_TIMES = "start times"  # of numpy's generator

    @property
    def salt(self) -> int:
        """32 bits that only the name decides, on every machine and in every version of Python."""
        return zlib.crc32(self.value.encode())


def key(source: PRNGKeyArray, stream: Stream, *numbers: Number) -> PRNGKeyArray:
    """The key of a stream of `source`, with numbers folded in one after the other."""
    found = source
    for number in (stream.salt, *numbers):
        # Placed explicitly, so that it works where implicit transfers are refused.
        placed = number if isinstance(number, jax.Array) else jax.device_put(np.uint32(number))
        found = jax.random.fold_in(found, placed)
    return found


def seed_key(seed: int) -> PRNGKeyArray:
    """The key of a seed from 0 to 2³² − 1: what streams come from."""
    return jax.random.key(jax.device_put(np.uint32(seed)))
