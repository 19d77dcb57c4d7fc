"""The tables of a suite: what each system reached on each task, which differences are real, means over families.

- A value is the mean of the task's metric over the queries of one direction, its 95 % interval a bootstrap over
  their groups.
- Two systems are compared query by query with the randomisation test of `significance.paired_comparison`; `p_holm` is
  corrected over all tasks and directions of the same two systems (Holm 1979).
- The mean over families: directions are averaged within a task, tasks within a family, families among themselves. Only
  tasks that all systems have finished count. Its interval comes from drawing the groups of queries of each task
  and direction anew, the same for all systems: it says nothing of other tasks.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hr_search.base import files
from hr_search.base.choices import METRICS
from hr_search.base.errors import InputError, one_line
from hr_search.evaluation.significance import (
    ALPHA,
    LEVEL,
    bootstrap_interval,
    by_group,
    holm,
    paired_comparison,
    verdict,
)
from hr_search.suite.cells import Cell, System
from hr_search.suite.suite_file import ALL, SuiteTask

CELLS = (
    *("task", "family", "direction", "metric", "system", "kind", "status", "value", "low", "high", "queries"),
    *("documents", "seconds", "memory_gb", *METRICS, "licence", "get", "error"),
)
COMPARISON = ("task", "direction", "metric", "a", "b", "difference", "low", "high", "p", "p_holm", "effect", "verdict")
FAMILIES = (
    "family",
    "system",
    "kind",
    "tasks",
    "value",
    "low",
    "high",
    "difference",
    "difference_low",
    "difference_high",
)
_TEXTS = (
    "task",
    "family",
    "direction",
    "metric",
    "system",
    "kind",
    "status",
    "licence",
    "get",
    "error",
    "a",
    "b",
    "verdict",
)
_RESAMPLES = 4999
_BLOCK = 2_000_000  # numbers drawn at a time: 16 MB


@dataclasses.dataclass(frozen=True)
class Tables:
    """The tables of a suite.

    Attributes:
        cells: `CELLS`, a row per task, direction and system; per task for one whose data are not here (status
            `skipped`, without a system).
        comparison: `COMPARISON`, a row per task, direction and pair: b against a. Each model is b to each floor, and
            to each model before it.
        families: `FAMILIES`, a row per family and system, and per system for all families; differences are those
            from the first model.
    """

    cells: pd.DataFrame
    comparison: pd.DataFrame
    families: pd.DataFrame


def make_tables(
    tasks: Sequence[SuiteTask],
    systems: Sequence[System],
    done: Mapping[tuple[str, str], Cell],
    failed: Mapping[tuple[str, str], str],
    seed: int = 0,
) -> Tables:
    """The tables of a suite from its cells.

    Args:
        tasks: all tasks, those whose data are not here included.
        systems: floors first, then the models.
        done: measured cells by task and label.
        failed: the sentences of the others.
        seed: of intervals and tests.
    """
    rows = []
    for task in tasks:
        common = {"task": task.name, "family": task.family, "metric": task.metric}
        common |= {"licence": task.licence, "get": task.get, "error": ""}
        known = [system for system in systems if (task.name, system.label) in {**done, **failed}]
        if not known:
            rows.append({**common, "status": "skipped"})
        for direction, system in itertools.product(task.directions, known):
            row = {**common, "direction": direction, "system": system.label, "kind": _kind(system)}
            key = task.name, system.label
            if key in done:
                rows.append({**row, "status": "finished", **_numbers(done[key], direction, task.metric, seed)})
            else:
                rows.append({**row, "status": "failed", "error": failed[key]})
    cells = pd.DataFrame(rows).reindex(columns=list(CELLS))
    texts = [name for name in CELLS if name in _TEXTS]
    cells = cells.fillna(dict.fromkeys(texts, ""))
    return Tables(cells, _comparison(tasks, systems, done, seed), _families(tasks, systems, done, seed))


def _kind(system: System) -> str:
    return "floor" if system.floor else "model"


def _values(cell: Cell, direction: str, metric: str) -> np.ndarray:
    """The metric of each query of one direction, (Q,)."""
    return cell.queries.loc[cell.queries["direction"] == direction, metric].to_numpy(dtype=float)


def _groups(cell: Cell, direction: str) -> np.ndarray:
    """The number of the group of each query of one direction, (Q,)."""
    return cell.queries.loc[cell.queries["direction"] == direction, "group"].to_numpy()


def _numbers(cell: Cell, direction: str, metric: str, seed: int) -> dict[str, Any]:
    """The numbers of one row of the table of cells."""
    values = _values(cell, direction, metric)
    low, high = bootstrap_interval(values, seed, groups=_groups(cell, direction))
    return {
        **{"value": values.mean(), "low": low, "high": high, "queries": len(values)},
        "documents": cell.facts["documents"][direction],
        "seconds": cell.facts["seconds"],
        "memory_gb": cell.facts["memory_gb"],
        **{name: _values(cell, direction, name).mean() for name in METRICS},
    }


def _comparison(
    tasks: Sequence[SuiteTask], systems: Sequence[System], done: Mapping[tuple[str, str], Cell], seed: int
) -> pd.DataFrame:
    """Each model against each floor and each model before it, query by query."""
    rows: list[dict[str, Any]] = []
    for a, b in itertools.combinations(systems, 2):
        if b.floor:
            continue
        pair = []
        for task in tasks:
            cells = [done.get((task.name, system.label)) for system in (a, b)]
            if None in cells:
                continue
            for direction in task.directions:
                first, second = (_values(cell, direction, task.metric) for cell in cells)
                row = {"task": task.name, "direction": direction, "metric": task.metric, "a": a.label, "b": b.label}
                pair.append({**row, **paired_comparison(first, second, seed, groups=_groups(cells[0], direction))})
        for row, p in zip(pair, holm([row["p"] for row in pair]), strict=True):
            row["p_holm"] = p
            row["verdict"] = verdict(row, row["metric"], a.label, b.label)
        rows += pair
    return pd.DataFrame(rows, columns=list(COMPARISON))


def _families(
    tasks: Sequence[SuiteTask], systems: Sequence[System], done: Mapping[tuple[str, str], Cell], seed: int
) -> pd.DataFrame:
    """Means over the tasks of each family, and over all families, of the tasks that all systems have finished."""
    common = [task for task in tasks if all((task.name, system.label) in done for system in systems)]
    if not common:
        return pd.DataFrame(columns=list(FAMILIES))
    of_family: dict[str, list[np.ndarray]] = {}
    for number, task in enumerate(common):
        cells, means = [done[task.name, system.label] for system in systems], []
        for at, direction in enumerate(task.directions):
            values = np.stack([_values(cell, direction, task.metric) for cell in cells], axis=1)
            generator = np.random.default_rng([seed, number, at])
            means.append(_resampled(values, _groups(cells[0], direction), generator))
        of_family.setdefault(task.family, []).append(np.mean(means, axis=0))
    means = {family: np.mean(parts, axis=0) for family, parts in of_family.items()}
    counts = {family: len(parts) for family, parts in of_family.items()}
    means[ALL], counts[ALL] = np.mean(list(means.values()), axis=0), len(common)
    first = next(place for place, system in enumerate(systems) if not system.floor)
    rows = []
    for family, drawn in means.items():
        for place, system in enumerate(systems):
            row = {"family": family, "system": system.label, "kind": _kind(system), "tasks": counts[family]}
            row |= dict(zip(("value", "low", "high"), _bounds(drawn[:, place]), strict=True))
            if place != first:
                gained = _bounds(drawn[:, place] - drawn[:, first])
                row |= dict(zip(("difference", "difference_low", "difference_high"), gained, strict=True))
            rows.append(row)
    return pd.DataFrame(rows, columns=list(FAMILIES))


def _resampled(values: np.ndarray, groups: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The means (1 + R, S) over queries of values (Q, S): as they are, and over R samples of their groups (Q,)."""
    means = [values.mean(axis=0, keepdims=True)]
    sums = np.stack([by_group(column, groups)[0] for column in values.T], axis=1)
    sizes = by_group(values[:, 0], groups)[1]
    count = len(sums)
    step = max(1, _BLOCK // count)
    for start in range(0, _RESAMPLES, step):
        drawn = generator.multinomial(count, np.full(count, 1 / count), min(step, _RESAMPLES - start))
        means.append(drawn @ sums / (drawn @ sizes)[:, None])
    return np.concatenate(means)


def _bounds(drawn: np.ndarray) -> tuple[float, float, float]:
    """The value, which comes first, and the 95 % interval of the samples behind it."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(drawn[1:], [tail, 100 - tail])
    return float(drawn[0]), float(low), float(high)


# -- reading -------------------------------------------------------------------------------------


def wide(cells: pd.DataFrame) -> pd.DataFrame:
    """The table of cells for reading: a row per task and direction, a column per system, `value [low, high]`."""
    part = cells[cells["status"] != "skipped"]
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in part.itertuples():
        words = f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" if row.status == "finished" else "failed"
        rows.setdefault((row.task, row.direction, row.metric), {})[row.system] = words
    systems = list(dict.fromkeys(part["system"]))
    keys = ("task", "direction", "metric")
    shown = [dict(zip(keys, key, strict=True)) | found for key, found in rows.items()]
    return pd.DataFrame(shown, columns=[*keys, *systems])


def wide_families(families: pd.DataFrame) -> pd.DataFrame:
    """The table of families for reading: a row per family, a column per system, `value [low, high]`."""
    words = [f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in families.itertuples()]
    table = families.assign(words=words).pivot(index=["family", "tasks"], columns="system", values="words")
    order = families.drop_duplicates("family").set_index(["family", "tasks"]).index
    return table.loc[order, list(dict.fromkeys(families["system"]))].reset_index().rename_axis(columns=None)


def gains(families: pd.DataFrame) -> pd.DataFrame:
    """How much each further model is above the first, by family: family, system, difference, low, high."""
    rows = families[(families["kind"] == "model") & families["difference"].notna()]
    names = {"difference_low": "low", "difference_high": "high"}
    return rows[["family", "system", "difference", *names]].rename(columns=names).reset_index(drop=True)


def counted_tasks(cells: pd.DataFrame) -> str:
    """How many tasks are finished, failed with some system, and skipped, in words: `7 tasks finished, 5 skipped`."""
    of_task = cells.groupby("task", sort=False)["status"].agg(set)
    counts = {
        "finished": sum(found == {"finished"} for found in of_task),
        "failed": sum("failed" in found for found in of_task),
        "skipped": sum(found == {"skipped"} for found in of_task),
    }
    words = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f"{len(of_task)} task{'s' * (len(of_task) > 1)}: {words}"


def real_differences(comparison: pd.DataFrame) -> pd.DataFrame:
    """The rows of a comparison whose difference is real: p after Holm below .05, and an interval without zero."""
    real = (comparison["p_holm"] < ALPHA) & ((comparison["low"] > 0) | (comparison["high"] < 0))
    return comparison[real].reset_index(drop=True)


def counted_differences(comparison: pd.DataFrame) -> pd.DataFrame:
    """How often b is really better or worse than a, or neither can be shown: a, b, better, worse, not shown."""
    rows = []
    for (a, b), part in comparison.groupby(["a", "b"], sort=False):
        real = real_differences(part)["difference"]
        better, worse = int((real > 0).sum()), int((real < 0).sum())
        rows.append({"a": a, "b": b, "better": better, "worse": worse, "not shown": len(part) - better - worse})
    return pd.DataFrame(rows, columns=["a", "b", "better", "worse", "not shown"])


def write_tables(folder: Path, tables: Tables) -> None:
    """Writes `cells.csv`, `comparison.csv` and `families.csv`."""
    for field in dataclasses.fields(tables):
        files.write_csv(folder / f"{field.name}.csv", getattr(tables, field.name))


def read_tables(folder: Path) -> Tables:
    """The tables that `write_tables` wrote.

    Raises:
        InputError: one is missing or damaged.
    """
    found = {}
    for name, columns in (("cells", CELLS), ("comparison", COMPARISON), ("families", FAMILIES)):
        place, texts = folder / f"{name}.csv", [column for column in columns if column in _TEXTS]
        types, missing = dict.fromkeys(texts, str), {column: [""] for column in columns if column not in texts}
        try:
            table = pd.read_csv(place, dtype=types, keep_default_na=False, na_values=missing)
            found[name] = table[list(columns)]
        except (OSError, ValueError, LookupError) as error:
            raise InputError(f"{place} is missing or damaged ({one_line(error)}); run the suite again.") from error
    return Tables(**found)
