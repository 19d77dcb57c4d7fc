"""Embedding mixing: the query's embedding mixed with those of its nearest positives and negatives.

Training only: at evaluation nobody knows which documents are right. Neighbours are found by cosine
among the documents of the batch and enter without gradient, so that the loss cannot be lowered by
pulling the neighbours along.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def neighbours(queries: Tensor, documents: Tensor, allowed: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The embeddings of each query's k nearest allowed documents, summed up.

    Args:
        queries: (B, D), L2-normalised.
        documents: (M, D), L2-normalised.
        allowed: (B, M), true where a document may be taken.
        k: how many to take; fewer where fewer are allowed.

    Returns:
        (B, D) sums of the neighbours' embeddings and (B, 1) how many they are.
    """
    with torch.no_grad():
        scores = (queries @ documents.T).masked_fill(~allowed, -torch.inf)
        best = scores.topk(min(k, scores.shape[1]), dim=1)
        weights = torch.zeros_like(scores).scatter_(1, best.indices, best.values.isfinite().to(scores.dtype))
        return weights @ documents, weights.sum(dim=1, keepdim=True)


def mix(
    queries: Tensor,
    documents: Tensor,
    relevant: Tensor,
    candidates: Tensor,
    strategy: str = "none",
    k: int = 1,
    query_weight: float = 0.8,
    positive_weight: float = 0.2,
    negative_weight: float = -0.1,
) -> Tensor:
    """The queries a loss should see under a mixing strategy.

    `none` leaves them; `mean` averages the query with its k nearest positives and k nearest
    negatives; `weighted` is αq + β·mean(P) + γ·mean(N), Rocchio's form when γ < 0 (Rocchio 1971;
    for dense retrieval Li et al. 2021, arXiv:2108.11044).

    Args:
        queries: (B, D), L2-normalised.
        documents: (M, D), L2-normalised.
        relevant: (B, M), documents of the query's group other than its own positive.
        candidates: (B, M), documents of other groups.
        strategy: "none", "mean" or "weighted".
        k: neighbours of each kind.
        query_weight: α.
        positive_weight: β; a query without positives skips the term.
        negative_weight: γ; a query without negatives skips the term.

    Returns:
        (B, D), L2-normalised.

    Raises:
        ValueError: an unknown strategy.
    """
    if strategy == "none":
        return queries
    positives, positive_count = neighbours(queries, documents, relevant, k)
    negatives, negative_count = neighbours(queries, documents, candidates, k)
    if strategy == "mean":
        mixed = (queries + positives + negatives) / (1 + positive_count + negative_count)
    elif strategy == "weighted":
        mixed = (
            query_weight * queries
            + positive_weight * positives / positive_count.clamp(min=1)
            + negative_weight * negatives / negative_count.clamp(min=1)
        )
    else:
        raise ValueError(f"unknown mixing strategy {strategy!r}")
    return functional.normalize(mixed, dim=-1)
