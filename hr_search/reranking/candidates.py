"""A retriever's first texts ranked again: candidates of every query, their scores, and the metrics of the new order."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd

from hr_search.data.tasks import Task
from hr_search.evaluation.metrics import Scores, embedding_scores, rank_all
from hr_search.nearest import nearest
from hr_search.reranking.cross_encoder import Reranker


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The texts that the second stage reads for each of Q queries.

    Attributes:
        task: the search.
        cosines: of the retriever, which orders everything behind the candidates.
        found: (Q, top) the retriever's first texts, best first.
        pairs: token rows of all pairs, query by query, (Q * top,).
    """

    task: Task
    cosines: Scores
    found: np.ndarray
    pairs: list[np.ndarray]

    def ranked(self, logits: np.ndarray) -> pd.DataFrame:
        """What `rank_all` says of the order by the second stage's `logits`, (Q, top).

        Candidates stand before all other texts, which keep the order of their cosines.
        """
        ahead = 2 + logits - logits.min(axis=1, keepdims=True)  # no cosine is above 1

        def scores(start: int, stop: int) -> np.ndarray:
            block = self.cosines(start, stop)
            np.put_along_axis(block, self.found[start:stop], ahead[start:stop].astype(block.dtype), axis=1)
            return block

        return rank_all(self.task, scores)

    def logits(self, reranker: Reranker, progress: bool = False) -> np.ndarray:
        """The second stage's scores of the candidates, (Q, top)."""
        return reranker.infer(self.pairs, progress).reshape(self.found.shape)


def candidates_of(
    reranker: Reranker, task: Task, sides: Mapping[str, np.ndarray], top: int, limit: int = 0, seed: int = 0
) -> Candidates:
    """The candidates of a task's queries.

    Args:
        reranker: whose tokens the pairs become.
        task: named "q2d" or "d2q".
        sides: embeddings by the retriever of the "query" and the "document" texts.
        top: texts read for each query; no more than there are.
        limit: queries at most, drawn by the seed; 0 = all.
        seed: of the draw.
    """
    queries, documents = (sides["query"], sides["document"])[:: 1 if task.name == "q2d" else -1]
    queries = queries[: len(task.queries)]  # documents relevant to nothing come last, and search for nothing
    if 0 < limit < len(task.queries):
        chosen = np.sort(np.random.default_rng(seed).permutation(len(task.queries))[:limit])
        task, queries = subset(task, chosen), queries[chosen]
    found, _ = nearest(queries, documents, min(top, len(task.documents)))
    searched = [text for text in task.queries for _ in range(found.shape[1])]
    read = [task.documents[at] for at in found.ravel()]
    pair = (searched, read) if task.name == "q2d" else (read, searched)
    return Candidates(task, embedding_scores(queries, documents), found, reranker.rows(*pair))


def subset(task: Task, chosen: np.ndarray) -> Task:
    """The task with the chosen queries only, among all documents."""
    given = [name for name in ("queries", "relevant", "groups", "barred", "grades") if getattr(task, name) is not None]
    return dataclasses.replace(task, **{name: [getattr(task, name)[at] for at in chosen] for name in given})
