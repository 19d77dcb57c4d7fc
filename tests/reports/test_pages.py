import base64
import json
import re
import sys
import types

import matplotlib
import pytest
from helpers import MARKUP, display, exported, loads_nothing
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from hr_search import drift
from hr_search.base.errors import InputError
from hr_search.reports import pages

matplotlib.use("agg")
PIXEL = base64.b64encode(
    base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==")
).decode()


@pytest.fixture
def maps(monkeypatch):
    """A stand-in for the module of the map, whose scripts hold what a large library may hold."""
    module = types.ModuleType("hr_search.drift.interactive_map")
    module.scripts = lambda: ["library = '</SCRIPT><!--';\r\nlibrary += 1", "draw(library)"]
    monkeypatch.setitem(sys.modules, "hr_search.drift.interactive_map", module)
    monkeypatch.setattr(drift, "interactive_map", module, raising=False)
    return module


# Executed notebooks


def test_a_collapsed_heading_folds_its_section_and_nothing_else(tmp_path):
    collapsed = {"jp-MarkdownHeadingCollapsed": True}
    _, soup = exported(
        tmp_path,
        new_markdown_cell("# All"),
        new_markdown_cell("## Details\n\nFor few readers.", metadata=collapsed),
        new_code_cell("1"),
        new_markdown_cell("### Deeper"),
        new_code_cell("2"),
        new_markdown_cell("## After"),
        new_code_cell("3"),
    )
    fold = soup.select_one("details.section")
    assert [tag.get_text().removesuffix("¶") for tag in fold.select("h2, h3")] == ["Deeper"]
    assert [tag.get_text().strip() for tag in fold.select(".highlight")] == ["1", "2"] and not fold.has_attr("open")
    assert "For few readers" in fold.find_previous_sibling().get_text()
    assert "After" in fold.find_next_sibling().get_text()


def test_a_page_loads_nothing_and_folds_the_code(tmp_path):
    injected = {"tags": ["injected-parameters"], "papermill": {"duration": 200.0}}
    text, soup = exported(
        tmp_path,
        new_markdown_cell("# Train & test\n\nSee [more](https://example.org/a) and $x^2$."),
        new_code_cell("rate = 1  # a", metadata={"tags": ["parameters"]}, execution_count=1),
        new_code_cell("rate = 2", metadata=injected, execution_count=2),
        new_code_cell("", execution_count=None),
        new_code_cell("1 + 1", execution_count=3, outputs=[new_output("execute_result", data={"text/plain": "2"})]),
    )
    assert loads_nothing(text) == 1
    assert soup.title.string == "Train & test"
    folds = soup.select("details.code")
    labels = ["Default parameters · In [1]", "Parameters of this run · In [2] · 3 min 20 s", "Code · In [3]"]
    assert [fold.summary.string for fold in folds] == labels
    assert not any(fold.has_attr("open") for fold in folds)
    assert soup.find("button", id="fold")
    assert soup.find("a", string="more")["href"] == "https://example.org/a"


def test_the_bar_links_the_other_pages_and_marks_this_one(tmp_path):
    links = {"All runs": "../index.html", "02 <train>": "02_train.html"}
    _, soup = exported(tmp_path, new_markdown_cell("# A"), title="<b>T", links=links)
    assert soup.title.string == "<b>T"
    found = [(a["href"], a.string, a.get("aria-current")) for a in soup.select(".bar a")]
    assert found == [("../index.html", "All runs", None), ("02_train.html", "02 <train>", "page")]


def test_contents_list_every_heading_once_and_each_link_has_its_goal(tmp_path):
    _, soup = exported(
        tmp_path,
        new_markdown_cell("# Title\n## Data\n### By *side*"),
        new_markdown_cell("## Data\n## Длины & доли\n```\n## no heading\n```"),
        new_code_cell(
            "1", outputs=[display({"text/html": "<h2>not this</h2>"}), display({"text/markdown": "## nor this"})]
        ),
    )
    rows = soup.select(".toc li a")
    assert [row.string for row in rows] == ["Data", "By side", "Data", "Длины & доли"]
    goals = [row["href"][1:] for row in rows]
    assert len(set(goals)) == 4
    for goal, row in zip(goals, rows, strict=True):
        assert soup.find(id=goal).get_text().removesuffix("¶") == row.string
    assert [row.parent["class"] for row in rows][1] == ["level-3"]


def test_inline_tags_of_a_text_keep_their_content(tmp_path):
    _, soup = exported(tmp_path, new_markdown_cell("Press <kbd>Ctrl</kbd> now"))
    assert soup.find("kbd").string == "Ctrl"


def test_every_image_is_inside_and_described(tmp_path):
    (tmp_path / "near.png").write_bytes(base64.b64decode(PIXEL))
    (tmp_path.parent / "outside.png").write_bytes(base64.b64decode(PIXEL))
    picture = {"image/png": PIXEL, "text/plain": "<Figure size 1x1>"}
    pictures = [display(picture), display(picture), display(picture, alt="Loss <falls>")]
    sized = display(picture, **{"image/png": {"alt": "Given here", "width": 9}})
    drawing = display({"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg' onload='x()'/>"})
    markup = display({"text/html": f"<h2>Not its name</h2><img src='data:image/png;base64,{PIXEL}'>"})
    links = "![local](near.png) ![far](../outside.png) ![web](https://example.org/x.png)"
    text, soup = exported(
        tmp_path,
        new_code_cell("0", outputs=[display(picture)]),
        new_markdown_cell(f'# Title\n## Loss "curve"\n{links}'),
        new_code_cell("1", outputs=pictures),
        new_code_cell("2", outputs=[sized]),
        new_code_cell("3", outputs=[drawing], metadata={"alt": "Of the cell"}),
        new_code_cell("4", outputs=[markup]),
    )
    assert loads_nothing(text)
    described = [image["alt"] for image in soup.find_all("img")]
    assert described[:6] == ["Figure", "local", "far", "web", 'Loss "curve"', 'Loss "curve" (2)']
    assert described[6:] == ["Loss <falls>", "Given here", "Of the cell", 'Loss "curve" (3)']
    assert [bool(image.get("src")) for image in soup.find_all("img")] == [True, True, False, False] + [True] * 6
    assert soup.find("img", alt="Given here")["width"] == "9"
    assert "Figure size" not in text


def test_nothing_from_data_becomes_markup(tmp_path):
    texts = [
        new_output("stream", name="stdout", text=MARKUP),
        display({"text/plain": MARKUP}),
        display({"text/markdown": f"**bold** {MARKUP} [x](javascript:alert(1)) `a<b`"}),
        display({"application/javascript": "alert(3)", "text/plain": "js"}),
        display({"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "widget"}),
        new_output("error", ename="E", evalue=MARKUP, traceback=[MARKUP]),
    ]
    html = (
        "<style>@import 'https://e.org/a.css'; .x { background: url(https://e.org/b) }</style>"
        "<script src=https://e.org></script><img src='https://e.org/c'><iframe src=https://e.org></iframe>"
        "<b onclick='x()' style='background:url(https://e.org)'>t</b><form action=https://e.org><input></form>"
        "<svg><image href='https://e.org/d'/><a xlink:href='javascript:x()'>y</a></svg>"
        "<a href=' JavaScript:alert(1)'>z</a><table><tr><td>1</td></tr></table>"
    )
    text, soup = exported(
        tmp_path,
        new_markdown_cell("# A\n<script>alert(0)</script><a href='java\tscript:alert(0)'>x</a>"),
        new_code_cell(f"print({MARKUP!r})", outputs=texts),
        new_code_cell("1", outputs=[display({"text/html": html})]),
    )
    assert loads_nothing(text) == 1
    assert not soup.main.find_all(["script", "iframe", "form"])
    assert not [a for a in soup.find_all("a") if "script" in a.get("href", "").lower()]
    assert text.count("&lt;img src=x onerror=alert(2)&gt;") >= 4
    assert MARKUP in soup.find("strong", string="bold").parent.get_text() and soup.find("code", string="a<b")
    assert soup.find("b", string="t") and soup.select_one(".scroll > table td").string == "1"
    assert "js" in text and "widget" in text


def test_what_browsers_and_parsers_read_differently_is_taken_out(tmp_path):
    html = (
        "<!--><img src=x onerror=a()>--><noscript><p title='</noscript><img src=x onerror=a()>'></noscript>"
        "<svg><style><img src=x onerror=a()></style><a><animate attributeName=href to=javascript:a()></a></svg>"
        "<![CDATA[><img src=x onerror=a()>]]><?x ><img src=x onerror=a()>?><xmp><img src=x onerror=a()></xmp>"
        "<template><img src=x onerror=a()></template><math><mtext><style><img src=x onerror=a()></style></mtext></math>"
    )
    text, soup = exported(
        tmp_path, new_code_cell("1", outputs=[display({"text/html": html}), display({"text/markdown": html})])
    )
    assert loads_nothing(text) == 1
    left = "".join(str(each) for each in soup.select(".jp-RenderedHTML"))
    assert not re.search("<img[^>]*(src|onerror)|<!|<[?]|noscript|template|animate|xmp", left)


def test_an_unclosed_tag_ends_with_its_output(tmp_path):
    broken = display({"text/html": "</main></div></div><table><tr><td>1<div><b>open"})
    _, soup = exported(
        tmp_path, new_code_cell("1", outputs=[broken]), new_markdown_cell("## After\n<script>x</script>")
    )
    assert soup.find("h2").find_parent("table") is None and soup.find("h2").find_parent("main") is soup.main
    assert len(soup.find_all("main")) == 1 and len(soup.find_all("script")) == 1


def test_control_and_half_characters_are_shown_as_such(tmp_path):
    odd = "a\x00b\x1b]0;c\x08d\ud800e\x0cf"
    text, soup = exported(
        tmp_path, new_code_cell("1", outputs=[display({"text/html": f"<p>{odd}</p>"})]), title="t\x00\ud800"
    )
    assert soup.find("p").string == "a�b�]0;c�d�e�f" and soup.title.string == "t��"
    assert text.isprintable() or not re.search("[\x00-\x08\x1b]", text)


def test_a_cell_that_installs_is_shown_only_where_it_said_something(tmp_path):
    quiet = new_code_cell("setup_quiet", metadata={"tags": ["setup"]})
    loud = new_code_cell("setup_loud", metadata={"tags": ["setup"]}, outputs=[new_output("stream", text="no network")])
    text, _ = exported(tmp_path, new_markdown_cell("# Title"), quiet, loud)
    assert "setup_quiet" not in text and "setup_loud" in text and "no network" in text


def test_a_failed_cell_stands_open(tmp_path):
    failed = new_code_cell(
        "1 / 0", outputs=[new_output("error", ename="E", evalue="v", traceback=["\x1b[31mE\x1b[0m: v"])]
    )
    _, soup = exported(tmp_path, new_code_cell("1"), failed)
    assert [fold.has_attr("open") for fold in soup.select("details.code")] == [False, True]
    assert soup.find("span", class_="ansi-red-fg").string == "E"


def test_progress_bars_and_endless_text_are_cut(tmp_path):
    bar = "\r  0%|   | 0/2\r 50%|█  | 1/2\r100%|███| 2/2\nnext\r\n"
    cells = [new_code_cell("1", outputs=[new_output("stream", name="stderr", text=bar)])]
    cells.append(new_code_cell("2", outputs=[new_output("stream", name="stdout", text="x" * 1_000_000)]))
    text, soup = exported(tmp_path, *cells)
    assert soup.select_one(".jp-RenderedText pre").get_text() == "100%|███| 2/2\nnext\n"
    assert len(text) < 100_000 and "970000 more characters are in the notebook" in text


def test_a_page_never_exceeds_six_megabytes(tmp_path, caplog):
    sizes = [3_000_000, 900_000, 2_500_000]
    outputs = [display({"image/png": PIXEL + "A" * size, "text/plain": "figure"}) for size in sizes]
    outputs.append(display({"image/svg+xml": "<svg>" + "x" * 1_500_000 + "</svg>"}))
    text, soup = exported(tmp_path, new_code_cell("1", outputs=outputs))
    assert len(text.encode()) < 6_000_000
    assert len(soup.find_all("img")) == 3
    assert "An output of 3.0 MB is left out here; it is in 02_train.ipynb." in text
    assert "An output of 2.5 MB" not in text and "3.0 MB" in caplog.text


def test_text_pictures_of_texts_and_giants_count_too(tmp_path):
    (tmp_path / "near.png").write_bytes(b"x" * 4_000_000)
    cells = [new_code_cell("", outputs=[new_output("stream", name="stdout", text="x " * 15_000)]) for _ in range(30)]
    giant = display({"text/html": "<b>" + "y" * 7_000_000 + "</b>", "text/plain": "y"})
    text, soup = exported(tmp_path, new_markdown_cell("![large](near.png)"), new_code_cell("", outputs=[giant]), *cells)
    assert len(text.encode()) < 6_000_000
    assert "An output of 5.3 MB" in text and "An output of 7.0 MB" in text and not soup.find("img")
    assert len(soup.select(".jp-RenderedText pre")) == 31


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_unreadable_notebooks_are_refused(tmp_path, content):
    path = tmp_path / "n.ipynb"
    if content:
        path.write_text(content)
    with pytest.raises(InputError, match="not a readable notebook"):
        pages.export_html(path, tmp_path / "n.html")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (8.44, "8.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_read_as_a_person_says_them(seconds, text):
    assert pages.duration(seconds) == text


# The map


def map_output(data, more=""):
    return display(
        {
            "text/html": f"<div data-hr-map='1'></div><script type='application/json' data-hr-map-data {more}>{data}</script>"
        }
    )


def test_only_a_page_with_a_map_gets_its_scripts(tmp_path, monkeypatch, maps):
    text, soup = exported(tmp_path, new_code_cell("1", outputs=[map_output('{"x": [1, 0.25]}')]))
    assert loads_nothing(text) == 3
    scripts = [each.string for each in soup.find_all("script") if each.get("type") != "application/json"]
    assert scripts[0] == r"library = '\x3c/SCRIPT>\x3c!--';" + "\nlibrary += 1"
    assert scripts[1] == "draw(library)" and "fold" in scripts[2]
    assert (
        soup.find_all(True)[-1].parent.name == "body" and soup.body.find_all(recursive=False)[-1].string == scripts[2]
    )
    assert "unsafe" not in soup.find("meta", attrs={"http-equiv": True})["content"].split("script-src")[1]
    monkeypatch.setitem(sys.modules, "hr_search.drift.interactive_map", None)  # importing it would now fail
    monkeypatch.delattr(drift, "interactive_map")
    text, _ = exported(tmp_path, new_code_cell("1", outputs=[display({"text/html": "<div data-hr-mapping></div>"})]))
    assert loads_nothing(text) == 1


def test_data_of_a_map_are_inert_and_otherwise_as_they_were(tmp_path, maps):
    value = {
        "texts": ["<img onerror=x>&amp;", "<!--<script>", "ё\u2028\x7f\x00\ud800", "<\\/script>"],
        "x": [1e-9, -3, None, True],
    }
    raw = json.dumps(value).replace("<script", "\\u003cscript")
    more = "id=points src='https://e.org' onload='x()' data-part=one"
    text, soup = exported(tmp_path, new_code_cell("1", outputs=[map_output(raw, more)]))
    assert loads_nothing(text) == 3
    block = soup.find("script", type="application/json")
    assert json.loads(block.string) == value
    assert block.attrs == {"id": "points", "type": "application/json", "data-hr-map-data": "", "data-part": "one"}
    assert not set("<>&") & set(block.string) and "ё" in block.string


@pytest.mark.parametrize(
    "block",
    [
        "<script type='application/json' data-hr-map-data>alert(1)</script>",
        "<script type='application/json' data-hr-map-data>[NaN]</script>",
        "<script type='application/json' data-hr-map-data>[1e999]</script>",
        "<script type='application/json' data-hr-map-data></script>",
        f"<script type='application/json' data-hr-map-data>{'[' * 100_000}</script>",
        "<script type='text/javascript' data-hr-map-data>1</script>",
        "<script data-hr-map-data>1</script>",
        "<script type='application/json'>1</script>",
    ],
)
def test_other_scripts_go(tmp_path, maps, block):
    text, soup = exported(tmp_path, new_code_cell("1", outputs=[display({"text/html": f"<p>a</p>{block}<p>b</p>"})]))
    assert loads_nothing(text) == 1 and not soup.main.find("script")
    assert [each.string for each in soup.main.find_all("p")] == ["a", "b"]


def test_scripts_and_data_of_a_map_fit_into_the_page(tmp_path, maps):
    maps.scripts = lambda: ["x" * 3_000_000]
    figure = display({"image/png": PIXEL + "A" * 2_000_000})
    text, soup = exported(
        tmp_path, new_code_cell("1", outputs=[figure, figure, map_output('["' + "y" * 500_000 + '"]')])
    )
    assert len(text.encode()) < 6_000_000 and loads_nothing(text) == 2
    assert len(soup.find_all("img")) == 1 and soup.find("script", type="application/json")
    text, soup = exported(tmp_path, new_code_cell("1", outputs=[map_output('["' + "y" * 3_500_000 + '"]')]))
    assert loads_nothing(text) == 1 and "left out" in text  # without the map, its scripts go too
