"""Search tasks: relevance is a shared group, the same in both directions."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sentences import toy

from hr_search.base.errors import InputError
from hr_search.data import tasks
from hr_search.data.tasks import both_directions, fingerprint, tasks_of


def test_tasks_of_a_toy_table() -> None:
    both = tasks_of(toy())
    there, back = both["q2d"], both["d2q"]
    assert (there.name, back.name) == ("q2d", "d2q")
    assert there.queries == back.documents == ["Cook", "chef", "smith", "server"]
    assert there.documents == back.queries == ["makes soup", "bakes fish", "bends iron", "brings plates"]
    assert [rows.tolist() for rows in there.relevant] == [[0, 1, 3], [0, 1], [2], [0, 3]]
    assert [rows.tolist() for rows in back.relevant] == [[0, 1, 3], [0, 1], [2], [0, 3]]
    assert there.groups == ["kitchen", "kitchen", "forge", "canteen"]
    assert back.groups == ["kitchen", "kitchen", "forge", "canteen"]


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 5)), max_size=40))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_relevance_is_symmetric_and_means_a_shared_group(rows: list[tuple[int, int, int]]) -> None:
    pairs = pd.DataFrame([(f"q{q}", f"d{d}", f"g{g}") for q, d, g in rows], columns=["query", "positive", "group"])
    both = tasks_of(pairs)
    there, back = both["q2d"], both["d2q"]
    relevant = {(i, int(j)) for i, found in enumerate(there.relevant) for j in found}
    assert relevant == {(int(j), i) for i, found in enumerate(back.relevant) for j in found}
    groups = [{name: set(part["group"]) for name, part in pairs.groupby(column)} for column in ("query", "positive")]
    assert relevant == {
        (i, j)
        for i, query in enumerate(there.queries)
        for j, document in enumerate(there.documents)
        if groups[0][query] & groups[1][document]
    }
    assert all((np.diff(found) > 0).all() and found.dtype.kind == "i" and len(found) for found in there.relevant)
    assert len(there.relevant) == len(there.queries) == len(there.groups)
    assert there.grades is None and back.grades is None  # not how many groups two texts share


def test_grades_go_both_ways() -> None:
    relevance = sparse.csr_array(np.array([[2.0, 0.5, 0.0], [0.0, 1.0, 0.5]]))
    both = both_directions(["a", "b"], ["x", "y", "z"], relevance, ["a", "b"], ["a", "b"], relevantfrom=1)
    there, back = both["q2d"], both["d2q"]
    assert [rows.tolist() for rows in there.relevant] == [[0, 1], [1, 2]]
    assert [rows.tolist() for rows in there.grades] == [[2, 0.5], [1, 0.5]]
    assert [there.right(query).tolist() for query in (0, 1)] == [[0], [1]]
    assert back.queries == ["x", "y"] and [rows.tolist() for rows in back.relevant] == [[0], [0, 1]]
    assert [rows.tolist() for rows in back.grades] == [[2], [0.5, 1]] and back.relevantfrom == 1
    assert [back.right(query).tolist() for query in (0, 1)] == [[0], [1]]


def grouped(rows: int, groups: int) -> pd.DataFrame:
    """A table of `rows` distinct queries and documents in equal groups."""
    texts = {"query": [f"q{row}" for row in range(rows)], "positive": [f"d{row}" for row in range(rows)]}
    return pd.DataFrame({**texts, "group": [f"g{row % groups}" for row in range(rows)]})


def test_large_groups_are_refused_before_they_take_memory(monkeypatch) -> None:
    assert 10**7 <= tasks.PAIRS <= 2**31 // 20  # what a table may take in memory
    monkeypatch.setattr(tasks, "PAIRS", 2_000)
    with pytest.raises(InputError) as caught:
        tasks_of(grouped(100, 2))
    assert str(caught.value).startswith(
        "the groups of 100 queries and 100 documents make 5,000 pairs that are relevant to each other, and at most 2,000 "
        'fit (the largest group, "g0", has 50 queries and 50 documents); take a finer --groupcolumn, a smaller share'
    )
    monkeypatch.setattr(tasks, "PAIRS", 50)
    assert len(tasks_of(grouped(10, 2))) == 2
    with pytest.raises(InputError, match="52 pairs"):
        tasks_of(pd.concat([grouped(10, 2), grouped(2, 2).assign(group=["g2", "g3"])]))


def test_a_relevant_pair_takes_few_bytes() -> None:
    table = grouped(2_000, 2)
    tasks_of(table)
    tracemalloc.start()
    try:
        tasks_of(table)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2 * 1_000**2


def test_the_fingerprint_of_a_test_changes_with_all_that_decides_a_metric() -> None:
    task = tasks_of(toy())["q2d"]
    graded = replace(task, grades=[np.full(len(found), 2.0) for found in task.relevant])
    fewer = [task.relevant[0][:1], *task.relevant[1:]]
    changed = [
        replace(task, queries=["cook", *task.queries[1:]]),
        replace(task, documents=[*task.documents, "a distractor"]),
        replace(task, relevant=fewer),
        replace(task, tables=["a", "a", "a", "b"]),
        graded,
        replace(graded, relevantfrom=3.0),
    ]
    assert len({fingerprint(each) for each in [task, *changed]}) == 7
    assert fingerprint(task) == fingerprint(tasks_of(toy())["q2d"])
    assert fingerprint(replace(task, groups=["other"] * 4)) == fingerprint(task)
