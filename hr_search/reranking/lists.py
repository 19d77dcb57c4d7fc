"""Lists that a cross-encoder learns to rank: a text's own partner, then wrong ones that a retriever finds near."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from hr_search.base.devices import to_device
from hr_search.batches import Rows


@dataclasses.dataclass(frozen=True)
class Lists:
    """B lists of pairs; the first pair of each is right, the others are wrong.

    Attributes:
        titles: indices of query texts, (P,).
        vacancies: indices of document texts, (P,).
        sizes: pairs of each list, (B,), together P; 1 where nothing wrong was found.
    """

    titles: np.ndarray
    vacancies: np.ndarray
    sizes: np.ndarray


def lists_of(rows: Rows, chosen: np.ndarray, wrong: list[np.ndarray], direction: str) -> Lists:
    """The lists of some train rows.

    Args:
        rows: the train rows.
        chosen: numbers of B of them.
        wrong: for each, indices of wrong documents (q2d) or of wrong queries (d2q).
        direction: "q2d", a title ranks vacancies, or "d2q", a vacancy ranks titles.
    """
    searched, found = (rows.query, rows.positive) if direction == "q2d" else (rows.positive, rows.query)
    sizes = np.array([1 + len(texts) for texts in wrong], np.int64)
    anchors = np.repeat(searched[chosen], sizes)
    candidates = [np.concatenate([[own], texts]) for own, texts in zip(found[chosen], wrong, strict=True)]
    pair = anchors, np.concatenate(candidates).astype(np.int64)
    return Lists(*(pair if direction == "q2d" else pair[::-1]), sizes)


def listwise(logits: Tensor, sizes: np.ndarray) -> tuple[Tensor, Tensor]:
    """Softmax cross-entropy of each list with its first pair as the right one (Cao et al. 2007, ListNet's top one).

    Args:
        logits: of all pairs, list by list, (P,).
        sizes: pairs of each list, (B,).

    Returns:
        The loss of each list (B,), and (B,) bool: whether a wrong pair scores at least as high as the right one.
    """
    width = int(sizes.max())
    places = np.arange(width) < sizes[:, None]
    table = logits.new_full((len(sizes), width), -torch.inf)
    table = table.masked_scatter(to_device(places, logits.device), logits)
    target = torch.zeros(len(sizes), dtype=torch.int64, device=logits.device)
    active = (table[:, 1:] >= table[:, :1]).any(dim=1)
    return nn.functional.cross_entropy(table, target, reduction="none"), active


def parts_of(sizes: np.ndarray, lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Groups of whole lists with about `budget` tokens each; a longer list stands alone.

    Args:
        sizes: pairs of each list, (B,).
        lengths: tokens of each pair, list by list, (P,).
        budget: tokens.

    Returns:
        Arrays of list numbers, together 0..B-1 once.
    """
    ends = np.cumsum(sizes)
    tokens = np.add.reduceat(lengths, ends - sizes)
    parts, held = [[0]], int(tokens[0])
    for at in range(1, len(sizes)):
        if held + tokens[at] > budget:
            parts.append([])
            held = 0
        parts[-1].append(at)
        held += int(tokens[at])
    return [np.array(part) for part in parts]
