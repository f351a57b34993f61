"""The configuration: every key with its meaning, its variants, and what it builds.

`configs/<set>.py` starts from `base()` and sets what a data set needs. Keys are the fields of the
dataclasses that read them (`SECTIONS`), which check them. Nothing reads a key that is
not here, and every key here is read.
"""

import dataclasses
import difflib
import importlib.util
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import ml_collections
from ml_collections import ConfigDict

from timeldm_jax.data.given import DataConfig
from timeldm_jax.data.table import Options
from timeldm_jax.diffusion.samplers import SampleConfig
from timeldm_jax.errors import ConfigError
from timeldm_jax.latents import LatentConfig
from timeldm_jax.metrics.suite import Evaluators
from timeldm_jax.models.denoiser import Denoiser
from timeldm_jax.models.vae import VAE
from timeldm_jax.settings import RunConfig, kinds
from timeldm_jax.training.beta import BetaConfig
from timeldm_jax.training.loop import StageConfig
from timeldm_jax.training.steps import NoiseConfig, OptimizerConfig

MOST_PRINCIPAL = 10_000  # latents of a window: their covariance then takes 0.8 GB, minutes to solve


_OPTIMIZER = OptimizerConfig(
    learning_rate=2e-3,
    b2=0.999,
    schedule="cosine",
    plateau_factor=0.95,
    plateau_patience=10,
    plateau_window=100,
    ema=0.999,
)

# The sections of a configuration, and the recipe that data sets start from. Fields are keys; those
# of a network that the data decides are not.
SECTIONS: tuple[tuple[str, Any], ...] = (
    ("", RunConfig()),
    ("data", DataConfig()),
    ("data", Options()),
    ("vae", StageConfig(steps=1_500, batch=128, chunk=50, eval_every=500, microbatch=256)),
    (
        "vae.model",
        VAE(
            features=1,
            window=24,
            latent=14,  # as many as features, so that no window loses anything
            width=32,
            heads=2,
            mlp_ratio=2,
            encoder_layers=2,
            decoder_layers=2,
            norm="pre",
            head="linear",
            skip=True,
        ),
    ),
    ("vae.optimizer", dataclasses.replace(_OPTIMIZER, ema=0.99)),
    ("vae.beta", BetaConfig(maximum=1e-2, minimum=3e-5, decay=0.7, patience=15, restart=True)),
    ("ldm", StageConfig(steps=12_000, batch=256, chunk=50, eval_every=1_000)),
    ("ldm", LatentConfig()),
    ("ldm.model", Denoiser(hidden=512, blocks=3, precision="bfloat16", gated=True)),
    ("ldm.optimizer", _OPTIMIZER),
    ("ldm.noise", NoiseConfig(sigma_data=1.0, P_mean=-0.4, P_std=1.7)),
    ("sample", SampleConfig()),
    ("evaluate", Evaluators()),  # the published protocol
)

# What a table's configuration leaves open, and what stands there for "chosen from the data and the
# budget" (`recipe.py`).
AUTOMATIC = {
    "data.window": 0,
    "data.stride": 0,
    "vae.model.latent": 0,
    "vae.model.block": -1,  # 0: none
    "vae.batch": 0,
    "vae.chunk": 0,
    "vae.steps": 0,
    "ldm.latents": "auto",
    "ldm.axes": -1,  # 0: all
    "ldm.model.context": -1,  # 0: none
    "ldm.chunk": 0,
    "ldm.steps": 0,
    "sample.count": 0,
}


def base() -> ConfigDict:
    """The recipe that data sets start from: `SECTIONS`, and no data set."""
    config = ConfigDict(_nest({key: getattr(d, field) for key, field, d in _keys()}))
    config.data.name = ml_collections.config_dict.placeholder(str)
    for key in _may_be_none():  # so that flags can set it where a recipe has None
        section, _, leaf = key.rpartition(".")
        node = _section(config, section)
        node[leaf] = ml_collections.FieldReference(node[leaf], field_type=str)
    return config


def _keys() -> Iterator[tuple[str, str, Any]]:
    """Triples (dotted key, field, the defaults that have it) of every section."""
    for prefix, default in SECTIONS:
        for field in settings_fields(default):
            yield f"{prefix}.{field}".lstrip("."), field, default


def settings_fields(default: Any) -> list[str]:
    """The fields of a section that are keys: of a network, those that the data does not decide."""
    hidden = {"parent", "name", "features", "window"} if isinstance(default, nn.Module) else set()
    return [field.name for field in dataclasses.fields(default) if field.name not in hidden]


def _may_be_none() -> list[str]:
    """Keys for an absent part."""
    return [
        key
        for key, field, default in _keys()
        if type(None) in kinds(default.__dataclass_fields__[field].type)[0]
    ]


def _section(config: ConfigDict, prefix: str) -> ConfigDict:
    node = config
    for name in filter(None, prefix.split(".")):
        node = node[name]
    return node


def _nest(flat: dict[str, Any]) -> dict[str, Any]:
    """Nested mappings of dotted keys."""
    found: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, leaf = key.split(".")
        node = found
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = value
    return found


def apply_quick(config: ConfigDict) -> None:
    """Minutes on two CPU cores: shorter runs and fewer sampler steps."""
    config.vae.steps = 1_000
    config.ldm.steps = 2_500
    config.ldm.eval_every = 500
    config.ldm.optimizer.ema = 0.997
    config.sample.count = 4_000
    config.sample.steps = 18


def apply_draws(config: ConfigDict, *, P_mean: float = 0.5, P_std: float = 1.6) -> None:
    """The diffusion of the recipe before gates: posterior draws on axes as wide as they are.

    Sets keep it whose figures in docs/benchmarks.md were measured with it.

    Args:
      config: changed in place.
      P_mean: of the noise in training.
      P_std: likewise.
    """
    config.ldm.posterior = "draw"
    config.ldm.span = 0.0
    config.ldm.model.gated = False
    config.ldm.noise.update({"P_mean": P_mean, "P_std": P_std})
    config.sample.match_axes = False


def apply_table(config: ConfigDict) -> None:
    """A table that nobody has tuned for: what is open is chosen later (`recipe.py`)."""
    config.budget = "10m"
    config.data.name = "table"
    config.data.protocol = "heldout"
    config.update_from_flattened_dict(AUTOMATIC)
    config.data.split = "auto"
    config.sample.match_marginals = True
    config.sample.band_windows = 48
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
    for candidate in (pathlib.Path(path), pathlib.Path(__file__).parent / path):
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
    """Checks keys, types, ranges and sizes, by building every section; starts no JAX device.

    Raises:
      ConfigError: naming the key, the value found and what was expected.
    """
    known = [key for key, _, _ in _keys()]
    given = dict(leaves(config))
    for key in given:
        if key not in known:
            raise ConfigError(f"unknown key config.{key}{closest(key, known)}")
    for key in known:
        if key not in given:
            raise ConfigError(f"config.{key} is missing; start from timeldm_jax.config.base()")
    automatic = {key for key, auto in AUTOMATIC.items() if given["budget"] and given[key] == auto}
    for prefix, default in SECTIONS:
        node = _section(config, prefix)
        fields = settings_fields(default)
        values = {f: node[f] for f in fields if f"{prefix}.{f}".lstrip(".") not in automatic}
        _build(prefix, default, values)
    window, latent = config.data.window, config.vae.model.latent
    whole = config.ldm.latents == "principal" and config.ldm.axes == 0
    if whole and window * latent > MOST_PRINCIPAL:
        raise ConfigError(
            f"config.ldm.latents='principal' with config.data.window={window} and "
            f"config.vae.model.latent={latent} needs the axes of {window * latent:,} "
            f"numbers, more than {MOST_PRINCIPAL:,}; use fewer axes (config.ldm.axes=1024), or "
            "config.ldm.latents='cosine'"
        )
    if config.ldm.posterior == "exact" and not config.vae.model.skip:
        raise ConfigError(
            "config.ldm.posterior='exact' needs a decoder that starts as a linear map, and "
            "config.vae.model.skip=False; use config.ldm.posterior='mean'"
        )
    if config.sample.guidance != 1 and config.ldm.model.context == 0:
        raise ConfigError(
            f"config.sample.guidance={config.sample.guidance} needs a model that can be asked for "
            "something, and config.ldm.model.context=0; leave it at 1"
        )


def _build(prefix: str, default: Any, values: dict[str, Any]) -> None:
    """Builds a section, which checks it; its errors name keys where they name fields."""
    try:
        if isinstance(default, nn.Module):
            default.clone(**values)
        else:
            dataclasses.replace(default, **values)
    except ConfigError as error:
        fields = "|".join(settings_fields(default))
        key = f"config.{prefix}." if prefix else "config."
        raise ConfigError(re.sub(rf"(?<![\w.])({fields})=", rf"{key}\1=", str(error))) from error


def check_window(window: int) -> None:
    """Raises ConfigError unless a window that a caller names is one."""
    _build("data", DataConfig(), {"window": window})


def read_none(config: ConfigDict) -> None:
    """Turns the word `none`, which is all that a flag can say, into None where a key may be it."""
    for key in _may_be_none():
        section, _, leaf = key.rpartition(".")
        node = _section(config, section)
        if node[leaf] in ("none", "None"):
            node[leaf] = None


FORMAT = 9  # of saved configurations; those without a number are of format 1

# Keys that format 1 saved under another name.
_RENAMED = {
    "vae.model.ff_factor": "vae.model.mlp_ratio",
    "ldm.noise.log_mean": "ldm.noise.P_mean",
    "ldm.noise.log_std": "ldm.noise.P_std",
    "sample.match_margins": "sample.match_marginals",
}

# Keys that were added since format 1, with the value that does what was done without them.
_ADDED: dict[str, Any] = {
    "budget": "",
    "data.path": "",
    "data.time": "",
    "data.entity": "",
    "data.schema": "",
    "data.irregular": "error",
    "data.decimal": ".",
    "data.na_values": "",
    "data.time_format": "",
    "data.dayfirst": "",
    "data.zone": "",
    "data.split": "time",
    "data.stride": 1,
    "data.missing": "fill",
    "vae.microbatch": 0,
    "ldm.microbatch": 0,
    "vae.model.skip": False,
    "ldm.model.precision": "float32",
    "sample.solver": "heun",
    "sample.match_marginals": False,
    "sample.marginal_windows": 0,
    "evaluate.repeats": 5,
    "evaluate.discriminative_steps": 2_000,
    "evaluate.predictive_steps": 5_000,
    "evaluate.context_fid_steps": 0,
    "evaluate.scale": "range",
}

# The same of keys that a later format added.
_LATER: dict[int, dict[str, Any]] = {
    4: {
        "ldm.model.gated": False, "ldm.span": 0.0, "ldm.axes": 0, "sample.match_axes": False,
        "ldm.posterior": "draw", "evaluate.trees": 0, "vae.model.block": 0,
    },
    3: {"ldm.model.condition": "wide"}, 5: {"data.entity_names": "new", "ldm.model.context": 0},
    6: {"sample.guidance": 1.0, "sample.hold_repeats": False},
    7: {"data.times": "steps", "sample.band_windows": 0},
    8: {"data.placement": "auto", "devices": "pmap"},
}  # fmt: skip


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
        if "ldm.standardize" in flat:  # of the first versions, which had another denoiser
            flat["ldm.latents"] = "standard" if flat.pop("ldm.standardize") else "raw"
            flat["ldm.model.condition"] = "narrow"
        if flat.get("vae.model.head") == "none":
            flat["vae.model.head"] = None
        flat = _ADDED | flat
    for first, added in _LATER.items():
        if version < first:
            flat = added | flat
    if version < 9 and flat["ldm.axes"] == AUTOMATIC["ldm.axes"]:  # what was asked of a table
        flat["ldm.latents"] = AUTOMATIC["ldm.latents"]
    return _nest(flat)


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


def latent_config(config: ConfigDict) -> LatentConfig:
    """What the diffusion sees of latents."""
    return LatentConfig(**{f.name: config.ldm[f.name] for f in dataclasses.fields(LatentConfig)})


def noise_config(config: ConfigDict) -> NoiseConfig:
    """Settings of the diffusion's training noise."""
    return NoiseConfig(**config.ldm.noise)
