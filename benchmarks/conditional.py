"""Imputation and forecasts of held-out rows, beside what needs no model.

    python benchmarks/conditional.py --table=ETTh1.csv --season=24
    python benchmarks/conditional.py --table=stock_data.csv --season=1
    python benchmarks/conditional.py --table=ETTh1.csv --season=24 --horizons=24,48,168

Exponential smoothing (AutoETS) is beside it where the extra `forecasts` is installed; `--blind`
trains without the calendar, `--only=forecast` leaves imputation out.

Trains a model of the table with the default settings (or takes the work directory that
`--workdir` names: one of a run, or of an earlier call) and writes
benchmarks/results/conditional_<table>.json. Errors are in units of a column's standard deviation.

Cost model: a completed window costs 30 evaluations of the denoiser and 180 forward and reverse
passes of the decoder; imputation completes a window for every third of a window of rows, a forecast
`samples` windows for every third of a window of the horizon.
"""

import argparse
import importlib.util
import json
import pathlib
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import stats
from scores import RESULTS, ROOT, machine

from timeldm_jax import TimeLDM
from timeldm_jax.data import dataset as datasets
from timeldm_jax.data import reader
from timeldm_jax.data import table as tables
from timeldm_jax.versions import package_versions

MISSING = (0.1, 0.5, 0.9)
DRAWS = 8
ROWS = 1_200  # held-out rows whose values are hidden
ORIGINS = 40
SAMPLES = 50
SMOOTHED = 336  # rows before the origin that exponential smoothing is fitted to
BAND = float(stats.norm.ppf(0.95))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=pathlib.Path, required=True)
    parser.add_argument("--season", type=int, required=True, help="rows; 1: the last value")
    parser.add_argument("--workdir", type=pathlib.Path)
    parser.add_argument("--horizons", default="24", help="rows, as in 24,48,168")
    parser.add_argument("--only", choices=("imputation", "forecast"))
    parser.add_argument("--blind", action="store_true", help="train without the calendar")
    parser.add_argument("--budget", default="10m")
    arguments = parser.parse_args()
    stem = arguments.table.stem + ("_blind" if arguments.blind else "")
    workdir = arguments.workdir or ROOT / "runs" / f"conditional-{stem}"
    if not (workdir / "ldm").exists():
        blank = TimeLDM(budget=arguments.budget)
        if arguments.blind:
            blank._config.ldm.model.context = 0
        blank.fit(str(arguments.table), workdir=str(workdir))
    model = TimeLDM.load(workdir)
    assert model._generator is not None
    config = model._generator.config
    config.data.path = str(arguments.table)
    options = datasets.table_options(config)
    frame, schema = tables.prepare(*reader.read(config.data.path, options.decimal), options)
    series = datasets.from_table(frame, schema, config).series
    columns = [c.name for c in schema.columns if c.kind in ("float", "integer")]
    values = frame[columns].to_numpy(np.float64)
    held_out = runs_of(series.test, series.window)
    trained = np.isin(np.arange(len(values)), np.unique(series.train[:, None] + np.arange(24)))
    scale = values[trained].std(axis=0)
    result = {
        "table": stem,
        "window": series.window,
        "held_out_rows": int(sum(len(rows) for rows in held_out)),
        "minutes": arguments.budget,
        "machine": machine(),
        "versions": package_versions(),
    }
    path = RESULTS / f"conditional_{stem}.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    result |= {key: before[key] for key in ("imputation", "forecasts") if key in before}
    if arguments.only != "forecast":
        result["imputation"] = imputation(model, frame, columns, scale, held_out)
    if arguments.only != "imputation":
        season = arguments.season
        result["forecasts"] = {
            horizon: forecast(model, frame, columns, scale, held_out, trained, season, int(horizon))
            for horizon in arguments.horizons.split(",")
        }
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def runs_of(starts: np.ndarray, window: int) -> list[np.ndarray]:
    """The rows of each held-out block, from the starts of its windows."""
    rows = np.unique(starts[:, None] + np.arange(window))
    return np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)


def crps(
    samples: Float[np.ndarray, "draws *shape"], truth: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """Continuous ranked probability score of an ensemble, the unbiased estimate."""
    draws = len(samples)
    ordered = np.sort(samples, axis=0)
    weight = (2 * np.arange(1, draws + 1) - draws - 1).reshape(-1, *[1] * truth.ndim)
    pairs = (weight * ordered).sum(axis=0) / (draws * (draws - 1))
    return np.abs(samples - truth).mean(axis=0) - pairs


def imputation(
    model: TimeLDM,
    frame: pd.DataFrame,
    columns: list[str],
    scale: np.ndarray,
    blocks: list[np.ndarray],
) -> dict[str, Any]:
    """Errors where values were hidden at random, by the share hidden."""
    rows = np.concatenate(blocks)[:ROWS]
    blocks = [block[np.isin(block, rows)] for block in blocks]
    found = {}
    for share in MISSING:
        errors: dict[str, list[np.ndarray]] = {}
        for number, block in enumerate(block for block in blocks if len(block)):
            part = frame.iloc[block].reset_index(drop=True)
            truth = part[columns].to_numpy(np.float64)
            random = np.random.default_rng((number, round(100 * share)))
            hidden = random.random(truth.shape) < share
            holes = part.copy()
            holes[columns] = np.where(hidden, np.nan, truth)
            draws = np.stack(
                [
                    model.impute(holes, seed=draw)[columns].to_numpy(np.float64)
                    for draw in range(DRAWS)
                ]
            )
            linear = holes[columns].interpolate(limit_direction="both").to_numpy()
            last = holes[columns].ffill().bfill().to_numpy()
            guesses = {
                "median of draws": np.abs(np.median(draws, axis=0) - truth),
                "one draw": np.abs(draws[0] - truth),
                "crps": crps(draws, truth),
                "linear interpolation": np.abs(linear - truth),
                "last value": np.abs(last - truth),
            }
            for name, error in guesses.items():
                errors.setdefault(name, []).append((error / scale)[hidden])
        found[f"{share:.0%}"] = means(errors)
    return found


def forecast(
    model: TimeLDM,
    frame: pd.DataFrame,
    columns: list[str],
    scale: np.ndarray,
    blocks: list[np.ndarray],
    trained: Bool[np.ndarray, " rows"],
    season: int,
    horizon: int,
) -> dict[str, Any]:
    """Errors of futures after held-out rows, over origins spread over the held-out blocks."""
    values = frame[columns].to_numpy(np.float64)
    window = model._generator.models.vae.window if model._generator else 0
    before = max(window, season)
    origins = np.concatenate([block[before : len(block) - horizon + 1] for block in blocks])
    origins = origins[np.linspace(0, len(origins) - 1, ORIGINS).astype(int)]
    # What the naive forecast was wrong by in training, at the same distance.
    ahead = np.arange(horizon)
    lag = season * (1 + ahead // season)
    random = np.random.default_rng(0)
    errors: dict[str, list[np.ndarray]] = {}
    inside: list[np.ndarray] = []
    covered: list[np.ndarray] = []
    for origin in origins:
        truth = values[origin : origin + horizon]
        history = frame.iloc[origin - before : origin].reset_index(drop=True)
        samples = model.forecast(history, horizon, n=SAMPLES, seed=int(origin)).samples
        drawn = samples[columns].to_numpy(np.float64).reshape(SAMPLES, horizon, -1)
        naive = values[origin + ahead - lag]
        places = random.integers(lag.max(), len(values), (20 * SAMPLES, horizon))
        usable = trained[places] & trained[places - lag]
        places = np.take_along_axis(places, np.argsort(~usable, axis=0, kind="stable"), axis=0)
        noise = values[places[:SAMPLES]] - values[places[:SAMPLES] - lag]
        guesses = {
            "median": np.abs(np.median(drawn, axis=0) - truth),
            "crps": crps(drawn, truth),
            "seasonal naive": np.abs(naive - truth),
            "seasonal naive with its errors, crps": crps(naive + noise, truth),
        }
        smoothed = smoothing(values[max(origin - SMOOTHED, 0) : origin], season, horizon)
        if smoothed is not None:
            middle, deviation = smoothed
            guesses["exponential smoothing"] = np.abs(middle - truth)
            guesses["exponential smoothing, crps"] = normal_crps(middle, deviation, truth)
            covered.append(np.abs(truth - middle) <= BAND * deviation)
        for name, error in guesses.items():
            errors.setdefault(name, []).append(error / scale)
        low, high = np.quantile(drawn, (0.05, 0.95), axis=0, method="weibull")
        inside.append((low <= truth) & (truth <= high))
    return {
        "horizon": horizon,
        "season": season,
        "origins": len(origins),
        "errors": means(errors),
        "share inside the 90% band": round(float(np.mean(inside)), 3),
    } | ({"the same of smoothing": round(float(np.mean(covered)), 3)} if covered else {})


def smoothing(
    history: Float[np.ndarray, "rows column"], season: int, horizon: int
) -> tuple[Float[np.ndarray, "horizon column"], Float[np.ndarray, "horizon column"]] | None:
    """Mean and deviation of AutoETS of each column alone; None where it is not installed."""
    if importlib.util.find_spec("statsforecast") is None:
        return None
    from statsforecast.models import AutoETS

    found = []
    for column in history.T:
        model = AutoETS(season_length=season)
        said = model.forecast(column.astype(np.float64), horizon, level=[90])
        found.append((said["mean"], (said["hi-90"] - said["lo-90"]) / (2 * BAND)))
    middle, deviation = (np.stack(part, axis=1) for part in zip(*found, strict=True))
    return middle, deviation


def normal_crps(mean: np.ndarray, deviation: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score of a normal distribution (Gneiting and Raftery 2007)."""
    deviation = np.maximum(deviation, 1e-12)
    z = (truth - mean) / deviation
    return deviation * (
        z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi)
    )


def means(errors: dict[str, list[np.ndarray]]) -> dict[str, float]:
    return {name: round(float(np.mean(np.concatenate(e))), 4) for name, e in errors.items()}


if __name__ == "__main__":
    main()
