"""The plan of a run: how many steps, which rows meet in each, how the learning rate goes, what decays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from hr_search.batches import epoch_batches
from hr_search.settings import Settings


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """How many steps a run has, and the rows of each."""

    rows: int
    per_step: int
    per_epoch: int
    total: int
    seed: int

    def batches(self, done: int = 0) -> Iterator[tuple[np.ndarray, bool]]:
        """Row numbers of every step after the first `done`, and whether the step ends an epoch."""
        for epoch in range(done // self.per_epoch, -(-self.total // self.per_epoch)):
            for at, chosen in enumerate(epoch_batches(self.rows, self.per_step, self.seed, epoch)):
                if done <= epoch * self.per_epoch + at < self.total:
                    yield chosen, at == self.per_epoch - 1


def step_plan(rows: int, per_step: int, settings: Settings) -> StepPlan:
    """The plan for `rows` training rows of which `per_step` meet in a step."""
    per_epoch = len(epoch_batches(rows, per_step, settings.seed, 0))
    total = per_epoch * settings.epochs
    return StepPlan(rows, per_step, per_epoch, min(total, settings.maxsteps or total), settings.seed)


def warmup_then_linear(total: int, share: float) -> Callable[[int], float]:
    """Step -> factor of the learning rate: up over the first `share` of the steps, then down to 0."""
    rise = max(1, round(total * share)) if share else 0

    def factor(step: int) -> float:
        return (step + 1) / rise if step < rise else max(0.0, (total - step) / max(1, total - rise))

    return factor


def parameter_groups(encoder: torch.nn.Module, weightdecay: float) -> list[dict[str, Any]]:
    """Parameters with weight decay (matrices) and without (embeddings, biases, norms).

    Embeddings must stay without: rows left out by vocabulary compaction would otherwise have shrunk.
    """
    embedded = {id(p) for m in encoder.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    decayed = [p for p in encoder.parameters() if p.requires_grad and p.ndim > 1 and id(p) not in embedded]
    chosen = {id(p) for p in decayed}
    rest = [p for p in encoder.parameters() if p.requires_grad and id(p) not in chosen]
    return [{"params": decayed, "weight_decay": weightdecay}, {"params": rest, "weight_decay": 0.0}]
