"""Hard negatives for the training loop: mined over all train documents with the weights of the moment."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from hr_search import mining
from hr_search.base.errors import InputError
from hr_search.base.text import SHORT
from hr_search.batches import Batch, Rows, index_rows, make_batch
from hr_search.encoder import Encoder, load_encoder
from hr_search.fast.tokens import TokenTable
from hr_search.models import condenser
from hr_search.settings import Settings

log = logging.getLogger(__name__)


class Miner:
    """The mined negatives of every train query, or document, refreshed while the encoder learns.

    Attributes:
        negatives: (A, minepool) indices of documents, or of queries where they are mined for the documents;
            -1 where there are fewer; None before the first mining.
        history: one row of `mining.statistics` per mining, with its step and seconds.
    """

    def __init__(self, rows: Rows, tables: dict[str, TokenTable], settings: Settings, per_epoch: int) -> None:
        """Nothing is mined yet.

        Args:
            rows: the train rows.
            tables: token tables of their queries and documents.
            settings: the policy (`mine…`), and how often.
            per_epoch: steps of an epoch.
        """
        self.rows, self.tables, self.settings = rows, tables, settings
        self.every = settings.mineevery or per_epoch
        self.negatives: np.ndarray | None = None
        self.history: list[dict] = []
        self._anchors, self._place, self._own = anchors(rows, settings.mineside)

    def batches(
        self, steps: Iterable[tuple[np.ndarray, bool]], start: int, encoder: Encoder, accelerator: Accelerator
    ) -> Iterator[tuple[np.ndarray, bool, Batch]]:
        """Every step's row numbers, whether it ends an epoch, and its batch with mined negatives.

        Mines whenever it is due, so a batch is made when it is asked for and not before.
        """
        for step, (chosen, ends) in enumerate(steps, start):
            if self.negatives is None or step % self.every == 0:
                self.refresh(encoder, accelerator, step)
            side = {"document": "mined", "query": "asked"}[self.settings.mineside]
            yield chosen, ends, make_batch(self.rows, chosen, **{side: self.draw(chosen, step)})

    def refresh(self, encoder: Encoder, accelerator: Accelerator, step: int) -> None:
        """Mines anew with the encoder's present weights.

        Raises:
            InputError: a policy that leaves too few documents.
        """
        started = time.perf_counter()
        settings = self.settings
        groups = {"query": self.rows.query_groups, "document": self.rows.document_groups}
        sought = settings.mineside
        seeking = "document" if sought == "query" else "query"
        sides = {side: encoder.embed(table, progress=True) for side, table in self.tables.items()}
        with _named():
            mined = mining.mine(
                sides[seeking][self._anchors],
                sides[sought],
                groups[seeking][self._anchors] @ groups[sought].T,
                self._own,
                **_window(settings),
                share=settings.mineshare,
                sampling=settings.minesampling,
                seed=settings.seed + step,
                device=accelerator.device,
            )
        # Ties may fall otherwise on another GPU, and all processes must meet the same batches.
        shared = broadcast(torch.from_numpy(mined.negatives).to(accelerator.device))
        self.negatives = shared.cpu().numpy()
        row = mining.statistics(mined).iloc[0].to_dict()
        self.history.append({"step": step, "seconds": time.perf_counter() - started, **row})
        log.info(
            "step %d: mined %.1f negatives each in %.0f s, below the positive by %.2f (median), too close: %.0f%%",
            step,
            row["negatives_mean"],
            self.history[-1]["seconds"],
            row["gap_50"],
            100 * row["suspected"],
        )

    def draw(self, chosen: np.ndarray, step: int) -> list[np.ndarray]:
        """For each chosen row, `minecount` of its query's, or document's, mined negatives, by seed and step."""
        generator = np.random.default_rng([self.settings.seed, 2, step])
        drawn = []
        for place in self._place[chosen]:
            pool = self.negatives[place]
            pool = pool[pool >= 0]
            drawn.append(generator.permutation(pool)[: self.settings.minecount])
        return drawn

    def state_dict(self) -> dict:
        """What must survive an interruption."""
        negatives = None if self.negatives is None else torch.from_numpy(self.negatives.copy())
        return {"negatives": negatives, "history": self.history}

    def load_state_dict(self, state: dict) -> None:
        """Takes over what `state_dict` gave."""
        self.negatives = None if state["negatives"] is None else state["negatives"].numpy()
        self.history = state["history"]


def check_mining(settings: Settings, rows: Rows) -> None:
    """Refuses to mine more than the train rows, or the window of ranks, hold, before anything is encoded.

    Raises:
        InputError: naming the settings.
    """
    sought = {"document": rows.documents, "query": rows.queries}[settings.mineside]
    if len(sought) <= settings.minepool:
        other = {"document": "documents a query", "query": "queries a document"}[settings.mineside]
        raise InputError(
            f"--negatives mined takes {settings.minepool} {other} and train has {len(sought)}; "
            "lower --minepool or take --negatives batch."
        )
    if settings.minecount > settings.minepool:
        raise InputError(f"minecount {settings.minecount} is more than minepool {settings.minepool}; lower it.")
    with _named():
        mining.window(**_window(settings), documents=len(sought))


def _window(settings: Settings) -> dict[str, Any]:
    """The ranks that are mined, as the arguments of `mining.mine`."""
    band = settings.minebandlow, settings.minebandhigh
    return {"count": settings.minepool, "start": settings.minestart, "stop": settings.minestop, "band": band}


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Names the settings where `mining` complains of its arguments."""
    try:
        yield
    except InputError as error:
        raise InputError(
            f"--negatives mined: {error} The settings are --minepool (count), --minestart, --minestop, "
            "--minebandlow and --minebandhigh."
        ) from error


def anchors(rows: Rows, mineside: str = "document") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The texts that something is mined for.

    Args:
        rows: the train rows.
        mineside: what is mined: "document" (for each query) or "query" (for each positive document).

    Returns:
        Their indices (A,), the place of each row's among them (N,), and the positive by which each is judged,
        that of its first row (A,).
    """
    pair = rows.query, rows.positive
    anchor, other = pair if mineside == "document" else pair[::-1]
    distinct, first, place = np.unique(anchor, return_index=True, return_inverse=True)
    return distinct, place, other[first]


def overview(
    pairs: pd.DataFrame, settings: Settings, rows: int = 300, queries: int = 5, nearest: int = 3
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The wrong documents that the untrained model finds nearest, to be read by eye before training.

    Nothing is left out for scoring above the positive: such a document is often a right one that nobody marked.

    Args:
        pairs: the train rows.
        settings: model, length, prompts, condensing.
        rows: pairs drawn at random, among whose documents is searched.
        queries: shown.
        nearest: wrong documents of each; fewer in a table that has fewer.

    Returns:
        `mining.statistics` and `mining.examples`; without rows where every document is right for some query.

    Raises:
        InputError: the model cannot be loaded.
    """
    drawn = index_rows(pairs.sample(min(rows, len(pairs)), random_state=settings.splitseed))
    (_, _, own), relevant = anchors(drawn), drawn.query_groups @ drawn.document_groups.T
    wrong = len(drawn.documents) - int(np.diff(relevant.indptr).max(initial=0))
    if wrong < 1:
        return pd.DataFrame(), pd.DataFrame()
    encoder = load_encoder(
        settings.modelname, settings.maxlength, settings.precision,
        prompts={"query": settings.queryprompt, "document": settings.documentprompt},
    )  # fmt: skip
    if settings.condense:
        encoder.condenser = condenser.learn(pairs["query"], pairs["positive"], settings.condense)
    mined = mining.mine_texts(
        encoder.encode, drawn.queries, drawn.documents, relevant, own, count=min(nearest, wrong), share=0.0
    )
    found = mining.examples(drawn.queries, drawn.documents, mined, own, queries, settings.splitseed)
    texts = found[["query", "positive", "negative"]].apply(lambda column: column.str.slice(0, SHORT))
    return mining.statistics(mined), found.assign(**texts)
