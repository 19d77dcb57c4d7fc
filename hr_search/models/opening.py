"""A model's folder or Hub name opened as a SentenceTransformer, in float32 and with the dropout that is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from hr_search.base.files import read_json
from hr_search.models import embedded, folders, requirements, trials

# What the configurations of transformers call a share of dropped values; an encoder has no classifier.
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "dropout_rate",
             "activation_dropout", "embedding_dropout", "mlp_dropout", "attn_pdrop", "embd_pdrop",
             "resid_pdrop")  # fmt: skip


def open_model(source: str, device: str | None, dropout: float, tried: bool = False) -> tuple[Any, dict[str, float]]:
    """The SentenceTransformer at `source`, and the dropouts that its own configuration has where others were set.

    Args:
        source: a folder or Hub name, as `requirements.place_of` returns it.
        device: such as "cpu"; None = the best one present.
        dropout: in training; negative = the model's own.
        tried: whether these files were opened before, so that their tokenizer is known to end.

    Raises:
        InputError: it is not an encoder, or its files do not belong together.
    """
    from sentence_transformers import SentenceTransformer
    from transformers import AutoConfig

    part = transformer_folder(source)
    for path in folders.files_of(Path(source)):
        if path.name == "tokenizer.json" and not tried:
            trials.require_tokenizer(path)
    own: dict[str, float] = {}
    if part is not None:
        config = AutoConfig.from_pretrained(source, subfolder=part, trust_remote_code=False)
        folders.require_sizes(config.to_dict(), source)
        requirements.require_encoder(config, source)
        own = {name: getattr(config, name) for name in DROPOUTS if hasattr(config, name)}
    settings = {} if dropout < 0 else dict.fromkeys(own, dropout)
    model = SentenceTransformer(
        source,
        device=device,
        # e5 is nothing without its prompts, and the Hub's copy does not store them.
        prompts=embedded.PROMPTS if source == embedded.HUB_NAME else None,
        trust_remote_code=False,
        # On a CPU the fused attention is twice as slow backwards; a GPU wants it.
        model_kwargs={"attn_implementation": "sdpa" if torch.cuda.is_available() else "eager"},
        config_kwargs=settings,
    )
    if part is not None and hasattr(model[0], "auto_model"):
        requirements.require_weights(model[0].auto_model, str(Path(source) / part))
    elif dropout >= 0:
        _set_dropout(model, dropout)
    requirements.require_words(model.tokenizer, source)
    return model.float(), own if settings else {}


def transformer_folder(source: str) -> str | None:
    """Where in a model's folder its transformer lies ("" = at the top); None where its first module is none.

    Until version 2 of sentence-transformers it lay in `0_Transformer`.
    """
    from sentence_transformers.util import load_file_path

    if (listed := load_file_path(source, "modules.json")) is None:
        return ""
    first = read_json(listed)[0]
    return str(first["path"]) if str(first["type"]).endswith(".Transformer") else None


ENDLESS = 2**31 - 1  # tokens; a model that cuts no text
_LENGTH = 128  # tokens, for a model that knows no limit


def own_limit(model: Any) -> int:
    """Tokens that a model cuts texts to; 0 where it knows no limit, which some tokenizers write as 10 to the 30th."""
    length = model.max_seq_length
    return int(length) if length and length < ENDLESS else 0


def limits(model: Any, maxlength: int) -> tuple[int, int]:
    """The tokens of a text that a model reads unless told otherwise, and the most that it can read.

    A folder says where the model was cut so far, often in training; the table of positions says how far it can go. One
    that has neither reads `maxlength` tokens, or 128.
    """
    return limits_of(getattr(model[0], "auto_model", None), own_limit(model), maxlength)


def limits_of(transformer: nn.Module | None, own: int, maxlength: int) -> tuple[int, int]:
    """As `limits`, of a transformer whose folder says `own`, 0 where it knows no limit."""
    places = positions_of(transformer)
    most = places if places < ENDLESS else own or maxlength or _LENGTH
    return min(own or most, most), most


def positions_of(transformer: nn.Module | None) -> int:
    """Tokens that a table of positions has room for; those of the RoBERTa family begin behind the padding id."""
    positions = getattr(getattr(transformer, "config", None), "max_position_embeddings", 0) or ENDLESS
    padding = getattr(getattr(transformer, "embeddings", None), "padding_idx", None)
    return positions if padding is None or positions == ENDLESS else positions - padding - 1


def _set_dropout(model: nn.Module, share: float) -> None:
    """Sets the dropout of modules whose configurations are not ours to see."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
