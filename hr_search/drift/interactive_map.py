"""The interactive map of a report: hover over a point to read its text, slide through the checkpoints, search.

A notebook's output holds the data as JSON, and a picture for readers without scripts. The exported page adds the
scripts: Bokeh's library and `map.js`, which drives it without `eval`, code passed as text or the network, so that
both run under a strict content security policy.
"""

from __future__ import annotations

import html
import importlib.util
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from hr_search.base import plots
from hr_search.base.errors import InputError, one_line
from hr_search.drift import figures
from hr_search.drift.probes import cut
from hr_search.drift.umap_layout import Layout

GRID = 2000  # positions per axis: finer than a screen can show, and short to write
TITLE, TEXT = 80, 140  # characters of a group and of a text shown on hover
BUDGET = 300_000  # characters of all texts together, so that 5,000 points and the library stay within 2.5 MB
LIBRARY = ("bokeh.min.js", "bokeh-api.min.js")
NOTE = "The exported page, where scripts can run, adds a slider over the checkpoints, hover texts and a search."


@dataclass(frozen=True)
class Map:
    """A map as a notebook displays it.

    Attributes:
        html: a picture, an empty `div` with `data-hr-map`, and the map's data as a JSON script.
        alt: a sentence that describes the picture.
    """

    html: str = field(repr=False)
    alt: str

    def _repr_html_(self) -> str:
        return self.html


def interactive_map(layout: Layout, texts: pd.DataFrame) -> Map:
    """A map with hover texts, a slider over the checkpoints and a search; a picture where scripts cannot run.

    Args:
        layout: from `umap_layout.aligned_layout`.
        texts: all probe texts (side, text, group), as `probes.load_probes` returns them; shown literally, never
            parsed as HTML.

    Raises:
        InputError: there are fewer texts than the map needs.
    """
    shown = figures.on_map(layout, texts)
    steps = list(layout.places)
    alt = f"Map of {len(shown):,} probe texts at step {steps[0]:,} and at step {steps[-1]:,}"
    picture = plots.image(figures.small_multiples(layout, texts, (steps[0], steps[-1])), alt, sharpness=120)
    block = f'<script type="application/json" data-hr-map-data>{_json(_data(layout, shown))}</script>'
    figure = f"<figure data-hr-map-picture>{picture}<figcaption>{html.escape(NOTE)}</figcaption></figure>"
    place = f'<div data-hr-map role="group" aria-label="{html.escape(alt)}"></div>'
    return Map(f"<div>{figure}{place}{block}</div>", alt)


def scripts() -> list[str]:
    """The JavaScript that a page with a map needs, to be inlined in this order: the library, then our own.

    Raises:
        InputError: Bokeh is not installed, or lacks its scripts.
    """
    found = importlib.util.find_spec("bokeh")  # found, not imported: only its files are needed
    if found is None or not found.submodule_search_locations:
        raise InputError("the interactive map needs Bokeh, which is not installed; run `pip install bokeh`.")
    folder = Path(next(iter(found.submodule_search_locations))) / "server" / "static" / "js"
    files = [*(folder / name for name in LIBRARY), Path(__file__).parent / "map.js"]
    try:
        sources = [file.read_text(encoding="utf-8") for file in files]
    except OSError as error:
        raise InputError(
            f"a script of the map cannot be read ({one_line(error)}); run `pip install --force-reinstall bokeh`."
        ) from error
    # Inside a script element these would end it or hide its end; a backslash is harmless in strings and comments.
    return [re.sub(r"(?i)<(?=/script|!--)", r"<\\", source) for source in sources]


def _data(layout: Layout, shown: pd.DataFrame) -> dict:
    """What the script needs to draw a map of N texts; all places lie on one grid of whole numbers."""
    places = np.stack(list(layout.places.values()))  # (S, N, 2)
    low = places.min(axis=(0, 1))
    scale = GRID / max(np.ptp(places, axis=(0, 1)).max(), 1e-9)
    whole = ((places - low) * scale).round().astype(int)
    labels, colours = figures.classes(shown)
    groups, titles = pd.factorize(shown["group"])
    sides, names = pd.factorize(shown["side"])
    known = list(colours)
    length = max(20, min(TEXT, BUDGET // len(shown)))
    return {
        "steps": list(layout.places),
        "kept": [round(share, 3) for share in layout.preservation.values()],
        "x": whole[:, :, 0].tolist(),
        "y": whole[:, :, 1].tolist(),
        "classes": [[cut(name, TITLE), colours[name]] for name in known],
        "class": [known.index(label) if label in colours else -1 for label in labels],
        "faded": figures.FADED,
        "sides": [cut(name, TITLE) for name in names],
        "side": sides.tolist(),
        "groups": [cut(title, TITLE) for title in titles],
        "group": groups.tolist(),
        "texts": [cut(text, length) for text in shown["text"]],
    }


def _json(value: dict) -> str:
    """JSON that cannot end its script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
