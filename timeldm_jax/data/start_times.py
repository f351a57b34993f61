"""When a synthetic window begins: at a time of the training rows that fits what it shows.

The diffusion draws windows, not times, and a window of hourly load says itself what hour it begins
at. So windows x are taken for a linear function of the calendar at their first row,

    x | time ~ N(mean + calendar(time) · B, Σ),

with B and Σ from the training windows. Each synthetic window draws its first time from Bayes' rule
over the times at which training windows begin: sharp where the window shows its hour, weekday or
season, and as the data has them where it shows none. Drawn rather than the likeliest, so that times
are distributed as in the data too.

A model that is given the calendar (`data.context`) needs no such guess: its windows are drawn for a
time that is drawn first.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from timeldm_jax.data.clock import Clock
from timeldm_jax.data.runs import Runs
from timeldm_jax.streams import Stream

Windows = Float[np.ndarray, "n window feature"]

FIT_WINDOWS = 20_000
FIT_NUMBERS = 2**24  # of them in all: 128 MiB in float64, whatever the length of a window
CANDIDATES = 4_096  # times that a window chooses from
PIECES = 24  # a longer window is described by as many means over time
MOST_DESCRIBED = 1_024  # numbers, whose covariance is solved for
DIGITS = 6
DAY, WEEK, YEAR = 86_400.0, 604_800.0, 31_556_952.0
DAY_HARMONICS, YEAR_HARMONICS = 4, 2
LONGEST_CYCLE = 2_016  # steps of a week or day whose phases are counted: five minutes of a week
CYCLES = {"day": DAY, "week": WEEK, "year": YEAR}  # seconds
FEWEST_CYCLES = 1.5  # that the training windows must cover before a cycle is looked for
OFTEN = 3.0  # cycles of which what they have in common can be told from what one of them had


@dataclasses.dataclass(frozen=True)
class StartTimes:
    """What is learnt of the first times of windows; plain values, so that it is saved as JSON.

    Attributes:
      window: time steps of a window.
      first: step of the clock at which the first training window begins.
      last: that of the last one.
      cycle: steps of a week (or a day), or 0.
      phases: training windows that begin at each step of the cycle; () where there is none.
      cycles: which parts of the calendar B is for, of `day`, `week` and `year`.
      mean: of the windows' description.
      weights: Σ⁻¹ · Bᵀ, `(described, calendar)`.
      gram: B · Σ⁻¹ · Bᵀ, `(calendar, calendar)`.
      leads: whether a window's time is drawn first, and the window for it.
    """

    window: int
    first: int
    last: int
    cycle: int
    phases: tuple[int, ...]
    cycles: tuple[str, ...]
    mean: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    gram: tuple[tuple[float, ...], ...]
    leads: bool = False

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "StartTimes":
        """The inverse of `dataclasses.asdict`, of lists too."""
        fields = {name: _tuples(value) for name, value in content.items()}
        return cls(**fields)

    def draw(
        self, windows: Windows, clock: Clock, seed: int, first: int = 0
    ) -> Int[np.ndarray, " n"]:
        """The clock's step at which each window begins.

        Args:
          windows: in the columns' own units, of `window` rows or more.
          clock: of the table.
          seed: of the draws; a window's depends on it, its number, and what it shows.
          first: number of the first window.
        """
        if self.leads:
            return self.before(len(windows), seed, first)
        steps, prior = self._candidates()
        calendar = _calendar(clock, steps, self)
        gram = np.array(self.gram)
        fixed = np.log(prior) - 0.5 * np.einsum("ck,kl,cl->c", calendar, gram, calendar)
        shown = _describe(windows[:, : self.window]) - np.array(self.mean)
        shown = np.nan_to_num(shown) @ np.array(self.weights)
        uniform = _uniform(seed, first, len(windows))
        found = np.empty(len(windows), np.int64)
        for start in range(0, len(windows), 1_024):  # bounds the memory of windows x candidates
            part = slice(start, start + 1_024)
            logits = shown[part] @ calendar.T + fixed
            chances = np.exp(logits - logits.max(axis=1, keepdims=True)).cumsum(axis=1)
            below = chances < uniform[part, None] * chances[:, -1:]
            found[part] = steps[below.sum(axis=1)]
        return found

    def before(self, count: int, seed: int, first: int = 0) -> Int[np.ndarray, " n"]:
        """Steps at which windows begin, as the training windows do, whatever they show."""
        steps, prior = self._candidates()
        place = np.searchsorted(prior.cumsum(), _uniform(seed, first, count), side="right")
        return steps[np.minimum(place, len(steps) - 1)]

    def seen_often(self, clock: Clock) -> tuple[str, ...]:
        """The cycles that the training windows cover `OFTEN` times."""
        span = (self.last - self.first) * clock.step
        return tuple(name for name in self.cycles if span >= OFTEN * CYCLES[name])

    def _candidates(self) -> tuple[Int[np.ndarray, " c"], Float[np.ndarray, " c"]]:
        """Steps that windows may begin at, and how often training windows do."""
        random = np.random.default_rng(Stream.START_TIMES.salt)
        if self.last - self.first < 16 * CANDIDATES:
            steps = np.arange(self.first, self.last + 1)
        else:
            steps = np.unique(random.integers(self.first, self.last + 1, 16 * CANDIDATES))
        weights = np.ones(len(steps))
        if self.cycle:
            weights = np.array(self.phases, np.float64)[steps % self.cycle]
            steps, weights = steps[weights > 0], weights[weights > 0]
        if len(steps) > CANDIDATES:
            kept = random.choice(len(steps), CANDIDATES, replace=False, p=weights / weights.sum())
            steps, weights = steps[np.sort(kept)], np.ones(CANDIDATES)
        return steps, weights / weights.sum()


def few(starts: Int[np.ndarray, " n"] | Runs, numbers: int) -> Int[np.ndarray, " fewer"]:
    """At most `FIT_WINDOWS` of the windows, of so many numbers each, evenly spread: for `learn`."""
    most = min(FIT_WINDOWS, max(FIT_NUMBERS // numbers, 2))
    return starts[np.linspace(0, len(starts) - 1, min(most, len(starts))).astype(int)]


def learn(windows: Windows, steps: Int[np.ndarray, " n"], clock: Clock) -> StartTimes:
    """What the training windows say of the times at which they begin.

    Args:
      windows: in the columns' own units, NaN where missing.
      steps: of the clock, from its start, at which each begins; see `counted`.
      clock: of the table, with a calendar, which one of numbers has not.
    """
    first, last = int(steps.min()), int(steps.max())
    span = (last - first) * clock.step
    week = _steps_of(WEEK, clock)
    cycle = next((n for n in (week, _steps_of(DAY, clock)) if 1 < n <= LONGEST_CYCLE), 0)
    cycle = cycle if last - first >= FEWEST_CYCLES * cycle else 0
    cycles = tuple(
        name
        for name, length in CYCLES.items()
        if clock.step <= (length / 7 if name == "week" else length / 4)
        and span >= FEWEST_CYCLES * length
    )
    phases = tuple(np.bincount(steps % cycle, minlength=cycle).tolist()) if cycle else ()
    empty = StartTimes(windows.shape[1], first, last, cycle, phases, cycles, (), (), ())
    return _fit(empty, _describe(windows), _calendar(clock, steps, empty))


def _fit(
    empty: StartTimes,
    shown: Float[np.ndarray, "n described"],
    calendar: Float[np.ndarray, "n calendar"],
) -> StartTimes:
    """B by least squares; Σ of what is left, shrunk (Ledoit and Wolf 2004): windows overlap."""
    from sklearn.covariance import ledoit_wolf  # takes a second to import

    known = ~np.isnan(shown).all(axis=0)
    mean = np.where(known, np.nanmean(np.where(known, shown, 0), axis=0), 0)
    centred = np.nan_to_num(shown - mean)
    deviation = centred.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1)
    centred, centre = centred / scale, calendar.mean(axis=0)
    slopes = np.linalg.lstsq(calendar - centre, centred, rcond=1e-6)[0]
    left = centred - (calendar - centre) @ slopes
    covariance = ledoit_wolf(left)[0] + 1e-6 * np.eye(left.shape[1])
    weights = np.linalg.solve(covariance, slopes.T)
    # The calendar's own mean is part of what windows are centred by.
    mean = mean - centre @ slopes * scale
    return dataclasses.replace(
        empty,
        mean=_tuples(mean),
        weights=_tuples(weights / scale[:, None]),
        gram=_tuples(slopes @ weights),
    )


def _describe(windows: Windows) -> Float[np.ndarray, "n described"]:
    """Each feature's means over at most `PIECES` stretches of a window; NaN where none is known."""
    _, time, features = windows.shape
    pieces = max(1, min(PIECES, time, MOST_DESCRIBED // features))
    windows = windows[..., :MOST_DESCRIBED]
    edges = np.linspace(0, time, pieces + 1).astype(int)[:-1]
    known = np.isfinite(windows)
    sums = np.add.reduceat(np.where(known, windows, 0), edges, axis=1)
    counts = np.add.reduceat(known, edges, axis=1, dtype=np.int64)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return means.reshape(len(windows), -1)


def _calendar(
    clock: Clock, steps: Int[np.ndarray, " n"], of: StartTimes
) -> Float[np.ndarray, "n calendar"]:
    """Harmonics of the day and the year, days of the week, and a trend over the training rows."""
    trend = 2 * (steps - of.first) / max(of.last - of.first, 1) - 1
    parts = [cycle(clock, steps, name) for name in of.cycles]
    return np.concatenate([np.stack([trend, trend**2], axis=1), *parts], axis=1)


def cycle(clock: Clock, steps: Int[np.ndarray, " n"], name: str) -> Float[np.ndarray, "n harmonic"]:
    """Harmonics of the `day` or the `year`, or days of the `week`, at steps of a clock."""
    if clock.offset:  # months have no length to count back by
        steps = np.maximum(steps, 0)
    times = pd.DatetimeIndex(clock.stamps(steps))
    hours = ((times - times.normalize()).total_seconds() / DAY).to_numpy()
    if name == "day":
        found = _harmonics(hours, min(DAY_HARMONICS, int(DAY / clock.step) // 2))
    elif name == "week":
        found = [(times.day_of_week == day).astype(np.float64) for day in range(6)]
    else:
        passed = (times.day_of_year.to_numpy() - 1 + hours) * DAY / YEAR
        found = _harmonics(passed, YEAR_HARMONICS)
    return np.stack(found, axis=1)


def _uniform(seed: int, first: int, count: int) -> Float[np.ndarray, " n"]:
    """A number of each window, a function of the seed and the window's own number."""
    random = np.random.PCG64([seed, Stream.START_TIMES.salt]).advance(first)
    return np.random.Generator(random).random(count)


def counted(steps: Float[np.ndarray, " n"], clock: Clock) -> Int[np.ndarray, " n"]:
    """Whole steps, also of a clock whose steps are not of one length."""
    if not clock.offset:
        return np.round(steps).astype(np.int64)
    times = pd.DatetimeIndex(clock.stamps(np.arange(max(int(1.5 * steps.max()), 0) + 2)))
    passed = (times - times[0]).total_seconds().to_numpy() / clock.step
    return np.searchsorted(passed, steps - 0.5)


def _harmonics(turns: Float[np.ndarray, " n"], count: int) -> list[Float[np.ndarray, " n"]]:
    angles = [2 * np.pi * k * turns for k in range(1, count + 1)]
    return [wave(angle) for angle in angles for wave in (np.sin, np.cos)]


def _steps_of(seconds: float, clock: Clock) -> int:
    """How many steps of the clock make so long a time; 0 where they do not come out even."""
    count = seconds / clock.step
    return round(count) if not clock.offset and abs(count - round(count)) < 1e-9 else 0


def _tuples(value: Any) -> Any:
    """Lists and arrays as tuples, of numbers of `DIGITS` digits where they are not whole."""
    if isinstance(value, np.ndarray | list | tuple):
        return tuple(_tuples(each) for each in value)
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
