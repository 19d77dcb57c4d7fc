"""How long a user of the encoder waits: encoding documents, and exact search among them, on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from hr_search.base import arrays
from hr_search.base.errors import InputError
from hr_search.encoder import Encoder

DOCUMENTS = 10_000  # that are encoded and searched


def timing_table(encoder: Encoder, documents: list[str], sample: int, seed: int) -> pd.DataFrame:
    """The time to encode 10,000 documents, and to find the nearest one and the five nearest of them.

    Encoding is timed on up to `sample` documents and scaled up; the search runs over 10,000 vectors of the
    model's dimension, random ones where documents are too few.

    Returns:
        what, unit ("s", "ms" or "texts"), value.
    """
    started = time.perf_counter()
    embeddings = encoder.encode(documents[:sample], "document")
    seconds = (time.perf_counter() - started) / len(embeddings) * DOCUMENTS
    generator = np.random.default_rng(seed)
    searched = generator.standard_normal((DOCUMENTS, encoder.dimension)).astype(np.float32)
    searched[: len(embeddings)] = embeddings[:DOCUMENTS]
    encoding = pd.DataFrame([{"what": f"encoding {DOCUMENTS:,} documents", "unit": "s", "value": seconds}])
    return pd.concat([encoding, search_timing(searched)], ignore_index=True)


def search_timing(documents: np.ndarray, repeats: int = 100) -> pd.DataFrame:
    """How long one query takes to find its nearest document and its five nearest, exactly, on the CPU.

    Args:
        documents: (N, D) embeddings; random rows of them serve as queries.
        repeats: queries timed; the median is kept.

    Returns:
        `what`, `unit`, `value`: the milliseconds of top-1 and top-5, and the number of documents searched.

    Raises:
        InputError: as `metrics.embedding_scores`, or fewer than one repeat.
    """
    documents = arrays.normalised(documents, "document")
    if repeats < 1:
        raise InputError(f"repeats is {repeats}; it must be at least 1.")
    queries = documents[np.random.default_rng(0).integers(0, len(documents), repeats)]
    count = min(5, len(documents))

    def top_1(query: np.ndarray) -> int:
        return (documents @ query).argmax()

    def top_5(query: np.ndarray) -> np.ndarray:
        similarities = documents @ query
        best = np.argpartition(similarities, len(documents) - count)[-count:]
        return best[np.argsort(-similarities[best])]

    rows = [
        ("search top-1", "ms", 1000 * _median_seconds(top_1, queries)),
        ("search top-5", "ms", 1000 * _median_seconds(top_5, queries)),
        ("documents searched", "texts", float(len(documents))),
    ]
    return pd.DataFrame(rows, columns=["what", "unit", "value"])


def _median_seconds(search: Callable[[np.ndarray], object], queries: np.ndarray) -> float:
    """The median time of one search."""
    search(queries[0])  # the first call also loads and warms up the libraries
    seconds = []
    for query in queries:
        begin = time.perf_counter()
        search(query)
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))
