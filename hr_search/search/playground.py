"""A search to play with: a small corpus searched by several models, whose knobs turn without encoding a text again."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hr_search import mixing
from hr_search.base import paths
from hr_search.base.errors import InputError, suggestion
from hr_search.data import loading, tables
from hr_search.data.duplicates import normalise
from hr_search.data.tasks import Task
from hr_search.encoder import Encoder
from hr_search.search.fusion import WordIndex, fuse
from hr_search.search.memory import Memory, build_memory, keys_of
from hr_search.search.policy import SearchPolicy, read_policies, sides_of
from hr_search.search.run_stages import spread
from hr_search.search.stages import placed
from hr_search.settings import Settings

# Where the knobs of a model begin that nobody has tuned.
UNTUNED = SearchPolicy(mixing="documents", k=10, weight=0.5, fusion=0.2)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Texts to search in, and what is known of them.

    Attributes:
        direction: "q2d" or "d2q".
        documents: N texts.
        queries: texts to search with whose relevant documents are known.
        relevant: normalised query -> its relevant documents.
    """

    direction: str
    documents: list[str]
    queries: list[str]
    relevant: dict[str, frozenset[int]]

    def right(self, query: str) -> frozenset[int]:
        """The documents relevant to a query; empty where nothing is known."""
        return self.relevant.get(normalise(query), frozenset())

    def examples(self, count: int) -> list[str]:
        """Up to `count` of the queries, evenly spaced."""
        return [self.queries[at] for at in spread(len(self.queries), count)]


def corpus_of(task: Task, limit: int) -> Corpus:
    """At most `limit` documents of a task, evenly spaced, and the queries that have all relevant ones among them."""
    kept = spread(len(task.documents), limit)
    place = {int(at): new for new, at in enumerate(kept)}
    known = [
        (query, frozenset(place[int(at)] for at in task.right(number)))
        for number, query in enumerate(task.queries)
        if all(int(at) in place for at in task.right(number))
    ]
    documents = [task.documents[at] for at in kept]
    relevant = {normalise(query): right for query, right in known}
    return Corpus(task.name, documents, [query for query, _ in known], relevant)


def read_corpus(place: str, direction: str, limit: int) -> Corpus:
    """At most `limit` texts of a file.

    Args:
        place: a table of pairs, `esco`, `sample_ru`, a folder of judged queries, or a .txt file with one text per line,
            about which nothing is known.
        direction: "q2d" or "d2q".
        limit: texts at most, evenly spaced.

    Raises:
        InputError: the file cannot be read.
    """
    if paths.extension(place) == ".txt":
        texts = [text for text in tables.read_texts(paths.resolve(place)) if text]
        return Corpus(direction, [texts[at] for at in spread(len(texts), limit)], [], {})
    return corpus_of(loading.search_tasks(Settings(datapath=place))[direction], limit)


def beginning(model: Path | str | None, direction: str, knobs: Mapping[str, object]) -> SearchPolicy:
    """Where the knobs begin: those that `tune` chose for the model in a folder, or `UNTUNED`, overridden by `knobs`.

    The second stage is left out, for it takes seconds a query.

    Raises:
        InputError: a knob is unknown or has a value that it cannot have.
    """
    chosen = read_policies(model).get(direction, UNTUNED) if model else UNTUNED
    return SearchPolicy.from_dict(chosen.to_dict() | dict(knobs), "knobs").replace(rerank="")


class Shelf:
    """A corpus and known pairs as one model sees them.

    Attributes:
        memory: the known pairs.
        vectors: (N, D), of the corpus.
    """

    def __init__(self, encoder: Encoder, corpus: Corpus, pairs: pd.DataFrame) -> None:
        self.encoder, self.sides = encoder, sides_of(corpus.direction)
        self.memory: Memory = build_memory(encoder, pairs, "the memory of the playground", progress=True)
        searched = self.sides[1]
        self.vectors = encoder.embed(encoder.tokens(corpus.documents, searched), progress=True)
        self.keys = keys_of(corpus.documents)
        self._asked: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._ends = functools.lru_cache(maxsize=64)(self._ends_of)

    def cosines(self, query: str, policy: SearchPolicy) -> np.ndarray:
        """The cosines of all texts with a query, (N,), under the policy's centring and mixing."""
        if query not in self._asked:
            self._asked[query] = self.encoder.encode([query], self.sides[0]), keys_of([query])
        left, right = self._moved(query, policy), self._moved(None, policy)
        return np.round(right @ left[0], 6)  # so that equal texts tie, as `metrics.embedding_scores` rounds

    def _moved(self, query: str | None, policy: SearchPolicy) -> np.ndarray:
        """A query, or for None the corpus, where the policy has it."""
        # What the weight does not change, so that moving its slider finds no neighbour again.
        start, target = self._ends(query, policy.replace(weight=1.0, fusion=0.0))
        if target is None:
            return start
        weights = mixing.MixingPolicy(
            policy.strategy, query_weight=1 - policy.weight, positive_weight=policy.weight, negative_weight=0.0
        )
        block, end = torch.from_numpy(start), torch.from_numpy(target)
        found = torch.ones(len(start), 1)
        none = torch.zeros_like(block), torch.zeros_like(found)
        return mixing.combine(block, end, found, *none, weights).numpy()

    def _ends_of(self, query: str | None, policy: SearchPolicy) -> tuple[np.ndarray, np.ndarray | None]:
        """Embeddings not mixed at all, and mixed with weight 1; None where the policy does not mix them."""
        searched = query is None
        vectors, keys = (self.vectors, self.keys) if query is None else self._asked[query]
        place = functools.partial(placed, vectors, self.sides[searched], searched, self.memory, keys=keys)
        mixes = policy.mixes("documents" if searched else "queries")
        return place(policy=policy.replace(mixing="none")), place(policy=policy) if mixes else None


class Playground:
    """Models beside each other over one corpus.

    Attributes:
        shelves: by the name of their model, such as "base" and "trained".
        corpus: what is searched.
        policy: where the knobs begin.
    """

    def __init__(
        self, encoders: Mapping[str, Encoder], corpus: Corpus, pairs: pd.DataFrame, policy: SearchPolicy = UNTUNED
    ) -> None:
        """Encodes corpus and known pairs once with each model.

        Args:
            encoders: by the name that their columns get.
            corpus: what is searched.
            pairs: known pairs, columns `query` and `positive`; none of them from the test.
            policy: where the knobs begin.

        Raises:
            InputError: there are no pairs or no texts.
        """
        if not corpus.documents:
            raise InputError("the corpus of the playground has no texts; give another one.")
        self.corpus, self.policy = corpus, policy
        self.shelves = {name: Shelf(encoder, corpus, pairs) for name, encoder in encoders.items()}
        self._words = functools.lru_cache(maxsize=256)(self._words_of)
        self._indexes: dict[str, WordIndex] = {}

    @property
    def largest_k(self) -> int:
        """Neighbours that the memory can give at most."""
        return min(len(vectors) for shelf in self.shelves.values() for vectors in shelf.memory.vectors.values())

    def scores(self, query: str, policy: SearchPolicy, staged: str = "") -> dict[str, np.ndarray]:
        """Scores (N,) of all texts by column: each model's cosine, then the stages added to one of the models.

        Args:
            query: what is searched with.
            policy: the knobs; more neighbours than the memory has are lowered to those it has.
            staged: the model that gets the stages; empty = the last one.

        Raises:
            InputError: an empty query, or an unknown model.
        """
        if not query.strip():
            raise InputError("the query is empty; give a text to search with.")
        staged = staged or list(self.shelves)[-1]
        if staged not in self.shelves:
            raise InputError(f'there is no model "{staged}"; {suggestion(staged, list(self.shelves))}')
        policy, plain = policy.replace(k=min(policy.k, self.largest_k)), SearchPolicy()
        columns = {name: shelf.cosines(query, plain) for name, shelf in self.shelves.items()}
        stages = " and ".join(["centring"] * policy.centre + ["mixing"] * (policy.mixing != "none"))
        last = self.shelves[staged].cosines(query, policy)
        if stages:
            columns[f"{staged} + {stages}"] = last
        columns["+ words"] = fuse(last[None], self._words(query, policy.words)[None], policy.fusion, policy.scaling)[0]
        return columns

    def search(self, query: str, policy: SearchPolicy | None = None, staged: str = "", top: int = 5) -> pd.DataFrame:
        """The best texts in each column of `scores`, as indices into the corpus; row 1 holds the best.

        Of equal scores, the first text comes first.
        """
        columns = self.scores(query, policy or self.policy, staged)
        order = {name: np.argsort(-scores, kind="stable")[:top] for name, scores in columns.items()}
        return pd.DataFrame(order, index=pd.RangeIndex(1, min(top, len(self.corpus.documents)) + 1, name="rank"))

    def _words_of(self, query: str, kind: str) -> np.ndarray:
        """The word scores of all texts for a query, (N,)."""
        if kind not in self._indexes:
            memory = next(iter(self.shelves.values())).memory
            self._indexes[kind] = WordIndex.fit(self.corpus.documents, kind, memory.background)
        return self._indexes[kind].scores([query])[0]
