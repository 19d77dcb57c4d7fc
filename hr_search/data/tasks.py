"""Search tasks: which documents are relevant to which queries, and which are left out of a ranking."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from hr_search.base.arrays import incidence
from hr_search.data.duplicates import normalised


@dataclasses.dataclass(frozen=True)
class Task:
    """One search direction: which of the `documents` are relevant to which of the `queries`.

    Attributes:
        name: "q2d" (job title -> vacancy) or "d2q" (vacancy -> job title).
        queries: texts to search with.
        documents: texts to search in; those relevant to no query, if any, come last.
        relevant: for each query the sorted indices of its relevant documents.
        groups: for each query its group (the first one where it has several).
        barred: for each query the sorted indices of documents left out of its ranking; None = none.
    """

    name: str
    queries: list[str]
    documents: list[str]
    relevant: list[np.ndarray]
    groups: list[str]
    barred: list[np.ndarray] | None = None


def tasks_of(pairs: pd.DataFrame) -> dict[str, Task]:
    """Both search directions over the distinct texts of a pairs table.

    Texts are distinct where their normalised forms differ; the first spelling represents them. A query
    and a document are relevant to each other when they occur in the same group, and a text that occurs
    in several groups belongs to each of them, so relevance is symmetric.

    Args:
        pairs: columns `query`, `positive`, `group`.

    Returns:
        The tasks "q2d" and "d2q".
    """
    groups, names = pd.factorize(pairs["group"])
    queries, query_groups, query_first = _texts(pairs["query"], groups)
    documents, document_groups, document_first = _texts(pairs["positive"], groups)
    relevance = (query_groups @ document_groups.T).tocsr()
    labels = [str(names[index]) for index in query_first], [str(names[index]) for index in document_first]
    return both_directions(queries, documents, relevance, *labels)


def both_directions(
    queries: list[str],
    documents: list[str],
    relevance: sparse.csr_array,
    query_groups: Sequence[str],
    document_groups: Sequence[str],
) -> dict[str, Task]:
    """The tasks "q2d" and "d2q" of one relevance matrix.

    The queries of d2q are the documents that are relevant to some query. They come first among the
    documents, so the first rows of the document embeddings are the query embeddings of d2q.

    Args:
        queries: Q texts, each with a relevant document.
        documents: N texts, those relevant to no query last.
        relevance: (Q, N), nonzero where relevant.
        query_groups: a group for each query.
        document_groups: a group for each document that is relevant to some query.
    """
    answers = len(document_groups)
    back = relevance[:, :answers].T.tocsr()
    return {
        "q2d": Task("q2d", queries, documents, _rows(relevance), list(query_groups)),
        "d2q": Task("d2q", documents[:answers], queries, _rows(back), list(document_groups)),
    }


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
    return dataclasses.replace(task, barred=identical(task))


def identical_sentence(task: Task) -> str:
    """How many rankings hold a document identical to the query but not marked as relevant; "" for none."""
    count = sum(len(found) > 0 for found in identical(task))
    if not count:
        return ""
    left_out = task.barred is not None
    choice = "left out of their rankings" if left_out else "in their rankings, as errors (--dropidentical)"
    return (
        f"{task.name}: {count} of {len(task.queries)} queries occur word for word among the documents without being "
        f"marked as relevant; these documents are {choice}."
    )


def _texts(texts: pd.Series, groups: np.ndarray) -> tuple[list[str], sparse.csr_array, np.ndarray]:
    """Distinct texts (T), a (T, G) matrix of the groups they occur in, and the first group of each (T,)."""
    codes, distinct = pd.factorize(normalised(texts))
    first = np.unique(codes, return_index=True)[1]
    shape = (len(distinct), int(groups.max(initial=-1)) + 1)
    return texts.iloc[first].tolist(), incidence(codes, groups, shape), groups[first]


def _rows(matrix: sparse.csr_array) -> list[np.ndarray]:
    """The sorted column indices of each row."""
    matrix.sort_indices()
    indices = matrix.indices.astype(np.int64)
    return [indices[start:stop] for start, stop in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)]
