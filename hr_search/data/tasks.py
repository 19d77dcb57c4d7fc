"""Search tasks: which documents are relevant to which queries, and which are left out of a ranking."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from hr_search.base import files
from hr_search.base.arrays import incidence
from hr_search.base.errors import InputError, shown
from hr_search.data.duplicates import normalised

PAIRS = 100_000_000
"""Pairs of a query and a document relevant to it that the tasks of a table may have: they take about 1 GB."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One search direction: which of the `documents` are relevant to which of the `queries`.

    Attributes:
        name: "q2d" (job title -> vacancy) or "d2q" (vacancy -> job title).
        queries: texts to search with.
        documents: texts to search in; those relevant to no query, if any, come last.
        relevant: for each query the sorted indices of its relevant documents, those with a grade above 0.
        groups: for each query its group (the first one where it has several).
        barred: for each query the sorted indices of documents left out of its ranking; None = none.
        grades: for each query the grades of its relevant documents, in their order, above 0; None = all 1. They are the
            gains of nDCG.
        relevantfrom: the grade from which the other metrics count a document as right; 0 = all relevant ones.
        tables: for each query the table that it comes from (the first one where it is in several); None = one table.
    """

    name: str
    queries: list[str]
    documents: list[str]
    relevant: list[np.ndarray]
    groups: list[str]
    barred: list[np.ndarray] | None = None
    grades: list[np.ndarray] | None = None
    relevantfrom: float = 0.0
    tables: list[str] | None = None

    def right(self, query: int) -> np.ndarray:
        """The sorted indices of the documents that count as right for a query: those graded `relevantfrom` or more.

        A relevant document below that grade is neither right nor wrong: only nDCG gives it credit.
        """
        relevant = np.asarray(self.relevant[query])
        grades = np.ones(relevant.shape) if self.grades is None else np.asarray(self.grades[query])
        return relevant[grades >= self.relevantfrom]


def tasks_of(pairs: pd.DataFrame) -> dict[str, Task]:
    """Both search directions over the distinct texts of a pairs table.

    Texts are distinct where their normalised forms differ; the first spelling represents them. A query
    and a document are relevant to each other when they occur in the same group, and a text that occurs
    in several groups belongs to each of them, so relevance is symmetric.

    Args:
        pairs: columns `query`, `positive`, `group`.

    Returns:
        The tasks "q2d" and "d2q".

    Raises:
        InputError: the groups are so large that more than `PAIRS` pairs would be relevant.
    """
    groups, names = pd.factorize(pairs["group"])
    queries, query_groups, query_first = _texts(pairs["query"], groups)
    documents, document_groups, document_first = _texts(pairs["positive"], groups)
    _refuse_large_groups(query_groups, document_groups, names)
    # Of booleans, because it does not matter how many groups they share, and of one byte each.
    relevance = (query_groups.astype(bool) @ document_groups.T.astype(bool)).tocsr()
    labels = [str(names[index]) for index in query_first], [str(names[index]) for index in document_first]
    return both_directions(queries, documents, relevance, *labels)


def both_directions(
    queries: list[str],
    documents: list[str],
    relevance: sparse.csr_array,
    query_groups: Sequence[str],
    document_groups: Sequence[str],
    relevantfrom: float = 0.0,
) -> dict[str, Task]:
    """The tasks "q2d" and "d2q" of one relevance matrix.

    The queries of d2q are the documents that are right for some query. They come first among the
    documents, so the first rows of the document embeddings are the query embeddings of d2q.

    Args:
        queries: Q texts, each with a right document.
        documents: N texts, those right for no query last.
        relevance: (Q, N), the grade where relevant; ones make tasks without grades.
        query_groups: a group for each query.
        document_groups: a group for each document that is right for some query.
        relevantfrom: as in `Task`.
    """
    answers = len(document_groups)
    sides = {
        "q2d": (queries, documents, relevance, query_groups),
        "d2q": (documents[:answers], queries, _turned(relevance, answers), document_groups),
    }
    graded = bool((relevance.data != 1).any())
    tasks = {}
    for name, (asking, searched, matrix, groups) in sides.items():
        matrix.sort_indices()
        relevant = _rows(matrix, matrix.indices)
        given = _rows(matrix, matrix.data.astype(np.float64)) if graded else None
        tasks[name] = Task(name, asking, searched, relevant, list(groups), grades=given, relevantfrom=relevantfrom)
    return tasks


def identical(task: Task) -> list[np.ndarray]:
    """For each query the documents equal to it after normalisation that are not marked as relevant.

    Collections of job titles have many: the query's own title is in the corpus, no judge was asked about
    it, and a model that ranks it first is counted wrong.

    Returns:
        Sorted indices into the documents, one array per query.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(normalised(pd.Series(task.documents, dtype=object))):
        if key:
            places[key].append(index)
    keys = normalised(pd.Series(task.queries, dtype=object))
    return [
        np.setdiff1d(np.array(places.get(key, []), np.int64), relevant)
        for key, relevant in zip(keys, task.relevant, strict=True)
    ]


def without_identical(task: Task) -> Task:
    """The task with the documents of `identical` left out of the ranking of their query."""
    found = identical(task)
    if task.barred is not None:
        # Queries of one table share their barred documents, half of all perhaps; a copy for each would fill memory.
        pairs = zip(task.barred, found, strict=True)
        found = [np.union1d(barred, more) if len(more) else barred for barred, more in pairs]
    return dataclasses.replace(task, barred=found)


def identical_sentence(task: Task) -> str:
    """How many rankings hold a document identical to the query but not marked as relevant; "" for none."""
    found = identical(task)
    count = sum(len(each) > 0 for each in found)
    if not count:
        return ""
    left_out = all(
        np.isin(each, barred).all() for each, barred in zip(found, task.barred or [[]] * len(found), strict=True)
    )
    choice = "left out of their rankings" if left_out else "in their rankings, as errors (--dropidentical)"
    return (
        f"{task.name}: {count} of {len(task.queries)} queries occur word for word among the documents without being "
        f"marked as relevant; these documents are {choice}."
    )


def fingerprint(task: Task) -> str:
    """16 hex digits that two tests share if they search with the same queries among the same documents, judged alike.

    What was left out of rankings is no part of it: of several tables, the table of each query says it.
    """
    sizes = [len(each) for each in task.relevant]
    judged = [sizes, *(np.concatenate(each).tolist() for each in (task.relevant, task.grades) if each)]
    return files.digest(task.queries, task.documents, *judged, float(task.relevantfrom), task.tables or [])


def _texts(texts: pd.Series, groups: np.ndarray) -> tuple[list[str], sparse.csr_array, np.ndarray]:
    """Distinct texts (T), a (T, G) matrix of the groups they occur in, and the first group of each (T,)."""
    codes, distinct = pd.factorize(normalised(texts))
    first = np.unique(codes, return_index=True)[1]
    shape = (len(distinct), int(groups.max(initial=-1)) + 1)
    short = codes.astype(np.int32), groups.astype(np.int32)  # SciPy keeps this type for the indices of all products
    return texts.iloc[first].tolist(), incidence(*short, shape), groups[first]


def _refuse_large_groups(queries: sparse.csr_array, documents: sparse.csr_array, names: Sequence[object]) -> None:
    """Checks how many pairs the texts of each group make, from matrices (texts, G) and the names of the groups.

    Raises:
        InputError: more than `PAIRS`, which the memory would not hold; the sentence names the largest group.
    """
    sizes = [np.asarray(each.sum(axis=0), np.int64).ravel() for each in (queries, documents)]
    found = sizes[0] * sizes[1]
    if found.sum() > PAIRS:
        at = int(found.argmax())
        raise InputError(
            f"the groups of {queries.shape[0]:,} queries and {documents.shape[0]:,} documents make {found.sum():,} "
            f"pairs that are relevant to each other, and at most {PAIRS:,} fit (the largest group, "
            f'"{shown(names[at])}", has {sizes[0][at]:,} queries and {sizes[1][at]:,} documents); take a finer '
            "--groupcolumn, a smaller share of validation and test rows, or a part of the rows with --split."
        )


def _turned(relevance: sparse.csr_array, answers: int) -> sparse.csr_array:
    """The relevance of queries (answers, Q) to the first `answers` documents of a matrix (Q, N)."""
    return (relevance if answers == relevance.shape[1] else relevance[:, :answers]).T.tocsr()


def _rows(matrix: sparse.csr_array, values: np.ndarray) -> list[np.ndarray]:
    """The values of each row of a matrix, as views, because a copy for each would double the memory."""
    return [values[start:stop] for start, stop in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)]
