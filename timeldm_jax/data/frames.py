"""Tables of other libraries (Polars, Arrow, whatever narwhals knows), in and out in kind."""

from typing import Any

import pandas as pd

PANDAS = "pandas"
_OURS = (PANDAS, "unknown")


def kind_of(data: Any) -> str:
    """The library that a table or column is of, as narwhals names it; `pandas` for all else."""
    if isinstance(data, pd.DataFrame | pd.Series | type):
        return PANDAS
    import narwhals  # imports slowly

    known = narwhals.from_native(data, pass_through=True, allow_series=True)
    implementation = getattr(known, "implementation", None)
    return PANDAS if implementation is None else str(implementation)


def to_pandas(data: Any) -> pd.DataFrame | pd.Series | None:
    """A table or column of another library as one of pandas, run if lazy; None of all else."""
    if kind_of(data) in _OURS:
        return None
    import narwhals

    known = narwhals.from_native(data, allow_series=True)
    if isinstance(known, narwhals.LazyFrame):
        known = known.collect()
    return known.to_pandas()


def of_kind(frame: pd.DataFrame, kind: str) -> Any:
    """A table as one of a library, from `kind_of`; as it is where that has no tables in memory."""
    if kind in _OURS:
        return frame
    import narwhals
    import pyarrow as pa

    backend: Any = kind
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    if kind == "pyarrow":
        return table
    try:
        return narwhals.from_arrow(table, backend=backend).to_native()
    except ValueError:
        return frame
