"""Figures of suites: what each system reached on each task, as dots with intervals."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from hr_search.base.plots import (
    BLUE,
    ORANGE,
    PINK,
    RED,
    SKY,
    SYSTEM_COLOURS,
    finish,
    new_axis,
    require_columns,
    require_some,
)
from hr_search.evaluation.significance import LABELS

_COLOURS = (BLUE, ORANGE, RED, PINK, SKY, "black")  # of models, in their order
_MARKS = ("o", "s", "^", "D", "v", "P")  # so that nobody has to tell them by colour alone
_FLOORS = {"bm25": "|", "tfidf": "x"}


def dots_and_intervals(cells: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The value of each system on each task and direction with its 95 % interval, from the cells of `make_tables`.

    Raises:
        InputError: no finished cell.
    """
    require_columns(cells, ("task", "direction", "metric", "system", "kind", "value", "low", "high"), "the cells")
    done = require_some(cells[cells["status"] == "finished"], "finished cells")
    names = [(row.task, row.direction, row.metric) for row in done.itertuples()]
    rows = list(dict.fromkeys(names))
    systems = list(dict.fromkeys(done["system"]))
    looks = _looks(done, systems)
    ax = new_axis(ax, (8.5, 1.6 + len(rows) * (0.2 + 0.13 * len(systems))))
    for place, system in enumerate(systems):
        part = done[done["system"] == system]
        shift = 0.7 * ((place + 0.5) / len(systems) - 0.5)
        heights = [rows.index((row.task, row.direction, row.metric)) + shift for row in part.itertuples()]
        colour, mark = looks[system]
        ax.hlines(heights, part["low"], part["high"], color=colour, linewidth=2)
        ax.scatter(part["value"], heights, color=colour, marker=mark, s=34, label=system, zorder=3)
    ax.set_yticks(range(len(rows)), [_name(*row) for row in rows], parse_math=False)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(-0.02, 1.02)
    for edge in range(1, len(rows)):
        ax.axhline(edge - 0.5, color="#E5E5E5", linewidth=0.7)
    finish(ax, leaders(done), "Value of the task's metric (0 to 1) and 95% interval", "Task and direction", legend=True)
    ax.grid(axis="y", visible=False)
    return ax


def leaders(cells: pd.DataFrame) -> str:
    """On how many tasks and directions each system is ahead: `e5 leads in 3 of 5 rows, tfidf in 1; a tie in 1`."""
    best = _best(cells)
    counts, ties = best[best.str.len() == 1].str[0].value_counts(sort=True), int((best.str.len() > 1).sum())
    names = [f"{name}{' leads' * (not at)} in {count}" for at, (name, count) in enumerate(counts.items())]
    if names:
        names[0] += f" of {len(best)} rows"
    return "; ".join([", ".join(names)] * bool(names) + [f"a tie in {ties}"] * bool(ties))


def words_of(cells: pd.DataFrame) -> str:
    """What `dots_and_intervals` shows, for readers who cannot see it: each row with its best system."""
    values = cells[cells["status"] == "finished"].groupby(["task", "direction"], sort=False)["value"].max()
    words = [f"{' '.join(row)}: {' and '.join(best)} {values[row]:.2f}" for row, best in _best(cells).items()]
    return f"Dots with 95 % intervals for each system on each task; the best are {'; '.join(words)}"


def _best(cells: pd.DataFrame) -> pd.Series:
    """The systems with the highest value of each task and direction, which is the index; several where they tie."""
    done = cells[cells["status"] == "finished"]
    rows = done.groupby(["task", "direction"], sort=False)
    highest = done["value"] >= rows["value"].transform("max")
    return done[highest].groupby(["task", "direction"], sort=False)["system"].agg(list)


def _looks(cells: pd.DataFrame, systems: list[str]) -> dict[str, tuple[str, str]]:
    """Colour and mark of each system: floors look alike in all suites, models by their order."""
    kinds = dict(zip(cells["system"], cells["kind"], strict=True))
    models = [system for system in systems if kinds[system] == "model"]
    looks = {floor: (SYSTEM_COLOURS[floor], mark) for floor, mark in _FLOORS.items() if floor in systems}
    for place, model in enumerate(models):
        looks[model] = _COLOURS[place % len(_COLOURS)], _MARKS[place % len(_MARKS)]
    return looks


def _name(task: str, direction: str, metric: str) -> str:
    return f"{task} {direction}\n{LABELS.get(metric, metric)}"
