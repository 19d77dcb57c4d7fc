"""Preparation: all that a run has before its first step, from its settings."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from datetime import UTC, datetime

import pandas as pd
import torch
from accelerate import Accelerator

from hr_search import train
from hr_search.base import files
from hr_search.base.errors import InputError
from hr_search.batches import Rows
from hr_search.checks import check_settings
from hr_search.data.loading import Data, load_data
from hr_search.data.tasks import Task
from hr_search.encoder import Encoder, load_encoder
from hr_search.evaluation import scoring
from hr_search.fast.tokens import TokenTable
from hr_search.lessons import Lessons
from hr_search.models import condenser
from hr_search.models.adapters import linear_layers
from hr_search.policies import search_policy
from hr_search.release import model_folder
from hr_search.reranking import stage
from hr_search.reranking.cross_encoder import Reranker
from hr_search.reranking.scorer import load_reranker
from hr_search.reranking.teaching import make_lessons
from hr_search.row_checks import check_dimensions, check_rows
from hr_search.runs import folders, provenance
from hr_search.runs.folders import Run
from hr_search.search.trial import Trial
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
        trial: the stages of a search in stage search, where nothing is trained; else None.
        accelerator: device and processes.
        run: the run's folder; for every process but the first, a temporary one.
        begun: date and time of the beginning; `started` is the same moment on a clock for durations, s.
        claims: on the places that it writes, until it is closed.
        pruned: whether its study has ended the training; set by the training, and such a run is not tested.
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
    trial: Trial | None
    accelerator: Accelerator
    run: Run
    begun: str
    started: float
    claims: contextlib.ExitStack
    pruned: bool = False


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
    rows = data.rows()
    accelerator = train.make_accelerator()
    groups = data.streamed.groups if data.streamed else None
    check_rows(settings, data.train, rows, accelerator.num_processes, groups)
    if not len(data.validation) and settings.stage != "search":
        log.warning("no validation rows: the last weights are kept and nothing stops the run early")
    if not accelerator.is_main_process:
        logging.getLogger("hr_search").setLevel(logging.ERROR)
    validation, test = data.tasks("validation"), data.tasks("test")
    trial = open_trial(settings) if settings.stage == "search" else None
    shorter = 0 if trial else settings.trainlength
    with accelerator.main_process_first():  # it builds and downloads; the others find the files
        encoder = encoder_for(settings, data.train, accelerator.device)
        check_dimensions(settings, encoder.dimension)
        if settings.stream:
            require_own_tokens(encoder)
        if settings.lora:
            linear_layers(encoder)
        tokens = {
            "query": encoder.tokens(rows.queries, "query", length=shorter),
            "document": encoder.tokens(rows.documents, "document", length=shorter),
        }
        held_out = [scoring.token_tables(encoder, tasks) if tasks else {} for tasks in (validation, test)]
    taught = settings.teacher and not trial
    lessons = make_lessons(settings, rows, encoder, tokens, accelerator) if taught else None
    second = stage.open_second_stage(settings, data, rows, accelerator) if settings.stage == "rerank" else None
    # Every process of a launch computes the same numbers; the others' copies are thrown away.
    create = folders.create_run if accelerator.is_main_process else folders.scratch_run
    run = create(runid, settings.projectname)
    model = settings.outputpath and model_folder(settings.outputpath)
    places = {"outputpath": model, "checkpointpath": settings.checkpointpath} if accelerator.is_main_process else {}
    held = folders.claim_places(run, places)
    files.write_json(run.folder / "config.json", settings.to_dict())
    files.write_json(run.folder / "environment.json", provenance.environment_of(data, encoder, accelerator))
    log.info("run %s: %d train, %d validation, %d test rows", run.id, *data.sizes.values())
    if not trial:  # what is not trained stays whole
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
        trial=trial,
        accelerator=accelerator,
        run=run,
        begun=begun,
        started=started,
        claims=held,
    )


def require_own_tokens(encoder: Encoder) -> None:
    """Checks that the token ids of an encoder's texts can lie in files.

    Raises:
        InputError: sentence-transformers tokenises each batch itself.
    """
    if encoder.foreign:
        raise InputError(
            f"--stream keeps token ids in files, and sentence-transformers alone can tokenise for {encoder.name}; take "
            "another model, or leave --stream out."
        )


def encoder_for(settings: Settings, pairs: pd.DataFrame, device: str | torch.device | None = None) -> Encoder:
    """The base model with its condenser, learnt from the train rows where one is wanted; a retriever as it was saved.

    In stage search the model is a finished one and keeps the condenser that it has.

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
    finished = settings.stage == "search"  # its own condenser belongs to it
    encoder = load_encoder(
        settings.modelname,
        settings.maxlength,
        settings.precision,
        settings.dropout,
        device,
        prompts,
        None if finished else rules,
    )
    if finished and encoder.condenser is None:
        encoder.condenser = rules
    return encoder


def open_trial(settings: Settings) -> Trial:
    """The stages of a search that the settings name, the second stage loaded.

    Raises:
        InputError: it is no cross-encoder.
    """
    policy = search_policy(settings)
    return Trial(policy, load_reranker(policy.rerank, precision=settings.precision) if policy.rerank else None)
