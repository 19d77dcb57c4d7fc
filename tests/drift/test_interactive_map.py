"""The interactive map: what its output holds, that no text of the data becomes markup, and what pages inline."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from hr_search.base.errors import InputError
from hr_search.drift import figures, interactive_map
from hr_search.drift.umap_layout import Layout

matplotlib.use("Agg")

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!-- <script> -->",
    """<img src=x onerror="alert('1')"> & "quotes" 'too'""",
    "$$x^2$$ @{title} \\u003c \\",
    "line\u2028one\u2029two\x00three",
    "plain",
]


def placed(count: int, steps: int = 3) -> Layout:
    random = np.random.default_rng(0)
    places = {step * 10: random.normal(size=(count, 2)) * [3, 1] for step in range(steps)}
    shares = dict.fromkeys(places, 0.9), {step: 0.25 + step / 1000 for step in places}
    return Layout(np.arange(count), places, *shares, neighbours=5, missing=0)


def texts(count: int, words: list[str]) -> pd.DataFrame:
    column = [words[row % len(words)] for row in range(count)]
    return pd.DataFrame({"side": np.where(np.arange(count) % 2, "document", "query"), "text": column, "group": column})


def parts(shown: interactive_map.Map) -> tuple[BeautifulSoup, dict]:
    soup = BeautifulSoup(shown._repr_html_(), "html.parser")
    (block,) = soup.find_all("script")
    assert block.attrs == {"type": "application/json", "data-hr-map-data": ""}
    return soup, json.loads(block.string)


def test_the_output_is_a_picture_a_place_and_its_data():
    shown = interactive_map.interactive_map(placed(30), texts(30, ["a", "b"]))
    soup, data = parts(shown)
    assert [tag.name for tag in soup.find_all(True)] == ["div", "figure", "img", "figcaption", "div", "script"]
    assert len(soup.select("div[data-hr-map]")) == 1 and soup.select_one("[data-hr-map]").text == ""
    assert soup.select_one("[data-hr-map-picture] img")["alt"] == shown.alt
    assert "30 probe texts" in shown.alt and "step 20" in shown.alt
    assert plt.get_fignums() == []
    assert repr(shown) == f"Map(alt={shown.alt!r})"  # what a terminal shows
    assert data["steps"] == [0, 10, 20] and data["kept"] == [0.25, 0.26, 0.27]
    assert [len(step) for step in data["x"] + data["y"]] == [30] * 6


def test_places_keep_their_proportions_on_one_grid():
    layout = placed(40)
    _, data = parts(interactive_map.interactive_map(layout, texts(40, ["a"])))
    grid = np.stack([data["x"], data["y"]], axis=-1)
    true = np.stack(list(layout.places.values()))
    assert grid.min() == 0 and grid.max() == interactive_map.GRID
    scale = interactive_map.GRID / np.ptp(true, axis=(0, 1)).max()
    assert np.abs(grid - (true - true.min(axis=(0, 1))) * scale).max() <= 0.5


def test_every_point_has_the_text_side_group_and_colour_of_its_row():
    layout = placed(30)
    table = texts(60, ["baker", "cook", "rare"]).assign(text=[f"text {row}" for row in range(60)])
    table.loc[table.index % 6 == 2, "group"] = [f"g{row}" for row in range(10)]
    layout = dataclasses.replace(layout, rows=np.arange(0, 60, 2))
    _, data = parts(interactive_map.interactive_map(layout, table))
    mine = table.iloc[::2]
    assert data["texts"] == mine["text"].tolist()
    assert [data["groups"][at] for at in data["group"]] == mine["group"].tolist()
    assert [data["sides"][at] for at in data["side"]] == mine["side"].tolist()
    labels, colours = figures.classes(mine)
    assert dict(data["classes"]) == colours and "" in labels
    assert [data["classes"][at][0] if at >= 0 else "" for at in data["class"]] == labels.tolist()


def test_hostile_texts_stay_data_and_come_back_as_they_were():
    table = texts(36, HOSTILE)
    shown = interactive_map.interactive_map(placed(36), table)
    soup, data = parts(shown)
    assert len(soup.find_all(True)) == 6
    assert not re.search(r"[<>&\x00\u2028]", soup.find("script").string)
    told = [" ".join(text.split()) for text in HOSTILE]
    assert data["texts"][:6] == told and data["groups"] == told
    assert [name for name, _ in data["classes"]] == told


def test_long_texts_are_cut_and_many_points_stay_small():
    _, data = parts(interactive_map.interactive_map(placed(20), texts(20, ["ж" * 500])))
    assert data["texts"][0] == "ж" * (interactive_map.TEXT - 1) + "…"
    assert data["groups"] == ["ж" * (interactive_map.TITLE - 1) + "…"]
    table = texts(5000, ["ж" * 400]).assign(group=[f"профессия номер {row // 2}" for row in range(5000)])
    shown = interactive_map.interactive_map(placed(5000, 5), table)
    size = len(shown.html.encode()) + sum(len(script.encode()) for script in interactive_map.scripts())
    assert size < 2_500_000
    assert len(parts(shown)[1]["texts"][0]) == 60


def test_a_map_that_does_not_fit_its_texts_is_refused():
    with pytest.raises(InputError, match="text 30 of only 9"):
        interactive_map.interactive_map(placed(30), texts(9, ["a"]))


def test_a_map_of_one_point_is_drawn_too():
    layout = placed(20)
    flat = Layout(layout.rows, {0: np.ones((20, 2))}, {0: 1.0}, {0: 1.0}, 5, 0)
    _, data = parts(interactive_map.interactive_map(flat, texts(20, ["a"])))
    assert set(data["x"][0]) == set(data["y"][0]) == {0}


# Scripts


def test_scripts_are_the_library_and_then_ours_and_cannot_end_their_element():
    *library, own = interactive_map.scripts()
    assert len(library) == 2 and all("Copyright (c) Anaconda" in source[:200] for source in library)
    assert own == (Path(interactive_map.__file__).parent / "map.js").read_text(encoding="utf-8")
    assert not any(re.search(r"(?i)</script|<!--", source) for source in [*library, own])


def test_our_script_builds_no_code_and_no_html_from_data_and_loads_nothing():
    own = interactive_map.scripts()[-1]
    code = ("eval(", "new Function", "CustomJS", "import(")
    markup = ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "@{", "{safe}")
    for word in (*code, *markup, "://", "fetch("):
        assert word not in own, word


def test_a_script_that_could_end_its_element_is_made_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    evil = tmp_path / "evil.js"
    evil.write_text('const a = "</SCRIPT><!-- <b>";', encoding="utf-8")
    monkeypatch.setattr(interactive_map, "LIBRARY", (str(evil),))
    assert interactive_map.scripts()[0] == 'const a = "<\\/SCRIPT><\\!-- <b>";'


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(interactive_map, "LIBRARY", ("nothing.js",))
    with pytest.raises(InputError, match=r"cannot be read .*nothing\.js.*force-reinstall bokeh"):
        interactive_map.scripts()
    monkeypatch.setattr(interactive_map.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs Bokeh, which is not installed"):
        interactive_map.scripts()
