"""Does adapting β beat a fixed one?

python benchmarks/studies/beta.py [--set=etth]
"""

from study import Row, chosen_set, short, whole_run, write

BETAS = {
    "adaptive, 1e-2 to 3e-5": {},
    "fixed 1e-2": {"maximum": 1e-2, "minimum": 1e-2},
    "fixed 1e-3": {"maximum": 1e-3, "minimum": 1e-3},
    "fixed 1e-5": {"maximum": 1e-5, "minimum": 1e-5},
}


def main() -> None:
    name = chosen_set(__doc__.splitlines()[0])
    rows: list[Row] = []
    for skip in (False, True):
        for label, change in BETAS.items():
            config = short(
                name, vae__model__skip=skip, **{f"vae__beta__{k}": v for k, v in change.items()}
            )
            label = f"{'skips' if skip else 'no skips'}, {label}"
            rows.append(whole_run("beta", label, config))
            write("beta", __doc__.splitlines()[0], rows, None)


if __name__ == "__main__":
    main()
