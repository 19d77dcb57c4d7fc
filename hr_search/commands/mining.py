"""The verb `mine`: hard negatives of a table, written as a table of triplets."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from hr_search.base import paths
from hr_search.base.errors import InputError, shown
from hr_search.commands.flags import PARTS, READ, add_scheduler, add_settings, given, settings_from
from hr_search.commands.output import print_json, records, say
from hr_search.commands.searching import add_dimensions, encoder_for, shared_out

if TYPE_CHECKING:
    import pandas as pd

    from hr_search.settings import Settings

MINED = (
    *(name for name in READ if name != "stream"),
    *PARTS,
    "negativecolumn",
    *("minepool", "minestart", "minestop", "minebandlow", "minebandhigh", "mineshare", "minesampling"),
    *("seed", "precision"),
)
_FORMATS = (".jsonl", ".csv")


def add_mine(verbs: argparse._SubParsersAction) -> None:
    """Adds the verb `mine`."""
    verb = verbs.add_parser(
        "mine",
        help="write a table with hard negatives: wrong documents that a model finds close to a query",
        epilog="The filters are those of training with --negatives mined. Train on what is written with --negatives "
        "given, and --groupcolumn group where the table had groups of its own.",
    )
    verb.add_argument("--model", default="embedded", help="embedded, a folder or a Hub name")
    verb.add_argument("--out", required=True, help=".jsonl or .csv file for the table")
    verb.add_argument(
        "--split",
        default="all",
        choices=("all", "train"),
        help="rows to mine for, and in: all, or those that a run with these shares and splitseed trains on",
    )
    add_dimensions(verb)
    add_scheduler(verb, shards=True)
    verb.add_argument("--json", action="store_true", help="print one line of JSON")
    add_settings(verb, MINED, maxlength="the model's own")
    verb.set_defaults(run=mine)


def mine(arguments: argparse.Namespace) -> int:
    """`mine`: writes `query`, `positive`, `negatives` and `group`, a row for each of the table, and says how hard."""
    values = given(arguments, MINED)
    settings = settings_from(None, values)
    place = paths.resolve(arguments.out)
    if paths.extension(place) not in _FORMATS or place.suffix.lower() not in _FORMATS:
        raise InputError(f"--out {shown(arguments.out)} must end in .jsonl or .csv, which decides its format.")
    if len(settings.tables()) > 1:
        raise InputError(
            "mine compares rows with documents of all tables of datapath, some of which may be right and unmarked; "
            "mine one table after the other."
        )
    from hr_search.data.loading import load_data
    from hr_search.evaluation.hard_negatives import mined_table
    from hr_search.nearest import nearest_chunks
    from hr_search.policies import mining_policy

    pairs = load_data(settings if arguments.split == "train" else _whole(settings)).train
    encoder = encoder_for(arguments.model, settings, "maxlength" in values, arguments.dimensions)
    policy = mining_policy(settings)
    with shared_out(arguments, encoder) as spread:
        search = nearest_chunks
        if arguments.scheduler:
            from hr_search.shards.search import SharedSearch

            search = SharedSearch(spread.client, spread.folder)
        table, counted = mined_table(pairs, spread, policy, settings.seed, search)
    _write(place, table, policy.count)
    if arguments.json:
        print_json({"file": str(place), "rows": len(table), **records(counted)[0]})
        return 0
    row = counted.iloc[0]
    say(
        f"{len(table)} rows, {row['negatives_mean']:.1f} negatives a query, below the positive by {row['gap_50']:.2f} "
        f"(median), {row['without']:.0f} of {row['queries']:.0f} queries without any: {place}"
    )
    return 0


def _whole(settings: Settings) -> Settings:
    """The settings by which all rows are train rows."""
    return settings.replace(validationshare=0.0, testshare=0.0, validationpath="", testpath="")


def _write(place: Path, table: pd.DataFrame, count: int) -> None:
    """Writes the table: negatives as a list in JSONL, in columns of their own in CSV; whole or not at all."""
    from hr_search.base.files import whole_file, write_csv

    if place.suffix.lower() == ".csv":
        for at in range(count):
            table[f"negative_{at + 1}"] = [texts[at] if at < len(texts) else "" for texts in table["negatives"]]
        write_csv(place, table.drop(columns="negatives"))
        return
    with whole_file(place) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_dict("records"))
