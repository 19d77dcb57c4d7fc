"""Vocabulary compaction: an embedding table cut down to the rows whose tokens occur in some texts.

A multilingual table is most of a small model, and nearly all of it gets no gradient. Rows that are left
out would not have moved (no gradient, no weight decay), so training the rest gives the same model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hr_search.base.pages import MappedPages
from hr_search.fast.tokens import APART, TokenTable

_GATHERED = 500  # rows copied at a time: each brings a stretch of the whole table into memory
_SAMPLED = 32  # tokens of the texts that show whether a smaller vocabulary changes embeddings, and
_EQUAL = 1e-5  # by how much it may
_LONG = 20_000  # tokens for which the vocabulary is cut down

Embed = Callable[[Sequence[np.ndarray]], np.ndarray]  # token rows to embeddings (N, D)


def tables_of(transformer: nn.Module | None) -> list[nn.Embedding]:
    """The modules that look token ids up in one table of embeddings; none where the table cannot be cut down.

    Models of the T5 family look them up in a second module, whose table is tied to the first.
    """
    try:
        table = transformer.get_input_embeddings().weight
    except (AttributeError, NotImplementedError):
        return []
    users = [module for module in transformer.modules() if any(p is table for p in module.parameters(recurse=False))]
    return users if all(isinstance(user, nn.Embedding) for user in users) else []


class CompactVocabulary:
    """The embedding rows of the tokens that occur, in the place of the whole table; `expand` undoes it.

    Attributes:
        kept: token ids whose rows are present, sorted, (V,).
        size: rows of the whole table.
    """

    def __init__(self, embeddings: list[nn.Embedding], used: Sequence[np.ndarray], pad: int) -> None:
        """Cuts the table of `embeddings` down.

        Args:
            embeddings: the modules that share the model's table, as `tables_of` finds them; changed in place.
            used: the distinct token ids of the texts that will be encoded.
            pad: id of the padding token.
        """
        # Models of the RoBERTa family find positions by comparing ids with the padding id, so it
        # and the ids before it keep their places.
        first = np.arange(max(pad, *(embedding.padding_idx or 0 for embedding in embeddings)) + 1, dtype=np.int32)
        self.kept = np.unique(np.concatenate([first, *used])).astype(np.int64)
        self.size = embeddings[0].num_embeddings
        self._row_of = np.full(self.size, -1, np.int64)
        self._row_of[self.kept] = np.arange(len(self.kept))
        self._embeddings, self._parameter = embeddings, embeddings[0].weight
        self._whole = self._parameter.data
        self._put(nn.Parameter(self._gathered()))

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
        trained = self._embeddings[0].weight.data
        self._whole[torch.from_numpy(self.kept).to(self._whole.device)] = trained.to(self._whole.device)
        self._put(nn.Parameter(self._whole.to(trained.device)))

    def restore(self) -> None:
        """Puts the whole table in its place again as it was: the same parameter, for an optimiser may know it."""
        self._put(self._parameter)

    def _gathered(self) -> Tensor:
        """A copy of the rows that are kept, (V, D); the whole table leaves memory where it can be read again."""
        kept, pages = torch.from_numpy(self.kept).to(self._whole.device), MappedPages(self._whole)
        rows = self._whole.new_empty(len(kept), self._whole.shape[1])
        for start in range(0, len(kept), _GATHERED):
            part = slice(start, start + _GATHERED)
            rows[part] = self._whole[kept[part]]
            pages.release()
        return rows

    def _put(self, table: nn.Parameter) -> None:
        """Makes `table` the one that all the modules share."""
        for embedding in self._embeddings:
            embedding.weight, embedding.num_embeddings = table, len(table)


class Vocabulary:
    """The token embeddings of a transformer: whole, or cut down to the tokens of some texts.

    Attributes:
        size: rows of the whole table; 0 where there is no such table.
    """

    def __init__(self, transformer: nn.Module | None, pad: int) -> None:
        """The whole table of `transformer`; `pad` is the id of its padding token."""
        self._embeddings, self._pad = tables_of(transformer), pad
        self._small: CompactVocabulary | None = None
        self.size = self._embeddings[0].num_embeddings if self._embeddings else 0

    def __len__(self) -> int:
        """Rows that are in place now."""
        return len(self._small) if self._small else self.size

    @property
    def whole(self) -> bool:
        """Whether no row is missing."""
        return self._small is None

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Rows of the table in place for token ids, int64."""
        return self._small.rows_of(ids) if self._small else ids.astype(np.int64, copy=False)

    def cut(self, tables: Sequence[TokenTable], embed: Embed) -> bool:
        """Cuts the whole table down to the tokens of `tables`, unless that changes the embeddings of a few texts.

        Returns:
            Whether it is cut down now.
        """
        if not self._embeddings:
            return False
        used = [table.used() & ~APART for table in tables]
        sample = [table[at][:_SAMPLED] for table in tables if len(table) for at in (0, len(table) // 2, len(table) - 1)]
        before = embed(sample)
        self._small = CompactVocabulary(self._embeddings, used, self._pad)
        if sample and not np.abs(embed(sample) - before).max() <= _EQUAL:
            self.restore()
        return not self.whole

    def restore(self) -> None:
        """Puts the whole table in its place as it was before it was cut down."""
        if self._small:
            self._small.restore()
            self._small = None

    def expand(self) -> None:
        """Writes the trained rows back into the whole table and puts it in its place; nothing happens if it is."""
        if self._small:
            self._small.expand()
            self._small = None

    @contextlib.contextmanager
    def narrowed(self, tables: Sequence[TokenTable], embed: Embed) -> Iterator[None]:
        """A block in which only the rows of some tables' tokens are in memory; nothing is trained in it.

        The table is cut down where that saves memory: where it is mapped from a file, and the texts are so long that
        they would bring in much of it.
        """
        long = self.whole and sum(len(table.ids) for table in tables) >= _LONG
        if not long or not self._embeddings or not MappedPages(self._embeddings[0].weight):
            yield
            return
        with torch.inference_mode(False):
            self.cut(tables, embed)
        try:
            yield
        finally:
            self.restore()
