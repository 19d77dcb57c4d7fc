"""Anchors: the texts that wrong texts of the other side are sought for, and what matches them."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from hr_search.batches import Rows


def anchors(rows: Rows, side: str = "document") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The texts that negatives are mined for.

    Args:
        rows: the train rows.
        side: what is mined: "document" (for each query) or "query" (for each positive document).

    Returns:
        Their indices (A,), the place of each row's among them (N,), and the positive whose score the share
        rule looks at, that of the anchor's first row (A,).
    """
    pair = rows.query, rows.positive
    anchor, other = pair if side == "document" else pair[::-1]
    distinct, first, place = np.unique(anchor, return_index=True, return_inverse=True)
    return distinct, place, other[first]


def matching(rows: Rows, side: str, texts: np.ndarray, partly: bool = True) -> sparse.csr_array:
    """Which texts of `side` are not wrong for A texts of the other side, (A, texts of `side`): not zero there.

    Args:
        rows: the train rows.
        side: "document" or "query".
        texts: indices of the texts of the other side, (A,).
        partly: whether partial matches, which share a soft group and no group, are among them.
    """
    found = None
    for theirs, ours in group_pairs(rows, side, partly):
        product = theirs[texts] @ ours.T
        found = product if found is None else found + product
    return found.tocsr()


def group_pairs(rows: Rows, side: str, partly: bool = True) -> list[tuple[sparse.csr_array, sparse.csr_array]]:
    """The groups of the other side's texts with those of `side`, and likewise the soft groups where there are some."""
    kinds = [(rows.query_groups, rows.document_groups)]
    if partly and rows.query_softgroups is not None:
        kinds.append((rows.query_softgroups, rows.document_softgroups))
    return [pair if side == "document" else pair[::-1] for pair in kinds]
