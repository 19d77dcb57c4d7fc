"""Experiment trackers: the numbers of the history, and for MLflow the pages of the report, sent to one if asked."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import filter_trackers

from hr_search.base import files, paths
from hr_search.base.errors import InputError, one_line
from hr_search.runs.folders import Run
from hr_search.settings import Settings

log = logging.getLogger(__name__)

PARENT = "HR_SEARCH_PARENT_RUN"  # variable that names the MLflow run of the grid that a run belongs to
_GRID = "hr_search.grid"  # tag of such a run: the grid's name
_ALLOWED = "MLFLOW_ALLOW_FILE_STORE"
_MARK = "tracking.json"  # in the folder of a run or a grid: its run in MLflow


def require_tracker(name: str) -> None:
    """Checks that the tracker's package is installed, unless it is "none".

    Raises:
        InputError: it is not installed.
    """
    if name != "none" and importlib.util.find_spec(name) is None:
        raise InputError(
            f'the tracker {name} is not installed; run `pip install "hr_search[track]"` or use --tracker none.'
        )


class Tracker:
    """A context that sends numbers to the tracker that the settings name, or to none.

    Args:
        settings: `tracker` and `projectname`.
        accelerator: the run's; its trackers are accelerate's own classes.
        run: gets a note of its run in MLflow, so that pages can follow.

    Raises:
        InputError: the tracker does not start.
    """

    def __init__(self, settings: Settings, accelerator: Accelerator, run: Run) -> None:
        self.name, self.settings, self.accelerator, self.run = settings.tracker, settings, accelerator, run
        self.open = contextlib.ExitStack()

    def __enter__(self) -> Tracker:
        if self.name != "none":
            with contextlib.ExitStack() as opened, _starting(self.name):
                self._start(opened)
                self.open = opened.pop_all()
        return self

    def _start(self, opened: contextlib.ExitStack) -> None:
        """Starts the tracker; what is to be undone at the end goes into `opened`."""
        folder, options = str(paths.root() / "metrics" / "tracking"), {}
        if self.name == "mlflow":
            opened.enter_context(_mlflow())
            options = {"mlflow": {"run_name": self.run.id, "logging_dir": _artifacts()}}
        self.accelerator.log_with = filter_trackers([self.name], folder)
        if not self.accelerator.log_with:  # accelerate leaves out what it does not find
            raise InputError(f"accelerate does not find the package {self.name}")
        self.accelerator.project_configuration.set_directories(folder)
        self.accelerator.init_trackers(self.settings.projectname, self.settings.to_dict(), options)
        if self.name == "mlflow" and self.accelerator.is_main_process:
            import mlflow

            if parent := os.environ.get(PARENT):
                mlflow.set_tag("mlflow.parentRunId", parent)
            files.write_json(self.run.folder / _MARK, {"mlflow": mlflow.active_run().info.run_id})

    def log(self, row: dict[str, float]) -> None:
        """Sends a row of the history, without values that are NaN or infinite; a training outlives its tracker."""
        if self.name == "none":
            return
        figures = {name: value for name, value in row.items() if name != "step" and math.isfinite(value)}
        if self.name == "mlflow":
            figures = {name.replace("@", "_at_"): value for name, value in figures.items()}  # it allows no @
        with _outlived(self.name, f"step {row['step']:.0f}"):
            self.accelerator.log(figures, step=int(row["step"]))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the tracker; in MLflow a run that was broken off counts as failed."""
        if self.name == "none":
            return
        with self.open, _outlived(self.name, "the end of the run"):
            if self.name == "mlflow" and kind is not None and self.accelerator.is_main_process:
                import mlflow

                mlflow.end_run("FAILED")
            for tracker in self.accelerator.trackers:  # `end_training` would part the processes before the test
                tracker.finish()


@contextlib.contextmanager
def _starting(name: str) -> Iterator[None]:
    """A block that starts a tracker."""
    try:
        yield
    except Exception as error:  # each tracker has errors of its own
        reason, advice = one_line(error), "use --tracker none"
        if _ALLOWED in str(error):
            reason = "MLFLOW_TRACKING_URI names a folder, which MLflow no longer writes unless it is allowed to"
            advice = f"set {_ALLOWED}=true, or take sqlite:///FILE"
        raise InputError(f"the tracker {name} does not start ({reason}); {advice}.") from error


@contextlib.contextmanager
def _outlived(name: str, what: str) -> Iterator[None]:
    """A block that tells a tracker something; what it does not take costs a warning, not the work."""
    try:
        yield
    except Exception as error:  # each tracker has errors of its own
        log.warning("the tracker %s did not take %s (%s)", name, what, one_line(error))


# -- MLflow --------------------------------------------------------------------------------------


def _uri() -> str:
    """Where MLflow keeps runs: `MLFLOW_TRACKING_URI`, else a database under `metrics/tracking/`.

    Relative files are taken from the root: kernels start in the folder of the notebooks.
    """
    if not (given := os.environ.get("MLFLOW_TRACKING_URI", "").strip()):
        place = paths.root() / "metrics" / "tracking" / "mlflow.db"
        place.parent.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{place}"
    for mark in ("sqlite:///", "file:"):
        rest = given.removeprefix(mark)
        if rest != given and not rest.startswith("/"):
            return f"{mark}{paths.root() / rest}"
    return given


def _artifacts() -> str | None:
    """Where an experiment in our own database keeps files; None = where the server of the user says."""
    own = not os.environ.get("MLFLOW_TRACKING_URI", "").strip() or _uri().startswith("sqlite:")
    return (paths.root() / "metrics" / "tracking" / "mlflow").as_uri() if own else None


@contextlib.contextmanager
def _mlflow() -> Iterator[Any]:
    """MLflow's client for the place that `_uri` names; within the block the package itself works there, too."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(_uri())
    try:
        yield mlflow.MlflowClient()
    finally:
        mlflow.set_tracking_uri(before or None)


@contextlib.contextmanager
def parent_run(tracker: str, name: str, folder: Path) -> Iterator[dict[str, str]]:
    """A block in which the cells of a grid run: their runs in MLflow stand under one of the grid.

    Args:
        tracker: of the cells.
        name: of the grid.
        folder: of its tables; it gets a note of the run, from which `send_pages` knows it.

    Yields:
        The variables that the cells need; none with other trackers.

    Raises:
        InputError: MLflow is not installed or does not start.
    """
    require_tracker(tracker)
    if tracker != "mlflow":
        yield {}
        return
    with _starting(tracker), _mlflow() as client:
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name, _artifacts())
        runs = client.search_runs([experiment], f"tags.`{_GRID}` = '{name}'")
        parent = runs[0] if runs else client.create_run(experiment, tags={_GRID: name}, run_name=name)
        client.update_run(parent.info.run_id, status="RUNNING")
        files.write_json(folder / _MARK, {"mlflow": parent.info.run_id})
    given = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    try:
        yield {PARENT: parent.info.run_id} | ({"MLFLOW_TRACKING_URI": _uri()} if given else {})
    finally:
        with _outlived(tracker, "the end of the grid"), _mlflow() as client:
            client.set_terminated(parent.info.run_id)


def send_pages(folder: Path, pages: Sequence[Path]) -> None:
    """Adds pages to the MLflow run of a run's or a grid's folder; does nothing where it has none.

    A tracker that fails then costs a warning: the pages are here.
    """
    if not (folder / _MARK).is_file():
        return
    try:
        with _mlflow() as client:
            for page in pages:
                client.log_artifact(files.read_json(folder / _MARK)["mlflow"], str(page))
    except Exception as error:  # MLflow's, or of what keeps its files
        log.warning("the tracker mlflow did not take the pages (%s); they are in %s", one_line(error), pages[0].parent)
