"""A run's directory: where each of its files stands, and how a file gets there whole."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from typing import IO, Any

from etils import epath

# Of saved models, in their manifest. 1: folders of checkpoints, before there was a number.
FORMAT = 2


@dataclasses.dataclass(frozen=True)
class Workdir:
    """The paths of a run.

    Attributes:
      root: the directory; local, or at an address such as `gs://bucket/run`.
    """

    root: epath.Path

    @property
    def config(self) -> epath.Path:
        """The configuration that runs."""
        return self.root / "config.json"

    @property
    def request(self) -> epath.Path:
        """The configuration as asked for, where `config` fills in the rest."""
        return self.root / "request.json"

    @property
    def vae(self) -> epath.Path:
        """The VAE's checkpoints."""
        return self.root / "vae"

    @property
    def ldm(self) -> epath.Path:
        """The latent diffusion's checkpoints."""
        return self.root / "ldm"

    @property
    def metrics(self) -> epath.Path:
        """A line of JSON for each record of training."""
        return self.root / "metrics.jsonl"

    @property
    def tensorboard(self) -> epath.Path:
        """The same records as TensorBoard's events."""
        return self.root / "tensorboard"

    @property
    def samples(self) -> epath.Path:
        """Synthetic windows."""
        return self.root / "samples.npz"

    @property
    def table(self) -> epath.Path:
        """The synthetic windows as rows of the table."""
        return self.root / "samples.csv"

    @property
    def scores(self) -> epath.Path:
        """Scores of the synthetic windows."""
        return self.root / "scores.json"

    @property
    def report(self) -> epath.Path:
        """The page; its figures are in a folder `report` beside it."""
        return self.root / "report.html"

    def stage(self, name: str) -> epath.Path:
        """Checkpoints of the stage `vae` or `ldm`."""
        return self.root / name


class TemporaryFolder:
    """A folder that goes with the last object that holds it: a model, or one of its copies."""

    def __init__(self) -> None:
        """Makes it."""
        self.path = tempfile.mkdtemp(prefix="timeldm-")
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def absolute(path: str | os.PathLike[str]) -> pathlib.Path:
    """A path that a user gave, from the root on; `~` is the home directory."""
    return pathlib.Path(path).expanduser().absolute()


@contextlib.contextmanager
def open_atomic(path: epath.Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a file for writing that is at `path` whole, once the block has ended well, or not.

    Args:
      path: the file; what was there before stays until the new one is whole.
      mode: `w` for text in UTF-8, `wb` for bytes.

    Raises:
      OSError: as `open`; nothing is left.
    """
    partial = path.parent / f".{path.name}.partial"
    try:
        with partial.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_text(path: epath.Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with open_atomic(path) as file:
        file.write(text)


def write_bytes(path: epath.Path, content: bytes) -> None:
    """Writes a file, whole or not at all."""
    with open_atomic(path, "wb") as file:
        file.write(content)


def write_json(path: epath.Path, content: Any, *, sort_keys: bool = False) -> None:
    """Writes a file of JSON, whole or not at all."""
    write_text(path, to_json(content, sort_keys=sort_keys))


def to_json(content: Any, *, sort_keys: bool = False) -> str:
    """JSON as all files here have it: a line for each value."""
    return json.dumps(content, indent=1, sort_keys=sort_keys) + "\n"
