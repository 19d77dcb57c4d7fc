"""Texts that stand for an empty cell: NULL, \\N, n/a, "нет", or one document that rows of many groups share.

They look like any other text, so a model learns that all these queries mean the same. Nothing is dropped, since nobody
but the owner of a table knows what its texts mean; the rows are counted and the texts are named.
"""

from __future__ import annotations

import logging
from collections import Counter

import pandas as pd

from hr_search.base.errors import shown
from hr_search.data.counts import Counts
from hr_search.data.duplicates import normalise

logger = logging.getLogger(__name__)

_WORDS = frozenset(  # as `normalise` writes them: \N is n, <NA> is na, N/A is n a
    {
        *("null", "n", "nan", "none", "nil", "na", "n a", "undefined", "unknown", "empty", "missing", "blank", "tbd"),
        *("no data", "no description", "not available", "not specified", "not applicable", "not provided"),
        *("нет", "нет данных", "нет описания", "нет информации", "не указано", "не указан", "не указана", "не задано"),
        *("не заполнено", "отсутствует", "неизвестно", "пусто", "н д", "без описания", "описание отсутствует"),
    }
)
_LEAST = 2  # rows with such a word
_MANY, _SHARE = 20, 0.02  # groups, and share of the rows, that share any other text
_NAMED = 3  # texts


def find_placeholders(table: pd.DataFrame, source: str) -> Counts:
    """Counts and names, in a warning, the texts of a table that seem to stand for empty cells.

    Args:
        table: rows with `query`, `positive`, `negatives`, `group`, and the normalised `query_key` and `document_key`.
        source: the file.

    Returns:
        `placeholders`, the rows with such a query, document or negative.
    """
    found = pd.Series(False, table.index)
    for side, column, key in (("query", "query", "query_key"), ("document", "positive", "document_key")):
        sizes = table[key].value_counts()
        suspected = [text for text, rows in sizes.items() if text in _WORDS and rows >= _LEAST]
        if side == "document":
            often = table[table[key].isin(sizes[sizes >= max(_MANY, _SHARE * len(table))].index)]
            groups = often.groupby(key, sort=False)["group"].nunique()
            suspected += [text for text, count in groups.items() if count >= _MANY and text not in suspected]
        rows = table[key].isin(suspected)
        found |= rows
        for text in sorted(suspected, key=lambda text: (-sizes[text], text))[:_NAMED]:
            first = table.loc[(table[key] == text).idxmax(), column]
            _warn(source, side, sizes[text], first)
    return Counts(placeholders=int((found | _in_negatives(table, source)).sum()))


def _in_negatives(table: pd.DataFrame, source: str) -> pd.Series:
    """Whether each row has such a word among its negatives; names the most frequent one in a warning."""
    if not table["negatives"].str.len().any():
        return pd.Series(False, table.index)
    longest = max(map(len, _WORDS)) + 10
    short = [[text for text in texts if len(text) <= longest] for texts in table["negatives"]]
    words = [[text for text in texts if normalise(text) in _WORDS] for texts in short]
    often = Counter(text for texts in words for text in dict.fromkeys(texts)).most_common(1)
    if not often or often[0][1] < _LEAST:
        return pd.Series(False, table.index)
    _warn(source, "wrong document", often[0][1], often[0][0])
    return pd.Series([bool(texts) for texts in words], table.index)


def _warn(source: str, what: str, rows: int, text: str) -> None:
    advice = "if it stands for an empty cell, empty the cell or remove the rows"
    logger.warning('%s: one %s is in %d rows: "%s"; %s', source, what, rows, shown(text), advice)
