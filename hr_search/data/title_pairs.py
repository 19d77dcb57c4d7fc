"""Training pairs of names of one job, within and across languages, from the tables that publish such names.

Names of one occupation are names of one job. Jobs that are only related share an ISCO unit group (or, in O*NET, a
broad occupation of the SOC), which the table keeps in the column `isco`, for a training that gives related names a
part of the weight (`softgroupcolumn`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

import pandas as pd

from hr_search.base import files, paths
from hr_search.base.errors import InputError, shown
from hr_search.data import cleaning, esco, qrels
from hr_search.data.columns import known_column
from hr_search.data.duplicates import normalised
from hr_search.data.formats import read_table

logger = logging.getLogger(__name__)

Pair = frozenset[str]
"""The two names of a pair as `normalise` writes them."""

BUNDLED_TITLES = "esco"  # a source: the English titles of the bundled data, one for each occupation

_TALENTCLEF = ("jobtitle_1", "jobtitle_2", "esco_uri", "isco_uri")
_LABELS, _ALTERNATIVES = ("preferredlabel", "label"), ("altlabels", "alternatives")
_ADDRESSES, _CODES = ("concepturi", "originuri", "escouri"), ("code",)
_GROUPS = ("iscogroup", "iscogroupcode", "isco")
_SOC, _SOC_TITLES = ("onetsoccode", "code"), ("alternatetitle", "titles")
_ISCO_ADDRESS = re.compile(r".*/C?(\d{1,4})")
_SEPARATORS = re.compile(r"\n| \| ")  # between the labels of a cell, as ESCO publishes them
# "All other" occupations, whose codes end in 9, collect jobs that have nothing in common: one has 2,743 titles.
_RESIDUAL = re.compile(r".*9\.00")
_HALVES = re.compile(r"([^/]+)/([^/]+)")
_WITH_ABBREVIATION = re.compile(r"([^()]+) \(([^()]+)\)")  # "CEO (Chief Executive Officer)": two names


def write_titles(
    path: Path | str,
    sources: Sequence[Path | str],
    each: int = 8,
    across: int = 2,
    digits: int = 4,
    seed: int = 0,
    judged: Sequence[str] = (),
    without: Sequence[str] = (),
    lower: bool = False,
) -> tuple[int, pd.DataFrame]:
    """Writes the pairs of several sources as one CSV table for training, and says what judged folders share with it.

    Args:
        path: the table to write: `query`, `positive`, `group`, `isco`.
        sources: files as `read_names` reads them, or "esco".
        each: as in `title_pairs`.
        across: as in `title_pairs`.
        digits: how many digits of the ISCO code related jobs share, 1 to 4.
        seed: of the random choice.
        judged: folders of judged queries whose right pairs are counted in the table.
        without: further such folders, whose right pairs are also left out of it.
        lower: write names in lower case, as job boards and judged collections often have them.

    Returns:
        The number of pairs written, and a row for each folder as in `overlap`, before any pair is left out, with the
        number of those that are (`left_out`).

    Raises:
        InputError: a source or folder is missing or not as described, no pair is left, or a number is out of bounds.

    Example:
        >>> write_titles("titles.csv", ["esco", "train_de.tsv.gz"], without=["val_german"])  # doctest: +SKIP
    """
    if each < 1 or across < 0 or not 1 <= digits <= 4:
        raise InputError(
            f"each is {each}, across {across} and digits {digits}; they must be at least 1, at least 0, and 1 to 4."
        )
    if not 0 <= seed < 2**31:
        raise InputError(f"seed is {seed}; it must be between 0 and {2**31 - 1}.")
    if not sources:
        raise InputError('there is no source of job names; give tables of names, or "esco".')
    parts = [read_names(source).assign(source=number) for number, source in enumerate(dict.fromkeys(sources))]
    names = pd.concat(parts, ignore_index=True)
    if lower:
        names = names.assign(name=names["name"].str.lower())
    table = title_pairs(names.assign(isco=[_prefix(code, digits) for code in names["isco"]]), each, across, seed)
    rights = {folder: right_pairs(folder) for folder in dict.fromkeys([*judged, *without])}
    shared = overlap(table, rights)
    banned = set().union(*(rights[folder] for folder in without))
    keys = _keys(table)
    kept = [key not in banned for key in keys]
    shared["left_out"] = [sum(key in pairs for key in keys) if name in without else 0 for name, pairs in rights.items()]
    if not any(kept):
        raise InputError(f"no pairs of names are left to write to {path}; give further sources or fewer folders.")
    files.write_csv(path, table[kept])
    return sum(kept), shared


def title_pairs(names: pd.DataFrame, each: int = 8, across: int = 2, seed: int = 0) -> pd.DataFrame:
    """Pairs of names of one job: within each source and, where an occupation is in several, across them.

    The names of an occupation in a source are put in a random circle, and each is paired with the next one, so that no
    name comes up more often than others.

    Args:
        names: `name`, `group` (the occupation) and `isco`, as from `read_names`, and `source`.
        each: most pairs per occupation within a source, so that occupations with many names do not dominate.
        across: most pairs per occupation for each two sources.
        seed: of the random order.

    Returns:
        `query`, `positive`, `group`, `isco`, sorted by group; names equal after normalisation make no pair, and no
        two names pair twice in one group.
    """
    names = names.assign(key=normalised(names["name"]))
    names = names[names["key"] != ""].drop_duplicates(["group", "source", "key"])
    names = names.sample(frac=1, random_state=seed).sort_values("group", kind="stable")
    jobs: dict[str, dict[int | str, list[tuple[str, str]]]] = {}
    for name, key, group, source in names[["name", "key", "group", "source"]].itertuples(index=False, name=None):
        jobs.setdefault(group, {}).setdefault(source, []).append((name, key))
    codes = names.groupby("group")["isco"].max()  # "" in the bundled titles
    rows = []
    for group, sources in jobs.items():
        kept: dict[Pair, tuple[str, str]] = {}
        found = [sources[source] for source in sorted(sources)]  # by number: their paths do not matter
        for own in found:
            _take(kept, zip(own, own[1:] + own[:1], strict=True), each)
        for one, other in combinations(found, 2):
            _take(kept, zip(one, other, strict=False), across)
        rows += [(query, positive, group, codes[group]) for query, positive in kept.values()]
    return pd.DataFrame(rows, columns=["query", "positive", "group", "isco"])


def _take(
    kept: dict[Pair, tuple[str, str]], pairs: Iterable[tuple[tuple[str, str], tuple[str, str]]], most: int
) -> None:
    """Adds at most `most` pairs of different names, each given with its key, to those kept already."""
    for (query, query_key), (positive, key) in pairs:
        pair = frozenset((query_key, key))
        if most > 0 and len(pair) == 2 and pair not in kept:
            kept[pair] = query, positive
            most -= 1


# -- sources ---------------------------------------------------------------------------------------


def read_names(source: Path | str) -> pd.DataFrame:
    """The names of jobs in one source, recognised by its columns; "arquitecto/arquitecta" is two names.

    - TalentCLEF: `jobtitle_1`, `jobtitle_2`, `esco_uri`, `isco_uri`.
    - ESCO, as it is published in each language: `preferredLabel`, `altLabels` (one a line), `iscoGroup` and
      `conceptUri`; also `label`, `alternatives` (a list), `isco` and `code`, whose addresses are then looked up in the
      bundled data by the English label.
    - O*NET: `O*NET-SOC Code` and `Alternate Title` (one per row), or `code` and `titles` (a list). Occupations that
      collect "all other" jobs are left out; "CEO (Chief Executive Officer)" is two names.
    - "esco": the English titles of the bundled data.

    Returns:
        `name`, `group` (address or code of the occupation) and `isco` (four digits, "soc:" and a broad occupation of
        the SOC, or "").

    Raises:
        InputError: the file is missing or has none of these sets of columns.
    """
    if source == BUNDLED_TITLES:
        titles = esco.load_titles()
        return titles.rename(columns={"title": "name", "id": "group"}).assign(isco="")
    place = paths.resolve(source)
    table = read_table(place)
    columns = list(table.columns)
    if set(_TALENTCLEF) <= set(columns):
        names = _talentclef(table, str(place))
    elif (label := known_column(columns, _LABELS)) and (others := known_column(columns, _ALTERNATIVES)):
        names = _esco(table, str(place), label, others)
    elif (code := known_column(columns, _SOC)) and (titles := known_column(columns, _SOC_TITLES)):
        names = _onet(table, str(place), code, titles)
    else:
        found = ", ".join(f'"{shown(column)}"' for column in columns[:8])
        raise InputError(
            f"{place} is no table of job names that is known (columns {found}); it needs jobtitle_1, jobtitle_2, "
            "esco_uri and isco_uri, or preferredLabel, altLabels, iscoGroup and conceptUri, or O*NET-SOC Code and "
            "Alternate Title."
        )
    names = names.assign(name=[_forms(name) for name in names["name"]]).explode("name")
    return names[names["name"] != ""].reset_index(drop=True)


def _talentclef(table: pd.DataFrame, source: str) -> pd.DataFrame:
    texts = {column: cleaning.texts(table, column, source) for column in _TALENTCLEF}
    codes = [found[1] if (found := _ISCO_ADDRESS.fullmatch(address)) else "" for address in texts["isco_uri"]]
    sides = [{"name": texts[side], "group": texts["esco_uri"], "isco": codes} for side in _TALENTCLEF[:2]]
    return pd.concat([pd.DataFrame(side) for side in sides], ignore_index=True)


def _esco(table: pd.DataFrame, source: str, label: str, others: str) -> pd.DataFrame:
    address, code = (known_column(table.columns, known) for known in (_ADDRESSES, _CODES))
    group = known_column(table.columns, _GROUPS)
    if not group or not (address or code):
        raise InputError(f"{source} has no column iscoGroup, or neither conceptUri nor code; take ESCO's own table.")
    labels = cleaning.texts(table, label, source)
    if address:
        jobs = cleaning.texts(table, address, source)
    else:
        titles = esco.load_titles()
        known = dict(zip(normalised(titles["title"]), titles["id"], strict=True))
        codes, keys = cleaning.texts(table, code, source, numbers=True), normalised(pd.Series(labels, dtype=object))
        jobs = [known.get(key, f"esco:{number}") for key, number in zip(keys, codes, strict=True)]
    cells = cleaning.lists(table, others, source)
    names = [
        [name, *(part.strip() for cell in row for part in _SEPARATORS.split(cell))]
        for name, row in zip(labels, cells, strict=True)
    ]
    isco = [number.removeprefix("C") for number in cleaning.texts(table, group, source, numbers=True)]
    return pd.DataFrame({"name": names, "group": jobs, "isco": isco}).explode("name", ignore_index=True)


def _onet(table: pd.DataFrame, source: str, code: str, titles: str) -> pd.DataFrame:
    codes = cleaning.texts(table, code, source)
    rows = [
        (name.strip(), f"onet:{number}", f"soc:{number[:6]}")
        for number, cell in zip(codes, cleaning.lists(table, titles, source), strict=True)
        if not _RESIDUAL.fullmatch(number)
        for title in cell
        for name in _spellings(title)
    ]
    return pd.DataFrame(rows, columns=["name", "group", "isco"])


def _spellings(title: str) -> tuple[str, ...]:
    """The names that a title spells out: "CEO (Chief Executive Officer)" is two, and any other title is one."""
    both = _WITH_ABBREVIATION.fullmatch(title)
    return both.groups() if both else (title,)


def _forms(name: str) -> tuple[str, ...]:
    """Both forms of "ingeniero nuclear/ingeniera nuclear", whose words begin alike; any other name is one form."""
    both = _HALVES.fullmatch(name)
    one, other = (half.lower().split() for half in both.groups()) if both else ([], [])
    alike = len(one) == len(other) and all(word[:3] == form[:3] for word, form in zip(one, other, strict=True))
    return tuple(half.strip() for half in both.groups()) if both and one and alike else (name,)


def _prefix(code: str, digits: int) -> str:
    return code if code.startswith("soc:") else code[:digits]


# -- what a test shares with the table -------------------------------------------------------------


def right_pairs(folder: str) -> set[Pair]:
    """The pairs of a query and a relevant document of a folder of judged queries, those of equal names left out."""
    task = qrels.read_folder(folder)[0]["q2d"]
    queries, documents = (
        normalised(pd.Series(texts, dtype=object)).tolist() for texts in (task.queries, task.documents)
    )
    pairs = (frozenset((queries[row], documents[at])) for row, found in enumerate(task.relevant) for at in found)
    return {pair for pair in pairs if len(pair) == 2}


def overlap(table: pd.DataFrame, rights: dict[str, set[Pair]]) -> pd.DataFrame:
    """How many right pairs of each judged folder stand in a table of pairs.

    Returns:
        One row per folder: `right` (its right pairs of different names), `as_pairs` (how many of them are rows) and
        `as_names` (how many are names of one group, though not necessarily a row).
    """
    keys = set(_keys(table))
    sides = [pd.DataFrame({"key": normalised(table[side]), "group": table["group"]}) for side in ("query", "positive")]
    groups = pd.concat(sides).groupby("key")["group"].agg(frozenset).to_dict()
    none: frozenset[str] = frozenset()
    rows = []
    for folder, pairs in rights.items():
        together = [bool(frozenset.intersection(*(groups.get(name, none) for name in pair))) for pair in pairs]
        rows.append((folder, len(pairs), sum(pair in keys for pair in pairs), sum(together)))
    return pd.DataFrame(rows, columns=["folder", "right", "as_pairs", "as_names"])


def _keys(table: pd.DataFrame) -> list[Pair]:
    """The two normalised names of each row."""
    return [frozenset(pair) for pair in zip(normalised(table["query"]), normalised(table["positive"]), strict=True)]
