"""Embedding arrays: checks of their shape and values, their norms, their files, and sparse matrices of ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import sparse

from hr_search.base.errors import InputError, one_line

_BLOCK = 4096  # rows read at once, so that a memory map never has to fit into memory
_UNIT = 5e-7  # a norm may differ from 1 by so much: no cosine then moves by a step of those that are ranked by


def checked(vectors: np.ndarray, side: str) -> np.ndarray:
    """`vectors` as an array, refused unless it holds numbers (rows, D); a memory map is not read.

    Args:
        vectors: the supposed embeddings.
        side: "query" or "document", for the error.

    Raises:
        InputError: another shape or type, or an empty array.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or 0 in vectors.shape or vectors.dtype.kind not in "fiu":
        raise InputError(
            f"{side} embeddings are an array of shape {vectors.shape} and type {vectors.dtype}; "
            "they must be numbers of shape (texts, dimensions)."
        )
    return vectors


def check_dimensions(queries: np.ndarray, documents: np.ndarray) -> None:
    """Checks that both sides can come from one model.

    Raises:
        InputError: (Q, D) and (N, D) differ in D.
    """
    if queries.shape[1] != documents.shape[1]:
        raise InputError(
            f"query embeddings have {queries.shape[1]} dimensions and document embeddings {documents.shape[1]}; "
            "embed both with one model."
        )


def norms(vectors: np.ndarray, side: str) -> np.ndarray:
    """The L2 norm of each row, (N,) float64; 1 for an all-zero row, so that dividing by it is safe.

    All rankings take the norms first, so no NaN gets past this function.

    Args:
        vectors: (N, D) numbers, maybe memory-mapped.
        side: "query" or "document", for the error.

    Raises:
        InputError: a row holds NaN, infinity or a number too large for float32.
    """
    found = np.empty(len(vectors), np.float64)
    for start in range(0, len(vectors), _BLOCK):
        with np.errstate(over="ignore"):
            block = vectors[start : start + _BLOCK].astype(np.float32, copy=False)
        # Squares of float32 neither overflow nor underflow in float64: a norm is infinite only if the row is.
        found[start : start + _BLOCK] = np.sqrt(np.einsum("nd,nd->n", block, block, dtype=np.float64))
    wrong = np.flatnonzero(~np.isfinite(found))
    if wrong.size:
        raise InputError(
            f"{side} embeddings: row {wrong[0] + 1} holds NaN or infinity ({wrong.size} such "
            f"row{'s' * (wrong.size > 1)}); the model that made them is broken, a smaller learning rate may help."
        )
    return np.where(found > 0, found, 1)


def normalised(vectors: np.ndarray, side: str) -> np.ndarray:
    """Embeddings (N, D) scaled to norm 1, float32; all-zero rows stay as they are.

    What an encoder gives has that norm and comes back as it is: no copy, which would double the memory of a search.

    Raises:
        InputError: as `checked` and `norms`.
    """
    vectors = checked(vectors, side)
    scale = norms(vectors, side)
    if vectors.dtype == np.float32 and np.abs(scale - 1).max() <= _UNIT:
        return vectors
    out = np.empty(vectors.shape, np.float32)
    for start in range(0, len(vectors), _BLOCK):
        rows = slice(start, start + _BLOCK)
        out[rows] = vectors[rows].astype(np.float32, copy=False) / scale[rows, None]
    return out


def save(path: Path, array: np.ndarray) -> None:
    """Writes an array as a .npy file; a full disk is an OSError."""
    with open(path, "w+b") as file:  # not "wb": see files.whole_file
        np.save(file, array)


def load(path: Path, mapped: bool = False) -> np.ndarray:
    """The array of a .npy file, memory-mapped if wanted; nothing is unpickled.

    Raises:
        ValueError: the file is missing or damaged, in whatever way.
    """
    try:
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except Exception as error:  # NumPy raises errors of a dozen kinds, among them those of Python's tokenizer
        raise ValueError(f"{path.name}: {one_line(error, 120)}") from error


def incidence(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> sparse.csr_array:
    """A sparse matrix of ones at the given places, each of which may occur several times."""
    matrix = sparse.coo_array((np.ones(len(rows), np.int32), (rows, columns)), shape=shape).tocsr()
    matrix.data[:] = 1
    return matrix
