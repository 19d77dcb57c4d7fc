"""Ranking metrics, one row per query: a task and scores go in, ranks and six metrics come out.

A tie counts against the system: among documents with the same score those that are not relevant stand first, then the
relevant ones from the lowest grade to the highest. A collapsed model, which gives all documents one score, therefore
comes last and not first.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hr_search.base import arrays
from hr_search.base.choices import METRICS
from hr_search.base.errors import InputError, one_line
from hr_search.base.processes import ALONE, Processes
from hr_search.evaluation.significance import bootstrap_interval

if TYPE_CHECKING:
    from hr_search.data.tasks import Task

Scores = Callable[[int, int], np.ndarray]
"""Rows start..stop of the (Q, N) score matrix; higher is better."""

_LISTED = 5  # documents listed in `found` and `expected`
_DISCOUNTS = 1 / np.log2(np.arange(2, 12))  # of ranks 1 to 10
# Scores held at a time: 16 MB in float32, and 128 MB where that would be fewer than so many queries.
_BLOCK, _LARGEST, _FEWEST = 4_000_000, 32_000_000, 16


def embedding_scores(queries: np.ndarray, documents: np.ndarray) -> Scores:
    """Cosine similarities of embeddings, computed a few rows at a time.

    Args:
        queries: (Q, D) embeddings of any length; an all-zero one has cosine 0 to everything.
        documents: (N, D).

    Raises:
        InputError: not two (rows, D) arrays of one D, or NaN or infinity in a row.
    """
    queries, documents = arrays.normalised(queries, "query"), arrays.normalised(documents, "document")
    arrays.check_dimensions(queries, documents)

    def scores(start: int, stop: int) -> np.ndarray:
        block = queries[start:stop] @ documents.T
        # Products of equal embeddings differ by some 1e-7 with their place in the matrix; rounding keeps them ties.
        return np.round(block, 6, out=block)

    return scores


def rank_all(task: Task, scores: Scores, chunk: int = 256, processes: Processes = ALONE) -> pd.DataFrame:
    """How well `scores` ranks the documents of `task`, query by query.

    Args:
        task: queries, documents and for each query the sorted indices of its relevant documents, maybe with their
            grades; barred documents count as if they were not in the collection.
        scores: rows start..stop of the (Q, N) score matrix, higher is better.
        chunk: queries scored at a time; fewer where they would need more than 16 MB.
        processes: that share the queries out; all get the whole table.

    Returns:
        One row per query: `query`, `group`, `relevant` (how many are right: relevant, and of a grade that
        reaches `task.relevantfrom`), `rank` (of the best right document, from 1), a column for each of METRICS,
        `found` (JSON list of the first five documents), `hits` (JSON list, for each of these 1 if it is right, else
        0) and `expected` (JSON list of up to five right ones); documents are indices into `task.documents`.

    Raises:
        InputError: a query without a right document, indices, grades or scores that do not fit the task, or
            scores that are NaN or infinite.
    """
    _check(task)
    few = max(_BLOCK // len(task.documents), min(_FEWEST, _LARGEST // len(task.documents)))
    chunk, count, rows = max(1, min(chunk, few)), len(task.queries), []
    with processes.together():
        for start in processes.share(range(0, count, chunk)):
            block = _block(task, scores, start, min(start + chunk, count))
            rows += [(query, _ranked(task, query, row)) for query, row in enumerate(block, start)]
    return pd.DataFrame([row for _, row in sorted(processes.gathered(rows), key=operator.itemgetter(0))])


def summarise(per_query: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The mean of each metric with its 95 % bootstrap interval over groups of queries.

    Args:
        per_query: what `rank_all` returns.
        seed: of the bootstrap.

    Returns:
        One row per metric: `metric`, `value`, `low`, `high`, `queries` (how many).

    Raises:
        InputError: a column is missing, empty or holds NaN.
    """
    missing = [name for name in ("group", *METRICS) if name not in per_query]
    if missing:
        raise InputError(f"the table of queries has no column {', '.join(missing)}; pass the table rank_all returns.")
    rows = []
    for metric in METRICS:
        low, high = bootstrap_interval(per_query[metric], seed, groups=per_query["group"])
        value = float(per_query[metric].mean())
        rows.append({"metric": metric, "value": value, "low": low, "high": high, "queries": len(per_query)})
    return pd.DataFrame(rows)


def relevant_ranks(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """The ranks of one query's relevant documents, best first, from 1.

    The rank of a relevant document is its place among the relevant ones plus the number of other documents
    with at least its score. Only documents that score at least as high as the worst relevant one are sorted,
    so memory stays at one row however many documents are relevant.

    Args:
        scores: (N,) finite scores of all documents.
        relevant: (R,) indices of the relevant documents, R at least 1.

    Returns:
        (R,) strictly ascending whole numbers.
    """
    wanted = np.sort(scores[relevant])
    rivals = np.sort(scores[scores >= wanted[0]])
    at_least = rivals.size - np.searchsorted(rivals, wanted, side="left")
    relevant_at_least = wanted.size - np.searchsorted(wanted, wanted, side="left")
    places = np.arange(wanted.size, 0, -1)
    return (places + at_least - relevant_at_least)[::-1]


def rank_metrics(ranks: np.ndarray, grades: np.ndarray | None = None, relevantfrom: float = 0.0) -> dict[str, float]:
    """METRICS of one query from the ascending ranks (R,) of all its relevant documents.

    Reciprocal rank, a right document among the first one and five, share of the right documents among the
    first ten, nDCG@10 and average precision over all ranks. nDCG@10 is linear, as in trec_eval: gain = grade,
    discount = log2(1 + rank), the ideal holds the min(R, 10) highest grades of all relevant documents
    (Järvelin and Kekäläinen 2002). With grades of one value it is binary nDCG.

    Args:
        ranks: of the relevant documents.
        grades: of the documents at these ranks, (R,), above 0; None = all 1.
        relevantfrom: the grade from which all metrics but nDCG count a document as right; one must reach it.
    """
    grades = np.ones(ranks.size) if grades is None else grades
    right = ranks[grades >= relevantfrom]
    early = ranks <= 10
    gained = grades[early] * _DISCOUNTS[ranks[early] - 1]
    ideal = np.sort(grades)[::-1][:10] * _DISCOUNTS[: ranks.size]
    return {
        "mrr": float(1 / right[0]),
        "pass@1": float(right[0] <= 1),
        "pass@5": float(right[0] <= 5),
        "recall@10": int((right <= 10).sum()) / right.size,
        "ndcg@10": float(gained.sum() / ideal.sum()),
        "map": float((np.arange(1, right.size + 1) / right).mean()),
    }


def _check(task: Task) -> None:
    """Refuses a task that cannot be evaluated."""
    sizes = len(task.queries), len(task.relevant), len(task.groups)
    if len(set(sizes)) > 1:
        raise InputError(f"task {task.name} has {sizes[0]} queries, {sizes[1]} relevant lists and {sizes[2]} groups.")
    if task.barred is not None and len(task.barred) != sizes[0]:
        raise InputError(f"task {task.name} has {sizes[0]} queries and {len(task.barred)} lists of barred documents.")
    if task.grades is not None and len(task.grades) != sizes[0]:
        raise InputError(f"task {task.name} has {sizes[0]} queries and {len(task.grades)} lists of grades.")
    if not task.queries or not task.documents:
        raise InputError(
            f"task {task.name} has {sizes[0]} queries and {len(task.documents)} documents; give some of both."
        )
    for number, relevant in enumerate(task.relevant, 1):
        relevant = np.asarray(relevant)
        where = f"task {task.name}, query row {number}"
        if relevant.size == 0:
            raise InputError(f"{where} ({one_line(task.queries[number - 1], 60)!r}) has no relevant document; drop it.")
        if relevant.ndim != 1 or relevant.dtype.kind not in "iu" or (np.diff(relevant) <= 0).any():
            raise InputError(f"{where}: relevant documents must be ascending indices without repeats.")
        if relevant[0] < 0 or relevant[-1] >= len(task.documents):
            raise InputError(f"{where}: relevant documents must be indices from 0 to {len(task.documents) - 1}.")
        if task.barred is not None and np.isin(relevant, task.barred[number - 1]).any():
            raise InputError(f"{where}: a document cannot be relevant and barred from the ranking.")
        grades = np.ones(relevant.size) if task.grades is None else np.asarray(task.grades[number - 1])
        if grades.shape != relevant.shape or not (np.isfinite(grades) & (grades > 0)).all():
            raise InputError(f"{where}: each relevant document needs one grade, a number above 0.")
        if grades.max() < task.relevantfrom:
            raise InputError(f"{where} has no document of grade {task.relevantfrom:g} or more; drop it.")


def _block(task: Task, scores: Scores, start: int, stop: int) -> np.ndarray:
    """Rows start..stop of the scores, refused where they do not fit the task or are not finite."""
    block, expected = np.asarray(scores(start, stop)), (stop - start, len(task.documents))
    if block.shape != expected:
        raise InputError(
            f"task {task.name}: scores of query rows {start + 1} to {stop} have shape {block.shape}, not {expected}."
        )
    if block.dtype.kind != "f":
        block = block.astype(np.float64)
    finite = np.isfinite(block)
    if not finite.all():
        row = int(np.flatnonzero(~finite.all(axis=1))[0])
        raise InputError(f"task {task.name}: the scores of query row {start + row + 1} hold NaN or infinity.")
    return block


def _ranked(task: Task, query: int, scores: np.ndarray) -> dict[str, object]:
    """The row of one query, given its scores (N,)."""
    relevant, right = np.asarray(task.relevant[query]), task.right(query)
    grades = np.ones(relevant.size) if task.grades is None else np.asarray(task.grades[query])
    if task.barred is not None and len(barred := task.barred[query]):
        scores = scores.copy()  # it may be a view of the caller's array
        scores[barred] = -np.inf
    ranks, found = relevant_ranks(scores, relevant), _first(scores, relevant, grades)
    ordered = grades[np.lexsort((grades, -scores[relevant]))]  # of the documents at these ranks
    return {
        "query": task.queries[query],
        "group": task.groups[query],
        "relevant": len(right),
        "rank": int(ranks[ordered >= task.relevantfrom][0]),
        **rank_metrics(ranks, ordered, task.relevantfrom),
        "found": json.dumps(found.tolist()),
        "hits": json.dumps(np.isin(found, right).astype(int).tolist()),
        "expected": json.dumps(right[:_LISTED].tolist()),
    }


def _first(scores: np.ndarray, relevant: np.ndarray, grades: np.ndarray) -> np.ndarray:
    """The indices of the first documents in the order that the ranks assume: in a tie, higher grades come later.

    Barred documents, whose score is -inf, are not among them.
    """
    count, rest = min(_LISTED, np.isfinite(scores).sum()), scores.copy()
    # A few passes for the maximum take a tenth of the time of numpy's partition, which is slow with many ties.
    for _ in range(count):
        best = rest.argmax()
        rest[best] = -np.inf
    candidates = np.flatnonzero(scores >= scores[best])
    at = np.searchsorted(relevant, candidates).clip(max=relevant.size - 1)
    order = np.lexsort((np.where(relevant[at] == candidates, grades[at], 0), -scores[candidates]))
    return candidates[order[:count]]
