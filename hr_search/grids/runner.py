"""Studies: all cells of a grid run side by side, each once, and the table of what became of them."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping

import pandas as pd

from hr_search.base import files, paths
from hr_search.base.choices import is_table_file
from hr_search.base.errors import InputError, one_line, suggestion
from hr_search.base.progress import bar, watched
from hr_search.grids.grid_file import OWN, Cell, Grid, Outcome, tables
from hr_search.grids.workers import PLACES, alone, on_cluster, on_processes, train_cell
from hr_search.runs.folders import Run

log = logging.getLogger(__name__)


def run_grid(
    grid: Grid, workers: int = 1, retry: bool = False, scheduler: str = "", run: Callable[[Cell], None] = train_cell
) -> pd.DataFrame:
    """Runs the cells of a grid that are not finished yet and writes `metrics/grids/<name>/cells.csv` after each.

    A cell that fails stops no other. Ctrl-C stops the running cells; what is finished stays, and the next start goes
    on from there.

    Args:
        grid: from `read_grid`.
        workers: processes side by side; each gets its part of the processor's cores.
        retry: run cells again that failed before.
        scheduler: address of a Dask cluster that runs the cells instead, `tcp://HOST:PORT`; its workers need this
            package and the same folders.
        run: what is done with a cell; it must leave a finished run.

    Returns:
        One row a cell: cell, the settings that vary, status (finished, failed or waiting), seconds, run, notebook (of
        a failed cell, under the root) and error.

    Raises:
        InputError: no worker, no data, the cluster cannot be reached, or the grid is running already.
    """
    if workers < 1:
        raise InputError(f"workers is {workers}; it must be at least 1.")
    with alone(grid.folder, f"the grid {grid.name}"):
        outcomes = known_outcomes(grid)
        again = ("waiting", "failed") if retry else ("waiting",)
        todo = [_located(cell) for cell in grid.cells if outcomes[cell.runid].status in again]
        log.info("grid %s: %d cells, %d of them to run", grid.name, len(grid.cells), len(todo))
        table = write_cells(grid, outcomes)
        if not todo:
            return table
        results = on_cluster(todo, run, scheduler) if scheduler else on_processes(todo, run, workers)
        with contextlib.closing(results), bar(total=len(todo), what=grid.name, unit="cell") as shown:
            for number, (cell, outcome) in enumerate(results, 1):
                if outcome.status == "finished" and not (paths.runs() / cell.runid / "summary.json").is_file():
                    reason = "its run is not here; do all workers share this folder?"
                    outcome = Outcome("failed", outcome.seconds, reason)
                outcomes[cell.runid] = outcome
                table = write_cells(grid, outcomes)
                shown.update()
                if not watched():
                    what = f"{outcome.status}{': ' * bool(outcome.error)}{outcome.error}"
                    log.info("%d/%d %s, %.0f s, %s", number, len(todo), cell.runid, outcome.seconds, what)
        return table


def _located(cell: Cell) -> Cell:
    """The cell with paths that hold in any working directory: kernels and clusters start elsewhere.

    Raises:
        InputError: a table of its data is not there.
    """
    given = {name: getattr(cell.settings, name) for name in PLACES}
    for name in ("datapath", "validationpath", "testpath"):
        if is_table_file(given[name]) and not paths.resolve(given[name]).exists():
            raise InputError(f"{name} {given[name]} of the cell {cell.runid} does not exist; check the path.")
    found = {name: str(paths.resolve(text)) for name, text in given.items() if text and paths.resolve(text).exists()}
    return dataclasses.replace(cell, settings=cell.settings.replace(**found))


def known_outcomes(grid: Grid) -> dict[str, Outcome]:
    """What is known of each cell, by run id: finished where its run is, failed where the table says so.

    Raises:
        InputError: a finished run of that name has other settings, or the table is damaged.
    """
    before, place = {}, grid.folder / "cells.csv"
    if place.is_file():
        before = {row["run"]: row for row in read_cells(grid.name).to_dict("records")}
    outcomes = {}
    for cell in grid.cells:
        run, row = Run(paths.runs() / cell.runid), before.get(cell.runid, {"status": "waiting"})
        outcomes[cell.runid] = Outcome("waiting")
        if (run.folder / "summary.json").is_file():
            _check_same(run, cell)
            seconds = row["seconds"] if row["status"] == "finished" else run.summary["seconds"]
            outcomes[cell.runid] = Outcome("finished", seconds)
        elif row["status"] == "failed":
            outcomes[cell.runid] = Outcome("failed", row["seconds"], row["error"], row["notebook"])
    return outcomes


def _check_same(run: Run, cell: Cell) -> None:
    """Refuses a run that was made when the defaults were others."""
    settings = cell.settings.to_dict()
    for name, value in run.config.items():
        # Paths are written out in a run, and point elsewhere on another machine.
        if name in settings and name not in (*PLACES, *OWN) and settings[name] != value:
            raise InputError(
                f"the run {run.id} was made with {name} {value}, the grid means {settings[name]}, as a default has "
                "changed; give the grid a new name, or delete the run's folder."
            )


def write_cells(grid: Grid, outcomes: Mapping[str, Outcome]) -> pd.DataFrame:
    """Writes and returns the table of the cells."""
    rows = []
    for number, cell in enumerate(grid.cells, 1):
        outcome, values = outcomes[cell.runid], cell.settings.to_dict()
        rows.append({
            "cell": number, **{name: values[name] for name in grid.varied}, "status": outcome.status,
            "seconds": outcome.seconds, "run": cell.runid, "notebook": outcome.notebook, "error": outcome.error,
        })  # fmt: skip
    table = pd.DataFrame(rows)
    files.write_csv(grid.folder / "cells.csv", table)
    return table


def read_cells(name: str) -> pd.DataFrame:
    """The table of the cells of a grid that has been started; all texts, seconds as numbers.

    Raises:
        InputError: there is none, or it is damaged.
    """
    place = tables(name) / "cells.csv"
    if not place.is_file():
        known = sorted(path.parent.name for path in tables("").glob("*/cells.csv"))
        raise InputError(
            f"there is no grid {name}; {suggestion(name, known) if known else 'none has been started yet'}"
        )
    try:
        table = pd.read_csv(place, dtype=str, keep_default_na=False)
        seconds = pd.to_numeric(table["seconds"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{place} is damaged ({one_line(error)}); delete it and start the grid again.") from error
    if missing := {"cell", "status", "run", "notebook", "error"} - set(table):
        raise InputError(f"{place} has no column {sorted(missing)[0]}; delete it and start the grid again.")
    return table.assign(seconds=seconds)
