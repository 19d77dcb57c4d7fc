"""Pairs for training, validation and test: read, cleaned, and split without leaks.

Vacancies are posted again and again with only a city or a salary changed. A random split would put near
copies of train documents into the test and inflate every metric. Here rows that share a group, a document
or most of a document's wording always stay in the same part, and files that come already split are
checked for the same kind of leak.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hr_search.base import files, paths
from hr_search.base.choices import BUNDLED, is_table_file
from hr_search.base.errors import InputError, shown
from hr_search.data import esco, esco_skills, qrels, splits, tables, union
from hr_search.data.counts import Counts
from hr_search.data.duplicates import normalised
from hr_search.data.html import pairs_without_html
from hr_search.data.placeholders import find_placeholders
from hr_search.data.redaction import redact_pairs
from hr_search.data.tasks import Task, identical_sentence, tasks_of, without_identical
from hr_search.settings import Settings
from hr_search.sources import labels, paths_of

logger = logging.getLogger(__name__)

COLUMNS = ["query", "positive", "negatives", "group"]
_MARKS = {"train": ("grade", "softgroup", "table")}  # further columns, where there are any; of the other parts: table
_ESCO, _SKILLS, _SAMPLE = BUNDLED
_ENGLISH = (_ESCO, _SKILLS)
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


@dataclass(frozen=True)
class Data:
    """Three tables of pairs (columns `query`, `positive`, `negatives`, `group`), and how they were made.

    Where `datapath` names several tables, a column `table` says from which each row comes; where it names columns for
    soft positives, train has a `grade` and a `softgroup`.

    Attributes:
        name: short name of the data.
        train: rows to learn from.
        validation: rows that choose the best model.
        test: rows for the final numbers.
        counts: rows read, dropped and held out, and what the parts share.
        fingerprint: equal for equal tables in the same order.
        judged: the search tasks of a validation or test that is a folder of judged queries; its table then
            holds each query beside each of its relevant documents, but not the rest of the corpus.
    """

    name: str
    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    counts: Counts
    fingerprint: str
    judged: dict[str, dict[str, Task]] = field(default_factory=dict)

    def tasks(self, part: str) -> dict[str, Task]:
        """Both search directions of "validation" or "test"; empty where that part has no rows."""
        pairs = getattr(self, part)
        return self.judged.get(part) or (_tasks(pairs) if len(pairs) else {})


def load_data(settings: Settings) -> Data:
    """The train, validation and test rows that `settings` ask for.

    `datapath` (and `validationpath`, `testpath`) is `esco`, `esco_skills`, `sample_ru`, `hf:OWNER/NAME` or a file; the
    latter two may also be a folder of judged queries (see `qrels`). Without files of their own,
    validation and test are parts of `datapath`: groups that share a document or near copies of one form
    a unit, and each unit goes to one part as a whole. A unit too large for its part stays in train. The
    same `splitseed` gives the same rows. The keyword queries of ESCO are used in train only.

    Several tables are split each by itself, by the same rules, and then put below one another: see `union` for their
    groups, for documents that one of them holds out and another does not, and for what their queries are ranked among.

    Args:
        settings: paths, columns, shares, `redact`, `keephtml`, `identity`, `encoding`, `trustfile`, `relevantfrom`,
            `maxrows`, `allowleaks` and `splitseed`.

    Returns:
        The three tables with counts and a fingerprint.

    Raises:
        InputError: nothing to read, too few groups to split, shares that leave nothing for train,
            `relevantfrom` without a folder of judged queries, or a document of a separate validation or test
            file that occurs in train or in the other of the two (unless `allowleaks`).

    Example:
        >>> data = load_data(Settings(datapath="sample_ru", testshare=0.2))
        >>> data.name, list(data.train), len(data.train) + len(data.validation) + len(data.test)
        ('sample_ru', ['query', 'positive', 'negatives', 'group'], 240)
    """
    own = {name: path for name, path in (("validation", settings.validationpath), ("test", settings.testpath)) if path}
    shares = _shares(settings, own)
    _refuse_threshold(settings, own.values())
    found, counts, exact = _split_tables(settings, shares)
    names = labels(settings.datapath)
    parts = {name: union.united([each[name] for each in found], names) for name in found[0]}
    if len(found) > 1 and not settings.allowleaks:
        parts, more = union.without_held_out(parts)
        counts += more
    judged: dict[str, dict[str, Task]] = {}
    for name, path in own.items():
        if qrels.is_folder(path):
            judged[name], more = qrels.read_folder(path, name, **_reading(settings))
            parts[name], _ = _cleaned(qrels.judged_pairs(judged[name]["q2d"]), path)
        else:
            parts[name], more = _read_table(path, settings)
        counts += more
        _check_shape([each["train"] for each in found], parts[name], " + ".join(names), path)
        parts[name] = _held_out(parts[name], distinct=settings.datapath in _ENGLISH and name not in judged)
    counts += Counts(negative_leaks=splits.drop_negatives(parts))
    parts["train"] = _sampled(parts["train"], settings.maxrows, settings.splitseed)
    if not settings.allowleaks:
        splits.refuse_leaks(parts, own, set(judged))
    counts += splits.sizes(parts) + splits.leaks(parts, exact)
    logger.info("%s: %s", " + ".join(names), counts)
    final = {name: _final(part, _MARKS.get(name, ("table",))) for name, part in parts.items()}
    stamp = fingerprint(final.values(), [each for both in judged.values() for each in _marks(both["q2d"])])
    return Data(" + ".join(names), **final, counts=counts, fingerprint=stamp, judged=judged)


def load_all(settings: Settings) -> pd.DataFrame:
    """All rows of `datapath` as one pairs table, not split, to evaluate a model on; ESCO without keyword queries."""
    found = [_held_out(_read(each.datapath, each)[0]) for each in settings.tables()]
    return _final(union.united(found, labels(settings.datapath)), ("table",))


def search_tasks(settings: Settings, split: str = "all", dropidentical: bool = False) -> dict[str, Task]:
    """The search tasks of `datapath`, a table or a folder of judged queries, to evaluate a model on.

    Args:
        settings: as for `load_data`.
        split: "all" rows, or those that a run with these settings holds out as "validation" or "test".
        dropidentical: leave documents equal to the query out of its ranking, unless they are marked as
            relevant (`tasks.identical`).

    Returns:
        The tasks "q2d" and "d2q".

    Raises:
        InputError: as `load_data`, or a folder is to be split, or there are no such rows.
    """
    given = paths_of(settings.datapath)
    _refuse_threshold(settings, [*given, settings.validationpath, settings.testpath])
    if folder := next((path for path in given if qrels.is_folder(path)), ""):
        if len(given) > 1:
            raise InputError(f"datapath {folder} is a folder of judged queries; evaluate it alone.")
        if split != "all":
            raise InputError(f"{settings.datapath} is a folder of judged queries, which has no parts; use --split all.")
        found, counts = qrels.read_folder(settings.datapath, **_reading(settings))
        logger.info("%s: %s", settings.datapath, counts)
    else:
        found = _tasks(load_all(settings)) if split == "all" else load_data(settings).tasks(split)
    if not found or not found["q2d"].queries:
        raise InputError(f"{settings.datapath} has no {split} rows under these shares; use --split all.")
    if dropidentical:
        found = {name: without_identical(task) for name, task in found.items()}
    for task in found.values():
        if sentence := identical_sentence(task):
            logger.info(sentence)
    return found


def fingerprint(parts: Iterable[pd.DataFrame], marks: Sequence[list[Any]] = ()) -> str:
    """16 hex digits that change with any text, group or row order of the tables, and anything in the lists `marks`."""
    pieces: list[object] = []
    for part in parts:
        negatives = ["\x1f".join(texts) for texts in part["negatives"]]
        pieces += [len(part), part["query"].tolist(), part["positive"].tolist(), part["group"].tolist(), negatives]
        pieces += [part[name].tolist() for name in ("grade", "softgroup") if name in part]
    stamp = files.digest(*pieces)
    return files.digest(stamp, *marks) if marks else stamp


def _shares(settings: Settings, own: dict[str, str]) -> dict[str, float]:
    """The shares of "validation" and "test" to split off; 0 for a part with a file of its own.

    Raises:
        InputError: they leave nothing for train, or `datapath` cannot be split at all.
    """
    shares = {"validation": settings.validationshare, "test": settings.testshare} | dict.fromkeys(own, 0.0)
    if sum(shares.values()) >= 1:
        raise InputError(
            f"validationshare and testshare add up to {sum(shares.values()):g} and leave nothing for train; "
            "together they must stay below 1."
        )
    if folder := next((path for path in paths_of(settings.datapath) if qrels.is_folder(path)), ""):
        raise InputError(
            f"datapath {folder} is a folder; training needs a table of pairs, while a folder of judged "
            "queries can be validationpath, testpath, or the datapath of evaluate."
        )
    return shares


def _split_tables(settings: Settings, shares: dict[str, float]) -> tuple[list[splits.Parts], Counts, bool]:
    """The parts of each table of `datapath`, their counts, and whether all near copies were found.

    Raises:
        InputError: as `_read_table` and `splits.split`, for any of the tables.
    """
    found, counts, exact = [], Counts(), True
    for each in settings.tables():
        table, more = _read_table(each.datapath, each)
        parts, sure = splits.split(table, shares, settings.splitseed, each.datapath)
        counts += more + Counts(groups=table["group"].nunique())
        exact = exact and sure
        for name in ("validation", "test"):
            parts[name] = _held_out(parts[name], distinct=each.datapath in _ENGLISH)
        found.append(parts)
    return found, counts, exact


def _tasks(pairs: pd.DataFrame) -> dict[str, Task]:
    """Both search directions of a pairs table, or of several in one."""
    return union.tasks_within(pairs) if "table" in pairs else tasks_of(pairs)


def _final(part: pd.DataFrame, marks: Sequence[str]) -> pd.DataFrame:
    """A part without its working columns, with those of `marks` that it has."""
    return part[[*COLUMNS, *(name for name in marks if name in part)]].reset_index(drop=True)


def _read_table(path: str, settings: Settings) -> tuple[pd.DataFrame, Counts]:
    """As `_read`, for a table on which something can be ranked.

    Raises:
        InputError: also where the table has fewer than two groups.
    """
    table, counts = _read(path, settings)
    if table["group"].nunique() < 2:
        found = "only one group" if len(table) else "no rows with words"
        raise InputError(
            f"{path} has {found}, so no document in it is wrong for any query; give rows of at least two groups, "
            "or set groupcolumn to a column that distinguishes them."
        )
    return table, counts


def _read(path: str, settings: Settings) -> tuple[pd.DataFrame, Counts]:
    """A pairs table without HTML, redacted where asked, with the working columns of `_cleaned`, and its counts."""
    table, counts = _read_esco(path, settings) if path in _ENGLISH else _read_file(path, settings)
    if counts.empty:
        logger.warning(
            "%s: %d of %d rows are left out, their query or document is empty", path, counts.empty, counts.rows
        )
    if not settings.keephtml and path not in _ENGLISH:  # their few entities stay, as in all published numbers
        table, found = pairs_without_html(table)
        counts += found
    if "group" in table:
        table = table.assign(group_key=table["group"])  # redaction may change the names of groups
    if settings.redact:
        table, replaced = redact_pairs(table)
        counts += replaced
        logger.info("%s: replaced %s", path, ", ".join(f"{n} {kind}" for kind, n in replaced.to_dict().items()))
    table, dropped = _cleaned(table, path)
    return table, counts + dropped + find_placeholders(table, path)


def _reading(settings: Settings) -> dict[str, Any]:
    """The settings by which a folder of judged queries is read."""
    return {name: getattr(settings, name) for name in ("redact", "keephtml", "encoding", "trustfile", "relevantfrom")}


def _refuse_threshold(settings: Settings, places: Iterable[str]) -> None:
    """Refuses a threshold of grades where nothing that is read has any."""
    if settings.relevantfrom and not any(qrels.is_folder(path) for path in places):
        raise InputError(
            f"relevantfrom {settings.relevantfrom:g} is for folders of judged queries, and the rows of a table have no "
            "grades; leave it out."
        )


def _marks(task: Task) -> list[list[Any]]:
    """What a judged task has beside its pairs: the whole corpus, and grades if there are any."""
    return [task.documents] + ([] if task.grades is None else [np.concatenate(task.grades).tolist()])


def _read_esco(path: str, settings: Settings) -> tuple[pd.DataFrame, Counts]:
    if settings.template or settings.documenttemplate:
        raise InputError(f"{path} has its queries and documents ready; --template is for tables of your own.")
    table = esco.load_esco() if path == _ESCO else esco_skills.load_skills()
    return table, Counts(rows=len(table), empty=0, unsplit=table.attrs["unsplit"])


def _read_file(path: str, settings: Settings) -> tuple[pd.DataFrame, Counts]:
    columns = {name: getattr(settings, name) for name in (*_SAMPLE_COLUMNS, *_OTHER_SETTINGS)}
    place: str | Path = paths.resolve(path) if is_table_file(path) else path
    if path == _SAMPLE:
        columns |= {name: columns[name] or default for name, default in _SAMPLE_COLUMNS.items()}
        place = paths.checkout() / "data" / f"{_SAMPLE}.jsonl"
        columns["encoding"] = ""  # that of tables of your own
    return tables.read_pairs(place, **columns)


def _cleaned(table: pd.DataFrame, source: str) -> tuple[pd.DataFrame, Counts]:
    """The table without rows that normalise to nothing or repeat another one, with groups and working columns.

    `source` is the file, for the warning about rows that normalise to nothing, such as "-".

    The working columns are `query_key` and `document_key` (normalised texts), `group_key` (the group as it
    was read) and `kind` ("title", or "keywords" for a query that only train uses).
    """
    table = table.assign(query_key=normalised(table["query"]), document_key=normalised(table["positive"]))
    if "kind" not in table:
        table["kind"] = "title"
    wordless = (table["query_key"] == "") | (table["document_key"] == "")
    if wordless.any():
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


def _merged_negatives(negatives: pd.Series, keys: pd.DataFrame) -> list[list[str]]:
    """For each row the distinct negatives of all rows with its keys: tables of triplets repeat a pair for each."""
    merged: dict[int, dict[str, None]] = {}
    codes = keys.groupby(list(keys), sort=False).ngroup()
    for code, texts in zip(codes, negatives, strict=True):
        merged.setdefault(code, {}).update(dict.fromkeys(texts))
    return [list(merged[code]) for code in codes]


def _held_out(table: pd.DataFrame, distinct: bool = False) -> pd.DataFrame:
    """The rows fit for evaluation: no keyword queries and, if `distinct`, one row per document.

    Some 36 ESCO titles share one text ("import export manager in ..."); one of them is a fair test.
    """
    table = table[table["kind"] != "keywords"]
    return table.drop_duplicates("document_key") if distinct else table


def _sampled(train: pd.DataFrame, maxrows: int, seed: int) -> pd.DataFrame:
    """At most `maxrows` rows, drawn at random and in their order; all for 0."""
    if not 0 < maxrows < len(train):
        return train
    kept = np.random.default_rng([seed, 1]).permutation(len(train))[:maxrows]
    return train.iloc[np.sort(kept)]


def _check_shape(trains: Sequence[pd.DataFrame], part: pd.DataFrame, train_path: str, path: str) -> None:
    """Checks that the columns of a separate file do not look swapped.

    Raises:
        InputError: documents are much longer than queries in it and much shorter in every train table, or the reverse.
    """
    lengths = [table[["query_key", "document_key"]].map(len).median() for table in (part, *trains)]
    own, *others = [length["document_key"] / length["query_key"] for length in lengths]
    if all(min(own, other) <= 1 / 3 and max(own, other) >= 3 for other in others):
        raise InputError(
            f"{path} looks as if its columns were swapped: its documents are {own:.2g} times as long as its "
            f"queries, while in {train_path} they are {others[0]:.2g} times as long; set querycolumn and "
            "positivecolumn."
        )
