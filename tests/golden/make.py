"""Makes the models and the work directory of this folder; README.md says with which commit each.

    PYTHONPATH=<checkout of the commit> python make.py model|panel|array|workdir <folder>

Runs at every commit since the first that saves models, so it uses only what that commit has.
"""

import contextlib
import inspect
import json
import pathlib
import shutil
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from timeldm_jax import TimeLDM, convert, launch
from timeldm_jax import config as c
from timeldm_jax.training import checkpoint

WINDOW = 8


def sizes(config, steps=20):
    """The configuration, as small and short as it can be."""
    config.data.window = WINDOW
    config.vae.model.update({"latent": 6, "width": 8, "encoder_layers": 1, "decoder_layers": 1})
    config.ldm.model.update({"hidden": 16, "blocks": 1})
    for stage in (config.vae, config.ldm):
        stage.update({"steps": steps, "chunk": 10, "eval_every": 20, "batch": 16})
    config.sample.update({"steps": 4, "batch": 16, "count": 24})
    if "evaluate" in config:
        config.evaluate.update(
            {
                "repeats": 2,
                "discriminative_steps": 5,
                "predictive_steps": 5,
                "context_fid_steps": 2,
            }
        )
    return config


def table(count=160):
    """One column for each way in which a schema can hold and a scaler can scale one."""
    random = np.random.default_rng(11)
    time = np.arange(count)
    shock = np.round(random.standard_t(1.5, count), 3)
    normal = np.round(random.normal(size=count), 2)
    normal[90] = normal.mean() + 6 * normal.std()
    day = pd.Timestamp("2023-03-01") + pd.to_timedelta(6 * time, unit="h")
    frame = pd.DataFrame(
        {
            "when": day.strftime("%d/%m/%Y %H:%M"),
            "level": np.round(50 + 30 * np.sin(0.3 * time) + random.normal(size=count), 1),
            "stock": (5e7 + 4.9e7 * np.sin(0.1 * time + random.normal(size=count))).astype(int),
            "state": random.choice(["idle", "busy", "off, or not"], count),
            "open": time % 3 == 0,
            "rain": np.round(random.lognormal(0, 1.6, count), 4),
            "shock": shock,
            "drift": normal,
            "humidity": np.round(random.uniform(20, 99, count)),
            "checked": day.floor("D") - pd.to_timedelta(random.integers(0, 9, count), unit="D"),
            "site": "north",
        }
    )
    frame.loc[random.random(count) < 0.2, "level"] = None
    return frame


def panel():
    """Series of two stations and their gaps, one of them shorter than a window."""
    frame = table(120).drop(columns=["when", "humidity", "checked", "site"])
    frame.insert(0, "station", np.repeat(["a", "b", "c"], [60, 54, 6]))
    frame.insert(1, "t", np.concatenate([np.arange(60), np.arange(54), np.arange(6)]))
    return frame


def array(count=120):
    """A series `(count, 3)` in units of very different size."""
    time = np.arange(count)[:, None]
    noise = np.random.default_rng(0).normal(scale=0.05, size=(count, 3))
    units, offset = np.array([1e6, 1.0, 1e-3]), np.array([0.0, 5e3, -1.0])
    return (np.sin(0.3 * time + np.arange(3)) + noise) * units + offset


def fit(kind):
    """A trained model of one of the data sets above."""
    config = sizes(c.base())
    if kind == "array":
        config.data.name = "array"
        return TimeLDM(config=config).fit(array(), columns=("x", "y", "z"))
    c.apply_table(config)
    sizes(config)
    config.data.name = "table"
    if kind == "panel":
        config.data.protocol = "paper"
        return TimeLDM(config=config).fit(panel(), entity="station", time="t")
    config.data.protocol = "heldout"
    if "match_margins" in config.sample:
        config.sample.match_margins = True
    return TimeLDM(config=config).fit(table(), time="when")


def reconstructed(model, kind, rows=12):
    """The first rows in windows: their features, scaled, and decoded from their posterior means."""
    generator = model._generator
    if kind == "array":
        values = array()[:rows]
    else:
        values = convert.encode(model._generator, {"model": table, "panel": panel}[kind]())[
            1
        ].values[:rows]
    windows = np.stack([values[i : i + WINDOW] for i in range(0, rows - WINDOW + 1, 2)])
    scaled = generator.scaler.scale(windows).astype(np.float32)
    vae, params = generator.models.vae, {"params": generator.vae_params}
    mean, log_variance = vae.apply(params, np.nan_to_num(scaled, nan=0.5), method="encode")
    return {
        "windows": windows,
        "scaled": scaled,
        "mean": np.asarray(mean),
        "log_variance": np.asarray(log_variance),
        "reconstruction": np.asarray(vae.apply(params, mean, method="decode")),
    }


def save_thin(folder, step, tree, meta, **more):
    """`checkpoint.save` of what compresses: weights of 8 bits, the optimiser's moments zero."""

    def rounded(weights):
        return jax.tree.map(lambda a: a.astype(jnp.bfloat16).astype(a.dtype), weights)

    moments = jax.tree.map(lambda a: np.zeros_like(a) if a.ndim else a, tree.opt_state)
    thin = {"params": rounded(tree.params), "ema": rounded(tree.ema), "opt_state": moments}
    save(folder, step, tree._replace(**thin), meta, **more)


save, checkpoint.save = checkpoint.save, save_thin


def make_model(kind, target):
    """Saves the model, with what it gave: `rows.npz` and `samples.csv`, beside the saved folder."""
    model = fit(kind)
    saving = {"report": True} if "report" in inspect.signature(model.save).parameters else {}
    model.save(str(target / "model"), **saving)
    (target / "model" / "report.html").unlink(missing_ok=True)  # 4 MB of figures
    np.savez_compressed(target / "rows.npz", **reconstructed(model, kind))
    samples = model.sample(4, seed=0)
    if isinstance(samples, np.ndarray):
        np.savez_compressed(target / "samples.npz", samples=samples)
        return
    samples.to_csv(target / "samples.csv", index=False)
    kinds = {name: str(dtype) for name, dtype in samples.dtypes.items()}
    (target / "dtypes.json").write_text(json.dumps(kinds, indent=1) + "\n")


def make_workdir(target):
    """Runs the command on sines, all stages."""
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder) / "tiny.py"
        config.write_text(
            "from __main__ import sizes\n"
            "from timeldm_jax import config as c\n"
            "def get_config(variant=''):\n"
            "    config = sizes(c.base())\n"
            "    config.data.name, config.data.count = 'sines', 40\n"
            "    return config\n"
        )
        flags = [f"--config={config}", f"--workdir={target / 'run'}"]
        sys.argv = ["launch", *flags, f"--config.data.cache_dir={folder}"]
        with contextlib.suppress(SystemExit):
            launch.run()
    for name in ("tensorboard", "report"):
        shutil.rmtree(target / "run" / name, ignore_errors=True)
    (target / "run" / "report.html").unlink()


if __name__ == "__main__":
    which, out = sys.argv[1], pathlib.Path(sys.argv[2]).absolute()
    out.mkdir(parents=True)
    make_workdir(out) if which == "workdir" else make_model(which, out)
