"""Grids: many runs of the training notebook from one file, side by side in processes or on a Dask cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import math
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hr_search import config, files, paths
from hr_search.config import FIELDS, TYPES, Settings
from hr_search.errors import InputError, nearest, one_line
from hr_search.progress import bar, watched
from hr_search.runs import Run, checked_run_id

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

log = logging.getLogger(__name__)

NOTEBOOK = "02_train"
KEYS = ("name", "recipe", "base", "product", "list", "random", "seeds")
FORMS = ("product", "list", "random")
LIMIT = 10_000  # cells a file may ask for; more is a slip of the pen
# A grid names its runs itself and keeps no models: parallel cells would write over one another's.
OWN = ("projectname", "outputpath", "checkpointpath", "checkpointsteps", "resume")
PLACES = ("datapath", "validationpath", "testpath", "modelname")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
_GLANCE = 2.0  # seconds between looks at the workers of a cluster
PATIENCE = 20.0  # seconds a cluster has to answer, and a stopped worker to end its kernel


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a grid; the project's name of its settings is the grid's name."""

    runid: str
    settings: Settings

    @property
    def folder(self) -> Path:
        """Where its executed notebook goes."""
        return paths.reports() / self.settings.projectname / "cells" / self.runid


@dataclasses.dataclass(frozen=True)
class Grid:
    """The cells of a grid file, and the settings in which they differ."""

    name: str
    varied: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def folder(self) -> Path:
        """Where its tables go."""
        return tables(self.name)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a cell: `waiting`, `finished` or `failed`, with the reason in one line."""

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


# -- the file ------------------------------------------------------------------------------------


def grids() -> Path:
    """The grid files of the checkout."""
    return paths.checkout() / "data" / "grids"


def tables(name: str) -> Path:
    """The folder of the result tables of the grid called `name`."""
    return paths.metrics() / "grids" / name


def read_grid(path: Path | str) -> Grid:
    """The cells a grid file (YAML) asks for, each once, all of one seed before those of the next.

    Args:
        path: the file. Its keys: `name` (else the file's name); `recipe`, a file of settings, and `base`, settings
            laid over it; one of `product` (setting: list of values), `list` (of settings) and `random` (`count`,
            `seed` and `settings`, each a list or `low`, `high`, `log`); `seeds`, a list that multiplies the cells.

    Raises:
        InputError: an unknown key or setting, a value out of bounds, or no cell at all.
    """
    source, values = str(path), config.read_yaml(path)
    _check_keys(values, KEYS, source)
    forms = [form for form in FORMS if form in values]
    if len(forms) != 1:
        raise InputError(f"{source} has {' and '.join(forms) or 'no cells'}; give one of {', '.join(FORMS)}.")
    name = checked_run_id(str(values.get("name", Path(path).stem)))
    common: dict[str, Any] = {}
    if "recipe" in values:
        recipe = config.read_recipe(paths.resolve(str(values["recipe"]))).to_dict()
        common = {setting: value for setting, value in recipe.items() if setting not in OWN}
    common |= _settings(values.get("base", {}), f"{source}: base") | {"projectname": name}
    arms = {"product": _product, "list": _list, "random": _random}[forms[0]](values[forms[0]], f"{source}: {forms[0]}")
    varied = list(dict.fromkeys(setting for arm in arms for setting in arm))
    seeds: list[dict[str, Any]] = [{}]
    if "seeds" in values:
        if "seed" in varied:
            raise InputError(f"{source} gives seeds and also {forms[0]} of seed; keep one of the two.")
        seeds = [{"seed": seed} for seed in _values("seed", values["seeds"], source)]
        varied.append("seed")
    if len(arms) * len(seeds) > LIMIT:
        raise InputError(f"{source} asks for {len(arms) * len(seeds):,} cells; keep it to {LIMIT:,}.")
    # One seed after another: a grid that is stopped half-way has still compared all arms.
    cells = [_cell(name, {**common, **arm, **seed}, source) for seed in seeds for arm in arms]
    distinct = {cell.runid: cell for cell in cells}
    if len(distinct) < len(cells):
        log.info("%s: %d cells occur twice and run once", name, len(cells) - len(distinct))
    return Grid(name, tuple(varied), tuple(distinct.values()))


def _cell(name: str, values: dict[str, Any], source: str) -> Cell:
    """A cell whose run id follows from its settings, as far as they differ from the defaults."""
    settings = Settings.from_mapping(values, source)
    # Settings that a later version adds leave the run ids of finished cells as they are.
    changed = {key: value for key, value in settings.to_dict().items() if value != FIELDS[key].default}
    parts = [f"{key}={json.dumps(value)}" for key, value in sorted(changed.items()) if key != "projectname"]
    return Cell(checked_run_id(f"{name}-{files.digest(parts)[:10]}"), settings)


def _product(values: Any, source: str) -> list[dict[str, Any]]:
    """Every combination of the values of several settings."""
    named = _names(values, source)
    lists = [_values(name, each, source) for name, each in named.items()]
    if math.prod(map(len, lists)) > LIMIT:
        raise InputError(f"{source} makes {math.prod(map(len, lists)):,} combinations; keep it to {LIMIT:,}.")
    return [dict(zip(named, chosen, strict=True)) for chosen in itertools.product(*lists)]


def _list(values: Any, source: str) -> list[dict[str, Any]]:
    """Combinations given one by one."""
    if not isinstance(values, list) or not values:
        raise InputError(f"{source} must be a list of settings, such as `- {{loss: infonce}}`.")
    return [_settings(each, f"{source}, entry {number}") for number, each in enumerate(values, 1)]


def _random(values: Any, source: str) -> list[dict[str, Any]]:
    """Combinations drawn at random: from lists, or between two bounds, evenly or evenly in the logarithm."""
    _check_keys(values, ("count", "seed", "settings"), source)
    if missing := [key for key in ("count", "settings") if key not in values]:
        raise InputError(f"{source} has no {missing[0]}; it needs count and settings.")
    count = config.converted("count", values["count"], int, source)
    if not 1 <= count <= LIMIT:
        raise InputError(f"{source}: count is {count}; it must be between 1 and {LIMIT:,}.")
    generator = np.random.default_rng(config.checked("seed", values.get("seed", 0), source))
    named = _names(values["settings"], f"{source}: settings")
    return [{name: _drawn(name, each, generator, source) for name, each in named.items()} for _ in range(count)]


def _drawn(name: str, spec: Any, generator: np.random.Generator, source: str) -> Any:
    """A value of the setting `name`, to four digits so that tables stay readable."""
    if isinstance(spec, list):
        values = _values(name, spec, source)
        return values[generator.integers(len(values))]
    _check_keys(spec, ("low", "high", "log"), f"{source}: {name}")
    if TYPES[name] not in (int, float) or not {"low", "high"} <= set(spec):
        raise InputError(
            f"{source}: {name} needs a list of values{', or low and high' * (TYPES[name] in (int, float))}."
        )
    low, high = (config.checked(name, spec[end], source) for end in ("low", "high"))
    log_scale = config.converted("log", spec.get("log", False), bool, source)
    if low >= high or (log_scale and low <= 0):
        raise InputError(
            f"{source}: {name} runs from {low:g} to {high:g}; low must be below high, and above 0 for log."
        )
    if TYPES[name] is int and not log_scale:
        return int(generator.integers(low, high + 1))
    value = math.exp(generator.uniform(math.log(low), math.log(high))) if log_scale else generator.uniform(low, high)
    rounded = round(value) if TYPES[name] is int else float(f"{value:.4g}")
    return min(max(rounded, low), high)


def _values(name: str, values: Any, source: str) -> list[Any]:
    """The values of one setting, checked, without repeats."""
    if not isinstance(values, list) or not values:
        raise InputError(f"{source}: {name} is {values!r}; give a list of values, such as [1, 2].")
    return list(dict.fromkeys(config.checked(name, value, source) for value in values))


def _settings(values: Any, source: str) -> dict[str, Any]:
    """Settings with their values, checked."""
    return {name: config.checked(name, value, source) for name, value in _names(values, source).items()}


def _names(values: Any, source: str) -> dict[str, Any]:
    """A mapping under the settings' own names."""
    if not isinstance(values, Mapping) or (not values and not source.endswith(": base")):
        raise InputError(f"{source} must be lines of `setting: value`.")
    named: dict[str, Any] = {}
    for name, value in values.items():
        key = config.canonical(str(name), source)
        if key in OWN:
            raise InputError(f"{source} sets {key}, which a grid decides itself; leave it out.")
        if key in named:
            raise InputError(f"{source} gives {key} twice; keep one of the two.")
        named[key] = value
    return named


def _check_keys(values: Any, valid: Sequence[str], source: str) -> None:
    if not isinstance(values, Mapping):
        raise InputError(f"{source} must be lines of `name: value` with the names {', '.join(valid)}.")
    for key in values:
        if key not in valid:
            raise InputError(f'{source} has no key "{key}"; {nearest(str(key), valid)}')


# -- one cell ------------------------------------------------------------------------------------


def train_cell(cell: Cell) -> None:
    """Runs the training notebook with the cell's settings.

    Raises:
        CellFailed: the notebook stopped.
        InputError: it could not be started.
    """
    # Not at the top: papermill and what it needs take a second to import.
    from hr_search.notebooks import NotebookFailed, parameters_of, plan, run_notebook

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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY) if fcntl else None
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({one_line(error)}); choose a place with permission.") from error
    try:
        if fcntl:
            # Some network file systems lock no folders; there, whoever starts a grid has to take care.
            with contextlib.suppress(OSError):
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise InputError(f"{what} is being run by another process; wait for it or stop it.") from error
        yield
    finally:
        if fcntl:
            os.close(handle)


# -- all cells -----------------------------------------------------------------------------------


def run_grid(
    grid: Grid, workers: int = 1, retry: bool = False, scheduler: str = "", run: Callable[[Cell], None] = train_cell
) -> pd.DataFrame:
    """Runs the cells of a grid that are not finished yet and writes `metrics/grids/<name>/cells.csv` after each.

    A cell that fails stops no other. Ctrl-C stops the running cells; what is finished stays, and the next start goes
    on from there.

    Args:
        grid: from `read_grid`.
        workers: processes side by side; each gets its part of the processor's cores.
        retry: run cells again that failed before.
        scheduler: address of a Dask cluster that runs the cells instead, `tcp://HOST:PORT`; its workers need this
            package and the same folders.
        run: what is done with a cell; it must leave a finished run.

    Returns:
        One row a cell: cell, the settings that vary, status (finished, failed or waiting), seconds, run, notebook (of
        a failed cell, under the root) and error.

    Raises:
        InputError: no worker, no data, the cluster cannot be reached, or the grid is running already.
    """
    if workers < 1:
        raise InputError(f"workers is {workers}; it must be at least 1.")
    with alone(grid.folder, f"the grid {grid.name}"):
        outcomes = known_outcomes(grid)
        again = ("waiting", "failed") if retry else ("waiting",)
        todo = [_located(cell) for cell in grid.cells if outcomes[cell.runid].status in again]
        log.info("grid %s: %d cells, %d of them to run", grid.name, len(grid.cells), len(todo))
        table = write_cells(grid, outcomes)
        if not todo:
            return table
        results = _on_cluster(todo, run, scheduler) if scheduler else _on_processes(todo, run, workers)
        with contextlib.closing(results), bar(total=len(todo), what=grid.name, unit="cell") as shown:
            for number, (cell, outcome) in enumerate(results, 1):
                if outcome.status == "finished" and not (paths.runs() / cell.runid / "summary.json").is_file():
                    reason = "its run is not here; do all workers share this folder?"
                    outcome = Outcome("failed", outcome.seconds, reason)
                outcomes[cell.runid] = outcome
                table = write_cells(grid, outcomes)
                shown.update()
                if not watched():
                    what = f"{outcome.status}{': ' * bool(outcome.error)}{outcome.error}"
                    log.info("%d/%d %s, %.0f s, %s", number, len(todo), cell.runid, outcome.seconds, what)
        return table


def _located(cell: Cell) -> Cell:
    """The cell with paths that hold in any working directory: kernels and clusters start elsewhere.

    Raises:
        InputError: a table of its data is not there.
    """
    given = {name: getattr(cell.settings, name) for name in PLACES}
    for name in ("datapath", "validationpath", "testpath"):
        bundled = given[name] in ("", "esco", "sample_ru") or given[name].startswith("hf:")
        if not bundled and not paths.resolve(given[name]).exists():
            raise InputError(f"{name} {given[name]} of the cell {cell.runid} does not exist; check the path.")
    found = {name: str(paths.resolve(text)) for name, text in given.items() if text and paths.resolve(text).exists()}
    return dataclasses.replace(cell, settings=cell.settings.replace(**found))


def known_outcomes(grid: Grid) -> dict[str, Outcome]:
    """What is known of each cell, by run id: finished where its run is, failed where the table says so.

    Raises:
        InputError: a finished run of that name has other settings, or the table is damaged.
    """
    before, place = {}, grid.folder / "cells.csv"
    if place.is_file():
        before = {row["run"]: row for row in read_cells(grid.name).to_dict("records")}
    outcomes = {}
    for cell in grid.cells:
        run, row = Run(paths.runs() / cell.runid), before.get(cell.runid, {"status": "waiting"})
        outcomes[cell.runid] = Outcome("waiting")
        if (run.folder / "summary.json").is_file():
            _check_same(run, cell)
            seconds = row["seconds"] if row["status"] == "finished" else run.summary["seconds"]
            outcomes[cell.runid] = Outcome("finished", seconds)
        elif row["status"] == "failed":
            outcomes[cell.runid] = Outcome("failed", row["seconds"], row["error"], row["notebook"])
    return outcomes


def _check_same(run: Run, cell: Cell) -> None:
    """Refuses a run that was made when the defaults were others."""
    settings = cell.settings.to_dict()
    for name, value in run.config.items():
        # Paths are written out in a run, and point elsewhere on another machine.
        if name in settings and name not in (*PLACES, *OWN) and settings[name] != value:
            raise InputError(
                f"the run {run.id} was made with {name} {value}, the grid means {settings[name]}, as a default has "
                "changed; give the grid a new name, or delete the run's folder."
            )


def write_cells(grid: Grid, outcomes: Mapping[str, Outcome]) -> pd.DataFrame:
    """Writes and returns the table of the cells."""
    rows = []
    for number, cell in enumerate(grid.cells, 1):
        outcome, values = outcomes[cell.runid], cell.settings.to_dict()
        rows.append({
            "cell": number, **{name: values[name] for name in grid.varied}, "status": outcome.status,
            "seconds": outcome.seconds, "run": cell.runid, "notebook": outcome.notebook, "error": outcome.error,
        })  # fmt: skip
    table = pd.DataFrame(rows)
    files.write_csv(grid.folder / "cells.csv", table)
    return table


def read_cells(name: str) -> pd.DataFrame:
    """The table of the cells of a grid that has been started; all texts, seconds as numbers.

    Raises:
        InputError: there is none, or it is damaged.
    """
    place = tables(name) / "cells.csv"
    if not place.is_file():
        known = sorted(path.parent.name for path in tables("").glob("*/cells.csv"))
        raise InputError(f"there is no grid {name}; {nearest(name, known) if known else 'none has been started yet'}")
    try:
        table = pd.read_csv(place, dtype=str, keep_default_na=False)
        seconds = pd.to_numeric(table["seconds"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{place} is damaged ({one_line(error)}); delete it and start the grid again.") from error
    if missing := {"cell", "status", "run", "notebook", "error"} - set(table):
        raise InputError(f"{place} has no column {sorted(missing)[0]}; delete it and start the grid again.")
    return table.assign(seconds=seconds)


# -- in processes --------------------------------------------------------------------------------


def cores() -> int:
    """Cores this process may use: `OMP_NUM_THREADS` where it is set, else what the system grants."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given):
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _on_processes(cells: Sequence[Cell], run: Callable[[Cell], None], workers: int) -> Iterator[tuple[Cell, Outcome]]:
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


def _on_cluster(cells: Sequence[Cell], run: Callable[[Cell], None], address: str) -> Iterator[tuple[Cell, Outcome]]:
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
