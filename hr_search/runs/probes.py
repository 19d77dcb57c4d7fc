"""Probes: texts whose embeddings a run keeps at every validation, so that drift can be measured afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from hr_search.base import files
from hr_search.base.text import STORED
from hr_search.runs.folders import Run


class Probes:
    """The probes of one run, in its folder `probes/`.

    Args:
        run: the run.
        texts: the texts of both sides, "query" and "document".
        groups: their groups, likewise.
        limit: texts kept of each side, the first ones; 0 writes nothing.
    """

    def __init__(self, run: Run, texts: dict[str, list[str]], groups: dict[str, list[str]], limit: int) -> None:
        self.folder, self.limit = run.folder / "probes", limit
        if limit:
            sides = [
                pd.DataFrame({"side": side, "text": texts[side][:limit], "group": groups[side][:limit]})
                for side in texts
            ]
            table = pd.concat(sides)
            # Whole texts belong to the data, not to results that may be passed on.
            short = {name: table[name].str.slice(0, STORED) for name in ("text", "group")}
            files.write_csv(self.folder / "texts.csv", table.assign(**short))

    def keep(self, step: int, sides: dict[str, np.ndarray]) -> None:
        """Writes the probes' embeddings at `step`, (P, D) float32."""
        if self.limit:
            with files.whole_file(self.folder / f"step_{step:06d}.npy", "wb") as file:
                np.save(file, np.concatenate([side[: self.limit] for side in sides.values()]))


def probes_of(run: Run, tasks: Mapping[str, Any], limit: int) -> Probes:
    """The validation texts, up to `limit` of each side, whose embeddings are kept to measure drift.

    Args:
        run: where they go.
        tasks: the search tasks "q2d" and "d2q" of the validation rows; empty without any.
        limit: texts of each side.
    """
    if not tasks:
        return Probes(run, {}, {}, 0)
    task, back = tasks["q2d"], tasks["d2q"]
    # Documents of a judged collection that are relevant to no query have no group; they stand behind the others.
    limit = min(limit, len(back.queries)) if len(back.queries) < len(task.documents) else limit
    texts, groups = {"query": task.queries, "document": task.documents}, {"query": task.groups, "document": back.groups}
    return Probes(run, texts, groups, limit)
