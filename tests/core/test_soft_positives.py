"""Partial matches and grades in a batch: masks, targets and losses by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from test_train import run

from hr_search.batches import index_rows, make_batch, negative_mask
from hr_search.losses import infonce
from hr_search.mixing import MixedBatch
from hr_search.step import LossPolicy, pair_loss

PAIRS = pd.DataFrame(
    {
        "query": ["welder", "solderer", "baker"],
        "positive": ["joins", "melts", "bakes"],
        "negatives": [["melts"], [], []],  # a partial match is not even a given negative
        "group": ["A", "B", "C"],
        "softgroup": ["72", "72", ""],
        "grade": [1.0, 0.5, 1.0],
    }
)
COSINES = torch.tensor([[0.9, 0.4, 0.1], [0.3, 0.8, 0.2], [0.0, 0.5, 0.7]], dtype=torch.float64)
OWN, EYE = torch.arange(3), torch.eye(3, dtype=torch.bool)
HALVES = torch.tensor([[1, 0.3, 0], [0.3, 1, 0], [0, 0, 1]], dtype=torch.float64)


def logs(row: list[float]) -> list[float]:
    """The logarithms of the softmax."""
    total = math.log(sum(math.exp(value) for value in row))
    return [value - total for value in row]


def cost(row: list[float], weights: list[float]) -> float:
    return -sum(weight * log for weight, log in zip(weights, logs(row), strict=True)) / sum(weights)


def loss(weights: torch.Tensor, symmetric: bool = False, **more) -> float:
    """InfoNCE of the matrix COSINES at temperature 1: what has a weight is no negative."""
    both, fits = (weights, weights), weights > 0
    return infonce(COSINES, EYE.double(), OWN, ~fits, fits, 1.0, symmetric=symmetric, weights=both, **more).item()


def test_the_target_of_a_row_by_hand():
    rows = COSINES.tolist()
    by_hand = [cost(rows[0], [1, 0.3, 0]), cost(rows[1], [0.3, 1, 0]), cost(rows[2], [0, 0, 1])]
    assert loss(HALVES) == pytest.approx(sum(by_hand) / 3)
    grades = torch.tensor([1.0, 0.5, 1.0], dtype=torch.float64)
    graded = (by_hand[0] + 0.5 * by_hand[1] + by_hand[2]) / 3
    assert loss(HALVES, grades=grades) == pytest.approx(graded)
    columns = COSINES.T.tolist()  # the second direction: each document against the queries
    back = [cost(columns[0], [1, 0.3, 0]), cost(columns[1], [0.3, 1, 0]), cost(columns[2], [0, 0, 1])]
    assert loss(HALVES, symmetric=True) == pytest.approx((sum(by_hand) + sum(back)) / 6)


def test_own_targets_and_full_grades_are_the_plain_loss():
    own, ones = EYE.double(), torch.ones(3, dtype=torch.float64)
    plain = infonce(COSINES, own, OWN, ~EYE, EYE, 1.0).item()
    for more in ({"weights": (own, own)}, {"grades": ones}, {"weights": (own, own), "grades": ones}):
        assert infonce(COSINES, own, OWN, ~EYE, EYE, 1.0, **more).item() == pytest.approx(plain)
    assert infonce(COSINES, own, OWN, ~EYE, EYE, 1.0, grades=ones / 2).item() == pytest.approx(plain / 2)


def test_partial_matches_of_a_batch_by_hand():
    rows = index_rows(PAIRS)
    batch = make_batch(rows, np.arange(3))
    assert [rows.documents[at] for at in batch.documents] == ["joins", "melts", "bakes"]
    assert batch.partial.tolist() == batch.nearly.tolist() == [
        [False, True, False], [True, False, False], [False, False, False],
    ]  # fmt: skip
    assert batch.relevant.tolist() == EYE.tolist() and not batch.given.any()
    assert batch.grade.tolist() == [1.0, 0.5, 1.0]
    wrong = negative_mask(batch, "batch", np.random.default_rng(0))
    assert wrong.tolist() == [[False, False, True], [False, False, True], [True, True, False]]
    joined = make_batch(index_rows(PAIRS.assign(group=["A", "A", "C"])), np.arange(3))
    assert not joined.partial.any() and joined.relevant[0].tolist() == [True, True, False]  # a full match is no partial
    plain = make_batch(index_rows(PAIRS.drop(columns=["softgroup", "grade"])), np.arange(3))
    assert plain.partial is plain.nearly is plain.grade is None


@pytest.mark.parametrize("weight", [0.3, 0.0])
def test_a_step_gives_the_loss_these_targets(weight):
    batch = make_batch(index_rows(PAIRS), np.arange(3))
    names = ("positive", "relevant", "same", "partial", "nearly", "wrong")
    place = {name: torch.from_numpy(getattr(batch, name)) for name in names}
    wrong = torch.from_numpy(negative_mask(batch, "batch", np.random.default_rng(0)))
    policy = LossPolicy("infonce", temperature=1.0, soft_weight=weight, symmetric=False)
    queries = torch.nn.functional.normalize(COSINES)
    found = pair_loss(MixedBatch(queries), torch.eye(3).double(), torch.empty(0, 3), place, wrong, policy, 3)
    rows = queries.tolist()
    if weight:
        by_hand = [cost(rows[0], [1, 0.3, 0]), cost(rows[1], [0.3, 1, 0]), cost(rows[2], [0, 0, 1])]
    else:  # partial matches are neither pulled nor pushed
        by_hand = [cost(rows[0][::2], [1, 0]), cost(rows[1][1:], [1, 0]), cost(rows[2], [0, 0, 1])]
    assert found.item() == pytest.approx(sum(by_hand) / 3)


def test_training_with_partial_matches_learns(tiny_model, jobs):
    halves = pd.factorize(jobs["group"])[0] % 6
    pairs = jobs.assign(softgroup=[str(half) for half in halves], grade=1.0)
    _, progress = run(tiny_model, pairs, loss="infonce", epochs=4)
    _, plain = run(tiny_model, jobs, loss="infonce", epochs=4)
    values = pd.DataFrame(progress.history)["mrr"]
    assert values.max() > values[0] + 0.2
    assert progress.history[-1]["loss"] > plain.history[-1]["loss"]  # the target has an entropy of its own
