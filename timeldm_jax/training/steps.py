"""One optimiser step of each stage, as a pure function of the state and the data.

The same body runs under `jit` on one device and under `pmap` on many (`parallel.py`). It sees the
global batch as positions: a device draws and trains on its own share, in parts. A part's loss is
what it contributes to the mean over the whole batch, whose size is known before: losses and
gradients of parts and devices add up, also where windows have gaps and count unequally.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from timeldm_jax.data.context import Context
from timeldm_jax.data.series import DeviceWindows, Missing, gather, hide
from timeldm_jax.diffusion import edm
from timeldm_jax.latents import Posteriors, posterior_of
from timeldm_jax.models import bind
from timeldm_jax.models.denoiser import Denoiser
from timeldm_jax.models.vae import VAE, draw
from timeldm_jax.settings import COUNT, FRACTION, POSITIVE, Rule, at_least, check_fields, one_of
from timeldm_jax.streams import Stream
from timeldm_jax.training import beta as adaptive_beta
from timeldm_jax.training import losses, state
from timeldm_jax.training.state import TrainState

Metrics = dict[str, Float[Array, ""]]
Step = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


class Fed(NamedTuple):
    """What a step reads of windows that were looked up on the host; see `feed`.

    Attributes:
      each: what differs from step to step: in a chunk with an axis of steps first, in a step
        without. Windows `(share, window, feature)` for the VAE, these and their context for the
        diffusion.
      fixed: what all steps read: the VAE's weights, for the diffusion.
    """

    each: Any
    fixed: Any


@dataclasses.dataclass(frozen=True)
class Batch:
    """The global batch and how devices share it.

    Attributes:
      size: examples over all devices.
      devices: number of devices, dividing `size`.
      axis: name of the mapped device axis, or None on one device.
      form: how steps are mapped over devices, `pmap` or `shard_map`; see `parallel`.
      micro: most examples that a device holds at once; it adds up the gradients of its parts.
        Small parts stay in a CPU's cache, and bound the memory of long windows anywhere.
      own: whether each device has examples of its own, which it alone draws from.
    """

    size: int
    devices: int = 1
    axis: str | None = None
    micro: int | None = None
    form: str = "pmap"
    own: bool = False

    def positions(self) -> Int[Array, "parts share"]:
        """Places in the global batch that this device trains on, in equal parts."""
        share = self.size // self.devices
        parts = -(-share // min(self.micro or share, share))
        while share % parts:
            parts += 1
        return self.first() + jnp.arange(share).reshape(parts, -1)

    def first(self) -> Int[Array, ""] | int:
        """The first place of this device's share."""
        share = self.size // self.devices
        return 0 if self.axis is None else jax.lax.axis_index(self.axis) * share

    def order(
        self, train: TrainState, positions: Int[Array, " part"], examples: int, *, ahead: int = 0
    ) -> Int[Array, " part"]:
        """The examples at some places of this device's share, each once an epoch.

        Args:
          train: for the key and the step.
          positions: places in the global batch.
          examples: how many the device has.
          ahead: that many places later, where after the last one comes the first.
        """
        if not self.own:
            places = (positions + ahead) % self.size if ahead else positions
            return state.epoch_order(train, places, self.size, examples)
        share = self.size // self.devices
        places = (positions - self.first() + ahead) % share
        device = 0 if self.axis is None else jax.lax.axis_index(self.axis)
        return state.epoch_order(train, places, share, examples, device)

    def local(self, tree: Any) -> Any:
        """What all devices hold alike, as each device's own: gradients by it are not added up yet.

        `shard_map` keeps account of what differs between devices, and adds up gradients by what
        does not.
        """
        if self.axis is None or self.form != "shard_map":
            return tree
        return jax.tree.map(lambda leaf: jax.lax.pcast(leaf, self.axis, to="varying"), tree)

    def sum(self, tree: Any) -> Any:
        """Adds up over devices."""
        return tree if self.axis is None else jax.lax.psum(tree, self.axis)

    def share(self, positions: Int[Array, " part"]) -> float:
        """The part of the batch that some of its places are."""
        return len(positions) / self.size


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How a stage updates its weights.

    Attributes:
      learning_rate: peak learning rate of Adam.
      b2: second-moment decay of Adam.
      schedule: "cosine" to zero over the run after a warm-up of a fiftieth of it, or "plateau":
        constant, reduced when the loss stalls.
      plateau_factor: what a plateau multiplies the rate by.
      plateau_patience: judgements without improvement that make a plateau.
      plateau_window: steps whose mean loss is one judgement.
      ema: decay of the weights' moving average a step.
    """

    learning_rate: float
    b2: float
    schedule: str
    plateau_factor: float
    plateau_patience: int
    plateau_window: int
    ema: float

    def __post_init__(self) -> None:
        """Checks the settings; raises ConfigError."""
        check_fields(
            self,
            learning_rate=POSITIVE,
            b2=FRACTION,
            schedule=one_of("cosine", "plateau"),
            plateau_factor=Rule(lambda value: 0 < value < 1, "must be in (0, 1)"),
            plateau_patience=COUNT,
            plateau_window=COUNT,
            ema=FRACTION,
        )


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformationExtraArgs:
    """Adam under the configured schedule. Its update takes the loss as `value`."""
    if config.schedule == "cosine":
        warmup = max(1, steps // 50)
        rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, max(steps, 2))
        return optax.with_extra_args_support(optax.adam(rate, b2=config.b2))
    return optax.chain(
        optax.adam(config.learning_rate, b2=config.b2),
        optax.contrib.reduce_on_plateau(
            factor=config.plateau_factor,
            patience=config.plateau_patience,
            accumulation_size=config.plateau_window,
        ),
    )


def vae_step(
    model: VAE,
    optimizer: optax.GradientTransformationExtraArgs,
    config: OptimizerConfig,
    beta_config: adaptive_beta.BetaConfig,
    batch: Batch,
    missing: Missing | None = None,
) -> Step:
    """The VAE's step over `DeviceWindows`: reconstruction terms + β·KL (docs/method.md, 2).

    Data with gaps says in `missing` which features have them; see `series.hide`. Where windows are
    `Fed`, those of a device are one more then, whose gaps its last window gets.
    """

    def step(train: TrainState, data: DeviceWindows | Fed) -> tuple[TrainState, Metrics]:
        beta = train.beta
        assert isinstance(beta, adaptive_beta.BetaState)

        windows = functools.partial(
            _windows, train, data, batch=batch, window=model.window, missing=missing
        )
        total: float | Array = float(batch.size * model.window * model.features)
        if missing is not None:  # before the gradient, for what a gather of the batch costs
            counts = jax.lax.map(lambda p: losses.known_count(windows(p)[1]), batch.positions())
            total = jnp.maximum(batch.sum(counts.sum()), 1)

        def loss_fn(params: Any, positions: Int[Array, " part"]) -> tuple[Array, Metrics]:
            x, target = windows(positions)
            noise = state.normal(
                state.step_key(train, Stream.POSTERIOR), positions, (model.window, model.latent)
            )
            output = bind(model, params)(x, noise)
            terms = losses.reconstruction_terms(
                target, output.reconstruction, gaps=missing is not None, total=total
            )
            reconstruction = losses.reconstruction_loss(terms, model.window)
            kl = batch.share(positions) * losses.kl_divergence(output.mean, output.log_variance)
            loss = reconstruction + beta.beta * kl
            return loss, {
                "loss": loss,
                "reconstruction": reconstruction,
                **terms._asdict(),
                "kl": kl,
            }

        train, metrics = _descend(train, loss_fn, optimizer, config, batch)
        new_beta = adaptive_beta.update(beta, metrics["reconstruction"], beta_config)
        return train._replace(beta=new_beta), metrics | {"beta": beta.beta}

    return step


def _windows(
    train: TrainState,
    data: DeviceWindows | Fed,
    positions: Int[Array, " part"],
    *,
    batch: Batch,
    window: int,
    missing: Missing | None,
) -> tuple[Array, Array]:
    """What the VAE reads and what it must give."""
    if isinstance(data, Fed):
        own = positions - batch.first()
        x, beside = data.each[own], own + 1
        return (x, x) if missing is None else hide(x, data.each[beside], missing)
    index = batch.order(train, positions, data.starts.shape[0])
    x = gather(data, index, window)
    if missing is None:
        return x, x
    other = batch.order(train, positions, data.starts.shape[0], ahead=1)
    return hide(x, gather(data, other, window), missing)


@dataclasses.dataclass(frozen=True)
class NoiseConfig:
    """EDM's noise distribution in training: `ln σ ~ N(P_mean, P_std²)` (arXiv 2206.00364).

    Attributes:
      sigma_data: σ_data, the standard deviation that latents are scaled to.
      P_mean: mean of ln σ.
      P_std: standard deviation of ln σ.
    """

    sigma_data: float
    P_mean: float
    P_std: float

    def __post_init__(self) -> None:
        """Checks the settings; raises ConfigError."""
        check_fields(self, sigma_data=POSITIVE, P_std=at_least(0))


def ldm_step(
    model: Denoiser,
    optimizer: optax.GradientTransformationExtraArgs,
    config: OptimizerConfig,
    noise_config: NoiseConfig,
    batch: Batch,
    encode: Callable[[Fed, Int[Array, " part"]], Posteriors] | None = None,
) -> Step:
    """The latent diffusion's step over `Posteriors`, a fresh draw at each visit, or the means.

    With `encode`, over windows that are `Fed`: it gives the posteriors of some of a step's.
    """

    def step(train: TrainState, data: Posteriors | Fed) -> tuple[TrainState, Metrics]:
        def loss_fn(params: Any, positions: Int[Array, " part"]) -> tuple[Array, Metrics]:
            if isinstance(data, Fed):
                assert encode is not None
                known = encode(data, positions - batch.first())
                index = jnp.arange(len(positions))
            else:
                known = data
                index = batch.order(train, positions, data.mean.shape[0])
            each = latent_losses(model, noise_config, train, known, index, positions)(params)
            loss = jnp.sum(each) / batch.size
            return loss, {"loss": loss}

        return _descend(train, loss_fn, optimizer, config, batch)

    return step


def encoder(vae: VAE, posterior: str) -> Callable[[Fed, Int[Array, " part"]], Posteriors]:
    """The posteriors of some of a step's windows, as `latents.encode` gives those of all.

    Args:
      vae: whose weights are what is `fixed`.
      posterior: as in `latents.LatentConfig`.
    """

    def encode(data: Fed, own: Int[Array, " part"]) -> Posteriors:
        windows, context = data.each
        latent, *rest = (
            part.reshape(len(own), -1)
            for part in posterior_of(vae, data.fixed, windows[own], posterior)
        )
        asked = context.at(own) if isinstance(context, Context) else ()
        return Posteriors(latent, rest[0] if rest else (), asked)

    return encode


def latent_losses(
    model: Denoiser,
    noise_config: NoiseConfig,
    train: TrainState,
    data: Posteriors,
    index: Int[Array, " batch"],
    positions: Int[Array, " batch"],
) -> Callable[[Any], Float[Array, " batch"]]:
    """The denoising loss of each of the examples `index`, as a function of the weights alone."""
    shape, z = data.mean.shape[1:], data.mean[index]
    if not isinstance(data.log_variance, tuple):
        unit = state.normal(state.step_key(train, Stream.POSTERIOR), positions, shape)
        z = draw(z, data.log_variance[index], unit)
    z = train.latent_stats.apply(z)
    level = state.normal(state.step_key(train, Stream.NOISE_LEVEL), positions, ())
    sigma = edm.noise_level(level, noise_config.P_mean, noise_config.P_std)
    noise = state.normal(state.step_key(train, Stream.NOISE), positions, z.shape[1:])

    sigma_data = train.latent_stats.sigma_data(noise_config.sigma_data)
    more: tuple[Any, ...] = ()
    if isinstance(data.context, Context):
        size = model.context + 1
        normal = state.normal(state.step_key(train, Stream.CONTEXT), positions, (size,))
        more = (data.context.at(index).dropped(normal).vectors(),)

    def loss_fn(params: Any) -> Float[Array, " batch"]:
        def network(z: Array, label: Array) -> Array:
            return bind(model, params)(z, label, *more)

        return edm.denoising_loss(network, z, noise, sigma, sigma_data)

    return loss_fn


def _descend(
    train: TrainState,
    loss_fn: Callable[[Any, Int[Array, " part"]], tuple[Array, Metrics]],
    optimizer: optax.GradientTransformationExtraArgs,
    config: OptimizerConfig,
    batch: Batch,
) -> tuple[TrainState, Metrics]:
    """Gradient of the sum over parts and devices, Adam and the moving average."""
    gradient = jax.grad(loss_fn, has_aux=True)
    positions, params = batch.positions(), batch.local(train.params)
    if len(positions) == 1:
        sums = gradient(params, positions[0])
    else:

        def add_part(total: Any, part: Int[Array, " part"]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradient(params, part)), None

        shapes = jax.eval_shape(gradient, params, positions[0])
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        sums, _ = jax.lax.scan(add_part, batch.local(zeros), positions)
    grads, metrics = batch.sum(sums)
    updates, opt_state = optimizer.update(
        grads, train.opt_state, train.params, value=metrics["loss"]
    )
    params = optax.apply_updates(train.params, updates)
    ema = jax.tree.map(lambda old, new: old + (1 - config.ema) * (new - old), train.ema, params)
    return train._replace(step=train.step + 1, params=params, opt_state=opt_state, ema=ema), metrics
