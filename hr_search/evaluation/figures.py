"""Figures of per-query results: which queries won, for whom it is better, and what a cosine is worth.

Each function takes data and an optional axis, and returns the axis in the style of `hr_search.base.plots`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from hr_search.base.plots import (
    BLUE,
    GREY,
    ORANGE,
    RED,
    SYSTEM_COLOURS,
    finish,
    known_first,
    new_axes,
    new_axis,
    require_columns,
    require_some,
)
from hr_search.evaluation import calibration
from hr_search.evaluation.significance import FEW, LABELS

# Kinds of documents in `scores.csv` as they are drawn: name, colour, line.
_KINDS = {
    "negative": ("random wrong", GREY, "-"),
    "nearest": ("nearest wrong", ORANGE, "--"),
    "positive": ("right", BLUE, "-"),
}


def sorted_gains(changes: pd.DataFrame, before: str = "base", after: str = "trained", ax: Axes | None = None) -> Axes:
    """What training did to each query, from the largest gain to the largest loss, from `comparison.changes`."""
    require_columns(changes, ("gain", "outcome"), "the table of changes")
    gain = np.sort(changes["gain"].to_numpy(dtype=float))[::-1]
    counts = changes["outcome"].value_counts().reindex(["won", "lost", "unchanged"], fill_value=0)
    ax = new_axis(ax, (8, 3.6))
    for outcome, part, colour in (("won", gain.clip(min=0), BLUE), ("lost", gain.clip(max=0), RED)):
        label = f"{outcome} by {after}: {counts[outcome] / len(gain):.0%}"
        ax.stairs(part, np.arange(len(gain) + 1), fill=True, color=colour, label=label)
    ax.axhline(0, color="black", linewidth=1)
    ax.set(ylim=(-1.05, 1.05), xlim=(0, len(gain)))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    title = f"{after} against {before}: " + ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items())
    return finish(ax, title, "Test queries, largest gain first", "Change of the reciprocal rank", legend=True)


def part_intervals(table: pd.DataFrame, metric: str = "mrr", ax: Axes | None = None) -> Axes:
    """A metric before and after training for each part of the queries, from `subgroups.compare_parts`.

    Kinds with only one part are not drawn; parts of fewer than ten queries have no interval.
    """
    require_columns(table, ("by", "part", "queries", "system", "value", "low", "high"), "the table of parts")
    several = table.groupby("by")["part"].transform("nunique") > 1
    shown = require_some(table[several | (table["by"] == "all")], "parts of queries")
    places, labels, headings = {}, {}, []
    for by, rows in shown.drop_duplicates(["by", "part"]).groupby("by", sort=False):
        if by != "all":
            headings.append(len(labels))
            labels[len(labels)] = by
        for row in rows.itertuples():
            places[by, row.part] = len(labels)
            labels[len(labels)] = f"{row.part} ({row.queries:,})"
    ax = new_axis(ax, (8, 1.3 + 0.26 * len(labels)))
    for system, shift, marker in (("base", -0.16, "o"), ("trained", 0.16, "s")):
        rows = shown[shown["system"] == system]
        heights = [places[key] + shift for key in zip(rows["by"], rows["part"], strict=True)]
        reach = np.clip([rows["value"] - rows["low"], rows["high"] - rows["value"]], 0, None)
        look = {"color": SYSTEM_COLOURS[system], "marker": marker, "markersize": 4.5, "elinewidth": 1.6}
        ax.errorbar(rows["value"], heights, xerr=reach, label=system, linestyle="", **look)
    ax.set_yticks(list(labels), list(labels.values()), parse_math=False)
    for place in headings:
        ax.get_yticklabels()[place].set_fontweight("bold")
        ax.axhline(place - 0.5, color="#CCCCCC", linewidth=0.7)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    name = LABELS.get(metric, metric)
    title = textwrap.fill(_most_and_least(shown, name), 72)  # the labels need a share of the width
    finish(ax, title, f"{name} with 95% interval (number of queries in brackets)", "", legend=True)
    ax.grid(axis="y", visible=False)
    return ax


def score_distributions(scores: pd.DataFrame, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Cosines of right, random wrong and nearest wrong documents, a panel per system, from `scores.csv`.

    Args:
        scores: the rows of one direction.
        axes: one for each system.
    """
    require_columns(scores, ("system", "kind", "score"), "the table of scores")
    systems = known_first(scores["system"], SYSTEM_COLOURS)
    numbers = calibration.separation(scores)
    axes = new_axes(axes, len(systems), 1, (8, 2.6 * len(systems) + 0.4), sharex=True)
    for number, (ax, system) in enumerate(zip(axes, systems, strict=True)):
        part = scores[scores["system"] == system]
        samples = {kind: part.loc[part["kind"] == kind, "score"].to_numpy() for kind in _KINDS}
        samples = {kind: sample for kind, sample in samples.items() if len(sample)}
        edges, shares = calibration.histograms(*samples.values())
        for kind, heights in zip(samples, shares, strict=True):
            name, colour, line = _KINDS[kind]
            ax.stairs(heights, edges, fill=True, color=colour, alpha=0.25)
            ax.stairs(heights, edges, color=colour, linestyle=line, linewidth=1.8, label=name)
        rows = numbers[numbers["system"] == system].itertuples()
        overlaps = [f"{row.against} by {row.overlap:.0%} (AUC {row.auc:.2f})" for row in rows]
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        title = f"{system}: right overlaps {', '.join(overlaps)}" if overlaps else f"{system}: right ones only"
        finish(ax, title, "Cosine" if number == len(systems) - 1 else "", "Share", legend=number == 0)
    return axes


def acceptance(first: pd.DataFrame, points: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Precision and recall of the first document found, over the cosine required to accept it.

    Args:
        first: from `calibration.first_found`; the lines cover all its queries.
        points: from `calibration.operating_points`; the marks show their cross-fitted values.
        ax: an axis to draw on.
    """
    require_columns(first, ("score", "right"), "the table of documents found first")
    curve = calibration.acceptance(first["score"], first["right"])
    shown = curve[curve["queries"] >= min(FEW, len(first))]  # a share of two or three means nothing
    ax = new_axis(ax, (8, 4))
    lines = {
        "precision": ("precision: share of the accepted that are right", BLUE, "-"),
        "recall": ("recall: share of all queries given a right one", ORANGE, "--"),
    }
    for name, (label, colour, line) in lines.items():
        ax.plot(shown["threshold"], shown[name], color=colour, linestyle=line, label=label)
    title = "No threshold reaches its goal"
    for point in points[points["precision"].notna() & points["threshold"].notna()].iloc[::-1].itertuples():
        ax.axvline(point.threshold, color=GREY, linewidth=1)
        side = "left" if point.threshold == points["threshold"].max() else "right"
        ax.text(point.threshold, 0.02, f" {point.goal} ", fontsize=8, color="#444444", ha=side)
        ax.plot(point.threshold, point.precision, marker="o", color=BLUE)
        ax.plot(point.threshold, point.recall, marker="s", color=ORANGE)
        title = f"{point.goal}: at cosine {point.threshold:.2f} or above, {point.precision:.0%} are right"
        title += f"; {point.recall:.0%} of all queries get a right one"
    ax.set_ylim(-0.03, 1.03)
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    return finish(ax, title, "Lowest cosine at which the first document is accepted", "Share of queries", legend=True)


def reliability(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How often the first document found is right at low and high cosines, from `calibration.reliability`."""
    require_columns(table, ("start", "end", "expected", "right", "low", "high"), "the table of reliability")
    middle = (table["start"] + table["end"]) / 2
    down = np.clip([table["right"] - table["low"], table["high"] - table["right"]], 0, None)
    along = [middle - table["start"], table["end"] - middle]
    ax = new_axis(ax, (8, 3.6))
    ax.errorbar(middle, table["right"], down, along, fmt="o", color=BLUE, elinewidth=1.5, label="right, 95% interval")
    look = {"color": ORANGE, "linestyle": "--", "marker": "s", "markersize": 4}
    ax.plot(middle, table["expected"], label="forecast, fitted on other groups", **look)
    ax.set_ylim(-0.03, 1.03)
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    error = calibration.calibration_error(table)
    title = f"The forecast is off by {100 * error:.0f} points on average"
    return finish(ax, title, "Cosine of the first document found", "Share that is right", legend=True)


def _most_and_least(table: pd.DataFrame, name: str) -> str:
    """Which parts, of those large enough for an interval, training changed most and least."""
    changed = table[table["system"] == "difference"]
    title = f"{name} {changed.loc[changed['by'] == 'all', 'value'].iloc[0]:+.2f} by training"
    known = changed[(changed["by"] != "all") & changed["low"].notna()]
    if len(known) < 2:
        return title
    ends = [known.loc[known["value"].idxmax()], known.loc[known["value"].idxmin()]]
    most, least = (f"{row['by']} {row['part']} ({row['value']:+.2f})" for row in ends)
    return f"{title}; most: {most}, least: {least}"
