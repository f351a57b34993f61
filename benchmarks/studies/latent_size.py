"""How wide a latent does a time step need?

python benchmarks/studies/latent_size.py [--set=etth]
"""

import argparse
import logging

from study import Row, curves, short, whole_run, write

SIZES = (2, 4, 7, 16, 32, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", default="etth")
    name = parser.parse_args().set
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rows: list[Row] = []
    for size in SIZES:
        config = short(name, vae__model__latent=size)
        rows.append({"m": size} | whole_run("latent_size", f"m = {size}", config))
        write("latent_size", __doc__.splitlines()[0], rows, lambda axes: curves(axes, rows, "m"))


if __name__ == "__main__":
    main()
