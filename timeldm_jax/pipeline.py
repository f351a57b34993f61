"""The stages in the order that data flows: VAE, latents, latent diffusion, samples.

Each stage reads what the one before left in the work directory, so any can be run alone, resumed,
or skipped once finished.
"""

import dataclasses
import functools
import json
import logging
import platform
import time
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from timeldm_jax import config as configuration
from timeldm_jax.data import table as tables
from timeldm_jax.data.load import Dataset
from timeldm_jax.data.scaling import Scaler
from timeldm_jax.data.schema import Schema
from timeldm_jax.data.series import DeviceWindows, Missing, fill, gather
from timeldm_jax.diffusion import conditional, edm, samplers
from timeldm_jax.models.denoiser import Denoiser
from timeldm_jax.models.vae import VAE
from timeldm_jax.training import beta, checkpoint, loop, losses, parallel, state, steps
from timeldm_jax.training.state import TrainState
from timeldm_jax.training.steps import LatentStats, Posteriors

_log = logging.getLogger(__name__)

ENCODE_BATCH = 1024
VALID_WINDOWS = 1024
LDM_VALID_DRAWS = 4
PRIOR_SAMPLES, PRIOR_BATCH = 4_000, 1_000
COMPLETION = 1  # folded into the key of a seed: completions share no noise with samples
MARGIN = 2  # rows at the end of a window that extensions do not use
STATS_BATCH = 16_384
PyTree = Any


@dataclasses.dataclass(frozen=True)
class Models:
    """The two networks of a configuration over data with given features."""

    vae: VAE
    denoiser: Denoiser

    @property
    def flat(self) -> int:
        """Size of a flattened latent, T·m."""
        return self.vae.window * self.vae.latent


def build_models(config: ConfigDict, features: int) -> Models:
    """The networks of `config` for data with `features` columns.

    Raises:
      ValueError: sizes that do not fit together.
    """
    return Models(
        VAE(features=features, window=config.data.window, **config.vae.model),
        Denoiser(**config.ldm.model),
    )


def make_batch(config: ConfigDict, stage: str) -> steps.Batch:
    """The global batch of a stage over every device of every process.

    Raises:
      ConfigError: the devices do not divide it.
    """
    try:
        return parallel.make_batch(config[stage].batch, config[stage].get("microbatch"))
    except ValueError as error:
        raise configuration.ConfigError(f"config.{stage}.batch: {error}") from error


def init_vae_state(config: ConfigDict, models: Models) -> TrainState:
    """The VAE's state at step 0, a function of `config.seed`."""
    init_key, train_key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 0))
    vae = models.vae
    x = jnp.zeros((1, vae.window, vae.features))
    noise = jnp.zeros((1, vae.window, vae.latent))
    params = jax.jit(vae.init)(init_key, x, noise)["params"]
    optimizer = steps.make_optimizer(configuration.optimizer_config(config.vae), config.vae.steps)
    beta_state = beta.init(configuration.beta_config(config))
    return state.init(params, optimizer, train_key, beta=beta_state)


def init_ldm_state(config: ConfigDict, models: Models, stats: LatentStats) -> TrainState:
    """The latent diffusion's state at step 0, a function of `config.seed`."""
    init_key, train_key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1))
    params = jax.jit(models.denoiser.init)(init_key, jnp.zeros((1, models.flat)), jnp.zeros(1))
    optimizer = steps.make_optimizer(configuration.optimizer_config(config.ldm), config.ldm.steps)
    return state.init(params["params"], optimizer, train_key, latent_stats=stats)


def make_vae_step(config: ConfigDict, models: Models, missing: Missing | None) -> steps.Step:
    """The VAE's step of a configuration."""
    optimizer_config = configuration.optimizer_config(config.vae)
    return steps.vae_step(
        models.vae,
        steps.make_optimizer(optimizer_config, config.vae.steps),
        optimizer_config,
        configuration.beta_config(config),
        make_batch(config, "vae"),
        missing,
    )


def make_ldm_step(config: ConfigDict, models: Models) -> steps.Step:
    """The latent diffusion's step of a configuration."""
    optimizer_config = configuration.optimizer_config(config.ldm)
    return steps.ldm_step(
        models.denoiser,
        steps.make_optimizer(optimizer_config, config.ldm.steps),
        optimizer_config,
        configuration.noise_config(config),
        make_batch(config, "ldm"),
    )


def step_seconds(config: ConfigDict, dataset: Dataset, stage: str) -> float:
    """Seconds of a training step of a stage, by running a chunk of them on throw-away weights."""
    models = build_models(config, len(dataset.series.columns))
    if stage == "vae":
        step = make_vae_step(config, models, dataset.missing)
        train = init_vae_state(config, models)
        data: Any = DeviceWindows(jnp.asarray(dataset.scaled()), jnp.asarray(dataset.series.train))
    else:
        step = make_ldm_step(config, models)
        zeros = jnp.zeros((min(len(dataset.series.train), 10_000), models.flat))
        data = Posteriors(zeros, zeros)
        stats = jax.tree.map(jnp.ones_like, zero_stats(config, models))
        train = init_ldm_state(config, models, stats)
    chunk = parallel.chunk_runner(step, make_batch(config, stage))(config[stage].chunk)
    train, _ = jax.block_until_ready(chunk(train, data))
    start = time.monotonic()
    jax.block_until_ready(chunk(train, data))
    return (time.monotonic() - start) / config[stage].chunk


def train_vae(config: ConfigDict, dataset: Dataset, workdir: epath.Path) -> None:
    """Trains the VAE to `config.vae.steps`, or does nothing where that is done."""
    meta = _meta(config, dataset)
    if _finished(workdir / "vae", config.vae.steps, meta):
        _log.info("vae: finished before, skipped")
        return
    models = build_models(config, len(dataset.series.columns))
    step = make_vae_step(config, models, dataset.missing)
    values = dataset.scaled()
    loop.train(
        "vae",
        init_vae_state(config, models),
        DeviceWindows(jnp.asarray(values), jnp.asarray(dataset.series.train)),
        parallel.chunk_runner(step, make_batch(config, "vae")),
        _vae_validation(models.vae, DeviceWindows(values, _valid_sample(dataset.series.valid))),
        _schedule(config.vae),
        workdir / "vae",
        loop.Journal(workdir),
        meta,
    )


def train_ldm(config: ConfigDict, dataset: Dataset, workdir: epath.Path) -> None:
    """Trains the latent diffusion to `config.ldm.steps`, or does nothing where that is done.

    Raises:
      CheckpointError: the VAE is not trained to its last step, or on other data.
    """
    meta = _meta(config, dataset)
    if _finished(workdir / "ldm", config.ldm.steps, meta):
        _log.info("ldm: finished before, skipped")
        return
    if not _finished(workdir / "vae", config.vae.steps, meta):
        # Latents of a VAE that changes afterwards would train a diffusion that fits no decoder.
        raise checkpoint.CheckpointError(
            f"the VAE in {workdir / 'vae'} is not trained to step {config.vae.steps}; "
            "run the vae stage first"
        )
    models = build_models(config, len(dataset.series.columns))
    vae_params, vae_step = load_vae(config, models, workdir, share=True)
    values = dataset.scaled()
    posteriors = encode(models.vae, vae_params, values, dataset.series.train)
    valid = encode(models.vae, vae_params, values, _valid_sample(dataset.series.valid))
    noise_config = configuration.noise_config(config)
    stats = latent_stats(posteriors, config.ldm.latents, noise_config.sigma_data)
    stats = parallel.share_from_first(stats)  # axes are unique only up to sign and rounding
    loop.train(
        "ldm",
        init_ldm_state(config, models, stats),
        jax.tree.map(jnp.asarray, posteriors),
        parallel.chunk_runner(make_ldm_step(config, models), make_batch(config, "ldm")),
        _ldm_validation(models.denoiser, noise_config, stats, valid),
        _schedule(config.ldm),
        workdir / "ldm",
        loop.Journal(workdir),
        meta | {"vae_step": vae_step},
    )


def encode(
    vae: VAE,
    params: PyTree,
    values: Float[np.ndarray, "rows feature"],
    starts: Int[np.ndarray, " windows"],
) -> Posteriors:
    """The posteriors of the windows at `starts`, numpy `(windows, T·m)` each, in large batches."""
    data = DeviceWindows(jnp.asarray(values), jnp.asarray(starts))

    @jax.jit
    def encode_batch(params: PyTree, data: DeviceWindows, index: Array) -> tuple[Array, Array]:
        x = fill(gather(data, index, vae.window))
        return steps.bind(vae, params, "encode")(x)

    parts = []
    for first in range(0, len(starts), ENCODE_BATCH):
        # The last batch repeats its last window rather than compile for another size.
        index = np.minimum(np.arange(first, first + ENCODE_BATCH), len(starts) - 1)
        count = min(ENCODE_BATCH, len(starts) - first)
        mean, log_variance = encode_batch(params, data, index)
        parts.append(
            tuple(np.asarray(a).reshape(ENCODE_BATCH, -1)[:count] for a in (mean, log_variance))
        )
    mean, log_variance = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Posteriors(mean, log_variance)


def latent_stats(posteriors: Posteriors, latents: str, sigma_data: float) -> LatentStats:
    """How latents are laid out for the diffusion, from posterior draws of the training windows.

    - `raw`: as they are.
    - `standard`: zero mean and unit variance per coordinate.
    - `principal`: turned to the principal axes of the draws' covariance, widest first, and scaled
      as a whole to a mean square of `sigma_data²`; each keeps its own deviation.

    The covariance of draws is that of the means plus the mean of the variances.
    """
    flat = posteriors.mean.shape[1]
    if latents == "raw":
        return LatentStats(np.zeros(flat, np.float32), np.ones(flat, np.float32))
    mean = posteriors.mean.mean(axis=0, dtype=np.float64)
    own_variance = np.zeros(flat)
    covariance = np.zeros((flat, flat)) if latents == "principal" else None
    variance = np.zeros(flat)
    for first in range(0, len(posteriors.mean), STATS_BATCH):  # bounds the memory of float64
        part = slice(first, first + STATS_BATCH)
        centred = posteriors.mean[part] - mean
        own_variance += np.exp(posteriors.log_variance[part], dtype=np.float64).sum(axis=0)
        if covariance is None:
            variance += np.square(centred).sum(axis=0)
        else:
            covariance += centred.T @ centred
    if covariance is None:
        variance = (variance + own_variance) / len(posteriors.mean)
        return LatentStats(mean.astype(np.float32), np.sqrt(variance).astype(np.float32))
    covariance = (covariance + np.diag(own_variance)) / len(posteriors.mean)
    variance, axes = np.linalg.eigh(covariance)
    variance, axes = np.maximum(variance[::-1], 1e-12 * variance[-1]), axes[:, ::-1]
    scale = np.sqrt(variance.mean()) / sigma_data
    stats = LatentStats(mean, np.full(flat, scale), axes, np.sqrt(variance) / scale)
    return jax.tree.map(lambda array: np.ascontiguousarray(array, np.float32), stats)


def zero_stats(config: ConfigDict, models: Models) -> LatentStats:
    """Latent statistics of the shapes that `latent_stats` gives: the template of a checkpoint."""
    flat = jnp.zeros(models.flat)
    if config.ldm.latents != "principal":
        return LatentStats(flat, flat)
    return LatentStats(flat, flat, jnp.zeros((models.flat, models.flat)), flat)


@dataclasses.dataclass(frozen=True)
class Generator:
    """A trained TimeLDM: all that sampling needs.

    Attributes:
      config: as trained.
      models: the networks.
      vae_params: averaged weights of the best VAE checkpoint.
      ldm_params: averaged weights of the best diffusion checkpoint.
      stats: between the VAE's latents and the diffusion's.
      scaler: back to the data's own units.
      columns: names of the features.
      schema: what the columns of the user's table are, or None where the data was no table.
      meta: metadata of the diffusion checkpoint.
    """

    config: ConfigDict
    models: Models
    vae_params: PyTree
    ldm_params: PyTree
    stats: LatentStats
    scaler: Scaler
    columns: tuple[str, ...]
    schema: Schema | None
    meta: dict[str, Any]

    def sample(self, count: int, seed: int) -> Iterator[Float[np.ndarray, "n window feature"]]:
        """Yields batches of synthetic windows in the data's own units, float64.

        Window i is a function of (seed, i) alone, whatever the batch size. Windows of a table are
        as its columns can hold them (`table.snap`), within the range of the table.

        Args:
          count: windows in all.
          seed: of the noise.
        """
        batch = min(self.config.sample.batch, max(count, 1))
        devices = jax.local_device_count()
        batch = -(-batch // devices) * devices
        key = jax.random.key(seed)
        for first in range(0, count, batch):
            index = jnp.arange(first, first + batch)
            drawn = self._draw(self.vae_params, self.ldm_params, self.stats, key, index)
            windows = self._finish(np.asarray(drawn)[: count - first])
            yield windows if self.schema is None else tables.within_range(windows, self.schema)

    def complete(
        self, observed: Float[np.ndarray, "n window feature"], seed: int, *turns: int
    ) -> Float[np.ndarray, "n window feature"]:
        """Windows that agree with what is observed of them, in the data's own units, float64.

        Args:
          observed: NaN where the model is to say.
          seed: of the noise. Window i depends on (seed, turns, i) alone.
          turns: which of several completions under one seed, none of which shares noise with
            another, with those of another seed, or with `sample`.
        """
        scaled = self.scaler.scale(observed).astype(np.float32)
        batch = min(self.config.sample.batch, len(observed))
        key, parts = jax.random.fold_in(jax.random.key(seed), COMPLETION), []
        for turn in turns:
            key = jax.random.fold_in(key, turn)
        for first in range(0, len(observed), batch):
            index = np.arange(first, first + batch)
            part = scaled[np.minimum(index, len(scaled) - 1)]
            arguments = (self.vae_params, self.ldm_params, self.stats, self._prior)
            found = self._complete(*arguments, key, index, part)
            parts.append(np.asarray(found)[: len(observed) - first])
        return np.where(np.isnan(observed), self._finish(np.concatenate(parts)), observed)

    def extend(
        self, before: Float[np.ndarray, "n rows feature"], count: int, seed: int
    ) -> Float[np.ndarray, "n count feature"]:
        """What may follow rows, a third of a window at a time, in the data's own units, float64.

        Args:
          before: at least a row; the last of them, up to a window less what is drawn, count.
          count: rows to draw.
          seed: of the noise.
        """
        window, rows = self.models.vae.window, before.shape[1]
        ends = rows + np.append(joins(count, window), count)
        series = np.full((len(before), rows + count, before.shape[2]), np.nan)
        series[:, :rows] = before
        start = rows
        with loop.progress("extend", count, unit="row") as show:
            for step, end in enumerate(ends):
                observed = np.full((len(before), window, before.shape[2]), np.nan)
                # The last rows of a window bend more than others: they are drawn and thrown away.
                new = end - start
                ahead = min(new + MARGIN, window - 1)
                known = series[:, max(start + ahead - window, 0) : start]
                observed[:, window - ahead - known.shape[1] : window - ahead] = known
                if self.schema is not None and self.schema.padded:
                    observed[..., -1] = 1.0
                drawn = self.complete(observed, seed, step)[:, window - ahead :]
                series[:, start:end] = drawn[:, :new]
                start = end
                show(int(end) - rows, {})
        return series[:, rows:]

    def _finish(self, scaled: Float[np.ndarray, "n time feature"]) -> Any:
        windows = self.scaler.unscale(scaled)
        return windows if self.schema is None else tables.snap(windows, self.schema)

    @functools.cached_property
    def _complete(self) -> Any:
        """The compiled completion of scaled windows by their numbers."""
        denoiser, sigma_data = self.models.denoiser, self.config.ldm.noise.sigma_data

        def run(
            vae_params: PyTree,
            ldm_params: PyTree,
            stats: LatentStats,
            prior: conditional.Prior,
            key: Array,
            index: Array,
            observed: Array,
        ) -> Array:
            network = steps.bind(denoiser, ldm_params)

            def noise(number: Array | int) -> Array:
                return state.normal(jax.random.fold_in(key, number), index, (self.models.flat,))

            deviation = stats.sigma_data(sigma_data)
            return conditional.complete(
                lambda z, sigma: edm.denoise(network, z, sigma, deviation),
                lambda z: self._decode(vae_params, stats, z),
                observed,
                noise,
                prior,
            )

        return jax.jit(run)

    @functools.cached_property
    def _prior(self) -> conditional.Prior:
        """The covariance of the diffusion's latents, of the model's own samples."""
        key, drawn = jax.random.key(0), []
        for first in range(0, PRIOR_SAMPLES, PRIOR_BATCH):
            index = jnp.arange(first, first + PRIOR_BATCH)
            z = self._draw_latents(self.ldm_params, self.stats, key, index)
            drawn.append(np.asarray(z, np.float64))
        values, vectors = np.linalg.eigh(np.cov(np.concatenate(drawn).T))
        return conditional.Prior(
            jnp.asarray(np.maximum(values, 0), jnp.float32), jnp.asarray(vectors, jnp.float32)
        )

    @functools.cached_property
    def _draw_latents(self) -> Any:
        """The compiled draw of the diffusion's latents by their numbers."""
        c = self.config.sample
        sigmas = samplers.karras_sigmas(c.steps, c.sigma_min, c.sigma_max, c.rho)
        sigma_data = self.config.ldm.noise.sigma_data

        def draw(ldm_params: PyTree, stats: LatentStats, key: Array, index: Array) -> Array:
            network = steps.bind(self.models.denoiser, ldm_params)

            def noise(number: Array | int) -> Array:
                return state.normal(jax.random.fold_in(key, number), index, (self.models.flat,))

            deviation = stats.sigma_data(sigma_data)
            if c.solver == "polar":
                return samplers.polar(
                    lambda z, sigma: edm.raw_output(network, z, sigma, deviation),
                    noise(c.steps),
                    sigmas,
                    deviation,
                )
            return samplers.heun(
                lambda z, sigma: edm.denoise(network, z, sigma, deviation),
                noise(c.steps),
                sigmas,
                churn=c.churn,
                step_noise=noise,
            )

        return jax.jit(draw)

    @functools.cached_property
    def _draw(self) -> Any:
        """The compiled draw of scaled windows by their numbers, over all devices of this host."""

        def draw(
            vae_params: PyTree, ldm_params: PyTree, stats: LatentStats, key: Array, index: Array
        ) -> Array:
            z = self._draw_latents(ldm_params, stats, key, index)
            return self._decode(vae_params, stats, z)

        mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("sample",))
        shared = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("sample"))
        same = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        return jax.jit(draw, in_shardings=(same, same, same, same, shared), out_shardings=shared)

    def _decode(self, vae_params: PyTree, stats: LatentStats, z: Array) -> Array:
        """Windows in [0, 1] of the diffusion's flat latents."""
        vae = self.models.vae
        z = stats.invert(z).reshape(-1, vae.window, vae.latent)
        return steps.bind(vae, vae_params, "decode")(z)


def joins(count: int, window: int) -> Int[np.ndarray, " joins"]:
    """Rows of an extension by `count` rows at which another window begins to be drawn.

    A quarter to a third of a window apart, so that no rhythm of the data (a day of hours) always
    meets a join.
    """
    random = np.random.default_rng(0)
    most = max(window // 3, 1)
    steps_apart = random.integers(max(window // 4, 1), most + 1, count)
    found = np.cumsum(steps_apart)
    return found[found < count]


def load_vae(
    config: ConfigDict, models: Models, workdir: epath.Path, *, share: bool = False
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
    restored, meta = checkpoint.restore_best(workdir / "vae", template, share=share)
    read_meta = checkpoint.share_meta if share else checkpoint.read_meta
    ldm_meta = read_meta(workdir / "ldm")
    if ldm_meta is not None and ldm_meta["vae_step"] != meta["step"]:
        raise checkpoint.CheckpointError(
            f"the diffusion in {workdir / 'ldm'} was trained on the VAE of step "
            f"{ldm_meta['vae_step']}, which is damaged or gone; delete {workdir / 'ldm'} to train "
            f"it again on the VAE of step {meta['step']}"
        )
    return restored.ema, meta["step"]


def load_generator(workdir: epath.Path) -> Generator:
    """The generator that a work directory or a saved model holds.

    Raises:
      CheckpointError: a part is missing or damaged.
    """
    config = read_config(workdir)
    columns = tuple(checkpoint.read_best_meta(workdir / "ldm")["columns"])
    models = build_models(config, len(columns))

    def ldm_template() -> TrainState:
        return init_ldm_state(config, models, zero_stats(config, models))

    restored, meta = checkpoint.restore_best(workdir / "ldm", jax.eval_shape(ldm_template))
    vae_params, _ = load_vae(config, models, workdir)
    return Generator(
        config=config,
        models=models,
        vae_params=vae_params,
        ldm_params=restored.ema,
        stats=LatentStats(*restored.latent_stats),
        scaler=Scaler.from_json(meta["scaler"]),
        columns=columns,
        schema=None if meta["schema"] is None else Schema.from_json(meta["schema"]),
        meta=meta,
    )


def read_config(workdir: epath.Path) -> ConfigDict:
    """The configuration that a work directory was made with.

    Raises:
      CheckpointError: there is none.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise checkpoint.CheckpointError(f"{path} does not exist: {workdir} holds no model")
    config = ConfigDict(json.loads(path.read_text()))
    configuration.validate(config)
    return config


def write_config(config: ConfigDict, workdir: epath.Path, name: str = "config.json") -> None:
    """Writes a configuration as JSON, whole or not at all."""
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        partial = workdir / f"{name}.tmp"
        partial.write_text(json.dumps(config.to_dict(), indent=1, sort_keys=True) + "\n")
        partial.replace(workdir / name)
    parallel.barrier("config written")


def _finished(folder: epath.Path, total: int, meta: dict[str, Any]) -> bool:
    """Whether a sound checkpoint of the last step stands in `folder`, the same on all processes.

    Raises:
      CheckpointError: it was trained on other data.
    """
    saved = checkpoint.share_meta(folder)
    if saved is None:
        return False
    loop.check_fingerprint(folder, saved, meta)
    return saved["step"] == total


def _schedule(stage: ConfigDict) -> loop.Schedule:
    return loop.Schedule(stage.steps, stage.chunk, stage.eval_every)


def _meta(config: ConfigDict, dataset: Dataset) -> dict[str, Any]:
    names = ("timeldm_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "config": config.to_dict(),
        "columns": list(dataset.series.columns),
        "scaler": dataset.scaler.to_json(),
        "schema": None if dataset.schema is None else dataset.schema.to_json(),
        "fingerprint": dataset.series.fingerprint(),
        "versions": {name: metadata.version(name) for name in names}
        | {"python": platform.python_version()},
    }


def _valid_sample(starts: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """At most VALID_WINDOWS starts, evenly spread: enough to rank checkpoints by."""
    keep = np.linspace(0, len(starts) - 1, min(VALID_WINDOWS, len(starts))).astype(int)
    return starts[keep]


def _vae_validation(vae: VAE, data: DeviceWindows) -> Any:
    """Reconstruction loss of the validation windows at a fixed posterior draw.

    Without the KL, whose weight changes as training goes on.
    """
    x = gather(DeviceWindows(*map(jnp.asarray, data)), jnp.arange(len(data.starts)), vae.window)
    noise = jax.random.normal(jax.random.key(0), (len(x), vae.window, vae.latent))

    @jax.jit
    def evaluate(params: PyTree, x: Array, noise: Array) -> dict[str, Array]:
        output = steps.bind(vae, params)(fill(x), noise)
        terms = losses.reconstruction_terms(x, output.reconstruction, gaps=True)
        return {"loss": losses.reconstruction_loss(terms, vae.window), "l1": terms.l1}

    return lambda params: {name: float(v) for name, v in evaluate(params, x, noise).items()}


def _ldm_validation(
    denoiser: Denoiser, noise_config: steps.NoiseConfig, stats: LatentStats, data: Posteriors
) -> Any:
    """Denoising loss of the validation windows at fixed draws, noise and noise levels."""
    index = jnp.tile(jnp.arange(len(data.mean)), LDM_VALID_DRAWS)
    fixed = TrainState(
        step=jnp.int32(0),
        params=(),
        opt_state=(),
        ema=(),
        beta=(),
        latent_stats=stats,
        key=jax.random.key_data(jax.random.key(0)),
    )
    posteriors = Posteriors(*map(jnp.asarray, data))

    @jax.jit
    def evaluate(params: PyTree, fixed: TrainState, posteriors: Posteriors) -> Array:
        positions = jnp.arange(len(index))
        return steps.latent_loss(denoiser, noise_config, fixed, posteriors, index, positions)(
            params
        )

    return lambda params: {"loss": float(evaluate(params, fixed, posteriors))}
