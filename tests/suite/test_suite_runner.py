"""A suite becomes tables, whatever goes wrong on the way, and goes on where it was stopped."""

from __future__ import annotations

import json
import logging
import shutil

import pandas as pd
import pytest
from conftest import make_model
from suite_data import write_suite, write_table

from hr_search.base import claims, paths
from hr_search.base.errors import InputError
from hr_search.commands.parser import main
from hr_search.suite import cells, names, runner
from hr_search.suite.runner import run_suite, suite_folder
from hr_search.suite.suite_file import read_suite


@pytest.fixture
def suite(home, tmp_path):
    """Two tasks on tables of their own, one in both directions."""
    both = {"name": "both", "data": write_table(tmp_path), "direction": "both", "maxlength": 8}
    return read_suite(write_suite(tmp_path, both, {"name": "few", "data": write_table(tmp_path, "few.csv", 4)}))


@pytest.fixture
def models(tmp_path, tiny_model):
    """Two folders of models, of one name."""
    places = [tmp_path / part / "model" for part in ("first", "second")]
    for place in places:
        shutil.copytree(tiny_model, place)
    return [str(place) for place in places]


@pytest.fixture
def measured(monkeypatch):
    """The cells of models that are measured, by task and model."""
    seen, measure = [], cells.measure_model

    def noting(task, material, encoder):
        seen.append((task.name, encoder.maxlength))
        return measure(task, material, encoder)

    monkeypatch.setattr(cells, "measure_model", noting)
    return seen


def test_a_suite_measures_every_cell_once(suite, models, measured, caplog):
    caplog.set_level(logging.INFO)
    tables = run_suite(suite, models[:1])
    assert measured == [("few", 64), ("both", 8)]  # tasks that read as much of a text share one encoder
    assert tables.cells["system"].tolist() == ["bm25", "tfidf", "model"] * 3
    assert (tables.cells["status"] == "finished").all()
    folder = suite_folder("small")
    place = next((folder / "cells" / "both").glob("model-*"))
    stored = pd.read_csv(place / "queries.csv")
    assert stored["direction"].value_counts().to_dict() == {"q2d": 6, "d2q": 6}
    row = tables.cells.iloc[2]
    assert stored.loc[stored["direction"] == "q2d", "mrr"].mean() == pytest.approx(row["value"])
    assert "welder" not in (place / "queries.csv").read_text()  # no texts
    assert not (folder / claims.NAME).exists()

    measured.clear()
    again = run_suite(suite, models[:1])
    assert not measured and "6 cells, 0 of them to measure" in caplog.text
    pd.testing.assert_frame_equal(again.cells, tables.cells)


def test_what_has_changed_is_measured_anew_and_named(suite, models, measured, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run_suite(suite, models)
    measured.clear()
    table = pd.read_csv(tmp_path / "few.csv")
    table.assign(title=table["title"].str.upper()[::-1].to_numpy()).to_csv(tmp_path / "few.csv", index=False)
    shutil.rmtree(models[1])
    make_model(tmp_path / "second" / "model", "distilbert")
    place = next((suite_folder("small") / "cells" / "both").glob("*first-model-*"))
    (place / "queries.csv").write_text("direction,query\nq2d,0\n")
    run_suite(suite, models)
    assert measured == [("few", 64), ("both", 8), ("few", 64), ("both", 8)]
    said = [record.getMessage() for record in caplog.records if "measured again" in record.getMessage()]
    assert len(said) == 6
    assert f"few with {models[1]} is measured again: its data and the model have changed" in said
    assert f"both with {models[1]} is measured again: the model has changed" in said
    assert "few with bm25 is measured again: its data and the model have changed" not in said
    assert any("both with" in line and "what is stored of it is damaged" in line for line in said)


def test_a_suite_that_was_stopped_goes_on(suite, models, monkeypatch, measured, caplog):
    store, count = cells.store, []

    def stopped(*given):
        store(*given)
        count.append(given)
        if len(count) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(cells, "store", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_suite(suite, models)
    assert "the same command goes on with the others" in caplog.text
    assert len(measured) == 1 and not (suite_folder("small") / "cells.csv").exists()
    tables = run_suite(suite, models)
    assert len(measured) == 4 and (tables.cells["status"] == "finished").all()


def test_one_failing_task_does_not_stop_the_others(home, tmp_path, models, caplog):
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    good = {"name": "good", "data": write_table(tmp_path)}
    away = {"name": "away", "data": str(tmp_path / "none"), "get": "hf:OWNER/NAME"}
    suite = read_suite(write_suite(tmp_path, {"name": "bad", "data": str(tmp_path / "bad.csv")}, good, away))
    found = run_suite(suite, models[:1]).cells
    assert found.groupby("task", sort=False)["status"].first().to_dict() == {
        "bad": "failed",
        "good": "finished",
        "away": "skipped",
    }
    assert "has no known pair of query and document columns" in found["error"].iloc[0]
    assert "away is skipped" in caplog.text and "get it: hf:OWNER/NAME" in caplog.text


def test_nothing_is_measured_where_the_command_cannot_be_meant(suite, models, home, tmp_path, measured):
    for given, said in (
        ([], "needs a model"),
        (["bm25"], "measures bm25 beside its models"),
        ([models[0], models[0] + "/"], "is given twice"),
        ([models[0], str(tmp_path / "no-model")], "does not exist"),
    ):
        with pytest.raises(InputError, match=said):
            run_suite(suite, given)
    with pytest.raises(InputError, match="cannot name a folder"):
        run_suite(suite, models, "../x")
    with (
        claims.claimed(claims.inside(suite_folder("small")), "it", ""),
        pytest.raises(InputError, match="the suite small is being written by"),
    ):
        run_suite(suite, models[:1])
    away = read_suite(write_suite(tmp_path, {"name": "away", "data": "none/here", "get": "ask us"}))
    with pytest.raises(InputError, match="none of the 1 tasks of small are here; get those of the first: ask us"):
        run_suite(away, models[:1])
    assert (not measured and not (home / "metrics").exists()) or not list((home / "metrics").rglob("*.csv"))


def test_models_are_called_by_their_folders_where_these_differ(tmp_path, models):
    other = tmp_path / "other"
    other.mkdir()
    labels = [system.label for system in cells.systems_of(["embedded", models[0], str(other)])]
    assert labels == ["bm25", "tfidf", "embedded", "model", "other"]
    assert [system.label for system in cells.systems_of(models)][2:] == models
    folders = [system.folder for system in cells.systems_of(models)]
    assert len(set(folders)) == 4


def test_a_condenser_is_learnt_for_a_task_and_leaves_the_encoder_as_it_was(home, tmp_path, jobs_file):
    task = {"name": "a", "data": str(jobs_file), "split": "test", "testshare": 0.3, "condense": 20}
    (plain,) = read_suite(write_suite(tmp_path, {**task, "condense": 0})).tasks
    (short,) = read_suite(write_suite(tmp_path, task)).tasks
    material = cells.read_material(short)
    assert material.condenser.characters == 20 and cells.read_material(plain).condenser is None
    assert material.fingerprint != cells.read_material(plain).fingerprint


def test_the_name_audit_of_a_suite(home, tmp_path, models):
    cvs = str(paths.checkout() / "data" / "sample_cvs.jsonl")
    suite = read_suite(write_suite(tmp_path, {"name": "cvs", "data": cvs, "cvs": True, "direction": "both"}))
    task = cells.read_material(suite.tasks[0]).tasks["q2d"]
    assert len(task.queries) == len(task.documents) == 10
    assert task.queries[0] == "Электрогазосварщик 5 разряда" and "Туманов" not in " ".join(task.documents)
    found = names.audit_names(suite, cells.systems_of(models[:1]), suite_folder("small"))
    left_out = found[found["identity"] == "left out"]
    assert (left_out["rbo_min"] == 1).all() and (left_out["movement"] == 0).all() and len(left_out)
    pd.testing.assert_frame_equal(names.read_names(suite_folder("small")), found, check_dtype=False)
    summed = names.summed_names(found)
    assert summed[["identity", "overlap"]].iloc[0].tolist() == ["left out", 1]
    with pytest.raises(InputError, match="needs CVs in fields, and no task"):
        names.require_cvs(read_suite(write_suite(tmp_path, {"name": "a", "data": "sample_ru"})))


def test_the_verb_prints_a_table_or_json_and_writes_the_page(home, tmp_path, models, monkeypatch, capsys):
    written = []
    monkeypatch.setattr(runner, "write_page", lambda name: written.append(name) or home / "page.html")
    good = {"name": "good", "data": write_table(tmp_path)}
    away = {"name": "away", "data": str(tmp_path / "none"), "get": "hf:OWNER/NAME"}
    path = str(write_suite(tmp_path, good, away))
    words = ["suite", path, "--model", models[0], "--model", models[1], "--runid", "mine"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "away was skipped; get its data: hf:OWNER/NAME" in printed and "2 tasks: 1 finished, 1 skipped" in printed
    assert "real differences" in printed and written == ["mine"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["suite"] == "mine" and len(told["cells"]) == 5 and len(told["comparison"]) == 5
    assert {row["status"] for row in told["cells"]} == {"finished", "skipped"}

    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    assert (
        main(
            [
                "suite",
                str(write_suite(tmp_path, {"name": "bad", "data": str(tmp_path / "bad.csv")})),
                "--model",
                models[0],
            ]
        )
        == 1
    )
    assert "bad with bm25, tfidf, model failed: " in capsys.readouterr().out and written == ["mine", "mine"]
    assert main(["suite", path, "--model", models[0], "--audit", "names"]) == 2
    assert main(["suite", str(tmp_path / "none.yaml")]) == 2


def test_the_page_of_a_suite_is_linked_from_the_index(suite, models, home):
    run_suite(suite, models[:1])
    page = runner.write_page("small")
    assert page == home / "reports" / "suites" / "small.html"
    text = page.read_text(encoding="utf-8")
    assert "suite small, 2 tasks: 2 finished" in text and text.count("<img") == 1
    index = (home / "reports" / "index.html").read_text(encoding="utf-8")
    assert '<a href="suites/small.html">small</a>' in index
    assert runner.open_or_tiny() == "small"
    with pytest.raises(InputError, match='there is no suite smal; did you mean "small"'):
        runner.open_or_tiny("smal")
