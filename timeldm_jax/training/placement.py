"""What the steps of a stage read, and where it lies.

- `replicated`: every device holds all rows, and all posteriors.
- `sharded`: each device holds the rows, and the posteriors, of windows of its own, about as many on
  each, and trains on no others. Which windows a step has then depends on how many devices there
  are.
- `streamed`: rows lie in a file, and devices are sent the windows of each chunk; see `feed`.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Int

from timeldm_jax import latents
from timeldm_jax.data.context import Context
from timeldm_jax.data.dataset import Dataset
from timeldm_jax.data.series import DeviceWindows
from timeldm_jax.latents import Posteriors
from timeldm_jax.models.vae import VAE
from timeldm_jax.training import feed, parallel
from timeldm_jax.training.feed import Feed, Shares
from timeldm_jax.training.steps import Batch

PyTree = Any


def shares(windows: int, devices: int) -> Int[np.ndarray, "device own"]:
    """The numbers of the windows of each device, in a row and equally many.

    Every window is somebody's. Where devices do not divide their number, a few at the borders,
    fewer than there are devices, are two devices'.
    """
    own = -(-windows // devices)
    first = np.arange(devices) * (windows - own) // max(devices - 1, 1)
    return first[:, None] + np.arange(own)


def of_vae(dataset: Dataset, batch: Batch) -> Feed | Shares | DeviceWindows:
    """The training windows, as the VAE's step reads them."""
    if dataset.is_stored:
        return feed.of_vae(dataset, batch)
    starts, window = dataset.series.train[:], dataset.series.window
    if batch.own:
        return share_windows(dataset.scaled(), starts, window, batch.devices)
    return DeviceWindows(dataset.scaled(), starts)


# Wide: rows, and which of them are whose.
def share_windows(
    rows: Float32[np.ndarray, "rows feature"],
    starts: Int[np.ndarray, " windows"],
    window: int,
    devices: int,
) -> Shares:
    """Windows of each device of this process: the rows that they cover, once each.

    Where a device has fewer rows than another, zeros follow them, which no window reaches.
    """
    parts = [_covered(starts[own], window) for own in shares(len(starts), devices)]
    most = max(len(places) for places, _ in parts)
    here = [parts[number] for number in parallel.device_numbers()]
    values = np.zeros((len(here), most, rows.shape[1]), rows.dtype)
    for own, (places, _) in zip(values, here, strict=True):
        own[: len(places)] = rows[places]
    return Shares(DeviceWindows(values, np.stack([own for _, own in here])))


def _covered(
    starts: Int[np.ndarray, " own"], window: int
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " own"]]:
    """The rows that some windows cover, and where each of them starts among these."""
    first, end = int(starts.min()), int(starts.max()) + window
    begun = np.bincount(starts - first, minlength=end - first + 1)
    ended = np.bincount(starts - first + window, minlength=end - first + 1)
    inside = np.cumsum(begun - ended)[:-1] > 0
    place = np.cumsum(inside) - 1
    return first + np.flatnonzero(inside), place[starts - first].astype(np.int32)


def of_ldm(
    dataset: Dataset, batch: Batch, vae_params: PyTree, posteriors: Posteriors
) -> Feed | Shares | Posteriors:
    """What the diffusion's step reads of training windows.

    Args:
      dataset: of the table.
      batch: how devices share windows.
      vae_params: weights that windows are encoded with, where they are sent.
      posteriors: of all training windows, or where they are sent of some.
    """
    if dataset.is_stored:
        asked = isinstance(posteriors.context, Context)
        return feed.of_ldm(dataset, batch, vae_params, context=asked)
    if not batch.own:
        return posteriors
    whose = shares(len(posteriors.mean), batch.devices)[parallel.device_numbers()]
    context = posteriors.context
    if isinstance(context, Context):
        part = np.broadcast_to(context.part, (len(whose), *context.part.shape))
        context = context.at(whose)._replace(part=part)
    log_variance = posteriors.log_variance
    if not isinstance(log_variance, tuple):
        log_variance = log_variance[whose]
    return Shares(Posteriors(posteriors.mean[whose], log_variance, context))


def encoded(
    dataset: Dataset,
    starts: Int[np.ndarray, " n"],
    vae: VAE,
    vae_params: PyTree,
    posterior: str,
    *,
    whole: bool,
) -> Posteriors:
    """The posteriors of windows, numpy; with `whole`, the table is on a device meanwhile."""
    windows = dataset.for_devices(whole=whole)
    if whole or dataset.is_stored:
        return latents.encode(vae, vae_params, windows(starts), posterior)
    # As many batches at a time as are sent for a chunk; the last ones are filled up.
    batch = latents.windows_per_call(vae, latents.ENCODE_BATCH)
    size = batch * max(feed.CHUNK_BYTES // (4 * batch * vae.window * vae.features), 1)
    size = min(size, len(starts))
    parts = []
    for first in range(0, len(starts), size):
        at = np.minimum(np.arange(first, first + size), len(starts) - 1)
        parts.append(latents.encode(vae, vae_params, windows(starts[at]), posterior))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[: len(starts)], *parts)
