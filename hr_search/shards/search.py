"""The nearest documents by the workers of a cluster: exact in each shard of the documents, then merged.

Both steps are those of `nearest`: the same products of matrices, and the greatest of whole numbers that stand for a
score and a place. Ids and scores are therefore those of one machine, ties included.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from hr_search.base import arrays, cluster
from hr_search.base.errors import InputError, one_line
from hr_search.base.processes import ALONE, Processes
from hr_search.base.progress import bar, watched
from hr_search.nearest import Side, best_keys, decoded, plan_of

log = logging.getLogger(__name__)

DOCUMENTS = 2**16  # of a shard
ATTEMPTS = 3  # a shard whose worker dies is begun so often
_NAMES = ("query", "document")


@dataclasses.dataclass(frozen=True)
class Tile:
    """A chunk of queries, and the chunks of documents that make a shard.

    Attributes:
        folder: where the embeddings lie.
        number: of the chunk of queries.
        queries: first one, and the one after the last.
        chunks: of documents, likewise.
        k: documents wanted.
        barred: (R, N), pairs that must not be found.
        device: where torch multiplies.
    """

    folder: Path
    number: int
    queries: tuple[int, int]
    chunks: list[tuple[int, int]]
    k: int
    barred: sparse.csr_array | None
    device: str


@dataclasses.dataclass(frozen=True)
class SharedSearch:
    """`nearest.nearest_chunks` by the workers of a cluster, for whoever takes a search.

    Attributes:
        client: of the cluster.
        folder: for the embeddings while they are searched; workers and this process must both reach it.
    """

    client: Any
    folder: Path

    def __call__(
        self,
        queries: np.ndarray,
        documents: np.ndarray,
        k: int,
        exclude: sparse.csr_array | None = None,
        chunk: tuple[int, int] = (0, 0),
        device: str | torch.device | None = None,
        processes: Processes = ALONE,
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """As `nearest_chunks`, in the order of the queries.

        Raises:
            InputError: as `nearest_chunks`, or as `cluster.hand_out`.
        """
        sides = [Side(vectors, name) for vectors, name in zip((queries, documents), _NAMES, strict=True)]
        plan = plan_of(*sides, k, exclude, chunk, device)
        exclude = None if exclude is None else sparse.csr_array(exclude)
        runs = list(_runs(plan.documents))
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="search.", dir=self.folder) as place:
            os.chmod(place, 0o755)  # workers may be other users
            for name, side in zip(_NAMES, sides, strict=True):
                arrays.save(Path(place) / f"{name}.npy", side.vectors)
                arrays.save(Path(place) / f"{name}_norms.npy", side.norms)
            tiles = (
                Tile(Path(place), number, rows, run, k, _rows(exclude, rows), plan.device.type)
                for number, rows in enumerate(plan.queries)
                for run in runs
            )
            yield from self._merged(tiles, plan.queries, len(runs))

    def _merged(
        self, tiles: Iterator[Tile], chunks: list[tuple[int, int]], shards: int
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """The best of all shards for one chunk of queries after the other."""
        best: dict[int, tuple[int, torch.Tensor]] = {}  # chunk of queries: shards that it has, and their best keys
        at, total = 0, len(chunks) * shards
        answers = cluster.hand_out(self.client, tiles, search_tile, ATTEMPTS, "a shard of a search")
        with contextlib.closing(answers), bar(total=total, what="searching", unit="shard") as shown:
            for number, answer in enumerate(answers, 1):
                if answer.error:
                    raise _refusal(answer)
                tile, keys = answer.job, torch.from_numpy(answer.value)
                count, before = best.get(tile.number, (0, keys[:, :0]))
                together = torch.cat([before, keys], dim=1)
                best[tile.number] = count + 1, together.topk(tile.k, dim=1).values
                shown.update()
                if not watched() and number * 20 // total > (number - 1) * 20 // total:
                    log.info("searching: %d of %d shards", number, total)
                while at in best and best[at][0] == shards:
                    yield chunks[at][0], *decoded(best.pop(at)[1])
                    at += 1


def search_tile(tile: Tile, home: str, threads: int) -> np.ndarray:
    """What a worker does: the k greatest keys of each query in a shard of the documents, (R, k) int64, best first."""
    cluster.settle(home, threads)
    left, right = (
        Side(_mapped(tile.folder / f"{name}.npy"), name, _mapped(tile.folder / f"{name}_norms.npy")) for name in _NAMES
    )
    return best_keys(left[slice(*tile.queries)], right, tile.k, tile.chunks, tile.barred, tile.device).cpu().numpy()


def _mapped(path: Path) -> np.ndarray:
    try:
        return arrays.load(path, mapped=True)
    except ValueError as error:
        raise InputError(f"{path} cannot be read by a worker; do all workers share this folder?") from error


def _runs(chunks: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Runs of chunks with about `DOCUMENTS` documents each."""
    run: list[tuple[int, int]] = []
    for chunk in chunks:
        run.append(chunk)
        if run[-1][1] - run[0][0] >= DOCUMENTS:
            yield run
            run = []
    if run:
        yield run


def _rows(exclude: sparse.csr_array | None, rows: tuple[int, int]) -> sparse.csr_array | None:
    return None if exclude is None else exclude[slice(*rows)]


def _refusal(answer: cluster.Answer) -> InputError:
    if isinstance(answer.raised, InputError):
        return answer.raised
    return InputError(f"a shard of the search failed: {one_line(answer.error, 200)}; start the same command again.")
