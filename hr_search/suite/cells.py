"""A cell: one system on one task, what it reached for each query, and the folder that keeps it.

The folder holds `queries.csv`, a row per direction and query, and `cell.json`, the rest. No texts are stored: a query
is its row among those of the task, and a group a number. A cell counts as measured while task, model and settings are
what they were, which their fingerprints say.
"""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from hr_search.base import files, paths
from hr_search.base.choices import DIRECTIONS, METRICS
from hr_search.base.errors import InputError, one_line, shown
from hr_search.base.peak import forget_peak, peak_above
from hr_search.data import loading
from hr_search.data.tasks import Task
from hr_search.encoder import Encoder
from hr_search.evaluation import scoring
from hr_search.evaluation.metrics import rank_all
from hr_search.evaluation.scoring import FLOORS
from hr_search.models import embedded
from hr_search.models.condenser import Condenser, learn
from hr_search.suite.cv_tasks import cv_tasks
from hr_search.suite.suite_file import SuiteTask

FORMAT = 3  # of the stored cells, and of how they are measured: a higher one makes all of them anew
COLUMNS = ("direction", "query", "group", "relevant", "rank", *METRICS)
_WHAT = {"data": "its data", "model": "the model", "settings": "its settings"}  # as a sentence names what has changed


@dataclasses.dataclass(frozen=True)
class Material:
    """A task as it was read.

    Attributes:
        tasks: the directions that are measured; "q2d" is always there, since it holds both sides.
        condenser: learnt from train rows; None unless the task wants one.
        fingerprint: of texts, relevance and condenser.
    """

    tasks: dict[str, Task]
    condenser: Condenser | None
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class System:
    """What is measured: a model or a lexical floor.

    Attributes:
        label: its name in the tables.
        name: "bm25" or "tfidf", or what `load_encoder` takes.
        folder: the name of its folders.
        fingerprint: of the model; equal to the name for a floor.
    """

    label: str
    name: str
    folder: str
    fingerprint: str

    @property
    def floor(self) -> bool:
        """Whether it is a lexical floor and no model."""
        return self.name in FLOORS


@dataclasses.dataclass(frozen=True)
class Cell:
    """A measured cell.

    Attributes:
        queries: `COLUMNS`, a row per direction and query.
        facts: documents (how many, by direction), seconds, memory_gb, fingerprints.
    """

    queries: pd.DataFrame
    facts: Mapping[str, Any]


# -- systems and tasks ---------------------------------------------------------------------------


def systems_of(models: Sequence[str]) -> list[System]:
    """The floors and the models, these still without a fingerprint.

    A model is called by its folder's name where no other one has it.

    Raises:
        InputError: no model, a floor in the place of one, or one given twice.
    """
    if not models:
        raise InputError("a suite needs a model; give --model, for example --model embedded.")
    places = {}
    for name in models:
        place = place_of(name)
        if name in FLOORS:
            raise InputError(f"every suite measures {name} beside its models; leave --model {name} out.")
        if place in places:
            other = f" (as {shown(places[place])})" if places[place] != name else ""
            raise InputError(f"the model {shown(name)} is given twice{other}; keep one of the two.")
        places[place] = name
    short = [Path(place).name if Path(place).is_absolute() else place for place in places]
    labels = [
        own if short.count(own) == 1 and own not in FLOORS else name
        for own, name in zip(short, models, strict=True)
    ]  # fmt: skip
    found = [System(name, name, name, name) for name in FLOORS]
    for (place, name), label in zip(places.items(), labels, strict=True):
        inside = os.path.relpath(place, paths.root()) if Path(place).is_absolute() else place
        slug = re.sub(r"[^\w-]+", "-", label)[-40:].strip("-_") or "model"
        found.append(System(label, name, f"{slug}-{files.digest(inside)[:8]}", ""))
    return found


def place_of(name: str) -> str:
    """The absolute folder of a model that has one; else its name."""
    try:
        folder = Path(name).expanduser().resolve()
        return str(folder) if name and name != embedded.NAME and folder.is_dir() else name
    except (OSError, RuntimeError, ValueError):  # no path at all; whoever loads the model says so
        return name


def read_material(task: SuiteTask) -> Material:
    """The data of a task, read and fingerprinted.

    Raises:
        InputError: they cannot be read, or there is nothing in them to condense by.
    """
    found = cv_tasks(task.settings) if task.cvs else _read_tasks(task)
    condenser = None
    if task.settings.condense:
        train = loading.load_data(task.settings).train
        condenser = learn(train["query"], train["positive"], task.settings.condense)
    parts: list[object] = [sorted(condenser.to_dict().items(), key=str) if condenser else ""]
    for direction, each in found.items():
        parts += [direction, each.relevantfrom, len(each.queries), *each.queries, len(each.documents), *each.documents]
        for lists in (each.relevant, each.grades, each.barred):
            parts += ["none"] if lists is None else [np.asarray(row).tolist() for row in lists]
    return Material(found, condenser, files.digest(*map(str, parts)))


def _read_tasks(task: SuiteTask) -> dict[str, Task]:
    """The search tasks of a table or a folder of judged queries."""
    return loading.search_tasks(task.settings, task.split, task.dropidentical)


# -- measuring -----------------------------------------------------------------------------------


def prints_of(task: SuiteTask, material: Material, system: System, precision: str) -> dict[str, str]:
    """What a stored cell must agree with to count as measured."""
    own = [FORMAT, *task.directions] + ([] if system.floor else [task.maxlength, precision])
    model = system.fingerprint
    data = material.fingerprint
    return {"data": data, "model": model, "settings": files.digest(*map(str, own))}


def measure_floor(task: SuiteTask, material: Material, system: System) -> Cell:
    """A lexical floor on a task."""

    def work() -> dict[str, pd.DataFrame]:
        wanted = {name: material.tasks[name] for name in task.directions}
        return {name: rank_all(each, FLOORS[system.name](each)) for name, each in wanted.items()}

    return _timed(work, material, torch.device("cpu"))


def measure_model(task: SuiteTask, material: Material, encoder: Encoder) -> Cell:
    """A model on a task, by the plain cosine; both sides are embedded once for both directions.

    Args:
        task: the task.
        material: its data.
        encoder: reads as many tokens as the task says. One without a condenser gets the task's, for this task.
    """

    def work() -> dict[str, pd.DataFrame]:
        sides = scoring.embed_sides(encoder, scoring.token_tables(encoder, material.tasks), progress=True)
        return scoring.evaluate_embeddings({name: material.tasks[name] for name in task.directions}, sides)

    own = encoder.condenser
    encoder.condenser = own or material.condenser
    try:
        return _timed(work, material, encoder.device)
    finally:
        encoder.condenser = own


def _timed(work: Callable[[], dict[str, pd.DataFrame]], material: Material, device: torch.device) -> Cell:
    """The cell of what `work` returns, with the seconds and the peak memory that it took."""
    forget_peak(device)
    begin = time.perf_counter()
    results = work()
    seconds = time.perf_counter() - begin
    parts = [
        table.assign(direction=name, query=range(len(table)), group=pd.factorize(table["group"])[0])
        for name, table in results.items()
    ]
    documents = {name: len(material.tasks[name].documents) for name in results}
    facts = {"documents": documents, "seconds": seconds, "memory_gb": peak_above(0.0, device)}
    return Cell(pd.concat(parts, ignore_index=True)[list(COLUMNS)], facts)


# -- storing -------------------------------------------------------------------------------------


def cell_folder(folder: Path, task: SuiteTask, system: System) -> Path:
    """The folder of a cell among the results of a suite."""
    return folder / "cells" / task.name / system.folder


def store(place: Path, cell: Cell, prints: Mapping[str, str]) -> None:
    """Writes a cell, whole or not at all; one that lies there is replaced.

    Raises:
        InputError: the place cannot be written.
    """
    with files.whole_folder(place) as folder:
        files.write_csv(folder / "queries.csv", cell.queries)
        files.write_json(folder / "cell.json", {"format": FORMAT, **cell.facts, "fingerprints": dict(prints)})


def stored(place: Path, prints: Mapping[str, str]) -> tuple[Cell | None, str]:
    """The cell that a folder keeps, if it is still that of these fingerprints.

    Returns:
        The cell and "", or None and why it has to be measured again ("" where there is none yet).
    """
    if not place.exists():
        return None, ""
    try:
        facts = files.read_json(place / "cell.json")
        changed = [_WHAT[name] for name, value in prints.items() if facts["fingerprints"][name] != value]
        if changed:
            return None, f"{' and '.join(changed)} {'have' if changed != ['the model'] else 'has'} changed"
        queries = pd.read_csv(place / "queries.csv")
        _require_whole(queries, facts)
    except (InputError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        return None, f"what is stored of it is damaged ({one_line(error, 120)})"
    return Cell(queries, facts), ""


def _require_whole(queries: pd.DataFrame, facts: Mapping[str, Any]) -> None:
    """Checks that the rows of a cell are complete and their numbers finite.

    Raises:
        InputError: they are not.
    """
    if tuple(queries.columns) != COLUMNS or not len(queries):
        raise InputError("queries.csv has other columns, or no rows")
    if set(queries["direction"]) != set(facts["documents"]) or not set(facts["documents"]) <= set(DIRECTIONS):
        raise InputError("queries.csv has other directions than cell.json")
    if not np.isfinite(queries[list(METRICS)].to_numpy(dtype=float)).all():
        raise InputError("queries.csv holds NaN or infinity")
    float(facts["seconds"]), float(facts["memory_gb"])
