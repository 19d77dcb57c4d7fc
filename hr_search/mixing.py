"""Embedding mixing: what a loss should see instead of, or beside, the queries and documents of a batch.

Query-side strategies move a query's embedding by its nearest positives and negatives; document-side
ones make synthetic negatives out of its nearest negatives. At search time nobody knows which documents are
relevant; `search.memory` then mixes with known pairs. Neighbours are found by cosine among the documents given (the
batch, or the batch and a bank of recent documents) and enter without gradient unless asked, so that the
loss cannot be lowered by pulling the neighbours along.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hr_search.base.choices import DOCUMENT_MIXINGS, MIXINGS, QUERY_MIXINGS
from hr_search.base.devices import to_device
from hr_search.base.errors import InputError, suggestion

NOISE = 0.01  # standard deviation of synco's noise in each coordinate
_TINY = 1e-6


@dataclasses.dataclass(frozen=True)
class MixingPolicy:
    """How queries are mixed, or synthetic negatives made.

    Attributes:
        strategy: "none", a query-side one (see `move_queries`) or a document-side one (`synthesise_negatives`).
        k: neighbours of each kind; parents of synthetic negatives.
        query_weight: α, weight of the query itself.
        positive_weight: β, weight of its nearest positives; of slerp, share of the way to them.
        negative_weight: γ, weight of its nearest negatives.
        count: synthetic negatives of each kind per row.
        start: share of the run's steps before mixing begins.
        probability: that a row is mixed.
        own: whether a row's own positive may be among its nearest positives. It lowers the loss without
            making the encoder better.
        detach: neighbours enter without gradient.
    """

    strategy: str = "none"
    k: int = 1
    query_weight: float = 0.8
    positive_weight: float = 0.2
    negative_weight: float = -0.1
    count: int = 4
    start: float = 0.0
    probability: float = 1.0
    own: bool = False
    detach: bool = True

    def __post_init__(self) -> None:
        if self.strategy not in MIXINGS:
            raise InputError(f"unknown mixing strategy {self.strategy!r}; {suggestion(self.strategy, MIXINGS)}")

    def active(self, step: int, total: int) -> bool:
        """Whether there is mixing at `step` (from 0) of `total`."""
        return self.strategy != "none" and step >= self.start * total


@dataclasses.dataclass(frozen=True)
class MixedBatch:
    """What the loss should see.

    Attributes:
        queries: (B, D), L2-normalised.
        synthetic: (B, S, D) further negatives of each row alone, L2-normalised, zeros where there is
            none; None under strategies that make none.
    """

    queries: Tensor
    synthetic: Tensor | None = None


def mix(
    queries: Tensor,
    documents: Tensor,
    positive: Tensor,
    relevant: Tensor,
    candidates: Tensor,
    policy: MixingPolicy,
    generator: np.random.Generator | None = None,
) -> MixedBatch:
    """The queries and synthetic negatives that a loss should see under a mixing policy.

    Args:
        queries: (B, D), L2-normalised.
        documents: (M, D), L2-normalised; those of a bank may follow those of the batch.
        positive: (B,) index of each row's own positive in documents.
        relevant: (B, M), documents of the query's groups, own positive included or not.
        candidates: (B, M), documents of other groups.
        policy: strategy, neighbours and weights.
        generator: draws rows and synthetic negatives; not needed where nothing is drawn.

    Returns:
        The queries, changed or not, and the synthetic negatives, if any.

    Raises:
        ValueError: something is to be drawn and there is no generator.

    Example:
        >>> policy = MixingPolicy("weighted", own=True, query_weight=0.5, positive_weight=0.5, negative_weight=0.0)
        >>> relevant = torch.tensor([[True, False]])
        >>> mix(torch.tensor([[1.0, 0.0]]), torch.eye(2), torch.tensor([0]), relevant, ~relevant, policy).queries
        tensor([[1., 0.]])
    """
    if policy.strategy == "none" or policy.probability <= 0:
        return MixedBatch(queries)
    if generator is None and (policy.probability < 1 or policy.strategy in DOCUMENT_MIXINGS):
        raise ValueError("mixing some rows only, or making synthetic negatives, needs a generator")
    chosen = torch.ones(len(queries), dtype=torch.bool, device=queries.device)
    if policy.probability < 1:
        chosen = to_device(generator.random(len(queries)) < policy.probability, queries.device)
    if policy.strategy in DOCUMENT_MIXINGS:
        synthetic = synthesise_negatives(queries, documents, candidates, policy, generator)
        return MixedBatch(queries, synthetic * chosen[:, None, None])
    if not policy.own:
        relevant = relevant & ~functional.one_hot(positive, len(documents)).bool()
    moved = move_queries(queries, documents, relevant, candidates, policy)
    return MixedBatch(torch.where(chosen[:, None], moved, queries))


# -- queries -------------------------------------------------------------------------------------


def move_queries(
    queries: Tensor, documents: Tensor, relevant: Tensor, candidates: Tensor, policy: MixingPolicy
) -> Tensor:
    """The queries a loss should see under a query-side strategy.

    - `mean` averages the query with its k nearest positives and k nearest negatives.
    - `weighted` is αq + β·mean(P) + γ·mean(N).
    - `rocchio` is the same with -|γ|, away from the negatives whatever the sign (Rocchio 1971; for
      dense retrieval Li et al. 2021, arXiv:2108.11044).
    - `slerp` goes the share β of the way along the arc from the query to the mean of its nearest
      positives and ignores negatives (spherical interpolation: m²-Mix, arXiv:2203.03897).

    Args:
        queries: (B, D), L2-normalised.
        documents: (M, D), L2-normalised.
        relevant: (B, M), documents of the query's group other than its own positive; a query without any
            skips the term.
        candidates: (B, M), documents of other groups; a query without any skips the term.
        policy: with a strategy of the query side.

    Returns:
        (B, D), L2-normalised; a query without neighbours, or whose sum vanishes, stays.
    """
    if policy.strategy not in QUERY_MIXINGS:
        raise InputError(f"mixing by {policy.strategy!r} moves no queries; {', '.join(QUERY_MIXINGS)} do.")
    positives, found = nearest_sum(queries, documents, relevant, policy.k, policy.detach)
    if policy.strategy == "slerp":
        return combine(queries, positives, found, torch.zeros_like(queries), torch.zeros_like(found), policy)
    negatives, negative_count = nearest_sum(queries, documents, candidates, policy.k, policy.detach)
    return combine(queries, positives, found, negatives, negative_count, policy)


def combine(
    queries: Tensor, positives: Tensor, found: Tensor, negatives: Tensor, negative_count: Tensor, policy: MixingPolicy
) -> Tensor:
    """Embeddings moved by neighbours that are known already, as `move_queries` says for each strategy.

    Args:
        queries: (B, D), L2-normalised.
        positives: (B, D), the sum of each query's positive neighbours.
        found: (B, 1), how many they are.
        negatives: (B, D), the sum of its negative neighbours.
        negative_count: (B, 1), how many they are.
        policy: with a strategy of the query side.

    Returns:
        (B, D), L2-normalised; a query without neighbours, or whose sum vanishes, stays.
    """
    if policy.strategy == "slerp":
        total = slerp(queries, functional.normalize(positives, dim=-1), policy.positive_weight)
    else:
        if policy.strategy == "mean":
            total = queries + positives + negatives
        else:
            away = -abs(policy.negative_weight) if policy.strategy == "rocchio" else policy.negative_weight
            total = (
                policy.query_weight * queries
                + policy.positive_weight * positives / found.clamp(min=1)
                + away * negatives / negative_count.clamp(min=1)
            )
        found = found + negative_count
    stays = (found == 0) | (total.norm(dim=-1, keepdim=True) < _TINY)
    return torch.where(stays, queries, functional.normalize(total, dim=-1))


def nearest_sum(queries: Tensor, documents: Tensor, allowed: Tensor, k: int, detach: bool) -> tuple[Tensor, Tensor]:
    """The sum of the embeddings of each query's k nearest allowed documents.

    Args:
        queries: (B, D), L2-normalised.
        documents: (M, D), L2-normalised.
        allowed: (B, M), true where a document may be taken.
        k: how many to take; fewer where fewer are allowed.
        detach: take them without gradient.

    Returns:
        (B, D) sums of the neighbours' embeddings and (B, 1) how many they are.
    """
    with torch.no_grad():
        scores = (queries @ documents.T).masked_fill(~allowed, -torch.inf)
        best = scores.topk(min(k, scores.shape[1]), dim=1)
        found = best.values.isfinite().to(scores.dtype)  # (B, k)
    taken = documents.detach() if detach else documents
    sums = functional.embedding_bag(best.indices, taken, per_sample_weights=found, mode="sum")
    return sums, found.sum(dim=1, keepdim=True)


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Points (B, D) at `share` of the way along the arc from `start` (B, D) to `end` (B, D), both of length 1."""
    cosine = (start * end).sum(dim=-1, keepdim=True)
    # Away from 0 and π the sine can divide; at the bound the weights are those of a straight line already.
    cosine = cosine.to(torch.promote_types(cosine.dtype, torch.float32)).clamp(_TINY - 1, 1 - _TINY)
    angle = cosine.arccos()
    from_start, from_end = ((part * angle).sin() / angle.sin() for part in (1 - share, share))
    return from_start.to(start.dtype) * start + from_end.to(start.dtype) * end


# -- synthetic negatives -------------------------------------------------------------------------


def synthesise_negatives(
    queries: Tensor, documents: Tensor, candidates: Tensor, policy: MixingPolicy, generator: np.random.Generator
) -> Tensor:
    """Synthetic negatives of each query, made from parents drawn among its k nearest negatives.

    - `mochi` (Kalantidis et al. 2020, arXiv:2010.01028): between two different parents,
      αn₁ + (1 - α)n₂ with α from U(0, 1), and from a parent towards the query, βq + (1 - β)n with β
      from U(0, ½).
    - `synco` (Giakoumoglou and Stathaki 2024, arXiv:2410.02401): beyond a parent, q + β(n - q) with β
      from U(1, 1½); from a parent towards the query, as above; and a parent with normal noise of
      standard deviation 0.01 in each coordinate.

    Args:
        queries: (B, D), L2-normalised.
        documents: (M, D), L2-normalised.
        candidates: (B, M), true where a document may be a parent.
        policy: with a strategy of the document side; mochi takes two parents at least.
        generator: draws parents and shares.

    Returns:
        (B, S, D), L2-normalised, S = 2 `count` (mochi) or 3 `count` (synco). Zeros stand for what
        cannot be made: all of a query without negatives, and what needs two of them.
    """
    if policy.strategy not in DOCUMENT_MIXINGS:
        raise InputError(f"mixing by {policy.strategy!r} makes no documents; {', '.join(DOCUMENT_MIXINGS)} do.")
    if policy.detach:
        queries, documents = queries.detach(), documents.detach()
    with torch.no_grad():
        scores = (queries @ documents.T).masked_fill(~candidates, -torch.inf)
        wanted = max(policy.k, 2) if policy.strategy == "mochi" else policy.k
        hardest = scores.topk(min(wanted, scores.shape[1]), dim=1)
        parents = hardest.values.isfinite().sum(dim=1, keepdim=True)  # (B, 1)
    size, query = (len(queries), policy.count), queries[:, None]

    def drawn(low: float, high: float) -> Tensor:
        return to_device(generator.uniform(low, high, (*size, 1)), queries.device).to(queries.dtype)

    def places(among: Tensor) -> Tensor:  # whole numbers below each row's `among`, 0 where that is 0
        share = to_device(generator.random(size, dtype=np.float32), queries.device)
        return (share * among).long().minimum(among - 1).clamp(min=0)

    def parent(place: Tensor) -> Tensor:
        return documents[hardest.indices.gather(1, place)]  # (B, count, D)

    first = places(parents)
    near = parent(first)
    inward = near.lerp(query, drawn(0, 0.5))
    if policy.strategy == "mochi":
        second = (first + 1 + places(parents - 1)) % parents.clamp(min=1)
        kinds, needed = [parent(second).lerp(near, drawn(0, 1)), inward], (2, 1)
    else:
        normal = to_device(generator.standard_normal(tuple(near.shape), dtype=np.float32), queries.device)
        noise = NOISE * normal.to(queries.dtype)
        kinds, needed = [query + drawn(1, 1.5) * (near - query), inward, near + noise], (1, 1, 1)
    there = torch.cat([(parents >= least).expand(size) for least in needed], dim=1)
    return functional.normalize(torch.cat(kinds, dim=1), dim=-1) * there[..., None]
