"""A search: its trials are drawn, judged by validation, ended early, counted over machines and taken up again."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import drawn, title
from stand_ins import scripted, trained, write_grid

from hr_search.base import files, paths
from hr_search.base.cores import THREAD_VARIABLES
from hr_search.base.errors import InputError
from hr_search.grids import runner, study_tables, workers
from hr_search.grids.grid_file import read_grid
from hr_search.grids.runner import run_grid
from hr_search.grids.study import Study, run_study
from hr_search.reports.parameters import parameters_of
from hr_search.runs import trials
from hr_search.runs.folders import Run

SPACE = {"margin": {"low": 0.1, "high": 1.0}, "loss": ["infonce", "triplet"]}


def search(tmp_path, count: int = 4, space: dict | None = None, **more):
    """The grid of a search with a median pruner that compares from the third trial on."""
    options = {"trials": count, "startup": 2, "seed": 3, "space": space or SPACE}
    return read_grid(write_grid(tmp_path, base={"datapath": "sample_ru"}, optuna=options | more))


@pytest.fixture
def inline(home, monkeypatch):
    """Cells run in this very process, since a new one takes seconds to import what it needs."""
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "1")  # an attempt sets them for good

    def on_processes(cells, run, count):
        return ((cell, workers.attempt(run, cell, str(paths.root()), 1)) for cell in cells)

    monkeypatch.setattr(workers, "on_processes", on_processes)


def known(table: pd.DataFrame) -> pd.DataFrame:
    """What of a table of trials does not depend on where and when they ran."""
    return table.drop(columns=["seconds", "place"])


# -- trials --------------------------------------------------------------------------------------


def test_a_study_prunes_by_the_median_and_goes_on_as_if_it_had_never_ended(inline, home, tmp_path, monkeypatch):
    table = run_study(search(tmp_path, 6), run=scripted)
    margins, values = table["margin"].to_numpy(), table["value"].to_numpy()
    # By hand: from the third trial on, one that is below the median of the finished ones so far ends at validation 1;
    # ties and the better half go on to validation 3, where the value is three times the margin.
    for at, row in enumerate(table.itertuples()):
        reached = [values[k] / 3 if table["status"][k] == "finished" else values[k] for k in range(at)]
        pruned = sum(table["status"][:at] == "finished") >= 2 and margins[at] < np.median(reached)
        assert (row.status, row.validations) == (("pruned", 2) if pruned else ("finished", 4))
        assert row.value == pytest.approx(margins[at] * (1 if pruned else 3))
        assert Run(paths.runs() / row.run).config["margin"] == pytest.approx(margins[at])
    assert {"pruned", "finished"} == set(table["status"]) and table["margin"].between(0.1, 1.0).all()
    assert len(set(margins)) == 6
    on_disk, curves, importance = study_tables.read_study("tiny")
    pd.testing.assert_frame_equal(on_disk.fillna(""), table.fillna(""), check_dtype=False)
    assert len(curves) == table["validations"].sum()
    enough = (table["status"] == "finished").sum() >= 4
    assert enough == (len(importance) == 2) and (not enough or importance["importance"].sum() == pytest.approx(1))

    # The same study in two starts elsewhere: four trials, then two more.
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "other"))
    first = run_study(search(tmp_path, 4), run=scripted)
    pd.testing.assert_frame_equal(known(first), known(table[:4]))
    pd.testing.assert_frame_equal(known(run_study(search(tmp_path, 6), run=scripted)), known(table))
    before = (paths.metrics() / "grids" / "tiny" / "study.db").stat().st_mtime_ns
    assert len(run_study(search(tmp_path, 5), run=scripted)) == 6  # nothing is left to do, nothing is lost
    assert (paths.metrics() / "grids" / "tiny" / "study.db").stat().st_mtime_ns == before


def test_what_was_stopped_is_taken_up_and_what_failed_runs_again_when_asked(inline, home, tmp_path, monkeypatch):
    found = search(tmp_path, 3)
    study = Study(found)
    ended, stopped = study.ask(), study.ask()
    monkeypatch.setenv(trials.VARIABLE, ended.environment[trials.VARIABLE])
    scripted(ended)  # its process was killed before the study heard of it
    monkeypatch.delenv(trials.VARIABLE)
    table = run_study(found, run=scripted)
    assert table["status"].tolist() == ["finished"] * 3 and table["trial"].tolist() == [0, 2, 3]
    assert table["run"][0] == ended.runid
    assert table["margin"][1] == pytest.approx(stopped.settings.margin, rel=1e-7)
    # A trial that fails counts, until it is asked for again.
    found = search(tmp_path, 2, {"margin": [1.95]}, seed=1)
    found = type(found)("other", found.varied, (), found.search)
    table = run_study(found, run=scripted)
    assert table["status"].tolist() == ["failed"] * 2 and table["error"][0] == "the margin is too large."
    with pytest.raises(InputError, match="no trial of the study has finished"):
        study_tables.best_trial(table)
    (home / "mended").touch()
    assert run_study(found, run=scripted)["status"].tolist() == ["failed"] * 2
    table = run_study(found, retry=True, run=scripted)
    # The second has the settings of the first and takes its result.
    assert table["status"].tolist() == ["finished"] * 2 and table["run"].nunique() == 1
    assert table["value"].tolist() == pytest.approx([5.85] * 2)


JOINED = """
import sys
from hr_search.grids.grid_file import read_grid
from hr_search.grids.study import run_study
from stand_ins import scripted

if __name__ == "__main__":
    run_study(read_grid(sys.argv[1]), run=scripted)
"""


def test_two_processes_share_one_storage_and_its_number_of_trials(tmp_path, monkeypatch):
    search(tmp_path, 8, storage=f"sqlite:///{tmp_path}/shared.db")
    (tmp_path / "script.py").write_text(JOINED)
    (tmp_path / "meet").mkdir()
    lines = os.pathsep.join(
        [str(paths.checkout()), *(str(paths.checkout() / "tests" / each) for each in ("", "grids"))]
    )
    environment = {**os.environ, "PYTHONPATH": lines, "MEET": str(tmp_path / "meet")}
    homes = [tmp_path / "a", tmp_path / "b"]
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "tiny.yaml")]
    running = [
        subprocess.Popen(
            command, env={**environment, paths.HOME_VARIABLE: str(each)}, stderr=subprocess.PIPE, text=True
        )
        for each in homes
    ]
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    tables = []
    for each in homes:
        monkeypatch.setenv(paths.HOME_VARIABLE, str(each))
        tables.append(run_study(search(tmp_path, 8, storage=f"sqlite:///{tmp_path}/shared.db"), run=scripted))
        place = (each / "metrics" / "grids" / "tiny" / "place").read_text()
        here = set(tables[-1].loc[tables[-1]["place"] == place, "run"])
        assert here and here == {folder.name for folder in paths.runs().iterdir()}
    assert len(tables[0]) == 8 and tables[0]["trial"].is_unique and set(tables[0]["status"]) <= {"finished", "pruned"}
    pd.testing.assert_frame_equal(*tables)


def test_a_search_of_real_runs_and_its_page(inline, home, tmp_path, tiny_model, jobs_file):
    base = {"datapath": str(jobs_file), "modelname": str(tiny_model), "maxsteps": 6, "evalsteps": 2, "batchsize": 8}
    base |= {"precision": "fp32", "validationshare": 0.3, "testshare": 0.2, "probes": 0, "patience": 0, "epochs": 4}
    space = {"learningrate": {"low": 1e-7, "high": 3e-2, "log": True}}
    options = {"trials": 4, "pruner": "halving", "seed": 3, "space": space}
    table = run_study(read_grid(write_grid(tmp_path, base=base, optuna=options)), run=trained)
    # The first draw learns, and the second, which cannot, is not in the better half.
    assert table["learningrate"][0] > 1e-2 and table["learningrate"][1] < 1e-6
    assert table["status"][:2].tolist() == ["finished", "pruned"] and len(table) == 4
    for row in table.itertuples():
        run = Run(paths.runs() / row.run)
        history = run.table("history")
        assert len(history) == row.validations
        if row.status == "pruned":
            assert row.value == pytest.approx(history["mrr"].iloc[-1]) and not run.has("metrics")
            assert run.summary["verdict"].startswith(f"pruned at step {history['step'].iloc[-1]}, where the validation")
        else:
            assert row.value == pytest.approx(history.set_index("step")["mrr"][run.summary["best_step"]])
            assert run.has("metrics")
    more = read_grid(write_grid(tmp_path, base=base, optuna={**options, "trials": 6}))
    before, table = table, run_study(more, run=trained)
    pd.testing.assert_frame_equal(table[:4], before, check_dtype=False)
    assert len(table) == 6 and set(table["status"]) == {"finished", "pruned"}
    page = runner.write_page("tiny", "10_study", "study").read_text(encoding="utf-8")
    best = study_tables.best_trial(table)
    assert f"Best: trial {best['trial']} with a validation MRR in q2d of {best['value']:.4f}" in page
    assert page.count("<img") == 3 + (sum(table["status"] == "finished") >= 4)
    assert Run(paths.runs() / best["run"]).summary["command"].split(" --")[0] in page


def test_the_page_of_a_pruned_run_says_so(inline, home, tmp_path, tiny_model, jobs_file):
    base = {"datapath": str(jobs_file), "modelname": str(tiny_model), "maxsteps": 4, "evalsteps": 1, "batchsize": 8}
    base |= {"precision": "fp32", "validationshare": 0.3, "testshare": 0.2, "probes": 0, "learningrate": 1e-9}
    options = {"trials": 9, "startup": 2, "space": {"margin": {"low": 0.1, "high": 1.0}}}
    study = Study(read_grid(write_grid(tmp_path, base=base, optuna=options)))
    for _ in range(2):  # two trials that cannot be beaten
        trial = study.study.ask()
        for number in range(3):
            trial.report(1.0, number)
        study.study.tell(trial, 1.0)
    cell = study.ask()
    outcome = workers.attempt(workers.train_cell, cell, str(home), 1)
    assert outcome.status == "finished", outcome.error
    assert trials.VARIABLE not in os.environ
    study.settle(cell, outcome)
    row = study.table().iloc[2]
    assert (row["status"], row["validations"]) == ("pruned", 2)
    assert Run(paths.runs() / cell.runid).table("history")["step"].tolist() == [0, 1]
    printed = json.loads((cell.folder / "02_train.ipynb").read_text(encoding="utf-8"))["cells"]
    assert "pruned at step 1, where the validation mrr was" in json.dumps(printed)


# -- the storage ---------------------------------------------------------------------------------


def test_a_locked_storage_is_one_sentence_and_keeps_what_is_finished(inline, home, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "PATIENCE", 0.2)
    run_study(search(tmp_path, 2), run=scripted)
    held = sqlite3.connect(home / "metrics" / "grids" / "tiny" / "study.db")
    held.execute("BEGIN EXCLUSIVE")
    with pytest.raises(InputError, match=r"study\.db does not answer \(database is locked\); finished trials are kept"):
        run_study(search(tmp_path, 4), run=scripted)
    held.rollback()
    assert run_study(search(tmp_path, 4), run=scripted)["status"].isin(["finished", "pruned"]).tolist() == [True] * 4


def test_a_training_outlives_a_storage_that_stops_answering(home, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(trials, "PATIENCE", 0.2)
    monkeypatch.setenv(trials.VARIABLE, Study(search(tmp_path)).ask().environment[trials.VARIABLE])
    trial = trials.current()
    assert trial.report(0.5) is False
    held = sqlite3.connect(home / "metrics" / "grids" / "tiny" / "study.db")
    held.execute("BEGIN EXCLUSIVE")
    assert trial.report(0.4) is False and "cannot end the trial: the storage" in caplog.text
    with pytest.raises(InputError, match="needs validation rows"):
        trial.report(math.nan)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("study.db", "no URL of a database"),
        ("sqlite://", "in the memory of one process"),
        ("sqlite:////nowhere/at/all/s.db", "does not answer (unable to open database file)"),
        ("nonsense://host/name", "does not answer ("),
        (
            "mysql+pymysql://me:secret@host/name",
            "the storage mysql+pymysql://me:***@host/name needs a package (No module named 'pymysql'); install it.",
        ),
    ],
)
def test_storages_out_of_reach_are_one_sentence(home, tmp_path, url, part):
    with pytest.raises(InputError) as caught:
        run_study(search(tmp_path, storage=url), run=scripted)
    assert part in str(caught.value) and "secret" not in str(caught.value) and "\n" not in str(caught.value)
    assert not paths.runs().exists()


def test_a_study_keeps_its_settings_and_a_search_is_no_grid(home, tmp_path, monkeypatch):
    Study(search(tmp_path))
    with pytest.raises(
        InputError, match=r'study tiny was begun with another space, in which loss was \["infonce", "tr'
    ):
        Study(search(tmp_path, space={"margin": SPACE["margin"]}))
    with pytest.raises(InputError, match='begun with another base, in which datapath was "sample_ru"'):
        options = {"trials": 4, "space": SPACE}
        Study(read_grid(write_grid(tmp_path, base={"datapath": "esco"}, optuna=options)))
    with pytest.raises(InputError, match="tiny is a search"):
        run_grid(search(tmp_path))
    with pytest.raises(InputError, match="workers is 0"):
        run_study(search(tmp_path), workers=0)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"needs the package optuna; run `pip install 'hr_search\[search\]'`"):
        run_study(search(tmp_path))


# -- tables and figures --------------------------------------------------------------------------


def test_figures_mark_the_best_and_the_pruned(closed):
    table = pd.DataFrame(
        {
            "trial": [0, 1, 2, 3],
            "learningrate": [1e-5, 1e-4, 1e-3, 1e-2],
            "$oops_": ["a", "b", "b", "a"],
            "status": ["finished", "finished", "pruned", "failed"],
            "value": [0.5, 0.75, 0.25, np.nan],
        }
    )
    curves = pd.DataFrame({"trial": [0, 0, 1, 1, 2, 2, 3], "validation": [0, 1, 0, 1, 0, 1, 0], "value": [0.1] * 7})
    ax = drawn(study_tables.history(table, "MRR in q2d"))
    assert title(ax) == "Trial 1 is the best of 4 with 0.750; pruned: 1"
    assert [list(line.get_ydata()) for line in ax.lines] == [[0.25], [0.5, 0.75], [0.5, 0.75, 0.75], [0.75]]
    ax = drawn(study_tables.curves(table, curves))
    assert title(ax) == "Ended early (crosses): 1 of 4 trials"
    assert len(ax.lines) == 4  # three trials and a cross; the failed one is left out
    waiting = pd.DataFrame({"trial": [4], "status": ["waiting"]})  # it has no settings yet
    axes = study_tables.slices(pd.concat([table, waiting], ignore_index=True))
    assert [title(drawn(ax)) for ax in axes] == ["best at 0.0001", "best at b"] and axes[0].get_xscale() == "log"
    shares = pd.DataFrame({"setting": ["$oops_", "learningrate"], "importance": [0.75, 0.25]})
    ax = drawn(study_tables.importances(shares))
    assert [text.get_text() for text in ax.texts] == [" 25%", " 75%"]


def test_the_empty_text_is_a_value_of_a_setting(home, closed):
    table = pd.DataFrame(
        {
            "trial": range(4),
            "dimensions": ["256", "", "", "512"],
            "symmetric": [True, False, True, False],
            **dict.fromkeys(study_tables.FACTS, ""),
            "status": ["finished", "finished", "pruned", "finished"],
            "value": [0.5, 0.75, 0.25, 0.5],
        }
    )
    for name, part in (("trials", table), ("curves", table[["trial"]]), ("importance", table[["trial"]])):
        files.write_csv(paths.metrics() / "grids" / "tiny" / f"{name}.csv", part)
    read = study_tables.read_study("tiny")[0]
    assert read["dimensions"].tolist() == ["256", "", "", "512"]
    axes = study_tables.slices(read)
    assert [title(drawn(ax)) for ax in axes] == ["best at (empty)", "best at False"]
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["256", "(empty)", "512"]
    assert axes[0].lines[1].get_xdata().tolist() == [0, 1, 2]  # the finished ones
    assert "(dimensions=, symmetric=False)" in study_tables.summed_up(read, "mrr")


def test_studies_to_read_are_named_or_the_newest(inline, home, tmp_path):
    with pytest.raises(InputError, match="none has been begun"):
        study_tables.read_study("tiny")
    run_study(search(tmp_path, 2), run=scripted)
    assert study_tables.open_or_smoke() == study_tables.open_or_smoke("tiny") == "tiny"
    with pytest.raises(InputError, match='no study tinny; did you mean "tiny"'):
        study_tables.open_or_smoke("tinny")
    (home / "metrics" / "grids" / "tiny" / "trials.csv").write_text("trial,margin\n1,2\n")
    with pytest.raises(InputError, match="are damaged"):
        study_tables.read_study("tiny")
    assert list(parameters_of(Path(paths.notebooks()) / "10_study.ipynb")) == ["study"]
