"""The configuration: every key with its meaning, its variants, and what it builds.

`configs/<set>.py` starts from `base()` and sets what a data set needs. Nothing reads a key that is
not here, and every key here is read.
"""

import dataclasses
import difflib
import importlib.util
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections
from ml_collections import ConfigDict

from timeldm_jax.data.clock import IRREGULAR
from timeldm_jax.data.series import PROTOCOLS, SPLITS
from timeldm_jax.data.table import MISSING
from timeldm_jax.diffusion.samplers import SOLVERS
from timeldm_jax.errors import ConfigError
from timeldm_jax.latents import LAYOUTS
from timeldm_jax.metrics.suite import Evaluators
from timeldm_jax.models.denoiser import PRECISIONS
from timeldm_jax.models.vae import VAE
from timeldm_jax.training.beta import BetaConfig
from timeldm_jax.training.steps import NoiseConfig, OptimizerConfig, make_optimizer

MOST_PRINCIPAL = 10_000  # latents of a window: their covariance then takes 0.8 GB, minutes to solve


def base() -> ConfigDict:
    """The recipe that data sets start from."""
    config = ConfigDict()
    config.seed = 0
    config.budget = ""  # time in all for a table, such as 10m: sets steps that are 0
    config.data = ConfigDict(
        {
            "name": ml_collections.config_dict.placeholder(str),  # which set, see data/
            "window": 24,  # time steps of a window
            "protocol": "paper",  # split: paper | heldout | future
            "dir": "",  # where raw files lie; default: TIMELDM_DATA_DIR, then the cache
            "cache_dir": "",  # prepared data; default: TIMELDM_CACHE_DIR, then ~/.cache
            "count": 10_000,  # training trajectories of a simulated set
            # A table of one's own (name "table"); see data/table.py.
            "path": "",  # .csv or .parquet
            "time": "",  # name of the time column; default: looked for
            "entity": "",  # column that says which series a row belongs to
            "schema": "",  # JSON file that overrides what is inferred of the columns
            "irregular": "error",  # times out of order or uneven: error | sort | resample
            "decimal": ".",  # decimal point of a CSV file
            "split": "time",  # what heldout holds out: blocks of time | entity: whole series
            "stride": 1,  # rows between the starts of training windows
            "missing": "fill",  # missing values in samples: fill | generate as in the data
        }
    )
    config.vae = ConfigDict(
        {
            "steps": 1_500,
            "batch": 128,
            "microbatch": 256,  # examples a device holds at once; gradients of parts add up
            "chunk": 50,  # steps a call: one host synchronisation each
            "eval_every": 500,  # steps between validations and checkpoints
            "model": {
                "latent": 14,  # as many as features, so that no window loses anything
                "width": 32,
                "heads": 2,
                "mlp_ratio": 2,
                "encoder_layers": 2,
                "decoder_layers": 2,
                "norm": "pre",  # pre | post
                "head": "linear",  # none | linear | conv
                "skip": True,  # linear maps around the stacks
            },
            "optimizer": _optimizer(learning_rate=2e-3, b2=0.999, ema=0.99),
            "beta": {
                "maximum": 1e-2,
                "minimum": 3e-5,
                "decay": 0.7,
                "patience": 15,
                "restart": True,
            },
        }
    )
    config.ldm = ConfigDict(
        {
            "steps": 12_000,
            "batch": 256,
            "chunk": 50,
            "eval_every": 1_000,
            "model": {
                "hidden": 512,
                "blocks": 3,
                "precision": "bfloat16",  # of what enters matrix products: float32 | bfloat16
            },
            "optimizer": _optimizer(learning_rate=2e-3, b2=0.999, ema=0.999),
            "latents": "principal",  # raw | standard | principal; see latents.latent_stats
            "noise": {"sigma_data": 1.0, "P_mean": 0.5, "P_std": 1.6},
        }
    )
    config.sample = ConfigDict(
        {
            "count": 10_000,  # windows in samples.npz
            "seed": 0,
            "batch": 1_000,  # windows a call: bounds memory
            "solver": "polar",  # polar | heun; see diffusion/samplers.py
            "steps": 36,  # network evaluations of polar; 2·steps − 1 of heun
            "match_marginals": False,  # map each value feature to the training data's distribution
            "churn": 0.0,  # S_churn of the stochastic sampler, heun's
            "sigma_min": 0.002,
            "sigma_max": 80.0,
            "rho": 7.0,
        }
    )
    config.evaluate = ConfigDict(dataclasses.asdict(Evaluators()))  # the published protocol
    return config


def _optimizer(learning_rate: float, b2: float, ema: float) -> dict[str, Any]:
    return {
        "learning_rate": learning_rate,
        "b2": b2,
        "schedule": "cosine",  # cosine | plateau
        "plateau_factor": 0.95,
        "plateau_patience": 10,  # judgements without improvement
        "plateau_window": 100,  # steps whose mean loss is one judgement
        "ema": ema,
    }


def apply_published(config: ConfigDict, *, epoch_steps: int, epochs: int = 15_000) -> None:
    """Training as published (docs/method.md, 3): plateaus, raw latents, no averaging, churn 1.

    Patience is published in epochs. Learning rates are judged on the mean loss of an epoch; β on
    every step, so its patience becomes epochs x steps.

    Args:
      config: changed in place; batches must be set.
      epoch_steps: optimiser steps of an epoch.
      epochs: epochs of each stage.
    """
    for stage, every in ((config.vae, 500), (config.ldm, 500)):
        stage.steps = epochs * epoch_steps
        stage.eval_every = every * epoch_steps
        stage.chunk = 10 * epoch_steps
        stage.optimizer.schedule = "plateau"
        stage.optimizer.plateau_window = epoch_steps
        stage.optimizer.ema = 0.0
    config.vae.optimizer.learning_rate = 1e-3
    config.vae.optimizer.plateau_factor = 0.95
    config.vae.optimizer.plateau_patience = 10
    config.vae.beta.minimum = 1e-5
    config.vae.beta.patience = 10 * epoch_steps
    config.ldm.optimizer.learning_rate = 1e-4
    config.ldm.optimizer.b2 = 0.96
    config.ldm.optimizer.plateau_factor = 0.9
    config.ldm.optimizer.plateau_patience = 20
    config.ldm.latents = "raw"
    config.ldm.model.blocks = 0
    config.ldm.model.precision = "float32"
    config.ldm.noise = ConfigDict({"sigma_data": 0.5, "P_mean": -1.2, "P_std": 1.2})
    config.sample.solver = "heun"
    config.sample.steps = 50
    config.sample.match_marginals = False
    config.sample.churn = 1.0


def apply_paper(
    config: ConfigDict,
    *,
    layers: tuple[int, int],
    batch: int,
    hidden: int,
    windows: int,
) -> None:
    """The paper's Table I and Fig. 2: 2 heads of 16, post-norm, convolution heads.

    The table gives neither the latent size nor the feed-forward factor: the latent is the width,
    32, and the factor 4.

    Args:
      config: changed in place.
      layers: encoder and decoder blocks.
      batch: examples a step, both stages.
      hidden: the denoiser's H.
      windows: training windows, for the steps of an epoch.
    """
    config.vae.model = ConfigDict(
        {
            "latent": 32,
            "width": 32,
            "heads": 2,
            "mlp_ratio": 4,
            "encoder_layers": layers[0],
            "decoder_layers": layers[1],
            "norm": "post",
            "head": "conv",
            "skip": False,
        }
    )
    config.vae.batch = config.ldm.batch = batch
    config.ldm.model.hidden = hidden
    apply_published(config, epoch_steps=-(-windows // batch))


def apply_released(
    config: ConfigDict,
    *,
    latent: int,
    heads: int,
    factor: int,
    layers: int,
    batch: int,
    hidden: int,
    windows: int,
) -> None:
    """The sizes of the authors' released scripts (docs/method.md, 5) and its β rule.

    Args:
      config: changed in place.
      latent: m, also the width.
      heads: attention heads.
      factor: feed-forward factor.
      layers: blocks in each stack.
      batch: examples a step, both stages.
      hidden: the denoiser's H.
      windows: training windows, for the steps of an epoch.
    """
    config.vae.model = ConfigDict(
        {
            "latent": latent,
            "width": latent,
            "heads": heads,
            "mlp_ratio": factor,
            "encoder_layers": layers,
            "decoder_layers": layers,
            "norm": "pre",
            "head": "none",
            "skip": False,
        }
    )
    config.vae.beta.restart = False
    config.vae.batch = config.ldm.batch = batch
    config.ldm.model.hidden = hidden
    apply_published(config, epoch_steps=-(-windows // batch))


def apply_quick(config: ConfigDict) -> None:
    """Minutes on two CPU cores: shorter runs and fewer sampler steps."""
    config.vae.steps = 1_000
    config.ldm.steps = 2_500
    config.ldm.eval_every = 500
    config.ldm.optimizer.ema = 0.997
    config.sample.count = 4_000
    config.sample.steps = 18


def apply_table(config: ConfigDict) -> None:
    """A table that nobody has tuned for: what is 0 here is chosen later (`recipe.py`)."""
    config.budget = "10m"
    config.data.name = "table"
    config.data.protocol = "heldout"
    for key in AUTOMATIC:
        section, _, leaf = key.rpartition(".")
        node = config
        for name in section.split("."):
            node = node[name]
        node[leaf] = 0
    config.ldm.optimizer.ema = 0.997


def choose_variant(
    config: ConfigDict, variant: str, known: dict[str, Callable[[ConfigDict], None]]
) -> ConfigDict:
    """Applies a variant by name; "" is the config as it is.

    Raises:
      ConfigError: unknown variant.
    """
    if variant:
        if variant not in known:
            raise ConfigError(
                f"unknown variant {variant!r}; this config has: {', '.join(sorted(known))}"
            )
        known[variant](config)
    return config


def find_config_file(path: str) -> str:
    """The config file for a path: as given, else relative to the installed package.

    Raises:
      ConfigError: neither exists.
    """
    given = pathlib.Path(path)
    packaged = pathlib.Path(__file__).parent / path
    for candidate in (given, packaged):
        if candidate.is_file():
            return str(candidate)
    names = config_names()
    raise ConfigError(
        f"--config={path}: no such file here or in the package; "
        f"configs/ in the package has: {', '.join(names)}"
    )


def config_names() -> list[str]:
    """File names of the package's own configs."""
    return sorted(p.name for p in (pathlib.Path(__file__).parent / "configs").glob("[!_]*.py"))


def load(path: str, variant: str = "") -> ConfigDict:
    """The validated config of a file, such as `load("configs/etth.py", "quick")`."""
    file = find_config_file(path)
    spec = importlib.util.spec_from_file_location("timeldm_jax_config", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(variant)
    validate(config)
    return config


def validate(config: ConfigDict) -> None:
    """Checks keys, types, ranges and sizes against `base()`; starts no JAX device.

    Raises:
      ConfigError: naming the key, the value found and what was expected.
    """
    known = dict(leaves(base()))
    given = dict(leaves(config))
    for key in given:
        if key not in known:
            raise ConfigError(f"unknown key config.{key}{closest(key, known)}")
    for key, default in known.items():
        if key not in given:
            raise ConfigError(f"config.{key} is missing; start from timeldm_jax.config.base()")
        automatic = key in AUTOMATIC and given[key] == 0 and bool(given["budget"])
        if not automatic:
            _check_leaf(key, given[key], "" if default is None else default)
    _check_together(config)


# What 0 stands for "chosen from the data and the budget" in, for a table.
AUTOMATIC = (
    "data.window",
    "data.stride",
    "vae.model.latent",
    "vae.steps",
    "ldm.steps",
    "sample.count",
)

_Rule = tuple[Callable[[float], bool], str]
_COUNT: _Rule = (lambda v: v >= 1, "at least 1")
_FINITE: _Rule = (math.isfinite, "finite")

# What a number must be, by the end of its key; others are counts or just finite.
_RANGES: dict[str, _Rule] = {
    "seed": (lambda v: 0 <= v < 2**32, "in [0, 2^32)"),
    "model.blocks": (lambda v: v >= 0, "at least 0"),
    "data.window": (lambda v: v >= 2, "at least 2"),
    "sample.steps": (lambda v: v >= 2, "at least 2"),
    "model.hidden": (lambda v: v >= 2 and v % 2 == 0, "even and at least 2"),
    "optimizer.learning_rate": (lambda v: v > 0, "positive"),
    "optimizer.b2": (lambda v: 0 <= v < 1, "in [0, 1)"),
    "optimizer.plateau_factor": (lambda v: 0 < v < 1, "in (0, 1)"),
    "optimizer.ema": (lambda v: 0 <= v < 1, "in [0, 1)"),
    "beta.maximum": (lambda v: v >= 0, "at least 0"),
    "beta.minimum": (lambda v: v >= 0, "at least 0"),
    "beta.decay": (lambda v: 0 < v <= 1, "in (0, 1]"),
    "noise.sigma_data": (lambda v: v > 0, "positive"),
    "noise.P_std": (lambda v: v >= 0, "at least 0"),
    "evaluate.repeats": (lambda v: 2 <= v <= 10, "from 2 to 10"),
    "evaluate.context_fid_steps": (lambda v: v >= 0, "at least 0"),
    "sample.churn": (lambda v: v >= 0, "at least 0"),
    "sample.sigma_min": (lambda v: v > 0, "positive"),
    "sample.rho": (lambda v: v > 0, "positive"),
}


def check_window(window: int) -> None:
    """Raises ConfigError unless a window that a caller names is one."""
    _check_leaf("data.window", window, 0)


def _check_leaf(key: str, value: Any, default: Any) -> None:
    """Raises unless a value is of its default's type and in the range of its key."""
    # A whole number may stand for a float; True may not stand for 1.
    if type(value) is not type(default) and (type(value), type(default)) != (int, float):
        raise ConfigError(
            f"config.{key}={value!r} is of type {type(value).__name__}, "
            f"expected {type(default).__name__}"
        )
    if isinstance(default, bool | str):
        return
    fits, words = next(
        (rule for end, rule in _RANGES.items() if key.endswith(end)),
        _COUNT if isinstance(default, int) else _FINITE,
    )
    if not (math.isfinite(value) and fits(value)):
        raise ConfigError(f"config.{key}={value} must be {words}")


def _check_together(config: ConfigDict) -> None:
    """Raises unless the values fit each other."""
    for section, key, known in (
        ("data", "protocol", PROTOCOLS),
        ("data", "irregular", IRREGULAR),
        ("data", "split", SPLITS),
        ("data", "missing", MISSING),
        ("ldm", "latents", LAYOUTS),
        ("sample", "solver", SOLVERS),
    ):
        if config[section][key] not in known:
            raise ConfigError(
                f"config.{section}.{key}={config[section][key]!r} is not one of {', '.join(known)}"
            )
    if config.sample.churn > 0 and config.sample.solver != "heun":
        raise ConfigError(
            f"config.sample.churn={config.sample.churn} needs config.sample.solver='heun'; "
            f"{config.sample.solver!r} adds no noise"
        )
    precision = config.ldm.model.precision
    if precision not in PRECISIONS:
        raise ConfigError(
            f"config.ldm.model.precision={precision!r} is not one of {', '.join(PRECISIONS)}"
        )
    if config.data.name == "table" and config.data.decimal not in (".", ","):
        raise ConfigError(f"config.data.decimal={config.data.decimal!r} must be '.' or ','")
    flat = config.data.window * config.vae.model.latent
    if config.ldm.latents == "principal" and flat > MOST_PRINCIPAL:
        raise ConfigError(
            f"config.ldm.latents='principal' with config.data.window={config.data.window} and "
            f"config.vae.model.latent={config.vae.model.latent} needs the axes of {flat:,} "
            f"numbers, more than {MOST_PRINCIPAL:,}; use a smaller latent, or ldm.latents=standard"
        )
    pairs = (("vae.beta.minimum", "vae.beta.maximum"), ("sample.sigma_min", "sample.sigma_max"))
    values = dict(leaves(config))
    for low, high in pairs:
        if values[low] > values[high]:
            raise ConfigError(
                f"config.{low}={values[low]} must not exceed config.{high}={values[high]}"
            )
    for stage in ("vae", "ldm"):
        section = config[stage]
        if section.eval_every % section.chunk:
            raise ConfigError(
                f"config.{stage}.eval_every={section.eval_every} must be a multiple of "
                f"config.{stage}.chunk={section.chunk}"
            )
        try:
            make_optimizer(optimizer_config(section), section.steps)
        except ValueError as error:
            raise ConfigError(f"config.{stage}.optimizer.{error}") from error
    try:
        VAE(features=1, window=config.data.window, **config.vae.model)
    except ValueError as error:
        raise ConfigError(f"config.{error}") from error


FORMAT = 2  # of saved configurations; those without a number are of format 1

# Keys that format 1 saved under another name.
_RENAMED = {
    "vae.model.ff_factor": "vae.model.mlp_ratio",
    "ldm.noise.log_mean": "ldm.noise.P_mean",
    "ldm.noise.log_std": "ldm.noise.P_std",
    "sample.match_margins": "sample.match_marginals",
}

# Keys that were added since the first version, with the value that does what was done without them.
_ADDED: dict[str, Any] = {
    "budget": "",
    "data.path": "",
    "data.time": "",
    "data.entity": "",
    "data.schema": "",
    "data.irregular": "error",
    "data.decimal": ".",
    "data.split": "time",
    "data.stride": 1,
    "data.missing": "fill",
    "vae.microbatch": 256,
    "vae.model.skip": False,
    "ldm.model.precision": "float32",
    "sample.solver": "heun",
    "sample.match_marginals": False,
    "evaluate.repeats": 5,
    "evaluate.discriminative_steps": 2_000,
    "evaluate.predictive_steps": 5_000,
    "evaluate.context_fid_steps": 0,
}


def to_saved(config: ConfigDict) -> dict[str, Any]:
    """The configuration as it is saved: JSON types, and the number of the format."""
    return {"format": FORMAT, **config.to_dict()}


def upgrade(saved: dict[str, Any]) -> dict[str, Any]:
    """A configuration that any earlier version saved, as this version has it.

    Args:
      saved: content of a `config.json`, or of `config` in a checkpoint's; not changed.

    Raises:
      ConfigError: it was saved by a later version.
      TypeError: it is no mapping.
    """
    flat = dict(leaves(ConfigDict(saved)))
    version = flat.pop("format", 1)
    if not isinstance(version, int) or version > FORMAT:
        raise ConfigError(
            f"it was saved by a later version of timeldm_jax, in format {version!r}; this version "
            f"reads formats up to {FORMAT}: install a later one"
        )
    if version == 1:
        flat = {_RENAMED.get(key, key): value for key, value in flat.items()}
        if "ldm.standardize" in flat:
            flat["ldm.latents"] = "standard" if flat.pop("ldm.standardize") else "raw"
        flat = _ADDED | flat
    found: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, leaf = key.split(".")
        node = found
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = value
    return found


def closest(key: str, known: Any) -> str:
    """`; did you mean …?` for the known key most like this one, or nothing."""
    match = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean config.{match[0]}?" if match else ""


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lines `key: old -> new` for every leaf that two configs (as dicts) do not share."""
    a, b = dict(leaves(ConfigDict(old))), dict(leaves(ConfigDict(new)))
    return [
        f"config.{key}: {a.get(key, '(absent)')!r} -> {b.get(key, '(absent)')!r}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key, "(absent)") != b.get(key, "(absent)")
    ]


def leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Pairs (dotted key, value) of a config."""
    for key in config:
        value = config[key]
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def beta_config(config: ConfigDict) -> BetaConfig:
    """Settings of adaptive β."""
    return BetaConfig(**config.vae.beta)


def optimizer_config(stage: ConfigDict) -> OptimizerConfig:
    """Settings of a stage's optimiser."""
    return OptimizerConfig(**stage.optimizer)


def noise_config(config: ConfigDict) -> NoiseConfig:
    """Settings of the diffusion's training noise."""
    return NoiseConfig(**config.ldm.noise)
