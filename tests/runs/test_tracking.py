"""What trackers get: the rows of the history, and in MLflow the pages and the run of the grid above."""

from __future__ import annotations

import pytest

from hr_search import train
from hr_search.base import paths
from hr_search.base.errors import InputError
from hr_search.experiment import run_experiment
from hr_search.runs import tracking
from hr_search.runs.folders import Run
from hr_search.settings import Settings

mlflow = pytest.importorskip("mlflow")


@pytest.fixture
def store(home, tmp_path, monkeypatch):
    """A client of a store of files, which MLflow asks to be allowed: its database takes seconds to make."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/store")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return mlflow.MlflowClient(f"file:{tmp_path}/store")


def test_mlflow_gets_the_history_the_settings_and_the_pages_under_the_run_of_the_grid(
    store, tmp_path, tiny_model, jobs_file, monkeypatch
):
    base = {"datapath": str(jobs_file), "modelname": str(tiny_model), "validationshare": 0.3, "testshare": 0.0}
    settings = Settings(
        **base, epochs=2, maxsteps=4, evalsteps=2, batchsize=8, probes=0, tracker="mlflow", projectname="jobs"
    )
    folder = paths.metrics() / "grids" / "jobs"
    with tracking.parent_run("mlflow", "jobs", folder) as told:
        for name, value in told.items():
            monkeypatch.setenv(name, value)
        run = run_experiment(settings, "jobs-1")
        (found,) = store.search_runs(
            [store.get_experiment_by_name("jobs").experiment_id],
            f"tags.`mlflow.parentRunId` = '{told[tracking.PARENT]}'",
        )
        assert store.get_run(told[tracking.PARENT]).info.status == "RUNNING"
    history = run.table("history")
    assert len(history) == 3
    for name in ("mrr", "pass@1", "se", "learningrate"):
        sent = store.get_metric_history(found.info.run_id, name.replace("@", "_at_"))
        assert [row.step for row in sent] == history["step"].tolist()
        assert [row.value for row in sent] == pytest.approx(history[name].tolist(), rel=1e-6)
    # At step 0 there is no loss yet.
    assert [row.step for row in store.get_metric_history(found.info.run_id, "loss")] == [2, 4]
    assert (found.info.run_name, found.info.status) == ("jobs-1", "FINISHED")
    assert found.data.params["maxsteps"] == "4" and found.data.params["modelname"] == str(tiny_model)

    page = tmp_path / "02_train.html"
    page.write_text("a page")
    tracking.send_pages(run.folder, [page])
    tracking.send_pages(folder, [page])
    for owner in (found.info.run_id, told[tracking.PARENT]):
        assert [file.path for file in store.list_artifacts(owner)] == ["02_train.html"]
    assert (tmp_path / "store").is_dir() and not (home_tracking() / "mlflow.db").exists()

    # The next start of the grid goes on under the same run; a run that breaks off has failed.
    with tracking.parent_run("mlflow", "jobs", folder) as again:
        assert again[tracking.PARENT] == told[tracking.PARENT]
    assert store.get_run(told[tracking.PARENT]).info.status == "FINISHED"

    def broken(*parts):
        raise InputError("the loss is nan.")

    monkeypatch.setattr(train, "fit", broken)
    with pytest.raises(InputError, match="the loss is nan"):
        run_experiment(settings, "jobs-2")
    runs = store.search_runs([found.info.experiment_id], "attributes.run_name = 'jobs-2'")
    assert [each.info.status for each in runs] == ["FAILED"]


def home_tracking():
    return paths.metrics() / "tracking"


def test_a_training_outlives_its_tracker_and_a_page_that_is_not_taken(store, tmp_path, caplog, monkeypatch):
    class Refusing:
        is_main_process = True

        def log(self, figures, step):
            raise OSError("no route to host")

        def finish(self):
            raise OSError("no route to host")

        @property
        def trackers(self):
            return [self]

        def end_training(self):
            raise AssertionError("the processes of a launch still have the test to share")

    tracker = tracking.Tracker(Settings(tracker="mlflow"), Refusing(), Run(tmp_path))
    tracker.log({"step": 3, "mrr": 0.5})
    assert "the tracker mlflow did not take step 3 (no route to host)" in caplog.text
    tracker.__exit__(None, None, None)
    assert "the tracker mlflow did not take the end of the run (no route to host)" in caplog.text
    (tmp_path / "tracking.json").write_text('{"mlflow": "nowhere"}')
    tracking.send_pages(tmp_path, [tmp_path / "a.html"])
    assert "the tracker mlflow did not take the pages" in caplog.text


def test_trackers_that_are_missing_or_do_not_start_are_one_sentence(store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/refused")
    refused = tracking.parent_run("mlflow", "jobs", tmp_path)
    with (
        pytest.raises(InputError, match=r"does not start \(.* names a folder.*; set MLFLOW_ALLOW_FILE_STORE=true"),
        refused,
    ):
        pass
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://host")
    refused = tracking.parent_run("mlflow", "jobs", tmp_path)
    with pytest.raises(InputError, match=r"the tracker mlflow does not start \(.*nonsense"), refused:
        pass
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    for name in ("mlflow", "wandb"):
        with pytest.raises(InputError, match=rf"the tracker {name} is not installed; run `pip install"):
            tracking.require_tracker(name)
    tracking.require_tracker("none")


def test_relative_stores_are_taken_from_the_root(home, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking._uri() == f"sqlite:///{home}/metrics/tracking/mlflow.db"
    assert tracking._artifacts() == f"file://{home}/metrics/tracking/mlflow"
    for given, meant in (
        ("sqlite:///a.db", f"sqlite:///{home}/a.db"),
        ("file:./runs", f"file:{home}/runs"),
        (f"file://{home}/runs", f"file://{home}/runs"),
        (f"sqlite:///{home}/a.db", f"sqlite:///{home}/a.db"),
        ("https://host/mlflow", "https://host/mlflow"),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        assert tracking._uri() == meant
    assert tracking._artifacts() is None
