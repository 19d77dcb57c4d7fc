"""Nearest neighbours: the exact nearest documents of every query, in chunks of bounded memory.

A found document is kept as one whole number, its score in millionths above its index counted from
the end. Ordering these numbers orders documents by score and equal scores by index, and the best of
two chunks are the greatest of both. Rounding to millionths is what `metrics` does as well: products
of equal embeddings differ by about 1e-7 with their place in a matrix and still have to tie.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from hr_search.base import arrays
from hr_search.base.errors import InputError
from hr_search.base.processes import ALONE, Processes

_STEP = 1e-6  # scores that round to one multiple of it are equal
_SCALE = 1_000_000  # steps in a score of 1
_LAST = 2**32 - 1  # index i is kept as _LAST - i
_EMPTY = torch.iinfo(torch.int64).min
_ROOM = 2**23  # numbers at hand in a chunk on the processor: scores, and twice the best found so far


def nearest(
    queries: np.ndarray,
    documents: np.ndarray,
    k: int,
    exclude: sparse.csr_array | None = None,
    chunk: tuple[int, int] = (0, 0),
    device: str | torch.device | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest documents of each query by cosine, exact, best first, ties by the lower index.

    Both sides may be memory-mapped; they are read chunk by chunk and never copied whole. Above the
    vectors and the result the processor needs 4 bytes a vector and about 50 MB at a k of 50 (100 MB
    where scores tie en masse), about 200 MB at a k of thousands; a GPU a few gigabytes.

    Args:
        queries: (Q, D) embeddings of any length; an all-zero one has cosine 0 to everything.
        documents: (N, D).
        k: documents wanted, 1 to N.
        exclude: (Q, N), pairs that must not be returned where it is not zero.
        chunk: queries and documents scored at a time; 0 = what suits the device.
        device: where torch multiplies, such as "cpu" or "cuda"; None = a GPU where there is one.

    Returns:
        Indices (Q, k) int64 and scores (Q, k) float32, rounded to six decimals. Where fewer than k
        documents are left, the rest of the row is index -1 and score -inf.

    Raises:
        InputError: embeddings that do not fit together or hold NaN, or k outside 1 to N.
    """
    chunks = nearest_chunks(queries, documents, k, exclude, chunk, device)
    indices, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    for start, found, values in chunks:
        indices[start : start + len(found)] = found
        scores[start : start + len(found)] = values
    return indices, scores


def nearest_chunks(
    queries: np.ndarray,
    documents: np.ndarray,
    k: int,
    exclude: sparse.csr_array | None = None,
    chunk: tuple[int, int] = (0, 0),
    device: str | torch.device | None = None,
    processes: Processes = ALONE,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """`nearest`, a few queries at a time, for a k so large that the whole result would not fit.

    Yields:
        The first query's number, then indices and scores (R, k) of it and the queries after it; of several
        `processes`, each gets its share of what one would get.

    Raises:
        InputError: as `nearest`; raised by the call, before the first chunk.
    """
    left, right = Side(queries, "query"), Side(documents, "document")
    plan = plan_of(left, right, k, exclude, chunk, device)
    exclude = None if exclude is None else sparse.csr_array(exclude)

    def search(rows: tuple[int, int]) -> tuple[int, np.ndarray, np.ndarray]:
        barred = None if exclude is None else exclude[slice(*rows)]
        return rows[0], *decoded(best_keys(left[slice(*rows)], right, k, plan.documents, barred, plan.device))

    return map(search, processes.share(plan.queries))


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a search is cut into products of matrices; equal cuts give equal bits, whoever computes them.

    Attributes:
        queries: first query and the one after the last, of each chunk.
        documents: likewise; ascending.
        device: where torch multiplies.
    """

    queries: list[tuple[int, int]]
    documents: list[tuple[int, int]]
    device: torch.device


def plan_of(
    left: Side,
    right: Side,
    k: int,
    exclude: sparse.csr_array | None = None,
    chunk: tuple[int, int] = (0, 0),
    device: str | torch.device | None = None,
) -> Plan:
    """The chunks of a search for the k nearest of N documents for each of Q queries.

    Raises:
        InputError: as `nearest`.
    """
    queries, count = left.vectors, len(right)
    arrays.check_dimensions(queries, right.vectors)
    if not 1 <= k <= count:
        raise InputError(f"k is {k}; with {count} documents it must be from 1 to {count}.")
    if exclude is not None and (not sparse.issparse(exclude) or exclude.shape != (len(queries), count)):
        raise InputError(
            f"excluded pairs have shape {getattr(exclude, 'shape', None)}; they must be a sparse array of shape "
            f"({len(queries)}, {count}), queries by documents."
        )
    if min(chunk) < 0:
        raise InputError(f"chunk is {chunk}; both numbers must be at least 1, or 0 for what suits the device.")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    rows, columns = _chunk(chunk, k, device)
    first = min(columns, max(2 * k, columns // 4))  # a small first chunk: it is the one without a bar
    starts = [0, *range(first, count, columns)]
    return Plan(
        [(start, min(start + rows, len(queries))) for start in range(0, len(queries), rows)],
        list(zip(starts, [*starts[1:], count], strict=True)),
        device,
    )


def pair_scores(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The cosine of each row of one array with the same row of another, rounded as those of `nearest`.

    Args:
        first: (R, D) embeddings of any length.
        second: (R, D).

    Returns:
        (R,) float32.

    Raises:
        InputError: not two arrays of one shape, or NaN or infinity in a row.
    """
    first, second = arrays.checked(first, "query"), arrays.checked(second, "document")
    if first.shape != second.shape:
        raise InputError(f"embeddings of shapes {first.shape} and {second.shape} do not pair up row by row.")
    left, right = Side(first, "query"), Side(second, "document")
    return np.round(np.einsum("nd,nd->n", left[:], right[:]), 6)


class Side:
    """Embeddings that come out as float32 rows of length 1; `side[rows]` reads only those rows.

    Args:
        table: (N, D) of any length, maybe memory-mapped.
        side: "query" or "document", for errors.
        norms: (N,) float32, where they are known; they are computed otherwise, which reads all rows.

    Raises:
        InputError: no embeddings, or NaN or infinity in a row.
    """

    def __init__(self, table: np.ndarray, side: str, norms: np.ndarray | None = None) -> None:
        self.vectors = arrays.checked(table, side)
        self.norms = arrays.norms(self.vectors, side).astype(np.float32) if norms is None else norms

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.vectors[rows].astype(np.float32, copy=False) / self.norms[rows, None]


def _chunk(chunk: tuple[int, int], k: int, device: torch.device) -> tuple[int, int]:
    """Queries and documents scored at a time, at least k documents so that few merges are needed."""
    # 16 MB of scores stay in a processor's cache between product and search; a GPU wants to be filled.
    rows, columns = (1024, 4096) if device.type == "cpu" else (8192, 32768)
    columns = chunk[1] or max(columns, k)
    room = _ROOM if device.type == "cpu" else 32 * _ROOM
    return chunk[0] or max(1, min(rows, room // (columns + 2 * k))), columns


def best_keys(
    queries: np.ndarray,
    documents: Side,
    k: int,
    chunks: Sequence[tuple[int, int]],
    barred: sparse.csr_array | None = None,
    device: str | torch.device = "cpu",
) -> Tensor:
    """The k greatest keys of each query (R, k) among the documents of some chunks, best first.

    The keys of other chunks can be merged: the k greatest of all are those that one search over all chunks finds.

    Documents come in ascending order, so one that only ties with the k-th found so far loses against
    it. What a chunk has to offer is therefore what lies above that score, which is little after the
    first chunk: comparing is several times faster than selecting the best of every chunk.

    Args:
        queries: (R, D) float32 of length 1.
        documents: all N of them.
        k: keys wanted.
        chunks: of a `Plan`.
        barred: (R, N), documents that are left out where it is not zero.
        device: where torch multiplies.
    """
    left = torch.from_numpy(queries).to(device)
    best = torch.full((len(left), k), _EMPTY, dtype=torch.int64, device=device)
    room = torch.empty(len(left) * max(stop - start for start, stop in chunks), device=device)
    barred_rows, barred_columns = _barred(barred)
    for number, (start, stop) in enumerate(chunks):
        right = torch.from_numpy(documents[start:stop]).to(device)
        block = _products(left, right, room[: len(left) * len(right)].view(len(left), len(right)))
        low, high = np.searchsorted(barred_columns, (start, stop))
        if high > low:
            places = torch.from_numpy(barred_rows[low:high]), torch.from_numpy(barred_columns[low:high] - start)
            block[places[0].to(device), places[1].to(device)] = -torch.inf
        if number:
            # In the middle between a tie (noise of some 1e-7) and the next higher step.
            bar = ((best.amin(dim=1, keepdim=True) >> 32).double() + 0.4).mul(_STEP).float()
        else:
            # What rounds to the same step as the k-th score may lie one step below it.
            bar = block.topk(min(k, len(right)), dim=1).values[:, -1:] - 1.2 * _STEP
        _merge(best, block, bar, start)
    return best.sort(dim=1, descending=True).values


def _products(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """Dot products (R, C) in full float32, whatever precision the program around trains in."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        return torch.mm(left, right.T, out=out)  # with `out`, autocast stays away as well
    finally:
        torch.set_float32_matmul_precision(precision)


def _merge(best: Tensor, block: Tensor, bar: Tensor, start: int) -> None:
    """Puts the scores of a chunk (R, C) that lie above the bar (R, 1) among the best keys (R, k), in place."""
    rows, columns = _above(block, bar)
    if 8 * len(rows) > block.numel():
        # Equal scores en masse, as a collapsed model gives, or documents sorted towards the query.
        everything = _keys(block, torch.arange(start, start + block.shape[1], device=block.device))
        best.copy_(torch.cat([best, everything], dim=1).topk(best.shape[1], dim=1, sorted=False).values)
    elif len(rows):
        touched, row, counts = rows.unique_consecutive(return_inverse=True, return_counts=True)
        place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[row]
        found = best.new_full((len(touched), int(counts.max())), _EMPTY)
        found[row, place] = _keys(block[rows, columns], columns + start)
        best[touched] = torch.cat([best[touched], found], dim=1).topk(best.shape[1], dim=1, sorted=False).values


def _above(block: Tensor, bar: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns (P,), row by row, where the block (R, C) is greater than its row's bar (R, 1)."""
    if block.device.type != "cpu":
        return (block > bar).nonzero(as_tuple=True)
    # On the processor numpy takes a fifth of the time that torch takes for this.
    flat = torch.from_numpy(np.flatnonzero(block.numpy() > bar.numpy()))
    return flat // block.shape[1], flat % block.shape[1]


def _keys(scores: Tensor, indices: Tensor) -> Tensor:
    """Scores and document indices as whole numbers that order by score, then by lower index."""
    steps = (scores * _SCALE).round_()
    keys = (steps.to(torch.int64) << 32) + (_LAST - indices)
    return keys.masked_fill_(steps == -torch.inf, _EMPTY)


def decoded(keys: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The indices and scores that keys stand for; -1 and -inf for empty ones."""
    empty = (keys == _EMPTY).cpu().numpy()
    steps = (keys >> 32).to(torch.float32).cpu().numpy()
    indices = (_LAST - (keys & _LAST)).cpu().numpy()
    return np.where(empty, -1, indices), np.where(empty, np.float32(-np.inf), steps / np.float32(_SCALE))


def _barred(exclude: sparse.csr_array | None) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the excluded pairs, ordered by column."""
    if exclude is None:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    rows, columns = exclude.nonzero()
    order = np.argsort(columns, kind="stable")
    return rows[order].astype(np.int64), columns[order].astype(np.int64)
