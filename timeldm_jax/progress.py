"""Progress of long work: a bar with loss and time left on a terminal, plain lines otherwise."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from tqdm import tqdm


@contextlib.contextmanager
def progress(
    stage: str, total: int, start: int = 0, unit: str = "step"
) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """A progress bar with loss and time left on a terminal, plain lines otherwise.

    Yields a function of the count so far and the numbers to show (`loss` and `valid_loss`), or what
    is under way (`now`).
    """
    if jax.process_index() != 0:
        yield lambda done, numbers: None
        return
    if sys.stderr.isatty():
        with tqdm(total=total, initial=start, desc=stage, unit=unit, dynamic_ncols=True) as bar:

            def show(done: int, numbers: dict[str, Any]) -> None:
                bar.update(done - bar.n)
                bar.set_postfix_str(_summary(numbers))

            yield show
        return
    began = time.monotonic()
    last_line = [-math.inf]

    def print_line(done: int, numbers: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - last_line[0] < 10 and done < total and not {"valid_loss", "now"} & numbers.keys():
            return
        last_line[0] = now
        left = (now - began) / max(done - start, 1) * (total - done)
        print(
            f"{stage}: {unit} {done}/{total}, {_summary(numbers)}"
            f"{now - began:.0f} s so far, {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    yield print_line


def _summary(numbers: dict[str, Any]) -> str:
    shown = ("loss", "valid_loss", "beta")
    text = "".join(f"{name} {numbers[name]:.4g}, " for name in shown if name in numbers)
    return text + (f"{numbers['now']}, " if "now" in numbers else "")
