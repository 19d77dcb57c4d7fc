"""The report on a run: all numbered notebooks one after another, as pages that link to each other."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hr_search.base import files, paths
from hr_search.base.errors import InputError
from hr_search.reports import index, pages
from hr_search.reports.notebooks import NotebookFailed, run_notebook
from hr_search.reports.parameters import parameters_of, plan
from hr_search.runs.folders import checked_run_id, new_run_id, open_run
from hr_search.settings import Settings

log = logging.getLogger(__name__)

# The notebooks in their order: what each does, and roughly how many seconds it takes.
STEPS: dict[str, tuple[str, float]] = {
    "01_explore_data": ("looks at the data: sizes, lengths, groups, leaks, hard negatives", 40),
    "02_train": ("trains the encoder and tests it against the baselines", 420),
    "03_embedding_drift": ("measures and draws how the embeddings moved", 60),
    "04_analyse_metrics": ("analyses the metrics: intervals, tests, the hardest queries", 20),
}


def run_report(
    settings: Settings, extra: Mapping[str, Any] | None = None, runid: str = "", folder: Path | str | None = None
) -> Path:
    """Explores, trains, measures drift and analyses: all notebooks one after another, as pages to read.

    Everything is checked before the first notebook starts. Each page is written into `reports/<run id>/` as soon
    as its notebook is done, and the index of all runs at the end, even after a failure.

    Args:
        settings: the settings of the run.
        extra: parameters of the notebooks that are no settings, for example `points` of the drift notebook.
        runid: the name of the run; empty = a new one made of the project's name and the time.
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
    for name in STEPS:  # pages of an earlier report of this name would look like new ones
        for suffix in (".ipynb", ".html"):
            (place / f"{name}{suffix}").unlink(missing_ok=True)
    done: list[Path] = []
    try:
        for number, source in enumerate(sources, 1):
            if missing := _nothing_to_read(source.stem, settings):
                log.info("%d/%d %s is left out: %s", number, len(STEPS), source.stem, missing)
                continue
            what, rough = STEPS[source.stem]
            expected = pages.duration(timings.get(source.stem, rough))
            log.info("%d/%d %s %s (about %s)", number, len(STEPS), source.stem, what, expected)
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
