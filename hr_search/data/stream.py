"""Train rows of a table larger than memory: which of its rows are trained on, over texts that stay in files.

Unlike in `splits`, groups that share a document may be drawn apart. Train rows whose document is held out, or nearly
is, are then left out.

Texts are told apart by hashes of 64 bits. In memory a train row takes up to 60 bytes while its table is read (known
hashes), 130 while the rows are put together, and 70 from then on: indices of its texts and group, the groups of both
texts, offsets of their tokens, its place in the order of an epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hr_search.base.arrays import incidence
from hr_search.base.mapped import StoredTexts, release
from hr_search.batches import Rows
from hr_search.data.counts import Counts
from hr_search.data.duplicates import near_any
from hr_search.data.hashes import mixed, text_hashes
from hr_search.data.stream_files import Stored, normal_blocks
from hr_search.fast.tokens import TokenTable

SAMPLE = 20_000
"""Train rows that are shown and explored, at most."""

_FIRST = 10  # rows that belong to the sample
_BLOCK = 200_000  # rows or hashes looked at together


@dataclass(frozen=True)
class Streamed:
    """The train rows of a table whose texts lie in files.

    Attributes:
        rows: N rows over their distinct texts.
        groups: (N,) number of the group of each.
        sample: some of the rows as a pairs table, the first ones included.
        titles: queries of validation and test that also occur in train, as a column `query`.
    """

    rows: Rows
    groups: np.ndarray
    sample: pd.DataFrame
    titles: pd.DataFrame


def chosen_rows(
    table: Stored, parts: Mapping[str, pd.DataFrame], drawn: Sequence[str], maxrows: int, seed: int
) -> tuple[np.ndarray, np.ndarray, Counts]:
    """Which rows are trained on, and which of their given negatives count.

    Rows leave whose document, or one that nearly is it, is held out in a part drawn from the table; so do negatives
    that are held out in any part.

    Args:
        table: the files.
        parts: validation and test rows.
        drawn: names of those that were drawn from the table.
        maxrows: rows at most, drawn at random; 0 = all.
        seed: of the draw.

    Returns:
        The numbers of the rows, ascending, (M,); a mask over `table.wrong`; and the counts `table_leaks` and
        `negative_leaks`.
    """
    leaving = _known(table.document_keys, [parts[name]["document_key"] for name in drawn])
    leaving[table.near] = True
    kept = np.flatnonzero(~leaving[table.positive])
    counts = Counts(table_leaks=len(table.positive) - len(kept))
    held = _known(table.document_keys, [part["document_key"] for part in parts.values()])
    right = ~held[table.wrong]
    within = np.repeat(~leaving[table.positive], table.wrong_lengths) if len(right) else right
    counts += Counts(negative_leaks=int((within & ~right).sum()))
    if 0 < maxrows < len(kept):
        kept = np.sort(kept[np.random.default_rng([seed, 1]).permutation(len(kept))[:maxrows]])
    return kept, right, counts


def _known(keys: np.ndarray, texts: Sequence[pd.Series]) -> np.ndarray:
    """Whether each of the hashes (T,), of normalised texts, is that of one of the texts."""
    wanted = np.unique(np.concatenate([np.zeros(0, np.uint64), *(text_hashes(part.tolist()) for part in texts)]))
    found = np.zeros(len(keys), bool)
    for start in range(0, len(keys), _BLOCK) if len(wanted) else ():
        found[start : start + _BLOCK] = np.isin(keys[start : start + _BLOCK], wanted)
    release(keys)
    return found


def shared(
    table: Stored, kept: np.ndarray, parts: Mapping[str, pd.DataFrame], own: Sequence[str]
) -> tuple[pd.DataFrame, Counts]:
    """What validation and test share with the rows that are trained on.

    Args:
        table: the files.
        kept: from `chosen_rows`.
        parts: validation and test rows.
        own: those of them that come from files of their own; near copies in these are looked for.

    Returns:
        A table in the place of train for `splits.refuse_leaks`: the documents and pairs (in either order) that are
        shared, `query_key` and `document_key`; and the counts of `splits.leaks`.
    """
    held = pd.concat(parts.values())
    documents = _among(held["document_key"], table.document_keys, table.positive[kept])
    queries = _among(held["query_key"], table.query_keys, table.query[kept])
    near, exact = np.zeros(len(held), bool), table.exact
    groups = np.zeros(len(held), bool)
    if own:
        new = pd.concat([part.assign(own=name in own) for name, part in parts.items()])["own"].to_numpy() & ~documents
        near[new], _, sure = near_any(held[new]["document_key"].tolist(), normal_blocks(table.documents))
        exact = exact and sure
        wanted = np.unique(text_hashes(held["group"].tolist()))
        there = [np.zeros(0, np.uint64)]
        for start in range(0, len(table.groups), _BLOCK):
            there.append(np.intersect1d(text_hashes(table.groups[start : start + _BLOCK]), wanted))
        groups = np.isin(text_hashes(held["group"].tolist()), np.concatenate(there))
    pairs = []
    for one, other in (("query_key", "document_key"), ("document_key", "query_key")):
        found = held[_pairs_among(held[one], held[other], table, kept)]
        pairs.append(pd.DataFrame({"query_key": found[one], "document_key": found[other]}))
    alone = pd.DataFrame({"query_key": "", "document_key": held.loc[documents, "document_key"]})
    counts = Counts(
        exact_leaks=int(documents.sum()),
        near_leaks=int(near.sum()),
        test_leaks=int(parts["test"]["document_key"].isin(parts["validation"]["document_key"]).sum()),
        seen_queries=int(queries.sum()),
        seen_groups=int(groups.sum()),
        near_exact=int(exact),
    )
    return pd.concat([alone, *pairs], ignore_index=True), counts


def _among(texts: pd.Series, keys: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Whether each normalised text is one of those whose hashes are `keys`, of which only the numbers `used` count."""
    mask = np.zeros(len(keys), bool)
    mask[used] = True
    return np.isin(text_hashes(texts.tolist()), keys[np.flatnonzero(mask & _known(keys, [texts]))])


def _pairs_among(queries: pd.Series, documents: pd.Series, table: Stored, kept: np.ndarray) -> np.ndarray:
    """Whether each pair of normalised texts is one of the rows `kept`."""
    wanted = mixed(text_hashes(queries.tolist()), text_hashes(documents.tolist()))
    found = [np.zeros(0, np.uint64)]
    for start in range(0, len(kept), _BLOCK):
        rows = kept[start : start + _BLOCK]
        pairs = mixed(table.query_keys[table.query[rows]], table.document_keys[table.positive[rows]])
        found.append(np.intersect1d(pairs, wanted))
    for keys in (table.query_keys, table.document_keys):
        release(keys)
    return np.isin(wanted, np.concatenate(found))


def streamed(table: Stored, kept: np.ndarray, right: np.ndarray, held: pd.DataFrame, seed: int) -> Streamed:
    """The rows that are trained on.

    Args:
        table: the files.
        kept, right: from `chosen_rows`.
        held: the rows of validation and test.
        seed: of the sample.
    """
    offsets, wrong = _negatives(table, kept, right)
    queries, query = _compact(len(table.queries), table.query[kept])
    documents, positive, wrong = _compact(len(table.documents), table.positive[kept], wrong)
    groups, group = _compact(len(table.groups), table.group[kept])
    rows = Rows(
        StoredTexts(table.folder, "queries", None if len(queries) == len(table.queries) else queries),
        StoredTexts(table.folder, "documents", None if len(documents) == len(table.documents) else documents),
        query,
        positive,
        TokenTable(wrong, offsets),
        incidence(query, group, (len(queries), len(groups))),
        incidence(positive, group, (len(documents), len(groups))),
    )
    places = np.arange(len(kept))
    if len(kept) > SAMPLE:
        drawn = _FIRST + np.random.default_rng([seed, 2]).choice(len(kept) - _FIRST, SAMPLE - _FIRST, replace=False)
        places = np.concatenate([np.arange(_FIRST), np.sort(drawn)])
    seen = _among(held["query_key"], table.query_keys, table.query[kept])
    sample = pd.DataFrame(
        {
            "query": [rows.queries[at] for at in query[places]],
            "positive": [rows.documents[at] for at in positive[places]],
            "negatives": [[rows.documents[at] for at in rows.negatives[place]] for place in places],
            "group": [table.groups[at] for at in groups[group[places]]],
        }
    )
    return Streamed(rows, group, sample, held.loc[seen, ["query"]])


def _negatives(table: Stored, kept: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the given negatives of each row begin (M + 1,) int64, and their documents, of the rows `kept`."""
    if not len(right):
        return np.zeros(len(kept) + 1, np.int64), table.wrong
    mask, lengths = np.zeros(len(table.ends), bool), table.wrong_lengths
    mask[kept] = True
    before = np.concatenate([[0], np.cumsum(right)])
    counts = (before[table.ends] - before[table.ends - lengths])[kept]
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), table.wrong[np.repeat(mask, lengths) & right]


def _compact(count: int, *numbers: np.ndarray) -> list[np.ndarray]:
    """The numbers below `count` that occur, ascending, and each array with places among these in their stead."""
    used = np.zeros(count, bool)
    for each in numbers:
        used[each] = True
    place = np.cumsum(used, dtype=np.int32) - np.int32(1)
    return [np.flatnonzero(used), *(place[each] for each in numbers)]
