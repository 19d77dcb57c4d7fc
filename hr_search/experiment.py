"""One experiment from settings to a finished run: data, floors, base, training, test, tables, model."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator

from hr_search import data as datasets
from hr_search import evaluation, files, paths, runs, train
from hr_search.batches import Rows, index_rows
from hr_search.config import FIELDS, Settings
from hr_search.data import Data, Task
from hr_search.encoder import Encoder, hardware, load_encoder
from hr_search.errors import InputError
from hr_search.ledgers import append_rows
from hr_search.metrics import METRICS
from hr_search.runs import Probes, Run
from hr_search.statistics import verdict
from hr_search.tracking import Tracker

log = logging.getLogger(__name__)

_DEFAULTS = Settings()


def run_experiment(settings: Settings, runid: str) -> Run:
    """Trains and tests as `settings` say and writes the run folder, its summary last.

    Args:
        settings: the run's settings.
        runid: the folder's name under `metrics/runs/`.

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
    data = datasets.load(settings)
    rows = index_rows(data.train)
    check_rows(settings, data, rows)
    accelerator = train.make_accelerator()
    if not accelerator.is_main_process:
        logging.getLogger("hr_search").setLevel(logging.ERROR)
    with accelerator.main_process_first():  # it builds and downloads; the others find the files
        encoder = load_encoder(
            settings.modelname, settings.maxlength, settings.precision, settings.dropout, accelerator.device
        )
    # Every process of a launch computes the same numbers; the others' copies are thrown away.
    run = runs.create_run(runid) if accelerator.is_main_process else Run(Path(tempfile.mkdtemp()) / runid)
    files.write_json(run.folder / "config.json", settings.to_dict())
    files.write_json(run.folder / "environment.json", environment(settings, data, encoder, accelerator))
    log.info(
        "run %s: %d train, %d validation, %d test rows", run.id, len(data.train), len(data.validation), len(data.test)
    )

    validation, test = (datasets.tasks(part) if len(part) else {} for part in (data.validation, data.test))
    tables = {"query": encoder.tokens(rows.queries, "query"), "document": encoder.tokens(rows.documents, "document")}
    held_out = [evaluation.token_tables(encoder, tasks) if tasks else {} for tasks in (validation, test)]
    kept = encoder.compact([table for group in (tables, *held_out) for table in group.values()])
    log.info("vocabulary: %d of %d embedding rows occur and are trained", kept, len(encoder.model.tokenizer))

    results: evaluation.Results = {}
    if test:
        log.info("test, before training: BM25, TF-IDF and the base model")
        results |= evaluation.evaluate_floors(test)
        results |= systems(
            "base", evaluation.evaluate_embeddings(test, evaluation.embed_sides(encoder, held_out[1], True))
        )
    with Tracker(settings, accelerator) as tracker:
        probes = _probes(run, validation, settings)

        def validate(step: int) -> dict[str, float]:
            if not validation:
                return dict.fromkeys(METRICS, 0.0)
            sides = evaluation.embed_sides(encoder, held_out[0])
            probes.keep(step, sides)
            scores = evaluation.evaluate_embeddings({settings.direction: validation[settings.direction]}, sides)
            figures = {name: float(scores[settings.direction][name].mean()) for name in METRICS}
            tracker.log(figures, step)
            return figures

        if settings.resume and validation:
            # Drift is measured against the base model, and a resumed run does not pass step 0 again.
            probes.keep(0, evaluation.embed_sides(encoder, held_out[0]))
        progress = train.fit(encoder, rows, tables, settings, validate, data.fingerprint, accelerator)
    run.write("history", pd.DataFrame(progress.history))
    if test:
        log.info("test, after training")
        results |= systems(
            "trained", evaluation.evaluate_embeddings(test, evaluation.embed_sides(encoder, held_out[1], True))
        )
        write_tables(run, test, results, settings.seed)
        run.write("timing", evaluation.timing_table(encoder, test["q2d"].documents, 500, settings.seed))
    encoder.expand()
    summary = summarise(run, settings, data, progress, begun, time.perf_counter() - started)
    if settings.outputpath and accelerator.is_main_process:
        save_model(encoder, settings.outputpath, model_card(settings, summary))
    summary["seconds"] = time.perf_counter() - started
    files.write_json(run.folder / "summary.json", summary)
    if test and accelerator.is_main_process:
        append_rows(paths.metrics() / "results.csv", ledger_rows(run, settings, summary))
    log.info("%s", summary["verdict"])
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        shutil.rmtree(run.folder.parent)
    return run


def open_or_smoke(runid: str = "") -> Run:
    """The run called `runid`, or the newest; where there is none yet, a smoke run of a minute makes one.

    Raises:
        InputError: a run id was given and there is no such run.
    """
    if runid or runs.list_runs():
        return runs.open_run(runid)
    log.info("no finished run yet: a smoke run on the Russian sample makes one")
    smoke = Settings(datapath="sample_ru", testshare=0.2, maxlength=48, batchsize=16, maxsteps=4, projectname="smoke")
    return run_experiment(smoke, runs.new_run_id(smoke.projectname))


def check(settings: Settings) -> None:
    """Refuses combinations of settings that cannot work, before anything is loaded.

    Raises:
        InputError: naming the settings.
    """
    if settings.resume and not settings.checkpointpath:
        raise InputError("--resume needs --checkpointpath, the file to go on from.")
    if settings.outputpath and not settings.outputpath.endswith(".pt") and Path(settings.outputpath).is_file():
        raise InputError(f"outputpath {settings.outputpath} is a file; give a folder or a name that ends in .pt.")
    for name in ("outputpath", "checkpointpath"):
        value = Path(getattr(settings, name))
        if str(value).endswith(".pt") and value.is_dir():
            raise InputError(f"{name} {value} is a folder; give the path of a file.")


def check_rows(settings: Settings, data: Data, rows: Rows) -> None:
    """Refuses data that cannot train under these settings.

    Raises:
        InputError: what is missing and which setting helps.
    """
    given = sum(len(wrong) for wrong in rows.negatives)
    if settings.negatives == "given" and not given:
        raise InputError(
            "--negatives given needs wrong documents in the table, and it has none; take --negatives batch."
        )
    if settings.batchsize < 2 and not given:
        raise InputError(
            "a batch of one row without given negatives has nothing to compare with; raise --batchsize to 2 or more."
        )
    if not len(data.validation) and settings.patience and not settings.maxsteps:
        log.warning("no validation rows: the last weights are kept and nothing stops the run early")


def environment(settings: Settings, data: Data, encoder: Encoder, accelerator: Accelerator) -> dict:
    """What a run's numbers depend on besides its settings."""
    return {
        "versions": runs.versions(), "commit": runs.commit(), "hardware": hardware(encoder.device),
        "device": str(encoder.device), "processes": accelerator.num_processes, "threads": torch.get_num_threads(),
        "precision": "bf16" if encoder.bf16 else "fp32", "model": encoder.name, "dimension": encoder.dimension,
        "data": {"name": data.name, "fingerprint": data.fingerprint, **data.counts},
    }  # fmt: skip


def systems(name: str, tables: dict[str, pd.DataFrame]) -> evaluation.Results:
    """Per-query tables of one system, keyed as results are."""
    return {(name, direction): table for direction, table in tables.items()}


def write_tables(run: Run, tasks: dict[str, Task], results: evaluation.Results, seed: int) -> None:
    """Writes metrics, queries, documents and comparison of a test."""
    run.write("metrics", evaluation.metrics_table(results, seed))
    run.write("queries", evaluation.queries_table(results))
    run.write("documents", evaluation.documents_table(tasks))
    run.write("comparison", evaluation.comparison_table(results, seed))


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
        "model": settings.modelname, "command": command(settings),
        "metrics": evaluation.nested(run.table("metrics")) if tested else {}, "verdict": sentence,
    }  # fmt: skip


def command(settings: Settings) -> str:
    """The shell line that repeats a run: every setting that is not the default."""
    words = ["python3", "train.py"]
    for name, value in settings.to_dict().items():
        if value == getattr(_DEFAULTS, name) or name == "resume":
            continue
        words += (
            [f"--{name}"] if value is True else [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
        )
    return shlex.join(words)


def save_model(encoder: Encoder, outputpath: str, card: str) -> Path:
    """Writes the model: a sentence-transformers folder, and for FILE.pt also the weights as a state dict.

    Returns:
        The folder.
    """
    target = Path(outputpath)
    folder = target.with_suffix("") if target.suffix == ".pt" else target
    encoder.save(folder, card)
    if target.suffix == ".pt":
        with files.whole_file(target, "wb") as file:
            torch.save(encoder.model.state_dict(), file)
    log.info("model saved: %s%s", folder, f" and its weights {target}" if folder != target else "")
    return folder


def model_card(settings: Settings, summary: dict) -> str:
    """The README of a saved model: what it is, how to use it, its figures and how it was made."""
    rows = [
        f"| {system} | {direction} | " + " | ".join(f"{values[name][0]:.3f}" for name in METRICS) + " |"
        for system, directions in summary["metrics"].items() for direction, values in directions.items()
    ]  # fmt: skip
    table = "\n".join([f"| system | direction | {' | '.join(METRICS)} |", "|---" * (len(METRICS) + 2) + "|", *rows])
    lines = "\n".join(
        f"- {name}: {value}" for name, value in settings.to_dict().items() if value != "" and name in FIELDS
    )
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, hr, job-search]
---
# {settings.projectname}

A search encoder for vacancies and job titles, trained with hr_search from `{settings.modelname}`.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
queries = model.encode_query(["welder"])
documents = model.encode_document(["joins metal parts with an electric arc ..."])
scores = model.similarity(queries, documents)
```

## Test results

{summary["data"]["test"]} test rows of `{summary["data"]["name"]}` ({summary["data"]["fingerprint"]}); q2d = query to
document, d2q = document to query; ties count against the model. {summary["verdict"]}

{table if rows else "No test rows."}

## Training

{summary["data"]["train"]} rows, {summary["steps"]} steps, best at step {summary["best_step"]}. To repeat:

```
{summary["command"]}
```

{lines}
"""


def _probes(run: Run, validation: dict[str, Task], settings: Settings) -> Probes:
    if not validation:
        return Probes(run, {}, {}, 0)
    task, back = validation["q2d"], validation["d2q"]
    return Probes(
        run,
        {"query": task.queries, "document": task.documents},
        {"query": task.groups, "document": back.groups},
        settings.probes,
    )
