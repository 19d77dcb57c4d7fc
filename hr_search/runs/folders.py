"""Run folders: all that one run leaves, from which every table, figure and page is made."""

from __future__ import annotations

import contextlib
import datetime
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hr_search.base import claims, files, paths
from hr_search.base.errors import InputError, one_line, suggestion

TABLE_NAMES = ("history", "metrics", "queries", "documents", "comparison", "timing", "mining", "scores", "dimensions")
_TEXTS = ("query", "group", "text", "found", "hits", "expected")  # columns that are never parsed as numbers


@dataclass(frozen=True)
class Run:
    """A run's folder `metrics/runs/<run_id>/`; reads and writes its tables."""

    folder: Path

    @property
    def id(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def summary(self) -> dict[str, Any]:
        """What was trained and how well it did; a run writes this file last."""
        return files.read_json(self.folder / "summary.json")

    @property
    def config(self) -> dict[str, Any]:
        """The settings."""
        return files.read_json(self.folder / "config.json")

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, commit, hardware, data."""
        return files.read_json(self.folder / "environment.json")

    def table(self, name: str) -> pd.DataFrame:
        """One of the run's tables: history, metrics, queries, documents, comparison, timing, mining, scores or
        dimensions.

        Raises:
            InputError: there is no such table, or the run has not written it.
        """
        if name not in TABLE_NAMES:
            raise InputError(f'a run has no table "{name}"; {suggestion(name, TABLE_NAMES)}')
        path = self.folder / f"{name}.csv"
        if not path.is_file():
            raise InputError(f"the run {self.id} has no {name}.csv; it did not get that far, or has no test rows.")
        # "NA" and "null" are real queries, not missing values, and "007" is not a number.
        types = dict.fromkeys(_TEXTS, str)
        return pd.read_csv(path, keep_default_na=name not in ("queries", "documents"), dtype=types)

    def has(self, name: str) -> bool:
        """Whether the run wrote that table; without test rows, for example, there are no metrics."""
        return (self.folder / f"{name}.csv").is_file()

    def write(self, name: str, table: pd.DataFrame) -> None:
        """Writes one of the run's tables."""
        files.write_csv(self.folder / f"{name}.csv", table)


# -- names ---------------------------------------------------------------------------------------


def new_run_id(projectname: str) -> str:
    """A run id of the project and the time, `hr-search-20261121-180503`, that no run and no report has yet.

    Args:
        projectname: any text; characters other than letters, digits, `-` and `_` become `-`.
    """
    slug = re.sub(r"[^\w-]+", "-", unicodedata.normalize("NFC", projectname))[:50].strip("-_")
    stem = f"{slug or 'run'}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    name, number = stem, 2
    while (paths.reports() / name).exists() or (paths.runs() / name).exists():
        name, number = f"{stem}-{number}", number + 1
    return name


def checked_run_id(text: str) -> str:
    """`text`, refused unless it can name a run folder on every system.

    Raises:
        InputError: it is empty, has more than 120 characters, holds anything but letters, digits, `-`, `_` and single
            dots inside, or is the name of a file beside the reports or of a Windows device.
    """
    if not text or len(text) > 120 or len(text.encode("utf-8", "surrogatepass")) > 240:
        raise InputError(f"the run id has {len(text)} characters; give 1 to 120.")
    if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", text) or text.startswith("-"):
        raise InputError(f"the run id {text!r} cannot name a folder; use letters, digits, -, _ and single dots only.")
    if re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*\.(html|json|md|png)", text, re.IGNORECASE):
        raise InputError(f"the run id {text!r} is the name of a file or device; choose another one.")
    return text


# -- making and finding --------------------------------------------------------------------------


def create_run(runid: str = "", projectname: str = "") -> Run:
    """An empty run folder that this process alone writes, until `release_run` or until it ends.

    Args:
        runid: its name; the files of an unfinished run of that name are deleted. Empty = a new one.
        projectname: how a new name begins.

    Raises:
        InputError: a finished run has that name, another process is writing it, or the folder cannot be made.
    """
    folder = paths.runs() / (runid or new_run_id(projectname))
    require_new(runid)
    lock = claims.inside(folder)
    try:
        folder.mkdir(parents=True, exist_ok=bool(runid))
        if not claims.holds(lock):  # a notebook may prepare its run again
            claims.claim(lock, f"the run {folder.name}", "choose another --runid")
        try:
            require_new(runid)  # it may have been finished just before it was claimed
            _clear(folder)
        except BaseException:
            claims.release(lock)
            raise
    except OSError as error:
        if isinstance(error, FileExistsError) and not runid:  # another process took the new name in the same second
            return create_run(runid, projectname)
        raise InputError(f"{folder} cannot be made ({one_line(error)}); choose another place or --runid.") from error
    return Run(folder)


def require_new(runid: str) -> None:
    """Checks that no finished run is called `runid`; an empty one means a new name.

    Raises:
        InputError: there is one.
    """
    folder = paths.runs() / runid
    if runid and (folder / "summary.json").exists():
        raise InputError(f"the run {runid} exists already; choose another --runid or delete {folder}.")


def claim_places(run: Run, places: Mapping[str, Path | str]) -> contextlib.ExitStack:
    """Claims what else a run writes, beside its folder.

    Args:
        run: from `create_run`.
        places: files and folders that are replaced as a whole, by the name of their setting; empty ones are left out.

    Returns:
        What lets go of all of them and of the run's folder when it is closed.

    Raises:
        InputError: another process writes one of them; the run's folder is gone then.
    """
    held = contextlib.ExitStack()
    held.callback(release_run, run)
    for name, place in places.items():
        if place and not claims.holds(lock := claims.beside(place)):  # a notebook may prepare its run again
            try:
                claims.claim(lock, f"the {name} {place}", f"choose another --{name}")
            except InputError:
                remove_run(run)
                held.close()
                raise
        if place:
            held.callback(claims.release, lock)
    return held


def release_run(run: Run) -> None:
    """Lets other processes write a run's folder again."""
    claims.release(claims.inside(run.folder))


def remove_run(run: Run) -> None:
    """Removes the folder of a run without a result."""
    _clear(run.folder)
    release_run(run)
    with contextlib.suppress(OSError):
        run.folder.rmdir()


def _clear(folder: Path) -> None:
    """Removes all files of a folder except its lock, so that no other process can claim it in between."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != claims.NAME:
            path.unlink()


def scratch_run(runid: str = "", projectname: str = "") -> Run:
    """A run folder among the temporary files, for processes of a launch whose results are thrown away."""
    return Run(Path(tempfile.mkdtemp()) / (runid or projectname))


def list_runs() -> list[Run]:
    """All finished runs, newest first."""
    finished = [Run(path.parent) for path in paths.runs().glob("*/summary.json")]
    return sorted(finished, key=lambda run: ((run.folder / "summary.json").stat().st_mtime, run.id), reverse=True)


def open_run(runid: str = "") -> Run:
    """The finished run called `runid`, whose tables and summary can be read.

    Args:
        runid: name of its folder under `metrics/runs/`; empty = the newest run that was not pruned, as such a run has
            no test figures.

    Raises:
        InputError: there are no finished runs, or none of that name.

    Example:
        >>> run = open_run("my-run")
        >>> run.table("history")["step"].tolist()
        [0, 80]
    """
    known = list_runs()
    if not known:
        raise InputError("there are no finished runs yet; run `make train` or notebook 02_train first.")
    if not runid:
        return next((run for run in known if "pruned" not in run.summary), known[0])
    for run in known:
        if run.id == runid:
            return run
    raise InputError(f"there is no finished run {runid}; {suggestion(runid, [run.id for run in known[:20]])}")
