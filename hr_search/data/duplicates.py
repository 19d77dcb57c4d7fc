"""Duplicate texts: the normalised form in which texts are compared, and near copies found by shared wording."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from hr_search.base.arrays import incidence

SHINGLE = 8  # words; unrelated vacancies share shorter runs ("official employment, paid leave and sick leave")
NEAR_SHARE = 0.5
_WORDS_LIMIT = 20_000_000
_WORK_LIMIT = 200_000_000  # pairs of a text and a document that share a shingle, counted once per shingle
_COMMON = 200  # texts that share a shingle, at most
_CHUNK = 20_000  # texts hashed at a time
_MARKS = "".join(chr(code) for code in range(0x370, 0x10000) if unicodedata.category(chr(code)).startswith("M"))
_IGNORED = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff\u0300-\u036f]+")
_TOKEN = re.compile(rf"(?:[^\W_]|[{_MARKS}])+(?:(?:\+\+?|\#)(?![\w+#]))?")


def normalise(text: str) -> str:
    """The form in which texts are compared: two spellings of one job title become equal.

    Unicode NFKC, lower case, ё as е, no stress marks or invisible characters, punctuation and symbols as
    spaces, runs of spaces folded. A final + or # stays with its word, so that C, C++ and C# remain three jobs.
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("ё", "е")
    return " ".join(_TOKEN.findall(_IGNORED.sub("", text)))


def normalised(texts: pd.Series) -> pd.Series:
    """`normalise` of each text of a column; repeated texts are normalised once."""
    codes, distinct = pd.factorize(texts)
    return pd.Series(np.array([normalise(text) for text in distinct], dtype=object)[codes], texts.index, dtype=object)


def near_copies(texts: Sequence[str], corpus: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray, bool]:
    """The pairs of a text and a document of `corpus` that holds more than half of the text's 8-word runs (shingles).

    Counted with an inverted index of hashed shingles (resemblance and containment: Broder, 1997), so
    the work grows with shared wording and not with the square of the table. Exact up to 20 million
    words and 200 million shared shingles. Beyond the first limit, a fixed fraction of the shingles,
    sampled by hash, represents all of them, and texts that keep fewer than 4 are skipped; beyond the
    second, only the first documents that hold a very common shingle count. Texts of fewer than 8 words,
    and those in languages written without spaces, have no near copies.

    Args:
        texts: N normalised texts.
        corpus: normalised texts to search in; None = the same texts, each of which matches itself.

    Returns:
        Index arrays (M,) into `texts` and into `corpus`, one entry per match, and whether the search was
        exact.
    """
    everything = [*texts, *(corpus or [])]
    step = max(1, math.ceil(sum(text.count(" ") + 1 for text in everything) / _WORDS_LIMIT))
    rows, hashes = _shingles(everything, step)
    vocabulary, codes = np.unique(hashes, return_inverse=True)
    matrix = incidence(rows, codes, (len(everything), len(vocabulary)))
    wanted = matrix[: len(texts)]
    index, complete = _index(matrix if corpus is None else matrix[len(texts) :], wanted)
    needed = np.diff(wanted.indptr) * NEAR_SHARE
    least = 1 if step == 1 else 4  # of so few sampled shingles, more than half may be shared by chance
    found_texts, found_corpus = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for start, stop in _batches(wanted, index):
        shared = (wanted[start:stop] @ index).tocoo()
        near = (shared.data > needed[start + shared.row]) & (shared.data >= least)
        found_texts.append(start + shared.row[near])
        found_corpus.append(shared.col[near])
    return np.concatenate(found_texts), np.concatenate(found_corpus), step == 1 and complete


def near_any(texts: Sequence[str], blocks: Iterable[Sequence[str]]) -> tuple[np.ndarray, np.ndarray, bool]:
    """As `near_copies`, of any document of a corpus that comes block by block and need not fit into memory.

    Args:
        texts: N normalised texts.
        blocks: the normalised texts of the corpus.

    Returns:
        Which of the texts have a near copy (N,), which documents of the corpus are one, in the order of the blocks
        (C,), and whether the search was exact: shingles that more than 200 of the texts share are not looked up.
    """
    rows, hashes = _shingles(texts, 1)
    vocabulary, codes, held = np.unique(hashes, return_inverse=True, return_counts=True)
    wanted = incidence(rows, codes, (len(texts), len(vocabulary)))
    needed = np.diff(wanted.indptr) * NEAR_SHARE
    common = held > _COMMON
    wanted = wanted.T.tocsr()
    wanted.data = np.where(np.repeat(common, np.diff(wanted.indptr)), 0, wanted.data)
    wanted.eliminate_zeros()
    copied, copies = np.zeros(len(texts), bool), [np.zeros(0, bool)]
    for block in blocks:
        rows, hashes = _shingles(block, 1)
        place = np.searchsorted(vocabulary, hashes).clip(max=max(0, len(vocabulary) - 1))
        there = vocabulary[place] == hashes if len(vocabulary) else np.zeros(len(hashes), bool)
        shared = (incidence(rows[there], place[there], (len(block), len(vocabulary))) @ wanted).tocoo()
        near = shared.data > needed[shared.col]
        copied[shared.col[near]] = True
        copies.append(np.isin(np.arange(len(block)), shared.row[near]))
    return copied, np.concatenate(copies), not common.any()


def _index(documents: sparse.csr_array, wanted: sparse.csr_array) -> tuple[sparse.csr_array, bool]:
    """The documents that hold each shingle, (S, N), and whether they are all there.

    Where looking up the shingles of `wanted` would exceed the work limit, common shingles keep their first documents.
    """
    index = documents.T.tocsr()
    most, held = index.shape[1], np.diff(index.indptr)
    while np.minimum(held, most)[wanted.indices].sum() > _WORK_LIMIT:
        most //= 2
    if most < held.max(initial=0):
        index.data = (np.arange(index.nnz) - np.repeat(index.indptr[:-1], held) < most).astype(np.int32)
        index.eliminate_zeros()
    return index, most == index.shape[1]


def _batches(wanted: sparse.csr_array, index: sparse.csr_array) -> Iterator[tuple[int, int]]:
    """Ranges of texts whose products with the index fit into memory."""
    cost = np.concatenate([[0], np.cumsum(np.diff(index.indptr)[wanted.indices])])[wanted.indptr[1:]]
    bounds = np.unique(np.searchsorted(cost, np.arange(0, cost.max(initial=0) + 1, _WORK_LIMIT // 20)))
    return zip(bounds, [*bounds[1:], wanted.shape[0]], strict=True)


def _shingles(texts: Sequence[str], step: int) -> tuple[np.ndarray, np.ndarray]:
    """Text index and hash of each 8-word run, (S,) each; of `step` residue classes of the hash one is kept."""
    owners, hashes = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    for start in range(0, len(texts), _CHUNK):
        chunk = texts[start : start + _CHUNK]
        words = pd.util.hash_array(np.array(" ".join(chunk).split(" "), dtype=object))
        owner = np.repeat(np.arange(start, start + len(chunk)), [text.count(" ") + 1 for text in chunk])
        count = max(0, len(words) - SHINGLE + 1)
        mixed = np.zeros(count, np.uint64)
        for place in range(SHINGLE):
            mixed = (
                mixed * np.uint64(0x9E3779B97F4A7C15) + words[place : place + count]
            )  # overflow wraps, which is fine for a hash
        kept = (owner[:count] == owner[SHINGLE - 1 :][:count]) & ((mixed >> np.uint64(20)) % np.uint64(step) == 0)
        owners.append(owner[:count][kept])
        hashes.append(mixed[kept])
    return np.concatenate(owners), np.concatenate(hashes)
