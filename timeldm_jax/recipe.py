"""Sizes and steps for a table that nobody has tuned for, from its shape and a time budget.

The rule, for every key that the configuration leaves open (`config.AUTOMATIC`):

- window: 24 rows, or a hundredth of the rows where that is less (blocks of held-out time need about
  100 rows a window step), at least 4; of many series, no more than half of them have;
- stride: the least that leaves at most `MOST_WINDOWS` training windows; 1 of a table larger than
  memory, which holds none of them;
- latent: as many as features, as far as those of all windows stay within `MOST_BYTES`;
- of windows longer than `WHOLE` rows: attention within blocks, and smaller batches, so that a step
  takes as long as with short ones;
- the diffusion sees all principal axes of up to `MOST_LATENTS` numbers, window · latent. Of more it
  sees frequencies, where windows are long and many; else the widest `MOST_AXES` principal axes, or
  half as many as there are windows;
- samples: as many as training windows, at most 10,000;
- steps: as many as the budget allows once scores, samples and the report are paid for, `VAE_SHARE`
  of the time for the VAE. Times of a step are measured on this machine, then steps are fixed: a
  resumed run reads them from the work directory.
"""

import dataclasses
import logging
import math
import re
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from timeldm_jax import bands, generator, marginals
from timeldm_jax import config as configuration
from timeldm_jax.data.dataset import Dataset
from timeldm_jax.diffusion import samplers
from timeldm_jax.errors import ConfigError
from timeldm_jax.metrics import adherence, context_fid, detection
from timeldm_jax.metrics.discriminative import discriminative_runs
from timeldm_jax.training import stages

_log = logging.getLogger(__name__)

MOST_WINDOWS = 100_000
MOST_SAMPLES = 10_000
MOST_LATENTS = 4_096
MOST_AXES = 1_024
MOST_COSINES = 2**15  # numbers that the denoiser reads and gives; 50 million weights
MOST_BYTES = 2**30  # of the latents of all windows
WHOLE = 64  # rows within which attention sees all of a window
BLOCK = 32
BATCH_ROWS = 32_768  # of a batch of the VAE
FEWEST_BATCH = 8
LONG_CHUNK = 10  # steps between two looks at the loss, of long windows
PROBE_ROWS = 48  # that the scores' recurrent networks are timed on; their cost is linear
VAE_SHARE = 0.15
FEWEST_STEPS = 200
FEWEST_TREES = 20
LEAST_TRAINING = 0.005  # of the scores' networks: ten steps
SCORES_SHARE = 0.3  # of the budget, at most; evaluators train for less otherwise
LEAST_SCORES_SHARE = 0.1  # where training would get less than `TRAINING_SHARE` of it
TRAINING_SHARE = 0.4
MARGINALS_SHARE = 0.05  # of the budget, at most, for windows that `match_marginals` is measured on
BANDS_SHARE = 0.05  # of the budget, at most, for widths of forecasts
BANDS_SECONDS = 8.0  # compilation
COMPLETION = 40  # samples that take as long as a completion
REPORT_SECONDS = 25.0
START_SECONDS = 35.0  # compilation
PROBE_SECONDS = 20.0  # of the steps that are timed
UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds_of(budget: str) -> float:
    """The seconds of a budget such as `90s`, `10m`, `1.5h` or `1h30m`.

    Raises:
      ConfigError: it is not one, or under a minute.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smh])", budget.lower())
    if not parts or re.sub(r"(\d+(?:\.\d+)?)\s*([smh])", "", budget.lower()).strip():
        raise ConfigError(f"config.budget={budget!r} is not a time such as 90s, 10m or 1h30m")
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if seconds < 60:
        raise ConfigError(f"config.budget={budget!r} must be at least 1m: compiling takes half")
    return seconds


def choose_sizes(
    config: ConfigDict, lengths: np.ndarray, features: int, *, stored: bool = False
) -> ConfigDict:
    """A copy with all but steps chosen where it is open.

    Args:
      config: of a table.
      lengths: rows of each of its series.
      features: numbers a row.
      stored: whether windows are sent to the devices a step at a time, and none of their latents
        is kept: then they may be as many as there are.
    """
    config = config.copy_and_resolve_references()
    rows = int(lengths.sum())
    if config.data.window == 0:
        window = min(24, rows // 100)
        if len(lengths) > 1:
            window = min(window, int(np.median(lengths)))
        config.data.window = max(window, 4)
    window = config.data.window
    windows = int(np.maximum(lengths - window + 1, 1).sum())
    if config.data.stride == 0:
        config.data.stride = 1 if stored else max(1, math.ceil(windows / MOST_WINDOWS))
    if config.vae.model.latent == 0:
        held = min(windows // config.data.stride, MOST_WINDOWS if stored else windows)
        most = MOST_BYTES // (4 * window * max(held, 1))
        config.vae.model.latent = min(features, max(most, 2))
    _shape_for_length(config, windows // config.data.stride)
    if config.sample.count == 0:
        count = min(windows // config.data.stride, MOST_SAMPLES)
        config.sample.count = max(count, 10)
    return config


def _shape_for_length(config: ConfigDict, windows: int) -> None:
    """Chooses in place what depends on how long windows are, where it is open.

    What differs from short windows is said by the name of its key.
    """
    window, standard = config.data.window, configuration.base()
    flat = window * config.vae.model.latent
    batch = 2 ** int(math.log2(max(BATCH_ROWS // window, FEWEST_BATCH)))
    chunk = LONG_CHUNK if batch < standard.vae.batch else standard.vae.chunk
    rule = {
        "vae.model.block": BLOCK if window > WHOLE else 0,
        "vae.batch": _round_up(min(batch, standard.vae.batch), jax.device_count()),
        "vae.chunk": chunk,
        "ldm.chunk": chunk,
        "ldm.latents": "principal",
        "ldm.axes": 0,
    }
    given, usual = (dict(configuration.leaves(each)) for each in (config, standard))
    many = window > WHOLE and windows // 2 >= MOST_AXES and flat <= MOST_COSINES
    free = [given[key] == configuration.AUTOMATIC[key] for key in ("ldm.latents", "ldm.axes")]
    if flat > MOST_LATENTS and many and all(free):
        rule["ldm.latents"] = "cosine"
    elif flat > MOST_LATENTS and config.ldm.latents != "cosine":  # which has no fewer
        rule["ldm.axes"] = max(min(MOST_AXES, windows // 2), 2)
    chosen = {
        key: value for key, value in rule.items() if given[key] == configuration.AUTOMATIC[key]
    }
    for key, value in chosen.items():
        if value != usual[key]:
            said = "config.%s=%s, as windows have %d rows and %d latents"
            _log.info(said, key, value, window, flat)
    config.update_from_flattened_dict(chosen)


def _round_up(number: int, multiple: int) -> int:
    return math.ceil(number / multiple) * multiple


@dataclasses.dataclass(frozen=True)
class Seconds:
    """What the parts of a run take on this machine.

    Attributes:
      step: a training step of each stage.
      window: drawing one window.
      sampling: all samples, and those that labels are asked for.
      trained: the scores' networks, which a short budget trains for less.
      judges: the scores' trees, of which a short budget leaves a third.
      rest: the other scores.
      probes: what was spent to find out.
      shorter: the share of their training that the scores' networks get.
    """

    step: dict[str, float]
    window: float
    sampling: float
    trained: float
    judges: float
    rest: float
    probes: float
    shorter: float = 1.0

    @property
    def scores(self) -> float:
        """All scores."""
        return self.shorter * self.trained + self.fewer * self.judges + self.rest

    @property
    def fewer(self) -> float:
        """The share of their trees that judges get."""
        return max(self.shorter, FEWEST_TREES / detection.TREES)

    def within(self, most: float) -> "Seconds":
        """With scores shortened to take so long, as far as they can be."""
        third = FEWEST_TREES / detection.TREES
        shorter = (most - self.rest) / (self.trained + self.judges)
        if shorter < third:  # judges keep so much, and networks give way alone
            shorter = (most - self.rest - third * self.judges) / self.trained
        return dataclasses.replace(self, shorter=min(max(shorter, LEAST_TRAINING), 1.0))

    def besides_training(self) -> float:
        """Everything but the steps of the two stages."""
        return self.probes + START_SECONDS + REPORT_SECONDS + self.sampling + self.scores

    def training(self, config: ConfigDict) -> float:
        """The steps that `config` has by now."""
        return sum(config[stage].steps * seconds for stage, seconds in self.step.items())


def choose_steps(config: ConfigDict, dataset: Dataset) -> ConfigDict:
    """A copy with the steps of both stages chosen by `config.budget` where they are 0.

    Prints the estimate. A few steps of each stage run to be timed.

    Raises:
      ConfigError: the budget is too short for `FEWEST_STEPS` of each.
    """
    config = config.copy_and_resolve_references()
    if config.vae.steps and config.ldm.steps:
        return config
    budget = seconds_of(config.budget)
    if budget < START_SECONDS + REPORT_SECONDS + PROBE_SECONDS:
        raise _too_short(config, START_SECONDS + REPORT_SECONDS + PROBE_SECONDS + 60)
    measured = _measure(config, dataset)
    seconds, windows = _within_budget(config, measured, budget)
    chosen = _steps(config, seconds, budget)
    if min(chosen.values()) < FEWEST_STEPS:
        while min(_steps(config, seconds, budget).values()) < FEWEST_STEPS:
            budget += 30
            seconds, _ = _within_budget(config, measured, budget)
        raise _too_short(config, budget)
    config.sample.update(windows)
    if seconds.shorter < 1:
        _shorten_evaluators(config, seconds)
    for stage, steps in chosen.items():
        config[stage].steps = steps // config[stage].chunk * config[stage].chunk
    for section in (config.vae, config.ldm):
        tenth = max(section.steps // 10 // section.chunk, 1) * section.chunk
        section.eval_every = min(section.eval_every, tenth)
    _log.info(
        "estimate: %s in all (VAE %d steps of %.0f ms, diffusion %d of %.0f ms, samples %.0f s, "
        "scores and report %.0f s)",
        _minutes(seconds.besides_training() + seconds.training(config)),
        config.vae.steps,
        seconds.step["vae"] * 1e3,
        config.ldm.steps,
        seconds.step["ldm"] * 1e3,
        seconds.sampling,
        seconds.scores + REPORT_SECONDS,
    )
    configuration.validate(config)
    return config


def _within_budget(
    config: ConfigDict, seconds: Seconds, budget: float
) -> tuple[Seconds, dict[str, int]]:
    """What is not training, fitted into the budget.

    Returns:
      The times; and how many windows the model is measured on, by keys of `config.sample`.
    """
    own = 0
    if config.sample.match_marginals:
        own = config.sample.marginal_windows or min(
            marginals.draws(config.data.window),
            max(int(MARGINALS_SHARE * budget / seconds.window), marginals.FEWEST_DRAWS),
        )
        seconds = dataclasses.replace(seconds, sampling=seconds.sampling + own * seconds.window)
    if config.sample.match_axes:
        drift = generator.drift_samples(own) * seconds.window
        seconds = dataclasses.replace(seconds, sampling=seconds.sampling + drift)
    forecast = bands.completions(config.data.window) * COMPLETION * seconds.window  # of one run
    wide = min(config.sample.band_windows, int(BANDS_SHARE * budget / forecast))
    wide = wide if wide >= bands.FEWEST_WINDOWS else 0
    if wide:
        forecasts = BANDS_SECONDS + wide * forecast
        seconds = dataclasses.replace(seconds, sampling=seconds.sampling + forecasts)
    rest = (1 - TRAINING_SHARE) * budget - (seconds.besides_training() - seconds.scores)
    most = min(SCORES_SHARE * budget, max(rest, LEAST_SCORES_SHARE * budget))
    return seconds.within(most), {"marginal_windows": own, "band_windows": wide}


def _steps(config: ConfigDict, seconds: Seconds, budget: float) -> dict[str, int]:
    """The steps that a budget leaves to each stage that has none yet."""
    left = max(budget - seconds.besides_training() - seconds.training(config), 0)
    # Of long windows the VAE's steps are the slow ones: it gets its fewest before the share counts.
    fewest = FEWEST_STEPS * seconds.step["vae"] / max(left, 1e-9)
    vae = min(max(VAE_SHARE, fewest), 0.5)
    shares = {"vae": vae, "ldm": 1 - vae}
    free = {stage: share for stage, share in shares.items() if config[stage].steps == 0}
    return {
        # A share that is just enough must not be rounded to a step too few.
        stage: int(left * share / sum(free.values()) / seconds.step[stage] + 1e-6)
        for stage, share in free.items()
    }


def _too_short(config: ConfigDict, seconds: float) -> ConfigError:
    """The error of a budget, with one that would do, to the half minute above."""
    minutes = math.ceil(seconds * 1.1 / 30) / 2
    return ConfigError(
        f"config.budget={config.budget} is too short for this table and machine: "
        f"config.budget={minutes:g}m would do, or a smaller model"
    )


def _measure(config: ConfigDict, dataset: Dataset) -> Seconds:
    """Runs a few steps of each stage and of the scores' networks."""
    began = time.monotonic()
    # A stage is timed with steps that stand for many: the schedule needs a number.
    probe = config.copy_and_resolve_references()
    probe.vae.steps = probe.ldm.steps = 10_000
    step = {stage: stages.step_seconds(probe, dataset, stage) for stage in ("vae", "ldm")}
    evaluations = samplers.evaluations(config.sample.solver, config.sample.steps)
    window = step["ldm"] / config.ldm.batch / 3 * evaluations
    trained, judges, rest = _scores_seconds(config, dataset)
    sampling = config.sample.count * window
    schema, context = dataset.schema, config.ldm.model.context
    if schema is not None:
        rest += adherence.seconds(schema)
        count = adherence.asked_windows(
            schema, context, len(dataset.series.test), config.sample.count
        )
        sampling += count * window * (1 if config.sample.guidance == 1 else 2)
    probes = time.monotonic() - began
    return Seconds(step, window, sampling, trained, judges, rest, probes)


def _shorten_evaluators(config: ConfigDict, seconds: Seconds) -> None:
    """Multiplies what the scores' own networks train, in place."""
    shorter = seconds.shorter
    for key in ("discriminative_steps", "predictive_steps"):
        config.evaluate[key] = max(round(config.evaluate[key] * shorter), 10)
    encoder_steps = config.evaluate.context_fid_steps or context_fid.STEPS
    config.evaluate.context_fid_steps = max(round(encoder_steps * shorter), 10)
    trees = config.evaluate.trees or detection.TREES
    config.evaluate.trees = max(round(trees * seconds.fewer), FEWEST_TREES)
    _log.info(
        "a budget of %s leaves %.0f%% of the published training to the scores' own judges",
        config.budget,
        100 * shorter,
    )


def _scores_seconds(config: ConfigDict, dataset: Dataset) -> tuple[float, float, float]:
    """What the evaluate stage will take: the GRUs by a probe, TS2Vec by what it took elsewhere.

    Of networks that are trained, of judges, and of the rest; see `Seconds`.

    The ratios are of benchmarks/results/scores_cost_*.json.
    """
    series, evaluators = dataset.series, config.evaluate
    real, synthetic = len(series.test), config.sample.count
    random = np.random.default_rng(0)
    rows = min(series.window, PROBE_ROWS)
    pool = random.random((256, rows, len(series.columns)), np.float32)
    pairs = [(np.arange(128), np.arange(128, 256))] * (3 * evaluators.repeats + 2)
    timed = []
    for seed in range(2):
        start = time.monotonic()
        discriminative_runs(pool, pairs, steps=20, seed=seed)
        timed.append(time.monotonic() - start)
    gru = timed[1] / 20 * series.window / rows
    speed = _product_rate() / 400e9  # of the machine that the figures below are from
    length = series.window / 24
    fitting = 39 * (evaluators.context_fid_steps or context_fid.STEPS) / context_fid.STEPS
    fitting, encoding = (
        evaluators.repeats / 5 * length * seconds / speed
        for seconds in (fitting, 0.66e-3 * (real + synthetic))
    )
    others = 1e-4 * (real + synthetic) * length * len(series.columns) / 5
    steps = evaluators.discriminative_steps + 0.65 * evaluators.predictive_steps
    columns = min(2 * series.window * len(series.columns), detection.COLUMNS)
    fits = 3 * evaluators.repeats + 14 + 12  # of the samples, and of the VAE's reconstructions
    judges = fits * columns / 235 * min(real, synthetic, 2 * detection.CAP) / 4_000 / speed
    return steps * gru + fitting, judges, 5 + encoding + others


def _product_rate() -> float:
    """Floating-point operations a second of a float32 matrix product."""
    a = jax.numpy.ones((1024, 1024))
    product = jax.jit(lambda x: x @ x)
    product(a).block_until_ready()
    best = math.inf
    for _ in range(3):
        start = time.monotonic()
        product(a).block_until_ready()
        best = min(best, time.monotonic() - start)
    return 2 * 1024**3 / best


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"
