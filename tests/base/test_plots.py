"""Plots by what the renderer is handed: labels, bars, intervals, titles; and by every table they must refuse."""

from __future__ import annotations

import base64
import re
import warnings

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import AWKWARD, drawn, legend, title
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib.colors import to_hex
from nbconvert import HTMLExporter

from hr_search.base import plots
from hr_search.base.errors import InputError

pytestmark = pytest.mark.usefixtures("closed")


def metrics_table() -> pd.DataFrame:
    rows = [
        (system, direction, metric, value, value - 0.02, value + 0.03, 100)
        for direction in ("q2d", "d2q")
        for system, value in (("trained", 0.66), ("base", 0.48), ("bm25", 0.39), ("tfidf", 0.37))
        for metric in ("map", "ndcg@10", "recall@10", "pass@1", "mrr")
    ]
    return pd.DataFrame(rows, columns=["system", "direction", "metric", "value", "low", "high", "queries"])


def history_table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "step": [0, 600, 1200, 1800],
            "loss": [np.nan, 0.3, 0.2, 0.1],
            "mrr": [0.5, 0.6, 0.7, 0.65],
            "active": [np.nan, 0.9, 0.4, 0.25],
            "spread": [0.1, 0.4, 0.5, 0.6],
        }
    )


# Data


def test_lengths_shows_shares_of_both_sides():
    ax = drawn(plots.length_histogram(["a b c", "a", "a"], (text for text in ["a b", "a b"])))
    queries, documents = ([patch.get_height() for patch in bars] for bars in ax.containers)
    assert queries == pytest.approx([2 / 3, 1 / 3]) or queries == pytest.approx([2 / 3, 0, 1 / 3])
    assert sum(documents) == pytest.approx(1)
    assert title(ax) == "Median length in words: queries 1, documents 2"
    assert legend(ax) == ["queries", "documents"]
    assert ax.get_ylabel() == "Share of texts"
    assert "Words" in ax.get_xlabel()


def test_lengths_of_long_texts_has_few_bars_that_hold_every_text_on_a_log_axis():
    texts = ["w " * count for count in range(1, 2001)]
    ax = drawn(plots.length_histogram(["w"], texts))
    heights = [patch.get_height() for patch in ax.containers[1]]
    assert len(heights) <= 30
    assert sum(heights) == pytest.approx(1)
    assert heights[0] == pytest.approx(1 / 2000)  # a bar of its own for one word
    assert ax.get_xscale() == "log"
    assert "last bar: 1,980 or more" in ax.get_xlabel()
    assert heights[-1] >= 20 / 2000  # which the longest 1 % share


def test_group_sizes_counts_groups_and_clips_the_tail():
    ax = drawn(plots.group_sizes(["a", "b", "b", *["c"] * 50, *["d"] * 20]))
    bars = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in ax.patches}
    assert bars == {1: 1, 2: 1, 20: 2}
    assert title(ax) == "4 groups: 25% have a single row, the largest has 50"
    assert ax.get_yscale() == "log"


# Training


def test_history_marks_the_best_step_on_both_axes():
    axes = plots.history(history_table())
    assert [ax.get_ylabel() for ax in axes] == ["Loss", "Validation mrr"]
    assert title(axes[0]) == "Best validation mrr 0.700 at step 1,200 of 1,800"
    assert axes[0].lines[0].get_xdata().tolist() == [600, 1200, 1800]  # the loss before training is unknown
    for ax in axes:
        assert list(ax.lines[1].get_xdata()) == [1200, 1200]
    star = axes[1].lines[2]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (1200, 0.7)
    assert axes[1].get_xlabel() == "Step (optimiser updates)"
    drawn(axes[0])


def test_history_marks_the_step_that_was_kept():
    axes = plots.history(history_table(), kept=1800)
    value = history_table()["mrr"].iloc[-1]
    assert title(axes[0]) == f"Kept: step 1,800 of 1,800, validation mrr {value:.3f} (best: 0.700 at step 1,200)"
    assert all(list(ax.lines[1].get_xdata()) == [1800, 1800] for ax in axes)
    star = axes[1].lines[2]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (1800, value)
    drawn(axes[0])
    axes = plots.history(history_table(), kept=1200)
    assert title(axes[0]) == "Kept: step 1,200 of 1,800, validation mrr 0.700, the best"


def test_history_takes_the_goal_and_given_axes_and_does_without_a_goal():
    given = plt.subplots(1, 2)[1]
    table = history_table().assign(**{"ndcg@10": [0.1, 0.4, 0.2, np.nan]})
    axes = plots.history(table, "ndcg@10", given)
    assert axes[0] is given[0]
    assert "0.400 at step 600" in title(axes[0])
    (loss,) = plots.history(table.assign(mrr=np.nan))
    assert title(loss) == "Loss; no validation rows, so no best step" and loss.get_ylabel() == "Loss"


def test_active_and_spread_draws_both_and_says_where_they_end():
    ax = drawn(plots.active_and_spread(history_table()))
    assert "25% of the rows are active" in title(ax) and "spread is 0.60" in title(ax)
    assert [len(line.get_xdata()) for line in ax.lines] == [3, 4]
    assert legend(ax)[0].startswith("active") and legend(ax)[1].startswith("spread")


# Quality


def test_metric_bars_has_a_bar_and_an_interval_for_every_system_and_metric():
    ax = drawn(plots.metric_bars(metrics_table()))
    assert len(ax.patches) == 16
    assert legend(ax) == ["bm25", "tfidf", "base", "trained"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["mrr", "pass@1", "recall@10", "ndcg@10"]
    assert title(ax) == "q2d: trained leads with mrr 0.66; training changed it by +0.18"
    trained = ax.containers[-2]
    assert [bar.get_height() for bar in trained] == [0.66] * 4
    assert to_hex(trained[0].get_facecolor()) == plots.BLUE.lower()
    low, high = ax.collections[-1].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((0.64, 0.69))
    assert len(ax.collections) == 4
    assert [text.get_text() for text in ax.texts].count("0.66") == 4


def test_metric_bars_draws_other_systems_directions_and_gaps():
    table = metrics_table()
    table = table[~((table["system"] == "base") & (table["metric"] == "mrr"))].replace({"system": {"bm25": AWKWARD}})
    ax = drawn(plots.metric_bars(table, "d2q", names=("mrr", "map", "absent")))
    assert legend(ax) == ["tfidf", "base", "trained", AWKWARD]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["mrr", "map"]
    assert len(ax.texts) == 7
    assert title(ax).startswith("d2q: trained leads with mrr 0.66")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plots.length_histogram([], ["a"]), "no queries to draw"),
        (lambda: plots.length_histogram(["a"], iter([])), "no documents to draw"),
        (lambda: plots.group_sizes([]), "no groups to draw"),
        (lambda: plots.history(history_table()[:0]), "no rows in the history"),
        (lambda: plots.history(history_table(), "map"), "the history has no column map; columns: step, loss"),
        (lambda: plots.active_and_spread(pd.DataFrame({"step": [1]})), "no column active"),
        (lambda: plots.metric_bars(metrics_table(), "sideways"), "no metrics of sideways"),
        (lambda: plots.metric_bars(metrics_table().drop(columns="low")), "no column low"),
    ],
)
def test_what_cannot_be_drawn_is_named(call, words: str):
    with pytest.raises(InputError, match=re.escape(words)):
        call()


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plots.length_histogram(["a"], ["b"], ax),
        lambda ax: plots.group_sizes(["a"], ax),
        lambda ax: plots.active_and_spread(history_table(), ax),
        lambda ax: plots.metric_bars(metrics_table(), ax=ax),
    ],
)
def test_a_given_axis_is_used_and_no_figure_is_opened(draw):
    given = plt.subplots()[1]
    assert draw(given) is given
    assert plt.get_fignums() == [given.figure.number]
    assert given.get_xlabel() or given.get_ylabel()


# Showing


def displayed(drawn: object, alt: str) -> dict:
    """What a kernel would send to the notebook."""
    InteractiveShell.instance()
    with capture_output() as captured:
        plots.show(drawn, alt)
    (output,) = captured.outputs
    return output.data


def test_show_carries_the_alt_text_into_the_exported_page_and_closes_the_figure():
    alt = 'Two bars: "base" < "trained" & more'
    data = displayed(plots.metric_bars(metrics_table()), alt)
    assert plt.get_fignums() == []
    assert data["text/plain"] == alt
    output = nbformat.v4.new_output("display_data", data)
    page, _ = HTMLExporter(template_name="lab").from_notebook_node(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("show()", outputs=[output])])
    )
    (image,) = re.findall(r"<img [^>]*>", page)
    assert 'alt="Two bars: &quot;base&quot; &lt; &quot;trained&quot; &amp; more"' in image or (
        'alt=\'Two bars: "base" &lt; "trained" &amp; more\'' in image
    )
    assert 'src="data:image/png;base64,iVBOR' in image
    assert 'width="800"' in image


def test_show_takes_figures_and_arrays_of_axes_and_scripts_the_font_lacks():
    axes = plots.history(history_table())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "image/png" in displayed(axes, "curves")["text/html"]
        figure, ax = plt.subplots()
        ax.set_title("会计师")
        assert "image/png" in displayed(figure, "an empty figure")["text/html"]
    assert plt.get_fignums() == []


def test_image_is_closed_sharp_and_described():
    figure = plt.subplots(figsize=(2, 1))[0]
    image = plots.image(figure, 'a "<b>" & c', sharpness=50)
    assert plt.get_fignums() == []
    assert 'width="200" alt="a &quot;&lt;b&gt;&quot; &amp; c"' in image
    png = base64.b64decode(re.search(r"base64,([^\"]+)", image)[1])
    assert int.from_bytes(png[16:20]) == 100 and int.from_bytes(png[20:24]) == 50
