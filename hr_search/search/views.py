"""The playground on a page: a table of what each column finds, and a search box with sliders where a kernel runs."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable
from typing import Any

import pandas as pd

from hr_search.base.errors import InputError, one_line
from hr_search.base.progress import watched
from hr_search.search.playground import Playground
from hr_search.search.policy import SearchPolicy

log = logging.getLogger(__name__)

CUT = 80  # characters of a text that are shown
# Half-transparent, so that the text keeps its contrast on light and dark pages; Okabe and Ito's blue and orange.
_RIGHT = "background:rgba(0,114,178,.20);font-weight:600;"
_MOVES = {"▲": "#2A8CC9", "▼": "#D55E00", "n": "#2A8CC9"}
_LINES = "line-height:1.35;"  # the HTML of a widget has lines for buttons
_CELL = f"{_LINES}text-align:left;vertical-align:top;padding:.35em .6em;white-space:normal;overflow-wrap:anywhere;"


def result_table(
    play: Playground, query: str, policy: SearchPolicy | None = None, staged: str = "", top: int = 5
) -> str:
    """What each column finds for a query, as an HTML table.

    ✓ marks relevant texts where they are known; ▲2 and ▼1 say how far a text moved from the column to its left, *new*
    that it was not among the first there. The head of a column names the rank of its first relevant text.
    """
    found, right = play.search(query, policy, staged, len(play.corpus.documents)), play.corpus.right(query)
    ranks = {name: pd.Series(found.index, index=found[name]) for name in found}
    head = "".join(_head(name, ranks[name].reindex(list(right)).min()) for name in found)
    rows = []
    for rank in found.index[:top]:
        cells, before = [], None
        for name in found:
            at = found.at[rank, name]
            cells.append(_cell(play.corpus.documents[at], at in right, _move(before, at, rank, top)))
            before = ranks[name]
        rows.append(f'<tr><th style="{_CELL}">{rank}</th>{"".join(cells)}</tr>')
    known = f" <small>({len(right)} relevant {'text' if len(right) == 1 else 'texts'})</small>" if right else ""
    return (
        f'<p style="{_LINES}"><b>{html.escape(one_line(query, 2 * CUT))}</b>{known}</p>'
        '<table style="width:100%;table-layout:fixed;border-collapse:collapse">'
        '<colgroup><col style="width:4.4em"></colgroup>'
        f'<thead><tr><th style="{_CELL}">rank</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def show_results(play: Playground, query: str, policy: SearchPolicy | None = None, top: int = 5) -> None:
    """Displays `result_table` in a notebook, with a plain text for programs that show no HTML."""
    from IPython.display import display

    found = play.search(query, policy, top=top)
    lines = [
        f"{rank}  {name}: {one_line(play.corpus.documents[at], CUT)}"
        for name in found
        for rank, at in found[name].items()
    ]
    display(
        {"text/html": result_table(play, query, policy, top=top), "text/plain": "\n".join([query, *lines])}, raw=True
    )


def board(play: Playground, query: str, top: int = 5) -> Any:
    """A search box and sliders over a playground; every change ranks again, and no text but a new query is encoded."""
    import ipywidgets as widgets

    policy, names = play.policy, list(play.shelves)
    wide = {"style": {"description_width": "8.5em"}, "layout": widgets.Layout(width="34em")}
    box = widgets.Combobox(
        value=query, options=play.corpus.examples(200), description="search for", continuous_update=False, **wide
    )
    share = {"min": 0.0, "max": 1.0, "step": 0.05, "readout_format": ".2f", **wide}
    staged = widgets.ToggleButtons(options=names, value=names[-1], description="stages on", style=wide["style"])
    centre = widgets.Checkbox(value=policy.centre, description="centring", indent=True, **wide)
    kinds = widgets.Dropdown(options=["documents", "queries", "both"], description="mixed are", **wide)
    kinds.value = policy.mixing if policy.mixing != "none" else "documents"
    weight = widgets.FloatSlider(
        value=policy.weight if policy.mixing != "none" else 0.0, description="mixing weight", **share
    )
    k = widgets.IntSlider(min(policy.k, play.largest_k), 1, min(50, play.largest_k), description="neighbours k", **wide)
    fusion = widgets.FloatSlider(value=policy.fusion, description="weight of words", **share)
    out = widgets.HTML(layout=widgets.Layout(width="100%"))

    def search(_: object = None) -> None:
        knobs = {"mixing": kinds.value, "weight": weight.value, "k": k.value, "fusion": fusion.value}
        try:
            out.value = result_table(play, box.value, policy.replace(centre=centre.value, **knobs), staged.value, top)
        except InputError as error:
            out.value = f"<p>{html.escape(str(error))}</p>"

    _observe(search, box, staged, centre, kinds, weight, k, fusion)
    search()
    choices = [staged] if len(names) > 1 else []
    left, right = widgets.VBox([weight, k, fusion]), widgets.VBox([kinds, centre])
    return widgets.VBox([box, *choices, widgets.HBox([left, right], layout=widgets.Layout(flex_flow="row wrap")), out])


def show_board(play: Playground, query: str, top: int = 5) -> None:
    """Displays the `board` where a person can turn its knobs; elsewhere a sentence."""
    from IPython.display import display

    if watched():
        display(board(play, query, top))
    else:
        log.info("run without a screen: open this notebook in JupyterLab for the search box and the sliders")


def _observe(act: Callable[[object], None], *controls: Any) -> None:
    for control in controls:
        control.observe(act, names="value")


def _head(name: str, first: float) -> str:
    """The head of a column, with the rank of its first relevant text (NaN = none is known)."""
    note = f'<br><small style="font-weight:normal">first ✓ at {first:.0f}</small>' if first == first else ""
    return f'<th style="{_CELL}">{html.escape(name)}{note}</th>'


def _move(before: pd.Series | None, at: int, rank: int, top: int) -> str:
    """How a text got to this rank from the column to the left."""
    if before is None or before[at] == rank:
        return ""
    if before[at] > top:
        return "new"
    return f"{'▲' if before[at] > rank else '▼'}{abs(before[at] - rank)}"


def _cell(text: str, right: bool, move: str) -> str:
    """A text in a column."""
    sign = f' <span style="color:{_MOVES[move[0]]};white-space:nowrap">{move}</span>' if move else ""
    mark = "✓ " if right else ""
    return f'<td style="{_CELL}{_RIGHT if right else ""}">{mark}{html.escape(one_line(text, CUT))}{sign}</td>'
