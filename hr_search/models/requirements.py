"""What a model folder must be, checked before anything in it is loaded or run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from hr_search.base import hub
from hr_search.base.errors import InputError, one_line, shown
from hr_search.models import embedded, folders


def place_of(name: str) -> str:
    """The folder of the model called `name`, or its name on the Hub.

    Raises:
        InputError: neither exists, or the folder holds no model, or one that would run code of its own or never end.
    """
    source = embedded.ensure_embedded() if name == embedded.NAME else name
    try:
        local = Path(source).expanduser()
        exists = bool(source.strip()) and local.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f'"{shown(name)}" cannot be the folder of a model ({one_line(error, 120)}); give one that can, or embedded.'
        ) from error
    if exists:
        if not any((local / file).is_file() for file in ("modules.json", "config.json")):
            raise InputError(
                f"{name} is not a model folder: it has neither modules.json nor config.json; give the folder of a "
                "model, or embedded."
            )
        folders.require_folder(local)
        return str(local)
    if not source.strip() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise InputError(f'the model folder "{name}" does not exist; give a folder, a Hub name, or embedded.')
    hub.require_model(source)
    return source


def require_encoder(config: Any, source: str) -> None:
    """Checks that a model can serve as an encoder.

    Args:
        config: the model's configuration, from transformers.
        source: its folder or name.

    Raises:
        InputError: it is a decoder without a pooling module, whose embeddings were never trained to be compared.
    """
    kind = next(iter(getattr(config, "architectures", None) or []), "")
    if kind.endswith(("ForCausalLM", "LMHeadModel")) and not (Path(source) / "modules.json").is_file():
        raise InputError(
            f"the model {source} is a decoder ({kind}), trained to continue texts, not to compare them; take an "
            "encoder, or a folder with modules.json."
        )


def require_weights(transformer: nn.Module, source: str) -> None:
    """Checks that the files in a model's folder are the weights of its architecture.

    Args:
        transformer: the model as it was loaded.
        source: its folder or name.

    Raises:
        InputError: less than half of its parameters are in the files; transformers would fill the rest at random.
    """
    from safetensors import safe_open

    stored: set[str] = set()
    for path in Path(source).glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names = [name.split(".") for name in file.keys()]  # noqa: SIM118
        # Checkpoints put prefixes such as "bert." before the names.
        stored |= {".".join(name[at:]) for name in names for at in range(len(name))}
    wanted = [name for name, _ in transformer.named_parameters()]
    there = sum(name in stored for name in wanted)
    if stored and 2 * there < len(wanted):
        raise InputError(
            f"the weights in {source} belong to another architecture than its config.json ({there} of {len(wanted)} "
            "parameters found); copy the model again."
        )


def require_words(tokenizer: Any, source: str) -> None:
    """Checks that a tokenizer knows words; where its files are missing, transformers makes an empty one.

    Raises:
        InputError: it knows no words.
    """
    size = getattr(tokenizer, "get_vocab_size", None)  # of the tokenizers library, as static embeddings have it
    words = size() if size else len(tokenizer) - len(tokenizer.all_special_tokens) if tokenizer is not None else 1
    if words <= 0:
        raise InputError(f"the model {source} has no tokenizer, or one that knows no words; copy its tokenizer files.")
