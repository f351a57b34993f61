"""Work that goes on at the same time: a source that runs ahead, and a function on many threads.

Threads, not processes: numpy, Arrow and JAX let go of the interpreter while they compute.
"""

import collections
import concurrent.futures
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import NoReturn, TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")

MOST_THREADS = 8  # each holds a few copies of what it works on


def threads() -> int:
    """How many threads work at a time."""
    return min(os.cpu_count() or 1, MOST_THREADS)


def ahead(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """The items, made by a thread of their own, up to `depth` before they are asked for.

    What making them raises is raised here. The thread ends with this generator.
    """
    waiting: queue.Queue[Callable[[], Item] | None] = queue.Queue(depth)
    stopped = threading.Event()

    def put(made: Callable[[], Item] | None) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(made, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            for item in items:
                if not put(lambda item=item: item):  # type: ignore[misc]
                    return
            put(None)
        except BaseException as error:
            put(lambda error=error: _raise(error))  # type: ignore[misc]

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while (made := waiting.get()) is not None:
            yield made()
    finally:
        stopped.set()
        thread.join()


def _raise(error: BaseException) -> NoReturn:
    raise error


def one_ahead(items: Iterable[Item]) -> Generator[Item, None, None]:
    """The items, each once the next was begun: for work that devices do meanwhile."""
    before: list[Item] = []
    for item in items:
        yield from before
        before = [item]
    yield from before


def in_order(
    function: Callable[[Item], Found], items: Iterable[Item], workers: int
) -> Generator[Found, None, None]:
    """`map` by several threads, in order; no more than `workers` results wait."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        begun: collections.deque[concurrent.futures.Future[Found]] = collections.deque()
        try:
            for item in items:
                begun.append(pool.submit(function, item))
                while begun and (len(begun) > workers or begun[0].done()):
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for each in begun:
                each.cancel()
