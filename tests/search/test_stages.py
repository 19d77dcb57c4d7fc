"""The stages of a search: what each makes of the one before, in which order, and what an evaluation shows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hr_search.base import arrays
from hr_search.base.errors import InputError
from hr_search.data.tasks import Task, tasks_of
from hr_search.evaluation.metrics import embedding_scores, rank_all
from hr_search.evaluation.significance import bootstrap_interval, paired_comparison
from hr_search.search import fusion
from hr_search.search.memory import Memory, keys_of
from hr_search.search.policy import SearchPolicy
from hr_search.search.stages import evaluate_stages, placed, reranked, stages_table, word_index

NAMES = ["cosine", "+ centring", "+ mixing", "+ words", "+ second stage"]


class Reader:
    """A second stage that likes long texts of the query side, and keeps what it has read."""

    def __init__(self, score=lambda query, document: len(query)) -> None:
        self.read, self.judge = [], score

    def score(self, queries, documents):
        self.read += zip(queries, documents, strict=True)
        return np.array([self.judge(*pair) for pair in zip(queries, documents, strict=True)], np.float32)


# -- second stage --------------------------------------------------------------------------------


def ranking(scores: np.ndarray) -> list[list[int]]:
    return np.argsort(-scores, axis=1, kind="stable").tolist()


SCORES = np.array([[0.1, 0.9, 0.5, 0.7, 0.3], [0.5, 0.4, 0.3, 0.2, 0.1]], np.float32)
TEXTS = ["a", "bb", "ccc", "dddd", "eeeee"]


def by_document(query, document):
    return len(document)


def test_only_the_first_are_read_and_only_they_move():
    reader = Reader(by_document)
    found = reranked(SCORES, ["x", "y"], TEXTS, reader, SearchPolicy(reranktop=3))
    assert reader.read == [("x", TEXTS[at]) for at in (1, 3, 2)] + [("y", TEXTS[at]) for at in (0, 1, 2)]
    assert ranking(found) == [[3, 2, 1, 4, 0], [2, 1, 0, 3, 4]]
    assert found.dtype == np.float32


def test_in_the_other_direction_the_searched_titles_come_first():
    reader = Reader()
    found = reranked(SCORES[:1], ["vacancy"], TEXTS, reader, SearchPolicy(reranktop=2), swapped=True)
    assert reader.read == [("bb", "vacancy"), ("dddd", "vacancy")] and ranking(found) == [[3, 1, 2, 4, 0]]


def test_top_beyond_the_corpus_reads_all_of_it():
    reader = Reader(by_document)
    found = reranked(SCORES, ["x", "y"], TEXTS, reader, SearchPolicy(reranktop=1000))
    assert len(reader.read) == 10 and ranking(found) == [[4, 3, 2, 1, 0]] * 2


def test_ties_stay_ties_within_the_top_and_below_it():
    scores = np.array([[0.5, 0.5, 0.5, 0.2, 0.2]], np.float32)
    reader = Reader(lambda query, document: 1.0)
    found = reranked(scores, ["x"], TEXTS, reader, SearchPolicy(reranktop=2))
    assert [text for _, text in reader.read] == ["a", "bb"]  # of equal scores, the first documents
    assert found[0, 0] == found[0, 1] > found[0, 2] > found[0, 3] == found[0, 4]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_score_is_the_sum_of_both_stages_within_the_top(weight):
    judged = {"a": 3.0, "bb": -1.0, "ccc": 0.5, "dddd": 2.0, "eeeee": -4.0}
    reader = Reader(lambda query, document: judged[document])
    found = reranked(SCORES[:1], ["x"], TEXTS, reader, SearchPolicy(reranktop=4, rerankweight=weight))
    top = [1, 3, 2, 4]
    expected = fusion.fuse(SCORES[:1, top], np.array([[judged[TEXTS[at]] for at in top]]), weight)[0]
    np.testing.assert_allclose(found[0, top] - found[0, top].min(), expected - expected.min(), atol=1e-5)
    assert found[0, top].min() > found[0, 0]


def test_barred_documents_are_not_read_for_others():
    reader = Reader(by_document)
    barred = [np.array([1, 3]), np.array([], np.int64)]
    found = reranked(SCORES, ["x", "y"], TEXTS, reader, SearchPolicy(reranktop=2), barred=barred)
    assert [text for query, text in reader.read if query == "x"] == ["ccc", "eeeee"]
    assert [at for at in ranking(found)[0] if at not in (1, 3)] == [4, 2, 0]


# -- embeddings ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world():
    """Tasks of 12 titles with two texts each, their embeddings, and a memory of others."""
    from conftest import job_pairs

    tasks, generator = tasks_of(job_pairs()), np.random.default_rng(0)
    mean = generator.normal(size=16)
    titles = generator.normal(size=(12, 16)) + mean
    texts = np.repeat(titles, 2, axis=0) + 1.5 * generator.normal(size=(24, 16)) + mean
    sides = {"query": arrays.normalised(titles, "query"), "document": arrays.normalised(texts, "document")}
    known = {side: generator.normal(size=(n, 16)) + mean for side, n in (("query", 15), ("document", 20))}
    known = {side: arrays.normalised(vectors, side) for side, vectors in known.items()}
    pairs = arrays.incidence(generator.integers(0, 15, 60), generator.integers(0, 20, 60), (15, 20))
    keys = {side: keys_of([f"{side} {at}" for at in range(len(vectors))]) for side, vectors in known.items()}
    return tasks, sides, Memory(known, pairs, keys, fusion.frequencies(["one text", "another"]))


def test_what_a_policy_does_not_mix_stays(world):
    _, sides, known = world
    vectors, policy = sides["query"], SearchPolicy(mixing="documents", k=3)
    assert placed(vectors, "query", False, None, SearchPolicy()) is vectors
    np.testing.assert_array_equal(placed(vectors, "query", False, known, policy), vectors)
    moved = placed(vectors, "query", True, known, policy)
    assert np.abs(moved - vectors).max() > 0.1
    np.testing.assert_array_equal(placed(vectors, "query", True, known, policy.replace(mixing="both")), moved)
    np.testing.assert_array_equal(placed(vectors, "query", False, known, policy.replace(mixing="queries")), moved)
    both = placed(vectors, "query", True, known, policy.replace(centre=True))
    centred = placed(vectors, "query", True, known, policy.replace(centre=True, weight=0.0))
    np.testing.assert_allclose(centred, placed(vectors, "query", False, known, SearchPolicy(centre=True)), atol=1e-6)
    assert np.abs(both - centred).max() > 0.1


def test_what_cannot_be_placed_is_refused(world):
    _, sides, known = world
    with pytest.raises(InputError, match="need known pairs; run `tune`"):
        placed(sides["query"], "query", True, None, SearchPolicy(centre=True))
    with pytest.raises(InputError, match="memory has 16 dimensions and the model 8"):
        placed(sides["query"][:, :8], "query", True, known, SearchPolicy(centre=True))


# -- evaluation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("mixing", ["none", "documents", "queries", "both"])
def test_every_combination_of_stages_is_shown_in_order(world, centre, mixing):
    tasks, sides, known = world
    for words, second, direction in itertools.product(("", "tfidf", "bm25"), (False, True), ("q2d", "d2q")):
        policy = SearchPolicy(centre, mixing, k=3, fusion=0.3 if words else 0.0, words=words or "tfidf", reranktop=5)
        found = evaluate_stages(tasks[direction], sides, policy, known, Reader() if second else None)
        there = [True, centre, mixing != "none", bool(words), second]
        assert [stage.name for stage in found] == list(itertools.compress(NAMES, there))
        assert all(stage.milliseconds >= 0 and len(stage.results) == len(tasks[direction].queries) for stage in found)
    plain = rank_all(tasks["d2q"], embedding_scores(sides["document"], sides["query"]))
    assert found[0].results.equals(plain)


def test_words_and_second_stage_follow_the_embeddings(world):
    tasks, sides, known = world
    policy = SearchPolicy(mixing="both", k=3, fusion=1.0, reranktop=2)
    judge = Reader(lambda query, document: -len(document))
    found = {stage.name: stage.results for stage in evaluate_stages(tasks["q2d"], sides, policy, known, judge)}
    words = rank_all(tasks["q2d"], lambda start, stop: word_scores(tasks["q2d"], known)[start:stop])
    assert found["+ words"]["rank"].tolist() == words["rank"].tolist()
    assert len(judge.read) == 2 * 12
    policy = SearchPolicy(fusion=1.0)  # without a memory, as a search that does not know the other queries
    words = rank_all(tasks["q2d"], lambda start, stop: word_scores(tasks["q2d"], None)[start:stop])
    assert evaluate_stages(tasks["q2d"], sides, policy)[-1].results["rank"].tolist() == words["rank"].tolist()
    index, whole = word_index(tasks["q2d"], policy, None), fusion.WordIndex.fit(tasks["q2d"].documents)
    np.testing.assert_array_equal(index.idf, whole.idf)


def word_scores(task, known):
    background = known.background if known else None
    return fusion.WordIndex.fit(task.documents, "tfidf", background).scores(task.queries).round(6)


def test_leaving_out_touches_only_texts_of_the_memory(world):
    tasks, sides, known = world
    policy, task = SearchPolicy(mixing="documents", k=3), tasks["q2d"]
    plain = [evaluate_stages(task, sides, policy, known, leaveout=leaveout)[-1] for leaveout in (False, True)]
    assert plain[0].results.equals(plain[1].results)
    keys = {"query": keys_of(task.queries), "document": keys_of(task.documents)}
    pairs = arrays.incidence(np.arange(24) // 2, np.arange(24), (12, 24))
    own = Memory(sides, pairs, keys, known.background)
    told, held = (evaluate_stages(task, sides, policy, own, leaveout=leaveout)[-1] for leaveout in (False, True))
    assert told.results["mrr"].mean() > held.results["mrr"].mean()


def test_documents_without_an_answer_are_searched_but_do_not_search(world):
    tasks, sides, known = world
    task, more = tasks["q2d"], ["a text that answers nothing"]
    q2d = Task("q2d", task.queries, task.documents + more, task.relevant, task.groups)
    wider = sides | {"document": np.concatenate([sides["document"], sides["document"][:1]])}
    policy = SearchPolicy(centre=True, mixing="both", k=3, fusion=0.2)
    for leaveout in (False, True):
        assert len(evaluate_stages(q2d, wider, policy, known, leaveout=leaveout)[-1].results) == 12
        both = [evaluate_stages(tasks["d2q"], each, policy, known, leaveout=leaveout) for each in (sides, wider)]
        for one, other in zip(*both, strict=True):
            assert one.results.equals(other.results)


def test_the_table_has_intervals_and_paired_gains(world):
    tasks, sides, known = world
    stages = evaluate_stages(tasks["q2d"], sides, SearchPolicy(True, "both", k=3, fusion=0.2), known)
    table = stages_table(stages, "map", seed=1)
    assert list(table) == ["stage", "value", "low", "high", "gain", "gain_low", "gain_high", "p", "p_holm", "ms"]
    values = [stage.results["map"].mean() for stage in stages]
    np.testing.assert_allclose(table["value"], values)
    np.testing.assert_allclose(table["gain"][1:], np.array(values[1:]) - values[0])
    assert table.loc[0, ["gain", "p", "p_holm"]].isna().all() and (table["low"] <= table["value"]).all()
    assert (table["p_holm"][1:] >= table["p"][1:]).all()
    assert table.drop(columns="ms").equals(stages_table(stages, "map", seed=1).drop(columns="ms"))
    assert list(stages_table(stages[:1])) == ["stage", "value", "low", "high", "ms"]


def test_the_table_draws_and_flips_whole_groups(world):
    tasks, sides, known = world
    stages = evaluate_stages(tasks["d2q"], sides, SearchPolicy(True, "both", k=3, fusion=0.2), known)
    assert stages[0].results["group"].nunique() == 12 and len(stages[0].results) == 24
    last = stages_table(stages).iloc[-1]
    before, after, groups = stages[0].results["mrr"], stages[-1].results["mrr"], tasks["d2q"].groups
    expected = paired_comparison(before, after, 0, groups=groups)
    assert last[["gain_low", "p"]].tolist() == [expected["low"], expected["p"]]
    assert (last["low"], last["high"]) == bootstrap_interval(after, 0, groups=groups) != bootstrap_interval(after, 0)
