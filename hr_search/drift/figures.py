"""Figures of drift: the measures over the steps, the map at each checkpoint, and which texts went where.

Each function takes data and an optional axis, and returns the axis in the style of `hr_search.base.plots`.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hr_search.base.errors import InputError
from hr_search.base.plots import (
    BLUE,
    ORANGE,
    PINK,
    RED,
    SIDE_COLOURS,
    SKY,
    STEP,
    finish,
    known_first,
    new_axes,
    new_axis,
    plain_legend,
    require_columns,
    require_some,
    shares_of,
)
from hr_search.drift.probes import cut
from hr_search.drift.umap_layout import Layout

MEASURES = {
    "displacement": "Displacement (1 - cosine)",
    "jaccard": "Same neighbours (Jaccard)",
    "cka": "Same geometry (linear CKA)",
    "procrustes": "Beyond rotation (Procrustes)",
    "alignment": "Pairs apart (squared distance)",
    "uniformity": "Uniformity (lower = more even)",
    "anisotropy": "Mean cosine (lower = wider)",
    "isoscore": "Dimensions used (IsoScore)",
}
# For groups on a map: six colours of Okabe and Ito (2008), and black, which are distinct even in small dots.
PALETTE = (BLUE, ORANGE, "#009E73", RED, SKY, PINK, "#000000")
FADED = "#C4C4C4"
SHAPES = {"query": "o", "document": "^"}
LARGE = 5  # texts a group needs to get a colour


def classes(texts: pd.DataFrame) -> tuple[np.ndarray, dict[str, str]]:
    """What the colours of a map mean: the seven largest groups, or the sides where no group has five texts.

    Args:
        texts: the texts on the map: side, group.

    Returns:
        (N,) the label of each text, empty for those that stay grey, and label to colour, largest first.
    """
    sizes = texts["group"].value_counts()
    large = sizes[sizes >= LARGE].index[: len(PALETTE)]
    if large.empty:
        sides = known_first(texts["side"], SIDE_COLOURS)
        return texts["side"].to_numpy(dtype=object), {side: SIDE_COLOURS.get(side, PINK) for side in sides}
    labels = texts["group"].where(texts["group"].isin(large), "").to_numpy(dtype=object)
    return labels, dict(zip(large, PALETTE, strict=False))


def small_multiples(
    layout: Layout, texts: pd.DataFrame, steps: Sequence[int] | None = None, axes: Sequence[Axes] | None = None
) -> np.ndarray:
    """The map at each checkpoint side by side, on one scale; round dots are queries, triangles documents.

    Args:
        layout: from `umap_layout.aligned_layout`; it understates movement.
        texts: all probe texts (side, text, group), as `probes.load_probes` returns them.
        steps: the checkpoints drawn; None = all of the map.
        axes: one for each step.
    """
    shown = on_map(layout, texts)
    steps = list(layout.places) if steps is None else list(steps)
    _require_steps(layout, steps)
    labels, colours = classes(shown)
    sides = shown["side"].to_numpy()
    columns = min(len(steps), 4)
    rows = -(-len(steps) // columns)
    width = max(2.6 * columns, 5.2)
    axes = new_axes(axes, rows, columns, (width, 2.8 * rows + 0.9), sharex=True, sharey=True)
    for ax, step in zip(axes, steps, strict=False):
        _panel(ax, layout.places[step], labels, sides, colours)
        finish(ax, f"Step {step:,}, neighbours kept {layout.preservation[step]:.0%}", "", "")
        ax.title.set_fontsize(9)
        ax.spines[:].set(visible=True, color="#CCCCCC")
    for ax in axes[len(steps) :]:
        ax.set_axis_off()
    figure = axes[0].figure
    meaning = "sides" if set(colours) <= set(sides) else "the largest groups"
    title = f"{len(shown):,} texts at {len(steps)} checkpoints, coloured by {meaning}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    named = colours | ({"others": FADED} if "" in labels else {})
    marks = [plt.Line2D([], [], linestyle="", marker=SHAPES.get(name, "s"), color=named[name]) for name in named]
    names = [cut(name, 30) for name in named]
    room = width // (0.4 + 0.08 * max(map(len, names)))  # inches per mark and per letter
    look = {"ncols": int(np.clip(room, 1, len(names))), "frameon": False, "fontsize": 8}
    plain_legend(figure.legend(marks, names, loc="outside lower center", **look))
    return axes[: len(steps)]


def displacement_histogram(values: Sequence[float], sides: Sequence[str], ax: Axes | None = None) -> Axes:
    """How far single texts moved: `measures.displacement` of two checkpoints, (P,), by side, (P,)."""
    values, sides = np.asarray(require_some(values, "displacements")), np.asarray(sides, dtype=object)
    if len(values) != len(sides):
        raise InputError(f"there are {len(sides)} sides for {len(values)} displacements; give one for each text.")
    parts = {side: (values[sides == side], SIDE_COLOURS.get(side, PINK)) for side in known_first(sides, SIDE_COLOURS)}
    ax = new_axis(ax)
    shares_of(ax, parts, start=0.0)
    title = "Median displacement: " + ", ".join(f"{side} {np.median(part):.2f}" for side, (part, _) in parts.items())
    return finish(ax, title, "Displacement (1 - cosine; 0 = stayed)", "Share of texts", legend=True)


def drift_over_steps(table: pd.DataFrame, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """The measures of `measures.drift_table` over the steps, an axis each; the band holds 80 % of the texts."""
    require_columns(table, ("step", "side", "measure", "value"), "the drift table")
    require_some(table[table["side"] == "all"], 'rows of side "all" in the drift table')
    wide = table.pivot(index="step", columns=["measure", "side"], values="value").sort_index()
    names = {known: name for known in MEASURES for name in wide.columns.levels[0] if name.split("@")[0] == known}
    columns = (len(require_some(names, "measures of drift")) + 1) // 2
    axes = new_axes(axes, 2, columns, (2.9 * columns, 5.2))
    shown = {}
    for ax, (known, name) in zip(axes, names.items(), strict=False):
        sides = known_first(wide[name].columns, SIDE_COLOURS)
        for side in [side for side in sides if side != "all"] or sides:
            colour = SIDE_COLOURS.get(side, PINK)
            (shown[side],) = ax.plot(wide.index, wide[name, side], color=colour, marker="o", markersize=3)
            if name == "displacement" and ("displacement_p10", side) in wide:
                low, high = (wide[f"displacement_p{part}", side] for part in (10, 90))
                ax.fill_between(wide.index, low, high, color=colour, alpha=0.18, linewidth=0)
        finish(ax, MEASURES[known].replace("Jaccard", name.capitalize()), STEP, "")
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    end = wide.iloc[-1].xs("all", level="side")
    figure = axes[0].figure
    quoted = {"displacement": "mean displacement", "jaccard": "neighbours kept", "cka": "CKA"}
    title = ", ".join(f"{words} {end[names[known]]:.2f}" for known, words in quoted.items() if known in names)
    figure.suptitle(f"At step {wide.index[-1]:,}: {title}", x=0.01, ha="left", fontsize=11)
    plain_legend(
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=len(shown), frameon=False)
    )
    return axes[: len(names)]


def drift_arrows(
    layout: Layout, texts: pd.DataFrame, steps: tuple[int, int] | None = None, arrows: int = 200, ax: Axes | None = None
) -> Axes:
    """Where texts went on the map between two checkpoints; grey dots show where all texts are at the end.

    Args:
        layout: from `umap_layout.aligned_layout`; it understates movement.
        texts: all probe texts (side, text), as `probes.load_probes` returns them.
        steps: from and to; None = the first and the last.
        arrows: at most this many, sampled evenly from the map; up to 8 of the longest are labelled with their text.
        ax: an axis to draw on.
    """
    first, last = steps or (min(layout.places), max(layout.places))
    _require_steps(layout, [first, last])
    a, b = layout.places[first], layout.places[last]
    shown = on_map(layout, texts)
    drawn = np.unique(np.linspace(0, len(a) - 1, min(arrows, len(a))).round().astype(int))
    longest = drawn[np.argsort(-np.linalg.norm(b - a, axis=1)[drawn], kind="stable")]
    width, height = np.ptp(np.concatenate([a, b]), axis=0)
    named = _apart(b / (max(width, 1.2 * height), max(height, width / 1.2)), longest, 8)
    ax = new_axis(ax, (8, 6.4))
    ax.scatter(*b.T, s=4, color="#D9D9D9", linewidths=0)
    for side in known_first(shown["side"], SIDE_COLOURS):
        for rows, alpha, width in ((np.setdiff1d(drawn, named), 0.45, 0.0015), (named, 1.0, 0.0035)):
            part = rows[shown["side"].to_numpy()[rows] == side]
            look = {"color": SIDE_COLOURS.get(side, PINK), "alpha": alpha, "width": width, "headwidth": 5}
            ax.quiver(*a[part].T, *(b - a)[part].T, angles="xy", scale_units="xy", scale=1, **look)
        ax.plot([], [], color=SIDE_COLOURS.get(side, PINK), linewidth=3, label=side)  # for the legend
    for index in named:
        _label(ax, shown["text"].iloc[index], a[index], b[index])
    ax.margins(x=0.16)  # room for the texts at both edges
    ax.set(aspect="equal", adjustable="datalim", xticks=[], yticks=[])
    title = f"Paths of {len(drawn):,} of {len(a):,} texts, step {first:,} to {last:,} (the map understates movement)"
    return finish(ax, title, "Map x (no unit)", "Map y (no unit)", legend=True)


def on_map(layout: Layout, texts: pd.DataFrame) -> pd.DataFrame:
    """The N probe texts that a map shows, of all of them.

    Raises:
        InputError: there are fewer texts than the map needs.
    """
    if len(texts) <= layout.rows.max():
        raise InputError(f"the map shows text {layout.rows.max() + 1} of only {len(texts)}; give all probe texts.")
    return texts.iloc[layout.rows]


def _panel(ax: Axes, places: np.ndarray, labels: np.ndarray, sides: np.ndarray, colours: dict[str, str]) -> None:
    """Draws the texts at their places (N, 2), those without a label first, so that they lie below the others."""
    dot = float(np.clip(4000 / len(places), 3, 16))
    for label, colour in {"": FADED, **colours}.items():
        for side in known_first(sides, SHAPES):
            part = places[(labels == label) & (sides == side)]
            ax.scatter(*part.T, s=dot, color=colour, marker=SHAPES.get(side, "s"), linewidths=0)
    ax.set(xticks=[], yticks=[])
    ax.set_box_aspect(1)


def _label(ax: Axes, text: str, start: np.ndarray, end: np.ndarray) -> None:
    """Writes a text ahead of an arrow, so that it does not cover it."""
    right = end[0] >= start[0]
    place = {"xytext": (5 if right else -5, 0), "ha": "left" if right else "right", "va": "center"}
    box = {"boxstyle": "round,pad=0.15", "color": "white", "alpha": 0.75}
    look = {"textcoords": "offset points", "fontsize": 8, "bbox": box, "parse_math": False}
    ax.annotate(cut(text, 28), end, **place, **look)


def _require_steps(layout: Layout, steps: Sequence[int]) -> None:
    """Refuses checkpoints that the map does not have."""
    if not steps or not set(steps) <= set(layout.places):
        named = " and ".join(map(str, steps)) or "none"
        raise InputError(f"the map has the steps {', '.join(map(str, layout.places))}, not {named}.")


def _apart(places: np.ndarray, ranked: np.ndarray, count: int) -> np.ndarray:
    """The first `count` of `ranked` whose labels would not cover each other, places as shares of the frame."""
    kept = np.empty(0, dtype=int)
    for index in ranked:
        gaps = np.abs(places[kept] - places[index])
        if len(kept) < count and ((gaps[:, 0] > 0.4) | (gaps[:, 1] > 0.05)).all():
            kept = np.append(kept, index)
    return kept
