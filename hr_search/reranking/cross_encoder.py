"""The second stage: a cross-encoder reads a title and a vacancy together and says how well they match."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hr_search.base.devices import to_device, use_bf16
from hr_search.base.errors import InputError
from hr_search.base.files import whole_folder, write_json
from hr_search.base.progress import bar, quiet
from hr_search.fast import packing
from hr_search.fast.compaction import CompactVocabulary, tables_of
from hr_search.fast.dropout import pool_dropout
from hr_search.fast.tokens import batches_by_length
from hr_search.models import opening
from hr_search.models.condenser import CONDENSER_FILE, Condenser
from hr_search.reranking.pairs import SECOND, pair_rows

log = logging.getLogger(__name__)

_SLICE = 4096  # pairs tokenised at a time


class Reranker(nn.Module):
    """A cross-encoder with one output: `reranker.score(titles, vacancies) -> (P,)`, a logit, higher = better.

    Attributes:
        model: the transformers model for sequence classification.
        tokenizer: its tokenizer.
        name: what it was loaded from.
        maxlength: tokens of a pair, special tokens included.
        bf16: whether matrix products run in bfloat16 (autocast; weights and the last layer stay float32).
        condenser: what is done to vacancies before they are tokenised; None = nothing.
        packs: whether pairs are scored without padding.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        maxlength: int = 0,
        precision: str = "auto",
        dropouts: dict[str, float] | None = None,
        condenser: Condenser | None = None,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.name, self.condenser = model, tokenizer, name, condenser
        self._dropouts = dropouts or {}  # those of the model's own configuration, for `save`
        own, most = opening.limits_of(model.base_model, own_limit(tokenizer), maxlength)
        if maxlength > most:
            log.warning("%s takes at most %d tokens; maxlength %d is lowered", name, most, maxlength)
        self.maxlength = min(maxlength or own, most)
        self.bf16 = use_bf16(precision, self.device)
        self.packs = packing.packs(model.base_model)
        self.dropout = max((module.p for module in model.modules() if isinstance(module, nn.Dropout)), default=0)
        self._typed = (getattr(model.config, "type_vocab_size", 0) or 0) > 1
        self._typed = self._typed and "token_type_ids" in tokenizer.model_input_names
        pool_dropout(model)
        packing.cast_once(model)
        for module in model.modules():
            if type(module) is nn.Linear and module.out_features == 1:
                module.__class__ = _Exact
        self._vocabulary: CompactVocabulary | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def budget(self) -> int:
        """Tokens scored at a time by default."""
        return 2048 if self.device.type == "cpu" else 16384  # as for an encoder; pairs keep more for the gradient

    @property
    def packed(self) -> bool:
        """Whether pairs are scored without padding where the model is now, in its present mode."""
        drops = self.training and self.dropout > 0
        return self.packs and packing.works(self.model.base_model, self.bf16, drops)

    def rows(self, titles: Sequence[str], vacancies: Sequence[str], length: int = 0) -> list[np.ndarray]:
        """The tokens of P pairs, vacancies condensed where there is a condenser.

        Args:
            titles: the query side of each pair, (P,).
            vacancies: the document side, (P,).
            length: tokens of a pair, condensed in proportion; 0 = `maxlength`, which it cannot exceed.
        """
        length = self.length_of(length)
        return pair_rows(self.tokenizer, titles, self.shortened(vacancies, length), length)

    def length_of(self, wanted: int) -> int:
        """The tokens of a pair where so many are wanted: never more than `maxlength`, which 0 stands for."""
        return min(wanted or self.maxlength, self.maxlength)

    def shortened(self, vacancies: Sequence[str], length: int) -> list[str]:
        """The vacancies as they are read in pairs of `length` tokens: condensed where there is a condenser."""
        if not self.condenser:
            return list(vacancies)
        condense = self.condenser.scaled(length / self.maxlength)
        short = {text: condense(text) for text in dict.fromkeys(vacancies)}
        return [short[text] for text in vacancies]

    def forward(self, rows: Sequence[np.ndarray], budget: int = 0) -> torch.Tensor:
        """The logits of token rows, (P,) float32, in their order.

        Args:
            rows: P pairs, as `rows` gives them.
            budget: tokens scored at a time; 0 = what suits the device.
        """
        groups = self._groups([len(row) for row in rows], budget)
        parts = [self._logits([rows[i] for i in group]) for group in groups]
        back = np.argsort(np.concatenate(groups), kind="stable")
        return torch.cat(parts)[to_device(back, parts[0].device)]

    @torch.inference_mode()
    def infer(self, rows: Sequence[np.ndarray], progress: bool = False) -> np.ndarray:
        """The logits of token rows without gradients, (P,) float32."""
        training = self.training
        self.eval()
        out = np.empty(len(rows), np.float32)
        groups = self._groups([len(row) for row in rows], 0)
        for group in bar(groups, "reranking", "batch") if progress else groups:
            out[group] = self._logits([rows[i] for i in group]).cpu().numpy()
        self.train(training)
        return out

    def score(self, queries: Sequence[str], documents: Sequence[str], progress: bool = False) -> np.ndarray:
        """How well the texts of each pair match: logits (P,) float32, higher = better.

        Args:
            queries: the titles, whatever the direction of the search, (P,).
            documents: the vacancies, (P,).
            progress: show a bar on a terminal.

        Raises:
            InputError: not as many titles as vacancies, or logits that are NaN.
        """
        if len(queries) != len(documents):
            raise InputError(f"{len(queries)} titles and {len(documents)} vacancies do not pair up.")
        out = np.empty(len(queries), np.float32)
        slices = range(0, len(queries), _SLICE)
        for at in bar(slices, "reranking", "slice") if progress and len(slices) > 1 else slices:
            rows = self.rows(queries[at : at + _SLICE], documents[at : at + _SLICE])
            out[at : at + _SLICE] = self.infer(rows, progress and len(slices) == 1)
        if not np.isfinite(out).all():
            raise InputError(f"the second stage {self.name} gives scores that are NaN or infinite; train it again.")
        return out

    def compact(self, used: Sequence[np.ndarray]) -> int:
        """Keeps only the embedding rows of the token ids in `used`; returns how many. `expand` undoes it."""
        self.expand()
        if not (embeddings := tables_of(self.model.base_model)):
            return 0
        self._vocabulary = CompactVocabulary(embeddings, used, self.tokenizer.pad_token_id or 0)
        return len(self._vocabulary)

    def expand(self) -> None:
        """Writes the trained rows back into the whole embedding table; nothing happens if it is whole."""
        if self._vocabulary:
            self._vocabulary.expand()
            self._vocabulary = None

    def save(self, folder: Path | str, card: str = "") -> None:
        """Writes a folder that `CrossEncoder(folder)` loads; it is never half-written.

        Args:
            folder: where it goes; an older model there is replaced.
            card: the text of the model card (README.md).
        """
        if self._vocabulary:
            raise RuntimeError("expand() the vocabulary before saving")
        if self._dropouts:
            self.model.config.update(self._dropouts)
        self.tokenizer.model_max_length = self.maxlength  # where CrossEncoder looks for it
        with whole_folder(folder) as target, quiet():
            self.model.save_pretrained(target)
            self.tokenizer.save_pretrained(target)
            (target / "README.md").write_text(card, encoding="utf-8")
            if self.condenser:
                write_json(target / CONDENSER_FILE, self.condenser.to_dict())

    # -- forward ---------------------------------------------------------------------------------

    def _groups(self, lengths: Sequence[int], budget: int) -> list[np.ndarray]:
        split = packing.chunks if self.packed else batches_by_length
        return split(np.asarray(lengths, np.int64), budget or self.budget)

    def _logits(self, rows: Sequence[np.ndarray]) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self._packed(rows) if self.packed else self.model(**self._padded(rows)).logits
        return logits[:, 0].float()

    def _packed(self, rows: Sequence[np.ndarray]) -> torch.Tensor:
        """Logits (P, 1) computed without padding."""
        packed = packing.pack([len(row) for row in rows])
        flat = packing.in_a_row(rows, packed)
        ids = to_device(self._ids(flat), self.device)
        types = to_device((flat >= SECOND).astype(np.int64), self.device) if self._typed else None
        body = self.model.base_model
        hidden = packing.run_packed(body, ids, packed, types)
        starts = np.flatnonzero(packed.positions == 0)[np.argsort(packed.order, kind="stable")]
        first = hidden[to_device(starts, hidden.device)][:, None]  # (P, 1, D)
        if self.model.config.model_type == "bert":
            return self.model.classifier(self.model.dropout(body.pooler(first)))
        return self.model.classifier(first)  # RoBERTa's head takes the first token by itself

    def _padded(self, rows: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """The model's input for the rows, padded to the longest."""
        flat, mask = packing.padded(rows, self.tokenizer.pad_token_id or 0)
        features = {"input_ids": self._ids(flat), "attention_mask": mask}
        if self._typed:
            features["token_type_ids"] = (flat >= SECOND).astype(np.int64)
        return {name: to_device(value, self.device) for name, value in features.items()}

    def _ids(self, marked: np.ndarray) -> np.ndarray:
        """Rows of the embedding table for marked token ids, int64."""
        ids = marked & ~SECOND
        return self._vocabulary.rows_of(ids) if self._vocabulary else ids.astype(np.int64)


class _Exact(nn.Linear):
    """The last layer in float32: bfloat16 has 8 bits, and many pairs would get the same logit."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` times the weights, outside of autocast."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def own_limit(tokenizer: Any) -> int:
    """Tokens that a model was saved to cut its texts to; 0 where its folder does not say."""
    length = tokenizer.model_max_length
    return int(length) if length and length < opening.ENDLESS else 0
