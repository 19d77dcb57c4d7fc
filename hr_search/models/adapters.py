"""Adapters: small matrices that are trained beside the frozen linear layers of a large transformer (LoRA)."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hr_search.base.errors import InputError
from hr_search.base.files import digest

_SAMPLED = 64  # numbers of each frozen tensor that tell one base model from another


def require_adapters(rank: int, stage: str) -> None:
    """Checks that adapters of `rank` can be trained in a run of this `stage`; rank 0 is none.

    Raises:
        InputError: the stage trains no encoder, or peft is not installed.
    """
    if rank and stage != "encode":
        raise InputError(
            f"--lora trains adapters of an encoder, not in --stage {stage}; take --lora 0 or --stage encode."
        )
    if rank and importlib.util.find_spec("peft") is None:
        raise InputError("--lora needs the package peft; run `pip install 'hr_search[lora]'`, or take --lora 0.")


def linear_layers(encoder: Any) -> list[str]:
    """The names of the linear layers of attention and MLP in an encoder's transformer.

    Raises:
        InputError: there are none, as in a model of static embeddings.
    """
    inside = encoder.transformer.named_modules() if encoder.transformer is not None else ()
    names = [name for name, module in inside if type(module) is nn.Linear and "pooler" not in name.split(".")]
    if not names:
        raise InputError(f"{encoder.name} has no linear layers, so no adapters can be trained; take --lora 0.")
    return names


class Adapters:
    """Adapters of low rank on the linear layers of an encoder, and nothing else of it trained.

    A layer with weights W (m, n) computes x (W + 2 B A)^T, with A (rank, n) drawn at random and B (m, rank) beginning
    at 0: LoRA, Hu et al. 2021, arXiv:2106.09685, with alpha = 2 rank. They stand in the place of the layers, so texts
    are encoded as before, without padding where the transformer can do that.

    Attributes:
        base: a digest of the weights that stay as they are.
    """

    def __init__(self, encoder: Any, rank: int, seed: int) -> None:
        """Puts them into `encoder`, whose other parameters are frozen until `merge` or `remove`.

        Args:
            encoder: an `hr_search.encoder.Encoder`.
            rank: of the matrices, at least 1.
            seed: of A; the global random generator stays as it is.

        Raises:
            InputError: the encoder has no linear layers.
        """
        import peft

        names = linear_layers(encoder)
        self.encoder, self.base = encoder, _digest(encoder)
        self._frozen = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers about what peft looks at
            torch.manual_seed(seed)
            config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names)
            self._tuner = peft.get_peft_model(encoder.transformer, config)
        self.names = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}

    def state_dict(self) -> dict[str, Tensor]:
        """The adapters alone, by their names in the encoder."""
        return {name: value for name, value in self.encoder.state_dict().items() if name in self.names}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` gave.

        Raises:
            ValueError, RuntimeError: it is that of other adapters.
        """
        if set(state) != self.names:
            raise ValueError("its adapters are those of another model")
        self.encoder.load_state_dict(state, strict=False)

    def merge(self) -> None:
        """Adds the adapters to the weights; the encoder is then one without adapters."""
        self._tuner.merge_and_unload()
        self._thaw()

    def remove(self) -> None:
        """Takes the adapters out; the encoder is then what it was before them. Nothing happens after `merge`."""
        if self._tuner is not None:
            self._tuner.unload()
            self._thaw()

    def _thaw(self) -> None:
        self._tuner = None
        for parameter in self._frozen:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def adapted(encoder: Any, rank: int, seed: int) -> Iterator[Adapters | None]:
    """A block in which an encoder has adapters; those that are not merged in it are taken out. With rank 0, none.

    Raises:
        InputError: the encoder has no linear layers.
    """
    adapters = Adapters(encoder, rank, seed) if rank else None
    try:
        yield adapters
    finally:
        if adapters:
            adapters.remove()


def _digest(encoder: nn.Module) -> str:
    parts: list[object] = []
    for name, tensor in sorted(encoder.state_dict().items()):
        flat = tensor.detach().flatten()
        places = np.linspace(0, max(0, flat.numel() - 1), min(_SAMPLED, flat.numel())).astype(np.int64)
        parts += [name, tuple(tensor.shape), flat[places].float().cpu().numpy().tobytes().hex()]
    return digest(*parts)
