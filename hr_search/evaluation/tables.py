"""Several tables in one evaluation: their mean, which decides in validation, and the figures of each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from hr_search.base.choices import METRICS
from hr_search.data.tasks import Task
from hr_search.evaluation.metrics import summarise
from hr_search.evaluation.scoring import Results


def validation_means(results: pd.DataFrame, goal: str, tables: list[str] | None = None) -> dict[str, float]:
    """The mean of every metric over the queries, and the standard error of the goal as `se`.

    With several tables every one counts alike, however many queries it has: the mean is that of the tables' means,
    and the goal of each table is there as well, such as `mrr_titles.csv`.

    Args:
        results: a row per query, from `rank_all`.
        goal: the metric that decides.
        tables: the table of each query; None = there is one.
    """
    if tables is None:
        return {name: float(results[name].mean()) for name in METRICS} | {"se": float(results[goal].sem())}
    parts = results.groupby(tables, sort=False)
    means, errors = parts[list(METRICS)].mean(), parts[goal].sem()
    row = {name: float(means[name].mean()) for name in METRICS}
    row["se"] = float(np.sqrt((errors**2).sum()) / len(means))
    return row | {f"{goal}_{table}": float(value) for table, value in means[goal].items()}


def tables_table(results: Results, tasks: Mapping[str, Task], seed: int) -> pd.DataFrame:
    """Every metric of every table by itself, with its 95 % bootstrap interval.

    Returns:
        table, system, direction, metric, value, low, high, queries.
    """
    parts = []
    for (system, direction), rows in results.items():
        for table, part in rows.groupby(tasks[direction].tables, sort=False):
            parts.append(summarise(part, seed).assign(table=table, system=system, direction=direction))
    columns = ["table", "system", "direction", "metric", "value", "low", "high", "queries"]
    return pd.concat(parts, ignore_index=True)[columns]
