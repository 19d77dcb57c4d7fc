import base64
import hashlib
import json
import logging
import re
import time

import matplotlib
import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from hr_search import pages, paths
from hr_search.config import Settings
from hr_search.errors import InputError

matplotlib.use("agg")
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'"
PIXEL = base64.b64encode(
    base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==")
).decode()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setattr(logging.getLogger("hr_search"), "propagate", True)  # the command line turns it off
    return tmp_path / "home"


def display(data, **metadata):
    return new_output("display_data", data=data, metadata=metadata)


def exported(tmp_path, *cells, title="", links=None):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = tmp_path / "02_train.ipynb"
    nbformat.write(
        new_notebook(cells=list(cells), metadata={"kernelspec": kernel, "language_info": {"name": "python"}}), path
    )
    page = pages.export_html(path, tmp_path / "02_train.html", title, links)
    text = page.read_text(encoding="utf-8")
    return text, BeautifulSoup(text, "html.parser")


def loads_nothing(text):
    """Whether a page, links in its text apart, names no address that a browser would fetch, and has a policy."""
    soup = BeautifulSoup(text, "html.parser")
    for tag in soup.find_all(True):
        for name in ("src", "srcset", "poster", "data", "action", "background", "xlink:href", "formaction"):
            assert str(tag.get(name, "data:")).startswith("data:"), tag
        if tag.name != "a":
            assert str(tag.get("href", "data:")).startswith(("data:", "#")), tag
        assert not [name for name in tag.attrs if name.startswith("on")], tag
        assert tag.name not in ("iframe", "object", "embed", "form") or tag.get("role") == "search", tag
    code = " ".join(
        each.get_text() for each in soup.find_all(["style", "script"]) if each.get("type") != "application/json"
    )
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttpRequest|WebSocket|import\(|innerHTML|eval\(", code)
    policy = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    assert "default-src 'none'" in policy and "img-src data:" in policy
    scripts = [each.string for each in soup.find_all("script") if each.get("type") != "application/json"]
    for script in scripts:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1]
    return len(scripts)


# Executed notebooks


def test_a_page_loads_nothing_and_folds_the_code(tmp_path):
    text, soup = exported(
        tmp_path,
        new_markdown_cell("# Train & test\n\nSee [more](https://example.org/a) and $x^2$."),
        new_code_cell("rate = 1  # a", metadata={"tags": ["parameters"]}, execution_count=1),
        new_code_cell("rate = 2", metadata={"tags": ["injected-parameters"], "papermill": {"duration": 200.0}}, execution_count=2),
        new_code_cell("", execution_count=None),
        new_code_cell("1 + 1", execution_count=3, outputs=[new_output("execute_result", data={"text/plain": "2"}, execution_count=3)]),
    )  # fmt: skip
    assert loads_nothing(text) == 1
    assert soup.title.string == "Train & test"
    folds = soup.select("details.code")
    assert [fold.summary.string for fold in folds] == [
        "Default parameters · In [1]", "Parameters of this run · In [2] · 3 min 20 s", "Code · In [3]",
    ]  # fmt: skip
    assert not any(fold.has_attr("open") for fold in folds)
    assert soup.find("button", id="fold")
    assert soup.find("a", string="more")["href"] == "https://example.org/a"


def test_the_bar_links_the_other_pages_and_marks_this_one(tmp_path):
    links = {"All runs": "../index.html", "02 <train>": "02_train.html"}
    _, soup = exported(tmp_path, new_markdown_cell("# A"), title="<b>T", links=links)
    assert soup.title.string == "<b>T"
    assert [(a["href"], a.string, a.get("aria-current")) for a in soup.select(".bar a")] == [
        ("../index.html", "All runs", None), ("02_train.html", "02 <train>", "page"),
    ]  # fmt: skip


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
    text, soup = exported(
        tmp_path,
        new_code_cell("0", outputs=[display(picture)]),
        new_markdown_cell('# Title\n## Loss "curve"\n![local](near.png) ![far](../outside.png) ![web](https://example.org/x.png)'),
        new_code_cell("1", outputs=[display(picture), display(picture), display(picture, alt="Loss <falls>")]),
        new_code_cell("2", outputs=[display(picture, **{"image/png": {"alt": "Given here", "width": 9}})]),
        new_code_cell("3", outputs=[display({"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg' onload='x()'/>"})],
                      metadata={"alt": "Of the cell"}),
    )  # fmt: skip
    assert loads_nothing(text)
    assert [image["alt"] for image in soup.find_all("img")] == [
        "Figure", "local", "far", "web", 'Loss "curve"', 'Loss "curve" (2)', "Loss <falls>", "Given here", "Of the cell",
    ]  # fmt: skip
    assert [bool(image.get("src")) for image in soup.find_all("img")] == [True, True, False, False] + [True] * 5
    assert soup.find("img", alt="Given here")["width"] == "9"
    assert "Figure size" not in text


def test_nothing_from_data_becomes_markup(tmp_path):
    text, soup = exported(
        tmp_path,
        new_markdown_cell("# A\n<script>alert(0)</script><a href='java\tscript:alert(0)'>x</a>"),
        new_code_cell(f"print({HOSTILE!r})", outputs=[
            new_output("stream", name="stdout", text=HOSTILE),
            display({"text/plain": HOSTILE}),
            display({"text/markdown": f"**bold** {HOSTILE} [x](javascript:alert(1)) `a<b`"}),
            display({"application/javascript": "alert(3)", "text/plain": "js"}),
            display({"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "widget"}),
            new_output("error", ename="E", evalue=HOSTILE, traceback=[HOSTILE]),
        ]),
        new_code_cell("1", outputs=[display({"text/html":
            "<style>@import 'https://e.org/a.css'; .x { background: url(https://e.org/b) }</style><script src=https://e.org></script>"
            "<img src='https://e.org/c'><iframe src=https://e.org></iframe><b onclick='x()' style='background:url(https://e.org)'>t</b>"
            "<form action=https://e.org><input></form><svg><image href='https://e.org/d'/><a xlink:href='javascript:x()'>y</a></svg>"
            "<a href=' JavaScript:alert(1)'>z</a><table><tr><td>1</td></tr></table>"})]),
    )  # fmt: skip
    assert loads_nothing(text) == 1
    assert not soup.main.find_all(["script", "iframe", "form"])
    assert not [a for a in soup.find_all("a") if "script" in a.get("href", "").lower()]
    assert text.count("&lt;img src=x onerror=alert(2)&gt;") >= 4
    assert HOSTILE in soup.find("strong", string="bold").parent.get_text() and soup.find("code", string="a<b")
    assert soup.find("b", string="t") and soup.select_one(".scroll > table td").string == "1"
    assert "js" in text and "widget" in text


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
    assert len(soup.find_all("img")) == 2
    assert "An output of 3.0 MB is left out here; it is in 02_train.ipynb." in text
    assert "An output of 2.5 MB" in text and "3.0 MB" in caplog.text


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


# The index of runs


def write_run(
    name, mrr=0.7, base=0.5, started="2026-11-21T18:05:03", history=(0.5, 0.6, 0.7), fingerprint="f", **changes
):
    folder = paths.runs() / name
    folder.mkdir(parents=True)
    settings = {key: value for key, value in changes.items() if key in Settings().to_dict()}
    (folder / "config.json").write_text(json.dumps(Settings(**settings).to_dict()))
    summary = {
        "run_id": name, "projectname": "p", "started": started, "seconds": 200.0, "steps": 120, "best_step": 80,
        "data": {"name": "esco", "train": 900, "validation": 100, "test": 101, "fingerprint": fingerprint},
        "model": "embedded", "command": "python train.py --seed 1", "verdict": "Training helps.",
        "metrics": {"trained": {"q2d": {"mrr": [mrr, 0.65, 0.75], "pass@1": [0.6, None, None]}}, "base": {"q2d": {"mrr": [base, 0.4, 0.6]}}},
    }  # fmt: skip
    summary |= {key: value for key, value in changes.items() if key not in settings}
    (folder / "summary.json").write_text(json.dumps(summary))
    rows = [f"{20 * step},{value}" for step, value in enumerate(history)]
    (folder / "history.csv").write_text("\n".join(["step,mrr", *rows]) + "\n")
    return folder


def index():
    text = pages.write_index().read_text(encoding="utf-8")
    return text, BeautifulSoup(text, "html.parser")


def cells(soup, name):
    row = soup.find("input", attrs={"aria-label": f"Compare {name}"}).find_parent("tr")
    return [" ".join(cell.get_text(" ").split()) for cell in row.find_all("td")], row


def test_the_index_lists_runs_newest_first_with_their_numbers(home):
    write_run("b-old", started="2026-11-20T10:00:00", learningrate=1e-4, outputpath="x")
    write_run("a-new", mrr=0.45, started="2026-11-21T10:00:00+03:00")
    text, soup = index()
    assert loads_nothing(text) == 1
    assert [row.find("strong").string for row in soup.select("#runs tbody tr")] == ["a-new", "b-old"]
    found, row = cells(soup, "b-old")
    assert found[1] == "b-old 2026-11-20 10:00"
    assert found[2:5] == ["esco train 900, validation 100, test 101", "embedded", "learningrate=0.0001"]
    assert found[5] == "0.700 ★ best on this data 0.650–0.750"
    assert found[6:8] == ["0.500", "▲ +0.200"]
    assert found[9:11] == ["120", "3 min 20 s"]
    assert found[11] == "Training helps. Repeat this run python train.py --seed 1 Copy"
    assert row.find("svg")["aria-label"] == "validation MRR from 0.500 to 0.700, best 0.700"
    found, _ = cells(soup, "a-new")
    assert found[4] == "defaults" and found[7] == "▼ −0.050" and "★" not in found[5]
    assert [card.get_text() for card in soup.select(".card h2")] == ["Newest run", "Best on esco"]


def test_the_index_links_only_pages_that_exist(home):
    name = "поиск-1"
    write_run(name)
    place = home / "reports" / name
    place.mkdir(parents=True)
    (place / "02_train.html").write_text("")
    (place / "02_train.ipynb").write_text("")
    _, soup = index()
    _, row = cells(soup, name)
    links = row.select(".links a")
    assert [(a.string, a["href"]) for a in links] == [("02 train", "%D0%BF%D0%BE%D0%B8%D1%81%D0%BA-1/02_train.html")]


def test_the_page_gets_only_what_differs_and_every_metric(home):
    write_run("a", seed=1)
    write_run("b", seed=2, loss="infonce")
    _, soup = index()
    data = json.loads(soup.find("script", id="data").string)
    assert {run["id"]: run["settings"] for run in data["runs"]} == {
        "a": {"loss": "triplet", "seed": 1}, "b": {"loss": "infonce", "seed": 2},
    }  # fmt: skip
    assert data["common"]["batchsize"] == 32 and "seed" not in data["common"]
    assert data["runs"][0]["metrics"]["trained q2d pass@1"] == [0.6, None, None]
    assert data["runs"][0]["numbers"] == {
        "mrr": 0.7, "pass@1": 0.6, "base": 0.5, "gain": pytest.approx(0.2), "steps": 120, "seconds": 200.0,
    }  # fmt: skip


def test_hostile_texts_of_a_run_stay_text(home):
    write_run(
        "a",
        modelname=HOSTILE,
        datapath=HOSTILE,
        model=HOSTILE,
        verdict=HOSTILE,
        command=HOSTILE,
        projectname=HOSTILE,
        querycolumn=HOSTILE,
    )
    write_run("b", data={"name": HOSTILE, "fingerprint": HOSTILE})
    text, soup = index()
    assert loads_nothing(text) == 1
    assert not soup.find_all("img") and text.count("<script") == 2 and "<img" not in text
    assert cells(soup, "a")[0][3] == HOSTILE
    data = json.loads(soup.find("script", id="data").string)
    assert {run["settings"]["modelname"] for run in data["runs"]} == {HOSTILE, "embedded"}


def test_damaged_and_unfinished_runs_are_named_at_the_foot(home):
    write_run("good")
    (paths.runs() / "unfinished").mkdir()
    (paths.runs() / ".temporary").mkdir()
    (paths.runs() / "a file").write_text("")
    for name, file, content in [
        ("not-json", "summary.json", "{"), ("a-list", "summary.json", "[]"), ("no-config", "config.json", None),
        ("config-list", "config.json", "[1]"), ("config-nan", "config.json", '{"margin": NaN}'),
    ]:  # fmt: skip
        folder = write_run(name)
        (folder / file).unlink() if content is None else (folder / file).write_text(content)
    write_run("no-date", started="yesterday")
    write_run("no-data", data=None)
    write_run("bad-metric", metrics={"trained": {"q2d": {"mrr": ["high"]}}})
    write_run("bad-steps", steps="many")
    text, soup = index()
    assert [row.find("strong").string for row in soup.select("#runs tbody tr")] == ["good"]
    named = [code.string for code in soup.select("footer code")]
    assert named == sorted(
        [
            "unfinished",
            "not-json",
            "a-list",
            "no-config",
            "config-list",
            "config-nan",
            "no-date",
            "no-data",
            "bad-metric",
            "bad-steps",
        ]
    )
    assert "summary.json does not exist" in text and str(home) not in text


def test_missing_numbers_and_curves_are_dashes(home):
    folder = write_run("a", mrr=float("nan"), seconds=None, steps=None, history=())
    write_run("b", metrics={}, history=("x",))
    (write_run("c") / "history.csv").unlink()
    write_run("one", history=(0.5,))
    (folder / "history.csv").write_text("step,loss\n1,2\n")
    text, soup = index()
    assert loads_nothing(text)
    found, _ = cells(soup, "a")
    assert [found[column] for column in (5, 7, 8, 9, 10)] == ["–"] * 5 and found[6] == "0.500"
    assert cells(soup, "b")[0][5:9] == ["–"] * 4
    assert cells(soup, "c")[0][8] == "–"
    assert cells(soup, "one")[1].find("polyline")["points"] == "3.0,28.0"
    assert "nan" not in soup.find("tbody").get_text()


def test_a_long_curve_is_thinned_and_keeps_its_ends(home):
    write_run("a", history=[step / 1000 for step in range(1000)])
    _, soup = index()
    points = soup.find("polyline")["points"].split()
    assert len(points) == 60 and points[0] == "3.0,28.0" and points[-1] == "117.0,4.0"


def test_runs_on_different_data_do_not_compete(home):
    write_run("a", mrr=0.9, fingerprint="one")
    write_run("b", mrr=0.5, fingerprint="two")
    write_run("c", mrr=0.6, fingerprint="two")
    runs, skipped = pages.read_runs()
    assert {run["id"]: run["best"] for run in runs} == {"a": False, "b": False, "c": True} and skipped == []


def test_runs_of_different_time_zones_are_in_order(home):
    write_run("first", started="2026-11-21T10:00:00+03:00")
    write_run("second", started="2026-11-21T09:00:00+00:00")
    assert [run["id"] for run in pages.read_runs()[0]] == ["second", "first"]


def test_an_empty_index_says_so(home):
    text, soup = index()
    assert "No finished runs yet" in text and soup.find("table") is None
    assert loads_nothing(text) == 0


def test_five_hundred_runs_are_written_in_five_seconds(home):
    for number in range(500):
        write_run(f"run-{number}", mrr=number / 1000, seed=number, history=[0.1] * 20)
    start = time.perf_counter()
    path = pages.write_index()
    assert time.perf_counter() - start < 5
    assert path.stat().st_size < 6_000_000


def test_the_script_of_the_index_is_short():
    assert len((pages.ASSETS / "runs.js").read_text().splitlines()) < 200
