"""Batches: which rows meet in a step, their distinct texts, and which documents may be negatives."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from hr_search.base.arrays import incidence
from hr_search.base.errors import InputError, shown

WINDOW = 2**20
"""Rows of a table in files that are shuffled together."""

_TABLES, _ORDER = 4, 5  # in the keys of random numbers; steps and minings have others
_BLOCKS = 16  # of a window


@dataclasses.dataclass(frozen=True)
class Rows:
    """N training rows as indices into distinct texts, which may lie in files.

    Attributes:
        queries: distinct query texts.
        documents: distinct document texts (positives and given negatives).
        query: (N,) index into queries.
        positive: (N,) index into documents.
        negatives: per row, indices into documents.
        query_groups: (queries, groups) ones where a query occurs in a group.
        document_groups: (documents, groups) ones where a document is a positive of a group.
        table: (N,) number of the table that the row comes from; None = there is one.
        grade: (N,) weight of the row in the loss; None = all 1.
        query_softgroups, document_softgroups: as the groups, of what matches in part; None = nothing does.
    """

    queries: Sequence[str]
    documents: Sequence[str]
    query: np.ndarray
    positive: np.ndarray
    negatives: Sequence[np.ndarray]
    query_groups: sparse.csr_array
    document_groups: sparse.csr_array
    table: np.ndarray | None = None
    grade: np.ndarray | None = None
    query_softgroups: sparse.csr_array | None = None
    document_softgroups: sparse.csr_array | None = None

    def __len__(self) -> int:
        return len(self.query)


@dataclasses.dataclass(frozen=True)
class Batch:
    """The rows of one step over their distinct texts.

    Attributes:
        queries: indices of the distinct query texts, (Q,), those mined for the documents included.
        documents: indices of the distinct document texts, (M,).
        query: row to its place in queries, (B,).
        positive: row to its place in documents, (B,).
        relevant: (B, M), documents that share a group with the row's query, its own positive included.
        given: (B, M), the row's given negatives.
        same: (B, B), true where the query of the column is relevant to the document of the row.
        further: places in queries of those that belong to no row, (E,).
        wrong: (B, E), true where that query is not relevant to the document of the row, in part either.
        partial: (B, M), documents that match the row's query in part: they share a soft group and no group; None = all
            match in full or not at all.
        nearly: (B, B), true where the query of the column matches the document of the row in part; None likewise.
        grade: (B,), weight of the row; None = all 1.
    """

    queries: np.ndarray
    documents: np.ndarray
    query: np.ndarray
    positive: np.ndarray
    relevant: np.ndarray
    given: np.ndarray
    same: np.ndarray
    further: np.ndarray
    wrong: np.ndarray
    partial: np.ndarray | None = None
    nearly: np.ndarray | None = None
    grade: np.ndarray | None = None


def index_rows(pairs: pd.DataFrame) -> Rows:
    """The rows of a pairs table, with or without `table`, `grade` and `softgroup`, over its distinct texts."""
    negatives = list(pairs["negatives"]) if "negatives" in pairs else [[]] * len(pairs)
    query, queries = pd.factorize(pairs["query"])
    flat = [text for wrong in negatives for text in wrong]
    codes, documents = pd.factorize(pd.Series(list(pairs["positive"]) + flat, dtype=object))
    ends = len(pairs) + np.cumsum([len(wrong) for wrong in negatives], dtype=np.int64)
    wrong = [codes[end - len(texts) : end] for texts, end in zip(negatives, ends, strict=True)]
    group, names = pd.factorize(pairs["group"])
    positive = codes[: len(pairs)]
    query_groups = incidence(query, group, (len(queries), len(names)))
    document_groups = incidence(positive, group, (len(documents), len(names)))
    marks: dict[str, Any] = {}
    if "table" in pairs:
        marks["table"] = pairs["table"].cat.codes.to_numpy()
    if "grade" in pairs:
        marks["grade"] = pairs["grade"].to_numpy(np.float32)
    if "softgroup" in pairs:
        soft, kinds = pd.factorize(pairs["softgroup"])
        given = (pairs["softgroup"] != "").to_numpy()
        for side, codes, texts in (("query", query, queries), ("document", positive, documents)):
            marks[f"{side}_softgroups"] = incidence(codes[given], soft[given], (len(texts), len(kinds)))
    return Rows(list(queries), list(documents), query, positive, wrong, query_groups, document_groups, **marks)


# -- which rows meet -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """How many steps a run has, and the rows of each.

    Attributes:
        tables: the numbers of the rows of each table.
        drawn: how many of them an epoch draws.
        per_step: rows of a step, all of one table.
        per_epoch: steps of an epoch.
        total: steps in all.
        seed: of the order.
        window: rows that are shuffled together, as `shuffled` explains; 0 = all.
    """

    tables: Sequence[np.ndarray]
    drawn: Sequence[int]
    per_step: int
    per_epoch: int
    total: int
    seed: int
    window: int = 0

    def batches(self, done: int = 0) -> Iterator[tuple[np.ndarray, bool]]:
        """Row numbers of every step after the first `done`, and whether the step ends an epoch."""
        for epoch in range(done // self.per_epoch, -(-self.total // self.per_epoch)):
            for at, chosen in enumerate(self.epoch(epoch)):
                if done <= epoch * self.per_epoch + at < self.total:
                    yield chosen, at == self.per_epoch - 1

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """Row numbers of each batch of an epoch; batches of several tables come in an order of chance."""
        batches = []
        for table, (rows, drawn) in enumerate(zip(self.tables, self.drawn, strict=True)):
            batches += _cut(
                rows[_stream(len(rows), epoch * drawn, drawn, self.seed, table, self.window)], self.per_step
            )
        if len(self.tables) == 1:
            return batches
        return [batches[at] for at in np.random.default_rng([self.seed, epoch, _ORDER]).permutation(len(batches))]


def step_plan(
    rows: int,
    per_step: int,
    epochs: int,
    maxsteps: int,
    seed: int,
    table: np.ndarray | None = None,
    shares: Sequence[float | None] = (None,),
    window: int = 0,
) -> StepPlan:
    """The plan of a run over `rows` training rows.

    A step takes rows of one table only. An epoch draws as many rows as the tables have together, from each its share
    of them: without shares every row of every table once. A table whose share is larger than its rows is begun again,
    in a new order; one whose share is smaller goes on in the next epoch where it stopped.

    Args:
        rows: how many.
        per_step: of them in a step.
        epochs: passes.
        maxsteps: steps at most; 0 = all epochs.
        seed: of the order.
        table: (N,) number of each row's table; None = one table.
        shares: of each table, in any unit; None = by its rows.
        window: rows that are shuffled together; 0 = all.
    """
    if table is not None and table.max(initial=-1) >= len(shares):
        raise InputError(f"the rows come from {table.max() + 1} tables, and datapath names {len(shares)}; name all.")
    tables = [np.arange(rows)] if table is None else [np.flatnonzero(table == at) for at in range(len(shares))]
    drawn = [len(each) for each in tables]
    if None not in shares:
        # Two rows at least, as a batch of one has no in-batch negatives.
        wanted = [max(2, round(rows * share / sum(shares))) if share else 0 for share in shares]
        drawn = [count if held else 0 for count, held in zip(wanted, drawn, strict=True)]
    per_epoch = sum(_batches_of(count, per_step) for count in drawn)
    total = per_epoch * epochs
    return StepPlan(tables, drawn, per_step, per_epoch, min(total, maxsteps or total), seed, window)


def epoch_batches(count: int, batchsize: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Row numbers of each batch of an epoch of one table: every row once, in an order that (seed, epoch) decides."""
    return _cut(_stream(count, epoch * count, count, seed, 0), batchsize)


def _stream(count: int, start: int, length: int, seed: int, table: int, window: int = 0) -> np.ndarray:
    """Places start to start + length of an endless row of passes over `count` rows, each in an order of its own."""
    passes = range(start // max(1, count), -(-(start + length) // max(1, count))) if count else ()
    keys = [[seed, number, _TABLES, table] if table else [seed, number] for number in passes]
    orders = [shuffled(count, window, np.random.default_rng(key)) for key in keys]
    first = start % count if count else 0
    whole = orders[0] if len(orders) == 1 else np.concatenate([np.empty(0, np.int64), *orders])
    return whole[first : first + length]


def shuffled(count: int, window: int, generator: np.random.Generator) -> np.ndarray:
    """An order of `count` rows in which those that follow one another lie near one another in their file.

    Sixteen blocks of neighbouring rows, drawn by chance, make a window, and the rows of a window come in an order of
    chance. So a step reads from one window, which may fit into memory where the file does not.

    Args:
        count: of rows.
        window: rows of a window; 0 = `count`. A table that fits into a window is one window.
        generator: of the order.
    """
    if not window or count <= window:
        return generator.permutation(count)
    size = -(-window // _BLOCKS)
    blocks = generator.permutation(-(-count // size))
    parts = []
    for at in range(0, len(blocks), _BLOCKS):
        rows = [np.arange(block * size, min(count, (block + 1) * size)) for block in blocks[at : at + _BLOCKS]]
        parts.append(generator.permutation(np.concatenate(rows)))
    return np.concatenate(parts)


def _batches_of(count: int, batchsize: int) -> int:
    """How many batches `_cut` makes of `count` rows."""
    batches = -(-count // batchsize)
    return batches - (batches > 1 and count % batchsize == 1)


def _cut(order: np.ndarray, batchsize: int) -> list[np.ndarray]:
    """An order of rows in batches. A last batch of one row has no in-batch negatives; it joins the batch before."""
    batches = [order[at : at + batchsize] for at in range(0, len(order), batchsize)]
    if batchsize > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        last = batches.pop()
        batches[-1] = np.concatenate([batches[-1], last])
    return batches


# -- what a step sees ----------------------------------------------------------------------------


def make_batch(
    rows: Rows,
    chosen: np.ndarray,
    mined: Sequence[np.ndarray] | None = None,
    mined_queries: Sequence[np.ndarray] | None = None,
) -> Batch:
    """The batch of the `chosen` rows, each distinct text once, with its relevance masks.

    Args:
        rows: all rows.
        chosen: numbers of those that meet.
        mined: for each chosen row, further documents that count as given negatives.
        mined_queries: for each chosen row, further queries that are wrong for its document.
    """
    queries = np.unique(np.concatenate([rows.query[chosen], *(mined_queries or [])]))
    query = np.searchsorted(queries, rows.query[chosen])
    own = rows.positive[chosen]
    wrong = [rows.negatives[row] for row in chosen]
    if mined is not None:
        wrong = [np.concatenate(pair) for pair in zip(wrong, mined, strict=True)]
    documents = np.unique(np.concatenate([own, *wrong]))
    positive = np.searchsorted(documents, own)
    # Relevance goes by text and over all rows, as in evaluation: a negative given for one row may be right for another.
    fits = (rows.query_groups[queries] @ rows.document_groups[documents].T).toarray() > 0  # (Q, M)
    relevant = fits[query]
    soft: dict[str, np.ndarray] = {}
    near = np.zeros_like(fits)
    if rows.query_softgroups is not None:
        near = (rows.query_softgroups[queries] @ rows.document_softgroups[documents].T).toarray() > 0
        near &= ~fits
        soft = {"partial": near[query], "nearly": near[query][:, positive].T}
    if rows.grade is not None:
        soft["grade"] = rows.grade[chosen]
    given = np.zeros_like(relevant)
    for at, indices in enumerate(wrong):
        given[at, np.searchsorted(documents, indices)] = True
    further = np.setdiff1d(np.arange(len(queries)), query)
    same, fitting = relevant[:, positive].T, (fits | near)[further][:, positive].T
    given &= ~(relevant | near[query])
    return Batch(queries, documents, query, positive, relevant, given, same, further, ~fitting, **soft)


def ahead(rows: Rows, steps: Iterable[tuple[np.ndarray, bool]]) -> Iterator[tuple[np.ndarray, bool, Batch]]:
    """Every step's row numbers, whether it ends an epoch, and its batch, made while the previous step runs."""
    steps = iter(steps)
    with ThreadPoolExecutor(1) as worker:
        pending: deque = deque()
        for chosen, ends in steps:
            pending.append((chosen, ends, worker.submit(make_batch, rows, chosen)))
            if len(pending) > 1:
                chosen, ends, batch = pending.popleft()
                yield chosen, ends, batch.result()
        for chosen, ends, batch in pending:
            yield chosen, ends, batch.result()


def negative_mask(batch: Batch, source: str, generator: np.random.Generator) -> np.ndarray:
    """Which documents may be each row's negative, (B, M) bool.

    Args:
        batch: the rows of the step.
        source: "given" (the table's own), "random" (one document of another group), "batch" or "mined"
            (all documents of other groups, given and mined ones included). A partial match is never one.
        generator: draws the random ones.
    """
    if source == "given":
        return batch.given
    others = ~batch.relevant if batch.partial is None else ~(batch.relevant | batch.partial)
    if source in ("batch", "mined"):
        return others
    draws = np.where(others, generator.random(others.shape), -1.0)
    chosen = np.zeros_like(others)
    chosen[np.arange(len(draws)), draws.argmax(axis=1)] = True
    return chosen & others


def describe_rows(rows: Rows, chosen: np.ndarray, count: int = 3) -> str:
    """The first of the chosen rows by the start of their texts, so that a person finds them in the file.

    Row numbers would not help: rows are dropped, split and shuffled on the way from the file.

    Args:
        rows: all rows.
        chosen: numbers of some of them.
        count: rows named.

    Returns:
        Such as `"welder" with "joins metal parts …", "baker" with "kneads dough …" and 14 more`.
    """
    first = np.sort(chosen)[:count]
    pairs = [(rows.queries[rows.query[row]], rows.documents[rows.positive[row]]) for row in first]
    texts = [f'"{shown(query, 40)}" with "{shown(document)}"' for query, document in pairs]
    return ", ".join(texts) + (f" and {len(chosen) - count} more" if len(chosen) > count else "")
