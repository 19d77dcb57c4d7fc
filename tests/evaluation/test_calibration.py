"""Cosines kept by a run, how far right and wrong ones lie apart, and thresholds judged on other queries."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve

from hr_search.base.errors import InputError
from hr_search.data.tasks import Task
from hr_search.evaluation import calibration, scoring
from hr_search.evaluation.metrics import embedding_scores, rank_all


def tasks(queries: int, documents: int, relevant: list[list[int]]) -> dict[str, Task]:
    """Both directions of a task whose texts are numbers; documents relevant to no query come last."""
    left, right = [f"q{at}" for at in range(queries)], [f"d{at}" for at in range(documents)]
    back = [[query for query in range(queries) if at in relevant[query]] for at in range(documents)]
    back = [each for each in back if each]
    return {
        "q2d": Task("q2d", left, right, [np.array(each) for each in relevant], [str(at) for at in range(queries)]),
        "d2q": Task("d2q", right[: len(back)], left, [np.array(each) for each in back], ["x"] * len(back)),
    }


def embeddings(queries: int, documents: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {"query": random.normal(size=(queries, 8)), "document": random.normal(size=(documents, 8))}


def found(score: list[float], right: list[int], groups: list | None = None) -> pd.DataFrame:
    """What `first_found` returns; each query is a group of its own unless groups are given."""
    names = [str(each) for each in (range(len(score)) if groups is None else groups)]
    return pd.DataFrame({"score": np.asarray(score, float), "right": np.asarray(right, bool), "group": names})


# Cosines that a run keeps


def test_cosines_of_every_kind():
    both, sides = tasks(4, 6, [[0, 1], [2], [3], [4, 5]]), embeddings(4, 6)
    table = scoring.scores_table("base", both, sides, 0)
    assert list(table) == ["system", "direction", "query", "kind", "score"] and set(table["system"]) == {"base"}
    cosines = embedding_scores(sides["query"], sides["document"])(0, 4)
    for direction, matrix in (("q2d", cosines), ("d2q", cosines.T)):
        wide = table[table["direction"] == direction].pivot(index="query", columns="kind", values="score")
        assert wide.index.tolist() == list(range(len(matrix)))
        for query, row in enumerate(matrix):
            relevant = both[direction].relevant[query]
            right, wrong = row[relevant], np.delete(row, relevant)
            said = wide.loc[query]
            assert said["best"] == pytest.approx(right.max(), abs=1e-6)
            assert said["nearest"] == pytest.approx(wrong.max(), abs=1e-6)
            assert np.isclose(right, said["positive"], atol=1e-6).any()
            assert np.isclose(wrong, said["negative"], atol=1e-6).any()
    assert (table["score"] == table["score"].round(6)).all()


def test_cosines_are_drawn_alike_for_all_systems_and_only_of_some_queries(monkeypatch):
    monkeypatch.setattr(scoring, "SAMPLE", 70)
    both, sides = tasks(90, 90, [[at] for at in range(90)]), embeddings(90, 90)
    table = scoring.scores_table("base", both, sides, 5)
    drawn = table[table["direction"] == "q2d"]["query"].unique()
    assert len(drawn) == 70 and (np.diff(drawn) > 0).all()
    turned = {"query": -sides["query"], "document": sides["document"]}
    other = scoring.scores_table("trained", both, turned, 5)
    assert other["query"].tolist() == table["query"].tolist()
    chance = table["kind"].isin(["positive", "negative"])
    np.testing.assert_allclose(other.loc[chance, "score"], -table.loc[chance, "score"], atol=2e-6)
    assert set(scoring.scores_table("base", both, sides, 6)["query"]) != set(table["query"])


def test_a_query_without_wrong_documents_has_no_wrong_cosines():
    both = tasks(2, 2, [[0, 1], [0]])
    table = scoring.scores_table("base", both, embeddings(2, 2), 0).query("direction == 'q2d'")
    assert table[table["query"] == 0]["kind"].tolist() == ["positive", "best"]
    first = calibration.first_found(table, pd.Series(["a", "b"]))
    best = table[(table["query"] == 0) & (table["kind"] == "best")]["score"].item()
    assert first["right"][0] and first["score"][0] == best


def test_barred_documents_are_not_among_the_wrong_ones():
    both, sides = tasks(2, 4, [[0], [1]]), embeddings(2, 4)
    cosines = embedding_scores(sides["query"], sides["document"])(0, 2)
    barred = [np.array([at for at in range(4) if at not in (row, 3)]) for row in range(2)]
    both["q2d"] = dataclasses.replace(both["q2d"], barred=barred)
    table = scoring.scores_table("base", both, sides, 0).query("direction == 'q2d'")
    wide = table.pivot(index="query", columns="kind", values="score")
    for kind in ("negative", "nearest"):
        np.testing.assert_allclose(wide[kind], cosines[:, 3], atol=1e-6)


def test_first_found_agrees_with_the_ranks():
    both, sides = tasks(60, 30, [[at % 30] for at in range(60)]), embeddings(60, 30)
    sides["document"][5] = sides["document"][6]  # ties come behind
    table = scoring.scores_table("base", both, sides, 0)
    for direction, pair in (("q2d", ("query", "document")), ("d2q", ("document", "query"))):
        ranks = rank_all(both[direction], embedding_scores(*(sides[side] for side in pair)))
        first = calibration.first_found(table[table["direction"] == direction], ranks["group"])
        assert first["right"].tolist() == (ranks["rank"] == 1).tolist()
        assert first["group"].tolist() == ranks["group"].tolist()


# Apart


def test_overlap_by_hand():
    assert calibration.overlap(np.full(50, 0.9), np.full(50, 0.1)) == 0
    assert calibration.overlap(np.full(50, 0.9), np.full(50, 0.9)) == 1
    assert calibration.overlap(np.full(40, 0.9), np.array([0.1] * 75 + [0.9] * 25)) == pytest.approx(0.25)
    random = np.random.default_rng(0)
    # two normal distributions a standard deviation apart share 2 Φ(-1/2) of their area
    assert calibration.overlap(random.normal(0, 1, 4000), random.normal(1, 1, 4000)) == pytest.approx(0.617, abs=0.02)
    with pytest.raises(InputError, match="one of the samples has no scores"):
        calibration.overlap(np.array([]), np.array([0.5]))


def test_separation_by_hand():
    rows = [
        *(("base", "positive", 0.5), ("base", "positive", 0.5), ("base", "negative", 0.5), ("base", "negative", 0.1)),
        *(("base", "nearest", 0.9), ("base", "best", 1.0), ("trained", "positive", 0.8), ("trained", "negative", 0.1)),
    ]
    table = calibration.separation(pd.DataFrame(rows, columns=["system", "kind", "score"]))
    assert table["system"].tolist() == ["base", "base", "trained"]
    assert table["against"].tolist() == ["random wrong", "nearest wrong", "random wrong"]
    assert table["auc"].tolist() == [0.75, 0.0, 1.0]  # ties count half
    assert table["overlap"].tolist() == [0.5, 0.0, 0.0]
    assert table["right"].tolist() == [0.5, 0.5, 0.8] and table["wrong"].tolist() == pytest.approx([0.3, 0.9, 0.1])


# Thresholds


def test_acceptance_by_hand():
    table = calibration.acceptance([0.9, 0.7, 0.7, 0.2], [1, 1, 0, 0])
    assert table["threshold"].tolist() == [0.9, 0.7, 0.2] and table["queries"].tolist() == [1, 3, 4]
    assert table["accepted"].tolist() == [0.25, 0.75, 1]
    assert table["precision"].tolist() == pytest.approx([1, 2 / 3, 0.5])
    assert table["recall"].tolist() == [0.25, 0.5, 0.5]  # of all four queries, two of which find no right document
    assert table["f1"].tolist() == pytest.approx([0.4, 4 / 7, 0.5])


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=40))
@settings(deadline=None, derandomize=True)
def test_acceptance_agrees_with_scikit_learn(pairs):
    score, right = (np.array(each) for each in zip(*pairs, strict=True))
    table = calibration.acceptance(score, right).iloc[::-1]
    if right.any():
        precision, recall, thresholds = precision_recall_curve(right, score)
        np.testing.assert_allclose(table["threshold"], thresholds)
        np.testing.assert_allclose(table["precision"], precision[:-1])
        np.testing.assert_allclose(table["recall"], recall[:-1] * right.mean())


def test_thresholds_chosen():
    score, right = np.linspace(1, 0.01, 100), np.arange(100) < 40
    assert calibration.choose(score, right) == pytest.approx(score[39])
    assert calibration.choose(score, right, 0.8) == pytest.approx(score[49])  # 40 of 50
    assert calibration.choose(score, right, 1.0) == pytest.approx(score[39])
    assert np.isnan(calibration.choose(score, ~right, 0.9))
    assert np.isnan(calibration.choose(score, np.zeros(100, bool)))
    assert np.isnan(calibration.choose(score[:5], np.ones(5, bool), 0.9))  # five prove nothing
    assert calibration.choose(score[:5], np.ones(5, bool)) == score[4]


def test_operating_points_where_the_cosine_separates_all():
    score = np.random.default_rng(0).permutation(np.linspace(0, 1, 400))
    points = calibration.operating_points(found(score, score > 0.5)).set_index("goal")
    assert points.index.tolist() == ["best F1", "90 % precision"]
    best = points.loc["best F1"]
    assert best["threshold"] == pytest.approx(0.5, abs=0.01) and best["precision"] > 0.97 and best["recall"] > 0.48
    assert best["fold_low"] <= best["threshold"] <= best["fold_high"] + 1e-9
    assert best["low"] < best["precision"] <= best["high"] + 1e-9
    careful = points.loc["90 % precision"]
    assert careful["threshold"] < 0.46 and careful["precision"] == pytest.approx(0.9, abs=0.02)
    assert careful["recall"] == 0.5 and careful["accepted"] == pytest.approx(0.555, abs=0.02)


def test_a_meaningless_cosine_gets_no_flattering_precision():
    random = np.random.default_rng(1)
    score, right = random.random(300), random.random(300) < 0.5
    # On the queries it is chosen on, some threshold always looks good; cross-fitting shows that it is not.
    flattering = calibration.acceptance(score, right)["precision"].max()
    points = calibration.operating_points(found(score, right))
    assert flattering > 0.6
    assert points["precision"][0] == pytest.approx(0.5, abs=0.07)


def test_folds_keep_groups_together():
    # Each group has a cosine of its own, so a threshold that knew the group would be perfect.
    groups = np.repeat(np.arange(6), 20)
    score, right = groups / 10 + 0.3, groups % 2
    points = calibration.operating_points(found(score, right, groups))
    assert points["precision"][0] < 0.7
    table = calibration.reliability(found(score, right, groups), bins=6)
    assert calibration.calibration_error(table) > 0.3


def test_points_that_do_not_exist():
    few = calibration.operating_points(found([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 0]))
    assert np.isnan(few["threshold"][1]) and np.isnan(few["precision"][1]) and few["accepted"][1] == 0
    never = calibration.operating_points(found(np.linspace(0, 1, 50), [0] * 50))
    assert never["threshold"].isna().all() and (never["recall"] == 0).all()
    some = calibration.operating_points(found(np.linspace(0, 1, 30), np.arange(30) > 24))
    assert some["accepted"][0] == pytest.approx(5 / 30, abs=0.05)
    assert np.isnan(some["precision"][0])  # five prove nothing
    assert "too few" in calibration.sentence(some.iloc[0])
    with pytest.raises(InputError, match="belong to one group"):
        calibration.operating_points(found([0.9, 0.8], [1, 0], ["a", "a"]))


def test_sentences():
    point = pd.Series(
        {"goal": "best F1", "threshold": 0.8312, "precision": 0.912, "low": 0.88, "high": 0.934, "recall": 0.716}
    )
    sentence = calibration.sentence(point)
    for part in ("best F1", "cosine >= 0.831", "91 % [88, 93] of the accepted", "72 % of all queries"):
        assert part in sentence
    assert "too few" in calibration.sentence(pd.Series({**point, "precision": np.nan}))
    assert "best F1: no cosine" in calibration.sentence(pd.Series({**point, "threshold": np.nan}))


def test_reliability_of_cosines_that_predict():
    random = np.random.default_rng(0)
    score = random.random(4000)
    right = random.random(4000) < score**2
    table = calibration.reliability(found(score, right))
    assert len(table) == 8 and table["queries"].tolist() == [500] * 8
    assert (table["start"] < table["end"]).all()
    assert (table["end"][:-1].to_numpy() < table["start"][1:].to_numpy()).all()
    middle = (table["start"] + table["end"]) / 2
    np.testing.assert_allclose(table["right"], middle**2, atol=0.06)
    np.testing.assert_allclose(table["expected"], middle**2, atol=0.06)
    assert ((table["low"] <= table["right"]) & (table["right"] <= table["high"])).all()
    assert calibration.calibration_error(table) < 0.03


def test_reliability_of_equal_cosines_and_the_error_by_hand():
    table = calibration.reliability(found([0.5] * 10, [1] * 5 + [0] * 5))
    assert table["queries"].tolist() == [10] and table["right"].tolist() == [0.5]
    assert len(calibration.reliability(found(np.arange(70), [0, 1] * 35))) == 3  # 20 queries a part
    table = pd.DataFrame({"expected": [0.1, 0.5], "right": [0.3, 0.5], "queries": [1, 3]})
    assert calibration.calibration_error(table) == pytest.approx(0.05)


def test_wilson():
    assert calibration.wilson(9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert calibration.wilson(0, 5)[0] == 0
    assert np.isnan(calibration.wilson(0, 0)).all()
