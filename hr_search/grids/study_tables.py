"""Tables and figures of a study: what each trial reached, the history of the best, which settings decide.

They are read from the files that a study writes, so that a page needs neither Optuna nor the storage.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from hr_search.base import paths
from hr_search.base.errors import InputError, one_line, suggestion
from hr_search.base.plots import BLUE, GREY, ORANGE, RED, finish, new_axes, new_axis, require_columns, require_some
from hr_search.evaluation import comparison
from hr_search.evaluation.significance import LABELS
from hr_search.grids.grid_file import grid_folder, read_grid, source_folder
from hr_search.runs.folders import Run
from hr_search.settings import TYPES

log = logging.getLogger(__name__)

FACTS = ("status", "value", "validations", "seconds", "run", "place", "notebook", "error")
SMOKE = "smoke_study"
EMPTY = "(empty)"  # how a figure names the empty text
_WIDE = 20  # a setting whose largest value is so many times the smallest gets a logarithmic axis


def read_study(name: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The tables of a study that was begun: its trials, their validations and the importances of the settings.

    Raises:
        InputError: there is no such study here, or a table is damaged.
    """
    place = grid_folder(name)
    if not (place / "trials.csv").is_file():
        known = sorted(path.parent.name for path in grid_folder("").glob("*/trials.csv"))
        raise InputError(f"there is no study {name}; {suggestion(name, known) if known else 'none has been begun yet'}")
    # The empty text is a value of such a setting, and "256" is not a number.
    settings = [name for name, kind in TYPES.items() if kind is str]
    texts = dict.fromkeys(("run", "place", "notebook", "error", "status", *settings), str)
    try:
        table = pd.read_csv(place / "trials.csv", dtype=texts)
        table = table.fillna({name: "" for name in texts if name in table})
        curves, importance = (pd.read_csv(place / f"{part}.csv") for part in ("curves", "importance"))
        return table[["trial", *settings_of(table), *FACTS]], curves, importance
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"the tables in {place} are damaged ({one_line(error)}); start the grid again.") from error


def settings_of(table: pd.DataFrame) -> list[str]:
    """The settings that vary in a table of trials."""
    return list(table.columns[1 : table.columns.get_loc("status")])


def goal_of(table: pd.DataFrame) -> str:
    """The metric and the direction by which trials are judged, such as `mrr in q2d`, from a run that lies here."""
    for run in (Run(paths.runs() / name) for name in table["run"] if name):
        if (run.folder / "config.json").is_file():
            return f"{LABELS.get(run.config['goal'], run.config['goal'])} in {run.config['direction']}"
    return "goal"


def best_trial(table: pd.DataFrame) -> pd.Series:
    """The finished trial of the largest value, the first of several.

    Raises:
        InputError: no trial has finished.
    """
    finished = table[table["status"] == "finished"]
    if finished.empty:
        raise InputError("no trial of the study has finished yet; start the grid, with --retry if its trials failed.")
    return finished.loc[finished["value"].astype(float).idxmax()]


def summed_up(table: pd.DataFrame, goal: str) -> str:
    """The study in one or two sentences."""
    best, counts = best_trial(table), table["status"].value_counts()
    said = ", ".join(f"{count} {status}" for status, count in counts.items())
    values = ", ".join(f"{name}={_word(best[name])}" for name in settings_of(table))
    return (
        f"{len(table)} trials: {said}. Best: trial {best['trial']} with a validation {goal} of {best['value']:.4f} "
        f"({values}); the best of many trials looks better than it is."
    )


def ranking(table: pd.DataFrame) -> pd.DataFrame:
    """The trials to read, best first, then pruned and other ones, with numbers of four digits."""
    order = table["status"].map({"finished": 0, "pruned": 1}).fillna(2)
    shown = table.assign(order=order).sort_values(["order", "value"], ascending=[True, False], kind="stable")
    places = ["place"] * (table["place"].nunique() > 1)
    shown = shown.astype({"seconds": float}).round({"seconds": 0}).set_index("trial")
    for name in (*settings_of(table), "value"):
        shown[name] = shown[name].map(_word)
    return shown[[*settings_of(table), "status", "value", "validations", "seconds", "run", *places]]


def tested(best: pd.Series) -> pd.DataFrame | None:
    """The metrics of a trial's run on the test, with intervals; None where the run lies elsewhere or has none."""
    run = Run(paths.runs() / best["run"])
    if not run.has("metrics"):
        return None
    return comparison.with_intervals(run.table("metrics"), run.config["direction"])


def command_of(best: pd.Series) -> str:
    """The command that repeats a trial; "" where its run lies elsewhere."""
    run = Run(paths.runs() / best["run"])
    return run.summary["command"] if (run.folder / "summary.json").is_file() else ""


def open_or_smoke(name: str = "") -> str:
    """The name of a study to read: `name`, else the newest, else a tiny one that is made first.

    Raises:
        InputError: there is no study of that name.
    """
    if name:
        read_study(name)
        return name
    known = sorted(grid_folder("").glob("*/trials.csv"), key=lambda path: (path.stat().st_mtime, path), reverse=True)
    for place in known:
        if (read_study(place.parent.name)[0]["status"] == "finished").any():
            return place.parent.name
    from hr_search.grids.study import run_study  # the page of a study that is there needs no optuna

    log.info("no study yet: a tiny one of three trials on the Russian sample is made")
    grid = read_grid(source_folder() / "optuna.yaml")
    common = {**grid.search.common, "projectname": SMOKE, "maxsteps": 2, "evalsteps": 1}
    run_study(replace(grid, name=SMOKE, search=replace(grid.search, trials=3, common=common)), workers=2)
    return SMOKE


# -- figures -------------------------------------------------------------------------------------


def history(table: pd.DataFrame, goal: str = "goal", ax: Axes | None = None) -> Axes:
    """The value of each trial in the order of their numbers, and the best so far; pruned trials are marked."""
    require_columns(table, ("trial", "status", "value"), "the table of trials")
    best, ax = best_trial(table), new_axis(ax, (8, 4))
    finished, pruned = (table[table["status"] == status] for status in ("finished", "pruned"))
    ax.plot(pruned["trial"], pruned["value"], "v", color=GREY, label="pruned: value where it was ended")
    ax.plot(finished["trial"], finished["value"], "o", color=BLUE, label="finished")
    steps = [*finished["trial"], max(table["trial"])], [*finished["value"].cummax(), best["value"]]
    ax.step(*steps, where="post", color=ORANGE, label="best so far")
    ax.plot(best["trial"], best["value"], "*", color=ORANGE, markersize=15)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    title = f"Trial {best['trial']} is the best of {len(table)} with {best['value']:.3f}; pruned: {len(pruned)}"
    return finish(ax, title, "Trial", f"Validation {goal}", legend=True)


def curves(table: pd.DataFrame, validations: pd.DataFrame, goal: str = "goal", ax: Axes | None = None) -> Axes:
    """What each trial had at each validation; pruned ones end in a cross, the best is thick."""
    require_columns(validations, ("trial", "validation", "value"), "the validations of the trials")
    best, ax, labelled = best_trial(table)["trial"], new_axis(ax, (8, 4)), set()
    status = dict(zip(table["trial"], table["status"], strict=True))
    for trial, part in validations.groupby("trial"):
        kind = "best" if trial == best else status.get(trial, "")
        look = {"best": (ORANGE, 3.0), "finished": (BLUE, 1.2), "pruned": (GREY, 1.2)}.get(kind)
        if look is None:  # failed, or still running
            continue
        label = None if kind in labelled else kind
        ax.plot(part["validation"], part["value"], color=look[0], linewidth=look[1], label=label)
        if kind == "pruned":
            ax.plot(part["validation"].iloc[-1], part["value"].iloc[-1], "x", color=RED)
        labelled.add(kind)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    count = int((table["status"] == "pruned").sum())
    title = f"Ended early (crosses): {count} of {len(table)} trials"
    return finish(ax, title, "Validation (0 = base model)", f"Validation {goal}", legend=True)


def importances(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Bars of the share of each setting in what sets the best trials apart, from `importance.csv`."""
    require_columns(table, ("setting", "importance"), "the importances")
    shown = table.iloc[::-1]
    ax = new_axis(ax, (7, 1.2 + 0.4 * len(shown)))
    ax.barh(range(len(shown)), shown["importance"], color=BLUE)
    for place, share in enumerate(shown["importance"]):
        ax.text(share, place, f" {share:.0%}", va="center", fontsize=9)
    ax.set_yticks(range(len(shown)), shown["setting"], parse_math=False)
    ax.set_xlim(0, 1.12 * max(shown["importance"].max(), 0.01))
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    title = f"{table['setting'].iloc[0]} sets the best trials apart most"
    return finish(ax, title, "Share of the importance (PED-ANOVA)", "")


def slices(table: pd.DataFrame, goal: str = "goal", axes: list[Axes] | None = None) -> np.ndarray:
    """The value of the trials over each setting; pruned ones are marked."""
    settings = require_some(settings_of(table), "settings that vary")
    best, columns = best_trial(table), min(3, len(settings))
    table = table[table["status"].isin(("finished", "pruned"))]  # others may have no settings yet
    rows = -(-len(settings) // columns)
    axes = new_axes(axes, rows, columns, (3.2 * columns, 2.9 * rows + 0.3), sharey=True)
    for ax, name in zip(axes, settings, strict=False):
        values, places = table[name], None
        if not pd.api.types.is_numeric_dtype(values) or values.dtype == bool:
            values, names = pd.factorize(values.map(str))
            values, places = pd.Series(values, table.index), [name or EMPTY for name in names]
        for status, mark, colour in (("pruned", "v", GREY), ("finished", "o", BLUE)):
            part = table["status"] == status
            ax.plot(values[part], table.loc[part, "value"], mark, color=colour, label=status)
        ax.plot(values[best.name], best["value"], "*", color=ORANGE, markersize=13, label="best")
        finish(ax, f"best at {EMPTY if best[name] == '' else _word(best[name])}", name, "")
        if places is not None:
            ax.set_xticks(range(len(places)), places, parse_math=False)
            ax.set_xlim(-0.5, len(places) - 0.5)
        elif values.min() > 0 and values.max() / values.min() >= _WIDE:
            ax.set_xscale("log")
    for ax in axes[len(settings) :]:
        ax.set_axis_off()
    for ax in axes[::columns]:
        ax.set_ylabel(f"Validation {goal}", parse_math=False)
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return axes[: len(settings)]


def _word(value: object) -> str:
    return "" if value != value else f"{value:.4g}" if isinstance(value, float) else str(value)
