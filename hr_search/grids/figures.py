"""Figures of grids: effects of the arms, values over two or many settings, and what mixing does in the plane.

Each function takes data and an optional axis and returns it, in the look of `hr_search.base.plots`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from hr_search import mixing
from hr_search.base import choices
from hr_search.base.errors import InputError
from hr_search.base.plots import (
    BLUE,
    GREY,
    ORANGE,
    PINK,
    RED,
    finish,
    new_axes,
    new_axis,
    require_columns,
    require_some,
)
from hr_search.evaluation.significance import ALPHA, LABELS

COLOURS = "cividis"  # safe for colour-blind readers, and uniform in grey
_LABELLED = 6  # up to so many values of a setting are all labelled; of more, only the ends and the middle
_SCENE = {"query": [20], "own": [48], "positives": [66, 92], "negatives": [-6, -24, -70, 160]}  # degrees


def effect_sizes(table: pd.DataFrame, metric: str = "mrr", ax: Axes | None = None) -> Axes:
    """Each arm's difference from the baseline with its 95 % interval, from `effect_table`; real ones in colour."""
    require_columns(table, ("arm", "difference", "low", "high", "p_holm", "verdict"), "the table of effects")
    shown = require_some(table[table["difference"].notna()], "arms beside the baseline").iloc[::-1]
    baseline = table.loc[table["verdict"] == "the baseline", "arm"]
    ax = new_axis(ax, (8, 1.4 + 0.34 * len(shown)))
    counts = {"better": 0, "worse": 0, "not shown to differ": 0}
    for place, row in enumerate(shown.itertuples()):
        real = row.p_holm < ALPHA and (row.low > 0 or row.high < 0)
        kind = ("better" if row.difference > 0 else "worse") if real else "not shown to differ"
        colour = {"better": BLUE, "worse": RED}.get(kind, GREY)
        ax.plot([row.low, row.high], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt")
        ax.plot(row.difference, place, marker="o", color=colour, label=None if counts[kind] else kind)
        counts[kind] += 1
    ax.axvline(0, color="black", linewidth=1)
    ax.set_yticks(range(len(shown)), shown["arm"], parse_math=False)
    title = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    against = baseline.iloc[0] if len(baseline) else "the baseline"
    finish(ax, title, "", "", legend=True)
    words = f"Difference in {LABELS.get(metric, metric)} from {against}, with 95% interval"
    ax.set_xlabel(textwrap.fill(words, 50), parse_math=False)
    return ax


def heat_map(table: pd.DataFrame, across: str, down: str, metric: str = "mrr", ax: Axes | None = None) -> Axes:
    """The metric over two settings, averaged over all others, from `effect_table`; gaps stay white.

    Raises:
        InputError: the same setting twice, or one that the table lacks.
    """
    require_columns(table, (across, down, "value"), "the table of effects")
    if across == down:
        raise InputError(f"a heat map needs two settings, not {across} twice.")
    wide = table.pivot_table(index=down, columns=across, values="value", aggfunc="mean")
    values = wide.to_numpy()
    ax = new_axis(ax, (2.6 + 0.9 * values.shape[1], 1.8 + 0.5 * values.shape[0]))
    image = ax.imshow(values, cmap=COLOURS, aspect="auto")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "black" if value > middle else "white"  # the map is dark where values are low
            ax.text(column, row, f"{value:.3f}", ha="center", va="center", color=colour, fontsize=9)
    for axis, names in ((ax.xaxis, wide.columns), (ax.yaxis, wide.index)):
        axis.set_ticks(range(len(names)), [_word(name) for name in names], parse_math=False)
    ax.figure.colorbar(image, ax=ax, label=f"Test {LABELS.get(metric, metric)}")
    row, column = np.unravel_index(np.nanargmax(values), values.shape)
    best = f"{across}={_word(wide.columns[column])}, {down}={_word(wide.index[row])}"
    finish(ax, _fitting(f"Best on average: {np.nanmax(values):.3f} with {best}", ax), across, down)
    ax.grid(visible=False)
    return ax


def parallel_coordinates(
    table: pd.DataFrame, settings: Sequence[str], metric: str = "mrr", ax: Axes | None = None
) -> Axes:
    """Each arm as a line through its settings to its value, the best one thick, from `effect_table`.

    Up to six values of a setting stand at equal distances; more get a linear axis, or a logarithmic one where the
    largest value is at least 20 times the smallest.
    """
    require_columns(table, ("arm", *settings, "value"), "the table of effects")
    require_some(settings, "settings that vary")
    values = table["value"].to_numpy(dtype=float)
    ends = values.min(), max(values.max(), values.min() + 1e-9)
    ax = new_axis(ax, (2 + 1.7 * len(settings), 4.2))
    heights = np.column_stack([_heights(table[name])[0] for name in settings] + [(values - ends[0]) / np.ptp(ends)])
    colours = plt.get_cmap(COLOURS)(0.9 * heights[:, -1])  # the lightest yellow is invisible on white
    for row in np.argsort(values, kind="stable"):
        best = row == values.argmax()
        look = {"color": colours[row], "linewidth": 3.5 if best else 1.4, "alpha": 1.0 if best else 0.8}
        ax.plot(range(len(settings) + 1), heights[row], **look)
    for place, name in enumerate(settings):
        ax.axvline(place, color=GREY, linewidth=0.8)
        for height, word in _heights(table[name])[1].items():
            box = {"boxstyle": "round,pad=0.15", "color": "white", "alpha": 0.8}
            ax.text(place, height, word, fontsize=8, ha="center", va="center", bbox=box, parse_math=False)
    ax.axvline(len(settings), color="black", linewidth=1)
    for end, height in zip(ends, (0, 1), strict=True):
        ax.text(len(settings) + 0.04, height, f"{end:.3f}", fontsize=9, va="center")
    ax.set_xticks(range(len(settings) + 1), [*settings, LABELS.get(metric, metric)], parse_math=False)
    ax.set(yticks=[], ylim=(-0.08, 1.08), xlim=(-0.35, len(settings) + 0.45))
    best = table.iloc[int(values.argmax())]
    finish(ax, _fitting(f"{len(table)} arms; best ({values.max():.3f}): {best['arm']}", ax), "", "")
    ax.spines[["left", "bottom"]].set_visible(False)
    return ax


def _fitting(title: str, ax: Axes) -> str:
    """The title, wrapped to the width of the axis: ten letters per inch."""
    return textwrap.fill(title, int(10 * ax.figure.get_figwidth() * ax.get_position().width))


def _heights(values: pd.Series) -> tuple[np.ndarray, dict[float, str]]:
    """The height of each value between 0 and 1, and the labels by height."""
    distinct = sorted(values.unique()) if pd.api.types.is_numeric_dtype(values) else list(dict.fromkeys(values))
    if len(distinct) <= _LABELLED or not pd.api.types.is_numeric_dtype(values):
        places = np.linspace(0, 1, len(distinct)) if len(distinct) > 1 else np.array([0.5])
        at = dict(zip(distinct, places, strict=True))
        return values.map(at).to_numpy(dtype=float), {place: _word(value) for value, place in at.items()}
    low, high, numbers = float(distinct[0]), float(distinct[-1]), values.to_numpy(dtype=float)
    if low > 0 and high / low >= 20:
        middle, heights = float(f"{np.sqrt(low * high):.2g}"), np.log(numbers / low) / np.log(high / low)
    else:
        middle, heights = (low + high) / 2, (numbers - low) / (high - low)
    return heights, {0.0: _word(low), 0.5: _word(middle), 1.0: _word(high)}


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def mixing_strategies(
    strategies: Sequence[str] = choices.MIXINGS,
    k: int = 2,
    weights: tuple[float, float, float] = (0.8, 0.5, 0.2),
    axes: Sequence[Axes] | None = None,
) -> np.ndarray:
    """What each mixing strategy makes of one query, its group's documents and its negatives, in the plane.

    The strategies are those of training, run in two dimensions: cosines are angles, and all points lie on a circle.

    Args:
        strategies: names from `choices.MIXINGS`.
        k: neighbours of each kind.
        weights: of the query, its positives and its negatives; larger than the defaults, so that moves are visible,
            and above 0 for the negatives, so that `weighted` (towards them) differs from `rocchio` (away).
        axes: one per strategy; none = a new figure.
    """
    columns = min(4, len(require_some(strategies, "strategies")))
    rows = -(-len(strategies) // columns)
    axes = new_axes(axes, rows, columns, (2.9 * columns, 3.1 * rows + 0.5))
    for ax, strategy in zip(axes, strategies, strict=False):
        _draw_strategy(ax, strategy, k, weights)
    for ax in axes[len(strategies) :]:
        ax.set_axis_off()
    words = f"k = {k}, weights {weights[0]:g}, {weights[1]:g} and {weights[2]:g}"
    figure = axes[0].figure
    figure.suptitle(
        f"The same query, positives and negatives under each strategy ({words})", x=0.01, ha="left", fontsize=11
    )
    handles = {text: handle for ax in axes for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    return axes[: len(strategies)]


def _draw_strategy(ax: Axes, strategy: str, k: int, weights: tuple[float, float, float]) -> None:
    """One panel: the points, and where the query moves or which negatives are synthesised."""
    points = {name: _on_circle(degrees) for name, degrees in _SCENE.items()}
    query, documents = points["query"], np.vstack([points[name] for name in ("own", "positives", "negatives")])
    right = torch.tensor([[place < 3 for place in range(len(documents))]])
    policy = mixing.MixingPolicy(strategy, k, *weights, count=3)
    scene = torch.tensor(query), torch.tensor(documents), torch.tensor([0]), right, ~right
    made = mixing.mix(*scene, policy, np.random.default_rng(0))
    ax.add_patch(plt.Circle((0, 0), 1, fill=False, color="#D9D9D9"))
    ax.scatter(*points["own"].T, color=BLUE, marker="s", s=34, label="own positive")
    ax.scatter(*points["positives"].T, color=BLUE, s=34, label="its group's other positives")
    ax.scatter(*points["negatives"].T, color=ORANGE, marker="^", s=40, label="negatives")
    ax.scatter(*query.T, color="black", s=46, zorder=3, label="query")
    moved = made.queries.numpy()
    turned = float(np.degrees(np.arccos(np.clip((moved * query).sum(), -1, 1))))
    said = "the query stays"
    if turned > 0.1:
        said = f"the query turns by {turned:.0f}°"
        ax.annotate("", moved[0] * 1.16, query[0] * 1.16, arrowprops={"arrowstyle": "->", "color": PINK, "lw": 2})
        ax.scatter(*moved.T, color=PINK, marker="*", s=150, zorder=4, label="mixed query")
    if made.synthetic is not None:
        extra = made.synthetic[0].numpy()
        extra = extra[np.abs(extra).sum(axis=1) > 0]
        said = f"{len(extra)} synthetic negatives"
        ax.scatter(*extra.T, facecolors="none", edgecolors=RED, marker="D", s=44, zorder=4, label="synthetic negatives")
    finish(ax, f"{strategy}: {said}", "", "")
    ax.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal", xticks=[], yticks=[])
    ax.spines[["left", "bottom"]].set_visible(False)


def _on_circle(degrees: Sequence[float]) -> np.ndarray:
    """Points (N, 2) on the unit circle at these angles."""
    angles = np.radians(np.asarray(degrees, dtype=np.float32))
    return np.column_stack([np.cos(angles), np.sin(angles)])
