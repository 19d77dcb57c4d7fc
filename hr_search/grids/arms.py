"""Arms: the finished cells of a grid, grouped by the settings that vary, whatever their seeds."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

import pandas as pd

from hr_search.base import paths
from hr_search.base.errors import InputError
from hr_search.grids import runner
from hr_search.places import READ
from hr_search.runs.folders import Run
from hr_search.sources import with_paths


def arm_table(name: str) -> pd.DataFrame:
    """The finished cells of a grid.

    Returns:
        One row per cell, arm after arm: arm, the settings that vary, seed, run, rows (seen in training), seconds (of
        training), data, fingerprint, best_step (the step that was kept) and command (that repeats the run).

    Raises:
        InputError: no such grid, no finished cell, or a run that was deleted.
    """
    cells = runner.read_cells(name)
    columns = list(cells.columns)
    varied = [column for column in columns[columns.index("cell") + 1 : columns.index("status")] if column != "seed"]
    # Arms keep the order of the file, even where the first cell of one has failed.
    keys = [tuple(cell[setting] for setting in varied) for cell in cells.to_dict("records")]
    cells = cells.iloc[sorted(range(len(keys)), key=lambda place: keys.index(keys[place]))]
    finished = cells[cells["status"] == "finished"].to_dict("records")
    rows = [_cell_row(name, cell, varied) for cell in finished]
    if not rows:
        raise InputError(f"the grid {name} has no finished cell yet; start it, with --retry if its cells failed.")
    table = pd.DataFrame(rows)
    usual = usual_values(table[varied])
    return table.assign(arm=[arm_name({setting: row[setting] for setting in varied}, usual) for row in rows])


def _cell_row(name: str, cell: Mapping[str, Any], varied: list[str]) -> dict[str, Any]:
    """The row of one finished cell; its arm is still without a name."""
    runid = cell["run"]
    run = Run(paths.runs() / runid)
    if not (run.folder / "summary.json").is_file():
        raise InputError(f"the run {runid} of the grid {name} is gone; start the grid again.")
    summary, config = run.summary, run.config
    return {
        "arm": "",
        # A run holds absolute paths, and in those with {seed} a path of its own for each seed.
        **{setting: cell[setting] if setting in READ else config.get(setting) for setting in varied},
        "seed": config["seed"],
        "run": runid,
        "rows": summary["steps"] * config["batchsize"] * run.environment.get("processes", 1),
        "seconds": summary["training_seconds"],
        "data": summary["data"]["name"],
        "fingerprint": summary["data"]["fingerprint"],
        "best_step": summary["best_step"],
        "command": without_folders(summary["command"]),
    }


def without_folders(command: str) -> str:
    """A command line with absolute paths cut to file names, since the folders mean nothing on another machine."""
    words = []
    for word in shlex.split(command):
        if word.startswith("--datapath=["):  # several tables
            word = "--datapath=" + with_paths(word.removeprefix("--datapath="), lambda path: re.sub("^/.*/", "", path))
        words.append(re.sub(r"^(--\w+=)/.*/", r"\1", word))
    return shlex.join(words)


def arm_name(values: Mapping[str, Any], usual: Mapping[str, Any] | None = None) -> str:
    """The name of an arm, `loss=infonce, margin=0.3`, without the values that are usual unless all are."""
    words = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in values.items()}
    unusual = {name: word for name, word in words.items() if values[name] != (usual or {}).get(name)}
    return ", ".join(f"{name}={word}" for name, word in (unusual or words).items()) or "all"


def usual_values(arms: pd.DataFrame) -> dict[str, Any]:
    """The settings that have the same value in at least two thirds of the arms, with this value."""
    distinct = arms.drop_duplicates()
    shares = {name: distinct[name].value_counts(normalize=True) for name in distinct}
    return {name: share.index[0] for name, share in shares.items() if share.iloc[0] >= 2 / 3}


def direction_of(cells: pd.DataFrame) -> str:
    """The direction in which the first run of an `arm_table` chose its best model."""
    return Run(paths.runs() / cells["run"].iloc[0]).config["direction"]


def check_same_data(cells: pd.DataFrame) -> None:
    """Refuses arms trained or tested on different data under the same seed (and `maxrows`, where it varies).

    Raises:
        InputError: naming two runs.
    """
    for _, part in cells.groupby(["seed", *{"maxrows"}.intersection(cells)]):
        first = part.iloc[0]
        for other in part.itertuples():
            if (other.data, other.fingerprint) != (first["data"], first["fingerprint"]):
                raise InputError(
                    f"{first['run']} and {other.run} have different data ({first['data']} {first['fingerprint']}, "
                    f"{other.data} {other.fingerprint}); compare arms on the same data, shares and splitseed."
                )
