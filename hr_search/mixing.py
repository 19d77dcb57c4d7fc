"""Embedding mixing: what a loss should see instead of, or beside, the queries and documents of a batch.

Query-side strategies move a query's embedding by its nearest positives and negatives; document-side
ones make synthetic negatives out of its nearest negatives. Training only: at evaluation nobody knows
which documents are right. Neighbours are found by cosine among the documents given (the batch, or the
batch and a memory bank) and enter without gradient unless asked, so that the loss cannot be lowered
by pulling the neighbours along.
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
class Mixed:
    """What the loss should see.

    Attributes:
        queries: (B, D), L2-normalised.
        synthetic: (B, S, D) further negatives of each row alone, L2-normalised, zeros where there is
            none; None under strategies that make none.
    """

    queries: Tensor
    synthetic: Tensor | None = None


def mixed(
    queries: Tensor,
    documents: Tensor,
    positive: Tensor,
    relevant: Tensor,
    candidates: Tensor,
    strategy: str = "none",
    k: int = 1,
    query_weight: float = 0.8,
    positive_weight: float = 0.2,
    negative_weight: float = -0.1,
    *,
    count: int = 4,
    own: bool = False,
    detach: bool = True,
    probability: float = 1.0,
    generator: np.random.Generator | None = None,
) -> Mixed:
    """Queries and synthetic negatives of a batch under any of `MIXINGS`.

    Args:
        queries: (B, D), L2-normalised.
        documents: (M, D), L2-normalised; those of a memory bank may follow those of the batch.
        positive: (B,) index of each row's own positive in documents.
        relevant: (B, M), documents of the query's groups, own positive included or not.
        candidates: (B, M), documents of other groups.
        strategy: as `mix` and `synthesise` explain them, or "none".
        k: neighbours of each kind; parents of synthetic negatives.
        query_weight: α of `mix`.
        positive_weight: β of `mix`.
        negative_weight: γ of `mix`.
        count: synthetic negatives of each kind per row.
        own: whether a row's own positive may be among its nearest positives. It makes the loss
            smaller without making the encoder better.
        detach: neighbours enter without gradient.
        probability: of a row to be mixed.
        generator: draws rows and synthetic negatives; not needed where nothing is drawn.

    Returns:
        The queries, changed or not, and the synthetic negatives, if any.

    Raises:
        InputError: an unknown strategy.
        ValueError: something is to be drawn without a generator.
    """
    if strategy not in MIXINGS:
        raise InputError(f"unknown mixing strategy {strategy!r}; {suggestion(strategy, MIXINGS)}")
    if strategy == "none" or probability <= 0:
        return Mixed(queries)
    if generator is None and (probability < 1 or strategy in DOCUMENT_MIXINGS):
        raise ValueError("mixing some rows only, or making synthetic negatives, needs a generator")
    chosen = torch.ones(len(queries), dtype=torch.bool, device=queries.device)
    if probability < 1:
        chosen = to_device(generator.random(len(queries)) < probability, queries.device)
    if strategy in DOCUMENT_MIXINGS:
        synthetic = synthesise(queries, documents, candidates, strategy, generator, k, count, detach=detach)
        return Mixed(queries, synthetic * chosen[:, None, None])
    if not own:
        relevant = relevant & ~functional.one_hot(positive, len(documents)).bool()
    weights = query_weight, positive_weight, negative_weight
    moved = mix(queries, documents, relevant, candidates, strategy, k, *weights, detach=detach)
    return Mixed(torch.where(chosen[:, None], moved, queries))


def active(step: int, total: int, start: float) -> bool:
    """Whether mixing has begun at `step` (from 0) of `total`, when it begins after the share `start` of them."""
    return step >= start * total


# -- queries -------------------------------------------------------------------------------------


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
    *,
    detach: bool = True,
) -> Tensor:
    """The queries a loss should see under a query-side strategy.

    - `none` leaves them.
    - `mean` averages the query with its k nearest positives and k nearest negatives.
    - `weighted` is αq + β·mean(P) + γ·mean(N).
    - `rocchio` is the same with -|γ|, away from the negatives whatever the sign (Rocchio 1971; for
      dense retrieval Li et al. 2021, arXiv:2108.11044).
    - `slerp` goes the share β of the way along the arc from the query to the mean of its nearest
      positives, and away from nothing (spherical interpolation: m²-Mix, arXiv:2203.03897).

    Args:
        queries: (B, D), L2-normalised.
        documents: (M, D), L2-normalised.
        relevant: (B, M), documents of the query's group other than its own positive.
        candidates: (B, M), documents of other groups.
        strategy: "none" or one of `QUERY_MIXINGS`.
        k: neighbours of each kind.
        query_weight: α.
        positive_weight: β; a query without positives skips the term.
        negative_weight: γ; a query without negatives skips the term.
        detach: neighbours enter without gradient.

    Returns:
        (B, D), L2-normalised; a query without neighbours, or whose sum is nothing, stays.

    Raises:
        InputError: an unknown strategy.
    """
    if strategy == "none":
        return queries
    if strategy not in QUERY_MIXINGS:
        raise InputError(
            f"the mixing strategy {strategy!r} moves no queries; those that do: {', '.join(QUERY_MIXINGS)}"
        )
    positives, found = neighbours(queries, documents, relevant, k, detach)
    if strategy == "slerp":
        total = slerp(queries, functional.normalize(positives, dim=-1), positive_weight)
    else:
        negatives, negative_count = neighbours(queries, documents, candidates, k, detach)
        if strategy == "mean":
            total = queries + positives + negatives
        else:
            away = -abs(negative_weight) if strategy == "rocchio" else negative_weight
            total = (
                query_weight * queries
                + positive_weight * positives / found.clamp(min=1)
                + away * negatives / negative_count.clamp(min=1)
            )
        found = found + negative_count
    stays = (found == 0) | (total.norm(dim=-1, keepdim=True) < _TINY)
    return torch.where(stays, queries, functional.normalize(total, dim=-1))


def neighbours(
    queries: Tensor, documents: Tensor, allowed: Tensor, k: int, detach: bool = True
) -> tuple[Tensor, Tensor]:
    """The embeddings of each query's k nearest allowed documents, summed up.

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
    # Off 0 and π the sine can divide; at the bound the weights are those of a straight line already.
    cosine = cosine.to(torch.promote_types(cosine.dtype, torch.float32)).clamp(_TINY - 1, 1 - _TINY)
    angle = cosine.arccos()
    from_start, from_end = ((part * angle).sin() / angle.sin() for part in (1 - share, share))
    return from_start.to(start.dtype) * start + from_end.to(start.dtype) * end


# -- documents -----------------------------------------------------------------------------------


def synthesise(
    queries: Tensor,
    documents: Tensor,
    candidates: Tensor,
    strategy: str,
    generator: np.random.Generator,
    k: int = 1,
    count: int = 4,
    *,
    detach: bool = True,
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
        strategy: one of `DOCUMENT_MIXINGS`.
        generator: draws parents and shares.
        k: nearest negatives that may be parents; mochi takes two at least.
        count: how many of each kind.
        detach: queries and parents enter without gradient.

    Returns:
        (B, S, D), L2-normalised, S = 2 `count` (mochi) or 3 `count` (synco). Zeros stand for what
        cannot be made: everything of a query without negatives, and what needs two of them.

    Raises:
        InputError: an unknown strategy.
    """
    if strategy not in DOCUMENT_MIXINGS:
        raise InputError(
            f"the mixing strategy {strategy!r} makes no documents; those that do: {', '.join(DOCUMENT_MIXINGS)}"
        )
    if detach:
        queries, documents = queries.detach(), documents.detach()
    with torch.no_grad():
        scores = (queries @ documents.T).masked_fill(~candidates, -torch.inf)
        wanted = max(k, 2) if strategy == "mochi" else k
        hardest = scores.topk(min(wanted, scores.shape[1]), dim=1)
        parents = hardest.values.isfinite().sum(dim=1, keepdim=True)  # (B, 1)
    size, query = (len(queries), count), queries[:, None]

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
    if strategy == "mochi":
        second = (first + 1 + places(parents - 1)) % parents.clamp(min=1)
        kinds, needed = [parent(second).lerp(near, drawn(0, 1)), inward], (2, 1)
    else:
        noise = NOISE * to_device(generator.standard_normal(tuple(near.shape), dtype=np.float32), queries.device).to(
            queries.dtype
        )
        kinds, needed = [query + drawn(1, 1.5) * (near - query), inward, near + noise], (1, 1, 1)
    there = torch.cat([(parents >= least).expand(size) for least in needed], dim=1)
    return functional.normalize(torch.cat(kinds, dim=1), dim=-1) * there[..., None]
