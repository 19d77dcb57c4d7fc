"""Texts that sentence-transformers itself tokenises and encodes, for models whose forward pass is not ours to repeat.

Such are models without a transformer, with a route for each side, or with a chat template. Everything else in the
package handles rows of integers, so a row here holds a text: its side, its length and its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hr_search.base.choices import SIDES
from hr_search.fast.tokens import TokenTable

_HEAD = 3  # integers before the bytes of a text: its side, the tokens it is cut to, its bytes


def text_table(texts: Sequence[str], side: str, length: int = 0) -> TokenTable:
    """The table of `texts`: four bytes of a text are one integer, which is about what a token takes.

    Args:
        texts: N texts.
        side: "query" or "document".
        length: tokens each text is cut to; 0 = as many as the model takes.
    """
    rows = []
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        head = np.array([SIDES.index(side), length, len(raw)], np.int32)
        rows.append(np.concatenate([head, np.frombuffer(raw + b"\0" * (-len(raw) % 4), "<i4")]))
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]).astype(np.int64)
    return TokenTable(np.concatenate(rows) if rows else np.empty(0, np.int32), offsets)


def embed_texts(model: Any, rows: Sequence[np.ndarray], prompt: Callable[[str], str]) -> Tensor:
    """Embeddings of rows of `text_table` (N, D), by the forward pass of sentence-transformers.

    Args:
        model: a SentenceTransformer.
        rows: N rows.
        prompt: side to the text put before every text of it.
    """
    from sentence_transformers.util import batch_to_device

    groups: dict[tuple[int, int], list[int]] = {}
    for at, row in enumerate(rows):
        groups.setdefault((int(row[0]), int(row[1])), []).append(at)
    parts = []
    for (side, length), group in groups.items():
        name = SIDES[side]
        cut = {"processing_kwargs": {"text": {"max_length": length}}} if length else {}
        features = model.preprocess([_text(rows[at]) for at in group], prompt=prompt(name) or None, task=name, **cut)
        parts.append(model(batch_to_device(features, model.device), task=name)["sentence_embedding"])
    places = torch.as_tensor([at for group in groups.values() for at in group], device=parts[0].device)
    return torch.cat(parts)[torch.argsort(places)]


def _text(row: np.ndarray) -> str:
    return row[_HEAD:].astype("<i4").tobytes()[: int(row[2])].decode("utf-8", "surrogatepass")
