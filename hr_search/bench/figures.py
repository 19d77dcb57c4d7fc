"""Figures of the speed benchmark; each function takes its table and, optionally, an axis to draw on."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from hr_search.base.errors import InputError
from hr_search.base.plots import BLUE, GREY, ORANGE, RED

_OTHER_UNITS = ("GB", "MRR@10")  # of rows that are not speeds


def speeds(table: pd.DataFrame, hardware: str = "") -> pd.DataFrame:
    """The rows that are speeds on one machine, in the order of the table.

    Args:
        table: the table of speeds.
        hardware: the machine; empty = that of the last row.

    Raises:
        InputError: there is no such row.
    """
    rows = table[~table["unit"].isin(_OTHER_UNITS)]
    if len(rows):
        rows = rows[rows["hardware"] == (hardware or rows["hardware"].iloc[-1])]
    if rows.empty:
        raise InputError(f"the table holds no speeds{f' of {hardware}' if hardware else ''} to draw; measure some.")
    return rows.reset_index(drop=True)


def ratios(table: pd.DataFrame, demanded: float = 1.0, hardware: str = "", ax: Axes | None = None) -> Axes:
    """How many times as fast as the peer we are, case by case.

    A bar is the ratio of the medians. Its whisker goes from our slowest run over the peer's fastest to our fastest
    over its slowest.

    Args:
        table: the table of speeds.
        demanded: the ratio to reach, drawn as a line.
        hardware: the machine; empty = that of the last row.
        ax: where to draw; None = a new figure.
    """
    rows = speeds(table, hardware)
    ax = ax if ax is not None else _axis(len(rows))
    low, high = rows["ours_min"] / rows["peer_max"], rows["ours_max"] / rows["peer_min"]
    spread = np.array([rows["ratio"] - low, high - rows["ratio"]]).clip(min=0)
    colours = [BLUE if ratio >= demanded else ORANGE for ratio in rows["ratio"]]
    ax.barh(rows["case"], rows["ratio"], xerr=spread, color=colours, error_kw={"elinewidth": 1.2, "capsize": 3})
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # keeps the lines behind the numbers
    for place, (value, end) in enumerate(zip(rows["ratio"], high, strict=True)):
        end = max(value, end)
        ax.annotate(f"{value:.2f}", (end, place), (5, 0), textcoords="offset points", va="center", bbox=paper)
    ax.axvline(1, color=GREY, linewidth=1)
    ax.axvline(demanded, color=RED, linestyle="--", linewidth=1.2, label=f"demanded: {demanded:g}")
    ax.set_xlim(0, 1.12 * max(high.max(), demanded))
    reached = int((rows["ratio"] >= demanded).sum())
    return _finish(
        ax, f"{reached} of {len(rows)} cases reach {demanded:g} times the peer's speed", "Our speed / peer's speed"
    )


def limit_shares(table: pd.DataFrame, hardware: str = "", ax: Axes | None = None) -> Axes:
    """Which share of the compute limit of this machine each contender reaches.

    Args:
        table: the table of speeds.
        hardware: the machine; empty = that of the last row.
        ax: where to draw; None = a new figure.

    Raises:
        InputError: no row on that machine has a limit.
    """
    rows = speeds(table, hardware).dropna(subset=["limit"]).reset_index(drop=True)
    if rows.empty:
        raise InputError("the table holds no row with a compute limit to draw.")
    ax = ax if ax is not None else _axis(len(rows))
    places = np.arange(len(rows))
    for contender, colour, offset in (("ours", BLUE, -0.2), ("peer", ORANGE, 0.2)):
        ax.barh(places + offset, rows[contender] / rows["limit"], 0.38, color=colour, label=contender)
    ax.set_yticks(places, rows["case"])
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    best = (rows["ours"] / rows["limit"]).max()
    return _finish(ax, f"We reach up to {best:.0%} of the compute limit", "Share of the compute limit")


def _axis(bars: int) -> Axes:
    return plt.subplots(figsize=(7, 1.4 + 0.42 * bars), dpi=100, layout="constrained")[1]


def _finish(ax: Axes, title: str, x: str) -> Axes:
    ax.set_title(title, loc="left", fontsize=11, pad=24)
    ax.set_xlabel(x)
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="x", color="#E5E5E5", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.99), ncols=4, frameon=False, fontsize=9)
    return ax
