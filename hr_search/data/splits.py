"""Splits of a table of pairs: which rows are held out, and what held-out rows share with train."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from scipy import sparse

from hr_search.base.errors import InputError, shown
from hr_search.data.counts import Counts
from hr_search.data.duplicates import near_copies, normalise

logger = logging.getLogger(__name__)

Parts = dict[str, pd.DataFrame]
"""Tables called "train", "validation" and "test" with the working columns of `loading`: `query_key` and
`document_key` (normalised texts) and `group_key`."""


def split(table: pd.DataFrame, shares: dict[str, float], seed: int, source: str) -> tuple[Parts, bool]:
    """Train, validation and test rows, with related rows always in the same part.

    Groups that share a document or near copies of one form a unit, and each unit goes to one part as a whole.

    Args:
        table: rows with `group` and `document_key`.
        shares: share of the groups for "validation" and for "test".
        seed: of the random order of the units.
        source: the file, for errors.

    Returns:
        The parts, and whether the search for near copies was exact.

    Raises:
        InputError: too few independent units.
    """
    if not any(shares.values()):
        return {"train": table, "validation": table[:0], "test": table[:0]}, True
    groups, names = pd.factorize(table["group"])
    documents, texts = pd.factorize(table["document_key"])
    left, right, exact = near_copies(texts.tolist())
    # A graph of groups and documents; its connected components are the units.
    ends = np.concatenate([groups, len(names) + left]), np.concatenate([len(names) + documents, len(names) + right])
    size = len(names) + len(texts)
    graph = sparse.coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(size, size))
    unit_of_group = sparse.csgraph.connected_components(graph, directed=False)[1][: len(names)]
    part_of_unit = _assign(np.bincount(unit_of_group), list(shares.values()), seed, source)
    part = part_of_unit[unit_of_group][groups]
    return {name: table[part == number] for number, name in enumerate(("train", *shares))}, exact


def _assign(sizes: np.ndarray, shares: list[float], seed: int, source: str) -> np.ndarray:
    """The part of each unit, (U,): 0 for train, otherwise 1 + the index of its share; drawn in a seeded random order.

    `sizes` (U,) are groups per unit. A unit too large for what is left of a part stays in train.
    """
    total = int(sizes.sum())
    wanted = {number: max(2, round(share * total)) for number, share in enumerate(shares, 1) if share > 0}
    part, held = np.zeros(len(sizes), np.int8), dict.fromkeys(wanted, 0)
    order = np.random.default_rng(seed).permutation(len(sizes))
    for unit in order.tolist():
        number = next((number for number in wanted if held[number] + sizes[unit] <= wanted[number]), 0)
        if number:
            part[unit] = number
            held[number] += int(sizes[unit])
        elif all(held[number] == wanted[number] for number in wanted):
            break
    # A ranking needs two groups: a part smaller than every unit takes the smallest units.
    for unit in order[np.argsort(sizes[order], kind="stable")].tolist():
        number = next((number for number in wanted if held[number] < 2), 0)
        if number and part[unit] == 0:
            part[unit] = number
            held[number] += int(sizes[unit])
    if sizes[part == 0].sum() < 2:
        raise InputError(
            f"{source} has {total} groups in {len(sizes)} independent units (groups that share documents "
            f"or near copies stay together), too few for {len(wanted) + 1} parts of at least 2 groups each; give more "
            "rows, or separate files as validationpath and testpath."
        )
    return part


def drop_negatives(parts: Parts) -> int:
    """Removes held-out documents from the given negatives of train, in place; returns how many there were."""
    train = parts["train"]
    if not train["negatives"].str.len().any():
        return 0
    held = set(parts["validation"]["document_key"]) | set(parts["test"]["document_key"])
    kept = [[text for text in texts if normalise(text) not in held] for texts in train["negatives"]]
    parts["train"] = train.assign(negatives=kept)
    return int(train["negatives"].str.len().sum() - sum(map(len, kept)))


def refuse_leaks(parts: Parts, own: dict[str, str], judged: set[str]) -> None:
    """Checks that no separate file shares documents with train or with the other held-out part.

    Args:
        parts: the three tables.
        own: path of each part that has a file of its own.
        judged: those of them that are judged queries over a corpus. Train may contain documents of the corpus, so
            there a leak is a pair of texts, not a document.

    Raises:
        InputError: naming the first shared row.
    """
    for name, path in own.items():
        _refuse_shared(parts, name, "train", path, name in judged)
    if own:
        _refuse_shared(parts, "test", "validation", own.get("test") or own["validation"], bool(judged))


def leaks(parts: Parts, exact: bool) -> Counts:
    """What validation and test share with train and with each other; warns of near copies.

    Args:
        parts: the three tables.
        exact: whether the split found all near copies.

    Returns:
        `exact_leaks`, `near_leaks`, `test_leaks`, `seen_queries`, `seen_groups` and `near_exact`.
    """
    train, held = parts["train"], pd.concat([parts["validation"], parts["test"]])
    corpus = train["document_key"].unique()
    same = held["document_key"].isin(corpus)
    others = held.loc[~same, "document_key"].unique()
    left, right, searched = near_copies(others.tolist(), corpus.tolist())
    near = held["document_key"].isin(others[left])
    if len(left):
        pair = f'"{others[left[0]][:80]}" of "{corpus[right[0]][:80]}"'
        logger.warning("%d validation and test rows are near copies of train documents, such as %s", near.sum(), pair)
    return Counts(
        exact_leaks=int(same.sum()),
        near_leaks=int(near.sum()),
        test_leaks=int(parts["test"]["document_key"].isin(parts["validation"]["document_key"]).sum()),
        seen_queries=int(held["query_key"].isin(train["query_key"]).sum()),
        seen_groups=int(held["group_key"].isin(train["group_key"]).sum()),
        near_exact=int(exact and searched),
    )


def _refuse_shared(parts: Parts, name: str, other: str, path: str, judged: bool) -> None:
    """Checks that a part shares no document with another part; if `judged`, no pair of texts in either order.

    Raises:
        InputError: naming the first shared row.
    """
    part, seen = parts[name], parts[other]
    same = part["document_key"].isin(seen["document_key"]).to_numpy()
    if judged:
        known = set(zip(seen["query_key"], seen["document_key"], strict=True))
        pairs = zip(part["query_key"], part["document_key"], strict=True)
        same = np.array([pair in known or pair[::-1] in known for pair in pairs], dtype=bool)
    if same.any():
        example, what = part[same].iloc[0], "also occur" if judged else "have a document that also occurs"
        raise InputError(
            f"{path}: {same.sum()} of {len(same)} {name} rows {what} in {other} (such as "
            f'"{shown(example["query"])}": "{shown(example["positive"])}"), which inflates every metric; remove them '
            "from one file, or go on with --allowleaks."
        )
