"""Work that several processes share: the parts together are, to the bit, what one process makes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import JOBS, job_pairs
from scipy import sparse

from hr_search import nearest
from hr_search.base.errors import InputError
from hr_search.base.processes import ALONE, Processes
from hr_search.data.tasks import tasks_of
from hr_search.encoder import load_encoder
from hr_search.evaluation.metrics import embedding_scores, rank_all
from hr_search.mining import MiningPolicy, mine

COUNT = 3


class Part(Processes):
    """One of three processes that never hears of the others: what it returns is its own share."""

    def summed(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def gathered(self, items: list) -> list:
        return items


PARTS = [Part(index, COUNT) for index in range(COUNT)]


def test_parts_are_dealt_out_in_turn():
    assert [list(part.share(range(7))) for part in PARTS] == [[0, 3, 6], [1, 4], [2, 5]]
    assert ALONE.share([4, 2]) == [4, 2] and ALONE.gathered([1]) == [1] and ALONE.anywhere(True)


def test_shares_of_embeddings_add_up_to_the_whole_to_the_bit(tiny_model):
    encoder = load_encoder(str(tiny_model), precision="fp32")
    table = encoder.tokens([*JOBS, *JOBS.values()], "document")
    whole, shares = encoder.embed(table, 40), [encoder.embed(table, 40, processes=part) for part in PARTS]
    filled = np.array([share.any(axis=1) for share in shares])
    assert (filled.sum(axis=0) == 1).all() and (filled.sum(axis=1) > 3).all()  # each text once, each process several
    assert np.array_equal(sum(share.view(np.int32) for share in shares), whole.view(np.int32))


def test_shares_of_a_ranking_are_its_rows():
    generator = np.random.default_rng(0)
    task = tasks_of(job_pairs())["q2d"]
    scores = embedding_scores(generator.normal(size=(12, 4)), generator.normal(size=(24, 4)))
    whole, shares = rank_all(task, scores, 2), [rank_all(task, scores, 2, part) for part in PARTS]
    assert [len(share) for share in shares] == [4, 4, 4]
    joined = pd.concat(shares).sort_values("query", ignore_index=True)
    pd.testing.assert_frame_equal(joined, whole.sort_values("query", ignore_index=True), check_exact=True)


@pytest.mark.parametrize("sampling", ["top", "random"])
def test_shares_of_mined_negatives_add_up_to_the_whole(monkeypatch, sampling):
    monkeypatch.setattr(nearest, "_chunk", lambda *_: (5, 16))
    generator = np.random.default_rng(1)
    queries, documents = generator.normal(size=(33, 6)), generator.normal(size=(40, 6))
    own, policy = np.arange(33), MiningPolicy(count=4, sampling=sampling)
    given = queries, documents, sparse.csr_array((33, 40)), own, policy, 7, "cpu"
    whole, shares = mine(*given), [mine(*given, part) for part in PARTS]
    for name in (field.name for field in dataclasses.fields(whole)):
        assert np.array_equal(sum(getattr(share, name) for share in shares), getattr(whole, name)), name
    assert all(share.candidates.any() and not share.candidates.all() for share in shares)


class Beside(Part):
    """A process whose neighbour has failed, or has not."""

    def summed(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor + 1.0 * (self.index > 0)


def test_a_failure_elsewhere_is_one_here_and_an_own_one_keeps_its_words():
    with Beside(0, 2).together():
        pass
    with pytest.raises(InputError, match="another process of this launch has failed"), Beside(1, 2).together():
        pass
    with pytest.raises(ValueError, match="mine"), Beside(1, 2).together():
        raise ValueError("mine")
