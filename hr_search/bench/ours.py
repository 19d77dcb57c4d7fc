"""Our side of the speed benchmark: each function measures one kind of order in a process of its own.

An answer is JSON-ready. Its `rows` map the suffix of a row's name to its `value` and `unit`, and to `flops` if a
compute limit can be computed from them: the floating-point operations that one unit cannot do without, which are 2
for each token and parameter of the transformer without its vocabulary table, and 6 in training.
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
from hr_search.base.choices import METRICS, SIDES
from hr_search.base.devices import use_bf16
from hr_search.base.peak import forget_peak, peak_above
from hr_search.batches import Rows, index_rows
from hr_search.bench.cases import Order
from hr_search.bench.meters import best_device, step_clock
from hr_search.data import loading
from hr_search.data.tasks import Task, tasks_of
from hr_search.encoder import Encoder, load_encoder
from hr_search.evaluation import scoring
from hr_search.evaluation.hard_negatives import mine_texts
from hr_search.evaluation.metrics import embedding_scores, rank_all
from hr_search.export.int8 import in_int8
from hr_search.fast.tokens import TokenTable
from hr_search.mining import Mined, MiningPolicy, mine
from hr_search.settings import Settings

Answer = dict[str, Any]
WARMUP_TEXTS = ["a", "a text to warm up with"] * 8


def measure(order: Order, texts: dict[str, list]) -> Answer:
    """What `order` asks for, and the precision in which it was computed."""
    kinds = {
        "train": run_training,
        "learn": run_training,
        "evaluate": run_evaluation,
        "mine": run_mining,
        "start": run_start,
    }
    precision = "bf16" if use_bf16(order.precision, best_device()) else "fp32"
    precision = "int8" if order.precision == "int8" else precision
    return kinds[order.kind](order, texts) | {"precision": precision}


# -- training ------------------------------------------------------------------------------------


def run_training(order: Order, texts: dict[str, list]) -> Answer:
    """Training through `train.fit`: rows/s, tokenisation included; each step's loss for the kind "learn"."""
    settings, table = order.settings, pd.DataFrame(texts)
    encoder = warm_encoder(order, settings.dropout)
    rows = index_rows(table[: order.rows])
    started = time.perf_counter()
    tables = token_tables(encoder, rows)
    tokenising = time.perf_counter() - started
    held = held_out(table[order.rows :]) if order.kind == "learn" else None
    searched = task_tokens(encoder, held) if held else []
    encoder.compact([*tables.values(), *searched])
    answer: Answer = {"base": reciprocal_ranks(held, *map(encoder.embed, searched))} if held else {}
    seconds, losses = fit(encoder, rows, tables, settings, order)
    if held:
        answer["mrr"] = reciprocal_ranks(held, *map(encoder.embed, searched))
    measured = order.batchsize * order.steps
    share = tokenising * measured / len(rows)  # of the rows whose steps are measured
    flops = 6 * body_parameters(encoder) * token_count(rows, tables) / len(rows)
    speed = {"value": measured / (sum(seconds) + share), "unit": "rows/s", "flops": flops}
    return answer | {"rows": {"": speed}, "seconds": seconds, "tokenising": share, "losses": losses}


def run_start(order: Order, texts: dict[str, list]) -> Answer:
    """From a table on disk to the first step, the time of a step, and the memory of both above the model."""
    settings = Settings(
        modelname=order.model,
        datapath=texts["path"][0],
        validationshare=0.001,
        testshare=0.001,
        patience=0,
        maxlength=order.maxlength,
        batchsize=order.batchsize,
        maxsteps=order.warm + order.steps + 1,
    ).replace(**order.recipe)
    encoder = load_encoder(settings.modelname, settings.maxlength, settings.precision, device=best_device())
    encoder.encode(WARMUP_TEXTS)
    processor = torch.device("cpu")  # what grows with a table is in the processor's memory
    memory = forget_peak(processor)
    started, busy = time.perf_counter(), time.process_time()
    loaded = loading.load_data(settings)
    read = time.perf_counter() - started
    rows = loaded.rows()
    indexed = time.perf_counter() - started
    tables = token_tables(encoder, rows, cached=True)
    encoder.compact(list(tables.values()))
    ready, busy = time.perf_counter() - started, time.process_time() - busy
    waiting = peak_above(memory, processor)
    steps, _ = fit(encoder, rows, tables, settings, order)
    return {
        "start_s": ready,
        "start_cpu_s": busy,
        "start_memory_gb": waiting,
        "read_s": read,
        "index_s": indexed - read,
        "tokens_s": ready - indexed,
        "step_ms": 1000 * float(np.median(steps)),
        "memory_gb": peak_above(memory, processor),
    }


def fit(
    encoder: Encoder, rows: Rows, tables: dict[str, TokenTable], settings: Settings, order: Order
) -> tuple[list[float], list[float]]:
    """Trains and returns the seconds of each measured step, and the losses in the history."""
    first, last = order.warm, order.warm + order.steps
    ticks, history = clocked_fit(encoder, rows, tables, settings, first, last)
    return np.diff(ticks[first - 1 : last]).tolist(), [row["loss"] for row in history[1:]]


def clocked_fit(
    encoder: Encoder, rows: Rows, tables: dict[str, TokenTable], settings: Settings, first: int, last: int
) -> tuple[list[float], list[dict]]:
    """Trains through the real loop, without validation.

    Args:
        encoder: the encoder to train.
        rows: the train rows.
        tables: token tables of their queries and documents.
        settings: as in any training.
        first: the step at whose end a measurement starts.
        last: the step at whose end it stops.

    Returns:
        The times (s) at which the steps ended, and the history of the training.
    """
    nothing = dict.fromkeys(METRICS, math.nan)  # so no best weights are kept, as the peer keeps none
    with step_clock(first, last) as ticks:
        progress = train.fit(encoder, rows, tables, settings, lambda step: nothing)
    return ticks, progress.history


# -- evaluation and mining -----------------------------------------------------------------------


def run_evaluation(order: Order, texts: dict[str, list]) -> Answer:
    """A search task from texts to metrics: texts/s, GB above the loaded model, and MRR@10."""
    encoder = warm_encoder(order)
    task = search_task(texts)
    memory = forget_peak(encoder.device)
    started = time.perf_counter()
    tables = task_tokens(encoder, task)
    sides = scoring.embed_sides(encoder, dict(zip(SIDES, tables, strict=True)))
    table = scoring.evaluate_embeddings({task.name: task}, sides)[task.name]
    seconds = time.perf_counter() - started
    added = peak_above(memory, encoder.device)
    count = len(task.queries) + len(task.documents)
    tokens = sum(len(side.ids) for side in tables)
    reciprocal = (1 / table["rank"]).where(table["rank"] <= 10, 0.0)
    rows = {
        "": {"value": count / seconds, "unit": "texts/s", "flops": 2 * body_parameters(encoder) * tokens / count},
        "-memory": {"value": added, "unit": "GB"},
        "-mrr": {"value": float(reciprocal.mean()), "unit": "MRR@10"},
    }
    return {"rows": rows}


def run_mining(order: Order, texts: dict[str, list]) -> Answer:
    """Hard negatives from texts: queries/s, the same for the search alone, and the negatives found."""
    encoder = warm_encoder(order)
    queries, documents = texts["query"], texts["positive"]
    embeddings: dict[str, np.ndarray] = {}

    def encode(part: list[str], side: str) -> np.ndarray:
        embeddings[side] = encoder.encode(part, side)
        return embeddings[side]

    def texts_of(mined: Mined) -> list[list[str]]:
        return [[documents[at] for at in row] for row in mined.negatives.tolist()]

    # The peer gets no rule on scores either, and looks at as many ranks.
    policy = MiningPolicy(count=10, stop=100, share=1.0)
    started = time.perf_counter()
    negatives = texts_of(mine_texts(encode, queries, documents, policy=policy))
    seconds = time.perf_counter() - started
    own = np.arange(len(queries))
    relevant = sparse.eye_array(len(queries)).tocsr()
    started = time.perf_counter()
    texts_of(mine(embeddings["query"], embeddings["document"], relevant, own, policy))
    searching = time.perf_counter() - started
    tables = encoder.tokens(queries, "query", False), encoder.tokens(documents, "document", False)
    tokens = sum(len(table.ids) for table in tables)
    rows = {
        "": {
            "value": len(queries) / seconds,
            "unit": "queries/s",
            "flops": 2 * body_parameters(encoder) * tokens / len(queries),
        },
        "-search": {
            "value": len(queries) / searching,
            "unit": "queries/s",
            "flops": 2 * len(documents) * encoder.dimension,
            "precision": "fp32",
        },
    }
    return {"rows": rows, "negatives": dict(zip(queries[:1000], negatives[:1000], strict=True))}


# -- parts ---------------------------------------------------------------------------------------


def warm_encoder(order: Order, dropout: float = 0.0) -> Encoder:
    """The encoder of an order, after its first batch."""
    settings, int8 = order.settings, order.precision == "int8"
    precision = "auto" if int8 else settings.precision
    encoder = load_encoder(settings.modelname, settings.maxlength, precision, dropout, best_device())
    if int8:
        in_int8(encoder)
    encoder.encode(WARMUP_TEXTS)
    return encoder


def token_tables(encoder: Encoder, rows: Rows, cached: bool = False, length: int = 0) -> dict[str, TokenTable]:
    """Token tables of the distinct queries ("query") and documents ("document") of `rows`, as `Encoder.tokens`."""
    texts = {"query": rows.queries, "document": rows.documents}
    return {side: encoder.tokens(part, side, cached, length) for side, part in texts.items()}


def task_tokens(encoder: Encoder, task: Task) -> list[TokenTable]:
    """Token tables of a task's queries and documents, not cached."""
    return [encoder.tokens(task.queries, "query", False), encoder.tokens(task.documents, "document", False)]


def token_count(rows: Rows, tables: dict[str, TokenTable]) -> int:
    """The tokens of all training rows, each text counted in every row that it occurs in."""
    documents = np.concatenate([rows.positive, *rows.negatives])
    return int(tables["query"].lengths[rows.query].sum() + tables["document"].lengths[documents].sum())


def body_parameters(encoder: Encoder) -> int:
    """Parameters of the transformer without its vocabulary table, which is looked up and not multiplied."""
    transformer = encoder.transformer
    return sum(p.numel() for p in transformer.parameters()) - transformer.get_input_embeddings().weight.numel()


def held_out(pairs: pd.DataFrame) -> Task:
    """The search task of the pairs that were not trained on."""
    return tasks_of(pairs)["q2d"]


def search_task(texts: dict[str, list]) -> Task:
    """The task that `texts.search_texts` describes."""
    relevant = [np.array(places) for places in texts["relevant"]]
    return Task("q2d", texts["queries"], texts["documents"], relevant, texts["queries"])


def reciprocal_ranks(task: Task, queries: np.ndarray, documents: np.ndarray) -> list[float]:
    """The reciprocal rank of each query."""
    return rank_all(task, embedding_scores(queries, documents))["mrr"].tolist()
