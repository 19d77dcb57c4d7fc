"""The report on a run: all numbered notebooks one after another, as pages that link to each other."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hr_search.base import claims, files, paths
from hr_search.base.errors import InputError
from hr_search.reports import index, pages
from hr_search.reports.notebooks import NotebookFailed, finished, run_notebook
from hr_search.reports.parameters import parameters_of, plan
from hr_search.runs.folders import Run, checked_run_id, new_run_id, open_run
from hr_search.runs.tracking import send_pages
from hr_search.settings import Settings

log = logging.getLogger(__name__)

# The notebooks in their order: what each does, and roughly how many seconds it takes.
STEPS: dict[str, tuple[str, float]] = {
    "01_explore_data": ("looks at the data: sizes, lengths, groups, leaks, hard negatives", 40),
    "02_train": ("trains the encoder and tests it against the baselines", 420),
    "03_embedding_drift": ("measures and draws how the embeddings moved", 60),
    "04_analyse_metrics": ("analyses the metrics: intervals, tests, the hardest queries, the stages of a search", 50),
}
TRAINING = "02_train"
NEEDED = ("01_explore_data", TRAINING)  # notebooks whose failure ends the report; the others do not need each other


def run_report(
    settings: Settings, extra: Mapping[str, Any] | None = None, runid: str = "", folder: Path | str | None = None
) -> Path:
    """Explores, trains, measures drift and analyses: all notebooks one after another, as pages to read.

    Everything is checked before the first notebook starts. Each page is written into `reports/<run id>/` as soon
    as its notebook is done, and the index of all runs at the end, even after a failure. A report that was stopped, or
    failed, after its training goes on with the notebooks that it lacks when it is started again as it was.

    Args:
        settings: the settings of the run.
        extra: parameters of the notebooks that are not settings, for example `points` of the drift notebook.
        runid: the name of the run; empty = a new one made of the project's name and the time.
        folder: where the notebooks lie; None = those of the checkout.

    Returns:
        The path of the index page.

    Raises:
        InputError: a parameter or a place is wrong, or another process writes this report; nothing was started.
        NotebookFailed: a notebook stopped. Those that need it were not started.
    """
    folder = paths.notebooks() if folder is None else Path(folder)
    sources = {name: folder / f"{name}.ipynb" for name in STEPS}
    if otherid := (extra or {}).get("otherid"):
        open_run(str(otherid))
    declared = {name: parameters_of(source) for name, source in sources.items()}
    plan(declared, settings, extra or {}, runid)  # whatever it refuses is refused before a folder is made
    kept = _kept(checked_run_id(runid), settings) if runid else []
    runid, lock = _claimed(runid, settings.projectname)
    try:
        planned = plan(declared, settings, extra or {}, runid)
        todo = {name: source for name, source in sources.items() if name not in kept}
        return _run(todo, planned, [lock.parent / f"{name}.ipynb" for name in kept], settings)
    finally:
        claims.release(lock)


def _kept(runid: str, settings: Settings) -> list[str]:
    """The notebooks that an earlier start of this very report has finished, the training among them.

    Raises:
        InputError: the run is there, but not of this report, or nothing of it is missing.
    """
    run, place = Run(paths.runs() / runid), paths.reports() / runid
    if not (run.folder / "summary.json").exists():
        return []
    done = [name for name in STEPS if finished(place / f"{name}.ipynb")]
    missing = [name for name in STEPS if name not in done and not _nothing_to_read(name, settings, runid)]
    if TRAINING not in done or not missing or run.config != settings.to_dict():
        raise InputError(f"the run {runid} exists already; choose another run id or delete {run.folder}.")
    return done


def _claimed(runid: str, projectname: str) -> tuple[str, Path]:
    """The run id, a new one where none is given, and the lock of its pages, which this process now holds."""
    while True:
        name = runid or new_run_id(projectname)
        lock = claims.inside(paths.reports() / name)
        try:
            claims.claim(lock, f"the report {name}", "choose another run id")
            return name, lock
        except InputError:
            if runid or not lock.exists():
                raise  # else another process took the new name in the same second


def _run(
    sources: Mapping[str, Path], planned: Mapping[str, dict[str, Any]], done: list[Path], settings: Settings
) -> Path:
    """Runs the notebooks that are left of a report and writes all its pages."""
    runid = planned[TRAINING]["runid"]
    place, timings, failures = paths.reports() / runid, _timings(), []
    for name in sources:  # pages of an earlier report of this name would look like new ones
        for suffix in (".ipynb", ".html"):
            (place / f"{name}{suffix}").unlink(missing_ok=True)
    if done:
        log.info("going on after %s", ", ".join(path.stem for path in done))
    name = ""
    try:
        for name, source in sources.items():
            if missing := _nothing_to_read(name, settings, runid):
                log.info("%d/%d %s is left out: %s", _number(name), len(STEPS), name, missing)
                continue
            what, rough = STEPS[name]
            expected = pages.duration(timings.get(name, rough))
            log.info("%d/%d %s %s (about %s)", _number(name), len(STEPS), name, what, expected)
            begin = time.monotonic()
            try:
                done = sorted([*done, run_notebook(source, place, planned[name])])
            except NotebookFailed as failure:
                failures.append(failure)
                _export(sorted([*done, failure.path]), runid)
                if name in NEEDED:
                    break
                log.warning("   stopped in cell %d: %s", failure.cell, failure.line)
                continue
            timings[name] = round(time.monotonic() - begin, 1)
            files.write_json(paths.reports() / "timings.json", timings)
            _export(sorted([*done, *(failure.path for failure in failures)]), runid)
            log.info("   done in %s: %s", pages.duration(timings[name]), (place / name).with_suffix(".html"))
    except BaseException as error:
        with contextlib.suppress(InputError):  # the first error is the one to report
            index.write_index()
        if isinstance(error, InputError):  # a full disk, for example
            raise InputError(f"{str(error).rstrip('.')}; {_farewell(name, runid, settings)}") from error
        if isinstance(error, KeyboardInterrupt):
            log.warning(_farewell(name, runid, settings))
        raise
    page = index.write_index()
    send_pages(paths.runs() / runid, [path.with_suffix(".html") for path in done])
    if failures:
        raise failures[0]
    return page


def _farewell(name: str, runid: str, settings: Settings) -> str:
    """What a report that was asked to stop says about how to go on."""
    start = f"the report {runid} was stopped in {name}, and no notebook is still running; the same command"
    again = f"{start} with --runid {runid}"
    if finished(paths.reports() / runid / f"{TRAINING}.ipynb"):
        return f"{again} goes on there."
    if (paths.runs() / runid / "summary.json").exists():
        return f"{start} with another run id starts it again; the run itself is finished: {paths.runs() / runid}."
    if settings.checkpointpath and Path(settings.checkpointpath).exists():
        return f"{again} and -p resume=true goes on from {settings.checkpointpath}."
    return f"{again} starts it again."


def _number(name: str) -> int:
    return 1 + list(STEPS).index(name)


def _nothing_to_read(name: str, settings: Settings, runid: str) -> str:
    """Why a notebook of the report finds no tables in the run, or will find none in one under these settings."""
    run = Run(paths.runs() / runid)
    trained = (run.folder / "summary.json").is_file()  # then its files decide: data may bring their own test rows
    if name == "03_embedding_drift":
        if settings.stage == "rerank":
            return "a second stage has no embeddings that could drift"
        if settings.stage == "search":
            return "nothing is trained, so no embedding moves"
        if not settings.probes:
            return "no probes are kept (--probes 0)"
        if trained:
            missing = not any((run.folder / "probes").glob("step_*.npy"))
        else:
            missing = not settings.holds_out("validation")
        return "there are no validation rows (--validationshare 0)" * missing
    if name == "04_analyse_metrics":
        missing = not run.has("metrics") if trained else not settings.holds_out("test")
        return "there are no test rows (--testshare 0)" * missing
    return ""


def _timings() -> dict[str, float]:
    """Seconds that each notebook took last time, as far as they were kept."""
    with contextlib.suppress(InputError):
        kept = files.read_json(paths.reports() / "timings.json")
        if isinstance(kept, dict):
            return {name: each for name, each in kept.items() if isinstance(each, int | float) and each >= 0}
    return {}


def _export(done: list[Path], runid: str) -> None:
    """Writes the pages of the notebooks done so far, the earlier ones again, so that each links to all that exist."""
    words = {path: path.stem.replace("_", " ") for path in done}
    links = {"All runs": "../index.html"} | {words[path]: f"{quote(path.stem)}.html" for path in done}
    for path in done:
        pages.export_html(path, path.with_suffix(".html"), f"{words[path]} · {runid}", links)
