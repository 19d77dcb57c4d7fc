"""What can be refused before a run starts: settings that do not fit together, and data they cannot train on."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hr_search.base.errors import InputError, shown
from hr_search.batches import Rows
from hr_search.data.duplicates import normalised
from hr_search.data.stream_files import require_table
from hr_search.dimensions import leading_sizes
from hr_search.mining import MiningPolicy, anchors
from hr_search.models.adapters import require_adapters
from hr_search.policies import list_policy, mining_policy, plan_of, search_policy
from hr_search.release import require_output, require_place
from hr_search.runs.tracking import require_tracker
from hr_search.search.policy import SearchPolicy, sides_of
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
_DEFAULTS = Settings()
_LONELY = 0.1  # share of rows or batches that may have no negative at all


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
    if settings.stream:
        check_stream(settings)
    if settings.stage != "search":
        check_training(settings)
    check_stage(settings)
    require_tracker(settings.tracker)
    require_adapters(settings.lora, settings.stage)


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
    columns = {name: f"--{name}" for name in ("gradecolumn", "softgroupcolumn") if getattr(settings, name)}
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
        return
    if knobs := _changed(settings, _SEARCHING):
        raise InputError(f"--{knobs[0]} belongs to --stage search; add that, or leave it out.")
    if settings.stage == "encode":
        return
    if settings.teacher:
        raise InputError("--teacher teaches an encoder, and --stage rerank trains the second stage; leave one out.")
    if changed := _changed(settings, _ENCODING):
        log.warning("without effect in --stage rerank: %s", ", ".join(changed))


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


def check_dimensions(settings: Settings, dimension: int) -> None:
    """Refuses leading sizes that are larger than the model's embeddings, before anything is encoded.

    Raises:
        InputError: naming the size.
    """
    if settings.stage == "encode":
        leading_sizes(settings.dimensions, dimension)


def check_rows(
    settings: Settings, train: pd.DataFrame, rows: Rows, processes: int = 1, groups: np.ndarray | None = None
) -> None:
    """Refuses data that cannot train under these settings; a step takes the batches of all processes.

    Args:
        settings: of the run.
        train: its train rows.
        rows: the same over distinct texts.
        processes: of the launch.
        groups: number of each row's group, where `train` is only a sample of the rows.

    Raises:
        InputError: what is missing and which setting helps.
    """
    if settings.stage == "search":
        check_memory(search_policy(settings), train)
        return
    if settings.stage == "rerank":
        check_lists(settings, rows, processes)
        return
    step, mined = settings.batchsize * processes, settings.negatives == "mined"
    bare = np.fromiter((not len(wrong) for wrong in rows.negatives), bool, len(rows))  # rows without given negatives
    if settings.negatives == "given" and bare.all():
        raise InputError(
            "--negatives given needs wrong documents in the table, and it has none; take --negatives batch."
        )
    if step < 2 and not mined and bare.mean() > _LONELY:
        raise InputError(
            f"a batch of one row has no in-batch negatives, and {bare.sum()} of {len(bare)} "
            "rows have none given either; take --negatives batch and a --batchsize of 2 or more."
        )
    if mined:
        check_mining(settings, rows)
    wanted = settings.teachercandidates if settings.teacher else 0
    if wanted and (fewest := fewest_wrong(rows, sides_of(settings.direction)[1])) < wanted:
        raise InputError(
            f"--teacher scores {wanted} wrong texts for each text searched with, and one has only {fewest}; "
            "lower --teachercandidates."
        )
    if settings.mixing != "none" and 0 < settings.bank < (most := most_documents(settings, rows, step)):
        raise InputError(
            f"a bank of {settings.bank} documents is smaller than a batch, which has up to {most}; raise --bank or "
            "take 0, the batch only."
        )
    if step > 1 and rows.document_groups.shape[1] == 1:
        raise InputError("all rows belong to one group, so no document is wrong for any query; look at --groupcolumn.")
    if settings.negatives in ("batch", "random"):
        codes = train["group"] if groups is None else pd.Series(groups)
        refuse_lonely_batches(plan_of(settings, rows, step).epoch(0), codes, bare, rows)
    if settings.mixing != "none" and (rows.document_groups.sum(axis=0) < 2).all():
        log.warning("no group has two documents, so mixing finds no positives, only negatives")


def refuse_lonely_batches(
    batches: Sequence[np.ndarray], groups: pd.Series, bare: np.ndarray, rows: Rows | None = None
) -> None:
    """Refuses groups so large that they fill whole batches, where no document would be wrong for any query.

    Args:
        batches: the rows that meet in each step of the first epoch.
        groups: of the train rows: names, or numbers where `rows` are given.
        bare: whether each row comes without wrong documents.
        rows: the train rows, for a query by which to call a numbered group.

    Raises:
        InputError: more than a tenth of the batches are like that, naming the largest group.
    """
    codes = groups.to_numpy() if rows is not None and pd.api.types.is_integer_dtype(groups) else pd.factorize(groups)[0]
    lonely = sum(bool(bare[batch].all()) and len(set(codes[batch].tolist())) == 1 for batch in batches)
    if lonely > len(batches) * _LONELY:
        sizes = groups.value_counts()
        name = sizes.index[0]
        if rows is not None and not isinstance(name, str):
            name = rows.queries[rows.query[int((groups == name).to_numpy().argmax())]]
        raise InputError(
            f"{lonely} of {len(batches)} batches would hold one group only and so have no negatives: the group "
            f'"{shown(str(name))}" has {sizes.iloc[0]} of {len(groups)} rows; raise --batchsize or look at '
            "--groupcolumn."
        )


def check_memory(policy: SearchPolicy, train: pd.DataFrame) -> None:
    """Refuses a search whose memory, the train rows, is too small for it.

    Raises:
        InputError: naming the setting.
    """
    if policy.remembers and not len(train):
        raise InputError("centring and mixing need train rows, which are the memory; lower the other parts' shares.")
    counts = {"queries": normalised(train["query"]).nunique(), "documents": normalised(train["positive"]).nunique()}
    what = min(counts, key=counts.__getitem__)
    if policy.mixing != "none" and policy.k > counts[what]:  # both directions are tested, so both sides are mixed
        raise InputError(
            f"searchk is {policy.k}, and train has only {counts[what]} distinct {what} to mix with; lower --searchk."
        )


def check_lists(settings: Settings, rows: Rows, processes: int) -> None:
    """Refuses lists that the train rows have no wrong texts for, before anything is encoded.

    Raises:
        InputError: naming the settings.
    """
    if processes > 1:
        raise InputError(f"--stage rerank trains in one process and {processes} were launched; launch one.")
    policy = list_policy(settings)
    pool = len(rows.documents if policy.side == "document" else rows.queries)
    if (fewest := fewest_wrong(rows, policy.side)) < policy.count:
        raise InputError(
            f"--stage rerank takes {policy.count} wrong texts for each text searched with, and one has only {fewest}; "
            "lower --candidates and --minepool or look at --groupcolumn."
        )
    _check_window(policy, pool, "--stage rerank", "--candidates and --minepool")


def check_mining(settings: Settings, rows: Rows) -> None:
    """Refuses to mine more than the train rows, or the window of ranks, hold, before anything is encoded.

    Raises:
        InputError: naming the settings.
    """
    policy = mining_policy(settings)
    pools = {"document": rows.documents, "query": rows.queries}
    sought, pool = policy.side, len(pools[policy.side])
    if pool <= policy.count:
        other = {"document": "documents a query", "query": "queries a document"}[sought]
        raise InputError(
            f"--negatives mined takes {policy.count} {other} and train has {pool}; "
            "lower --minepool or take --negatives batch."
        )
    if policy.drawn > policy.count:
        raise InputError(f"minecount {policy.drawn} is more than minepool {policy.count}; lower it.")
    _check_window(policy, pool, "--negatives mined", "--minepool")
    if (fewest := fewest_wrong(rows, sought)) < policy.count:
        raise InputError(
            f"--negatives mined takes {policy.count} from each row's wrong ones, and a row has only {fewest}, as its "
            "group holds all others; lower --minepool or look at --groupcolumn."
        )


def _check_window(policy: MiningPolicy, pool: int, owner: str, counts: str) -> None:
    """Refuses a window of ranks that does not fit so many texts, naming the settings."""
    try:
        policy.window(pool)
    except InputError as error:  # in the words of `mining`, which knows no settings
        raise InputError(
            f"{owner}: {error} The settings are {counts} (count), --minestart, --minestop, --minebandlow and "
            "--minebandhigh."
        ) from error


def fewest_wrong(rows: Rows, sought: str) -> int:
    """The fewest texts of the side `sought` that are wrong for a text of the other side."""
    groups = {"query": rows.query_groups, "document": rows.document_groups}
    anchor = groups["document" if sought == "query" else "query"][anchors(rows, sought)[0]]
    return groups[sought].shape[0] - int(np.diff((anchor @ groups[sought].T).tocsr().indptr).max())


def most_documents(settings: Settings, rows: Rows, step: int) -> int:
    """The most distinct documents a step of so many rows can have."""
    given = max((len(wrong) for wrong in rows.negatives), default=0)
    mined = settings.minecount if (settings.negatives, settings.mineside) == ("mined", "document") else 0
    return min(len(rows.documents), (step + 1) * (1 + given + mined))
