"""Many steps a call: `jit` on one device, else over all devices of all processes.

Over many it is `pmap`, or `jit` of `shard_map`, which gives the same numbers and reports a sum over
devices that was forgotten. All wrap one `lax.scan` over the step, donate the state and return the
metrics of every step, so that the host synchronises once a chunk. Data and state are placed once
(`place`) and stay on the devices: nothing is sent there for a chunk, and only metrics come back.
"""

import functools
import secrets
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from timeldm_jax.errors import DataError, Preempted
from timeldm_jax.training.state import TrainState
from timeldm_jax.training.steps import Batch, Fed, Metrics, Step

AXIS = "device"
Found = TypeVar("Found")
Chunk = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


def make_batch(
    size: int, micro: int | None = None, form: str = "pmap", *, own: bool = False
) -> Batch:
    """The global batch over every device of every process.

    Args:
      size: examples over all devices.
      micro: most examples a device holds at once; see `steps.Batch`.
      form: how steps are mapped over devices, `pmap` or `shard_map`.
      own: whether each device has examples of its own; see `placement`.

    Raises:
      ValueError: the devices do not divide it.
    """
    devices = jax.device_count()
    if size % devices:
        nearest = max(devices, size - size % devices)
        raise ValueError(
            f"a batch of {size} does not divide over {devices} devices; "
            f"use a multiple of {devices}, such as {nearest}"
        )
    return Batch(size, devices, AXIS if devices > 1 else None, micro, form, own)


def chunk_runner(step: Step, batch: Batch, *, fed: bool = False) -> Callable[[int], Chunk]:
    """Compiles `length` steps into one call, `(state, data) -> (state, metrics (length,))`.

    Args:
      step: the step's body.
      batch: as from `make_batch`; its axis and form choose between jit, pmap and shard_map.
      fed: whether data are `steps.Fed`, whose windows are each step's and each device's own. Of
        others all are each device's own, or none, as the batch says.

    Returns:
      From `length` to the call. State and data that are not as `place` leaves them are sent to the
      devices with each call.
    """

    def scan(train: TrainState, data: Any, length: int) -> tuple[TrainState, Metrics]:
        if fed:
            return jax.lax.scan(lambda s, own: step(s, Fed(own, data.fixed)), train, data.each)
        return jax.lax.scan(lambda s, _: step(s, data), train, length=length)

    def compiled(length: int) -> Chunk:
        if batch.axis is None:
            return jax.jit(lambda train, data: scan(train, data, length), donate_argnums=0)
        if batch.form == "shard_map":
            return _sharded(lambda train, data: scan(train, data, length), fed=fed, own=batch.own)
        # The mapped argument only tells pmap how many devices there are: data and state are the
        # same on all of them, and each takes its share of the batch by its index on the axis.
        mapped = jax.pmap(
            lambda train, data, _: scan(train, data, length),
            axis_name=AXIS,
            in_axes=(None, Fed(0, None) if fed else 0 if batch.own else None, 0),
            out_axes=None,
            donate_argnums=0,
        )
        local = jax.device_put(np.zeros(jax.local_device_count(), np.int8), _sharding(AXIS))
        return lambda train, data: mapped(train, data, local)

    return compiled


def _sharded(
    run: Callable[[TrainState, Any], tuple[TrainState, Metrics]], *, fed: bool, own: bool
) -> Chunk:
    """The call as `jit` of `shard_map` over the devices of all processes."""
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    same, each = PartitionSpec(), PartitionSpec(AXIS)
    specs = (same, Fed(each, same) if fed else each if own else same)

    def of_device(train: TrainState, data: Any) -> tuple[TrainState, Metrics]:
        # Each device sees its share of the axis of devices, which is one long.
        if fed:
            data = Fed(jax.tree.map(lambda array: array[0], data.each), data.fixed)
        elif own:
            data = jax.tree.map(lambda array: array[0], data)
        return run(train, data)

    mapped = jax.jit(
        jax.shard_map(of_device, mesh=mesh, in_specs=specs, out_specs=same), donate_argnums=0
    )
    if jax.process_count() == 1:
        return mapped

    def of_all(array: jax.Array) -> jax.Array:
        """An array of this process's devices as one of all; nothing is copied."""
        assert isinstance(array.sharding, NamedSharding)  # as `place` leaves it
        spec = array.sharding.spec
        shape = array.shape
        if spec == each:
            shape = (len(jax.devices()), *shape[1:])
        shards = [shard.data for shard in array.addressable_shards]
        sharding = NamedSharding(mesh, spec)
        return jax.make_array_from_single_device_arrays(shape, sharding, shards)

    def of_process(array: jax.Array) -> jax.Array:
        """The inverse, of arrays that are the same on all."""
        shards = [shard.data for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(array.shape, _sharding(), shards)

    def call(train: TrainState, data: Any) -> tuple[TrainState, Metrics]:
        return jax.tree.map(of_process, mapped(*jax.tree.map(of_all, (train, data))))

    return call


def place(tree: Any) -> Any:
    """The pytree on every device of this process, each with a whole copy."""
    return jax.device_put(tree, _sharding() if jax.device_count() > 1 else None)


def place_shares(tree: Any) -> Any:
    """Arrays `(local device, …)`, each device with its own; without that axis where it is alone."""
    if jax.device_count() == 1:
        return jax.device_put(jax.tree.map(lambda array: array[0], tree))
    return jax.device_put(tree, _sharding(AXIS))


@functools.cache
def device_numbers() -> np.ndarray:
    """The number of each local device on the axis of all, int `(local device,)`."""
    if jax.device_count() == 1:
        return np.zeros(1, np.int64)
    local = jax.device_put(np.zeros(jax.local_device_count(), np.int8), _sharding(AXIS))
    numbers = jax.pmap(lambda _: jax.lax.axis_index(AXIS), axis_name=AXIS)(local)
    return np.concatenate([np.asarray(s.data).ravel() for s in numbers.addressable_shards])


def first_copy(tree: Any) -> Any:
    """What the first device of this process holds of a placed pytree; nothing is copied."""
    return jax.tree.map(lambda array: array.addressable_data(0), tree)


def _sharding(*axes: str) -> NamedSharding:
    """Over this process's devices as pmap orders them: the same on all, or split by `AXIS`."""
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(*axes))


def to_host(tree: Any) -> Any:
    """The pytree as numpy arrays; every device and process holds the same values."""
    return jax.tree.map(np.asarray, jax.device_get(tree))


def share_from_first(tree: Any) -> Any:
    """Process 0's numpy pytree on every process (only it reads checkpoints)."""
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    with jax.transfer_guard("allow"):  # asked for by the call
        return multihost_utils.broadcast_one_to_all(tree)


def share_text_from_first(text: str) -> str:
    """Process 0's text on every process."""
    if jax.process_count() == 1:
        return text
    content = np.frombuffer(text.encode(), np.uint8)
    length = int(share_from_first(np.int32(len(content))))
    if jax.process_index() != 0:
        content = np.zeros(length, np.uint8)
    return bytes(np.asarray(share_from_first(content))).decode()


def share_texts(text: str) -> list[str]:
    """The text of each process, in their order, on every process."""
    if jax.process_count() == 1:
        return [text]
    from jax.experimental import multihost_utils

    content = np.frombuffer(text.encode(), np.uint8)
    with jax.transfer_guard("allow"):  # asked for by the call
        lengths = multihost_utils.process_allgather(np.int32(len(content)))
        padded = np.zeros(int(np.max(lengths)), np.uint8)
        padded[: len(content)] = content
        found = multihost_utils.process_allgather(padded)
    return [bytes(row[:size]).decode() for row, size in zip(found, lengths, strict=True)]


def any_process(flag: bool) -> bool:
    """Whether `flag` is true on some process."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    with jax.transfer_guard("allow"):  # asked for by the call
        return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        with jax.transfer_guard("allow"):  # asked for by the call
            multihost_utils.sync_global_devices(name)


def together(work: Callable[[], Found]) -> Found:
    """What `work` gives here, once it ended well on every process.

    Raises:
      Preempted: another process was stopped.
      DataError: it failed on another one; here, where it failed, what it raised.
    """
    found, failure = None, None
    try:
        found = work()
    except BaseException as error:  # the others wait, whatever it is
        failure = error
    stopped = isinstance(failure, Preempted | KeyboardInterrupt)
    others_failed = any_process(failure is not None and not stopped)
    others_stopped = any_process(stopped)
    if failure is not None:
        raise failure
    if others_failed:
        raise DataError("another process failed, and says why; this one ends with it")
    if others_stopped:
        raise Preempted("with another process")
    return found  # type: ignore[return-value]


def alone(work: Callable[[], Found]) -> Found | None:
    """What `work` gives on process 0, while the others wait, and None on them; as `together`."""
    return together(lambda: work() if jax.process_index() == 0 else None)


def share_disk(folder: epath.Path) -> bool:
    """Whether every process sees what process 0 writes to a folder."""
    if jax.process_count() == 1:
        return True
    name = share_text_from_first(f".shared-{secrets.token_hex(8)}")
    probe = folder / name
    alone(lambda: (folder.mkdir(parents=True, exist_ok=True), probe.touch()))
    unseen = any_process(not probe.exists())
    alone(probe.unlink)
    return not unseen
