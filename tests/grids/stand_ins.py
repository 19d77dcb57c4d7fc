"""Grid files, and stand-ins for the training of their cells, which worker processes import, too."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pandas as pd
import yaml

from hr_search.base import files, paths
from hr_search.base.errors import InputError
from hr_search.grids.grid_file import Cell
from hr_search.runs import ledgers, trials
from hr_search.runs.folders import Run


def write_grid(tmp_path: Path, **values) -> Path:
    """A grid file of these keys."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def stand_in(cell: Cell) -> None:
    """Leaves a finished run at once; every tenth seed fails until the file `mended` exists, others as their name says."""
    settings, root = cell.settings, paths.root()
    if settings.seed % 10 == 0 and not (root / "mended").exists():
        raise InputError(f"seed {settings.seed} is round; take another.")
    if settings.querycolumn == "die":
        os._exit(7)
    if settings.querycolumn == "vanish":
        return
    if settings.querycolumn == "crash":
        raise RuntimeError("first line\nsecond line")
    begin = time.time()
    time.sleep(settings.target)
    run = Run(paths.runs() / cell.runid)
    ledgers.append_rows(paths.metrics() / "results.csv", pd.DataFrame([{"run": cell.runid, "seed": settings.seed}]))
    files.write_json(run.folder / "config.json", settings.to_dict())
    summary = {
        "seconds": 0.5,
        "seed": settings.seed,
        "threads": int(os.environ["OMP_NUM_THREADS"]),
        "process": os.getpid(),
        "begin": begin,
        "end": time.time(),
    }
    files.write_json(run.folder / "summary.json", summary)


def trained(cell: Cell) -> None:
    """Trains as the notebook does, without a kernel."""
    from hr_search.experiment import run_experiment

    run_experiment(cell.settings, cell.runid)


def scripted(cell: Cell) -> None:
    """Leaves the run of a trial whose validations are 0, 1, 2 and 3 times its margin, until it is pruned.

    With the variable MEET, a folder, the first trial of each of two places waits for that of the other.
    """
    if meet := os.environ.get("MEET"):
        from helpers import wait_until

        files.write_text(Path(meet) / paths.root().name, "")
        assert wait_until(lambda: len(list(Path(meet).iterdir())) == 2)
    settings, trial, rows, pruned = cell.settings, trials.current(), [], False
    if settings.margin > 1.9 and not (paths.root() / "mended").exists():
        raise InputError("the margin is too large.")
    while len(rows) < 4 and not pruned:
        rows.append({"step": 5 * len(rows), "mrr": settings.margin * len(rows)})
        pruned = trial.report(rows[-1]["mrr"])
    run = Run(paths.runs() / cell.runid)
    files.write_csv(run.folder / "history.csv", pd.DataFrame(rows))
    files.write_json(run.folder / "config.json", settings.to_dict())
    best = {"best_step": rows[-1]["step"], "seconds": 0.5, "command": f"train --margin={settings.margin}"}
    files.write_json(run.folder / "summary.json", best | ({"pruned": True} if pruned else {}))


def slow(cell: Cell) -> None:
    """Takes ten minutes where the cell's target is above 0, until the file `quick` exists."""
    if cell.settings.target and not (paths.root() / "quick").exists():
        files.write_text(cell.folder / "begun", str(os.getpid()))
        time.sleep(600)
    stand_in(cell)
