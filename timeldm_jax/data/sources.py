"""The four public files of the benchmark: where they are, what they must be, how they are read.

A file is used only if its SHA-256 is the known one, so that two people who compare scores compare
them on the same numbers.
"""

import csv
import dataclasses
import hashlib
import http.client
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from timeldm_jax.errors import DataError, option

DATA_DIR_VARIABLE = "TIMELDM_DATA_DIR"
DOWNLOAD_TIMEOUT_S = 30.0


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
