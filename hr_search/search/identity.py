"""The identity of an encoder: whether stored embeddings and new ones come from the same model."""

from __future__ import annotations

import numpy as np

from hr_search.base.choices import SIDES
from hr_search.base.files import digest
from hr_search.encoder import Encoder
from hr_search.fast import tokens

_SAMPLED = 64  # numbers of each tensor that are looked at: training changes all of them


def fingerprint(encoder: Encoder) -> str:
    """16 hex digits of everything that decides what an encoder makes of a text.

    That is: weights (64 numbers of each tensor), tokenizer, modules, prompts, length, condenser and int8; neither the
    device nor other precisions of matrix products, which change embeddings in the last digits only.

    Args:
        encoder: with its whole vocabulary, as `load_encoder` returns it.
    """
    model = encoder.model
    parts: list[object] = [f"{type(module).__name__} {_config(module)}" for module in model]
    exact = encoder.engine.exact.state_dict() if encoder.engine else {}  # layers of integers have no parameters
    for name, tensor in sorted((model.state_dict() | exact).items()):
        flat = tensor.detach().flatten()
        places = np.linspace(0, max(0, flat.numel() - 1), min(_SAMPLED, flat.numel())).astype(np.int64)
        parts += [name, tuple(tensor.shape), flat[places].float().cpu().numpy().tobytes().hex()]
    if not encoder.foreign:
        parts.append(tokens.fingerprint(model.tokenizer))
    if encoder.engine:
        parts.append(f"{encoder.precision} in torch")
    condenser = encoder.condenser.to_dict() if encoder.condenser else {}
    prompts = [encoder.prompt(side) for side in SIDES]
    return digest(*parts, prompts, encoder.maxlength, model.truncate_dim, sorted(condenser.items(), key=str))


def _config(module: object) -> dict[str, object]:
    """What a module's configuration says of how it pools and projects; nothing of where it was loaded from."""
    values = getattr(module, "get_config_dict", dict)()
    return {name: value for name, value in sorted(values.items()) if isinstance(value, bool | int | str | float)}
