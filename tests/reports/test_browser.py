"""The pages as a person meets them: in a real browser, from disk, with the network off."""

import io
import json
import os
import re
import shutil
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers import display, exported, write_run
from hostile import FLAG as MARKED
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from PIL import Image

from hr_search.base import paths, plots
from hr_search.drift import interactive_map
from hr_search.drift.umap_layout import Layout
from hr_search.reports import index

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
if not CHROMIUM:
    pytest.skip("no browser: apt-get install chromium, or set CHROMIUM to one", allow_module_level=True)
playwright = pytest.importorskip(
    "playwright.sync_api", reason="no Playwright: pip install playwright (its own browsers are not needed)"
)

matplotlib.use("agg")
FLAG = "window.hacked=1"
HOSTILE = [
    f"<script>{FLAG}</script>",
    f"</script></title></style><script>{FLAG}</script>",
    f"<img src=x onerror={FLAG}>",
    f"<svg onload={FLAG}>",
    f"\"'><b onmouseover={FLAG} autofocus onfocus={FLAG} tabindex=0>",
    "{{ 7*7 }}{% raw %}{# x #}",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "pay \u202eevil\u202d left",
    "nul\x00end",
    "&lt;b&gt; &amp;",
]
SIZES = [(1200, "light"), (480, "dark")]

# Pairs of texts that lie over one another, as far as their boxes are not cut by a place that scrolls.
# Rows out of sight are laid out only when they come near, and until then stand in a place of a guessed height: to be
# looked at, all are laid out.
OVERLAPS = """() => {
  document.querySelectorAll("#runs tbody tr").forEach((row) => (row.style.contentVisibility = "visible"));
  const boxes = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!node.data.trim() || !parent.checkVisibility({ visibilityProperty: true })) continue;
    if (parent.closest("script, style, option, .hidden, .skip")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const rect of range.getClientRects()) {
      let [left, top, right, bottom] = [rect.left, rect.top, rect.right, rect.bottom];
      for (let each = parent; each; each = each.parentElement) {
        if (getComputedStyle(each).overflow === "visible" || each === document.body) continue;
        const cut = each.getBoundingClientRect();
        [left, top] = [Math.max(left, cut.left), Math.max(top, cut.top)];
        [right, bottom] = [Math.min(right, cut.right), Math.min(bottom, cut.bottom)];
      }
      if (right - left > 3 && bottom - top > 3) boxes.push({ left, top, right, bottom, node });
    }
  }
  const found = [];
  boxes.forEach((a, at) => boxes.slice(at + 1).forEach((b) => {
    const [across, down] = [Math.min(a.right, b.right) - Math.max(a.left, b.left), Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top)];
    if (a.node !== b.node && across > 3 && down > 4) found.push(`${a.node.data.trim()} | ${b.node.data.trim()}`);
  }));
  return found;
}"""
CONTRAST = """(selector) => {
  const light = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((each) => each / 255);
    const linear = parts.map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  const ink = light(getComputedStyle(document.querySelector(selector)).color);
  return [ground, (Math.max(ground, ink) + 0.05) / (Math.min(ground, ink) + 0.05)];
}"""


@pytest.fixture(scope="module")
def engine():
    with playwright.sync_playwright() as driver:
        engine = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield engine
        engine.close()


@pytest.fixture
def visit(engine):
    """Opens files in a browser without network; at the end nothing was asked for and nothing was complained of."""
    contexts, asked, complaints = [], [], []

    def opened(path, width=1200, scheme="light"):
        context = engine.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, reduced_motion="reduce"
        )
        contexts.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        context.route(re.compile("^(?!file:|data:)"), lambda route: (asked.append(route.request.url), route.abort()))
        page = context.new_page()
        page.on(
            "request", lambda request: asked.append(request.url) if request.url[:5] not in ("file:", "data:") else 0
        )
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else 0)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.set_default_timeout(5000)
        page.goto(Path(path).as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert asked == [] and complaints == []


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Five runs with a page each, a grid, the page of parameters, and one page with all that pages hold."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.HOME_VARIABLE, str(home))
        metrics = {
            "trained": {"q2d": {"mrr": interval(0.8), "pass@1": interval(0.7)}, "d2q": {"mrr": interval(0.55)}},
            "base": {"q2d": {"mrr": interval(0.5)}},
            "bm25": {"q2d": {"mrr": interval(0.3)}},
        }
        write_run("a", started="2026-11-01T10:00:00", mrr=0.7, command="python3 train.py --querycolumn='a b'")
        write_run("b", started="2026-11-02T10:00:00", loss="infonce", learningrate=1e-4, seed=7, metrics=metrics)
        write_run("c", started="2026-11-03T10:00:00", mrr=0.6, loss="infonce", learningrate=1e-4, seed=10)
        write_run("d", started="2026-11-04T10:00:00", metrics={}, history=(), mixing="mean", fingerprint="other")
        long = {"modelname": "organisation/" + "very-long-name-" * 8, "model": "organisation/" + "very-long-name-" * 8}
        write_run("e-" + "long" * 20, started="2026-11-05T10:00:00", verdict="Better. " * 20, **long)
        place = paths.reports() / "a"
        place.mkdir(parents=True)
        exported(place, *cells(), title="A run", links={"All runs": "../index.html", "02 train": "02_train.html"})
        for folder in paths.runs().iterdir():
            if folder.name != "a":
                shutil.copytree(place, paths.reports() / folder.name)
        shutil.copytree(place, paths.reports() / "margins")
        grid = paths.metrics() / "grids" / "margins" / "cells.csv"
        grid.parent.mkdir(parents=True)
        rows = ["1,0.3,finished,3,a,,", f"2,0.5,failed,2,x,,{'out of memory ' * 9}"]
        grid.write_text("\n".join(["cell,margin,status,seconds,run,notebook,error", *rows]) + "\n")
        index.write_index()
    return home / "reports"


def interval(value):
    return [value, value - 0.05, value + 0.05]


def cells():
    """What notebooks hold: text, tables narrow and wide, figures, logs, an error."""
    figure, ax = plt.subplots(figsize=(7, 4), dpi=100)
    ax.plot([1, 3, 2])
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    plt.close(figure)
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
        plots.show(plots.plt.subplots()[0], "An empty figure")
    wide = pd.DataFrame(
        {f"characters_{number}": [number * 1000, 2] for number in range(14)} | {"text": ["word " * 60] * 2}
    )
    return [
        new_markdown_cell("# 2. Training\n\n**Question:** does it help? See `metrics/runs` and [more](#Losses)."),
        new_code_cell("rate = 1  # a", metadata={"tags": ["parameters"]}, execution_count=1),
        new_markdown_cell("## Data\n### By side\n" + "Some text to fill the page. " * 60),
        new_code_cell("wide", outputs=[display({"text/html": wide.to_html()})]),
        new_markdown_cell("## Losses\n\n" + "More text. " * 200),
        new_code_cell("x = " + "very_long_name + " * 30 + "1", outputs=[display(shown[0])]),
        new_code_cell("2", outputs=[new_output("stream", name="stderr", text="https://example.org/" + "path" * 40)]),
        new_markdown_cell("## Verdict (final)\n\nDone."),
        new_code_cell("1 / 0", outputs=[new_output("error", ename="E", evalue="v", traceback=["\x1b[31mE\x1b[0m: v"])]),
    ]


def ids(page):
    """The runs one sees, in their order."""
    return [text[0] for text in page.locator("#runs tbody tr:visible .run strong").all_text_contents()]


# Every page, wide and narrow, light and dark


@pytest.mark.parametrize(("width", "scheme"), SIZES)
@pytest.mark.parametrize("name", ["index.html", "parameters.html", "a/02_train.html"])
def test_nothing_is_blank_cut_or_overlaps(visit, site, name, width, scheme):
    page = visit(site / name, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 1
    assert page.evaluate(OVERLAPS) == []
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    colours = picture.getcolors(1 << 24)
    assert len(colours) > 60
    assert max(count for count, _ in colours) < 0.97 * picture.width * picture.height
    for selector, least in (("h1", 10), (".soft, .toc summary", 4.5), ("a[href]", 4.5)):
        ground, contrast = page.evaluate(CONTRAST, selector)
        assert contrast >= least, selector
        assert ground > 0.85 if scheme == "light" else ground < 0.03


def test_figures_keep_their_shape_on_a_narrow_page(visit, site):
    page = visit(site / "a/02_train.html", 480)
    width, height, natural = page.locator("main img").evaluate(
        "(it) => [it.width, it.height, it.naturalWidth / it.naturalHeight]"
    )
    assert 300 < width < 480 and width / height == pytest.approx(natural, rel=0.02)


# A notebook's page


def test_the_button_folds_and_unfolds_all_code(visit, site):
    page = visit(site / "a/02_train.html")
    button = page.locator("#fold")
    opened = lambda: page.locator("details.code[open]").count()  # noqa: E731
    assert (button.inner_text(), opened()) == ("Show code", 1)  # the failed cell stands open
    button.click()
    assert (button.inner_text(), opened()) == ("Hide code", page.locator("details.code").count())
    assert page.get_by_text("very_long_name").first.is_visible()
    assert page.evaluate(OVERLAPS) == [] and page.evaluate("document.documentElement.scrollWidth") <= 1200
    button.click()
    assert (button.inner_text(), opened()) == ("Show code", 0)


@pytest.mark.parametrize("width", [1200, 480])
def test_links_of_the_contents_lead_to_their_headings(visit, site, width):
    page = visit(site / "a/02_train.html", width)
    if width < 1200:
        page.locator(".toc summary").click()
    links = page.locator(".toc a").all()
    assert [link.inner_text() for link in links] == ["Data", "By side", "Losses", "Verdict (final)"]
    for link in links:
        link.click()
        heading = page.locator("main").get_by_role("heading", name=link.inner_text())
        page.wait_for_function(
            "(it) => { const y = it.getBoundingClientRect().top; return y >= 0 && y < 880 }",
            arg=heading.element_handle(),
        )


def test_pages_lead_to_the_index_and_back(visit, site):
    page = visit(site / "index.html")
    page.locator("#runs tr", has_text="2026-11-01").get_by_role("link", name="02 train").click()
    assert page.title() == "A run" and page.locator("[aria-current]").inner_text() == "02 train"
    page.get_by_role("link", name="All runs").click()
    assert page.title() == "hr_search: runs"


def test_a_printed_page_has_every_section_and_no_column_is_cut(visit, site):
    page = visit(site / "a/02_train.html", 680)  # an A4 page between its margins
    printed = page.pdf(format="A4", tagged=True, outline=True)
    titles = {title.replace(b"\\", b"").decode() for title in re.findall(rb"/Title \((.*)\)", printed)}
    assert {"2. Training", "Data", "By side", "Losses", "Verdict (final)"} <= titles
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 2
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 681
    assert page.evaluate(CONTRAST, "h1") == [1, pytest.approx(21)]
    assert page.locator(".bar, .toc").filter(visible=True).count() == 0


def test_a_printed_index_has_every_run(visit, site):
    page = visit(site / "index.html", 1030)
    page.emulate_media(media="print")
    assert len(ids(page)) == 5 and page.evaluate("document.documentElement.scrollWidth") <= 1031


# Hostile texts


def test_hostile_texts_of_a_notebook_stay_texts(visit, tmp_path):
    outputs = [
        new_output("stream", name="stdout", text="\n".join(HOSTILE)),
        new_output("error", ename="E", evalue="", traceback=HOSTILE),
    ]
    for text in HOSTILE:
        outputs += [display({kind: text}) for kind in ("text/plain", "text/markdown", "text/html", "text/latex")]
    outputs.append(display({"text/html": pd.DataFrame({"text": HOSTILE}).to_html()}))
    outputs.append(
        display({"text/html": f"<a href='java\tscript:{FLAG}' id=trap>x</a><form action='javascript:{FLAG}'></form>"})
    )
    outputs.append(
        display(
            {"image/svg+xml": f"<svg xmlns='http://www.w3.org/2000/svg' onload='{FLAG}'><script>{FLAG}</script></svg>"}
        )
    )
    first = new_markdown_cell("# {{ 7*7 }}\n## A\n## B\n" + "\n\n".join(HOSTILE))
    others = new_code_cell("1", outputs=outputs), new_markdown_cell("The end.")
    exported(tmp_path, first, *others, title=HOSTILE[1], links={HOSTILE[1]: "#"})
    page = visit(tmp_path / "02_train.html")
    page.locator("#trap").click()
    page.wait_for_timeout(100)
    assert page.evaluate("window.hacked") is None
    assert page.locator("main script, main form, main :not(style) > style").count() == 0
    log = page.locator("main .jp-RenderedText pre").first.inner_text()
    assert all(each in log for each in (*HOSTILE[:6], "red", "pay", "nul�end", HOSTILE[-1]))
    assert page.locator("h1").inner_text().startswith("{{ 7*7 }}")
    assert page.get_by_text("The end.").is_visible() and page.title() == HOSTILE[1]
    cells = page.locator("td").all_inner_texts()
    assert cells[:6] == HOSTILE[:6] and cells[-1] == HOSTILE[-1]


def test_hostile_texts_of_a_run_stay_texts(visit, tmp_path, monkeypatch):
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path))
    for number, text in enumerate(HOSTILE):
        texts = dict.fromkeys(("model", "verdict", "command"), text)
        data = {"name": text, "fingerprint": text}
        folder = write_run(f"run{number}", querycolumn="x", groupcolumn=f"group{number}", data=data, **texts)
        values = json.loads((folder / "config.json").read_text()) | {
            "querycolumn": text,
            text: text,
            "__proto__": text,
            "constructor": text,
        }
        (folder / "config.json").write_text(json.dumps(values))
    page = visit(index.write_index())
    assert page.locator("#runs tbody tr").count() == len(HOSTILE)
    for box in page.locator("#runs input").all():
        box.check()
    page.locator("#sort").select_option("querycolumn")
    page.locator("#sort").select_option("constructor")
    for query in (*HOSTILE, "__proto__=x", "constructor~a", "tostring=1", "[(", "\\"):
        page.locator("#filter").fill(query.replace("\x00", ""))
    page.locator("#filter").fill("")
    page.locator("#names summary").click()
    assert page.evaluate("window.hacked") is None
    shown = page.locator("#compare td").all_inner_texts()
    assert set(HOSTILE[:6]) <= set(shown)
    chips = page.locator("tr", has=page.get_by_label("Compare run7")).locator(".chip").all()
    assert [re.sub("=.*", "", chip.inner_text()) for chip in chips] == ["querycolumn", "groupcolumn"]
    boxes = [chip.bounding_box() for chip in chips]  # the first one's turned text does not turn their order
    assert (boxes[0]["y"], boxes[0]["x"]) < (boxes[1]["y"], boxes[1]["x"])


@pytest.mark.parametrize("name", ["index", "01_explore_data", "02_train", "03_embedding_drift", "04_analyse_metrics"])
def test_a_report_on_hostile_data_runs_no_script(visit, hostile_report, name):
    """A real report on a table of scripts, markup and escapes, each page touched wherever a script might wait."""
    (path,) = (hostile_report.home / "reports").rglob(f"{name}.html")
    page = visit(path)
    said = []
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    title = page.title()
    if name == "index":
        page.locator("#runs input").first.check()
        page.locator("#filter").fill(MARKED)
        page.locator("#filter").fill("")
        page.get_by_text("Repeat this run").click()
    else:
        page.locator("#fold").click()
        assert (
            page.locator(
                ":is(main script:not([type='application/json']), main iframe, main form):not([data-hr-map] *)"
            ).count()
            == 0
        )
    if name == "03_embedding_drift":
        page.locator("[data-hr-map] canvas").first.wait_for()
        places = page.evaluate(
            """() => {
              const view = Bokeh.index.roots.find((each) => each.frame);
              const at = view.model.renderers[0].data_source.data;
              view.el.scrollIntoView({ block: "center" });
              const now = view.el.getBoundingClientRect();
              return Array.from(at.x, (x, row) => [now.left + view.frame.x_scale.compute(x), now.top + view.frame.y_scale.compute(at.y[row])]);
            }"""
        )
        for x, y in places:
            page.mouse.move(x, y)
            page.wait_for_timeout(20)
        page.locator("[data-hr-map] input[type=search]").fill(MARKED)
    page.evaluate(
        "() => document.querySelectorAll('main *').forEach((it) => it.dispatchEvent(new MouseEvent('mouseover')))"
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None and page.title() == title and said == []
    assert title.startswith("hr_search") if name == "index" else name.replace("_", " ") in title


# The index


def test_heads_sort_and_turn_around(visit, site):
    page = visit(site / "index.html")
    assert ids(page) == ["e", "d", "c", "b", "a"]
    head = page.locator("#runs th", has_text="MRR").first
    head.get_by_role("button").click()
    assert ids(page) == ["b", "e", "a", "c", "d"] and head.get_attribute("aria-sort") == "descending"
    assert page.locator("#sort").input_value() == "mrr"
    head.get_by_role("button").click()
    assert ids(page) == ["c", "e", "a", "b", "d"] and head.get_attribute("aria-sort") == "ascending"
    page.locator("#runs th", has_text="Run").get_by_role("button").click()
    page.locator("#turn").click()
    assert ids(page) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("width", [1200, 480])
def test_any_parameter_or_metric_sorts_and_shows_its_column(visit, site, width):
    page = visit(site / "index.html", width)
    names = page.locator("#sort option").all_inner_texts()
    assert {"learningrate", "outputpath", "mrr", "pass@1", "d2q.mrr", "base.mrr", "bm25.mrr", "seconds", "gain"} <= set(
        names
    )
    assert len(names) == len(set(names))
    page.locator("#sort").select_option("seed")
    assert ids(page)[-1] == "b" and page.locator("td.extra").all_text_contents() == ["42", "42", "42", "10", "7"]
    page.locator("#sort").select_option("d2q.mrr")
    assert ids(page)[0] == "b" and page.locator("td.extra").all_text_contents() == ["0.55", "–", "–", "–", "–"]
    assert page.locator("th.extra").get_attribute("aria-sort") == "descending"
    assert page.evaluate("document.documentElement.scrollWidth") <= width and page.evaluate(OVERLAPS) == []
    page.locator("#sort").select_option("loss")
    assert ids(page) == ["c", "b", "e", "d", "a"]
    page.locator("#sort").select_option("gain")
    assert page.locator(".extra").count() == 0


FILTERS = [
    ("", "edcba"),
    ("learningrate=1e-4 mrr>0.7 infonce", "b"),
    ("learning_rate=0.0001", "cb"),
    ("loss!=infonce", "eda"),
    ("-loss=infonce", "eda"),
    ("LOSS=InfoNCE -seed=7", "c"),
    ("mrr>=0.7 mrr<=0.7", "ea"),
    ("mrr<0.7", "c"),
    ("bm25.mrr<0.5", "b"),
    ("trained.d2q.mrr>0.5", "b"),
    ("pass@1>0.65", "b"),
    ("mrr=", "d"),
    ("started>2026-11-03", "edc"),
    ("modelname~long-name", "e"),
    ("-modelname~long-name steps=120", "dcba"),
    ('"train 900" data=esco "python train.py"', "edcb"),
    ("command \"querycolumn='a b'\"", ""),
    ("allowleaks=false", "edcba"),
    ("loss>3", "edcba"),
    ("mrr>high", ""),
    ("=", "dcba"),
    ("-", "edcba"),
]


def test_filters(visit, site):
    page = visit(site / "index.html")
    for query, found in FILTERS:
        page.locator("#filter").fill(query)
        assert (query, "".join(ids(page))) == (query, found)
        assert page.locator("#shown").inner_text() == (f"{len(found)} of 5 runs" if query else "")


def test_a_wrong_name_in_a_filter_is_reported(visit, site):
    page = visit(site / "index.html")
    assert "learningrate=1e-4 mrr>0.7 text" in page.locator("#syntax").inner_text()
    page.locator("#filter").fill("learningrat=1e-4 seed=7")
    assert page.locator("#shown").inner_text() == "0 of 5 runs; no run has a learningrat"
    page.locator("#names summary").click()
    assert "learningrate" in page.locator("#names").inner_text() and "bm25.mrr" in page.locator("#names").inner_text()


def test_chosen_runs_are_compared(visit, site):
    page = visit(site / "index.html")
    panel = page.locator("#compare")
    assert not panel.is_visible() and not page.locator("#clear").is_visible()
    page.get_by_label("Compare b").check()
    assert panel.inner_text() == "One run chosen; tick another to compare"
    page.get_by_label("Compare c").check()
    rows = [row.split("\t") for row in panel.locator("tr").all_inner_texts()]
    assert rows[:4] == [["", "c", "b"], ["Settings that differ"], ["seed", "10", "7"], ["Metrics, with 95 % intervals"]]
    assert ["trained q2d mrr", "0.600 (0.650–0.750)", "0.800 (0.750–0.850)"] in rows
    assert ["bm25 q2d mrr", "–", "0.300 (0.250–0.350)"] in rows
    assert panel.locator("td.most").first.inner_text().startswith("0.800")
    page.get_by_label("Compare d").check()
    assert "Other train or test rows: the command compare says whether the metrics can be" in panel.inner_text()
    assert page.locator("#jump").inner_text() == "3 chosen: compare"
    page.locator("#clear").click()
    assert not panel.is_visible() and page.locator("#runs input:checked").count() == 0


def test_the_command_is_copied_whole(visit, site):
    page = visit(site / "index.html")
    row = page.locator("#runs tr", has_text="2026-11-01")
    row.get_by_text("Repeat this run").click()
    row.get_by_role("button", name="Copy").click()
    row.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "python3 train.py --querycolumn='a b'"
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')) }")
    row = page.locator("#runs tr", has_text="2026-11-02")
    row.get_by_text("Repeat this run").click()
    row.get_by_role("button", name="Copy").click()
    row.get_by_role("button", name="Press Ctrl-C").wait_for()
    assert page.evaluate("window.getSelection().toString()") == "python train.py --seed 1"


def test_five_hundred_runs_are_sorted_and_filtered_and_laid_out_only_in_sight(visit, tmp_path, monkeypatch):
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path))
    for number in range(500):
        write_run(f"run-{number}", mrr=0.5 + number / 1000, seed=number, loss=("triplet", "infonce")[number % 2])
    path = index.write_index()
    # On a narrow page, where rows are cards, laying out all at once would take seconds.
    last = visit(path, 480).locator("#runs tbody tr").last
    assert last.evaluate("(it) => getComputedStyle(it).contentVisibility") == "auto"
    page = visit(path)
    page.locator("#runs th", has_text="MRR").first.get_by_role("button").click()
    page.locator("#filter").fill("loss=infonce")
    assert page.locator("#runs tbody tr:visible .run strong").first.inner_text() == "run-499"
    assert page.locator("#shown").inner_text() == "250 of 500 runs"


# The map


def test_scripts_of_a_map_run_under_the_policy_and_others_do_not(visit, tmp_path, monkeypatch):
    draw = "for (const it of document.querySelectorAll('[data-hr-map]')) it.textContent = JSON.parse(document.querySelector('[data-hr-map-data]').textContent).texts.join() + library;"
    monkeypatch.setattr(interactive_map, "scripts", lambda: ["const library = '</script>';\r\n", draw])
    data = json.dumps({"texts": HOSTILE}).replace("</", "<\\/")
    html = f"<div data-hr-map></div><script type='application/json' data-hr-map-data>{data}</script><script>{FLAG}</script>"
    _, soup = exported(tmp_path, new_code_cell("1", outputs=[display({"text/html": html})]))
    assert soup.find("script", type="application/json")
    page = visit(tmp_path / "02_train.html")
    assert page.locator("[data-hr-map]").text_content() == ",".join(HOSTILE) + "</script>"
    assert page.evaluate("window.hacked") is None


@pytest.fixture(scope="module")
def map_page(tmp_path_factory):
    """A page with a real map of 40 texts at three checkpoints; the hostile ones are among them."""
    count, steps = 40, (0, 120, 240)
    random = np.random.default_rng(0)
    places = {step: random.normal(size=(count, 2)) for step in steps}
    places[0][7] = [-6, 0]  # apart from all others
    places[240][7] = [6, 0]
    shares = dict.fromkeys(steps, 0.8)
    texts = [f"text {number} {HOSTILE[number % len(HOSTILE)]}" for number in range(count)]
    table = pd.DataFrame(
        {
            "side": ["query", "document"] * 20,
            "text": texts,
            "group": [f"group {number // 8}" for number in range(count)],
        }
    )
    drawn = interactive_map.interactive_map(Layout(np.arange(count), places, shares, shares, 5, 0), table)
    folder = tmp_path_factory.mktemp("map")
    text, _ = exported(
        folder,
        new_markdown_cell("# 3. Drift\n## The map\n## More"),
        new_code_cell("1", outputs=[display({"text/html": drawn.html})]),
    )
    assert len(text.encode()) < 6_000_000
    return folder / "02_train.html"


def hover(page, index):
    """Moves the mouse over a point of the map, sees its text and gives its place."""
    x, y = page.evaluate(
        """(index) => {
          const view = Bokeh.index.roots.find((each) => each.frame);
          const at = view.model.renderers[0].data_source.data;
          const row = at.text.findIndex((text) => text.startsWith(`text ${index} `));
          const box = view.el.getBoundingClientRect();
          return [box.left + view.frame.x_scale.compute(at.x[row]), box.top + view.frame.y_scale.compute(at.y[row])];
        }""",
        index,
    )
    page.mouse.move(x - 40, y)
    page.mouse.move(x, y, steps=3)
    page.get_by_text(f"text {index} ").filter(visible=True).first.wait_for()
    return x, y


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (480, "dark")])
def test_the_map_slides_shows_texts_and_is_searched(visit, map_page, width, scheme):
    page = visit(map_page, width, scheme)
    place = page.locator("[data-hr-map]")
    slider, search = place.locator("input[type=range]"), place.locator("input[type=search]")
    place.locator("canvas").first.wait_for()
    page.locator("[data-hr-map-picture]").wait_for(state="hidden")  # the picture gives way to the map
    assert page.evaluate("document.documentElement.scrollWidth") <= width and page.evaluate(OVERLAPS) == []
    place.scroll_into_view_if_needed()
    before = hover(page, 7)
    slider.focus()
    slider.press("End")
    place.get_by_text("step 240 of 240").wait_for()
    page.wait_for_timeout(600)
    after = hover(page, 7)
    assert after[0] - before[0] > width / 6 and abs(after[1] - before[1]) < 2
    search.fill("window.hacked group")
    found = sum("window.hacked" in HOSTILE[number % len(HOSTILE)] for number in range(40))
    place.get_by_text(f"{found} of 40 texts match").wait_for()
    search.fill("no such text")
    place.get_by_text("0 of 40 texts match").wait_for()
    search.fill("")
    hover(page, 2)  # an img with onerror, as text
    assert page.evaluate("window.hacked") is None
    page.emulate_media(media="print")
    assert place.locator("canvas").first.is_visible() and not slider.is_visible()
