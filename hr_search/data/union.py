"""Several tables as one: their groups kept apart, no held-out document of one in train of another, own rankings."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from hr_search.base.arrays import incidence
from hr_search.data.counts import Counts
from hr_search.data.duplicates import normalised
from hr_search.data.splits import Parts
from hr_search.data.tasks import Task, tasks_of

logger = logging.getLogger(__name__)


def united(tables: Sequence[pd.DataFrame], labels: Sequence[str]) -> pd.DataFrame:
    """The rows of several pairs tables below one another.

    Args:
        tables: with `group`; some may have `softgroup` and `grade`.
        labels: a short name for each, all different.

    Returns:
        The rows with a column `table` (categorical: the label). Groups and soft groups begin with the number of their
        table, so that equal names in two tables stay two groups; a grade is 1 where a table has none. A single table
        stays as it is.
    """
    if len(tables) == 1:
        return tables[0]
    parts = []
    for number, (label, table) in enumerate(zip(labels, tables, strict=True), 1):
        marks = {"table": pd.Categorical([label] * len(table), categories=labels)}
        for name in ("group", "softgroup"):
            if name in table:
                marks[name] = np.where(table[name] == "", "", f"{number}: " + table[name])
        parts.append(table.assign(**marks))
    whole = pd.concat(parts, ignore_index=True)
    filled = {name: whole[name].fillna(value) for name, value in (("grade", 1.0), ("softgroup", "")) if name in whole}
    return whole.assign(**filled)


def without_held_out(parts: Parts) -> tuple[Parts, Counts]:
    """The parts without rows whose document another table holds out.

    Each table is split by itself, so a document that occurs in two of them may be held out in one and stand in train
    of the other. Such rows leave train, and those with a document of the test leave validation.

    Returns:
        The parts, and the count `table_leaks` of the rows that are gone.
    """
    kept, dropped, held = {"test": parts["test"]}, 0, parts["test"]["document_key"]
    for name in ("validation", "train"):
        seen = parts[name]["document_key"].isin(held)
        kept[name], dropped = parts[name][~seen], dropped + int(seen.sum())
        held = pd.concat([held, kept[name]["document_key"]])
    if dropped:
        logger.warning("%d rows are left out, as another table of datapath holds out their documents", dropped)
    return {name: kept[name] for name in parts}, Counts(table_leaks=dropped)


def tasks_within(pairs: pd.DataFrame) -> dict[str, Task]:
    """Both search directions over several tables, where each query is ranked among the documents of its own tables.

    Documents of other tables are barred: nobody has said whether they fit the query, so they would be wrong answers
    without proof. A query that occurs in several tables is ranked among the documents of all of these.

    Args:
        pairs: columns `query`, `positive`, `group` and `table` (categorical).

    Returns:
        The tasks "q2d" and "d2q" of `tasks_of` with `barred` and `tables`.
    """
    tasks, table = tasks_of(pairs), pairs["table"].cat
    inside = {}  # (texts, tables) for each side, in the order of the tasks' texts
    for column in ("query", "positive"):
        codes, texts = pd.factorize(normalised(pairs[column]))
        inside[column] = incidence(codes, table.codes, (len(texts), len(table.categories))).toarray() > 0
    return {
        "q2d": _within(tasks["q2d"], inside["query"], inside["positive"], list(table.categories)),
        "d2q": _within(tasks["d2q"], inside["positive"], inside["query"], list(table.categories)),
    }


def _within(task: Task, queries: np.ndarray, documents: np.ndarray, labels: list[str]) -> Task:
    """A task with the documents (N, T) barred that share no table with a query (Q, T)."""
    kinds, kind = np.unique(queries, axis=0, return_inverse=True)
    others = [np.flatnonzero(~documents[:, mask].any(axis=1)) for mask in kinds]  # shared: one array for many queries
    barred = [others[number] for number in kind.ravel()]
    return dataclasses.replace(task, barred=barred, tables=[labels[at] for at in queries.argmax(axis=1)])
