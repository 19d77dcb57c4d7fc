"""The saved index of a corpus: its embeddings, rows and texts in a folder that is memory-mapped and never half-written.

data/README.md describes the files. An index belongs to one model, one direction and the knobs that decide its
embeddings; a search with others is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hr_search.base import arrays
from hr_search.base.choices import DIRECTIONS, SIDES
from hr_search.base.errors import InputError, quoted
from hr_search.base.files import digest, read_json, whole_folder, write_json
from hr_search.encoder import Encoder
from hr_search.index import proof
from hr_search.index.texts import Corpus, StoredTexts, damaged, write_texts
from hr_search.search import identity
from hr_search.search.fusion import WordIndex
from hr_search.search.memory import Memory, open_memory, save_memory
from hr_search.search.policy import SearchPolicy, sides_of
from hr_search.search.stages import placed

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
VECTORS, ROWS = "embeddings.npy", "rows.npy"
SLICE = 20_000  # texts embedded and written at a time
NUMBERS = {"fp16": np.float16, "fp32": np.float32}
_FORMAT = 1
_MEMORY = "memory"  # folder inside the index
_ENTRIES = (
    *("dimension", "prompts", "maxlength", "condenser", "model", "fingerprint", "policy", "memory", "words", "corpora"),
    *("textdigest", "precision", "proof"),
)


@dataclasses.dataclass(frozen=True)
class Index:
    """An index on disk; nothing of its embeddings and texts is in memory before it is used.

    Attributes:
        folder: where it lies.
        manifest: what `manifest.json` holds.
        vectors: (N, D) float16 or float32, L2-normalised, centred and mixed as the policy says.
        rows: (N,) int64, the rows of the texts in their file, from 1.
        texts: N texts, each read when it is asked for.
    """

    folder: Path
    manifest: dict[str, Any]
    vectors: np.ndarray
    rows: np.ndarray
    texts: Sequence[str]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def direction(self) -> str:
        """The direction of its searches: q2d where it holds documents, d2q where it holds job titles."""
        return self.manifest["direction"]

    @property
    def policy(self) -> SearchPolicy:
        """The knobs it was written with."""
        return SearchPolicy.from_dict(self.manifest["policy"], str(self.folder / MANIFEST))

    def memory(self) -> Memory | None:
        """The known pairs it was written with; None where there were none."""
        if not self.manifest["memory"]:
            return None
        try:
            memory = open_memory(self.folder / _MEMORY, self.manifest["fingerprint"])
        except InputError as error:
            raise damaged(self.folder, error) from error
        if memory.fingerprint != self.manifest["memory"]:
            raise damaged(self.folder, ValueError("its memory is another"))
        return memory

    def words(self, policy: SearchPolicy) -> WordIndex | None:
        """The word index that a policy needs; None where it needs none.

        Raises:
            InputError: the index was written without one, or with one of another kind.
        """
        if not policy.fusion:
            return None
        if (kind := self.manifest["words"]) != policy.words:
            there = f"has word scores of the kind {kind}" if kind else "has no word scores"
            raise InputError(
                f"the index {self.folder} {there}; build it again with --fusion and --words {policy.words}."
            )
        return WordIndex.open(self.folder, kind, len(self))


def write_index(
    folder: Path | str,
    encoder: Encoder,
    corpus: Corpus,
    direction: str = "q2d",
    policy: SearchPolicy | None = None,
    memory: Memory | None = None,
    numbers: str = "fp16",
    told: dict[str, Any] | None = None,
    progress: bool = False,
) -> Index:
    """Embeds the texts of a corpus and writes their index, whole or not at all.

    Args:
        folder: where it goes: a new place, an empty folder or an older index, which is replaced.
        encoder: the model.
        corpus: documents for q2d, job titles for d2q.
        direction: in which it will be searched.
        policy: the knobs; None = the plain cosine.
        memory: known pairs; they are kept in the index, which then depends on no other file but the model.
        numbers: "fp16" or "fp32", of the embeddings.
        told: further entries of the manifest.
        progress: show a bar on a terminal.

    Raises:
        InputError: files that are no index are in the folder, the policy needs a memory and there is none, or an
            embedding is NaN.
    """
    require_place(folder)
    policy = policy or SearchPolicy()
    side = sides_of(direction)[1]
    manifest = {
        "format": _FORMAT,
        "model": _name(encoder),
        "fingerprint": identity.fingerprint(encoder),
        **model_entries(encoder),
        "precision": encoder.precision,
        "direction": direction,
        "numbers": numbers,
        "policy": policy.to_dict(),
        "memory": memory.fingerprint if memory else "",
        "words": policy.words if policy.fusion else "",
        "corpora": [corpus_entry(corpus, 0)],
        "proof": proof.proof_of(encoder),
        **(told or {}),
    }
    blocks = embedded(encoder, corpus.texts, side, policy, memory, progress)
    write_folder(Path(folder), manifest, blocks, corpus.rows, corpus.texts, memory)
    return open_index(folder)


def open_index(folder: Path | str) -> Index:
    """The index in a folder, memory-mapped.

    Raises:
        InputError: there is none, it has another format, or a file of it is missing or damaged.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} is not an index: it has no {MANIFEST}; make one with `python -m hr_search index`.")
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        version = quoted(manifest.get("format")) if isinstance(manifest, dict) else "none"
        raise InputError(
            f"the index {folder} has the format {version} and this version reads {_FORMAT}; build it again."
        )
    try:
        count, dimension, numbers = manifest["texts"], manifest["dimension"], NUMBERS[manifest["numbers"]]
        if manifest["direction"] not in DIRECTIONS or not all(name in manifest for name in _ENTRIES):
            raise ValueError(f"{MANIFEST} is not complete")
        # Copy on write: torch takes no read-only arrays; nobody writes into it.
        vectors = np.load(folder / VECTORS, mmap_mode="c", allow_pickle=False)
        rows = np.load(folder / ROWS, mmap_mode="r", allow_pickle=False)
        if vectors.shape != (count, dimension) or vectors.dtype != numbers:
            raise ValueError(f"{VECTORS} does not hold {count} times {dimension} numbers")
        if rows.shape != (count,) or rows.dtype != np.int64 or not count:
            raise ValueError(f"{ROWS} does not hold {count} rows")
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise damaged(folder, error) from error
    return Index(folder, manifest, vectors, rows, StoredTexts(folder, count))


def require_place(folder: Path | str) -> None:
    """Checks that an index may be written to a folder: a new place, an empty folder or an older index.

    Raises:
        InputError: it is a file, or holds other files.
    """
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file; give the path of a folder for the index.")
    with contextlib.suppress(FileNotFoundError):
        if any(folder.iterdir()) and not ((folder / MANIFEST).is_file() and (folder / VECTORS).is_file()):
            raise InputError(f"the folder {folder} holds files that are no index; give another --out.")


def model_entries(encoder: Encoder) -> dict[str, Any]:
    """The entries of a manifest that must agree with the model one searches with."""
    rules = json.dumps(encoder.condenser.to_dict(), sort_keys=True) if encoder.condenser else ""
    return {
        "dimension": encoder.dimension,
        "maxlength": encoder.maxlength,
        "prompts": {side: encoder.prompt(side) for side in SIDES},
        "condenser": digest(rules) if rules else "",
    }


def _name(encoder: Encoder) -> str:
    """What loads the model from any working directory."""
    place = Path(encoder.name).expanduser()
    return str(place.resolve()) if place.is_dir() else encoder.name


def corpus_entry(corpus: Corpus, offset: int) -> dict[str, Any]:
    """The entry of a manifest about a file; its rows were counted on from `offset`."""
    return {"file": corpus.name, "digest": corpus.digest, "texts": len(corpus.texts), "offset": offset}


def embedded(
    encoder: Encoder, texts: Sequence[str], side: str, policy: SearchPolicy, memory: Memory | None, progress: bool
) -> Iterator[np.ndarray]:
    """The embeddings that an index stores, (R, D) float32, for some texts after the other."""
    done = 0
    for part in slices(texts):
        vectors = encoder.embed(encoder.tokens(part, side, cached=False), progress=progress)
        vectors = placed(vectors, side, True, memory, policy)
        arrays.norms(vectors, side)  # refuses NaN
        yield vectors
        done += len(part)
        if len(texts) > SLICE:
            log.info("%d of %d texts embedded", done, len(texts))


def slices(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Texts in the slices that are embedded one after the other."""
    return (texts[start : start + SLICE] for start in range(0, len(texts), SLICE))


def write_folder(
    folder: Path,
    manifest: dict[str, Any],
    blocks: Iterator[np.ndarray],
    rows: np.ndarray,
    texts: Sequence[str],
    memory: Memory | None,
) -> None:
    """Writes the folder of an index, whole or not at all."""
    kind = np.dtype(NUMBERS[manifest["numbers"]])
    policy = SearchPolicy.from_dict(manifest["policy"])
    with whole_folder(folder) as target:
        with open(target / VECTORS, "w+b") as file:  # written block by block: a mapped file fails badly on a full disk
            shape = {"descr": kind.str, "fortran_order": False, "shape": (len(rows), manifest["dimension"])}
            np.lib.format.write_array_header_1_0(file, shape)
            for block in blocks:
                file.write(block.astype(kind).tobytes())
        with open(target / ROWS, "w+b") as file:
            np.save(file, rows)
        textdigest = write_texts(target, texts)
        if policy.fusion:
            background = memory.background if memory else None
            WordIndex.fit(texts, policy.words, background).save(target)
        if memory:
            save_memory(memory, target / _MEMORY, manifest["fingerprint"])
        write_json(target / MANIFEST, {**manifest, "texts": len(rows), "textdigest": textdigest})
