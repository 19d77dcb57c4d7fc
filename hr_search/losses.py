"""Contrastive losses as pure functions on L2-normalised embeddings.

Each takes queries (B, D), distinct documents (M, D), the index of each query's own positive
(B,) and a mask (B, M) of the documents that may serve as its negatives. Rows of one group never
are in that mask for one another, so two vacancies with one title are not negatives of each other. Each
also takes synthetic negatives (B, S, D) that belong to one row alone; zeros stand for none, as an
embedding of length 1 is never zero. `distillation` takes scores instead.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hr_search.base.choices import HARDNESS
from hr_search.base.errors import InputError, suggestion

# -- of pairs ------------------------------------------------------------------------------------


def triplet(
    queries: Tensor,
    documents: Tensor,
    positive: Tensor,
    candidates: Tensor,
    margin: float = 0.3,
    *,
    hardness: str = "hardest",
    synthetic: Tensor | None = None,
) -> Tensor:
    """Cosine triplet loss: mean of max(0, margin - s⁺ + s⁻) over the negatives that `hardness` picks.

    With one candidate a row this is the classic triplet loss; with all other documents of the batch
    it is batch-hard mining (Hermans et al. 2017, arXiv:1703.07737).

    Args:
        queries: (B, D).
        documents: (M, D).
        positive: (B,) index into documents.
        candidates: (B, M), true where a document may be the negative.
        margin: cosine by which the positive must be nearer.
        hardness: "hardest" takes the nearest candidate; "semi-hard" the nearest that is still further
            than the positive, and the furthest where none is (FaceNet, Schroff et al. 2015,
            arXiv:1503.03832); "all" every candidate that violates the margin.
        synthetic: (B, S, D) further candidates of each row.

    Returns:
        The scalar mean over the rows that have a candidate, or for "all" over the violations.

    Raises:
        InputError: an unknown hardness.

    Example:
        >>> embeddings = torch.eye(2)
        >>> triplet(embeddings, embeddings, torch.tensor([0, 1]), ~torch.eye(2).bool())  # s⁺ = 1, s⁻ = 0
        tensor(0.)
    """
    if hardness not in HARDNESS:
        raise InputError(f"the hardness of negatives is {hardness!r}; {suggestion(hardness, HARDNESS)}")
    if hardness == "all":
        scores, allowed = _scores(queries, documents, candidates, synthetic)
        right = scores.gather(1, positive[:, None])
        cost = functional.relu(scores - right + margin).masked_fill(~allowed, 0)
        return cost.sum() / (cost > 0).sum().clamp(min=1)
    with torch.no_grad():
        scores, allowed = _scores(queries, documents, candidates, synthetic)
        negative = _negative(scores, allowed, scores.gather(1, positive[:, None]), hardness)
    pool = documents if synthetic is None else torch.cat([documents, synthetic.flatten(0, 1)])
    if synthetic is not None:  # column M + s of row b stands at M + b·S + s in the pool
        shift = torch.arange(len(queries), device=queries.device) * synthetic.shape[1]
        negative = torch.where(negative < len(documents), negative, negative + shift)
    return _mean_cost(queries, documents[positive], pool[negative], allowed.any(dim=1), margin)


def gap(
    queries: Tensor, documents: Tensor, positive: Tensor, candidates: Tensor, synthetic: Tensor | None = None
) -> Tensor:
    """How much nearer the nearest candidate is than the positive, (B,): s⁻ - s⁺, -inf without candidates.

    A row is active, that is, still costs something in a triplet loss, while its gap is above -margin.
    """
    scores, allowed = _scores(queries, documents, candidates, synthetic)
    right = scores.gather(1, positive[:, None]).squeeze(1)
    return scores.masked_fill(~allowed, -torch.inf).amax(dim=1) - right


def infonce(
    queries: Tensor,
    documents: Tensor,
    positive: Tensor,
    candidates: Tensor,
    relevant: Tensor,
    temperature: float = 0.05,
    margin: float = 0.0,
    *,
    symmetric: bool = True,
    synthetic: Tensor | None = None,
    further: tuple[Tensor, Tensor] | None = None,
    weights: tuple[Tensor, Tensor] | None = None,
    grades: Tensor | None = None,
) -> Tensor:
    """In-batch cross-entropy, InfoNCE (van den Oord et al. 2018, arXiv:1807.03748).

    A margin is taken off the score of the own positive before the softmax (additive margin softmax,
    Yang et al. 2019, arXiv:1902.08564). With one this is `margin-ce`, the loss of the original
    training code of this project (margin 0.3, there on dot products without normalisation).

    With `weights` w a row has many positives, some of them in part: its target is no longer the own document alone but
    the distribution p_j = w_j / Σ_k w_k over the batch, and its cost the cross-entropy -Σ_j p_j log softmax(s / τ)_j,
    the softmax over positives and negatives together. With weights of 0 and 1 this is the supervised contrastive loss
    with the sum outside the logarithm (Khosla et al. 2020, arXiv:2004.11362, eq. 2). With `grades` g the loss is
    (1 / B) Σ_b g_b cost_b instead of the mean.

    Args:
        queries: (B, D).
        documents: (M, D).
        positive: (B,) index into documents.
        candidates: (B, M), true where a document is a negative of the query.
        relevant: (B, B), true where the query of the column fits the document of the row, in full or in part.
        temperature: divides the cosines.
        margin: cosine taken off the positive.
        symmetric: also from each row's document to all queries; false = from query to documents only.
        synthetic: (B, S, D) further negatives of each query.
        further: (E, D) queries of no row, and a mask (B, E), true where one is wrong for the row's document; they
            count in the second direction only.
        weights: (B, M) of the documents for each row's query, and (B, B) of the queries (columns) for each row's
            document: 1 for a match, less for a partial one, 0 for none; 1 for the own. None = the own alone counts.
        grades: (B,) weights of the rows; None = all 1.

    Returns:
        The scalar mean over the rows, and over both directions where there are two.

    Example:
        >>> point = torch.ones(2, 1)  # the two pairs are indistinguishable: ln 2
        >>> infonce(point, point, torch.tensor([0, 1]), ~torch.eye(2).bool(), torch.eye(2).bool())
        tensor(0.6931)
    """
    scores, allowed = _scores(queries, documents, candidates, synthetic)
    own = functional.one_hot(positive, scores.shape[1]).bool()
    there, back = (None, None) if weights is None else weights
    if there is not None:
        there = functional.pad(there, (0, scores.shape[1] - there.shape[1]))  # synthetic negatives match nothing
        allowed = allowed | (there > 0)
    forward = ((scores - margin * own) / temperature).masked_fill(~(allowed | own), -torch.inf)
    loss = _cross_entropy(forward, positive, there, grades)
    if not symmetric:
        return loss
    rows = torch.arange(len(queries), device=queries.device)
    cosines = documents[positive] @ queries.T  # (B, B): each row's document against all queries
    diagonal = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
    left_out = relevant & ~diagonal if back is None else relevant & (back == 0)
    backward = ((cosines - margin * diagonal) / temperature).masked_fill(left_out, -torch.inf)
    if further is not None:
        others = (documents[positive] @ further[0].T / temperature).masked_fill(~further[1], -torch.inf)
        backward = torch.cat([backward, others], dim=1)
        back = None if back is None else functional.pad(back, (0, others.shape[1]))
    return (loss + _cross_entropy(backward, rows, back, grades)) / 2


def _cross_entropy(logits: Tensor, own: Tensor, weights: Tensor | None, grades: Tensor | None) -> Tensor:
    """The mean cross-entropy of logits (B, K) against the own column (B,), or against weights (B, K), by row grades."""
    if weights is None and grades is None:
        return functional.cross_entropy(logits, own)
    logs = functional.log_softmax(logits, dim=1)
    if weights is None:
        cost = -logs.gather(1, own[:, None]).squeeze(1)
    else:
        shares = weights / weights.sum(dim=1, keepdim=True)
        cost = -(shares * logs.masked_fill(shares == 0, 0)).sum(dim=1)  # a product of 0 and -inf would be NaN
    return (cost if grades is None else grades * cost).mean()


def _scores(queries: Tensor, documents: Tensor, candidates: Tensor, synthetic: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cosines of documents and synthetic negatives (B, M + S), and which of them may be negatives."""
    scores = queries @ documents.T
    if synthetic is None:
        return scores, candidates
    extra = torch.einsum("bd,bsd->bs", queries, synthetic)
    return torch.cat([scores, extra], dim=1), torch.cat([candidates, synthetic.any(dim=-1)], dim=1)


def _negative(scores: Tensor, allowed: Tensor, right: Tensor, hardness: str) -> Tensor:
    """The column (B,) of the allowed score that is highest, or highest below `right` (B, 1), else lowest."""
    best = scores.masked_fill(~allowed, -torch.inf)
    if hardness == "hardest":
        return best.argmax(dim=1)
    further = best.masked_fill(scores >= right, -torch.inf)
    furthest = scores.masked_fill(~allowed, torch.inf).argmin(dim=1)
    return torch.where(further.isfinite().any(dim=1), further.argmax(dim=1), furthest)


def _mean_cost(anchors: Tensor, positives: Tensor, negatives: Tensor, counted: Tensor, margin: float) -> Tensor:
    """Mean triplet cost of the rows of three (B, D) that are `counted` (B,).

    The negatives are known by now, so gradients flow through B rows and not through a (B, M) matrix.
    """
    cost = functional.relu((anchors * (negatives - positives)).sum(dim=1) + margin)
    return cost.masked_fill(~counted, 0).sum() / counted.sum().clamp(min=1)


# -- of a teacher --------------------------------------------------------------------------------


def distillation(
    student: Tensor, teacher: Tensor, allowed: Tensor, temperature: float = 0.05, teachertemperature: float = 1.0
) -> Tensor:
    """How far the student's ranking is from the teacher's: KL(teacher ‖ student) of their softmaxes over scored texts.

    Soft targets of Hinton et al. 2015 (arXiv:1503.02531), over the texts of a row as in RocketQAv2 (Ren et al. 2021,
    arXiv:2110.07367). Hinton's factor T² is left out: it makes up for one temperature that softens both sides, while
    the student's here only scales its cosines, as in `infonce`, and so gives gradients of the same size as there.

    Args:
        student: (B, K) cosines; gradients flow into them.
        teacher: (B, K) logits, higher = better.
        allowed: (B, K), true where the teacher has scored that text for that row; the rest may hold anything, NaN too.
        temperature: divides the cosines.
        teachertemperature: divides the logits; above 1 the teacher is less sure.

    Returns:
        The scalar mean over the rows with at least two scored texts; 0 where there are none.

    Example:
        >>> logits, every = torch.tensor([[2.0, 1.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool)
        >>> distillation(logits, logits, every, temperature=1.0)  # equal distributions
        tensor(0.)
    """
    lowest = torch.finfo(student.dtype).min  # not -inf: a product with 0 would be NaN
    logs, shares = (
        functional.log_softmax((scores / scale).masked_fill(~allowed, lowest), dim=1)
        for scores, scale in ((student, temperature), (teacher.to(student.dtype), teachertemperature))
    )
    cost = functional.kl_div(logs, shares, reduction="none", log_target=True).masked_fill(~allowed, 0).sum(dim=1)
    ranked = allowed.sum(dim=1) > 1
    return cost.masked_fill(~ranked, 0).sum() / ranked.sum().clamp(min=1)


# -- figures -------------------------------------------------------------------------------------


def spread(embeddings: Tensor) -> Tensor:
    """How far embeddings stand apart: 1 - their mean pairwise cosine, 0 when all are one point.

    Args:
        embeddings: (N, D), L2-normalised.

    Returns:
        A scalar in [0, 2]; NaN where there is no pair.
    """
    count = len(embeddings)
    if count < 2:
        return embeddings.new_full((), torch.nan)
    total = embeddings.sum(dim=0).square().sum()  # sum of all N² cosines without the (N, N) matrix
    return 1 - (total - count) / (count * (count - 1))
