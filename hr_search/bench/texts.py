"""The texts that both contenders get: training pairs, search tasks, pairs to mine for, and pairs in any number."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd

from hr_search.base import files
from hr_search.base.errors import InputError
from hr_search.batches import step_plan
from hr_search.bench.cases import Order
from hr_search.data import esco, loading
from hr_search.data.duplicates import normalised
from hr_search.settings import Settings

_WRITTEN = 100_000  # generated pairs made at a time
HELD_OUT = 200  # pairs on which the models of the proof are compared
_DOCUMENTS, _QUERIES, _MINED = 34_000, 1_500, 12_000


def texts_for(order: Order, datapath: str = "", scale: float = 1.0) -> dict[str, list]:
    """The texts of an order as JSON-ready columns; equal arguments give equal texts.

    Args:
        order: what is measured.
        datapath: table of training pairs; empty = ESCO.
        scale: share of the corpus for the kinds evaluate and mine.

    Raises:
        InputError: the data is missing or too small.
    """
    if order.kind in ("train", "learn"):
        return training_pairs(order, datapath or "esco").to_dict("list")
    if order.kind == "evaluate":
        return search_texts(max(40, round(_DOCUMENTS * scale)), max(10, round(_QUERIES * scale)))
    if order.kind == "mine":
        return mining_pairs(max(40, round(_MINED * scale)))
    return {}


# -- training ------------------------------------------------------------------------------------


def training_pairs(order: Order, datapath: str) -> pd.DataFrame:
    """Pairs in which no text and no group occurs twice, each with one negative for the triplet loss.

    Without repeats nothing is masked and no text is encoded once for two rows, so both contenders do the
    same work. The training rows come first; for the kind "learn", HELD_OUT pairs follow.

    Returns:
        `query`, `positive`, `negatives`, `group`.

    Raises:
        InputError: the table has too few distinct rows.
    """
    table = _distinct_pairs(datapath)
    rows, held = order.rows, HELD_OUT * (order.kind == "learn")
    needed = rows * (1 + order.needs_negatives) + held
    if len(table) < needed:
        raise InputError(
            f"{datapath} has {len(table)} rows without a repeated text or group, and the case needs {needed}; "
            "lower --steps or give a larger table."
        )
    table = table.iloc[np.random.default_rng(order.seed).permutation(len(table))]
    pairs = pd.concat([table[:rows], table[len(table) - held :]])
    negatives = [[text] for text in table["positive"][rows : 2 * rows]] if order.needs_negatives else []
    return pairs.assign(negatives=negatives + [[]] * (len(pairs) - len(negatives))).reset_index(drop=True)


@functools.cache
def _distinct_pairs(datapath: str) -> pd.DataFrame:
    """The pairs of a table without those that repeat a group, a query or a document."""
    table = loading.load_all(Settings(datapath=datapath))
    for column in ("group", "query", "positive"):
        table = table[~normalised(table[column]).duplicated()]
    return table


def in_training_order(pairs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The rows in the order in which `train.fit` takes them, for a peer that reads from top to bottom."""
    plan = step_plan(len(pairs), settings.batchsize, settings.epochs, settings.maxsteps, settings.seed)
    return pairs.iloc[np.concatenate([rows for rows, _ in plan.batches()])]


def generated_pairs(rows: int, start: int = 0) -> pd.DataFrame:
    """`rows` distinct short pairs (`query`, `positive`) built from words of ESCO and numbers, those from `start` on."""
    table = _jobs()
    titles, words = table["group"].unique(), " ".join(table["positive"]).split()
    # Multiples of a prime walk through the words without returning early.
    numbers = range(start, start + rows)
    at = np.array(numbers, np.int64)[:, None] * np.array([7919, 104_729, 1_299_709])
    snippets = [[" ".join(words[i : i + 3]) for i in column] for column in (at % (len(words) - 3)).T]
    queries = [f"{titles[row % len(titles)]} {row}" for row in numbers]
    positives = [f"{a} {row} {b} {c}" for row, (a, b, c) in zip(numbers, zip(*snippets, strict=True), strict=True)]
    return pd.DataFrame({"query": queries, "positive": positives})


def write_generated(path: Path, rows: int) -> None:
    """Writes generated pairs to a .csv file, or to a .jsonl or .parquet file without holding them all in memory."""
    if path.suffix == ".csv":
        files.write_csv(path, generated_pairs(rows))
        return
    import pyarrow as arrow
    import pyarrow.parquet

    schema = arrow.schema([("query", arrow.string()), ("positive", arrow.string())])
    lines = path.suffix == ".jsonl"
    with path.open("w", encoding="utf-8") if lines else arrow.parquet.ParquetWriter(path, schema) as file:
        for start in range(0, rows, _WRITTEN):
            part = generated_pairs(min(_WRITTEN, rows - start), start)
            if lines:
                file.write(part.to_json(orient="records", lines=True, force_ascii=False))
            else:
                file.write_table(arrow.Table.from_pydict(part.to_dict("list"), schema))


# -- search and mining ---------------------------------------------------------------------------


def search_texts(documents: int, queries: int) -> dict[str, list]:
    """Short texts of ESCO as documents, and skills as queries, each with its two relevant documents.

    Returns:
        `queries`, `documents` (all distinct) and `relevant`, the sorted places of each query's documents.
    """
    skills = [(names, meaning) for names, meaning in _skills() if len(names) >= 6]
    answers = {" ".join(names[:4]): (" ".join(names[4:16]), " ".join(meaning[:16])) for names, meaning in skills}
    relevant = dict.fromkeys(text for pair in answers.values() for text in pair)
    jobs = _jobs()
    others = [" ".join(text.split()[:16]) for column in ("group", "query", "positive") for text in jobs[column]]
    corpus = list(dict.fromkeys([*relevant, *others]))[:documents]
    place = {text: at for at, text in enumerate(corpus)}
    kept = [(query, pair) for query, pair in answers.items() if all(text in place for text in pair)][:queries]
    return {
        "queries": [query for query, _ in kept],
        "documents": corpus,
        "relevant": [sorted({place[text] for text in pair}) for _, pair in kept],
    }


def mining_pairs(count: int) -> dict[str, list]:
    """`count` distinct skills of ESCO: `query` holds a skill's names, `positive` its meaning."""
    meanings = {" ".join(names[:6]): " ".join(meaning) for names, meaning in _skills()}
    table = pd.DataFrame({"query": list(meanings), "positive": list(meanings.values())})
    return table.drop_duplicates("positive")[:count].to_dict("list")


@functools.cache
def _jobs() -> pd.DataFrame:
    return esco.load_esco()


@functools.cache
def _skills() -> list[tuple[list[str], list[str]]]:
    """The skills of ESCO in a fixed random order, as the words of their names and of their description."""
    esco.occupations()  # raises a clear error if the package is missing
    package = importlib.util.find_spec(esco.PACKAGE)
    table = pd.read_csv(Path(next(iter(package.submodule_search_locations))) / "data" / "skills.csv", dtype=str)
    split = []
    for words in table["description"].str.split():
        # The description opens with the first capital after the names, which is close enough for a benchmark.
        start = next((at for at in range(1, len(words)) if words[at][:1].isupper() and words[at][1:].islower()), 0)
        if start and len(words) - start >= 4:
            split.append((words[:start], words[start:]))
    return [split[at] for at in np.random.default_rng(0).permutation(len(split))]
