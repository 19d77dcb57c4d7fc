"""The speed benchmark: ours against the installed sentence-transformers, side by side on one machine.

Every measurement runs in a process of its own, the two contenders in turn, so that a machine that slows down slows
both.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hr_search.base import paths
from hr_search.base.devices import hardware, multiplies_integers
from hr_search.base.errors import InputError
from hr_search.bench import cases, peer
from hr_search.bench.cases import CASES, CONTENDERS, Order
from hr_search.bench.meters import best_device, has_gpu
from hr_search.bench.model_folders import large_model, model_folder, small_model
from hr_search.bench.processes import measure
from hr_search.bench.table import COLUMNS, read_table, replace_rows, table_row
from hr_search.bench.texts import texts_for
from hr_search.models import embedded

log = logging.getLogger(__name__)

SAME_METRIC = 0.002  # allowed difference between the MRR of both contenders in fp32
SAME_NEGATIVES = 0.99  # share of the mined negatives that both must have in common in fp32


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
    """Measures cases and writes their rows to the table of speeds; they replace older ones of the same hardware.

    Args:
        case: one of CASES; empty = all that this machine can run.
        runs: of each contender, in turn.
        steps: measured in a training run, after two that are not.
        datapath: table of pairs for the cases `train-infonce-...`; empty = ESCO.
        threads: of the processor, for both contenders; 0 = torch decides.
        out: the table; empty = `metrics/speed.csv`.
        scale: share of the texts of `evaluate` and `mine`.
        model: "embedded", or a model's folder.

    Returns:
        The rows measured, with COLUMNS.

    Raises:
        InputError: an unknown case, no GPU for a case that needs one, a missing package, too little data, a run that
            failed, or contenders that disagree on what they compute.
    """
    names = runnable(case)
    cases.check_numbers({"runs": (runs, 1), "steps": (steps, 1), "threads": (threads, 0)})
    if not 0 < scale <= 1:
        raise InputError(f"--scale is {scale:g}; it must be above 0 and at most 1.")
    peer.require()
    path = paths.resolve(out) if out else paths.metrics() / "speed.csv"
    read_table(path)
    tables = []
    for name in names:
        given = {"model": case_model(name, model), "steps": steps, "threads": threads}
        table = datapath if name.startswith("train-infonce") else ""
        for suffix, order in CASES[name].orders.items():
            order = dataclasses.replace(order, **given)
            tables.append(compare(name + suffix, order, texts_for(order, table, scale), runs))
            replace_rows(path, tables[-1])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)


def smoke_case(
    path: Path | str,
    runs: int = 1,
    steps: int = 4,
    batchsize: int = 8,
    maxlength: int = 32,
    threads: int = 0,
) -> pd.DataFrame:
    """Measures the training of a small random model in seconds: too small for a verdict, enough to see both run.

    Args:
        path: the table that the row is written to.
        runs: of each contender, in turn.
        steps: measured, after one that is not.
        batchsize: rows per step.
        maxlength: tokens after which a text is cut.
        threads: of the processor; 0 = torch decides.

    Returns:
        The row measured, with COLUMNS.

    Raises:
        InputError: as `run_benchmark`.
    """
    cases.check_numbers({"runs": (runs, 1), "steps": (steps, 1), "batchsize": (batchsize, 1), "threads": (threads, 0)})
    peer.require()
    order = Order(
        "train",
        model=small_model(),
        batchsize=batchsize,
        maxlength=maxlength,
        warm=1,
        steps=steps,
        threads=threads,
    )
    table = compare("train-triplet-small", order, texts_for(order), runs)
    replace_rows(path, table)
    return table


def runnable(case: str) -> list[str]:
    """The case asked for, or all cases that this machine can run; the log names the others.

    Raises:
        InputError: there is no such case, or it needs a GPU or a package that is not here.
    """
    names = []
    for name in cases.chosen(case):
        try:
            if CASES[name].gpu and not has_gpu():
                raise InputError(f"the case {name} needs an NVIDIA GPU, and torch finds none here.")
            if CASES[name].int8 and not multiplies_integers():
                raise InputError(f"the case {name} needs a processor with integer products (VNNI).")
            names.append(name)
        except InputError as error:
            if case:
                raise
            log.info("%s is left out: %s", name, error)
    return names


def case_model(name: str, model: str) -> str:
    """The folder of the model that a case runs with."""
    return large_model() if CASES[name].large and model == embedded.NAME else model_folder(model)


# -- comparing -----------------------------------------------------------------------------------


def compare(name: str, order: Order, texts: dict[str, list], count: int) -> pd.DataFrame:
    """The rows of one order, measured `count` times by each contender in turn.

    Raises:
        InputError: a run failed, or the contenders disagree.
    """
    answers: dict[str, list[dict]] = {contender: [] for contender in CONTENDERS}
    for run in range(1, count + 1):
        for contender in CONTENDERS:
            answers[contender].append(measure(contender, order, texts))
        last = [answers[contender][-1]["rows"][""]["value"] for contender in CONTENDERS]
        log.info("%s, run %d of %d: ours %.4g, peer %.4g", name, run, count, *last)
        if run == 1:
            refuse_disagreement(name, answers["ours"][0], answers["peer"][0])
    rows = [row_of(name, suffix, order, answers) for suffix in answers["ours"][0]["rows"]]
    return pd.DataFrame(rows, columns=COLUMNS)


def row_of(name: str, suffix: str, order: Order, answers: dict[str, list[dict]]) -> dict[str, Any]:
    """The row of the table that the answers of both contenders give under one suffix."""
    values = {each: [answer["rows"][suffix]["value"] for answer in answers[each]] for each in CONTENDERS}
    first = answers["ours"][0]
    found = first["rows"][suffix]
    limit = np.nan
    if "flops" in found and first["precision"] != "int8":  # the limit is that of float products
        limit = matrix_rate(found.get("precision", first["precision"]), order.threads) / found["flops"]
    return table_row(name + suffix, found["unit"], values["ours"], values["peer"], limit, hardware(best_device()))


@functools.cache
def matrix_rate(precision: str, threads: int) -> float:
    """The rate of matrix products on this machine, FLOP/s, measured once."""
    return measure("ours", Order("rate", precision=precision, threads=threads), {})["rate"]


def refuse_disagreement(name: str, ours: dict, peer: dict) -> None:
    """Checks that both contenders compute the same, so that their speeds can be compared.

    Raises:
        InputError: in fp32, their MRR or their mined negatives differ by more than rounding explains.
    """
    exact = ours["precision"] == "fp32"
    if "-mrr" in ours["rows"]:
        a, b = (answer["rows"]["-mrr"]["value"] for answer in (ours, peer))
        log.info("%s: MRR@10 ours %.4f (%s), peer %.4f (fp32)", name, a, ours["precision"], b)
        if exact and abs(a - b) > SAME_METRIC:
            raise _disagreement(name, f"MRR@10 {a:.4f} and {b:.4f}")
    if "negatives" in ours:
        share = common_share(ours["negatives"], peer["negatives"])
        log.info("%s: %.1f %% of the mined negatives are the same", name, 100 * share)
        if exact and share < SAME_NEGATIVES:
            raise _disagreement(name, f"only {share:.1%} of the negatives are the same")


def common_share(ours: dict[str, list[str]], peer: dict[str, list[str]]) -> float:
    """The share of the peer's negatives that ours has, too, as a mean over the queries that both have."""
    shares = [len(set(found) & set(ours[query])) / len(found) for query, found in peer.items() if query in ours]
    return float(np.mean(shares))


def _disagreement(name: str, what: str) -> InputError:
    return InputError(
        f"{name}: the two contenders compute different things ({what}), so their speeds are not compared; "
        "nothing was written for this case."
    )
