"""How wide a latent does a time step need?

python benchmarks/studies/latent_size.py [--set=etth]
"""

from study import Row, chosen_set, curves, short, whole_run, write

SIZES = (2, 4, 7, 16, 32, 64)


def main() -> None:
    name = chosen_set(__doc__.splitlines()[0])
    rows: list[Row] = []
    for size in SIZES:
        config = short(name, vae__model__latent=size)
        rows.append({"m": size} | whole_run("latent_size", f"m = {size}", config))
        write("latent_size", __doc__.splitlines()[0], rows, lambda axes: curves(axes, rows, "m"))


if __name__ == "__main__":
    main()
