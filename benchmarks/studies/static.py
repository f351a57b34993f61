"""Static columns: drawn with the window as its features, or by a small diffusion of their own?

    python benchmarks/studies/static.py

Trains on a made-up panel of 600 patients and compares with 2,000 that are made afresh. Of one
model, samples are drawn in two ways. "features": as the package draws them, static columns and
series together. "own diffusion": static columns by a diffusion over them alone (`StaticModel`),
then the series that they ask for.
"""

import argparse
import functools
import itertools
import json
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jaxtyping import Array, Float
from scipy import stats
from study import RESULTS, Row, folder, machine

from timeldm_jax import TimeLDM
from timeldm_jax.diffusion import edm, samplers
from timeldm_jax.models.denoiser import Denoiser
from timeldm_jax.versions import package_versions

QUESTION = __doc__.splitlines()[0]
WORDS = {"sex": ("F", "M"), "site": ("north", "south", "east", "west")}
NUMBERS = ("age", "weight")
DRAWS = 2_000
NETWORK = Denoiser(hidden=128, blocks=2, gated=True)
STEPS, BATCH, RATE, AVERAGE = 3_000, 128, 2e-3, 0.995
NOISE = (-0.4, 1.7)


class StaticModel(NamedTuple):
    """A diffusion over one vector a series: words as ones and zeros, numbers; all standardised."""

    params: Any
    mean: Float[np.ndarray, " number"]
    scale: Float[np.ndarray, " number"]
    low: Float[np.ndarray, " number"]
    high: Float[np.ndarray, " number"]


def panel(entities: int, seed: int) -> pd.DataFrame:
    """Two days of hours of each patient; level by age and sex, daily swing by site."""
    random = np.random.default_rng(seed)
    sex = random.choice(2, entities, p=(0.6, 0.4))
    chances = np.array([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]])
    site = np.array([random.choice(4, p=chances[one]) for one in sex])
    age = (random.gamma(9.0, 5.0, entities) + 8 * sex + 18).round()
    weight = (60 + 12 * sex + 0.2 * (age - 60) + 8 * random.normal(size=entities)).round(1)
    hours = pd.date_range("2024-01-01", periods=48, freq="h")
    wave = np.sin(2 * np.pi * hours.hour.to_numpy() / 24)
    noise = random.normal(size=(entities, 48)).cumsum(axis=1) * 0.3
    level = 0.1 * age[:, None] + 3 * sex[:, None] + (1 + site[:, None]) * wave + noise
    return pd.DataFrame(
        {
            "patient": np.repeat([f"p{seed}{i:04d}" for i in range(entities)], 48),
            "time": np.tile(hours, entities),
            "sex": np.repeat(np.array(WORDS["sex"])[sex], 48),
            "site": np.repeat(np.array(WORDS["site"])[site], 48),
            "age": np.repeat(age, 48),
            "weight": np.repeat(weight, 48),
            "level": level.round(3).ravel(),
        }
    )


def vectors(static: pd.DataFrame) -> Float[np.ndarray, "series number"]:
    """Static columns as numbers."""
    words = [static[name] == word for name, known in WORDS.items() for word in known]
    return np.stack([*words, *(static[name] for name in NUMBERS)], axis=1).astype(np.float64)


def fit_static(static: pd.DataFrame) -> StaticModel:
    """The diffusion over static columns alone."""
    rows = vectors(static)
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    data = jnp.asarray((rows - mean) / scale, jnp.float32)
    params = NETWORK.init(jax.random.key(0), data[:1], jnp.zeros(1))
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))

    def loss(params: Any, key: Array) -> Array:
        which, level, noise = jax.random.split(key, 3)
        z = data[jax.random.randint(which, (BATCH,), 0, len(data))]
        sigma = edm.noise_level(jax.random.normal(level, (BATCH,)), *NOISE)
        network = functools.partial(NETWORK.apply, params)
        return edm.denoising_loss(network, z, jax.random.normal(noise, z.shape), sigma, 1.0).mean()

    def step(carry: Any, key: Array) -> tuple[Any, None]:
        params, state, average = carry
        updates, state = optimizer.update(jax.grad(loss)(params, key), state, params)
        params = optax.apply_updates(params, updates)
        average = optax.incremental_update(params, average, 1 - AVERAGE)
        return (params, state, average), None

    keys = jax.random.split(jax.random.key(1), STEPS)
    carry = (params, optimizer.init(params), params)
    trained = jax.jit(lambda carry: jax.lax.scan(step, carry, keys)[0])(carry)[2]
    return StaticModel(trained, mean, scale, rows.min(axis=0), rows.max(axis=0))


def draw_static(model: StaticModel, count: int, seed: int) -> pd.DataFrame:
    """Static columns as the diffusion draws them: the likeliest word, numbers within the range."""
    sigmas = samplers.karras_sigmas(36, 0.002, 80.0, 7.0)
    noise = jax.random.normal(jax.random.key(seed), (count, len(model.mean)))
    network = functools.partial(NETWORK.apply, model.params)
    drawn = jax.jit(
        lambda noise: samplers.polar(
            lambda z, sigma: edm.raw_output(network, z, sigma, 1.0), noise, sigmas, 1.0
        )
    )(noise)
    rows = np.clip(np.asarray(drawn) * model.scale + model.mean, model.low, model.high)
    found, first = {}, 0
    for name, known in WORDS.items():
        found[name] = np.array(known)[rows[:, first : first + len(known)].argmax(axis=1)]
        first += len(known)
    found |= {name: rows[:, first + i] for i, name in enumerate(NUMBERS)}
    return pd.DataFrame(found).round({"age": 0, "weight": 1})


def described(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """A row a series: its static columns, its level, and the swing of its day."""
    groups = frame.groupby(by)
    static = groups[[*WORDS, *NUMBERS]].first()
    wave = np.sin(2 * np.pi * frame["time"].dt.hour / 24)
    level = groups["level"].mean()
    centred = frame["level"] - frame[by].map(level)
    swing = (centred * wave).groupby(frame[by]).sum() / (wave**2).groupby(frame[by]).sum()
    return static.assign(level_mean=level, swing=swing)


def apart(real: pd.DataFrame, made: pd.DataFrame) -> Row:
    """How far static columns are from others, alone and by pairs, and what series make of them."""
    pieces = {name: pd.qcut(real[name], 4, retbins=True)[1][1:-1] for name in NUMBERS}

    def code(of: pd.DataFrame) -> pd.DataFrame:
        numbers = {name: np.searchsorted(edges, of[name]) for name, edges in pieces.items()}
        return of[list(WORDS)].assign(**numbers)

    def distance(names: list[str]) -> float:
        shares = [code(of).groupby(names).size() / len(of) for of in (real, made)]
        return float(shares[0].sub(shares[1], fill_value=0).abs().sum() / 2)

    columns = [*WORDS, *NUMBERS]
    numbers = {name: float(stats.ks_2samp(real[name], made[name]).statistic) for name in NUMBERS}
    alone = {name: round(distance([name]), 4) for name in WORDS} | numbers
    pairs = [distance(list(pair)) for pair in itertools.combinations(columns, 2)]
    # What a least-squares fit to real series is wrong by, in real and made series.
    design = [np.column_stack([np.ones(len(of)), vectors(of.reset_index())]) for of in (real, made)]
    told = {}
    for target in ("level_mean", "swing"):
        weights = np.linalg.lstsq(design[0], real[target], rcond=None)[0]
        errors = [
            float(np.sqrt(np.mean((of[target] - rows @ weights) ** 2)))
            for of, rows in zip((real, made), design, strict=True)
        ]
        told[target] = round(errors[1] / errors[0], 3)
    return {"alone": alone, "pairs": round(float(np.mean(pairs)), 4), "errors_to_real": told}


def main() -> None:
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--budget", default="5m")
    arguments = parser.parse_args()
    frame, fresh = panel(600, 0), described(panel(DRAWS, 1), "patient")
    model = TimeLDM(budget=arguments.budget, window=24)
    model.fit(frame, entity="patient", workdir=str(folder("static", "panel")))
    static = described(frame, "patient")
    rows: list[Row] = [{"label": "training patients"} | apart(fresh, static)]
    together = described(model.sample(DRAWS, seed=1), "series")
    rows.append({"label": "features"} | apart(fresh, together))
    begun = time.monotonic()
    own = draw_static(fit_static(static), DRAWS, seed=2)
    seconds = round(time.monotonic() - begun, 1)
    apiece = described(model.sample(context=own, seed=1), "series")
    rows.append({"label": "own diffusion", "seconds": seconds} | apart(fresh, apiece))
    result = {"study": "static", "question": QUESTION, "rows": rows}
    result |= {"budget": arguments.budget, "machine": machine(), "versions": package_versions()}
    (RESULTS / "study_static.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
