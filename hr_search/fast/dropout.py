"""Dropout from a pool: masks cut at random places out of one long row of ready random numbers.

Drawing a fresh mask for every layer is a fifth of a training step on a CPU. The pool is drawn once;
a place in it, which the global generator draws, makes the mask.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

POOL = 1 << 23  # numbers; two masks of a step share a stretch rarely and never the same one in the same layer


@functools.lru_cache(maxsize=4)
def _pool(share: float, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(POOL, generator=generator) >= share
    return kept.to(dtype).div_(1 - share)


def noise(shape: torch.Size | tuple[int, ...], dtype: torch.dtype, share: float) -> Tensor:
    """A dropout mask: 0 with probability `share`, else 1 / (1 - share); a view into the pool, not to be changed.

    Args:
        shape: of the mask.
        dtype: of the mask.
        share: of zeros, in [0, 1).
    """
    count = math.prod(shape)
    if count >= POOL:  # larger than a pool that is worth keeping: drawn afresh
        return (torch.rand(shape) >= share).to(dtype).div_(1 - share)
    start = int(torch.randint(POOL - count, ()))
    return _pool(share, dtype)[start : start + count].view(shape)


def drop(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x` under a mask, or as it is where there is none."""
    return x if mask is None else x * mask


class PooledDropout(nn.Dropout):
    """`nn.Dropout` whose masks come from the pool on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """`x` with a share of zeros while training."""
        if not self.training or not self.p:
            return x
        if x.device.type != "cpu":  # a GPU draws masks faster than it reads them
            return super().forward(x)
        return x * noise(x.shape, x.dtype, self.p)


def pool_dropout(model: nn.Module) -> None:
    """Gives every `nn.Dropout` of `model` its masks from the pool."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, PooledDropout(child.p, child.inplace))
