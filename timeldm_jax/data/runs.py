"""Long sequences of whole numbers that mostly rise by one, held by their runs alone.

The starts of the windows of a billion rows, the step of the clock of each row and its place in time
are such sequences: a lookup finds the run, and nothing is as long as the table.
"""

import dataclasses

import numpy as np
from jaxtyping import Int


@dataclasses.dataclass(frozen=True)
class Runs:
    """A sequence; `runs[places]` looks numbers up, for an array or a slice of places.

    Attributes:
      first: the place in the sequence at which each run begins, rising from 0.
      value: the number there.
      count: numbers of all runs.
      stride: of these, one in so many is in the sequence.
    """

    first: Int[np.ndarray, " run"]
    value: Int[np.ndarray, " run"]
    count: int
    stride: int = 1

    def __len__(self) -> int:
        return -(-self.count // self.stride)

    @property
    def shape(self) -> tuple[int]:
        """That of the array that it stands for."""
        return (len(self),)

    def __getitem__(self, places: Int[np.ndarray, "*shape"] | slice) -> Int[np.ndarray, "*shape"]:
        if isinstance(places, slice):
            places = np.arange(*places.indices(len(self)))
        places = np.asarray(places, np.int64) * self.stride
        run = np.searchsorted(self.first, places, side="right") - 1
        return self.value[run] + (places - self.first[run])

    def every(self, stride: int) -> "Runs":
        """One in so many, the first included."""
        return dataclasses.replace(self, stride=self.stride * stride)

    def covered(self, window: int) -> "Runs":
        """The rows that windows at these starts cover, where they are of every row of a run."""
        length = np.diff(self.first, append=self.count)
        return of_lengths(self.value, length + window - 1)

    def content(self) -> bytes:
        """What it is, for a fingerprint."""
        numbers = np.array([self.count, self.stride], np.int64)
        return b"".join(
            part.astype(np.int64).tobytes() for part in (self.first, self.value, numbers)
        )


def of_lengths(value: Int[np.ndarray, " run"], length: Int[np.ndarray, " run"]) -> Runs:
    """Runs from so many numbers on, of so many each; those of none are left out."""
    there = length > 0
    value, length = value[there].astype(np.int64), length[there].astype(np.int64)
    return Runs(np.cumsum(length) - length, value, int(length.sum()))


def evenly(runs: "Runs | Int[np.ndarray, ' n']", most: int) -> Int[np.ndarray, " fewer"]:
    """At most so many of a sequence, evenly spread; an array that is no longer stays as it is."""
    if isinstance(runs, np.ndarray) and len(runs) <= most:
        return runs
    return runs[np.linspace(0, len(runs) - 1, min(most, len(runs))).astype(np.int64)]
