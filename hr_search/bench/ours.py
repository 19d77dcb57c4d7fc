"""Our side of the speed benchmark: each function measures one kind of order in a process of its own.

An answer is JSON-ready: `rows` maps the suffix of a row's name to its `value` and `unit`, and to `flops`, the
floating-point operations a unit cannot do without (2 a multiplication and parameter of the transformer
without its vocabulary table, 6 in training), where a limit can be computed from them.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from hr_search import train
from hr_search.base.choices import METRICS
from hr_search.base.devices import use_bf16
from hr_search.batches import Rows, index_rows
from hr_search.bench.cases import Order
from hr_search.bench.meters import best_device, forget_peak, peak_above, step_clock
from hr_search.data import loading
from hr_search.data.tasks import Task
from hr_search.encoder import Encoder, load_encoder
from hr_search.evaluation.metrics import embedding_scores, evaluate
from hr_search.fast.tokens import TokenTable
from hr_search.mining import Mined, mine, mine_texts
from hr_search.settings import Settings

Answer = dict[str, Any]
_WARMING = ["a", "a text to warm up with"] * 8


def measure(order: Order, texts: dict[str, list]) -> Answer:
    """What `order` asks for, and the precision in which it was done."""
    precision = "bf16" if use_bf16(order.precision, best_device()) else "fp32"
    return _KINDS[order.kind](order, texts) | {"precision": precision}


def run_training(order: Order, texts: dict[str, list]) -> Answer:
    """Training through `train.fit`: rows/s with the tokenisation of the rows, and each step's loss for "learn"."""
    settings, table = order.settings, pd.DataFrame(texts)
    encoder = load_encoder(settings.modelname, settings.maxlength, settings.precision, settings.dropout, best_device())
    encoder.encode(_WARMING)
    rows = index_rows(table[: order.rows])
    started = time.perf_counter()
    tables = token_tables(encoder, rows)
    tokenising = time.perf_counter() - started
    held = held_out(table[order.rows :]) if order.kind == "learn" else None
    used = [encoder.tokens(held.queries, "query"), encoder.tokens(held.documents, "document")] if held else []
    encoder.compact([*tables.values(), *used])
    answer: Answer = {"base": reciprocal_ranks(held, *map(encoder.embed, used))} if held else {}
    seconds, history = fit(encoder, rows, tables, settings, order)
    measured = order.batchsize * order.steps
    share = tokenising * measured / len(rows)
    documents = np.concatenate([rows.positive, *rows.negatives])
    tokens = int(tables["query"].lengths[rows.query].sum() + tables["document"].lengths[documents].sum())
    answer["rows"] = {"": {
        "value": measured / (sum(seconds) + share), "unit": "rows/s",
        "flops": 6 * body_parameters(encoder) * tokens / len(rows),
    }}  # fmt: skip
    if held:
        answer["mrr"] = reciprocal_ranks(held, *map(encoder.embed, used))
    return answer | {"seconds": seconds, "tokenising": share, "losses": [row["loss"] for row in history[1:]]}


def fit(
    encoder: Encoder, rows: Rows, tables: dict[str, TokenTable], settings: Settings, order: Order
) -> tuple[list[float], list[dict]]:
    """Trains through the real loop without validation; the seconds of the measured steps, and the history."""
    nothing = dict.fromkeys(METRICS, math.nan)  # no best weights are kept, as the peer keeps none
    with step_clock(order.warm, order.warm + order.steps) as ticks:
        progress = train.fit(encoder, rows, tables, settings, lambda step: nothing)
    return np.diff(ticks[order.warm - 1 : order.warm + order.steps]).tolist(), progress.history


def token_tables(encoder: Encoder, rows: Rows, cached: bool = False, length: int = 0) -> dict[str, TokenTable]:
    """Token tables of the distinct queries ("query") and documents ("document") of `rows`, as `Encoder.tokens`."""
    sides = {"query": rows.queries, "document": rows.documents}
    return {side: encoder.tokens(texts, side, cached, length) for side, texts in sides.items()}


def body_parameters(encoder: Encoder) -> int:
    """Parameters of the transformer without its vocabulary table, which is looked up and not multiplied."""
    transformer = encoder.transformer
    return sum(p.numel() for p in transformer.parameters()) - transformer.get_input_embeddings().weight.numel()


def held_out(pairs: pd.DataFrame) -> Task:
    """The search task of the pairs that were not trained on."""
    return loading.tasks(pairs)["q2d"]


def reciprocal_ranks(task: Task, queries: np.ndarray, documents: np.ndarray) -> list[float]:
    """The reciprocal rank of each query."""
    return evaluate(task, embedding_scores(queries, documents))["mrr"].tolist()


def run_evaluation(order: Order, texts: dict[str, list]) -> Answer:
    """A search task from texts to metrics: texts/s, GB above the loaded model, and MRR@10."""
    encoder = load_encoder(order.model, order.maxlength, order.precision, device=best_device())
    encoder.encode(_WARMING)
    task = search_task(texts)
    start = forget_peak(encoder.device)
    started = time.perf_counter()
    tables = [encoder.tokens(task.queries, "query", False), encoder.tokens(task.documents, "document", False)]
    table = evaluate(task, embedding_scores(*map(encoder.embed, tables)))
    seconds = time.perf_counter() - started
    memory, count = peak_above(start, encoder.device), len(task.queries) + len(task.documents)
    tokens = sum(len(side.ids) for side in tables)
    found = (1 / table["rank"]).where(table["rank"] <= 10, 0.0)
    return {"rows": {
        "": {"value": count / seconds, "unit": "texts/s", "flops": 2 * body_parameters(encoder) * tokens / count},
        "-memory": {"value": memory, "unit": "GB"},
        "-mrr": {"value": float(found.mean()), "unit": "MRR@10"},
    }}  # fmt: skip


def search_task(texts: dict[str, list]) -> Task:
    """The task that `cases.search_texts` describes."""
    relevant = [np.array(places) for places in texts["relevant"]]
    return Task("q2d", texts["queries"], texts["documents"], relevant, texts["queries"])


def run_start(order: Order, texts: dict[str, list]) -> Answer:
    """From a table on disk to the first step, the time of a step, and the memory of both above the model."""
    settings = Settings(
        modelname=order.model, datapath=texts["path"][0], validationshare=0.001, testshare=0.001, patience=0,
        maxlength=order.maxlength, batchsize=order.batchsize, maxsteps=order.warm + order.steps + 1,
    )  # fmt: skip
    encoder = load_encoder(settings.modelname, settings.maxlength, settings.precision, device=best_device())
    encoder.encode(_WARMING)
    memory = forget_peak(torch.device("cpu"))  # what grows with a table lies in the processor's memory
    started = time.perf_counter()
    loaded = loading.load(settings)
    read = time.perf_counter() - started
    rows = index_rows(loaded.train)
    indexed = time.perf_counter() - started
    tables = token_tables(encoder, rows, cached=True)
    encoder.compact(list(tables.values()))
    seconds = time.perf_counter() - started
    steps, _ = fit(encoder, rows, tables, settings, order)
    return {
        "start_s": seconds, "read_s": read, "index_s": indexed - read, "tokens_s": seconds - indexed,
        "step_ms": 1000 * float(np.median(steps)), "memory_gb": peak_above(memory, torch.device("cpu")),
    }  # fmt: skip


def run_mining(order: Order, texts: dict[str, list]) -> Answer:
    """Hard negatives from texts: queries/s, the same for the search alone, and the negatives found."""
    encoder = load_encoder(order.model, order.maxlength, order.precision, device=best_device())
    encoder.encode(_WARMING)
    queries, documents = texts["query"], texts["positive"]
    sides: dict[str, np.ndarray] = {}

    def encode(part: list[str], side: str) -> np.ndarray:
        sides[side] = encoder.encode(part, side)
        return sides[side]

    def found(mined: Mined) -> list[list[str]]:
        return [[documents[at] for at in row] for row in mined.negatives.tolist()]

    # The peer is told no rule on scores either, and looks at as many ranks.
    policy: dict[str, Any] = {"count": 10, "stop": 100, "share": 1.0}
    started = time.perf_counter()
    negatives = found(mine_texts(encode, queries, documents, **policy))
    seconds = time.perf_counter() - started
    own = np.arange(len(queries))
    started = time.perf_counter()
    found(mine(sides["query"], sides["document"], sparse.eye_array(len(queries)).tocsr(), own, **policy))
    search = time.perf_counter() - started
    tables = encoder.tokens(queries, "query", False), encoder.tokens(documents, "document", False)
    tokens = sum(len(table.ids) for table in tables)
    return {"rows": {
        "": {"value": len(queries) / seconds, "unit": "queries/s",
             "flops": 2 * body_parameters(encoder) * tokens / len(queries)},
        "-search": {"value": len(queries) / search, "unit": "queries/s", "precision": "fp32",
                    "flops": 2 * len(documents) * encoder.dimension},
    }, "negatives": dict(zip(queries[:1000], negatives[:1000], strict=True))}  # fmt: skip


_KINDS = {
    "train": run_training,
    "learn": run_training,
    "evaluate": run_evaluation,
    "mine": run_mining,
    "start": run_start,
}
