"""A trial: the stages of a search, with knobs that are given, against the plain cosine on the test rows of a run."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from hr_search.base import arrays, files, paths
from hr_search.data.tasks import Task
from hr_search.encoder import Encoder
from hr_search.evaluation import scoring
from hr_search.fast.tokens import TokenTable
from hr_search.search.identity import fingerprint
from hr_search.search.memory import Memory, build_memory, kept_memory, refuse_known
from hr_search.search.policy import SearchPolicy, sides_of
from hr_search.search.stages import Reads, evaluate_stages, placed

log = logging.getLogger(__name__)

NAMES = ("plain cosine", "staged search")  # of the systems "base" and "trained" of such a run


@dataclasses.dataclass
class Trial:
    """What a run that trains nothing tests.

    Attributes:
        policy: the knobs, the same in both directions.
        reads: the second stage; None = none.
        memory: the train rows, once `remember` has embedded them; None where the policy has no use for them.
    """

    policy: SearchPolicy
    reads: Reads | None = None
    memory: Memory | None = None

    def remember(self, encoder: Encoder, train: pd.DataFrame, source: str, tasks: Mapping[str, Task]) -> None:
        """Makes the train rows the memory, where the policy uses one; what `tune` has embedded is not embedded again.

        Args:
            encoder: the model that searches.
            train: columns `query` and `positive`.
            source: name of the data.
            tasks: of the test rows; empty without any.

        Raises:
            InputError: mixing would find test documents in the memory.
        """
        if not self.policy.consults:
            return
        named = f"the memory (train rows of {source})"
        self.memory = build_memory(encoder, train, named, progress=True, kept=kept_memory(encoder))
        log.info("the memory holds %d pairs", self.memory.pairs.nnz)
        if tasks and self.policy.mixing != "none":
            advice = "leave --allowleaks out, or take --searchmixing none"
            refuse_known(self.memory, tasks["q2d"].documents, advice)

    def embedded(self, encoder: Encoder, tokens: Mapping[str, TokenTable]) -> dict[str, np.ndarray]:
        """Embeddings of the test rows, "query" and "document", from the cache where they were embedded before.

        All cells of a grid of knobs share them. They are embedded again for another model, precision, number of threads
        or text: each may change their last bits.
        """
        texts = [part for table in tokens.values() for part in (table.ids, table.offsets)]
        state = fingerprint(encoder), encoder.bf16, str(encoder.device), torch.get_num_threads()
        folder = paths.cache() / "embeddings" / files.digest(*state, *(part.tobytes().hex() for part in texts))
        try:
            sides = {side: arrays.load(folder / f"{side}.npy") for side in tokens}
            log.info("the embeddings of the test rows are in the cache")
        except ValueError:  # not there, or damaged
            sides = scoring.embed_sides(encoder, tokens, progress=True)
            with files.whole_folder(folder) as target:
                for side, vectors in sides.items():
                    arrays.save(target / f"{side}.npy", vectors)
        return sides

    def measure(
        self, tasks: Mapping[str, Task], sides: Mapping[str, np.ndarray], seed: int
    ) -> tuple[scoring.Results, pd.DataFrame, pd.DataFrame]:
        """The test rows searched in both directions by the plain cosine and through all stages.

        Args:
            tasks: of the test rows.
            sides: embeddings of their texts, "query" and "document".
            seed: of the sample of cosines.

        Returns:
            Per-query results of the systems "base" (plain cosine) and "trained" (all stages); a sample of the cosines
            of both, of the first alone where word scores or a second stage make them something else; and the
            milliseconds a query that each stage ends at: what, unit, value.
        """
        found = {
            name: evaluate_stages(task, sides, self.policy, self.memory, self.reads) for name, task in tasks.items()
        }
        ends = {"base": 0, "trained": -1}
        results = {(system, name): found[name][at].results for system, at in ends.items() for name in tasks}
        samples = [scoring.scores_table("base", tasks, sides, seed)]
        if not self.policy.fusion and self.reads is None:
            samples += [self._cosines(task, sides, seed) for task in tasks.values()]
        costs = [
            {"what": f"search, {name}: {stage.name}", "unit": "ms", "value": stage.milliseconds}
            for name, stages in found.items()
            for stage in stages
        ]
        return results, pd.concat(samples, ignore_index=True), pd.DataFrame(costs)

    def _cosines(self, task: Task, sides: Mapping[str, np.ndarray], seed: int) -> pd.DataFrame:
        """The sample of cosines of one direction where the stages have moved the embeddings."""
        asking, searched = sides_of(task.name)
        moved = {
            side: placed(sides[side], side, side == searched, self.memory, self.policy) for side in (asking, searched)
        }
        return scoring.scores_table("trained", {task.name: task}, moved, seed)
