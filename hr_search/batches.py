"""Batches: which rows meet in a step, their distinct texts, and who may repel whom."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd


@dataclasses.dataclass(frozen=True)
class Rows:
    """N training rows as indices into distinct texts.

    Attributes:
        queries: distinct query texts.
        documents: distinct document texts (positives and given negatives).
        query: (N,) index into queries.
        positive: (N,) index into documents.
        negatives: per row, indices into documents.
        group: (N,) number of the row's group.
    """

    queries: list[str]
    documents: list[str]
    query: np.ndarray
    positive: np.ndarray
    negatives: list[np.ndarray]
    group: np.ndarray

    def __len__(self) -> int:
        return len(self.query)


@dataclasses.dataclass(frozen=True)
class Batch:
    """The rows of one step over their distinct texts.

    Attributes:
        queries: indices of the distinct query texts, (Q,).
        documents: indices of the distinct document texts, (M,).
        query: row to its place in queries, (B,).
        positive: row to its place in documents, (B,).
        relevant: (B, M), documents of the row's group, its own positive included.
        given: (B, M), the row's given negatives.
        same: (B, B), rows whose queries fit each other's documents.
    """

    queries: np.ndarray
    documents: np.ndarray
    query: np.ndarray
    positive: np.ndarray
    relevant: np.ndarray
    given: np.ndarray
    same: np.ndarray


def index_rows(pairs: pd.DataFrame) -> Rows:
    """The rows of a pairs table over its distinct texts."""
    negatives = list(pairs["negatives"]) if "negatives" in pairs else [[]] * len(pairs)
    query, queries = pd.factorize(pairs["query"])
    flat = [text for wrong in negatives for text in wrong]
    codes, documents = pd.factorize(pd.Series(list(pairs["positive"]) + flat, dtype=object))
    ends = len(pairs) + np.cumsum([len(wrong) for wrong in negatives], dtype=np.int64)
    starts = np.concatenate([[len(pairs)], ends[:-1]]).astype(np.int64)
    wrong = [codes[start:end] for start, end in zip(starts, ends, strict=True)]
    group, _ = pd.factorize(pairs["group"])
    return Rows(list(queries), list(documents), query, codes[: len(pairs)], wrong, group)


def epoch_batches(count: int, batchsize: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Row numbers of each batch of an epoch: every row once, in an order that (seed, epoch) decides.

    A last batch of a single row would have nothing to compare with; it joins the batch before.
    """
    order = np.random.default_rng([seed, epoch]).permutation(count)
    batches = [order[at : at + batchsize] for at in range(0, count, batchsize)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        last = batches.pop()
        batches[-1] = np.concatenate([batches[-1], last])
    return batches


def make_batch(rows: Rows, chosen: np.ndarray) -> Batch:
    """The batch of the `chosen` rows, each distinct text once, with its relevance masks."""
    queries, query = np.unique(rows.query[chosen], return_inverse=True)
    own = rows.positive[chosen]
    wrong = [rows.negatives[row] for row in chosen]
    documents = np.unique(np.concatenate([own, *wrong]))
    positive = np.searchsorted(documents, own)
    group = rows.group[chosen]
    same_group = group[:, None] == group[None, :]
    holds = np.zeros((len(chosen), len(documents)), bool)  # row r contributes document d
    holds[np.arange(len(chosen)), positive] = True
    relevant = (same_group.astype(np.int32) @ holds.astype(np.int32)) > 0
    given = np.zeros_like(relevant)
    for at, indices in enumerate(wrong):
        given[at, np.searchsorted(documents, indices)] = True
    # A document that several groups share fits the queries of all of them.
    same = same_group | (own[:, None] == own[None, :])
    return Batch(queries, documents, query, positive, relevant, given & ~relevant, same)


def candidates(batch: Batch, policy: str, generator: np.random.Generator) -> np.ndarray:
    """Which documents may be each row's negative, (B, M) bool.

    Args:
        batch: the rows of the step.
        policy: "given" (the table's own), "random" (one document of another group) or "batch" (all
            documents of other groups, given ones included).
        generator: draws the random ones.
    """
    if policy == "given":
        return batch.given
    others = ~batch.relevant
    if policy == "batch":
        return others
    draws = np.where(others, generator.random(others.shape), -1.0)
    chosen = np.zeros_like(others)
    chosen[np.arange(len(draws)), draws.argmax(axis=1)] = True
    return chosen & others
