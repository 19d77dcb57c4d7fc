"""What to know about a data set before training on it, as small tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hr_search.base.text import shortened
from hr_search.data.duplicates import normalised
from hr_search.data.languages import SCRIPTS, scripts
from hr_search.data.loading import Data

_WORDS = {
    "rows": "rows read",
    "empty": "dropped: query or document empty",
    "duplicates": "dropped: repeats another row",
    "unsplit": "dropped: title and duties could not be told apart",
    "unknown": "dropped: judgement of a query or document that is not there",
    "unanswered": "dropped: judged query without a right document",
    "placeholders": "kept: a text that seems to stand for an empty cell",
    "cvs": "CVs in fields that became texts",
    "html": "texts whose HTML was taken out",
    "emails": "replaced: e-mail addresses",
    "phones": "replaced: phone numbers",
    "links": "replaced: links",
    "handles": "replaced: handles, such as @name",
    "groups": "groups",
    "train": "train rows",
    "train_groups": "train groups",
    "validation": "validation rows",
    "validation_groups": "validation groups",
    "test": "test rows",
    "test_groups": "test groups",
    "distractors": "documents of judged collections that are right for no query",
}
_LEAKS = {
    "exact_leaks": "held-out rows whose document also stands in train",
    "near_leaks": "held-out rows whose document is nearly one of train",
    "table_leaks": "rows dropped: another table of datapath, or part of a stream, holds out their document",
    "negative_leaks": "given negatives dropped from train: they are held-out documents",
    "test_leaks": "test rows whose document also stands in validation",
    "seen_queries": "held-out rows whose query also stands in train (no leak by itself)",
    "seen_groups": "held-out rows whose group also stands in train (a leak if groups are persons or vacancies)",
}
_SIDES = {"query": "query", "document": "positive"}  # column of each side


def counts_table(data: Data) -> pd.DataFrame:
    """How many rows were read, dropped and given to each part: column `count`, indexed by a sentence in `what`."""
    return _table(data.counts.to_dict(), _WORDS)


def leak_table(data: Data) -> pd.DataFrame:
    """What validation and test share with train: column `count`, indexed by a sentence in `what`."""
    return _table(data.counts.to_dict(), _LEAKS)


def _table(counts: dict[str, int], words: dict[str, str]) -> pd.DataFrame:
    rows = {text: counts[name] for name, text in words.items() if name in counts}
    return pd.DataFrame({"count": rows}).rename_axis("what")


def frequent_titles(pairs: pd.DataFrame, count: int = 10) -> pd.DataFrame:
    """The queries with the most rows, and how many different documents each has."""
    table = pairs.groupby("query")["positive"].agg(rows="size", documents="nunique")
    table = table.sort_values("rows", ascending=False, kind="stable").head(count).reset_index()
    return table.assign(query=shortened(table["query"]))


def language_table(data: Data) -> pd.DataFrame:
    """How many texts of each part and side are written in which script (`languages.scripts`).

    Returns:
        Columns `part`, `side`, `cyrillic` (at least half of the letters), `latin` and `other` (neither).
    """
    rows = []
    for part in ("train", "validation", "test"):
        for side, column in _SIDES.items():
            found = scripts(getattr(data, part)[column]).value_counts()
            row = {"part": part, "side": side}
            rows.append(row | {script.lower(): int(found.get(script, 0)) for script in SCRIPTS})
    return pd.DataFrame(rows)


def describe(pairs: pd.DataFrame) -> pd.DataFrame:
    """How many texts of which lengths a pairs table holds: one row for its queries, one for its documents.

    Args:
        pairs: columns `query`, `positive`, `group`.

    Returns:
        Columns `text` ("query" or "document"), `rows`, `distinct` (after normalisation), `groups`, and
        the 5, 50, 95 and 100 % quantiles of the lengths, `characters_5` to `words_100`.
    """
    rows = []
    for side, column in _SIDES.items():
        texts = pairs[column].tolist()
        row = {"text": side, "rows": len(texts), "distinct": normalised(pairs[column]).nunique()}
        row["groups"] = pairs["group"].nunique()
        lengths = {"characters": [len(text) for text in texts], "words": [len(text.split()) for text in texts]}
        for unit, values in lengths.items():
            for share in (5, 50, 95, 100):
                row[f"{unit}_{share}"] = int(np.percentile(values, share, method="nearest")) if values else 0
        rows.append(row)
    return pd.DataFrame(rows)


def examples(pairs: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """Rows drawn at random, each text cut to 200 characters: columns `group`, `query`, `positive`."""
    drawn = pairs.sample(min(count, len(pairs)), random_state=seed)
    columns = ["group", "query", "positive"]
    return drawn.assign(**{name: shortened(drawn[name]) for name in columns})[columns].reset_index(drop=True)
