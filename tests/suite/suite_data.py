"""Suites and their tables in a folder of their own, and cells whose numbers are given."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml

from hr_search.base.choices import METRICS
from hr_search.settings import Settings
from hr_search.suite.cells import COLUMNS, Cell, System
from hr_search.suite.suite_file import SuiteTask

TITLES = ["welder", "baker", "nurse", "driver", "teacher", "lawyer"]
TEXTS = ["joins metal parts", "bakes bread in a hot oven", "watches over patients", "carries goods with a lorry"]
TEXTS += ["explains numbers to children", "writes contracts in court"]


def write_suite(folder: Path, *tasks: dict, name: str = "small", **keys) -> Path:
    """A suite file."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"tasks": list(tasks), **keys}, sort_keys=False), encoding="utf-8")
    return path


def write_table(folder: Path, name: str = "jobs.csv", count: int = 6) -> str:
    """A table of titles and texts; its path."""
    table = pd.DataFrame({"title": TITLES[:count], "description": TEXTS[:count]})
    table.to_csv(folder / name, index=False)
    return str(folder / name)


def task_of(name: str, family: str = "f", metric: str = "mrr", directions=("q2d",), **keys) -> SuiteTask:
    return SuiteTask(name, family, Settings(), metric=metric, directions=tuple(directions), **keys)


def cell_of(**values: list[float]) -> Cell:
    """A cell whose queries have these values of every metric, by direction."""
    rows = [
        {"direction": direction, "query": at, "group": at, "relevant": 1, "rank": 1, **dict.fromkeys(METRICS, value)}
        for direction, given in values.items()
        for at, value in enumerate(given)
    ]
    facts = {"documents": dict.fromkeys(values, 9), "seconds": 2.0, "memory_gb": 0.5}
    return Cell(pd.DataFrame(rows)[list(COLUMNS)], facts)


FLOOR = System("bm25", "bm25", "bm25", "bm25")
A, B = System("A", "models/A", "A-1", "fa"), System("B", "models/B", "B-1", "fb")
