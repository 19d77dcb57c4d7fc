"""Drift measures against known answers, and the tables by parts."""

from __future__ import annotations

import logging
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group
from sklearn.decomposition import PCA

from hr_search.base.errors import InputError
from hr_search.drift import measures


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def sphere(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(count, dimension)))


A = sphere(80, 16)
TURN = ortho_group.rvs(16, random_state=0)


# Measures


def test_identity_is_no_drift():
    assert measures.displacement(A, A).max() == 0
    assert measures.linear_cka(A, A) == pytest.approx(1, abs=1e-12)
    assert measures.procrustes_residual(A, A) == pytest.approx(0, abs=1e-12)
    assert (measures.neighbour_overlap(A, A) == 1).all()


def test_a_rotation_moves_texts_but_not_the_geometry():
    turned = A @ TURN
    assert measures.displacement(A, turned).mean() > 0.5
    assert measures.linear_cka(A, turned) == pytest.approx(1, abs=1e-9)
    assert measures.procrustes_residual(A, turned) == pytest.approx(0, abs=1e-9)
    assert (measures.neighbour_overlap(A, turned) == 1).all()


def test_a_permutation_of_texts_breaks_everything():
    shuffled = A[np.random.default_rng(1).permutation(len(A))]
    assert measures.neighbour_overlap(A, shuffled).mean() < 0.2
    assert measures.linear_cka(A, shuffled) < 0.4
    assert measures.procrustes_residual(A, shuffled) > 0.5


def test_unrelated_directions_share_nothing():
    a = np.array([[1, 0, 0, 0], [-1, 0, 0, 0], [1, 0, 0, 0], [-1, 0, 0, 0]], dtype=float)
    b = np.array([[0, 1, 0, 0], [0, 1, 0, 0], [0, -1, 0, 0], [0, -1, 0, 0]], dtype=float)
    assert measures.linear_cka(a, b) == pytest.approx(0)
    assert measures.procrustes_residual(a, b) == pytest.approx(1)


def test_displacement_of_known_angles():
    a = np.array([[1.0, 0.0]] * 3)
    b = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert measures.displacement(a, b) == pytest.approx([0, 1, 2])


def test_cka_equals_its_definition_by_kernels():
    b = unit(A + 0.3 * sphere(80, 16, seed=2))
    centre = np.eye(80) - 1 / 80
    k, m = centre @ A @ A.T @ centre, centre @ b @ b.T @ centre
    assert measures.linear_cka(A, b) == pytest.approx((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def test_procrustes_equals_the_best_rotation_found_by_scipy():
    from scipy.spatial import procrustes

    b = unit(A + 0.3 * sphere(80, 16, seed=2))
    assert measures.procrustes_residual(A, b) == pytest.approx(procrustes(A, b)[2])


def test_overlap_by_hand_on_a_circle():
    def circle(degrees: list[float]) -> np.ndarray:
        return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)

    # the last text moves from the end of the row to its start: both ends get one new neighbour of two
    before, after = circle([0, 10, 21, 33, 46]), circle([0, 10, 21, 33, -5])
    assert measures.neighbour_overlap(before, after, k=2) == pytest.approx([1 / 3, 1, 1, 1 / 3, 0])


def test_overlap_matches_a_plain_loop_across_chunks():
    a, b = sphere(1100, 8), sphere(1100, 8, seed=5)
    nearest = []
    for x in (a, b):
        scores = x @ x.T
        np.fill_diagonal(scores, -2)
        nearest.append([set(row) for row in np.argsort(-scores, axis=1)[:, :3]])
    expected = [len(s & t) / len(s | t) for s, t in zip(*nearest, strict=True)]
    assert measures.neighbour_overlap(a, b, k=3) == pytest.approx(expected)


def test_uniformity_of_collapsed_orthogonal_and_spread_texts():
    assert measures.uniformity(np.tile(A[:1], (20, 1))) == pytest.approx(0, abs=1e-6)
    assert measures.uniformity(np.eye(8)) == pytest.approx(-4)
    spread = sphere(2000, 64)
    assert measures.uniformity(spread) == pytest.approx(-4 + 8 / 64, abs=0.02)
    assert measures.uniformity(spread.astype(np.float32)) == pytest.approx(measures.uniformity(spread))


def test_anisotropy_of_collapsed_orthogonal_and_spread_texts():
    assert measures.anisotropy(np.tile(A[:1], (20, 1))) == pytest.approx(1)
    assert measures.anisotropy(np.eye(8)) == pytest.approx(0)
    assert abs(measures.anisotropy(sphere(2000, 64))) < 0.01
    off = ~np.eye(len(A), dtype=bool)
    assert measures.anisotropy(A) == pytest.approx((A @ A.T)[off].mean())


def test_alignment_of_equal_and_opposite_pairs():
    assert measures.alignment(A, A) == 0
    assert measures.alignment(A, -A) == pytest.approx(4)
    shifted = np.roll(A, 1, axis=0)
    assert measures.alignment(A, shifted) == pytest.approx(np.square(A - shifted).sum(axis=1).mean())


def paper_isoscore(x: np.ndarray) -> float:
    """The seven steps of the paper, one by one."""
    turned = PCA(n_components=x.shape[1]).fit_transform(x)
    variances = np.diag(np.cov(turned.T))
    n = len(variances)
    scaled = math.sqrt(n) * variances / np.linalg.norm(variances)
    defect = np.linalg.norm(scaled - 1) / math.sqrt(2 * (n - math.sqrt(n)))
    used = (n - defect**2 * (n - math.sqrt(n))) ** 2 / n**2
    return (n * used - 1) / (n - 1)


CONE = unit(np.random.default_rng(1).normal(size=(200, 24)) * np.geomspace(1, 0.05, 24))
SHORT = unit(np.random.default_rng(2).normal(size=(12, 40)))


@pytest.mark.parametrize(
    ("x", "published"),  # of IsoScore 2.0.1, the authors' own package
    [(A, 0.8360179185781665), (CONE, 0.3340894096177145), (SHORT, 0.19635165934716442)],
)
def test_isoscore_is_that_of_its_authors(x: np.ndarray, published: float):
    assert measures.isoscore(x) == pytest.approx(published, abs=1e-6)
    if len(x) > x.shape[1]:
        assert measures.isoscore(x) == pytest.approx(paper_isoscore(x), abs=1e-12)


def test_isoscore_of_one_direction_of_all_and_of_none():
    line = np.array([[1.0, 0, 0], [-1.0, 0, 0], [1.0, 0, 0], [-1.0, 0, 0]])
    assert measures.isoscore(line) == pytest.approx(0, abs=1e-12)
    assert measures.isoscore(np.vstack([np.eye(5), -np.eye(5)])) == pytest.approx(1)
    assert measures.isoscore(A @ TURN) == pytest.approx(measures.isoscore(A))
    assert math.isnan(measures.isoscore(np.tile(A[:1], (5, 1))))
    assert math.isnan(measures.isoscore(np.array([[1.0], [-1.0]])))
    assert measures.isoscore(SHORT) < 10 / 39


def test_measures_of_fewer_texts_than_dimensions_are_those_of_their_definitions():
    from scipy.spatial import procrustes

    b = unit(SHORT + 0.3 * sphere(12, 40, seed=4))
    centre = np.eye(12) - 1 / 12
    k, m = centre @ SHORT @ SHORT.T @ centre, centre @ b @ b.T @ centre
    assert measures.linear_cka(SHORT, b) == pytest.approx((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))
    assert measures.procrustes_residual(SHORT, b) == pytest.approx(procrustes(SHORT, b)[2])


def test_geometry_of_a_collapsed_checkpoint_is_not_a_number():
    flat = np.tile(A[:1], (80, 1)).astype(np.float32)
    assert math.isnan(measures.linear_cka(A, flat))
    assert math.isnan(measures.procrustes_residual(flat, A))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 30), st.integers(2, 8))
def test_every_measure_stays_in_its_bounds(seed: int, count: int, dimension: int):
    a, b = sphere(count, dimension, seed), sphere(count, dimension, seed + 1)
    assert ((measures.displacement(a, b) >= 0) & (measures.displacement(a, b) <= 2 + 1e-9)).all()
    kept = measures.neighbour_overlap(a, b, k=1)
    for share in (measures.linear_cka(a, b), measures.procrustes_residual(a, b), *kept):
        assert 0 <= share <= 1
    assert -8.001 <= measures.uniformity(a) <= 1e-9
    assert -1 <= measures.anisotropy(a) <= 1
    assert 0 <= measures.isoscore(a) <= 1 + 1e-9


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: measures.displacement(A, A[:5]), "equal shapes"),
        (lambda: measures.displacement(A[0], A[0]), "at least two embeddings"),
        (lambda: measures.uniformity(A[:1]), "at least two embeddings"),
        (lambda: measures.anisotropy(np.vstack([A, 2 * A[:1]])), "row 81 is not of length 1"),
        (lambda: measures.linear_cka(A, np.where(np.arange(80)[:, None] == 3, np.nan, A)), "row 4 is not of length 1"),
        (lambda: measures.neighbour_overlap(A[:11], A[:11], k=10), "12 texts or more; there are 11"),
        (lambda: measures.neighbour_overlap(A, A, k=0), "k of at least 1"),
    ],
)
def test_bad_arrays_are_named(call, words: str):
    with pytest.raises(InputError, match=words):
        call()


# The table


def table_of(checkpoints, sides, **more) -> pd.Series:
    return measures.drift_table(checkpoints, sides, **more).set_index(["step", "side", "measure"]).value


def test_table_holds_every_measure_for_every_side_and_step():
    checkpoints = {120: unit(A + 0.3 * sphere(80, 16, seed=2)), 0: A}  # in any order
    sides = ["query"] * 40 + ["document"] * 40
    table = measures.drift_table(checkpoints, sides, groups=list("abcdefgh") * 10)
    assert list(table.columns) == ["step", "side", "measure", "value"]
    assert not table.duplicated(["step", "side", "measure"]).any()
    assert len(table) == 2 * (3 * 10 + 1)  # alignment has no side
    assert table.value.notna().all()
    value = table.set_index(["step", "side", "measure"]).value
    moved = measures.displacement(A[:40], checkpoints[120][:40])
    assert value[120, "query", "displacement"] == pytest.approx(moved.mean())
    assert value[120, "query", "displacement_p90"] == pytest.approx(np.percentile(moved, 90))
    assert value[120, "all", "jaccard@10"] == pytest.approx(measures.neighbour_overlap(A, checkpoints[120]).mean())
    assert value[120, "document", "uniformity"] == pytest.approx(measures.uniformity(checkpoints[120][40:]))
    assert value[120, "all", "cka"] == pytest.approx(measures.linear_cka(A, checkpoints[120]))
    assert value[120, "query", "isoscore"] == pytest.approx(measures.isoscore(checkpoints[120][:40]))
    overlap = measures.neighbour_overlap(A, checkpoints[120])  # a query's neighbours are found among all texts
    assert value[120, "query", "jaccard@10"] == pytest.approx(overlap[:40].mean())
    assert value[0, "all", "displacement"] == 0
    assert value[0, "all", "jaccard@10"] == 1


def test_table_pairs_queries_with_the_documents_of_their_group_in_turn():
    x = np.eye(6)
    sides = ["query", "query", "query", "document", "document", "query"]
    groups = ["a", "a", "a", "a", "a", "lonely"]
    moved = x.copy()
    moved[[0, 2]] = x[3]  # the first and third query meet the first document, the second is still apart
    value = table_of({0: x, 1: moved}, sides, groups=groups)
    assert value[0, "all", "alignment"] == pytest.approx(2)
    assert value[1, "all", "alignment"] == pytest.approx(2 / 3)


def test_table_without_pairs_has_no_alignment_and_one_side_is_not_repeated():
    table = measures.drift_table({0: A, 1: A}, ["query"] * 80, groups=["g"] * 80)
    assert set(table.side) == {"all"}
    assert "alignment" not in set(table.measure)


def test_table_of_few_texts_leaves_what_cannot_be_measured():
    x = sphere(7, 4)
    value = table_of({0: x, 1: x}, ["query"] * 6 + ["document"])
    assert math.isnan(value[1, "all", "jaccard@10"])
    assert not (value.index.get_level_values("side") == "document").any()
    assert table_of({0: x, 1: x}, ["query"] * 7, k=3)[1, "all", "jaccard@3"] == 1


def test_table_leaves_out_texts_that_became_nan_and_says_so(caplog: pytest.LogCaptureFixture):
    broken = A.copy()
    broken[5] = np.nan
    with caplog.at_level(logging.WARNING):
        value = table_of({0: A, 9: broken}, ["query"] * 80)
    assert "1 of 80" in caplog.text
    assert value[9, "all", "displacement"] == 0
    assert value[0, "all", "anisotropy"] == pytest.approx(measures.anisotropy(np.delete(A, 5, axis=0)))


@pytest.mark.parametrize(
    ("checkpoints", "sides", "words"),
    [
        ({}, [], "no checkpoint"),
        ({0: A, 5: A[:, :4]}, ["query"] * 80, r"step 5 has embeddings \(80, 4\)"),
        ({0: A[0]}, ["query"], "step 0 has embeddings"),
        ({0: A, 5: A * np.nan}, ["query"] * 80, "only 0 texts have finite"),
        ({0: A}, ["query"], "1 sides for 80"),
    ],
)
def test_bad_tables_are_named(checkpoints, sides, words: str):
    with pytest.raises(InputError, match=words):
        measures.drift_table(checkpoints, sides)


# Parts


def test_parts_have_the_measures_of_their_texts_and_neighbours_among_all():
    after = unit(A + 0.3 * sphere(80, 16, seed=2))
    sides, groups = ["query", "document"] * 40, np.repeat(["a", "b", "lonely"], [59, 20, 1])
    table = measures.drift_by({0: A, 7: after}, {"group": groups, "half": [1] * 40 + [2] * 40}, sides, groups)
    assert list(table["by"]) == ["group"] * 4 + ["half"] * 4
    assert list(table["part"]) == ["a", "a", "b", "b", "1", "1", "2", "2"]  # no part of one text, large ones first
    assert list(table["texts"]) == [59, 59, 20, 20, 40, 40, 40, 40] and list(table["step"]) == [0, 7] * 4
    b, here = table.iloc[3], slice(59, 79)
    assert b["displacement"] == pytest.approx(measures.displacement(A, after)[here].mean())
    assert b["displacement_p10"] == pytest.approx(np.percentile(measures.displacement(A, after)[here], 10))
    assert b["jaccard@10"] == pytest.approx(measures.neighbour_overlap(A, after)[here].mean())
    assert b["cka"] == pytest.approx(measures.linear_cka(A[here], after[here]))
    assert b["procrustes"] == pytest.approx(measures.procrustes_residual(A[here], after[here]))
    assert b["uniformity"] == pytest.approx(measures.uniformity(after[here]))
    assert b["anisotropy"] == pytest.approx(measures.anisotropy(after[here]))
    assert b["isoscore"] == pytest.approx(measures.isoscore(after[here]))
    queries, documents = after[60:79:2], after[59:79:2]  # row 59 is a document, row 60 a query
    assert b["alignment"] == pytest.approx(measures.alignment(queries, documents[: len(queries)]))


def test_small_parts_have_no_shape_and_parts_without_pairs_no_alignment():
    groups = ["small"] * 9 + ["large"] * 71
    table = measures.drift_by({0: A, 1: A @ TURN}, {"g": groups}, ["query"] * 80, groups).set_index(["part", "step"])
    assert math.isnan(table.loc[("small", 1), "cka"]) and math.isnan(table.loc[("small", 1), "procrustes"])
    assert table.loc[("large", 1), "cka"] == pytest.approx(1) and table.loc[("large", 1), "displacement"] > 0.5
    assert table["alignment"].isna().all() and table["isoscore"].notna().all()


def test_parts_leave_out_nan_texts_and_may_be_none_at_all():
    broken = A.copy()
    broken[0] = np.nan
    table = measures.drift_by({0: A, 1: broken}, {"g": ["a", "a", *map(str, range(78))]}, ["query"] * 80)
    assert table.empty and list(table.columns) == ["by", "part", "texts", "step"]
    table = measures.drift_by({0: A, 1: broken}, {"g": ["a", "a", "a", *map(str, range(77))]}, ["query"] * 80)
    assert set(table["texts"]) == {2}


def test_labels_that_do_not_fit_are_named():
    with pytest.raises(InputError, match=r"3 labels \(group\) for 80 embeddings"):
        measures.drift_by({0: A}, {"group": ["a"] * 3}, ["query"] * 80)
    with pytest.raises(InputError, match="2 groups for 80"):
        measures.drift_by({0: A}, {}, ["query"] * 80, ["a"] * 2)


def test_movers_name_the_neighbours_before_and_after():
    before = unit(np.array([[1, 0], [1, 0.1], [1, 0.1], [0, 1], [0.1, 1], [np.nan, 1]], dtype=float))
    after = before.copy()
    after[0] = unit(np.array([[0.02, 1.0]]))[0]
    columns = {
        "side": ["query"] * 3 + ["document"] * 3,
        "text": ["cook\n  chef", "y" * 90, "y" * 90, "<b>stew</b>", "cook chef", "gone"],
        "group": ["cook", "baker", "baker", "cook", "chef", "none"],
    }
    texts = pd.DataFrame(columns)
    table = measures.movers(texts, {0: before, 9: after}, count=2)
    assert list(table.columns) == ["displacement", "text", "before", "after", "side", "group"]
    assert len(table) == 2
    first = table.iloc[0]
    assert first["displacement"] == pytest.approx(1 - after[0] @ before[0])
    assert first["text"] == "cook chef" and first["side"] == "query"
    assert first["before"] == "y" * 49 + "… | ✓ <b>stew</b>"  # its copies do not count, each text is listed once
    assert first["after"] == "✓ <b>stew</b> | " + "y" * 49 + "…"
    assert table.iloc[1]["displacement"] == 0
