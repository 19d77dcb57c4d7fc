"""The aligned map by its guarantees: identities, seeds, what is masked, and how far it says it can be trusted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.manifold import trustworthiness

from hr_search.base.errors import InputError
from hr_search.drift import umap_layout
from hr_search.drift.umap_layout import Layout


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


A = unit(np.random.default_rng(0).normal(size=(80, 16)))


def test_thin_keeps_both_ends():
    checkpoints = dict.fromkeys(range(0, 1000, 100), A)
    assert list(umap_layout.thin(checkpoints, 4)) == [0, 300, 600, 900]
    assert list(umap_layout.thin(checkpoints, 1)) == [0, 900]
    assert list(umap_layout.thin({7: A}, 4)) == [7]
    assert umap_layout.thin({}, 4) == {}


@pytest.fixture(scope="module")
def uncompiled() -> Iterator[None]:
    """umap without numba's compiler: a map this small is drawn in two seconds, where compiling takes twenty."""
    import numba

    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba.config, "DISABLE_JIT", True)
        yield
        for name in [name for name in sys.modules if name.split(".")[0] in ("umap", "pynndescent")]:
            del sys.modules[name]  # whoever imports them next gets them compiled
    torch.set_num_threads(threads)  # umap sets those of OpenMP to all cores, and later tests would train with them


@pytest.fixture(scope="module")
def moving() -> dict[int, np.ndarray]:
    """Two checkpoints of four clusters, of which the last moves into the first; text 3 breaks at the end."""
    random = np.random.default_rng(0)
    centres, noise = random.normal(size=(4, 12)), 0.3 * random.normal(size=(40, 12))
    steps = {}
    for step, share in ((0, 0.0), (100, 1.0)):
        now = centres.copy()
        now[3] = (1 - share) * centres[3] + share * centres[0]
        steps[step] = unit(now[np.arange(40) % 4] + noise).astype(np.float32)
    steps[100][3] = np.nan
    return steps


@pytest.fixture(scope="module")
def placed(uncompiled: None, moving: dict[int, np.ndarray]) -> Layout:
    return umap_layout.aligned_layout(moving, neighbours=5, points=32)


def test_map_keeps_identities_and_masks_nan(placed: Layout):
    assert len(placed.rows) == 32
    assert 3 not in placed.rows and placed.missing == 1
    assert (np.diff(placed.rows) > 0).all()
    assert list(placed.places) == [0, 100] == list(placed.trustworthiness)
    assert all(place.shape == (32, 2) and np.isfinite(place).all() for place in placed.places.values())


def test_map_shows_where_texts_went_and_can_be_trusted(placed: Layout):
    def share_of_first(step: int) -> float:
        """How many of the six nearest points of the last cluster's points belong to the first cluster."""
        place, cluster = placed.places[step], placed.rows % 4
        distance = np.linalg.norm(place[:, None] - place[None], axis=2) + 1e9 * np.eye(len(place))
        return float((cluster[np.argsort(distance[cluster == 3], axis=1)[:, :6]] == 0).mean())

    assert share_of_first(0) < 0.1 < 0.3 < share_of_first(100)
    assert all(0.85 < value <= 1 for value in placed.trustworthiness.values())


def test_map_is_equal_to_the_bit_for_one_seed_and_not_for_another(placed: Layout, moving, recwarn):
    again = umap_layout.aligned_layout(moving, neighbours=5, points=32)
    other = umap_layout.aligned_layout(moving, neighbours=5, points=32, seed=1)
    assert again.rows.tobytes() == placed.rows.tobytes() != other.rows.tobytes()
    assert all(again.places[step].tobytes() == placed.places[step].tobytes() for step in placed.places)
    assert any(other.places[step].tobytes() != placed.places[step].tobytes() for step in placed.places)
    assert not [warning for warning in recwarn if "n_jobs" in str(warning.message)]


@pytest.mark.slow
def test_compiled_maps_are_equal_to_the_bit_for_one_seed(tmp_path: Path, moving):
    np.savez(tmp_path / "moving.npz", **{str(step): x for step, x in moving.items()})
    code = """
import sys
import numpy as np
from hr_search.drift import umap_layout

with np.load(sys.argv[1]) as file:
    checkpoints = {int(name): file[name] for name in file.files}
for _ in range(2):
    layout = umap_layout.aligned_layout(checkpoints, neighbours=5, points=32)
    print(b"".join(place.tobytes() for place in layout.places.values()).hex())
"""
    command = [sys.executable, "-c", code, str(tmp_path / "moving.npz")]
    first, second = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    assert first == second


def test_map_leaves_out_texts_that_umap_could_not_place(monkeypatch: pytest.MonkeyPatch):
    # umap gives NaN to a text without neighbours, which no small table of finite distances causes
    def align(vectors: list[np.ndarray], *_: object) -> list[np.ndarray]:
        places = [x[:, :2].copy() for x in vectors]
        places[1][4] = np.nan
        return places

    monkeypatch.setattr(umap_layout, "_align", align)
    placed = umap_layout.aligned_layout({0: A, 1: A})
    assert placed.missing == 1 and len(placed.rows) == 79 and 4 not in placed.rows
    assert {len(place) for place in placed.places.values()} == {79}


@pytest.mark.parametrize(
    ("checkpoints", "more", "words"),
    [
        ({0: A}, {}, "at least two checkpoints"),
        ({0: A, 1: A}, {"points": 9}, "takes 10 to 5000 points"),
        ({0: A, 1: A}, {"points": 5001}, "takes 10 to 5000 points"),
        ({0: A, 1: A}, {"neighbours": 1}, "2 neighbours or more"),
        ({0: A[:9], 1: A[:9]}, {}, "at least 10 texts; 9 are usable"),
        ({0: A, 1: np.tile(A[:1], (80, 1))}, {}, "at step 1 all texts share one embedding"),
    ],
)
def test_bad_maps_are_named(checkpoints, more: dict, words: str):
    with pytest.raises(InputError, match=words):
        umap_layout.aligned_layout(checkpoints, **more)


def test_quality_is_stated_for_each_checkpoint(placed: Layout, moving):
    table = umap_layout.quality(placed)
    assert list(table.columns) == ["step", "trustworthiness", "neighbours kept", "by chance"]
    assert list(table["step"]) == [0, 100]
    assert table["by chance"].tolist() == pytest.approx([5 / 31] * 2) and placed.neighbours == 5
    for step, place in placed.places.items():
        x = moving[step][placed.rows]
        near = [np.argsort(np.linalg.norm(y[:, None] - y[None], axis=2) + 1e9 * np.eye(32))[:, :5] for y in (x, place)]
        kept = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(*near, strict=True)])
        assert placed.preservation[step] == pytest.approx(kept)
        expected = trustworthiness(x, place, n_neighbors=5, metric="cosine")
        assert placed.trustworthiness[step] == pytest.approx(expected, abs=1e-6)
    assert (table["neighbours kept"] > 2 * table["by chance"]).all()


def test_a_perfect_map_and_a_meaningless_one_are_told_apart(monkeypatch: pytest.MonkeyPatch):
    angles = np.random.default_rng(3).uniform(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    shuffled = np.random.default_rng(4).permutation(circle)
    monkeypatch.setattr(umap_layout, "_align", lambda *_: [circle, shuffled])
    table = umap_layout.quality(umap_layout.aligned_layout({0: circle, 1: circle}))
    assert table["trustworthiness"][0] == pytest.approx(1) and table["neighbours kept"][0] == pytest.approx(1)
    assert table["trustworthiness"][1] == pytest.approx(0.5, abs=0.06)
    assert table["neighbours kept"][1] == pytest.approx(table["by chance"][1], abs=0.05)


def test_a_map_on_which_no_text_found_a_place_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(umap_layout, "_align", lambda vectors, *_: [x[:, :2] * np.nan for x in vectors])
    with pytest.raises(InputError, match="only 0 of 80 texts found a place on the map; raise neighbours"):
        umap_layout.aligned_layout({0: A, 1: A})
