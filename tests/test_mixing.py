"""Mixing by known answers on the plane."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import normalize, one_hot

from hr_search.batches import index_rows, make_batch
from hr_search.mixing import mix, neighbours

STRATEGIES = ("mean", "weighted")


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
    assert mix(queries, DOCUMENTS, FELLOWS, WRONG, "none") is queries


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


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_more_neighbours_than_there_are(strategy):
    two, many = (mix(at_angles(0), DOCUMENTS, FELLOWS, WRONG, strategy, k) for k in (2, 64))
    torch.testing.assert_close(two, many)


def test_a_missing_kind_is_skipped():
    nothing = mask(".....")
    assert_towards(mix(at_angles(0), DOCUMENTS, nothing, WRONG, "mean"), (1, -1))
    assert_towards(mix(at_angles(0), DOCUMENTS, FELLOWS, nothing, "mean"), (1 + HALF, HIGH))
    assert_towards(mix(at_angles(0), DOCUMENTS, nothing, WRONG, "weighted"), (0.8, 0.1))
    assert_towards(mix(at_angles(0), DOCUMENTS, FELLOWS, nothing, "weighted"), (0.8 + 0.2 * HALF, 0.2 * HIGH))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_without_neighbours_stay(strategy):
    queries = at_angles(33, 0)
    mixed = mix(queries, DOCUMENTS, mask(".....", ".xx.."), mask(".....", "...xx"), strategy)
    torch.testing.assert_close(mixed[0], queries[0])
    alone = mix(queries[1:], DOCUMENTS, FELLOWS, WRONG, strategy)
    torch.testing.assert_close(mixed[1:], alone)  # and each row is mixed by itself
    assert (mixed[1] - queries[1]).norm() > 0.05


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_own_positive_plays_no_part(strategy):
    """With the masks as training makes them from a batch."""
    pairs = pd.DataFrame({"query": ["w", "w", "b"], "positive": ["w1", "w2", "b1"], "group": ["W", "W", "B"]})
    batch = make_batch(index_rows(pairs), np.arange(3))
    relevant, positive = torch.from_numpy(batch.relevant), torch.from_numpy(batch.positive)
    own = one_hot(positive, len(batch.documents)).bool()
    queries, documents = at_angles(0, 0, 100), at_angles(20, 50, 110)
    mixed = mix(queries, documents, relevant & ~own, ~relevant, strategy)
    moved = documents.clone()
    moved[positive[0]] = at_angles(-30)[0]
    again = mix(queries, moved, relevant & ~own, ~relevant, strategy)
    torch.testing.assert_close(mixed[0], again[0])
    assert (mixed[1] - again[1]).norm() > 0.01  # for its fellow it is the neighbour


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_gradient_through_neighbours(strategy):
    queries, documents = at_angles(0).requires_grad_(), DOCUMENTS.clone().requires_grad_()
    mixed = mix(queries, documents, FELLOWS, WRONG, strategy)
    to_queries, to_documents = torch.autograd.grad(mixed[0, 1], (queries, documents), allow_unused=True)
    assert to_documents is None and (to_queries != 0).any()
    assert torch.autograd.gradcheck(lambda q: mix(q, DOCUMENTS, FELLOWS, WRONG, strategy), (queries,))


@pytest.mark.parametrize("strategy", STRATEGIES)
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


def test_an_unknown_strategy():
    with pytest.raises(ValueError, match="'median'"):
        mix(at_angles(0), DOCUMENTS, FELLOWS, WRONG, "median")


def test_neighbours_are_counted():
    sums, counts = neighbours(at_angles(0, 0), DOCUMENTS, mask(".xx..", "....."), 5)
    torch.testing.assert_close(sums, torch.tensor([[HALF, HIGH + 1], [0, 0]], dtype=torch.float64))
    assert counts.tolist() == [[2], [0]]
