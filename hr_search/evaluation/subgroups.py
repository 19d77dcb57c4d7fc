"""For whom it is better: a metric over parts of the test queries, such as short and long ones."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd

from hr_search.base.errors import InputError
from hr_search.base.text import STORED
from hr_search.data.languages import languages
from hr_search.evaluation.significance import FEW, bootstrap_interval

_RESAMPLES = 2000  # two digits are read from these tables


def parts(queries: pd.DataFrame, documents: pd.DataFrame) -> pd.DataFrame:
    """The parts that each test query belongs to.

    Lengths and numbers of relevant documents are cut into up to four parts of similar size.

    Args:
        queries: the rows of a run's `queries.csv` of one system and direction.
        documents: the rows of its `documents.csv` of that direction.

    Returns:
        A row per query and a column of ordered categories for each kind of part: `query length` and
        `document length` (in words; the median of up to five relevant documents), `language` (or script) of the
        query, `right documents` (how many are relevant) and `title` (seen in train or not). A kind that an
        older version did not record is left out.
    """
    found: dict[str, pd.Categorical] = {}
    if (counts := _word_counts(queries, "query")) is not None:
        found["query length"] = even_parts(counts)
    if (counts := _word_counts(documents, "text")) is not None:
        length = dict(zip(documents["index"], counts, strict=True))
        medians = [int(np.median([length[index] for index in json.loads(each)])) for each in queries["expected"]]
        found["document length"] = even_parts(medians)
    spoken = pd.Series(languages(queries.assign(text=queries["query"])))
    found["language"] = pd.Categorical(spoken, spoken.value_counts().index, ordered=True)
    found["right documents"] = even_parts(queries["relevant"])
    if "seen" in queries:
        names = np.where(queries["seen"].astype(bool), "seen in train", "not in train")
        found["title"] = pd.Categorical(names, sorted(set(names), reverse=True), ordered=True)
    return pd.DataFrame(found)


def even_parts(values: Sequence[int], count: int = 4) -> pd.Categorical:
    """Whole numbers in up to `count` parts of similar size, named by their range: `1`, `2–3`, `4–12`.

    Equal numbers stay together, so there may be fewer parts.
    """
    values = np.asarray(values)
    codes = quantile_codes(values, count)
    ends = [(values[codes == code].min(), values[codes == code].max()) for code in range(codes.max() + 1)]
    names = [f"{low:,}" if low == high else f"{low:,}–{high:,}" for low, high in ends]
    return pd.Categorical.from_codes(codes, names, ordered=True)


def quantile_codes(values: np.ndarray, count: int) -> np.ndarray:
    """The number (N,), from 0, of the quantile that each value falls into; empty quantiles are not numbered."""
    edges = np.unique(np.quantile(values, np.arange(1, count) / count))
    return np.unique(np.searchsorted(edges, values), return_inverse=True)[1]


def compare_parts(
    labels: pd.DataFrame,
    base: Sequence[float],
    trained: Sequence[float],
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> pd.DataFrame:
    """The mean of a metric before and after training, and their difference, for each part of the queries.

    Args:
        labels: what `parts` returns.
        base: (Q,) the metric of each query before training.
        trained: (Q,) the same after it.
        seed: of the bootstrap.
        groups: (Q,) the group of each query; None = each is its own.

    Returns:
        by, part, queries, system ("base", "trained" or "difference"), value, low, high (95 % bootstrap interval;
        the paired one for the difference; NaN for parts of fewer than ten groups). The first part is "all".

    Raises:
        InputError: not one value for each query.
    """
    before, after = np.asarray(base, dtype=float), np.asarray(trained, dtype=float)
    if not len(labels) == len(before) == len(after):
        raise InputError(f"there are {len(before)} and {len(after)} values for {len(labels)} queries; give one each.")
    own = np.arange(len(labels)) if groups is None else np.asarray(groups)
    values = {"base": before, "trained": after, "difference": after - before}
    everyone = pd.Series(pd.Categorical(["all"] * len(labels)), labels.index)
    members = [
        (by, part, np.flatnonzero(column == part))
        for by, column in {"all": everyone, **labels}.items()
        for part in column.cat.categories
    ]
    rows = []
    for by, part, at in members:
        many = len(set(own[at])) >= FEW
        for system, each in values.items():
            certain = bootstrap_interval(each[at], seed, _RESAMPLES, own[at]) if many else (np.nan, np.nan)
            rows.append((by, part, len(at), system, each[at].mean(), *certain))
    return pd.DataFrame(rows, columns=["by", "part", "queries", "system", "value", "low", "high"])


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `compare_parts` for reading: a row per part, `value [low, high]` of each system in a cell."""
    cells = [
        f"{row.value:.3f}" + (f" [{row.low:.3f}, {row.high:.3f}]" if np.isfinite(row.low) else "")
        for row in table.itertuples()
    ]
    keys = ["by", "part", "queries"]
    wide = table.assign(cell=cells).pivot(index=keys, columns="system", values="cell")
    ordered = wide.reindex(pd.MultiIndex.from_frame(table[keys].drop_duplicates()))
    return ordered[["base", "trained", "difference"]].rename_axis(columns=None).reset_index()


def _word_counts(table: pd.DataFrame, column: str) -> np.ndarray | None:
    """How many words each text has; None where the run recorded no lengths and its texts may be cut."""
    if "length" in table:
        return table["length"].to_numpy()
    if (table[column].str.len() >= STORED).any():
        return None
    return table[column].str.split().str.len().to_numpy()
