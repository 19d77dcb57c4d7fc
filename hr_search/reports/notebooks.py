"""Runs the notebooks with checked parameters, each in a kernel of this very Python, and writes the report."""

from __future__ import annotations

import ast
import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import papermill
import zmq
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import LocalHandler, papermill_io

from hr_search import settings as config
from hr_search.base import files, paths
from hr_search.base.errors import InputError, one_line, plain, quoted, shown, suggestion
from hr_search.base.progress import HEADLESS_VARIABLE
from hr_search.reports import index, pages
from hr_search.runs.folders import checked_run_id, new_run_id, open_run
from hr_search.settings import Settings

log = logging.getLogger(__name__)


class _Whole(LocalHandler):
    """Writes executed notebooks whole or not at all; papermill would leave a torn one where it is killed."""

    def write(self, buf: str, path: str) -> None:
        files.write_text(path, buf)


papermill_io.register("/", _Whole())

# The notebooks of a report in their order: what each does and roughly how many seconds it takes.
STEPS: dict[str, tuple[str, float]] = {
    "01_explore_data": ("looks at the data: sizes, lengths, groups, leaks, hard negatives", 40),
    "02_train": ("trains the encoder and tests it against the baselines", 420),
    "03_embedding_drift": ("measures and draws how the embeddings moved", 60),
    "04_analyse_metrics": ("analyses the metrics: intervals, tests, the hardest queries", 20),
}
# Bounds of notebook parameters that would else be found wrong only after the training.
BOUNDS = {"points": (10, 5000), "neighbours": (2, 200), "checkpoints": (2, 20), "examples": (1, 200), "worst": (1, 200)}
RESERVED = ("more", "runid")
PROGRESS_BAR = re.compile(r"\d+%\||\d+it \[")


class NotebookFailed(InputError):
    """A cell of a notebook raised an error; the executed notebook and its page show how far it got.

    Attributes:
        path: the executed notebook, with the outputs up to the error.
        cell: number of the cell that failed, as in `In [5]`.
        line: the error in one line.
    """

    def __init__(self, path: Path, cell: int, line: str) -> None:
        super().__init__(f"{path.stem} stopped in cell {cell}: {line.rstrip('.')}; see {path.with_suffix('.html')}.")
        self.path, self.cell, self.line = path, cell, line


class ThisPython(AsyncKernelManager):
    """Starts kernels with the interpreter that runs this program, whichever kernels are installed elsewhere."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Without folders to search, jupyter_client falls back to ipykernel's own specification: sys.executable.
        self.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
        package = str(Path(__file__).resolve().parents[2])
        self.kernel_spec.env["PYTHONPATH"] = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        self.kernel_spec.env[HEADLESS_VARIABLE] = "1"
        if self.has_trait("transport_encryption") and zmq.has("curve"):
            self.transport_encryption = "auto"  # other users of the machine cannot listen in


class _Lines:
    """A text stream that logs each whole line a notebook prints and drops progress bars."""

    def __init__(self) -> None:
        self.rest = ""

    def write(self, text: str) -> None:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            line = line.rstrip().rsplit("\r", 1)[-1]
            if line and not PROGRESS_BAR.search(line):
                log.info("   %s", plain(line))

    def flush(self) -> None:
        """Nothing to do: only whole lines are logged."""


def parameters_of(path: Path | str) -> dict[str, tuple[Any, str]]:
    """The parameters a notebook declares in its cell tagged `parameters`.

    Returns:
        Names to pairs of default value and help text, in the order of the cell.

    Raises:
        InputError: the notebook is missing or unreadable, or a line of the cell is not `name = literal  # help`.
    """
    path = Path(path)
    try:
        notebook = nbformat.read(path, as_version=4)
        cells = [cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        with _quiet():
            helps = {name: each["help"] for name, each in papermill.inspect_notebook(_literal(path)).items()}
    except FileNotFoundError as error:
        raise InputError(f"the notebook {path} does not exist.") from error
    except (OSError, ValueError, AttributeError, nbformat.ValidationError) as error:
        raise InputError(f"{path} is not a readable notebook ({one_line(error)}).") from error
    if len(cells) > 1:
        raise InputError(f"{path.name} has {len(cells)} cells tagged parameters; keep one.")
    defaults = _literals("".join(cells), path.name)
    unread = [name for name in defaults if name not in helps]
    if unread:
        raise InputError(f"{path.name}: papermill skips {unread[0]}; keep its line to one `=`, comment included.")
    return {name: (value, helps[name]) for name, value in defaults.items()}


def _literals(source: str, where: str) -> dict[str, Any]:
    """The values of a cell that holds nothing but lines of `name = literal`."""
    values: dict[str, Any] = {}
    try:
        for line in ast.parse(source).body:
            target = line.targets[0] if isinstance(line, ast.Assign) else line.target
            values[target.id] = ast.literal_eval(line.value)
    except (SyntaxError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: the parameters cell may hold only lines of `name = literal  # help`.") from error
    return values


def _literal(path: Path) -> str:
    """A path that papermill leaves as it is: it would fill in anything between braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps papermill from logging which files it opens."""
    logger = logging.getLogger("papermill")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def run_notebook(path: Path | str, folder: Path | str, parameters: Mapping[str, Any]) -> Path:
    """An executed copy of a notebook, run in a kernel of its own with these parameters.

    What the notebook prints is logged line by line while it runs. The original is never changed.

    Args:
        path: the notebook; its folder is the kernel's working directory.
        folder: where the executed copy goes, under the same name.
        parameters: values for names the notebook declares.

    Returns:
        The path of the executed notebook.

    Raises:
        InputError: a name the notebook does not declare, or a place that cannot be written; nothing was started.
        NotebookFailed: a cell raised an error or the kernel died.
    """
    path, folder = Path(path).resolve(), Path(folder).resolve()
    declared = parameters_of(path)
    for name in parameters:
        if name not in declared:
            raise InputError(f'{path.name} has no parameter "{name}"; {suggestion(name, declared)}')
    output = folder / path.name
    if output == path:
        raise InputError(f"{path} would overwrite itself; give another folder for the executed copy.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({one_line(error)}); choose a place with permission.") from error
    try:
        with _quiet():
            papermill.execute_notebook(
                _literal(path),
                _literal(output),
                dict(parameters),
                kernel_name="python3",
                kernel_manager_class=ThisPython,
                language="python",
                cwd=str(path.parent),
                progress_bar=False,
                stdout_file=_Lines(),
                stderr_file=_Lines(),
            )
    except PapermillExecutionError as error:
        name = "" if error.ename == "InputError" else error.ename
        line = ": ".join(filter(None, [name, one_line(error.evalue) if error.evalue.strip() else ""]))
        failure = NotebookFailed(output, error.exec_count, line)
    except DeadKernelError:
        cells = [cell for cell in nbformat.read(output, as_version=4).cells if cell.cell_type == "code"]
        started = [cell for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
        failure = NotebookFailed(output, len(started), "the kernel died, most often for want of memory")
    except OSError as error:
        raise InputError(f"{output} cannot be written ({one_line(error)}); choose a place with room.") from error
    else:
        return output
    pages.export_html(output, output.with_suffix(".html"))
    raise failure


def plan(
    declared: Mapping[str, Mapping[str, tuple[Any, str]]], settings: Settings, extra: Mapping[str, Any], runid: str
) -> dict[str, dict[str, Any]]:
    """The parameters each notebook of a report gets.

    A notebook gets the settings it declares. One that declares `more` also gets there all other settings
    that differ from their defaults. `runid` and the names in `extra` go wherever they are declared.

    Args:
        declared: notebook names to what `parameters_of` tells of them.
        settings: the settings of the run.
        extra: values for parameters that are no settings.
        runid: the name of the run.

    Raises:
        InputError: a name in `extra` is a setting, reserved or not declared anywhere, or its value has the wrong
            type; or a changed setting reaches no notebook.
    """
    known = {name for parameters in declared.values() for name in parameters}
    for name in extra:
        if name in config.FIELDS or name in RESERVED:
            raise InputError(f'"{name}" is not an extra parameter; give it as a setting or as the run id.')
        if name not in known:
            hint = suggestion(name, sorted(known | {*config.FIELDS}))
            raise InputError(f'no notebook has a parameter "{shown(name)}"; {hint}')
    values = settings.to_dict()
    changed = {name: value for name, value in values.items() if value != config.FIELDS[name].default}
    lost = sorted(set(changed) - known - {"projectname"})
    if lost and "more" not in known:
        raise InputError(f"no notebook takes the setting {lost[0]}; leave it at its default.")
    planned = {}
    for notebook, parameters in declared.items():
        given = {name: values[name] for name in parameters if name in values}
        if "more" in parameters:
            given["more"] = {name: value for name, value in changed.items() if name not in parameters}
        if "runid" in parameters:
            given["runid"] = runid
        wanted = [name for name in extra if name in parameters]
        given |= {name: _typed(name, extra[name], parameters[name][0], notebook) for name in wanted}
        for name in set(wanted) & set(BOUNDS):
            low, high = BOUNDS[name]
            if not low <= given[name] <= high:
                raise InputError(f"{notebook}: {name} is {given[name]}; it must be between {low} and {high}.")
        planned[notebook] = given
    return planned


def _typed(name: str, value: Any, default: Any, notebook: str) -> Any:
    """`value` in the type of a parameter's default; a default of None takes anything."""
    if type(default) in (int, float, bool, str):
        return config.converted(name, value, type(default), notebook)
    if default is not None and not isinstance(value, type(default)):
        kind = type(default).__name__
        raise InputError(f"{notebook}: {name} is {quoted(value)}; it must be a {kind} like {default!r}.")
    return value


def run_report(
    settings: Settings, extra: Mapping[str, Any] | None = None, runid: str = "", folder: Path | str | None = None
) -> Path:
    """Explores, trains, measures drift and analyses: all notebooks one after another, as pages to read.

    Everything is checked before the first notebook starts. Each page is written as soon as its notebook is
    done, into `reports/<run id>/`, and the index of all runs at the end, also after a failure.

    Args:
        settings: the settings of the run.
        extra: parameters of the notebooks that are no settings, such as `points` of the drift notebook.
        runid: the name of the run; empty = a fresh one made of the project's name and the time.
        folder: where the notebooks lie; None = those of the checkout.

    Returns:
        The path of the index page.

    Raises:
        InputError: a parameter or a place is wrong; nothing was started.
        NotebookFailed: a notebook stopped; the following ones were not started.
    """
    runid = checked_run_id(runid) if runid else new_run_id(settings.projectname)
    if (paths.runs() / runid / "summary.json").exists():
        raise InputError(f"the run {runid} exists already; choose another run id or delete {paths.runs() / runid}.")
    folder = paths.notebooks() if folder is None else Path(folder)
    sources = [folder / f"{name}.ipynb" for name in STEPS]
    if otherid := (extra or {}).get("otherid"):
        open_run(str(otherid))
    planned = plan({source.stem: parameters_of(source) for source in sources}, settings, extra or {}, runid)
    place, timings = paths.reports() / runid, _timings()
    for name in STEPS:  # pages of an earlier report of this name would pass for new ones
        for suffix in (".ipynb", ".html"):
            (place / f"{name}{suffix}").unlink(missing_ok=True)
    done: list[Path] = []
    try:
        for number, source in enumerate(sources, 1):
            what, rough = STEPS[source.stem]
            if missing := _nothing_to_read(source.stem, settings):
                log.info("%d/%d %s is left out: %s", number, len(STEPS), source.stem, missing)
                continue
            seconds = timings.get(source.stem, rough)
            log.info("%d/%d %s %s (about %s)", number, len(STEPS), source.stem, what, pages.duration(seconds))
            begin = time.monotonic()
            done.append(run_notebook(source, place, planned[source.stem]))
            timings[source.stem] = round(time.monotonic() - begin, 1)
            files.write_json(paths.reports() / "timings.json", timings)
            _export(done, runid)
            log.info("   done in %s: %s", pages.duration(timings[source.stem]), done[-1].with_suffix(".html"))
    except NotebookFailed as failure:
        _export([*done, failure.path], runid)
        raise
    finally:
        page = index.write_index()
    return page


def _nothing_to_read(name: str, settings: Settings) -> str:
    """Why a notebook of the report would find no tables under these settings; empty if it will."""
    if name == "03_embedding_drift" and not settings.probes:
        return "no probes are kept (--probes 0)"
    if name == "03_embedding_drift" and not (settings.validationpath or settings.validationshare):
        return "there are no validation rows (--validationshare 0)"
    if name == "04_analyse_metrics" and not (settings.testpath or settings.testshare):
        return "there are no test rows (--testshare 0)"
    return ""


def _export(done: list[Path], runid: str) -> None:
    """Writes the pages of the notebooks done so far again, so that each links to all that exist."""
    words = {path: path.stem.replace("_", " ") for path in done}
    links = {"All runs": "../index.html"} | {words[path]: f"{quote(path.stem)}.html" for path in done}
    for path in done:
        pages.export_html(path, path.with_suffix(".html"), f"{words[path]} · {runid}", links)


def _timings() -> dict[str, float]:
    """Seconds each notebook took the last time, as far as they were kept."""
    with contextlib.suppress(InputError):
        kept = files.read_json(paths.reports() / "timings.json")
        if isinstance(kept, dict):
            return {name: each for name, each in kept.items() if isinstance(each, int | float) and each >= 0}
    return {}
