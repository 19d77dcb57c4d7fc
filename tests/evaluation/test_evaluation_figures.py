"""Figures of results by what they draw, and by every table that they must refuse."""

from __future__ import annotations

import itertools
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import AWKWARD, drawn, legend, title
from matplotlib.colors import to_hex

from hr_search.base import plots
from hr_search.base.errors import InputError
from hr_search.evaluation import calibration, figures, subgroups

pytestmark = pytest.mark.usefixtures("closed")


def changes_table() -> pd.DataFrame:
    outcome = ["won", "lost", "unchanged", "won", "unchanged"]
    return pd.DataFrame({"gain": [0.5, -0.25, 0.0, 0.75, 0.0], "outcome": outcome})


def parts_table(names: tuple[str, str] = ("short", AWKWARD)) -> pd.DataFrame:
    length = pd.Categorical([names[0]] * 30 + [names[1]] * 20 + ["9"] * 5, [*names, "9"], ordered=True)
    labels = pd.DataFrame({"query length": length, "language": pd.Categorical(["Latin"] * 55)})
    base = np.random.default_rng(0).random(55) / 2
    return subgroups.compare_parts(labels, base, base + np.repeat([0.3, 0.1, 0.5], [30, 20, 5]))


def scores_table(
    systems: tuple[str, ...] = ("base", "trained"), kinds=("positive", "best", "negative", "nearest")
) -> pd.DataFrame:
    random = np.random.default_rng(0)
    middle = {"positive": 0.8, "best": 0.82, "negative": 0.2, "nearest": 0.7}
    parts = []
    for system, kind in itertools.product(systems, kinds):
        score = random.normal(middle[kind], 0.05, 200)
        parts.append(pd.DataFrame({"system": system, "kind": kind, "query": np.arange(200), "score": score}))
    return pd.concat(parts, ignore_index=True)


def first_table() -> pd.DataFrame:
    score = np.random.default_rng(0).permutation(np.linspace(0, 1, 200))
    return pd.DataFrame({"score": score, "right": score > 0.5, "group": [str(at) for at in range(200)]})


def points_table() -> pd.DataFrame:
    return calibration.operating_points(first_table())


# Queries and parts


def test_sorted_gains_go_from_the_largest_gain_to_the_largest_loss():
    ax = drawn(figures.sorted_gains(changes_table()))
    assert title(ax) == "trained against base: 2 won, 1 lost, 2 unchanged"
    won, lost = (patch.get_data() for patch in ax.patches)
    assert won.values.tolist() == [0.75, 0.5, 0, 0, 0] and lost.values.tolist() == [0, 0, 0, 0, -0.25]
    assert won.edges.tolist() == [0, 1, 2, 3, 4, 5]
    assert legend(ax) == ["won by trained: 40%", "lost by trained: 20%"]
    assert [to_hex(patch.get_facecolor()).upper() for patch in ax.patches] == [plots.BLUE, plots.RED]
    other = drawn(figures.sorted_gains(changes_table()[:1], AWKWARD, "b"))
    assert title(other) == f"b against {AWKWARD}: 1 won, 0 lost, 0 unchanged"


def test_part_intervals_has_a_row_a_part_and_no_kind_that_all_share():
    ax = drawn(figures.part_intervals(parts_table(), "ndcg@10"))
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["all (55)", "query length", "short (30)", f"{AWKWARD} (20)", "9 (5)"]
    bold = [label.get_text() for label in ax.get_yticklabels() if label.get_fontweight() == "bold"]
    assert bold == ["query length"]
    said = title(ax).replace("\n", " ")
    for part in ("nDCG@10 +0.25", "most: query length short (+0.30)", f"least: query length {AWKWARD} (+0.10)"):
        assert part in said
    assert legend(ax) == ["base", "trained"]
    base, trained = ax.containers
    table = parts_table().query("by != 'language'")
    for container, system, shift in ((base, "base", -0.16), (trained, "trained", 0.16)):
        rows = table[table["system"] == system]
        dots, _, (bars,) = container.lines
        assert list(dots.get_xdata()) == pytest.approx(rows["value"].tolist())
        assert list(dots.get_ydata()) == pytest.approx((np.array([0, 2, 3, 4]) + shift).tolist())
        segments = [segment for segment in bars.get_segments() if len(segment) and np.isfinite(segment).all()]
        known = rows[rows["low"].notna()]
        np.testing.assert_allclose([segment[:, 0] for segment in segments], known[["low", "high"]])
    assert base.lines[0].get_marker() != trained.lines[0].get_marker()  # distinguishable without colour
    assert ax.get_ylim()[0] > ax.get_ylim()[1]


def test_part_intervals_of_queries_that_are_all_alike():
    table = parts_table()
    ax = drawn(figures.part_intervals(table[table["by"].isin(["all", "language"])]))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["all (55)"]
    assert title(ax) == "MRR +0.25 by training"


# Cosines


def test_score_distributions_have_a_panel_a_system_and_state_overlap_and_auc():
    scores = scores_table()
    axes = figures.score_distributions(scores)
    drawn(axes[0])
    numbers = calibration.separation(scores)
    for ax, system in zip(axes, ("base", "trained"), strict=True):
        chance, near = numbers[numbers["system"] == system].itertuples()
        assert title(ax).startswith(f"{system}: ")
        assert f"random wrong by {chance.overlap:.0%} (AUC {chance.auc:.2f})" in title(ax)
        assert f"nearest wrong by {near.overlap:.0%} (AUC {near.auc:.2f})" in title(ax)
        lines = [patch for patch in ax.patches if not patch.get_fill()]
        assert [patch.get_data().values.sum() for patch in lines] == pytest.approx([1, 1, 1])
        assert len({patch.get_linestyle() for patch in lines}) > 1
    assert legend(axes[0]) == ["random wrong", "nearest wrong", "right"]
    assert axes[0].get_xlim() == axes[1].get_xlim() and axes[1].get_xlabel() == "Cosine"


def test_score_distributions_of_one_system_without_wrong_documents():
    (ax,) = figures.score_distributions(scores_table(("trained",), ("positive", "best")))
    assert title(drawn(ax)) == "trained: right ones only" and legend(ax) == ["right"]


def test_acceptance_draws_precision_and_recall_and_marks_the_thresholds():
    first, points = first_table(), points_table()
    ax = drawn(figures.acceptance(first, points))
    curve = calibration.acceptance(first["score"], first["right"]).query("queries >= 10")
    precision, recall = ax.lines[:2]
    assert precision.get_ydata().tolist() == curve["precision"].tolist()
    assert recall.get_xdata().tolist() == curve["threshold"].tolist() and recall.get_linestyle() == "--"
    best = points.iloc[0]
    for part in (
        "best F1",
        "cosine 0.50",
        f"{best['precision']:.0%} are right",
        f"{best['recall']:.0%} of all queries",
    ):
        assert part in title(ax)
    assert {text.get_text().strip() for text in ax.texts} == {"best F1", "90 % precision"}
    marks = {(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if line.get_marker() in ("o", "s")}
    assert marks == {(row.threshold, value) for row in points.itertuples() for value in (row.precision, row.recall)}


def test_acceptance_where_nothing_can_be_accepted():
    first = first_table()[:4].assign(right=False)
    ax = drawn(figures.acceptance(first, calibration.operating_points(first)))
    assert title(ax) == "No threshold reaches its goal" and len(ax.lines) == 2


def test_reliability_draws_shares_with_intervals_and_the_forecast():
    table = calibration.reliability(first_table())
    ax = drawn(figures.reliability(table))
    assert f"{100 * calibration.calibration_error(table):.0f} points" in title(ax)
    assert legend(ax) == ["forecast, fitted on other groups", "right, 95% interval"]
    assert list(ax.lines[0].get_ydata()) == pytest.approx(table["right"].tolist())
    _, _, (along, down) = ax.containers[0].lines
    np.testing.assert_allclose([segment[:, 0] for segment in along.get_segments()], table[["start", "end"]])
    np.testing.assert_allclose([segment[:, 1] for segment in down.get_segments()], table[["low", "high"]])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: figures.sorted_gains(changes_table()[:0]), "no rows in the table of changes"),
        (lambda: figures.sorted_gains(pd.DataFrame({"gain": [1]})), "no column outcome"),
        (lambda: figures.part_intervals(parts_table().drop(columns="low")), "no column low"),
        (lambda: figures.part_intervals(parts_table().query("by == 'language'")), "no parts of queries"),
        (lambda: figures.score_distributions(scores_table()[:0]), "no rows in the table of scores"),
        (lambda: figures.acceptance(first_table()[:0], points_table()), "no rows in the table of documents"),
        (lambda: figures.reliability(pd.DataFrame({"start": [1]})), "no column end"),
    ],
)
def test_what_no_evaluation_figure_can_draw_is_named(call, words: str):
    with pytest.raises(InputError, match=re.escape(words)):
        call()


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: figures.sorted_gains(changes_table(), ax=ax),
        lambda ax: figures.part_intervals(parts_table(), ax=ax),
        lambda ax: figures.score_distributions(scores_table(("base",)), [ax])[0],
        lambda ax: figures.acceptance(first_table(), points_table(), ax),
        lambda ax: figures.reliability(calibration.reliability(first_table()), ax),
    ],
)
def test_evaluation_figures_use_a_given_axis_and_open_no_figure(draw):
    given = plt.subplots()[1]
    assert draw(given) is given
    assert plt.get_fignums() == [given.figure.number]
