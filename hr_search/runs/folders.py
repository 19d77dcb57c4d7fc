"""Runs: one folder each, from which every table, figure and page is made."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import re
import shutil
import subprocess
import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hr_search.base import files, paths
from hr_search.base.errors import InputError, one_line, suggestion

SHOWN = 300  # characters of a text that result tables carry
TABLES = ("history", "metrics", "queries", "documents", "comparison", "timing", "mining", "scores")
_TEXTS = ("query", "group", "text", "found", "expected")
_PACKAGES = ("torch", "transformers", "sentence-transformers", "accelerate", "tokenizers", "numpy", "pandas", "scipy",
             "umap-learn", "bm25s")  # fmt: skip


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
        """What the run was and what came out, the last file a run writes."""
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
        """One of the run's tables: history, metrics, queries, documents, comparison, timing, mining or scores.

        Raises:
            InputError: there is no such table, or the run has not written it.
        """
        if name not in TABLES:
            raise InputError(f'a run has no table "{name}"; {suggestion(name, TABLES)}')
        path = self.folder / f"{name}.csv"
        if not path.is_file():
            raise InputError(f"the run {self.id} has no {name}.csv; it did not get that far, or has no test rows.")
        # Texts such as "NA" or "null" are real queries, not gaps, and "007" is no number.
        types = dict.fromkeys(_TEXTS, str)
        return pd.read_csv(path, keep_default_na=name not in ("queries", "documents"), dtype=types)

    def has(self, name: str) -> bool:
        """Whether the run wrote that table; without test rows, say, there are no metrics."""
        return (self.folder / f"{name}.csv").is_file()

    def write(self, name: str, table: pd.DataFrame) -> None:
        """Writes one of the run's tables."""
        files.write_csv(self.folder / f"{name}.csv", table)


class Probes:
    """Texts whose embeddings are kept at every validation, so that drift can be read afterwards.

    Args:
        run: where they go, under `probes/`.
        texts: the two sides' texts, "query" and "document".
        groups: the two sides' groups.
        limit: texts kept of each side, the first ones.
    """

    def __init__(self, run: Run, texts: dict[str, list[str]], groups: dict[str, list[str]], limit: int) -> None:
        self.folder, self.limit = run.folder / "probes", limit
        if limit:
            parts = [
                pd.DataFrame({"side": side, "text": texts[side][:limit], "group": groups[side][:limit]})
                for side in texts
            ]
            # Whole texts belong into the data, not into results that may be passed on.
            short = {name: pd.concat(parts)[name].str.slice(0, SHOWN) for name in ("text", "group")}
            files.write_csv(self.folder / "texts.csv", pd.concat(parts).assign(**short))

    def keep(self, step: int, sides: dict[str, np.ndarray]) -> None:
        """Writes the probes' embeddings at `step`, (P, D) float32."""
        if self.limit:
            with files.whole_file(self.folder / f"step_{step:06d}.npy", "wb") as file:
                np.save(file, np.concatenate([side[: self.limit] for side in sides.values()]))


def new_run_id(projectname: str) -> str:
    """A fresh run id such as `hr-search-20261121-180503`: no run and no report has it yet.

    Args:
        projectname: any text; what is not a letter, a digit, `-` or `_` becomes `-`.
    """
    slug = re.sub(r"[^\w-]+", "-", unicodedata.normalize("NFC", projectname))[:50].strip("-_")
    stem = f"{slug or 'run'}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    name, number = stem, 2
    while (paths.reports() / name).exists() or (paths.runs() / name).exists():
        name, number = f"{stem}-{number}", number + 1
    return name


def checked_run_id(text: str) -> str:
    """`text`, if it can name a folder of a run.

    Raises:
        InputError: it is empty, longer than 120 characters, holds more than letters, digits, `-`, `_` and single dots
            inside, or is the name of a file beside the reports or of a device of Windows.
    """
    if not text or len(text) > 120 or len(text.encode("utf-8", "surrogatepass")) > 240:
        raise InputError(f"the run id has {len(text)} characters; give 1 to 120.")
    if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", text) or text.startswith("-"):
        raise InputError(f"the run id {text!r} cannot name a folder; use letters, digits, -, _ and single dots only.")
    if re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*\.(html|json|md|png)", text, re.IGNORECASE):
        raise InputError(f"the run id {text!r} is the name of a file or device; choose another one.")
    return text


def create_run(runid: str = "", projectname: str = "") -> Run:
    """An empty run folder, this process's alone.

    Args:
        runid: its name; what an unfinished run of that name left there goes. Empty = a fresh one.
        projectname: what a fresh name begins with.

    Raises:
        InputError: a finished run has that name, or the folder cannot be made.
    """
    folder = paths.runs() / (runid or new_run_id(projectname))
    if runid and (folder / "summary.json").exists():
        raise InputError(f"the run {runid} exists already; choose another --runid or delete {folder}.")
    try:
        if runid and folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except FileExistsError:  # another process took the fresh name in the same second
        return create_run(runid, projectname)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({one_line(error)}); choose another place or --runid.") from error
    return Run(folder)


def scratch_run(runid: str = "", projectname: str = "") -> Run:
    """A run folder among the temporary files, for processes whose copy of the results is thrown away."""
    return Run(Path(tempfile.mkdtemp()) / (runid or projectname))


def list_runs() -> list[Run]:
    """All finished runs, newest first."""
    finished = [Run(path.parent) for path in paths.runs().glob("*/summary.json")]
    return sorted(finished, key=lambda run: ((run.folder / "summary.json").stat().st_mtime, run.id), reverse=True)


def open_run(runid: str = "") -> Run:
    """The finished run called `runid`; empty = the newest one.

    Raises:
        InputError: there is none, or none of that name.
    """
    known = list_runs()
    if not known:
        raise InputError("there are no finished runs yet; run `make train` or notebook 02_train first.")
    if not runid:
        return known[0]
    for run in known:
        if run.id == runid:
            return run
    raise InputError(f"there is no finished run {runid}; {suggestion(runid, [run.id for run in known[:20]])}")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    found = {"python": platform.python_version(), "platform": platform.system()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of the checkout, with `+` where files were changed since; empty outside a checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(paths.checkout()), *words], capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if head and git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""
