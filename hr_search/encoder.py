"""The encoder: any sentence-transformers model, fed with cached tokens in chunks without waste."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hr_search.base.choices import SIDES
from hr_search.base.devices import to_device, use_bf16
from hr_search.base.errors import InputError, one_line, suggestion
from hr_search.base.files import read_json, whole_folder, write_json
from hr_search.base.pages import MappedPages
from hr_search.base.progress import bar, quiet
from hr_search.fast import packing
from hr_search.fast.compaction import CompactVocabulary, tables_of
from hr_search.fast.dropout import pool_dropout
from hr_search.fast.texts import embed_texts, text_table
from hr_search.fast.tokens import APART, TokenTable, batches_by_length, set_apart, tokenise
from hr_search.models import embedded, fidelity, layout, opening, requirements
from hr_search.models.condenser import CONDENSER_FILE, Condenser
from hr_search.models.prompts import side_prompts

log = logging.getLogger(__name__)


class Encoder(nn.Module):
    """A sentence-transformers model that embeds token tables: `encoder(rows) -> (N, D)`, L2-normalised.

    Attributes:
        model: the whole sentence-transformers model.
        name: what it was loaded from.
        maxlength: tokens a text is cut to.
        bf16: whether matrix products run in bfloat16 (autocast; the weights stay float32).
        condenser: what is done to documents before they are tokenised; None = nothing.
        packs: whether the transformer can be fed texts without padding.
        foreign: whether sentence-transformers tokenises and encodes; a row then holds a text (`fast.texts`).
        engine: what embeds N rows of token ids, (N, D) float32, in place of torch (`export.int8`); None = torch does.
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
        self.foreign = self.transformer is None
        limit = opening.limit(model, maxlength)
        self.maxlength = min(maxlength or limit, limit)
        if not isinstance(model[-1], Normalize):
            # Training and search use cosines; the saved folder then gives the same vectors.
            model.append(Normalize())
        try:
            model.max_seq_length = self.maxlength  # so that a saved model cuts texts where training and tests did
        except AttributeError:  # static embeddings: no text is too long for them
            self.maxlength = opening.ENDLESS
        if maxlength > limit:
            log.warning("%s takes at most %d tokens; maxlength %d is lowered", name, limit, maxlength)
        self.bf16 = use_bf16(precision, self.device)
        body = self.transformer or model
        self.packs = not self.foreign and packing.packs(body)
        self.dropout = max((module.p for module in body.modules() if isinstance(module, nn.Dropout)), default=0)
        pool_dropout(body)
        packing.cast_once(body)
        # INSTRUCTOR and its kin read the prompt and leave its tokens out of the mean.
        self._excludes = any(getattr(module, "include_prompt", True) is False for module in model)
        self.condenser = condenser
        self.engine: Callable[[Sequence[np.ndarray]], np.ndarray] | None = None
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
        """Padded tokens encoded at a time by default."""
        if self.engine:
            return 512  # the runtime quantises its activations by the largest of a chunk, and fills it with padding
        # On a CPU the activations of a larger chunk fall out of the cache; a GPU wants to be filled.
        return 2048 if self.device.type == "cpu" else 65536

    @property
    def precision(self) -> str:
        """What embeddings are computed in: "fp32", "bf16" or "int8"."""
        return "int8" if self.engine else "bf16" if self.bf16 else "fp32"

    @property
    def transformer(self) -> nn.Module | None:
        """The transformers model inside; None where the first module is another."""
        return getattr(self.model[0], "auto_model", None)

    def prompt(self, side: str) -> str:
        """The text put before every `side` ("query" or "document") text."""
        return (self.model.prompts or {}).get(side) or ""

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
        length = min(length or self.maxlength, self.maxlength) if self.maxlength < opening.ENDLESS else self.maxlength
        if self.condenser and side == "document":
            condense = self.condenser.scaled(length / self.maxlength)
            texts = [condense(text) for text in texts]
        if self.foreign:
            return text_table(texts, side, length if length < self.maxlength else 0)
        table = tokenise(self.model.tokenizer, texts, self.prompt(side), length, cached)
        if self.vocabulary and (highest := int(table.ids.max(initial=0))) >= self.vocabulary:
            raise InputError(
                f"the tokenizer of {self.name} knows a token {highest} and the model has embeddings for "
                f"{self.vocabulary}; put the tokenizer that belongs to the model into its folder."
            )
        if self._excludes and (prompt := self.prompt(side)):
            return set_apart(table, self.model.preprocess(["a"], prompt=prompt).get("prompt_length") or 0)
        return table

    @property
    def vocabulary(self) -> int:
        """Rows of the whole table of token embeddings; 0 where there is no such table."""
        if self._vocabulary:
            return self._vocabulary.size
        tables = tables_of(self.transformer)
        return tables[0].num_embeddings if tables else 0

    def token_ids(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The rows of a token table without the marks of tokens that the pooling leaves out."""
        return [row & ~APART for row in rows] if self._excludes else list(rows)

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
        drops = self.training and self.dropout > 0
        return self.packs and not (self.foreign or self.engine) and packing.works(self.transformer, self.bf16, drops)

    def _groups(self, lengths: np.ndarray, budget: int) -> list[np.ndarray]:
        split = packing.chunks if self.packed else batches_by_length
        return split(lengths, budget or self.budget)

    def _embed(self, rows: Sequence[np.ndarray]) -> torch.Tensor:
        # Without gradients each weight is used once, and copies of all that are kept to the end take 43 MB for nothing.
        kept = torch.is_grad_enabled()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=kept):
            if self.engine:
                embeddings = torch.from_numpy(self.engine(rows))
            elif self.foreign:
                embeddings = embed_texts(self.model, rows, self.prompt)
            else:
                ids = self.token_ids(rows)
                features = self._packed(ids) if self.packed else self.model[0](self._padded(ids))
                if self._excludes:
                    features["attention_mask"] = self._pooled(rows, features["attention_mask"])
                for module in list(self.model)[1:]:
                    features = module(features)
                embeddings = features["sentence_embedding"]
        kept = embeddings[:, : self.model.truncate_dim] if self.model.truncate_dim else embeddings
        return nn.functional.normalize(kept.float(), dim=-1)

    @staticmethod
    def _pooled(rows: Sequence[np.ndarray], mask: torch.Tensor) -> torch.Tensor:
        """The mask (N, longest) without the tokens that are marked as apart, which come first in each row."""
        counts = np.array([np.count_nonzero(row & APART) for row in rows], np.int64)
        places = torch.arange(mask.shape[1], device=mask.device)
        return mask * (places >= to_device(counts, mask.device)[:, None])

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
        with self.narrowed([table] if isinstance(table, TokenTable) else []):
            for group in bar(groups, "encoding", "batch") if progress else groups:
                out[group] = self._embed([table[i] for i in group]).cpu().numpy()
        self.train(training)
        return out

    @contextlib.contextmanager
    def narrowed(self, tables: Sequence[TokenTable]) -> Iterator[None]:
        """A block in which only the embedding rows of some tables' tokens are in memory.

        The vocabulary is cut down where that saves memory: where it is mapped from a file, and the tables are so long
        that they would bring in much of it. Unlike after `compact`, nothing is trained in the block.
        """
        long = sum(len(table.ids) for table in tables) >= _LONG
        embeddings = self._tables() if long and not self._vocabulary else []
        if not embeddings or not MappedPages(embeddings[0].weight):
            yield
            return
        with torch.inference_mode(False):
            self._cut(embeddings, tables)
        try:
            yield
        finally:
            self._undo()

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
        """Keeps only the embedding rows whose tokens occur in `tables`; returns how many. `expand` undoes it.

        The whole table stays where embeddings would change with it.
        """
        self.expand()
        embeddings = self._tables()
        if not embeddings:
            return self.vocabulary
        if not self._cut(embeddings, tables):
            log.warning("the vocabulary of %s stays whole: cut down, it changes the embeddings", self.name)
        return len(self._vocabulary or ()) or self.vocabulary

    def _tables(self) -> list[nn.Embedding]:
        """The modules whose common table of token embeddings can be cut down; none where there is no such table."""
        return [] if self.foreign or self.engine else tables_of(self.transformer)

    def _cut(self, embeddings: list[nn.Embedding], tables: Sequence[TokenTable]) -> bool:
        """Cuts the vocabulary down to the tokens of `tables`, unless that changes the embeddings of a few texts."""
        used = [table.used() & ~APART for table in tables]
        sample = [table[at][:_SAMPLED] for table in tables if len(table) for at in (0, len(table) // 2, len(table) - 1)]
        before = self.embed(sample)
        self._vocabulary = CompactVocabulary(embeddings, used, self.model.tokenizer.pad_token_id or 0)
        if sample and not np.abs(self.embed(sample) - before).max() <= _EQUAL:
            self._undo()
        return self._vocabulary is not None

    def _undo(self) -> None:
        """Puts the whole vocabulary in its place as it was before it was cut down."""
        if self._vocabulary:
            self._vocabulary.restore()
            self._vocabulary = None

    def expand(self) -> None:
        """Writes the trained rows back into the whole embedding table; nothing happens if it is whole."""
        if self._vocabulary:
            self._vocabulary.expand()
            self._vocabulary = None

    def save(self, folder: Path | str, card: str = "") -> None:
        """Writes a folder that `SentenceTransformer(folder)` loads; it is never half-written.

        Args:
            folder: where it goes; an older model there is replaced.
            card: the text of the model card (README.md).
        """
        if self._vocabulary:
            raise RuntimeError("expand() the vocabulary before saving")
        if self._dropouts:
            self.transformer.config.update(self._dropouts)
        with whole_folder(folder) as target, quiet():
            self.model.save(str(target), create_model_card=False)
            layout.write_older(target, self.maxlength)
            (target / "README.md").write_text(card, encoding="utf-8")
            if self.condenser:
                write_json(target / CONDENSER_FILE, self.condenser.to_dict())


def load_encoder(
    name: str = embedded.NAME,
    maxlength: int = 0,
    precision: str = "auto",
    dropout: float = 0.0,
    device: str | torch.device | None = None,
    prompts: dict[str, str] | None = None,
    condenser: Condenser | None = None,
    proven: tuple[bool, bool] | None = None,
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
        proven: `packs` and `foreign` of the same files, checked before; they are then not checked again.

    Raises:
        InputError: nothing can be loaded under that name.

    Example:
        >>> encoder = load_encoder("embedded", maxlength=32)
        >>> queries, documents = encoder.encode(["welder"], "query"), encoder.encode(["joins metal parts"])
        >>> queries.shape, bool((queries @ documents.T > 0.8).all())
        ((1, 384), True)
    """
    if precision == "int8":
        raise InputError(
            "int8 is a precision of the verbs evaluate, index, search and tune, which train nothing; take auto, fp32 "
            "or bf16 here."
        )
    source = requirements.place_of(name)
    try:
        with quiet():
            model, own = opening.open_model(source, str(device) if device else None, dropout, bool(proven))
            model.prompts = side_prompts(model.prompts or {}, prompts or {}, name)
            saved = opening.own_limit(model)
            encoder = Encoder(model, name, maxlength, precision, own)
            fidelity.settle(encoder, proven)
            encoder.condenser = condenser
            if condenser is None and (kept := Path(source) / CONDENSER_FILE).is_file():
                share = encoder.maxlength / (saved or encoder.maxlength)  # its characters belong to the saved length
                encoder.condenser = Condenser.from_dict(read_json(kept)).scaled(share)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the model {name} cannot be loaded ({one_line(error)}); check the folder or take embedded."
        ) from error
    return encoder


_SAMPLED = 32  # tokens of the texts that show whether a smaller vocabulary changes embeddings, and
_EQUAL = 1e-5  # by how much it may
_LONG = 20_000  # tokens for which the vocabulary is cut down
