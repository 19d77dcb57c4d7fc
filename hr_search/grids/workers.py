"""Workers: run cells through the training notebook, in processes on this machine or on a Dask cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from hr_search.base import claims, paths
from hr_search.base.cores import THREAD_VARIABLES, share_of_cores
from hr_search.base.errors import InputError, one_line
from hr_search.base.signals import CLEANUP, SIGNALS, obey_parent
from hr_search.grids.grid_file import Cell

NOTEBOOK = "02_train"
_GLANCE = 2.0  # seconds between looks at the workers of a cluster
PATIENCE = 20.0  # seconds a cluster has to answer


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

    source = paths.notebooks() / f"{NOTEBOOK}.ipynb"
    parameters = plan({NOTEBOOK: parameters_of(source)}, cell.settings, {}, cell.runid)[NOTEBOOK]
    (cell.folder / f"{NOTEBOOK}.html").unlink(missing_ok=True)  # the page of an earlier failure
    try:
        done = run_notebook(source, cell.folder, parameters)
    except NotebookFailed as failure:
        raise CellFailed(f"{failure.line} (cell {failure.cell} of the notebook)", failure.path) from failure
    title = f"{cell.settings.projectname} · {cell.runid}"
    pages.export_html(done, done.with_suffix(".html"), title, {"All runs": "../../../index.html"})


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
        with claims.claimed(claims.inside(cell.folder), f"the cell {cell.runid}", "stop it"):
            run(cell)
    except Exception as error:
        if isinstance(error, CellFailed):
            notebook = os.path.relpath(error.notebook, paths.root()).replace(os.sep, "/")
        name = "" if isinstance(error, InputError | CellFailed) else f"{type(error).__name__}: "
        return Outcome("failed", time.perf_counter() - begin, name + one_line(error), notebook)
    return Outcome("finished", time.perf_counter() - begin)


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


def on_processes(cells: Sequence[Cell], run: Callable[[Cell], None], workers: int) -> Iterator[tuple[Cell, Outcome]]:
    """Yields each cell with its outcome as soon as it is known, from worker processes on this machine.

    Not from a process pool: one process that dies, for example out of memory, would take all waiting cells with it.
    """
    workers = max(1, min(workers, len(cells)))
    setup = (run, str(paths.root()), share_of_cores(workers))
    waiting, idle = deque(cells), []
    busy: dict[Connection, _Worker] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker = idle.pop() if idle else _start(setup)
                worker.start(waiting.popleft())
                busy[worker.line] = worker
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


def on_cluster(cells: Sequence[Cell], run: Callable[[Cell], None], address: str) -> Iterator[tuple[Cell, Outcome]]:
    """Yields each cell with its outcome as soon as it is known, from a Dask cluster: one cell per worker at a time.

    A worker with several threads still gets one cell: executing a notebook changes the working directory of the
    whole process. When we stop early, running cells run to their end and waiting ones are taken back.
    """
    try:
        import distributed
    except ImportError as error:
        raise InputError(
            "--scheduler needs the package distributed; run `pip install 'hr_search[cluster]'`."
        ) from error
    try:
        client = distributed.Client(address, timeout=PATIENCE)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"no Dask scheduler answers at {address} ({one_line(error)}); use tcp://HOST:PORT.") from error
    return _shared_out(client, distributed, cells, run)


def _shared_out(
    client: Any, distributed: Any, cells: Sequence[Cell], run: Callable[[Cell], None]
) -> Iterator[tuple[Cell, Outcome]]:
    """Shares the cells out among the workers of a cluster."""
    waiting, home = deque(cells), str(paths.root())
    busy: dict[Any, tuple[Cell, str]] = {}
    try:
        while waiting or busy:
            if not busy:  # a lost worker may be coming back
                _require_worker(client)
            there, taken = client.nthreads(), {worker for _, worker in busy.values()}
            free = [worker for worker in there if worker not in taken]
            for worker, cell in zip(free, list(waiting), strict=False):
                future = client.submit(attempt, run, cell, home, there[worker], workers=[worker], pure=False)
                busy[future] = (waiting.popleft(), worker)
            with contextlib.suppress(TimeoutError):  # look now and then which workers have come and gone
                distributed.wait(list(busy), timeout=_GLANCE, return_when="FIRST_COMPLETED")
            there = client.nthreads()
            for future in [each for each, (_, worker) in busy.items() if each.done() or worker not in there]:
                cell, _ = busy.pop(future)
                yield cell, _outcome(client, future)
    finally:
        client.cancel(list(busy), force=True)
        client.close()


def _outcome(client: Any, future: Any) -> Outcome:
    """What became of a cell that has ended, or whose worker is gone."""
    if not future.done():
        client.cancel([future], force=True)  # Dask would try the cell on the next worker and lose that one too
        return Outcome("failed", error="its worker was lost (usually out of memory)")
    if error := future.exception():
        return Outcome("failed", error=f"on the cluster: {one_line(error)}")
    return future.result()


def _require_worker(client: Any) -> None:
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        raise InputError(f"the cluster at {client.scheduler.address} has no workers; start some.") from error
