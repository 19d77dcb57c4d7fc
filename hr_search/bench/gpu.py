"""The GPU check: everything that needs a GPU, one check after the other, within eight minutes.

Each check runs in a process of its own, so that one that breaks the GPU's state, takes all its memory or hangs costs
the others nothing. Its findings are written down as they come; what there was no time for is a row as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from hr_search.base import files, paths
from hr_search.base.devices import hardware
from hr_search.base.errors import InputError, guarded, one_line, plain, suggestion
from hr_search.base.progress import quiet, show_log
from hr_search.bench import gpu_checks, gpu_speeds
from hr_search.bench.gpu_scene import Finding, Scene, fresh, left_out
from hr_search.bench.meters import best_device, require_gpu
from hr_search.bench.processes import environment
from hr_search.bench.table import versions
from hr_search.runs import provenance

log = logging.getLogger(__name__)

BUDGET = 480.0  # seconds of the whole
COLUMNS = ["check", "what", "value", "unit", "demanded", "passed", "seconds", "hardware", "versions", "commit"]
_SHOWN = COLUMNS[1:7]
_PROGRAM = (sys.executable, "-m", "hr_search.bench.gpu")


@dataclasses.dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        work: gives its findings.
        needs: seconds that must be left, or it is left out.
        most: seconds after which it is taken to hang.
    """

    work: Callable[[Scene], Iterator[Finding]]
    needs: float
    most: float

    @property
    def about(self) -> str:
        """What it shows, in a sentence."""
        return " ".join((self.work.__doc__ or "").split())


# What matters most comes first, as the time may end before the last.
CHECKS = {
    "equality": Check(gpu_checks.equality, 20, 120),
    "waits": Check(gpu_checks.waits, 15, 90),
    "memory": Check(gpu_checks.memory, 15, 60),
    "speed": Check(gpu_speeds.speed, 45, 240),
    "vectors": Check(gpu_speeds.vectors, 20, 120),
    "resume": Check(gpu_checks.resume, 20, 120),
    "launch": Check(gpu_checks.launch, 20, 120),
}


def run_gpu(
    case: str = "", dry: bool = False, out: str = "", tell: Callable[[str], object] = log.info
) -> tuple[pd.DataFrame, Path]:
    """Runs the checks and writes their table, after each check, and at the end the page beside it (.html).

    Args:
        case: a single check; its rows take the place of its older ones on the same hardware. Empty = all.
        dry: the same lines with a tiny model on whatever is here, in one process; the table goes to `gpu_dry.csv` in a
            new temporary folder, for its figures mean nothing.
        out: the table; empty = `metrics/gpu.csv`.
        tell: gets each row in words, once its check is over.

    Returns:
        The rows of this run, with COLUMNS, and the place of the table.

    Raises:
        InputError: no GPU, an unknown check, a dry run that is to write to `out`, or a table there of another kind.
    """
    names = chosen(case)
    if dry and out:
        raise InputError("--out does not apply to a dry run, whose figures mean nothing; leave it out.")
    if dry:
        path = Path(tempfile.mkdtemp(prefix="hr_search-")) / "gpu_dry.csv"
    else:
        require_gpu()
        path = paths.resolve(out) if out else paths.metrics() / "gpu.csv"
    machine = hardware(best_device())
    origin = {
        "hardware": f"dry run, tiny model: {machine}" if dry else machine,
        "versions": versions(),
        "commit": provenance.commit(),
    }
    older = others(path, names, origin["hardware"])
    rows: list[dict[str, Any]] = []
    deadline = time.monotonic() + BUDGET
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            found = in_time(name, Scene(Path(folder), dry), deadline - time.monotonic())
            rows += [{"check": name, **row, **origin} for row in found]
            table = pd.DataFrame(rows, columns=COLUMNS)
            files.write_csv(path, pd.concat([older, table], ignore_index=True) if len(older) else table)
            for row in found:
                tell(line(name, row))
    write_page(path.with_suffix(".html"), table, dry)
    return table, path


def chosen(case: str) -> list[str]:
    """The check called `case`, or all.

    Raises:
        InputError: there is no such check.
    """
    if case and case not in CHECKS:
        raise InputError(f'there is no check "{case}" of a GPU; {suggestion(case, CHECKS)}')
    return [case] if case else list(CHECKS)


def others(path: Path, names: list[str], machine: str) -> pd.DataFrame:
    """The rows at `path` that stay: those of other checks, or of other hardware.

    Raises:
        InputError: the file is not such a table.
    """
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values={"value": [""]})
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable table ({one_line(error)}); give another --out.") from error
    if list(table.columns) != COLUMNS:
        raise InputError(f"{path} has other columns than a table of GPU checks; give another --out.")
    return table[~(table["check"].isin(names) & (table["hardware"] == machine))]


def line(check: str, row: dict[str, Any]) -> str:
    """A row in words."""
    value = f": {row['value']:.4g} {row['unit']}".rstrip() if row["value"] == row["value"] else ""
    demanded = f" (demanded: {row['demanded']})" if row["demanded"] else ""
    return plain(f"{row['passed'] or 'found':8s} {check}: {row['what']}{value}{demanded}")


# -- one check -----------------------------------------------------------------------------------


def in_time(name: str, scene: Scene, left: float) -> list[dict[str, Any]]:
    """The rows of a check that has `left` seconds; a check without enough time, or that does not end, is a row, too."""
    check = CHECKS[name]
    if left < check.needs:
        why = f"no time: it wants {check.needs:.0f} s, and {max(0.0, left):.0f} s of {BUDGET:.0f} s were left"
        return [row_of(left_out(why), 0.0)]
    return performed(name, scene) if scene.dry else in_a_process(name, scene, min(left, check.most))


def performed(
    name: str, scene: Scene, keep: Callable[[list[dict[str, Any]]], None] = lambda rows: None
) -> list[dict[str, Any]]:
    """The rows of a check in this process; `keep` gets those so far whenever one comes."""
    rows: list[dict[str, Any]] = []
    began = time.perf_counter()

    def add(finding: Finding) -> None:
        nonlocal began
        now = time.perf_counter()
        rows.append(row_of(finding, now - began))
        began = now
        keep(rows)

    fresh()
    try:
        with quiet(), contextlib.redirect_stdout(sys.stderr):  # standard output is for results
            for finding in CHECKS[name].work(scene):
                add(finding)
    except Exception as error:  # of any kind: a failed check is a row, and the others go on
        log.exception("the check %s has failed", name)
        add(Finding(f"it ended with {type(error).__name__}: {one_line(error)}", passed="no"))
    return rows


def in_a_process(name: str, scene: Scene, seconds: float) -> list[dict[str, Any]]:
    """The rows of a check in a process of its own, which is ended with all that it started after so many seconds."""
    answer = scene.folder / f"{name}.json"
    words = [*_PROGRAM, name, str(scene.folder), "dry" * scene.dry]
    began = time.monotonic()
    child = subprocess.Popen(
        words, env=environment(0), cwd=scene.folder, stdout=2, start_new_session=True
    )  # its words go to standard error
    ended = False
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(seconds)
            ended = True
    finally:
        if not ended:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    rows = files.read_json(answer) if answer.is_file() else []
    rows = [row | {"value": math.nan if row["value"] is None else row["value"]} for row in rows]
    taken = time.monotonic() - began
    if not ended and seconds < CHECKS[name].most:
        rows.append(row_of(left_out(f"the rest of it: the {BUDGET:.0f} s of all checks were over"), taken))
    elif not ended:
        rows.append(row_of(Finding(f"it did not end within {seconds:.0f} s", passed="no"), taken))
    elif child.returncode:
        rows.append(row_of(Finding(f"its process ended with exit code {child.returncode}", passed="no"), taken))
    return rows


def row_of(finding: Finding, seconds: float) -> dict[str, Any]:
    """A finding and the time it took as columns of the table."""
    return {**dataclasses.asdict(finding), "seconds": round(seconds, 2)}


def answer_check(name: str, folder: str, dry: str = "") -> None:
    """The process of one check: writes its rows to `folder/NAME.json`, again after each."""
    show_log(sys.stderr)
    target = Path(folder) / f"{name}.json"

    def keep(rows: list[dict[str, Any]]) -> None:
        files.write_json(
            target, [row | {"value": row["value"] if math.isfinite(row["value"]) else None} for row in rows]
        )

    performed(name, Scene(Path(folder), bool(dry)), keep)


# -- the page ------------------------------------------------------------------------------------


def write_page(path: Path, table: pd.DataFrame, dry: bool = False) -> None:
    """The rows of a run as a page to read: a verdict, and a table for each check."""
    # Imported here: the process of a check has no page to write, and is to start soon.
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

    from hr_search.reports.pages import export_html

    def shown(part: pd.DataFrame) -> Any:
        html = part.to_html(index=False, na_rep="", border=0, float_format=lambda value: f"{value:.4g}")
        return new_code_cell("", outputs=[new_output("display_data", data={"text/html": html})])

    warning = "**A dry run with a tiny model: its figures mean nothing.** " * dry
    rest = table[["hardware", "versions", "commit"]].drop_duplicates()
    cells = [new_markdown_cell(f"# GPU check\n\n{warning}{verdict(table)}"), shown(rest)]
    for name, rows in table.groupby("check", sort=False):
        cells += [new_markdown_cell(f"## {name}\n\n{CHECKS[name].about}"), shown(rows[_SHOWN])]
    with tempfile.TemporaryDirectory() as folder:
        notebook = Path(folder) / "gpu.ipynb"
        nbformat.write(new_notebook(cells=cells), notebook)
        export_html(notebook, path, "GPU check")


def verdict(table: pd.DataFrame) -> str:
    """How many rows passed, in a sentence."""
    counts = table["passed"].value_counts()
    met, missed, absent, rest = (counts.get(each, 0) for each in ("yes", "no", "left out", ""))
    return f"{met} demands met, {missed} not met, {absent} left out, {rest} values only reported."


if __name__ == "__main__":
    sys.exit(guarded(lambda: answer_check(*sys.argv[1:])))
