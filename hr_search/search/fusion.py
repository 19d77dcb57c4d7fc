"""Words beside meaning: the lexical scores of a fixed set of texts, and their sum with cosines.

The sum is a convex combination of scaled scores, which Bruch et al. (2022, arXiv:2210.11934) found better, and
less sensitive to its one weight, than reciprocal ranks.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.preprocessing import normalize

from hr_search.base import arrays
from hr_search.base.choices import SCALINGS, WORDS
from hr_search.base.errors import InputError, one_line, suggestion
from hr_search.evaluation.lexical import NGRAMS, words

FEATURES = 2**20  # words and n-grams are hashed, so that no vocabulary has to be kept
_PARTS = ("data", "indices", "indptr")
_EQUAL = 1e-6  # scores that spread less are equal: cosines are noise below it


class WordIndex:
    """The weights of words or n-grams in N texts, ready to score queries.

    Attributes:
        kind: "tfidf" (character n-grams inside words, cosine) or "bm25".
        weights: (FEATURES, N) sparse; the scores of a query are its row of features times these.
        idf: (FEATURES,) of tfidf, for queries; None for bm25.
    """

    def __init__(self, kind: str, weights: sparse.csr_array, idf: np.ndarray | None = None) -> None:
        self.kind, self.weights, self.idf = kind, weights, idf

    @classmethod
    def fit(cls, texts: Sequence[str], kind: str = "tfidf", background: np.ndarray | None = None) -> WordIndex:
        """The word index of N texts.

        Args:
            texts: N texts.
            kind: "tfidf" or "bm25" (Lucene's variant, k1 1.5, b .75, by bm25s).
            background: what `frequencies` gives of further texts, which tfidf counts as well: job titles alone are
                too few words to know which of them are common.

        Raises:
            InputError: an unknown kind.
        """
        if kind not in WORDS:
            raise InputError(f'words "{kind}" are unknown; {suggestion(kind, WORDS)}')
        if kind == "bm25":
            return cls(kind, _bm25(texts))
        counts = _ngrams(texts)
        total, known = len(texts), np.bincount(counts.indices, minlength=FEATURES)
        if background is not None:
            total, known = total + int(background[-1]), known + background[:-1]
        idf = (np.log((1 + total) / (1 + known)) + 1).astype(np.float32)
        return cls(kind, sparse.csr_array(_weighted(counts, idf).T), idf)

    def __len__(self) -> int:
        """How many texts it scores."""
        return self.weights.shape[1]

    def scores(self, queries: Sequence[str]) -> np.ndarray:
        """The word scores of all texts for each query, (B, N) float32; 0 where nothing is shared."""
        found = _hashed_words(queries) if self.kind == "bm25" else _weighted(_ngrams(queries), self.idf)
        return (found @ self.weights).toarray()

    def save(self, folder: Path) -> None:
        """Writes the index as .npy files into an existing folder."""
        for part in _PARTS:
            arrays.save(folder / f"words_{part}.npy", getattr(self.weights, part))
        if self.idf is not None:
            arrays.save(folder / "words_idf.npy", self.idf)

    @classmethod
    def open(cls, folder: Path, kind: str, texts: int) -> WordIndex:
        """The index that `save` wrote for so many texts, memory-mapped.

        Raises:
            InputError: a file is missing, damaged, or belongs to other texts.
        """
        try:
            data, indices, indptr = (arrays.load(folder / f"words_{part}.npy", mapped=True) for part in _PARTS)
            idf = arrays.load(folder / "words_idf.npy") if kind == "tfidf" else None
            if (
                [each.dtype.kind for each in (data, indices, indptr)] != ["f", "i", "i"]
                or not data.shape == indices.shape == (len(data),)
                or indptr.shape != (FEATURES + 1,)
                or (indptr[0], indptr[-1]) != (0, len(data))
                or (np.diff(indptr) < 0).any()
                or (idf is not None and (idf.shape != (FEATURES,) or not np.isfinite(idf).all()))
            ):
                raise ValueError("its parts do not fit together")
            if len(indices) and not 0 <= indices.min() <= indices.max() < texts:
                raise ValueError("it belongs to other texts")
            if not np.isfinite(data.max(initial=0) - data.min(initial=0)):
                raise ValueError("a weight is NaN or infinite")
            weights = sparse.csr_array((data, indices, indptr), shape=(FEATURES, texts), copy=False)
        except ValueError as error:
            raise InputError(f"the word index in {folder} is damaged ({one_line(error)}); build it again.") from error
        return cls(kind, weights, idf)


def frequencies(texts: Sequence[str]) -> np.ndarray:
    """In how many of the texts each n-gram occurs, and last the number of texts, (FEATURES + 1,) int64."""
    return np.append(np.bincount(_ngrams(texts).indices, minlength=FEATURES), len(texts))


def fuse(cosines: np.ndarray, others: np.ndarray, weight: float, scaling: str = "zscore") -> np.ndarray:
    """The convex combination of two kinds of scores, each scaled by query.

    Args:
        cosines: (B, N), finite.
        others: (B, N), finite, such as word scores.
        weight: of the others, 0 to 1; the cosines have the rest.
        scaling: "zscore" (mean 0, standard deviation 1) or "minmax" (0 to 1); a row of equal scores becomes zeros.

    Returns:
        (B, N) float32, rounded to six decimals, so that products that differ in their last bits still tie.

    Raises:
        InputError: a weight outside 0 to 1, or an unknown scaling.
    """
    if not 0 <= weight <= 1:
        raise InputError(f"the fusion weight is {weight:g}; it must be between 0 and 1.")
    if scaling not in SCALINGS:
        raise InputError(f'scaling "{scaling}" is unknown; {suggestion(scaling, SCALINGS)}')
    total = (1 - weight) * scaled(cosines, scaling) + weight * scaled(others, scaling)
    return np.round(total, 6).astype(np.float32)


def scaled(scores: np.ndarray, scaling: str = "zscore") -> np.ndarray:
    """Scores (B, N) with mean 0 and standard deviation 1, or from 0 to 1, in each row; a constant row becomes zeros."""
    scores = scores.astype(np.float64)
    if scaling == "minmax":
        scores -= scores.min(axis=1, keepdims=True)
        spread = scores.max(axis=1, keepdims=True)
    else:
        scores -= scores.mean(axis=1, keepdims=True)
        spread = scores.std(axis=1, keepdims=True)
    return scores / np.where(spread > _EQUAL, spread, np.inf)


def _bm25(texts: Sequence[str]) -> sparse.csr_array:
    """The BM25 weight of each hashed word in each text, (FEATURES, N)."""
    import bm25s  # here, because its import takes half a second

    # The library sets its logger to DEBUG, which would show in any program that configures logging.
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    counts = _hashed_words(texts)
    used = np.unique(counts.indices)
    if not used.size:
        return sparse.csr_array((FEATURES, len(texts)), dtype=np.float32)
    tokens = [
        np.repeat(counts.indices[start:stop], counts.data[start:stop].astype(int))
        for start, stop in zip(counts.indptr[:-1], counts.indptr[1:], strict=True)
    ]
    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    ids = [np.searchsorted(used, row).tolist() for row in tokens]
    vocabulary = {str(feature): at for at, feature in enumerate(used)}
    index.index((ids, vocabulary), create_empty_token=False, show_progress=False)
    compact = sparse.csr_array(tuple(index.scores[part] for part in _PARTS), shape=(len(used), len(texts)))
    starts = np.zeros(FEATURES + 1, np.int64)
    starts[used + 1] = np.diff(compact.indptr)
    return sparse.csr_array((compact.data, compact.indices, np.cumsum(starts)), shape=(FEATURES, len(texts)))


def _hashed_words(texts: Sequence[str]) -> sparse.csr_array:
    """How often each hashed word occurs in each text, (N, FEATURES)."""
    hasher = HashingVectorizer(analyzer=words, n_features=FEATURES, norm=None, alternate_sign=False, dtype=np.float32)
    return sparse.csr_array(hasher.transform(texts))


def _ngrams(texts: Sequence[str]) -> sparse.csr_array:
    """How often each hashed character n-gram occurs in each text, (N, FEATURES).

    The n-grams of a text are the sum of those of its words, so each distinct word is split once.
    """
    counter = CountVectorizer(analyzer=words, dtype=np.float32)
    if not any(words(text) for text in texts):
        return sparse.csr_array((len(texts), FEATURES), dtype=np.float32)
    counts = counter.fit_transform(texts)
    speller = HashingVectorizer(
        analyzer="char_wb",
        ngram_range=NGRAMS,
        n_features=FEATURES,
        norm=None,
        alternate_sign=False,
        lowercase=False,
        dtype=np.float32,
    )
    return sparse.csr_array(counts @ speller.transform(counter.get_feature_names_out()))


def _weighted(counts: sparse.csr_array, idf: np.ndarray) -> sparse.csr_array:
    """TF-IDF rows of length 1 from counts, with logarithmic counts."""
    weights = counts.astype(np.float32)
    weights.data = (1 + np.log(weights.data)) * idf[weights.indices]
    return sparse.csr_array(normalize(weights))
