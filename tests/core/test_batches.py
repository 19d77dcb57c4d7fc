"""Batches: every row once an epoch, and nobody repelled who is right."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hr_search.batches import epoch_batches, index_rows, make_batch, negative_mask
from hr_search.data.tasks import tasks_of


def table(*rows: tuple[str, str, list[str], str]) -> pd.DataFrame:
    """A pairs table from (query, positive, negatives, group)."""
    return pd.DataFrame(rows, columns=["query", "positive", "negatives", "group"])


def named(texts: list[str], marks: np.ndarray) -> set[str]:
    """The texts a row of a mask marks."""
    return {text for text, mark in zip(texts, marks, strict=True) if mark}


def masks(pairs: pd.DataFrame, chosen: list[int]):
    """The batch of the chosen rows, its masks as sets of texts."""
    rows = index_rows(pairs)
    batch = make_batch(rows, np.array(chosen))
    texts = [rows.documents[index] for index in batch.documents]
    return batch, [named(texts, row) for row in batch.relevant], [named(texts, row) for row in batch.given]


PAIRS = table(
    ("welder", "a1", ["b1", "x"], "A"),
    ("welder", "a2", [], "A"),
    ("fitter", "a3", ["a1"], "A"),
    ("baker", "b1", ["b2", "b2"], "B"),
    ("baker", "b2", ["x"], "B"),
    ("cook", "c1", ["a1"], "C"),
)


# -- rows ----------------------------------------------------------------------------------------


def test_rows_point_at_distinct_texts():
    rows = index_rows(PAIRS)
    assert len(rows) == 6
    assert sorted(rows.queries) == ["baker", "cook", "fitter", "welder"]
    assert sorted(rows.documents) == ["a1", "a2", "a3", "b1", "b2", "c1", "x"]
    assert [rows.queries[index] for index in rows.query] == PAIRS["query"].tolist()
    assert [rows.documents[index] for index in rows.positive] == PAIRS["positive"].tolist()
    assert [[rows.documents[index] for index in wrong] for wrong in rows.negatives] == PAIRS["negatives"].tolist()
    assert all(type(text) is str for text in rows.queries + rows.documents)


def test_rows_without_negatives():
    assert [len(wrong) for wrong in index_rows(PAIRS.drop(columns="negatives")).negatives] == [0] * 6
    assert len(index_rows(PAIRS[:0])) == 0
    shuffled = index_rows(PAIRS[::-1])  # the index of the table plays no part
    assert [shuffled.queries[index] for index in shuffled.query] == PAIRS["query"].tolist()[::-1]


# -- order ---------------------------------------------------------------------------------------


@given(st.integers(0, 200), st.integers(1, 70), st.integers(0, 2**31 - 1), st.integers(0, 5))
@settings(deadline=None, derandomize=True)
def test_every_row_comes_once(count, batchsize, seed, epoch):
    batches = epoch_batches(count, batchsize, seed, epoch)
    assert sorted(np.concatenate([*batches, np.array([], int)]).tolist()) == list(range(count))
    sizes = [len(batch) for batch in batches]
    assert all(size == batchsize for size in sizes[:-1])
    if batchsize > 1 and count > 1:
        assert 2 <= sizes[-1] <= batchsize + 1
    again = epoch_batches(count, batchsize, seed, epoch)
    assert all(np.array_equal(one, two) for one, two in zip(batches, again, strict=True))


def test_a_last_batch_of_one_joins_the_one_before():
    assert [len(batch) for batch in epoch_batches(9, 4, 0, 0)] == [4, 5]
    assert [len(batch) for batch in epoch_batches(10, 4, 0, 0)] == [4, 4, 2]
    assert [len(batch) for batch in epoch_batches(8, 4, 0, 0)] == [4, 4]
    assert [len(batch) for batch in epoch_batches(1, 4, 0, 0)] == [1]
    assert [len(batch) for batch in epoch_batches(3, 1, 0, 0)] == [1, 1, 1]


def test_seed_and_epoch_decide_the_order():
    orders = {
        (seed, epoch): tuple(np.concatenate(epoch_batches(50, 8, seed, epoch))) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4


# -- masks ---------------------------------------------------------------------------------------


def test_masks_by_hand():
    batch, relevant, given_ones = masks(PAIRS, [0, 3, 5, 2])
    rows = index_rows(PAIRS)
    assert [rows.documents[index] for index in batch.documents[batch.positive]] == ["a1", "b1", "c1", "a3"]
    assert [rows.queries[index] for index in batch.queries[batch.query]] == ["welder", "baker", "cook", "fitter"]
    assert relevant == [{"a1", "a3"}, {"b1", "b2"}, {"c1"}, {"a1", "a3"}]
    # b2 and a1 are given as wrong by rows whose group holds them.
    assert given_ones == [{"b1", "x"}, set(), {"a1"}, set()]
    assert batch.same.tolist() == [
        [True, False, False, True],
        [False, True, False, False],
        [False, False, True, False],
        [True, False, False, True],
    ]


def test_each_text_stands_once_in_a_batch():
    batch, relevant, _ = masks(PAIRS, [0, 1, 3])
    assert len(batch.queries) == 2 and batch.query[0] == batch.query[1]
    assert len(batch.documents) == len(set(batch.documents.tolist())) == 5  # a1 a2 b1 b2 x
    assert relevant == [{"a1", "a2"}, {"a1", "a2"}, {"b1", "b2"}]


def test_a_document_of_two_groups_repels_neither():
    pairs = table(
        ("welder", "both", [], "A"), ("fitter", "a", [], "A"), ("baker", "both", [], "B"), ("cook", "b", [], "B")
    )
    batch, relevant, _ = masks(pairs, [0, 1, 2, 3])
    assert relevant == [{"both", "a"}, {"both", "a"}, {"both", "b"}, {"both", "b"}]
    # Row by column: the document of rows 0 and 2 fits all four queries, "a" and "b" only those of their group.
    assert batch.same.astype(int).tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1]]


def test_a_query_of_two_groups_repels_neither():
    pairs = table(("manager", "a", [], "A"), ("manager", "b", [], "B"), ("cook", "c", [], "C"))
    batch, relevant, _ = masks(pairs, [0, 1, 2])
    assert relevant == [{"a", "b"}, {"a", "b"}, {"c"}]
    assert batch.same.astype(int).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_what_is_wrong_for_one_row_may_be_right_for_another():
    # "b2" enters the batch as the wrong document of the welder; its own row is not there.
    pairs = table(("welder", "a", ["b2"], "A"), ("baker", "b1", [], "B"), ("baker", "b2", [], "B"))
    batch, relevant, given_ones = masks(pairs, [0, 1])
    assert relevant == [{"a"}, {"b1", "b2"}] and given_ones == [{"b2"}, set()]
    repelled = negative_mask(batch, "batch", np.random.default_rng(0))
    assert repelled.sum(axis=1).tolist() == [2, 1] and repelled[1, batch.positive[0]]


WORDS = st.sampled_from("abcdef")
ROWS = st.lists(
    st.tuples(WORDS.map("q{}".format), WORDS.map("d{}".format), st.lists(WORDS.map("d{}".format), max_size=2), st.sampled_from("ABC")),
    min_size=1, max_size=12,
)  # fmt: skip


@given(ROWS, st.data())
@settings(deadline=None, derandomize=True)
def test_masks_agree_with_the_tasks_of_the_evaluation(rows, data):
    pairs = table(*rows)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, unique=True))
    batch, relevant, given_ones = masks(pairs, chosen)
    task = tasks_of(pairs)["q2d"]
    right = {
        query: {task.documents[index] for index in found}
        for query, found in zip(task.queries, task.relevant, strict=True)
    }
    present = {rows[row][1] for row in chosen} | {text for row in chosen for text in rows[row][2]}
    for at, row in enumerate(chosen):
        query, own, wrong, _ = rows[row]
        assert relevant[at] == right[query] & present and own in relevant[at]
        assert given_ones[at] == set(wrong) - right[query]
        assert [rows[other][0] for other, fits in zip(chosen, batch.same[at], strict=True) if fits] == [
            rows[other][0] for other in chosen if own in right[rows[other][0]]
        ]


# -- candidates ----------------------------------------------------------------------------------


@given(ROWS, st.integers(0, 100))
@settings(deadline=None, derandomize=True)
def test_candidates_are_never_relevant(rows, seed):
    batch = make_batch(index_rows(table(*rows)), np.arange(len(rows)))
    every, given_ones, one = (
        negative_mask(batch, policy, np.random.default_rng(seed)) for policy in ("batch", "given", "random")
    )
    assert np.array_equal(every, ~batch.relevant) and np.array_equal(given_ones, batch.given)
    for mask in (every, given_ones, one):
        assert mask.dtype == bool and mask.shape == batch.relevant.shape and not (mask & batch.relevant).any()
    assert one.sum(axis=1).tolist() == every.any(axis=1).astype(int).tolist()


def test_random_candidates_follow_the_generator_and_reach_all_others():
    batch = make_batch(index_rows(PAIRS), np.array([0, 3, 5]))
    draws = [negative_mask(batch, "random", np.random.default_rng(seed)) for seed in range(40)]
    assert np.array_equal(draws[3], negative_mask(batch, "random", np.random.default_rng(3)))
    assert np.array_equal(np.any(draws, axis=0), ~batch.relevant)


@pytest.mark.parametrize("policy", ["batch", "random", "given"])
def test_a_batch_of_one_group_has_no_candidates(policy):
    batch = make_batch(index_rows(PAIRS), np.array([1]))
    assert not negative_mask(batch, policy, np.random.default_rng(0)).any()
