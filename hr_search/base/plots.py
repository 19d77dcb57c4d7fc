"""Figures whose titles say what is seen; each function takes data and an optional axis and returns the axis.

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart. Texts are drawn as they
are: `$`, `_` and `<` are not markup.
"""

from __future__ import annotations

import base64
import html
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import MaxNLocator, PercentFormatter

from hr_search.base.errors import InputError

BLUE, ORANGE, RED, SKY, PINK, GREY = "#0072B2", "#E69F00", "#D55E00", "#56B4E9", "#CC79A7", "#999999"
SIDE_COLOURS = {"query": BLUE, "document": ORANGE, "all": "black"}
SYSTEM_COLOURS = {"bm25": GREY, "tfidf": SKY, "base": ORANGE, "trained": BLUE}
HEADLINES = ("mrr", "pass@1", "recall@10", "ndcg@10")
STEP = "Step (optimiser updates)"


def length_histogram(queries: Iterable[str], documents: Iterable[str], ax: Axes | None = None) -> Axes:
    """Text lengths in words, queries beside documents; the longest 1 % share the last bar."""
    parts = {"queries": queries, "documents": documents}
    words = [np.array([len(str(text).split()) for text in require_some(texts, what)]) for what, texts in parts.items()]
    ax = new_axis(ax)
    end = max(2, *(int(np.percentile(counts, 99)) for counts in words))
    shares = [np.full(len(counts), 1 / len(counts)) for counts in words]
    long = end > 40  # queries of 3 words and documents of 300 do not fit on one linear axis
    bins = (np.unique(np.geomspace(1, end + 1, 31).round()) if long else np.arange(1, end + 2)) - 0.5
    clipped = [np.clip(counts, 1, end) for counts in words]
    ax.hist(clipped, bins, weights=shares, color=[BLUE, ORANGE], label=list(parts))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    if long:
        ax.set_xscale("log")
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    title = f"Median length in words: queries {np.median(words[0]):g}, documents {np.median(words[1]):g}"
    return finish(ax, title, f"Words{long * ', log scale'} (last bar: {end:,} or more)", "Share of texts", legend=True)


def group_sizes(groups: Sequence[str], ax: Axes | None = None) -> Axes:
    """How many groups have one row, two rows and so on; a split keeps groups together."""
    sizes = pd.Series(require_some(groups, "groups")).value_counts()
    bars = sizes.clip(upper=20).value_counts()
    ax = new_axis(ax)
    ax.bar(bars.index, bars.to_numpy(), color=BLUE)
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.7)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    title = f"{len(sizes):,} groups: {(sizes == 1).mean():.0%} have a single row, the largest has {sizes.max():,}"
    return finish(ax, title, "Rows in a group (20 = 20 or more)", "Groups (log scale)")


def history(
    table: pd.DataFrame, goal: str = "mrr", axes: Sequence[Axes] | None = None, kept: int | None = None
) -> np.ndarray:
    """Loss above, validation metric `goal` below, the step whose model was kept marked in both.

    Without validation rows there is only the loss.

    Args:
        table: `history.csv` of a run.
        goal: the metric that decides.
        axes: where to draw; None = a new figure.
        kept: the run's `best_step`, the last one within a standard error of the best; None = the best is marked.
    """
    require_columns(table, ("step", "loss", goal), "the history")
    if table[goal].isna().all():
        axes = new_axes(axes, 1, 1, (7, 3))
        _line(axes[0], table, "loss", RED)
        finish(axes[0], "Loss; no validation rows, so no best step", STEP, "Loss")
        return axes
    best, last = table.iloc[table[goal].argmax()], table["step"].max()
    marked, title = best, f"Best validation {goal} {best[goal]:.3f} at step {best['step']:,.0f} of {last:,.0f}"
    if kept is not None and (table["step"] == kept).any():
        marked = table[table["step"] == kept].iloc[0]
        title = f"Kept: step {kept:,} of {last:,.0f}, validation {goal} {marked[goal]:.3f}"
        title += f" (best: {best[goal]:.3f} at step {best['step']:,.0f})" if best["step"] != kept else ", the best"
    axes = new_axes(axes, 2, 1, (7, 5), sharex=True)
    for ax, name, colour in zip(axes, ("loss", goal), (RED, BLUE), strict=True):
        _line(ax, table, name, colour)
        ax.axvline(marked["step"], color=GREY, linestyle="--", linewidth=1)
    axes[1].plot(marked["step"], marked[goal], marker="*", markersize=13, color=BLUE)
    finish(axes[0], title, "", "Loss")
    finish(axes[1], "", STEP, f"Validation {goal}")
    return axes


def active_and_spread(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The share of active rows, whether there is still something to learn, and the spread of the documents.

    Args:
        table: `history.csv` of a run.
        ax: where to draw; None = a new figure.
    """
    require_columns(table, ("step", "active", "spread"), "the history")
    ax = new_axis(ax)
    active = _line(ax, table, "active", RED, "active: positive not yet ahead by the margin")
    title = f"At the end {active:.0%} of the rows are active"
    if table["spread"].notna().any():  # the pairs of a second stage have none
        spread = _line(ax, table, "spread", BLUE, "spread: 1 - mean cosine of documents")
        title += f"; the documents' spread is {spread:.2f}"
    ax.set_ylim(-0.03, max(1.03, ax.get_ylim()[1]))
    return finish(ax, title, STEP, "Share (0 to 1)", legend=True)


def metric_bars(
    metrics: pd.DataFrame, direction: str = "q2d", names: Sequence[str] = HEADLINES, ax: Axes | None = None
) -> Axes:
    """The metrics `names` of every system, with 95 % intervals, from a run's `metrics.csv`."""
    require_columns(metrics, ("system", "direction", "metric", "value", "low", "high"), "the metrics table")
    table = metrics[(metrics["direction"] == direction) & metrics["metric"].isin(names)]
    table = require_some(table, f"metrics of {direction}").drop_duplicates(["system", "metric"], keep="last")
    wide = table.pivot(index="metric", columns="system", values=["value", "low", "high"]).astype(float)
    wide = wide.loc[[name for name in names if name in wide.index]]
    systems = known_first(table["system"], SYSTEM_COLOURS)
    ax = new_axis(ax, (8, 4.2))
    width = 0.84 / len(systems)
    for place, system in enumerate(systems):
        value, low, high = (wide[part, system].to_numpy() for part in ("value", "low", "high"))
        x = np.arange(len(wide)) + (place - (len(systems) - 1) / 2) * width
        ax.bar(x, value, width * 0.94, color=SYSTEM_COLOURS.get(system, PINK), label=system)
        reach = np.clip([value - low, high - value], 0, None)
        ax.errorbar(x, value, reach, fmt="none", ecolor="#333333", elinewidth=1, capsize=2)
        for left, top, score in zip(x, np.fmax(high, value), value, strict=True):
            if np.isfinite(score):
                ax.text(left, top + 0.012, f"{score:.2f}", ha="center", fontsize=7.5)
    ax.set_xticks(range(len(wide)), wide.index, parse_math=False)
    ax.set_ylim(0, 1.06)
    scores = wide["value"].iloc[0].fillna(0)
    title = f"{direction}: {scores.idxmax()} leads with {scores.name} {scores.max():.2f}"
    if {"base", "trained"} <= set(systems):
        title += f"; training changed it by {scores['trained'] - scores['base']:+.2f}"
    finish(ax, title, "", "Value (0 to 1) and 95% interval", legend=True)
    ax.grid(axis="x", visible=False)
    return ax


def show(drawn: Any, alt: str) -> None:
    """Displays a figure in a notebook with an alt text, then closes the figure.

    The picture is displayed as HTML, which notebooks and exported pages show alike: nbconvert's lab template
    drops the alt text of an image's metadata.

    Args:
        drawn: a figure, an axis or an array of axes, as the functions here return them.
        alt: what is seen, in one or two sentences.
    """
    from IPython.display import display

    display({"text/html": image(drawn, alt), "text/plain": alt}, raw=True)


def image(drawn: Any, alt: str, sharpness: int = 200) -> str:
    """A figure as a self-contained HTML image; the figure is closed.

    Args:
        drawn: a figure, an axis or an array of axes.
        alt: what is seen, in one or two sentences.
        sharpness: dots per inch; shown at 100, so 200 is sharp on high-resolution screens.
    """
    figure = drawn if isinstance(drawn, Figure) else np.ravel(drawn)[0].figure
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # characters that the font lacks become boxes
        figure.savefig(picture, format="png", dpi=sharpness)
    plt.close(figure)
    source = f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
    return f'<img src="{source}" width="{figure.get_figwidth() * 100:.0f}" alt="{html.escape(alt)}">'


def new_axis(ax: Axes | None, size: tuple[float, float] = (7, 4)) -> Axes:
    """`ax`, or the axis of a new figure of `size` inches."""
    return ax if ax is not None else plt.subplots(figsize=size, dpi=100, layout="constrained")[1]


def new_axes(
    axes: Sequence[Axes] | None, rows: int, columns: int, size: tuple[float, float], **more: Any
) -> np.ndarray:
    """`axes`, or those of a new figure, flat."""
    if axes is None:
        axes = plt.subplots(rows, columns, figsize=size, dpi=100, layout="constrained", **more)[1]
    return np.ravel(axes)


def finish(ax: Axes, title: str, x: str, y: str, legend: bool = False) -> Axes:
    """Gives an axis the look that all figures share: title on top, the legend between title and data."""
    ax.set_title(title, loc="left", fontsize=11, pad=24 if legend else 6, parse_math=False)
    ax.set_xlabel(x)
    ax.set_ylabel(y, parse_math=False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#E5E5E5", linewidth=0.7)
    ax.set_axisbelow(True)
    if legend:
        plain_legend(ax.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.99), ncols=8, frameon=False, fontsize=9))
    return ax


def plain_legend(legend: Legend) -> None:
    """Draws the legend's texts as they are, not as mathematics."""
    plt.setp(legend.get_texts(), parse_math=False)


def _line(ax: Axes, table: pd.DataFrame, name: str, colour: str, label: str | None = None) -> float:
    """Draws a column over the steps; returns its last value."""
    seen = table[["step", name]].dropna()
    ax.plot(seen["step"], seen[name], color=colour, marker="o", markersize=3, label=label)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    return float(seen[name].iloc[-1]) if len(seen) else np.nan


def shares_of(ax: Axes, parts: Mapping[str, tuple[Sequence[float], str]], start: float | None = None) -> np.ndarray:
    """Draws histograms (values and colour by label) over common bins and returns the shares, (parts, bins)."""
    arrays = {label: np.asarray(part, dtype=float) for label, (part, _) in parts.items()}
    values = [require_some(x[np.isfinite(x)], f"finite values of {label}") for label, x in arrays.items()]
    low, high = min(map(np.min, values)) if start is None else start, max(map(np.max, values))
    bins = np.linspace(low, max(high, low + 1e-6), int(np.clip(np.sqrt(min(map(len, values))), 8, 60)) + 1)
    shares = np.array([np.histogram(part, bins)[0] / len(part) for part in values])
    for (label, (_, colour)), heights in zip(parts.items(), shares, strict=True):
        ax.stairs(heights, bins, fill=True, color=colour, alpha=0.4, label=label)
        ax.stairs(np.where(heights, heights, np.nan), bins, color=colour, linewidth=1.5)
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    return shares


def require_columns(table: pd.DataFrame, names: Sequence[str], what: str) -> None:
    """Checks that a table has these columns and at least one row."""
    if missing := [name for name in names if name not in table]:
        raise InputError(f"{what} has no column {missing[0]}; columns: {', '.join(map(str, table.columns))}.")
    require_some(table, f"rows in {what}")


def require_some(values: Any, what: str) -> Any:
    """`values`, refused if there are none."""
    values = values if hasattr(values, "__len__") else list(values)
    if not len(values):
        raise InputError(f"there are no {what} to draw.")
    return values


def known_first(present: Iterable[str], known: Iterable[str]) -> list[str]:
    """The distinct names present: the known ones in their order, then the others."""
    present = dict.fromkeys(present)
    return [name for name in known if name in present] + [name for name in present if name not in set(known)]
