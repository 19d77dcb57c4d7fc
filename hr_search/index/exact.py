"""Exact scores of stored embeddings, and the best of them, for a handful of queries at a time.

`nearest` computes the norm of every row first, which takes longer than one query. The rows of an index were
normalised when it was written.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from hr_search.base.errors import InputError

_BLOCK = 1024  # rows made float32 at a time, which stay in a processor's cache until they are multiplied
_SMALL = 2**24  # stored numbers that one thread multiplies before others have started
_PARTS = 8  # pieces for each thread, so that one that gets less of its core does fewer
_ROOM = 2**24  # scores at hand: 64 MB
STEP = 1e-6  # scores that round to one multiple of it are equal


def dot_products(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The dot products of all queries with all stored rows, summed in float32.

    Args:
        vectors: (N, D) float16 or float32, may be memory-mapped.
        queries: (B, D) float32.

    Returns:
        (B, N) float32.

    Raises:
        InputError: another dimension, or a stored row or a query that holds NaN or infinity.
    """
    if queries.ndim != 2 or vectors.shape[1] != queries.shape[1]:
        raise InputError(
            f"the index has {vectors.shape[1]} dimensions and the query embedding {queries.shape[-1]}; search with the "
            "model that made the index."
        )
    stored = torch.from_numpy(vectors)
    left = torch.from_numpy(np.ascontiguousarray(queries, np.float32))
    if not torch.isfinite(left).all():
        raise InputError("the embedding of a query holds NaN or infinity; the model is damaged, copy it again.")
    out = torch.empty(len(left), len(stored))
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        if threads == 1 or stored.numel() < _SMALL:
            _fill(out, stored, left, 0, len(stored))
        else:
            # Threads that meet after every block wait for each other as soon as another program wants a core.
            step = -(-len(stored) // (_PARTS * threads))
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                parts = [(start, start + step) for start in range(0, len(stored), step)]
                list(pool.map(lambda part: _fill(out, stored, left, *part), parts))
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
    scores = out.numpy()
    # A row with NaN or infinity has no finite score, so no pass over all rows is needed when an index is opened.
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores).all(axis=0))[0])
        raise InputError(f"embedding {row + 1} of the index holds NaN or infinity; build the index again.")
    return scores


def _fill(out: torch.Tensor, stored: torch.Tensor, left: torch.Tensor, start: int, stop: int) -> None:
    """Writes the dot products with the rows from `start` to `stop` into the columns of `out` (B, N)."""
    buffer = torch.empty(_BLOCK, stored.shape[1]) if stored.dtype != torch.float32 else None
    for at in range(start, min(stop, len(stored)), _BLOCK):
        block = stored[at : min(at + _BLOCK, stop)]
        block = block if buffer is None else buffer[: len(block)].copy_(block)
        if len(left) == 1:
            torch.mv(block, left[0], out=out[0, at : at + len(block)])
        else:
            out[:, at : at + len(block)] = left @ block.T


def best(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The highest of N scores, best first; of scores that are equal to six decimals, the first place comes first.

    Args:
        scores: (N,) finite numbers.
        count: how many are wanted, at least 1; more than N gives all N.

    Returns:
        Places (min(count, N),) int64 and their scores, float32, rounded to six decimals.
    """
    places = np.arange(len(scores))
    if count < len(scores):
        # What rounds to the same step as the last of them may lie one step below it.
        bar = np.partition(scores, len(scores) - count)[len(scores) - count] - 1.2 * STEP
        places = np.flatnonzero(scores >= bar)
    steps = np.round(scores[places].astype(np.float64) / STEP)
    order = np.lexsort((places, -steps))[:count]
    return places[order], (steps[order] * STEP).astype(np.float32)


def blocks(queries: int, rows: int, share: int = 1) -> Iterator[slice]:
    """Slices of the queries, so many at a time that their scores of all rows fit into 64 MB / `share`."""
    step = max(1, _ROOM // (share * max(1, rows)))
    return (slice(start, start + step) for start in range(0, queries, step))
