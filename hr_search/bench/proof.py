"""What the speeds rest on: the proof that both contenders train alike, and how our cost grows with the rows."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hr_search.base import files, paths
from hr_search.base.errors import InputError
from hr_search.bench import peer
from hr_search.bench.cases import CONTENDERS, Order, check_numbers
from hr_search.bench.model_folders import model_folder
from hr_search.bench.processes import measure
from hr_search.bench.texts import texts_for, write_generated
from hr_search.evaluation.significance import bootstrap_interval
from hr_search.models import embedded

log = logging.getLogger(__name__)

SAME_LOSS = 0.01  # allowed relative difference between the losses of both contenders at each step
SCALES = (10_000, 100_000, 1_000_000)
_TIMES = ["start_first_s", "start_again_s", "start_cpu_s", "step_ms"]
GROWTH = ["rows", *_TIMES, "start_memory_gb", "memory_above_model_gb"]


# -- equal training ------------------------------------------------------------------------------


def proof(
    steps: int = 16, learnsteps: int = 30, threads: int = 0, out: str = "", model: str = embedded.NAME
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Shows that both contenders do the same training, by the loss of every step and the quality of the models.

    Without dropout and in fp32 the losses of the same batches must agree at every step (SAME_LOSS).
    With dropout 0.1 the draws differ, so the models after `learnsteps` are compared on held-out pairs.

    Args:
        steps: compared one by one.
        learnsteps: of the training with dropout.
        threads: of the processor; 0 = torch decides.
        out: the table of losses; empty = `metrics/speed_proof.csv`. The metrics go beside it, with `_metrics` at the
            end of the name.
        model: "embedded", or a model's folder.

    Returns:
        Losses (`loss`, `step`, `ours`, `peer`, `difference`: relative) and metrics (`loss`, `system`: base, ours, peer
        or the difference ours - peer; `metric`, `value`, `low`, `high`: 95 %, `queries`).

    Raises:
        InputError: a missing package, too little data, or a run that failed.
    """
    check_numbers({"steps": (steps, 3), "learnsteps": (learnsteps, 3), "threads": (threads, 0)})
    peer.require()
    path = paths.resolve(out) if out else paths.metrics() / "speed_proof.csv"
    losses, metrics = [], []
    for name in ("triplet", "infonce"):
        order = Order("learn", loss=name, model=model_folder(model), threads=threads, dropout=0.0, warm=1)
        # An order trains for one step before and one after those that are measured.
        ours, theirs = answers(dataclasses.replace(order, steps=steps - 2))
        losses.append(loss_table(name, ours["losses"], theirs["losses"]))
        ours, theirs = answers(dataclasses.replace(order, steps=learnsteps - 2, dropout=0.1))
        metrics.append(metric_table(name, {"base": ours["base"], "ours": ours["mrr"], "peer": theirs["mrr"]}))
    tables = pd.concat(losses, ignore_index=True), pd.concat(metrics, ignore_index=True)
    files.write_csv(path, tables[0])
    files.write_csv(path.with_name(f"{path.stem}_metrics{path.suffix}"), tables[1])
    worst = 100 * tables[0]["difference"].max()
    log.info("the losses of both contenders differ by %.4f %% at most (allowed: %.0f %%)", worst, 100 * SAME_LOSS)
    return tables


def answers(order: Order) -> list[dict]:
    """The answers of both contenders to one order."""
    texts = texts_for(order)
    return [measure(contender, order, texts) for contender in CONTENDERS]


def loss_table(name: str, ours: Sequence[float], peer: Sequence[float]) -> pd.DataFrame:
    """The losses of both contenders step by step, with their relative difference."""
    table = pd.DataFrame({"loss": name, "step": range(1, len(ours) + 1), "ours": ours, "peer": peer})
    return table.assign(difference=(table["ours"] - table["peer"]).abs() / table["peer"].abs().clip(lower=1e-9))


def metric_table(name: str, ranks: dict[str, list[float]]) -> pd.DataFrame:
    """The mean reciprocal rank of each system with its interval, and that of the difference ours - peer."""
    values = {system: np.array(each) for system, each in ranks.items()}
    values["difference"] = values["ours"] - values["peer"]
    rows = []
    for system, each in values.items():
        low, high = bootstrap_interval(each, 0)
        row = {"loss": name, "system": system, "metric": "mrr", "value": each.mean()}
        rows.append(row | {"low": low, "high": high, "queries": len(each)})
    return pd.DataFrame(rows)


# -- growth --------------------------------------------------------------------------------------


def scale_table(
    sizes: Sequence[int] = SCALES,
    steps: int = 20,
    threads: int = 0,
    out: str = "",
    model: str = embedded.NAME,
    rows: int = 0,
    stream: bool = False,
) -> pd.DataFrame:
    """What more rows cost: generated pairs, a fixed number of steps, each size twice with one token cache.

    Args:
        sizes: numbers of rows.
        steps: measured.
        threads: of the processor; 0 = torch decides.
        out: the table; empty = `metrics/scale.csv`, with `stream` `metrics/scale_stream.csv`. Its rows for other
            numbers of rows stay.
        model: "embedded", or a model's folder.
        rows: measure this number of rows alone; 0 = `sizes`.
        stream: read a JSONL file in blocks (`--stream`) instead of a CSV file.

    Returns:
        `rows`, `start_first_s` and `start_again_s` (seconds from the table's file to the first step, without and with
        the caches; imports and loading of the model not counted), `start_cpu_s` (of the first, seconds of processor
        time: other programs do not count), `step_ms` (median), `start_memory_gb` (peak of the first run before its
        first step, above the loaded model) and `memory_above_model_gb` (with its steps).

    Raises:
        InputError: a run failed, or the file is another table.
    """
    sizes = [rows] if rows else sizes
    check_numbers({"steps": (steps, 1), "threads": (threads, 0), "rows": (min(sizes), 100)})
    path = paths.resolve(out) if out else paths.metrics() / ("scale_stream.csv" if stream else "scale.csv")
    kept, order = _kept(path), Order("start", model=model_folder(model), batchsize=32, steps=steps, threads=threads)
    found = []
    for size in sizes:
        share = max(0.001, 20 / size)  # parts drawn by a hash need some groups
        recipe = {"stream": True, "validationshare": share, "testshare": share} if stream else {}
        found.append(scale_row(dataclasses.replace(order, recipe=recipe), size))
        others = kept[~kept["rows"].isin([row["rows"] for row in found])]
        files.write_csv(path, pd.DataFrame([*others.to_dict("records"), *found]).sort_values("rows"))
    return pd.DataFrame(found)


def _kept(path: Path) -> pd.DataFrame:
    """The table that `scale_table` wrote at a path; no rows where there is none.

    Raises:
        InputError: the file is another table.
    """
    if not path.exists():
        return pd.DataFrame(columns=GROWTH)
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError):
        table = pd.DataFrame()
    if list(table.columns) != GROWTH:
        raise InputError(f"{path} is not a table of what rows cost; move it away or give another --out.")
    return table


def scale_row(order: Order, size: int) -> dict[str, float]:
    """One row of `scale_table`."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / ("pairs.jsonl" if order.recipe.get("stream") else "pairs.csv")
        write_generated(table, size)
        home = {paths.HOME_VARIABLE: folder}  # with a token cache that is empty the first time
        first, again = (measure("ours", order, {"path": [str(table)]}, home) for _ in range(2))
    log.info("%d rows: %s", size, {name: round(value, 3) for name, value in first.items() if "_" in name})
    return {
        "rows": size,
        "start_first_s": first["start_s"],
        "start_again_s": again["start_s"],
        "start_cpu_s": first["start_cpu_s"],
        "step_ms": again["step_ms"],
        "start_memory_gb": first["start_memory_gb"],
        "memory_above_model_gb": first["memory_gb"],
    }
