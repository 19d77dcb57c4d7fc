"""The knobs of a search chosen on validation rows, one stage after the other."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hr_search.base.choices import WORDS
from hr_search.data.tasks import Task
from hr_search.evaluation.metrics import Scores, embedding_scores, rank_all
from hr_search.evaluation.significance import standard_error
from hr_search.search.fusion import WordIndex
from hr_search.search.memory import Memory
from hr_search.search.policy import SearchPolicy, sides_of
from hr_search.search.stages import Reads, placed, with_second_stage, with_words, word_index

log = logging.getLogger(__name__)

# Tried in this order; the first of equally good values wins, so weaker values come first.
WEIGHTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
NEIGHBOURS = (5, 10, 20, 40)
TEMPERATURES = (0.02, 0.05, 0.1)
FUSIONS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
RERANKING = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
_HELD = 2**26  # word scores of a kind that are held: 256 MB; where there are more, each block is computed again


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What `tune` found.

    Attributes:
        policy: the chosen knobs.
        steps: one row for each stage: `stage`, `knobs` (the best tried), `before` and `value` (the goal without and
            with them), `gain` and its standard error `se`, `taken`.
    """

    policy: SearchPolicy
    steps: pd.DataFrame


def tune(
    task: Task,
    sides: Mapping[str, np.ndarray],
    memory: Memory,
    goal: str = "mrr",
    reads: Reads | None = None,
    start: SearchPolicy | None = None,
) -> Tuned:
    """The knobs that search the validation rows best.

    Stages are fitted one after the other: centring, mixing (documents, queries, both), words, second stage. Within a
    stage one knob is varied at a time. A stage is taken only if its gain is larger than the gain's standard error, so
    that noise in the validation rows turns no knob.

    Args:
        task: the validation rows in one direction.
        sides: embeddings of its texts, "query" and "document".
        memory: known pairs, none of them validation rows.
        goal: the metric that chooses.
        reads: the second stage; None = none.
        start: knobs that are not tried, such as `strategy`, `scaling`, `rerank` and `reranktop`.

    Raises:
        InputError: as `stages.placed` and `metrics.rank_all`.
    """
    search = _Search(task, sides, memory, goal, None if reads is None else _Remembering(reads))
    policy = (start or SearchPolicy()).replace(centre=False, mixing="none", fusion=0.0)
    steps = []
    for stage, choose in _STAGES.items():
        second = stage == "second stage"
        if second and reads is None:
            continue
        best, before = choose(policy, search), search.values(policy, False)
        step = _step(before, search.values(best, second), task.groups)
        knobs = {name: value for name, value in best.to_dict().items() if value != getattr(policy, name)}
        steps.append({"stage": stage, "knobs": knobs} | step)
        verdict = "" if step["taken"] else ", not taken"
        log.info("%s: %s %.4f -> %.4f%s", stage, goal, step["before"], step["value"], verdict)
        if step["taken"]:
            policy = best
        elif second:
            policy = policy.replace(rerank="")
    return Tuned(policy, pd.DataFrame(steps))


def _step(before: np.ndarray, after: np.ndarray, groups: Sequence[str]) -> dict[str, Any]:
    """The gain of a stage over the queries (Q,), its standard error over groups, and whether it is larger than that."""
    gain = after - before
    se = standard_error(gain, groups)
    values = {"before": before.mean(), "value": after.mean(), "gain": gain.mean()}
    return {name: float(value) for name, value in values.items()} | {"se": se, "taken": bool(gain.mean() > se)}


def _centring(policy: SearchPolicy, search: _Search) -> SearchPolicy:
    return policy.replace(centre=True)


def _mixing(policy: SearchPolicy, search: _Search) -> SearchPolicy:
    """The best mixing of documents, of queries, or of both."""
    least = min(len(vectors) for vectors in search.memory.vectors.values())
    neighbours = [k for k in NEIGHBOURS if k <= least] or [least]
    knobs = {"weight": WEIGHTS, "k": neighbours, "temperature": TEMPERATURES}
    found = []
    for mixing in ("documents", "queries", "both"):
        tried = policy.replace(mixing=mixing, k=neighbours[min(1, len(neighbours) - 1)], temperature=0.05)
        for knob, values in (*knobs.items(), *knobs.items()):  # the second time, from the best of the first
            tried = search.best(_each(tried, knob, values))
        found.append(tried)
    return search.best(found)


def _words(policy: SearchPolicy, search: _Search) -> SearchPolicy:
    return search.best([policy.replace(words=kind, fusion=share) for kind in WORDS for share in FUSIONS])


def _second_stage(policy: SearchPolicy, search: _Search) -> SearchPolicy:
    return search.best([policy.replace(rerankweight=share) for share in RERANKING], second=True)


class _Search:
    """A validation task, searched again and again under other knobs."""

    def __init__(
        self, task: Task, sides: Mapping[str, np.ndarray], memory: Memory, goal: str, reads: Reads | None
    ) -> None:
        self.task, self.sides, self.memory, self.goal, self.reads = task, sides, memory, goal, reads
        self._values: dict[tuple[SearchPolicy, bool], np.ndarray] = {}
        self._words: dict[str, _Numbered] = {}
        self._placed: dict[tuple, np.ndarray] = {}

    def best(self, policies: Iterable[SearchPolicy], second: bool = False) -> SearchPolicy:
        """The policy with the highest mean goal; of equal ones, the first."""
        return max(policies, key=lambda policy: round(float(self.values(policy, second).mean()), 9))

    def values(self, policy: SearchPolicy, second: bool) -> np.ndarray:
        """The goal of each query, (Q,)."""
        key = policy, second
        if key not in self._values:
            scores = self._scores(policy)
            if second:
                scores = with_second_stage(scores, self.task, self.reads, policy)
            self._values[key] = rank_all(self.task, scores)[self.goal].to_numpy(np.float64)
        return self._values[key]

    def _scores(self, policy: SearchPolicy) -> Scores:
        asking, searched = sides_of(self.task.name)
        left = self._side(asking, False, policy)
        scores = embedding_scores(left, self._side(searched, True, policy))
        if policy.fusion > 0:
            if policy.words not in self._words:
                index = word_index(self.task, policy, self.memory)
                self._words[policy.words] = _Numbered(index, self.task.queries)
            scores = with_words(scores, self._words[policy.words], range(len(self.task.queries)), policy)
        return scores

    def _side(self, side: str, searched: bool, policy: SearchPolicy) -> np.ndarray:
        key = searched, *policy.moves("documents" if searched else "queries").items()
        if key not in self._placed:
            if len(self._placed) > 8:  # only the latest are asked for again
                self._placed.clear()
            # Only documents with an answer are queries; they come first among all (`tasks.both_directions`).
            vectors = self.sides[side] if searched else self.sides[side][: len(self.task.queries)]
            self._placed[key] = placed(vectors, side, searched, self.memory, policy)
        return self._placed[key]


class _Numbered:
    """The word scores of Q queries, asked for by their numbers, and computed once where all (Q, N) fit into memory."""

    def __init__(self, index: WordIndex, queries: Sequence[str]) -> None:
        self.index, self.queries = index, queries
        self.found = index.scores(queries) if len(index) * len(queries) <= _HELD else None

    def scores(self, numbers: Sequence[int]) -> np.ndarray:
        if self.found is not None:
            return self.found[list(numbers)]
        return self.index.scores([self.queries[at] for at in numbers])


class _Remembering:
    """A second stage that reads no pair twice."""

    def __init__(self, reads: Reads) -> None:
        self.reads, self.known = reads, dict[tuple[str, str], float]()

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        pairs = list(zip(queries, documents, strict=True))
        if new := list(dict.fromkeys(pair for pair in pairs if pair not in self.known)):
            self.known |= zip(new, self.reads.score(*map(list, zip(*new, strict=True))).tolist(), strict=True)
        return np.array([self.known[pair] for pair in pairs], np.float32)


def _each(policy: SearchPolicy, knob: str, values: Iterable[Any]) -> list[SearchPolicy]:
    """The policy with each value of one knob; as it is first, so that it wins a tie."""
    return [policy, *(policy.replace(**{knob: value}) for value in values)]


_STAGES: dict[str, Callable[[SearchPolicy, _Search], SearchPolicy]] = {
    "centring": _centring,
    "mixing": _mixing,
    "words": _words,
    "second stage": _second_stage,
}
