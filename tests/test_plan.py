"""Parts of the scores, shared by processes: the scores of one process, bit for bit."""

import itertools
import json

import numpy as np
import pytest

from timeldm_jax.metrics import evaluation, plan, suite
from timeldm_jax.metrics.plan import Plan, Unit, joined, owners, single


def walks(count, seed):
    """Windows that share no rows."""
    return np.cumsum(np.random.default_rng(seed).normal(size=(count, 8, 2)), axis=1)


def planned(count=120):
    """Made anew for each process, which shares nothing with the others."""
    sizes = suite.Evaluators(2, 5, 5, 2, 8)
    real, synthetic = walks(count, 0), 1.1 * walks(count, 1)
    return evaluation.planned(
        real, synthetic, ("a", "b"), fresh=walks(count, 2), protocol="future", evaluators=sizes
    )


@pytest.fixture(scope="module")
def alone():
    """The scores of one process."""
    return json.dumps(plan.in_turn(planned()))


@pytest.mark.parametrize("processes", [2, 3, 20])
def test_processes_that_share_the_parts_find_the_scores_of_one(alone, processes):
    texts, done = [], []
    for process in range(processes):
        found = plan.own(planned().units, process=process, processes=processes)
        done.append(len(found))
        texts.append(json.dumps(found))
    shared = planned()
    assert json.dumps(shared.finish(plan.gathered(texts))) == alone
    assert sum(done) == len(shared.units) == 12
    assert min(done) >= (1 if processes < 12 else 0)


def test_few_windows_are_skipped_by_whoever_has_the_part():
    parts = planned(30)
    found = json.loads(json.dumps([unit.work() for unit in parts.units if unit.name == "judges"]))
    assert found == [None] * 5


def units(seconds, **more):
    return [Unit(str(i), each, lambda: None, **more) for i, each in enumerate(seconds)]


def longest(seconds, owner, processes):
    return max(
        sum(each for each, who in zip(seconds, owner, strict=True) if who == p)
        for p in range(processes)
    )


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_end_nearly_together(processes):
    """Within Graham's bound of the best there is, 4/3 − 1/3P, which all ways are tried for."""
    random = np.random.default_rng(0)
    for _ in range(20):
        seconds = random.exponential(size=8).tolist()
        found = longest(seconds, owners(units(seconds), processes), processes)
        every = itertools.product(range(processes), repeat=8)
        best = min(longest(seconds, owner, processes) for owner in every)
        assert found <= (4 / 3 - 1 / (3 * processes)) * best + 1e-9


def test_what_parts_need_first_is_not_done_twice_for_little():
    def work():
        return None

    repeats = [Unit("encoder", 2.0, work, before=40.0)] * 5
    others = [Unit("network", 16.0, work)] * 3
    assert len(set(owners([*repeats, *others], 2)[:5])) == 1
    costly = [Unit("encoder", 30.0, work, before=40.0)] * 4
    assert sorted(owners(costly, 2)) == [0, 0, 1, 1]


def test_plans_are_finished_in_their_order():
    first = Plan((Unit("x", 1, lambda: 1), Unit("x", 5, lambda: 2)), lambda f: {"x": f, "z": 0})
    second = single("y", 9, lambda: {"y": 3, "z": 4})
    assert plan.in_turn(joined([first, second, joined([])])) == {"x": [1, 2], "z": 4, "y": 3}
    shown = []
    plan.in_turn(joined([first, second]), lambda *each: shown.append(each))
    assert shown == [(0, 3, "x"), (1, 3, "x"), (2, 3, "y"), (3, 3, "done")]
