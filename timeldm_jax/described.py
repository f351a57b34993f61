"""What a model knows of its own samples, as a run's `marginals.json` or a saved model keeps it."""

import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from timeldm_jax.latents import Drift
from timeldm_jax.marginals import LEVELS
from timeldm_jax.workdir import Workdir

_log = logging.getLogger(__name__)


def read(workdir: Workdir) -> Any:
    """What `marginals.json` holds, or None."""
    try:
        return json.loads(workdir.marginals.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        _log.warning("%s is damaged (%s); it is made again", workdir.marginals, error)
        return None


def marginals_of(meta: Mapping[str, Any]) -> Float[np.ndarray, "feature level"] | None:
    """Quantiles of the training data; NaN for features that are left alone."""
    # Earlier versions say "margins"; before those there were none.
    saved = meta.get("marginals", meta.get("margins"))
    if saved is None:
        return None
    untouched = [np.nan] * len(LEVELS)
    return np.array([row or untouched for row in saved], np.float32)


def drawn(meta: Mapping[str, Any]) -> Float[np.ndarray, "feature drawn_level"] | None:
    """Quantiles of the model's own samples, where they are those of its weights."""
    found = _of_these_weights(meta, "drawn")
    return None if found is None else np.array(found, np.float32)


def drift(meta: Mapping[str, Any]) -> Drift | None:
    """How coordinates of the samples lie, where it is that of its weights."""
    found = _of_these_weights(meta, "drift")
    return None if found is None else Drift(*(np.array(part, np.float32) for part in found))


def shares(meta: Mapping[str, Any]) -> Float[np.ndarray, " feature"] | None:
    """How often features of the training data repeat a value; see `repeats`."""
    saved = meta.get("repeats")  # versions before format 6 had none
    return None if saved is None else np.array(saved, np.float64)


def close(meta: Mapping[str, Any]) -> Float[np.ndarray, " feature"] | None:
    """How close values of the samples are held, where it is that of its weights."""
    found = _of_these_weights(meta, "close")
    return None if found is None else np.array(found, np.float64)


def wider(meta: Mapping[str, Any]) -> Float[np.ndarray, "part feature"] | None:
    """By how much forecasts are wider than drawn, as `bands`, where it is that of its weights.

    The first versions that measured it had one factor a feature for all that comes.
    """
    found = _of_these_weights(meta, "wider")
    return None if found is None else np.atleast_2d(np.array(found, np.float64))


def _of_these_weights(meta: Mapping[str, Any], name: str) -> Any:
    found = meta.get("drawn_marginals")
    return None if found is None or found["step"] != meta.get("step") else found.get(name)
