"""A run's directory: where each of its files stands, and how a file gets there whole."""

import contextlib
import dataclasses
import datetime
import errno
import json
import os
import pathlib
import shutil
import socket
import tempfile
import weakref
from collections.abc import Iterator
from typing import IO, Any

from etils import epath
from filelock import FileLock, Timeout

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
    def marginals(self) -> epath.Path:
        """How the model's own samples are distributed."""
        return self.root / "marginals.json"

    @property
    def samples(self) -> epath.Path:
        """Synthetic windows."""
        return self.root / "samples.npz"

    @property
    def shards(self) -> epath.Path:
        """The same in a folder of shards, where several processes drew them."""
        return self.root / "samples"

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

    @property
    def lock(self) -> epath.Path:
        """Locked by the run that is going on here."""
        return self.root / ".lock"

    @property
    def holder(self) -> epath.Path:
        """Which run that is; there while it lasts, and after it was killed."""
        return self.root / ".holder.json"

    def stage(self, name: str) -> epath.Path:
        """Checkpoints of the stage `vae` or `ldm`."""
        return self.root / name


class TemporaryFolder:
    """A folder that goes with the last object that holds it: a model, or one of its copies."""

    def __init__(self) -> None:
        """Makes it."""
        self.path = tempfile.mkdtemp(prefix="timeldm-")
        self._removal = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def keep(self) -> None:
        """Leaves it to the user, who was told where it is."""
        self._removal.detach()


@contextlib.contextmanager
def told_where(workdir: Workdir, temporary: TemporaryFolder | None) -> Iterator[None]:
    """On Ctrl-C, keeps what was done, and says where it is and how to go on.

    Raises:
      KeyboardInterrupt: as in the block, with a message.
    """
    try:
        yield
    except KeyboardInterrupt as stopped:
        if not workdir.config.exists():
            raise
        if temporary is not None:
            temporary.keep()
        raise KeyboardInterrupt(
            f"{str(stopped) or 'stopped by Ctrl-C'}; the same call with "
            f"workdir={str(workdir.root)!r} goes on from there"
        ) from None


def absolute(path: str | os.PathLike[str]) -> pathlib.Path:
    """A path that a user gave, from the root on; `~` is the home directory."""
    return pathlib.Path(path).expanduser().absolute()


@contextlib.contextmanager
def only_run(workdir: Workdir) -> Iterator[str]:
    """Keeps a work directory to one run at a time while the block lasts.

    The system frees the lock of a process that was killed. Where nothing can be written there is
    nothing to spoil, and where there are no locks (at an address such as `gs://bucket/run`, on some
    network drives) none is taken.

    Yields:
      Who has the directory instead, or "" where it is this run's.
    """
    if "://" in os.fspath(workdir.root):
        yield ""
        return
    workdir.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(workdir.lock, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield _holder(workdir)
        return
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        yield ""
        return
    try:
        since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        write_json(
            workdir.holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        )
        yield ""
    finally:
        with contextlib.suppress(OSError):
            workdir.holder.unlink(missing_ok=True)
        lock.release()


# No permission, a drive that is read only, or one without locks.
_NO_LOCKS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


def _holder(workdir: Workdir) -> str:
    try:
        held = json.loads(workdir.holder.read_text())
        return f"process {held['pid']} on {held['host']}, since {held['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"


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
        with naming(path):
            with partial.open(mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
            partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def naming(path: epath.Path) -> Iterator[None]:
    """Names the file in an error of the system, which a full disk does not by itself."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


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
