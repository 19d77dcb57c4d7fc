"""Parts of the speed benchmark without a model: one loss on given embeddings, and products of matrices.

Each runs in a process that imports little, so that it starts in a moment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hr_search import losses
from hr_search.bench.cases import Order
from hr_search.bench.meters import best_device, durations, matrix_rate

MARGIN, DIMENSION = 0.3, 384

Loss = Callable[[Tensor, Tensor], Tensor]


def measure(side: str, order: Order) -> dict[str, Any]:
    """The answer of a side ("ours" or "peer") to an order of the kind rate or loss, as `ours.measure` gives it."""
    if order.kind == "rate":
        return {"rate": matrix_rate(order.precision, best_device())}
    return time_loss(order, {"ours": our_loss, "peer": peer_loss}[side](order.loss))


def our_loss(name: str) -> Loss:
    """Our loss called `name` as a function of embeddings (B, D) and labels (B,)."""
    loss = {"batch-hard": losses.batch_hard, "semi-hard": losses.batch_semi_hard}[name]
    return lambda embeddings, labels: loss(embeddings, labels, MARGIN)


def peer_loss(name: str) -> Loss:
    """The same loss of sentence-transformers, with cosine distances."""
    from sentence_transformers.sentence_transformer.losses import (
        BatchHardTripletLoss,
        BatchHardTripletLossDistanceFunction,
        BatchSemiHardTripletLoss,
    )

    kind = {"batch-hard": BatchHardTripletLoss, "semi-hard": BatchSemiHardTripletLoss}[name]
    loss = kind(nn.Identity(), BatchHardTripletLossDistanceFunction.cosine_distance, MARGIN)
    return lambda embeddings, labels: loss.compute_loss_from_embeddings([embeddings], labels)


def time_loss(order: Order, loss: Loss) -> dict[str, Any]:
    """Passes/s of a loss, forward and backward, on unit vectors of which four share each label; and its value."""
    device = best_device()
    noise = torch.randn(order.batchsize, DIMENSION, generator=torch.Generator().manual_seed(order.seed))
    embeddings = nn.functional.normalize(noise).to(device).requires_grad_()
    labels = (torch.arange(order.batchsize) // 4).to(device)

    def work() -> Tensor:
        embeddings.grad = None
        value = loss(embeddings, labels)
        value.backward()
        return value

    taken = durations(work, 1.0, 20)
    # The cosines, and their gradient on both sides of the product.
    flops = 6 * order.batchsize**2 * DIMENSION
    rows = {"": {"value": 1 / float(np.median(taken)), "unit": "passes/s", "flops": flops}}
    return {"rows": rows, "losses": [float(work().detach())], "precision": "fp32"}
