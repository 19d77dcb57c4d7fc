"""The encoder: any sentence-transformers model, fed with cached tokens in chunks without waste."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hr_search.base.choices import SIDES
from hr_search.base.devices import to_device, use_bf16
from hr_search.base.errors import InputError, one_line, suggestion
from hr_search.base.files import read_json, whole_folder, write_json
from hr_search.base.progress import bar, quiet
from hr_search.fast import packing
from hr_search.fast.compaction import CompactVocabulary
from hr_search.fast.dropout import pool_dropout
from hr_search.fast.tokens import TokenTable, batches_by_length, tokenise
from hr_search.models import embedded, requirements
from hr_search.models.condenser import Condenser

log = logging.getLogger(__name__)

_DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # the names sentence-transformers looks for, in its order


class Encoder(nn.Module):
    """A sentence-transformers model that embeds token tables: `encoder(rows) -> (N, D)`, L2-normalised.

    Attributes:
        model: the whole sentence-transformers model; its first module is the transformer.
        name: what it was loaded from.
        maxlength: tokens a text is cut to.
        bf16: whether matrix products run in bfloat16 (autocast; the weights stay float32).
        condenser: what is done to documents before they are tokenised; None = nothing.
    """

    def __init__(
        self,
        model: Any,
        name: str,
        maxlength: int = 0,
        precision: str = "auto",
        dropouts: dict[str, float] | None = None,
        condenser: Condenser | None = None,
    ) -> None:
        from sentence_transformers.sentence_transformer.modules import Normalize

        super().__init__()
        self.model = model
        self.name = name
        self._dropouts = dropouts or {}  # those of the model's own configuration, for `save`
        limit = min(model.max_seq_length or maxlength or _LENGTH, _places(self.transformer))
        self.maxlength = min(maxlength or limit, limit)
        if not isinstance(model[-1], Normalize):
            # Training and search go by cosine; whoever loads the saved folder gets the same vectors.
            model.append(Normalize())
        model.max_seq_length = self.maxlength  # so that a saved model cuts texts where training and tests did
        if maxlength > limit:
            log.warning("%s takes at most %d tokens; maxlength %d is lowered", name, limit, maxlength)
        self.bf16 = use_bf16(precision, self.device)
        self.packs = packing.packs(self.transformer)
        self.dropout = max(
            (module.p for module in self.transformer.modules() if isinstance(module, nn.Dropout)), default=0
        )
        pool_dropout(self.transformer)
        packing.cast_once(self.transformer)
        self.condenser = condenser
        self._vocabulary: CompactVocabulary | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def dimension(self) -> int:
        """D, the size of an embedding."""
        return int(self.model.get_embedding_dimension())

    @property
    def budget(self) -> int:
        """Padded tokens that are encoded at a time unless told otherwise."""
        # On a CPU the activations of a larger chunk fall out of the cache; a GPU wants to be filled.
        return 2048 if self.device.type == "cpu" else 65536

    @property
    def transformer(self) -> nn.Module:
        """The transformers model inside."""
        return self.model[0].auto_model

    def prompt(self, side: str) -> str:
        """The text put before every `side` ("query" or "document") text."""
        prompts = self.model.prompts or {}
        names = _DOCUMENT_PROMPTS if side == "document" else ("query",)
        return next((prompts[name] for name in names if prompts.get(name)), "")

    def tokens(self, texts: Sequence[str], side: str, cached: bool = True, length: int = 0) -> TokenTable:
        """The token table of `texts` with the prompt of their side; documents are condensed where there is a condenser.

        Args:
            texts: N texts.
            side: "query" or "document".
            cached: look in, and add to, the cache on disk.
            length: tokens a text is cut to, and condensed in proportion; 0 = `maxlength`, which it cannot exceed.

        Raises:
            InputError: the tokenizer knows tokens that the model has no embedding for.
        """
        length = min(length or self.maxlength, self.maxlength)
        if self.condenser and side == "document":
            condense = self.condenser.scaled(length / self.maxlength)
            texts = [condense(text) for text in texts]
        table = tokenise(self.model.tokenizer, texts, self.prompt(side), length, cached)
        embedding = self.transformer.get_input_embeddings()
        rows = self._vocabulary.size if self._vocabulary else embedding.num_embeddings
        if (highest := int(table.ids.max(initial=0))) >= rows:
            raise InputError(
                f"the tokenizer of {self.name} knows a token {highest} and the model has embeddings for {rows}; put "
                "the tokenizer that belongs to the model into its folder."
            )
        return table

    def forward(self, rows: Sequence[np.ndarray], budget: int = 0) -> torch.Tensor:
        """Embeddings of token rows, in their order.

        Args:
            rows: N integer arrays of token ids.
            budget: padded tokens encoded at a time; 0 = what suits the device.

        Returns:
            (N, D) float32, L2-normalised.
        """
        lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        groups = self._groups(lengths, budget)
        parts = [self._embed([rows[i] for i in group]) for group in groups]
        back = np.argsort(np.concatenate(groups), kind="stable")
        return torch.cat(parts)[to_device(back, parts[0].device)]

    @property
    def packed(self) -> bool:
        """Whether texts are encoded without padding where the model is now, in its present mode."""
        return self.packs and packing.works(self.transformer, self.bf16, self.training and self.dropout > 0)

    def _groups(self, lengths: np.ndarray, budget: int) -> list[np.ndarray]:
        split = packing.chunks if self.packed else batches_by_length
        return split(lengths, budget or self.budget)

    def _embed(self, rows: Sequence[np.ndarray]) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            features = self._packed(rows) if self.packed else self._padded(rows)
            for module in list(self.model)[1:] if self.packed else self.model:
                features = module(features)
        return nn.functional.normalize(features["sentence_embedding"].float(), dim=-1)

    def _packed(self, rows: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Token embeddings of the rows, computed without padding and padded for the pooling only."""
        packed = packing.pack([len(row) for row in rows])
        # The first text's opening token fills up: it is in the vocabulary, compacted or not.
        filling = np.full(packed.filling, rows[0][0])
        ids = self._rows_of(np.concatenate([*(rows[i] for i in packed.order), filling]))
        hidden = packing.run_packed(self.transformer, to_device(ids, self.device), packed)
        padded, mask = packing.unpack(hidden, packed)
        return {"token_embeddings": padded, "attention_mask": mask}

    def _padded(self, rows: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """The transformer's input for the rows, padded to the longest."""
        pad = self.model.tokenizer.pad_token_id or 0
        width = max(len(row) for row in rows)
        ids = np.full((len(rows), width), pad, np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = row
            mask[at, : len(row)] = 1
        features = {"input_ids": self._rows_of(ids), "attention_mask": mask}
        return {name: to_device(value, self.device) for name, value in features.items()}

    def _rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Rows of the embedding table for token ids, int64."""
        return self._vocabulary.rows_of(ids) if self._vocabulary else ids.astype(np.int64, copy=False)

    @torch.inference_mode()
    def embed(self, table: Sequence[np.ndarray], budget: int = 0, progress: bool = False) -> np.ndarray:
        """Embeddings of a token table without gradients, (N, D) float32, L2-normalised.

        Args:
            table: N rows of token ids.
            budget: padded tokens encoded at a time; 0 = what suits the device.
            progress: show a bar on a terminal.
        """
        training = self.training
        self.eval()
        out = np.empty((len(table), self.dimension), np.float32)
        lengths = table.lengths if isinstance(table, TokenTable) else np.array([len(row) for row in table], np.int64)
        groups = self._groups(lengths, budget)
        for group in bar(groups, "encoding", "batch") if progress else groups:
            out[group] = self._embed([table[i] for i in group]).cpu().numpy()
        self.train(training)
        return out

    def encode(self, texts: Sequence[str], side: str = "document", progress: bool = False) -> np.ndarray:
        """Embeddings of texts, (N, D) float32, L2-normalised.

        Args:
            texts: N texts.
            side: "query" or "document"; decides the prompt.
            progress: show a bar on a terminal.
        """
        if side not in SIDES:
            raise InputError(f'a text is a query or a document, not "{side}"; {suggestion(side, SIDES)}')
        return self.embed(self.tokens(list(texts), side, cached=False), progress=progress)

    def compact(self, tables: Sequence[TokenTable]) -> int:
        """Keeps only the embedding rows whose tokens occur in `tables`; returns how many. `expand` undoes it."""
        self.expand()
        embedding = self.transformer.get_input_embeddings()
        self._vocabulary = CompactVocabulary(embedding, tables, self.model.tokenizer.pad_token_id or 0)
        return len(self._vocabulary)

    def expand(self) -> None:
        """Writes the trained rows back into the whole embedding table; nothing happens if it is whole."""
        if self._vocabulary:
            self._vocabulary.expand()
            self._vocabulary = None

    def save(self, folder: Path | str, card: str = "") -> None:
        """Writes a folder that `SentenceTransformer(folder)` loads, whole or not at all.

        Args:
            folder: where it goes; an older model there is replaced.
            card: the text of the model card (README.md).
        """
        if self._vocabulary:
            raise RuntimeError("expand() the vocabulary before saving")
        self.transformer.config.update(self._dropouts)
        with whole_folder(folder) as target, quiet():
            self.model.save(str(target), create_model_card=False)
            (target / "README.md").write_text(card, encoding="utf-8")
            if self.condenser:
                write_json(target / _CONDENSER, self.condenser.to_dict())


def load_encoder(
    name: str = embedded.NAME,
    maxlength: int = 0,
    precision: str = "auto",
    dropout: float = 0.0,
    device: str | torch.device | None = None,
    prompts: dict[str, str] | None = None,
    condenser: Condenser | None = None,
) -> Encoder:
    """The encoder called `name`.

    Args:
        name: "embedded", a folder (of sentence-transformers or transformers) or a Hub name.
        maxlength: tokens a text is cut to; 0 = as many as the model was saved with.
        precision: "auto", "fp32" or "bf16".
        dropout: in training; negative = the model's own.
        device: such as "cpu" or "cuda"; None = the best one present.
        prompts: texts put before every "query" and "document"; an empty one leaves the model's own.
        condenser: shortens documents; None = the one saved with the model, if there is one.

    Raises:
        InputError: nothing can be loaded under that name.

    Example:
        >>> encoder = load_encoder("embedded", maxlength=32)
        >>> queries, documents = encoder.encode(["welder"], "query"), encoder.encode(["joins metal parts"])
        >>> queries.shape, bool((queries @ documents.T > 0.8).all())
        ((1, 384), True)
    """
    source = requirements.place_of(name)
    # Imported only now: a name that leads nowhere is refused in seconds.
    from sentence_transformers import SentenceTransformer
    from transformers import AutoConfig

    # e5 is nothing without its prompts, and the Hub's copy does not store them.
    own_prompts = embedded.PROMPTS if source == embedded.HUB_NAME else None
    try:
        with quiet():
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            requirements.require_encoder(config, source)
            own = {name: getattr(config, name) for name in _DROPOUTS if hasattr(config, name)}
            settings = {} if dropout < 0 else dict.fromkeys(own, dropout)
            model = SentenceTransformer(
                source,
                device=str(device) if device else None,
                prompts=own_prompts,
                trust_remote_code=False,
                # On a CPU the fused attention is twice as slow backwards; a GPU wants it.
                model_kwargs={"attn_implementation": "sdpa" if torch.cuda.is_available() else "eager"},
                config_kwargs=settings,
            )
            requirements.require_weights(model[0].auto_model, source)
            requirements.require_words(model.tokenizer, source)
            own = own if settings else {}
            model.prompts = {**(model.prompts or {}), **{side: text for side, text in (prompts or {}).items() if text}}
            saved = model.max_seq_length
            encoder = Encoder(model, name, maxlength, precision, own, condenser)
            if condenser is None and (kept := Path(source) / _CONDENSER).is_file():
                # Its characters belong to the length it was saved with.
                encoder.condenser = Condenser.from_dict(read_json(kept)).scaled(
                    encoder.maxlength / (saved or encoder.maxlength)
                )
            if not np.isfinite(encoder.encode(["a"], "query")).all():
                raise InputError(
                    f"the weights of the model {name} are damaged: they turn a text into NaN; copy it again."
                )
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the model {name} cannot be loaded ({one_line(error)}); check the folder or take embedded."
        ) from error
    return encoder


def _places(transformer: nn.Module) -> int:
    """Tokens that a table of positions has room for; those of the RoBERTa family begin behind the padding id."""
    positions = getattr(transformer.config, "max_position_embeddings", 0) or sys.maxsize
    padding = getattr(getattr(transformer, "embeddings", None), "padding_idx", None)
    return positions if padding is None else positions - padding - 1


_LENGTH = 128  # tokens, for a model that knows no limit
_CONDENSER = "condenser.json"  # beside the model, for documents that were condensed in training
_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")
