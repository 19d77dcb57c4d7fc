"""A grid file: the settings it varies, and the cells (runs) that it asks for."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hr_search import settings as config
from hr_search.base import conversions, files, paths
from hr_search.base.errors import InputError, quoted, shown, suggestion
from hr_search.base.yaml_files import read_yaml
from hr_search.runs.folders import checked_run_id
from hr_search.settings import FIELDS, TYPES, Settings

log = logging.getLogger(__name__)

KEYS = ("name", "recipe", "base", "product", "list", "random", "seeds")
FORMS = ("product", "list", "random")
LIMIT = 10_000  # cells a file may ask for; more are a mistake
SEED = "{seed}"  # in a text: the seed of the cell
_BRACED = ("template", "documenttemplate")  # their braces name columns
# A grid names its runs itself and keeps no models: parallel cells would overwrite each other's.
OWN = ("projectname", "outputpath", "checkpointpath", "checkpointsteps", "resume")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a grid; the project name in its settings is the grid's name.

    Attributes:
        runid: its name.
        settings: with the seed in the place of each `{seed}`.
        written: the texts of settings that hold a `{seed}`, as the file has them: they name an arm over its seeds.
    """

    runid: str
    settings: Settings
    written: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder of its executed notebook."""
        return paths.reports() / self.settings.projectname / "cells" / self.runid


@dataclasses.dataclass(frozen=True)
class Grid:
    """The cells of a grid file, and the settings in which they differ."""

    name: str
    varied: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def folder(self) -> Path:
        """The folder of its tables."""
        return grid_folder(self.name)


def source_folder() -> Path:
    """The folder of the checkout's grid files."""
    return paths.checkout() / "data" / "grids"


def grid_folder(name: str) -> Path:
    """The folder of the tables of the grid called `name`."""
    return paths.metrics() / "grids" / name


def read_grid(path: Path | str) -> Grid:
    """The grid of a YAML file: each cell once, all cells of one seed before those of the next.

    Args:
        path: the file. Its keys: `name` (default: the file's name); `recipe`, a file of settings, and `base`, settings
            that override it; one of `product` (setting: list of values), `list` (of settings) and `random` (`count`,
            `seed` and `settings`, each a list or `low`, `high`, `log`); `seeds`, a list that multiplies the cells. A
            text may hold `{seed}`, which becomes the seed of the cell.

    Raises:
        InputError: an unknown key or setting, a value out of bounds, braces around anything but seed, or no cell.
    """
    source, values = str(path), read_yaml(path)
    _check_keys(values, KEYS, source)
    forms = [form for form in FORMS if form in values]
    if len(forms) != 1:
        raise InputError(f"{source} has {' and '.join(forms) or 'no cells'}; give one of {', '.join(FORMS)}.")
    name = checked_run_id(str(values.get("name", Path(path).stem)))
    common: dict[str, Any] = {}
    if "recipe" in values:
        recipe = config.read_recipe(paths.resolve(str(values["recipe"]))).to_dict()
        common = {setting: value for setting, value in recipe.items() if setting not in OWN}
    common |= _settings(values.get("base", {}), f"{source}: base") | {"projectname": name}
    arms = {"product": _product, "list": _list, "random": _random}[forms[0]](values[forms[0]], f"{source}: {forms[0]}")
    varied = list(dict.fromkeys(setting for arm in arms for setting in arm))
    seeds: list[dict[str, Any]] = [{}]
    if "seeds" in values:
        if "seed" in varied:
            raise InputError(f"{source} gives seeds and also {forms[0]} of seed; keep one of the two.")
        seeds = [{"seed": seed} for seed in _values("seed", values["seeds"], source)]
        varied.append("seed")
    if len(arms) * len(seeds) > LIMIT:
        raise InputError(f"{source} asks for {len(arms) * len(seeds):,} cells; keep it to {LIMIT:,}.")
    # One seed after another: a grid that is stopped halfway has still compared all arms.
    cells = [_cell(name, {**common, **arm, **seed}, source) for seed in seeds for arm in arms]
    distinct = {cell.runid: cell for cell in cells}
    if len(distinct) < len(cells):
        log.info("%s: %d repeated cells run only once", name, len(cells) - len(distinct))
    return Grid(name, tuple(varied), tuple(distinct.values()))


def _cell(name: str, values: dict[str, Any], source: str) -> Cell:
    """A cell whose run id is a hash of those of its settings that differ from the defaults."""
    filled = _filled(values, source)
    written = {key: value for key, value in values.items() if value != filled[key]}
    settings = Settings.from_mapping(filled, source)
    # Without the defaults, so that settings a later version adds leave the run ids of finished cells as they are.
    changed = {key: value for key, value in settings.to_dict().items() if value != FIELDS[key].default}
    parts = [f"{key}={json.dumps(value)}" for key, value in sorted(changed.items()) if key != "projectname"]
    return Cell(checked_run_id(f"{name}-{files.digest(parts)[:10]}"), settings, written)


def _filled(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The values of a cell with its seed in the place of each `{seed}`."""
    seed, filled = str(values.get("seed", FIELDS["seed"].default)), dict(values)
    for key, value in values.items():
        if isinstance(value, str) and key not in _BRACED:
            filled[key] = value.replace(SEED, seed)
            if other := re.search(r"\{[^{}]*\}", filled[key]):
                raise InputError(
                    f"{source}: {key} is {quoted(value)}; only {SEED} can be filled in, so take {shown(other[0])} out."
                )
    return filled


def _product(values: Any, source: str) -> list[dict[str, Any]]:
    """Every combination of the values of several settings."""
    named = _names(values, source)
    lists = [_values(name, each, source) for name, each in named.items()]
    if math.prod(map(len, lists)) > LIMIT:
        raise InputError(f"{source} makes {math.prod(map(len, lists)):,} combinations; keep it to {LIMIT:,}.")
    return [dict(zip(named, chosen, strict=True)) for chosen in itertools.product(*lists)]


def _list(values: Any, source: str) -> list[dict[str, Any]]:
    """Combinations given one by one."""
    if not isinstance(values, list) or not values:
        raise InputError(f"{source} must be a list of settings, for example `- {{loss: infonce}}`.")
    return [_settings(each, f"{source}, entry {number}") for number, each in enumerate(values, 1)]


def _random(values: Any, source: str) -> list[dict[str, Any]]:
    """Combinations drawn at random: from lists, or between two bounds, uniformly or log-uniformly."""
    _check_keys(values, ("count", "seed", "settings"), source)
    if missing := [key for key in ("count", "settings") if key not in values]:
        raise InputError(f"{source} has no {missing[0]}; it needs count and settings.")
    count = conversions.converted("count", values["count"], int, source)
    if not 1 <= count <= LIMIT:
        raise InputError(f"{source}: count is {count}; it must be between 1 and {LIMIT:,}.")
    generator = np.random.default_rng(config.checked("seed", values.get("seed", 0), source))
    named = _names(values["settings"], f"{source}: settings")
    return [{name: _drawn(name, each, generator, source) for name, each in named.items()} for _ in range(count)]


def _drawn(name: str, spec: Any, generator: np.random.Generator, source: str) -> Any:
    """A random value of the setting `name`, rounded to four digits so that tables stay readable."""
    if isinstance(spec, list):
        values = _values(name, spec, source)
        return values[generator.integers(len(values))]
    _check_keys(spec, ("low", "high", "log"), f"{source}: {name}")
    if TYPES[name] not in (int, float) or not {"low", "high"} <= set(spec):
        raise InputError(
            f"{source}: {name} needs a list of values{', or low and high' * (TYPES[name] in (int, float))}."
        )
    low, high = (config.checked(name, spec[end], source) for end in ("low", "high"))
    log_scale = conversions.converted("log", spec.get("log", False), bool, source)
    if low >= high or (log_scale and low <= 0):
        raise InputError(
            f"{source}: {name} runs from {low:g} to {high:g}; low must be below high, and above 0 for log."
        )
    if TYPES[name] is int and not log_scale:
        return int(generator.integers(low, high + 1))
    value = math.exp(generator.uniform(math.log(low), math.log(high))) if log_scale else generator.uniform(low, high)
    rounded = round(value) if TYPES[name] is int else float(f"{value:.4g}")
    return min(max(rounded, low), high)


def _values(name: str, values: Any, source: str) -> list[Any]:
    """The values of one setting, checked, without repeats."""
    if not isinstance(values, list) or not values:
        raise InputError(f"{source}: {name} is {quoted(values)}; give a list of values, for example [1, 2].")
    return list(dict.fromkeys(config.checked(name, value, source) for value in values))


def _settings(values: Any, source: str) -> dict[str, Any]:
    """Settings with their values, checked."""
    return {name: config.checked(name, value, source) for name, value in _names(values, source).items()}


def _names(values: Any, source: str) -> dict[str, Any]:
    """The mapping with each name spelled as the setting's own."""
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


def _check_keys(values: Any, valid: Sequence[str], source: str) -> None:
    if not isinstance(values, Mapping):
        raise InputError(f"{source} must be lines of `name: value` with the names {', '.join(valid)}.")
    for key in values:
        if key not in valid:
            raise InputError(f'{source} has no key "{shown(key)}"; {suggestion(str(key), valid)}')
