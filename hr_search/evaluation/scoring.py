"""Evaluation of encoders and lexical floors on one task set, and their comparison, as tables."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import pandas as pd

from hr_search.base.choices import METRICS
from hr_search.base.text import STORED
from hr_search.data.duplicates import normalise, normalised
from hr_search.data.tasks import Task
from hr_search.encoder import Encoder
from hr_search.evaluation.lexical import bm25_scores, tfidf_scores
from hr_search.evaluation.metrics import embedding_scores, evaluate, search_timing, summarise
from hr_search.evaluation.significance import holm, paired_comparison
from hr_search.fast.tokens import TokenTable

FLOORS = {"bm25": bm25_scores, "tfidf": tfidf_scores}
SAMPLE = 1000  # queries of each direction whose cosines a run keeps
Results = dict[tuple[str, str], pd.DataFrame]  # (system, direction) -> one row a query


def token_tables(encoder: Encoder, tasks: Mapping[str, Task]) -> dict[str, TokenTable]:
    """Token tables of the tasks' distinct queries ("query") and documents ("document")."""
    task = tasks["q2d"]
    return {"query": encoder.tokens(task.queries, "query"), "document": encoder.tokens(task.documents, "document")}


def embed_sides(encoder: Encoder, tables: Mapping[str, TokenTable], progress: bool = False) -> dict[str, np.ndarray]:
    """Embeddings of both sides: "query" (Q, D) and "document" (N, D)."""
    return {side: encoder.embed(table, progress=progress) for side, table in tables.items()}


def evaluate_embeddings(tasks: Mapping[str, Task], sides: Mapping[str, np.ndarray]) -> dict[str, pd.DataFrame]:
    """Per-query metrics in both directions for the embeddings of both sides.

    A text keeps the prompt of its own side in both directions: a title is always encoded as a
    query and a description always as a document, so one index serves both searches.
    """
    pairs = _directed(sides)
    return {name: evaluate(task, embedding_scores(*pairs[name])) for name, task in tasks.items()}


def evaluate_encoder(encoder: Encoder, tasks: Mapping[str, Task], progress: bool = False) -> dict[str, pd.DataFrame]:
    """Per-query metrics of an encoder in both directions."""
    return evaluate_embeddings(tasks, embed_sides(encoder, token_tables(encoder, tasks), progress))


def evaluate_floors(tasks: Mapping[str, Task]) -> Results:
    """Per-query metrics of BM25 and character TF-IDF, the floors a trained encoder has to beat."""
    return {
        (name, direction): evaluate(task, scores(task))
        for name, scores in FLOORS.items()
        for direction, task in tasks.items()
    }


def metrics_table(results: Results, seed: int) -> pd.DataFrame:
    """The long table (system, direction, metric, value, low, high, queries), intervals 95 % by bootstrap."""
    parts = [
        summarise(table, seed).assign(system=system, direction=direction)
        for (system, direction), table in results.items()
    ]
    return pd.concat(parts)[["system", "direction", "metric", "value", "low", "high", "queries"]].reset_index(drop=True)


def queries_table(results: Results, seen: Mapping[str, np.ndarray] | None = None) -> pd.DataFrame:
    """All per-query rows in one table, with their system and direction; texts are cut for reading.

    Args:
        results: the per-query tables.
        seen: what `seen_titles` tells; None = no column `seen`.

    Returns:
        The columns of `evaluate`, system, direction, length (words of the whole query) and seen (0 or 1).
    """
    parts = [table.assign(system=system, direction=direction, length=_words(table["query"]),
                          **({"seen": seen[direction].astype(int)} if seen else {}))
             for (system, direction), table in results.items()]  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    return table.assign(query=table["query"].str.slice(0, STORED))


def documents_table(tasks: Mapping[str, Task]) -> pd.DataFrame:
    """What `found` and `expected` of the per-query rows point to: direction, index, text (cut), length (in words)."""
    parts = [
        pd.DataFrame({"direction": name, "index": range(len(task.documents)),
                      "text": [text[:STORED] for text in task.documents], "length": _words(pd.Series(task.documents))})
        for name, task in tasks.items()
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def seen_titles(train: pd.DataFrame, tasks: Mapping[str, Task]) -> dict[str, np.ndarray]:
    """Whether the title of each test query, or one of its right titles, also occurs in train.

    Args:
        train: pairs with a column `query`.
        tasks: both directions.

    Returns:
        Direction to (Q,) truth values: of q2d the query itself counts, of d2q any title that is right for it.
    """
    known = set(normalised(train["query"].drop_duplicates()))
    titles = np.array([normalise(text) in known for text in tasks["q2d"].queries])
    return {"q2d": titles, "d2q": np.array([titles[right].any() for right in tasks["d2q"].relevant])}


def scores_table(system: str, tasks: Mapping[str, Task], sides: Mapping[str, np.ndarray], seed: int) -> pd.DataFrame:
    """Cosines of right and wrong documents for up to 1,000 random queries of each direction.

    The seed alone decides which queries and documents are drawn, so all systems get the same ones.

    Returns:
        system, direction, query (its row among the direction's queries, from 0), kind and score. The kinds are
        `positive` (a random right document), `best` (the nearest right one), `negative` (a random wrong one) and
        `nearest` (the nearest wrong one); a query without wrong documents lacks the last two.
    """
    rows = []
    for direction, (queries, documents) in _directed(sides).items():
        task, generator = tasks[direction], np.random.default_rng(seed)
        chosen = np.sort(generator.permutation(len(task.queries))[:SAMPLE])
        scores = embedding_scores(queries[chosen], documents)
        step = max(1, 16_000_000 // len(task.documents))  # 64 MB of cosines at a time
        for start in range(0, len(chosen), step):
            for query, row in zip(chosen[start : start + step], scores(start, start + step), strict=True):
                relevant = task.relevant[query]
                barred = [] if task.barred is None else task.barred[query]
                wrong = np.delete(row, np.concatenate([relevant, barred]).astype(int))
                kinds = {"positive": row[generator.choice(relevant)], "best": row[relevant].max()}
                if wrong.size:
                    kinds |= {"negative": generator.choice(wrong), "nearest": wrong.max()}
                rows += [(system, direction, query, kind, score) for kind, score in kinds.items()]
    table = pd.DataFrame(rows, columns=["system", "direction", "query", "kind", "score"])
    return table.assign(score=table["score"].astype(float).round(6))  # as the cosines are rounded: no digits of float32


def comparison_table(results: Results, seed: int, subject: str = "trained") -> pd.DataFrame:
    """`subject` against every other system: difference, interval, randomisation p, Holm's p, effect.

    Holm's correction runs over the systems, within one direction and metric.
    """
    rows = []
    others = [system for system in dict.fromkeys(system for system, _ in results) if system != subject]
    for direction in dict.fromkeys(direction for _, direction in results):
        for metric in METRICS:
            ours = results[subject, direction][metric].to_numpy()
            tests = [paired_comparison(results[other, direction][metric].to_numpy(), ours, seed) for other in others]
            for other, test, p in zip(others, tests, holm([test["p"] for test in tests]), strict=True):
                rows.append({"a": other, "b": subject, "direction": direction, "metric": metric, **test, "p_holm": p})
    columns = ["a", "b", "direction", "metric", "difference", "low", "high", "p", "p_holm", "effect"]
    return pd.DataFrame(rows, columns=columns)


def timing_table(encoder: Encoder, documents: list[str], sample: int, seed: int) -> pd.DataFrame:
    """What a user of the encoder waits for: encoding 10,000 documents, top-1 and top-5 search among them.

    Encoding is timed on up to `sample` documents and scaled; search runs over 10,000 vectors of the
    model's dimension.

    Returns:
        what, unit, value.
    """
    started = time.perf_counter()
    embeddings = encoder.encode(documents[:sample], "document")
    seconds = (time.perf_counter() - started) / len(embeddings) * 10_000
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((10_000, encoder.dimension)).astype(np.float32)
    noise[: len(embeddings)] = embeddings[:10_000]
    first = pd.DataFrame([{"what": "encoding 10,000 documents", "unit": "s", "value": seconds}])
    return pd.concat([first, search_timing(noise)], ignore_index=True)


def nested(metrics: pd.DataFrame) -> dict[str, dict[str, dict[str, list[float]]]]:
    """System -> direction -> metric -> [value, low, high], for a summary in JSON."""
    out: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in metrics.itertuples():
        values = [float(row.value), float(row.low), float(row.high)]
        out.setdefault(row.system, {}).setdefault(row.direction, {})[row.metric] = values
    return out


def _words(texts: pd.Series) -> pd.Series:
    """How many words each text has."""
    return texts.str.split().str.len()


def _directed(sides: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The embeddings searched with and those searched in, for both directions."""
    query, document = sides["query"], sides["document"]
    return {"q2d": (query, document), "d2q": (document, query)}
