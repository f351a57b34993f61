"""A trained model to draw from: windows, completions of windows, and long series.

All randomness follows from seeds: window i of a seed is the same whatever the batch or the devices.
"""

import dataclasses
import functools
import logging
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from timeldm_jax import asked as asking
from timeldm_jax import drawing, latents, marginals, overlap, repeats, streams
from timeldm_jax.asked import Asked, Vectors
from timeldm_jax.data import relations, rules
from timeldm_jax.data import table as tables
from timeldm_jax.data.clock import Steps
from timeldm_jax.data.scaling import Curve, Scaler
from timeldm_jax.data.schema import Schema
from timeldm_jax.diffusion import conditional
from timeldm_jax.errors import NonFiniteSamplesError, whole_seed
from timeldm_jax.latents import Drift, LatentStats
from timeldm_jax.streams import Stream
from timeldm_jax.training.stages import Models

PRIOR_SAMPLES = 4_000
MOST_AXES = 8_192  # latents whose covariance is made in float64: half a gigabyte
REPEATS_SAMPLES = 1_000
DRIFT_SAMPLES = 8_000  # a deviation is known to within .8 %
MODEL_SEED = 0  # of the draws by which a model learns its own covariance and marginals
PyTree = Any

_log = logging.getLogger(__name__)


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
      marginals: quantiles of the scaled training data that samples are mapped to, NaN for features
        that are left alone; None where `sample.match_marginals` is off.
      drawn: those of the model's own samples, measured after training; None: not yet. See
        `marginals`.
      drift: of the diffusion's samples, likewise; used with `sample.match_axes`.
      shares: how often each feature of the training data repeats a value; None where
        `sample.hold_repeats` is off.
      close: how close values of the model's samples are to be held, likewise; see `repeats`.
      wider: by how much forecasts are wider than drawn; None: not measured. See `bands`.
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
    marginals: Float[np.ndarray, "feature level"] | None = None
    drawn: Float[np.ndarray, "feature drawn_level"] | None = None
    drift: Drift | None = None
    shares: Float[np.ndarray, " feature"] | None = None
    close: Float[np.ndarray, " feature"] | None = None
    wider: Float[np.ndarray, "part feature"] | None = None

    def sample(
        self, count: int, seed: int, asked: Asked | None = None
    ) -> Iterator[Float[np.ndarray, "n window feature"]]:
        """Yields batches of synthetic windows in the data's own units, float64.

        Window i is a function of (seed, i) alone, whatever the batch size, and whatever part of the
        windows it is drawn with. Values lie between the smallest and largest of the training data,
        and with `config.sample.match_marginals` each feature is distributed as in it; windows of a
        table are as its columns can hold them (`table.snap`), within the range of the table.

        Args:
          count: windows in all.
          seed: of the noise, a whole number from 0 to 2³² − 1.
          asked: what windows are asked for by, and the number of the first; default: by nothing,
            or by times as the data has them, from number 0 on.

        Raises:
          NonFiniteSamplesError: the networks gave NaN or infinity; what came before was finite.
        """
        asked = asked or Asked(count)
        first = asked.first
        for scaled in self.draws(count, seed, asked):
            yield self.finished(scaled, asked.part(first, len(scaled)))
            first += len(scaled)

    def draws(
        self, count: int, seed: int, asked: Asked | None = None
    ) -> Iterator[Float[np.ndarray, "n window feature"]]:
        """What the devices do of `sample`: batches of scaled windows, float32.

        A batch is on its way on the devices while the one before is used.
        """
        key = self._key(seed)
        asked, largest = (asked or Asked(count)).timed(self.schema, seed), self.largest

        def started(first: int, size: int) -> Float[Array, "n window feature"]:
            numbers = np.arange(asked.first + first, asked.first + first + size)
            return self._start_numbered(key, numbers, self._vectors(asked.of(numbers)))

        begun = ((f, started(f, size)) for f, size in latents.batches(count, largest))
        for first, batch in overlap.one_ahead(begun):
            yield np.asarray(batch)[: count - first]

    def finished(
        self, scaled: Float[np.ndarray, "n window feature"], asked: Asked
    ) -> Float[np.ndarray, "n window feature"]:
        """What the host does of `sample`: `draws` in the data's own units, of what was asked."""
        given = None
        if asked.rows is not None:
            given = np.broadcast_to(asked.rows[:, None], scaled.shape)
        windows = self._finish("sampling", scaled, asked.first, given)
        if self.schema is None:
            return self.scaler.within_range(windows)
        return tables.within_range(windows, self.schema)

    def complete(
        self,
        observed: Float[np.ndarray, "n window feature"],
        seed: int,
        *turns: int,
        numbers: Int[np.ndarray, " n"] | None = None,
        steps: Steps | None = None,
        often: bool = False,
        stage: str = "completion",
    ) -> Float[np.ndarray, "n window feature"]:
        """Windows that agree with what is observed of them, in the data's own units, float64.

        Args:
          observed: NaN where the model is to say.
          seed: of the noise. A window depends on what is observed of it and on (seed, turns, its
            number) alone.
          turns: which of several completions under one seed, none of which shares noise with
            another, with those of another seed, or with `sample`.
          numbers: of the windows; default: 0, 1, ….
          steps: of the schema's clock at their first rows; default: not known.
          often: what of the calendar these tell; see `asked.observed`.
          stage: what errors call this.

        Raises:
          NonFiniteSamplesError: the networks gave NaN or infinity.
        """
        count = len(observed)
        numbers = np.arange(count) if numbers is None else numbers
        scaled = marginals.to_model(self.scaler.scale(observed), self._maps).astype(np.float32)
        found = np.empty_like(scaled)
        # The number of turns too: else (a, b) would draw from keys below those of (a,).
        key = self._key(seed, Stream.COMPLETION, len(turns), *turns)
        largest = self._largest_completion
        context = self._vectors(asking.observed(observed, steps, often=often))
        for first, size in latents.batches(count, largest):
            chosen = np.minimum(np.arange(first, first + size), count - 1)
            own = tuple(each[chosen] for each in context)
            part = self._placed((numbers[chosen].astype(np.int32), scaled[chosen], own), "split")
            drawn = self._complete(self._weights, self._prior, key, *part)
            found[first : first + size] = np.asarray(drawn)[: count - first]
        found = self._finish(stage, found, given=observed)
        return np.where(np.isnan(observed), found, observed)

    def _finish(
        self,
        stage: str,
        scaled: Float[np.ndarray, "n time feature"],
        first: int = 0,
        given: Float[np.ndarray, "n time feature"] | None = None,
    ) -> Float[np.ndarray, "n time feature"]:
        """Windows in the data's own units, float64, as the data can hold them."""
        self._check_finite(stage, scaled, first)
        windows = self.scaler.unscale(marginals.to_data(scaled, self._maps))
        self._check_finite(stage, windows, first)  # a logarithm's inverse can overflow
        if self.shares is not None:
            windows = repeats.hold(windows, self.own_closeness, given)
        windows = self._rounded(windows, given)
        return windows if self.schema is None else rules.keep(windows, self.schema, given)

    def _rounded(
        self,
        windows: Float[np.ndarray, "n time feature"],
        given: Float[np.ndarray, "n time feature"] | None = None,
    ) -> Float[np.ndarray, "n time feature"]:
        """Windows with values that the data has; static columns alike in all rows, as given."""
        if self.schema is None:
            return self.scaler.nearest(windows)
        settled = relations.settle_windows(windows, self.schema, given)
        return tables.snap(settled, self.schema, given)

    def _check_finite(
        self, stage: str, windows: Float[np.ndarray, "n time feature"], first: int
    ) -> None:
        bad = np.argwhere(~np.isfinite(windows))
        if len(bad):
            window, _, feature = bad[0]
            value = windows[tuple(bad[0])]
            raise NonFiniteSamplesError(
                f"{stage} gave {value} for {self.columns[feature]!r} in window {first + window}: "
                "the model's weights are broken, or what it was trained on is too narrow for "
                "float32; train it again (with other data, or a lower learning rate)"
            )

    @property
    def largest(self) -> int:
        """Windows of a batch on one device, at most."""
        return latents.windows_per_call(self.models.vae, self.config.sample.batch)

    @property
    def _largest_completion(self) -> int:
        """As `largest`, where a reverse derivative keeps every block's attention."""
        # On a CPU the time a window is the same from 16 at once, and that to compile grows.
        cpu = jax.default_backend() == "cpu"
        most = latents.SMALL_BATCH if cpu else self.config.sample.batch
        return latents.windows_per_call(self.models.vae, most, 4 * self.models.vae.decoder_layers)

    @functools.cached_property
    def _shardings(self) -> dict[str, jax.sharding.NamedSharding]:
        """Over the devices of this host: `split` by the first axis, or the `same` on all."""
        mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("sample",))
        return {
            name: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
            for name, axes in (("split", ("sample",)), ("same", ()))
        }

    def _placed(self, tree: Any, how: str) -> Any:
        return jax.device_put(tree, self._shardings[how])

    @functools.cached_property
    def _weights(self) -> tuple[PyTree, PyTree, LatentStats]:
        """Weights and statistics on the devices, placed once."""
        return self._placed((self.vae_params, self.ldm_params, self.stats), "same")

    def _key(self, seed: int, stream: Stream | None = None, *numbers: int) -> PRNGKeyArray:
        """The key of a seed, or of a stream of it, on the devices."""
        key = streams.seed_key(whole_seed(seed))
        return self._placed(key if stream is None else streams.key(key, stream, *numbers), "same")

    def _draw_numbered(
        self, key: PRNGKeyArray, numbers: Int[np.ndarray, " n"], context: Vectors = ()
    ) -> Float[np.ndarray, "n window feature"]:
        """Scaled windows by their numbers, float32, on the host."""
        return np.asarray(self._start_numbered(key, numbers, context))

    def _start_numbered(
        self, key: PRNGKeyArray, numbers: Int[np.ndarray, " n"], context: Vectors
    ) -> Float[Array, "n window feature"]:
        """The same on the devices, which may not be done with them yet."""
        index, context = self._placed((numbers.astype(np.int32), context), "split")
        return self._draw(*self._weights, self._own_drift, key, index, context)

    def _vectors(self, asked: Asked) -> Vectors:
        """What the denoiser reads of what windows are asked for by; () where by nothing."""
        schema = self.schema if self.models.denoiser.context else None
        return asked.vectors(schema, self.scaler, self.config.sample.guidance)

    @functools.cached_property
    def _complete(self) -> Any:
        """The compiled `drawing.completions`, over all devices of this host."""
        run = drawing.completions(self.models, self.config)
        split, same = self._shardings["split"], self._shardings["same"]
        return jax.jit(run, in_shardings=(*(same,) * 3, split, split, split), out_shardings=split)

    @functools.cached_property
    def _prior(self) -> conditional.Prior:
        """The covariance of the diffusion's latents.

        On principal axes it is diagonal, and training measured it. In another layout it is
        estimated from samples of the model's own, shrunk towards a multiple of the identity (Ledoit
        and Wolf 2004): there may be more latents than samples. Beyond `MOST_AXES` latents, whose
        covariance would not fit in memory, each has a variance alone.
        """
        if not isinstance(self.stats.deviation, tuple):
            variance = np.square(np.asarray(self.stats.deviation))
            return self._placed(conditional.Prior(variance), "same")
        from sklearn.covariance import ledoit_wolf  # takes a second to import

        samples = self._latents(Stream.PRIOR, PRIOR_SAMPLES).astype(np.float64)
        if samples.shape[1] > MOST_AXES:
            return self._placed(conditional.Prior(samples.var(axis=0, dtype=np.float32)), "same")
        values, vectors = np.linalg.eigh(ledoit_wolf(samples)[0])
        prior = conditional.Prior(values.astype(np.float32), vectors.astype(np.float32))
        return self._placed(prior, "same")

    @functools.cached_property
    def own_marginals(self) -> Float[np.ndarray, "feature drawn_level"]:
        """Quantiles of the model's own samples, not of those that are mapped; seconds, or known."""
        if self.drawn is not None:
            return self.drawn
        count = self.config.sample.marginal_windows or marginals.draws(self.models.vae.window)
        windows = self._own_windows(self._key(MODEL_SEED, Stream.MARGINALS), count)
        return marginals.quantiles(windows.reshape(-1, len(self.columns)), marginals.DRAWN_LEVELS)

    @functools.cached_property
    def own_closeness(self) -> Float[np.ndarray, " feature"]:
        """How close values of the model's samples are held, as `repeats`; seconds, or known."""
        if self.close is not None:
            return self.close
        assert self.shares is not None
        key = self._key(MODEL_SEED, Stream.REPEATS)
        count = min(REPEATS_SAMPLES, self.config.sample.marginal_windows or REPEATS_SAMPLES)
        windows = self._own_windows(key, count)
        windows = self.scaler.unscale(marginals.to_data(windows, self._maps))
        return repeats.closeness(windows, self.shares, self._rounded)

    def _own_windows(self, key: PRNGKeyArray, count: int) -> Float[np.ndarray, "n window feature"]:
        """Scaled windows of the model's own seed, float32; see `_draw_numbered`."""
        found = np.concatenate([self._draw_numbered(key, *each) for each in self._own(count)])
        found = found[:count]  # batches are padded
        self._check_finite("sampling (of what the model's samples are like)", found, 0)
        return found

    def _latents(self, stream: Stream, count: int) -> Float[np.ndarray, "n axis"]:
        """Samples of the diffusion as it gives them, of the model's own seed."""
        key, drawn = self._key(MODEL_SEED, stream), []
        for each in self._own(count):
            index, context = jax.device_put(each)
            drawn.append(np.asarray(self._draw_latents(*self._weights[1:], key, index, context)))
        return np.concatenate(drawn)[:count]

    def _own(self, count: int) -> Iterator[tuple[Int[np.ndarray, " n"], Vectors]]:
        """Numbers of the model's own windows, and what they are asked for by, a batch each."""
        asked = Asked(count).timed(self.schema, MODEL_SEED)
        for first, size in latents.batches(count, self.largest):
            numbers = np.arange(first, first + size, dtype=np.int32)
            yield numbers, self._vectors(asked.of(numbers))

    @functools.cached_property
    def _own_drift(self) -> Drift | tuple[()]:
        """What samples are mended by, on the devices; seconds, or known."""
        if not self.config.sample.match_axes:
            return ()
        found = self.drift
        if found is None:
            count = drift_samples(self.config.sample.marginal_windows)
            deviation = np.asarray(self.stats.sigma_data(self.config.ldm.noise.sigma_data))
            found = latents.drift(self._latents(Stream.AXES, count), deviation)
        return self._placed(found, "same")

    def described(self) -> dict[str, Any]:
        """What the model knows of its own samples as JSON, with the step of its weights."""
        found: dict[str, Any] = {"step": self.meta.get("step")}
        if self.marginals is not None:
            found["drawn"] = self.own_marginals.tolist()
        if self._own_drift:
            found["drift"] = [np.asarray(part).tolist() for part in self._own_drift]
        if self.shares is not None:
            found["close"] = self.own_closeness.tolist()
        if self.wider is not None:
            found["wider"] = self.wider.tolist()
        return found

    @property
    def is_matched(self) -> bool:
        """Whether samples are matched to anything that is measured on the model's own."""
        measured = self.marginals is not None or self.shares is not None
        return measured or self.config.sample.match_axes

    @property
    def is_described(self) -> bool:
        """Whether all that `described` says is known."""
        axes = self.config.sample.match_axes or None
        pairs = ((self.marginals, self.drawn), (self.shares, self.close), (axes, self.drift))
        return all(wanted is None or known is not None for wanted, known in pairs)

    @functools.cached_property
    def _maps(self) -> dict[int, Curve]:
        """By feature, from the model's distribution to the data's."""
        if self.marginals is None:
            return {}
        return marginals.maps(self.marginals, self.own_marginals, self.scaler)

    @functools.cached_property
    def _draw_latents(self) -> Any:
        """The compiled `drawing.latents`."""
        return jax.jit(drawing.latents(self.models, self.config))

    @functools.cached_property
    def _draw(self) -> Any:
        """The compiled `drawing.windows`, over all devices of this host."""
        draw = drawing.windows(self.models, self._draw_latents)
        split, same = self._shardings["split"], self._shardings["same"]
        return jax.jit(draw, in_shardings=(*(same,) * 5, split, split), out_shardings=split)


def drift_samples(marginal_windows: int) -> int:
    """How many samples the drift is measured on: no more than marginals are, where that is said."""
    return min(DRIFT_SAMPLES, marginal_windows or DRIFT_SAMPLES)
