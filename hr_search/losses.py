"""Contrastive losses as pure functions on L2-normalised embeddings.

All take queries (B, D), distinct documents (M, D), the index of each query's own positive (B,) and
a mask (B, M) of the documents that may serve as its negatives. Rows of one group never stand in
that mask for one another, so two vacancies with one title do not repel each other.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def triplet(queries: Tensor, documents: Tensor, positive: Tensor, candidates: Tensor, margin: float = 0.3) -> Tensor:
    """Cosine triplet loss against the nearest candidate: mean of max(0, margin - s⁺ + s⁻).

    With one candidate a row this is the classic triplet loss; with all other documents of the batch
    it is batch-hard mining (Hermans et al. 2017, arXiv:1703.07737).

    Args:
        queries: (B, D).
        documents: (M, D).
        positive: (B,) index into documents.
        candidates: (B, M), true where a document may be the negative.
        margin: cosine by which the positive must be nearer.

    Returns:
        The scalar mean over the rows that have a candidate.
    """
    cost = functional.relu(gap(queries, documents, positive, candidates) + margin)
    return cost.sum() / candidates.any(dim=1).sum().clamp(min=1)


def gap(queries: Tensor, documents: Tensor, positive: Tensor, candidates: Tensor) -> Tensor:
    """How much nearer the nearest candidate is than the positive, (B,): s⁻ - s⁺, -inf without candidates.

    A row is active, that is, still costs something in a triplet loss, while its gap is above -margin.
    """
    scores = queries @ documents.T  # (B, M)
    right = scores.gather(1, positive[:, None]).squeeze(1)
    return scores.masked_fill(~candidates, -torch.inf).amax(dim=1) - right


def infonce(
    queries: Tensor,
    documents: Tensor,
    positive: Tensor,
    candidates: Tensor,
    relevant: Tensor,
    temperature: float = 0.05,
    margin: float = 0.0,
) -> Tensor:
    """In-batch cross-entropy in both directions, InfoNCE (van den Oord et al. 2018, arXiv:1807.03748).

    A margin is taken off the score of the own positive before the softmax (additive margin softmax,
    Yang et al. 2019, arXiv:1902.08564).

    Args:
        queries: (B, D).
        documents: (M, D).
        positive: (B,) index into documents.
        candidates: (B, M), true where a document is a negative of the query.
        relevant: (B, B), true where the query of the column fits the document of the row.
        temperature: divides the cosines.
        margin: cosine taken off the positive.

    Returns:
        The scalar mean of both directions.
    """
    rows = torch.arange(len(queries), device=queries.device)
    scores = queries @ documents.T  # (B, M)
    own = functional.one_hot(positive, scores.shape[1]).bool()
    forward = ((scores - margin * own) / temperature).masked_fill(~(candidates | own), -torch.inf)
    back = documents[positive] @ queries.T  # (B, B): each row's document against all queries
    diagonal = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
    backward = ((back - margin * diagonal) / temperature).masked_fill(relevant & ~diagonal, -torch.inf)
    return (functional.cross_entropy(forward, positive) + functional.cross_entropy(backward, rows)) / 2


def spread(embeddings: Tensor) -> Tensor:
    """How far embeddings stand apart: 1 - their mean pairwise cosine, 0 when all are one point.

    Args:
        embeddings: (N, D), L2-normalised, N >= 2.

    Returns:
        A scalar in [0, 2].
    """
    count = len(embeddings)
    total = embeddings.sum(dim=0).square().sum()  # sum of all N² cosines without the (N, N) matrix
    return 1 - (total - count) / (count * (count - 1))
