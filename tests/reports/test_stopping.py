"""A report that is asked to stop ends its kernel, says how to go on, and goes on; two reports keep apart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import alive, printed, wait_until, write_notebook

from hr_search.base import claims, files, paths
from hr_search.base.errors import InputError
from hr_search.reports.notebooks import NotebookFailed
from hr_search.reports.report import STEPS, run_report
from hr_search.runs import folders
from hr_search.settings import Settings

# Of the notebooks of a report, what matters here: the second leaves a finished run, the third takes long at first.
TRAIN = """
from hr_search.base import files
from hr_search.runs import folders
from hr_search.settings import Settings
run = folders.create_run(runid)
files.write_json(run.folder / "config.json", Settings(**more).to_dict())
for name in ("metrics.csv", "probes/step_000000.npy"):
    files.write_text(run.folder / name, "")
files.write_json(run.folder / "summary.json", {})
print("trained")
"""
WAIT = """
import os, pathlib, time
from hr_search.base import paths
begun = paths.root() / "begun"
if not begun.exists():
    begun.write_text(str(os.getpid()))
    {}
"""
SCRIPT = """
import sys
from hr_search.base.errors import guarded
from hr_search.base.progress import show_log
from hr_search.base.signals import stoppable
from hr_search.reports.report import run_report
from hr_search.settings import Settings
show_log(sys.stderr)
sys.exit(guarded(stoppable()(lambda: bool(run_report(Settings(seed=3), runid=sys.argv[2], folder=sys.argv[1])) and 0)))
"""


@pytest.fixture(autouse=True)
def own_root(home):
    """Everything is written below the test's folder."""
    return home


def four(folder: Path, trouble: str, number: int = 3) -> Path:
    """The notebooks of a report, the `number`-th of which meets trouble when it runs for the first time."""
    codes = dict.fromkeys(STEPS, "print(runid)") | {"02_train": TRAIN}
    trouble = WAIT.format(trouble)
    for at, (name, code) in enumerate(codes.items(), 1):
        parameters = 'more = {}\nrunid = ""' if name == "02_train" else 'runid = ""'
        write_notebook(folder / f"{name}.ipynb", parameters, *[trouble] * (at == number), code)
    return folder


@pytest.mark.parametrize(
    ("asked", "code", "number", "said"),
    [
        (signal.SIGTERM, 143, 3, "the same command with --runid r goes on there."),
        (signal.SIGHUP, 129, 2, "the same command with --runid r starts it again."),
    ],
)
def test_a_stopped_report_ends_its_kernel_and_the_same_command_goes_on(home, tmp_path, asked, code, number, said):
    folder = four(tmp_path / "notebooks", "time.sleep(1000)", number)
    command = [sys.executable, "-c", SCRIPT, str(folder), "r"]
    environment = {**os.environ, "PYTHONPATH": str(paths.checkout()), paths.HOME_VARIABLE: str(home)}
    process = subprocess.Popen(
        command,
        env=environment,
        text=True,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    begun = home / "begun"
    assert wait_until(lambda: begun.exists() and begun.read_text())
    kernel = int(begun.read_text())
    with pytest.raises(InputError, match=rf"the report r is being written by another process \({process.pid} on "):
        run_report(Settings(seed=3), runid="r", folder=folder)
    os.kill(process.pid, asked)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code and "Traceback" not in errors, errors
    assert errors.splitlines()[-1].endswith(said) and not alive(kernel)
    again = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=600)
    assert again.returncode == 0, again.stderr
    assert ("going on after 01_explore_data, 02_train" in again.stderr) == (number == 3)
    assert sorted(path.stem for path in (home / "reports" / "r").glob("*.html")) == list(STEPS)
    assert not list((home / "reports").rglob(".lock"))


def test_what_needs_no_failed_notebook_is_made_and_the_failed_one_later(tmp_path, home, caplog):
    folder, settings = four(tmp_path / "notebooks", "1 / 0"), Settings(seed=3)
    with pytest.raises(NotebookFailed, match="03_embedding_drift stopped in cell 3"):
        run_report(settings, runid="r", folder=folder)
    place = home / "reports" / "r"
    assert printed(place / "04_analyse_metrics.ipynb") == "r\n"
    links = (place / "04_analyse_metrics.html").read_text()
    assert 'href="03_embedding_drift.html"' in links and (place / "03_embedding_drift.html").is_file()
    stamp = (place / "02_train.ipynb").stat().st_mtime_ns
    with pytest.raises(InputError, match="the run r exists already"):  # another report
        run_report(settings.replace(seed=4), runid="r", folder=folder)
    run_report(settings, runid="r", folder=folder)
    assert printed(place / "03_embedding_drift.ipynb") == "r\n"
    assert (place / "02_train.ipynb").stat().st_mtime_ns == stamp
    with pytest.raises(InputError, match="the run r exists already"):  # nothing of it is missing
        run_report(settings, runid="r", folder=folder)


def test_a_page_that_cannot_be_written_leaves_a_report_that_goes_on(tmp_path, home):
    spoil = "place = paths.reports() / 'r' / '03_embedding_drift.ipynb'; place.unlink(); place.mkdir()"
    folder, settings = four(tmp_path / "notebooks", spoil), Settings(seed=3)
    said = r"03_embedding_drift\.ipynb is a folder.*; the report r was stopped in 03.*with --runid r goes on there\.$"
    with pytest.raises(InputError, match=said):
        run_report(settings, runid="r", folder=folder)
    (home / "reports" / "r" / "03_embedding_drift.ipynb").rmdir()
    run_report(settings, runid="r", folder=folder)
    assert (home / "reports" / "r" / "04_analyse_metrics.html").is_file()


def test_reports_without_a_name_get_one_each(tmp_path, home, monkeypatch):
    """Two that start in the same second find the same name free."""
    names = iter(["a", "a", "a-2"])
    monkeypatch.setattr("hr_search.reports.report.new_run_id", lambda project: next(names))
    with claims.claimed(claims.inside(home / "reports" / next(names)), "it", ""):
        run_report(Settings(seed=3), folder=four(tmp_path / "notebooks", "pass"))
    assert (home / "reports" / "a-2" / "04_analyse_metrics.html").is_file()
    assert files.read_json(folders.Run(paths.runs() / "a-2").folder / "config.json")["seed"] == 3
