"""What an export costs and saves: size, time and MRR beside the original, also with int8 and binary embeddings."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hr_search.base.choices import DIRECTIONS, SIDES
from hr_search.data.tasks import Task
from hr_search.evaluation.metrics import embedding_scores, rank_all
from hr_search.evaluation.significance import bootstrap_interval, paired_comparison

METRIC = "mrr"
_TIMED = 100  # texts of each side that are timed
_SKIPPED = ("memory", "__pycache__")  # folders that are not the model
Encode = Callable[[Sequence[str], str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class System:
    """One model, measured.

    Attributes:
        name: in the table.
        megabytes: of its folder.
        milliseconds: side to the median time of one text.
        sides: "query" (Q, D) and "document" (N, D) embeddings of the tasks.
    """

    name: str
    megabytes: float
    milliseconds: Mapping[str, float]
    sides: Mapping[str, np.ndarray]


def measure(name: str, encode: Encode, timed: Encode, megabytes: float, tasks: Mapping[str, Task]) -> System:
    """A model's embeddings of the tasks' texts, and the time that each text takes alone.

    Args:
        name: in the table.
        encode: texts and side to embeddings, as fast as it likes.
        timed: the same with the number of threads to be timed.
        megabytes: of the model.
        tasks: both directions over the same texts.
    """
    texts = {"query": tasks["q2d"].queries, "document": tasks["q2d"].documents}
    sides = {side: encode(texts[side], side) for side in SIDES}
    return System(name, megabytes, {side: median_ms(timed, texts[side], side) for side in SIDES}, sides)


def median_ms(encode: Encode, texts: Sequence[str], side: str) -> float:
    """The median of the milliseconds that up to 100 texts take, one by one, tokens included."""
    chosen = [texts[at] for at in np.linspace(0, len(texts) - 1, min(_TIMED, len(texts))).astype(int)]
    encode(chosen[:1], side)  # the first call also warms up
    taken = []
    for text in chosen:
        started = time.perf_counter()
        encode([text], side)
        taken.append(1000 * (time.perf_counter() - started))
    return float(np.median(taken))


def with_threads(encode: Encode, threads: int) -> Encode:
    """`encode` with so many threads of torch, which has as many as before in between."""

    def limited(texts: Sequence[str], side: str) -> np.ndarray:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return encode(texts, side)
        finally:
            torch.set_num_threads(before)

    return limited


def comparison_table(original: System, exported: System, tasks: Mapping[str, Task], seed: int) -> pd.DataFrame:
    """The original, the export, and the export with int8 and binary embeddings of the texts searched.

    Returns:
        system, direction, megabytes (of the model), bytes (of one stored embedding), ms_query and ms_document (of one
        text; the original's with sentence-transformers), queries,
        mrr, low, high, and the paired comparison with the original: difference, difference_low, difference_high, p.
    """
    rows = []
    stored = {"float32": lambda vectors: vectors, "int8": int8_embeddings, "binary": binary_embeddings}
    for direction in DIRECTIONS:
        groups = tasks[direction].groups
        base = _ranked(tasks[direction], original.sides, direction, stored["float32"])
        cells = [(original, original.name, "float32", base)]
        for kind, store in stored.items():
            name = exported.name if kind == "float32" else f"{exported.name}, {kind} embeddings"
            cells.append((exported, name, kind, _ranked(tasks[direction], exported.sides, direction, store)))
        for system, name, kind, values in cells:
            rows.append(_row(system, name, direction, kind, values) | _interval(values, seed, groups))
            if system is exported:
                rows[-1] |= _against(base, values, seed, groups)
    return pd.DataFrame(rows)


def int8_embeddings(vectors: np.ndarray) -> np.ndarray:
    """Embeddings (N, D) as they come back from int8 numbers, with one scale for each dimension."""
    scales = np.abs(vectors).max(0) / 127
    scales = np.where(scales > 0, scales, 1)
    return (np.rint(vectors / scales) * scales).astype(np.float32)


def binary_embeddings(vectors: np.ndarray) -> np.ndarray:
    """Embeddings (N, D) as they come back from one bit a number: whether it is above the mean of its dimension."""
    return np.where(vectors > vectors.mean(0), 1, -1).astype(np.float32)


def folder_megabytes(folder: Path | str) -> float:
    """The size of a model's folder; the memory of `tune` does not count."""
    files = (path for path in Path(folder).rglob("*") if path.is_file() and not set(_SKIPPED) & set(path.parts))
    return sum(path.stat().st_size for path in files) / 1e6


def _ranked(task: Task, sides: Mapping[str, np.ndarray], direction: str, store: Callable) -> np.ndarray:
    """The metric of each query, (Q,), where the texts searched are stored in another form."""
    left, right = ("query", "document") if direction == "q2d" else ("document", "query")
    searched, queries = store(sides[right]), sides[left][: len(task.queries)]
    if store is binary_embeddings:  # bits lie about the mean; the queries move there, too
        queries = queries - sides[right].mean(0)
    return rank_all(task, embedding_scores(queries, searched))[METRIC].to_numpy()


def _row(system: System, name: str, direction: str, kind: str, values: np.ndarray) -> dict[str, object]:
    dimension = system.sides["query"].shape[1]
    stored = {"float32": 4 * dimension, "int8": dimension, "binary": -(-dimension // 8)}[kind]
    return {
        "system": name,
        "direction": direction,
        "megabytes": round(system.megabytes, 1),
        "bytes": stored,
        "ms_query": round(system.milliseconds["query"], 3),
        "ms_document": round(system.milliseconds["document"], 3),
        "queries": len(values),
        METRIC: float(values.mean()),
    }


def _interval(values: np.ndarray, seed: int, groups: Sequence[str]) -> dict[str, float]:
    return dict(zip(("low", "high"), bootstrap_interval(values, seed, groups=groups), strict=True))


def _against(base: np.ndarray, values: np.ndarray, seed: int, groups: Sequence[str]) -> dict[str, float]:
    test = paired_comparison(base, values, seed, groups=groups)
    ends = {"difference_low": test["low"], "difference_high": test["high"], "p": test["p"]}
    return {"difference": test["difference"]} | ends
