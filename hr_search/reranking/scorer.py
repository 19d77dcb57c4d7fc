"""Cross-encoders opened: one that is finished, or an untrained one on top of an encoder's transformer."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hr_search.base.errors import InputError, one_line
from hr_search.base.files import read_json
from hr_search.base.progress import quiet
from hr_search.models import folders, opening, requirements, trials
from hr_search.models.condenser import CONDENSER_FILE, Condenser
from hr_search.reranking.cross_encoder import Reranker, own_limit
from hr_search.reranking.pairs import joins

log = logging.getLogger(__name__)

_PAIRS = (("a", "b"), ("Welder, TIG & MIG", " two  spaces and a line\n– 1С:ERP 8.3 "), ("Сварщик", "вахта 60/30 " * 99))
_NEAR = 1e-4  # between logits with and without padding


def load_reranker(
    folder: str | Path, maxlength: int = 0, precision: str = "auto", device: str | torch.device | None = None
) -> Reranker:
    """The cross-encoder in `folder`, ready to score pairs.

    Args:
        folder: what `train --stage rerank` or `CrossEncoder.save` wrote, or a name on the Hub.
        maxlength: tokens of a pair; 0 = as many as the model was saved with.
        precision: "auto", "fp32" or "bf16".
        device: such as "cpu" or "cuda"; None = the best one present.

    Raises:
        InputError: no cross-encoder lies there, or one with several outputs.
    """
    name = str(folder)
    source = requirements.place_of(name)
    try:
        with quiet():
            config = _config(source, "")
            require_cross_encoder(config, source)
            model, tokenizer = _open(source, "", config, device)
        requirements.require_weights(model, source)
        reranker = Reranker(model, tokenizer, name, maxlength, precision)
        if (kept := Path(source) / CONDENSER_FILE).is_file():
            # Its characters belong to the length it was saved with.
            saved, _ = opening.limits_of(model.base_model, own_limit(tokenizer), reranker.maxlength)
            reranker.condenser = Condenser.from_dict(read_json(kept)).scaled(reranker.maxlength / saved)
        settle(reranker)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"the second stage {name} cannot be loaded ({one_line(error)}); copy its folder again.") from (
            error
        )
    return reranker.eval()


def new_reranker(
    name: str,
    maxlength: int = 0,
    precision: str = "auto",
    dropout: float = 0.0,
    device: str | torch.device | None = None,
    seed: int = 42,
    condenser: Condenser | None = None,
) -> Reranker:
    """An untrained cross-encoder: the transformer of the encoder called `name` under a head of one output.

    Args:
        name: "embedded", a folder or a Hub name; the head of a cross-encoder is kept.
        maxlength: tokens of a pair; 0 = as many as the model's folder says, or as it takes.
        precision: "auto", "fp32" or "bf16".
        dropout: in training; negative = the model's own.
        device: such as "cpu" or "cuda"; None = the best one present.
        seed: of the head's weights.
        condenser: shortens vacancies.

    Raises:
        InputError: nothing can be loaded under that name, or its tokenizer cannot join two texts.
    """
    source = requirements.place_of(name)
    try:
        with quiet():
            if (part := opening.transformer_folder(source)) is None:
                raise InputError(f"the model {name} has no transformer that could read two texts; take another one.")
            config = _config(source, part)
            requirements.require_encoder(config, source)
            own = {key: getattr(config, key) for key in opening.DROPOUTS if hasattr(config, key)}
            own = own if dropout >= 0 else {}
            config.update(dict.fromkeys(own, dropout) | {"num_labels": 1})
            torch.manual_seed(seed)
            model, tokenizer = _open(source, part, config, device)
        requirements.require_weights(model.base_model, str(Path(source) / part))
        _start_pooler(model)
        if not joins(tokenizer):
            raise InputError(f"the tokenizer of {name} puts no mark between two texts; take another model.")
        reranker = Reranker(model, tokenizer, name, maxlength, precision, own, condenser)
        settle(reranker)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"no second stage can be made of the model {name} ({one_line(error)}); take embedded or another encoder."
        ) from error
    return reranker


def require_cross_encoder(config: Any, source: str) -> None:
    """Checks that a folder holds a cross-encoder with one output.

    Args:
        config: its configuration, from transformers.
        source: the folder or name.

    Raises:
        InputError: saying what it holds instead.
    """
    kind = next(iter(getattr(config, "architectures", None) or []), "no architecture")
    listed = Path(source) / "modules.json"
    modules = read_json(listed) if listed.is_file() else []
    kept = Path(source) / "config_sentence_transformers.json"
    saved_as = read_json(kept).get("model_type", "") if kept.is_file() else ""
    if not kind.endswith("ForSequenceClassification") or saved_as == "SentenceTransformer" or len(modules) > 1:
        held = "an encoder" if saved_as == "SentenceTransformer" or len(modules) > 1 else kind
        raise InputError(
            f"{source} is no cross-encoder (it holds {held}); give a folder that train --stage rerank has written."
        )
    if (outputs := int(config.num_labels)) != 1:
        raise InputError(
            f"the cross-encoder {source} has {outputs} outputs and a second stage needs one score; take one with a "
            "single output."
        )


def settle(reranker: Reranker) -> None:
    """Lets a model score with padding where it gives other logits without."""
    if not reranker.packed:
        return
    rows = reranker.rows(*zip(*_PAIRS, strict=True))
    bf16, reranker.bf16 = reranker.bf16, False
    try:
        fast = reranker.infer(rows)
        reranker.packs = False
        if np.abs(fast - reranker.infer(rows)).max() <= _NEAR * max(1.0, float(np.abs(fast).max())):
            reranker.packs = True
        else:
            log.info("%s is scored with padding, which is slower: without, its logits are others", reranker.name)
    finally:
        reranker.bf16 = bf16


def _config(source: str, part: str) -> Any:
    from transformers import AutoConfig

    if Path(source).is_dir() and not (Path(source) / part / "config.json").is_file():
        raise InputError(f"{source} is no cross-encoder: it has no config.json; give the folder of one.")
    for path in folders.files_of(Path(source)):
        if path.name == "tokenizer.json":
            trials.require_tokenizer(path)
    config = AutoConfig.from_pretrained(source, subfolder=part, trust_remote_code=False)
    folders.require_sizes(config.to_dict(), source)
    return config


def _open(source: str, part: str, config: Any, device: str | torch.device | None) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(
        source,
        subfolder=part,
        config=config,
        trust_remote_code=False,
        dtype=torch.float32,
        attn_implementation="sdpa" if torch.cuda.is_available() else "eager",
    )
    tokenizer = AutoTokenizer.from_pretrained(source, subfolder=part, trust_remote_code=False)
    requirements.require_words(tokenizer, source)
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), tokenizer


def _start_pooler(model: Any) -> None:
    """Gives a pooler of zeros, which no gradient would ever leave by way of the head, weights as BERT starts with."""
    pooler = getattr(model.base_model, "pooler", None)
    dense = getattr(pooler, "dense", None)
    if isinstance(dense, nn.Linear) and not dense.weight.any():
        nn.init.normal_(dense.weight, std=model.config.initializer_range)
