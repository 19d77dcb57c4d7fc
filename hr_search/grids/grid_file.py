"""A grid file: the settings it varies, and the cells (runs) that it asks for."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hr_search import settings as config
from hr_search.base import conversions, files, paths
from hr_search.base.choices import PRUNERS
from hr_search.base.errors import InputError, quoted, shown, suggestion
from hr_search.base.yaml_files import read_yaml
from hr_search.grids import entries
from hr_search.grids.entries import Range
from hr_search.places import TABLES
from hr_search.runs.folders import checked_run_id
from hr_search.settings import FIELDS, TYPES, Settings
from hr_search.sources import with_paths

log = logging.getLogger(__name__)

FORMS = ("product", "list", "random", "optuna")
KEYS = ("name", "recipe", "base", *FORMS, "seeds")
LIMIT = 10_000  # cells a file may ask for; more are a mistake
SEED = "{seed}"  # in a text: the seed of the cell
_BRACED = ("template", "documenttemplate")  # their braces name columns
# What the cells of a search are judged by: where it varies, their values cannot be compared.
_JUDGING = (
    *TABLES,
    "groupcolumn",
    "stream",
    "allowleaks",
    "validationshare",
    "testshare",
    "splitseed",
    "relevantfrom",
    "goal",
    "direction",
    "stage",
    "tracker",
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a grid; the project name in its settings is the grid's name.

    Attributes:
        runid: its name.
        settings: with the seed in the place of each `{seed}`.
        written: the texts of settings that hold a `{seed}`, as the file has them: they name an arm over its seeds.
        environment: variables that its run gets, such as the trial of a study that it is.
    """

    runid: str
    settings: Settings
    written: Mapping[str, str] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder of its executed notebook."""
        return paths.reports() / self.settings.projectname / "cells" / self.runid


@dataclasses.dataclass(frozen=True)
class Search:
    """How the cells of a search are drawn, one after another.

    Attributes:
        trials: cells in all, over all machines and starts.
        space: by setting, the list of its values or the range of its numbers.
        common: the settings that all cells share.
        pruner: one of `choices.PRUNERS`.
        startup: so many trials are drawn at random before the sampler learns from them and the pruner compares.
        seed: of the sampler.
        storage: URL of the database; empty = a file beside the tables of the grid.
    """

    trials: int
    space: Mapping[str, list[Any] | Range]
    common: Mapping[str, Any]
    pruner: str = "median"
    startup: int = 10
    seed: int = 0
    storage: str = ""


@dataclasses.dataclass(frozen=True)
class Grid:
    """The cells of a grid file, and the settings in which they differ; those of a `search` are drawn as it goes."""

    name: str
    varied: tuple[str, ...]
    cells: tuple[Cell, ...]
    search: Search | None = None

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
            that override it; one of `product` (setting: list of values), `list` (of settings), `random` (`count`,
            `seed` and `settings`, each a list or `low`, `high`, `log`) and `optuna` (the fields of `Search`, except
            `common`); `seeds`, a list that multiplies the cells. A text may hold `{seed}`, which becomes the seed of
            the cell.

    Raises:
        InputError: an unknown key or setting, a value out of bounds, braces around anything but seed, or no cell.
    """
    source, values = str(path), read_yaml(path)
    entries.check_keys(values, KEYS, source)
    forms = [form for form in FORMS if form in values]
    if len(forms) != 1:
        raise InputError(f"{source} has {' and '.join(forms) or 'no cells'}; give one of {', '.join(FORMS)}.")
    name = checked_run_id(str(values.get("name", Path(path).stem)))
    common: dict[str, Any] = {}
    if "recipe" in values:
        recipe = config.read_recipe(paths.resolve(str(values["recipe"]))).to_dict()
        common = {setting: value for setting, value in recipe.items() if setting not in entries.OWN}
    common |= entries.settings(values.get("base", {}), f"{source}: base") | {"projectname": name}
    if "optuna" in values:
        if "seeds" in values:
            raise InputError(f"{source} gives seeds, but a search has one run a trial; set base: {{seed: 1}} instead.")
        search = _search(values["optuna"], common, f"{source}: optuna")
        return Grid(name, tuple(search.space), (), search)
    arms = {"product": _product, "list": _list, "random": _random}[forms[0]](values[forms[0]], f"{source}: {forms[0]}")
    varied = list(dict.fromkeys(setting for arm in arms for setting in arm))
    seeds: list[dict[str, Any]] = [{}]
    if "seeds" in values:
        if "seed" in varied:
            raise InputError(f"{source} gives seeds and also {forms[0]} of seed; keep one of the two.")
        seeds = [{"seed": seed} for seed in entries.values("seed", values["seeds"], source)]
        varied.append("seed")
    if len(arms) * len(seeds) > LIMIT:
        raise InputError(f"{source} asks for {len(arms) * len(seeds):,} cells; keep it to {LIMIT:,}.")
    # One seed after another: a grid that is stopped halfway has still compared all arms.
    cells = [make_cell(name, {**common, **arm, **seed}, source) for seed in seeds for arm in arms]
    distinct = {cell.runid: cell for cell in cells}
    if len(distinct) < len(cells):
        log.info("%s: %d repeated cells run only once", name, len(cells) - len(distinct))
    return Grid(name, tuple(varied), tuple(distinct.values()))


def make_cell(name: str, values: Mapping[str, Any], source: str) -> Cell:
    """A cell of the grid `name`, whose run id is a hash of those of its settings that differ from the defaults.

    Raises:
        InputError: settings that cannot be, or braces around anything but seed, naming `source`.
    """
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

    def fill(key: str, text: str) -> str:
        done = text.replace(SEED, seed)
        if other := re.search(r"\{[^{}]*\}", done):
            raise InputError(
                f"{source}: {key} is {quoted(text)}; only {SEED} can be filled in, so take {shown(other[0])} out."
            )
        return done

    for key, value in values.items():
        if key == "datapath":  # several tables are a list in JSON, whose braces are its own
            filled[key] = with_paths(value, functools.partial(fill, key))
        elif isinstance(value, str) and key not in _BRACED:
            filled[key] = fill(key, value)
    return filled


def _product(values: Any, source: str) -> list[dict[str, Any]]:
    """Every combination of the values of several settings."""
    named = entries.names(values, source)
    lists = [entries.values(name, each, source) for name, each in named.items()]
    if math.prod(map(len, lists)) > LIMIT:
        raise InputError(f"{source} makes {math.prod(map(len, lists)):,} combinations; keep it to {LIMIT:,}.")
    return [dict(zip(named, chosen, strict=True)) for chosen in itertools.product(*lists)]


def _list(values: Any, source: str) -> list[dict[str, Any]]:
    """Combinations given one by one."""
    if not isinstance(values, list) or not values:
        raise InputError(f"{source} must be a list of settings, for example `- {{loss: infonce}}`.")
    return [entries.settings(each, f"{source}, entry {number}") for number, each in enumerate(values, 1)]


def _random(values: Any, source: str) -> list[dict[str, Any]]:
    """Combinations drawn at random: from lists, or between two bounds, uniformly or log-uniformly."""
    entries.check_keys(values, ("count", "seed", "settings"), source)
    if missing := [key for key in ("count", "settings") if key not in values]:
        raise InputError(f"{source} has no {missing[0]}; it needs count and settings.")
    count = conversions.converted("count", values["count"], int, source)
    if not 1 <= count <= LIMIT:
        raise InputError(f"{source}: count is {count}; it must be between 1 and {LIMIT:,}.")
    generator = np.random.default_rng(config.checked("seed", values.get("seed", 0), source))
    named = entries.names(values["settings"], f"{source}: settings")
    return [{name: _drawn(name, each, generator, source) for name, each in named.items()} for _ in range(count)]


def _drawn(name: str, spec: Any, generator: np.random.Generator, source: str) -> Any:
    """A random value of the setting `name`, rounded to four digits so that tables stay readable."""
    values = entries.spread(name, spec, source, ("low", "high", "log"))
    if isinstance(values, list):
        return values[generator.integers(len(values))]
    low, high = values.low, values.high
    if TYPES[name] is int and not values.log:
        return int(generator.integers(low, high + 1))
    value = math.exp(generator.uniform(math.log(low), math.log(high))) if values.log else generator.uniform(low, high)
    rounded = round(value) if TYPES[name] is int else float(f"{value:.4g}")
    return min(max(rounded, low), high)


# -- a search ------------------------------------------------------------------------------------


def _search(values: Any, common: Mapping[str, Any], source: str) -> Search:
    """The search of the key `optuna`, checked as far as it can be without its storage."""
    entries.check_keys(values, ("trials", "space", "pruner", "startup", "seed", "storage"), source)
    if missing := [key for key in ("trials", "space") if key not in values]:
        raise InputError(f"{source} has no {missing[0]}; it needs trials and space.")
    counts = {"trials": values["trials"], "startup": values.get("startup", Search.startup)}
    counts = {name: conversions.converted(name, value, int, source) for name, value in counts.items()}
    for name, count in counts.items():
        if not 1 <= count <= LIMIT:
            raise InputError(f"{source}: {name} is {count}; it must be between 1 and {LIMIT:,}.")
    texts = {"pruner": values.get("pruner", Search.pruner), "storage": values.get("storage", Search.storage)}
    texts = {name: conversions.converted(name, value, str, source) for name, value in texts.items()}
    if texts["pruner"] not in PRUNERS:
        raise InputError(f"{source}: pruner is {quoted(texts['pruner'])}; {suggestion(texts['pruner'], PRUNERS)}")
    seed = config.checked("seed", values.get("seed", Search.seed), source)
    where = f"{source}: space"
    named = entries.names(values["space"], where)
    if judging := next((name for name in named if name in _JUDGING), ""):
        raise InputError(f"{where} varies {judging}, so that its trials could not be compared; set it in base.")
    keys = ("low", "high", "log", "step", "choices")
    space = {name: entries.spread(name, spec, where, keys) for name, spec in named.items()}
    _require_judge(make_cell("search", common, source).settings, source)
    return Search(space=space, common=dict(common), seed=seed, **counts, **texts)


def _require_judge(settings: Settings, source: str) -> None:
    """Refuses a search whose runs would have no validation: it never looks at the test."""
    if settings.stage == "search":
        raise InputError(f"{source} cannot search in stage search, which trains nothing; use the verb tune.")
    if not settings.holds_out("validation"):
        raise InputError(f"{source} has no validation rows to judge trials by; set validationshare above 0 in base.")
