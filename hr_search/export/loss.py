"""What int8 costs and brings: a sample of a search task, encoded exactly and in int8."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from hr_search.data.tasks import Task
from hr_search.encoder import Encoder
from hr_search.evaluation.metrics import embedding_scores, rank_all
from hr_search.evaluation.significance import paired_comparison
from hr_search.export.int8 import exactly

METRIC = "mrr"
_QUERIES, _DOCUMENTS = 200, 2000  # of a sample


def int8_loss(encoder: Encoder, task: Task, seed: int = 0) -> dict[str, Any]:
    """MRR and speed of an encoder in int8 beside the same model without, on up to 200 queries and 2,000 documents.

    Args:
        encoder: what `int8.in_int8` returned.
        task: the task "q2d"; of it, random queries, all that is relevant to them, and random other documents.
        seed: of the sample and of the test.

    Returns:
        exact (its precision), queries, documents, mrr_exact, mrr_int8, difference (int8 minus exact) with low, high
        and p of the paired test, texts_s_exact and texts_s_int8 (from texts to embeddings).
    """
    part = sample(task, np.random.default_rng(seed))
    int8, speed = _searched(encoder, part)
    with exactly(encoder):
        exact, usual = _searched(encoder, part)
        precision = encoder.precision
    test = paired_comparison(exact, int8, seed, groups=part.groups)
    return {
        "exact": precision,
        "queries": len(part.queries),
        "documents": len(part.documents),
        "mrr_exact": float(exact.mean()),
        "mrr_int8": float(int8.mean()),
        **{name: test[name] for name in ("difference", "low", "high", "p")},
        "texts_s_exact": usual,
        "texts_s_int8": speed,
    }


def sentence(found: dict[str, Any]) -> str:
    """What `int8_loss` returns, in one line."""
    return (
        "int8 beside {exact}, {queries} queries over {documents} documents: MRR {mrr_int8:.4f} and {mrr_exact:.4f}, "
        "difference {difference:+.4f} [{low:+.4f}, {high:+.4f}], p {p:.3f}; "
        "{texts_s_int8:.0f} and {texts_s_exact:.0f} texts a second"
    ).format(**found)


def sample(task: Task, generator: np.random.Generator) -> Task:
    """Up to 200 random queries of a task over all that is relevant to them and random other documents, 2,000 in all."""
    queries = np.sort(generator.permutation(len(task.queries))[:_QUERIES])
    kept = np.zeros(len(task.documents), bool)
    kept[np.concatenate([task.relevant[query] for query in queries])] = True
    others = generator.permutation(np.flatnonzero(~kept))
    kept[others[: max(0, _DOCUMENTS - int(kept.sum()))]] = True
    place = np.cumsum(kept) - 1

    def of(values: list | None) -> list | None:
        return None if values is None else [values[query] for query in queries]

    barred = of(task.barred)
    return dataclasses.replace(
        task,
        queries=of(task.queries),
        documents=[task.documents[at] for at in np.flatnonzero(kept)],
        relevant=[place[np.asarray(indices)] for indices in of(task.relevant)],
        groups=of(task.groups),
        barred=barred and [place[indices[kept[indices]]] for indices in (np.asarray(each, int) for each in barred)],
        grades=of(task.grades),
        tables=of(task.tables),
    )


def _searched(encoder: Encoder, task: Task) -> tuple[np.ndarray, float]:
    """The metric of each query (Q,), and texts encoded in a second."""
    encoder.encode(task.queries[:1], "query")  # the first call also warms up
    started = time.perf_counter()
    sides = encoder.encode(task.queries, "query"), encoder.encode(task.documents, "document")
    speed = (len(task.queries) + len(task.documents)) / (time.perf_counter() - started)
    return rank_all(task, embedding_scores(*sides))[METRIC].to_numpy(), speed
