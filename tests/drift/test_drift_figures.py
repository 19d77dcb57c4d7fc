"""Figures of drift by what they draw, and by every table and map that they must refuse."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import AWKWARD, drawn, legend, title
from matplotlib.colors import to_hex
from matplotlib.quiver import Quiver

from hr_search.base.errors import InputError
from hr_search.drift import figures
from hr_search.drift.umap_layout import Layout

pytestmark = pytest.mark.usefixtures("closed")


def drift_rows(sides: tuple[str, ...] = ("all", "query", "document"), k: int = 10) -> pd.DataFrame:
    measures = ["displacement", "displacement_p10", "displacement_p50", "displacement_p90"]
    measures += ["cka", "procrustes", f"jaccard@{k}", "uniformity", "anisotropy", "isoscore"]
    rows = [
        (step, side, measure, 0.1 * step / 100 + 0.01 * number)
        for step in (200, 0, 100)
        for side in sides
        for number, measure in enumerate(measures)
    ]
    rows += [(step, "all", "alignment", 0.5) for step in (0, 100, 200)]
    return pd.DataFrame(rows, columns=["step", "side", "measure", "value"])


def small_map(count: int = 40) -> tuple[Layout, pd.DataFrame]:
    random = np.random.default_rng(0)
    start = random.normal(size=(count, 2))
    places = {0: start, 50: start + 0.1, 90: start + random.normal(size=(count, 2))}
    shares = dict.fromkeys(places, 0.9), dict.fromkeys(places, 0.43)
    layout = Layout(np.arange(count) * 2, places, *shares, neighbours=5, missing=0)
    sides = np.where(np.arange(2 * count) % 4 == 0, "query", "document")
    return layout, pd.DataFrame({"side": sides, "text": [f"text {row}" for row in range(2 * count)], "group": "g"})


# Numbers


def test_displacement_histogram_names_the_median_of_each_side():
    ax = drawn(figures.displacement_histogram([0.1, 0.3, 0.5, 0.0], ["query", "query", "query", AWKWARD]))
    assert title(ax) == f"Median displacement: query 0.30, {AWKWARD} 0.00"
    assert legend(ax) == ["query", AWKWARD]
    assert ax.patches[0].get_data().values.sum() == pytest.approx(1)
    drawn(figures.displacement_histogram(np.zeros(5), ["query"] * 5))


def test_drift_over_steps_has_a_panel_a_measure_with_ordered_steps():
    axes = figures.drift_over_steps(drift_rows())
    drawn(axes[0])
    assert len(axes) == 8
    assert title(axes[1]) == "Same neighbours (Jaccard@10)"
    assert [line.get_xdata().tolist() for line in axes[0].lines] == [[0, 100, 200]] * 2
    assert axes[0].lines[0].get_ydata() == pytest.approx([0, 0.1, 0.2])
    assert len(axes[0].collections) == 2  # the bands
    assert not axes[2].collections
    alignment = next(ax for ax in axes if title(ax).startswith("Pairs"))
    assert len(alignment.lines) == 1
    figure = axes[0].figure
    assert figure.get_suptitle() == "At step 200: mean displacement 0.20, neighbours kept 0.26, CKA 0.24"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["query", "document", "all"]
    assert title(axes[7]) == "Dimensions used (IsoScore)"


def test_drift_over_steps_of_one_side_another_k_and_fewer_measures():
    table = drift_rows(sides=("all",), k=3)
    axes = figures.drift_over_steps(table)
    assert title(axes[1]) == "Same neighbours (Jaccard@3)"
    assert all(len(ax.lines) == 1 for ax in axes)
    odd = figures.drift_over_steps(table[table["measure"].isin(["displacement", "cka", "isoscore"])])
    assert len(odd) == 3 and not odd[0].figure.axes[-1].axison  # the fourth place is empty
    few = figures.drift_over_steps(table[table["measure"].isin(["displacement", "cka"])])
    assert len(few) == 2 and not few[0].collections
    assert few[0].figure.get_suptitle() == "At step 200: mean displacement 0.20, CKA 0.24"
    drawn(few[0])


# Maps


def test_drift_arrows_go_from_the_first_place_to_the_last():
    layout, texts = small_map()
    ax = drawn(figures.drift_arrows(layout, texts))
    arrows = [item for item in ax.collections if isinstance(item, Quiver)]
    assert sum(len(item.U) for item in arrows) == 40
    ends = np.concatenate([item.XY + np.stack([item.U, item.V], axis=1) for item in arrows])
    assert sorted(map(tuple, ends.round(9))) == sorted(map(tuple, layout.places[90].round(9)))
    assert title(ax).startswith("Paths of 40 of 40 texts, step 0 to 90")
    assert legend(ax) == ["query", "document"]
    assert 1 <= len(ax.texts) <= 8
    longest = np.linalg.norm(layout.places[90] - layout.places[0], axis=1).argmax()
    assert ax.texts[0].get_text() == f"text {2 * longest}"  # row i of the map is text layout.rows[i]
    assert ax.texts[0].xy == pytest.approx(layout.places[90][longest])


def test_drift_arrows_draws_other_steps_fewer_arrows_and_labels_that_keep_apart():
    layout, texts = small_map(500)
    ax = figures.drift_arrows(layout, texts, steps=(0, 50), arrows=30)
    assert sum(len(item.U) for item in ax.collections if isinstance(item, Quiver)) == 30
    assert "Paths of 30 of 500 texts, step 0 to 50" in title(ax)
    spots = np.array([text.xy for text in ax.texts]) / np.ptp(layout.places[50], axis=0)
    gaps = np.abs(spots[:, None] - spots[None]) + 9 * np.eye(len(spots))[:, :, None]
    assert ((gaps[..., 0] > 0.4) | (gaps[..., 1] > 0.05)).all()
    everyone_named = figures.drift_arrows(layout, texts, arrows=1)
    assert len(drawn(everyone_named).texts) == 1


def test_texts_of_users_are_drawn_as_they_are():
    layout, texts = small_map()
    awkward = [AWKWARD, "_hidden_\n\tline  two", "x" * 60, "Бухгалтер <главный>"]
    texts["text"] = [awkward[row // 2 % 4] for row in range(len(texts))]
    ax = drawn(figures.drift_arrows(layout, texts))
    shown = {text.get_text() for text in ax.texts}
    assert shown == {AWKWARD, "_hidden_ line two", "x" * 27 + "…", "Бухгалтер <главный>"}
    drawn(figures.drift_over_steps(drift_rows(sides=("all", AWKWARD)))[0])


# Classes and small multiples


def people(counts: dict[str, int]) -> pd.DataFrame:
    groups = [group for group, count in counts.items() for _ in range(count)]
    sides = np.where(np.arange(len(groups)) % 2, "document", "query")
    return pd.DataFrame({"side": sides, "text": groups, "group": groups})


def test_the_seven_largest_groups_get_colours_that_differ():
    counts = {"tiny": 4, **{f"g{size}": size for size in range(5, 14)}}
    labels, colours = figures.classes(people(counts))
    assert list(colours) == ["g13", "g12", "g11", "g10", "g9", "g8", "g7"]
    assert len({*colours.values(), figures.FADED}) == 8
    assert pd.Series(labels).value_counts().to_dict() == {"": 4 + 5 + 6, **{f"g{n}": n for n in range(7, 14)}}


def test_few_large_groups_leave_colours_over_and_none_at_all_colours_the_sides():
    labels, colours = figures.classes(people({"a": 5, "b": 4}))
    assert list(colours) == ["a"] and set(labels) == {"a", ""}
    labels, colours = figures.classes(people({"a": 4, "b": 4}))
    assert list(colours) == ["query", "document"] and list(labels) == ["query", "document"] * 4


def test_small_multiples_have_a_panel_a_checkpoint_on_one_scale_with_every_text():
    layout, texts = small_map()
    texts["group"] = ["welder" if row % 8 == 0 else AWKWARD if row % 8 == 4 else f"g{row}" for row in range(80)]
    axes = figures.small_multiples(layout, texts)
    drawn(axes[0])
    assert [title(ax) for ax in axes] == [f"Step {step}, neighbours kept 43%" for step in (0, 50, 90)]
    assert len({ax.get_xlim() + ax.get_ylim() for ax in axes}) == 1
    for ax, step in zip(axes, (0, 50, 90), strict=True):
        dots = np.concatenate([part.get_offsets() for part in ax.collections])
        assert sorted(map(tuple, dots)) == sorted(map(tuple, layout.places[step]))
    colour = figures.classes(texts.iloc[layout.rows])[1]["welder"]
    mine = [part for part in axes[1].collections if to_hex(part.get_facecolor()[0]).upper() == colour.upper()]
    where = np.concatenate([part.get_offsets() for part in mine])
    expected = layout.places[50][texts["group"].iloc[layout.rows] == "welder"]
    assert sorted(map(tuple, where)) == sorted(map(tuple, expected))
    names = [text.get_text() for text in axes[0].figure.legends[0].get_texts()]
    assert sorted(names) == sorted(["welder", AWKWARD, "others"])
    assert axes[0].figure.get_suptitle() == "40 texts at 3 checkpoints, coloured by the largest groups"


def test_small_multiples_of_chosen_steps_sides_long_names_and_many_checkpoints():
    layout, texts = small_map()
    texts["group"] = [f"g{row}" for row in range(80)]
    axes = figures.small_multiples(layout, texts, steps=(0, 90))
    assert len(axes) == 2 and axes[0].figure.get_suptitle().endswith("coloured by sides")
    assert {text.get_text() for text in axes[0].figure.legends[0].get_texts()} == {"query", "document"}
    texts["group"] = "x" * 90
    places = dict.fromkeys(range(5), layout.places[0])
    long = Layout(layout.rows, places, dict.fromkeys(places, 1.0), dict.fromkeys(places, 1.0), 5, 0)
    axes = figures.small_multiples(long, texts)
    drawn(axes[0])
    assert len(axes) == 5 and not any(ax.axison for ax in axes[0].figure.axes[5:])
    assert [text.get_text() for text in axes[0].figure.legends[0].get_texts()] == ["x" * 29 + "…"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: figures.displacement_histogram([], []), "no displacements"),
        (lambda: figures.displacement_histogram([0.1, 0.2], ["query"]), "1 sides for 2 displacements"),
        (lambda: figures.drift_over_steps(drift_rows().query("side != 'all'")), 'no rows of side "all"'),
        (lambda: figures.drift_over_steps(drift_rows().assign(measure="mood")[:1]), "no measures of drift"),
        (lambda: figures.drift_arrows(*small_map(), steps=(0, 7)), "the map has the steps 0, 50, 90, not 0 and 7"),
        (lambda: figures.drift_arrows(small_map()[0], small_map()[1][:50]), "text 79 of only 50"),
        (lambda: figures.small_multiples(*small_map(), steps=(0, 7)), "the steps 0, 50, 90, not 0 and 7"),
        (lambda: figures.small_multiples(*small_map(), steps=()), "not none"),
        (lambda: figures.small_multiples(small_map()[0], small_map()[1][:50]), "text 79 of only 50"),
    ],
)
def test_what_no_drift_figure_can_draw_is_named(call, words: str):
    with pytest.raises(InputError, match=re.escape(words)):
        call()


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: figures.displacement_histogram([0.1], ["query"], ax),
        lambda ax: figures.drift_arrows(*small_map(), ax=ax),
        lambda ax: figures.small_multiples(*small_map(), steps=[50], axes=[ax])[0],
    ],
)
def test_drift_figures_use_a_given_axis_and_open_no_figure(draw):
    given = plt.subplots()[1]
    assert draw(given) is given
    assert plt.get_fignums() == [given.figure.number]
