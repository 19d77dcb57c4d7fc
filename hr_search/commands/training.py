"""The verbs that train: `train` one model, `grid` many, `report` with all notebooks around it.

Heavy modules are imported inside the functions, so that `--help` and a mistyped flag are answered at once.
"""

from __future__ import annotations

import argparse
import sys

from hr_search import settings as config
from hr_search.base import paths
from hr_search.base.errors import InputError, plain, shown
from hr_search.base.signals import stoppable
from hr_search.commands.flags import add_scheduler, add_settings, given, settings_from
from hr_search.commands.output import print_dimensions, print_metrics, say
from hr_search.places import absolute, require_tables
from hr_search.settings import FIELDS


def add_train(verbs: argparse._SubParsersAction) -> None:
    """Adds the verb `train`."""
    verb = verbs.add_parser(
        "train",
        help="train a model and test it",
        epilog="Flags may contain - or _, for example --learning-rate.",
    )
    verb.add_argument("--recipe", help="YAML file of settings; flags override it")
    verb.add_argument("--runid", default="", help="name of the run's folder; default: project name and time")
    add_settings(verb, FIELDS)
    verb.set_defaults(run=train)


def train(arguments: argparse.Namespace) -> int:
    """`train`: one experiment; prints its metrics."""
    settings = settings_from(arguments.recipe, given(arguments, FIELDS))
    from hr_search.experiment import run_experiment
    from hr_search.runs.folders import checked_run_id

    run = run_experiment(settings, checked_run_id(arguments.runid) if arguments.runid else "")
    if run.has("metrics"):
        print_metrics(run.table("metrics"))
    if run.has("dimensions"):
        print_dimensions(run.table("dimensions"), settings.goal)
    if run.folder.exists():  # only the first of several processes keeps its folder
        say(f"\ntables: {run.folder}")
    return 0


def add_grid(verbs: argparse._SubParsersAction) -> None:
    """Adds the verb `grid`."""
    verb = verbs.add_parser("grid", help="run every cell of a grid file and sum them up in a page")
    verb.add_argument("file", help="YAML file of a grid, for example data/grids/losses.yaml")
    verb.add_argument("--workers", type=int, default=1, help="processes side by side (default 1)")
    verb.add_argument("--retry", action="store_true", help="run cells again that failed before")
    add_scheduler(verb)
    verb.set_defaults(run=grid)


@stoppable()
def grid(arguments: argparse.Namespace) -> int:
    """`grid`: the cells of a file, then their page; exit code 1 if a cell or the page failed."""
    from hr_search.grids.grid_file import read_grid
    from hr_search.grids.runner import run_grid, write_page
    from hr_search.grids.study import NOTEBOOK, run_study
    from hr_search.reports.notebooks import NotebookFailed

    cells = read_grid(paths.resolve(arguments.file))
    start = run_study if cells.search else run_grid
    table = start(cells, arguments.workers, arguments.retry, arguments.scheduler)
    failed = table[table["status"] == "failed"]
    for row in failed.itertuples():
        say(plain(f"{row.run} failed: {row.error}{f'; see {paths.root() / row.notebook}' if row.notebook else ''}"))
    counts = ", ".join(f"{count} {status}" for status, count in table["status"].value_counts().items())
    file = "trials.csv" if cells.search else "cells.csv"
    say(f"{counts}: {cells.folder / file}{' (--retry runs the failed ones again)' if len(failed) else ''}")
    if (table["status"] == "finished").any():
        try:
            say(write_page(cells.name, *((NOTEBOOK, "study") if cells.search else ())))
        except NotebookFailed as error:
            print(f"hr_search: {plain(str(error))}", file=sys.stderr)
            return 1
    return 1 if len(failed) else 0


def add_report(verbs: argparse._SubParsersAction) -> None:
    """Adds the verb `report`."""
    verb = verbs.add_parser("report", help="run the four notebooks and write reports/index.html")
    verb.add_argument("--recipe", help="YAML file of settings")
    verb.add_argument("--runid", default="", help="name of the run; default: project name and time")
    verb.add_argument(
        "-p",
        dest="parameters",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting or notebook parameter; may be repeated",
    )
    verb.add_argument(
        "--helpnotebook",
        action="store_true",
        help="print every setting and notebook parameter, write reports/parameters.html, and run nothing",
    )
    verb.set_defaults(run=report)


@stoppable()
def report(arguments: argparse.Namespace) -> int:
    """`report`: the notebooks into reports/<run_id>/; exit code 1 if one of them fails."""
    if arguments.helpnotebook:
        from hr_search.reports import reference

        say(f"{reference.as_text()}\n\n{reference.write_reference()}")
        return 0
    pairs: dict[str, str] = {}
    for name, value in map(_assignment, arguments.parameters):
        if name in pairs:
            raise InputError(f"-p gives {shown(name)} twice; keep one of the two.")
        pairs[name] = value
    named = {name: value for name, value in pairs.items() if _is_setting(name)}
    # Kernels start in the notebooks' folder, so no path may depend on where the command was typed.
    settings = absolute(settings_from(arguments.recipe, named))
    require_tables(settings)
    from hr_search.checks import check_settings
    from hr_search.models import embedded
    from hr_search.models.requirements import place_of
    from hr_search.reports.notebooks import NotebookFailed
    from hr_search.reports.report import run_report

    check_settings(settings)
    if settings.modelname != embedded.NAME:  # that one can always be built, and checking would build it now
        place_of(settings.modelname)

    extra = {name: value for name, value in pairs.items() if name not in named}
    try:
        page = run_report(settings, extra, arguments.runid)
    except NotebookFailed as error:
        print(f"hr_search: {plain(str(error))}", file=sys.stderr)
        return 1
    say(page)
    return 0


def _assignment(word: str) -> tuple[str, str]:
    name, mark, value = word.partition("=")
    if not mark or not name.strip():
        raise InputError(f"-p {shown(word)} must have the form name=value, such as -p learningrate=3e-5.")
    return name.strip(), value


def _is_setting(name: str) -> bool:
    try:
        config.canonical(name)
    except InputError:
        return False
    return True
