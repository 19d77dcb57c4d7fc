"""Answers to queries: all stages of a search over the texts of an index or of a corpus just embedded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hr_search.base.files import whole_file, write_csv
from hr_search.base.progress import bar
from hr_search.encoder import Encoder
from hr_search.index import exact
from hr_search.index.approximate import Approximate
from hr_search.search import fusion
from hr_search.search.fusion import WordIndex
from hr_search.search.memory import Memory
from hr_search.search.policy import SearchPolicy, sides_of
from hr_search.search.stages import Reads, placed, reranked

_PLAIN = SearchPolicy()


class Hit(NamedTuple):
    """A text that was found, with its score after the last stage and its row in the corpus."""

    score: float
    row: int
    text: str


@dataclasses.dataclass(frozen=True)
class Searcher:
    """Everything that a search needs.

    Attributes:
        encoder: the model, for the queries.
        vectors: (N, D) embeddings of the texts, L2-normalised, centred and mixed as the policy says.
        rows: (N,) their rows in the corpus.
        texts: N texts.
        direction: "q2d" or "d2q".
        policy: the knobs.
        memory: known pairs; needed where the policy centres, or mixes queries.
        words: word index of the texts; needed where the policy has fusion.
        reads: the second stage; None = none.
        approximate: finds the first candidates in lists; None = exact search. It has no scores of all texts, which word
            scores are scaled beside.
    """

    encoder: Encoder
    vectors: np.ndarray
    rows: np.ndarray
    texts: Sequence[str]
    direction: str = "q2d"
    policy: SearchPolicy = _PLAIN
    memory: Memory | None = None
    words: WordIndex | None = None
    reads: Reads | None = None
    approximate: Approximate | None = None

    def answers(self, queries: Sequence[str], top: int, progress: bool = False) -> Iterator[list[Hit]]:
        """The best texts for each query, in the order of the queries.

        Args:
            queries: B texts to search with.
            top: how many are wanted, at least 1; more than N gives all N.
            progress: show bars on a terminal.

        Yields:
            min(top, N) hits, best first; of equal scores among those found, the first row comes first.

        Raises:
            InputError: an embedding that is NaN, or of another dimension than those of the texts.
        """
        embedded = self.embedded(queries, progress)
        wanted = max(top, self.policy.reranktop) if self.reads else top
        found = self.approximate.best(embedded, wanted) if self.approximate else self._best(queries, embedded, wanted)
        counter = bar(total=len(queries), what="searching", unit="query") if progress else None
        for query, (places, values) in zip(queries, found, strict=True):
            yield self._hits(query, places, values, top)
            if counter is not None:
                counter.update()
        if counter is not None:
            counter.close()

    def _best(
        self, queries: Sequence[str], embedded: np.ndarray, count: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each query, the places of the texts with the best scores before a second stage, and these scores."""
        share = 8 if self.policy.fusion else 1  # words are scored and scaled beside the cosines
        for part in exact.blocks(len(queries), len(self.rows), share):
            scores = exact.dot_products(self.vectors, embedded[part])
            if self.words is not None:
                found = self.words.scores(queries[part])
                scores = fusion.fuse(scores, found, self.policy.fusion, self.policy.scaling)
            yield from (exact.best(row, count) for row in scores)

    def embedded(self, queries: Sequence[str], progress: bool = False) -> np.ndarray:
        """The embeddings that queries are searched with, (B, D) float32."""
        side = sides_of(self.direction)[0]
        vectors = self.encoder.embed(self.encoder.tokens(queries, side, cached=False), progress=progress)
        if not (self.policy.centre or self.policy.mixes("queries")):
            return vectors
        return placed(vectors, side, False, self.memory, self.policy)

    def _hits(self, query: str, places: np.ndarray, values: np.ndarray, top: int) -> list[Hit]:
        texts = [self.texts[at] for at in places.tolist()]
        order = np.arange(len(places))
        if self.reads:
            swapped = self.direction == "d2q"
            values = reranked(values[None], [query], texts, self.reads, self.policy, swapped)[0]
            order, values = exact.best(values, top)
        hits = zip(values.tolist(), order.tolist(), strict=True)
        return [Hit(score, int(self.rows[places[at]]), texts[at]) for score, at in hits]


def answer_rows(queries: Sequence[tuple[int, str]], answers: Iterable[Sequence[Hit]]) -> Iterator[dict[str, Any]]:
    """A row for each text found: its query with that query's row, its rank, score, row and text."""
    for (at, query), hits in zip(queries, answers, strict=True):
        for rank, (score, row, text) in enumerate(hits, 1):
            yield {"queryrow": at, "query": query, "rank": rank, "score": round(score, 4), "row": row, "text": text}


def write_rows(place: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes rows into a .csv or, in JSON, into a .jsonl file; it is whole or not there."""
    if place.suffix.lower() == ".csv":
        write_csv(place, pd.DataFrame(rows))
        return
    with whole_file(place) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
