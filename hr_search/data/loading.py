"""Pairs for training, validation and test: read, cleaned, and split without leaks.

Vacancies are posted again and again with only a city or a salary changed. A random split would put near
copies of train documents into the test and inflate every metric. Here rows that share a group, a document
or most of a document's wording always stay in the same part, and files that come already split are
checked for the same kind of leak.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from hr_search.base import files
from hr_search.base.errors import InputError
from hr_search.batches import Rows, index_rows
from hr_search.data import qrels, reading, splits, stream, stream_files, union
from hr_search.data.counts import Counts
from hr_search.data.tasks import Task, identical_sentence, tasks_of, without_identical
from hr_search.settings import Settings
from hr_search.sources import labels, paths_of

logger = logging.getLogger(__name__)

COLUMNS = ["query", "positive", "negatives", "group"]
_MARKS = {"train": ("grade", "softgroup", "table")}  # further columns, where there are any; of the other parts: table


@dataclass(frozen=True)
class Data:
    """Three tables of pairs (columns `query`, `positive`, `negatives`, `group`), and how they were made.

    Where `datapath` names several tables, a column `table` says from which each row comes; where it names columns for
    soft positives, train has a `grade` and a `softgroup`.

    Attributes:
        name: short name of the data.
        train: rows to learn from; with `stream`, a sample of them.
        validation: rows that choose the best model.
        test: rows for the final numbers.
        counts: rows read, dropped and held out, and what the parts share.
        fingerprint: equal for equal tables in the same order.
        judged: the search tasks of a validation or test that is a folder of judged queries; its table then
            holds each query beside each of its relevant documents, but not the rest of the corpus.
        streamed: all train rows where their texts lie in files (`stream`); None = `train` is all of them.
    """

    name: str
    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    counts: Counts
    fingerprint: str
    judged: dict[str, dict[str, Task]] = field(default_factory=dict)
    streamed: stream.Streamed | None = None

    def rows(self) -> Rows:
        """All train rows over their distinct texts."""
        return self.streamed.rows if self.streamed else index_rows(self.train)

    @property
    def sizes(self) -> dict[str, int]:
        """How many rows each part has."""
        train = len(self.streamed.rows) if self.streamed else len(self.train)
        return {"train": train, "validation": len(self.validation), "test": len(self.test)}

    @property
    def titles(self) -> pd.DataFrame:
        """The train queries, as a column `query`; with `stream`, those of them that validation or test has, too."""
        return self.streamed.titles if self.streamed else self.train

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
    shares = [_shares(each, own) for each in settings.tables()]
    _refuse_threshold(settings, own.values())
    table = stream_files.stored(settings, shares[0]) if settings.stream else None
    found, counts, exact = _split_tables(settings, own) if table is None else ([table.parts()], table.counts, False)
    names = labels(settings.datapath)
    parts = {name: union.united([each[name] for each in found], names) for name in found[0]}
    if len(found) > 1 and not settings.allowleaks:
        parts, more = union.without_held_out(parts)
        counts += more
    judged: dict[str, dict[str, Task]] = {}
    for name, path in own.items():
        if qrels.is_folder(path):
            judged[name], more = qrels.read_folder(path, name, **_reading(settings))
            parts[name], _ = reading.cleaned(qrels.judged_pairs(judged[name]["q2d"]), path)
        else:
            parts[name], more = reading.read_table(path, settings)
        counts += more
        _check_shape([each["train"] for each in found], parts[name], " + ".join(names), path)
        parts[name] = reading.held_out(
            parts[name], distinct=settings.datapath in reading.ENGLISH and name not in judged
        )
    if table is not None:
        return _of_stream(table, parts, own, judged, counts, settings)
    counts += Counts(negative_leaks=splits.drop_negatives(parts))
    parts["train"] = _sampled(parts["train"], settings.maxrows, settings.splitseed)
    if not settings.allowleaks:
        splits.refuse_leaks(parts, own, set(judged))
    counts += splits.sizes(parts) + splits.leaks(parts, exact)
    logger.info("%s: %s", " + ".join(names), counts)
    final = {name: _final(part, _MARKS.get(name, ("table",))) for name, part in parts.items()}
    stamp = fingerprint(final.values(), [each for both in judged.values() for each in _marks(both["q2d"])])
    return Data(" + ".join(names), **final, counts=counts, fingerprint=stamp, judged=judged)


def _of_stream(
    table: stream_files.Stored,
    parts: splits.Parts,
    own: dict[str, str],
    judged: dict[str, dict[str, Task]],
    counts: Counts,
    settings: Settings,
) -> Data:
    """The data of a table that lies in files, with validation and test rows of it or of files of their own.

    Raises:
        InputError: as `load_data`.
    """
    held = {name: parts[name] for name in ("validation", "test")}
    drawn = [name for name in held if name not in own]
    kept, right, more = stream.chosen_rows(table, held, drawn, settings.maxrows, settings.splitseed)
    counts += more
    view, found = stream.shared(table, kept, held, list(own))
    if not settings.allowleaks:
        splits.refuse_leaks(held | {"train": view}, own, set(judged))
    every = stream.streamed(table, kept, right, pd.concat(held.values()), settings.splitseed)
    counts += splits.sizes(held | {"train": every.sample}) + found
    counts = dataclasses.replace(counts, train=len(kept), train_groups=every.rows.query_groups.shape[1])
    name = labels(settings.datapath)[0]
    logger.info("%s: %s", name, counts)
    final = {part: _final(rows, ()) for part, rows in (held | {"train": every.sample}).items()}
    stamp = fingerprint([final["validation"], final["test"]], [_marks(both["q2d"])[0] for both in judged.values()])
    stamp = files.digest(stamp, table.digest, hashlib.blake2b(kept).hexdigest(), int(right.sum()))
    return Data(name, **final, counts=counts, fingerprint=stamp, judged=judged, streamed=every)


def load_all(settings: Settings) -> pd.DataFrame:
    """All rows of `datapath` as one pairs table, not split, to evaluate a model on; ESCO without keyword queries."""
    found = [reading.held_out(reading.read(each.datapath, each)[0]) for each in settings.tables()]
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
    elif settings.stream and split == "all":
        raise InputError(
            "all rows of a table cannot be ranked in blocks; take --split test or validation, or leave --stream out."
        )
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


def _split_tables(settings: Settings, own: dict[str, str]) -> tuple[list[splits.Parts], Counts, bool]:
    """The parts of each table of `datapath`, their counts, and whether all near copies were found.

    Raises:
        InputError: as `reading.read_table` and `splits.split`, for any of the tables.
    """
    found, counts, exact = [], Counts(), True
    for each in settings.tables():
        table, more = reading.read_table(each.datapath, each)
        parts, sure = splits.split(table, _shares(each, own), settings.splitseed, each.datapath)
        counts += more + Counts(groups=table["group"].nunique())
        exact = exact and sure
        for name in ("validation", "test"):
            parts[name] = reading.held_out(parts[name], distinct=each.datapath in reading.ENGLISH)
        found.append(parts)
    return found, counts, exact


def _tasks(pairs: pd.DataFrame) -> dict[str, Task]:
    """Both search directions of a pairs table, or of several in one."""
    return union.tasks_within(pairs) if "table" in pairs else tasks_of(pairs)


def _final(part: pd.DataFrame, marks: Sequence[str]) -> pd.DataFrame:
    """A part without its working columns, with those of `marks` that it has."""
    return part[[*COLUMNS, *(name for name in marks if name in part)]].reset_index(drop=True)


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
