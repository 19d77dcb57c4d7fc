"""Workers: the cells of a grid as runs of the training notebook, in processes here or on a Dask cluster."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from hr_search.base import locks, paths
from hr_search.base.errors import InputError, one_line
from hr_search.grids.grid_file import Cell, CellFailed, Outcome

log = logging.getLogger(__name__)

NOTEBOOK = "02_train"
PLACES = ("datapath", "validationpath", "testpath", "modelname")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
_GLANCE = 2.0  # seconds between looks at the workers of a cluster
PATIENCE = 20.0  # seconds a cluster has to answer, and a stopped worker to end its kernel


# -- one cell ------------------------------------------------------------------------------------


def train_cell(cell: Cell) -> None:
    """Runs the training notebook with the cell's settings.

    Raises:
        CellFailed: the notebook stopped.
        InputError: it could not be started.
    """
    # Not at the top: papermill and what it needs take a second to import.
    from hr_search.reports.notebooks import NotebookFailed, parameters_of, plan, run_notebook

    source = paths.notebooks() / f"{NOTEBOOK}.ipynb"
    parameters = plan({NOTEBOOK: parameters_of(source)}, cell.settings, {}, cell.runid)[NOTEBOOK]
    (cell.folder / f"{NOTEBOOK}.html").unlink(missing_ok=True)  # the page of an earlier failure
    try:
        run_notebook(source, cell.folder, parameters)
    except NotebookFailed as failure:
        raise CellFailed(f"{failure.line} (cell {failure.cell} of the notebook)", failure.path) from failure


def attempt(run: Callable[[Cell], None], cell: Cell, home: str, threads: int) -> Outcome:
    """What becomes of a cell in this process; no error leaves it.

    Args:
        run: what is done with the cell, such as `train_cell`.
        cell: the cell.
        home: the root under which everything is written.
        threads: for the arithmetic of the cell's kernel.
    """
    os.environ.update({paths.HOME_VARIABLE: home} | dict.fromkeys(THREADS, str(threads)))
    begin, notebook = time.perf_counter(), ""
    try:
        with alone(cell.folder, f"the cell {cell.runid}"):
            run(cell)
    except Exception as error:
        if isinstance(error, CellFailed):
            notebook = os.path.relpath(error.notebook, paths.root()).replace(os.sep, "/")
        name = "" if isinstance(error, InputError | CellFailed) else f"{type(error).__name__}: "
        return Outcome("failed", time.perf_counter() - begin, name + one_line(error), notebook)
    return Outcome("finished", time.perf_counter() - begin)


@contextlib.contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Keeps a second process from doing the same until the block ends or this process dies.

    Args:
        folder: made where it is missing; the lock is on the folder itself and leaves no file behind.
        what: how to name it in the error.

    Raises:
        InputError: another process holds the folder, or it cannot be made.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Where the system has no folder locks, whoever starts a grid has to take care.
            stack.enter_context(locks.exclusive(folder))
        except BlockingIOError as error:
            raise InputError(f"{what} is being run by another process; wait for it or stop it.") from error
        except OSError as error:
            raise InputError(f"{folder} cannot be made ({one_line(error)}); choose a place with permission.") from error
        yield


# -- in processes --------------------------------------------------------------------------------


def cores() -> int:
    """Cores this process may use: `OMP_NUM_THREADS` where it is set, else what the system grants."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given):
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_processes(cells: Sequence[Cell], run: Callable[[Cell], None], workers: int) -> Iterator[tuple[Cell, Outcome]]:
    """Each cell with its outcome as it comes, from worker processes of our own.

    Not from a pool: one process that dies, say for want of memory, would take all waiting cells with it.
    """
    workers = max(1, min(workers, len(cells)))
    setup = (run, str(paths.root()), max(1, cores() // workers))
    waiting, idle = deque(cells), []
    busy: dict[Connection, tuple[multiprocessing.process.BaseProcess, Cell, float]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                line, process = idle.pop() if idle else _start(setup)
                with contextlib.suppress(OSError):  # a worker that died meanwhile is found out below
                    line.send(waiting[0])
                busy[line] = (process, waiting.popleft(), time.perf_counter())
            for line in wait(list(busy)):
                process, cell, begin = busy.pop(line)
                try:
                    outcome = line.recv()
                    idle.append((line, process))
                except (EOFError, OSError):
                    process.join()
                    reason = f"its process ended with code {process.exitcode}, most often for want of memory"
                    outcome = Outcome("failed", time.perf_counter() - begin, reason)
                yield cell, outcome
    finally:
        for process, _, _ in busy.values():
            process.terminate()
        for line in [*busy, *(line for line, _ in idle)]:
            line.close()
        for process in [*(process for process, _, _ in busy.values()), *(process for _, process in idle)]:
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()


def _start(setup: tuple[Callable[[Cell], None], str, int]) -> tuple[Connection, multiprocessing.process.BaseProcess]:
    """A worker process and the line to it; Ctrl-C reaches this process only, which then stops the workers."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, *setup), daemon=True)
    resource_tracker.ensure_running()  # else the first start does it, and lets Ctrl-C through again
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]) if hasattr(signal, "pthread_sigmask") else None
    try:
        process.start()
    finally:
        if blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    theirs.close()
    return ours, process


def _serve(line: Connection, run: Callable[[Cell], None], home: str, threads: int) -> None:
    """The life of a worker: cells come in, outcomes go out, until the line is closed."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            line.send(attempt(run, line.recv(), home, threads))


# -- on a cluster --------------------------------------------------------------------------------


def on_cluster(cells: Sequence[Cell], run: Callable[[Cell], None], address: str) -> Iterator[tuple[Cell, Outcome]]:
    """Each cell with its outcome as it comes, from a Dask cluster: one cell a worker at a time.

    A worker with several threads still gets one cell: executing a notebook changes the working directory of the
    whole process. Cells that run when we leave run on to their end, those that wait are taken back.
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
        reason = one_line(error)
        raise InputError(f"no Dask scheduler answers at {address} ({reason}); give tcp://HOST:PORT.") from error
    return _shared_out(client, distributed, cells, run)


def _shared_out(
    client: Any, distributed: Any, cells: Sequence[Cell], run: Callable[[Cell], None]
) -> Iterator[tuple[Cell, Outcome]]:
    """The cells, shared out among the workers of a cluster."""
    waiting, home = deque(cells), str(paths.root())
    busy: dict[Any, tuple[Cell, str]] = {}
    try:
        while waiting or busy:
            if not busy:  # a worker that was lost may be on its way back
                _require_worker(client)
            there, taken = client.nthreads(), {worker for _, worker in busy.values()}
            free = [worker for worker in there if worker not in taken]
            for worker, cell in zip(free, list(waiting), strict=False):
                future = client.submit(attempt, run, cell, home, there[worker], workers=[worker], pure=False)
                busy[future] = (waiting.popleft(), worker)
            with contextlib.suppress(TimeoutError):  # now and then, see which workers have come and gone
                distributed.wait(list(busy), timeout=_GLANCE, return_when="FIRST_COMPLETED")
            there = client.nthreads()
            for future in [each for each, (_, worker) in busy.items() if each.done() or worker not in there]:
                cell, _ = busy.pop(future)
                if not future.done():
                    # Dask would try it on the next worker, and kill that one too.
                    client.cancel([future], force=True)
                    yield cell, Outcome("failed", error="its worker was lost, most often for want of memory")
                elif error := future.exception():
                    yield cell, Outcome("failed", error=f"on the cluster: {one_line(error)}")
                else:
                    yield cell, future.result()
    finally:
        client.cancel(list(busy), force=True)
        client.close()


def _require_worker(client: Any) -> None:
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        raise InputError(f"the cluster at {client.scheduler.address} has no workers; start some.") from error
