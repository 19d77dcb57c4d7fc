"""Pairs of one table: read whole or block by block, without HTML, redacted, grouped, and each of them once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hr_search.base import paths
from hr_search.base.choices import BUNDLED, CONTACTS, is_table_file
from hr_search.base.errors import InputError, shown
from hr_search.data import esco, esco_skills, tables
from hr_search.data.counts import Counts
from hr_search.data.duplicates import normalised
from hr_search.data.html import pairs_without_html
from hr_search.data.placeholders import find_placeholders
from hr_search.data.redaction import redact_pairs
from hr_search.settings import Settings

logger = logging.getLogger(__name__)

_ESCO, _SKILLS, _SAMPLE = BUNDLED
ENGLISH = (_ESCO, _SKILLS)
_SAMPLE_COLUMNS = {"querycolumn": "position", "positivecolumn": "description", "groupcolumn": "group"}
_OTHER_SETTINGS = (
    "negativecolumn",
    "gradecolumn",
    "softgroupcolumn",
    "template",
    "documenttemplate",
    "encoding",
    "trustfile",
    "identity",
)


def read_table(path: str, settings: Settings) -> tuple[pd.DataFrame, Counts]:
    """As `read`, for a table on which something can be ranked.

    Raises:
        InputError: also where the table has fewer than two groups.
    """
    table, counts = read(path, settings)
    if table["group"].nunique() < 2:
        found = "only one group" if len(table) else "no rows with words"
        raise InputError(
            f"{path} has {found}, so no document in it is wrong for any query; give rows of at least two groups, "
            "or set groupcolumn to a column that distinguishes them."
        )
    return table, counts


def read(path: str, settings: Settings) -> tuple[pd.DataFrame, Counts]:
    """A pairs table without HTML, redacted where asked, with the working columns of `cleaned`, and its counts."""
    table, counts = _read_esco(path, settings) if path in ENGLISH else _read_file(path, settings)
    if counts.empty:
        logger.warning(
            "%s: %d of %d rows are left out, their query or document is empty", path, counts.empty, counts.rows
        )
    table, more = _plain(table, path, settings)
    if settings.redact:
        logger.info("%s: replaced %s", path, _replaced(more))
    table, dropped = cleaned(table, path)
    return table, counts + more + dropped + find_placeholders(table, path)


def read_blocks(path: str, settings: Settings) -> Iterator[tuple[pd.DataFrame, Counts]]:
    """A table as `read` gives it, block by block: rows that repeat one of an earlier block are still there.

    Texts that stand for an empty cell are looked for in the first block.

    Raises:
        InputError: as `tables.read_pair_blocks`.
    """
    place, columns = _place(path, settings)
    kept = {
        name: value for name, value in columns.items() if name not in ("gradecolumn", "softgroupcolumn", "trustfile")
    }
    for number, (table, counts) in enumerate(tables.read_pair_blocks(place, **kept)):
        table, more = _plain(table, path, settings)
        table, dropped = cleaned(table, path, warn=not number)
        yield table, counts + more + dropped + (Counts() if number else find_placeholders(table, path))


def place_of(path: str, settings: Settings) -> str | Path:
    """The file that a table lies in, or the name of its data set on the Hub."""
    return _place(path, settings)[0]


def _plain(table: pd.DataFrame, path: str, settings: Settings) -> tuple[pd.DataFrame, Counts]:
    """The pairs of `read_pairs` without HTML and redacted, as the settings say, and what was found."""
    counts = Counts()
    if not settings.keephtml and path not in ENGLISH:  # their few entities stay, as in all published numbers
        table, counts = pairs_without_html(table)
    if "group" in table:
        table = table.assign(group_key=table["group"])  # redaction may change the names of groups
    if settings.redact:
        table, replaced = redact_pairs(table)
        counts += replaced
    return table, counts


def _replaced(counts: Counts) -> str:
    """What redaction has replaced, for the log."""
    found = counts.to_dict()
    return ", ".join(f"{found[kind]} {kind}" for kind in CONTACTS if kind in found)


def cleaned(table: pd.DataFrame, source: str, warn: bool = True) -> tuple[pd.DataFrame, Counts]:
    """The table without rows that normalise to nothing or repeat another one, with groups and working columns.

    `source` is the file, for the warning about rows that normalise to nothing, such as "-"; it is left out if not
    `warn`.

    The working columns are `query_key` and `document_key` (normalised texts), `group_key` (the group as it
    was read) and `kind` ("title", or "keywords" for a query that only train uses).
    """
    table = table.assign(query_key=normalised(table["query"]), document_key=normalised(table["positive"]))
    if "kind" not in table:
        table["kind"] = "title"
    wordless = (table["query_key"] == "") | (table["document_key"] == "")
    if warn and wordless.any():
        first = table[wordless].iloc[0]
        text = shown(first["query"] if first["query_key"] == "" else first["positive"])
        logger.warning(
            '%s: %d rows are left out, their query or document has no words: "%s"', source, wordless.sum(), text
        )
    filled = table[~wordless]
    for name in ("group", "group_key"):
        given = filled[name].fillna("").astype(str).str.strip() if name in filled else pd.Series("", filled.index)
        filled = filled.assign(**{name: np.where(given == "", filled["query_key"], given)})
    keys = filled[["query_key", "document_key", "group"]]
    repeated = keys.duplicated()
    if repeated.any() and filled["negatives"].map(bool).any():
        filled = filled.assign(negatives=_merged_negatives(filled["negatives"], keys))
    counts = Counts(empty=len(table) - len(filled), duplicates=int(repeated.sum()))
    return filled[~repeated].reset_index(drop=True), counts


def held_out(table: pd.DataFrame, distinct: bool = False) -> pd.DataFrame:
    """The rows fit for evaluation: no keyword queries and, if `distinct`, one row per document.

    Some 36 ESCO titles share one text ("import export manager in ..."); one of them is a fair test.
    """
    table = table[table["kind"] != "keywords"]
    return table.drop_duplicates("document_key") if distinct else table


def _read_esco(path: str, settings: Settings) -> tuple[pd.DataFrame, Counts]:
    if settings.template or settings.documenttemplate:
        raise InputError(f"{path} has its queries and documents ready; --template is for tables of your own.")
    table = esco.load_esco() if path == _ESCO else esco_skills.load_skills()
    return table, Counts(rows=len(table), empty=0, unsplit=table.attrs["unsplit"])


def _read_file(path: str, settings: Settings) -> tuple[pd.DataFrame, Counts]:
    place, columns = _place(path, settings)
    return tables.read_pairs(place, **columns)


def _place(path: str, settings: Settings) -> tuple[str | Path, dict[str, Any]]:
    """The file of a table of one's own or of the Russian sample, and how it is read."""
    columns = {name: getattr(settings, name) for name in (*_SAMPLE_COLUMNS, *_OTHER_SETTINGS)}
    place: str | Path = paths.resolve(path) if is_table_file(path) else path
    if path == _SAMPLE:
        columns |= {name: columns[name] or default for name, default in _SAMPLE_COLUMNS.items()}
        place = paths.checkout() / "data" / f"{_SAMPLE}.jsonl"
        columns["encoding"] = ""  # that of tables of your own
    return place, columns


def _merged_negatives(negatives: pd.Series, keys: pd.DataFrame) -> list[list[str]]:
    """For each row the distinct negatives of all rows with its keys: tables of triplets repeat a pair for each."""
    merged: dict[int, dict[str, None]] = {}
    codes = keys.groupby(list(keys), sort=False).ngroup()
    for code, texts in zip(codes, negatives, strict=True):
        merged.setdefault(code, {}).update(dict.fromkeys(texts))
    return [list(merged[code]) for code in codes]
