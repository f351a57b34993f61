"""Training in the order that data flows: VAE, latents, latent diffusion.

Each stage reads what the one before left in the work directory, so any can be run alone, resumed,
or skipped once finished. What is trained is drawn from by `generator.py`.
"""

import dataclasses
import json
import logging
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from timeldm_jax import config as configuration
from timeldm_jax import latents, marginals, repeats, streams
from timeldm_jax.data import schema as schemas
from timeldm_jax.data import start_times
from timeldm_jax.data.dataset import Dataset
from timeldm_jax.data.series import Missing
from timeldm_jax.errors import CheckpointError, ConfigError, NonFiniteLossError
from timeldm_jax.latents import LatentStats, Posteriors
from timeldm_jax.models.denoiser import Denoiser
from timeldm_jax.models.vae import VAE
from timeldm_jax.streams import Stream
from timeldm_jax.training import (
    beta,
    checkpoint,
    feed,
    loop,
    parallel,
    placement,
    state,
    steps,
    validation,
)
from timeldm_jax.training.state import TrainState
from timeldm_jax.versions import package_versions
from timeldm_jax.workdir import Workdir, write_json

_log = logging.getLogger(__name__)

TIMED_STEPS = 10  # by which a budget is planned

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Models:
    """The two networks of a configuration over data with given features."""

    vae: VAE
    denoiser: Denoiser
    most_axes: int = 0

    @property
    def flat(self) -> int:
        """Size of a flattened latent, T·m."""
        return self.vae.window * self.vae.latent

    @property
    def axes(self) -> int:
        """Coordinates that the diffusion sees of it."""
        return min(self.most_axes or self.flat, self.flat)


def build_models(config: ConfigDict, features: int) -> Models:
    """The networks of `config` for data with `features` columns.

    Raises:
      ValueError: sizes that do not fit together.
    """
    return Models(
        VAE(features=features, window=config.data.window, **config.vae.model),
        Denoiser(**config.ldm.model),
        config.ldm.axes if config.ldm.latents == "principal" else 0,
    )


def make_batch(config: ConfigDict, stage: str) -> steps.Batch:
    """The global batch of a stage over every device of every process.

    Raises:
      ConfigError: the devices do not divide it.
    """
    try:
        micro = config[stage].microbatch or None
        own = config.data.placement == "sharded"
        return parallel.make_batch(config[stage].batch, micro, config.devices, own=own)
    except ValueError as error:
        raise ConfigError(f"config.{stage}.batch: {error}") from error


def init_vae_state(config: ConfigDict, models: Models) -> TrainState:
    """The VAE's state at step 0, a function of `config.seed`."""
    seed = streams.seed_key(config.seed)
    vae = models.vae
    x = jnp.zeros((1, vae.window, vae.features))
    noise = jnp.zeros((1, vae.window, vae.latent))
    params = jax.jit(vae.init)(streams.key(seed, Stream.VAE_WEIGHTS), x, noise)["params"]
    optimizer = steps.make_optimizer(configuration.optimizer_config(config.vae), config.vae.steps)
    beta_state = beta.init(configuration.beta_config(config))
    train_key = streams.key(seed, Stream.VAE_TRAINING)
    return state.init(params, optimizer, train_key, beta=beta_state)


def init_ldm_state(config: ConfigDict, models: Models, stats: LatentStats) -> TrainState:
    """The latent diffusion's state at step 0, a function of `config.seed`."""
    seed = streams.seed_key(config.seed)
    weights_key = streams.key(seed, Stream.LDM_WEIGHTS)
    # Without a context nothing is drawn for one: weights are those of a network that has none.
    params = jax.jit(models.denoiser.init)(weights_key, jnp.zeros((1, models.axes)), jnp.zeros(1))
    optimizer = steps.make_optimizer(configuration.optimizer_config(config.ldm), config.ldm.steps)
    train_key = streams.key(seed, Stream.LDM_TRAINING)
    return state.init(params["params"], optimizer, train_key, latent_stats=stats)


def _first_vae_state(config: ConfigDict, models: Models) -> TrainState:
    """`init_vae_state`, by a program compiled without what makes one fast that runs many times.

    The VAE draws 126 arrays, each by code of its own: 2.8 s of compiling instead of 4.0.
    """
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(lambda: init_vae_state(config, models), compiler_options=options)()


def zero_stats(config: ConfigDict, models: Models) -> LatentStats:
    """Latent statistics of the right shapes, the template of a checkpoint."""
    shape = models.vae.window, models.vae.latent
    return latents.zero_stats(shape, models.axes, config.ldm.latents)


def make_vae_step(config: ConfigDict, models: Models, missing: Missing | None) -> steps.Step:
    """The VAE's step of a configuration."""
    optimizer_config = configuration.optimizer_config(config.vae)
    batch = make_batch(config, "vae")
    micro = latents.windows_per_gradient(models.vae, batch.micro or batch.size)
    return steps.vae_step(
        models.vae,
        steps.make_optimizer(optimizer_config, config.vae.steps),
        optimizer_config,
        configuration.beta_config(config),
        dataclasses.replace(batch, micro=micro),
        missing,
    )


def make_ldm_step(config: ConfigDict, models: Models, *, fed: bool = False) -> steps.Step:
    """The latent diffusion's step of a configuration; `fed` windows are encoded in it."""
    optimizer_config = configuration.optimizer_config(config.ldm)
    batch = make_batch(config, "ldm")
    micro = latents.latents_per_call(models.flat, batch.micro or batch.size)
    if fed:
        micro = latents.windows_per_call(models.vae, micro)
    return steps.ldm_step(
        models.denoiser,
        steps.make_optimizer(optimizer_config, config.ldm.steps),
        optimizer_config,
        configuration.noise_config(config),
        dataclasses.replace(batch, micro=micro),
        steps.encoder(models.vae, config.ldm.posterior) if fed else None,
    )


def step_seconds(config: ConfigDict, dataset: Dataset, stage: str) -> float:
    """Seconds of a training step of a stage, by running a few of them on throw-away weights.

    Every process must call this, as the steps take all devices.
    """
    models, fed = build_models(config, len(dataset.series.columns)), dataset.is_stored
    if stage == "vae":
        step = make_vae_step(config, models, dataset.missing)
        train = _first_vae_state(config, models)
    else:
        step = make_ldm_step(config, models, fed=fed)
        stats = jax.tree.map(jnp.ones_like, zero_stats(config, models))
        train = init_ldm_state(config, models, stats)
    few = min(_schedule(config, stage, dataset).chunk, TIMED_STEPS)
    chunk = parallel.chunk_runner(step, make_batch(config, stage), fed=fed)(few)
    data = _probe(config, models, dataset, stage)
    if isinstance(data, feed.Feed):
        data = data.chunk(parallel.to_host(train.key), 0, few)
    else:
        data = feed.placed(data)
    train = parallel.place(train)
    train, _ = jax.block_until_ready(chunk(train, data))
    start = time.monotonic()
    jax.block_until_ready(chunk(train, data))
    return (time.monotonic() - start) / few


def _probe(config: ConfigDict, models: Models, dataset: Dataset, stage: str) -> Any:
    """Data of a stage that take as long as its own, before anything is trained."""
    batch = make_batch(config, stage)
    if stage == "vae":
        return placement.of_vae(dataset, batch)
    some = dataset.series.train[:10_000] if not dataset.is_stored else np.zeros(1, np.int64)
    zeros = np.zeros((len(some), models.flat), np.float32)
    posteriors = Posteriors(
        zeros,
        zeros if config.ldm.posterior == "draw" else (),
        dataset.contexts(some) if models.denoiser.context else (),
    )
    params = init_vae_state(config, models).params if dataset.is_stored else ()
    return placement.of_ldm(dataset, batch, params, posteriors)


def train_vae(config: ConfigDict, dataset: Dataset, workdir: Workdir) -> None:
    """Trains the VAE to `config.vae.steps`, or does nothing where that is done."""
    meta = _meta(config, dataset)
    if _finished(workdir.vae, config.vae.steps, meta):
        _log.info("vae: finished before, skipped")
        return
    models = build_models(config, len(dataset.series.columns))
    step = make_vae_step(config, models, dataset.missing)
    batch = make_batch(config, "vae")
    windows = dataset.for_devices(whole=not batch.own)
    stage = loop.Stage(
        name="vae",
        data=placement.of_vae(dataset, batch),
        compile_chunk=parallel.chunk_runner(step, batch, fed=dataset.is_stored),
        validate=validation.of_vae(models.vae, windows(validation.few(dataset.series.valid))),
        schedule=_schedule(config, "vae", dataset),
        folder=workdir.vae,
        journal=loop.Journal(workdir),
        meta=meta,
    )
    loop.train(stage, _first_vae_state(config, models))


def train_ldm(config: ConfigDict, dataset: Dataset, workdir: Workdir) -> None:
    """Trains the latent diffusion to `config.ldm.steps`, or does nothing where that is done.

    Raises:
      CheckpointError: the VAE is not trained to its last step, or on other data.
    """
    meta = _meta(config, dataset)
    if _finished(workdir.ldm, config.ldm.steps, meta):
        _log.info("ldm: finished before, skipped")
        return
    if not _finished(workdir.vae, config.vae.steps, meta, goes_on=True):
        # Latents of a VAE that changes afterwards would train a diffusion that fits no decoder.
        raise CheckpointError(
            f"the VAE in {workdir.vae} is not trained to step {config.vae.steps}; "
            "run the vae stage first"
        )
    models = build_models(config, len(dataset.series.columns))
    vae_params, vae_step = load_vae(config, models, workdir, share=True)
    batch, fed = make_batch(config, "ldm"), dataset.is_stored
    learnt = dataset.series.train[:]
    if fed:
        numbers = max(models.flat, models.vae.window * models.vae.features)
        learnt = latents.few_encoded(dataset.series.train, numbers)
    posteriors, valid = (
        placement.encoded(
            dataset, starts, models.vae, vae_params, config.ldm.posterior, whole=not batch.own
        )._replace(context=dataset.contexts(starts) if models.denoiser.context else ())
        for starts in (learnt, validation.few(dataset.series.valid))
    )
    _check_latents(posteriors, workdir.vae)
    noise_config = configuration.noise_config(config)
    layout = configuration.latent_config(config)
    stats = latents.latent_stats(posteriors, layout, noise_config.sigma_data, config.data.window)
    stats = parallel.share_from_first(stats)  # axes are unique only up to sign and rounding
    _check_latents(stats, workdir.vae)
    step = make_ldm_step(config, models, fed=fed)
    stage = loop.Stage(
        name="ldm",
        data=placement.of_ldm(dataset, batch, vae_params, posteriors),
        compile_chunk=parallel.chunk_runner(step, batch, fed=fed),
        validate=validation.of_ldm(models.denoiser, noise_config, stats, valid),
        schedule=_schedule(config, "ldm", dataset),
        folder=workdir.ldm,
        journal=loop.Journal(workdir),
        meta=meta | _matched(config, dataset) | {"vae_step": vae_step},
    )
    loop.train(stage, init_ldm_state(config, models, stats))


def _check_latents(found: Posteriors | LatentStats, folder: epath.Path) -> None:
    """Raises NonFiniteLossError where the diffusion could not learn them."""
    for name, array in found._asdict().items():
        if name == "context":
            continue
        if not np.isfinite(array).all() or (name == "scale" and not np.all(array)):
            raise NonFiniteLossError(
                f"the ldm stage cannot start: the {name} of the latents of {folder} is not finite, "
                "or zero where it divides; a smaller config.vae.optimizer.learning_rate usually "
                "mends it"
            )


def load_vae(
    config: ConfigDict, models: Models, workdir: Workdir, *, share: bool = False
) -> tuple[PyTree, int]:
    """Averaged weights of the best VAE checkpoint, numpy, and its step.

    Where a diffusion model has been trained, it must be the VAE whose latents it learnt.

    Args:
      config: as trained.
      models: the networks of `config`.
      workdir: of the run.
      share: whether every process calls this; see `checkpoint.restore_best`.

    Raises:
      CheckpointError: there is none, all are damaged, or the one that fits the diffusion is.
    """
    template = jax.eval_shape(lambda: init_vae_state(config, models))
    read_meta = checkpoint.share_meta if share else checkpoint.read_meta
    ldm_meta = read_meta(workdir.ldm)
    found, problem = None, ""
    try:
        restored, meta = checkpoint.restore_averaged(workdir.vae, template, share=share)
        found = meta["step"]
    except CheckpointError as error:
        if ldm_meta is None:
            raise
        problem = f" ({error})"
    # The first versions did not record the step.
    learnt = found if ldm_meta is None else ldm_meta.get("vae_step", found)
    if found is None or learnt != found:
        raise CheckpointError(
            f"the diffusion in {workdir.ldm} was trained on the VAE of step {learnt}, which is "
            f"damaged or gone{problem}; put it back, or delete both {workdir.vae} and "
            f"{workdir.ldm} to train them again"
        )
    return restored.ema, meta["step"]


def check_finished(config: ConfigDict, workdir: Workdir, stage: str) -> None:
    """Raises CheckpointError where what is left of a stage, undamaged, is not its end."""
    meta = checkpoint.read_meta(workdir.stage(stage))
    if meta is not None and meta["step"] != config[stage].steps:
        last = workdir.stage(stage) / str(config[stage].steps)
        raise CheckpointError(
            f"{last} is damaged or gone, and training was not over at step {meta['step']}; "
            f"run the {stage} stage first"
        )


def read_config(workdir: Workdir) -> ConfigDict:
    """The configuration that a work directory was made with.

    Raises:
      CheckpointError: there is none.
    """
    path = workdir.config
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: {workdir.root} holds no model")
    config = ConfigDict(configuration.upgrade(json.loads(path.read_text())))
    configuration.validate(config)
    return config


def write_config(config: ConfigDict, path: epath.Path) -> None:
    """Writes a configuration as JSON, whole or not at all."""
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, configuration.to_saved(config), sort_keys=True)
    parallel.barrier("config written")


def _finished(
    folder: epath.Path, total: int, meta: dict[str, Any], *, goes_on: bool = False
) -> bool:
    """Whether a sound checkpoint of the last step stands in `folder`, the same on all processes.

    Args:
      folder: of the stage.
      total: its steps.
      meta: of the data at hand.
      goes_on: whether something is trained on what it gives.

    Raises:
      CheckpointError: it was trained on other data, or cannot be gone on from.
    """
    saved = checkpoint.share_meta(folder)
    if saved is None:
        return False
    loop.check_fingerprint(folder, saved, meta)
    if goes_on:
        loop.check_scaler(folder, saved, meta)
    return saved["step"] == total


def _schedule(config: ConfigDict, stage: str, dataset: Dataset) -> loop.StageConfig:
    section = config[stage]
    chunk = section.chunk
    if dataset.is_stored:
        numbers = section.batch * dataset.series.window * len(dataset.series.columns)
        chunk = feed.within_memory(chunk, 4 * numbers)
    return loop.StageConfig(
        section.steps, section.batch, chunk, section.eval_every, section.microbatch
    )


def _meta(config: ConfigDict, dataset: Dataset) -> dict[str, Any]:
    return {
        "config": configuration.to_saved(config),
        "columns": list(dataset.series.columns),
        "scaler": dataset.scaler.to_json(),
        "schema": None if dataset.schema is None else dataset.schema.to_json(),
        "fingerprint": dataset.series.fingerprint(),
        "versions": package_versions(),
    } | ({"devices": jax.device_count()} if config.data.placement == "sharded" else {})


def _matched(config: ConfigDict, dataset: Dataset) -> dict[str, Any]:
    """What of the training rows samples are matched to.

    Quantiles of each scaled feature for `sample.match_marginals`, None for flags and words; how
    often each repeats a value for `sample.hold_repeats`, 0 for flags, words and static columns;
    None where none does.
    """
    schema, series, c = dataset.schema, dataset.series, config.sample
    numeric = np.ones(len(series.columns), bool)
    if schema is not None:
        numeric = np.array([f.role == "value" for f in schemas.features(schema)])
    found: dict[str, Any] = {"marginals": None, "repeats": None}
    if c.match_marginals:
        scaled = dataset.scaler.scale(series.training_rows()).astype(np.float32)
        rows = marginals.quantiles(scaled).tolist()
        found["marginals"] = [row if own else None for row, own in zip(rows, numeric, strict=True)]
    if c.hold_repeats:
        size = series.window * len(series.columns)
        chosen = start_times.few(series.train, size)
        shares = repeats.shares(series.windows(chosen))
        if schema is not None:
            numeric[[place for place, _ in schema.static_features()]] = False
        shares = np.where(numeric, shares, 0.0)
        found["repeats"] = shares.tolist() if (shares >= repeats.FEWEST).any() else None
    return found
