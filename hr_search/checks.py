"""Settings that are refused before anything is read: they do not fit together, or cannot work here."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from hr_search.base.errors import InputError, shown
from hr_search.data.stream_files import require_table
from hr_search.dimensions import leading_sizes
from hr_search.fields import LossFields, MiningFields, MixingFields, OptimisationFields, TeacherFields
from hr_search.models.adapters import require_adapters
from hr_search.release import model_folder, require_output, require_place
from hr_search.runs.tracking import require_tracker
from hr_search.settings import Settings

log = logging.getLogger(__name__)

# Variables that `accelerate launch` sets: its flag, and what to do instead.
_NOT_SERVED = {
    "ACCELERATE_DYNAMO_BACKEND": ("--dynamo_backend", "launch without it"),
    "ACCELERATE_MIXED_PRECISION": ("--mixed_precision", "launch with no and take --precision bf16 or fp32"),
    "ACCELERATE_USE_DEEPSPEED": ("--use_deepspeed", "launch without it; --gradcache saves memory"),
    "ACCELERATE_USE_FSDP": ("--use_fsdp", "launch without it; --gradcache saves memory"),
    "ACCELERATE_USE_MEGATRON_LM": ("--use_megatron_lm", "launch without it"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("--use_parallelism_config", "launch without it"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
        "--gradient_accumulation_steps",
        "launch without it and take a larger --batchsize with --gradcache, which keeps in-batch negatives",
    ),
}
# Settings of losses over embeddings, which a cross-encoder does not have.
_ENCODING = (
    "loss margin temperature symmetric negatives hardness dimensions minecount mineside mineevery mixing bank gradcache"
)
# Settings of a search's stages; reranktop belongs to --stage rerank, too.
_SEARCHING = (
    "centre searchmixing searchstrategy searchk searchtemperature searchweight fusion words scaling rerank rerankweight"
)
# Settings of training, which a search does without; seed draws samples there, too, and lora is refused.
_GROUPS = LossFields, MiningFields, TeacherFields, MixingFields, OptimisationFields
_TRAINING = " ".join(
    [field.name for group in _GROUPS for field in dataclasses.fields(group) if field.name not in ("seed", "lora")]
)
_TRAINING += " trainlength dropout gradecolumn softgroupcolumn softweight candidates evalsteps patience target probes"
_TRAINING += " checkpointpath checkpointsteps resume"
_DEFAULTS = Settings()


def check_settings(settings: Settings) -> None:
    """Refuses combinations of settings that cannot work, before anything is loaded.

    Raises:
        InputError: naming the settings.
    """
    check_launch(os.environ)
    if settings.precision == "int8":
        raise InputError(
            "--precision int8 is for encoding (evaluate, index, search, tune); train with auto, fp32 or bf16."
        )
    if settings.resume and not settings.checkpointpath:
        raise InputError("--resume needs --checkpointpath, the file to go on from.")
    check_targets(settings.outputpath, settings.checkpointpath)
    if settings.trainlength > settings.maxlength:
        raise InputError(
            f"trainlength {settings.trainlength} is more than maxlength {settings.maxlength}; lower it, or take 0."
        )
    if settings.stream:
        check_stream(settings)
    if settings.stage != "search":
        check_training(settings)
    check_stage(settings)
    require_tracker(settings.tracker)
    require_adapters(settings.lora, settings.stage)


def check_targets(outputpath: str, checkpointpath: str) -> None:
    """Refuses places that cannot be written to, and a checkpoint where the saved model would take its place.

    Args:
        outputpath: of the model; empty = it is not saved.
        checkpointpath: of the checkpoints; empty = none are written.

    Raises:
        InputError: naming the place.
    """
    if outputpath and checkpointpath:
        checkpoint, folder = Path(checkpointpath).resolve(), model_folder(outputpath).resolve()
        if checkpoint == Path(outputpath).resolve():
            raise InputError(f"checkpointpath and outputpath are both {outputpath}; give two places.")
        if folder in (checkpoint, *checkpoint.parents):  # saving the model replaces the whole folder
            raise InputError(
                f"checkpointpath {checkpointpath} would be lost when the model is saved to the folder "
                f"{model_folder(outputpath)}; give a file outside of it."
            )
    if outputpath:
        require_output(outputpath)
    if checkpointpath:
        if Path(checkpointpath).is_dir():
            raise InputError(f"checkpointpath {checkpointpath} is a folder; give the path of a file.")
        require_place(Path(checkpointpath).absolute())


def check_training(settings: Settings) -> None:
    """Refuses settings of a training that do not fit together.

    Raises:
        InputError: naming the settings.
    """
    leading_sizes(settings.dimensions)  # whether they fit the model is known once it is loaded
    ranked = settings.loss != "triplet" and settings.symmetric
    if settings.negatives == "mined" and settings.mineside == "query" and not ranked:
        raise InputError(
            "--mineside query mines wrong queries for the documents, which only infonce and margin-ce with --symmetric "
            "rank; change --loss or take --mineside document."
        )
    if settings.teacher:
        check_teacher(settings)
    check_tables(settings)


def check_stream(settings: Settings) -> None:
    """Refuses what needs all train texts, or embeddings of them, in memory.

    Raises:
        InputError: naming the setting.
    """
    require_table(settings)
    (table,) = settings.tables()
    columns = {name: f"--{name}" for name in ("gradecolumn", "softgroupcolumn") if getattr(table, name)}
    others = {
        "--condense": settings.condense > 0,
        "--teacher": settings.teacher != "",
        "--negatives mined": settings.negatives == "mined",
        "--stage rerank": settings.stage == "rerank",
        "--stage search": settings.stage == "search",
    }
    if given := [*columns.values(), *(flag for flag, there in others.items() if there)]:
        raise InputError(
            f"{given[0]} needs the whole train set in memory, which --stream avoids; leave one of them out."
        )


def check_tables(settings: Settings) -> None:
    """Refuses what cannot be done with soft positives, or with several tables.

    Raises:
        InputError: naming the settings.
    """
    tables = settings.tables()
    for name in ("gradecolumn", "softgroupcolumn"):
        if any(getattr(each, name) for each in tables) and (settings.loss != "infonce" or settings.stage != "encode"):
            raise InputError(
                f"--{name} weighs the positives of --loss infonce in --stage encode; take that, or leave it out."
            )
    others = {"--negatives mined": settings.negatives == "mined", "--stage rerank": settings.stage == "rerank"}
    others["--bank"] = settings.mixing != "none" and settings.bank > 0
    if len(tables) > 1 and (given := next((flag for flag, there in others.items() if there), "")):
        raise InputError(
            f"{given} compares rows with documents of all tables of datapath, some of which may be right and unmarked; "
            "leave it out, or train on one table."
        )


def check_stage(settings: Settings) -> None:
    """Refuses settings of another stage, and names those that have no effect in this one.

    Raises:
        InputError: naming the setting.
    """
    if settings.stage != "rerank" and settings.retriever:
        raise InputError("--retriever belongs to --stage rerank; add that, or leave it out.")
    if settings.stage == "search":
        if settings.outputpath:
            raise InputError(
                "--stage search trains nothing, so there is no model for an --outputpath; leave it out (--outputpath= "
                "over a recipe's); `tune` keeps the stages of a search beside a model."
            )
        _name_idle(settings, _TRAINING)
        return
    if knobs := _changed(settings, _SEARCHING):
        raise InputError(f"--{knobs[0]} belongs to --stage search; add that, or leave it out.")
    if settings.stage == "encode":
        return
    if settings.teacher:
        raise InputError("--teacher teaches an encoder, and --stage rerank trains the second stage; leave one out.")
    _name_idle(settings, _ENCODING)


def _name_idle(settings: Settings, names: str) -> None:
    """Logs those of the settings named that were changed, as they have no effect in this stage."""
    if changed := _changed(settings, names):
        log.warning("without effect in --stage %s: %s", settings.stage, ", ".join(changed))


def _changed(settings: Settings, names: str) -> list[str]:
    """Those of the settings named that differ from their defaults."""
    return [name for name in names.split() if getattr(settings, name) != getattr(_DEFAULTS, name)]


def check_teacher(settings: Settings) -> None:
    """Refuses a teacher that could teach nothing; whether it is a cross-encoder is found out when it is loaded.

    Raises:
        InputError: naming the setting.
    """
    if not Path(settings.teacher).expanduser().is_dir():
        raise InputError(
            f"teacher {shown(settings.teacher)} is not a folder; give that of a second stage (a cross-encoder)."
        )
    if not settings.teacherweight:
        raise InputError("--teacherweight 0 leaves a --teacher without effect; raise it, or take no teacher.")
    if settings.teacherdrawn > settings.teachercandidates:
        raise InputError(
            f"teacherdrawn {settings.teacherdrawn} is more than teachercandidates {settings.teachercandidates}; "
            "lower it."
        )


def check_launch(environment: Mapping[str, str]) -> None:
    """Refuses what `accelerate launch` offers and this training loop does not do.

    Args:
        environment: the variables of this process; a launcher passes its settings on in them.

    Raises:
        InputError: naming the flag of the launcher and what to use instead.
    """
    for variable, (flag, instead) in _NOT_SERVED.items():
        value = environment.get(variable, "").strip().lower()
        if value not in ("", "no", "none", "false", "0", "1" if variable.endswith("STEPS") else ""):
            raise InputError(f"accelerate's {flag} ({shown(value)}) is not used in this training; {instead}.")
