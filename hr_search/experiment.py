"""One experiment from settings to a finished run: data, floors, base, training, test, tables, model."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator

from hr_search import train
from hr_search.base import files, paths
from hr_search.base.choices import METRICS
from hr_search.base.devices import hardware
from hr_search.base.errors import InputError, shown
from hr_search.batches import Rows, epoch_batches, index_rows
from hr_search.data import loading
from hr_search.data.loading import Data
from hr_search.data.tasks import Task
from hr_search.encoder import Encoder, load_encoder
from hr_search.evaluation import scoring
from hr_search.evaluation.significance import verdict
from hr_search.fast.tokens import TokenTable
from hr_search.miner import check_mining
from hr_search.models import condenser
from hr_search.release import command, model_card, require_output, require_place, save_model
from hr_search.runs import folders, provenance
from hr_search.runs.folders import Run
from hr_search.runs.ledgers import append_rows
from hr_search.runs.probes import Probes
from hr_search.runs.tracking import Tracker, require_tracker
from hr_search.settings import Settings

log = logging.getLogger(__name__)

_TEXTS = {"query": "queries", "document": "documents"}  # side -> attribute of Rows
_LONELY = 0.1  # of rows or batches that may have nothing to learn from


def run_experiment(settings: Settings, runid: str = "") -> Run:
    """Trains and tests as `settings` say and writes the run folder, its summary last.

    Args:
        settings: the run's settings.
        runid: the folder's name under `metrics/runs/`; empty = a fresh one of project name and time.

    Returns:
        The finished run.

    Raises:
        InputError: anything wrong with data, model, settings or places to write.
    """
    started = time.perf_counter()
    begun = datetime.now(UTC).astimezone().isoformat(timespec="seconds")
    places = {name: os.path.expanduser(getattr(settings, name)) for name in ("outputpath", "checkpointpath")}
    settings = settings.replace(**places)
    check(settings)
    data = loading.load(settings)
    rows = index_rows(data.train)
    accelerator = train.make_accelerator()
    check_rows(settings, data, rows, accelerator.num_processes)
    if not accelerator.is_main_process:
        logging.getLogger("hr_search").setLevel(logging.ERROR)
    with accelerator.main_process_first():  # it builds and downloads; the others find the files
        encoder = load_encoder(
            settings.modelname, settings.maxlength, settings.precision, settings.dropout, accelerator.device,
            {"query": settings.queryprompt, "document": settings.documentprompt},
        )  # fmt: skip
    if settings.condense:
        encoder.condenser = condenser.learn(data.train["query"], data.train["positive"], settings.condense)
    validation, test = data.tasks("validation"), data.tasks("test")
    with accelerator.main_process_first():
        length = settings.trainlength
        tables = {side: encoder.tokens(getattr(rows, texts), side, length=length) for side, texts in _TEXTS.items()}
        held_out = [scoring.token_tables(encoder, tasks) if tasks else {} for tasks in (validation, test)]
    # Every process of a launch computes the same numbers; the others' copies are thrown away.
    create = folders.create_run if accelerator.is_main_process else folders.scratch_run
    run = create(runid, settings.projectname)
    files.write_json(run.folder / "config.json", settings.to_dict())
    files.write_json(run.folder / "environment.json", environment(settings, data, encoder, accelerator))
    log.info(
        "run %s: %d train, %d validation, %d test rows", run.id, len(data.train), len(data.validation), len(data.test)
    )
    kept = encoder.compact([table for group in (tables, *held_out) for table in group.values()])
    log.info("vocabulary: %d of %d embedding rows occur and are trained", kept, len(encoder.model.tokenizer))

    results: scoring.Results = {}
    if test:
        log.info("test, before training: BM25, TF-IDF and the base model")
        found, cosines = measure("base", encoder, test, held_out[1], settings.seed)
        results |= scoring.evaluate_floors(test) | found
    with Tracker(settings, accelerator) as tracker:
        probes = _probes(run, validation, settings)

        def validate(step: int) -> dict[str, float]:
            if not validation:
                return dict.fromkeys(METRICS, math.nan)
            sides = scoring.embed_sides(encoder, held_out[0])
            probes.keep(step, sides)
            scores = scoring.evaluate_embeddings({settings.direction: validation[settings.direction]}, sides)
            return {name: float(scores[settings.direction][name].mean()) for name in METRICS}

        if settings.resume and validation:
            # Drift is measured against the base model, and a resumed run does not pass step 0 again.
            probes.keep(0, scoring.embed_sides(encoder, held_out[0]))
        try:
            progress = train.fit(encoder, rows, tables, settings, validate, data.fingerprint, accelerator, tracker.log)
        except InputError:  # a checkpoint of another run, a loss that is no number: there is no result to keep
            shutil.rmtree(run.folder, ignore_errors=True)
            raise
    run.write("history", pd.DataFrame(progress.history))
    if progress.mining:
        run.write("mining", pd.DataFrame(progress.mining))
    if test:
        log.info("test, after training")
        found, after = measure("trained", encoder, test, held_out[1], settings.seed)
        write_tables(run, test, results | found, data.train, settings.seed)
        run.write("scores", pd.concat([cosines, after]))
        run.write("timing", scoring.timing_table(encoder, test["q2d"].documents, 500, settings.seed))
    encoder.expand()
    summary = summarise(run, settings, data, progress, begun, time.perf_counter() - started)
    if not (run.folder / "config.json").is_file():
        raise InputError(f"{run.folder} was removed while the run went on; start it again.")
    # Before the model: a disk that is full must not cost the results.
    files.write_json(run.folder / "summary.json", summary)
    if accelerator.is_main_process:
        deliver(run, settings, summary, encoder)
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        shutil.rmtree(run.folder.parent)
    return run


def deliver(run: Run, settings: Settings, summary: dict, encoder: Encoder) -> None:
    """Adds the run to the ledger of all runs and saves the model where it was asked for."""
    if summary["metrics"]:
        try:
            append_rows(paths.metrics() / "results.csv", ledger_rows(run, settings, summary))
        except InputError as error:  # a ledger from elsewhere must not cost a finished run
            log.warning("%s", error)
    log.info("%s", summary["verdict"])
    if settings.outputpath:
        save_model(encoder, settings.outputpath, model_card(settings, summary))
    else:
        log.info("the model is not kept: no --outputpath was given")


def open_or_smoke(runid: str = "") -> Run:
    """The run called `runid`, or the newest; where there is none yet, a smoke run of a minute makes one.

    Raises:
        InputError: a run id was given and there is no such run.
    """
    if runid or folders.list_runs():
        return folders.open_run(runid)
    log.info("no finished run yet: a smoke run on the Russian sample makes one")
    smoke = Settings(datapath="sample_ru", testshare=0.2, maxlength=48, batchsize=16, maxsteps=4, projectname="smoke")
    return run_experiment(smoke)


def check(settings: Settings) -> None:
    """Refuses combinations of settings that cannot work, before anything is loaded.

    Raises:
        InputError: naming the settings.
    """
    if settings.resume and not settings.checkpointpath:
        raise InputError("--resume needs --checkpointpath, the file to go on from.")
    if settings.outputpath:
        require_output(settings.outputpath)
    if settings.checkpointpath:
        if Path(settings.checkpointpath).is_dir():
            raise InputError(f"checkpointpath {settings.checkpointpath} is a folder; give the path of a file.")
        require_place(Path(settings.checkpointpath).absolute())
        if settings.outputpath and Path(settings.checkpointpath).resolve() == Path(settings.outputpath).resolve():
            raise InputError(f"checkpointpath and outputpath are both {settings.outputpath}; give two places.")
    if settings.trainlength > settings.maxlength:
        raise InputError(
            f"trainlength {settings.trainlength} is more than maxlength {settings.maxlength}; lower it, or take 0."
        )
    ranked = settings.loss != "triplet" and settings.symmetric
    if settings.negatives == "mined" and settings.mineside == "query" and not ranked:
        raise InputError(
            "--mineside query mines wrong queries for the documents, which only infonce and margin-ce with --symmetric "
            "rank; change --loss or take --mineside document."
        )
    require_tracker(settings.tracker)


def check_rows(settings: Settings, data: Data, rows: Rows, processes: int = 1) -> None:
    """Refuses data that cannot train under these settings; a step has the batches of all processes.

    Raises:
        InputError: what is missing and which setting helps.
    """
    step, mined = settings.batchsize * processes, settings.negatives == "mined"
    bare = np.array([not len(wrong) for wrong in rows.negatives], dtype=bool)  # rows without wrong documents
    if settings.negatives == "given" and bare.all():
        raise InputError(
            "--negatives given needs wrong documents in the table, and it has none; take --negatives batch."
        )
    if step < 2 and not mined and bare.mean() > _LONELY:
        raise InputError(
            f"a batch of one row without given negatives has nothing to compare with, and {bare.sum()} of {len(bare)} "
            "rows have none; take --negatives batch and a --batchsize of 2 or more."
        )
    if mined:
        check_mining(settings, rows)
    if settings.mixing != "none" and 0 < settings.bank < (most := most_documents(settings, rows, step)):
        raise InputError(
            f"a bank of {settings.bank} documents is smaller than a batch, which has up to {most}; raise --bank or "
            "take 0, the batch only."
        )
    if step > 1 and rows.document_groups.shape[1] == 1:
        raise InputError("all rows belong to one group, so no document is wrong for any query; look at --groupcolumn.")
    if settings.negatives in ("batch", "random"):
        refuse_lonely_batches(step, settings.seed, data.train["group"], bare)
    if not len(data.validation):
        log.warning("no validation rows: the last weights are kept and nothing stops the run early")
    if settings.mixing != "none" and (rows.document_groups.sum(axis=0) < 2).all():
        log.warning("no group has two documents, so mixing finds no positives, only negatives")


def refuse_lonely_batches(step: int, seed: int, groups: pd.Series, bare: np.ndarray) -> None:
    """Refuses groups so large that they fill whole batches, where no document would be wrong for any query.

    Args:
        step: rows of a step; with `seed` it decides who meets in the first epoch.
        seed: of the run.
        groups: of the train rows.
        bare: whether each row comes without wrong documents.

    Raises:
        InputError: more than a tenth of the batches are like that, naming the largest group.
    """
    codes = pd.factorize(groups)[0]
    batches = epoch_batches(len(codes), step, seed, 0)
    lonely = sum(bool(bare[batch].all()) and len(set(codes[batch].tolist())) == 1 for batch in batches)
    if lonely > len(batches) * _LONELY:
        sizes = groups.value_counts()
        raise InputError(
            f"{lonely} of {len(batches)} batches would hold one group only, in which no document is wrong: the group "
            f'"{shown(str(sizes.index[0]))}" has {sizes.iloc[0]} of {len(groups)} rows; raise --batchsize or look at '
            "--groupcolumn."
        )


def most_documents(settings: Settings, rows: Rows, step: int) -> int:
    """The most distinct documents a step of so many rows can have."""
    given = max((len(wrong) for wrong in rows.negatives), default=0)
    mined = settings.minecount if (settings.negatives, settings.mineside) == ("mined", "document") else 0
    return min(len(rows.documents), (step + 1) * (1 + given + mined))


def environment(settings: Settings, data: Data, encoder: Encoder, accelerator: Accelerator) -> dict:
    """What a run's numbers depend on besides its settings."""
    return {
        "versions": provenance.versions(), "commit": provenance.commit(), "hardware": hardware(encoder.device),
        "device": str(encoder.device), "processes": accelerator.num_processes, "threads": torch.get_num_threads(),
        "precision": "bf16" if encoder.bf16 else "fp32", "model": encoder.name, "dimension": encoder.dimension,
        "data": {"name": data.name, "fingerprint": data.fingerprint, **data.counts},
    }  # fmt: skip


def measure(
    system: str, encoder: Encoder, tasks: dict[str, Task], tables: dict[str, TokenTable], seed: int
) -> tuple[scoring.Results, pd.DataFrame]:
    """The per-query results of an encoder as it is now, in both directions, and a sample of its cosines."""
    sides = scoring.embed_sides(encoder, tables, progress=True)
    found = scoring.evaluate_embeddings(tasks, sides)
    results = {(system, direction): table for direction, table in found.items()}
    return results, scoring.scores_table(system, tasks, sides, seed)


def write_tables(
    run: Run, tasks: dict[str, Task], results: scoring.Results, train_rows: pd.DataFrame, seed: int
) -> None:
    """Writes metrics, queries, documents and comparison of a test."""
    run.write("metrics", scoring.metrics_table(results, seed))
    run.write("queries", scoring.queries_table(results, scoring.seen_titles(train_rows, tasks)))
    run.write("documents", scoring.documents_table(tasks))
    run.write("comparison", scoring.comparison_table(results, seed))


def ledger_rows(run: Run, settings: Settings, summary: dict) -> pd.DataFrame:
    """The run's metrics for `metrics/results.csv`, the table of all runs that outlives their folders."""
    known = {
        "run": run.id,
        "started": summary["started"],
        "data": summary["data"]["name"],
        "fingerprint": summary["data"]["fingerprint"],
        "model": settings.modelname,
        "steps": summary["steps"],
        "seed": settings.seed,
    }
    return run.table("metrics").assign(**known, command=summary["command"])


def summarise(run: Run, settings: Settings, data: Data, progress: train.Progress, begun: str, seconds: float) -> dict:
    """The summary of a run: what it was, its metrics, and a sentence whether training helped."""
    tested = (run.folder / "metrics.csv").is_file()
    if tested:
        comparison = run.table("comparison")
        row = comparison[(comparison.a == "base") & (comparison.direction == settings.direction)
                         & (comparison.metric == settings.goal)].iloc[0]  # fmt: skip
        sentence = verdict(row, settings.goal, "base", "trained")
    else:
        sentence = "no test rows, so no verdict: give --testpath or a --testshare above 0."
    return {
        "run_id": run.id, "projectname": settings.projectname, "started": begun, "seconds": seconds,
        "training_seconds": progress.seconds, "steps": progress.step, "best_step": progress.best_step,
        "data": {"name": data.name, "fingerprint": data.fingerprint}
        | {part: len(getattr(data, part)) for part in ("train", "validation", "test")},
        "model": settings.modelname, "command": command(settings, train.make_accelerator().num_processes),
        "metrics": scoring.nested(run.table("metrics")) if tested else {}, "verdict": sentence,
    }  # fmt: skip


def _probes(run: Run, validation: dict[str, Task], settings: Settings) -> Probes:
    if not validation:
        return Probes(run, {}, {}, 0)
    task, back = validation["q2d"], validation["d2q"]
    # Documents of a judged collection that are nobody's answer have no group; they stand behind the others.
    limit = min(settings.probes, len(back.queries)) if len(back.queries) < len(task.documents) else settings.probes
    return Probes(
        run,
        {"query": task.queries, "document": task.documents},
        {"query": task.groups, "document": back.groups},
        limit,
    )
