"""The speed benchmark: ours against the installed sentence-transformers, side by side on one machine.

Every measurement runs in a process of its own, the two sides in turn, so that a machine that slows
down slows both. A row of the table holds medians, the spread and the compute limit: the rate at which
this machine multiplies matrices in that precision, divided by the operations a unit cannot do without.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hr_search.base import files, paths
from hr_search.base.devices import hardware
from hr_search.base.errors import InputError
from hr_search.bench import cases, peer
from hr_search.bench.cases import CASES, SIDES, Order
from hr_search.bench.meters import best_device
from hr_search.bench.processes import at_least, has_gpu, measure, model_folder
from hr_search.models import embedded
from hr_search.runs import provenance

log = logging.getLogger(__name__)

COLUMNS = [
    "case", "unit", "ours", "peer", "ratio", "ours_min", "ours_max", "peer_min", "peer_max", "runs", "limit",
    "hardware", "versions", "commit",
]  # fmt: skip
SAME_METRIC = 0.002  # between the MRR of both sides in fp32
_PACKAGES = ("torch", "transformers", "sentence-transformers")


def run_benchmark(
    case: str = "",
    runs: int = 5,
    steps: int = 8,
    datapath: str = "",
    threads: int = 0,
    out: str = "",
    scale: float = 1.0,
    model: str = embedded.NAME,
) -> pd.DataFrame:
    """Measures cases and puts their rows into the table of speeds, in place of older ones of this hardware.

    Args:
        case: one of CASES; empty = all that this machine can run.
        runs: of each side, in turn.
        steps: measured in a training run, after two that are not.
        datapath: table of pairs for the cases `train-infonce-...`; empty = ESCO.
        threads: of the processor, for both sides; 0 = as torch chooses.
        out: the table; empty = `metrics/speed.csv`.
        scale: share of the texts of `evaluate` and `mine`.
        model: "embedded", or a model's folder.

    Returns:
        The rows measured, with COLUMNS.

    Raises:
        InputError: an unknown case, no GPU for a case that needs one, a missing package, too little
            data, a run that failed, or sides that disagree on what they compute.
    """
    names = cases.chosen(case)
    at_least({"runs": (runs, 1), "steps": (steps, 1), "threads": (threads, 0)})
    if not 0 < scale <= 1:
        raise InputError(f"--scale is {scale:g}; it must be above 0 and at most 1.")
    peer.require()
    path = paths.resolve(out) if out else paths.metrics() / "speed.csv"
    read_table(path)
    tables = []
    for name in names:
        if CASES[name].gpu and not has_gpu():
            sentence = f"the case {name} needs an NVIDIA GPU, and torch finds none here."
            if case:
                raise InputError(sentence)
            log.info("%s", sentence)
            continue
        for suffix, order in CASES[name].orders.items():
            order = dataclasses.replace(order, model=model_folder(name, model), steps=steps, threads=threads)
            texts = cases.texts(order, datapath if name.startswith("train-infonce") else "", scale)
            tables.append(compare(name + suffix, order, texts, runs))
            replace_rows(path, tables[-1])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)


def compare(name: str, order: Order, texts: dict[str, list], count: int) -> pd.DataFrame:
    """The rows of one order, measured `count` times by each side in turn.

    Raises:
        InputError: a run failed, or the sides disagree.
    """
    answers: dict[str, list[dict]] = {side: [] for side in SIDES}
    for run in range(1, count + 1):
        for side in SIDES:
            answers[side].append(measure(side, order, texts))
        last = [answers[side][-1]["rows"][""]["value"] for side in SIDES]
        log.info("%s, run %d of %d: ours %.4g, peer %.4g", name, run, count, *last)
        if run == 1:
            refuse_disagreement(name, *(answers[side][0] for side in SIDES))
    ours, rows = answers["ours"], []
    machine = hardware(best_device())
    for suffix, first in ours[0]["rows"].items():
        values = {side: [answer["rows"][suffix]["value"] for answer in answers[side]] for side in SIDES}
        limit = np.nan
        if "flops" in first:
            limit = matrix_rate(first.get("precision", ours[0]["precision"]), order.threads) / first["flops"]
        rows.append(table_row(name + suffix, first["unit"], values["ours"], values["peer"], limit, machine))
    return pd.DataFrame(rows, columns=COLUMNS)


@functools.cache
def matrix_rate(precision: str, threads: int) -> float:
    """The rate of matrix products on this machine, FLOP/s, measured once."""
    return measure("ours", Order("rate", precision=precision, threads=threads), {})["rate"]


def table_row(
    name: str, unit: str, ours: Sequence[float], peer: Sequence[float], limit: float, hardware: str
) -> dict[str, Any]:
    """One row of the table: medians, their ratio, the spread, and what was measured on."""
    middle = {"ours": float(np.median(ours)), "peer": float(np.median(peer))}
    versions = provenance.versions()
    return {
        "case": name, "unit": unit, **middle,
        "ratio": middle["ours"] / middle["peer"] if middle["peer"] else np.nan,
        "ours_min": min(ours), "ours_max": max(ours), "peer_min": min(peer), "peer_max": max(peer),
        "runs": len(ours), "limit": limit, "hardware": hardware,
        "versions": ", ".join(f"{package} {versions[package]}" for package in _PACKAGES if package in versions),
        "commit": provenance.commit(),
    }  # fmt: skip


def refuse_disagreement(name: str, ours: dict, peer: dict) -> None:
    """Refuses speeds of things that are not the same.

    Raises:
        InputError: MRR, value of the loss or mined negatives differ by more than rounding explains.
    """
    same = ours["precision"] == "fp32"
    if "-mrr" in ours["rows"]:
        a, b = (answer["rows"]["-mrr"]["value"] for answer in (ours, peer))
        log.info("%s: MRR@10 ours %.4f (%s), peer %.4f (fp32)", name, a, ours["precision"], b)
        if same and abs(a - b) > SAME_METRIC:
            raise _disagreement(name, f"MRR@10 {a:.4f} and {b:.4f}")
    if "negatives" in ours:
        shares = [len(set(found) & set(ours["negatives"][query])) / len(found)
                  for query, found in peer["negatives"].items() if query in ours["negatives"]]  # fmt: skip
        log.info("%s: %.1f %% of the mined negatives are the same", name, 100 * np.mean(shares))
        if same and np.mean(shares) < 0.99:
            raise _disagreement(name, f"only {np.mean(shares):.1%} of the negatives are the same")
    if name.startswith("loss-"):
        a, b = ours["losses"][0], peer["losses"][0]
        if abs(a - b) > 1e-4 * abs(b):
            raise _disagreement(name, f"losses {a:.6f} and {b:.6f}")


def _disagreement(name: str, what: str) -> InputError:
    return InputError(
        f"{name}: the two sides compute different things ({what}), so their speeds are not compared; "
        "nothing was written for this case."
    )


# -- the table -----------------------------------------------------------------------------------


def read_table(path: Path | str) -> pd.DataFrame:
    """The table of speeds at `path`; without rows where there is none yet.

    Raises:
        InputError: the file holds something else.
    """
    path = Path(path)
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values={"limit": [""], "ratio": [""]})
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable table of speeds; move it away or give another --out.") from error
    if list(table.columns) != COLUMNS:
        raise InputError(f"{path} has other columns than a table of speeds; move it away or give another --out.")
    return table


def replace_rows(path: Path | str, rows: pd.DataFrame) -> None:
    """Puts `rows` into the table at `path`, in place of those of the same case and hardware."""
    table = read_table(path)
    keys = set(zip(rows["case"], rows["hardware"], strict=True))
    stays = [key not in keys for key in zip(table["case"], table["hardware"], strict=True)]
    parts = [part for part in (table[stays], rows) if len(part)]
    files.write_csv(path, pd.concat(parts, ignore_index=True) if parts else table)
