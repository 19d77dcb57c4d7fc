"""The layout of a saved model: written as sentence-transformers 5 names things, which version 6 reads too.

Version 6 moved its classes and renamed settings of theirs, so a folder that it writes fails in version 5 with
an unknown module. What the folder holds is the same in both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hr_search.base.files import read_json, write_json

_OLDER = "sentence_transformers.models."
_MODES = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens",
    "lasttoken": "lasttoken",
}
_TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
_NORMALIZE = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
_DENSE = {"in_features", "out_features", "bias", "activation_function"}


def write_older(folder: Path, maxlength: int) -> bool:
    """Rewrites a model's folder for sentence-transformers 5; False, and nothing is written, where that cannot be.

    Args:
        folder: what version 6 has saved.
        maxlength: tokens a text is cut to, which version 6 keeps with the tokenizer only.
    """
    if read_json(folder / "config_sentence_transformers.json").get("truncate_dim"):
        return False  # version 5 would give all dimensions
    modules = read_json(folder / "modules.json")
    changed: dict[Path, Any] = {folder / "modules.json": modules}
    for module in modules:
        name = module["type"].rsplit(".", 1)[-1]
        place = folder / module["path"] / ("sentence_bert_config.json" if name == "Transformer" else "config.json")
        config = read_json(place) if place.is_file() else {}
        if (older := _older(name, config, maxlength)) is None or module.get("kwargs"):
            return False
        changed[place] = older
        module["type"] = f"{_OLDER}{name}"
    words = folder / "tokenizer_config.json"
    if words.is_file() and (tokenizer := read_json(words)).get("tokenizer_class") == "TokenizersBackend":
        # One class under its older name, which by default gave token types to models that take none.
        changed[words] = {
            "model_input_names": ["input_ids", "attention_mask"],
            **tokenizer,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
    for place, value in changed.items():
        if value or place.is_file():
            write_json(place, value)
    return True


def _older(name: str, config: dict[str, Any], maxlength: int) -> dict[str, Any] | None:
    """The settings of a module as version 5 writes them; None where it has no such module or setting."""
    if name == "Transformer":
        settings = {"max_seq_length": maxlength, "do_lower_case": config.get("do_lower_case", False)}
        rest = {key: value for key, value in config.items() if key not in settings}
        return settings if {**_TRANSFORMER, **rest} == _TRANSFORMER else None
    if name == "Pooling":
        return _older_pooling(config)
    if name == "Normalize":
        return {} if {**_NORMALIZE, **config} == _NORMALIZE else None
    if name == "Dense":
        kept = {key: value for key, value in config.items() if key in _DENSE}
        plain = all(config.get(key, "sentence_embedding") == "sentence_embedding" for key in _NORMALIZE)
        return kept if plain and not config.get("use_residual") else None
    return config if name in ("LayerNorm", "Dropout") else None


def _older_pooling(config: dict[str, Any]) -> dict[str, Any] | None:
    modes = config.get("pooling_mode", "mean")
    modes = [modes] if isinstance(modes, str) else list(modes)
    if not set(modes) <= set(_MODES) or modes != [mode for mode in _MODES if mode in modes]:
        return None  # version 5 joins them in its own order
    return {
        "word_embedding_dimension": config["embedding_dimension"],
        **{f"pooling_mode_{older}": mode in modes for mode, older in _MODES.items()},
        "include_prompt": config.get("include_prompt", True),
    }
