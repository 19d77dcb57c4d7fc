"""Word search: BM25 by its formula, TF-IDF equal to scikit-learn's own, and texts with nothing in common."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from hr_search.data.tasks import Task
from hr_search.evaluation.lexical import NGRAMS, bm25_scores, tfidf_scores, words
from hr_search.evaluation.metrics import rank_all

BOTH = pytest.mark.parametrize("scorer", [bm25_scores, tfidf_scores])

DOCUMENTS = [
    "Сварщик ручной дуговой сварки, сварщик НАКС",
    "Бухгалтер на первичную документацию",
    "Водитель-экспедитор категории Б",
    "Разработчик Python, разработка сервисов",
]


def task_of(queries: list[str], documents: list[str]) -> Task:
    """A task in which document 0 is right for every query."""
    return Task("q2d", queries, documents, [np.array([0])] * len(queries), ["group"] * len(queries))


def all_scores(scorer, queries: list[str], documents: list[str]) -> np.ndarray:
    """The whole (Q, N) matrix."""
    return scorer(task_of(queries, documents))(0, len(queries))


def test_bm25_by_its_formula():
    documents = ["a b b", "a c", "c c c d"]
    scores = all_scores(bm25_scores, ["b", "a", "a c", "c c"], documents)

    def weight(count: int, length: int, holding: int) -> float:
        inverse = math.log(1 + (3 - holding + 0.5) / (holding + 0.5))
        return inverse * count / (count + 1.5 * (1 - 0.75 + 0.75 * length / 3))

    a, c = [weight(1, 3, 2), weight(1, 2, 2), 0], [0, weight(1, 2, 2), weight(3, 4, 2)]
    expected = [[weight(2, 3, 1), 0, 0], a, np.add(a, c), np.multiply(2, c)]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_tfidf_equals_the_vectoriser():
    queries = ["сварщик", "сварщик сварщик", "python разработчик C++ и 1С", "водителя", "а", "qqq"]
    documents = [*DOCUMENTS, "", "и", "C# / C++"]
    spelt_queries, spelt = ([" ".join(words(text)) for text in texts] for texts in (queries, documents))
    settings = {"analyzer": "char_wb", "ngram_range": NGRAMS, "sublinear_tf": True}
    vocabulary = TfidfVectorizer(**settings).fit(spelt).vocabulary_
    vectoriser = TfidfVectorizer(**settings, vocabulary=vocabulary).fit([*spelt, *spelt_queries])
    expected = (vectoriser.transform(spelt_queries) @ vectoriser.transform(spelt).T).toarray()
    scores = all_scores(tfidf_scores, queries, documents)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert scores[0, 0] > 0 and scores[3, 2] > 0


@BOTH
def test_finds_what_shares_words_in_any_spelling(scorer):
    documents = [*DOCUMENTS, "Жёлтый погрузчик"]
    queries = ["БУХГАЛТЕР!", "экспедитор", "желтый", "ЖЁЛТЫЙ", "питон"]
    scores = all_scores(scorer, queries, documents)
    assert scores.dtype == np.float32 and scores.shape == (5, 5)
    assert scores[:4].argmax(axis=1).tolist() == [1, 2, 4, 4]
    np.testing.assert_array_equal(scores[2], scores[3])


@BOTH
def test_rows_come_in_any_chunks(scorer):
    queries = ["сварщик НАКС", "документация", "nothing", "разработка", ""]
    whole = all_scores(scorer, queries, DOCUMENTS)
    scores = scorer(task_of(queries, DOCUMENTS))
    for start, stop in [(0, 2), (2, 5), (3, 4), (4, 5)]:
        np.testing.assert_array_equal(scores(start, stop), whole[start:stop])


@BOTH
@pytest.mark.parametrize(
    ("queries", "documents"),
    [
        (["слово", "дело"], ["", "!!!", " "]),
        (["", "..."], DOCUMENTS),
        (["qqq", "zzz"], DOCUMENTS),
        ([""], [""]),
    ],
)
def test_nothing_in_common_is_the_worst_rank(scorer, queries, documents):
    result = rank_all(task_of(queries, documents), scorer(task_of(queries, documents)))
    assert (result["rank"] == len(documents)).all()


@BOTH
def test_equal_documents_tie(scorer):
    documents = ["монтажник и слесарь на объект", "слесарь и монтажник на объект", *DOCUMENTS]
    documents += documents[:1]
    scores = all_scores(scorer, ["слесарь монтажник на объект и склад"], documents)[0]
    assert scores[0] == scores[-1] > 0


@BOTH
def test_nothing_is_printed_or_logged(scorer, capfd, caplog):
    logging.getLogger("bm25s").setLevel(logging.DEBUG)  # as its import leaves it
    all_scores(scorer, ["сварщик"], DOCUMENTS)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@BOTH
def test_long_texts_both_ways(scorer):
    rng = np.random.default_rng(0)
    vocabulary = [f"слово{number}" for number in range(300)]
    documents = [" ".join(rng.choice(vocabulary, 80)) for _ in range(60)]
    queries = [" ".join(text.split()[:40]) for text in documents]
    task = Task("d2q", queries, documents, [np.array([i]) for i in range(60)], ["g"] * 60)
    assert rank_all(task, scorer(task), chunk=16)["mrr"].mean() > 0.95
