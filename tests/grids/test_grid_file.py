"""Grids: files become cells, and cells become finished runs, whatever goes wrong on the way."""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from hr_search.base import files, paths
from hr_search.base.errors import InputError
from hr_search.grids import grid_file, runner, workers
from hr_search.grids.grid_file import Cell, read_grid
from hr_search.grids.runner import run_grid
from hr_search.runs import ledgers
from hr_search.runs.folders import Run
from hr_search.settings import FIELDS


def write_grid(tmp_path: Path, **values) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def stand_in(cell: Cell) -> None:
    """Leaves a finished run in no time; every tenth seed fails until the grid is mended, others as their name says."""
    settings, root = cell.settings, paths.root()
    if settings.seed % 10 == 0 and not (root / "mended").exists():
        raise InputError(f"seed {settings.seed} is round; take another.")
    if settings.querycolumn == "die":
        os._exit(7)
    if settings.querycolumn == "vanish":
        return
    if settings.querycolumn == "crash":
        raise RuntimeError("first line\nsecond line")
    begin = time.time()
    time.sleep(settings.target)
    run = Run(paths.runs() / cell.runid)
    threads = int(os.environ["OMP_NUM_THREADS"])
    ledgers.append_rows(paths.metrics() / "results.csv", pd.DataFrame([{"run": cell.runid, "seed": settings.seed}]))
    files.write_json(run.folder / "config.json", settings.to_dict())
    figures = {"seconds": 0.5, "seed": settings.seed, "threads": threads, "process": os.getpid(),
               "begin": begin, "end": time.time()}  # fmt: skip
    files.write_json(run.folder / "summary.json", figures)


# -- files ---------------------------------------------------------------------------------------


def test_a_product_runs_all_arms_of_a_seed_before_the_next(tmp_path):
    found = read_grid(write_grid(
        tmp_path, name="g", base={"learning_rate": 1e-4}, product={"loss": ["infonce", "triplet"], "Margin": [0.1, 0.2]},
        seeds=[3, 1],
    ))  # fmt: skip
    assert found.name == "g" and found.varied == ("loss", "margin", "seed")
    values = [(cell.settings.loss, cell.settings.margin, cell.settings.seed) for cell in found.cells]
    assert values == [
        (loss, margin, seed) for seed in (3, 1) for loss in ("infonce", "triplet") for margin in (0.1, 0.2)
    ]
    assert all(cell.settings.learningrate == 1e-4 and cell.settings.projectname == "g" for cell in found.cells)
    assert len({cell.runid for cell in found.cells}) == 8
    assert all(cell.runid.startswith("g-") for cell in found.cells)


def test_a_list_may_set_different_things_and_repeats_run_once(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    entries = [{"loss": "infonce"}, {"margin": 0.5}, {"loss": "infonce", "margin": 0.3}]
    found = read_grid(write_grid(tmp_path, base={"datapath": "esco"}, list=entries))
    assert found.name == "tiny" and found.varied == ("loss", "margin")
    # A margin of 0.3 is the default, so the third entry is the first one.
    assert [(cell.settings.loss, cell.settings.margin) for cell in found.cells] == [("infonce", 0.3), ("triplet", 0.5)]
    assert "1 cells occur twice" in caplog.text


def test_random_cells_are_the_same_every_time_and_within_bounds(tmp_path):
    spec = {
        "learningrate": {"low": 1e-5, "high": 1e-3, "log": True}, "batchsize": {"low": 4, "high": 6},
        "maxlength": {"low": 8, "high": 512, "log": True}, "margin": {"low": 0.1, "high": 0.2},
        "loss": ["infonce", "triplet"],
    }  # fmt: skip
    path = write_grid(tmp_path, random={"count": 200, "seed": 5, "settings": spec})
    found, again = read_grid(path), read_grid(path)
    assert found == again and len(found.cells) == 200
    drawn = pd.DataFrame([cell.settings.to_dict() for cell in found.cells])
    assert drawn["learningrate"].between(1e-5, 1e-3).all() and 5e-5 < drawn["learningrate"].median() < 2e-4
    assert set(drawn["batchsize"]) == {4, 5, 6} and set(drawn["loss"]) == {"infonce", "triplet"}
    assert drawn["maxlength"].between(8, 512).all() and drawn["margin"].between(0.1, 0.2).all()
    other = read_grid(write_grid(tmp_path, random={"count": 200, "seed": 6, "settings": spec}))
    assert {cell.runid for cell in other.cells}.isdisjoint(cell.runid for cell in found.cells)


def test_base_is_laid_over_the_recipe_whose_model_is_not_kept(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("loss: infonce\nmargin: 0.7\noutputpath: somewhere\nprojectname: other\n")
    found = read_grid(write_grid(tmp_path, recipe=str(recipe), base={"margin": 0.9}, product={"seed": [1]}))
    settings = found.cells[0].settings
    assert (settings.loss, settings.margin, settings.outputpath, settings.projectname) == ("infonce", 0.9, "", "tiny")


def test_run_ids_depend_on_what_a_cell_does_and_nothing_else(tmp_path):
    def runid(**values) -> str:
        return read_grid(write_grid(tmp_path, **values)).cells[0].runid

    plain = runid(base={"loss": "infonce"}, product={"margin": [0.2]})
    assert plain == runid(product={"margin": ["0.2"], "loss": ["infonce"]}, seeds=[FIELDS["seed"].default])
    assert plain == runid(base={"batchsize": FIELDS["batchsize"].default, "margin": 0.2}, list=[{"loss": "infonce"}])
    assert plain != runid(base={"loss": "infonce"}, product={"margin": [0.21]})
    assert plain != runid(name="other", base={"loss": "infonce"}, product={"margin": [0.2]})


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"prodcut": {"loss": ["infonce"]}}, 'did you mean "product"'),
        ({"base": {"loss": "infonce"}}, "no cells"),
        ({"product": {"loss": ["infonce"]}, "list": [{"loss": "triplet"}]}, "product and list"),
        ({"product": {"lerningrate": [1e-4]}}, 'did you mean "learningrate"'),
        ({"base": {"los": "infonce"}, "product": {"margin": [0.1]}}, 'base has no setting "los"'),
        ({"product": {"loss": ["infonse"]}}, 'did you mean "infonce"'),
        ({"product": {"margin": [0.1, 5]}}, "between 0 and 2"),
        ({"product": {"margin": 0.1}}, "list of values"),
        ({"product": {"margin": []}}, "list of values"),
        ({"product": {}}, "setting: value"),
        ({"product": [0.1]}, "setting: value"),
        ({"product": {"batchsize": list(range(1, 201)), "maxsteps": list(range(200))}}, "40,000 combinations"),
        ({"product": {"margin": [0.1], "Margin": [0.2]}}, "margin twice"),
        ({"product": {"outputpath": ["a", "b"]}}, "outputpath, which a grid decides"),
        ({"base": {"projectname": "x"}, "product": {"margin": [0.1]}}, "projectname, which a grid decides"),
        ({"base": [1], "product": {"margin": [0.1]}}, "base must be lines"),
        ({"list": []}, "list of settings"),
        ({"list": [{"margin": 0.1}, 3]}, "entry 2"),
        ({"list": [{}]}, "entry 1"),
        ({"product": {"seed": [1]}, "seeds": [1]}, "seeds and also product of seed"),
        ({"product": {"margin": [0.1]}, "seeds": 3}, "list of values"),
        ({"product": {"margin": [0.1]}, "seeds": [-1]}, "seed is -1"),
        ({"product": {"batchsize": list(range(1, 6001))}, "seeds": [1, 2]}, "12,000 cells"),
        ({"random": {"settings": {"margin": [0.1]}}}, "no count"),
        ({"random": {"count": 0, "settings": {"margin": [0.1]}}}, "between 1 and"),
        ({"random": {"count": 2, "seeds": 1, "settings": {"margin": [0.1]}}}, 'did you mean "seed"'),
        ({"random": {"count": 2, "settings": {"loss": {"low": 1, "high": 2}}}}, "loss needs a list"),
        ({"random": {"count": 2, "settings": {"margin": {"low": 1}}}}, "low and high"),
        ({"random": {"count": 2, "settings": {"margin": {"low": 0.5, "high": 0.1}}}}, "low must be below high"),
        ({"random": {"count": 2, "settings": {"margin": {"low": 0, "high": 1, "log": True}}}}, "above 0 for log"),
        ({"random": {"count": 2, "settings": {"margin": {"low": 0, "high": 9}}}}, "between 0 and 2"),
        ({"random": {"count": 2, "settings": {"margin": 0.1}}}, "must be lines"),
        ({"random": 5}, "must be lines"),
        ({"name": "a/b", "product": {"margin": [0.1]}}, "run id"),
        ({"recipe": "nowhere.yaml", "product": {"margin": [0.1]}}, "does not exist"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_in_one_sentence(tmp_path, values, part):
    with pytest.raises(InputError, match=part) as caught:
        read_grid(write_grid(tmp_path, **values))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", sorted(grid_file.grids().glob("*.yaml")), ids=lambda path: path.stem)
def test_the_grids_of_the_checkout_compare_arms_of_one_budget(path):
    found = read_grid(path)
    assert found.name == path.stem
    assert len({cell.settings.batchsize * cell.settings.maxsteps for cell in found.cells}) == 1
    assert (
        len({(cell.settings.datapath, cell.settings.testshare, cell.settings.maxlength) for cell in found.cells}) == 1
    )
    if path.stem != "smoke":
        assert len({cell.settings.seed for cell in found.cells}) >= 3
        assert {cell.settings.patience for cell in found.cells} == {0}


# -- processes -----------------------------------------------------------------------------------


def test_two_hundred_cells_with_failures_are_all_accounted_for(home, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    found = read_grid(write_grid(tmp_path, product={"margin": [0.1, 0.2]}, seeds=list(range(1, 101))))
    table = run_grid(found, workers=2, run=stand_in)
    assert table["status"].value_counts().to_dict() == {"finished": 180, "failed": 20}
    assert set(table.loc[table["status"] == "failed", "seed"]) == set(range(10, 101, 10))
    assert table["error"].iloc[18] == "seed 10 is round; take another."
    assert len(caplog.records) == 201 and "200/200" in caplog.text  # nobody watches: one line a cell
    # Nothing mixed and nothing lost: every run holds its own seed, the common table each run once.
    ledger = pd.read_csv(paths.metrics() / "results.csv").set_index("run")["seed"].to_dict()
    finished = table[table["status"] == "finished"].set_index("run")["seed"].to_dict()
    assert ledger == finished == {name: Run(paths.runs() / name).summary["seed"] for name in finished}
    assert len({Run(paths.runs() / name).summary["process"] for name in finished}) == 2
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
    assert len(pd.read_csv(paths.metrics() / "results.csv")) == 200


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


def test_workers_share_the_cores(home, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    found = read_grid(write_grid(tmp_path, product={"seed": [1, 2, 3, 4]}))
    run_grid(found, workers=3, run=stand_in)
    assert {Run(paths.runs() / cell.runid).summary["threads"] for cell in found.cells} == {2}
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert workers.cores() == len(os.sched_getaffinity(0))


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
        workers.alone(found.folder, "it"),
        pytest.raises(InputError, match="grid tiny is being run by another process"),
    ):
        run_grid(found, run=stand_in)
    with workers.alone(found.cells[0].folder, "it"):
        assert "being run by another process" in run_grid(found, run=stand_in)["error"][0]
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
    run_grid(found, run=stand_in)  # another place, or a setting that is no more, changes nothing
    place.write_text(json.dumps({**config, "margin": 0.9}))
    with pytest.raises(InputError, match=r"made with margin 0\.9, the grid means 0\.3"):
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


def test_there_must_be_a_worker(home, tmp_path):
    with pytest.raises(InputError, match="workers is 0"):
        run_grid(read_grid(write_grid(tmp_path, product={"seed": [1]})), workers=0)


def test_data_that_is_not_there_is_found_before_anything_runs(home, tmp_path):
    for values in ({"datapath": ["esco", "nowhere.csv"]}, {"testpath": ["nowhere.csv"]}):
        with pytest.raises(InputError, match=r"path nowhere\.csv of the cell .* does not exist"):
            run_grid(read_grid(write_grid(tmp_path, product=values)), run=stand_in)
    assert not paths.runs().exists()


INTERRUPTED = """
import sys
from hr_search.grids import grid_file as grid; from hr_search.grids import runner as study
from hr_search.base.errors import guarded
from hr_search.base.progress import show_log
from test_grid_file import slow

if __name__ == "__main__":
    show_log(sys.stderr)
    found = grid.read_grid(sys.argv[1])
    sys.exit(guarded(lambda: len(study.run_grid(found, 2, run=slow))))
"""


def test_ctrl_c_stops_at_once_and_keeps_what_is_finished(home, tmp_path):
    entries = [{"seed": 1}, {"seed": 2}, {"seed": 3, "target": 1.0}, {"seed": 4, "target": 1.0}]
    path = write_grid(tmp_path, list=[*entries, {"seed": 5}])
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    lines = os.pathsep.join([str(paths.checkout()), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": lines, paths.HOME_VARIABLE: str(home)}
    # Its own group, as a terminal gives it one, so that the signal goes to the workers too; and none that ignores
    # Ctrl-C, as a shell has it whose own work goes on in the background.
    process = subprocess.Popen([sys.executable, str(script), str(path)], env=environment, text=True,
                               stderr=subprocess.PIPE, start_new_session=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
    found = read_grid(path)
    begun = [cell.folder / "begun" for cell in found.cells[2:4]]
    deadline = time.monotonic() + 60
    while not all(each.exists() for each in begun) and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = [int(each.read_text()) for each in begun]
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "hr_search: interrupted" and "Traceback" not in errors
    assert runner.read_cells("tiny")["status"].tolist() == ["finished"] * 2 + ["waiting"] * 3
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)
    (home / "quick").touch()
    assert run_grid(found, 2, run=slow)["status"].tolist() == ["finished"] * 5


def slow(cell: Cell) -> None:
    """A cell that takes a minute where its target says so, until that is waived."""
    if cell.settings.target and not (paths.root() / "quick").exists():
        files.write_text(cell.folder / "begun", str(os.getpid()))
        time.sleep(60)
    stand_in(cell)


# -- a cluster -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """A Dask cluster of two processes with two threads each, which knows nothing of the test's folders."""
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

    monkeypatch.setattr(workers, "PATIENCE", 0.5)
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


def test_real_cells_train_alike_here_and_on_a_cluster(home, tmp_path, cluster, tiny_model, jobs_file):
    base = {"datapath": str(jobs_file), "modelname": str(tiny_model), "maxsteps": 2, "batchsize": 8, "precision": "fp32",
            "validationshare": 0.2, "probes": 0}  # fmt: skip
    here = read_grid(write_grid(tmp_path, name="here", base=base, list=[{"testshare": 0.2}, {"testshare": 0.8}]))
    there = read_grid(write_grid(tmp_path, name="there", base=base, list=[{"testshare": 0.2}]))
    table = run_grid(here, workers=2)
    assert table["status"].tolist() == ["finished", "failed"]
    assert "testshare" in table["error"][1] and "cell 3 of the notebook" not in table["error"][0]
    assert (home / table["notebook"][1]).is_file() and (home / table["notebook"][1]).with_suffix(".html").is_file()
    assert run_grid(there, scheduler=cluster.scheduler_address)["status"].tolist() == ["finished"]
    one, two = (Run(paths.runs() / found.cells[0].runid) for found in (here, there))
    assert one.config["maxsteps"] == 2 and one.config["projectname"] == "here"
    pd.testing.assert_frame_equal(one.table("queries"), two.table("queries"))
    ledger = pd.read_csv(paths.metrics() / "results.csv")
    assert ledger["run"].value_counts().to_dict() == {one.id: len(ledger) // 2, two.id: len(ledger) // 2}
