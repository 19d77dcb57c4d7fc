"""Building the lists of an approximate search: trained on a sample, filled block by block, merged on disk."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hr_search.base import arrays
from hr_search.base.errors import InputError
from hr_search.base.files import whole_folder, write_json
from hr_search.index.approximate import (
    CENTRES,
    ENTRY,
    FOLDER,
    LISTS,
    RESCORES,
    SIZES,
    blocks,
    bond,
    digests,
    read,
    recall_table,
    require_faiss,
)
from hr_search.index.folder import MANIFEST, Index, open_index

LEAST = 256  # texts, one for each value of a byte
QUERIES = 200  # texts that recall is measured with
GOAL = 0.95  # recall@10 that decides how many lists a search reads
_SAMPLE = 64  # texts a list that the centres are trained on
_PER_LIST = 39  # texts a list at least, as FAISS advises
_CODE_SAMPLE = 64  # texts that each of the 256 values of a byte is learnt from
_ROUNDS = 10  # of k-means
_PART = 2_000_000  # texts in memory, as codes, before they are written


def build_lists(
    index: Index,
    nlist: int = 0,
    codebytes: int = 0,
    queries: np.ndarray | None = None,
    asked: str = "",
    seed: int = 0,
) -> tuple[Index, list[dict[str, float]]]:
    """Builds the lists of an index and measures what they miss; they are written whole or not at all.

    In memory are the sample (64 texts a list, float32) and the codes of up to two million texts, never all embeddings.
    With one thread, the same index and seed give the same files, bit by bit.

    Args:
        index: the index; its lists, if it has any, are replaced.
        nlist: number of lists; 0 = the power of two nearest to 2·√N.
        codebytes: bytes kept of each embedding, a divisor of D; 0 = that nearest to D / 8.
        queries: (B, D) float32 embeddings to measure with; None = 200 texts of the index, drawn at random.
        asked: where they are from, for the manifest.
        seed: of the samples and of k-means.

    Returns:
        The index with its new manifest, and the table of recall (`recall_table`).

    Raises:
        InputError: faiss is not installed, too few texts, or numbers that do not fit them.
    """
    require_faiss()
    count, dimension = index.vectors.shape
    nlist, codebytes = sizes(count, dimension, nlist, codebytes)
    generator = np.random.default_rng(seed)
    own = None
    if queries is None:
        own = np.sort(generator.choice(count, min(QUERIES, count), replace=False))
        queries = index.vectors[own].astype(np.float32)
        asked = f"{len(own)} texts of the index"
    with whole_folder(index.folder / FOLDER) as folder:
        trained = _trained(index, nlist, codebytes, generator, seed)
        _fill(index, trained, folder)
        table = recall_table(index, read(folder), queries, own)
        entry = {"of": bond(index), "texts": count, "nlist": nlist, "codebytes": codebytes, "seed": seed}
        entry |= dict(zip(("nprobe", "rescore"), chosen(table), strict=True))
        entry |= {"recall@10": _without_times(table), "queries": asked}
        entry |= {"bytes": sum(path.stat().st_size for path in folder.iterdir()), "digests": digests(folder)}
    write_json(index.folder / MANIFEST, {**index.manifest, ENTRY: entry})
    return open_index(index.folder), table


def sizes(count: int, dimension: int, nlist: int = 0, codebytes: int = 0) -> tuple[int, int]:
    """The number of lists and of bytes a text, checked against what there is; 0 is replaced by a fitting number.

    Raises:
        InputError: fewer than 256 texts, lists of fewer than 39 texts, or a number of bytes that does not divide D.
    """
    if count < LEAST:
        raise InputError(
            f"--approximate needs at least {LEAST} texts and the index has {count}; search it without --approximate."
        )
    most = count // _PER_LIST
    nlist = nlist or 2 ** min(round(math.log2(2 * math.sqrt(count))), int(math.log2(most)))
    if not 1 <= nlist <= most:
        raise InputError(
            f"--nlist is {nlist}; with {count} texts it must be between 1 and {most} ({_PER_LIST} texts a list)."
        )
    divisors = [number for number in range(1, dimension + 1) if dimension % number == 0]
    codebytes = codebytes or min(divisors, key=lambda number: (abs(math.log(8 * number / dimension)), number))
    if codebytes not in divisors:
        raise InputError(
            f"--codebytes is {codebytes}; it must divide the {dimension} numbers of an embedding "
            f"({', '.join(map(str, divisors))})."
        )
    return nlist, codebytes


def chosen(table: list[dict[str, float]]) -> tuple[int, int]:
    """How many lists and exact cosines a search reads: the least with a recall@10 of .95, first by the cosines.

    Where none reaches it, the most that was measured.
    """
    for count in RESCORES:
        for row in table:
            if row[f"rescored_{count}"] >= GOAL:
                return int(row["nprobe"]), count
    return int(table[-1]["nprobe"]), RESCORES[-1]


def _without_times(table: list[dict[str, float]]) -> list[dict[str, float]]:
    """The table as the manifest keeps it: what the same build gives again."""
    return [{name: value for name, value in row.items() if not name.startswith("ms")} for row in table]


def _trained(index: Index, nlist: int, codebytes: int, generator: np.random.Generator, seed: int) -> Any:
    """An empty `faiss.IndexIVFPQ` with its centres and codes, learnt from a sample."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    count, dimension = index.vectors.shape
    size = min(count, max(_SAMPLE * nlist, _CODE_SAMPLE * LEAST))
    places = np.sort(generator.choice(count, size, replace=False))
    sample = np.empty((size, dimension), np.float32)
    for start, block in blocks(index):
        low, high = np.searchsorted(places, [start, start + len(block)])
        sample[low:high] = block[places[low:high] - start]
    centres = faiss.IndexFlatIP(dimension)
    lists = faiss.IndexIVFPQ(centres, dimension, nlist, codebytes, 8, faiss.METRIC_INNER_PRODUCT)
    for rules in (lists.cp, lists.pq.cp):
        rules.seed, rules.niter, rules.min_points_per_centroid = seed, _ROUNDS, 1  # 1: no warnings on small indexes
    lists.cp.spherical, lists.pq.cp.max_points_per_centroid = True, _CODE_SAMPLE
    lists.train(sample)
    return lists


def _fill(index: Index, lists: Any, folder: Path) -> None:
    """Adds all embeddings, in parts that fit into memory, and writes the files of the search."""
    import faiss

    parts: list[tuple[Path, np.ndarray]] = []
    for start, block in blocks(index):
        lists.add_with_ids(block, np.arange(start, start + len(block)))
        if lists.ntotal >= _PART or start + len(block) == len(index):
            path = folder / f"part{len(parts)}"
            parts.append((path, _write_part(lists, path)))
            lists.reset()
    faiss.write_index(lists, str(folder / CENTRES))
    arrays.save(folder / SIZES, sum(sizes for _, sizes in parts))
    # Plain writes, where FAISS would write through a memory map: a full disk would end the process without a word.
    with contextlib.ExitStack() as stack, open(folder / LISTS, "w+b") as out:
        files = [(stack.enter_context(open(path, "rb")), sizes.tolist()) for path, sizes in parts]
        for at in range(lists.nlist):
            read = [(file.read(sizes[at] * lists.code_size), file.read(sizes[at] * 8)) for file, sizes in files]
            out.writelines(codes for codes, _ in read)
            out.writelines(places for _, places in read)
    for path, _ in parts:
        path.unlink()


def _write_part(lists: Any, path: Path) -> np.ndarray:
    """Writes each list: the codes of its texts, then their places (int64); returns the sizes, (nlist,) uint64."""
    import faiss

    stored = lists.invlists
    sizes = np.array([stored.list_size(at) for at in range(lists.nlist)], np.uint64)
    with open(path, "w+b") as file:
        for at in np.flatnonzero(sizes).tolist():
            size = int(sizes[at])
            file.write(faiss.rev_swig_ptr(stored.get_codes(at), size * lists.code_size).tobytes())
            file.write(faiss.rev_swig_ptr(stored.get_ids(at), size).tobytes())
    return sizes
