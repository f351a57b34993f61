"""What the steps of a chunk read, where the devices do not hold all rows.

The windows of a chunk are looked up on the host and sent at once, while the devices work on the
chunk before. Which ones they are is the same function of seed and step as on a device
(`state.epoch_order`), so the order of training does not depend on where rows lie, nor on devices,
processes or chunks.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

from timeldm_jax.data.dataset import Dataset
from timeldm_jax.data.runs import Runs
from timeldm_jax.training import parallel, state
from timeldm_jax.training.state import TrainState
from timeldm_jax.training.steps import Batch, Fed

CHUNK_BYTES = 2**28  # of windows that are sent at once; as many more are looked up meanwhile

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Feed:
    """Windows that are sent to the devices chunk by chunk.

    Attributes:
      read: the windows at some starts, `(*lead, n)`, as numpy arrays that begin with these axes.
      starts: of all windows.
      batch: how devices share them.
      beside: how many windows after its own share a device reads; see `steps.vae_step`.
      fixed: what all steps read, such as the weights of a VAE that is trained.
    """

    read: Callable[[Int[np.ndarray, "*lead n"]], PyTree]
    starts: Runs | Int[np.ndarray, " windows"]
    batch: Batch
    beside: int = 0
    fixed: PyTree = ()

    def chunk(self, key: UInt32[np.ndarray, " words"], step: int, length: int) -> Fed:
        """The windows of some steps, on the devices of this process.

        Args:
          key: of the stage's state.
          step: the first one.
          length: how many.
        """
        return self._sent(self._numbers(key, step, length), parallel.place(self.fixed))

    def chunks(
        self, key: UInt32[np.ndarray, " words"], parts: Iterator[tuple[int, int]]
    ) -> Iterator[Fed]:
        """Those of many chunks, each looked up and sent before it is asked for.

        Args:
          key: as for `chunk`.
          parts: first step and length of each.
        """
        fixed = parallel.place(self.fixed)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            ahead: list[concurrent.futures.Future[Fed]] = []
            for step, length in parts:
                # Found out before the devices have the steps of a chunk to do first.
                numbers = self._numbers(key, step, length)
                ahead.append(pool.submit(self._sent, numbers, fixed))
                if len(ahead) == 2:
                    yield ahead.pop(0).result()
            while ahead:
                yield ahead.pop(0).result()

    def _numbers(
        self, key: UInt32[np.ndarray, " words"], step: int, length: int
    ) -> Int[Array, "step batch"]:
        size, examples = self.batch.size, len(self.starts)
        key, first = jax.device_put((key, np.int32(step)))
        return _order(key, first, length=length, size=size, examples=examples)

    def _sent(self, numbers: Int[Array, "step batch"], fixed: PyTree) -> Fed:
        """The windows of these numbers, of this process's devices."""
        share = self.batch.size // self.batch.devices
        first = parallel.device_numbers()[:, None] * share
        places = (first + np.arange(share + self.beside)) % self.batch.size
        own = np.moveaxis(np.asarray(numbers)[:, places], 1, 0)  # (device, step, n)
        each = self.read(self.starts[own.astype(np.int64)])
        return Fed(parallel.place_shares(each), fixed)


@dataclasses.dataclass(frozen=True)
class Shares:
    """Data of which each device holds its own.

    Attributes:
      each: arrays that begin with an axis of this process's devices, in their order.
    """

    each: PyTree


def of_vae(dataset: Dataset, batch: Batch) -> Feed:
    """The training windows of a table larger than memory, as the VAE's step reads them."""
    return Feed(
        dataset.some_scaled, dataset.series.train, batch, 0 if dataset.missing is None else 1
    )


def of_ldm(dataset: Dataset, batch: Batch, vae_params: PyTree, *, context: bool) -> Feed:
    """The same as the diffusion's step reads them, which encodes them.

    Args:
      dataset: of the table.
      batch: how devices share windows.
      vae_params: weights that windows are encoded with.
      context: whether the denoiser is told what windows can be asked for by.
    """

    def read(starts: Int[np.ndarray, "*lead n"]) -> PyTree:
        windows = dataset.some_scaled(starts)
        if not context:
            return windows, ()
        lead, found = starts.shape, dataset.contexts(starts.ravel())
        values, known = (a.reshape(*lead, -1) for a in (found.values, found.known))
        part = np.broadcast_to(found.part, (*lead[:-1], *found.part.shape))
        return windows, found._replace(values=values, known=known, part=part)

    return Feed(read, dataset.series.train, batch, fixed=jax.device_put(vae_params))


def of_stage(
    data: Any, key: UInt32[np.ndarray, " words"], parts: Iterator[tuple[int, int]]
) -> Generator[Any, None, None]:
    """What each chunk of a stage reads: a feed's next windows, or what is placed once.

    Args:
      data: of the stage.
      key: of its state.
      parts: first step and length of each chunk.
    """
    if isinstance(data, Feed):
        yield from data.chunks(key, parts)
    else:
        yield from itertools.repeat(placed(data))


def placed(data: Any) -> Any:
    """Data on the devices of this process: on each all of it, or of `Shares` its own."""
    return parallel.place_shares(data.each) if isinstance(data, Shares) else parallel.place(data)


def within_memory(chunk: int, step_bytes: int) -> int:
    """The longest chunk that divides `chunk` and whose windows are at most `CHUNK_BYTES`."""
    most = max(CHUNK_BYTES // step_bytes, 1)
    return next(n for n in range(min(chunk, most), 0, -1) if chunk % n == 0)


@functools.partial(jax.jit, static_argnames=("length", "size", "examples"))
def _order(
    key: UInt32[Array, " words"], first: Int[Array, ""], *, length: int, size: int, examples: int
) -> Int[Array, "step batch"]:
    """The numbers of the windows of each step, as the devices find them."""

    def of(step: Int[Array, ""]) -> Int[Array, " batch"]:
        train = TrainState(step, (), (), (), (), (), key)
        return state.epoch_order(train, jnp.arange(size), size, examples)

    return jax.lax.map(of, first + jnp.arange(length, dtype=jnp.int32))
