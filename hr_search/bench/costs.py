"""What the method costs: a training step under each mixing strategy, and a mining of hard negatives.

A step takes seconds and varies by more than mixing adds. So the part that mixing changes is measured alone: the loss of
a batch and its gradient on the embeddings, one strategy after the other on the same batch.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from hr_search import policies, step, train
from hr_search.bank import Bank
from hr_search.base import choices, files, paths
from hr_search.batches import Batch, Rows, index_rows, make_batch
from hr_search.bench.cases import Order, check_numbers
from hr_search.bench.meters import best_device, synchronise
from hr_search.bench.model_folders import model_folder
from hr_search.bench.ours import fit, token_tables
from hr_search.bench.processes import measure
from hr_search.bench.texts import texts_for
from hr_search.encoder import Encoder, load_encoder
from hr_search.fast.tokens import TokenTable
from hr_search.mining import Miner
from hr_search.models import embedded
from hr_search.settings import Settings

BANK, NEIGHBOURS = 512, 4
_ROUNDS = 40  # batches on which the losses are measured


def cost_table(steps: int = 20, threads: int = 0, out: str = "", model: str = embedded.NAME) -> pd.DataFrame:
    """What each mixing strategy adds to a step, and mining to an epoch, with infonce on ESCO and 32 rows per step.

    Args:
        steps: of plain training; their median is the step that the others are compared with.
        threads: of the processor; 0 = torch decides.
        out: the table; empty = `metrics/costs.csv`.
        model: "embedded", or a model's folder.

    Returns:
        `what` (a strategy, with or without a bank, or mining), `ms` (added to a step; that of a mining is divided among
        the steps of an epoch), `step_ms` and `share` (of the step).

    Raises:
        InputError: the run failed.
    """
    check_numbers({"steps": (steps, 1), "threads": (threads, 0)})
    order = Order(
        "costs",
        model=model_folder(model),
        loss="infonce",
        precision="auto",
        dropout=0.0,
        batchsize=32,
        steps=steps,
        threads=threads,
    )
    answer = measure("ours", order, texts_for(dataclasses.replace(order, kind="train")))
    table = pd.DataFrame(answer["rows"]).assign(step_ms=answer["step_ms"])
    table["share"] = table["ms"] / table["step_ms"]
    files.write_csv(paths.resolve(out) if out else paths.metrics() / "costs.csv", table)
    return table


# -- in a process of its own ---------------------------------------------------------------------


def run_costs(order: Order, texts: dict[str, list]) -> dict[str, Any]:
    """The milliseconds in each row of `cost_table`, and those of a step."""
    settings = order.settings
    encoder = load_encoder(settings.modelname, settings.maxlength, settings.precision, settings.dropout, best_device())
    rows = index_rows(pd.DataFrame(texts)[: order.rows])
    tables = token_tables(encoder, rows)
    encoder.compact(list(tables.values()))
    mining = mining_seconds(encoder, rows, tables, settings)
    steps, _ = fit(encoder, rows, tables, settings, order)
    (_, plain), *mixed = loss_times(rows, settings, encoder.dimension)
    costs = [{"what": f"mixing {name}", "ms": ms - plain} for name, ms in mixed]
    costs.append({"what": "mining once an epoch", "ms": 1000 * mining / _steps_per_epoch(rows, settings)})
    return {"rows": costs, "step_ms": 1000 * float(np.median(steps))}


def mining_seconds(encoder: Encoder, rows: Rows, tables: dict[str, TokenTable], settings: Settings) -> float:
    """Seconds of one mining, the second one: the first also pays for what a process prepares once."""
    miner = Miner(rows, tables, policies.mining_policy(settings), _steps_per_epoch(rows, settings), settings.seed)
    accelerator = train.make_accelerator()
    miner.refresh(encoder, accelerator, 0)
    started = time.perf_counter()
    miner.refresh(encoder, accelerator, 0)
    return time.perf_counter() - started


def loss_times(rows: Rows, settings: Settings, dimension: int) -> list[tuple[str, float]]:
    """Median milliseconds of a batch's loss and gradient: plain, then each strategy without and with a bank."""
    strategies = [name for name in choices.MIXINGS if name != "none"]
    variants = [("none", 0)] + [(name, size) for size in (0, BANK) for name in strategies]
    contexts = [loss_context(rows, settings, name, size, dimension) for name, size in variants]
    generator = np.random.default_rng(settings.seed)
    taken = np.zeros((_ROUNDS, len(variants)))
    for turn in range(_ROUNDS):
        batch = make_batch(rows, generator.permutation(len(rows))[: settings.batchsize])
        embeddings = _unit_vectors(len(batch.queries) + len(batch.documents), dimension).requires_grad_()
        for place, context in enumerate(contexts):
            taken[turn, place] = 1000 * loss_seconds(embeddings, batch, context)
    names = [f"{name}, bank of {size}" if size else name for name, size in variants]
    return list(zip(names, np.median(taken[1:], axis=0).tolist(), strict=True))


def loss_context(rows: Rows, settings: Settings, mixing: str, size: int, dimension: int) -> step.Context:
    """The context of steps with one mixing strategy, and a full bank of `size` documents if that is not 0."""
    bank = None
    if size:
        bank = Bank(size, dimension, best_device())
        count = min(size, len(rows.documents))
        bank.add(_unit_vectors(count, dimension), np.arange(count))
    policy = train.mixing_policy(settings.replace(mixing=mixing, mixk=NEIGHBOURS))
    return step.Context(rows, {}, policies.loss_policy(settings), policy, settings.seed, 1, bank)


def loss_seconds(embeddings: torch.Tensor, batch: Batch, context: step.Context) -> float:
    """Seconds of a batch's loss and its gradient on the embeddings, with the update of the bank if there is one."""
    embeddings.grad = None
    synchronise()
    started = time.perf_counter()
    step.batch_loss(embeddings, batch, context, 0)[0].backward()
    if context.bank:
        context.bank.add(embeddings[len(batch.queries) :], batch.documents)
    synchronise()
    return time.perf_counter() - started


def _unit_vectors(count: int, dimension: int) -> torch.Tensor:
    return functional.normalize(torch.randn(count, dimension, device=best_device()))


def _steps_per_epoch(rows: Rows, settings: Settings) -> int:
    return -(-len(rows) // settings.batchsize)
