"""The verb `suite`: many tasks, many models, one table."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from hr_search.base import paths
from hr_search.base.errors import plain
from hr_search.base.signals import stoppable
from hr_search.commands.flags import add_settings, given, settings_from
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
    verb.add_argument("--json", action="store_true", help="print one line of JSON")
    add_settings(verb, _SETTINGS, seed="42, of intervals and tests")
    verb.set_defaults(run=suite)


@stoppable()
def suite(arguments: argparse.Namespace) -> int:
    """`suite`: the cells that are not measured yet, then tables and page; exit code 1 if a task or the page failed."""
    settings = settings_from(None, given(arguments, _SETTINGS))
    from hr_search.suite.runner import run_suite, suite_folder, write_page
    from hr_search.suite.suite_file import read_suite

    found = read_suite(paths.resolve(arguments.file))
    name = arguments.runid or found.name
    tables = run_suite(found, arguments.models or ["embedded"], name, settings.precision, settings.seed)
    failed = tables.cells[tables.cells["status"] == "failed"]
    if arguments.json:
        print_json({"suite": name, **{table: records(getattr(tables, table)) for table in vars(tables)}})
    else:
        _print(tables)
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
        means = fixed(tables.families.drop(columns="kind"))
        say(f"\nmeans over tasks; differences are from the first model\n{means}")
    if len(tables.comparison):
        say(f"\nreal differences (Holm over the tasks)\n{fixed(summary.counted_differences(tables.comparison))}")
    for row in cells[cells["status"] == "skipped"].itertuples():
        say(plain(f"{row.task} was skipped; get its data: {row.get}"))
    failed = cells[cells["status"] == "failed"].drop_duplicates(["task", "system"])
    for (task, error), part in failed.groupby(["task", "error"], sort=False):
        say(plain(f"{task} with {', '.join(part['system'])} failed: {error}"))
    say(f"\n{summary.counted_tasks(cells)}")
