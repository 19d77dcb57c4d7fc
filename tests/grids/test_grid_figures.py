"""Figures of grids, tested by what the renderer was handed."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from hr_search.base import choices
from hr_search.base.errors import InputError
from hr_search.grids import figures


@pytest.fixture(autouse=True)
def closed():
    yield
    for number in plt.get_fignums():
        plt.figure(number).savefig("/dev/null", format="png")  # layout and fonts hold
    plt.close("all")


@pytest.fixture
def effects() -> pd.DataFrame:
    rows = []
    for place, (loss, margin) in enumerate(itertools.product(["info$nce", "triplet"], [0.1, 0.2, 0.5])):
        shift = [np.nan, 0.1, -0.1, 0.01, 0.02, 0.03][place]
        arm = {"arm": f"loss={loss}, margin={margin}", "loss": loss, "margin": margin}
        reached = {"seeds": 3, "value": 0.5 + place / 10}
        compared = {
            "difference": shift,
            "low": shift - 0.05,
            "high": shift + 0.05,
            "p_holm": 0.001 if place < 4 else 0.2,
        }
        rows.append({**arm, **reached, **compared, "verdict": "the baseline" if place == 0 else ""})
    return pd.DataFrame(rows)


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_effects_are_coloured_only_where_they_are_real(effects):
    ax = figures.effect_sizes(effects)
    assert ax.get_title(loc="left") == "1 better, 1 worse, 3 not shown to differ"
    assert "from loss=info$nce, margin=0.1," in ax.get_xlabel().replace("\n", " ")
    dots = {float(line.get_xdata()[0]): line.get_color() for line in ax.lines if line.get_marker() == "o"}
    assert dots == {0.1: figures.BLUE, -0.1: figures.RED} | dict.fromkeys([0.01, 0.02, 0.03], figures.GREY)
    assert [label.get_text() for label in ax.get_yticklabels()] == effects["arm"].tolist()[:0:-1]
    with pytest.raises(InputError, match="beside the baseline"):
        figures.effect_sizes(effects.head(1))
    with pytest.raises(InputError, match="no column low"):
        figures.effect_sizes(effects.drop(columns="low"))


def title_within(ax) -> str:
    """The title without its breaks, which must all stand in the figure."""
    ax.figure.canvas.draw()
    title = next(text for text in (ax._left_title, ax.title) if text.get_text())
    assert title.get_window_extent().x1 <= ax.figure.bbox.x1
    return " ".join(title.get_text().split())


def test_a_heat_map_shows_every_pair_and_leaves_gaps(effects):
    ax = figures.heat_map(effects.drop(index=4), "loss", "margin")
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.5, 0.8], [0.6, np.nan], [0.7, 1.0]])
    assert sorted(texts(ax)) == ["0.500", "0.600", "0.700", "0.800", "1.000"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["info$nce", "triplet"]
    assert title_within(ax) == "Best on average: 1.000 with loss=triplet, margin=0.5"
    assert ax.images[0].get_cmap().name == "cividis"
    figures.heat_map(effects.assign(value=0.5), "margin", "loss")
    with pytest.raises(InputError, match="two settings"):
        figures.heat_map(effects, "loss", "loss")
    with pytest.raises(InputError, match="no column los"):
        figures.heat_map(effects, "los", "margin")


def test_parallel_coordinates_draw_every_arm_and_the_best_thick(effects):
    ax = figures.parallel_coordinates(effects, ["loss", "margin"])
    lines = [line for line in ax.lines if len(line.get_xdata()) == 3]
    assert len(lines) == 6
    (best,) = [line for line in lines if line.get_linewidth() > 3]
    np.testing.assert_allclose(best.get_ydata(), [1, 1, 1])
    assert {"info$nce", "triplet", "0.1", "0.2", "0.5", "0.500", "1.000"} == set(texts(ax))
    assert title_within(ax) == "6 arms; best (1.000): loss=triplet, margin=0.5"
    one = figures.parallel_coordinates(effects.head(1), ["loss"])
    assert "info$nce" in texts(one)
    with pytest.raises(InputError, match="settings that vary"):
        figures.parallel_coordinates(effects, [])


def test_many_values_get_a_scale_of_their_own():
    rates, margins = np.geomspace(1e-5, 1e-3, 9), np.linspace(0.1, 0.5, 9)
    table = pd.DataFrame({"arm": "x", "learningrate": rates, "margin": margins, "value": np.arange(9.0)})
    ax = figures.parallel_coordinates(table, ["learningrate", "margin"])
    heights = np.array([line.get_ydata() for line in ax.lines if len(line.get_xdata()) == 3])
    np.testing.assert_allclose(heights, np.linspace([0] * 3, [1] * 3, 9), atol=1e-9)
    assert {"1e-05", "0.0001", "0.001", "0.1", "0.3", "0.5"} <= set(texts(ax))


def test_every_strategy_is_drawn_as_training_runs_it():
    axes = figures.mixing_strategies()
    said = {ax.get_title(loc="left").split(": ")[0]: ax.get_title(loc="left").split(": ")[1] for ax in axes}
    assert list(said) == list(choices.MIXINGS)
    assert said["none"] == "the query stays"
    for strategy in choices.QUERY_MIXINGS:
        assert "turns by" in said[strategy] and said[strategy] != "the query turns by 0°"
    assert said["weighted"] != said["rocchio"]
    assert said["mochi"] == "6 synthetic negatives" and said["synco"] == "9 synthetic negatives"
    labels = {"own positive", "its group's other positives", "negatives", "query", "mixed query", "synthetic negatives"}
    assert {text.get_text() for text in axes[0].figure.legends[0].get_texts()} == labels


def test_some_strategies_and_given_axes():
    _, axes = plt.subplots(1, 2)
    assert list(figures.mixing_strategies(["none", "mean"], axes=axes)) == list(axes)
    with pytest.raises(InputError, match="no strategies"):
        figures.mixing_strategies([])
    with pytest.raises(InputError, match="did you mean"):
        figures.mixing_strategies(["meen"])
