"""Mixing by known answers on the plane."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize, one_hot

from hr_search import mixing
from hr_search.base.choices import DOCUMENT_MIXINGS, MIXINGS, QUERY_MIXINGS
from hr_search.base.errors import InputError
from hr_search.batches import index_rows, make_batch
from hr_search.mixing import MixedBatch, MixingPolicy, move_queries, nearest_sum, slerp, synthesise_negatives


def mix(queries, documents, relevant, candidates, strategy, *weights, **knobs) -> torch.Tensor:
    """The queries moved under a policy of the query side."""
    return move_queries(queries, documents, relevant, candidates, MixingPolicy(strategy, *weights, **knobs))


def mixed(*scene: torch.Tensor, strategy="none", weights=(), generator=None, **knobs) -> MixedBatch:
    """What the loss sees under a policy."""
    return mixing.mix(*scene, MixingPolicy(strategy, *weights, **knobs), generator)


def synthesise(queries, documents, candidates, strategy, generator, **knobs) -> torch.Tensor:
    """The negatives made under a policy of the document side."""
    return synthesise_negatives(queries, documents, candidates, MixingPolicy(strategy, **knobs), generator)


def at_angles(*degrees: float) -> torch.Tensor:
    """Points on the circle."""
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def mask(*rows: str) -> torch.Tensor:
    """A mask from rows such as "x..x"."""
    return torch.tensor([[mark == "x" for mark in row] for row in rows])


def assert_towards(mixed: torch.Tensor, *sums: tuple[float, float]) -> None:
    """Each row is the given vector scaled to length 1."""
    torch.testing.assert_close(mixed, normalize(torch.tensor(sums, dtype=torch.float64), dim=-1))


# Own positive at 10°, fellows of the group at 60° and 90°, wrong documents at -90° and 180°.
DOCUMENTS = at_angles(10, 60, 90, -90, 180)
FELLOWS, WRONG = mask(".xx.."), mask("...xx")
HALF, HIGH = 0.5, math.sqrt(3) / 2


def test_none_leaves_the_queries():
    queries = at_angles(0)
    assert mixed(queries, DOCUMENTS, torch.tensor([0]), FELLOWS, WRONG).queries is queries


def test_mean_of_the_nearest():
    # Query (1, 0), nearest fellow (1/2, √3/2), nearest wrong one (0, -1).
    assert_towards(mix(at_angles(0), DOCUMENTS, FELLOWS, WRONG, "mean"), (1 + HALF, HIGH - 1))


def test_mean_of_two_of_each():
    assert_towards(mix(at_angles(0), DOCUMENTS, FELLOWS, WRONG, "mean", k=2), (1 + HALF - 1, HIGH + 1 - 1))


def test_weighted_sum_of_the_nearest():
    mixed = mix(at_angles(0), DOCUMENTS, FELLOWS, WRONG, "weighted")
    assert_towards(mixed, (0.8 + 0.2 * HALF, 0.2 * HIGH + 0.1))
    mixed = mix(at_angles(0), DOCUMENTS, FELLOWS, WRONG, "weighted", 1, 0.5, -0.25, 1.0)
    assert_towards(mixed, (0.5 - 0.25 * HALF, -0.25 * HIGH - 1))


def test_weighted_takes_the_mean_of_two_of_each():
    mixed = mix(at_angles(0), DOCUMENTS, FELLOWS, WRONG, "weighted", k=2)
    assert_towards(mixed, (0.8 + 0.1 * HALF + 0.05, 0.1 * (HIGH + 1) + 0.05))


def test_rocchio_goes_away_from_the_negatives_whatever_the_sign():
    expected = mix(at_angles(0), DOCUMENTS, FELLOWS, WRONG, "weighted", negative_weight=-0.3)
    for weight in (0.3, -0.3):
        moved = mix(at_angles(0), DOCUMENTS, FELLOWS, WRONG, "rocchio", negative_weight=weight)
        torch.testing.assert_close(moved, expected)
    assert_towards(moved, (0.8 + 0.2 * HALF, 0.2 * HIGH + 0.3))


def test_slerp_goes_a_share_of_the_arc():
    # Nearest fellow at 60°; the mean of both at 60° and 90° lies at 75°.
    for k, share, degrees in ((1, 0.25, 15), (2, 0.2, 15), (1, 0.0, 0), (1, 1.0, 60), (1, -0.5, -30)):
        moved = mix(at_angles(0), DOCUMENTS, FELLOWS, WRONG, "slerp", k, positive_weight=share)
        torch.testing.assert_close(moved, at_angles(degrees))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_slerp_holds_at_no_angle_and_at_the_straight_one(dtype):
    start = at_angles(20, 20, 20).to(dtype).requires_grad_()
    end = at_angles(20, 20 + 1e-7, 200).to(dtype)
    points = slerp(start, end, 0.3)
    (gradient,) = torch.autograd.grad(points.sum(), start)
    torch.testing.assert_close(points[:2], start[:2], atol=0.02 if dtype == torch.bfloat16 else 1e-6, rtol=0)
    assert points.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("strategy", QUERY_MIXINGS)
def test_more_neighbours_than_there_are(strategy):
    two, many = (mix(at_angles(0), DOCUMENTS, FELLOWS, WRONG, strategy, k) for k in (2, 64))
    torch.testing.assert_close(two, many)


def test_a_missing_kind_is_skipped():
    nothing = mask(".....")
    assert_towards(mix(at_angles(0), DOCUMENTS, nothing, WRONG, "mean"), (1, -1))
    assert_towards(mix(at_angles(0), DOCUMENTS, FELLOWS, nothing, "mean"), (1 + HALF, HIGH))
    assert_towards(mix(at_angles(0), DOCUMENTS, nothing, WRONG, "weighted"), (0.8, 0.1))
    assert_towards(mix(at_angles(0), DOCUMENTS, FELLOWS, nothing, "weighted"), (0.8 + 0.2 * HALF, 0.2 * HIGH))


@pytest.mark.parametrize("weight", [0.8, 0.0])
@pytest.mark.parametrize("strategy", QUERY_MIXINGS)
def test_rows_without_neighbours_stay(strategy, weight):
    queries = at_angles(33, 0)
    mixed = mix(queries, DOCUMENTS, mask(".....", ".xx.."), mask(".....", "...xx"), strategy, 1, weight)
    assert torch.equal(mixed[0], queries[0])
    alone = mix(queries[1:], DOCUMENTS, FELLOWS, WRONG, strategy, 1, weight)
    torch.testing.assert_close(mixed[1:], alone)  # and each row is mixed by itself
    assert (mixed[1] - queries[1]).norm() > 0.05


@pytest.mark.parametrize("strategy", QUERY_MIXINGS)
def test_rows_without_neighbours_stay_to_the_bit(strategy):
    queries, documents, _, relevant, _ = scene(rows=40, dimension=50)
    nothing = torch.zeros_like(relevant)
    assert torch.equal(mix(queries, documents, nothing, nothing, strategy), queries)


def test_a_query_whose_sum_is_nothing_stays():
    queries = at_angles(0).requires_grad_()
    moved = mix(queries, at_angles(180), mask("x"), mask("."), "mean")
    (gradient,) = torch.autograd.grad(moved.sum(), queries)
    assert torch.equal(moved, queries) and gradient.isfinite().all()


@pytest.mark.parametrize("strategy", QUERY_MIXINGS)
def test_the_own_positive_plays_no_part(strategy):
    """With the masks as training makes them from a batch."""
    pairs = pd.DataFrame({"query": ["w", "w", "b"], "positive": ["w1", "w2", "b1"], "group": ["W", "W", "B"]})
    batch = make_batch(index_rows(pairs), np.arange(3))
    relevant, positive = torch.from_numpy(batch.relevant), torch.from_numpy(batch.positive)
    own = one_hot(positive, len(batch.documents)).bool()
    queries, documents = at_angles(0, 0, 100), at_angles(20, 50, 110)
    moved = documents.clone()
    moved[positive[0]] = at_angles(-30)[0]
    first, again = (mix(queries, each, relevant & ~own, ~relevant, strategy) for each in (documents, moved))
    torch.testing.assert_close(first[0], again[0])
    assert (first[1] - again[1]).norm() > 0.01  # for its fellow it is the neighbour
    for allowed in (False, True):  # and with the own positive among the relevant ones
        one, two = (
            mixed(queries, each, positive, relevant, ~relevant, strategy=strategy, own=allowed).queries
            for each in (documents, moved)
        )
        assert allowed or torch.equal(one, first)
        assert torch.equal(one[0], two[0]) == (not allowed)


@pytest.mark.parametrize("strategy", QUERY_MIXINGS)
def test_no_gradient_through_neighbours(strategy):
    queries, documents = at_angles(0).requires_grad_(), DOCUMENTS.clone().requires_grad_()
    mixed = mix(queries, documents, FELLOWS, WRONG, strategy)
    to_queries, to_documents = torch.autograd.grad(mixed[0, 1], (queries, documents), allow_unused=True)
    assert to_documents is None and (to_queries != 0).any()
    assert torch.autograd.gradcheck(lambda q: mix(q, DOCUMENTS, FELLOWS, WRONG, strategy), (queries,))


@pytest.mark.parametrize("strategy", QUERY_MIXINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixed_queries_have_length_one_and_their_type(strategy, dtype):
    generator = torch.Generator().manual_seed(0)
    queries, documents = (normalize(torch.randn(n, 16, generator=generator), dim=-1).to(dtype) for n in (6, 9))
    fellows = torch.rand(6, 9, generator=generator) < 0.3
    mixed = mix(queries, documents, fellows, ~fellows, strategy, k=3)
    assert mixed.dtype == dtype
    torch.testing.assert_close(
        mixed.float().norm(dim=-1), torch.ones(6), atol=0.02 if dtype == torch.bfloat16 else 1e-5, rtol=0
    )


@pytest.mark.parametrize("strategy", QUERY_MIXINGS)
def test_gradient_through_neighbours_where_it_is_asked_for(strategy):
    def both(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        return mix(queries, documents, FELLOWS, WRONG, strategy, detach=False)

    queries, documents = at_angles(0).requires_grad_(), DOCUMENTS.clone().requires_grad_()
    (to_documents,) = torch.autograd.grad(both(queries, documents)[0, 1], documents)
    assert (to_documents[1] != 0).any() and (to_documents[0] == 0).all()
    assert torch.autograd.gradcheck(both, (queries, documents))


def test_unknown_strategies():
    with pytest.raises(InputError, match="'median'"):
        mix(at_angles(0), DOCUMENTS, FELLOWS, WRONG, "median")
    with pytest.raises(InputError, match="'mochi' moves no queries; mean, weighted"):
        mix(at_angles(0), DOCUMENTS, FELLOWS, WRONG, "mochi")
    with pytest.raises(InputError, match="'mean' makes no documents; mochi, synco do"):
        synthesise(at_angles(0), DOCUMENTS, WRONG, "mean", np.random.default_rng(0))
    with pytest.raises(InputError, match='did you mean "rocchio"'):
        mixed(at_angles(0), DOCUMENTS, torch.tensor([0]), FELLOWS, WRONG, strategy="roccio")


def test_neighbours_are_counted():
    sums, counts = nearest_sum(at_angles(0, 0), DOCUMENTS, mask(".xx..", "....."), 5, True)
    torch.testing.assert_close(sums, torch.tensor([[HALF, HIGH + 1], [0, 0]], dtype=torch.float64))
    assert counts.tolist() == [[2], [0]]


# -- synthetic negatives -------------------------------------------------------------------------


def synthetic(strategy: str, documents: torch.Tensor, wrong: torch.Tensor, count: int = 64, **options) -> torch.Tensor:
    """Those of a query at 0°, as angles: (S,), NaN where there is none."""
    made = synthesise(at_angles(0), documents, wrong, strategy, np.random.default_rng(0), count=count, **options)[0]
    angles = torch.atan2(made[:, 1], made[:, 0]).rad2deg()
    torch.testing.assert_close(made.norm(dim=1), made.any(dim=1).double())  # length 1 or nothing
    return angles.where(made.any(dim=1), torch.nan)


def test_mochi_lies_between_two_negatives_or_towards_the_query():
    # Of the wrong ones at 60°, 80° and 100°, the two nearest are parents.
    between, towards = synthetic("mochi", at_angles(5, 100, 60, 80), mask(".xxx"), k=2).split(64)
    assert ((between >= 60) & (between <= 80)).all() and between.min() < 63 and between.max() > 77
    # Half way between the query and a parent at 60° (80°) lies 30° (40°).
    assert ((towards >= 30) & (towards <= 80)).all() and towards.min() < 35 and towards.max() > 75


def test_mochi_takes_different_parents():
    between, _ = synthetic("mochi", at_angles(30, 90), mask("xx")).split(64)  # k = 1: two all the same
    assert ((between > 30) & (between < 90)).all()
    third = synthetic("mochi", at_angles(30, 90, 150), mask("xxx"), k=3).split(64)[0]
    assert third.max() > 120  # of the second and third


def test_synco_lies_beyond_a_negative_towards_the_query_and_around_it():
    beyond, towards, around = synthetic("synco", at_angles(5, 60), mask(".x")).split(64)
    # With β = 1½: (1, 0) + 1½ ((½, √3/2) - (1, 0)) = (¼, ¾√3), at 79.1°.
    furthest = math.degrees(math.atan2(0.75 * math.sqrt(3), 0.25))
    assert ((beyond >= 60) & (beyond <= furthest)).all() and beyond.min() < 63 and beyond.max() > 75
    assert ((towards >= 30) & (towards <= 60)).all() and towards.min() < 33 and towards.max() > 57
    error = around - 60
    assert 0.3 < error.std() < 0.9 and error.abs().max() < 3  # 0.01 across a radius of 1 is 0.57°


def test_parents_are_the_nearest_negatives():
    for k, furthest in ((1, 40), (2, 70), (9, 100)):
        around = synthetic("synco", at_angles(100, 0, 40, 70), mask("x.xx"), k=k).split(64)[2]
        assert around.max() == pytest.approx(furthest, abs=3) and around.min() == pytest.approx(40, abs=3)


def test_what_cannot_be_made_is_nothing():
    for strategy, kinds in (("mochi", 2), ("synco", 3)):
        assert synthetic(strategy, at_angles(5, 60), mask("..")).isnan().all()
        one = synthetic(strategy, at_angles(5, 60), mask(".x")).view(kinds, 64).isnan().all(dim=1)
        assert one.tolist() == ([True, False] if strategy == "mochi" else [False] * 3)
        alone = synthetic(strategy, at_angles(60), mask("x")).view(kinds, 64).isnan().all(dim=1)
        assert torch.equal(alone, one)


@pytest.mark.parametrize("strategy", DOCUMENT_MIXINGS)
def test_synthetic_negatives_carry_no_gradient_unless_asked(strategy):
    queries, documents = at_angles(0, 20).requires_grad_(), DOCUMENTS.clone().requires_grad_()
    wrong = mask("...xx", "..xxx")

    def make(queries: torch.Tensor, documents: torch.Tensor, detach: bool = False) -> torch.Tensor:
        return synthesise(queries, documents, wrong, strategy, np.random.default_rng(0), k=3, count=2, detach=detach)

    assert not make(queries, documents, detach=True).requires_grad
    gradients = torch.autograd.grad(make(queries, documents)[..., 0].sum(), (queries, documents))
    assert all((gradient != 0).any() for gradient in gradients)
    assert torch.autograd.gradcheck(make, (queries, documents))


# -- the whole of it -----------------------------------------------------------------------------


def scene(rows: int = 7, count: int = 12, dimension: int = 5, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Random queries, documents, own positives, relevance and candidates."""
    generator = torch.Generator().manual_seed(seed)
    queries, documents = (
        normalize(torch.randn(size, dimension, generator=generator, dtype=torch.float64), dim=-1)
        for size in (rows, count)
    )
    positive = torch.randint(count, (rows,), generator=generator)
    relevant = (torch.rand(rows, count, generator=generator) < 0.4) | one_hot(positive, count).bool()
    return queries, documents, positive, relevant, ~relevant


@pytest.mark.parametrize("strategy", MIXINGS)
def test_every_strategy_is_one_call(strategy):
    queries, *rest = scene()
    result = mixed(queries, *rest, strategy=strategy, k=3, count=5, generator=np.random.default_rng(0))
    assert (result.synthetic is not None) == (strategy in DOCUMENT_MIXINGS)
    assert torch.equal(result.queries, queries) == (strategy not in QUERY_MIXINGS)
    torch.testing.assert_close(result.queries.norm(dim=-1), torch.ones(7).double())
    if strategy in DOCUMENT_MIXINGS:
        assert result.synthetic.shape == (7, {"mochi": 10, "synco": 15}[strategy], 5)


@pytest.mark.parametrize("strategy", MIXINGS[1:])
def test_equal_draws_give_equal_results(strategy):
    first, again, other = (
        mixed(*scene(), strategy=strategy, k=3, probability=0.5, generator=np.random.default_rng(seed))
        for seed in (1, 1, 2)
    )
    name = "synthetic" if strategy in DOCUMENT_MIXINGS else "queries"
    assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(getattr(first, name), getattr(other, name))


@pytest.mark.parametrize("strategy", QUERY_MIXINGS)
def test_probability_chooses_rows(strategy):
    queries, *rest = scene(rows=400)
    everything = mixed(queries, *rest, strategy=strategy).queries
    assert mixed(queries, *rest, strategy=strategy, probability=0).queries is queries
    some = mixed(queries, *rest, strategy=strategy, probability=0.3, generator=np.random.default_rng(0)).queries
    moved = (some == everything).all(dim=1)
    assert torch.equal(some[~moved], queries[~moved]) and 0.2 < moved.double().mean() < 0.4


@pytest.mark.parametrize("strategy", DOCUMENT_MIXINGS)
def test_probability_chooses_rows_of_synthetic_negatives(strategy):
    def made(probability: float) -> torch.Tensor | None:
        generator = np.random.default_rng(0)
        return mixed(
            *scene(rows=400), strategy=strategy, count=1, probability=probability, generator=generator
        ).synthetic

    assert made(0) is None and made(1).any(dim=-1).all()
    rows = made(0.3).any(dim=-1)
    assert torch.equal(rows.all(dim=1), rows.any(dim=1)) and 0.2 < rows.double().mean() < 0.4


def test_nothing_is_drawn_without_a_generator():
    for options in ({"strategy": "mochi"}, {"strategy": "synco"}, {"strategy": "mean", "probability": 0.5}):
        with pytest.raises(ValueError, match="needs a generator"):
            mixed(*scene(), **options)
    assert mixed(*scene(), strategy="mochi", probability=0).synthetic is None


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    strategy=st.sampled_from(QUERY_MIXINGS),
    k=st.integers(1, 20),
    weights=st.tuples(st.floats(0, 1), st.floats(-1, 1), st.floats(-1, 1)),
    own=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_mixture_has_length_one_and_goes_with_its_row(strategy, k, weights, own, seed):
    queries, documents, positive, relevant, wrong = scene(seed=seed)
    rows = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    first = mixed(
        queries, documents, positive, relevant, wrong, strategy=strategy, weights=(k, *weights), own=own
    ).queries
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(7).double())
    again = mixed(
        queries[rows],
        documents,
        positive[rows],
        relevant[rows],
        wrong[rows],
        strategy=strategy,
        weights=(k, *weights),
        own=own,
    ).queries
    torch.testing.assert_close(first[rows], again)


def test_mixing_begins_after_its_share_of_the_steps():
    assert [MixingPolicy("mean", start=0.25).active(step, 10) for step in range(5)] == [False, False, False, True, True]
    assert MixingPolicy("mean").active(0, 10) and not MixingPolicy("mean", start=1.0).active(9, 10)
    assert not MixingPolicy("none").active(0, 10)
