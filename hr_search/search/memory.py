"""The memory of a search: known pairs, embedded with the model, whose embeddings are mixed into others.

In training the query's embedding is mixed with those of its nearest positives. At search time nobody knows the
positives of a text; but the pairs that are known hold texts like it, and their partners stand near its own: a
job title is mixed with the vacancies of the titles nearest to it, a vacancy with the titles of the vacancies nearest
to it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from hr_search import mixing
from hr_search.base import arrays
from hr_search.base.choices import SIDES
from hr_search.base.errors import InputError, one_line
from hr_search.base.files import digest, read_json, whole_folder, write_json
from hr_search.data.duplicates import normalised
from hr_search.encoder import Encoder
from hr_search.mixing import MixingPolicy
from hr_search.nearest import nearest_chunks
from hr_search.search import fusion, identity
from hr_search.search.policy import SearchPolicy

FOLDER = "memory"  # in a model's folder
MANIFEST = "memory.json"
_FORMAT = 1
_PAIRS = ("data", "indices", "indptr")


@dataclasses.dataclass(frozen=True)
class Memory:
    """Known pairs of T distinct queries and V distinct documents, embedded with one model.

    Attributes:
        vectors: "query" (T, D) and "document" (V, D), float32, L2-normalised and rounded as float16 would hold them.
        pairs: (T, V) sparse, 1 where a query and a document are a pair.
        keys: "query" (T,) and "document" (V,) uint64, digests of the normalised texts.
        background: document frequencies of the n-grams of all texts, as `fusion.frequencies` gives them.
        source: what it was made from, for messages.
        wording: digest of the texts as they were embedded; two spellings of one text have one key. Empty = not known.
    """

    vectors: dict[str, np.ndarray]
    pairs: sparse.csr_array
    keys: dict[str, np.ndarray]
    background: np.ndarray
    source: str = "the memory"
    wording: str = ""

    @functools.cached_property
    def means(self) -> dict[str, np.ndarray]:
        """The mean embedding of each side, (D,)."""
        return {side: self.vectors[side].mean(axis=0, dtype=np.float64).astype(np.float32) for side in SIDES}

    @functools.cached_property
    def centred(self) -> Memory:
        """The same pairs with each side's mean subtracted."""
        vectors = {side: centred(self.vectors[side], self.means[side]) for side in SIDES}
        return dataclasses.replace(self, vectors=vectors)

    @functools.cached_property
    def partners(self) -> dict[str, np.ndarray]:
        """For each text of a side the sum of its partners' embeddings over the root of their number, (T, D) or (V, D).

        This is their mean, weighted by the root of their number: the more partners, the surer the mean.
        """
        pairs = {"query": self.pairs, "document": sparse.csr_array(self.pairs.T)}
        found = {}
        for side, other in (SIDES, SIDES[::-1]):
            counts = np.maximum(np.diff(pairs[side].indptr), 1)
            found[side] = ((pairs[side] @ self.vectors[other]) / np.sqrt(counts)[:, None]).astype(np.float32)
        return found

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with any text or pair."""
        parts = [*self.keys.values(), self.pairs.indptr, self.pairs.indices]
        return digest(*(digest(part.tolist()) for part in parts))


def build_memory(
    encoder: Encoder,
    pairs: pd.DataFrame,
    source: str = "the memory",
    progress: bool = False,
    kept: Memory | None = None,
) -> Memory:
    """The memory of a table of pairs.

    Embeddings are rounded to float16, as `save_memory` keeps them: a memory that was saved and opened gives the same
    search to the last digit, in half the space. A coordinate moves by at most 0.05 %, a cosine by about 1e-5.

    Args:
        encoder: the model that searches.
        pairs: columns `query` and `positive`; `group`, where it is there, is not looked at.
        source: what the pairs are from, for messages.
        progress: show a bar on a terminal.
        kept: a memory of the same encoder, whose embeddings are taken where it holds the same pairs in the same words.

    Raises:
        InputError: no pairs, or an embedding that is NaN or infinite.
    """
    if not len(pairs):
        raise InputError(f"{source} has no pairs; give a table with queries and documents as the memory.")
    codes, texts, keys = {}, {}, {}
    for side, column in zip(SIDES, ("query", "positive"), strict=True):
        codes[side], distinct = pd.factorize(normalised(pairs[column]))
        first = np.unique(codes[side], return_index=True)[1]
        texts[side], keys[side] = pairs[column].iloc[first].tolist(), text_keys(distinct)
    matrix = arrays.incidence(codes["query"], codes["document"], (len(keys["query"]), len(keys["document"])))
    background = fusion.frequencies(texts["query"] + texts["document"])
    wording = digest(*texts["query"], *texts["document"])
    found = Memory({}, matrix, keys, background, source, wording)
    if kept is not None and (kept.fingerprint, kept.wording) == (found.fingerprint, wording):
        return dataclasses.replace(found, vectors=kept.vectors)
    for side in SIDES:
        embedded = encoder.embed(encoder.tokens(texts[side], side), progress=progress)
        found.vectors[side] = arrays.normalised(embedded, side).astype(np.float16).astype(np.float32)
    return found


def text_keys(texts: Sequence[str]) -> np.ndarray:
    """Digests of texts that are normalised already, (N,) uint64."""
    return np.array([int(digest(text), 16) for text in texts], np.uint64)


def keys_of(texts: Sequence[str]) -> np.ndarray:
    """Digests of the normalised forms of texts, (N,) uint64; equal where two texts are spellings of one."""
    return text_keys(normalised(pd.Series(texts, dtype=object)).tolist())


def refuse_known(memory: Memory, documents: Sequence[str], advice: str = "give other rows as the memory") -> None:
    """Checks that a memory holds none of the documents of a test.

    Args:
        memory: the known pairs.
        documents: N distinct texts.
        advice: what a person can do about it, the end of the sentence.

    Raises:
        InputError: it does, so the test would find its own answers there.
    """
    count = int(np.isin(keys_of(documents), memory.keys["document"]).sum())
    if count:
        raise InputError(
            f"{memory.source} holds {count} of the {len(documents)} documents that are searched, so mixing would give "
            f"answers away; {advice}."
        )


def centred(vectors: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Embeddings (N, D) without their side's mean (D,), scaled to length 1 again.

    Embeddings of most models fill a narrow cone; what they have in common says nothing about a text
    (Mu and Viswanath 2018, arXiv:1702.01417).
    """
    return arrays.normalised(vectors - mean, "document")


def mixed(
    vectors: np.ndarray, side: str, memory: Memory, policy: SearchPolicy, keys: np.ndarray | None = None
) -> np.ndarray:
    """Embeddings mixed with the partners of their nearest neighbours in the memory.

    A text's neighbours are the `policy.k` texts of its own side with the highest cosines, weighted by the
    softmax of cosine / temperature; the sum of their partners' embeddings is what `mixing.combine` moves it to.

    Args:
        vectors: (N, D), L2-normalised, in the same space as the memory (centred, if it is).
        side: "query" or "document", of the texts.
        memory: the known pairs.
        policy: strategy, k, temperature and weight.
        keys: (N,) digests of the texts; with them a text that is in the memory gets neither itself nor the texts that
            share a partner with it as neighbours, as if its group had been held out.

    Returns:
        (N, D) float32, L2-normalised; a text without neighbours stays.

    Raises:
        InputError: k is larger than the memory.
    """
    known = memory.vectors[side]
    if policy.k > len(known):
        raise InputError(
            f"k is {policy.k}, and {memory.source} has only {len(known)} distinct {_WORDS[side]}; lower --k."
        )
    own = None if keys is None else _related(keys, side, memory)
    partners, share = memory.partners[side], policy.weight
    weighting = MixingPolicy(policy.strategy, query_weight=1 - share, positive_weight=share, negative_weight=0.0)
    out = np.empty(vectors.shape, np.float32)
    for start, indices, scores in nearest_chunks(vectors, known, policy.k, own):
        there = indices >= 0
        best = np.where(there[:, :1], scores[:, :1], 0)
        weights = np.where(there, np.exp((scores - best) / policy.temperature), 0)
        total = np.zeros((len(indices), vectors.shape[1]), np.float32)
        for rank in range(policy.k):  # one neighbour at a time: (R, k, D) numbers would not fit into memory
            total += weights[:, rank, None] * partners[indices[:, rank]]
        target = torch.nn.functional.normalize(torch.from_numpy(total), dim=-1)
        block = torch.from_numpy(np.ascontiguousarray(vectors[start : start + len(indices)], np.float32))
        found = torch.from_numpy(there.any(axis=1, keepdims=True).astype(np.float32))
        none = torch.zeros_like(block), torch.zeros_like(found)
        out[start : start + len(indices)] = mixing.combine(block, target, found, *none, weighting).numpy()
    return out


def save_memory(memory: Memory, folder: Path | str, model: str) -> None:
    """Writes the memory's folder; it is never half-written.

    Args:
        memory: what to keep; embeddings are kept as float16, texts only as digests.
        folder: where it goes.
        model: fingerprint of the model that embedded it.
    """
    with whole_folder(folder) as target:
        for side in SIDES:
            arrays.save(target / f"{side}.npy", memory.vectors[side].astype(np.float16))
            arrays.save(target / f"{side}_keys.npy", memory.keys[side])
        for part in _PAIRS:
            arrays.save(target / f"pairs_{part}.npy", getattr(memory.pairs, part))
        arrays.save(target / "background.npy", memory.background.astype(np.int32))
        sizes = {side: len(memory.vectors[side]) for side in SIDES} | {"pairs": int(memory.pairs.nnz)}
        told = {"format": _FORMAT, "model": model, "source": memory.source, "wording": memory.wording}
        write_json(target / MANIFEST, told | sizes)


def open_memory(folder: Path | str, model: str) -> Memory:
    """The memory that `save_memory` wrote for the model with this fingerprint.

    Raises:
        InputError: none is there, another model made it, or a file is damaged.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} holds no memory; run `tune`, or give a table of known pairs as --memory.")
    told = read_json(folder / MANIFEST)
    if not isinstance(told, dict) or told.get("format") != _FORMAT:
        raise InputError(f"the memory in {folder} has another format; run `tune` again.")
    if told.get("model") != model:
        raise InputError(
            f"the memory in {folder} was embedded by another model, or one that reads texts otherwise (maxlength, "
            "condense, prompts, int8); run `tune` again."
        )
    try:
        return _opened(folder, f"the memory in {folder}", str(told.get("wording", "")))
    except ValueError as error:
        raise InputError(f"the memory in {folder} is damaged ({one_line(error)}); run `tune` again.") from error


def kept_memory(encoder: Encoder) -> Memory | None:
    """The memory that `tune` left in the encoder's own folder; None where this encoder would embed it otherwise."""
    with contextlib.suppress(InputError):  # there is none, it is another model's or damaged: it can be made anew
        return open_memory(Path(encoder.name) / FOLDER, identity.fingerprint(encoder))
    return None


def _opened(folder: Path, source: str, wording: str) -> Memory:
    """The memory in a folder.

    Raises:
        ValueError: a file is missing or damaged, or the files do not fit together.
    """
    vectors = {side: arrays.load(folder / f"{side}.npy") for side in SIDES}
    keys = {side: arrays.load(folder / f"{side}_keys.npy") for side in SIDES}
    for side in SIDES:
        if vectors[side].ndim != 2 or vectors[side].dtype.kind != "f" or not np.isfinite(vectors[side]).all():
            raise ValueError(f"{side}.npy holds no embeddings, or NaN or infinity")
        if keys[side].shape != vectors[side].shape[:1] or keys[side].dtype != np.uint64:
            raise ValueError(f"{side}_keys.npy does not fit {side}.npy")
    (queries, dimension), (documents, other) = (vectors[side].shape for side in SIDES)
    parts = [arrays.load(folder / f"pairs_{part}.npy") for part in _PAIRS]
    background = arrays.load(folder / "background.npy")
    if (
        dimension != other
        or not queries
        or not documents
        or any(part.dtype.kind != "i" or part.ndim != 1 for part in [*parts, background])
        or background.shape != (fusion.FEATURES + 1,)
    ):
        raise ValueError("its files do not fit together")
    pairs = sparse.csr_array(tuple(parts), shape=(queries, documents))
    pairs.check_format(full_check=True)
    vectors = {side: table.astype(np.float32, copy=False) for side, table in vectors.items()}
    return Memory(vectors, pairs, keys, background, source, wording)


def _related(keys: np.ndarray, side: str, memory: Memory) -> sparse.csr_array:
    """Which texts of a memory are a given text or share a partner with it, (N, T) or (N, V)."""
    order = np.argsort(memory.keys[side], kind="stable")
    place = np.minimum(np.searchsorted(memory.keys[side], keys, sorter=order), len(order) - 1)
    hit = np.flatnonzero(memory.keys[side][order[place]] == keys)
    own = arrays.incidence(hit, order[place[hit]], (len(keys), len(order)))
    pairs = memory.pairs if side == "query" else memory.pairs.T
    return sparse.csr_array(own + own @ pairs @ pairs.T)


_WORDS = {"query": "queries", "document": "documents"}
