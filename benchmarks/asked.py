"""Is what samples are asked for obeyed? Made-up tables whose answers are known, one training each.

    python benchmarks/asked.py --budget=4m --out=asked.json

- labels: a panel whose label decides level, spread and rhythm. A classifier that learnt real series
  says which label samples have that were asked for it, beside real series that it has not seen.
- overlapping: the same of labels whose levels overlap, and how that and the spread of what is drawn
  change with `guidance`.
- hours: hourly rows that follow the time of day. Means of samples by stamped hour, and by strength
  what is drawn for one that is asked for.
- ahead: a load that a switch drives by a known size. The effect in forecasts that are given the
  switch's future.
- rules: prices, a volume in two parts and a meter. Rows of samples that break a rule.
- events: rows at uneven times, the sooner the higher a load is and the nearer noon; a city has its
  country. What lies between rows, beside the same of rows that nobody learnt.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier

from timeldm_jax import TimeLDM

STRENGTHS = (1.0, 1.5, 2.0, 3.0)
LABELS = {"calm": (0.0, 0.3, 12), "wild": (5.0, 2.0, 12), "fast": (0.0, 0.3, 5)}
OVERLAPPING = {"low": (-1.0, 0.3, 12), "mid": (0.0, 0.3, 12), "high": (1.0, 0.3, 12)}
RULES = ["low <= open <= high", "low <= close <= high", "volume = bought + sold",
         "meter never falls"]  # fmt: skip


def panel(
    random: np.random.Generator,
    series: int = 150,
    rows: int = 120,
    kinds: dict[str, tuple[float, float, int]] = LABELS,
    between: float = 0.0,
) -> pd.DataFrame:
    """Series of a label: a level, noise of a deviation, and a wave of a period.

    Levels of the series of a label lie apart with the deviation `between`.
    """
    parts = []
    for i in range(series):
        label = list(kinds)[i % 3]
        level, deviation, period = kinds[label]
        level += between * random.normal() if between else 0.0
        turns = np.arange(rows) / period + random.random()
        x = level + 2 * np.sin(2 * np.pi * turns) + deviation * random.normal(size=rows)
        hours = pd.date_range("2024-01-01", periods=rows, freq="h")
        known = {"id": f"p{i:03d}", "label": label, "age": int(random.integers(20, 80))}
        parts.append(pd.DataFrame({"t": hours, **known, "x": x.round(3)}))
    return pd.concat(parts, ignore_index=True)


def windows_of(frame: pd.DataFrame, by: str, length: int) -> np.ndarray:
    """Windows `(n, length)` of `x`, one after the other in each series."""
    found = []
    for _, series in frame.groupby(by):
        x = series["x"].to_numpy()
        found += [x[i : i + length] for i in range(0, len(x) - length + 1, length)]
    return np.array(found)


def described(windows: np.ndarray) -> np.ndarray:
    """Level, spread and power of each window, whatever its phase."""
    centred = windows - windows.mean(axis=1, keepdims=True)
    power = np.abs(np.fft.rfft(centred, axis=1)) ** 2
    return np.column_stack([windows.mean(axis=1), windows.std(axis=1), np.log(power + 1e-6)])


def labels(budget: str) -> dict[str, Any]:
    """How often a classifier finds the label again."""
    random = np.random.default_rng(0)
    frame, unseen = panel(random), panel(random, 60)
    model = TimeLDM(budget=budget).fit(frame, entity="id", split="entity")
    length = model.generator.models.vae.window
    sets = {name: (frame[frame.label == name], unseen[unseen.label == name]) for name in LABELS}
    known = {name: described(windows_of(one, "id", length)) for name, (one, _) in sets.items()}
    judge = HistGradientBoostingClassifier(random_state=0).fit(
        np.concatenate(list(known.values())),
        np.repeat(list(known), [len(w) for w in known.values()]),
    )
    found: dict[str, Any] = {"window": length}
    for name, (_, other) in sets.items():
        real = described(windows_of(other, "id", length))
        asked = model.sample(1_000, given={"label": name})
        drawn = windows_of(asked, "series", length)
        found[name] = {
            "recovered, real": float((judge.predict(real) == name).mean()),
            "recovered, asked for": float((judge.predict(described(drawn)) == name).mean()),
            "mean and deviation, real": [float(other.x.mean()), float(other.x.std())],
            "mean and deviation, asked for": [float(drawn.mean()), float(drawn.std())],
        }
    free = model.sample(2_000)
    first = free.groupby("series")[["label", "age"]]
    found["static columns that vary in a sample"] = int((first.nunique() > 1).sum().sum())
    found["share of each label"] = (
        free.drop_duplicates("series").label.value_counts(normalize=True).to_dict()
    )
    return found


def overlapping(budget: str) -> dict[str, Any]:
    """What strength does to recovery and spread, where a level does not tell a label for sure.

    Spreads are over windows of a label, as shares of those of series that were not seen.
    """
    random = np.random.default_rng(4)
    options: dict[str, Any] = {"kinds": OVERLAPPING, "between": 1.0}
    frame, unseen = panel(random, 300, **options), panel(random, 300, **options)
    model = TimeLDM(budget=budget).fit(frame, entity="id", split="entity")
    length = model.generator.models.vae.window
    known, real = (
        {n: described(windows_of(each[each.label == n], "id", length)) for n in OVERLAPPING}
        for each in (frame, unseen)
    )
    judge = HistGradientBoostingClassifier(random_state=0).fit(
        np.concatenate(list(known.values())),
        np.repeat(list(known), [len(w) for w in known.values()]),
    )

    def compared(sets: dict[str, np.ndarray]) -> dict[str, Any]:
        shares = [(judge.predict(sets[name]) == name).mean() for name in OVERLAPPING]
        ratios = np.mean([sets[n].std(axis=0) / real[n].std(axis=0) for n in OVERLAPPING], axis=0)
        return {
            "recovered": float(np.mean(shares)),
            "levels": [float(sets[name][:, 0].mean()) for name in OVERLAPPING],
            "spread of levels": float(ratios[0]),
            "spread of deviations": float(ratios[1]),
            "spread of log power": float(ratios[2:].mean()),
        }

    found = {"not seen": compared(real)}
    for strength in STRENGTHS:
        drawn = {
            name: model.sample(1_000, given={"label": name}, guidance=strength)
            for name in OVERLAPPING
        }
        found[str(strength)] = compared(
            {name: described(windows_of(w, "series", length)) for name, w in drawn.items()}
        )
    return found


def hours(budget: str) -> dict[str, Any]:
    """The profile of the day by stamped hour."""
    random = np.random.default_rng(1)
    times = pd.date_range("2023-01-01", periods=4_000, freq="h")
    wave = np.sin(2 * np.pi * times.hour / 24)
    frame = pd.DataFrame({"time": times, "x": (wave + 0.2 * random.normal(size=4_000)).round(3)})
    model = TimeLDM(budget=budget).fit(frame)
    samples = model.sample(4_000)
    by_hour = samples.groupby(samples.time.dt.hour).x.mean()
    expected = np.sin(2 * np.pi * np.arange(24) / 24)
    at_six = {}
    for strength in STRENGTHS:
        asked = model.sample(500, start="2023-02-01 06:00", guidance=strength)
        first = asked.groupby("series").x.first()
        at_six[str(strength)] = [float(first.mean()), float(first.std())]
    return {
        "largest error of the profile": float(np.abs(by_hour - expected).max()),
        "mean and deviation at six, by strength": at_six,
        "and as they are": [1.0, 0.2],
    }


def ahead(budget: str) -> dict[str, Any]:
    """The effect of a switch whose future is given."""
    random = np.random.default_rng(2)
    rows = 4_000
    switch = np.repeat(random.integers(0, 2, rows // 8), 8)
    load = np.zeros(rows)
    for t in range(1, rows):
        load[t] = 0.5 * load[t - 1] + 1.5 * switch[t] + 0.3 * random.normal()
    times = pd.date_range("2023-01-01", periods=rows, freq="h")
    frame = pd.DataFrame({"time": times, "switch": switch > 0, "load": load.round(3)})
    model = TimeLDM(budget=budget).fit(frame.head(3_500))
    effects = []
    for end in range(3_500, 3_900, 40):
        means = []
        for on in (True, False):
            known = pd.DataFrame({"switch": [on] * 12})
            future = model.forecast(frame.iloc[end - 48 : end], 12, n=50, known=known).samples
            means.append(future.groupby("series").load.last().mean())
        effects.append(means[0] - means[1])
    return {"effect after 12 rows": float(np.mean(effects)), "true": 3 * (1 - 0.5**12)}


def bars(budget: str) -> dict[str, Any]:
    """Rows that break a rule, of a million."""
    random = np.random.default_rng(3)
    rows = 4_000
    price = 50 + random.normal(size=rows).cumsum() / 4
    opening, closing = price + random.normal(size=(2, rows)) / 4
    bought, sold = random.poisson(9, (2, rows))
    frame = pd.DataFrame(
        {
            "day": pd.date_range("2010-01-01", periods=rows),
            "open": opening.round(2),
            "high": (np.maximum(opening, closing) + random.exponential(size=rows) / 4).round(2),
            "low": (np.minimum(opening, closing) - random.exponential(size=rows) / 4).round(2),
            "close": closing.round(2),
            "volume": bought + sold,
            "bought": bought,
            "sold": sold,
            "meter": random.exponential(size=rows).cumsum().round(1),
        }
    )
    model = TimeLDM(budget=budget).fit(frame, schema={"rules": RULES})
    count = -(-1_000_000 // model.generator.models.vae.window)
    samples = model.sample(count)
    rises = samples.groupby("series").meter.diff().dropna()
    real = frame.meter.diff().dropna()
    levels = np.linspace(0.05, 0.95, 19)
    return {
        "rows": len(samples),
        "low above open or close": int(
            (samples.low > samples[["open", "close"]].min(axis=1)).sum()
        ),
        "high below them": int((samples.high < samples[["open", "close"]].max(axis=1)).sum()),
        "sums that are none": int((samples.volume != samples.bought + samples.sold).sum()),
        "meters that fall": int((rises < 0).sum()),
        "increments of the meter, mean": [float(real.mean()), float(rises.mean())],
        "largest error of their quantiles": float(
            np.abs(np.quantile(real, levels) - np.quantile(rises, levels)).max()
        ),
        "high above open and close, mean": [
            float((each.high - each[["open", "close"]].max(axis=1)).mean())
            for each in (frame, samples)
        ],
    }


CITIES = {"Paris": "FR", "Lyon": "FR", "Rome": "IT", "Turin": "IT", "Oslo": "NO", "Bergen": "NO"}


def happened(seed: int, rows: int = 6_000) -> pd.DataFrame:
    """Rows at uneven times, and where they are."""
    random = np.random.default_rng(seed)
    load = np.zeros(rows)
    times = np.zeros(rows)
    for t in range(1, rows):
        load[t] = 0.8 * load[t - 1] + 0.6 * random.normal()
        noon = np.cos(2 * np.pi * (times[t - 1] / 86_400 - 0.5))
        gap = np.exp(6 - load[t] - 0.7 * noon + 0.3 * random.normal())
        times[t] = times[t - 1] + max(np.round(gap), 1)
    city = random.choice(list(CITIES), rows, p=[0.4, 0.05, 0.2, 0.15, 0.15, 0.05])
    at = pd.Timestamp("2024-01-01") + pd.to_timedelta(times, unit="s")
    country = [CITIES[name] for name in city]
    return pd.DataFrame({"at": at, "load": load.round(2), "city": city, "country": country})


def between(frame: pd.DataFrame) -> pd.DataFrame:
    """What lies between rows of a series, with the load and hour there."""
    by = frame.groupby("series")
    gap = by["at"].diff().dt.total_seconds()
    hour = by["at"].shift().dt.hour
    whole = frame.assign(gap=gap, hour=hour, before=gap.groupby(frame["series"]).shift())
    return whole.dropna()


def events(budget: str) -> dict[str, Any]:
    """Gaps between rows: quantiles, distances, and what they have to do with other things."""
    frame, unseen = happened(0), between(happened(1).assign(series=0))
    schema = {"rules": ["city, country as seen"]}
    model = TimeLDM(budget=budget).fit(frame, times="generate", schema=schema)
    samples = model.sample(1_500)
    sets = {
        "training rows": between(frame.assign(series=0)),
        "samples": between(samples),
        "a long series": between(model.sample_series(3_000)),
    }
    levels = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]
    found: dict[str, Any] = {
        "window": model.generator.models.vae.window,
        "times that fall or are alike": int((sets["samples"].gap <= 0).sum()),
        "cities in another country": int((samples.city.map(CITIES) != samples.country).sum()),
        "share of each city, real and sampled": {
            name: [float((each.city == name).mean()) for each in (frame, samples)]
            for name in CITIES
        },
    }
    for name, each in {"unseen rows": unseen, **sets}.items():
        noon = np.cos(2 * np.pi * (each.hour - 12) / 24)
        drivers = np.column_stack([noon, each.load, np.ones(len(each))])
        slopes, left = np.linalg.lstsq(drivers, np.log(each.gap), rcond=None)[:2]
        found[name] = {
            "quantiles of gaps": [float(q) for q in np.quantile(each.gap, levels)],
            "distance of their distribution from unseen rows (KS)": float(
                stats.ks_2samp(each.gap, unseen.gap).statistic
            ),
            "rank correlation with the load": float(stats.spearmanr(each.gap, each.load)[0]),
            "with the gap before": float(stats.spearmanr(each.gap, each.before)[0]),
            "slopes of its logarithm on noon and load (-0.7, -1)": slopes[:2].tolist(),
            "deviation left (0.3)": float(np.sqrt(left[0] / len(each))),
        }
    return found


def main() -> None:
    """Runs what is asked, prints and writes it."""
    parts = {
        "labels": labels,
        "overlapping": overlapping,
        "hours": hours,
        "ahead": ahead,
        "rules": bars,
        "events": events,
    }
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--budget", default="4m")
    parser.add_argument("--only", nargs="*", default=list(parts), choices=list(parts))
    parser.add_argument("--out", default="")
    args = parser.parse_args()
    found: dict[str, Any] = {"budget": args.budget}
    for name in args.only:
        began = time.monotonic()
        found[name] = parts[name](args.budget)
        found[name]["minutes"] = (time.monotonic() - began) / 60
        print(name, json.dumps(found[name], indent=1), flush=True)
    if args.out:
        with open(args.out, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
