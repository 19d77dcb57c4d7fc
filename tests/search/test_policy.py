"""The knobs of a search: what they may be, and the file beside a model."""

from __future__ import annotations

import json

import pytest

from hr_search.base.errors import InputError
from hr_search.search.policy import FILE, TYPES, SearchPolicy, read_policies, sides_of, write_policies


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"fusion": 1.01}, "fusion is 1.01; it must be between 0 and 1"),
        ({"fusion": -0.1}, "between 0 and 1"),
        ({"weight": float("nan")}, "weight is nan; it must be between"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": 0.0}, "between 0.001 and 10"),
        ({"k": 0}, "k is 0"),
        ({"k": 10**400}, "between 1 and 1000"),
        ({"k": 2.0}, "must be a whole number"),
        ({"k": True}, "k is True"),
        ({"centre": 1}, "centre is 1"),
        ({"fusion": "0.1"}, "fusion is '0.1'"),
        ({"mixing": "document"}, 'did you mean "documents"'),
        ({"strategy": "mean"}, "valid names: weighted, slerp"),
        ({"words": "bm52"}, 'did you mean "bm25"'),
        ({"scaling": ""}, "zscore"),
        ({"reranktop": 0}, "reranktop"),
        ({"rerank": None}, "rerank is None"),
    ],
)
def test_a_knob_that_cannot_be_is_named(tmp_path, knobs, message):
    with pytest.raises(InputError, match=message):
        SearchPolicy(**knobs)
    (tmp_path / FILE).write_text(json.dumps({"d2q": knobs}))
    with pytest.raises(InputError, match=message) as refused:
        read_policies(tmp_path)
    assert str(tmp_path / FILE) in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a readable JSON file"),
        ("[]", "must map directions to knobs"),
        ('{"d2": {}}', 'did you mean "d2q"'),
        ('{"d2q": {"fusions": 1}}', 'did you mean "fusion"'),
        ('{"d2q": []}', "must map knobs to values"),
        ('{"q2d": {"weight": NaN}}', "weight is nan"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content, message):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(InputError, match=message):
        read_policies(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"d2q": {"fusion": 7}}'])
def test_a_damaged_file_is_replaced(tmp_path, content, caplog):
    (tmp_path / FILE).write_text(content)
    write_policies(tmp_path, {"q2d": SearchPolicy(k=3)})
    assert read_policies(tmp_path) == {"q2d": SearchPolicy(k=3)}
    assert str(tmp_path / FILE) in caplog.text and "written anew" in caplog.text


def test_the_file_keeps_every_knob_and_the_other_direction(tmp_path):
    assert read_policies(tmp_path) == {}
    one = SearchPolicy(True, "both", "slerp", 3, 0.1, 0.2, 0.3, "bm25", "minmax", "owner/name", 7, 0.5)
    assert all(getattr(one, name) != getattr(SearchPolicy(), name) for name in TYPES)
    write_policies(tmp_path, {"q2d": one})
    write_policies(tmp_path, {"d2q": SearchPolicy()})
    assert read_policies(tmp_path) == {"q2d": one, "d2q": SearchPolicy()}


def test_model_and_second_stage_can_move_together(tmp_path):
    for place in ("reranker", "one/reranker"):
        folder = tmp_path / "old" / "one"
        write_policies(folder, {"q2d": SearchPolicy(rerank=str(tmp_path / "old" / place))})
        assert str(tmp_path) not in (folder / FILE).read_text()
        (tmp_path / "old").rename(tmp_path / "new")
        assert read_policies(tmp_path / "new" / "one")["q2d"].rerank == str(tmp_path / "new" / place)
        write_policies(tmp_path / "new" / "one", {"d2q": SearchPolicy()})  # writes the first once more
        assert read_policies(tmp_path / "new" / "one")["q2d"].rerank == str(tmp_path / "new" / place)
        (tmp_path / "new").rename(tmp_path / "old")


def test_what_a_policy_needs():
    plain = SearchPolicy()
    assert not (plain.remembers or plain.consults or plain.staged)
    assert plain.replace(centre=True).remembers and plain.replace(mixing="queries").remembers
    assert plain.replace(fusion=0.1).consults and not plain.replace(fusion=0.1).remembers
    assert not plain.replace(fusion=0.1, words="bm25").consults
    assert plain.replace(rerank="x").staged and not plain.replace(rerank="x").consults


def test_knobs_that_move_the_same_embeddings_are_equal():
    policy = SearchPolicy(mixing="documents")
    assert policy.embedding == policy.replace(mixing="both", fusion=0.5, rerank="x").embedding
    assert policy.embedding != policy.replace(k=11).embedding
    assert policy.moves("queries") == SearchPolicy(k=99).moves("queries") != policy.embedding
    assert sides_of("q2d") == ("query", "document") and sides_of("d2q") == ("document", "query")
