"""Weight interpolation: models between the base model and the trained one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Interpolation:
    """The weights a model began with, to be blended into those it has later (weight interpolation).

    Fine-tuning at a high learning rate learns the task and forgets some of what the base model knew; the
    straight line between both sets of weights often holds models that are better than either end (WiSE-FT:
    Wortsman et al. 2022, arXiv:2109.01903). Training itself goes on from the trained weights.

    Args:
        model: as it is before training; its weights are copied unless `share` is 0.
        share: of these weights in the blend, from 0 (nothing happens) to below 1.
    """

    def __init__(self, model: nn.Module, share: float) -> None:
        self.share = share
        # Adapters begin with B = 0 and count as B A: scaling B alone is the straight line.
        moved = {name: value for name, value in model.named_parameters() if value.requires_grad and share}
        self._base = {name: _copy(value) for name, value in moved.items() if ".lora_A." not in name}

    @torch.no_grad()
    def blend(self, model: nn.Module) -> None:
        """Leaves the blend in `model`; a weight that did not move stays exactly what it is."""
        for name, base in self._base.items():
            weights = model.get_parameter(name)
            weights.copy_(torch.lerp(weights, base.to(weights.device), self.share))

    @contextlib.contextmanager
    def blended(self, model: nn.Module) -> Iterator[None]:
        """A block in which `model` is the blend; afterwards its weights are what they were, bit by bit."""
        trained = {name: _copy(model.get_parameter(name)) for name in self._base}
        self.blend(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weights in trained.items():
                    model.get_parameter(name).copy_(weights)


def _copy(weights: Tensor) -> Tensor:
    """In main memory: a GPU's is scarcer, and validations are few."""
    return weights.detach().to("cpu", copy=True)
