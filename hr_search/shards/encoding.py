"""Embeddings by the workers of a cluster: the chunks of texts that one machine would encode, shared out in shards.

An embedding may depend in its last digit on the texts that are encoded with it. A shard is therefore a run of whole
chunks (`Encoder.embed` cuts them): each is encoded as on one machine, and by itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hr_search.base import claims, cluster, paths
from hr_search.base.errors import InputError, one_line
from hr_search.base.files import digest
from hr_search.base.processes import ALONE, Processes
from hr_search.base.progress import bar, watched
from hr_search.dimensions import shorten
from hr_search.encoder import Encoder, load_encoder
from hr_search.fast.tokens import TokenTable
from hr_search.models import opening
from hr_search.search import identity
from hr_search.shards.folder import Origin, is_finished, open_folder, read_shard, write_shard

log = logging.getLogger(__name__)

TOKENS = 2**16  # of a shard: some seconds of a core
ATTEMPTS = 3  # a shard whose worker dies is begun so often
_WHOLE = 10**12  # tokens at a time: a chunk is not cut again


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a worker gets the encoder; attributes as those of `Encoder`."""

    name: str
    maxlength: int
    precision: str
    dimension: int
    fingerprint: str
    proven: tuple[bool, bool]


@dataclasses.dataclass(frozen=True)
class Shard:
    """The texts of a shard.

    Attributes:
        place: the folder it goes to.
        ids: (R,) their places among all texts.
        rows: their tokens, R rows, chunk by chunk.
        ends: the end of each chunk among the rows, ascending, R the last.
        digest: of tokens and chunks.
        manifest: entries for its manifest.
        recipe: of the encoder.
    """

    place: Path
    ids: np.ndarray
    rows: TokenTable
    ends: list[int]
    digest: str
    manifest: dict[str, Any]
    recipe: Recipe


class SharedEncoder:
    """An encoder whose texts the workers of a cluster encode; anything else it does is done by the encoder itself.

    What `embed` returns is to the bit what the encoder would return, on workers with as many threads on processors of
    the same kind.
    """

    def __init__(self, encoder: Encoder, client: Any, folder: Path) -> None:
        """Opens the folder of the shards.

        Args:
            encoder: the model, loaded under a name that the workers can load as well.
            client: of the cluster.
            folder: for the shards; workers and this process must both reach it under this path.

        Raises:
            InputError: the folder holds shards of another model, or other files.
        """
        self.encoder, self.client, self.folder = encoder, client, folder
        self.origin = Origin.of(encoder)
        length = encoder.maxlength if encoder.maxlength < opening.ENDLESS else 0
        place = Path(encoder.name).expanduser()
        name = str(place.resolve()) if place.is_dir() else encoder.name  # workers start in other folders
        proven = (encoder.packs, encoder.foreign)
        self._recipe = Recipe(
            name, length, encoder.precision, encoder.dimension, self.origin.fingerprint, proven
        )  # fmt: skip
        open_folder(folder, self.origin)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def narrowed(self, tables: Sequence[TokenTable]) -> contextlib.AbstractContextManager:
        """A block; nothing needs to be cut down where nothing is encoded."""
        return contextlib.nullcontext()

    def embed(
        self, table: Sequence[np.ndarray], budget: int = 0, progress: bool = False, processes: Processes = ALONE
    ) -> np.ndarray:
        """As `Encoder.embed`; a list of a few rows is encoded here.

        Raises:
            InputError: as `prepare`.
        """
        if not isinstance(table, TokenTable) or not len(table):
            return self.encoder.embed(table, budget, progress)
        self.prepare([table], len(table), budget)
        out = np.empty((len(table), self.encoder.dimension), np.float32)
        for shard in self._shards(table, budget):
            out[shard.ids] = read_shard(shard.place, shard.ids, out.shape[1])
        return out

    def encode(self, texts: Sequence[str], side: str = "document", progress: bool = False) -> np.ndarray:
        """As `Encoder.encode`."""
        return self.embed(self.encoder.tokens(list(texts), side, cached=False), progress=progress)

    def prepare(self, tables: Iterable[TokenTable], count: int, budget: int = 0) -> None:
        """Has the shards of several tables made that are not there yet, all side by side.

        Args:
            tables: asked for one after the other, as workers become free.
            count: of the texts in all of them, for the log.
            budget: as for `embed`.

        Raises:
            InputError: a worker has another model under the encoder's name or does not write to this folder, a shard
                failed, or as `cluster.hand_out`; finished shards are kept.
        """
        done, made, skipped = 0, 0, []
        todo = self._unfinished(tables, budget, skipped)
        answers = cluster.hand_out(self.client, todo, encode_shard, ATTEMPTS, "a shard")
        with contextlib.closing(answers), bar(total=count, what="encoding", unit="text") as shown:
            for answer in answers:
                shard = answer.job
                if answer.error:
                    self._refuse(shard, answer)
                self._require_here(shard)
                done, made = done + len(shard.ids), made + 1
                shown.update(len(shard.ids))
                if not watched():
                    log.info(
                        "shard %s: %d texts in %.1f s by %s; %d of %d texts",
                        shard.place.relative_to(self.folder), len(shard.ids), answer.value, answer.worker,
                        done + sum(skipped), count,
                    )  # fmt: skip
        if skipped and made:
            log.info("%d shards were made, %d were there already", made, len(skipped))

    def _require_here(self, shard: Shard) -> None:
        """Checks that a shard that a worker has written is here; a network disk may show it seconds later."""
        deadline = time.monotonic() + cluster.PATIENCE
        while not is_finished(shard.place, shard.digest, self.origin):
            if time.monotonic() > deadline:
                raise InputError(f"{shard.place} is not here; do all workers share this folder?")
            time.sleep(0.1)

    def _refuse(self, shard: Shard, answer: cluster.Answer) -> None:
        """The sentence about a shard that failed."""
        if isinstance(answer.raised, InputError):
            raise answer.raised
        raise InputError(
            f"the shard {shard.place.relative_to(self.folder)} of {len(shard.ids)} texts failed: "
            f"{one_line(answer.error, 200)}; finished shards are kept in {self.folder}, and the same command goes on "
            "with the others."
        )

    def _unfinished(self, tables: Iterable[TokenTable], budget: int, skipped: list[int]) -> Iterator[Shard]:
        """The shards that are not there yet; `skipped` gets the texts of each of the others."""
        for table in tables:
            for shard in self._shards(table, budget) if len(table) else ():
                if is_finished(shard.place, shard.digest, self.origin):
                    skipped.append(len(shard.ids))
                else:
                    yield shard

    def _shards(self, table: TokenTable, budget: int) -> Iterator[Shard]:
        """All shards of a table."""
        chunks = self.encoder.chunks(table.lengths, budget)
        name = _digest(table.ids, table.offsets, *chunks)
        for number, run in enumerate(_runs(chunks, table.lengths)):
            ids = np.concatenate(run).astype(np.int64)
            ends = np.cumsum([len(chunk) for chunk in run]).tolist()
            offsets = np.concatenate([[0], np.cumsum(table.lengths[ids])]).astype(np.int64)
            rows = TokenTable(np.concatenate([table[at] for at in ids.tolist()]), offsets)
            own = _digest(rows.ids, offsets, ids, np.array(ends))
            place = self.folder / name / f"{number:06d}"
            yield Shard(place, ids, rows, ends, own, {**self.origin.entries(), "texts": own}, self._recipe)


@contextlib.contextmanager
def shared(encoder: Encoder, scheduler: str, shards: str = "") -> Iterator[SharedEncoder]:
    """An encoder that a cluster stands behind, for a block.

    Args:
        encoder: the model.
        scheduler: as for `cluster.opened`.
        shards: folder that keeps the shards; empty = one in the cache, which is removed when the block ends well.

    Raises:
        InputError: as `SharedEncoder` and `cluster.opened`.
    """
    folder = paths.resolve(shards) if shards else paths.cache() / "shards" / _name(encoder)
    if folder.is_file():
        raise InputError(f"{folder} is a file; give a folder as --shards.")
    with (
        claims.claimed(claims.beside(folder), f"the shards {folder}", "give another --shards"),
        cluster.opened(scheduler) as client,
    ):
        yield SharedEncoder(encoder, client, folder)
        if not shards:
            shutil.rmtree(folder, ignore_errors=True)


def encode_shard(shard: Shard, home: str, threads: int) -> float:
    """What a worker does: encodes a shard and writes it; returns the seconds that encoding took.

    Raises:
        InputError: the model is another one here, or the folder cannot be written.
    """
    cluster.settle(home, threads)
    encoder = _encoder(shard.recipe)
    begun = time.perf_counter()
    vectors = np.empty((len(shard.ids), encoder.dimension), np.float32)
    with encoder.narrowed([shard.rows]):
        for start, stop in itertools.pairwise([0, *shard.ends]):
            vectors[start:stop] = encoder.embed([shard.rows[at] for at in range(start, stop)], _WHOLE)
    seconds = time.perf_counter() - begun
    write_shard(shard.place, shard.ids, vectors, shard.manifest)
    return seconds


@functools.lru_cache(maxsize=1)
def _encoder(recipe: Recipe) -> Encoder:
    """The encoder of a recipe, kept for the shards that follow."""
    exact = "auto" if recipe.precision == "int8" else recipe.precision
    encoder = load_encoder(recipe.name, recipe.maxlength, exact, proven=recipe.proven)
    if recipe.precision == "int8":
        from hr_search.export.int8 import in_int8

        in_int8(encoder)
    shorten(encoder, recipe.dimension)
    if identity.fingerprint(encoder) != recipe.fingerprint:
        raise InputError(
            f"a worker has another model under the name {recipe.name} than this machine; copy the same folder there."
        )
    return encoder


def _runs(chunks: Sequence[np.ndarray], lengths: np.ndarray) -> Iterator[list[np.ndarray]]:
    """Runs of chunks with about `TOKENS` tokens each."""
    run, held = [], 0
    for chunk in chunks:
        run.append(chunk)
        held += int(lengths[chunk].sum())
        if held >= TOKENS:
            yield run
            run, held = [], 0
    if run:
        yield run


def _digest(*parts: np.ndarray) -> str:
    """16 hex digits that change with any number, or with where one array ends and the next begins."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(np.ascontiguousarray(part).astype("<i8", copy=False))
    return state.hexdigest()


def _name(encoder: Encoder) -> str:
    """The name of a folder in the cache for the shards of an encoder."""
    origin = Origin.of(encoder)
    return digest(origin.fingerprint, origin.precision, origin.dimension, sorted(origin.versions.items()))
