"""Entries of a grid file: settings with their values, lists and ranges of values, each checked where it stands."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hr_search import settings as config
from hr_search.base import conversions
from hr_search.base.errors import InputError, quoted, shown, suggestion
from hr_search.settings import TYPES

# A grid names its runs itself and keeps no models: parallel cells would overwrite each other's.
OWN = ("projectname", "outputpath", "checkpointpath", "checkpointsteps", "resume")


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both among them.

    Attributes:
        log: whether they are drawn uniformly in their logarithm.
        step: the distance between two of them; 0 = any number, or every whole one.
    """

    low: float
    high: float
    log: bool = False
    step: float = 0


def check_keys(values: Any, valid: Sequence[str], source: str) -> None:
    """Checks that an entry is a mapping of these names.

    Raises:
        InputError: it is something else, or has another name.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{source} must be lines of `name: value` with the names {', '.join(valid)}.")
    for key in values:
        if key not in valid:
            raise InputError(f'{source} has no key "{shown(key)}"; {suggestion(str(key), valid)}')


def names(values: Any, source: str) -> dict[str, Any]:
    """The mapping with each name spelled as the setting's own.

    Raises:
        InputError: it is no mapping, or names a setting that is unknown, given twice or the grid's own.
    """
    if not isinstance(values, Mapping) or (not values and not source.endswith(": base")):
        raise InputError(f"{source} must be lines of `setting: value`.")
    named: dict[str, Any] = {}
    for name, value in values.items():
        key = config.canonical(str(name), source)
        if key in OWN:
            raise InputError(f"{source} sets {key}, which a grid decides itself; leave it out.")
        if key in named:
            raise InputError(f"{source} gives {key} twice; keep one of the two.")
        named[key] = value
    return named


def values(name: str, values: Any, source: str) -> list[Any]:
    """The values of one setting, checked, without repeats.

    Raises:
        InputError: they are no list, or one of them is of another type or out of bounds.
    """
    if not isinstance(values, list) or not values:
        raise InputError(f"{source}: {name} is {quoted(values)}; give a list of values, for example [1, 2].")
    return list(dict.fromkeys(config.checked(name, value, source) for value in values))


def settings(values: Any, source: str) -> dict[str, Any]:
    """Settings with their values, checked.

    Raises:
        InputError: as `names`, or a value of another type or out of bounds.
    """
    return {name: config.checked(name, value, source) for name, value in names(values, source).items()}


def spread(name: str, spec: Any, source: str, keys: Sequence[str]) -> list[Any] | Range:
    """What the setting `name` may be, checked: a list of values, or a range that these keys describe.

    Raises:
        InputError: an unknown key, an end out of bounds, a range that is empty or of words, or a step that does not
            lead from its low to its high.
    """
    if isinstance(spec, list):
        return values(name, spec, source)
    where = f"{source}: {name}"
    check_keys(spec, keys, where)
    if "choices" in spec:
        if len(spec) > 1:
            raise InputError(f"{where} has choices and {next(key for key in spec if key != 'choices')}; keep one.")
        return values(name, spec["choices"], source)
    numeric = TYPES[name] in (int, float)
    if not numeric or not {"low", "high"} <= set(spec):
        raise InputError(f"{source}: {name} needs a list of values{', or low and high' * numeric}.")
    low, high = (config.checked(name, spec[end], source) for end in ("low", "high"))
    log_scale = conversions.converted("log", spec.get("log", False), bool, where)
    if low >= high or (log_scale and low <= 0):
        raise InputError(
            f"{source}: {name} runs from {low:g} to {high:g}; low must be below high, and above 0 for log."
        )
    step = conversions.converted("step", spec.get("step", 0), TYPES[name], where)
    if "step" in spec and (log_scale or not _divides(step, high - low)):
        advice = "leave out one of step and log" if log_scale else "take one that leads from low to high"
        raise InputError(f"{where} has the step {step:g}; {advice}.")
    return Range(low, high, log_scale, step)


def _divides(step: float, length: float) -> bool:
    """Whether steps of this size add up to the length, up to rounding."""
    return step > 0 and math.isclose(length / step, round(length / step), abs_tol=1e-9) and step <= length
