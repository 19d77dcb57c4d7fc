"""One experiment from settings to a finished run: prepare, train, test, deliver."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import shutil
import time
from datetime import UTC, datetime

import pandas as pd
import torch
from accelerate import Accelerator

from hr_search import train
from hr_search.base import files, paths
from hr_search.base.choices import METRICS
from hr_search.base.errors import InputError
from hr_search.batches import Rows, index_rows
from hr_search.checks import check_rows, check_settings
from hr_search.data.loading import Data, load_data
from hr_search.data.tasks import Task
from hr_search.encoder import Encoder, load_encoder
from hr_search.evaluation import scoring, timing
from hr_search.evaluation.significance import verdict
from hr_search.fast.tokens import TokenTable
from hr_search.history import Progress
from hr_search.lessons import Lessons
from hr_search.models import condenser
from hr_search.release import command, model_card, model_folder, save_model
from hr_search.reranking import stage
from hr_search.reranking.cross_encoder import Reranker
from hr_search.reranking.teaching import make_lessons
from hr_search.runs import folders, provenance
from hr_search.runs.folders import Run
from hr_search.runs.ledgers import append_rows, ledger_rows
from hr_search.runs.probes import probes_of
from hr_search.runs.tracking import Tracker
from hr_search.settings import Settings

log = logging.getLogger(__name__)

Tokens = dict[str, TokenTable]  # of both sides, "query" and "document"
Tasks = dict[str, Task]  # in both directions, "q2d" and "d2q"; empty without rows


@dataclasses.dataclass
class Prepared:
    """Everything a run needs before its first step.

    Attributes:
        settings: of the run, with absolute places.
        data: train, validation and test rows.
        rows: the train rows over distinct texts.
        encoder: the base model, its vocabulary compacted to the texts of the run; in stage rerank the retriever.
        tokens: token tables of the train rows.
        validation: tasks and token tables of the validation rows.
        test: tasks and token tables of the test rows.
        lessons: the teacher's scores of the train rows; None without a teacher.
        second: the second stage in stage rerank, which is trained instead of the encoder; else None.
        accelerator: device and processes.
        run: the run's folder; for every process but the first, a temporary one.
        begun: date and time of the beginning; `started` is the same moment on a clock for durations, s.
        claims: on the places that it writes, until it is closed.
    """

    settings: Settings
    data: Data
    rows: Rows
    encoder: Encoder
    tokens: Tokens
    validation: tuple[Tasks, Tokens]
    test: tuple[Tasks, Tokens]
    lessons: Lessons | None
    second: Reranker | None
    accelerator: Accelerator
    run: Run
    begun: str
    started: float
    claims: contextlib.ExitStack


def run_experiment(settings: Settings, runid: str = "") -> Run:
    """Trains and tests as `settings` say and writes the run folder, its summary last.

    Args:
        settings: the run's settings.
        runid: the folder's name under `metrics/runs/`; empty = a fresh one of project name and time.

    Returns:
        The finished run.

    Raises:
        InputError: anything wrong with data, model, settings or places to write.

    Example:
        >>> run = run_experiment(Settings(datapath="sample_ru", testshare=0.2, maxlength=16, maxsteps=1))
        >>> run.table("metrics")["system"].unique().tolist()
        ['bm25', 'tfidf', 'base', 'trained']
    """
    prepared = prepare(settings, runid)
    with prepared.claims:
        before = test_before(prepared)
        progress = train_encoder(prepared)
        test_after(prepared, before)
        deliver(prepared, progress)
    return prepared.run


# -- prepare -------------------------------------------------------------------------------------


def prepare(settings: Settings, runid: str = "") -> Prepared:
    """Data, encoder, token tables and an empty run folder, everything checked that can be checked before training.

    Raises:
        InputError: as `run_experiment`.
    """
    started, begun = time.perf_counter(), datetime.now(UTC).astimezone().isoformat(timespec="seconds")
    places = {name: os.path.expanduser(getattr(settings, name)) for name in ("outputpath", "checkpointpath")}
    settings = settings.replace(**places)
    check_settings(settings)
    folders.require_new(runid)
    data = load_data(settings)
    rows = index_rows(data.train)
    accelerator = train.make_accelerator()
    check_rows(settings, data.train, rows, accelerator.num_processes)
    if not len(data.validation):
        log.warning("no validation rows: the last weights are kept and nothing stops the run early")
    if not accelerator.is_main_process:
        logging.getLogger("hr_search").setLevel(logging.ERROR)
    validation, test = data.tasks("validation"), data.tasks("test")
    with accelerator.main_process_first():  # it builds and downloads; the others find the files
        encoder = encoder_for(settings, data.train, accelerator.device)
        tokens = {
            "query": encoder.tokens(rows.queries, "query", length=settings.trainlength),
            "document": encoder.tokens(rows.documents, "document", length=settings.trainlength),
        }
        held_out = [scoring.token_tables(encoder, tasks) if tasks else {} for tasks in (validation, test)]
    lessons = make_lessons(settings, rows, encoder, tokens, accelerator) if settings.teacher else None
    second = stage.open_second_stage(settings, data, rows, accelerator) if settings.stage == "rerank" else None
    # Every process of a launch computes the same numbers; the others' copies are thrown away.
    create = folders.create_run if accelerator.is_main_process else folders.scratch_run
    run = create(runid, settings.projectname)
    model = settings.outputpath and model_folder(settings.outputpath)
    places = {"outputpath": model, "checkpointpath": settings.checkpointpath} if accelerator.is_main_process else {}
    held = folders.claim_places(run, places)
    files.write_json(run.folder / "config.json", settings.to_dict())
    files.write_json(run.folder / "environment.json", provenance.environment_of(data, encoder, accelerator))
    parts = data.train, data.validation, data.test
    log.info("run %s: %d train, %d validation, %d test rows", run.id, *map(len, parts))
    kept = encoder.compact([table for group in (tokens, *held_out) for table in group.values()])
    if kept < encoder.vocabulary:
        log.info("vocabulary: %d of %d embedding rows occur and are trained", kept, encoder.vocabulary)
    return Prepared(
        settings=settings,
        data=data,
        rows=rows,
        encoder=encoder,
        tokens=tokens,
        validation=(validation, held_out[0]),
        test=(test, held_out[1]),
        lessons=lessons,
        second=second,
        accelerator=accelerator,
        run=run,
        begun=begun,
        started=started,
        claims=held,
    )


def encoder_for(settings: Settings, pairs: pd.DataFrame, device: str | torch.device | None = None) -> Encoder:
    """The base model with its condenser, learnt from the train rows where one is wanted; a retriever as it was saved.

    Args:
        settings: model, length, precision, dropout, prompts and `condense`.
        pairs: the train rows.
        device: such as "cpu" or "cuda"; None = the best one present.

    Raises:
        InputError: the model cannot be loaded.
    """
    rules = condenser.learn(pairs["query"], pairs["positive"], settings.condense) if settings.condense else None
    prompts = {"query": settings.queryprompt, "document": settings.documentprompt}
    if settings.retriever:
        return load_encoder(settings.retriever, 0, settings.precision, device=device, prompts=prompts)
    return load_encoder(
        settings.modelname, settings.maxlength, settings.precision, settings.dropout, device, prompts, rules
    )


# -- train ---------------------------------------------------------------------------------------


def train_encoder(prepared: Prepared) -> Progress:
    """Trains the encoder, or the second stage, in place; history, mining and probe embeddings go into the run's folder.

    Raises:
        InputError: a checkpoint of another run, a loss that is NaN; the run's folder is gone then.
    """
    settings, run, encoder, accelerator = prepared.settings, prepared.run, prepared.encoder, prepared.accelerator
    (tasks, tokens), direction = prepared.validation, settings.direction
    probes = probes_of(run, {} if prepared.second else tasks, settings.probes)

    def validate(step: int) -> dict[str, float]:
        if not tasks:
            return dict.fromkeys(METRICS, math.nan)
        sides = scoring.embed_sides(encoder, tokens)
        probes.keep(step, sides)
        table = scoring.evaluate_embeddings({direction: tasks[direction]}, sides)[direction]
        return {name: float(table[name].mean()) for name in METRICS} | {"se": float(table[settings.goal].sem())}

    with Tracker(settings, accelerator) as tracker:
        if settings.resume and tasks and not prepared.second:
            # Drift is measured against the base model, and a resumed run does not pass step 0 again.
            probes.keep(0, scoring.embed_sides(encoder, tokens))
        try:
            start = encoder, prepared.rows, prepared.tokens
            end = prepared.data.fingerprint, accelerator, tracker.log
            if prepared.second:
                progress = stage.train_second_stage(prepared.second, *start, prepared.validation, settings, *end)
            else:
                progress = train.fit(*start, settings, validate, *end, prepared.lessons)
        except InputError:
            folders.remove_run(run)  # there is no result to keep
            raise
    run.write("history", pd.DataFrame(progress.history))
    if progress.mining:
        run.write("mining", pd.DataFrame(progress.mining))
    return progress


# -- test ----------------------------------------------------------------------------------------

Tested = tuple[scoring.Results, pd.DataFrame]  # per-query results of systems, and a sample of their cosines


def test_before(prepared: Prepared) -> Tested | None:
    """The lexical floors and the base model on the test rows; None without test rows."""
    tasks = prepared.test[0]
    if not tasks:
        return None
    log.info("test, before training: BM25, TF-IDF and the base model")
    results, cosines, _ = measure(prepared, "base")
    return scoring.evaluate_floors(tasks) | results, cosines


def test_after(prepared: Prepared, before: Tested | None) -> None:
    """The trained model on the test rows; all tables of the test go into the run's folder."""
    tasks, run, seed = prepared.test[0], prepared.run, prepared.settings.seed
    if before:
        log.info("test, after training")
        results, cosines, costs = measure(prepared, "trained")
        results = before[0] | results
        run.write("metrics", scoring.metrics_table(results, seed))
        run.write("queries", scoring.queries_table(results, scoring.seen_titles(prepared.data.train, tasks)))
        run.write("documents", scoring.documents_table(tasks))
        run.write("comparison", scoring.comparison_table(results, seed))
        run.write("scores", pd.concat([before[1], cosines]))
        times = timing.timing_table(prepared.encoder, tasks["q2d"].documents, 500, seed)
        run.write("timing", pd.concat([times, costs]))
    (prepared.second or prepared.encoder).expand()


def measure(prepared: Prepared, system: str) -> tuple[scoring.Results, pd.DataFrame, pd.DataFrame]:
    """Per-query results in both directions, a sample of the scores, and what a second stage costs, as of now."""
    (tasks, tokens), settings = prepared.test, prepared.settings
    sides = scoring.embed_sides(prepared.encoder, tokens, progress=True)
    if prepared.second and system == "trained":
        return stage.measure_second_stage(prepared.second, tasks, sides, settings)
    found = scoring.evaluate_embeddings(tasks, sides)
    results = {(system, direction): table for direction, table in found.items()}
    return results, scoring.scores_table(system, tasks, sides, settings.seed), pd.DataFrame()


# -- deliver -------------------------------------------------------------------------------------


def deliver(prepared: Prepared, progress: Progress) -> None:
    """Writes the summary, adds the run to the table of all runs and saves the model where it was asked for.

    Raises:
        InputError: the run's folder was removed, or a place cannot be written.
    """
    settings, run, accelerator = prepared.settings, prepared.run, prepared.accelerator
    summary = summarise(prepared, progress)
    if not (run.folder / "config.json").is_file():
        raise InputError(f"{run.folder} was removed while the run went on; start it again.")
    files.write_json(run.folder / "summary.json", summary)  # first: a full disk must not cost the results
    if accelerator.is_main_process:
        if summary["metrics"]:
            try:
                append_rows(paths.metrics() / "results.csv", ledger_rows(run, summary))
            except InputError as error:  # a table from elsewhere must not cost a finished run
                log.warning("%s", error)
        log.info("%s", summary["verdict"])
        if settings.outputpath:
            try:
                save_model(prepared.second or prepared.encoder, settings.outputpath, model_card(settings, summary))
            except InputError as error:
                kept = f"all tables of the run {run.id} are kept, only the model is not"
                raise InputError(f"{str(error).rstrip('.')}; {kept}.") from error
        else:
            log.info("the model is not kept: no --outputpath was given")
    prepared.claims.close()
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        shutil.rmtree(run.folder.parent)


def summarise(prepared: Prepared, progress: Progress) -> dict:
    """The summary of a run: what it was, its metrics, and a sentence whether training helped."""
    settings, run, data = prepared.settings, prepared.run, prepared.data
    tested = run.has("metrics")
    sentence = "no test rows, so no verdict: give --testpath or a --testshare above 0."
    if tested:
        table = run.table("comparison")
        rows = table[(table.a == "base") & (table.direction == settings.direction) & (table.metric == settings.goal)]
        sentence = verdict(rows.iloc[0], settings.goal, "base", "trained")
    sizes = {part: len(getattr(data, part)) for part in ("train", "validation", "test")}
    return {
        "run_id": run.id,
        "projectname": settings.projectname,
        "started": prepared.begun,
        "seconds": time.perf_counter() - prepared.started,
        "training_seconds": progress.seconds,
        "steps": progress.step,
        "best_step": progress.best_step,
        "data": {"name": data.name, "fingerprint": data.fingerprint, **sizes},
        "model": settings.modelname,
        "fingerprint": provenance.fingerprint(run.config, run.environment),
        "command": command(settings, prepared.accelerator.num_processes),
        "metrics": scoring.nested(run.table("metrics")) if tested else {},
        "verdict": sentence,
    }


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
