"""The raw data of the six benchmark sets: two simulators and four public files.

Everything here is exact: a simulator is a pure function of its seed, and a file is used only if its
SHA-256 is the known one, so that two people who compare scores compare them on the same numbers.
"""

import csv
import dataclasses
import hashlib
import http.client
import importlib.util
import os
import shutil
import sys
import tarfile
import tempfile
import types
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from timeldm_jax.errors import DataError, option

DATA_DIR_VARIABLE = "TIMELDM_DATA_DIR"
DOWNLOAD_TIMEOUT_S = 30.0

SINES_COLUMNS = tuple(f"sine_{i}" for i in range(5))
# The state of dm_control's planar hopper: three root coordinates, four hinges, and their rates.
HOPPER_JOINTS = ("rootx", "rootz", "rooty", "waist", "hip", "knee", "ankle")
HOPPER_COLUMNS = tuple(f"{kind}_{joint}" for kind in ("pos", "vel") for joint in HOPPER_JOINTS)


@dataclasses.dataclass(frozen=True)
class FileSpec:
    """What a public data file must be, and where to get it.

    Attributes:
      name: name of the data set.
      filename: name of the file, in a data folder or inside an archive.
      sha256: hash that the file must have, 64 hexadecimal digits.
      urls: public addresses, tried in order; a `.tar.gz` holds the file as a member.
      columns: names of the features, in order.
      rows: number of time steps.
      drop: columns of the file that are not features.
      key: variable to read from a MAT file; unused for CSV.
    """

    name: str
    filename: str
    sha256: str
    urls: tuple[str, ...]
    columns: tuple[str, ...]
    rows: int
    drop: tuple[str, ...] = ()
    key: str = ""


FILES = {
    spec.name: spec
    for spec in (
        FileSpec(
            name="stocks",
            filename="stock_data.csv",
            sha256="134b8a00eb4eefa3242dd7ae85144082da80dedf75a1a656d5d08f97cd95277a",
            urls=(
                "https://raw.githubusercontent.com/jsyoon0823/TimeGAN/master/data/stock_data.csv",
            ),
            columns=("Open", "High", "Low", "Close", "Adj_Close", "Volume"),
            rows=3685,
        ),
        FileSpec(
            name="etth",
            filename="ETTh1.csv",
            sha256="f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
            urls=(
                "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv",
            ),
            columns=("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"),
            rows=17420,
            drop=("date",),
        ),
        FileSpec(
            name="fmri",
            filename="sim4.mat",
            sha256="ea9e41cf9aceb00bbb887e11a447ba9965401c20557507ca914e20521e67a0b8",
            urls=("https://www.fmrib.ox.ac.uk/datasets/netsim/sims.tar.gz",),
            columns=tuple(f"node_{i:02d}" for i in range(50)),
            rows=10000,
            key="ts",
        ),
        # We could not reach this file to compute its hash: it is the one that several unrelated
        # public projects record for UCI's file. The shape is checked after reading, as for all.
        FileSpec(
            name="energy",
            filename="energydata_complete.csv",
            sha256="2820bf712ad0275cb18b85a05250926100d8e65ebb9f4d2d016ca91ea152a25d",
            urls=(
                "https://archive.ics.uci.edu/ml/machine-learning-databases/00374/"
                "energydata_complete.csv",
                "https://raw.githubusercontent.com/LuisM78/Appliances-energy-prediction-data/"
                "master/energydata_complete.csv",
            ),
            columns=(
                "Appliances",
                "lights",
                *(f"{kind}{i}" for i in range(1, 10) for kind in ("T", "RH_")),
                "T_out",
                "Press_mm_hg",
                "RH_out",
                "Windspeed",
                "Visibility",
                "Tdewpoint",
                "rv1",
                "rv2",
            ),
            rows=19735,
            drop=("date",),
        ),
    )
}


# Simulated sets.


def simulate_sines(count: int, window: int, seed: int) -> Float[np.ndarray, "count window 5"]:
    """Sine waves of random frequency and phase, mapped to [0, 1].

    Each window and feature draws its own frequency (radians a step) and phase (radians) from
    U(0, 0.1).

    Returns:
      `(count, window, 5)` float64: `(sin(f * t + p) + 1) / 2` at `t = 0 ... window - 1`.
    """
    generator = np.random.default_rng(seed)
    frequency, phase = generator.uniform(0.0, 0.1, size=(2, count, 1, len(SINES_COLUMNS)))
    time = np.arange(window)[:, None]
    return (np.sin(frequency * time + phase) + 1.0) / 2.0


def simulate_hopper(count: int, window: int, seed: int) -> Float[np.ndarray, "count window 14"]:
    """Passive falls of dm_control's hopper (`stand`) from random states.

    The published recipe, bit for bit, seed 123 giving the published set: `qpos[:2] ~ U(0, 0.5)`,
    `qpos[2:] ~ U(-2, 2)`, `qvel ~ U(-5, 5)`, then `window` times record the state and step. It runs
    on the MuJoCo bindings with dm_control's model file, which is several times faster than through
    dm_control's wrapper.

    Returns:
      `(count, window, 14)` float64: `qpos` (7; metres, radians) and `qvel` (7; per second), every
      0.005 s.

    Raises:
      DataError: mujoco or dm_control is not installed, or a trajectory diverged.
    """
    mujoco, model_file = _import_mujoco()
    model = mujoco.MjModel.from_xml_path(str(model_file))
    data = mujoco.MjData(model)
    joints = len(HOPPER_JOINTS)
    # One broadcast call draws in row order: the stream of the recipe's three calls a trajectory.
    low = np.repeat([0.0, -2.0, -5.0], [2, joints - 2, joints])
    high = np.repeat([0.5, 2.0, 5.0], [2, joints - 2, joints])
    initial = np.random.RandomState(seed).uniform(low, high, size=(count, 2 * joints))

    no_actuation = mujoco.mjtDisableBit.mjDSBL_ACTUATION.value
    diverged = [
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
    ]
    states = np.empty((count, window, 2 * joints))
    for start, trajectory in zip(initial, states, strict=True):
        # What `physics.reset_context()` does. The first `mj_forward` matters: it leaves the
        # warm start from which the solver of the second one begins.
        mujoco.mj_resetData(model, data)
        model.opt.disableflags |= no_actuation
        mujoco.mj_forward(model, data)
        data.qpos[:] = start[:joints]
        data.qvel[:] = start[joints:]
        mujoco.mj_forward(model, data)
        model.opt.disableflags &= ~no_actuation
        for state in trajectory:
            state[:joints] = data.qpos
            state[joints:] = data.qvel
            # dm_control's step: finish the step that is half done, then begin the next.
            mujoco.mj_step2(model, data)
            mujoco.mj_step1(model, data)
        if any(data.warning[kind].number for kind in diverged):
            raise DataError(
                f"a hopper trajectory of seed {seed} diverged (mujoco {mujoco.__version__}); "
                "use mujoco 3 and the seeds of timeldm_jax.data.builders"
            )
    return states


def _import_mujoco() -> tuple[types.ModuleType, Path]:
    """The mujoco module and the path of dm_control's hopper model.

    dm_control itself is not imported: only its model file is needed.

    Raises:
      DataError: one of the two packages is missing.
    """
    os.environ.setdefault("MUJOCO_GL", "disable")  # or the import looks for a display
    try:
        import mujoco
    except ImportError:
        mujoco = None
    package = importlib.util.find_spec("dm_control")
    if mujoco is None or package is None or not package.submodule_search_locations:
        missing = "mujoco" if mujoco is None else "dm_control"
        raise DataError(
            f"the data set 'mujoco' is simulated, and the package {missing} is not installed; "
            "run: pip install 'timeldm_jax[mujoco]'"
        )
    return mujoco, Path(package.submodule_search_locations[0]) / "suite" / "hopper.xml"


# Public files.


def find_file(spec: FileSpec, data_dir: str | None, download_dir: str | Path) -> Path:
    """The verified file of `spec`: from the data folder, an earlier download, or a new one.

    Args:
      spec: the file wanted.
      data_dir: folder with the user's own copies; None for that of `TIMELDM_DATA_DIR`, if set.
      download_dir: folder for downloads, made when needed.

    Raises:
      DataError: see `local_file`; or the file is nowhere and cannot be downloaded.
    """
    path = local_file(spec, data_dir, download_dir)
    return _download(spec, data_dir, Path(download_dir)) if path is None else path


def local_file(spec: FileSpec, data_dir: str | None, download_dir: str | Path) -> Path | None:
    """As `find_file`, but None where the file is in neither folder; downloads nothing.

    Raises:
      DataError: the data folder does not exist, or a file has another hash than it must.
    """
    for folder in _folders(data_dir, download_dir):
        path = folder / spec.filename
        if path.is_file():
            found = sha256_of(path)
            if found != spec.sha256:
                raise DataError(
                    f"{path} is not the file of data set {spec.name!r}: its SHA-256 is\n"
                    f"  {found}, and must be\n  {spec.sha256}.\n"
                    f"Delete it to have it downloaded from {spec.urls[0]}, or put the right file "
                    "in its place"
                )
            return path
    return None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folders(data_dir: str | None, download_dir: str | Path) -> tuple[Path, ...]:
    """The folders to look in, in order."""
    data_dir = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if not data_dir:
        return (Path(download_dir),)
    if not Path(data_dir).is_dir():
        raise DataError(
            f"the data folder {Path(data_dir).absolute()} does not exist; correct "
            f"{option('dir')} or {DATA_DIR_VARIABLE}, or unset both to have the data downloaded"
        )
    return Path(data_dir), Path(download_dir)


def _download(spec: FileSpec, data_dir: str | None, download_dir: Path) -> Path:
    """Fetches and verifies a file, and only then gives it its name in `download_dir`."""
    failures = []
    for url in spec.urls:
        print(f"downloading {spec.filename} from {url}", file=sys.stderr, flush=True)
        try:
            download_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=download_dir, prefix=".download-") as temporary:
                fetched = _fetch(url, spec.filename, Path(temporary))
                found = sha256_of(fetched)
                if found == spec.sha256:
                    return fetched.replace(download_dir / spec.filename)
                failures.append(f"{url}: the file there has SHA-256 {found}")
        except (OSError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error) as e:
            failures.append(f"{url}: {type(e).__name__}: {e}")
    folders = _folders(data_dir, download_dir)
    raise DataError(
        f"{spec.filename} of data set {spec.name!r} is not in {' or '.join(map(str, folders))}, "
        "and was not downloaded:\n  " + "\n  ".join(failures) + "\n"
        f"Get the file by hand and put it in {folders[0].absolute()}, or in a folder of your own "
        f"that {option('dir')} or {DATA_DIR_VARIABLE} names. Its SHA-256 must be\n  {spec.sha256}"
    )


def _fetch(url: str, filename: str, folder: Path) -> Path:
    """The file at `url`, or the member `filename` of the archive there, saved in `folder`."""
    path = folder / filename
    request = urllib.request.Request(url, headers={"User-Agent": "timeldm_jax"})
    with urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT_S) as response:
        if not url.endswith(".tar.gz"):
            with path.open("wb") as out:
                shutil.copyfileobj(response, out)
            return path
        # Read as a stream: of a large archive only one small member is kept.
        with tarfile.open(fileobj=response, mode="r|gz") as archive:
            for member in archive:
                if Path(member.name).name == filename and (source := archive.extractfile(member)):
                    with path.open("wb") as out:
                        shutil.copyfileobj(source, out)
                    return path
    raise FileNotFoundError(f"the archive has no member {filename}")


# Tables.


def read_file(spec: FileSpec, path: Path) -> Float[np.ndarray, "rows feature"]:
    """The table of a public file, `(rows, features)` float64.

    Raises:
      DataError: see `read_table` and `read_mat`; or another shape than `spec` says.
    """
    if path.suffix == ".mat":
        values = read_mat(path, spec.key)
    else:
        values = read_table(path, spec.columns, spec.drop)
    expected = (spec.rows, len(spec.columns))
    if values.shape != expected:
        raise DataError(
            f"{path} holds {values.shape[0]} rows of {values.shape[1]} columns, and data set "
            f"{spec.name!r} has {expected[0]} of {expected[1]}; delete the file and get it anew"
        )
    return values


def read_table(
    path: Path, columns: Sequence[str], drop: Sequence[str] = ()
) -> Float[np.ndarray, "rows feature"]:
    """Numeric columns of a CSV file with a header line.

    Args:
      path: the file.
      columns: the columns to read, in the order wanted.
      drop: columns of the file to leave out. Any other column is an error, since a file with
        columns that nobody expects is seldom the right file.

    Returns:
      `(rows, features)` float64, each the double nearest to the decimal in the file.

    Raises:
      DataError: no such file; not a CSV table; no rows; a column missing, unexpected or there
        twice; a line of another length; a cell that is empty, not a number, or not finite.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header, columns, drop)
            places = [header.index(name) for name in columns]
            cells, lines = [], []
            for row in reader:
                if row and len(row) != len(header):
                    raise DataError(
                        f"{path}, line {reader.line_num} has {len(row)} cells, and the header "
                        f"line has {len(header)}; fix or remove the line"
                    )
                if row:  # blank lines say nothing
                    cells.append([row[place] for place in places])
                    lines.append(reader.line_num)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"{path} cannot be read as a CSV table: {e}") from e
    if not cells:
        raise DataError(f"{path} has a header line and no rows")
    try:
        values = np.array(cells, dtype=np.float64)
    except ValueError:
        values = np.array([[_to_float(cell) for cell in row] for row in cells])
    wrong = np.argwhere(~np.isfinite(values))
    if wrong.size:
        row, column = wrong[0]
        cell = cells[row][column]
        raise DataError(
            f"{path}, line {lines[row]}, column {columns[column]!r} "
            f"{f'holds {cell!r}, which is not a finite number' if cell.strip() else 'is empty'}; "
            "fix the value or remove the line"
        )
    return values


def _check_header(
    path: Path, header: Sequence[str], columns: Sequence[str], drop: Sequence[str]
) -> None:
    """Raises DataError unless the header has `columns`, once each, and else only `drop`."""
    if not any(header):
        raise DataError(f"{path} is empty; it needs a header line and rows of numbers")
    missing = [name for name in columns if name not in header]
    extra = [name for name in header if name not in columns and name not in drop]
    twice = [name for name in columns if header.count(name) > 1]
    for names, fault in ((missing, "has no"), (extra, "has an unexpected"), (twice, "has twice a")):
        if names:
            raise DataError(
                f"{path} {fault} column {', '.join(map(repr, names))}; its header line is "
                f"{','.join(header)} and must have {','.join(columns)}"
            )


def _to_float(cell: str) -> float:
    """The number in a cell, or NaN."""
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def read_mat(path: Path, key: str) -> Float[np.ndarray, "rows feature"]:
    """One real matrix of a MATLAB file (version 4 to 7.2), `(rows, features)` float64.

    Raises:
      DataError: no such file; not a MAT file; no such variable; not a real matrix with rows; a
        value that is not finite.
    """
    import scipy.io

    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        content = scipy.io.loadmat(path)
    except Exception as e:  # on a damaged file loadmat raises anything, TypeError included
        raise DataError(f"{path} cannot be read as a MAT file: {type(e).__name__}: {e}") from e
    if key not in content:
        names = ", ".join(repr(k) for k in content if not k.startswith("__"))
        raise DataError(f"{path} has no variable {key!r}; it has {names or 'none'}")
    values = content[key]
    if values.ndim != 2 or values.dtype.kind not in "fiu" or values.size == 0:
        raise DataError(
            f"{path}, variable {key!r} is {values.dtype} of shape {values.shape}; "
            "it must be a matrix of real numbers, rows x features"
        )
    values = values.astype(np.float64, order="C")  # MATLAB stores columns first
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise DataError(
            f"{path}, variable {key!r}, row {row + 1}, column {column + 1} holds "
            f"{values[row, column]}, which is not finite; fix the value or remove the row"
        )
    return values
