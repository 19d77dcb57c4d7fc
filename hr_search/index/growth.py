"""An index that grows: new texts are embedded, those it has are kept."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hr_search.base.errors import InputError
from hr_search.base.files import write_json
from hr_search.encoder import Encoder
from hr_search.index import proof
from hr_search.index.folder import MANIFEST, SLICE, Index, corpus_entry, embedded, open_index, write_folder
from hr_search.index.texts import Corpus, damaged
from hr_search.search.policy import sides_of


def append(index: Index, encoder: Encoder, corpus: Corpus, progress: bool = False) -> tuple[Index, int]:
    """Adds the texts of a corpus that the index lacks; only these are embedded.

    Where the corpus begins with the texts of the index, row by row, the result is what `write_index` would give for
    it. Where none of its rows agrees, its texts are taken for new ones, and their rows are counted on from the last.

    Args:
        index: the index; its folder is written anew, whole or not at all.
        encoder: the model that made it (`require_model`).
        corpus: the grown corpus, or new texts only.
        progress: show a bar on a terminal.

    Returns:
        The new index and the number of texts added.

    Raises:
        InputError: some rows of the corpus agree with the index and others do not, or its texts are damaged.
    """
    if index.texts.digest() != index.manifest["textdigest"]:
        raise damaged(index.folder, ValueError("its texts are not those it was written with"))
    old = list(index.texts)
    known: dict[str, int] = {}
    for at, text in enumerate(old):
        known.setdefault(text, at)
    offset = _offset(index, old, corpus)
    there = set() if offset else set(index.rows.tolist())
    added = [
        (row + offset, text)
        for row, text in zip(corpus.rows.tolist(), corpus.texts, strict=True)
        if (text not in known if offset else row not in there)
    ]
    new = list(dict.fromkeys(text for _, text in added if text not in known))
    policy, memory = index.policy, index.memory()
    side = sides_of(index.direction)[1]
    blocks = list(embedded(encoder, new, side, policy, memory, progress)) if new else []
    fresh = np.concatenate([np.empty((0, index.vectors.shape[1]), np.float32), *blocks])
    places = known | {text: len(old) + at for at, text in enumerate(new)}
    rows = np.concatenate([index.rows, np.array([row for row, _ in added], np.int64)])
    sources = np.concatenate([np.arange(len(old)), np.array([places[text] for _, text in added], np.int64)])
    order = np.argsort(rows, kind="stable")
    texts = old + [text for _, text in added]
    entry = corpus_entry(corpus, offset)
    corpora = [*index.manifest["corpora"], entry] if offset else [entry]
    if not added and (offset or corpora == index.manifest["corpora"]):
        return index, 0
    manifest = {**index.manifest, "corpora": corpora, "proof": proof.proof_of(encoder)}
    if not added:  # the file has changed and its texts have not: lists for an approximate search stay
        write_json(index.folder / MANIFEST, manifest)
        return open_index(index.folder), 0
    merged = _merged(index.vectors, fresh, sources[order])
    write_folder(index.folder, manifest, merged, rows[order], [texts[at] for at in order], memory)
    return open_index(index.folder), len(added)


def _merged(old: np.ndarray, new: np.ndarray, sources: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of the old array, and of the new one where the source is counted on from the old one's end."""
    for start in range(0, len(sources), SLICE):
        part = sources[start : start + SLICE]
        kept = part < len(old)
        out = np.empty((len(part), old.shape[1]), np.float32)
        out[kept], out[~kept] = old[part[kept]], new[part[~kept] - len(old)]
        yield out


def _offset(index: Index, texts: list[str], corpus: Corpus) -> int:
    """What is added to a corpus's rows: 0 where it is the index's own, grown; the last row where its texts are new."""
    found = dict(zip(corpus.rows.tolist(), corpus.texts, strict=True))
    rows = index.rows.tolist()
    same = [found.get(row) == text for row, text in zip(rows, texts, strict=True)]
    if all(same):
        return 0
    if any(same):
        at = same.index(False)
        raise InputError(
            f"row {rows[at]} of {corpus.name} is no longer the text that the index {index.folder} holds; build it "
            "again, or give a file of new texts only."
        )
    return rows[-1]
