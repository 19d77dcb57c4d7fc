"""Weight interpolation: the model that is validated, tested and kept lies between the base model and the trained one.

Fine-tuning at a high learning rate learns the task and forgets some of what the base model knew; a straight line
between the two sets of weights often holds models that are better than either end (WiSE-FT: Wortsman et al., 2022,
arXiv:2109.01903). Training itself goes on from the trained weights as if nothing had been mixed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def interpolated(trained: Tensor, base: Tensor, share: float) -> Tensor:
    """`share` of the way from the trained weights back to the base ones; both of any one shape.

    Exactly `trained` where the two are equal.
    """
    return torch.lerp(trained, base, share)


class Interpolation:
    """The weights a model began with, to be mixed into those it has later.

    Args:
        model: as it is before training; its weights are copied unless `share` is 0.
        share: of these weights in the mixture, from 0 (nothing happens) to below 1.
    """

    def __init__(self, model: nn.Module, share: float) -> None:
        self.share = share
        self._base = {name: _copy(value) for name, value in model.named_parameters()} if share else {}

    @torch.no_grad()
    def mix(self, model: nn.Module) -> None:
        """Leaves the mixture in `model`."""
        for name, base in self._base.items():
            weights = model.get_parameter(name)
            weights.copy_(interpolated(weights, base.to(weights.device), self.share))

    @contextlib.contextmanager
    def mixed(self, model: nn.Module) -> Iterator[None]:
        """Within it `model` is the mixture; afterwards its weights are what they were, bit by bit."""
        trained = {name: _copy(model.get_parameter(name)) for name in self._base}
        self.mix(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weights in trained.items():
                    model.get_parameter(name).copy_(weights)


def _copy(weights: Tensor) -> Tensor:
    """In the main memory: a GPU's is scarcer, and validations are few."""
    return weights.detach().to("cpu", copy=True)
