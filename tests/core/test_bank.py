"""The memory bank: what it holds, what it says of a batch, and how it is stored."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from hr_search.bank import Bank
from hr_search.base.errors import InputError
from hr_search.batches import Rows, index_rows, make_batch
from hr_search.losses import infonce, triplet
from hr_search.mixing import MixingPolicy, mix


def unit(count: int, dimension: int = 4, seed: int = 0) -> torch.Tensor:
    """Random vectors of length 1."""
    return normalize(torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed)), dim=-1)


def rows_of(*triples: tuple[str, str, str], negatives: dict[int, list[str]] | None = None) -> Rows:
    """Rows from (query, positive, group), with given negatives by row."""
    pairs = pd.DataFrame(triples, columns=["query", "positive", "group"])
    pairs["negatives"] = [(negatives or {}).get(row, []) for row in range(len(pairs))]
    return index_rows(pairs)


# -- what it holds -------------------------------------------------------------------------------


def test_the_oldest_leave_first():
    bank, embeddings = Bank(4, 4), unit(7)
    assert len(bank) == 0
    bank.add(embeddings[:3], np.array([10, 11, 12]))
    assert len(bank) == 3 and bank.documents.tolist() == [10, 11, 12, -1]
    bank.add(embeddings[3:6], np.array([13, 14, 15]))
    assert len(bank) == 4 and bank.documents.tolist() == [14, 15, 12, 13]
    assert torch.equal(bank.embeddings, embeddings[[4, 5, 2, 3]])
    bank.add(embeddings[6:], np.array([16]))
    assert bank.documents.tolist() == [14, 15, 16, 13]


def test_a_document_is_held_once_as_it_was_last():
    bank, embeddings = Bank(5, 4), unit(4)
    bank.add(embeddings[:2], np.array([1, 2]))
    bank.add(embeddings[2:], np.array([3, 1]))
    assert len(bank) == 3 and bank.documents.tolist() == [-1, 2, 3, 1, -1]
    assert torch.equal(bank.embeddings[3], embeddings[3])


def test_what_is_held_is_a_copy_without_gradient():
    bank, embeddings = Bank(2, 4), unit(2).requires_grad_()
    bank.add(embeddings, np.array([0, 1]))
    before = bank.embeddings.clone()
    with torch.no_grad():
        embeddings.zero_()
    assert not bank.embeddings.requires_grad and torch.equal(bank.embeddings, before)
    bank.add(unit(1).bfloat16(), np.array([2]))
    assert bank.embeddings.dtype == torch.float32


def test_a_bank_smaller_than_a_step():
    bank = Bank(3, 4)
    with pytest.raises(InputError, match="has 3 places and a step brings 4 documents"):
        bank.add(unit(4), np.arange(4))
    assert len(bank) == 0
    bank.add(unit(3), np.arange(3))  # as many as there are places is well
    with pytest.raises(InputError, match="of 0 documents"):
        Bank(0, 4)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(steps=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True), max_size=8))
def test_no_document_twice_and_each_as_it_was_last(steps):
    bank, latest = Bank(5, 4), {}
    for at, documents in enumerate(steps):
        embeddings = unit(len(documents), seed=at)
        bank.add(embeddings, np.array(documents))
        latest |= dict(zip(documents, embeddings, strict=True))
    held = bank.documents[bank.documents >= 0]
    assert len(held) == len(set(held)) == len(bank)
    assert not steps or set(steps[-1]) <= set(held)
    for place in np.flatnonzero(bank.documents >= 0):
        assert torch.equal(bank.embeddings[place], latest[bank.documents[place]])


# -- what it says of a batch ---------------------------------------------------------------------

# "b" is a positive of two groups; row 3 brings a negative that is of no group, and "a" which is of one.
ROWS = rows_of(
    ("q", "a", "A"), ("q", "b", "A"), ("r", "b", "B"), ("r", "c", "B"), ("s", "d", "C"), negatives={3: ["e", "a"]}
)
PLACE = {text: place for place, text in enumerate(ROWS.documents)}


def held(*texts: str, size: int = 8) -> Bank:
    """A bank with these documents, one at each place."""
    bank = Bank(size, 4)
    bank.add(unit(len(texts)), np.array([PLACE[text] for text in texts], dtype=np.int64))
    return bank


def words(mask: torch.Tensor, bank: Bank) -> list[str]:
    """The documents each row of a mask names."""
    return ["".join(sorted(ROWS.documents[bank.documents[place]] for place in row.nonzero()[:, 0])) for row in mask]


def test_groups_decide_by_hand():
    bank = held("a", "b", "c", "d", "e")
    relevant, wrong = bank.masks(ROWS, make_batch(ROWS, np.array([0, 4])))  # rows q-a and s-d
    assert relevant.shape == wrong.shape == (2, 8)
    # "a" and "d" are in the batch already. Row q: b of its group; row s: nothing of its own is left.
    assert words(relevant, bank) == ["b", ""] and words(wrong, bank) == ["ce", "bce"]
    relevant, wrong = bank.masks(ROWS, make_batch(ROWS, np.array([2])))  # row r-b
    assert words(relevant, bank) == ["c"] and words(wrong, bank) == ["ade"]


def test_rows_of_one_query_have_rows_of_their_own():
    bank = held("d", "c")
    relevant, wrong = bank.masks(ROWS, make_batch(ROWS, np.array([4, 0, 1])))
    assert words(relevant, bank) == ["", "", ""] and words(wrong, bank) == ["c", "c", "c"]
    relevant, wrong = held("c").masks(ROWS, make_batch(ROWS, np.array([2, 0])))
    assert relevant[:, 0].tolist() == [True, False] and wrong[:, 0].tolist() == [False, True]


def test_what_matches_in_part_is_neither():
    soft = [("q", "a", "A"), ("r", "b", "B"), ("s", "c", "C")]
    pairs = pd.DataFrame(soft, columns=["query", "positive", "group"]).assign(softgroup=["72", "72", ""])
    rows, bank = index_rows(pairs), Bank(4, 4)
    bank.add(unit(3), np.array([rows.documents.index(text) for text in "abc"]))
    relevant, wrong = bank.masks(rows, make_batch(rows, np.array([0])))
    assert not relevant.any() and wrong.tolist() == [[False, False, True, False]]
    relevant, wrong = bank.masks(index_rows(pairs.assign(group=["A", "A", "C"])), make_batch(rows, np.array([0])))
    assert relevant.tolist() == [[False, True, False, False]] and wrong.tolist() == [[False, False, True, False]]


def test_empty_places_are_neither():
    for bank in (Bank(3, 4), held("e", size=3)):
        relevant, wrong = bank.masks(ROWS, make_batch(ROWS, np.array([0, 4])))
        assert relevant.dtype == wrong.dtype == torch.bool
        assert not relevant.any() and wrong.sum() == 2 * len(bank)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_rule_is_that_of_a_batch(data):
    """Entries are judged as `make_batch` would judge the same documents within a batch."""
    texts = st.sampled_from("abcdef")
    triples = data.draw(st.lists(st.tuples(st.sampled_from("qrs"), texts, st.sampled_from("ABC")), min_size=1))
    rows = rows_of(*triples)
    everything = make_batch(rows, np.arange(len(rows)))
    chosen = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4, unique=True)))
    batch = make_batch(rows, chosen)
    order = np.array(data.draw(st.permutations(range(len(rows.documents)))))
    bank = Bank(len(order) + 2, 4)
    bank.add(unit(len(order)), order)
    relevant, wrong = (mask.numpy()[:, : len(order)] for mask in bank.masks(rows, batch))
    fits, new = everything.relevant[chosen][:, order], ~np.isin(order, batch.documents)
    assert (relevant == (fits & new)).all() and (wrong == (~fits & new)).all()


def test_bank_and_batch_together_as_neighbours_and_negatives():
    """What a training step does with it."""
    batch, bank = make_batch(ROWS, np.array([0, 4])), held("b", "c", "e")
    queries, documents = unit(2, seed=5).requires_grad_(), unit(len(batch.documents), seed=6).requires_grad_()
    positive, relevant = torch.from_numpy(batch.positive), torch.from_numpy(batch.relevant)
    more, wrong = bank.masks(ROWS, batch)
    pool = torch.cat([documents, bank.embeddings])
    relevant, candidates = torch.cat([relevant, more], dim=1), torch.cat([~relevant, wrong], dim=1)
    moved = mix(queries, pool, positive, relevant, candidates, MixingPolicy("slerp", positive_weight=1.0))
    torch.testing.assert_close(moved.queries[0], bank.embeddings[0])  # "b", the only fellow of "a"
    assert torch.equal(moved.queries[1], queries[1])
    same = torch.from_numpy(batch.same)
    cost = infonce(queries, pool, positive, candidates, same) + triplet(queries, pool, positive, candidates, 2.0)
    # The same as with the usable entries alone in a batch of their own.
    few = torch.cat([documents, bank.embeddings[:3]])
    allowed = candidates[:, : len(few)]
    expected = infonce(queries, few, positive, allowed, same) + triplet(queries, few, positive, allowed, 2.0)
    torch.testing.assert_close(cost, expected)
    assert not allowed[0, len(documents)]  # "b" never repels the query of its group
    cost.backward()
    assert (documents.grad != 0).any()


# -- storing -------------------------------------------------------------------------------------


def test_a_bank_goes_on_where_it_was_stored(tmp_path):
    whole, first = Bank(5, 4), Bank(5, 4)
    steps = [(unit(3, seed=at), np.arange(3 * at, 3 * at + 3)) for at in range(4)]
    for bank, part in ((whole, steps), (first, steps[:2])):
        for step in part:
            bank.add(*step)
    torch.save(first.state_dict(), tmp_path / "bank.pt")
    second = Bank(5, 4)
    second.load_state_dict(torch.load(tmp_path / "bank.pt", weights_only=True))
    for step in steps[2:]:
        second.add(*step)
    assert torch.equal(second.embeddings, whole.embeddings) and (second.documents == whole.documents).all()
    assert all(map(torch.equal, second.state_dict().values(), whole.state_dict().values()))


def test_what_was_stored_stays_as_it_was():
    bank = Bank(3, 4)
    bank.add(unit(2), np.array([0, 1]))
    state = bank.state_dict()
    kept = {name: value.clone() for name, value in state.items()}
    bank.add(unit(2, seed=1), np.array([2, 3]))
    assert all(torch.equal(state[name], kept[name]) for name in kept)
    again = Bank(3, 4)
    again.load_state_dict(state)
    again.add(unit(1, seed=2), np.array([4]))
    assert all(torch.equal(state[name], kept[name]) for name in kept)


@pytest.mark.parametrize("size, dimension", [(4, 4), (3, 5)])
def test_a_bank_of_another_shape_is_refused(size, dimension):
    with pytest.raises(InputError, match=f"{size} places of {dimension} numbers, this one 3 of 4"):
        Bank(3, 4).load_state_dict(Bank(size, dimension).state_dict())
