"""The lexical floors of a task, BM25 and character TF-IDF: what search without a neural network achieves.

Both match the letters of a text and nothing of its meaning. A query that shares nothing with any document
scores zero everywhere, which `metrics.rank_all` counts as the worst rank.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

from hr_search.data.duplicates import normalise

if TYPE_CHECKING:
    from hr_search.data.tasks import Task
    from hr_search.evaluation.metrics import Scores

# On vacancies and job titles in six languages as good as (3, 5), with two thirds of the features.
NGRAMS = (3, 4)


def bm25_scores(task: Task) -> Scores:
    """BM25 scores of all documents for each query (Lucene's variant, k1 1.5, b .75, by bm25s).

    Words are those of the normalised text; a word repeated in the query counts each time.
    """
    import bm25s  # here, because its import takes half a second that training need not pay

    # The library sets its logger to DEBUG, which would show in any program that configures logging.
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    vocabulary: dict[str, int] = {}
    documents = [[vocabulary.setdefault(word, len(vocabulary)) for word in words(text)] for text in task.documents]
    if not vocabulary:
        return _zeros(task)
    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    index.index((documents, vocabulary), create_empty_token=False, show_progress=False)
    parts = (index.scores[part] for part in ("data", "indices", "indptr"))
    weights = scipy.sparse.csr_array(tuple(parts), shape=(len(vocabulary), len(documents)))
    queries = CountVectorizer(analyzer=words, vocabulary=vocabulary, dtype=np.float32).transform(task.queries)
    return _products(queries, weights)


def tfidf_scores(task: Task) -> Scores:
    """Cosines of TF-IDF vectors of character n-grams inside words, with logarithmic counts.

    Document frequencies are counted over documents and queries together: where vacancies search among short
    titles, the titles alone are too few words to count (MRR .35 instead of .22 on Russian vacancies).

    The vectors equal those of `TfidfVectorizer(analyzer="char_wb", ngram_range=NGRAMS, sublinear_tf=True)`
    with the documents' n-grams as vocabulary, computed several times faster: the n-grams of a text are the
    sum of those of its words, so each distinct word is split once.
    """
    vectoriser = CountVectorizer(analyzer=words, dtype=np.float32)
    speller = CountVectorizer(analyzer="char_wb", ngram_range=NGRAMS, lowercase=False, dtype=np.float32)
    if not all(any(words(text) for text in texts) for texts in (task.documents, task.queries)):
        return _zeros(task)
    documents = vectoriser.fit_transform(task.documents)
    documents = documents @ speller.fit_transform(vectoriser.get_feature_names_out())
    queries = vectoriser.fit_transform(task.queries)
    queries = queries @ speller.transform(vectoriser.get_feature_names_out())
    weighting = TfidfTransformer(sublinear_tf=True).fit(scipy.sparse.vstack([documents, queries]))
    documents, queries = weighting.transform(documents), weighting.transform(queries)
    return _products(queries, scipy.sparse.csr_array(documents.T))


def words(text: str) -> list[str]:
    """The words of the normalised text, in order."""
    return normalise(text).split()


def _products(queries: scipy.sparse.sparray, weights: scipy.sparse.sparray) -> Scores:
    """Rows of the product of sparse (Q, V) and (V, N), dense in float32."""

    def scores(start: int, stop: int) -> np.ndarray:
        return (queries[start:stop] @ weights).toarray()

    return scores


def _zeros(task: Task) -> Scores:
    """Zero for every document: no query or no document has a word."""
    shapes = (len(task.queries), 1), (1, len(task.documents))
    return _products(*(scipy.sparse.csr_array(shape, dtype=np.float32) for shape in shapes))
