"""Lessons: a teacher's scores of the train rows, and what of them a step's batch gets.

A teacher is a second stage whose scores the encoder learns to reproduce. For each row it has scored the row's own pair,
and for each text that is searched with its nearest wrong ones; nothing here depends on how.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from hr_search.batches import Batch


@dataclasses.dataclass(frozen=True)
class Lesson:
    """The scored texts of one batch, those of its K texts that the teacher has scored for a row.

    The K texts are those of the searched side of the batch, in their order, and after them the E further ones.

    Attributes:
        side: the searched side, "document" or "query".
        further: indices of the distinct texts of that side that join the batch for this alone, (E,).
        scores: (B, K) float32, the teacher's logits, 0 where it gave none.
        allowed: (B, K), true where it gave one.
    """

    side: str
    further: np.ndarray
    scores: np.ndarray
    allowed: np.ndarray


@dataclasses.dataclass(frozen=True)
class Lessons:
    """The teacher's scores of N train rows; A anchors are the distinct texts that are searched with.

    Attributes:
        side: of the texts searched, "document" or "query".
        anchor: each row's anchor, (N,).
        candidates: (A, C) int64, indices of the texts scored for an anchor, -1 where there are fewer.
        scores: (A, C) float32, the teacher's logits of them.
        own: (N,) float32, its logit of each row's own pair.
        drawn: of a row's candidates, how many join its batch, drawn anew at every step; 0 = all.
        seed: with the step's number it decides which.
        fingerprint: of teacher, texts and scores; two runs with equal ones were taught the same.
    """

    side: str
    anchor: np.ndarray
    candidates: np.ndarray
    scores: np.ndarray
    own: np.ndarray
    drawn: int = 0
    seed: int = 0
    fingerprint: str = ""

    def lesson(self, batch: Batch, chosen: np.ndarray, step: int) -> Lesson:
        """What the teacher says about the batch of the `chosen` rows; the batch itself stays as it is.

        Further texts are there for the teacher's sake only: which texts are negatives of the loss is not its business.
        A candidate that is in the batch anyway counts, too, drawn or not.
        """
        there, own = batch.documents, batch.positive
        if self.side == "query":
            there, own = batch.queries, batch.query
        known, logits = self.candidates[self.anchor[chosen]], self.scores[self.anchor[chosen]]  # (B, C)
        further = np.setdiff1d(self._draw(known, step), there)
        texts = np.concatenate([there, further])
        order = np.argsort(texts)
        place = order[np.searchsorted(texts, known, sorter=order).clip(max=len(texts) - 1)]
        rows, columns = np.nonzero((known >= 0) & (texts[place] == known))
        scores, allowed = np.zeros((len(chosen), len(texts)), np.float32), np.zeros((len(chosen), len(texts)), bool)
        scores[rows, place[rows, columns]], allowed[rows, place[rows, columns]] = logits[rows, columns], True
        every = np.arange(len(chosen))
        scores[every, own], allowed[every, own] = self.own[chosen], True
        return Lesson(self.side, further, scores, allowed)

    def _draw(self, known: np.ndarray, step: int) -> np.ndarray:
        """The candidates (B, C) that join the batch, in one row."""
        if self.drawn and self.drawn < known.shape[1]:
            draws = np.random.default_rng([self.seed, 3, step]).random(known.shape)
            places = np.argsort(np.where(known >= 0, draws, 2.0), axis=1)[:, : self.drawn]
            known = np.take_along_axis(known, places, axis=1)
        return known[known >= 0]
