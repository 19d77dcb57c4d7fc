"""The encoder: any sentence-transformers model, fed with cached tokens in chunks without waste."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hr_search.base.choices import SIDES
from hr_search.base.devices import to_device, use_bf16
from hr_search.base.errors import InputError, one_line, suggestion
from hr_search.base.files import read_json, whole_folder, write_json
from hr_search.base.mapped import ChangedTexts, StoredTexts
from hr_search.base.processes import ALONE, Processes
from hr_search.base.progress import bar, quiet
from hr_search.fast import packing
from hr_search.fast.compaction import Vocabulary
from hr_search.fast.dropout import pool_dropout
from hr_search.fast.texts import embed_texts, text_table
from hr_search.fast.tokens import APART, TokenTable, batches_by_length, set_apart, tokenise, without_apart
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
        words: its table of token embeddings, whole or cut down.
        engine: the layers in float32 and in int8 where it embeds with the latter (`export.int8`); None = it is exact.
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
        own, most = opening.limits(model, maxlength)
        self.maxlength = min(maxlength or own, most)
        if not isinstance(model[-1], Normalize):
            # Training and search use cosines; the saved folder then gives the same vectors.
            model.append(Normalize())
        try:
            model.max_seq_length = self.maxlength  # so that a saved model cuts texts where training and tests did
        except AttributeError:  # static embeddings: no text is too long for them
            self.maxlength = opening.ENDLESS
        if maxlength > most:
            log.warning("%s takes at most %d tokens; maxlength %d is lowered", name, most, maxlength)
        self.bf16 = use_bf16(precision, self.device)
        body = self.transformer or model
        self.packs = not self.foreign and packing.packs(body)
        self.dropout = max((module.p for module in body.modules() if isinstance(module, nn.Dropout)), default=0)
        pool_dropout(body)
        packing.cast_once(body)
        # INSTRUCTOR and its kin read the prompt and leave its tokens out of the mean.
        self._excludes = any(getattr(module, "include_prompt", True) is False for module in model)
        self.condenser = condenser
        self.engine: object | None = None
        self.words = Vocabulary(self.transformer, getattr(model.tokenizer, "pad_token_id", None) or 0)

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
            texts = ChangedTexts(texts, condense) if isinstance(texts, StoredTexts) else [condense(t) for t in texts]
        if self.foreign:
            return text_table(texts, side, length if length < self.maxlength else 0)
        table = tokenise(self.model.tokenizer, texts, self.prompt(side), length, cached)
        if self.vocabulary and (highest := table.highest()) >= self.vocabulary:
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
        return self.words.size

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
        groups = self.chunks(lengths, budget)
        parts = [self._embed([rows[i] for i in group]) for group in groups]
        back = np.argsort(np.concatenate(groups), kind="stable")
        return torch.cat(parts)[to_device(back, parts[0].device)]

    @property
    def packed(self) -> bool:
        """Whether texts are encoded without padding where the model is now, in its present mode."""
        drops = self.training and self.dropout > 0
        return self.packs and not self.foreign and packing.works(self.transformer, self.bf16, drops)

    def chunks(self, lengths: np.ndarray, budget: int = 0) -> list[np.ndarray]:
        """The texts that are encoded together: indices of N texts with these many tokens, longest texts first."""
        split = packing.chunks if self.packed else batches_by_length
        return split(lengths, budget or self.budget)

    def _embed(self, rows: Sequence[np.ndarray]) -> torch.Tensor:
        # Without gradients each weight is used once, and copies of all that are kept to the end take 43 MB for nothing.
        kept = torch.is_grad_enabled()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=kept):
            if self.foreign:
                embeddings = embed_texts(self.model, rows, self.prompt)
            else:
                ids = self.token_ids(rows)
                features = self._packed(ids) if self.packed else self.model[0](self._padded(ids))
                if self._excludes:
                    mask = features["attention_mask"]
                    features["attention_mask"] = mask * to_device(without_apart(rows, mask.shape[1]), mask.device)
                for module in list(self.model)[1:]:
                    features = module(features)
                embeddings = features["sentence_embedding"]
        kept = embeddings[:, : self.model.truncate_dim] if self.model.truncate_dim else embeddings
        return nn.functional.normalize(kept.float(), dim=-1)

    def _packed(self, rows: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Token embeddings of the rows, computed without padding and padded for the pooling only."""
        packed = packing.pack([len(row) for row in rows])
        ids = to_device(self.words.rows_of(packing.in_a_row(rows, packed)), self.device)
        padded, mask = packing.unpack(packing.run_packed(self.transformer, ids, packed), packed)
        return {"token_embeddings": padded, "attention_mask": mask}

    def _padded(self, rows: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """The transformer's input for the rows, padded to the longest."""
        ids, mask = packing.padded(rows, self.model.tokenizer.pad_token_id or 0)
        features = {"input_ids": self.words.rows_of(ids), "attention_mask": mask}
        return {name: to_device(value, self.device) for name, value in features.items()}

    @torch.inference_mode()
    def embed(
        self, table: Sequence[np.ndarray], budget: int = 0, progress: bool = False, processes: Processes = ALONE
    ) -> np.ndarray:
        """Embeddings of a token table without gradients, (N, D) float32, L2-normalised.

        Args:
            table: N rows of token ids.
            budget: padded tokens encoded at a time; 0 = what suits the device.
            progress: show a bar on a terminal.
            processes: that share the work; they cut it as one does, and so all get what one gets, to the bit.
        """
        training = self.training
        self.eval()
        out = np.zeros((len(table), self.dimension), np.float32)
        lengths = table.lengths if isinstance(table, TokenTable) else np.array([len(row) for row in table], np.int64)
        with processes.together(), self.narrowed([table] if isinstance(table, TokenTable) else []):
            groups = processes.share(self.chunks(lengths, budget))
            for group in bar(groups, "encoding", "batch") if progress else groups:
                out[group] = self._embed([table[i] for i in group]).cpu().numpy()
        self.train(training)
        return processes.joined(out)

    def narrowed(self, tables: Sequence[TokenTable]) -> AbstractContextManager:
        """A block in which only the embedding rows of some tables' tokens are in memory, where that saves much.

        Unlike after `compact`, nothing is trained in the block.
        """
        return self.words.narrowed(tables if self._reads_words else [], self.embed)

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
        if self._reads_words and self.vocabulary and not self.words.cut(tables, self.embed):
            log.warning("the vocabulary of %s stays whole: cut down, it changes the embeddings", self.name)
        return len(self.words)

    @property
    def _reads_words(self) -> bool:
        """Whether token ids are looked up here, so that a table that is cut down is possible."""
        return not self.foreign

    def expand(self) -> None:
        """Writes the trained rows back into the whole embedding table; nothing happens if it is whole."""
        self.words.expand()

    def save(self, folder: Path | str, card: str = "") -> None:
        """Writes a folder that `SentenceTransformer(folder)` loads; it is never half-written.

        Args:
            folder: where it goes; an older model there is replaced.
            card: the text of the model card (README.md).
        """
        if not self.words.whole:
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
            "int8 is a precision of the verbs evaluate, index, mine, search and tune, which train nothing; take auto, "
            "fp32 or bf16 here."
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
