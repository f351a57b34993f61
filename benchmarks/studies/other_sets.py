"""How does a table fare that neither the paper nor our search has seen?

    pip install --no-deps vega_datasets pmdarima
    python benchmarks/studies/other_sets.py [--budget=10m]

Two real sets that public packages carry, as a user would give them: the path, and that trading days
are to count as one step each. Scores are against held-out rows, with their floor.

- weather: Seattle 2012 to 2015, daily precipitation, temperatures, wind and a category
  (vega_datasets; NOAA).
- msft: Microsoft's daily prices and volume, 1986 to 2017 (pmdarima; Kaggle).
"""

import argparse
import csv
import importlib.util
import io
import logging
import pathlib
import tarfile
from collections.abc import Iterator

from study import Row, bars, folder, summary, write

from timeldm_jax import TimeLDM

QUESTION = __doc__.splitlines()[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--budget", default="10m")
    budget = parser.parse_args().budget
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rows: list[Row] = []
    for name, text, irregular in tables():
        workdir = folder("other_sets", name)
        workdir.mkdir(parents=True)
        path = pathlib.Path(workdir) / f"{name}.csv"
        path.write_text(text)
        model = TimeLDM(budget=budget)
        model.fit(str(path), irregular=irregular, workdir=str(workdir / "run"))
        scores = model.evaluate()
        found = scores["memorisation"]["share_closer_to_training"]
        size = {"rows": text.count("\n") - 1, "columns": len(model.columns), "budget": budget}
        rows.append({"label": name, **size, "closer to training": found} | summary(scores))
        model.report(str(workdir / "report.html"))
        write("other_sets", QUESTION, rows, lambda axes: bars(axes, rows))


def tables() -> Iterator[tuple[str, str, str]]:
    """Names, CSV text and `irregular`. The packages are found, not imported: that is heavy."""
    weather = package("vega_datasets") / "_data" / "seattle-weather.csv"
    yield "weather", weather.read_text(), "error"
    archive = package("pmdarima") / "datasets" / "data" / "msft.tar.gz"
    with tarfile.open(archive) as tar:
        member = next(entry for entry in tar if entry.isfile())
        content = tar.extractfile(member)
        assert content is not None
        lines = list(csv.reader(io.TextIOWrapper(content)))
    out = io.StringIO()
    csv.writer(out).writerows(lines)
    yield "msft", out.getvalue(), "sort"


def package(name: str) -> pathlib.Path:
    """The folder of an installed package."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed: pip install --no-deps {name}")
    return pathlib.Path(spec.submodule_search_locations[0])


if __name__ == "__main__":
    main()
