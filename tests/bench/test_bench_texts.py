"""The texts of the speed benchmark: distinct, repeatable, with known answers."""

from __future__ import annotations

import pandas as pd
import pytest
from conftest import JOBS

from hr_search.base.errors import InputError
from hr_search.bench import texts
from hr_search.bench.cases import Order


def test_training_texts_never_repeat_and_never_change():
    order = Order("learn", loss="triplet", batchsize=8, steps=2)
    first, again = (texts.training_pairs(order, "esco") for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert len(first) == order.rows + texts.HELD_OUT == 40 + texts.HELD_OUT
    given = first["negatives"][: order.rows]
    documents = [*first["positive"], *(wrong[0] for wrong in given)]
    assert len(set(documents)) == len(documents) == 2 * order.rows + texts.HELD_OUT
    assert first["group"].is_unique and first["query"].is_unique
    assert not first["negatives"][order.rows :].str.len().any()


def test_too_little_data_is_refused(jobs_file):
    with pytest.raises(InputError, match=r"has 12 rows without a repeated text or group, and the case needs 22; lower"):
        texts.training_pairs(Order("train", loss="triplet", batchsize=1, steps=8), str(jobs_file))
    pairs = texts.training_pairs(Order("train", loss="infonce", batchsize=1, steps=8), str(jobs_file))
    assert set(pairs["query"]) < set(JOBS)


def test_search_texts_know_their_answers():
    found = texts.search_texts(34_000, 1_500)
    assert (len(found["queries"]), len(found["documents"])) == (1_500, 34_000)
    assert len(set(found["documents"])) == 34_000 and len(set(found["queries"])) == 1_500
    assert not set(found["queries"]) & set(found["documents"])
    assert all(len(places) in (1, 2) and places == sorted(places) for places in found["relevant"])
    assert texts.search_texts(100, 10) == texts.search_texts(100, 10)
    assert len(texts.search_texts(100, 10)["queries"]) == 10
    mined = texts.mining_pairs(12_000)
    assert len(set(mined["query"])) == len(set(mined["positive"])) == 12_000


def test_generated_pairs_differ_and_grow_from_the_front():
    pairs = texts.generated_pairs(3_000)
    assert pairs["query"].is_unique and pairs["positive"].is_unique
    pd.testing.assert_frame_equal(pairs[:50], texts.generated_pairs(50))
