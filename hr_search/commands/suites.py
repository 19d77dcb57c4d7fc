"""The verb `suite`: many tasks, many models, one table."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from hr_search.base import paths
from hr_search.base.errors import plain
from hr_search.base.signals import stoppable
from hr_search.commands.flags import add_scheduler, add_settings, given, settings_from
from hr_search.commands.output import fixed, print_json, records, say

if TYPE_CHECKING:
    from hr_search.suite.summary import Tables

_SETTINGS = ("precision", "seed")


def add_suite(verbs: argparse._SubParsersAction) -> None:
    """Adds the verb `suite`."""
    verb = verbs.add_parser(
        "suite",
        help="measure models on the tasks of a suite file and sum them up in a page",
        epilog="Models are measured by the plain cosine; their search.json is not read. What is measured is kept in "
        "metrics/suites/NAME, and the same command goes on from there.",
    )
    verb.add_argument("file", help="YAML file of a suite, for example data/suites/hr.yaml")
    verb.add_argument(
        "--model",
        dest="models",
        action="append",
        default=[],
        help="embedded, a folder or a Hub name; may be repeated, each is compared with those before (default embedded)",
    )
    verb.add_argument("--runid", default="", help="name of the results' folder; default: the suite's name")
    verb.add_argument(
        "--audit",
        choices=("names",),
        help="names: swap the names in CVs and report how the rankings of the models move",
    )
    add_scheduler(verb)
    verb.add_argument("--json", action="store_true", help="print one line of JSON")
    add_settings(verb, _SETTINGS, seed="42, of intervals and tests")
    verb.set_defaults(run=suite)


@stoppable()
def suite(arguments: argparse.Namespace) -> int:
    """`suite`: the cells that are not measured yet, then tables and page; exit code 1 if a task or the page failed."""
    settings = settings_from(None, given(arguments, _SETTINGS))
    from hr_search.suite import names
    from hr_search.suite.cells import systems_of
    from hr_search.suite.runner import run_suite, suite_folder, write_page
    from hr_search.suite.suite_file import read_suite

    found = read_suite(paths.resolve(arguments.file))
    name = arguments.runid or found.name
    models = arguments.models or ["embedded"]
    if arguments.audit:
        names.require_cvs(found)
    tables = run_suite(found, models, name, settings.precision, settings.seed, arguments.scheduler)
    audited = None
    (suite_folder(name) / names.FILE).unlink(missing_ok=True)  # of an earlier start, perhaps with other models
    if arguments.audit:
        audited = names.audit_names(found, systems_of(models), suite_folder(name), settings.precision)
    failed = tables.cells[tables.cells["status"] == "failed"]
    if arguments.json:
        told = {table: records(getattr(tables, table)) for table in vars(tables)}
        print_json({"suite": name, **told, **({} if audited is None else {"names": records(audited)})})
    else:
        _print(tables)
        if audited is not None:
            say(f"\noverlap of rankings under other names\n{fixed(names.summed_names(audited))}")
        say(f"\ntables: {suite_folder(name)}")
    from hr_search.reports.notebooks import NotebookFailed

    if (tables.cells["status"] == "finished").any():
        try:
            page = write_page(name)
        except NotebookFailed as error:
            print(f"hr_search: {plain(str(error))}", file=sys.stderr)
            return 1
        if not arguments.json:
            say(f"page: {page}")
    return 1 if len(failed) else 0


def _print(tables: Tables) -> None:
    """Prints the tables for a person."""
    from hr_search.suite import summary

    cells = tables.cells
    if len(shown := summary.wide(cells)):
        say(plain(shown.to_string(index=False, na_rep="")))
    if len(tables.families):
        say(f"\nmeans over tasks\n{plain(summary.wide_families(tables.families).to_string(index=False))}")
        if len(gained := summary.gains(tables.families)):
            say(f"\nabove the first model\n{fixed(gained)}")
    if len(tables.comparison):
        say(f"\nreal differences (Holm over the tasks)\n{fixed(summary.counted_differences(tables.comparison))}")
    for row in cells[cells["status"] == "skipped"].itertuples():
        say(plain(f"{row.task} was skipped; get its data: {row.get}"))
    failed = cells[cells["status"] == "failed"].drop_duplicates(["task", "system"])
    for (task, error), part in failed.groupby(["task", "error"], sort=False):
        say(plain(f"{task} with {', '.join(part['system'])} failed: {error}"))
    say(f"\n{summary.counted_tasks(cells)}")
