"""How far training moved the embeddings of the same texts: numbers in the original space, and one map.

Every measure takes L2-normalised arrays of shape (P, D) whose row i is the same probe text at each
checkpoint. The measures come first because they are exact; the map is for looking only.
"""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.linalg import orthogonal_procrustes

from hr_search.errors import InputError, one_line

LOG = logging.getLogger(__name__)

Checkpoints = Mapping[int, np.ndarray]

FEWEST, MOST = 10, 5000  # points of a map: fewer show nothing, more take minutes and hide each other
DIMENSIONS = 50  # kept by the PCA before a map; the rest of a title's embedding is mostly noise


@dataclass(frozen=True)
class Layout:
    """One map in which every text keeps its identity, so that its path over the checkpoints is its drift.

    Attributes:
        rows: (N,) which probe texts are on the map, as row numbers of the embeddings.
        places: step to (N, 2) coordinates, all finite; the unit has no meaning of its own.
        trustworthiness: step to how far the map's neighbours are true ones, 1 = all (Venna & Kaski, 2001).
        missing: texts left out because an embedding or a place was not a number.
    """

    rows: np.ndarray
    places: dict[int, np.ndarray]
    trustworthiness: dict[int, float]
    missing: int


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
    if not scale:
        return math.nan
    _, similarity = orthogonal_procrustes(a, b)
    return float(max(1.0 - (similarity / scale) ** 2, 0.0))


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


def drift_table(checkpoints: Checkpoints, sides: Sequence, groups: Sequence | None = None, k: int = 10) -> pd.DataFrame:
    """Every measure of every checkpoint against the first, as one long table.

    Texts whose embedding is not a number at some checkpoint are left out everywhere and logged.

    Args:
        checkpoints: step to (P, D) embeddings of the same texts.
        sides: (P,) "query" or "document".
        groups: (P,) texts of one group match; needed for alignment only.
        k: neighbours of Jaccard@k; NaN for a side with fewer than k + 2 texts.

    Returns:
        Columns step, side ("all" and each side), measure, value. Measures: displacement (mean),
        displacement_p10, _p50 and _p90, cka, procrustes, jaccard@k, uniformity, anisotropy and, for side
        "all" where a query and a document share a group, alignment.

    Raises:
        InputError: no checkpoint, shapes that differ, fewer than two usable texts.
    """
    usable = _usable(checkpoints)
    sides = _labels(sides, len(usable), "sides")
    parts = {"all": usable}
    if len(set(sides)) > 1:
        parts |= {side: usable & (sides == side) for side in sorted(set(sides), reverse=True)}
    steps = sorted(checkpoints)
    rows: list[tuple[int, str, str, float]] = []
    for side, part in parts.items():
        if part.sum() < 2:
            continue
        start, first = checkpoints[steps[0]][part], None
        for step in steps:
            now = checkpoints[step][part]
            near, even = _crowd(_unit(now), k if len(now) >= k + 2 else 0)
            first = near if first is None else first
            moved = displacement(start, now)
            values = {"displacement": moved.mean()}
            values |= {f"displacement_p{q}": np.percentile(moved, q) for q in (10, 50, 90)}
            values |= {"cka": linear_cka(start, now), "procrustes": procrustes_residual(start, now)}
            values[f"jaccard@{k}"] = _jaccard(first, near).mean() if near.size else math.nan
            values |= {"uniformity": even, "anisotropy": anisotropy(now)}
            rows += [(step, side, measure, float(value)) for measure, value in values.items()]
    if groups is not None:
        queries, documents = _matches(sides, _labels(groups, len(usable), "groups"), usable)
        if len(queries) > 1:
            for step, x in sorted(checkpoints.items()):
                rows.append((step, "all", "alignment", alignment(x[queries], x[documents])))
    return pd.DataFrame(rows, columns=["step", "side", "measure", "value"])


def thin(checkpoints: Checkpoints, count: int = 5) -> dict[int, np.ndarray]:
    """The first, the last and evenly spaced checkpoints between: at most `count`, at least those two."""
    steps = sorted(checkpoints)
    chosen = np.linspace(0, len(steps) - 1, max(2, min(count, len(steps)))).round().astype(int)
    return {steps[index]: checkpoints[steps[index]] for index in chosen if steps}


def aligned_layout(
    checkpoints: Checkpoints,
    seed: int = 42,
    neighbours: int = 15,
    points: int = 2000,
    regularisation: float = 0.01,
    window: int = 3,
) -> Layout:
    """One map of all checkpoints on which a point keeps its place, so that its path is its drift.

    An AlignedUMAP (umap-learn) after a PCA to 50 dimensions. It understates movement: aligned layouts
    pull the places of one text together on purpose (`regularisation` over `window` checkpoints each
    way), so read lengths from `displacement` and use the map to see who moved where. The first call
    compiles for some 20 seconds, then a checkpoint of 2,000 points takes about 7; use `thin` on long
    runs. Equal input and seed give equal bits on one machine.

    Args:
        checkpoints: step to (P, D) embeddings of the same texts; two or more.
        seed: of the sample of texts and of the layout.
        neighbours: texts whose closeness the map keeps; fewer where there are few texts.
        points: texts on the map, drawn at random, 10 to 5,000.
        regularisation, window: how strongly the places of one text attract each other, how many checkpoints away.

    Raises:
        InputError: fewer than two checkpoints or 10 usable texts, or all texts of a checkpoint on one spot.
    """
    usable = _usable(checkpoints)
    if len(checkpoints) < 2:
        raise InputError("a drift map needs at least two checkpoints; validate more often (evalsteps).")
    if not FEWEST <= points <= MOST or neighbours < 2:
        raise InputError(
            f"a map takes {FEWEST} to {MOST} points and 2 neighbours or more, not {points} and {neighbours}."
        )
    if usable.sum() < FEWEST:
        raise InputError(f"a drift map needs at least {FEWEST} texts; {usable.sum()} are usable.")
    rows = np.flatnonzero(usable)
    if len(rows) > points:
        rows = np.sort(np.random.default_rng(seed).choice(rows, points, replace=False))
    vectors = {step: np.asarray(checkpoints[step][rows], dtype=np.float32) for step in sorted(checkpoints)}
    for step, x in vectors.items():
        if not _centred(x).any():
            raise InputError(f"at step {step} all texts share one embedding, so there is nothing to map.")
    near = min(neighbours, (len(rows) - 1) // 2)
    places = _align(list(vectors.values()), near, seed, regularisation, window)
    placed = np.isfinite(np.stack(places)).all(axis=(0, 2))  # umap gives NaN to texts without neighbours
    places = {step: place[placed] for step, place in zip(vectors, places, strict=True)}
    from sklearn.manifold import trustworthiness

    near = min(near, (int(placed.sum()) - 1) // 2)
    trust = {
        step: float(trustworthiness(vectors[step][placed], place, n_neighbors=near, metric="cosine"))
        for step, place in places.items()
    }
    return Layout(rows[placed], places, trust, missing=int((~usable).sum() + (~placed).sum()))


def _align(vectors: list[np.ndarray], near: int, seed: int, regularisation: float, window: int) -> list[np.ndarray]:
    """The (N, 2) places of the rows of each (N, D) array on one map; NaN for a row without neighbours."""
    # imported here because they take seconds and only maps need them
    from sklearn.decomposition import PCA
    from sklearn.metrics import euclidean_distances

    with warnings.catch_warnings():
        # umap says that a seed means one thread and that some texts lie apart; numba speaks of its caches
        warnings.simplefilter("ignore")
        import umap

        kept = min(DIMENSIONS, *vectors[0].shape)
        reduced = [PCA(kept, svd_solver="full").fit_transform(x) for x in vectors]
        # exact distances from here: handed the points, umap calls Python once for every pair of them
        mapper = umap.AlignedUMAP(near, alignment_regularisation=regularisation, alignment_window_size=window)
        # both seeds, or the map changes; single maps start anywhere, for only their graphs outlive them
        mapper.set_params(metric="precomputed", init="random", random_state=seed, transform_seed=seed)
        same = {row: row for row in range(len(vectors[0]))}
        places = mapper.fit_transform([euclidean_distances(x) for x in reduced], relations=[same] * (len(reduced) - 1))
    return [np.array(place) for place in places]


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
    """`x` around its mean in float64, exactly zero where only rounding is left."""
    x = x.astype(np.float64)
    x = x - x.mean(axis=0)
    return x if np.linalg.norm(x) > 1e-5 * math.sqrt(len(x)) else np.zeros_like(x)


def _crowd(x: np.ndarray, k: int = 0, chunk: int = 1024) -> tuple[np.ndarray, float]:
    """The k nearest other rows of each row, (P, k), and the uniformity, in one pass over the (P, P) cosines."""
    found, total = np.empty((len(x), k), dtype=np.int64), 0.0
    for start in range(0, len(x), chunk):  # in chunks because P² numbers may not fit
        scores = x[start : start + chunk] @ x.T
        own = np.arange(len(scores))
        scores[own, start + own] = -np.inf
        if k:
            found[start : start + chunk] = np.argpartition(scores, -k, axis=1)[:, -k:]
        # |x - y|² = 2 - 2 cos for unit vectors, so exp(-2 |x - y|²) = exp(4 cos - 4)
        total += float(np.exp(4.0 * scores - 4.0).sum(dtype=np.float64))
    return found, math.log(total / (len(x) * (len(x) - 1)))


def _jaccard(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|both| / |either| of the sets in the rows of two (P, k) arrays."""
    both = (a[:, :, None] == b[:, None, :]).sum(axis=(1, 2))
    return both / (2 * a.shape[1] - both)


def _usable(checkpoints: Checkpoints) -> np.ndarray:
    """(P,) which texts have a finite embedding at every checkpoint."""
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
