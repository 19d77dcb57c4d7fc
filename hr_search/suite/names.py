"""The name audit of a suite: what other names in the CVs do to the rankings of its models."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hr_search.base import files
from hr_search.base.errors import InputError, one_line
from hr_search.cvs.audit import audit_model
from hr_search.encoder import load_encoder
from hr_search.suite.cells import System
from hr_search.suite.cv_tasks import cv_tasks, read_resumes, without_position
from hr_search.suite.suite_file import Suite

log = logging.getLogger(__name__)

FILE = "names.csv"
COLUMNS = (
    *("task", "system", "identity", "queries", "origin", "gender"),
    *("cvs", "rbo_mean", "rbo_min", "movement", "gain"),
)
_MOST = 200  # queries and CVs of a task, the first of each: every name means that half of the CVs are embedded again


def require_cvs(suite: Suite) -> None:
    """Checks that a suite has a task whose CVs can be audited.

    Raises:
        InputError: no task has `cvs: true` and its data here.
    """
    if not any(task.cvs and task.there for task in suite.tasks):
        raise InputError(
            f"the name audit needs CVs in fields, and no task of {suite.name} whose data are here has any; add a task "
            "with cvs: true."
        )


def audit_names(suite: Suite, systems: Sequence[System], folder: Path, precision: str = "auto") -> pd.DataFrame:
    """How the rankings of CVs move when other names are put into them, with each model, and writes it as `names.csv`.

    The CVs are the rows of the tasks with `cvs`, the queries the positions in them; of both, the first 200.

    Args:
        suite: the suite.
        systems: floors, which are left out, and models.
        folder: of the suite's results.
        precision: as for `run_suite`.

    Returns:
        task, system, identity ("left out" as in all other tables, or "kept"), queries, and the columns of
        `cvs.audit.audit`.

    Raises:
        InputError: no task has CVs, or those of a task cannot be read or have no names.
    """
    require_cvs(suite)
    parts = []
    for system in systems:
        for task in suite.tasks if not system.floor else ():
            if not task.cvs or not task.there:
                continue
            log.info("%s with %s: name audit", task.name, system.label)
            encoder = load_encoder(system.name, task.maxlength, precision)
            queries = cv_tasks(task.settings)["q2d"].queries[:_MOST]
            resumes = [without_position(resume) for resume in read_resumes(task.settings)[:_MOST]]
            for words, identity in (("left out", False), ("kept", True)):
                table = audit_model(encoder, queries, resumes, identity)
                marks = {"task": task.name, "system": system.label, "identity": words, "queries": len(queries)}
                parts.append(table.assign(**marks))
    found = pd.concat(parts, ignore_index=True)[list(COLUMNS)]
    files.write_csv(folder / FILE, found)
    return found


def read_names(folder: Path) -> pd.DataFrame:
    """The table that `audit_names` wrote; without rows where it was not asked for.

    Raises:
        InputError: it is damaged.
    """
    place = folder / FILE
    if not place.is_file():
        return pd.DataFrame(columns=list(COLUMNS))
    try:
        return pd.read_csv(place)[list(COLUMNS)]
    except (OSError, ValueError, LookupError) as error:
        raise InputError(f"{place} is damaged ({one_line(error)}); run the suite with --audit names again.") from error


def summed_names(names: pd.DataFrame) -> pd.DataFrame:
    """An audit over all origins and genders: task, system, identity, overlap (mean, lowest), movement (greatest)."""
    rows = []
    for (task, system, identity), part in names.groupby(["task", "system", "identity"], sort=False):
        overlap, lowest = part["rbo_mean"].mean(), part["rbo_min"].min()
        rows.append((task, system, identity, overlap, lowest, part["movement"].max()))
    return pd.DataFrame(rows, columns=["task", "system", "identity", "overlap", "lowest", "movement"])
