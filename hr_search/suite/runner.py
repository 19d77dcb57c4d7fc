"""Runner: the cells of a suite that are not measured yet, one after another, and the tables and page made of all."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hr_search.base import claims, paths
from hr_search.base.errors import InputError, one_line, plain, suggestion
from hr_search.encoder import Encoder, load_encoder
from hr_search.runs.folders import checked_run_id
from hr_search.search.identity import fingerprint
from hr_search.suite import cells, remote, summary
from hr_search.suite.cells import Cell, Material, System
from hr_search.suite.suite_file import Suite, SuiteTask, read_suite, source_folder
from hr_search.suite.summary import Tables

log = logging.getLogger(__name__)

NOTEBOOK = "09_suite"
Key = tuple[str, str]  # task and label of the system


@dataclasses.dataclass
class Progress:
    """What is known of the cells of a suite so far, by task and label."""

    done: dict[Key, Cell] = dataclasses.field(default_factory=dict)
    failed: dict[Key, str] = dataclasses.field(default_factory=dict)
    total: int = 0
    measured: int = 0


def suite_folder(name: str) -> Path:
    """The folder of the results of a suite."""
    return paths.metrics() / "suites" / name


def run_suite(
    suite: Suite, models: Sequence[str], name: str = "", precision: str = "auto", seed: int = 0, scheduler: str = ""
) -> Tables:
    """Measures the cells of a suite that are not measured yet, and writes the tables of all.

    A cell is one system on one task: each model, and BM25 and TF-IDF. It is stored as soon as it is measured, so a
    suite that was stopped goes on when it is started again as it was. A cell is measured again where the task's data,
    the model or the settings have changed. A task that fails does not stop the others; one whose data are not here
    is left out.

    Args:
        suite: from `read_suite`.
        models: what `load_encoder` takes; the first is the one that the others are compared with.
        name: of the folder of the results; empty = the suite's.
        precision: "auto", "fp32" or "bf16".
        seed: of intervals and tests.
        scheduler: Dask cluster that measures the cells, as for `cluster.opened`; empty = this process does.

    Returns:
        The tables, which are also written into `metrics/suites/<name>/`.

    Raises:
        InputError: a model cannot be loaded or is given twice, the data of no task are here, or another process
            writes these results: nothing was measured; or the cluster fails: what was measured is kept.
    """
    name = checked_run_id(name or suite.name)
    here = [task for task in suite.tasks if task.there]
    for task in suite.tasks:
        if task not in here:
            log.warning("%s is skipped, %s is not here; get it: %s", task.name, task.settings.datapath, task.get)
    if not here:
        raise InputError(
            f"the data of none of the {len(suite.tasks)} tasks of {suite.name} are here; get those of the first: "
            f"{suite.tasks[0].get}"
        )
    systems = [_identified(system, precision) for system in cells.systems_of(models)]
    folder = suite_folder(name)
    with claims.claimed(claims.inside(folder), f"the suite {name}", "choose another --runid"):
        progress = Progress(total=len(here) * len(systems))
        try:
            _measure(folder, here, systems, precision, progress, scheduler)
        except KeyboardInterrupt:
            log.warning(
                "the suite %s was stopped: %d of %d cells are measured; the same command goes on with the others.",
                name, len(progress.done), progress.total,
            )  # fmt: skip
            raise
        tables = summary.make_tables(suite.tasks, systems, progress.done, progress.failed, seed)
        summary.write_tables(folder, tables)
    return tables


def _identified(system: System, precision: str) -> System:
    """The system with its fingerprint; a model is loaded for that, so one that cannot be is refused."""
    if system.floor:
        return system
    return dataclasses.replace(system, fingerprint=fingerprint(load_encoder(system.name, 0, precision)))


def _measure(
    folder: Path,
    tasks: Sequence[SuiteTask],
    systems: Sequence[System],
    precision: str,
    progress: Progress,
    scheduler: str,
) -> None:
    """Fills `progress` with the cells of these tasks, from their folders or measured now."""
    materials = _materials(tasks, systems, progress)
    todo: dict[str, list[SuiteTask]] = {system.label: [] for system in systems}
    for task in tasks:
        for system in systems if task.name in materials else ():
            place = cells.cell_folder(folder, task, system)
            prints = cells.prints_of(task, materials[task.name], system, precision)
            cell, reason = cells.stored(place, prints)
            if cell is None:
                todo[system.label].append(task)
            else:
                progress.done[task.name, system.label] = cell
            if reason:
                log.info("%s with %s is measured again: %s", task.name, system.label, reason)
    left = sum(map(len, todo.values()))
    log.info("%d tasks, %d systems: %d cells, %d of them to measure", len(tasks), len(systems), progress.total, left)
    if scheduler and left:
        jobs = [remote.Job(folder, task, system, precision) for system in systems for task in todo[system.label]]
        with contextlib.closing(remote.measured([remote.elsewhere(job) for job in jobs], scheduler)) as results:
            for job, error in results:
                task = next(each for each in tasks if each.name == job.task.name)
                with _attempted(progress, task, job.system, left):
                    if error:
                        raise error
                    place = cells.cell_folder(folder, task, job.system)
                    prints = cells.prints_of(task, materials[task.name], job.system, precision)
                    progress.done[task.name, job.system.label] = _read_back(place, prints)
        return
    for system in systems:
        encoders = _Encoders(system, precision)
        for task in sorted(todo[system.label], key=lambda task: task.maxlength):  # one encoder for each length
            with _attempted(progress, task, system, left):
                material = materials[task.name]
                if system.floor:
                    cell = cells.measure_floor(task, material, system)
                else:
                    cell = cells.measure_model(task, material, encoders.reading(task.maxlength))
                place = cells.cell_folder(folder, task, system)
                prints = cells.prints_of(task, material, system, precision)
                cells.store(place, cell, prints)
                progress.done[task.name, system.label] = _read_back(place, prints)


def _read_back(place: Path, prints: Mapping[str, str]) -> Cell:
    """A cell that was just stored: its numbers have lost their last digits, as in a suite that goes on."""
    cell, reason = cells.stored(place, prints)
    if cell is None:
        reason = reason or "it is not there"
        raise InputError(f"{place} cannot be read back ({reason}); choose another --runid.")
    return cell


def _materials(tasks: Sequence[SuiteTask], systems: Sequence[System], progress: Progress) -> dict[str, Material]:
    """The data of the tasks that can be read; those of the others fail."""
    materials = {}
    for task in tasks:
        try:
            materials[task.name] = cells.read_material(task)
        except Exception as error:
            progress.failed |= {(task.name, system.label): _sentence(error) for system in systems}
            log.warning("%s failed: %s", task.name, _sentence(error))
    return materials


class _Encoders:
    """A model, loaded once for all tasks that read as many tokens of a text."""

    def __init__(self, system: System, precision: str) -> None:
        self.system, self.precision = system, precision
        self.length, self.encoder, self.proven = -1, None, None

    def reading(self, length: int) -> Encoder:
        """The encoder that reads so many tokens of a text; 0 = as many as it was saved with."""
        if self.encoder is None or length != self.length:
            self.encoder = None  # two would need twice the memory
            self.encoder = load_encoder(self.system.name, length, self.precision, proven=self.proven)
            self.length, self.proven = length, (self.encoder.packs, self.encoder.foreign)
        return self.encoder


@contextlib.contextmanager
def _attempted(progress: Progress, task: SuiteTask, system: System, left: int) -> Iterator[None]:
    """A block that measures a cell; an error marks it as failed and goes no further."""
    progress.measured += 1
    key, count = (task.name, system.label), f"{progress.measured}/{left}"
    try:
        yield
    except Exception as error:
        progress.failed[key] = _sentence(error)
        log.warning("%s %s with %s failed: %s", count, *key, progress.failed[key])
        return
    cell = progress.done[key]
    means = cell.queries.groupby("direction", sort=False)[task.metric].mean()
    words = ", ".join(f"{direction} {task.metric} {value:.3f}" for direction, value in means.items())
    log.info("%s %s with %s: %s, %.1f s", count, *key, words, cell.facts["seconds"])


def _sentence(error: Exception) -> str:
    """An error in one line; one that nobody foresaw has its name before it."""
    return plain(f"{'' if isinstance(error, InputError) else type(error).__name__ + ': '}{one_line(error, 1000)}")


def open_or_tiny(name: str = "") -> str:
    """The name of results to read: `name`, else the newest, else a tiny suite that is run first.

    Raises:
        InputError: there are no results of that name.
    """
    known = sorted(suite_folder("").glob("*/cells.csv"), key=lambda path: (path.stat().st_mtime, path), reverse=True)
    if name:
        names = sorted(path.parent.name for path in known)
        if name not in names:
            raise InputError(
                f"there is no suite {name}; {suggestion(name, names) if names else 'none has been run yet'}"
            )
        return name
    if known:
        return known[0].parent.name
    log.info("no suite has been run yet: running a tiny one with the embedded model")
    tiny = read_suite(source_folder() / "tiny.yaml")
    run_suite(tiny, ["embedded"])
    return tiny.name


def write_page(name: str, parameters: Mapping[str, str] | None = None) -> Path:
    """The page of a suite, `reports/suites/<name>.html`, made by its notebook; the index links it.

    Raises:
        NotebookFailed: the notebook stopped; its page, beside the executed notebook, shows where.
    """
    from hr_search.reports import index, notebooks, pages

    source, folder = paths.notebooks() / f"{NOTEBOOK}.ipynb", paths.reports() / "suites" / name
    with claims.claimed(claims.inside(folder), f"the page of the suite {name}", "start it again later"):
        done = notebooks.run_notebook(source, folder, {"suite": name, **(parameters or {})})
        page = pages.export_html(
            done, folder.with_name(f"{name}.html"), f"suite · {name}", {"All runs": "../index.html"}
        )
    index.write_index()
    return page
