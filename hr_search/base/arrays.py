"""Embeddings before they are compared: numbers of one shape, finite in every row, and how long each row is."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from hr_search.base.errors import InputError

_BLOCK = 4096  # rows looked at together, so that a memory map is never read whole


def checked(vectors: np.ndarray, side: str) -> np.ndarray:
    """`vectors`, a memory map left where it is, refused unless they are numbers (rows, D).

    Args:
        vectors: what should be embeddings.
        side: "query" or "document", for the error.

    Raises:
        InputError: another shape or type, or nothing in it.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or 0 in vectors.shape or vectors.dtype.kind not in "fiu":
        raise InputError(
            f"{side} embeddings are an array of shape {vectors.shape} and type {vectors.dtype}; "
            "they must be numbers of shape (texts, dimensions)."
        )
    return vectors


def check_dimensions(queries: np.ndarray, documents: np.ndarray) -> None:
    """Refuses two sides that cannot come from one model.

    Raises:
        InputError: (Q, D) and (N, D) have another D.
    """
    if queries.shape[1] != documents.shape[1]:
        raise InputError(
            f"query embeddings have {queries.shape[1]} dimensions and document embeddings {documents.shape[1]}; "
            "embed both with one model."
        )


def norms(vectors: np.ndarray, side: str) -> np.ndarray:
    """The length of each row, (N,) float64, and 1 for an all-zero one, so that dividing by it is safe.

    This is where NaN stops: whatever ranks by embeddings asks for their lengths first.

    Args:
        vectors: (N, D) numbers, maybe memory-mapped.
        side: "query" or "document", for the error.

    Raises:
        InputError: NaN or infinity, also one that only float32 cannot hold, in a row.
    """
    found = np.empty(len(vectors), np.float64)
    for start in range(0, len(vectors), _BLOCK):
        with np.errstate(over="ignore"):
            block = vectors[start : start + _BLOCK].astype(np.float32, copy=False)
        # Squares of float32 neither overflow nor vanish in float64, so they tell unusable rows as well as lengths.
        found[start : start + _BLOCK] = np.sqrt(np.einsum("nd,nd->n", block, block, dtype=np.float64))
    wrong = np.flatnonzero(~np.isfinite(found))
    if wrong.size:
        raise InputError(
            f"{side} embeddings: row {wrong[0] + 1} holds NaN or infinity ({wrong.size} such "
            f"row{'s' * (wrong.size > 1)}); the model that made them is broken, a smaller learning rate may help."
        )
    return np.where(found > 0, found, 1)


def normalised(vectors: np.ndarray, side: str) -> np.ndarray:
    """Embeddings (N, D) scaled to length 1 in float32; all-zero rows stay.

    Raises:
        InputError: as `checked` and `norms`.
    """
    vectors = checked(vectors, side)
    scale = norms(vectors, side)
    return (vectors.astype(np.float32, copy=False) / scale[:, None]).astype(np.float32, copy=False)


def incidence(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> sparse.csr_array:
    """A sparse matrix of ones at the given places, however often each is given."""
    matrix = sparse.coo_array((np.ones(len(rows), np.int32), (rows, columns)), shape=shape).tocsr()
    matrix.data[:] = 1
    return matrix
