"""A static table distilled from an encoder: one vector for each token of its vocabulary, and a text is their mean.

As model2vec does (Tulkens and van Dongen 2024): each token goes through the model alone, the vectors are centred and
rotated to their principal directions, and each is weighted by how rare its token is (smooth inverse frequency: Arora,
Liang and Ma, ICLR 2017). Word order is lost; a text then costs microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hr_search.base.errors import InputError
from hr_search.base.progress import quiet
from hr_search.encoder import Encoder
from hr_search.export.reduction import principal_directions
from hr_search.fast.tokens import TokenTable

_SIF = 1e-4  # the frequency at which a token counts half; the paper takes 1e-3 to 1e-4
_PRIOR = 10_000  # tokens of Zipf's law added to those counted, for most of the vocabulary is in no train text
_MARK = "a"  # a text whose tokens show which special tokens come before and after


def distil(encoder: Encoder, size: int, texts: Sequence[str] = (), progress: bool = False) -> np.ndarray:
    """The table (V, size) float32 of an encoder's vocabulary; special tokens have rows of zeros.

    Args:
        encoder: the model; its prompts are left out, for a token has one vector on both sides.
        size: numbers of a vector; at most D.
        texts: train texts, which say how frequent tokens are; Zipf's law alone does so without them.
        progress: show a bar on a terminal.
    """
    tokenizer = encoder.model.tokenizer
    known = max(tokenizer.get_vocab().values()) + 1
    embedded = min(known, encoder.vocabulary or known)
    before, after = _frame(tokenizer)
    rows = np.empty((embedded, len(before) + 1 + len(after)), np.int32)
    rows[:, : len(before)], rows[:, len(before)], rows[:, len(before) + 1 :] = before, np.arange(embedded), after
    offsets = np.arange(embedded + 1, dtype=np.int64) * rows.shape[1]
    vectors = encoder.embed(TokenTable(rows.ravel(), offsets), progress=progress)
    plain = np.setdiff1d(np.arange(embedded), tokenizer.all_special_ids)
    vectors = vectors[plain] - vectors[plain].mean(0)
    vectors = vectors @ principal_directions(vectors, size).T
    table = np.zeros((known, size), np.float32)
    table[plain] = vectors * token_weights(_counts(tokenizer, texts, known))[plain, None]
    return table


def token_weights(counts: np.ndarray) -> np.ndarray:
    """Smooth inverse frequencies a / (a + p) of tokens, (V,), from their counts (V,).

    Added to the counts are tokens of Zipf's law: p falls as one over the place in the vocabulary, which is ordered by
    frequency.
    """
    zipf = 1 / np.arange(1, len(counts) + 1)
    frequencies = counts + _PRIOR * zipf / zipf.sum()
    return (_SIF / (_SIF + frequencies / frequencies.sum())).astype(np.float32)


def save_static(encoder: Encoder, table: np.ndarray, folder: Path) -> None:
    """Writes a folder of sentence-transformers with a StaticEmbedding over the encoder's tokenizer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(encoder.model.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_truncation()
    with quiet():
        model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, table), Normalize()], device="cpu")
        model.save(str(folder), create_model_card=False)


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and after a text."""
    inner = tokenizer(_MARK, add_special_tokens=False)["input_ids"]
    whole = tokenizer(_MARK)["input_ids"]
    for at in range(len(whole) - len(inner) + 1):
        if inner and whole[at : at + len(inner)] == inner:
            return whole[:at], whole[at + len(inner) :]
    raise InputError("the model's tokenizer changes a text beside its special tokens; no table can be made of it.")


def _counts(tokenizer: Any, texts: Sequence[str], known: int) -> np.ndarray:
    """How often each token occurs in texts, (known,)."""
    counts = np.zeros(known, np.int64)
    for at in range(0, len(texts), 1000):
        rows = tokenizer(list(texts[at : at + 1000]), add_special_tokens=False, verbose=False)["input_ids"]
        counts += np.bincount(np.concatenate([np.asarray(row, np.int64) for row in rows]), minlength=known)
    return counts
