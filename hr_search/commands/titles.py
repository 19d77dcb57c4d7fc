"""The verb `titles`: a training table of names of one job, from the tables that publish such names."""

from __future__ import annotations

import argparse

from hr_search.base import paths
from hr_search.commands.output import fixed, print_json, records, say


def add_titles(verbs: argparse._SubParsersAction) -> None:
    """Adds the verb `titles`."""
    verb = verbs.add_parser("titles", help="build a training table of names of one job")
    verb.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="tables of TalentCLEF, ESCO (occupations_en.csv) or O*NET (Alternate Titles.txt), known by their columns; "
        "esco = the English titles of the bundled data",
    )
    verb.add_argument("--out", required=True, help="CSV table to write: query, positive, group, isco")
    verb.add_argument("--each", type=int, default=8, help="pairs per occupation and source at most (default 8)")
    verb.add_argument("--across", type=int, default=2, help="pairs per occupation for each two sources (default 2)")
    verb.add_argument("--digits", type=int, default=4, help="digits of the ISCO code in the column isco (default 4)")
    verb.add_argument("--seed", type=int, default=0, help="of the random choice (default 0)")
    verb.add_argument("--lower", action="store_true", help="write the names in lower case")
    verb.add_argument(
        "--judged", action="append", default=[], metavar="FOLDER", help="count its right pairs; repeatable"
    )
    verb.add_argument(
        "--without", action="append", default=[], metavar="FOLDER", help="also leave them out; repeatable"
    )
    verb.add_argument("--json", action="store_true", help="print one line of JSON")
    verb.set_defaults(run=titles)


def titles(arguments: argparse.Namespace) -> int:
    """`titles`: writes the table, and prints what it shares with judged folders."""
    from hr_search.data.title_pairs import write_titles

    place = paths.resolve(arguments.out)
    limits = {name: getattr(arguments, name) for name in ("each", "across", "digits", "seed", "lower")}
    count, shared = write_titles(place, arguments.sources, **limits, judged=arguments.judged, without=arguments.without)
    if arguments.json:
        print_json({"out": str(place), "pairs": count, "folders": records(shared)})
        return 0
    say(f"{count} pairs of names in {place}")
    if len(shared):
        columns = {"right": "right pairs", "as_pairs": "stand in the table", "as_names": "are names of one job there"}
        say(f"\n{fixed(shared.rename(columns={**columns, 'left_out': 'rows left out'}))}")
    return 0
