"""One experiment from settings to a finished run: prepare, train, test, deliver."""

from __future__ import annotations

import logging
import math
import shutil
import time

import pandas as pd

from hr_search import train
from hr_search.base import files, paths
from hr_search.base.choices import METRICS
from hr_search.base.errors import InputError
from hr_search.base.processes import Processes
from hr_search.data.tasks import fingerprint
from hr_search.dimensions import leading_sizes
from hr_search.evaluation import scoring, timing
from hr_search.evaluation.dimensions import dimensions_table, goal_at
from hr_search.evaluation.significance import verdict
from hr_search.evaluation.tables import tables_table, validation_means
from hr_search.history import Progress
from hr_search.preparation import Prepared, encoder_for, prepare
from hr_search.release import command, model_card, save_model
from hr_search.reranking import stage
from hr_search.runs import folders, provenance, trials
from hr_search.runs.folders import Run
from hr_search.runs.ledgers import append_rows, ledger_rows
from hr_search.runs.probes import probes_of
from hr_search.runs.tracking import Tracker
from hr_search.search import trial
from hr_search.settings import Settings

__all__ = ["Prepared", "encoder_for", "prepare", "run_experiment"]

log = logging.getLogger(__name__)


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


# -- train ---------------------------------------------------------------------------------------


def train_encoder(prepared: Prepared) -> Progress:
    """Trains the encoder, or the second stage, in place; history, mining and probe embeddings go into the run's folder.

    In stage search nothing is trained and the folder gets none of these: the memory is embedded.

    Raises:
        InputError: a checkpoint of another run, a loss that is NaN, a memory with test documents; the run's folder is
            gone then.
    """
    settings, run, encoder, accelerator = prepared.settings, prepared.run, prepared.encoder, prepared.accelerator
    if prepared.trial:
        return embed_memory(prepared)
    (tasks, tokens), direction = prepared.validation, settings.direction
    probes = probes_of(run, {} if prepared.second else tasks, settings.probes)
    sizes = leading_sizes(settings.dimensions, encoder.dimension) if not prepared.second else ()
    processes = Processes.of(accelerator)

    def validate(step: int) -> dict[str, float]:
        if not tasks:
            return dict.fromkeys(METRICS, math.nan)
        sides = scoring.embed_sides(encoder, tokens, processes=processes)
        probes.keep(step, sides)
        table = scoring.evaluate_embeddings({direction: tasks[direction]}, sides, processes)[direction]
        metrics = validation_means(table, settings.goal, tasks[direction].tables)
        return metrics | goal_at(tasks[direction], sides, sizes, settings.goal)

    member = trials.current()

    def report(row: dict[str, float]) -> bool:
        tracker.log(row)
        return member is not None and member.report(row[settings.goal])

    with Tracker(settings, accelerator, run) as tracker:
        if settings.resume and tasks and not prepared.second:
            # Drift is measured against the base model, and a resumed run does not pass step 0 again.
            probes.keep(0, scoring.embed_sides(encoder, tokens, processes=processes))
        try:
            start = encoder, prepared.rows, prepared.tokens
            end = prepared.data.fingerprint, accelerator, report
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
    prepared.pruned = progress.pruned
    return progress


def embed_memory(prepared: Prepared) -> Progress:
    """What stage search has in place of a training; the progress of no step.

    Raises:
        InputError: the memory has test documents; the run's folder is gone then.
    """
    data = prepared.data
    try:
        prepared.trial.remember(prepared.encoder, data.train, data.name, prepared.test[0])
    except InputError:
        folders.remove_run(prepared.run)
        raise
    return Progress()


# -- test ----------------------------------------------------------------------------------------

Tested = tuple[scoring.Results, pd.DataFrame]  # per-query results of systems, and a sample of their cosines


def test_before(prepared: Prepared) -> Tested | None:
    """The lexical floors and the base model on the test rows; None without test rows.

    In stage search only the floors: the plain cosine is the first stage of what is tested afterwards.
    """
    tasks = prepared.test[0]
    if not tasks:
        return None
    if prepared.trial:
        log.info("test: BM25 and TF-IDF")
        return scoring.evaluate_floors(tasks, Processes.of(prepared.accelerator)), pd.DataFrame()
    log.info("test, before training: BM25, TF-IDF and the base model")
    results, cosines, _ = measure(prepared, "base")
    return scoring.evaluate_floors(tasks, Processes.of(prepared.accelerator)) | results, cosines


def test_after(prepared: Prepared, before: Tested | None) -> None:
    """The trained model, or the staged search, on the test rows; all tables of the test go into the run's folder.

    A run that its study has ended is not tested.
    """
    tasks, run, seed = prepared.test[0], prepared.run, prepared.settings.seed
    if before and not prepared.pruned:
        log.info("test: the plain cosine and the staged search" if prepared.trial else "test, after training")
        results, cosines, costs = measure(prepared, "trained")
        results = before[0] | results
        run.write("metrics", scoring.metrics_table(results, seed))
        run.write("queries", scoring.queries_table(results, scoring.seen_titles(prepared.data.titles, tasks)))
        run.write("documents", scoring.documents_table(tasks))
        if tasks["q2d"].tables:
            run.write("tables", tables_table(results, tasks, seed))
        run.write("comparison", scoring.comparison_table(results, seed))
        run.write("scores", pd.concat([part for part in (before[1], cosines) if len(part)]))
        timed = 50 if prepared.trial else 500  # a trial changes nothing about encoding
        times = timing.timing_table(prepared.encoder, tasks["q2d"].documents, timed, seed)
        run.write("timing", pd.concat([times, costs]))
    (prepared.second or prepared.encoder).expand()


def measure(prepared: Prepared, system: str) -> tuple[scoring.Results, pd.DataFrame, pd.DataFrame]:
    """Per-query results in both directions, a sample of the scores, and what further stages cost, as of now."""
    (tasks, tokens), settings, processes = prepared.test, prepared.settings, Processes.of(prepared.accelerator)
    if prepared.trial:
        return prepared.trial.measure(tasks, prepared.trial.embedded(prepared.encoder, tokens), settings.seed)
    sides = scoring.embed_sides(prepared.encoder, tokens, True, processes)
    if prepared.second and system == "trained":
        return stage.measure_second_stage(prepared.second, tasks, sides, settings)
    if settings.dimensions and system == "trained":
        sizes = leading_sizes(settings.dimensions, prepared.encoder.dimension)
        prepared.run.write("dimensions", dimensions_table(tasks, sides, sizes, settings.seed))
    found = scoring.evaluate_embeddings(tasks, sides, processes)
    results = {(system, direction): table for direction, table in found.items()}
    return results, scoring.scores_table(system, tasks, sides, settings.seed), pd.DataFrame()


# -- deliver -------------------------------------------------------------------------------------


def deliver(prepared: Prepared, progress: Progress) -> None:
    """Writes the summary, adds the run to the table of all runs and saves the model where it was asked for.

    Raises:
        InputError: the run's folder was removed, or a place cannot be written.
    """
    accelerator = prepared.accelerator
    with Processes.of(accelerator).together():  # what fails in the first one fails in all
        hand_over(prepared, summarise(prepared, progress))
    prepared.claims.close()
    if not accelerator.is_main_process:
        shutil.rmtree(prepared.run.folder.parent)


def hand_over(prepared: Prepared, summary: dict) -> None:
    """What `deliver` writes; all but the summary comes from the first process."""
    settings, run = prepared.settings, prepared.run
    if not (run.folder / "config.json").is_file():
        raise InputError(f"{run.folder} was removed while the run went on; start it again.")
    files.write_json(run.folder / "summary.json", summary)  # first: a full disk must not cost the results
    if prepared.accelerator.is_main_process:
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
        elif not prepared.trial:
            log.info("the model is not kept: no --outputpath was given")


def summarise(prepared: Prepared, progress: Progress) -> dict:
    """The summary of a run: what it was, its metrics, and a sentence whether training, or the stages, helped."""
    settings, run, data = prepared.settings, prepared.run, prepared.data
    tested = run.has("metrics")
    # Runs that share it were tested alike, whatever they trained on.
    tested_data = {"test_fingerprint": fingerprint(prepared.test[0]["q2d"])} if tested else {}
    sentence = "no test rows, so no verdict: give --testpath or a --testshare above 0."
    if tested:
        table = run.table("comparison")
        rows = table[(table.a == "base") & (table.direction == settings.direction) & (table.metric == settings.goal)]
        names = trial.NAMES if prepared.trial else ("base", "trained")
        sentence = verdict(rows.iloc[0], settings.goal, *names)
        if prepared.trial and not prepared.trial.policy.staged:
            sentence = "the search has no stages, so it is the plain cosine itself."
    if progress.pruned:
        sentence = (
            f"pruned at step {progress.step}, where the validation {settings.goal} was "
            f"{progress.history[-1][settings.goal]:.4f}: the study {settings.projectname} had better trials, so this "
            "one was ended and not tested."
        )
    return {
        "run_id": run.id,
        "projectname": settings.projectname,
        "started": prepared.begun,
        "seconds": time.perf_counter() - prepared.started,
        "training_seconds": progress.seconds,
        "steps": progress.step,
        "best_step": progress.best_step,
        **({"pruned": True} if progress.pruned else {}),
        "data": {"name": data.name, "fingerprint": data.fingerprint, **tested_data, **data.sizes},
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
