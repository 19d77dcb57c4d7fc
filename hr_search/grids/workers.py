"""Workers: run cells through the training notebook, in processes on this machine or on a Dask cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from hr_search.base import claims, cluster, paths
from hr_search.base.cores import THREAD_VARIABLES, share_of_cores
from hr_search.base.errors import InputError, one_line
from hr_search.base.progress import bar, watched
from hr_search.base.signals import CLEANUP, SIGNALS, obey_parent
from hr_search.grids.grid_file import Cell
from hr_search.places import absolute, require_models, require_tables

log = logging.getLogger(__name__)

NOTEBOOK = "02_train"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        status: `waiting`, `finished` or `failed`.
        seconds: it took; NaN where it has not run.
        error: why it failed, in one line.
        notebook: the executed notebook of a failed cell, relative to the root.
    """

    status: str
    seconds: float = math.nan
    error: str = ""
    notebook: str = ""


class CellFailed(Exception):
    """The notebook of a cell stopped.

    Attributes:
        notebook: the executed notebook, with its outputs up to the error.
    """

    def __init__(self, sentence: str, notebook: Path) -> None:
        super().__init__(sentence)
        self.notebook = notebook


# -- all cells -----------------------------------------------------------------------------------


def ready(cell: Cell) -> Cell:
    """The cell with absolute paths, since kernels and clusters start in other folders; its tables and models exist.

    Raises:
        InputError: a table or a model is missing.
    """
    require_tables(cell.settings, f"the cell {cell.runid}")
    require_models(cell.settings, f"the cell {cell.runid}")
    return dataclasses.replace(cell, settings=absolute(cell.settings))


def run_cells(
    cells: Iterator[Cell], count: int, run: Callable[[Cell], None], workers: int, scheduler: str, what: str
) -> Iterator[tuple[Cell, Outcome]]:
    """Yields each cell with its outcome as soon as it is known, with a bar, or a line in the log where nobody watches.

    Args:
        cells: asked for the next cell when a worker is free, after all outcomes so far have been yielded.
        count: how many there are.
        run: what runs a cell; it must leave a finished run.
        workers: processes side by side.
        scheduler: address of a Dask cluster that runs the cells instead; empty = processes.
        what: the name on the bar.
    """
    results = on_cluster(cells, run, scheduler) if scheduler else on_processes(cells, run, min(workers, count))
    with contextlib.closing(results), bar(total=count, what=what, unit="cell") as shown:
        for number, (cell, outcome) in enumerate(results, 1):
            outcome = _confirmed(cell, outcome)
            shown.update()
            if not watched():
                said = f"{outcome.status}{': ' * bool(outcome.error)}{outcome.error}"
                log.info("%d/%d %s, %.0f s, %s", number, count, cell.runid, outcome.seconds, said)
            yield cell, outcome


def _confirmed(cell: Cell, outcome: Outcome) -> Outcome:
    """The outcome of a cell; failed where it is called finished but its run is not here."""
    if outcome.status != "finished" or (paths.runs() / cell.runid / "summary.json").is_file():
        return outcome
    return Outcome("failed", outcome.seconds, "its run is not here; do all workers share this folder?")


# -- one cell ------------------------------------------------------------------------------------


def train_cell(cell: Cell) -> None:
    """Runs the training notebook with the cell's settings.

    Raises:
        CellFailed: the notebook stopped.
        InputError: it could not be started.
    """
    # Not at the top: papermill and what it needs take a second to import.
    from hr_search.reports import pages
    from hr_search.reports.notebooks import NotebookFailed, run_notebook
    from hr_search.reports.parameters import parameters_of, plan
    from hr_search.runs import tracking

    source = paths.notebooks() / f"{NOTEBOOK}.ipynb"
    parameters = plan({NOTEBOOK: parameters_of(source)}, cell.settings, {}, cell.runid)[NOTEBOOK]
    (cell.folder / f"{NOTEBOOK}.html").unlink(missing_ok=True)  # the page of an earlier failure
    try:
        done = run_notebook(source, cell.folder, parameters)
    except NotebookFailed as failure:
        raise CellFailed(f"{failure.line} (cell {failure.cell} of the notebook)", failure.path) from failure
    title = f"{cell.settings.projectname} · {cell.runid}"
    page = pages.export_html(done, done.with_suffix(".html"), title, {"All runs": "../../../index.html"})
    tracking.send_pages(paths.runs() / cell.runid, [page])


def attempt(run: Callable[[Cell], None], cell: Cell, home: str, threads: int) -> Outcome:
    """Runs a cell in this process and returns its outcome; errors become a failed outcome.

    Args:
        run: what runs the cell, such as `train_cell`.
        cell: the cell.
        home: the root under which everything is written.
        threads: for the arithmetic of the cell's kernel.
    """
    os.environ.update({paths.HOME_VARIABLE: home} | dict.fromkeys(THREAD_VARIABLES, str(threads)))
    begin, notebook = time.perf_counter(), ""
    try:
        with claims.claimed(claims.inside(cell.folder), f"the cell {cell.runid}", "stop it"), _told(cell.environment):
            run(cell)
    except Exception as error:
        if isinstance(error, CellFailed):
            notebook = os.path.relpath(error.notebook, paths.root()).replace(os.sep, "/")
        name = "" if isinstance(error, InputError | CellFailed) else f"{type(error).__name__}: "
        return Outcome("failed", time.perf_counter() - begin, name + one_line(error), notebook)
    return Outcome("finished", time.perf_counter() - begin)


@contextlib.contextmanager
def _told(environment: Mapping[str, str]) -> Iterator[None]:
    """A block, and what it starts, with these environment variables; those of one cell must not reach the next."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# -- in processes --------------------------------------------------------------------------------


@dataclasses.dataclass
class _Worker:
    """A process that runs one cell after another, and the line to it."""

    process: BaseProcess
    line: Connection
    cell: Cell | None = None
    begin: float = 0.0

    def start(self, cell: Cell) -> None:
        """Hands the worker a cell; one that has died meanwhile is noticed by `outcome`."""
        self.cell, self.begin = cell, time.perf_counter()
        with contextlib.suppress(OSError):
            self.line.send(cell)

    def outcome(self) -> Outcome:
        """What became of the cell, once the line has something to read; the worker may be dead afterwards."""
        try:
            return self.line.recv()
        except (EOFError, OSError):
            self.process.join()
            reason = f"its process ended with code {self.process.exitcode} (usually out of memory)"
            return Outcome("failed", time.perf_counter() - self.begin, reason)


def on_processes(cells: Iterator[Cell], run: Callable[[Cell], None], workers: int) -> Iterator[tuple[Cell, Outcome]]:
    """Yields each cell with its outcome as soon as it is known, from worker processes on this machine.

    Not from a process pool: one process that dies, for example out of memory, would take all waiting cells with it.
    """
    setup = (run, str(paths.root()), share_of_cores(workers))
    idle: list[_Worker] = []
    busy: dict[Connection, _Worker] = {}
    try:
        while True:
            while len(busy) < workers and (cell := next(cells, None)):
                worker = idle.pop() if idle else _start(setup)
                worker.start(cell)
                busy[worker.line] = worker
            if not busy:
                return
            for line in wait(list(busy)):
                worker = busy.pop(line)
                outcome = worker.outcome()
                if worker.process.is_alive():
                    idle.append(worker)
                yield worker.cell, outcome
    finally:
        _stop(list(busy.values()), idle)


def _start(setup: tuple[Callable[[Cell], None], str, int]) -> _Worker:
    """A new worker; what the terminal says reaches only this process, which then stops the workers."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, *setup), daemon=True)
    # Otherwise the first start of a process would start it, and unblock Ctrl-C again.
    resource_tracker.ensure_running()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, set(SIGNALS) - {signal.SIGTERM})  # until it has its own ways
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    theirs.close()
    return _Worker(process, ours)


def _serve(line: Connection, run: Callable[[Cell], None], home: str, threads: int) -> None:
    """The life of a worker: cells come in, outcomes go out, until the line is closed or the parent ends."""
    obey_parent()
    with contextlib.suppress(EOFError, OSError):
        while True:
            line.send(attempt(run, line.recv(), home, threads))


def _stop(busy: Sequence[_Worker], idle: Sequence[_Worker]) -> None:
    """Ends all workers: busy ones are terminated and end their kernels, idle ones end as their line closes."""
    deadline = time.monotonic() + CLEANUP
    for worker in busy:
        worker.process.terminate()
    for worker in [*busy, *idle]:
        worker.line.close()
    for worker in [*busy, *idle]:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()  # its kernel sees that within a second


# -- on a cluster --------------------------------------------------------------------------------


def on_cluster(cells: Iterator[Cell], run: Callable[[Cell], None], address: str) -> Iterator[tuple[Cell, Outcome]]:
    """Yields each cell with its outcome as soon as it is known, from a Dask cluster: one cell per worker at a time.

    When we stop early, running cells run to their end and waiting ones are taken back. A cell whose worker was lost
    has failed: it would take the next worker with it.
    """
    with (
        cluster.opened(address) as client,
        contextlib.closing(cluster.hand_out(client, cells, functools.partial(attempt, run))) as answers,
    ):
        for answer in answers:
            yield answer.job, Outcome("failed", error=answer.error) if answer.error else answer.value
