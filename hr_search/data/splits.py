"""Splits of a table of pairs: which rows are held out, and what held-out rows share with train."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from hr_search.base.errors import InputError, shown
from hr_search.data.counts import Counts
from hr_search.data.duplicates import near_copies, normalise

logger = logging.getLogger(__name__)

FAIR = 2.0  # a part may hold this many times its share of the rows, or one part in as many of it
Parts = dict[str, pd.DataFrame]
"""Tables called "train", "validation" and "test" with the working columns of `loading`: `query_key` and
`document_key` (normalised texts) and `group_key`."""


def split(table: pd.DataFrame, shares: dict[str, float], seed: int, source: str) -> tuple[Parts, bool]:
    """Train, validation and test rows, with related rows always in the same part.

    Groups that share a document or near copies of one form a unit, and each unit goes to one part as a whole. Parts
    get their shares of the groups. Where one of them would then hold more than twice, or less than half, its share
    of the rows (one profession may have most of a table), they get their shares of the rows, as far as whole units
    allow; where these allow no fair split, a warning says what each part has.

    Args:
        table: rows with `group` and `document_key`.
        shares: share of the groups, and of the rows, for "validation" and for "test".
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
    units = Units(np.bincount(unit_of_group), np.bincount(unit_of_group[groups]))
    part_of_unit = _assign(units, list(shares.values()), seed, source)
    largest = shown(names[int((unit_of_group == units.rows.argmax()).argmax())])
    if sentence := _unfair_sentence(units, part_of_unit, shares, largest):
        logger.warning("%s: %s", source, sentence)
    part = part_of_unit[unit_of_group][groups]
    return {name: table[part == number] for number, name in enumerate(("train", *shares))}, exact


class Units(NamedTuple):
    """What goes to one part as a whole: how many groups and rows each unit has, (U,) each."""

    groups: np.ndarray
    rows: np.ndarray


def _assign(units: Units, shares: list[float], seed: int, source: str) -> np.ndarray:
    """The part of each unit, (U,): 0 for train, otherwise 1 + the index of its share.

    Raises:
        InputError: too few units.
    """
    order = np.random.default_rng(seed).permutation(len(units.rows))
    by_groups = _drawn(units.groups, units.groups, np.inf, shares, order)
    found = by_groups
    if _distance(units.rows, by_groups, shares) > FAIR:
        # Many small groups make up the rows of a large one: the fewer rows are missing, the more groups train misses.
        by_rows = (_drawn(units.rows, units.groups, most, shares, order) for most in (1, 1.5, 2, 2.5, 3, 3.5, 4, 5))
        found = min(by_groups, *by_rows, key=lambda part: _farthest(units, part, shares))
    if units.groups[found == 0].sum() < 2:
        parts = 1 + sum(share > 0 for share in shares)
        raise InputError(
            f"{source} has {units.groups.sum()} groups in {len(units.groups)} independent units (groups that share "
            f"documents or near copies stay together), too few for {parts} parts of at least 2 groups each; give more "
            "rows, or separate files as validationpath and testpath."
        )
    return found


def _drawn(sizes: np.ndarray, groups: np.ndarray, most: float, shares: list[float], order: np.ndarray) -> np.ndarray:
    """The part of each unit, (U,), drawn in the given random order of the units.

    A unit too large for what is left of a part stays in train.

    Args:
        sizes: of each unit, (U,); the parts get their shares of the sum.
        groups: of each unit, (U,).
        most: how many times its share of the groups a part may have.
        shares: of each part.
        order: of the units, (U,).
    """
    wanted = {number: max(2, round(share * sizes.sum())) for number, share in enumerate(shares, 1) if share > 0}
    limit = {number: max(2, most * shares[number - 1] * groups.sum()) for number in wanted}
    part, held, known = np.zeros(len(sizes), np.int8), dict.fromkeys(wanted, 0), dict.fromkeys(wanted, 0)

    def fits(number: int, unit: int) -> bool:
        return held[number] + sizes[unit] <= wanted[number] and known[number] + groups[unit] <= limit[number]

    def give(number: int, unit: int) -> None:
        part[unit] = number
        held[number] += int(sizes[unit])
        known[number] += int(groups[unit])

    for unit in order.tolist():
        if number := next((number for number in wanted if fits(number, unit)), 0):
            give(number, unit)
        elif all(held[number] == wanted[number] for number in wanted):
            break
    # A ranking needs two groups: a part smaller than every unit takes the smallest units.
    for unit in order[np.argsort(sizes[order], kind="stable")].tolist():
        number = next((number for number in wanted if known[number] < 2), 0)
        if number and part[unit] == 0:
            give(number, unit)
    return part


def _ratios(sizes: np.ndarray, part: np.ndarray, shares: list[float]) -> np.ndarray:
    """How many times its share each part with a share holds, train first; two of anything are always wanted."""
    every = np.array([1 - sum(shares), *shares])
    held = np.bincount(part, sizes, minlength=len(every))
    return (held / np.maximum(2, every * sizes.sum()))[every > 0]


def _distance(sizes: np.ndarray, part: np.ndarray, shares: list[float]) -> float:
    """How many times too much, or too little, the worst part holds."""
    ratios = _ratios(sizes, part, shares)
    return max(ratios.max(), 1 / max(ratios.min(), 1e-9))


def _farthest(units: Units, part: np.ndarray, shares: list[float]) -> float:
    """As `_distance`, of rows or of groups, whichever is further from its shares."""
    return max(_distance(sizes, part, shares) for sizes in units)


def _unfair_sentence(units: Units, part: np.ndarray, shares: dict[str, float], group: str) -> str:
    """What the parts hold if one is further than `FAIR` from its share of the rows, "" if none is.

    `group` is one of the largest unit.
    """
    if _distance(units.rows, part, list(shares.values())) <= FAIR:
        return ""
    held = []
    for number, (name, share) in enumerate([("train", 1 - sum(shares.values())), *shares.items()]):
        rows, groups = units.rows[part == number].sum(), units.groups[part == number].sum()
        if share > 0:
            held.append(f"{name} {rows} rows of {groups} groups ({rows / units.rows.sum():.0%} for {share:.0%})")
    largest = units.rows.argmax()
    many = units.groups[largest]
    what = f'the largest, "{group}", has' if many == 1 else f'{many} that share documents, such as "{group}", have'
    return (
        f"whole groups allow no split near the shares: {', '.join(held)}; of the groups, {what} "
        f"{units.rows[largest]} of {units.rows.sum()} rows; give more groups, or separate files as validationpath and "
        "testpath."
    )


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


def sizes(parts: Parts) -> Counts:
    """How many rows and groups each part has."""
    rows = {name: len(part) for name, part in parts.items()}
    return Counts(**rows, **{f"{name}_groups": part["group"].nunique() for name, part in parts.items()})


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
