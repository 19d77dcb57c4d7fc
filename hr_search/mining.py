"""Hard negatives: wrong documents that an encoder finds close to a query, and what they look like.

Every policy is a chain of filters, in this order:

1. Documents that are relevant to the query are taken out; what is left is ranked from 0, nearest first.
2. The rank window keeps the ranks from `start` up to, but without, `stop`. A quantile band is the same
   window in shares of the corpus; where both are given, a rank has to lie in both.
3. The share rule drops what scores too close to the query's own positive, or above it: probably a
   right document that nobody marked. It drops within the window and does not move the window on, so
   a query whose positive scores badly may be left without negatives; `statistics` counts those.
4. `count` of the rest are taken: the nearest, or random ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from hr_search.base import errors
from hr_search.base.arrays import incidence
from hr_search.base.choices import SAMPLINGS
from hr_search.base.errors import InputError
from hr_search.nearest import nearest_chunks, pair_scores

DEPTH = 100  # ranks looked at unless a window or a band says more


@dataclass(frozen=True)
class Mined:
    """The hard negatives of Q queries.

    Attributes:
        negatives: (Q, count) int64, indices of documents, nearest first, -1 where there are fewer.
        scores: (Q, count) float32, their cosines with the query, -inf where there are fewer.
        own_scores: (Q,) float32, the cosine of each query with its own positive.
        candidates: (Q,) int64, documents in the window, before the share rule.
        suspects: (Q,) int64, those of them that look like unmarked positives: dropped by the share
            rule or, where it is off, scoring above the query's own positive.
    """

    negatives: np.ndarray
    scores: np.ndarray
    own_scores: np.ndarray
    candidates: np.ndarray
    suspects: np.ndarray


def mine(
    queries: np.ndarray,
    documents: np.ndarray,
    positives: sparse.csr_array,
    own: np.ndarray,
    count: int = 10,
    start: int = 0,
    stop: int = 0,
    band: tuple[float, float] = (0.0, 0.0),
    share: float = 0.95,
    sampling: str = "top",
    seed: int = 0,
    backend: str = "auto",
    device: str | torch.device | None = None,
) -> Mined:
    """Up to `count` hard negatives of each query; the module's text says how the filters combine.

    Memory is bounded as in `neighbours.nearest`; a band is searched from rank 0, a few queries at a time.

    Args:
        queries: (Q, D) embeddings of any length.
        documents: (N, D).
        positives: (Q, N), not zero where a document is relevant to a query (its whole group); these
            are never negatives, nor is the query's own positive.
        own: (Q,), index of each query's own positive, the one whose score the share rule looks at.
        count: negatives wanted.
        start: first rank taken, 0 for the nearest; skipping a few avoids unmarked positives.
        stop: the rank after the last one; 0 = the band's, or 100 (or what `count` needs) without a band.
        band: the ranks between two shares of the corpus, such as (0.03, 0.04), the runner-ups of ConFit
            v2 (arXiv:2502.12361); (0, 0) = no band.
        share: a negative may score at most this share of the positive's score (TopK-PercPos of
            NV-Retriever, arXiv:2407.15831), that is s⁺ - (1 - share)·|s⁺|, which is below a negative
            score, too; 0 or 1 = off.
        sampling: "top" (the nearest) or "random" (any, all with the same chance).
        seed: of the random ones.
        backend: "auto", "torch" or "faiss".
        device: where torch multiplies; None = a GPU where there is one.

    Raises:
        InputError: arrays that do not fit together or hold NaN, a window or band with room for fewer
            than `count` ranks, or a query with fewer than `count` documents that are not relevant to it.
    """
    size = (len(queries), len(documents))
    own = _indices(own, size)
    if not sparse.issparse(positives) or positives.shape != size:
        raise InputError(
            f"positives have shape {getattr(positives, 'shape', None)}; they must be a sparse array of shape {size}, "
            "queries by documents."
        )
    if not 0 <= share <= 1:
        raise InputError(f"share is {share:g}; it must be from 0 to 1, where both ends turn the rule off.")
    if sampling not in SAMPLINGS:
        raise InputError(f'sampling "{sampling}" is unknown; {errors.suggestion(sampling, SAMPLINGS)}')
    first, last = window(count, start, stop, band, size[1])
    relevant = sparse.csr_array(positives != 0) + incidence(np.arange(size[0]), own, size)
    chunks = nearest_chunks(queries, documents, last, relevant, backend=backend, device=device)
    left = size[1] - np.diff(relevant.indptr)
    if left.min() < count:
        raise InputError(
            f"query row {left.argmin() + 1} has only {left.min()} documents that are not relevant to it, fewer than "
            f"count {count}; lower count or give more documents."
        )
    strict = 0 < share < 1
    generator = np.random.default_rng(seed)
    parts = []
    for at, found, scores in chunks:
        rows = slice(at, at + len(found))
        found, scores = found[:, first:], scores[:, first:]
        own_scores = pair_scores(queries[rows], documents[own[rows]])
        limit = own_scores - (1 - share) * np.abs(own_scores) if strict else own_scores
        present = found >= 0
        # Scores come in steps of 1e-6; half a step keeps one that equals the limit.
        suspects = present & (scores > limit[:, None] + 5e-7)
        kept = present & ~suspects if strict else present
        if sampling == "random":
            kept = _sample(kept, count, generator)
        parts.append((*_first(found, scores, kept, count), own_scores, present.sum(axis=1), suspects.sum(axis=1)))
    return Mined(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def mine_texts(
    encode: Callable[[list[str], str], np.ndarray] | Any,
    queries: Sequence[str],
    documents: Sequence[str],
    positives: sparse.csr_array | None = None,
    own: np.ndarray | None = None,
    **policy: Any,
) -> Mined:
    """`mine` for texts and any encoder; each distinct text is encoded once and equal texts count as one.

    What is relevant to a query is relevant to every query of the same text, and a copy of a relevant
    document is relevant, too. No text is returned twice for a query.

    Args:
        encode: a function of texts and their side ("query" or "document") that returns embeddings
            (texts, D), an `Encoder`, or a sentence-transformers model.
        queries: Q texts.
        documents: N texts.
        positives: (Q, N), as in `mine`; None = only the own ones.
        own: (Q,), as in `mine`; None = document i is the positive of query i, so Q = N.
        **policy: the other settings of `mine`.

    Returns:
        As `mine`; of equal documents, the index of the first one.

    Raises:
        InputError: as `mine`, or an encoder that does not return one embedding a text.
    """
    size = (len(queries), len(documents))
    if own is None and size[0] != size[1]:
        raise InputError(f"there are {size[0]} queries and {size[1]} documents; tell each query's own positive by own.")
    own = _indices(np.arange(size[0]) if own is None else own, size)
    if positives is not None and positives.shape != size:
        raise InputError(f"positives have shape {positives.shape}, not {size}, queries by documents.")
    query, query_texts = _distinct(queries, "query")
    document, document_texts = _distinct(documents, "document")
    relevant = incidence(np.arange(size[0]), own, size)
    if positives is not None:
        relevant = relevant + sparse.csr_array(positives != 0)
    texts_of = incidence(np.arange(size[0]), query, (size[0], len(query_texts)))
    merged = relevant @ incidence(np.arange(size[1]), document, (size[1], len(document_texts)))
    merged = sparse.csr_array(texts_of @ (texts_of.T @ merged))
    mined = mine(
        _encoded(encode, query_texts, "query")[query],
        _encoded(encode, document_texts, "document"),
        merged,
        document[own],
        **policy,
    )
    originals = np.unique(document, return_index=True)[1]
    negatives = np.where(mined.negatives >= 0, originals[mined.negatives], -1)
    return Mined(negatives, mined.scores, mined.own_scores, mined.candidates, mined.suspects)


def statistics(mined: Mined, own_scores: np.ndarray | None = None) -> pd.DataFrame:
    """One row that says how many negatives were mined and how hard they are.

    Args:
        mined: what `mine` returns.
        own_scores: (Q,), scores of the own positives to compare with; None = those in `mined`.

    Returns:
        `queries`, `count` (wanted of each), `negatives_mean` and `negatives_min` (per query), `without`
        (queries without any), `positive_mean` and `negative_mean` (cosines), `gap_mean`, `gap_05`, `gap_50`
        and `gap_95` (over negatives: the positive's score minus theirs; NaN where nothing was mined) and
        `suspected` (share of the documents in the windows that look like unmarked positives).

    Raises:
        InputError: not one own score a query.
    """
    own_scores = mined.own_scores if own_scores is None else np.asarray(own_scores)
    if own_scores.shape != mined.own_scores.shape:
        raise InputError(f"own_scores have shape {own_scores.shape}; {len(mined.own_scores)} queries were mined.")
    present = mined.negatives >= 0
    numbers = present.sum(axis=1)
    scores = mined.scores[present].astype(np.float64)
    gaps = np.repeat(own_scores, numbers) - scores
    low, middle, high = np.quantile(gaps, (0.05, 0.5, 0.95)) if gaps.size else np.full(3, np.nan)
    row = {
        "queries": len(present),
        "count": present.shape[1],
        "negatives_mean": float(numbers.mean()),
        "negatives_min": int(numbers.min()),
        "without": int((numbers == 0).sum()),
        "positive_mean": float(own_scores.mean(dtype=np.float64)),
        "negative_mean": float(scores.mean()) if scores.size else np.nan,
        "gap_mean": float(gaps.mean()) if gaps.size else np.nan,
        "gap_05": float(low),
        "gap_50": float(middle),
        "gap_95": float(high),
        "suspected": float(mined.suspects.sum() / max(1, mined.candidates.sum())),
    }
    return pd.DataFrame([row])


def examples(
    queries: Sequence[str],
    documents: Sequence[str],
    mined: Mined,
    own: np.ndarray,
    count: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Random queries with their positive and their mined negatives, to be read by eye.

    Args:
        queries: the Q texts that were mined for.
        documents: the N texts that were mined from.
        mined: what `mine` returned for them.
        own: (Q,), as in `mine`.
        count: queries shown; all where there are fewer.
        seed: of the choice.

    Returns:
        One row a negative, nearest first: `query`, `positive`, `positive_score`, `rank` (among the mined
        ones, from 1), `negative`, `negative_score`. A query without negatives has one row of rank 0.

    Raises:
        InputError: texts or `own` that do not fit what was mined, or a count below 1.
    """
    own = _indices(own, (len(queries), len(documents)))
    if len(queries) != len(mined.negatives) or mined.negatives.max(initial=-1) >= len(documents):
        raise InputError(
            f"{len(queries)} queries and {len(documents)} documents do not fit what was mined for "
            f"{len(mined.negatives)} queries; give the texts that were mined."
        )
    if count < 1:
        raise InputError(f"count is {count}; it must be at least 1.")
    chosen = np.random.default_rng(seed).choice(len(queries), min(count, len(queries)), replace=False)
    rows = []
    for query in np.sort(chosen):
        fixed = (queries[query], documents[own[query]], float(mined.own_scores[query]))
        pairs = zip(mined.negatives[query], mined.scores[query], strict=True)
        found = [(documents[index], float(score)) for index, score in pairs if index >= 0]
        rows += [(*fixed, rank, *pair) for rank, pair in enumerate(found, 1)] or [(*fixed, 0, "", np.nan)]
    columns = ["query", "positive", "positive_score", "rank", "negative", "negative_score"]
    return pd.DataFrame(rows, columns=columns)


def _indices(own: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`own` (Q,) as int64, refused unless it names one of N documents for each of Q queries."""
    own = np.asarray(own)
    if own.shape != size[:1] or own.dtype.kind not in "iu":
        raise InputError(
            f"own is an array of shape {own.shape} and type {own.dtype}; it must hold one document index for each of "
            f"{size[0]} queries."
        )
    wrong = np.flatnonzero((own < 0) | (own >= size[1]))
    if wrong.size:
        raise InputError(f"own: row {wrong[0] + 1} is {own[wrong[0]]}; document indices are from 0 to {size[1] - 1}.")
    return own.astype(np.int64)


def window(count: int, start: int, stop: int, band: tuple[float, float], documents: int) -> tuple[int, int]:
    """The first rank that `mine` looks at, and the one after the last; its arguments, among so many documents.

    Raises:
        InputError: `count` negatives have no room in it.
    """
    if count < 1:
        raise InputError(f"count is {count}; it must be at least 1.")
    if start < 0 or stop < 0 or stop > documents or (stop and stop <= start):
        raise InputError(
            f"the rank window from {start} to {stop} does not fit; start is at least 0 and stop above start and at "
            f"most the number of documents, {documents} (0 = no stop)."
        )
    low, high = band
    first, last = start, stop or min(documents, max(DEPTH, start + count))
    if (low, high) != (0, 0):
        if not 0 <= low < high <= 1:
            raise InputError(f"the band is {low:g} to {high:g}; take two shares of the corpus such as 0.03, 0.04.")
        first, last = max(start, round(low * documents)), min(stop or documents, round(high * documents))
    if last - first < count:
        raise InputError(
            f"the window holds {max(0, last - first)} ranks of {documents} documents, fewer than count {count}; "
            "lower count or widen the window or the band."
        )
    return first, last


def _sample(kept: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Up to `count` random ones of the true places in each row (R, W); the same whatever R is at a time."""
    draws = np.where(kept, generator.random(kept.shape, dtype=np.float32), -1)
    places = np.argpartition(-draws, count - 1, axis=1)[:, :count]
    chosen = np.zeros_like(kept)
    np.put_along_axis(chosen, places, True, axis=1)
    return chosen & kept


def _first(found: np.ndarray, scores: np.ndarray, kept: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` kept documents of each row and their scores (R, count), padded with -1 and -inf."""
    place = kept.cumsum(axis=1)
    rows, columns = np.nonzero(kept & (place <= count))
    negatives = np.full((len(kept), count), -1, np.int64)
    values = np.full((len(kept), count), -np.inf, np.float32)
    negatives[rows, place[rows, columns] - 1] = found[rows, columns]
    values[rows, place[rows, columns] - 1] = scores[rows, columns]
    return negatives, values


def _distinct(texts: Sequence[str], side: str) -> tuple[np.ndarray, list[str]]:
    """For each text its place among the distinct ones, and these in the order they come in."""
    codes, distinct = pd.factorize(pd.Series(list(texts), dtype=object))
    for code, text in enumerate(distinct):
        if not isinstance(text, str):
            raise InputError(f"{side} row {np.argmax(codes == code) + 1} is no text but {text!r}.")
    if codes.min(initial=0) < 0:
        raise InputError(f"{side} row {codes.argmin() + 1} is empty; drop it.")
    return codes, list(distinct)


def _encoded(encode: Any, texts: list[str], side: str) -> np.ndarray:
    """Embeddings (texts, D) by whatever kind of encoder it is."""
    if hasattr(encode, f"encode_{side}"):  # sentence-transformers, which takes no side
        embeddings = getattr(encode, f"encode_{side}")(texts)
    else:
        embeddings = getattr(encode, "encode", encode)(texts, side)
    embeddings = np.asarray(embeddings)
    if len(embeddings) != len(texts):
        raise InputError(f"the encoder returned {len(embeddings)} embeddings for {len(texts)} {side} texts.")
    return embeddings
