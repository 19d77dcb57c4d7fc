"""What the method costs: a training step under each mixing strategy, and a mining of hard negatives.

A step takes seconds and wavers by more than mixing adds, so the part that mixing changes is measured alone:
the loss of a batch and its gradient on the embeddings, strategy after strategy on the same batch.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from hr_search.bank import Bank
from hr_search.base import choices, files, paths
from hr_search.batches import Rows, index_rows, make_batch
from hr_search.bench import cases
from hr_search.bench.cases import Order
from hr_search.bench.meters import best_device, synchronise
from hr_search.bench.ours import fit, token_tables
from hr_search.bench.processes import at_least, measure, model_folder
from hr_search.encoder import load_encoder
from hr_search.miner import Miner
from hr_search.models import embedded
from hr_search.settings import Settings
from hr_search.step import Context, batch_loss
from hr_search.train import make_accelerator

BANK, NEIGHBOURS = 512, 4
_ROUNDS = 40  # batches on which the losses are measured


def cost_table(steps: int = 20, threads: int = 0, out: str = "", model: str = embedded.NAME) -> pd.DataFrame:
    """What each mixing strategy adds to a step, and mining to an epoch, with infonce on ESCO, 32 rows a step.

    Args:
        steps: of plain training, whose median is the step that the others are compared with.
        threads: of the processor; 0 = as torch chooses.
        out: the table; empty = `metrics/costs.csv`.
        model: "embedded", or a model's folder.

    Returns:
        `what` (a strategy, with a bank or without, or mining), `ms` (of a step, or of a mining divided among the
        steps of an epoch), `step_ms` and `share` (of the step).

    Raises:
        InputError: the run failed.
    """
    at_least({"steps": (steps, 1), "threads": (threads, 0)})
    order = Order("costs", model=model_folder("", model), loss="infonce", precision="auto", dropout=0.0, batchsize=32,
                  steps=steps, threads=threads)  # fmt: skip
    answer = measure("ours", order, cases.texts(dataclasses.replace(order, kind="train")))
    table = pd.DataFrame(answer["rows"]).assign(step_ms=answer["step_ms"])
    table["share"] = table["ms"] / table["step_ms"]
    files.write_csv(paths.resolve(out) if out else paths.metrics() / "costs.csv", table)
    return table


def run_costs(order: Order, texts: dict[str, list]) -> dict[str, Any]:
    """The milliseconds of each row of `cost_table`, and of a step, in a process of its own."""
    settings = order.settings
    encoder = load_encoder(settings.modelname, settings.maxlength, settings.precision, settings.dropout, best_device())
    rows = index_rows(pd.DataFrame(texts)[: order.rows])
    tables = token_tables(encoder, rows)
    encoder.compact(list(tables.values()))
    per_epoch = -(-len(rows) // order.batchsize)
    miner = Miner(rows, tables, settings.replace(negatives="mined"), per_epoch)
    miner.refresh(encoder, make_accelerator(), 0)  # the first one also waits for what a process prepares once
    started = time.perf_counter()
    miner.refresh(encoder, make_accelerator(), 0)
    mining = 1000 * (time.perf_counter() - started) / per_epoch
    steps, _ = fit(encoder, rows, tables, settings, order)
    plain, *mixed = loss_times(rows, settings, encoder.dimension)
    costs = [{"what": f"mixing {name}", "ms": ms - plain[1]} for name, ms in mixed]
    return {"rows": [*costs, {"what": "mining once an epoch", "ms": mining}], "step_ms": 1000 * float(np.median(steps))}


def loss_times(rows: Rows, settings: Settings, dimension: int) -> list[tuple[str, float]]:
    """Median milliseconds of a batch's loss and its gradient: plain, then each strategy without and with a bank."""
    device, generator = best_device(), np.random.default_rng(settings.seed)
    names = [("none", 0)] + [(name, bank) for bank in (0, BANK) for name in choices.MIXINGS if name != "none"]
    contexts = []
    for name, size in names:
        bank = Bank(size, dimension, device) if size else None
        if bank:
            kept = torch.randn(min(size, len(rows.documents)), dimension, device=device)
            bank.add(functional.normalize(kept), np.arange(len(kept)))
        contexts.append(Context(rows, {}, settings.replace(mixing=name, mixk=NEIGHBOURS), 1, bank))
    taken = np.zeros((_ROUNDS, len(names)))
    for turn in range(_ROUNDS):
        batch = make_batch(rows, generator.permutation(len(rows))[: settings.batchsize])
        count = len(batch.queries) + len(batch.documents)
        embeddings = functional.normalize(torch.randn(count, dimension, device=device)).requires_grad_()
        for place, context in enumerate(contexts):
            embeddings.grad = None
            synchronise()
            started = time.perf_counter()
            batch_loss(embeddings, batch, context, 0)[0].backward()
            if context.bank:
                context.bank.add(embeddings[len(batch.queries) :], batch.documents)
            synchronise()
            taken[turn, place] = 1000 * (time.perf_counter() - started)
    words = [f"{name}, bank of {size}" if size else name for name, size in names]
    return list(zip(words, np.median(taken[1:], axis=0).tolist(), strict=True))
