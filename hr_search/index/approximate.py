"""Approximate search in an index: compressed embeddings in inverted lists on disk, and what they miss.

The lists are those of FAISS, IVF-PQ: every embedding stands in the list of its nearest centre, cut into parts of which
one byte each is kept (Jégou, Douze, Schmid: Product Quantization for Nearest Neighbor Search, 2011). A search reads the
lists of a few centres only. `lists` builds them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hr_search.base import arrays
from hr_search.base.errors import InputError, one_line, quoted
from hr_search.base.files import digest
from hr_search.index import exact
from hr_search.index.folder import SLICE, VECTORS, Index
from hr_search.index.texts import file_digest

ENTRY = FOLDER = "approximate"  # of the manifest; in the index's folder
CENTRES, SIZES, LISTS = "centres.faiss", "sizes.npy", "lists.bin"
RESCORES = (200, 1000)  # candidates whose exact cosines are computed: the fewer where they suffice
_DEPTH = 10  # of the recall
_BOUND = ("fingerprint", "textdigest", "dimension", "numbers", "precision", "policy", "memory")


@dataclasses.dataclass(frozen=True)
class Approximate:
    """The lists of an index, ready to be searched.

    Attributes:
        lists: a `faiss.IndexIVFPQ` whose lists are memory-mapped.
        vectors: (N, D) the exact embeddings, memory-mapped; only those of candidates are read.
        nprobe: lists read for a query.
        rescore: candidates that are ranked by their exact cosines; 0 = none, and all scores are approximate.
    """

    lists: Any
    vectors: np.ndarray
    nprobe: int
    rescore: int = RESCORES[0]

    def best(self, queries: np.ndarray, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The best places found for each query, best first; of equal scores, the first place comes first.

        More lists are read where those of `nprobe` hold fewer than `count` texts.

        Args:
            queries: (B, D) float32, L2-normalised.
            count: how many are wanted, at least 1; more than N gives all N.

        Yields:
            Places (min(count, N),) int64 and their scores, float32, rounded to six decimals.

        Raises:
            InputError: a query or a candidate that is NaN, or a damaged file of lists.
        """
        for query in np.ascontiguousarray(queries, np.float32):
            scores, places = self._candidates(query[None], count)
            if self.rescore:
                scores = exact.dot_products(self.vectors[places], query[None])[0]
            order, values = exact.best(scores, count)
            yield places[order], values

    def _candidates(self, query: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Approximate scores and places, by place, of at least `count` texts where the index has as many."""
        import faiss

        if not np.isfinite(query).all():
            raise InputError("the embedding of a query holds NaN or infinity; the model is damaged, copy it again.")
        total = len(self.vectors)
        wanted, nprobe = min(max(count, self.rescore), total), min(self.nprobe, self.lists.nlist)
        while True:
            parameters = faiss.SearchParametersIVF(nprobe=nprobe)
            scores, places = self.lists.search(query, wanted, params=parameters)
            found = np.flatnonzero(places[0] != -1)  # fewer where the lists hold fewer
            if len(found) >= min(count, total) or nprobe >= self.lists.nlist:
                break
            nprobe = min(2 * nprobe, self.lists.nlist)
        scores, places = scores[0, found], places[0, found]
        if len(places) and (places.min() < 0 or places.max() >= total):
            raise InputError(
                f"{LISTS} of the approximate search is damaged; build it again with `index --approximate`."
            )
        order = np.argsort(places)
        return scores[order], places[order]


def open_lists(index: Index, nprobe: int = 0, rescore: int | None = None) -> Approximate:
    """The approximate search of an index, ready to be asked.

    Args:
        index: the index.
        nprobe: lists read for a query; 0 = what was chosen when they were built.
        rescore: candidates that are ranked by their exact cosines; 0 = none, None = what was chosen.

    Raises:
        InputError: faiss is not installed; the index has no lists, or other ones than its manifest says; more are to be
            read than there are.
    """
    require_faiss()
    entry = index.manifest.get(ENTRY)
    again = f"`python -m hr_search index --approximate --out {index.folder}`"
    if not isinstance(entry, dict):
        raise InputError(f"the index {index.folder} has no lists for --approximate; build them with {again}.")
    if entry.get("of") != bond(index):
        raise InputError(
            f"the lists for --approximate in {index.folder} were built for {quoted(entry.get('texts'))} texts, and the "
            f"index has changed since (it holds {len(index)}); build them again with {again}."
        )
    folder = index.folder / FOLDER
    try:
        if digests(folder) != entry["digests"]:
            raise ValueError("a file is another")
        lists, numbers = read(folder), [int(entry[name]) for name in ("nprobe", "rescore")]
        if (lists.ntotal, lists.d) != index.vectors.shape:
            raise ValueError(f"{SIZES} does not count {len(index)} texts")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, InputError) as error:
        reason = one_line(error, 160)
        raise InputError(
            f"the lists for --approximate in {folder} are damaged ({reason}); build them again with {again}."
        ) from error
    if not 0 <= nprobe <= lists.nlist:
        raise InputError(f"--nprobe is {nprobe}; the index has {lists.nlist} lists, so give 1 to {lists.nlist}.")
    return Approximate(lists, index.vectors, nprobe or numbers[0], numbers[1] if rescore is None else rescore)


def read(folder: Path) -> Any:
    """The `faiss.IndexIVFPQ` of a folder; its lists stay on disk.

    Raises:
        ValueError: the files do not fit each other.
        RuntimeError: one is not of FAISS.
    """
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    lists, sizes = faiss.read_index(str(folder / CENTRES)), arrays.load(folder / SIZES)
    stored = faiss.OnDiskInvertedLists(lists.nlist, lists.code_size, str(folder / LISTS))
    stored.totsize = int(sizes.sum()) * (lists.code_size + 8)  # of an id
    if sizes.shape != (lists.nlist,) or sizes.dtype != np.uint64 or stored.totsize != (folder / LISTS).stat().st_size:
        raise ValueError(f"{SIZES} does not fit {LISTS}")
    stored.set_all_lists_sizes(faiss.swig_ptr(sizes))
    stored.read_only, stored.prefetch_nthread = True, 0  # a thread costs more than the lists it would read ahead
    stored.do_mmap()
    lists.replace_invlists(stored, True)
    stored.this.disown()  # `lists` frees them
    lists.ntotal = int(sizes.sum())
    return lists


def digests(folder: Path) -> dict[str, str]:
    """What tells the files of an approximate search from others; of the lists, which are many GB, their size."""
    return {name: file_digest(folder / name) for name in (CENTRES, SIZES)} | {
        LISTS: str((folder / LISTS).stat().st_size)
    }


def require_faiss() -> None:
    """Checks that FAISS can be imported.

    Raises:
        InputError: it is not installed.
    """
    try:
        import faiss  # noqa: F401
    except ImportError as error:
        raise InputError("--approximate needs the package faiss-cpu; run `pip install 'hr_search[faiss]'`.") from error


def bond(index: Index) -> str:
    """A fingerprint of everything that decides the embeddings of an index."""
    return digest(len(index), *(str(index.manifest[name]) for name in _BOUND))


def blocks(index: Index) -> Iterator[tuple[int, np.ndarray]]:
    """All embeddings, (R, D) float32, with the place of the first of them, for some texts after the other.

    They are read, not mapped: pages of a mapped file would count as memory of this process.

    Raises:
        InputError: an embedding holds NaN or infinity.
    """
    vectors = index.vectors
    with open(index.folder / VECTORS, "rb") as file:
        file.seek(vectors.offset)
        for start in range(0, len(vectors), SLICE):
            rows = min(SLICE, len(vectors) - start)
            block = np.fromfile(file, vectors.dtype, rows * vectors.shape[1]).reshape(rows, -1)
            block = block.astype(np.float32, copy=False)
            if not (finite := np.isfinite(block).all(axis=1)).all():
                row = start + int(np.flatnonzero(~finite)[0]) + 1
                raise InputError(f"embedding {row} of the index holds NaN or infinity; build the index again.")
            yield start, block


def recall_table(
    index: Index, lists: Any, queries: np.ndarray, own: np.ndarray | None = None
) -> list[dict[str, float]]:
    """What the approximate search misses, for some numbers of lists read.

    Recall@10 is the share of the ten best texts that it finds. A text whose exact cosine reaches that of the tenth
    counts: copies of a text may stand for each other.

    Args:
        index: the index.
        lists: its `faiss.IndexIVFPQ`.
        queries: (B, D) float32, L2-normalised.
        own: (B,) places of the queries in the index, which are left out; None = they are other texts.

    Returns:
        A row for each number of lists (1, 2, 4, ... 256, at most all): `nprobe`; `codes`, `rescored_200`,
        `rescored_1000`: recall@10 without exact cosines and with those of so many candidates; `ms_200`, `ms_1000`:
        milliseconds a query, one query at a time.
    """
    least = _tenth_best(index, queries, own)
    rows = []
    for nprobe in [2**power for power in range(9) if 2**power <= lists.nlist]:
        plain = list(Approximate(lists, index.vectors, nprobe, 0).best(queries, _DEPTH + 1))
        row, times = {"nprobe": nprobe, "codes": _recall(index.vectors, queries, plain, least, own)}, {}
        for count in RESCORES:
            start = time.perf_counter()
            found = list(Approximate(lists, index.vectors, nprobe, count).best(queries, _DEPTH + 1))
            times[f"ms_{count}"] = (time.perf_counter() - start) * 1000 / len(queries)
            row[f"rescored_{count}"] = _recall(index.vectors, queries, found, least, own)
        rows.append(row | times)
    return rows


def _tenth_best(index: Index, queries: np.ndarray, own: np.ndarray | None) -> np.ndarray:
    """The exact cosine of each query's tenth-best text, its own left out, (B,); of the last where there are fewer."""
    depth = min(_DEPTH, len(index) - (own is not None))
    best = torch.full((len(queries), depth), -torch.inf)
    left = torch.from_numpy(queries)
    for start, block in blocks(index):
        scores = left @ torch.from_numpy(block).T
        if own is not None:
            here = np.flatnonzero((own >= start) & (own < start + len(block)))
            scores[here, own[here] - start] = -torch.inf
        best = torch.cat([best, scores], dim=1).topk(depth, dim=1).values
    return best[:, -1].numpy()


def _recall(
    vectors: np.ndarray,
    queries: np.ndarray,
    found: list[tuple[np.ndarray, np.ndarray]],
    least: np.ndarray,
    own: np.ndarray | None,
) -> float:
    """The mean share of ten places found whose exact cosine reaches `least`."""
    depth = min(_DEPTH, len(vectors) - (own is not None))
    hits = 0
    for at, (places, _) in enumerate(found):
        places = places[places != own[at]] if own is not None else places
        scores = exact.dot_products(vectors[places[:depth]], queries[at : at + 1])[0]
        hits += int((scores >= least[at] - exact.STEP).sum())
    return hits / (depth * len(queries))
