"""Scores in parts that depend on no other, which one process does in turn or several share.

What a part gives depends on the data and its own seeds alone, so whoever does it finds the same
numbers: the runs of one compiled call, which another number of them may round otherwise, are never
divided.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Show = Callable[[int, int, str], None]


def nothing(done: int, total: int, name: str) -> None:
    """Shows nothing."""


class Unit(NamedTuple):
    """A part of the scores.

    Attributes:
      name: of what it is a part.
      seconds: that it takes beside others, roughly: they decide who does it, and nothing else.
      work: gives what JSON can hold.
      before: seconds of what all parts of this name need first, once a process.
    """

    name: str
    seconds: float
    work: Callable[[], Any]
    before: float = 0.0


class Plan(NamedTuple):
    """Parts, and what their results make together.

    Attributes:
      units: the parts.
      finish: from their results, in order, to entries of `scores.json`.
    """

    units: tuple[Unit, ...]
    finish: Callable[[Sequence[Any]], dict[str, Any]]


def single(name: str, seconds: float, work: Callable[[], dict[str, Any]]) -> Plan:
    """Of one part, which gives the entries."""
    return Plan((Unit(name, seconds, work),), lambda found: found[0])


def joined(plans: Sequence[Plan]) -> Plan:
    """One plan of several, whose entries follow each other."""

    def finish(found: Sequence[Any]) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        first = 0
        for plan in plans:
            entries |= plan.finish(found[first : first + len(plan.units)])
            first += len(plan.units)
        return entries

    return Plan(tuple(unit for plan in plans for unit in plan.units), finish)


def owners(units: Sequence[Unit], processes: int) -> list[int]:
    """The process of each unit: the longest first, each to whom it ends the soonest with.

    What parts need first is done by as many processes as it pays for.
    """
    ways = [_owners(units, processes, most) for most in range(1, processes + 1)]
    return min(ways, key=lambda way: way[0])[1]


def _owners(units: Sequence[Unit], processes: int, most: int) -> tuple[float, list[int]]:
    """When all is done, and the process of each unit, of one name on so many of them at most."""
    found = [0] * len(units)
    busy = [0.0] * processes
    begun: dict[str, set[int]] = {unit.name: set() for unit in units}
    for number in sorted(range(len(units)), key=lambda i: -units[i].seconds - units[i].before):
        unit, there = units[number], begun[units[number].name]
        free = there if unit.before and len(there) == most else range(processes)
        ends = {p: busy[p] + unit.seconds + (0 if p in there else unit.before) for p in free}
        chosen = min(sorted(ends), key=ends.__getitem__)
        found[number], busy[chosen] = chosen, ends[chosen]
        there.add(chosen)
    return max(busy), found


def own(
    units: Sequence[Unit], show: Show = nothing, process: int = 0, processes: int = 1
) -> dict[int, Any]:
    """Results of the units of one process, by number.

    Args:
      units: of all.
      show: called with units done, units of this process, and the name of the one that comes.
      process: which.
      processes: how many share the units.
    """
    chosen = [i for i, owner in enumerate(owners(units, processes)) if owner == process]
    found = {}
    for done, number in enumerate(chosen):
        show(done, len(chosen), units[number].name)
        found[number] = units[number].work()
    show(len(chosen), len(chosen), "done")
    return found


def in_turn(plan: Plan, show: Show = nothing) -> dict[str, Any]:
    """The entries, every part done here."""
    return plan.finish(list(own(plan.units, show).values()))


def gathered(texts: Sequence[str]) -> list[Any]:
    """Results of all units in order, from what each process's `own` is as JSON."""
    found = {int(number): each for text in texts for number, each in json.loads(text).items()}
    return [found[number] for number in sorted(found)]
