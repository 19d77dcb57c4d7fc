"""Train rows that are refused before a run starts, since the settings cannot train on them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from hr_search.anchors import anchors, group_pairs, matching
from hr_search.base.errors import InputError, shown
from hr_search.batches import Rows
from hr_search.data.duplicates import normalised
from hr_search.dimensions import leading_sizes
from hr_search.mining import MiningPolicy
from hr_search.policies import list_policy, mining_policy, plan_of, search_policy
from hr_search.search.policy import SearchPolicy, sides_of
from hr_search.settings import Settings

log = logging.getLogger(__name__)

_LONELY = 0.1  # share of rows or batches that may have no negative at all
_ENTRIES = 2**22  # matches held at a time while they are counted: about 64 MB


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
    # A teacher also says how well partial matches match.
    if wanted and (fewest := fewest_wrong(rows, sides_of(settings.direction)[1], partly=False)) < wanted:
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
            "groups hold all others; lower --minepool or look at --groupcolumn and --softgroupcolumn."
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


def fewest_wrong(rows: Rows, sought: str, partly: bool = True) -> int:
    """The fewest texts of the side `sought` that are wrong for a text of the other side.

    Args:
        rows: the train rows.
        sought: "document" or "query".
        partly: whether partial matches are not wrong either.
    """
    texts, pairs = anchors(rows, sought)[0], group_pairs(rows, sought, partly)
    # No text matches more than its groups hold together; the product of all is as large as the squares of the groups.
    bounds = sum(theirs[texts] @ ours.sum(axis=0, dtype=np.int64) for theirs, ours in pairs)
    order, most, at = np.argsort(-bounds, kind="stable"), 0, 0
    while at < len(order) and bounds[order[at]] > most:
        part = order[at : at + max(1, _ENTRIES // bounds[order[at]])]
        most = max(most, int(np.diff(matching(rows, sought, texts[part], partly).indptr).max()))
        at += len(part)
    return pairs[0][1].shape[0] - most


def most_documents(settings: Settings, rows: Rows, step: int) -> int:
    """The most distinct documents a step of so many rows can have."""
    given = max((len(wrong) for wrong in rows.negatives), default=0)
    mined = settings.minecount if (settings.negatives, settings.mineside) == ("mined", "document") else 0
    return min(len(rows.documents), (step + 1) * (1 + given + mined))
