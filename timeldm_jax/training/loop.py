"""The training loop: chunks of compiled steps, validation, checkpoints, and leaving in good order.

One loop serves both stages. The host waits for the device once a chunk. Nothing moves between them
but what is asked to: tests run the loop under `jax.transfer_guard("disallow")`.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from timeldm_jax.errors import (
    CheckpointError,
    ConfigError,
    NonFiniteLossError,
    Preempted,
    option,
)
from timeldm_jax.progress import progress
from timeldm_jax.settings import COUNT, at_least, check_fields
from timeldm_jax.training import checkpoint, feed, parallel
from timeldm_jax.training.parallel import Chunk
from timeldm_jax.training.state import TrainState
from timeldm_jax.workdir import Workdir, naming, write_text

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """How long a stage trains, and on how many examples a step.

    Attributes:
      steps: training ends here.
      batch: examples a step, over all devices.
      chunk: steps a call, one host synchronisation each.
      eval_every: steps between validations, each followed by a checkpoint; a multiple of `chunk`.
      microbatch: examples a device holds at once, gradients of parts adding up; 0: all of them.
        Fewer where long windows need it to fit in memory (`latents.CALL_BYTES`).
    """

    steps: int
    batch: int
    chunk: int
    eval_every: int
    microbatch: int = 0

    def __post_init__(self) -> None:
        """Checks the settings; raises ConfigError."""
        check_fields(
            self, steps=COUNT, batch=COUNT, chunk=COUNT, eval_every=COUNT, microbatch=at_least(0)
        )
        if self.eval_every % self.chunk:
            raise ConfigError(
                f"eval_every={self.eval_every} must be a multiple of chunk={self.chunk}"
            )

    def next_stop(self, step: int) -> int:
        """The step at which the chunk that starts at `step` ends."""
        return min(step + self.chunk, self.steps)

    def parts(self, step: int) -> Iterator[tuple[int, int]]:
        """First step and length of every chunk from a step on."""
        while step < self.steps:
            yield step, self.next_stop(step) - step
            step = self.next_stop(step)

    def validates_at(self, step: int) -> bool:
        """Whether validation and a checkpoint follow this step."""
        return step == self.steps or step % self.eval_every == 0


@dataclasses.dataclass(frozen=True)
class Journal:
    """`metrics.jsonl` of a work directory, and the same numbers as TensorBoard events."""

    workdir: Workdir

    def rewind(self, stage: str, step: int) -> None:
        """Drops what an interrupted run logged beyond the step it resumes from."""
        if not self.path.exists() or jax.process_index() != 0:
            return
        kept = [r for r in self.records() if r["stage"] != stage or r["step"] <= step]
        write_text(self.path, "".join(f"{json.dumps(record)}\n" for record in kept))

    def records(self) -> list[dict[str, Any]]:
        """What was written; empty where there is no file.

        A line that a kill cut, or that is damaged, is left out: it is only for people to see.
        """
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        records = [_record(line.decode(errors="replace")) for line in lines]
        found = [record for record in records if record is not None]
        if len(found) < len(records):
            _log.warning(
                "%s: %d of %d lines are damaged and left out",
                self.path,
                len(records) - len(found),
                len(records),
            )
        return found

    def write(self, stage: str, records: list[dict[str, float]], events: Any) -> None:
        """Appends records, each with its `step`, and adds them to the TensorBoard writer."""
        if jax.process_index() != 0:
            return
        with naming(self.path), self.path.open("a") as file:
            for record in records:
                file.write(json.dumps({"stage": stage, **record}) + "\n")
        for record in records:
            for name, value in record.items():
                if name != "step":
                    events.add_scalar(f"{stage}/{name}", value, int(record["step"]))

    @contextlib.contextmanager
    def events(self, stage: str) -> Iterator[Any]:
        """A TensorBoard writer for one stage; only process 0 has one."""
        if jax.process_index() != 0:
            yield None
            return
        from tensorboardX import SummaryWriter

        with SummaryWriter(str(self.workdir.tensorboard / stage)) as writer:
            yield writer

    @property
    def path(self) -> epath.Path:
        """Where the records are."""
        return self.workdir.metrics


def _record(line: str) -> dict[str, Any] | None:
    """A line of the journal, or None where it is none: a stage, a step and further numbers."""
    try:
        record = json.loads(line)
        numbers = [value for name, value in record.items() if name != "stage"]
        known = isinstance(record["stage"], str) and isinstance(record["step"], int)
        return record if known and all(map(math.isfinite, numbers)) else None
    except (ValueError, TypeError, RecursionError, AttributeError, KeyError, OverflowError):
        return None


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a stage trains on, and where its results go.

    Attributes:
      name: for logs and errors.
      data: what the step reads; the loop places it on the devices, once or, of a `feed.Feed`,
        chunk by chunk.
      compile_chunk: `chunk_runner(...)`, from a number of steps to the compiled call.
      validate: from averaged weights on a device to numbers, of which `loss` chooses the best
        checkpoint.
      schedule: steps, chunk, validation.
      folder: the stage's checkpoints.
      journal: where metrics go.
      meta: JSON kept with each checkpoint. On resume its `fingerprint` must be the saved one.
    """

    name: str
    data: Any
    compile_chunk: Callable[[int], Chunk]
    validate: Callable[[Any], dict[str, float]]
    schedule: StageConfig
    folder: epath.Path
    journal: Journal
    meta: dict[str, Any]


def train(stage: Stage, state: TrainState) -> TrainState:
    """Trains a stage to its last step, resuming from its newest sound checkpoint.

    Args:
      stage: what to train on, and where its results go.
      state: fresh state at step 0; buffers are donated.

    Returns:
      The final state. The best one is on disk: `checkpoint.restore_best`.

    Raises:
      NonFiniteLossError: a step's loss was not finite.
      Preempted: SIGTERM, or a signal to another process of the run; the state was saved first.
      KeyboardInterrupt: SIGINT; the state was saved first.
      CheckpointError: checkpoints exist and none can be used.
    """
    state, step = _resumed(stage, state)
    schedule = stage.schedule
    chunks = feed.of_stage(stage.data, parallel.to_host(state.key), schedule.parts(step))
    state = parallel.place(state)
    stage.journal.rewind(stage.name, step)
    compiled = functools.cache(stage.compile_chunk)
    with (
        contextlib.closing(chunks),
        _stop_signal() as stop_requested,
        stage.journal.events(stage.name) as events,
        progress(stage.name, schedule.steps, step) as report,
    ):
        while step < schedule.steps:
            target = schedule.next_stop(step)
            state, metrics = compiled(target - step)(state, next(chunks))
            metrics = parallel.to_host(metrics)
            _check_chunk(stage, step, metrics)
            step = target
            record = {"step": step, **{k: float(v.mean()) for k, v in metrics.items()}}
            stop = parallel.any_process(stop_requested.is_set())
            report(step, _record_and_save(stage, state, record, events, interrupted=stop))
            if stop:
                break
        # Asked once more: a signal that came during the last save has no later chunk to see it.
        if parallel.any_process(stop_requested.is_set()):
            kind = KeyboardInterrupt if stop_requested.is_interrupt else Preempted
            raise kind(f"stopped by a signal in stage {stage.name}; step {step} is saved")
    return state


def _resumed(stage: Stage, state: TrainState) -> tuple[TrainState, int]:
    """The state to go on from, the newest checkpoint's or the fresh one, and its step."""
    restored = checkpoint.restore_latest(stage.folder, state)
    if restored is None:
        return state, 0
    state, saved_meta = restored
    check_fingerprint(stage.folder, saved_meta, stage.meta)
    check_scaler(stage.folder, saved_meta, stage.meta)
    _check_devices(stage.folder, saved_meta, stage.meta)
    _log.info("%s: resuming at step %d", stage.name, int(state.step))
    return state, int(state.step)


def _record_and_save(
    stage: Stage, state: TrainState, record: dict[str, float], events: Any, *, interrupted: bool
) -> dict[str, float]:
    """Ends a chunk: its record, with the validation and the checkpoint that are due."""
    step = int(record["step"])
    # No loss: an interruption must not offer a "best" that a whole run never had.
    loss: float | None = None
    if stage.schedule.validates_at(step):
        valid = stage.validate(parallel.first_copy(state.ema))
        record |= {f"valid_{name}": value for name, value in valid.items()}
        loss = valid["loss"]
        _check_validation(stage, step, valid)
    host_state: TrainState | None = None
    if loss is not None or interrupted:
        host_state = parallel.to_host(state)
        _check_weights(stage, host_state, record)
    # Before the checkpoint: what a kill leaves in the journal beyond the last checkpoint is
    # written again, but a finished stage never is.
    stage.journal.write(stage.name, [record], events)
    if host_state is not None:
        checkpoint.save(stage.folder, step, host_state, stage.meta, loss=loss)
    return record


def check_fingerprint(folder: epath.Path, saved: dict[str, Any], meta: dict[str, Any]) -> None:
    """Raises CheckpointError unless a checkpoint's metadata is of the data in `meta`."""
    if saved["fingerprint"] != meta["fingerprint"]:
        raise CheckpointError(
            f"the data changed since {folder} was trained (fingerprint "
            f"{saved['fingerprint'][:12]}…, now {meta['fingerprint'][:12]}…); use another "
            "work directory, or put the data back"
        )


def _check_devices(folder: epath.Path, saved: dict[str, Any], meta: dict[str, Any]) -> None:
    """Raises CheckpointError where rows were divided among another number of devices."""
    before, now = saved.get("devices"), meta.get("devices")
    if before != now and None not in (before, now):
        raise CheckpointError(
            f"{folder} was trained with rows divided among {before} devices, and here are {now}, "
            f"which would have other windows in other steps: go on with {before} devices, or train "
            f"anew in another work directory; {option('placement', 'replicated')} trains alike on "
            "any number"
        )


def check_scaler(folder: epath.Path, saved: dict[str, Any], meta: dict[str, Any]) -> None:
    """Raises CheckpointError unless training can go on with the scaler in `meta`.

    A version may scale columns in another way than the one before did. What is finished still
    samples by the scaler that it was saved with.
    """
    before, now = saved["scaler"], json.loads(json.dumps(meta["scaler"]))
    # Grids and ends are of samples; versions that had no curves or links saved none.
    if any(before.get(name, []) != now[name] for name in ("low", "high", "curves", "links")):
        raise CheckpointError(
            f"{folder} was trained on columns scaled in another way, by an earlier version of "
            "timeldm_jax: training cannot go on from it; use another work directory, or the "
            "version that began it"
        )


def _check_chunk(stage: Stage, step: int, metrics: dict[str, np.ndarray]) -> None:
    """Raises NonFiniteLossError unless every loss of the chunk that began at `step` is finite."""
    finite = np.isfinite(metrics["loss"])
    if not finite.all():
        bad = int(np.argmin(finite))
        terms = {name: float(values[bad]) for name, values in metrics.items()}
        raise _non_finite(stage, "loss is", step + bad + 1, terms)


def _check_validation(stage: Stage, step: int, valid: dict[str, float]) -> None:
    if not all(map(math.isfinite, valid.values())):
        raise _non_finite(stage, "validation loss is", step, valid)


def _check_weights(stage: Stage, state: TrainState, record: dict[str, float]) -> None:
    """A finite loss can have an infinite gradient, and its step would be saved unseen."""
    leaves = jax.tree.leaves((state.params, state.ema))
    if not all(np.isfinite(leaf).all() for leaf in leaves):
        raise _non_finite(stage, "weights are", int(record["step"]), record)


def _non_finite(stage: Stage, what: str, step: int, terms: dict[str, float]) -> NonFiniteLossError:
    ordered = {"loss": terms["loss"]} | terms
    shown = ", ".join(f"{name}={value:.4g}" for name, value in ordered.items() if name != "step")
    good = checkpoint.steps(stage.folder)
    last = (
        f"the last good checkpoint is {stage.folder / str(good[-1])}"
        if good
        else "none is saved yet"
    )
    return NonFiniteLossError(
        f"the {stage.name} {what} not finite at step {step}: {shown}; {last}. "
        f"A smaller config.{stage.name}.optimizer.learning_rate usually mends it"
    )


class StopRequest(threading.Event):
    """That a signal came, and whether it was Ctrl-C."""

    is_interrupt = False


@contextlib.contextmanager
def _stop_signal() -> Iterator[StopRequest]:
    """Turns SIGTERM and SIGINT into an event that the loop reads at the end of a chunk.

    A handler of our own, because JAX's preemption notifier swallows SIGTERM once
    `jax.distributed` is on. A second signal is not waited for: it ends a command at once, and is a
    KeyboardInterrupt in a program that left Ctrl-C as Python has it.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # signals can only be handled in the main thread
        return
    before: dict[int, Any] = {}

    def handle(number: int, _: Any) -> None:
        request.is_interrupt = number == signal.SIGINT
        request.set()
        for again, handler in before.items():
            kept = handler is signal.default_int_handler
            signal.signal(again, handler if kept else signal.SIG_DFL)

    for each in (signal.SIGTERM, signal.SIGINT):
        before[each] = signal.signal(each, handle)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
