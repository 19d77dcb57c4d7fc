"""Runner: all cells of a grid side by side, each once, and the table of what became of them."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from hr_search.base import claims, files, paths
from hr_search.base.errors import InputError, one_line, suggestion
from hr_search.grids.entries import OWN
from hr_search.grids.grid_file import Cell, Grid, grid_folder, read_grid, source_folder
from hr_search.grids.workers import Outcome, ready, run_cells, train_cell
from hr_search.places import READ
from hr_search.runs import tracking
from hr_search.runs.folders import Run

log = logging.getLogger(__name__)

NOTEBOOK = "05_ablations"


def run_grid(
    grid: Grid, workers: int = 1, retry: bool = False, scheduler: str = "", run: Callable[[Cell], None] = train_cell
) -> pd.DataFrame:
    """Runs the cells of a grid that are not finished yet and writes `metrics/grids/<name>/cells.csv` after each.

    A cell that fails does not stop the others. Ctrl-C (from the command line also SIGTERM and a closed terminal) stops
    the running cells; finished ones stay, and the next start continues from there.

    Args:
        grid: from `read_grid`.
        workers: processes side by side; each gets its share of the processor's cores.
        retry: run cells again that failed before.
        scheduler: address of a Dask cluster that runs the cells instead, `tcp://HOST:PORT`; its workers need this
            package and the same folders.
        run: what runs a cell; it must leave a finished run.

    Returns:
        One row per cell: cell, the settings that vary, status (finished, failed or waiting), seconds, run, notebook
        (of a failed cell, relative to the root) and error.

    Raises:
        InputError: no worker, missing data or models, an unreachable cluster, a grid that is already running, or a
            search, whose cells `study.run_study` draws.
    """
    if grid.search:
        raise InputError(f"the grid {grid.name} is a search; run it with study.run_study.")
    if workers < 1:
        raise InputError(f"workers is {workers}; it must be at least 1.")
    with claims.claimed(claims.inside(grid.folder), f"the grid {grid.name}", "stop it"):
        outcomes = known_outcomes(grid)
        again = ("waiting", "failed") if retry else ("waiting",)
        todo = [ready(cell) for cell in grid.cells if outcomes[cell.runid].status in again]
        log.info("grid %s: %d cells, %d of them to run", grid.name, len(grid.cells), len(todo))
        table = write_cells(grid, outcomes)
        if not todo:
            return table
        tracked = tracking.parent_run(grid.cells[0].settings.tracker, grid.name, grid.folder)
        try:
            with tracked as told:
                cells = (dataclasses.replace(cell, environment=told) for cell in todo)
                results = run_cells(cells, len(todo), run, workers, scheduler, grid.name)
                with contextlib.closing(results):
                    for cell, outcome in results:
                        outcomes[cell.runid] = outcome
                        table = write_cells(grid, outcomes)
        except KeyboardInterrupt:
            log.warning(_farewell(grid, outcomes, scheduler))
            raise
        return table


def _farewell(grid: Grid, outcomes: Mapping[str, Outcome], scheduler: str) -> str:
    """What a grid that was asked to stop says about how to go on."""
    left = sum(outcome.status == "waiting" for outcome in outcomes.values())
    ended = "cells that the cluster has begun run to their end there" if scheduler else "no cell is still running"
    return (
        f"the grid {grid.name} was stopped, and {ended}; {len(outcomes) - left} of {len(outcomes)} cells are done, and "
        f"the same command goes on with the other {left}."
    )


def known_outcomes(grid: Grid) -> dict[str, Outcome]:
    """What is known of each cell, by run id: finished where its run exists, failed where the table says so.

    Raises:
        InputError: a finished run of that name has other settings, or the table is damaged.
    """
    before = {}
    if (grid.folder / "cells.csv").is_file():
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
    """Refuses a run that was made when the defaults were different."""
    settings = cell.settings.to_dict()
    for name, value in run.config.items():
        # A run holds absolute paths, which differ on another machine.
        if name in settings and name not in (*READ, *OWN) and settings[name] != value:
            raise InputError(
                f"the run {run.id} was made with {name} {value}, but the grid means {settings[name]}: a default has "
                "changed; give the grid a new name, or delete the run's folder."
            )


def write_cells(grid: Grid, outcomes: Mapping[str, Outcome]) -> pd.DataFrame:
    """Writes and returns the table of the cells."""
    rows = []
    for number, cell in enumerate(grid.cells, 1):
        outcome, values = outcomes[cell.runid], cell.settings.to_dict()
        row = {"cell": number} | {name: cell.written.get(name, values[name]) for name in grid.varied}
        row |= {"status": outcome.status, "seconds": outcome.seconds, "run": cell.runid}
        rows.append(row | {"notebook": outcome.notebook, "error": outcome.error})
    table = pd.DataFrame(rows)
    files.write_csv(grid.folder / "cells.csv", table)
    return table


def read_cells(name: str) -> pd.DataFrame:
    """The table of the cells of a grid that has been started; all columns are text except `seconds`.

    Raises:
        InputError: there is no such table, or it is damaged.
    """
    place = grid_folder(name) / "cells.csv"
    if not place.is_file():
        known = sorted(path.parent.name for path in grid_folder("").glob("*/cells.csv"))
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


def open_or_smoke(name: str = "") -> str:
    """The name of a grid to read: `name`, else the newest with a result, else a tiny grid that is run first.

    Raises:
        InputError: there is no grid of that name.
    """
    if name:
        read_cells(name)
        return name
    known = sorted(grid_folder("").glob("*/cells.csv"), key=lambda path: (path.stat().st_mtime, path), reverse=True)
    for place in known:
        if (read_cells(place.parent.name)["status"] == "finished").any():
            return place.parent.name
    log.info("no finished grid yet: running a tiny one of two cells on the Russian sample")
    tiny = read_grid(source_folder() / "smoke.yaml")
    run_grid(tiny, workers=2)
    return tiny.name


def write_page(name: str, notebook: str = NOTEBOOK, parameter: str = "grid") -> Path:
    """The page that sums a grid up, `reports/<name>/05_ablations.html`, made by its notebook.

    Args:
        name: of the grid.
        notebook: what makes the page.
        parameter: the notebook's parameter that takes the name.

    Raises:
        NotebookFailed: the notebook stopped; its page shows where.
    """
    from hr_search.reports import index, notebooks, pages

    source, folder = paths.notebooks() / f"{notebook}.ipynb", paths.reports() / name
    with claims.claimed(claims.inside(folder), f"the page of the grid {name}", "start it again later"):
        done = notebooks.run_notebook(source, folder, {parameter: name})
        page = pages.export_html(done, done.with_suffix(".html"), f"grid · {name}", {"All runs": "../index.html"})
        tracking.send_pages(grid_folder(name), [page])
    index.write_index()
    return page
