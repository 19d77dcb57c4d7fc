"""How well a model searches when its embeddings are cut to their leading dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from hr_search.data.tasks import Task
from hr_search.evaluation.metrics import summarise
from hr_search.evaluation.scoring import evaluate_embeddings


def dimensions_table(
    tasks: Mapping[str, Task], sides: Mapping[str, np.ndarray], sizes: Sequence[int], seed: int
) -> pd.DataFrame:
    """Every metric of whole and of cut embeddings, with its 95 % bootstrap interval.

    Args:
        tasks: directions to evaluate.
        sides: whole embeddings, "query" (Q, D) and "document" (N, D).
        sizes: leading sizes below D.
        seed: of the bootstrap.

    Returns:
        direction, dimensions (D first), metric, value, low, high.
    """
    parts = [
        summarise(_results(task, sides, size), seed).assign(direction=direction, dimensions=size)
        for direction, task in tasks.items()
        for size in (sides["query"].shape[1], *sizes)
    ]
    columns = ["direction", "dimensions", "metric", "value", "low", "high"]
    return pd.concat(parts, ignore_index=True)[columns]


def goal_at(task: Task, sides: Mapping[str, np.ndarray], sizes: Sequence[int], goal: str) -> dict[str, float]:
    """The mean of the metric `goal` at each leading size: `{"mrr_128": 0.61, "mrr_64": 0.58}`."""
    return {f"{goal}_{size}": float(_results(task, sides, size)[goal].mean()) for size in sizes}


def _results(task: Task, sides: Mapping[str, np.ndarray], size: int) -> pd.DataFrame:
    """Per-query metrics of the embeddings cut to their first `size` numbers; scoring takes them of any length."""
    cut = {side: vectors[:, :size] for side, vectors in sides.items()}
    return evaluate_embeddings({task.name: task}, cut)[task.name]
