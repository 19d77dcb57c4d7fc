"""Hard negatives of any encoder, mined from texts, to be read by eye before training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from hr_search.anchors import anchors
from hr_search.base.arrays import incidence
from hr_search.base.errors import InputError
from hr_search.base.text import shortened
from hr_search.batches import index_rows
from hr_search.encoder import Encoder
from hr_search.mining import Mined, MiningPolicy, indices_of_positives, mine, statistics
from hr_search.nearest import nearest_chunks


def overview(
    pairs: pd.DataFrame, encoder: Encoder, rows: int = 300, queries: int = 5, nearest: int = 3, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The wrong documents that an encoder finds nearest.

    Nothing is left out for scoring above the positive: such a document is often a positive that nobody marked.

    Args:
        pairs: the train rows.
        encoder: as it is now; usually the base model.
        rows: pairs drawn at random, whose documents are searched.
        queries: shown.
        nearest: wrong documents of each; fewer in a table that has fewer.
        seed: of the draws.

    Returns:
        `mining.statistics` and `examples`; without rows where every document is relevant to some query.
    """
    drawn = index_rows(pairs.sample(min(rows, len(pairs)), random_state=seed))
    (_, _, own), relevant = anchors(drawn), drawn.query_groups @ drawn.document_groups.T
    wrong = len(drawn.documents) - int(np.diff(relevant.indptr).max(initial=0))
    if wrong < 1:
        return pd.DataFrame(), pd.DataFrame()
    policy = MiningPolicy(count=min(nearest, wrong), share=0.0)
    mined = mine_texts(encoder.encode, drawn.queries, drawn.documents, relevant, own, policy)
    found = examples(drawn.queries, drawn.documents, mined, own, queries, seed)
    return statistics(mined), found.assign(
        **{name: shortened(found[name]) for name in ("query", "positive", "negative")}
    )


def mine_texts(
    encode: Callable[[list[str], str], np.ndarray] | Any,
    queries: Sequence[str],
    documents: Sequence[str],
    positives: sparse.csr_array | None = None,
    own: np.ndarray | None = None,
    policy: MiningPolicy | None = None,
    seed: int = 0,
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
        policy: as in `mine`; None = its defaults.
        seed: of random sampling.

    Returns:
        As `mine`; of equal documents, the index of the first one.

    Raises:
        InputError: as `mine`, or an encoder that does not return one embedding a text.
    """
    size = (len(queries), len(documents))
    if own is None and size[0] != size[1]:
        raise InputError(f"there are {size[0]} queries and {size[1]} documents; give each query's own positive in own.")
    own = indices_of_positives(np.arange(size[0]) if own is None else own, size)
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
        policy or MiningPolicy(),
        seed,
    )
    originals = np.unique(document, return_index=True)[1]
    negatives = np.where(mined.negatives >= 0, originals[mined.negatives], -1)
    return Mined(negatives, mined.scores, mined.own_scores, mined.candidates, mined.suspects)


def mined_table(
    pairs: pd.DataFrame,
    encoder: Encoder,
    policy: MiningPolicy | None = None,
    seed: int = 0,
    search: Callable[..., Iterator[tuple[int, np.ndarray, np.ndarray]]] = nearest_chunks,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A table of pairs with hard negatives, as training with `negatives = mined` finds them at its first step.

    Args:
        pairs: columns `query`, `positive` and `group`, maybe `negatives`, whose texts are searched as well.
        encoder: the model.
        policy: filters and count; None = the defaults. Its `side` must be "document".
        seed: of random sampling.
        search: as in `mining.mine`.

    Returns:
        `query`, `positive`, `negatives` (a list of texts, nearest first; fewer than `count` or none where the filters
        leave no more) and `group`, a row for each of `pairs`; and `mining.statistics`.

    Raises:
        InputError: as `mining.mine`.
    """
    rows = index_rows(pairs)
    asking, place, own = anchors(rows)
    policy = policy or MiningPolicy()
    policy.window(len(rows.documents))  # refuses what has no room before anything is encoded
    tables = {"query": encoder.tokens(rows.queries, "query"), "document": encoder.tokens(rows.documents, "document")}
    sides = {side: encoder.embed(table, progress=True) for side, table in tables.items()}
    relevant = rows.query_groups[asking] @ rows.document_groups.T
    mined = mine(sides["query"][asking], sides["document"], relevant, own, policy, seed, search=search)
    lists = [[rows.documents[at] for at in found if at >= 0] for found in mined.negatives[place].tolist()]
    return pairs[["query", "positive"]].assign(negatives=lists, group=pairs["group"]), statistics(mined)


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
    own = indices_of_positives(own, (len(queries), len(documents)))
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


def _distinct(texts: Sequence[str], side: str) -> tuple[np.ndarray, list[str]]:
    """For each text its place among the distinct ones, and these in the order they come in."""
    codes, distinct = pd.factorize(pd.Series(list(texts), dtype=object))
    for code, text in enumerate(distinct):
        if not isinstance(text, str):
            raise InputError(f"{side} row {np.argmax(codes == code) + 1} is not text but {text!r}.")
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
