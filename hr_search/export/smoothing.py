"""Outliers moved from activations to weights before int8 (SmoothQuant: Xiao et al. 2023, arXiv:2211.10438).

A few dimensions of a transformer's hidden states are many times larger than the rest, and one int8 scale for all of
them leaves the rest a handful of steps. Dividing each input of a matrix by a factor and multiplying the matrix by it
changes nothing in exact arithmetic, and balances the two.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from hr_search.encoder import Encoder

_SHARE = 0.7  # of the outliers that goes to the weights; the paper takes .5 to .8
_LEAST = 1e-5  # below it an input or a column counts as unused


@contextlib.contextmanager
def smoothed(encoder: Encoder, texts: Mapping[str, Sequence[str]]) -> Iterator[None]:
    """A block in which the linear layers of an encoder take balanced inputs; afterwards they are as before.

    Args:
        encoder: in evaluation mode.
        texts: side to texts that show how large inputs become.
    """
    peaks = input_peaks(encoder, texts)
    weights = {layer: layer.weight.detach().clone() for layer in peaks}
    hooks = []
    try:
        with torch.no_grad():
            for layer, peak in peaks.items():
                factors = balance(peak, layer.weight.abs().amax(0))
                layer.weight.mul_(factors)
                hooks.append(layer.register_forward_pre_hook(_Scaling(1 / factors)))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        with torch.no_grad():
            for layer, weight in weights.items():
                layer.weight.copy_(weight)


def balance(peaks: Tensor, columns: Tensor) -> Tensor:
    """The factors (I,) by which the columns of a matrix grow and its inputs shrink.

    Args:
        peaks: the largest absolute value of each input, (I,).
        columns: the largest absolute weight of each column, (I,).
    """
    # An input that these few texts leave small may be large in others: only those above the median are taken at size.
    peaks, columns = (each.maximum(each.median()).clamp(min=_LEAST) for each in (peaks, columns))
    factors = peaks**_SHARE / columns ** (1 - _SHARE)
    return factors / factors.log().mean().exp()


def input_peaks(encoder: Encoder, texts: Mapping[str, Sequence[str]]) -> dict[nn.Linear, Tensor]:
    """The largest absolute values of the inputs of each linear layer that texts go through, (I,)."""
    peaks: dict[nn.Linear, Tensor] = {}

    def look(layer: nn.Linear, arguments: tuple) -> None:
        found = arguments[0].detach().abs().flatten(0, -2).amax(0)
        peaks[layer] = torch.maximum(peaks[layer], found) if layer in peaks else found

    layers = [module for module in encoder.transformer.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    packs, encoder.packs = encoder.packs, False  # texts without padding do not pass through the layers as modules
    try:
        for side, part in texts.items():
            for text in part:  # one by one, so that no padding counts
                encoder.encode([text], side)
    finally:
        encoder.packs = packs
        for hook in hooks:
            hook.remove()
    # Copies, because what was made in inference mode cannot be changed later.
    return {layer: peak.clone() for layer, peak in peaks.items()}


class _Scaling:
    """A hook that multiplies the first argument of a module."""

    def __init__(self, factors: Tensor) -> None:
        self.factors = factors

    def __call__(self, _: nn.Module, arguments: tuple) -> tuple:
        return arguments[0] * self.factors, *arguments[1:]
