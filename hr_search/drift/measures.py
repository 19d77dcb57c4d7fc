"""How far training moved the embeddings of the same texts: exact numbers in the original space.

Every measure takes L2-normalised arrays of shape (P, D) whose row i is the same probe text at each checkpoint.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hr_search.base.errors import InputError, one_line

LOG = logging.getLogger(__name__)

Checkpoints = Mapping[int, np.ndarray]

FEW = 10  # texts; fewer always look like a turned copy of themselves


def displacement(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How far each text moved: 1 - cosine, (P,); 0 = not at all, 1 = a right angle, 2 = the opposite."""
    a, b = _same_texts(a, b)
    return 0.5 * np.square(a.astype(np.float64) - b).sum(axis=1)  # = 1 - cos, without its rounding near 0


def linear_cka(a: np.ndarray, b: np.ndarray) -> float:
    """How alike two geometries are, whatever the rotation: 1 = the same up to rotation and scale, 0 = unrelated.

    Linear centred kernel alignment (Kornblith et al., 2019): |A'B|² / (|A'A| |B'B|) of the centred arrays;
    NaN where all texts of an array share one embedding.
    """
    a, b = (_centred(x) for x in _same_texts(a, b))
    scale = np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    return float(min(np.linalg.norm(a.T @ b) ** 2 / scale, 1.0)) if scale else math.nan


def procrustes_residual(a: np.ndarray, b: np.ndarray) -> float:
    """The share of `b`'s spread that no rotation, reflection and scaling of `a` explains.

    With both arrays centred and scaled to norm 1 and s = the sum of the singular values of A'B, the best
    rotation leaves a squared distance of 1 - s² (Schönemann, 1966; Gower, 1975). 0 = `b` is a turned copy
    of `a`; 1 = `a` says nothing about `b`; NaN where all texts of an array share one embedding.
    """
    a, b = (_centred(x) for x in _same_texts(a, b))
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float(max(1.0 - (np.linalg.norm(a.T @ b, "nuc") / scale) ** 2, 0.0)) if scale else math.nan


def neighbour_overlap(a: np.ndarray, b: np.ndarray, k: int = 10) -> np.ndarray:
    """What a user feels: Jaccard@k of each text's k nearest texts, (P,); 1 = the same ones, 0 = none stayed."""
    a, b = _same_texts(a, b)
    if not 1 <= k <= len(a) - 2:  # with fewer texts everybody is everybody's neighbour
        raise InputError(f"Jaccard@{k} needs k of at least 1 and {k + 2} texts or more; there are {len(a)}.")
    return _jaccard(_crowd(a, k)[0], _crowd(b, k)[0])


def alignment(queries: np.ndarray, positives: np.ndarray) -> float:
    """Mean squared distance of matching pairs, row by row: 0 = on one spot, 4 = opposite (Wang & Isola, 2020)."""
    return float(2.0 * displacement(queries, positives).mean())


def uniformity(x: np.ndarray) -> float:
    """How evenly the texts cover the sphere: log mean exp(-2 |x - y|²) over pairs of texts (Wang & Isola, 2020).

    0 = all on one spot; about -4 + 8 / D = spread evenly over D dimensions. Lower is more even.
    """
    return _crowd(_unit(x))[1]


def anisotropy(x: np.ndarray) -> float:
    """Mean cosine of two different texts: 0 = all directions used, 1 = one narrow cone (Ethayarajh, 2019)."""
    x = _unit(x).astype(np.float64)
    total = x.sum(axis=0)
    return float((total @ total - np.square(x).sum()) / (len(x) * (len(x) - 1)))


def isoscore(x: np.ndarray) -> float:
    """The share of the dimensions that the texts use evenly: 1 = all alike, 0 = a single one (Rudman et al., 2022).

    The paper (arXiv 2108.07344) takes the variances v along the D principal axes, scales them to the length of
    the vector of ones and rescales their distance from it. Written out, all but this cancels:
    ((sum v)² / sum v² - 1) / (D - 1). P texts reach (P - 2) / (D - 1) at most; NaN where all share one embedding.
    """
    centred, dimensions = _centred(_unit(x)), np.shape(x)[1]
    squares = np.square(centred.T @ centred).sum()
    if not squares or dimensions < 2:
        return math.nan
    return float(max(np.square(centred).sum() ** 2 / squares - 1, 0.0) / (dimensions - 1))


def drift_table(checkpoints: Checkpoints, sides: Sequence, groups: Sequence | None = None, k: int = 10) -> pd.DataFrame:
    """Every measure of every checkpoint against the first, of all texts and of each side, as one long table.

    Texts whose embedding is not a number at some checkpoint are left out everywhere and logged.

    Args:
        checkpoints: step to (P, D) embeddings of the same texts.
        sides: (P,) "query" or "document".
        groups: (P,) texts of one group match; needed for alignment only.
        k: neighbours of Jaccard@k, sought among all texts; NaN with fewer than k + 2 of them.

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
    return long[(long["measure"] != "alignment") | ((long["side"] == "all") & long["value"].notna())].reset_index(
        drop=True
    )


def drift_by(
    checkpoints: Checkpoints,
    labels: Mapping[str, Sequence],
    sides: Sequence,
    groups: Sequence | None = None,
    k: int = 10,
) -> pd.DataFrame:
    """Every measure of every checkpoint against the first for parts of the texts: each group, each language.

    Few texts in many dimensions keep CKA near 1 and the residual near 0 whatever happens: compare parts of
    like size; with fewer than ten texts both are NaN.

    Args:
        checkpoints, sides, groups, k: as for `drift_table`.
        labels: kind of part, such as "language", to the part of each text, (P,).

    Returns:
        A row for each part of two texts or more at each step, large parts first: by, part, texts, step and a
        column for each measure of `drift_table`; alignment is that of the part's queries, NaN without pairs.

    Raises:
        InputError: no checkpoint, shapes that differ, fewer than two usable texts, labels that do not fit.
    """
    usable, steps = usable_texts(checkpoints), sorted(checkpoints)
    count, rows = int(usable.sum()), []
    sides = _labels(sides, len(usable), "sides")
    kinds = {by: _labels(values, len(usable), f"labels ({by})")[usable] for by, values in labels.items()}
    pairs = None if groups is None else _matches(sides, _labels(groups, len(usable), "groups"), usable)
    start = checkpoints[steps[0]][usable]
    first, evenness = _crowd(_unit(start), k if count >= k + 2 else 0)
    for step in steps:
        now = checkpoints[step][usable]
        near, even = (first, evenness) if step == steps[0] else _crowd(_unit(now), first.shape[1])
        moved, apart = displacement(start, now), np.full(len(usable), np.nan)
        kept = _jaccard(first, near) if near.size else np.full(count, np.nan)
        if pairs and len(pairs[0]) > 1:
            apart[pairs[0]] = 2 * displacement(*(checkpoints[step][rows] for rows in pairs))
        for by, parts in kinds.items():
            for part, at in pd.Series(parts).groupby(parts).indices.items():
                if len(at) < 2:
                    continue
                a, b = start[at], now[at]
                values = {"displacement": moved[at].mean()}
                values |= {f"displacement_p{q}": np.percentile(moved[at], q) for q in (10, 50, 90)}
                shape = (linear_cka(a, b), procrustes_residual(a, b)) if len(at) >= FEW else (math.nan, math.nan)
                values |= dict(zip(("cka", "procrustes"), shape, strict=True))
                values[f"jaccard@{k}"] = kept[at].mean()
                values |= {"uniformity": even if len(at) == count else uniformity(b), "anisotropy": anisotropy(b)}
                values |= {"isoscore": isoscore(b), "alignment": pd.Series(apart[usable][at]).mean()}
                rows.append({"by": by, "part": part, "texts": len(at), "step": step, **values})
    names = ["by", "part", "texts", "step", *(rows[0] if rows else [])]
    table = pd.DataFrame(rows, columns=list(dict.fromkeys(names)))
    return table.sort_values(["by", "texts", "part", "step"], ascending=[True, False, True, True], ignore_index=True)


def movers(texts: pd.DataFrame, checkpoints: Checkpoints, count: int = 10, k: int = 2) -> pd.DataFrame:
    """The texts that moved most between the first and the last checkpoint, and beside whom they stood then.

    Args:
        texts: the P probe texts: side, text, group.
        checkpoints: step to their (P, D) embeddings.
        count: how many texts.
        k: nearest other texts named; copies of a text are no others.

    Returns:
        displacement, text, before and after (the nearest texts at both ends, those of the text's own group
        marked with ✓), side, group.
    """
    usable = np.flatnonzero(usable_texts(checkpoints))
    start, end = (checkpoints[step][usable] for step in (min(checkpoints), max(checkpoints)))
    folded = texts["text"].iloc[usable].str.split().str.join(" ")
    names, groups = folded.to_numpy(dtype=object), texts["group"].iloc[usable].to_numpy(dtype=object)
    moved = displacement(start, end)
    chosen = np.argsort(-moved, kind="stable")[:count]

    def beside(x: np.ndarray, row: int) -> str:
        order = np.argsort(-(x @ x[row]), kind="stable")
        others = pd.Series(groups[order], index=names[order]).drop(names[row])
        nearest = others[~others.index.duplicated()].iloc[:k]
        return " | ".join("✓ " * (group == groups[row]) + _cut(name, 50) for name, group in nearest.items())

    return pd.DataFrame({
        "displacement": moved[chosen],
        "text": [_cut(names[row], 40) for row in chosen],
        "before": [beside(start, row) for row in chosen],
        "after": [beside(end, row) for row in chosen],
        "side": texts["side"].iloc[usable[chosen]].to_numpy(),
        "group": [_cut(groups[row], 40) for row in chosen],
    })  # fmt: skip


def load_probes(run_folder: Path | str) -> tuple[pd.DataFrame, dict[int, np.ndarray]]:
    """The probe texts of a run and their embeddings at every validation.

    Returns:
        The texts (columns side, text, group) and step to (P, D) float32 embeddings, steps rising.

    Raises:
        InputError: the run kept no probes, or a file is damaged or does not fit the texts.
    """
    folder = Path(run_folder) / "probes"
    names = [re.fullmatch(r"step_(\d+)\.npy", path.name) for path in folder.glob("step_*.npy")]
    files = {int(name[1]): folder / name[0] for name in names if name}
    path = folder / "texts.csv"
    if not files or not path.is_file():
        raise InputError(f"{folder} holds no probe embeddings; train with probes above 0 to see drift.")
    checkpoints: dict[int, np.ndarray] = {}
    try:
        texts = pd.read_csv(path, dtype=str, keep_default_na=False)  # a job may be titled "NA"
        for step in sorted(files):
            path = files[step]
            checkpoints[step] = np.asarray(np.load(path, allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({one_line(error)}); repeat the run.") from error
    if missing := [name for name in ("side", "text", "group") if name not in texts]:
        raise InputError(f"{folder / 'texts.csv'} has no column {missing[0]}; repeat the run.")
    for step, x in checkpoints.items():
        if x.ndim != 2 or len(x) != len(texts) or x.dtype.kind != "f":
            raise InputError(f"{files[step]} is {x.dtype} {x.shape} for {len(texts)} texts; repeat the run.")
    return texts, {step: x.astype(np.float32, copy=False) for step, x in checkpoints.items()}


def usable_texts(checkpoints: Checkpoints) -> np.ndarray:
    """(P,) which texts have a finite embedding at every checkpoint (two at least); the log counts the others."""
    if not checkpoints:
        raise InputError("there is no checkpoint to compare; train with probes above 0.")
    first = min(checkpoints)
    for step, x in checkpoints.items():
        if np.ndim(x) != 2 or np.shape(x) != np.shape(checkpoints[first]):
            raise InputError(f"step {step} has embeddings {np.shape(x)}, step {first} {np.shape(checkpoints[first])}.")
    finite = np.logical_and.reduce([np.isfinite(x).all(axis=1) for x in checkpoints.values()])
    if finite.sum() < 2:
        raise InputError(f"only {finite.sum()} texts have finite embeddings at every checkpoint; lower learningrate.")
    if not finite.all():
        LOG.warning("%d of %d probe texts have no finite embedding and are left out", (~finite).sum(), len(finite))
    return finite


def _unit(x: np.ndarray) -> np.ndarray:
    """`x` if it is a (P >= 2, D) array of unit rows."""
    x = np.asarray(x)
    if x.ndim != 2 or len(x) < 2:
        raise InputError(f"drift measures take an array of at least two embeddings, (P, D); this one is {x.shape}.")
    unit = np.abs(np.linalg.norm(x, axis=1) - 1.0) < 0.01
    if not unit.all():
        raise InputError(f"the embedding in row {int(np.argmin(unit)) + 1} is not of length 1; L2-normalise first.")
    return x


def _same_texts(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays if they may hold the same texts."""
    a, b = _unit(a), _unit(b)
    if a.shape != b.shape:
        raise InputError(f"two checkpoints of the same texts need equal shapes; these are {a.shape} and {b.shape}.")
    return a, b


def _centred(x: np.ndarray) -> np.ndarray:
    """`x` around its mean in float64, exactly zero where only rounding is left.

    Fewer texts than dimensions come back turned into fewer dimensions: the same geometry at a small cost.
    """
    x = x.astype(np.float64)
    x = x - x.mean(axis=0)
    if np.linalg.norm(x) <= 1e-5 * math.sqrt(len(x)):
        return np.zeros_like(x)
    return x if len(x) >= x.shape[1] else np.linalg.qr(x.T, mode="r").T


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _crowd(x: np.ndarray, k: int = 0, chunk: int = 1024) -> tuple[np.ndarray, float]:
    """The k nearest other rows of each row, (P, k), and the uniformity, in one pass over the (P, P) cosines."""
    found, total = np.empty((len(x), k), dtype=np.int64), 0.0
    for start in range(0, len(x), chunk):  # in chunks because P² numbers may not fit
        scores = x[start : start + chunk] @ x.T
        own = np.arange(len(scores))
        scores[own, start + own] = -np.inf
        if k:
            # ten times as fast as numpy.argpartition
            found[start : start + chunk] = torch.from_numpy(scores).topk(k, sorted=False).indices.numpy()
        # |x - y|² = 2 - 2 cos for unit vectors, so exp(-2 |x - y|²) = exp(4 cos - 4)
        total += float(np.exp(4.0 * scores - 4.0).sum(dtype=np.float64))
    return found, math.log(total / (len(x) * (len(x) - 1)))


def _jaccard(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|both| / |either| of the sets in the rows of two (P, k) arrays."""
    both = (a[:, :, None] == b[:, None, :]).sum(axis=(1, 2))
    return both / (2 * a.shape[1] - both)


def _labels(values: Sequence[str], count: int, what: str) -> np.ndarray:
    """`values` as an array if there is one for each text."""
    labels = np.asarray([str(value) for value in values], dtype=object)
    if len(labels) != count:
        raise InputError(f"there are {len(labels)} {what} for {count} embeddings; give one for each text.")
    return labels


def _matches(sides: np.ndarray, groups: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of queries and of a document of their group, the group's documents taken in turn."""
    table = pd.DataFrame({"row": np.arange(len(sides)), "side": sides, "group": groups})[usable]
    table["turn"] = table.groupby(["side", "group"]).cumcount()
    queries, documents = table[table.side == "query"].copy(), table[table.side == "document"]
    queries["turn"] %= queries.group.map(documents.group.value_counts())
    pairs = queries.merge(documents, on=["group", "turn"])
    return pairs.row_x.to_numpy(), pairs.row_y.to_numpy()
