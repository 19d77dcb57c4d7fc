"""Hard negatives: wrong documents that an encoder finds close to a query, mined for tables and while training.

Every policy is a chain of filters, in this order:

1. Documents that are relevant to the query are taken out; what is left is ranked from 0, nearest first.
2. The rank window keeps the ranks from `start` up to, but without, `stop`. A quantile band is the same
   window in shares of the corpus; where both are given, a rank has to lie in both.
3. The share rule drops what scores too close to the query's own positive, or above it: probably a
   positive that nobody marked. The window does not move on, so a query whose positive scores badly may
   be left without negatives; `statistics` counts those.
4. `count` of the rest are taken: the nearest, or random ones.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from scipy import sparse

from hr_search.anchors import anchors, matching
from hr_search.base.arrays import incidence
from hr_search.base.choices import SAMPLINGS
from hr_search.base.errors import InputError, suggestion
from hr_search.base.processes import ALONE, Processes
from hr_search.batches import Batch, Rows, make_batch
from hr_search.nearest import nearest_chunks, pair_scores

if TYPE_CHECKING:
    from hr_search.encoder import Encoder
    from hr_search.fast.tokens import TokenTable

log = logging.getLogger(__name__)

DEPTH = 100  # ranks looked at unless a window or a band says more


@dataclass(frozen=True)
class MiningPolicy:
    """Which hard negatives are mined, and in training how many join a batch and how often they are mined anew.

    Attributes:
        count: negatives wanted for each anchor.
        start: first rank taken, 0 for the nearest; skipping a few avoids unmarked positives.
        stop: the rank after the last one; 0 = the band's, or 100 (or what `count` needs) without a band.
        band: the ranks between two shares of the corpus, such as (0.03, 0.04), the runner-ups of ConFit
            v2 (arXiv:2502.12361); (0, 0) = no band.
        share: a negative may score at most this share of the positive's score (TopK-PercPos of
            NV-Retriever, arXiv:2407.15831), that is s⁺ - (1 - share)·|s⁺|, which is below a negative
            score, too; 0 or 1 = off.
        sampling: "top" (the nearest) or "random" (any, all with the same chance).
        side: what is mined while training: "document" (for each query) or "query" (for each positive document).
        drawn: of the mined negatives of a row, how many join its batch, drawn anew at every step.
        every: mine anew every this many steps; 0 = at the start of each epoch.
    """

    count: int = 10
    start: int = 0
    stop: int = 0
    band: tuple[float, float] = (0.0, 0.0)
    share: float = 0.95
    sampling: str = "top"
    side: str = "document"
    drawn: int = 1
    every: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InputError(f"share is {self.share:g}; it must be from 0 to 1, where both ends turn the rule off.")
        if self.sampling not in SAMPLINGS:
            raise InputError(f'sampling "{self.sampling}" is unknown; {suggestion(self.sampling, SAMPLINGS)}')

    def window(self, documents: int) -> tuple[int, int]:
        """The first rank looked at among so many documents, and the one after the last.

        Raises:
            InputError: `count` negatives have no room in it.
        """
        if self.count < 1:
            raise InputError(f"count is {self.count}; it must be at least 1.")
        start, stop = self.start, self.stop
        if start < 0 or stop < 0 or stop > documents or (stop and stop <= start):
            raise InputError(
                f"the rank window from {start} to {stop} does not fit; start is at least 0 and stop above start and at "
                f"most the number of documents, {documents} (0 = no stop)."
            )
        low, high = self.band
        first, last = start, stop or min(documents, max(DEPTH, start + self.count))
        if (low, high) != (0, 0):
            if not 0 <= low < high <= 1:
                raise InputError(f"the band is {low:g} to {high:g}; take two shares of the corpus such as 0.03, 0.04.")
            first, last = max(start, round(low * documents)), min(stop or documents, round(high * documents))
        if last - first < self.count:
            raise InputError(
                f"the window holds {max(0, last - first)} ranks of {documents} documents, fewer than count "
                f"{self.count}; lower count or widen the window or the band."
            )
        return first, last


@dataclass(frozen=True)
class Mined:
    """The hard negatives of Q queries.

    Attributes:
        negatives: (Q, count) int64, indices of documents, nearest first, -1 where there are fewer.
        scores: (Q, count) float32, their cosines with the query, -inf where there are fewer.
        own_scores: (Q,) float32, the cosine of each query with its own positive.
        candidates: (Q,) int64, documents in the window, before the share rule.
        suspects: (Q,) int64, those of them that look like unmarked positives: dropped by the share
            rule or, where it is off, scoring above the query's own positive.
    """

    negatives: np.ndarray
    scores: np.ndarray
    own_scores: np.ndarray
    candidates: np.ndarray
    suspects: np.ndarray


def mine(
    queries: np.ndarray,
    documents: np.ndarray,
    positives: sparse.csr_array,
    own: np.ndarray,
    policy: MiningPolicy,
    seed: int = 0,
    device: str | torch.device | None = None,
    processes: Processes = ALONE,
    search: Callable[..., Iterator[tuple[int, np.ndarray, np.ndarray]]] = nearest_chunks,
) -> Mined:
    """Up to `policy.count` hard negatives of each query; the module's text says how the filters combine.

    Memory is bounded as in `nearest`.

    Args:
        queries: (Q, D) embeddings of any length.
        documents: (N, D).
        positives: (Q, N), not zero where a document is relevant to a query (its whole group); these
            are never negatives, nor is the query's own positive.
        own: (Q,), index of each query's own positive, the one whose score the share rule looks at.
        policy: window, share rule, count.
        seed: of random sampling.
        device: where torch multiplies; None = a GPU where there is one.
        processes: that share the queries out; all get what one gets.
        search: what finds the nearest documents, `nearest_chunks` or what stands in for it.

    Raises:
        InputError: arrays that do not fit together or hold NaN, a window or band with room for fewer
            than `count` ranks, or a query with fewer than `count` documents that are not relevant to it.

    Example:
        >>> documents = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> own = incidence(np.array([0]), np.array([0]), (1, 3))
        >>> mine(np.array([[1.0, 0.1]]), documents, own, np.array([0]), MiningPolicy(count=1)).negatives
        array([[1]])
    """
    size = (len(queries), len(documents))
    own = indices_of_positives(own, size)
    if not sparse.issparse(positives) or positives.shape != size:
        raise InputError(
            f"positives have shape {getattr(positives, 'shape', None)}; they must be a sparse array of shape {size}, "
            "queries by documents."
        )
    first, last = policy.window(size[1])
    relevant = sparse.csr_array(positives != 0) + incidence(np.arange(size[0]), own, size)
    chunks = search(queries, documents, last, relevant, device=device, processes=processes)
    left = size[1] - np.diff(relevant.indptr)
    if left.min() < policy.count:
        raise InputError(
            f"query row {left.argmin() + 1} has only {left.min()} documents that are not relevant to it, fewer than "
            f"count {policy.count}; lower count or give more documents."
        )
    strict = 0 < policy.share < 1
    generator, drawn = np.random.default_rng(seed), 0
    each, one = (size[0], policy.count), size[0]
    floats = np.zeros(each, np.float32), np.zeros(one, np.float32)
    mined = Mined(np.zeros(each, np.int64), *floats, *np.zeros((2, one), np.int64))
    with processes.together():
        for at, found, scores in chunks:
            rows = slice(at, at + len(found))
            found, scores = found[:, first:], scores[:, first:]
            own_scores = pair_scores(queries[rows], documents[own[rows]])
            limit = own_scores - (1 - policy.share) * np.abs(own_scores) if strict else own_scores
            present = found >= 0
            # Scores come in steps of 1e-6; half a step keeps one that equals the limit.
            suspects = present & (scores > limit[:, None] + 5e-7)
            kept = present & ~suspects if strict else present
            if policy.sampling == "random":
                generator.random((at - drawn, last - first), dtype=np.float32)  # what other processes draw
                kept, drawn = _sample(kept, policy.count, generator), rows.stop
            mined.negatives[rows], mined.scores[rows] = _first(found, scores, kept, policy.count)
            mined.own_scores[rows] = own_scores
            mined.candidates[rows], mined.suspects[rows] = present.sum(axis=1), suspects.sum(axis=1)
    return Mined(*map(processes.joined, vars(mined).values()))


def statistics(mined: Mined) -> pd.DataFrame:
    """One row that says how many negatives were mined and how hard they are.

    Returns:
        `queries`, `count` (wanted of each), `negatives_mean` and `negatives_min` (per query), `without`
        (queries without any), `positive_mean` and `negative_mean` (cosines), `gap_mean`, `gap_05`, `gap_50`
        and `gap_95` (over negatives: the positive's score minus theirs; NaN where nothing was mined) and
        `suspected` (share of the documents in the windows that look like unmarked positives).
    """
    present = mined.negatives >= 0
    numbers = present.sum(axis=1)
    scores = mined.scores[present].astype(np.float64)
    gaps = np.repeat(mined.own_scores, numbers) - scores
    low, middle, high = np.quantile(gaps, (0.05, 0.5, 0.95)) if gaps.size else np.full(3, np.nan)
    row = {
        "queries": len(present),
        "count": present.shape[1],
        "negatives_mean": float(numbers.mean()),
        "negatives_min": int(numbers.min()),
        "without": int((numbers == 0).sum()),
        "positive_mean": float(mined.own_scores.mean(dtype=np.float64)),
        "negative_mean": float(scores.mean()) if scores.size else np.nan,
        "gap_mean": float(gaps.mean()) if gaps.size else np.nan,
        "gap_05": float(low),
        "gap_50": float(middle),
        "gap_95": float(high),
        "suspected": float(mined.suspects.sum() / max(1, mined.candidates.sum())),
    }
    return pd.DataFrame([row])


def indices_of_positives(own: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`own` (Q,) as int64; refused unless it names one of N documents for each of Q queries."""
    own = np.asarray(own)
    if own.shape != size[:1] or own.dtype.kind not in "iu":
        raise InputError(
            f"own is an array of shape {own.shape} and type {own.dtype}; it must hold one document index for each of "
            f"{size[0]} queries."
        )
    wrong = np.flatnonzero((own < 0) | (own >= size[1]))
    if wrong.size:
        raise InputError(f"own: row {wrong[0] + 1} is {own[wrong[0]]}; document indices are from 0 to {size[1] - 1}.")
    return own.astype(np.int64)


def _sample(kept: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Up to `count` random ones of the true places in each row (R, W); the same whatever R is at a time."""
    draws = np.where(kept, generator.random(kept.shape, dtype=np.float32), -1)
    places = np.argpartition(-draws, count - 1, axis=1)[:, :count]
    chosen = np.zeros_like(kept)
    np.put_along_axis(chosen, places, True, axis=1)
    return chosen & kept


def _first(found: np.ndarray, scores: np.ndarray, kept: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` kept documents of each row and their scores (R, count), padded with -1 and -inf."""
    place = kept.cumsum(axis=1)
    rows, columns = np.nonzero(kept & (place <= count))
    negatives = np.full((len(kept), count), -1, np.int64)
    values = np.full((len(kept), count), -np.inf, np.float32)
    negatives[rows, place[rows, columns] - 1] = found[rows, columns]
    values[rows, place[rows, columns] - 1] = scores[rows, columns]
    return negatives, values


# -- while training ------------------------------------------------------------------------------


class Miner:
    """The mined negatives of every train query, or document, refreshed while the encoder learns.

    Attributes:
        negatives: (A, policy.count) indices of documents, or of queries where they are mined for the documents;
            -1 where there are fewer; None before the first mining.
        history: one row of `statistics` per mining, with its step and seconds.
    """

    def __init__(
        self, rows: Rows, tokens: dict[str, TokenTable], policy: MiningPolicy, per_epoch: int, seed: int
    ) -> None:
        """Nothing is mined yet; `tokens` are the token tables of the queries and documents of the train `rows`."""
        self.rows, self.tokens, self.policy, self.seed = rows, tokens, policy, seed
        self.every = policy.every or per_epoch
        self.negatives: np.ndarray | None = None
        self.history: list[dict] = []
        self._anchors, self._place, self._own = anchors(rows, policy.side)

    def batches(
        self, steps: Iterable[tuple[np.ndarray, bool]], start: int, encoder: Encoder, accelerator: Accelerator
    ) -> Iterator[tuple[np.ndarray, bool, Batch]]:
        """Every step's row numbers, whether it ends an epoch, and its batch, made when it is asked for."""
        for step, (chosen, ends) in enumerate(steps, start):
            if self.negatives is None or step % self.every == 0:
                self.refresh(encoder, accelerator, step)
            side = {"document": "mined", "query": "mined_queries"}[self.policy.side]
            yield chosen, ends, make_batch(self.rows, chosen, **{side: self.draw(chosen, step)})

    def refresh(self, encoder: Encoder, accelerator: Accelerator, step: int) -> None:
        """Mines anew with the encoder's present weights; the processes of a launch share the work."""
        started, sought, processes = time.perf_counter(), self.policy.side, Processes.of(accelerator)
        anchor = "document" if sought == "query" else "query"
        sides = {side: encoder.embed(table, progress=True, processes=processes) for side, table in self.tokens.items()}
        positives = matching(self.rows, sought, self._anchors)
        texts, seed = (sides[anchor][self._anchors], sides[sought]), self.seed + step
        mined = mine(*texts, positives, self._own, self.policy, seed, accelerator.device, processes)
        self.negatives = mined.negatives
        row = statistics(mined).iloc[0].to_dict()
        seconds = time.perf_counter() - started
        self.history.append({"step": step, "seconds": seconds, **row})
        what = "step %d: mined %.1f negatives each in %.0f s, below the positive by %.2f (median), too close: %.0f%%"
        log.info(what, step, row["negatives_mean"], seconds, row["gap_50"], 100 * row["suspected"])

    def draw(self, chosen: np.ndarray, step: int) -> list[np.ndarray]:
        """For each chosen row, `policy.drawn` of its query's, or document's, mined negatives, by seed and step."""
        generator = np.random.default_rng([self.seed, 2, step])
        pools = (self.negatives[place] for place in self._place[chosen])
        return [generator.permutation(pool[pool >= 0])[: self.policy.drawn] for pool in pools]

    def state_dict(self) -> dict:
        """What must survive an interruption."""
        kept = None if self.negatives is None else torch.from_numpy(self.negatives.copy())
        return {"negatives": kept, "history": self.history}

    def load_state_dict(self, state: dict) -> None:
        """Restores what `state_dict` gave."""
        self.negatives = None if state["negatives"] is None else state["negatives"].numpy()
        self.history = state["history"]
