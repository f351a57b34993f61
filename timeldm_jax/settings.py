"""Settings: dataclasses whose fields are keys of the configuration, and the checks they share.

Each stands in the module that reads it and checks itself in `__post_init__`, whether it comes from
a command line, a file or Python.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable
from typing import Any, Literal

from timeldm_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value must be.

    Attributes:
      fits: whether a value of the right type is allowed.
      words: the end of the message where it is not, after `name=value`.
    """

    fits: Callable[[Any], bool]
    words: str


def at_least(low: float) -> Rule:
    """A number from `low` on."""
    return Rule(lambda value: value >= low, f"must be at least {low}")


def one_of(*names: str) -> Rule:
    """One of some words."""
    return Rule(lambda value: value in names, f"is not one of {', '.join(names)}")


COUNT = at_least(1)
POSITIVE = Rule(lambda value: value > 0, "must be positive")
FRACTION = Rule(lambda value: 0 <= value < 1, "must be in [0, 1)")
SEED = Rule(lambda value: 0 <= value < 2**32, "must be in [0, 2^32)")
_FINITE = Rule(math.isfinite, "must be finite")


def check_fields(settings: Any, **rules: Rule) -> None:
    """Checks each field of a dataclass against its annotated type and its rule.

    A whole number may stand for a float, `True` may not stand for 1, and no number is NaN or
    infinite. Fields of other types than numbers, words, `bool` and None are passed over.

    Raises:
      ConfigError: naming the field, the value found and what was expected.
    """
    for field in dataclasses.fields(settings):
        expected, words = kinds(field.type)
        if not expected:
            continue
        value = getattr(settings, field.name)
        if type(value) not in expected and not (type(value) is int and float in expected):
            raise ConfigError(
                f"{field.name}={value!r} is of type {type(value).__name__}, expected "
                f"{' or '.join(kind.__name__ for kind in expected)}"
            )
        rule = rules.get(field.name, one_of(*words) if words else _FINITE)
        number = isinstance(value, int | float)
        if (number or (isinstance(value, str) and rule is not _FINITE)) and not (
            (not number or math.isfinite(value)) and rule.fits(value)
        ):
            raise ConfigError(f"{field.name}={value!r} {rule.words}")


def conforms(value: Any, annotation: Any) -> bool:
    """Whether a value is of an annotated type, with all that it holds: what was read from JSON.

    Knows dataclasses, tuples, unions, literals, and plain values, which is all that `Any` allows;
    a whole number may stand for a float, and no float is NaN or infinite.
    """
    parts = typing.get_args(annotation)
    if dataclasses.is_dataclass(annotation):
        hints = typing.get_type_hints(annotation)
        return isinstance(value, typing.cast(type, annotation)) and all(
            conforms(getattr(value, f.name), hints[f.name]) for f in dataclasses.fields(annotation)
        )
    if typing.get_origin(annotation) is tuple:
        if not isinstance(value, tuple):
            return False
        each = (parts[0],) * len(value) if parts[-1] is Ellipsis else parts
        return len(each) == len(value) and all(map(conforms, value, each))
    if typing.get_origin(annotation) is Literal:
        return isinstance(value, str) and value in parts
    if parts:
        return any(conforms(value, part) for part in parts)
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if annotation is Any:
        return isinstance(value, str | int | float | None)
    return type(value) is annotation or (type(value) is int and annotation is float)


def kinds(annotation: Any) -> tuple[tuple[type, ...], tuple[str, ...]]:
    """The plain types that an annotation allows, `()` for any other, and its literal words."""
    if annotation in (bool, int, float, str, types.NoneType):
        return (annotation,), ()
    if typing.get_origin(annotation) is Literal:
        return (str,), typing.get_args(annotation)
    if typing.get_origin(annotation) not in (types.UnionType, typing.Union):
        return (), ()
    parts = [kinds(part) for part in typing.get_args(annotation)]
    if not all(allowed for allowed, _ in parts):
        return (), ()
    return sum((p[0] for p in parts), ()), sum((p[1] for p in parts), ())


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What concerns a run as a whole.

    Attributes:
      seed: of weights, batches and noise in training, and of the scores.
      budget: time in all for a table, such as 10m: sets steps that are 0; "": none.
      devices: how training steps are mapped over several devices: `pmap`, or `shard_map` (with
        `jit`), which gives the same.
    """

    seed: int = 0
    budget: str = ""
    devices: str = "pmap"

    def __post_init__(self) -> None:
        """Checks the settings; raises ConfigError."""
        check_fields(self, seed=SEED, devices=one_of("pmap", "shard_map"))
