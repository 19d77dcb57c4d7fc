import json
from collections import Counter

import pytest
from bs4 import BeautifulSoup
from helpers import MARKUP, loads_nothing, write_run

from hr_search.base import files, paths
from hr_search.reports import index as runs_index
from hr_search.reports import pages


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home"


def index():
    text = runs_index.write_index().read_text(encoding="utf-8")
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
    assert found[2:4] == ["esco train 900, validation 100, test 101 embedded", "learningrate=0.0001"]
    assert found[4:6] == ["0.700 ★ best on this data 0.650–0.750", "▲ +0.200 base 0.500"]
    assert found[7] == "3 min 20 s 120 steps"
    assert found[8] == "Training helps. Repeat this run python train.py --seed 1 Copy"
    assert row.find("svg")["aria-label"] == "validation MRR from 0.500 to 0.700, best 0.700"
    found, _ = cells(soup, "a-new")
    assert found[3] == "defaults" and found[5] == "▼ −0.050 base 0.500" and "★" not in found[4]
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
        "a": {"loss": "triplet", "seed": 1},
        "b": {"loss": "infonce", "seed": 2},
    }
    assert data["common"]["batchsize"] == 32 and "seed" not in data["common"]
    assert data["runs"][0]["metrics"]["trained q2d pass@1"] == [0.6, None, None]
    assert data["runs"][0]["facts"] == {
        "data": "esco",
        "model": "embedded",
        "started": "2026-11-21T18:05:03+00:00",
        "steps": 120,
        "seconds": 200.0,
        "gain": pytest.approx(0.2),
    }


def test_hostile_texts_of_a_run_stay_text(home):
    names = ("modelname", "datapath", "model", "verdict", "command", "projectname", "querycolumn")
    write_run("a", **dict.fromkeys(names, MARKUP))
    write_run("b", data={"name": MARKUP, "fingerprint": MARKUP})
    text, soup = index()
    assert loads_nothing(text) == 1
    assert not soup.find_all("img") and text.count("<script") == 2 and "<img" not in text
    assert cells(soup, "a")[0][2].endswith(MARKUP)
    data = json.loads(soup.find("script", id="data").string)
    assert {run["settings"]["modelname"] for run in data["runs"]} == {MARKUP, "embedded"}


def test_damaged_and_unfinished_runs_are_named_at_the_foot(home):
    write_run("good")
    (paths.runs() / "unfinished").mkdir()
    (paths.runs() / ".temporary").mkdir()
    (paths.runs() / "a file").write_text("")
    damage = [
        ("not-json", "summary.json", "{"),
        ("a-list", "summary.json", "[]"),
        ("no-config", "config.json", None),
        ("config-list", "config.json", "[1]"),
        ("config-nan", "config.json", '{"margin": NaN}'),
    ]
    for name, file, content in damage:
        folder = write_run(name)
        (folder / file).unlink() if content is None else (folder / file).write_text(content)
    write_run("no-date", started="yesterday")
    write_run("no-data", data=None)
    write_run("bad-metric", metrics={"trained": {"q2d": {"mrr": ["high"]}}})
    write_run("bad-steps", steps="many")
    text, soup = index()
    assert [row.find("strong").string for row in soup.select("#runs tbody tr")] == ["good"]
    named = {code.string for code in soup.select("footer code")}
    assert named == {name for name, *_ in damage} | {"unfinished", "no-date", "no-data", "bad-metric", "bad-steps"}
    assert "summary.json does not exist" in text and str(home) not in text


def test_missing_numbers_and_curves_are_dashes(home):
    folder = write_run("a", mrr=float("nan"), seconds=None, steps=None, history=())
    write_run("b", metrics={}, history=("x",))
    (write_run("c") / "history.csv").unlink()
    write_run("one", history=(0.5,))
    write_run("gaps", history=("", "nan", "inf", 0.4, 0.6))
    (write_run("short") / "history.csv").write_text("step,mrr\n1\n")
    (write_run("bytes") / "history.csv").write_bytes(b"step,mrr\n1,\xff\n")
    (write_run("giant") / "history.csv").write_text("step,mrr\n1," + "1" * 200_000 + "\n")
    (folder / "history.csv").write_text("step,loss\n1,2\n")
    text, soup = index()
    assert loads_nothing(text)
    found, _ = cells(soup, "a")
    assert found[4:8] == ["–", "– base 0.500", "–", "–"]
    assert cells(soup, "b")[0][4:7] == ["–"] * 3
    assert cells(soup, "c")[0][6] == "–"
    assert [cells(soup, name)[0][6] for name in ("short", "bytes", "giant")] == ["–"] * 3
    assert cells(soup, "gaps")[1].find("svg")["aria-label"] == "validation MRR from 0.400 to 0.600, best 0.600"
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
    runs, skipped = runs_index.read_runs()
    assert {run.id: run.best for run in runs} == {"a": False, "b": False, "c": True} and skipped == []


def test_runs_on_the_same_test_compete_whatever_they_trained_on(home):
    data = {"name": "esco", "train": 900, "validation": 100, "test": 101}
    write_run("all", mrr=0.6, data=data | {"fingerprint": "one", "test_fingerprint": "same"})
    write_run("fewer", mrr=0.9, data=data | {"fingerprint": "two", "test_fingerprint": "same"})
    write_run("older", mrr=0.7, fingerprint="one")  # it trained on all rows and does not say what it was tested on
    write_run("unknown", mrr=0.8, fingerprint="three")
    runs = runs_index.read_runs()[0]
    assert {run.id: run.tested for run in runs} == {"all": "same", "fewer": "same", "older": "same", "unknown": ""}
    assert [run.id for run in runs if run.best] == ["fewer"]
    data = json.loads(index()[1].find("script", id="data").string)
    assert {run["id"]: run["tested"] for run in data["runs"]} == {run.id: run.tested for run in runs}


def test_runs_of_different_time_zones_are_in_order(home):
    write_run("first", started="2026-11-21T10:00:00+03:00")
    write_run("second", started="2026-11-21T09:00:00+00:00")
    assert [run.id for run in runs_index.read_runs()[0]] == ["second", "first"]


def test_an_empty_index_says_so(home):
    text, soup = index()
    assert "No finished runs yet" in text and soup.find("table") is None
    assert loads_nothing(text) == 0


def test_an_index_of_many_runs_reads_each_file_once_and_stays_small(home, monkeypatch):
    for number in range(200):
        write_run(f"run-{number}", mrr=number / 1000, seed=number, history=[0.1] * 20)
    read, original = Counter(), files.read_json
    monkeypatch.setattr(files, "read_json", lambda path: read.update([path]) or original(path))
    path = runs_index.write_index()
    assert set(read.values()) == {1} and sum(path.is_relative_to(paths.runs()) for path in read) == 400
    assert path.stat().st_size < 200 * 12_000


def test_the_script_of_the_index_is_short():
    assert len((pages.ASSETS / "runs.js").read_text().splitlines()) < 250


def test_the_gallery_of_a_grid_links_pages_and_runs(home):
    name = "сетка 1"
    write_run("g-a", learningrate=1e-4)
    write_run("lone")
    table = paths.metrics() / "grids" / name / "cells.csv"
    table.parent.mkdir(parents=True)
    rows = ["1,<b>,finished,3,g-a,,", "2,y,failed,4,g-b,reports/x,it broke", "3,z,waiting,,g-c,,"]
    table.write_text("\n".join(["cell,loss,status,seconds,run,notebook,error", *rows]) + "\n")
    for place in ("05_ablations.html", "cells/g-a/02_train.html"):
        (home / "reports" / name / place).parent.mkdir(parents=True, exist_ok=True)
        (home / "reports" / name / place).write_text("")
    (home / "metrics" / "grids" / "unseen").mkdir()
    (home / "metrics" / "grids" / "unseen" / "cells.csv").write_text(table.read_text())  # no page of it is here
    text, soup = index()
    assert loads_nothing(text) == 1
    (grid,) = soup.select("details.grid")
    address = "%D1%81%D0%B5%D1%82%D0%BA%D0%B0%201"
    assert grid.has_attr("open") and grid.find("summary").get_text() == f"{name} 3 cells"
    assert [a["href"] for a in grid.select(":scope > p a")] == [f"{address}/05_ablations.html"]
    first, second, third = (item.get_text(" ").split() for item in grid.select("li"))
    assert first[:7] == ["Cell", "1", "loss=<b>", "MRR", "0.700", "▲", "+0.200"] and grid.select("li svg")
    row = soup.find("strong", string="g-a").find_parent("tr")["id"]
    assert [a["href"] for a in grid.select("li a")] == [f"{address}/cells/g-a/02_train.html", f"#{row}"]
    assert second == ["Cell", "2", "loss=y", "failed:", "it", "broke"] and third[-1] == "waiting"


def test_the_index_links_the_page_of_all_parameters_and_writes_it(home):
    write_run("a")
    _, soup = index()
    (link,) = soup.select(".pages a")
    assert link["href"] == "parameters.html" and (home / "reports" / "parameters.html").is_file()
