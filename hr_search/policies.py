"""What a run's settings mean to the parts that know no settings: loss, mixing, mining, search, schedule, optimiser."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import nn

from hr_search.batches import WINDOW, Rows, StepPlan, step_plan
from hr_search.dimensions import leading_sizes
from hr_search.mining import MiningPolicy
from hr_search.mixing import MixingPolicy
from hr_search.search.policy import SearchPolicy
from hr_search.settings import Settings
from hr_search.sources import sources
from hr_search.step import LossPolicy


def loss_policy(settings: Settings, dimension: int = 0) -> LossPolicy:
    """Loss and negatives as the settings name them.

    Args:
        settings: of the run.
        dimension: numbers of an embedding of its model; 0 = any.

    Raises:
        InputError: the leading sizes that the settings name cannot be.
    """
    return LossPolicy(
        name=settings.loss,
        margin=settings.margin,
        temperature=settings.temperature,
        symmetric=settings.symmetric,
        hardness=settings.hardness,
        negatives=settings.negatives,
        teacher_weight=settings.teacherweight,
        teacher_temperature=settings.teachertemperature,
        dimensions=leading_sizes(settings.dimensions, dimension),
        soft_weight=settings.softweight,
    )


def plan_of(settings: Settings, rows: Rows, per_step: int) -> StepPlan:
    """The steps of a run over its train rows, `per_step` of them at a time, each table with the share it was given."""
    shares = [source.share for source in sources(settings.datapath)]
    length = settings.epochs, settings.maxsteps, settings.seed
    return step_plan(len(rows), per_step, *length, rows.table, shares, WINDOW if settings.stream else 0)


def mixing_policy(settings: Settings) -> MixingPolicy:
    """The mixing that `mixing` and the settings named `mix...` ask for."""
    return MixingPolicy(
        strategy=settings.mixing,
        k=settings.mixk,
        query_weight=settings.mixquery,
        positive_weight=settings.mixpositive,
        negative_weight=settings.mixnegative,
        count=settings.mixcount,
        start=settings.mixstart,
        probability=settings.mixprobability,
        own=settings.mixown,
        detach=settings.mixdetach,
    )


def mining_policy(settings: Settings) -> MiningPolicy:
    """The mining that the settings named `mine...` ask for."""
    return MiningPolicy(
        count=settings.minepool,
        start=settings.minestart,
        stop=settings.minestop,
        band=(settings.minebandlow, settings.minebandhigh),
        share=settings.mineshare,
        sampling=settings.minesampling,
        side=settings.mineside,
        drawn=settings.minecount,
        every=settings.mineevery,
    )


def list_policy(settings: Settings) -> MiningPolicy:
    """The mining of wrong texts for the lists of a second stage: `candidates`, and the settings named `mine...`."""
    drawn = settings.candidates - 1
    side = "document" if settings.direction == "q2d" else "query"
    return dataclasses.replace(mining_policy(settings), count=max(settings.minepool, drawn), side=side, drawn=drawn)


def search_policy(settings: Settings) -> SearchPolicy:
    """The stages of a search in a run of `stage = search`, the same in both directions."""
    return SearchPolicy(
        centre=settings.centre,
        mixing=settings.searchmixing,
        strategy=settings.searchstrategy,
        k=settings.searchk,
        temperature=settings.searchtemperature,
        weight=settings.searchweight,
        fusion=settings.fusion,
        words=settings.words,
        scaling=settings.scaling,
        rerank=settings.rerank,
        reranktop=settings.reranktop,
        rerankweight=settings.rerankweight,
    )


def warmup_then_linear(total: int, share: float, start: int = 0) -> Callable[[int], float]:
    """Step -> factor of the learning rate from step `start` on: up over `share` of the steps, then down to 0."""
    steps = total - start
    rise = max(1, round(steps * share)) if share else 0

    def factor(step: int) -> float:
        step -= start
        return (step + 1) / rise if step < rise else max(0.0, (steps - step) / max(1, steps - rise))

    return factor


def parameter_groups(encoder: nn.Module, weightdecay: float) -> list[dict[str, Any]]:
    """Parameters with weight decay (matrices) and without (embeddings, biases, norms).

    Embeddings must stay without: rows left out by vocabulary compaction would otherwise have shrunk.
    """
    embedded = {id(p) for m in encoder.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    decayed = [p for p in encoder.parameters() if p.requires_grad and p.ndim > 1 and id(p) not in embedded]
    chosen = {id(p) for p in decayed}
    rest = [p for p in encoder.parameters() if p.requires_grad and id(p) not in chosen]
    return [{"params": decayed, "weight_decay": weightdecay}, {"params": rest, "weight_decay": 0.0}]
