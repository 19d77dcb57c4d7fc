"""The gallery of a grid: its pages, and a card for each of its cells with settings, metric, curve and page."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hr_search.base import paths

_TABLES = ("cells.csv", "trials.csv")  # of a grid, and of a search
_LAST = "status"  # the column after the settings that vary


@dataclass(frozen=True)
class Card:
    """One cell of a grid.

    Attributes:
        run: its id.
        number: in the grid.
        status: finished, failed, waiting or pruned.
        error: why it failed.
        settings: those that vary, as `name=value`.
        page: of the executed notebook, relative to the reports; empty where there is none.
        row: what the index knows of its run; None where there is no finished one.
    """

    run: str
    number: str
    status: str
    error: str
    settings: list[str]
    page: str
    row: Any | None


@dataclass(frozen=True)
class Gallery:
    """A grid with its pages, relative to the reports, by their names, and the cards of its cells."""

    name: str
    pages: dict[str, str]
    cards: list[Card]


def galleries(runs: Mapping[str, Any]) -> list[Gallery]:
    """The grids of which there are pages, by name.

    Args:
        runs: what the index knows of each finished run, by its id.
    """
    found = []
    for folder in sorted(each.parent for name in _TABLES for each in (paths.metrics() / "grids").glob(f"*/{name}")):
        place = paths.reports() / folder.name
        pages = {page.stem: _relative(page) for page in sorted(place.glob("*.html"))}
        cards = [_card(row, place / "cells", runs) for row in _rows(folder)]
        if pages or any(card.page for card in cards):
            found.append(Gallery(folder.name, pages, cards))
    return found


def _rows(folder: Path) -> list[dict[str, str]]:
    """The rows of a grid's table; none where it is damaged, which `grid` itself reports."""
    table = next(folder / name for name in _TABLES if (folder / name).is_file())
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, restval=""))
    except (OSError, ValueError, csv.Error):
        return []
    return [row for row in rows if row.get("run") and _LAST in row]


def _card(row: dict[str, str], cells: Path, runs: Mapping[str, Any]) -> Card:
    names = list(row)
    varied = names[1 : names.index(_LAST)]
    page = next(iter(sorted((cells / row["run"]).glob("*.html"))), None)
    settings = [f"{name}={row[name]}" for name in varied]
    number, error = row[names[0]], row.get("error", "")
    return Card(row["run"], number, row[_LAST], error, settings, _relative(page) if page else "", runs.get(row["run"]))


def _relative(page: Path) -> str:
    return page.relative_to(paths.reports()).as_posix()
