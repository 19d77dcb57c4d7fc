"""Systems scored on one task set: an encoder, embeddings or the lexical floors in, the tables of a run out.

The key function is `evaluate`. A text keeps the prompt of its own side in both directions: a title is always
encoded as a query and a description always as a document, so one index serves both searches.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from hr_search.base.choices import METRICS
from hr_search.base.processes import ALONE, Processes
from hr_search.base.text import STORED
from hr_search.data.duplicates import normalise, normalised
from hr_search.data.tasks import Task
from hr_search.encoder import Encoder
from hr_search.evaluation.lexical import bm25_scores, tfidf_scores
from hr_search.evaluation.metrics import Scores, embedding_scores, rank_all, summarise
from hr_search.evaluation.significance import FEW, holm, paired_comparison
from hr_search.fast.tokens import TokenTable

log = logging.getLogger(__name__)

FLOORS = {"bm25": bm25_scores, "tfidf": tfidf_scores}
SAMPLE = 1000  # queries of each direction whose cosines a run keeps
Results = dict[tuple[str, str], pd.DataFrame]  # (system, direction) -> one row per query
_BLOCK = 16_000_000  # cosines held at a time: 64 MB


def evaluate(encoder: Encoder, tasks: Mapping[str, Task], progress: bool = False) -> dict[str, pd.DataFrame]:
    """How well an encoder searches, query by query, in both directions.

    Example:
        >>> results = evaluate(encoder, tasks)
        >>> bool(0 < results["q2d"]["mrr"].mean() <= 1)
        True

    Args:
        encoder: what `encoder.load_encoder` returns.
        tasks: "q2d" (query to document) and "d2q" (document to query) over the same Q queries and N documents,
            as `data.tasks.tasks_of` makes them from a pairs table.
        progress: show a bar on a terminal while texts are encoded.

    Returns:
        For each direction a table of one row per query of its task, in their order: `query`, `group`,
        `relevant` (how many relevant documents count as right, see `Task`), `rank` (of the best one, from 1; in a
        tie it ranks last),
        `mrr`, `pass@1`, `pass@5`, `recall@10`, `ndcg@10` and `map` (each from 0 to 1), `found` and `expected`
        (JSON lists of up to five indices into the task's documents) and `hits` (which found
        ones are right). `metrics.summarise` averages it.

    Raises:
        InputError: a task has no queries or no documents, a query has no relevant document, or an embedding
            is NaN or infinite.
    """
    return evaluate_embeddings(tasks, embed_sides(encoder, token_tables(encoder, tasks), progress))


def token_tables(encoder: Encoder, tasks: Mapping[str, Task]) -> dict[str, TokenTable]:
    """Token tables of the tasks' distinct queries ("query") and documents ("document")."""
    task = tasks["q2d"]
    return {"query": encoder.tokens(task.queries, "query"), "document": encoder.tokens(task.documents, "document")}


def embed_sides(
    encoder: Encoder, tables: Mapping[str, TokenTable], progress: bool = False, processes: Processes = ALONE
) -> dict[str, np.ndarray]:
    """Embeddings of both sides: "query" (Q, D) and "document" (N, D); several `processes` share the texts out."""
    with encoder.narrowed(list(tables.values())):
        return {side: encoder.embed(table, 0, progress, processes) for side, table in tables.items()}


def evaluate_embeddings(
    tasks: Mapping[str, Task], sides: Mapping[str, np.ndarray], processes: Processes = ALONE
) -> dict[str, pd.DataFrame]:
    """What `evaluate` returns, for each direction in `tasks`, from the embeddings of `embed_sides`."""
    pairs = _directed(sides)
    return {name: rank_all(task, embedding_scores(*pairs[name]), processes=processes) for name, task in tasks.items()}


def evaluate_floors(tasks: Mapping[str, Task], processes: Processes = ALONE) -> Results:
    """Per-query metrics of BM25 and character TF-IDF, the floors that a trained encoder has to beat."""
    return {
        (name, direction): rank_all(task, scores(task), processes=processes)
        for name, scores in FLOORS.items()
        for direction, task in tasks.items()
    }


def metrics_table(results: Results, seed: int) -> pd.DataFrame:
    """The mean of every metric with its 95 % bootstrap interval, a row per system, direction and metric.

    A warning tells of test rows in fewer than ten groups: intervals and p-values over so few are rough.

    Returns:
        system, direction, metric, value, low, high, queries.
    """
    groups = min((table["group"].nunique() for table in results.values()), default=FEW)
    if groups < FEW:
        log.warning("the test rows have %d groups only: intervals and p are rough; test on more groups", groups)
    parts = [
        summarise(table, seed).assign(system=system, direction=direction)
        for (system, direction), table in results.items()
    ]
    return pd.concat(parts)[["system", "direction", "metric", "value", "low", "high", "queries"]].reset_index(drop=True)


def queries_table(results: Results, seen: Mapping[str, np.ndarray] | None = None) -> pd.DataFrame:
    """All per-query rows in one table, with their system and direction; queries are cut to 300 characters.

    Args:
        results: the per-query tables.
        seen: what `seen_titles` returns; None = no column `seen`.

    Returns:
        The columns of `metrics.rank_all`, system, direction, length (words of the whole query) and seen (0 or 1).
    """
    parts = []
    for (system, direction), table in results.items():
        table = table.assign(system=system, direction=direction, length=_word_counts(table["query"]))
        parts.append(table.assign(seen=seen[direction].astype(int)) if seen else table)
    table = pd.concat(parts, ignore_index=True)
    return table.assign(query=table["query"].str.slice(0, STORED))


def documents_table(tasks: Mapping[str, Task]) -> pd.DataFrame:
    """The documents that `found` and `expected` of the per-query rows point to.

    Returns:
        direction, index (as in `found`), text (cut to 300 characters), length (in words).
    """
    parts = []
    for name, task in tasks.items():
        texts = pd.Series(task.documents)
        part = {"direction": name, "index": texts.index, "text": texts.str.slice(0, STORED)}
        parts.append(pd.DataFrame({**part, "length": _word_counts(texts)}))
    return pd.concat(parts, ignore_index=True)


def seen_titles(train: pd.DataFrame, tasks: Mapping[str, Task]) -> dict[str, np.ndarray]:
    """Whether the title of each test query, or one of its relevant titles, also occurs in train.

    Args:
        train: pairs with a column `query`.
        tasks: both directions.

    Returns:
        Direction to (Q,) booleans: in q2d the query itself counts, in d2q any title relevant to it.
    """
    known = set(normalised(train["query"].drop_duplicates()))
    titles = np.array([normalise(text) in known for text in tasks["q2d"].queries])
    back = tasks["d2q"]
    return {"q2d": titles, "d2q": np.array([titles[back.right(query)].any() for query in range(len(back.queries))])}


def scores_table(system: str, tasks: Mapping[str, Task], sides: Mapping[str, np.ndarray], seed: int) -> pd.DataFrame:
    """Cosines of right and wrong documents for up to 1,000 random queries of each direction in `tasks`.

    Only the seed decides which queries and documents are drawn, so all systems get the same ones.

    Returns:
        system, direction, query (its row among the direction's queries, from 0), kind and score. The kinds are
        `positive` (a random right document), `best` (the nearest right one), `negative` (a random wrong one) and
        `nearest` (the nearest wrong one); a query without wrong documents lacks the last two. Documents graded below
        `relevantfrom` are neither right nor wrong.
    """
    rows = []
    pairs = _directed(sides)
    for direction, task in tasks.items():
        (queries, documents), generator = pairs[direction], np.random.default_rng(seed)
        chosen = np.sort(generator.permutation(len(task.queries))[:SAMPLE])
        scores = embedding_scores(queries[chosen], documents)
        for query, row in zip(chosen, _rows(scores, len(chosen), len(task.documents)), strict=True):
            cosines = _cosines(task, query, row, generator)
            rows += [(system, direction, query, kind, score) for kind, score in cosines.items()]
    table = pd.DataFrame(rows, columns=["system", "direction", "query", "kind", "score"])
    return table.assign(score=table["score"].astype(float).round(6))  # as the cosines are rounded: no digits of float32


def comparison_table(results: Results, seed: int, subject: str = "trained") -> pd.DataFrame:
    """`subject` against every other system: difference, interval, randomisation p, Holm's p, effect.

    Holm's correction runs over the systems, within one direction and metric.
    """
    rows = []
    others = [system for system in dict.fromkeys(system for system, _ in results) if system != subject]
    for direction in dict.fromkeys(direction for _, direction in results):
        groups = results[subject, direction]["group"]
        for metric in METRICS:
            ours = results[subject, direction][metric].to_numpy()
            theirs = [results[other, direction][metric].to_numpy() for other in others]
            tests = [paired_comparison(values, ours, seed, groups=groups) for values in theirs]
            for other, test, p in zip(others, tests, holm([test["p"] for test in tests]), strict=True):
                rows.append({"a": other, "b": subject, "direction": direction, "metric": metric, **test, "p_holm": p})
    columns = ["a", "b", "direction", "metric", "difference", "low", "high", "p", "p_holm", "effect"]
    return pd.DataFrame(rows, columns=columns)


def nested(metrics: pd.DataFrame) -> dict[str, dict[str, dict[str, list[float]]]]:
    """System -> direction -> metric -> [value, low, high], for a summary in JSON."""
    out: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in metrics.itertuples():
        values = [float(row.value), float(row.low), float(row.high)]
        out.setdefault(row.system, {}).setdefault(row.direction, {})[row.metric] = values
    return out


def _word_counts(texts: pd.Series) -> pd.Series:
    """How many words each text has."""
    return texts.str.split().str.len()


def _directed(sides: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For both directions, the embeddings to search with and those to search in."""
    query, document = sides["query"], sides["document"]
    return {"q2d": (query, document), "d2q": (document, query)}


def _rows(scores: Scores, count: int, width: int) -> Iterator[np.ndarray]:
    """The `count` rows of a score matrix (count, width), one by one, computed in blocks that fit into memory."""
    step = max(1, _BLOCK // width)
    for start in range(0, count, step):
        yield from scores(start, start + step)


def _cosines(task: Task, query: int, row: np.ndarray, generator: np.random.Generator) -> dict[str, float]:
    """The kinds of cosines that `scores_table` keeps of one query, from its cosines (N,)."""
    right = task.right(query)
    barred = [] if task.barred is None else task.barred[query]
    wrong = np.delete(row, np.concatenate([task.relevant[query], barred]).astype(int))
    kinds = {"positive": row[generator.choice(right)], "best": row[right].max()}
    if wrong.size:
        kinds |= {"negative": generator.choice(wrong), "nearest": wrong.max()}
    return kinds
