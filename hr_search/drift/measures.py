"""How far training moved the embeddings of the same texts: exact numbers in the original space.

Every measure takes L2-normalised arrays of shape (P, D); row i is the same probe text at each checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from hr_search.base.errors import InputError
from hr_search.drift.probes import Checkpoints, cut, usable_texts

FEW = 10  # texts; fewer always look like a rotated copy of themselves


def displacement(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How far each text moved: 1 - cosine, (P,); 0 = not at all, 1 = by a right angle, 2 = to the opposite."""
    a, b = _same_texts(a, b)
    return 0.5 * np.square(a.astype(np.float64) - b).sum(axis=1)  # = 1 - cos, without its rounding near 0


def linear_cka(a: np.ndarray, b: np.ndarray) -> float:
    """How similar two geometries are, rotations aside: 1 = the same up to rotation and scale, 0 = unrelated.

    Linear centred kernel alignment (Kornblith et al., 2019): |A'B|² / (|A'A| |B'B|) of the centred arrays;
    NaN where all texts of an array share one embedding.
    """
    a, b = (_centred(x) for x in _same_texts(a, b))
    scale = np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    return float(min(np.linalg.norm(a.T @ b) ** 2 / scale, 1.0)) if scale else math.nan


def procrustes_residual(a: np.ndarray, b: np.ndarray) -> float:
    """The share of `b`'s spread that no rotation, reflection and scaling of `a` explains.

    With both arrays centred and scaled to norm 1 and s = the sum of the singular values of A'B, the best
    rotation leaves a squared distance of 1 - s² (Schönemann, 1966; Gower, 1975). 0 = `b` is a rotated copy
    of `a`; 1 = `a` explains nothing of `b`; NaN where all texts of an array share one embedding.
    """
    a, b = (_centred(x) for x in _same_texts(a, b))
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float(max(1.0 - (np.linalg.norm(a.T @ b, "nuc") / scale) ** 2, 0.0)) if scale else math.nan


def neighbour_overlap(a: np.ndarray, b: np.ndarray, k: int = 10) -> np.ndarray:
    """What a user notices: Jaccard@k of each text's k nearest texts, (P,); 1 = the same ones, 0 = none stayed."""
    a, b = _same_texts(a, b)
    if not 1 <= k <= len(a) - 2:  # with fewer texts each one is a neighbour of all others
        raise InputError(f"Jaccard@{k} needs k of at least 1 and {k + 2} texts or more; there are {len(a)}.")
    return _jaccard(_neighbours(a, k)[0], _neighbours(b, k)[0])


def alignment(queries: np.ndarray, positives: np.ndarray) -> float:
    """Mean squared distance of matching pairs, row by row: 0 = identical, 4 = opposite (Wang & Isola, 2020)."""
    return float(2.0 * displacement(queries, positives).mean())


def uniformity(x: np.ndarray) -> float:
    """How evenly the texts cover the sphere: log mean exp(-2 |x - y|²) over pairs of texts (Wang & Isola, 2020).

    0 = all at one point; about -4 + 8 / D = spread evenly over D dimensions. Lower is more even.
    """
    return _neighbours(_unit(x))[1]


def anisotropy(x: np.ndarray) -> float:
    """Mean cosine of two different texts: 0 = all directions used, 1 = one narrow cone (Ethayarajh, 2019)."""
    x = _unit(x).astype(np.float64)
    total = x.sum(axis=0)
    return float((total @ total - np.square(x).sum()) / (len(x) * (len(x) - 1)))


def isoscore(x: np.ndarray) -> float:
    """The share of the dimensions that the texts use evenly: 1 = all equally, 0 = only one (Rudman et al., 2022).

    The paper (arXiv 2108.07344) takes the variances v along the D principal axes, scales them to the length of
    the vector of ones and rescales their distance from it, which simplifies to
    ((sum v)² / sum v² - 1) / (D - 1). P texts reach (P - 2) / (D - 1) at most; NaN where all share one embedding.
    """
    centred, dimensions = _centred(_unit(x)), np.shape(x)[1]
    squares = np.square(centred.T @ centred).sum()
    if not squares or dimensions < 2:
        return math.nan
    return float(max(np.square(centred).sum() ** 2 / squares - 1, 0.0) / (dimensions - 1))


def drift_table(checkpoints: Checkpoints, sides: Sequence, groups: Sequence | None = None, k: int = 10) -> pd.DataFrame:
    """Every measure of every checkpoint against the first, for all texts and for each side, as one long table.

    Texts whose embedding is NaN or infinite at some checkpoint are left out everywhere; the log counts them.

    Args:
        checkpoints: step to (P, D) embeddings of the same texts.
        sides: (P,) "query" or "document".
        groups: (P,) texts of one group match; needed for alignment only.
        k: neighbours of Jaccard@k, found among all texts; NaN with fewer than k + 2 of them.

    Returns:
        Columns step, side ("all" and each side), measure, value. Measures: displacement (mean),
        displacement_p10, _p50 and _p90, cka, procrustes, jaccard@k, uniformity, anisotropy, isoscore and, for
        side "all" where a query and a document share a group, alignment.

    Raises:
        InputError: no checkpoint, shapes that differ, fewer than two usable texts.
    """
    labels = {"all": ["all"] * len(sides)} | ({"side": sides} if len(set(sides)) > 1 else {})
    wide = drift_by(checkpoints, labels, sides, groups, k).rename(columns={"part": "side"})
    long = wide.drop(columns=["by", "texts"]).melt(["step", "side"], var_name="measure")
    paired = (long["side"] == "all") & long["value"].notna()  # alignment joins both sides
    return long[(long["measure"] != "alignment") | paired].reset_index(drop=True)


def drift_by(
    checkpoints: Checkpoints,
    labels: Mapping[str, Sequence],
    sides: Sequence,
    groups: Sequence | None = None,
    k: int = 10,
) -> pd.DataFrame:
    """Every measure of every checkpoint against the first, for parts of the texts: each group, each language.

    With few texts in many dimensions, CKA stays near 1 and the residual near 0 whatever happens: compare parts
    of similar size; with fewer than ten texts both are NaN.

    Args:
        checkpoints, sides, groups, k: as for `drift_table`.
        labels: for each kind of part, such as "language", the part of each text, (P,).

    Returns:
        A row for each part of two texts or more at each step, large parts first: by, part, texts, step and a
        column for each measure of `drift_table`; alignment covers the part's queries and is NaN without pairs.

    Raises:
        InputError: no checkpoint, shapes that differ, fewer than two usable texts, labels that do not fit.
    """
    usable = usable_texts(checkpoints)
    sides = _labels(sides, len(usable), "sides")[usable]
    kinds = {by: _labels(values, len(usable), f"labels ({by})")[usable] for by, values in labels.items()}
    pairs = None if groups is None else _pairs(sides, _labels(groups, len(usable), "groups")[usable])
    parts = [
        (by, part, at)
        for by, values in kinds.items()
        for part, at in pd.Series(values).groupby(values).indices.items()
        if len(at) > 1
    ]
    embeddings = {step: checkpoints[step][usable] for step in sorted(checkpoints)}
    start = next(iter(embeddings.values()))
    near = _neighbours(_unit(start), k if len(start) >= k + 2 else 0)
    rows = []
    for step, now in embeddings.items():
        near_now = near if now is start else _neighbours(_unit(now), near[0].shape[1])
        moves = _moves(start, now, near, near_now, pairs)
        for by, part, at in parts:
            rows.append({"by": by, "part": part, "texts": len(at), "step": step, **_measured(start, now, at, moves, k)})
    table = pd.DataFrame(rows, columns=None if rows else ["by", "part", "texts", "step"])
    return table.sort_values(["by", "texts", "part", "step"], ascending=[True, False, True, True], ignore_index=True)


def movers(texts: pd.DataFrame, checkpoints: Checkpoints, count: int = 10, k: int = 2) -> pd.DataFrame:
    """The texts that moved most between the first and the last checkpoint, with their neighbours at both.

    Args:
        texts: the P probe texts: side, text, group.
        checkpoints: step to their (P, D) embeddings; those of a run up to its kept step (`probes.until_kept`).
        count: how many texts.
        k: nearest other texts listed; copies of a text do not count.

    Returns:
        displacement, text, before and after (the nearest texts at each of the two checkpoints, those of the
        text's own group marked with ✓), side, group.
    """
    usable = np.flatnonzero(usable_texts(checkpoints))
    start, end = (checkpoints[step][usable] for step in (min(checkpoints), max(checkpoints)))
    folded = texts["text"].iloc[usable].str.split().str.join(" ")
    names, groups = folded.to_numpy(dtype=object), texts["group"].iloc[usable].to_numpy(dtype=object)
    moved = displacement(start, end)
    chosen = np.argsort(-moved, kind="stable")[:count]

    def nearest_to(row: int, x: np.ndarray) -> str:
        order = np.argsort(-(x @ x[row]), kind="stable")
        others = pd.Series(groups[order], index=names[order]).drop(names[row])
        nearest = others[~others.index.duplicated()].iloc[:k]
        return " | ".join("✓ " * (group == groups[row]) + cut(name, 50) for name, group in nearest.items())

    columns = {
        "displacement": moved[chosen],
        "text": [cut(names[row], 40) for row in chosen],
        "before": [nearest_to(row, start) for row in chosen],
        "after": [nearest_to(row, end) for row in chosen],
        "side": texts["side"].iloc[usable[chosen]].to_numpy(),
        "group": [cut(groups[row], 40) for row in chosen],
    }
    return pd.DataFrame(columns)


def _unit(x: np.ndarray) -> np.ndarray:
    """`x`, refused unless it is an array (P, D) of two or more rows of length 1."""
    x = np.asarray(x)
    if x.ndim != 2 or len(x) < 2:
        raise InputError(f"drift measures take an array of at least two embeddings, (P, D); this one is {x.shape}.")
    unit = np.abs(np.linalg.norm(x, axis=1) - 1.0) < 0.01
    if not unit.all():
        raise InputError(f"the embedding in row {int(np.argmin(unit)) + 1} is not of length 1; L2-normalise first.")
    return x


def _same_texts(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays, refused unless they can hold the same texts."""
    a, b = _unit(a), _unit(b)
    if a.shape != b.shape:
        raise InputError(f"two checkpoints of the same texts need equal shapes; these are {a.shape} and {b.shape}.")
    return a, b


def _centred(x: np.ndarray) -> np.ndarray:
    """`x` minus its mean in float64, exactly zero where only rounding is left.

    Fewer texts than dimensions are rotated into as many dimensions as texts: the same geometry, cheaper.
    """
    x = x.astype(np.float64)
    x = x - x.mean(axis=0)
    if np.linalg.norm(x) <= 1e-5 * math.sqrt(len(x)):
        return np.zeros_like(x)
    return x if len(x) >= x.shape[1] else np.linalg.qr(x.T, mode="r").T


def _neighbours(x: np.ndarray, k: int = 0, chunk: int = 1024) -> tuple[np.ndarray, float]:
    """The k nearest other rows of each row, (P, k), and the uniformity, in one pass over the (P, P) cosines."""
    found, total = np.empty((len(x), k), dtype=np.int64), 0.0
    for start in range(0, len(x), chunk):  # in chunks because P² numbers may not fit into memory
        scores = x[start : start + chunk] @ x.T
        own = np.arange(len(scores))
        scores[own, start + own] = -np.inf
        if k:
            # topk is ten times as fast as numpy.argpartition
            found[start : start + chunk] = torch.from_numpy(scores).topk(k, sorted=False).indices.numpy()
        # |x - y|² = 2 - 2 cos for unit vectors, so exp(-2 |x - y|²) = exp(4 cos - 4)
        total += float(np.exp(4.0 * scores - 4.0).sum(dtype=np.float64))
    return found, math.log(total / (len(x) * (len(x) - 1)))


def _jaccard(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|both| / |either| of the sets in the rows of two (P, k) arrays."""
    both = (a[:, :, None] == b[:, None, :]).sum(axis=(1, 2))
    return both / (2 * a.shape[1] - both)


def _labels(values: Sequence[str], count: int, what: str) -> np.ndarray:
    """`values` as an array of strings, refused unless there is one for each text."""
    labels = np.asarray([str(value) for value in values], dtype=object)
    if len(labels) != count:
        raise InputError(f"there are {len(labels)} {what} for {count} embeddings; give one for each text.")
    return labels


def _pairs(sides: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the queries and, for each, of a document of its group; they take the documents in turn."""
    table = pd.DataFrame({"row": np.arange(len(sides)), "side": sides, "group": groups})
    table["turn"] = table.groupby(["side", "group"]).cumcount()
    queries, documents = table[table.side == "query"].copy(), table[table.side == "document"]
    queries["turn"] %= queries.group.map(documents.group.value_counts())
    pairs = queries.merge(documents, on=["group", "turn"])
    return pairs.row_x.to_numpy(), pairs.row_y.to_numpy()


@dataclass(frozen=True)
class _Moves:
    """What one checkpoint did to each of P texts since the first.

    Attributes:
        moved: (P,) displacement.
        kept: (P,) Jaccard of the nearest texts; NaN where texts are too few to have any.
        apart: (P,) squared distance of a query from its document; NaN for other texts.
        uniformity: of all texts at this checkpoint.
    """

    moved: np.ndarray
    kept: np.ndarray
    apart: np.ndarray
    uniformity: float


def _moves(
    start: np.ndarray,
    now: np.ndarray,
    near_start: tuple[np.ndarray, float],
    near_now: tuple[np.ndarray, float],
    pairs: tuple[np.ndarray, np.ndarray] | None,
) -> _Moves:
    """The moves between two checkpoints (P, D), given what `_neighbours` returns for each."""
    kept, apart = np.full(len(now), np.nan), np.full(len(now), np.nan)
    if near_start[0].size:
        kept = _jaccard(near_start[0], near_now[0])
    if pairs and len(pairs[0]) > 1:
        queries, documents = pairs
        apart[queries] = 2 * displacement(now[queries], now[documents])
    return _Moves(displacement(start, now), kept, apart, near_now[1])


def _measured(start: np.ndarray, now: np.ndarray, at: np.ndarray, moves: _Moves, k: int) -> dict[str, float]:
    """Every measure of the texts `at` between two checkpoints (P, D)."""
    a, b = start[at], now[at]
    enough = len(at) >= FEW
    return {
        "displacement": moves.moved[at].mean(),
        **{f"displacement_p{share}": np.percentile(moves.moved[at], share) for share in (10, 50, 90)},
        "cka": linear_cka(a, b) if enough else math.nan,
        "procrustes": procrustes_residual(a, b) if enough else math.nan,
        f"jaccard@{k}": moves.kept[at].mean(),
        "uniformity": moves.uniformity if len(at) == len(now) else uniformity(b),
        "anisotropy": anisotropy(b),
        "isoscore": isoscore(b),
        "alignment": pd.Series(moves.apart[at]).mean(),
    }
