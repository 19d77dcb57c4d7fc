"""Pairs for training, validation and test: read, cleaned, and split without leaks.

Vacancies are posted again and again, with a city or a salary changed. A random split therefore puts
near copies of train documents into the test, and every metric flatters the model. Here rows that
share a group, a document or most of a document's wording always stay on the same side, and tables
that come already split are checked for the same thing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from hr_search.base import files, paths
from hr_search.base.choices import is_table_file
from hr_search.base.errors import InputError
from hr_search.data import esco, qrels, splits, tables
from hr_search.data.duplicates import normalised
from hr_search.data.redaction import redact_pairs
from hr_search.data.tasks import Task, identical_sentence, tasks, without_identical
from hr_search.settings import Settings

__all__ = ["COLUMNS", "Data", "Task", "fingerprint", "load", "load_all", "search_tasks", "tasks"]

logger = logging.getLogger(__name__)

COLUMNS = ["query", "positive", "negatives", "group"]
_TEMPLATES = ("template", "documenttemplate")
_SAMPLE_COLUMNS = {"querycolumn": "position", "positivecolumn": "description", "groupcolumn": "group"}


@dataclass(frozen=True)
class Data:
    """Three tables of pairs (columns `query`, `positive`, `negatives`, `group`), and how they came about.

    Attributes:
        name: short name of the data.
        train: rows to learn from.
        validation: rows that choose the best model.
        test: rows for the final numbers.
        counts: `rows` read, `empty` and `duplicates` dropped (over all files), `groups` of `datapath`, rows of
            `train`, `validation` and `test`; rows of validation and test whose document occurs in
            train (`exact_leaks`), mostly occurs in one train document (`near_leaks`), or whose query or
            group occurs in train (`seen_queries`, `seen_groups`); test rows whose document occurs in
            validation (`test_leaks`); `near_exact` is 0 where the search for near copies had to
            estimate (see `near_copies`), else 1. With `redact`, how much was replaced: `emails`, `phones`,
            `links`, `handles`. Of folders of judged queries, the counts of `qrels.read_folder`.
        fingerprint: equal for equal tables, in the same order.
        judged: the search tasks of a validation or test that is a folder of judged queries; its table then
            holds each query beside each of its right documents, but not the rest of the corpus.
    """

    name: str
    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    counts: dict[str, int]
    fingerprint: str
    judged: dict[str, dict[str, Task]] = field(default_factory=dict)

    def tasks(self, part: str) -> dict[str, Task]:
        """Both search directions of "validation" or "test"; empty where it has no rows."""
        pairs = getattr(self, part)
        return self.judged.get(part) or (tasks(pairs) if len(pairs) else {})


def load(settings: Settings) -> Data:
    """The train, validation and test rows that `settings` ask for.

    `datapath` (and `validationpath`, `testpath`) is `esco`, `sample_ru`, `hf:OWNER/NAME` or a file; the
    latter two may also be a folder of judged queries (see `qrels`). Without files of their own,
    validation and test are parts of `datapath`: groups that share a document or near copies of one form
    a unit, and each unit goes to one part as a whole. A unit too large for its part stays in train. The
    same `splitseed` gives the same rows. Of ESCO, keyword queries are used in train only.

    Args:
        settings: paths, columns, shares, `redact`, `maxrows`, `allowleaks` and `splitseed`.

    Returns:
        The three tables with counts and a fingerprint.

    Raises:
        InputError: nothing to read, too few groups to split, shares that leave nothing for train, or
            a document of a separate validation or test file that occurs in train, or in the other of
            the two (`allowleaks` = go on).
    """
    own = {name: path for name, path in (("validation", settings.validationpath), ("test", settings.testpath)) if path}
    shares = {"validation": settings.validationshare, "test": settings.testshare} | dict.fromkeys(own, 0.0)
    if sum(shares.values()) >= 1:
        raise InputError(
            f"validationshare and testshare add up to {sum(shares.values()):g} and leave nothing for train; "
            "together they must stay below 1."
        )
    if qrels.is_folder(settings.datapath):
        raise InputError(
            f"datapath {settings.datapath} is a folder; training needs a table of pairs, a folder of judged queries "
            "can be validationpath, testpath, or the datapath of evaluate."
        )
    table, counts = _read(settings.datapath, settings)
    _check_groups(table, settings.datapath)
    counts["groups"] = table["group"].nunique()
    parts, exact = splits.split(table, shares, settings)
    judged: dict[str, dict[str, Task]] = {}
    for name, path in own.items():
        if qrels.is_folder(path):
            judged[name], more = qrels.read_folder(path, name, settings.redact)
            parts[name], _ = _clean(qrels.judged_pairs(judged[name]["q2d"]))
        else:
            parts[name], more = _read(path, settings)
            _check_groups(parts[name], path)
        counts = {key: counts.get(key, 0) + more.get(key, 0) for key in (*counts, *more)}
        _check_shape(parts["train"], parts[name], settings.datapath, path)
    for name in ("validation", "test"):
        parts[name] = parts[name][parts[name]["kind"] != "keywords"]
        if settings.datapath == "esco" and name not in judged:
            # Some 36 titles share one text ("import export manager in ..."); one each is a fair test.
            parts[name] = parts[name].drop_duplicates("document_key")
    counts["negative_leaks"] = splits.drop_negatives(parts)
    if 0 < settings.maxrows < len(parts["train"]):
        kept = np.random.default_rng([settings.splitseed, 1]).permutation(len(parts["train"]))[: settings.maxrows]
        parts["train"] = parts["train"].iloc[np.sort(kept)]
    counts |= {name: len(part) for name, part in parts.items()} | splits.leaks(parts, own, set(judged), settings, exact)
    logger.info("%s: %s", settings.datapath, ", ".join(f"{key} {value}" for key, value in counts.items()))
    final = {name: part[COLUMNS].reset_index(drop=True) for name, part in parts.items()}
    corpora = [both["q2d"].documents for both in judged.values()]
    stamp = fingerprint(final.values())
    stamp = files.digest(stamp, *corpora) if corpora else stamp
    return Data(_name(settings.datapath), **final, counts=counts, fingerprint=stamp, judged=judged)


def load_all(settings: Settings) -> pd.DataFrame:
    """All rows of `datapath` as one pairs table, unsplit, to evaluate a model on; of ESCO without keyword queries."""
    table, _ = _read(settings.datapath, settings)
    return table[table["kind"] != "keywords"][COLUMNS].reset_index(drop=True)


def search_tasks(settings: Settings, split: str = "all", dropidentical: bool = False) -> dict[str, Task]:
    """The search tasks of `datapath`, a table or a folder of judged queries, to evaluate a model on.

    Args:
        settings: as for `load`.
        split: "all" rows, or "validation" or "test": those a run with these settings holds out.
        dropidentical: whether documents that say the same as the query are left out of its ranking, unless
            they are marked as right (`tasks.identical`).

    Returns:
        The tasks "q2d" and "d2q".

    Raises:
        InputError: as `load`; a folder is to be split; or there are no such rows.
    """
    if qrels.is_folder(settings.datapath):
        if split != "all":
            raise InputError(
                f"{settings.datapath} is a folder of judged queries, which has no parts; take --split all."
            )
        found, counts = qrels.read_folder(settings.datapath, redact=settings.redact)
        logger.info("%s: %s", settings.datapath, ", ".join(f"{key} {value}" for key, value in counts.items()))
    else:
        found = tasks(load_all(settings)) if split == "all" else load(settings).tasks(split)
    if not found or not found["q2d"].queries:
        raise InputError(f"{settings.datapath} has no {split} rows under these shares; take --split all.")
    if dropidentical:
        found = {name: without_identical(task) for name, task in found.items()}
    for task in found.values():
        if sentence := identical_sentence(task):
            logger.info(sentence)
    return found


def fingerprint(parts: Iterable[pd.DataFrame]) -> str:
    """16 hex digits that change with any text, group or row order of the tables."""
    pieces: list[object] = []
    for part in parts:
        negatives = ["\x1f".join(texts) for texts in part["negatives"]]
        pieces += [len(part), part["query"].tolist(), part["positive"].tolist(), part["group"].tolist(), negatives]
    return files.digest(*pieces)


def _read(path: str, settings: Settings) -> tuple[pd.DataFrame, dict[str, int]]:
    """A pairs table with the working columns of `_clean`, and its counts."""
    if path == "esco":
        if settings.template or settings.documenttemplate:
            raise InputError("esco has its queries and documents ready; --template is for tables of your own.")
        table = esco.load_esco()
        counts = {"rows": len(table), "empty": 0, "unsplit": table.attrs["unsplit"]}
    else:
        columns = {name: getattr(settings, name) for name in (*_SAMPLE_COLUMNS, "negativecolumn", *_TEMPLATES)}
        if path == "sample_ru":
            columns |= {name: columns[name] or default for name, default in _SAMPLE_COLUMNS.items()}
            place: str | Path = paths.checkout() / "data" / "sample_ru.jsonl"
        else:
            place = path if path.startswith("hf:") else paths.resolve(path)
        table, counts = tables.read_pairs(place, **columns)
    if "group" in table:
        table = table.assign(group_key=table["group"])  # contacts may tell groups apart, see `redact_pairs`
    if settings.redact:
        table, replaced = redact_pairs(table)
        counts = counts | replaced
        logger.info("%s: replaced %s", path, ", ".join(f"{count} {kind}" for kind, count in replaced.items()))
    table, dropped = _clean(table)
    counts = counts | {"empty": counts["empty"] + dropped["empty"], "duplicates": dropped["duplicates"]}
    return table, counts


def _clean(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """The table without rows that normalise to nothing or repeat another one, with groups and working columns.

    These are `query_key` and `document_key` (normalised texts), `group_key` (the group as it was read) and `kind`.
    """
    table = table.assign(query_key=normalised(table["query"]), document_key=normalised(table["positive"]))
    if "kind" not in table:
        table["kind"] = "title"
    filled = table[(table["query_key"] != "") & (table["document_key"] != "")]
    for name in ("group", "group_key"):
        given = filled[name].fillna("").astype(str).str.strip() if name in filled else pd.Series("", filled.index)
        filled = filled.assign(**{name: np.where(given == "", filled["query_key"], given)})
    keys = filled[["query_key", "document_key", "group"]]
    repeated = keys.duplicated()
    if repeated.any() and filled["negatives"].map(bool).any():
        # Tables of triplets repeat a pair for each of its wrong documents: keep them all, in one row.
        merged: dict[int, dict[str, None]] = {}
        codes = keys.groupby(list(keys), sort=False).ngroup()
        for code, negatives in zip(codes, filled["negatives"], strict=True):
            merged.setdefault(code, {}).update(dict.fromkeys(negatives))
        filled = filled.assign(negatives=[list(merged[code]) for code in codes])
    counts = {"empty": len(table) - len(filled), "duplicates": int(repeated.sum())}
    return filled[~repeated].reset_index(drop=True), counts


def _check_groups(table: pd.DataFrame, path: str) -> None:
    """Refuses a table in which nothing can be ranked."""
    if table["group"].nunique() < 2:
        found = "one single group" if len(table) else "no rows with words"
        raise InputError(
            f"{path} has {found}, so no document in it is wrong for any query; give rows of at least two groups, "
            "or set groupcolumn to a column that tells them apart."
        )


def _check_shape(train: pd.DataFrame, part: pd.DataFrame, train_path: str, path: str) -> None:
    """Refuses a separate file whose columns seem to be swapped."""
    lengths = [table[["query_key", "document_key"]].map(len).median() for table in (train, part)]
    ratios = [length["document_key"] / length["query_key"] for length in lengths]
    if min(ratios) <= 1 / 3 and max(ratios) >= 3:
        raise InputError(
            f"{path} looks as if its columns were swapped: its documents have {ratios[1]:.2g} times the length of its "
            f"queries, in {train_path} it is {ratios[0]:.2g} times; set querycolumn and positivecolumn."
        )


def _name(path: str) -> str:
    return Path(path).name if is_table_file(path) else path
