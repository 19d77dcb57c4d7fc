"""The stages of a search, one after the other: cosine, centring, mixing, words, second stage.

Each is a function from embeddings to embeddings or from scores to scores, so that a saved index, a single query and
an evaluation of thousands share them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from hr_search.base.errors import InputError
from hr_search.data.tasks import Task
from hr_search.evaluation.metrics import Scores, embedding_scores, rank_all
from hr_search.evaluation.significance import bootstrap_interval, holm, paired_comparison
from hr_search.search import fusion
from hr_search.search.fusion import WordIndex
from hr_search.search.memory import Memory, centred, keys_of, mixed
from hr_search.search.policy import SearchPolicy, sides_of


class Reads(Protocol):
    """What the second stage must offer."""

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """The score of each of P pairs of a query (such as a job title) and a document, (P,); higher is better."""


@dataclass
class Stage:
    """One stage of an evaluation.

    Attributes:
        name: "cosine", "+ centring", "+ mixing", "+ words" or "+ second stage".
        results: one row per query, as `metrics.rank_all` gives it.
        milliseconds: a query, of all stages up to this one; neither for encoding it nor for preparing the texts that
            are searched, which happens once.
    """

    name: str
    results: pd.DataFrame
    milliseconds: float


def placed(
    vectors: np.ndarray,
    side: str,
    searched: bool,
    memory: Memory | None,
    policy: SearchPolicy,
    keys: np.ndarray | None = None,
) -> np.ndarray:
    """Embeddings where a search under this policy has them: centred and mixed.

    Args:
        vectors: (N, D), L2-normalised.
        side: "query" or "document", of the texts.
        searched: whether these are the texts that are searched, or those to search with.
        memory: known pairs; may be None where the policy needs none.
        policy: the knobs.
        keys: (N,) digests of the texts; with them a text's own pairs in the memory are left out.

    Raises:
        InputError: the policy needs a memory and there is none, or one of another dimension.
    """
    if not policy.remembers:
        return vectors
    if memory is None:
        raise InputError("centring and mixing need known pairs; run `tune`, or give a table of pairs as --memory.")
    known = memory.vectors[side].shape[1]
    if vectors.shape[1] != known:
        raise InputError(f"the memory has {known} dimensions and the model {vectors.shape[1]}; run `tune` again.")
    if policy.centre:
        memory, vectors = memory.centred, centred(vectors, memory.means[side])
    if policy.mixes("documents" if searched else "queries"):
        vectors = mixed(vectors, side, memory, policy, keys)
    return vectors


def with_words(scores: Scores, words: WordIndex, queries: Sequence[str], policy: SearchPolicy) -> Scores:
    """Scores summed with the word scores of the same queries and texts."""

    def summed(start: int, stop: int) -> np.ndarray:
        found = words.scores(queries[start:stop])
        return fusion.fuse(scores(start, stop), found, policy.fusion, policy.scaling)

    return summed


def reranked(
    scores: np.ndarray,
    queries: Sequence[str],
    documents: Sequence[str],
    reads: Reads,
    policy: SearchPolicy,
    swapped: bool = False,
    barred: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """Scores in which the first `policy.reranktop` documents of each query are put in order by a second stage.

    Among them the score is the convex sum of the z-scores of both stages; all others follow in their old order.

    Args:
        scores: (B, N) of the first stage.
        queries: B texts to search with.
        documents: N texts searched.
        reads: the second stage.
        policy: `reranktop`, at most N of which are read, and `rerankweight`.
        swapped: whether the searched texts are the queries of pairs (direction d2q).
        barred: for each query documents that are left out of its ranking.

    Returns:
        (B, N) float32.
    """
    top = min(policy.reranktop, scores.shape[1])
    last = -scores.astype(np.float64)
    for row, left_out in enumerate(barred or ()):
        last[row, left_out] = np.inf
    order = np.argsort(last, axis=1, kind="stable")[:, :top]  # of equal scores, the first document
    left = [queries[row] for row in range(len(order)) for _ in range(top)]
    right = [documents[at] for at in order.ravel()]
    read = reads.score(*((right, left) if swapped else (left, right))).reshape(order.shape)
    chosen = fusion.fuse(np.take_along_axis(scores, order, axis=1), read, policy.rerankweight)
    out = fusion.scaled(scores)
    lifted = chosen - chosen.min(axis=1, keepdims=True) + out.max(axis=1, keepdims=True) + 1  # above all others
    np.put_along_axis(out, order, lifted, axis=1)
    return out.astype(np.float32)


def with_second_stage(scores: Scores, task: Task, reads: Reads, policy: SearchPolicy) -> Scores:
    """Scores of a task put in order by a second stage, as `reranked` does."""

    def read(start: int, stop: int) -> np.ndarray:
        barred = task.barred[start:stop] if task.barred is not None else None
        queries = task.queries[start:stop]
        return reranked(scores(start, stop), queries, task.documents, reads, policy, task.name == "d2q", barred)

    return read


def word_index(task: Task, policy: SearchPolicy, memory: Memory | None) -> WordIndex:
    """The word index of a task's documents; frequencies count the memory, too, and no query, as in a search."""
    return WordIndex.fit(task.documents, policy.words, memory.background if memory else None)


def evaluate_stages(
    task: Task,
    sides: Mapping[str, np.ndarray],
    policy: SearchPolicy,
    memory: Memory | None = None,
    reads: Reads | None = None,
    leaveout: bool = False,
) -> list[Stage]:
    """How well a task is searched with each stage added to those before it; stages that the policy lacks are left out.

    Args:
        task: "q2d" or "d2q".
        sides: embeddings of the task's texts, "query" and "document", as `scoring.embed_sides` gives them.
        policy: the knobs of this direction.
        memory: known pairs, where the policy needs them.
        reads: the second stage; None = none.
        leaveout: leave a text's own pairs in the memory out of its mixing, to evaluate on the memory's own texts.

    Returns:
        The stages in order, the plain cosine first.

    Raises:
        InputError: as `placed` and `metrics.rank_all`.
    """
    stages = [("cosine", policy.replace(centre=False, mixing="none"))]
    if policy.centre:
        stages.append(("+ centring", policy.replace(mixing="none")))
    if policy.mixing != "none":
        stages.append(("+ mixing", policy))
    found = []
    for name, knobs in stages:
        scores, spent = _embedding_stage(task, sides, knobs, memory, leaveout)
        found.append(_measured(name, task, scores, spent))
    if policy.fusion > 0:
        scores = with_words(scores, word_index(task, policy, memory), task.queries, policy)
        found.append(_measured("+ words", task, scores, spent))
    if reads is not None:
        found.append(_measured("+ second stage", task, with_second_stage(scores, task, reads, policy), spent))
    return found


def _embedding_stage(
    task: Task, sides: Mapping[str, np.ndarray], policy: SearchPolicy, memory: Memory | None, leaveout: bool
) -> tuple[Scores, float]:
    """The cosines of a task under a policy, and the seconds that moving its queries took."""
    asking, searched = sides_of(task.name)
    keys = (keys_of(task.queries), keys_of(task.documents)) if leaveout else (None, None)
    right = placed(sides[searched], searched, True, memory, policy, keys[1])
    # Only documents with an answer are queries; they come first among all (`tasks.both_directions`).
    left = sides[asking][: len(task.queries)]
    placed(left[:1], asking, False, memory, policy)  # what the memory computes once is no cost of a query
    begun = time.perf_counter()
    left = placed(left, asking, False, memory, policy, keys[0])
    return embedding_scores(left, right), time.perf_counter() - begun


def _measured(name: str, task: Task, scores: Scores, spent: float) -> Stage:
    """A stage ranked; `spent` are the seconds before its scores."""
    clock = _Clock(scores)
    results = rank_all(task, clock)
    return Stage(name, results, 1000 * (spent + clock.seconds) / len(task.queries))


def stages_table(stages: Sequence[Stage], metric: str = "mrr", seed: int = 0) -> pd.DataFrame:
    """What each stage adds.

    Args:
        stages: of one direction, as `evaluate_stages` returns them.
        metric: the metric shown.
        seed: of bootstrap and randomisation.

    Returns:
        `stage`; `value`, `low` and `high` of the metric; `gain` over the plain cosine with `gain_low`, `gain_high` and
        `p` (paired, `p_holm` over the stages); `ms`, a query through all stages so far.
    """
    rows, plain, groups = [], stages[0].results[metric].to_numpy(), stages[0].results["group"]
    for number, stage in enumerate(stages):
        values = stage.results[metric].to_numpy()
        low, high = bootstrap_interval(values, seed, groups=groups)
        row = {"stage": stage.name, "value": values.mean(), "low": low, "high": high}
        if number:
            test = paired_comparison(plain, values, seed, groups=groups)
            row |= {"gain": test["difference"], "gain_low": test["low"], "gain_high": test["high"], "p": test["p"]}
        rows.append(row)
    table = pd.DataFrame(rows)
    if len(stages) > 1:
        table["p_holm"] = [np.nan, *holm(table["p"].iloc[1:].tolist())]
    return table.assign(ms=[stage.milliseconds for stage in stages])


class _Clock:
    """Scores that remember how long they took."""

    def __init__(self, scores: Scores) -> None:
        self.scores, self.seconds = scores, 0.0

    def __call__(self, start: int, stop: int) -> np.ndarray:
        begun = time.perf_counter()
        block = self.scores(start, stop)
        self.seconds += time.perf_counter() - begun
        return block
