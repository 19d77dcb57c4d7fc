"""Metrics by hand, against ir-measures and against brute force, and everything that cannot be ranked."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import ir_measures
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, P, R, Success, nDCG

from hr_search.base.choices import METRICS
from hr_search.base.errors import InputError
from hr_search.data.tasks import Task
from hr_search.evaluation import metrics, scoring
from hr_search.evaluation.metrics import embedding_scores, rank_all, rank_metrics, relevant_ranks, summarise
from hr_search.reranking.candidates import subset


def task_of(relevant: list[list[int]], documents: int, **more) -> Task:
    """A task with numbered texts."""
    count = len(relevant)
    return Task(
        "q2d",
        [f"query {i}" for i in range(count)],
        [f"document {i}" for i in range(documents)],
        [np.array(indices, dtype=np.int64) for indices in relevant],
        [f"group {i}" for i in range(count)],
        **more,
    )


def fixed(matrix: np.ndarray | list[list[float]]) -> metrics.Scores:
    """Scores from a matrix written down."""
    matrix = np.array(matrix)
    return lambda start, stop: matrix[start:stop]


def random_task(queries: int, documents: int, seed: int) -> tuple[Task, np.ndarray]:
    """A task with up to 30 relevant documents a query and scores without ties, also in float32."""
    rng = np.random.default_rng(seed)
    relevant = [np.sort(rng.choice(documents, rng.integers(1, 30), replace=False)).tolist() for _ in range(queries)]
    scores = np.stack([rng.permutation(documents) / documents for _ in range(queries)])
    for row, indices in zip(scores, relevant, strict=True):
        row[indices] += 0.1 + 1e-5
    return task_of(relevant, documents), scores


# One query


def test_hand_computed_case():
    ranks = relevant_ranks(np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([1, 3]))
    assert ranks.tolist() == [2, 4]
    values = rank_metrics(ranks)
    assert values == {
        "mrr": 0.5,
        "pass@1": 0.0,
        "pass@5": 1.0,
        "recall@10": 1.0,
        "ndcg@10": pytest.approx((1 / np.log2(3) + 1 / np.log2(5)) / (1 + 1 / np.log2(3))),
        "map": pytest.approx((1 / 2 + 2 / 4) / 2),
    }


def test_cut_offs_and_full_depth():
    values = rank_metrics(np.array([6, 11, 12, 40]))
    assert values["mrr"] == 1 / 6
    assert (values["pass@1"], values["pass@5"]) == (0, 0)
    assert values["recall@10"] == 1 / 4
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4) + 1 / np.log2(5)
    assert values["ndcg@10"] == pytest.approx((1 / np.log2(7)) / ideal)
    assert values["map"] == pytest.approx((1 / 6 + 2 / 11 + 3 / 12 + 4 / 40) / 4)


def test_more_than_ten_relevant_documents_have_an_ideal_of_ten():
    values = rank_metrics(np.arange(1, 15))
    assert values["ndcg@10"] == pytest.approx(1)
    assert values["recall@10"] == pytest.approx(10 / 14)
    assert values["map"] == 1


@pytest.mark.parametrize(
    ("scores", "relevant", "expected"),
    [
        ([1.0, 1.0, 1.0, 1.0], [0], [4]),
        ([1.0, 1.0, 1.0, 1.0], [0, 2], [3, 4]),
        ([2.0, 2.0, 1.0, 3.0], [0], [3]),
        ([2.0, 2.0, 2.0, 1.0, 1.0], [0, 4], [3, 5]),
        ([1.0, 0.0], [0, 1], [1, 2]),
        ([-0.0, 0.0], [0], [2]),
    ],
)
def test_ties_count_against_us(scores, relevant, expected):
    assert relevant_ranks(np.array(scores), np.array(relevant)).tolist() == expected


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_ranks_and_first_documents_equal_brute_force(data):
    scores = data.draw(st.lists(st.integers(-3, 3), min_size=1, max_size=25))
    relevant = sorted(data.draw(st.sets(st.integers(0, len(scores) - 1), min_size=1)))
    grades = dict.fromkeys(relevant, 1) | {at: data.draw(st.sampled_from([0.5, 1, 2])) for at in relevant}
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], grades.get(i, 0), i))
    expected = [place for place, index in enumerate(order, 1) if index in relevant]
    row = np.array(scores, dtype=np.float32)
    assert relevant_ranks(row, np.array(relevant)).tolist() == expected

    least = data.draw(st.sampled_from([each for each in (0, 0.5, 1, 2) if each <= max(grades.values())]))
    right = [at for at in relevant if grades[at] >= least]
    given_grades = [np.array([grades[at] for at in relevant], float)]
    task = task_of([relevant], len(scores), grades=given_grades, relevantfrom=least)
    result = rank_all(task, fixed([scores])).iloc[0]
    assert result["rank"] == next(place for place, index in enumerate(order, 1) if index in right)
    assert result["relevant"] == len(right) and json.loads(result["expected"]) == right[:5]
    assert json.loads(result["found"]) == order[:5]
    gains = [grades.get(at, 0) for at in order[:10]]
    ideal = sorted(grades.values(), reverse=True)[:10]
    gained, most = (sum(gain / np.log2(place + 1) for place, gain in enumerate(each, 1)) for each in (gains, ideal))
    assert result["ndcg@10"] == pytest.approx(gained / most)


def test_graded_case_with_ties_by_hand():
    # All but document 4 tie. First stand 0 and 2, which are not relevant, then grade 1 (5), grade 2 (3) and grade 3 (1).
    task = task_of([[1, 3, 5]], 6, grades=[np.array([3.0, 2.0, 1.0])], relevantfrom=2)
    result = rank_all(task, fixed([[0.5, 0.5, 0.5, 0.5, 0.9, 0.5]])).iloc[0]
    assert json.loads(result["found"]) == [4, 0, 2, 5, 3] and json.loads(result["expected"]) == [1, 3]
    assert (result["relevant"], result["rank"], result["mrr"]) == (2, 5, 1 / 5)
    assert (result["pass@1"], result["pass@5"], result["recall@10"]) == (0, 1, 1)
    assert result["map"] == pytest.approx((1 / 5 + 2 / 6) / 2)
    gained = 1 / np.log2(5) + 2 / np.log2(6) + 3 / np.log2(7)
    assert result["ndcg@10"] == pytest.approx(gained / (3 + 2 / np.log2(3) + 1 / 2))


# Many queries


def test_equal_to_ir_measures():
    task, scores = random_task(60, 300, seed=1)
    result = rank_all(task, fixed(scores), chunk=7)
    qrels = [ir_measures.Qrel(str(q), str(d), 1) for q, indices in enumerate(task.relevant) for d in indices]
    run = [ir_measures.ScoredDoc(str(q), str(d), s) for q, row in enumerate(scores) for d, s in enumerate(row)]
    names = {RR: "mrr", Success @ 1: "pass@1", P @ 1: "pass@1", Success @ 5: "pass@5"}
    names |= {R @ 10: "recall@10", nDCG @ 10: "ndcg@10", AP: "map"}
    compared = 0
    for metric in ir_measures.iter_calc(list(names), qrels, run):
        assert result[names[metric.measure]][int(metric.query_id)] == pytest.approx(metric.value, abs=1e-9)
        compared += 1
    assert compared == 7 * 60
    assert result["mrr"].nunique() > 5 and result["map"].nunique() > 30


@pytest.mark.parametrize("least", [0, 2, 3])
def test_graded_metrics_equal_ir_measures(least):
    task, scores = random_task(60, 300, seed=4)
    rng = np.random.default_rng(5)
    grades = [rng.integers(1, 4, len(indices)).astype(float) for indices in task.relevant]
    for row in grades:
        row[0] = 3  # so that no query lacks a right document
    result = rank_all(dataclasses.replace(task, grades=grades, relevantfrom=least), fixed(scores))
    qrels = [
        ir_measures.Qrel(str(q), str(d), int(grade))
        for q, indices in enumerate(task.relevant)
        for d, grade in zip(indices, grades[q], strict=True)
    ]
    run = [ir_measures.ScoredDoc(str(q), str(d), s) for q, row in enumerate(scores) for d, s in enumerate(row)]
    rel = max(least, 1)
    names = {RR(rel=rel): "mrr", Success(rel=rel) @ 1: "pass@1", Success(rel=rel) @ 5: "pass@5"}
    names |= {R(rel=rel) @ 10: "recall@10", nDCG @ 10: "ndcg@10", AP(rel=rel): "map"}
    compared = 0
    for metric in ir_measures.iter_calc(list(names), qrels, run):
        assert result[names[metric.measure]][int(metric.query_id)] == pytest.approx(metric.value, abs=1e-9)
        compared += 1
    assert compared == 6 * 60 and result["ndcg@10"].nunique() > 30
    binary = rank_all(task, fixed(scores))
    assert not np.allclose(result["ndcg@10"], binary["ndcg@10"])
    others = [name for name in METRICS if name != "ndcg@10"]
    assert result[others].equals(binary[others]) == (least == 0)  # without a threshold only nDCG knows grades


def test_grades_of_one_value_are_no_grades():
    task, scores = random_task(20, 100, seed=6)
    for value, exact in ((1, True), (4, True), (0.3, False)):  # a power of two is exact
        grades = [np.full(len(indices), value, float) for indices in task.relevant]
        found = rank_all(dataclasses.replace(task, grades=grades, relevantfrom=value), fixed(scores))
        pd.testing.assert_frame_equal(found, rank_all(task, fixed(scores)), check_exact=exact)


def test_a_partial_match_is_neither_right_nor_wrong():
    grades = {"q2d": [np.array([2.0, 1.0]), np.array([2.0])], "d2q": [np.array([2.0]), np.array([1.0, 2.0])]}
    both = {
        "q2d": task_of([[0, 1], [1]], 3, grades=grades["q2d"], relevantfrom=2),
        "d2q": dataclasses.replace(task_of([[0], [0, 1]], 2, grades=grades["d2q"], relevantfrom=2), name="d2q"),
    }
    # Query 0 is nearest to document 1, its partial match.
    sides = {"query": np.array([[0.0, 1.0], [1.0, 1.0]]), "document": np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])}
    table = scoring.scores_table("base", {"q2d": both["q2d"]}, sides, 0)
    first = table[table["query"] == 0].set_index("kind")["score"]
    assert first.round(3).to_dict() == {"positive": 0.707, "best": 0.707, "negative": 0, "nearest": 0}
    second = subset(both["q2d"], np.array([1]))
    assert second.grades[0].tolist() == [2] and second.relevant[0].tolist() == [1] and second.relevantfrom == 2
    train = pd.DataFrame({"query": ["query 0"]})
    assert scoring.seen_titles(train, both)["d2q"].tolist() == [True, False]  # query 0 is only close to document 1


def test_chunks_and_precision_change_nothing(monkeypatch):
    task, scores = random_task(20, 100, seed=2)
    whole = rank_all(task, fixed(scores))
    assert list(whole) == ["query", "group", "relevant", "rank", *METRICS, "found", "hits", "expected"]
    assert whole["query"].tolist() == task.queries and whole["group"].tolist() == task.groups
    assert whole["relevant"].tolist() == [len(indices) for indices in task.relevant]
    pd.testing.assert_frame_equal(rank_all(task, fixed(scores), chunk=1), whole)
    pd.testing.assert_frame_equal(rank_all(task, fixed(scores.astype(np.float32)), chunk=3), whole)
    pd.testing.assert_frame_equal(rank_all(task, fixed((scores * 1e6).round().astype(np.int64))), whole)

    asked = []
    for block, largest, most in ((300, 10_000, 16), (200, 250, 2), (1800, 10_000, 18)):
        monkeypatch.setattr(metrics, "_BLOCK", block)
        monkeypatch.setattr(metrics, "_LARGEST", largest)
        rank_all(task, lambda start, stop: asked.append(stop - start) or scores[start:stop])
        assert max(asked) == most and sum(asked) == 20
        asked.clear()


def test_thousands_of_relevant_documents_need_no_table_of_pairs():
    # A comparison of every relevant document with every other one would take 9 GB here.
    rng = np.random.default_rng(0)
    row = rng.integers(0, 50_000, 150_000).astype(np.float32)
    relevant = np.sort(rng.choice(150_000, 60_000, replace=False))
    ranks = relevant_ranks(row, relevant)
    assert (np.diff(ranks) > 0).all()
    others = np.sort(np.delete(row, relevant))
    wanted = np.sort(row[relevant])[::-1]
    for place in (0, 1, 777, 59_999):
        assert ranks[place] == place + 1 + (others >= wanted[place]).sum()


def test_summary():
    task, scores = random_task(50, 100, seed=3)
    result = rank_all(task, fixed(scores))
    summary = summarise(result, seed=1)
    assert list(summary) == ["metric", "value", "low", "high", "queries"]
    assert summary["metric"].tolist() == list(METRICS)
    assert (summary["queries"] == 50).all()
    np.testing.assert_allclose(summary["value"], result[list(METRICS)].mean())
    assert ((summary["low"] <= summary["value"]) & (summary["value"] <= summary["high"])).all()
    pd.testing.assert_frame_equal(summarise(result, seed=1), summary)
    assert not summarise(result, seed=2).equals(summary)
    with pytest.raises(InputError, match="no column map"):
        summarise(result.drop(columns="map"))


# Embeddings


def test_embedding_scores_are_cosines():
    rng = np.random.default_rng(0)
    queries, documents = rng.standard_normal((5, 8)), 1000 * rng.standard_normal((9, 8))
    scores = embedding_scores(queries, documents)
    cosines = queries @ documents.T / np.outer(np.linalg.norm(queries, axis=1), np.linalg.norm(documents, axis=1))
    np.testing.assert_allclose(scores(0, 5), cosines, atol=2e-6)
    np.testing.assert_allclose(scores(2, 4), cosines[2:4], atol=2e-6)


def test_tiny_huge_and_zero_embeddings():
    scores = embedding_scores(np.array([[1.0, 0.0]]), np.array([[1e-30, 0], [3e38, 0], [0, 0], [-2, 0]]))
    np.testing.assert_allclose(scores(0, 1), [[1, 1, 0, -1]], atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 30])
@pytest.mark.parametrize("dimensions", [33, 100, 384, 768])
def test_a_collapsed_model_comes_last(dimensions, chunk):
    one = np.random.default_rng(0).standard_normal(dimensions).astype(np.float32)
    for documents in (7, 1003):
        task = task_of([[i] for i in range(5)], documents)
        scores = embedding_scores(np.tile(one, (5, 1)), np.tile(one, (documents, 1)))
        assert (rank_all(task, scores, chunk)["rank"] == documents).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("side", ["query", "document"])
def test_unusable_embeddings_name_side_and_row(value, side):
    good, bad = np.ones((4, 3)), np.ones((4, 3))
    bad[2, 1] = value
    with pytest.raises(InputError, match=f"{side} embeddings: row 3 .*1 such row\\)"):
        embedding_scores(*((bad, good) if side == "query" else (good, bad)))


@pytest.mark.parametrize(
    ("queries", "documents", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), "3 dimensions .* 4"),
        (np.ones(3), np.ones((2, 3)), r"query embeddings .*\(3,\)"),
        (np.ones((2, 3)), np.ones((0, 3)), r"document embeddings .*\(0, 3\)"),
        (np.array([["a"]]), np.ones((2, 1)), "query embeddings .*type <U1"),
    ],
)
def test_mismatched_embeddings(queries, documents, message):
    with pytest.raises(InputError, match=message):
        embedding_scores(queries, documents)


# Input that cannot be evaluated


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_unusable_scores_name_the_query(value):
    scores = np.zeros((5, 4))
    scores[3, 1] = value
    with pytest.raises(InputError, match="task q2d: the scores of query row 4 hold NaN or infinity"):
        rank_all(task_of([[0]] * 5, 4), fixed(scores), chunk=2)


@pytest.mark.parametrize("shape", [(2, 4), (2,), (1, 3)])
def test_scores_of_another_shape(shape):
    with pytest.raises(InputError, match=r"query rows 1 to 2 have shape .*, not \(2, 3\)"):
        rank_all(task_of([[0], [1]], 3), lambda start, stop: np.zeros(shape))


@pytest.mark.parametrize(
    ("relevant", "message"),
    [
        ([[0], []], r"query row 2 \('query 1'\) has no relevant document"),
        ([[0], [3]], "query row 2: .* indices from 0 to 2"),
        ([[-1], [0]], "query row 1: .* indices from 0 to 2"),
        ([[0], [1, 1]], "query row 2: .* ascending indices without repeats"),
        ([[0], [2, 1]], "query row 2: .* ascending"),
        ([], "0 queries and 3 documents"),
    ],
)
def test_tasks_that_cannot_be_evaluated(relevant, message):
    with pytest.raises(InputError, match=message):
        rank_all(task_of(relevant, 3), fixed(np.zeros((2, 3))))


def test_more_tasks_that_cannot_be_evaluated():
    task = task_of([[0], [1]], 3)
    with pytest.raises(InputError, match="2 queries, 2 relevant lists and 1 groups"):
        rank_all(Task("d2q", task.queries, task.documents, task.relevant, ["one"]), fixed(np.zeros((2, 3))))
    with pytest.raises(InputError, match=r"query row 1: .* ascending indices"):
        fractions = [np.array([0.5]), np.array([1.0])]
        rank_all(Task("d2q", task.queries, task.documents, fractions, task.groups), fixed(np.zeros((2, 3))))


@pytest.mark.parametrize(
    ("grades", "least", "message"),
    [
        ([[1.0]], 0, "2 queries and 1 lists of grades"),
        ([[1.0], [1.0, 2.0]], 0, "query row 2: each relevant document needs one grade"),
        ([[1.0], [0.0]], 0, "query row 2: each relevant document needs one grade, a number above 0"),
        ([[np.inf], [1.0]], 0, "query row 1: each relevant document needs one grade"),
        ([[2.0], [1.0]], 2, "query row 2 has no document of grade 2 or more; drop it"),
        (None, 1.5, "query row 1 has no document of grade 1.5 or more"),
    ],
)
def test_grades_that_do_not_fit(grades, least, message):
    given_grades = None if grades is None else [np.array(row) for row in grades]
    with pytest.raises(InputError, match=message):
        rank_all(task_of([[0], [1]], 3, grades=given_grades, relevantfrom=least), fixed(np.zeros((2, 3))))


def test_metrics_need_no_torch():
    code = "import sys, hr_search.evaluation.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
