"""Vocabulary compaction: an embedding table cut down to the rows whose tokens occur in some texts.

A multilingual table is most of a small model, and nearly all of it gets no gradient. Rows that are left
out would not have moved (no gradient, no weight decay), so training the rest gives the same model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from hr_search.fast.tokens import TokenTable


class CompactVocabulary:
    """The embedding rows of the tokens that occur, in the place of the whole table; `expand` undoes it.

    Attributes:
        kept: token ids whose rows are present, sorted, (V,).
        size: rows of the whole table.
    """

    def __init__(self, embedding: nn.Embedding, tables: Sequence[TokenTable], pad: int) -> None:
        """Cuts `embedding` down.

        Args:
            embedding: the model's table of token embeddings; changed in place.
            tables: the texts that will be encoded.
            pad: id of the padding token.
        """
        # Models of the RoBERTa family find positions by comparing ids with the padding id, so it
        # and the ids before it keep their places.
        first = np.arange(pad + 1, dtype=np.int32)
        self.kept = np.unique(np.concatenate([first, *(table.used() for table in tables)])).astype(np.int64)
        self.size = embedding.num_embeddings
        self._row_of = np.full(self.size, -1, np.int64)
        self._row_of[self.kept] = np.arange(len(self.kept))
        self._embedding, self._whole = embedding, embedding.weight.data
        kept = torch.from_numpy(self.kept).to(self._whole.device)
        embedding.weight = nn.Parameter(self._whole[kept].clone())
        embedding.num_embeddings = len(self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Rows of the compacted table for token ids.

        Raises:
            RuntimeError: a token is not among those the table was cut down to.
        """
        rows = self._row_of[ids]
        if rows.min() < 0:
            raise RuntimeError("expand() the vocabulary before encoding texts it was not compacted for")
        return rows

    def expand(self) -> None:
        """Writes the trained rows back into the whole table and puts it in its place again."""
        trained = self._embedding.weight.data
        self._whole[torch.from_numpy(self.kept).to(self._whole.device)] = trained.to(self._whole.device)
        self._embedding.weight = nn.Parameter(self._whole.to(trained.device))
        self._embedding.num_embeddings = self.size
