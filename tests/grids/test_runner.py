"""The cells of a grid become finished runs, in processes and on a cluster, whatever goes wrong on the way."""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers import alive, wait_until
from stand_ins import slow, stand_in, write_grid

from hr_search.base import claims, paths
from hr_search.base import cluster as clusters
from hr_search.base.cores import THREAD_VARIABLES
from hr_search.base.errors import InputError
from hr_search.experiment import run_experiment
from hr_search.grids import runner, workers
from hr_search.grids.grid_file import read_grid
from hr_search.grids.runner import run_grid
from hr_search.places import absolute
from hr_search.reports import notebooks
from hr_search.runs.folders import Run

# -- processes -----------------------------------------------------------------------------------


def test_forty_cells_with_failures_are_all_accounted_for(home, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    caplog.set_level(logging.INFO)
    found = read_grid(write_grid(tmp_path, product={"margin": [0.1, 0.2]}, seeds=list(range(1, 21))))
    table = run_grid(found, workers=2, run=stand_in)
    assert table["status"].value_counts().to_dict() == {"finished": 36, "failed": 4}
    assert set(table.loc[table["status"] == "failed", "seed"]) == {10, 20}
    assert table["error"].iloc[18] == "seed 10 is round; take another."
    assert len(caplog.records) == 41 and "40/40" in caplog.text  # nobody watches: one line per cell
    # Nothing mixed and nothing lost: every run holds its own seed, the common table each run once.
    ledger = pd.read_csv(paths.metrics() / "results.csv").set_index("run")["seed"].to_dict()
    finished = table[table["status"] == "finished"].set_index("run")["seed"].to_dict()
    summaries = {name: Run(paths.runs() / name).summary for name in finished}
    assert ledger == finished == {name: summary["seed"] for name, summary in summaries.items()}
    assert len({summary["process"] for summary in summaries.values()}) == 2
    assert {summary["threads"] for summary in summaries.values()} == {3}  # the two workers share the six cores
    on_disk = runner.read_cells("tiny")
    assert on_disk["status"].tolist() == table["status"].tolist()
    assert list(on_disk) == ["cell", "margin", "seed", "status", "seconds", "run", "notebook", "error"]

    # A second start has nothing to do; a failed cell runs again only when asked.
    times = {name: (paths.runs() / name / "summary.json").stat().st_mtime_ns for name in finished}
    (home / "mended").touch()
    same = ["status", "seconds", "error"]
    pd.testing.assert_frame_equal(run_grid(found, run=stand_in)[same], table[same])
    again = run_grid(found, workers=2, retry=True, run=stand_in)
    assert (again["status"] == "finished").all() and (again["error"] == "").all()
    assert times == {name: (paths.runs() / name / "summary.json").stat().st_mtime_ns for name in finished}
    assert len(pd.read_csv(paths.metrics() / "results.csv")) == 40


def test_a_cell_that_kills_its_process_takes_no_other_with_it(home, tmp_path, caplog):
    columns = ["die", "a", "b", "crash", "vanish", "c"]
    found = read_grid(write_grid(tmp_path, product={"querycolumn": columns}, seeds=[1]))
    table = run_grid(found, workers=2, run=stand_in).set_index("querycolumn")
    assert table["status"].to_dict() == dict.fromkeys("abc", "finished") | dict.fromkeys(
        ["die", "crash", "vanish"], "failed"
    )
    assert "ended with code 7" in table["error"]["die"]
    assert table["error"]["crash"] == "RuntimeError: first line second line"
    assert "its run is not here" in table["error"]["vanish"]


def test_cells_added_to_the_file_run_and_finished_ones_do_not(home, tmp_path):
    first = read_grid(write_grid(tmp_path, product={"seed": [1, 2]}))
    run_grid(first, run=stand_in)
    kept = Run(paths.runs() / first.cells[0].runid).summary
    more = read_grid(write_grid(tmp_path, product={"seed": [1, 2, 3]}))
    table = run_grid(more, run=stand_in)
    assert table["status"].tolist() == ["finished"] * 3
    assert Run(paths.runs() / first.cells[0].runid).summary == kept


def test_a_grid_runs_once_at_a_time(home, tmp_path):
    found = read_grid(write_grid(tmp_path, product={"seed": [1]}))
    with (
        claims.claimed(claims.inside(found.folder), "it", ""),
        pytest.raises(InputError, match="the grid tiny is being written by"),
    ):
        run_grid(found, run=stand_in)
    with claims.claimed(claims.inside(found.cells[0].folder), "it", ""):
        said = run_grid(found, run=stand_in)["error"][0]
        assert said.startswith(
            f"the cell {found.cells[0].runid} is being written by another process ({os.getpid()} on "
        )
    assert run_grid(found, retry=True, run=stand_in)["status"].tolist() == ["finished"]


def test_a_place_that_cannot_be_made_is_one_sentence(home, tmp_path):
    (home / "metrics").mkdir(parents=True)
    (home / "metrics" / "grids").write_text("a file")
    with pytest.raises(InputError, match="cannot be made"):
        run_grid(read_grid(write_grid(tmp_path, product={"seed": [1]})), run=stand_in)


def test_a_run_made_under_other_defaults_is_not_taken_for_this_one(home, tmp_path):
    found = read_grid(write_grid(tmp_path, product={"seed": [1]}))
    run_grid(found, run=stand_in)
    place = paths.runs() / found.cells[0].runid / "config.json"
    config = json.loads(place.read_text())
    place.write_text(json.dumps({**config, "datapath": "/elsewhere/esco.csv", "gone": 1}))
    run_grid(found, run=stand_in)  # another path, or a setting that no longer exists, changes nothing
    place.write_text(json.dumps({**config, "margin": 0.9}))
    with pytest.raises(InputError, match=r"made with margin 0\.9, but the grid means 0\.3"):
        run_grid(found, run=stand_in)


def test_damaged_tables_and_unknown_grids_are_refused(home, tmp_path):
    with pytest.raises(InputError, match="none has been started"):
        runner.read_cells("tiny")
    found = read_grid(write_grid(tmp_path, product={"seed": [1]}))
    run_grid(found, run=stand_in)
    with pytest.raises(InputError, match='did you mean "tiny"'):
        runner.read_cells("tinny")
    for content in ("", "a,b\n1,2\n", "cell,seed,seconds,run\n1,1,0,x\n", "cell,seconds,status\n1,soon,failed\n"):
        (found.folder / "cells.csv").write_text(content)
        with pytest.raises(InputError, match="start the grid again"):
            run_grid(found, run=stand_in)


def test_a_grid_needs_a_worker(home, tmp_path):
    with pytest.raises(InputError, match="workers is 0"):
        run_grid(read_grid(write_grid(tmp_path, product={"seed": [1]})), workers=0)


def test_data_that_is_not_there_is_found_before_anything_runs(home, tmp_path):
    for values in ({"datapath": ["esco", "nowhere.csv"]}, {"testpath": ["nowhere.csv"]}):
        with pytest.raises(InputError, match=r"path nowhere\.csv of the cell .* does not exist"):
            run_grid(read_grid(write_grid(tmp_path, product=values)), run=stand_in)
    models = {"base": {"stage": "search", "modelname": str(tmp_path / "m-{seed}")}, "product": {"centre": [True]}}
    (tmp_path / "m-1").mkdir()
    with pytest.raises(InputError, match=r"modelname .*m-2 of the cell .* does not exist"):
        run_grid(read_grid(write_grid(tmp_path, **models, seeds=[1, 2])), run=stand_in)
    assert not paths.runs().exists()


STOPPED = """
import sys
from hr_search.grids.grid_file import read_grid
from hr_search.grids.runner import run_grid
from hr_search.base.errors import guarded
from hr_search.base.progress import show_log
from hr_search.base.signals import stoppable
from stand_ins import slow

if __name__ == "__main__":
    show_log(sys.stderr)
    sys.exit(guarded(stoppable()(lambda: len(run_grid(read_grid(sys.argv[1]), 2, run=slow)))))
"""


@pytest.mark.parametrize(
    ("asked", "whole_group", "code"),
    [
        (signal.SIGINT, True, 130),
        (signal.SIGTERM, False, 143),
        (signal.SIGHUP, True, 129),
        (signal.SIGKILL, False, -signal.SIGKILL),
    ],
)
def test_a_stopped_grid_ends_its_cells_and_the_same_command_goes_on(home, tmp_path, asked, whole_group, code):
    entries = [{"seed": 1}, {"seed": 2}, {"seed": 3, "target": 1.0}, {"seed": 4, "target": 1.0}]
    path = write_grid(tmp_path, list=[*entries, {"seed": 5}])
    script = tmp_path / "script.py"
    script.write_text(STOPPED)
    lines = os.pathsep.join([str(paths.checkout()), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": lines, paths.HOME_VARIABLE: str(home)}
    # A process group of its own, as under a terminal, which signals the workers too; with the default handlers, since a
    # shell starts background jobs with Ctrl-C ignored.
    process = subprocess.Popen(
        [sys.executable, str(script), str(path)],
        env=environment,
        text=True,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: [signal.signal(each, signal.SIG_DFL) for each in (signal.SIGINT, signal.SIGHUP)],
    )
    found = read_grid(path)
    begun = [cell.folder / "begun" for cell in found.cells[2:4]]
    assert wait_until(lambda: all(each.exists() for each in begun))
    started = [int(each.read_text()) for each in begun]
    (os.killpg if whole_group else os.kill)(process.pid, asked)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    if asked == signal.SIGKILL:  # the workers see it by themselves
        wait_until(lambda: not any(map(alive, started)))
    else:
        said = "the grid tiny was stopped, and no cell is still running; 2 of 5 cells are done, and the same command goes on"
        assert said in errors
        assert errors.endswith("hr_search: interrupted\n") == (asked == signal.SIGINT)
    assert runner.read_cells("tiny")["status"].tolist() == ["finished"] * 2 + ["waiting"] * 3
    assert not any(map(alive, started))
    (home / "quick").touch()
    assert run_grid(found, 2, run=slow)["status"].tolist() == ["finished"] * 5


# -- a cluster -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """A Dask cluster of two processes with two threads each, started outside the test's folders."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0") as running:
        yield running


def test_a_cluster_runs_one_cell_a_process_and_loses_none(home, tmp_path, cluster, jobs_file, monkeypatch):
    base = {"target": 0.05, "datapath": jobs_file.name}
    found = read_grid(write_grid(tmp_path, base=base, product={"seed": list(range(1, 21))}))
    monkeypatch.chdir(jobs_file.parent)
    table = run_grid(found, scheduler=cluster.scheduler_address, run=stand_in)
    assert table["status"].value_counts().to_dict() == {"finished": 18, "failed": 2}
    assert table["error"].iloc[9] == "seed 10 is round; take another."
    done = [Run(paths.runs() / name).summary for name in table.loc[table["status"] == "finished", "run"]]
    assert len(pd.read_csv(paths.metrics() / "results.csv")) == 18
    # The cluster's processes started in another folder and without the variable that names the root.
    assert Run(paths.runs() / found.cells[0].runid).config["datapath"] == str(jobs_file)
    assert len({each["process"] for each in done}) == 2 and {each["threads"] for each in done} == {2}
    for process in {each["process"] for each in done}:
        own = sorted((each["begin"], each["end"]) for each in done if each["process"] == process)
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(own))


def test_a_cluster_that_loses_a_worker_goes_on(home, tmp_path, cluster):
    found = read_grid(write_grid(tmp_path, product={"querycolumn": ["die", "a", "b", "c"]}, seeds=[1]))
    table = run_grid(found, scheduler=cluster.scheduler_address, run=stand_in).set_index("querycolumn")
    assert table["status"].to_dict() == dict.fromkeys("abc", "finished") | {"die": "failed"}
    assert "its worker was lost" in table["error"]["die"]


def test_no_scheduler_no_workers_and_no_package_are_one_sentence_each(home, tmp_path, monkeypatch):
    found = read_grid(write_grid(tmp_path, product={"seed": [1]}))
    from distributed import LocalCluster

    monkeypatch.setattr(clusters, "PATIENCE", 0.5)
    empty = LocalCluster(n_workers=0, processes=False, dashboard_address=":0")
    with empty, pytest.raises(InputError, match="has no workers"):
        run_grid(found, scheduler=empty.scheduler_address, run=stand_in)
    for address in ("tcp://127.0.0.1:9", "nonsense://x", "tcp://127.0.0.1:port"):
        with pytest.raises(InputError, match="no Dask scheduler answers"):
            run_grid(found, scheduler=address, run=stand_in)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'hr_search\[cluster\]'"):
        run_grid(found, scheduler="tcp://127.0.0.1:9", run=stand_in)


# -- real training -------------------------------------------------------------------------------


def test_a_cell_whose_notebook_stops_says_where_and_names_the_page(home, tmp_path, monkeypatch):
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "1")  # an attempt sets them for good

    def stops(source, folder, parameters):
        raise notebooks.NotebookFailed(folder / source.name, 3, "testshare is too much")

    monkeypatch.setattr(notebooks, "run_notebook", stops)
    (cell,) = read_grid(write_grid(tmp_path, list=[{"testshare": 0.8}])).cells
    outcome = workers.attempt(workers.train_cell, cell, str(home), 1)
    assert (outcome.status, outcome.error) == ("failed", "testshare is too much (cell 3 of the notebook)")
    assert home / outcome.notebook == cell.folder / "02_train.ipynb"


def test_real_cells_on_a_cluster_train_as_anywhere(home, tmp_path, cluster, tiny_model, jobs_file):
    base = {"datapath": str(jobs_file), "modelname": str(tiny_model), "maxsteps": 2, "batchsize": 8}
    base |= {"precision": "fp32", "validationshare": 0.2, "probes": 0}
    found = read_grid(write_grid(tmp_path, base=base, list=[{"testshare": 0.2}]))
    assert run_grid(found, scheduler=cluster.scheduler_address)["status"].tolist() == ["finished"]
    run = Run(paths.runs() / found.cells[0].runid)
    assert 'href="../../../index.html"' in (found.cells[0].folder / "02_train.html").read_text(encoding="utf-8")
    assert run.config["maxsteps"] == 2 and run.config["projectname"] == "tiny"
    plain = run_experiment(absolute(found.cells[0].settings), "plain")
    pd.testing.assert_frame_equal(run.table("queries"), plain.table("queries"))
    ledger = pd.read_csv(paths.metrics() / "results.csv")
    assert ledger["run"].value_counts().to_dict() == {run.id: len(ledger) // 2, "plain": len(ledger) // 2}
