"""The figure of the stages of a search, in the style of `hr_search.base.plots`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hr_search.base.plots import BLUE, GREY, RED, finish, new_axis, require_columns
from hr_search.evaluation.significance import ALPHA, LABELS

_BLOCK = ("gain", "gain_low", "gain_high", "p", "p_holm")


def stage_intervals(table: pd.DataFrame, metric: str = "mrr", ax: Axes | None = None) -> Axes:
    """A metric after each stage with its 95 % interval, its gain over the cosine and what it costs a query.

    Stages whose gain is real (p < .05 after Holm's correction and an interval without zero) are blue, or red where
    they lose; the others are grey.

    Args:
        table: from `stages.stages_table`.
        metric: the metric in it.
        ax: an axis to draw on.
    """
    require_columns(table, ("stage", "value", "low", "high", "ms"), "the table of stages")
    table = complete(table)
    ax = new_axis(ax, (8, 1.5 + 0.42 * len(table)))
    ax.axvline(table["value"].iloc[0], color="black", linewidth=1, linestyle=":")
    seen: set[str] = set()
    for place, row in enumerate(table.itertuples()):
        real = row.p_holm < ALPHA and (row.gain_low > 0 or row.gain_high < 0)
        kind = ("better" if row.gain > 0 else "worse") if real else "not shown to differ"
        colour = {"better": BLUE, "worse": RED}.get(kind, GREY) if place else "black"
        label = None if kind in seen or not place else f"{kind} than the cosine".replace("differ than", "differ from")
        seen |= {kind} if place else set()
        ax.plot([row.low, row.high], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt")
        ax.plot(row.value, place, marker="o" if real or not place else "s", linestyle="", color=colour, label=label)
        gain = f"{row.gain:+.3f} [{row.gain_low:+.3f}, {row.gain_high:+.3f}]" if place else ""
        words = f"{gain}\n{row.ms:.2g} ms a query".strip()
        ax.annotate(words, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color="#444444")
    ax.set_yticks(range(len(table)), table["stage"], parse_math=False)
    ax.set_ylim(len(table) - 0.5, -0.5)
    name = LABELS.get(metric, metric)
    finish(ax, _title(table, name), f"{name} with 95% interval", "", legend=bool(seen))
    ax.grid(axis="y", visible=False)
    return ax


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """The table of stages with all its columns, which one of the plain cosine alone lacks."""
    missing = [name for name in _BLOCK if name not in table]
    return table.assign(**dict.fromkeys(missing, np.nan))[["stage", "value", "low", "high", *_BLOCK, "ms"]]


def _title(table: pd.DataFrame, name: str) -> str:
    first, last = table.iloc[0], table.iloc[-1]
    if len(table) == 1:
        return f"{name} {first['value']:.3f} with the cosine; no stage was taken"
    best = table["value"].diff().iloc[1:].idxmax()
    step = table["value"].diff()[best]
    adds = f"; most by {table.loc[best, 'stage'].removeprefix('+ ')} ({step:+.3f})" if len(table) > 2 else ""
    return f"{name} {first['value']:.3f} with the cosine, {last['value']:.3f} with all stages{adds}"
