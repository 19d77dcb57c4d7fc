"""Training a cross-encoder: the loop of `train`, with lists of pairs in the place of batches of texts."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from hr_search.base.errors import InputError
from hr_search.batches import Rows
from hr_search.fast.tokens import TokenTable
from hr_search.mining import Miner
from hr_search.reranking.cross_encoder import Reranker
from hr_search.reranking.lists import Lists, lists_of, listwise, parts_of
from hr_search.reranking.pairs import pair_rows
from hr_search.settings import Settings
from hr_search.train import Training

log = logging.getLogger(__name__)


class ListTraining(Training):
    """A run of the second stage under way: each row's list of one right and several wrong pairs is ranked."""

    def __init__(
        self,
        reranker: Reranker,
        rows: Rows,
        miner: Miner,
        settings: Settings,
        fingerprint: str,
        accelerator: Accelerator,
    ) -> None:
        """Begins a run, or goes on with that of the checkpoint.

        Args:
            reranker: is trained in place.
            rows: the train rows.
            miner: has mined the wrong texts of every row with the retriever.
            settings: of the run.
            fingerprint: of the data.
            accelerator: device and process.

        Raises:
            InputError: no row has a wrong text, or a checkpoint of another run.
        """
        self._mined = miner
        self._length = reranker.length_of(settings.trainlength)
        self._vacancies = reranker.shortened(rows.documents, self._length)
        super().__init__(reranker, rows, {}, settings, fingerprint, accelerator)

    def set_up(self, tokens: dict[str, TokenTable]) -> None:
        """Takes the mined texts; the loss needs nothing else."""
        self.miner = self._mined
        without = int((self.miner.negatives < 0).all(axis=1).sum())
        if without == len(self.miner.negatives):
            raise InputError(
                "no text has a wrong candidate: all lie above the share of the right one's score; raise --mineshare or "
                "take 0, which turns the rule off."
            )
        if without:
            what = "%d of %d texts have no wrong candidate and teach nothing; a --mineshare nearer to 1 leaves more"
            log.info(what, without, len(self.miner.negatives))

    def batches(self) -> Iterator[tuple[np.ndarray, bool, Lists]]:
        """Row numbers of every step that is left, whether it ends an epoch, and its lists."""
        done = self.progress.step
        for step, (chosen, ends) in enumerate(self.plan.batches(done), done):
            yield chosen, ends, lists_of(self.rows, chosen, self.miner.draw(chosen, step), self.settings.direction)

    def gradients(self, batch: Lists, chosen: np.ndarray) -> tuple[Tensor, int]:
        """Adds the gradients of the mean loss over the lists, a few whole lists at a time.

        Returns:
            (loss, share of lists whose right pair is not first, NaN: pairs have no spread) as a (3,) float64 tensor,
            and the tokens.
        """
        titles = [self.rows.queries[at] for at in batch.titles]
        vacancies = [self._vacancies[at] for at in batch.vacancies]
        rows = pair_rows(self.encoder.tokenizer, titles, vacancies, self._length)
        lengths, ends = np.array([len(row) for row in rows]), np.cumsum(batch.sizes)
        total = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
        for part in parts_of(batch.sizes, lengths, self.settings.chunktokens or self.encoder.budget):
            pairs = [rows[at] for at in range(ends[part[0]] - batch.sizes[part[0]], ends[part[-1]])]
            losses, active = listwise(self.model(pairs, self.settings.chunktokens), batch.sizes[part])
            loss = losses.sum() / len(batch.sizes)
            self.accelerator.backward(loss)
            total += torch.stack([loss.detach().double(), active.double().sum() / len(batch.sizes)])
        return torch.cat([total, total.new_full((1,), torch.nan)]), int(lengths.sum())
