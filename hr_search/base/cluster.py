"""A Dask cluster, a running one or workers started on this machine; jobs are handed out, one a worker at a time.

Dask carries the jobs, notices workers that are gone and starts those of this machine again. What is added here: a
worker never has two jobs, a job that was lost with its worker is done again where that makes sense, and every worker
must have this version of the package.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hr_search import __version__
from hr_search.base import paths
from hr_search.base.cores import THREAD_VARIABLES
from hr_search.base.errors import InputError, one_line, shown

log = logging.getLogger(__name__)

LOCAL = "local:"  # before a number of workers that are started here
HELP = "Dask cluster that does the work: tcp://HOST:PORT, or local:N for N processes on this machine"
PATIENCE = 20.0  # seconds a cluster has to answer
_GLANCE = 2.0  # seconds between looks at the workers
_MOST = 1024  # workers on this machine
LOST = "its worker was lost (usually out of memory)"


@dataclasses.dataclass(frozen=True)
class Answer:
    """What became of a job.

    Attributes:
        job: the job.
        value: what it returned; None where it failed.
        error: why it failed, in one line; "" where it did not.
        raised: what it raised; None where it did not, or where its worker was lost.
        worker: the address of the last worker that had it.
    """

    job: Any
    value: Any = None
    error: str = ""
    raised: BaseException | None = None
    worker: str = ""


@contextlib.contextmanager
def opened(address: str) -> Iterator[Any]:
    """A client of a Dask cluster; workers that were started for it end with the block.

    Args:
        address: `tcp://HOST:PORT` of a scheduler, or `local:N` for N processes of one thread each on this machine.

    Raises:
        InputError: the package is missing, or no scheduler answers.
    """
    try:
        import distributed
    except ImportError as error:
        raise InputError(
            "--scheduler needs the package distributed; run `pip install 'hr_search[cluster]'`."
        ) from error
    with contextlib.ExitStack() as stack:
        if address.startswith(LOCAL):
            count = _count(address)
            log.info("starting %d worker%s on this machine", count, "s" * (count > 1))
            own = distributed.LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                memory_limit=0,  # Dask would end a worker that only maps much of a file
                dashboard_address=":0",
                scheduler_kwargs={"dashboard": False},
                silence_logs=logging.ERROR,
            )
            stack.callback(_end, own)
            address = own.scheduler_address
        try:
            client = stack.enter_context(_client(distributed, address))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"no Dask scheduler answers at {address} ({one_line(error)}); use tcp://HOST:PORT, or local:N."
            ) from error
        yield client


def _client(distributed: Any, address: str, attempts: int = 3) -> Any:
    """A client of the scheduler. Dask gives its own thread ten seconds to start, too few on a busy machine."""
    while True:
        try:
            return distributed.Client(address, timeout=PATIENCE)
        except AssertionError:  # the only sign of it
            attempts -= 1
            if not attempts:
                raise InputError(f"no client of {address} could be started; this machine is too busy.") from None


def hand_out(
    client: Any, jobs: Iterable[Any], run: Callable[[Any, str, int], Any], attempts: int = 1, what: str = "a job"
) -> Iterator[Answer]:
    """Yields what became of each job as soon as it is known.

    A worker with several threads still gets one job: it may change the working directory or the threads of its whole
    process. When the caller stops early, running jobs run to their end and waiting ones are taken back.

    Args:
        client: of the cluster.
        jobs: asked for the next one when a worker is free, after all answers so far have been yielded.
        run: called on a worker with a job, this process's root folder and the threads of the worker.
        attempts: how often a job is begun before it counts as failed because its workers were lost.
        what: how the log calls a job.

    Raises:
        InputError: there are no workers, one of them has another version of the package, or the scheduler is gone.
    """
    import distributed

    waiting, again, home = iter(jobs), deque(), str(paths.root())
    busy: dict[Any, tuple[Any, int, str]] = {}
    known: set[str] = set()
    try:
        while True:
            if not busy and not again:
                if (job := next(waiting, None)) is None:
                    return
                again.append((job, 1))
            with _answering(client):
                if not busy:  # a lost worker may be coming back
                    _require_worker(client)
                there = client.nthreads()
                _require_version(client, set(there) - known)
            known = set(there)
            taken = {worker for _, _, worker in busy.values()}
            for worker in (each for each in there if each not in taken):
                job, attempt = again.popleft() if again else (next(waiting, None), 1)
                if job is None:
                    break
                with _answering(client):
                    future = client.submit(run, job, home, there[worker], workers=[worker], pure=False)
                busy[future] = job, attempt, worker
            if not busy:  # the workers have gone meanwhile
                continue
            with _answering(client):
                with contextlib.suppress(TimeoutError):  # look now and then which workers have come and gone
                    distributed.wait(list(busy), timeout=_GLANCE, return_when="FIRST_COMPLETED")
                there = client.nthreads()
            for future in [each for each, (_, _, worker) in busy.items() if each.done() or worker not in there]:
                job, attempt, worker = busy.pop(future)
                with _answering(client):
                    answer = _answer(client, future, job, worker)
                if answer.error == LOST and attempt < attempts:
                    log.warning("the worker %s was lost; %s is done again", worker, what)
                    again.append((job, attempt + 1))
                    continue
                yield answer
    finally:
        with contextlib.suppress(Exception):  # the scheduler may be gone
            client.cancel(list(busy), force=True)


def settle(home: str, threads: int) -> None:
    """Lets this process, a worker, read and write where the one that sent its job does, with these threads."""
    import torch

    os.environ.update({paths.HOME_VARIABLE: home} | dict.fromkeys(THREAD_VARIABLES, str(threads)))
    torch.set_num_threads(threads)


def _answer(client: Any, future: Any, job: Any, worker: str) -> Answer:
    """What became of a job that has ended, or whose worker is gone."""
    import distributed

    if not future.done():
        client.cancel([future], force=True)  # Dask would try the job on the next worker, which may have one
        return Answer(job, error=LOST, worker=worker)
    if isinstance(error := future.exception(), distributed.KilledWorker):
        return Answer(job, error=LOST, worker=worker)
    if error is not None:
        return Answer(job, error=f"on the cluster: {one_line(error)}", raised=error, worker=worker)
    return Answer(job, future.result(), worker=worker)


def _end(own: Any) -> None:
    """Ends the workers of this machine."""
    with contextlib.suppress(TimeoutError):  # of a busy machine; they end with this process at the latest
        own.close()


def _count(address: str) -> int:
    words = address.removeprefix(LOCAL)
    if not words.isdecimal() or not 1 <= int(words) <= _MOST:
        raise InputError(f"--scheduler {shown(address)} names no number of workers; give local:2, for example.")
    return int(words)


@contextlib.contextmanager
def _answering(client: Any) -> Iterator[None]:
    """A block of calls that the scheduler must answer."""
    from distributed.utils import CancelledError

    try:
        yield
    except (OSError, RuntimeError, CancelledError) as error:
        raise InputError(
            f"the Dask scheduler no longer answers ({one_line(error, 120)}); what is finished is kept, and the same "
            "command goes on from there."
        ) from error


def _require_worker(client: Any) -> None:
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        raise InputError(f"the cluster at {client.scheduler.address} has no workers; start some.") from error


def _require_version(client: Any, workers: set[str]) -> None:
    """Checks that workers have this version of the package; one that is gone again is left to the next look."""
    found = client.run(_version, workers=sorted(workers), on_error="return") if workers else {}
    for worker, version in found.items():
        if isinstance(version, OSError):
            continue
        if version != __version__:
            other = "none, or one without this module" if isinstance(version, Exception) else version
            raise InputError(
                f"the worker {worker} has hr_search {other}, and this is {__version__}; install the same there and "
                "start the workers again."
            )


def _version() -> str:
    return __version__
