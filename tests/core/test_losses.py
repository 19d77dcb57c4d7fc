"""Losses by arithmetic, by gradients, and against sentence-transformers on the same embeddings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sentence_transformers import losses as peers
from sentence_transformers.sentence_transformer.losses.batch_hard_triplet import BatchHardTripletLossDistanceFunction
from torch.nn.functional import kl_div, normalize

from hr_search.base.errors import InputError
from hr_search.losses import (
    HARDNESS,
    distillation,
    gap,
    infonce,
    spread,
    triplet,
)


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Random vectors of length 1."""
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


def at_angles(*degrees: float) -> torch.Tensor:
    """Points on the circle."""
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def others(count: int) -> torch.Tensor:
    """(B, B) true off the diagonal: every other document is wrong."""
    return ~torch.eye(count, dtype=torch.bool)


ROWS = torch.arange


# -- triplet -------------------------------------------------------------------------------------


def test_triplet_by_hand():
    queries, documents = at_angles(0, 90), at_angles(0, 60, 180)
    wrong = torch.tensor([[False, True, True], [True, False, True]])
    # Row 1: own at cosine 1, nearest wrong one at .5. Row 2: own at cos 30°, both wrong ones at 0.
    gaps = gap(queries, documents, torch.tensor([0, 1]), wrong)
    torch.testing.assert_close(gaps, torch.tensor([0.5 - 1, -math.sqrt(3) / 2], dtype=torch.float64))
    loss = triplet(queries, documents, torch.tensor([0, 1]), wrong, margin=0.9)
    assert loss.item() == pytest.approx((0.4 + 0.9 - math.sqrt(3) / 2) / 2)
    assert triplet(queries, documents, torch.tensor([0, 1]), wrong, margin=0.5).item() == pytest.approx(0, abs=1e-12)


def test_zeros_cost_the_margin():
    zeros = torch.zeros(4, 8)
    assert triplet(zeros, zeros, ROWS(4), others(4), margin=0.3).item() == pytest.approx(0.3)


def test_a_swapped_triplet_costs_more():
    query, documents = at_angles(0), at_angles(10, 80)
    right = triplet(query, documents, torch.tensor([0]), torch.tensor([[False, True]]))
    swapped = triplet(query, documents, torch.tensor([1]), torch.tensor([[True, False]]))
    assert right.item() == 0 and swapped.item() == pytest.approx(
        0.3 + math.cos(math.radians(10)) - math.cos(math.radians(80))
    )


def test_only_the_nearest_candidate_counts():
    query, documents = at_angles(0), at_angles(0, 30, 60, 90)
    mask = torch.tensor([[False, True, True, True]])
    every = triplet(query, documents, torch.tensor([0]), mask, 1.0)
    nearest = triplet(query, documents, torch.tensor([0]), torch.tensor([[False, True, False, False]]), 1.0)
    farther = triplet(query, documents, torch.tensor([0]), torch.tensor([[False, False, True, True]]), 1.0)
    assert every.item() == nearest.item() == pytest.approx(
        math.cos(math.radians(30))
    ) and farther.item() == pytest.approx(0.5)


@pytest.mark.parametrize("hardness", HARDNESS)
def test_rows_without_candidates_neither_cost_nor_count(hardness):
    queries, documents, mask = unit(3, 4), unit(3, 4, seed=1), others(3)
    mask[2] = False
    first = triplet(queries[:2], documents, ROWS(2), mask[:2], 1.0, hardness=hardness)
    torch.testing.assert_close(triplet(queries, documents, ROWS(3), mask, 1.0, hardness=hardness), first)
    queries.requires_grad_()
    nothing = triplet(queries, documents, ROWS(3), torch.zeros_like(mask), 1.0, hardness=hardness)
    nothing.backward()
    assert nothing.item() == 0 and (queries.grad == 0).all()
    assert gap(queries, documents, ROWS(3), mask)[2].item() == -math.inf


def test_a_group_is_never_repelled():
    # Documents 0 and 1 are of one group; the loss must not see what they are to each other's query.
    queries, mask = unit(3, 4), others(3)
    mask[0, 1] = mask[1, 0] = False
    documents = unit(3, 4, seed=1).requires_grad_()
    for row, fellow in ((0, 1), (1, 0)):
        loss = triplet(queries[row : row + 1], documents, torch.tensor([row]), mask[row : row + 1], 2.0)
        (gradient,) = torch.autograd.grad(loss, documents)
        assert (gradient[fellow] == 0).all() and (gradient[2] != 0).any() and (gradient[row] != 0).any()


def assert_same(ours: torch.Tensor, peer: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    """Equal losses with equal gradients along the sphere, where embeddings of length 1 live."""
    torch.testing.assert_close(ours, peer, atol=1e-6, rtol=0)
    for point, mine, theirs in zip(
        inputs, torch.autograd.grad(ours, inputs), torch.autograd.grad(peer, inputs), strict=True
    ):
        mine, theirs = (each - (each * point).sum(-1, keepdim=True) * point for each in (mine, theirs))
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)
        assert (mine != 0).any()


@pytest.mark.parametrize("margin", [0.0, 0.3, 1.5])
@pytest.mark.parametrize("hardness", HARDNESS[:2])
def test_triplet_equals_the_triplet_loss_of_sentence_transformers(margin, hardness):
    columns = [unit(16, 8, seed=seed).requires_grad_() for seed in range(3)]
    peer = peers.TripletLoss(None, distance_metric=peers.TripletDistanceMetric.COSINE, triplet_margin=margin)
    expected = peer.compute_loss_from_embeddings(columns, None)
    mask = torch.cat([torch.zeros(16, 16), torch.eye(16)], dim=1).bool()
    loss = triplet(columns[0], torch.cat(columns[1:]), ROWS(16), mask, margin, hardness=hardness)
    assert_same(loss, expected, columns)


@pytest.mark.parametrize("margin", [0.3, 1.0])
def test_triplet_equals_the_batch_hard_loss_of_sentence_transformers(margin):
    # Two texts a label: the hardest positive of each is the other one.
    embeddings, labels = unit(12, 8), torch.arange(6).repeat(2)
    peer = peers.BatchHardTripletLoss(None, BatchHardTripletLossDistanceFunction.cosine_distance, margin)
    expected = peer.compute_loss_from_embeddings([embeddings], labels)
    partner = (torch.arange(12) + 6) % 12
    loss = triplet(embeddings, embeddings, partner, labels[:, None] != labels[None, :], margin)
    torch.testing.assert_close(loss, expected)


# -- hardness ------------------------------------------------------------------------------------

# From the query at 0°: own positive at 40°, candidates at 20°, 60° and 120°.
QUERY, AROUND, OWN = at_angles(0), at_angles(40, 20, 60, 120), torch.tensor([0])
AWAY = torch.tensor([[False, True, True, True]])


def cosine(degrees: float) -> float:
    return math.cos(math.radians(degrees))


@pytest.mark.parametrize(
    "hardness, expected",
    [
        ("hardest", 0.4 + cosine(20) - cosine(40)),
        ("semi-hard", 0.4 + cosine(60) - cosine(40)),
        ("all", (0.8 + cosine(20) + cosine(60) - 2 * cosine(40)) / 2),  # 120° is far enough
    ],
)
def test_hardness_by_hand(hardness, expected):
    assert triplet(QUERY, AROUND, OWN, AWAY, 0.4, hardness=hardness).item() == pytest.approx(expected)


def test_semi_hard_falls_back_to_the_furthest():
    # Own positive at 130°: every candidate is nearer, the furthest of them at 120°.
    documents = at_angles(130, 20, 60, 120)
    loss = triplet(QUERY, documents, OWN, AWAY, 0.4, hardness="semi-hard").item()
    assert loss == pytest.approx(0.4 + cosine(120) - cosine(130))


def test_semi_hard_passes_over_a_candidate_as_near_as_the_positive():
    documents = at_angles(40, 40, 60)
    loss = triplet(QUERY, documents, OWN, torch.tensor([[False, True, True]]), 0.4, hardness="semi-hard").item()
    assert loss == pytest.approx(0.4 + cosine(60) - cosine(40))


def test_an_unknown_hardness():
    with pytest.raises(InputError, match='"hardest"'):
        triplet(QUERY, AROUND, OWN, AWAY, hardness="hard")


@pytest.mark.parametrize("hardness", HARDNESS)
def test_the_order_of_rows_and_documents_does_not_matter(hardness):
    generator = torch.Generator().manual_seed(0)
    queries, documents, mask = unit(6, 4), unit(9, 4, seed=1), torch.rand(6, 9, generator=generator) < 0.6
    rows, columns = torch.randperm(6, generator=generator), torch.randperm(9, generator=generator)
    positive = torch.tensor([3, 1, 8, 0, 0, 5])
    mask[ROWS(6), positive] = False
    synthetic = unit(6, 2, 4, seed=2)
    first = triplet(queries, documents, positive, mask, 0.8, hardness=hardness, synthetic=synthetic)
    placed = columns.argsort()[positive[rows]]
    again = triplet(
        queries[rows],
        documents[columns],
        placed,
        mask[rows][:, columns],
        0.8,
        hardness=hardness,
        synthetic=synthetic[rows],
    )
    torch.testing.assert_close(first, again)


# -- synthetic negatives -------------------------------------------------------------------------


def each_loss(queries, documents, mask, synthetic=None):
    """Every loss of pairs, row i having document i for its own."""
    positive = ROWS(len(queries))
    losses = [triplet(queries, documents, positive, mask, 0.8, hardness=name, synthetic=synthetic) for name in HARDNESS]
    same = torch.eye(len(queries), dtype=torch.bool)
    for symmetric in (True, False):
        options = {"symmetric": symmetric, "synthetic": synthetic}
        losses.append(infonce(queries, documents, positive, mask, same, 0.3, 0.1, **options))
    return torch.stack([*losses, gap(queries, documents, positive, mask, synthetic).sum()])


def test_synthetic_negatives_are_candidates_of_their_row_alone():
    queries, documents, synthetic, mask = unit(4, 5), unit(4, 5, seed=1), unit(4, 3, 5, seed=2), others(4)
    # The same as documents 4, 5, ... of which each row may see its own three.
    mine = torch.eye(4, dtype=torch.bool).repeat_interleave(3, dim=1)
    pool = torch.cat([documents, synthetic.flatten(0, 1)])
    expected = each_loss(queries, pool, torch.cat([mask, mine], dim=1))
    torch.testing.assert_close(each_loss(queries, documents, mask, synthetic), expected)
    assert (expected != each_loss(queries, documents, mask)).all()


def test_zeros_stand_for_no_synthetic_negative():
    queries, documents, synthetic, mask = unit(4, 5), unit(4, 5, seed=1), unit(4, 3, 5, seed=2), others(4)
    expected = each_loss(queries, documents, mask)
    torch.testing.assert_close(each_loss(queries, documents, mask, torch.zeros(4, 3, 5).double()), expected)
    torch.testing.assert_close(each_loss(queries, documents, mask, synthetic[:, :0]), expected)
    padded = torch.cat([synthetic, torch.zeros_like(synthetic)], dim=1)
    torch.testing.assert_close(
        each_loss(queries, documents, mask, padded), each_loss(queries, documents, mask, synthetic)
    )


# -- InfoNCE -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 5])
def test_zeros_cost_the_logarithm_of_the_batch(count):
    zeros = torch.zeros(count, 8)
    mask = others(count)
    assert infonce(zeros, zeros, ROWS(count), mask, ~mask).item() == pytest.approx(math.log(count))


def test_infonce_by_hand():
    queries, documents, mask = at_angles(0, 90), at_angles(0, 60), others(2)
    scores = np.array([[1, 0.5], [0, math.sqrt(3) / 2]])
    for margin, temperature in ((0.0, 0.05), (0.2, 0.5)):
        logits = (scores - margin * np.eye(2)) / temperature
        rows, columns = (np.log(np.exp(logits).sum(axis=axis)) - np.diag(logits) for axis in (1, 0))
        loss = infonce(queries, documents, ROWS(2), mask, ~mask, temperature, margin)
        assert loss.item() == pytest.approx((rows.mean() + columns.mean()) / 2)


def test_swapped_documents_and_wider_margins_cost_more():
    queries, documents, mask = at_angles(0, 90), at_angles(5, 85), others(2)
    right = infonce(queries, documents, ROWS(2), mask, ~mask)
    assert right < infonce(queries, documents.flip(0), ROWS(2), mask, ~mask)
    costs = [infonce(queries, documents, ROWS(2), mask, ~mask, margin=margin).item() for margin in (0, 0.3, 0.9)]
    assert costs == sorted(costs) and costs[0] < costs[2]


def test_infonce_equals_multiple_negatives_ranking_of_sentence_transformers():
    anchor, positive = unit(10, 8), unit(10, 8, seed=1)
    peer = peers.MultipleNegativesRankingLoss(None, scale=1 / 0.07)
    both = [peer.compute_loss_from_embeddings(pair, None) for pair in ([anchor, positive], [positive, anchor])]
    mask = others(10)
    torch.testing.assert_close(infonce(anchor, positive, ROWS(10), mask, ~mask, 0.07), sum(both) / 2)


def test_one_direction_equals_multiple_negatives_ranking_of_sentence_transformers():
    columns = [unit(6, 8, seed=seed).requires_grad_() for seed in range(3)]
    peer = peers.MultipleNegativesRankingLoss(None, scale=20.0)
    expected = peer.compute_loss_from_embeddings(columns, None)
    mask = torch.cat([others(6), torch.ones(6, 6, dtype=torch.bool)], dim=1)
    loss = infonce(columns[0], torch.cat(columns[1:]), ROWS(6), mask, torch.eye(6).bool(), 0.05, symmetric=False)
    assert_same(loss, expected, columns)


def test_both_directions_equal_multiple_negatives_ranking_of_sentence_transformers():
    columns = [unit(6, 8, seed=seed).requires_grad_() for seed in range(3)]
    peer = peers.MultipleNegativesRankingLoss(
        None, scale=20.0, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
    )
    expected = peer.compute_loss_from_embeddings(columns, None)
    mask = torch.cat([others(6), torch.ones(6, 6, dtype=torch.bool)], dim=1)
    loss = infonce(columns[0], torch.cat(columns[1:]), ROWS(6), mask, torch.eye(6).bool(), 0.05)
    assert_same(loss, expected, columns)


def test_infonce_with_given_negatives_equals_that_of_sentence_transformers():
    anchor, positive, negative = unit(6, 8), unit(6, 8, seed=1), unit(6, 8, seed=2)
    peer = peers.MultipleNegativesRankingLoss(None, scale=20.0)
    forward = peer.compute_loss_from_embeddings([anchor, positive, negative], None)
    backward = peer.compute_loss_from_embeddings([positive, anchor], None)
    mask = torch.cat([others(6), torch.ones(6, 6, dtype=torch.bool)], dim=1)
    loss = infonce(anchor, torch.cat([positive, negative]), ROWS(6), mask, torch.eye(6).bool(), 0.05)
    torch.testing.assert_close(loss, (forward + backward) / 2)


def test_further_queries_count_in_the_second_direction_as_in_sentence_transformers():
    anchor, positive, further = unit(6, 8), unit(6, 8, seed=1), unit(6, 8, seed=2)
    peer = peers.MultipleNegativesRankingLoss(None, scale=20.0)
    forward = peer.compute_loss_from_embeddings([anchor, positive], None)
    backward = peer.compute_loss_from_embeddings([positive, anchor, further], None)
    wrong = torch.ones(6, 6, dtype=torch.bool)
    loss = infonce(anchor, positive, ROWS(6), others(6), torch.eye(6).bool(), 0.05, further=(further, wrong))
    torch.testing.assert_close(loss, (forward + backward) / 2)
    wrong[:, 3:] = False  # right for all documents: as if they were not there
    masked = infonce(anchor, positive, ROWS(6), others(6), torch.eye(6).bool(), 0.05, further=(further, wrong))
    fewer = infonce(
        anchor, positive, ROWS(6), others(6), torch.eye(6).bool(), 0.05, further=(further[:3], wrong[:, :3])
    )
    torch.testing.assert_close(masked, fewer)


def test_the_group_is_left_out_of_both_directions():
    queries, documents = unit(3, 4), unit(3, 4, seed=1)
    mask = others(3)
    mask[0, 1] = mask[1, 0] = False
    loss = infonce(queries, documents, ROWS(3), mask, ~mask, 0.5).item()
    scores = (queries @ documents.T / 0.5).numpy()
    kept = np.where(mask.numpy() | np.eye(3, dtype=bool), np.exp(scores), 0)
    rows, columns = (np.log(kept.sum(axis=axis)) - np.diag(scores) for axis in (1, 0))
    assert loss == pytest.approx((rows.mean() + columns.mean()) / 2)


def test_relevance_is_read_as_document_by_query():
    # The document of row 0 fits query 1, the document of row 1 does not fit query 0.
    queries, documents = unit(2, 4).requires_grad_(), unit(2, 4, seed=1)
    fits = torch.tensor([[True, True], [False, True]])
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    loss = infonce(queries, documents, ROWS(2), nothing, fits, 0.5)
    scores = (documents @ queries.T / 0.5).detach()
    expected = (torch.logsumexp(scores[1], 0) - scores[1, 1]) / 2 / 2  # row 0 has only its own query left
    torch.testing.assert_close(loss, expected)


def test_duplicates_of_a_document_count_once():
    # Two rows share document 0; M = 2 distinct documents, B = 3 rows.
    queries, documents = torch.zeros(3, 4), torch.zeros(2, 4)
    positive = torch.tensor([0, 0, 1])
    wrong = torch.tensor([[False, True], [False, True], [True, False]])
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    loss = infonce(queries, documents, positive, wrong, same)
    forward, backward = math.log(2), (math.log(2) + math.log(2) + math.log(3)) / 3
    assert loss.item() == pytest.approx((forward + backward) / 2)


# -- distillation --------------------------------------------------------------------------------

LOGITS = 3 * torch.randn(5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
SCORED = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 0, 0, 1], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()


def test_distillation_is_the_kl_divergence_of_each_row_over_its_scored_texts():
    cosines = unit(5, 8) @ unit(5, 8, seed=1).T
    naive = []
    for row in range(3):  # the fourth has one text, the fifth none
        mine, theirs = cosines[row][SCORED[row]] / 0.2, LOGITS[row][SCORED[row]] / 1.5
        naive.append(kl_div(mine.log_softmax(0), theirs.softmax(0), reduction="sum"))
    torch.testing.assert_close(distillation(cosines, LOGITS, SCORED, 0.2, 1.5), torch.stack(naive).mean())


def test_a_student_that_ranks_as_its_teacher_costs_nothing_and_stays():
    # Any constant may be added to a row of logits; what counts is their differences over the temperatures.
    cosines = (LOGITS / 20 + torch.arange(5.0)[:, None]).requires_grad_()
    loss = distillation(cosines, LOGITS, SCORED, 0.1, 2.0)
    (gradient,) = torch.autograd.grad(loss, cosines)
    assert loss.item() == pytest.approx(0, abs=1e-12) and gradient.abs().max() < 1e-9
    assert distillation(cosines, LOGITS, SCORED, 0.1, 1.0).item() > 0.01


def test_distillation_pulls_up_what_the_teacher_ranks_higher():
    cosines = torch.tensor([[0.5, 0.5, 0.9]], dtype=torch.float64, requires_grad=True)
    logits = torch.tensor([[4.0, 1.0, 0.0]], dtype=torch.float64)
    loss = distillation(cosines, logits, torch.ones(1, 3).bool())
    (gradient,) = torch.autograd.grad(loss, cosines)
    assert gradient[0, 0] < 0 < gradient[0, 2] and gradient.sum().item() == pytest.approx(0, abs=1e-12)
    moved = cosines.detach() - 0.001 * gradient
    assert distillation(moved, logits, torch.ones(1, 3).bool()) < loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("filler", [math.nan, math.inf, 1e9])
def test_unscored_texts_count_nothing_whatever_stands_in_their_place(filler, dtype):
    cosines, logits = (unit(5, 8) @ unit(5, 8, seed=1).T).to(dtype), LOGITS.to(dtype)
    other = cosines.masked_fill(~SCORED, 0.9).requires_grad_()
    loss = distillation(other, logits.masked_fill(~SCORED, filler), SCORED)
    (gradient,) = torch.autograd.grad(loss, other)
    assert loss.item() == distillation(cosines, logits, SCORED).item() > 0
    assert gradient.isfinite().all() and (gradient[~SCORED] == 0).all() and (gradient[3:] == 0).all()
    assert (gradient[:3][SCORED[:3]] != 0).any()
    assert distillation(other, logits, torch.zeros_like(SCORED)).item() == 0


# -- gradients -----------------------------------------------------------------------------------

MASK = others(5)
MASK[0, 1] = MASK[1, 0] = MASK[4] = False


@pytest.mark.parametrize(
    "loss",
    [
        lambda q, d: triplet(q, d, ROWS(5), MASK, 0.7),
        lambda q, d: triplet(q, d, ROWS(5), MASK, 0.7, hardness="semi-hard"),
        lambda q, d: triplet(q, d, ROWS(5), MASK, 0.7, hardness="all"),
        lambda q, d: triplet(q, d, ROWS(5), MASK, 1.5, synthetic=torch.stack([-d, q.flip(0)], dim=1)),
        lambda q, d: infonce(q, d, ROWS(5), MASK, ~MASK, 0.3),
        lambda q, d: infonce(q, d, ROWS(5), MASK, ~MASK, 0.3, symmetric=False, synthetic=d[:, None]),
        lambda q, d: infonce(q, d, ROWS(5), MASK, ~MASK, 0.3, 0.2),
        lambda q, d: infonce(q, d, ROWS(5), MASK, ~MASK, 0.3, further=(q.flip(1), MASK)),
        lambda q, d: distillation(q @ d.T, LOGITS, SCORED, 0.3, 2.0),
        lambda q, d: gap(q, d, ROWS(5), MASK)[:4],
        lambda q, d: spread(torch.cat([q, d])),
    ],
    ids=[
        "triplet",
        "triplet-semi-hard",
        "triplet-all",
        "triplet-synthetic",
        "infonce",
        "infonce-one-way",
        "margin-ce",
        "infonce-further",
        "distillation",
        "gap",
        "spread",
    ],
)
def test_gradients(loss):
    def normalised(q: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        return loss(normalize(q, dim=-1), normalize(d, dim=-1))

    inputs = unit(5, 3).requires_grad_(), unit(5, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(normalised, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_are_finite_in_every_precision(dtype):
    queries, documents = unit(4, 8, dtype=torch.float32), unit(4, 8, seed=1, dtype=torch.float32)
    queries, documents = queries.to(dtype).requires_grad_(), documents.to(dtype)
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    for mask in (others(4), nothing):
        loss = infonce(queries, documents, ROWS(4), mask, ~nothing, 0.01, 0.3)
        for hardness in HARDNESS:
            loss = loss + triplet(queries, documents, ROWS(4), mask, hardness=hardness)
        (gradient,) = torch.autograd.grad(loss, queries)
        assert loss.isfinite() and gradient.isfinite().all()


# -- spread --------------------------------------------------------------------------------------


def test_spread_by_hand():
    assert spread(at_angles(40, 40, 40)).item() == pytest.approx(0, abs=1e-12)
    assert spread(at_angles(0, 90)).item() == pytest.approx(1)
    assert spread(at_angles(0, 180)).item() == pytest.approx(2)
    assert spread(at_angles(0, 120, 240)).item() == pytest.approx(1.5)


def test_spread_is_one_minus_the_mean_pairwise_cosine():
    points = unit(20, 6)
    cosines = (points @ points.T).numpy()
    assert spread(points).item() == pytest.approx(1 - cosines[np.triu_indices(20, 1)].mean())


def test_one_point_has_no_spread():
    for angle in (0, 40, 123):  # whose squares do not add up to 1 to the last digit
        assert spread(at_angles(angle)).isnan() and spread(at_angles(angle).float()).isnan()
