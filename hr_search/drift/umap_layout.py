"""One map of all checkpoints on which every text keeps its identity, and how far the map can be trusted."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hr_search.base.errors import InputError
from hr_search.drift.probes import Checkpoints, usable_texts

FEWEST, MOST = 10, 5000  # points of a map: fewer show nothing, more take minutes and hide each other
EPOCHS = 100  # of the layout: umap's 200 take twice as long without being more trustworthy
DIMENSIONS = 50  # kept by the PCA before a map; the rest of a title's embedding is mostly noise


@dataclass(frozen=True)
class Layout:
    """One map in which every text keeps its identity, so that its path over the checkpoints is its drift.

    Attributes:
        rows: (N,) which probe texts are on the map, as row numbers of the embeddings.
        places: step to (N, 2) coordinates, all finite; their unit has no meaning.
        trustworthiness: step to how far neighbours on the map are true ones, 1 = all (Venna & Kaski, 2001).
        preservation: step to the share of a text's nearest texts that are nearest on the map too.
        neighbours: how many nearest texts the two measures above look at.
        missing: texts left out because an embedding or a place was NaN or infinite.
    """

    rows: np.ndarray
    places: dict[int, np.ndarray]
    trustworthiness: dict[int, float]
    preservation: dict[int, float]
    neighbours: int
    missing: int


def thin(checkpoints: Checkpoints, count: int = 5) -> dict[int, np.ndarray]:
    """The first, the last and evenly spaced checkpoints between them: at most `count`, but at least those two."""
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

    An AlignedUMAP (umap-learn) after a PCA to 50 dimensions. It understates movement: aligned layouts pull
    the places of one text together on purpose (`regularisation` over `window` checkpoints each way), so read
    distances from `measures.displacement` and use the map to see which texts moved where. The first call
    compiles for some 20 seconds, then a checkpoint of 2,000 points takes about 4; use `thin` on long runs.
    Equal input and seed give equal bits on one machine.

    Args:
        checkpoints: step to (P, D) embeddings of the same texts; two or more.
        seed: of the sample of texts and of the layout.
        neighbours: how many nearest texts of each text the map tries to keep near, 2 or more; at most half of them.
        points: texts on the map, drawn at random, 10 to 5,000.
        regularisation, window: how strongly the places of one text attract each other, and over how many checkpoints.

    Raises:
        InputError: fewer than two checkpoints or 10 usable texts, points or neighbours out of range, all texts of
            a checkpoint share one embedding, or fewer than 10 texts found a place.
    """
    usable = usable_texts(checkpoints)
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
        if np.abs(x - x[0]).max() < 1e-5:
            raise InputError(f"at step {step} all texts share one embedding; there is nothing to map.")
    near = min(neighbours, (len(rows) - 1) // 2)
    places = _align(list(vectors.values()), near, seed, regularisation, window)
    placed = np.isfinite(np.stack(places)).all(axis=(0, 2))  # umap gives NaN to texts without neighbours
    if placed.sum() < FEWEST:
        raise InputError(f"only {placed.sum()} of {len(rows)} texts found a place on the map; raise neighbours.")
    places = {step: place[placed] for step, place in zip(vectors, places, strict=True)}
    near = min(near, (int(placed.sum()) - 1) // 2)
    trust, kept = {}, {}
    for step, place in places.items():
        trust[step], kept[step] = _trust_and_preservation(vectors[step][placed], place, near)
    return Layout(rows[placed], places, trust, kept, near, missing=int((~usable).sum() + (~placed).sum()))


def quality(layout: Layout) -> pd.DataFrame:
    """How far the map can be trusted at each checkpoint, beside what a random map would reach.

    Returns:
        step, trustworthiness (of a random map about 0.5), neighbours kept (the share of each text's
        `layout.neighbours` nearest texts that are nearest on the map too), by chance (the same of a random map).
    """
    chance = layout.neighbours / (len(layout.rows) - 1)
    columns = {
        "step": list(layout.places),
        "trustworthiness": layout.trustworthiness.values(),
        "neighbours kept": layout.preservation.values(),
        "by chance": chance,
    }
    return pd.DataFrame(columns)


def _trust_and_preservation(x: np.ndarray, place: np.ndarray, near: int) -> tuple[float, float]:
    """Trustworthiness and the share of the `near` nearest unit rows of (N, D) that (N, 2) places keep."""
    from sklearn.manifold import trustworthiness
    from sklearn.neighbors import NearestNeighbors

    a, b = (NearestNeighbors(n_neighbors=near).fit(each).kneighbors(return_distance=False) for each in (x, place))
    kept = (a[:, :, None] == b[:, None, :]).sum() / a.size
    return float(trustworthiness(x, place, n_neighbors=near, metric="cosine")), float(kept)


def _align(vectors: list[np.ndarray], near: int, seed: int, regularisation: float, window: int) -> list[np.ndarray]:
    """The (N, 2) places of the rows of each (N, D) array on one map; NaN for a row without neighbours."""
    # imported here because they take seconds and only maps need them
    from sklearn.decomposition import PCA
    from sklearn.metrics import euclidean_distances

    with warnings.catch_warnings():
        # umap warns that a seed means one thread and that some texts are isolated; numba warns about its caches
        warnings.simplefilter("ignore")
        import umap

        kept = min(DIMENSIONS, *vectors[0].shape)
        reduced = [PCA(kept, svd_solver="full").fit_transform(x) for x in vectors]
        # exact distances from here: handed the points, umap calls Python once for every pair of them
        mapper = umap.AlignedUMAP(near, alignment_regularisation=regularisation, alignment_window_size=window)
        # both seeds, or the map changes; single maps may start anywhere, because only their graphs are used
        mapper.set_params(metric="precomputed", init="random", n_epochs=EPOCHS, random_state=seed, transform_seed=seed)
        same = {row: row for row in range(len(vectors[0]))}
        places = mapper.fit_transform([euclidean_distances(x) for x in reduced], relations=[same] * (len(reduced) - 1))
    return [np.array(place) for place in places]
