"""Run folders, their names, probes and versions."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hr_search.base import files, paths
from hr_search.base.errors import InputError
from hr_search.runs import folders, provenance
from hr_search.runs.folders import Run
from hr_search.runs.probes import Probes


def finished(name: str, age: float) -> Run:
    """A finished run of `age` seconds."""
    run = folders.create_run(name)
    files.write_json(run.folder / "summary.json", {})
    os.utime(run.folder / "summary.json", (1e9 - age, 1e9 - age))
    return run


def test_tables_come_back_as_they_went(home):
    run = folders.create_run("a")
    texts = ["NA", "007", "null", "a\rb", 'say "x", y', "1e5"]
    run.write("queries", pd.DataFrame({"query": texts, "group": texts, "rank": range(6)}))
    assert run.table("queries").to_dict("list") == {"query": texts, "group": texts, "rank": [*range(6)]}
    run.write("history", pd.DataFrame({"step": [0, 5], "loss": [math.nan, 0.25]}))
    assert run.table("history")["loss"].isna().tolist() == [True, False]
    assert run.has("history") and not run.has("metrics")


def test_tables_that_are_not_there(home):
    run = folders.create_run("a")
    with pytest.raises(InputError, match=r'no table "metric"; did you mean "metrics"'):
        run.table("metric")
    with pytest.raises(InputError, match="the run a has no queries.csv"):
        run.table("queries")
    with pytest.raises(InputError, match="summary.json does not exist"):
        _ = run.summary


def test_finished_runs_newest_first(home):
    assert folders.list_runs() == []
    with pytest.raises(InputError, match="no finished runs yet"):
        folders.open_run()
    first, second = finished("z", 2), finished("a", 1)
    unfinished = folders.create_run("unfinished")
    assert folders.list_runs() == [second, first] and folders.open_run() == second and folders.open_run("z") == first
    assert folders.create_run("unfinished") == unfinished and unfinished.folder.parent == paths.runs()
    with pytest.raises(InputError, match="no finished run unfinished"):
        folders.open_run("unfinished")
    with pytest.raises(InputError, match="the run z exists already; choose another --runid"):
        folders.create_run("z")


def test_the_newest_run_is_one_with_test_figures(home):
    whole, pruned = finished("whole", 2), finished("pruned", 1)
    files.write_json(pruned.folder / "summary.json", {"pruned": True})
    assert folders.list_runs()[0] == pruned and folders.open_run() == whole and folders.open_run("pruned") == pruned


def test_probes(tmp_path):
    run = Run(tmp_path / "run")
    sides = {"query": np.ones((3, 2), np.float32), "document": np.zeros((2, 2), np.float32)}
    groups = {"query": ["1", "2", "3"], "document": ["1", "2"]}
    kept = Probes(run, {"query": ["NA", "007", "c"], "document": ["d", "e" * 400]}, groups, 2)
    kept.keep(120, sides)
    texts = pd.read_csv(run.folder / "probes" / "texts.csv", dtype=str, keep_default_na=False)
    assert texts["side"].tolist() == ["query", "query", "document", "document"]
    assert texts["text"].tolist() == ["NA", "007", "d", "e" * 300]
    assert texts["group"].tolist() == ["1", "2", "1", "2"]
    embeddings = np.load(run.folder / "probes" / "step_000120.npy", allow_pickle=False)
    assert embeddings.dtype == np.float32 and embeddings.tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]
    Probes(Run(tmp_path / "none"), {}, {}, 0).keep(0, sides)
    assert not (tmp_path / "none").exists()


# -- names ---------------------------------------------------------------------------------------


@given(st.text(max_size=200))
@settings(deadline=None, derandomize=True)
def test_every_project_name_makes_a_good_run_id(name):
    runid = folders.new_run_id(name)
    assert folders.checked_run_id(runid) == runid and Path(runid).name == runid


def test_run_ids_are_readable_and_never_taken_twice(home, monkeypatch):
    assert re.fullmatch(r"hr-search-\d{8}-\d{6}", folders.new_run_id("hr-search"))

    class Still(folders.datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 11, 21, 18, 5, 3)

    monkeypatch.setattr(folders.datetime, "datetime", Still)
    assert folders.new_run_id("../Поиск вакансий/и\u0306_2!") == "Поиск-вакансий-й_2-20261121-180503"
    assert folders.new_run_id(" ../.. ") == "run-20261121-180503"
    (paths.reports() / "run-20261121-180503").mkdir(parents=True)
    folders.create_run("run-20261121-180503-2")
    assert folders.new_run_id("") == "run-20261121-180503-3"


@pytest.mark.parametrize("text", ["a", "run-1", "v1.2_x", "Запуск_3", "_x", "x" * 120])
def test_good_run_ids_stay_as_they_are(text):
    assert folders.checked_run_id(text) == text


BAD = ["", ".", "..", "a..b", ".hidden", "-flag", "a/b", "a\\b", "a b", "a\n", "a\0", "~", "C:", "\udcff"]
BAD += ["x" * 121, "ж" * 121, "𝒳" * 61, "CON", "nul.txt", "index.html"]


@pytest.mark.parametrize("text", BAD)
def test_run_ids_that_cannot_name_a_folder_are_refused(text):
    with pytest.raises(InputError, match="the run id"):
        folders.checked_run_id(text)


# -- provenance ----------------------------------------------------------------------------------


def test_versions_and_commit(monkeypatch, tmp_path):
    found = provenance.versions()
    assert {"python", "torch", "pandas"} <= set(found) and found["pandas"] == pd.__version__
    assert set(provenance.commit().removesuffix("+")) <= set("0123456789abcdef")
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    assert provenance.commit() == ""
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() == ""
    monkeypatch.setattr(provenance, "_PACKAGES", ("torch", "no-such-package"))
    assert set(provenance.versions()) == {"python", "platform", "torch"}
