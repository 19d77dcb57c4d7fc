"""The second stage of a run: opened before training, trained on lists, tested over the retriever's first texts."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from accelerate import Accelerator

from hr_search.base.choices import METRICS
from hr_search.batches import Rows
from hr_search.data.loading import Data
from hr_search.data.tasks import Task
from hr_search.encoder import Encoder
from hr_search.evaluation import scoring
from hr_search.fast.tokens import TokenTable
from hr_search.history import Progress
from hr_search.mining import Miner
from hr_search.models import condenser
from hr_search.policies import list_policy
from hr_search.reranking.candidates import candidates_of
from hr_search.reranking.cross_encoder import Reranker
from hr_search.reranking.pairs import SECOND, pair_rows
from hr_search.reranking.scorer import new_reranker
from hr_search.reranking.training import ListTraining
from hr_search.settings import Settings
from hr_search.train import carry_out

log = logging.getLogger(__name__)

VALIDATED = 200  # validation queries whose candidates are read at each validation
Held = tuple[Mapping[str, Task], Mapping[str, TokenTable]]  # tasks and the retriever's token tables of some rows


def open_second_stage(settings: Settings, data: Data, rows: Rows, accelerator: Accelerator) -> Reranker:
    """An untrained second stage for the data of a run, its vocabulary compacted to their texts.

    Raises:
        InputError: the model that `settings` name cannot be one.
    """
    pairs = data.train
    rules = condenser.learn(pairs["query"], pairs["positive"], settings.condense) if settings.condense else None
    reranker = new_reranker(
        settings.modelname,
        settings.maxlength,
        settings.precision,
        settings.dropout,
        accelerator.device,
        settings.seed,
        rules,
    )
    tasks = [task["q2d"] for task in (data.tasks("validation"), data.tasks("test")) if task]
    titles = [*rows.queries, *(text for task in tasks for text in task.queries)]
    shorter = reranker.length_of(settings.trainlength)
    trained = reranker.shortened(rows.documents, shorter) if shorter < reranker.maxlength else []
    texts = [*rows.documents, *(text for task in tasks for text in task.documents)]
    vacancies = [*trained, *reranker.shortened(texts, reranker.maxlength)]
    kept = reranker.compact([used_tokens(reranker, titles, vacancies)])
    log.info("second stage: %d embedding rows occur and are trained", kept)
    return reranker


def used_tokens(reranker: Reranker, titles: Sequence[str], vacancies: Sequence[str]) -> np.ndarray:
    """The distinct token ids that occur in any pair of these texts."""
    found = np.empty(0, np.int32)
    for firsts, seconds in ((titles, [""] * len(titles)), ([""] * len(vacancies), vacancies)):
        for at in range(0, len(firsts), 10_000):  # so that memory stays flat
            rows = pair_rows(
                reranker.tokenizer, firsts[at : at + 10_000], seconds[at : at + 10_000], reranker.maxlength
            )
            found = np.union1d(found, np.concatenate(rows) & ~SECOND)
    return found


def train_second_stage(
    reranker: Reranker,
    retriever: Encoder,
    rows: Rows,
    tokens: dict[str, TokenTable],
    validation: Held,
    settings: Settings,
    fingerprint: str,
    accelerator: Accelerator,
    report: Callable[[dict[str, float]], bool | None],
) -> Progress:
    """Trains `reranker` in place on lists that `retriever` mines once, and leaves its best weights in it.

    Args:
        reranker: the second stage.
        retriever: the first stage; it stays as it is.
        rows: the train rows.
        tokens: the retriever's token tables of their texts.
        validation: tasks and the retriever's token tables of the validation rows; empty without any.
        settings: of the run.
        fingerprint: of the data.
        accelerator: device and process.
        report: gets each row of the history as it comes; True ends the training there.

    Raises:
        InputError: as `train.fit`.
    """
    miner = Miner(rows, tokens, list_policy(settings), 1, settings.seed)
    miner.refresh(retriever, accelerator, 0)
    tasks, tables = validation
    read = None
    if tasks:
        sides = scoring.embed_sides(retriever, tables)
        read = candidates_of(reranker, tasks[settings.direction], sides, settings.reranktop, VALIDATED, settings.seed)
        first = read.ranked(-np.arange(read.found.shape[1], dtype=np.float32)[None].repeat(len(read.found), axis=0))
        value = first[settings.goal].mean()
        what = "validation: %d queries, the retriever's first %d texts of each; %s %.4f without a second stage"
        log.info(what, *read.found.shape, settings.goal, value)

    def validate(step: int) -> dict[str, float]:
        if read is None:
            return dict.fromkeys(METRICS, math.nan)
        table = read.ranked(read.logits(reranker))
        return {name: float(table[name].mean()) for name in METRICS} | {"se": float(table[settings.goal].sem())}

    progress = carry_out(ListTraining(reranker, rows, miner, settings, fingerprint, accelerator), validate, report)
    if read is not None and progress.best < value:
        what = (
            "alone, the second stage orders these texts worse than the retriever does (%s %.4f, not %.4f); `tune` tells"
        )
        log.warning(what + " whether a share of its score helps", settings.goal, progress.best, value)
    return progress


def measure_second_stage(
    reranker: Reranker, tasks: Mapping[str, Task], sides: Mapping[str, np.ndarray], settings: Settings
) -> tuple[scoring.Results, pd.DataFrame, pd.DataFrame]:
    """The test rows searched by the retriever, its first texts ranked again, in both directions.

    Args:
        reranker: the second stage.
        tasks: of the test rows.
        sides: embeddings of their texts by the retriever.
        settings: of the run.

    Returns:
        The per-query results of the system "trained", an empty table in place of cosines, as a second stage's scores
        are none, and what it costs: what, unit, value.
    """
    results, costs = {}, []
    for direction, task in tasks.items():
        started = time.perf_counter()
        read = candidates_of(reranker, task, sides, settings.reranktop)
        logits = read.logits(reranker, progress=True)
        each = 1000 * (time.perf_counter() - started) / len(read.found)
        results["trained", direction] = read.ranked(logits)
        costs.append({"what": f"second stage, {direction}: top {read.found.shape[1]}", "unit": "ms", "value": each})
        log.info("the second stage reads %d texts a query in %.0f ms (%s)", read.found.shape[1], each, direction)
    return results, pd.DataFrame(), pd.DataFrame(costs)
