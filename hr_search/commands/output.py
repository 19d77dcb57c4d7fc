"""What several verbs print: tables of metrics for people, one line of JSON for machines."""

from __future__ import annotations

import json
from typing import Any

from hr_search.base.errors import escaped


def print_json(value: Any) -> None:
    """Prints a value as one line of JSON."""
    print(escaped(json.dumps(value, ensure_ascii=False)))


def print_metrics(metrics: Any) -> None:
    """Prints a table of metrics with its intervals, one direction after the other."""
    from hr_search.evaluation.comparison import with_intervals

    for direction, words in {"q2d": "query to document", "d2q": "document to query"}.items():
        print(f"\n{direction}: {words}\n{with_intervals(metrics, direction).to_string()}")
