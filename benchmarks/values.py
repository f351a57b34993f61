"""Do columns that are hard to learn come out as they were? Two made-up tables, one training each.

    python benchmarks/values.py --budget=3m --out=values.json

Prints what is asked of each column: of the data, of 50,000 windows of samples, of cells that were
emptied and completed, and of the end of forecasts. It uses the public interface alone, so it runs
on an older commit too, with `PYTHONPATH` its checkout. Costs two budgets and about three minutes.
"""

import argparse
import json
import time

import numpy as np
import pandas as pd

from timeldm_jax import TimeLDM

SAMPLES = 50_000  # windows: spikes are one row in 10,000


def smooth(random: np.random.Generator, rows: int, keep: float = 0.9) -> np.ndarray:
    """A series that forgets a tenth a step, of deviation 1."""
    x = np.zeros(rows)
    for t in range(1, rows):
        x[t] = keep * x[t - 1] + (1 - keep**2) ** 0.5 * random.normal()
    return x


def values_table(random: np.random.Generator, rows: int = 4_000) -> pd.DataFrame:
    """One oddity a column."""
    outlier = 20 + 2.3 * smooth(random, rows)
    outlier[rows // 2 - 300] = 9_999
    wet = smooth(random, rows) > 0.58
    return pd.DataFrame(
        {
            "outlier": outlier.round(3),
            "rain": np.where(wet, random.gamma(1.5, 4.0, rows), 0).round(2),
            "modes": np.where(smooth(random, rows) < -0.25, 10, 40)
            + random.normal(size=rows).round(3),
            "codes": random.choice([10, 20, 40], rows, p=[0.2, 0.5, 0.3]),
            "counts": random.poisson(3.0, rows),
            "lognormal": np.exp(1.5 * smooth(random, rows)).round(3),
        }
    )


def eeg_table(random: np.random.Generator, rows: int = 14_980) -> pd.DataFrame:
    """Four channels at 128 a second, with a spike or two of a thousand deviations each."""
    common = smooth(random, rows)
    table = {}
    for i, spikes in enumerate(([309_231], [715_897, 1_300.0], [642_564, 362_564], [])):
        x = 4_200 + 40 * i + 25 * (0.6 * common + 0.8 * smooth(random, rows))
        for spike in spikes:
            x[random.integers(rows // 3, rows // 2)] = spike
        table[f"channel {i}"] = x.round(2)
    return pd.DataFrame(table)


def questions(name: str, x: np.ndarray) -> dict[str, float]:
    """What is asked of a column."""
    share = {
        "outlier": {"deviation": x.std(), "share of 9999": (x > 9_000).mean(),
                    "share between": ((x > 100) & (x < 9_000)).mean()},
        "rain": {"share of zeros": (x == 0).mean(), "quantile .99": np.quantile(x, 0.99)},
        "modes": {"share between": ((x > 16) & (x < 34)).mean(), "share low": (x < 25).mean()},
        "codes": {"share of codes": np.isin(x, (10, 20, 40)).mean(),
                  "share of 20": (x == 20).mean()},
        "counts": {"share of 0": (x == 0).mean(), "share of 3": (x == 3).mean(),
                   "share of 7 and more": (x >= 7).mean()},
        "lognormal": {"median": np.median(x), "quantile .99": np.quantile(x, 0.99),
                      "quantile .999": np.quantile(x, 0.999)},
    }  # fmt: skip
    found = share.get(name, {"deviation": x.std(), "median": np.median(x),
                             "quantile .99": np.quantile(x, 0.99)})  # fmt: skip
    return {key: float(value) for key, value in found.items()}


def main() -> None:
    """Trains both, and prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--budget", default="3m")
    parser.add_argument("--out", default="")
    args = parser.parse_args()
    found = []
    for title, table in (("values", values_table), ("eeg", eeg_table)):
        frame = table(np.random.default_rng(0))
        began = time.monotonic()
        model = TimeLDM(budget=args.budget).fit(frame)
        trained = time.monotonic()
        model.sample(1)
        first = time.monotonic()
        samples = model.sample(SAMPLES)
        hidden = frame.astype(float).mask(np.random.default_rng(1).random(frame.shape) < 0.2)
        filled = model.impute(hidden[:2_000])
        gaps = hidden[:2_000].isna()
        future = model.forecast(frame.tail(24), 24, n=200)
        far = future.samples.groupby("series").tail(4)  # of which the history says little
        print(f"{title}: trained in {trained - began:.0f} s, first sample {first - trained:.1f} s")
        for name in frame:
            rows = {
                "data": frame[name].to_numpy(float),
                "samples": samples[name].to_numpy(float),
                "completed": filled[name].to_numpy(float)[gaps[name].to_numpy()],
                "forecast": far[name].to_numpy(float),
            }
            asked = {of: questions(name, x) for of, x in rows.items()}
            for question in asked["data"]:
                line = {of: answers[question] for of, answers in asked.items()}
                found.append({"table": title, "column": name, "of": question, **line})
                print(f"{name:12} {question:22}", *(f"{of} {v:.6g}" for of, v in line.items()))
    if args.out:
        with open(args.out, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
