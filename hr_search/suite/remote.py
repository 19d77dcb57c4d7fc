"""Cells of a suite measured by the workers of a Dask cluster, one cell a worker at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from hr_search.base import cluster
from hr_search.base.errors import InputError
from hr_search.encoder import Encoder, load_encoder
from hr_search.places import absolute
from hr_search.search.identity import fingerprint
from hr_search.suite import cells
from hr_search.suite.cells import System
from hr_search.suite.suite_file import SuiteTask

ATTEMPTS = 2  # a cell whose worker dies is begun so often


@dataclasses.dataclass(frozen=True)
class Job:
    """A cell to measure.

    Attributes:
        folder: of the suite's results, which the workers share.
        task, system: of the cell.
        precision: as the suite's.
    """

    folder: Path
    task: SuiteTask
    system: System
    precision: str


def measured(jobs: Sequence[Job], scheduler: str) -> Iterator[tuple[Job, Exception | None]]:
    """Yields each cell, once a worker has measured and stored it or failed, with what went wrong.

    Raises:
        InputError: as `cluster.opened` and `cluster.hand_out`.
    """
    with (
        cluster.opened(scheduler) as client,
        contextlib.closing(cluster.hand_out(client, jobs, measure, ATTEMPTS, "a cell")) as answers,
    ):
        for answer in answers:
            error = answer.raised if isinstance(answer.raised, Exception) else None
            yield answer.job, error or (InputError(answer.error) if answer.error else None)


def measure(job: Job, home: str, threads: int) -> None:
    """What a worker does: reads the task, measures its cell and stores it.

    Raises:
        InputError: the model is another one here, or as `cells.read_material` and `cells.store`.
    """
    cluster.settle(home, threads)
    material = cells.read_material(job.task)
    if job.system.floor:
        cell = cells.measure_floor(job.task, material, job.system)
    else:
        if _print(job.system.name, job.precision) != job.system.fingerprint:
            raise InputError(
                f"a worker has another model under the name {job.system.name} than this machine; copy the same folder "
                "there."
            )
        cell = cells.measure_model(job.task, material, _encoder(job.system.name, job.task.maxlength, job.precision))
    prints = cells.prints_of(job.task, material, job.system, job.precision)
    cells.store(cells.cell_folder(job.folder, job.task, job.system), cell, prints)


def elsewhere(job: Job) -> Job:
    """The same job with paths that hold in the working directory of a worker."""
    system = dataclasses.replace(job.system, name=cells.place_of(job.system.name))
    return dataclasses.replace(
        job, task=dataclasses.replace(job.task, settings=absolute(job.task.settings)), system=system
    )


@functools.lru_cache(maxsize=1)
def _encoder(name: str, length: int, precision: str) -> Encoder:
    return load_encoder(name, length, precision)


@functools.lru_cache(maxsize=4)
def _print(name: str, precision: str) -> str:
    return fingerprint(load_encoder(name, 0, precision))
