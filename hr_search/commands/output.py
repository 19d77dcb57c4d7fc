"""What several verbs print: tables of metrics for people, one line of JSON for machines."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

from hr_search.base.errors import InputError, escaped, one_line, plain


def say(text: object) -> None:
    """Prints a line to standard output.

    Raises:
        InputError: its reader is gone, or its disk is full.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # else Python tries again, and complains, when it exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise InputError(
            f"standard output cannot be written ({one_line(error)}); send it to another place. Files that this command "
            "had written by then are kept."
        ) from error


def print_json(value: Any) -> None:
    """Prints a value as one line of JSON."""
    say(escaped(json.dumps(value, ensure_ascii=False)))


def records(table: Any) -> list[dict[str, Any]]:
    """The rows of a table, ready for JSON: what is missing is left out."""
    return [{name: value for name, value in row.items() if value == value} for row in table.to_dict("records")]


def fixed(table: Any) -> str:
    """A table as plain text, numbers with four decimals; what is missing stays empty."""
    return plain(table.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.4f}"))


def print_metrics(metrics: Any) -> None:
    """Prints a table of metrics with its intervals, one direction after the other."""
    from hr_search.evaluation.comparison import with_intervals

    for direction, words in {"q2d": "query to document", "d2q": "document to query"}.items():
        say(f"\n{direction}: {words}\n{with_intervals(metrics, direction).to_string()}")


def print_dimensions(table: Any, goal: str) -> None:
    """Prints the metric `goal` of embeddings cut to their leading dimensions."""
    rows = table[table["metric"] == goal].drop(columns="metric")
    say(f"\n{goal} of the first numbers of the embeddings\n{fixed(rows)}")
