import json
import logging
import re
import sys
from pathlib import Path

import nbformat
import pytest
from helpers import printed, write_notebook
from nbformat.v4 import new_code_cell

import hr_search
from hr_search.base import paths
from hr_search.base.errors import InputError
from hr_search.reports import report
from hr_search.reports.notebooks import NotebookFailed, run_notebook
from hr_search.reports.parameters import Parameter, parameters_of, plan
from hr_search.reports.report import run_report
from hr_search.settings import Settings


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home"


# Parameters


def test_parameters_have_exact_defaults_and_help(tmp_path):
    source = (
        'name = "a # b"  # what it is called\nrate = 5e-5  # peak\nmany = {"a": [1]}  # nested\n\n# a line of its own\n'
        "flag: bool = True\nnone = None  # anything"
    )
    found = parameters_of(write_notebook(tmp_path / "n.ipynb", source))
    defaults = {"name": "a # b", "rate": 5e-5, "many": {"a": [1]}, "flag": True, "none": None}
    assert {name: parameter.default for name, parameter in found.items()} == defaults
    assert found["rate"].help == "peak" and found["flag"].help == ""


def test_a_notebook_without_parameters_has_none(tmp_path):
    assert parameters_of(write_notebook(tmp_path / "n.ipynb", None, "1")) == {}
    assert parameters_of(write_notebook(tmp_path / "m.ipynb", "", "1")) == {}


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("share = 0.1  # 0 = none", "share"),
        ("twice = 2 * 3 * len('a')", "literal"),
        ("import os", "literal"),
        ("a, b = 1, 2", "literal"),
        ("a =", "literal"),
        ("%matplotlib inline", "literal"),
    ],
)
def test_lines_that_papermill_would_misread_are_refused(tmp_path, source, part):
    with pytest.raises(InputError, match=part):
        parameters_of(write_notebook(tmp_path / "n.ipynb", source))


def test_two_cells_of_parameters_are_refused(tmp_path):
    path = write_notebook(tmp_path / "n.ipynb", "a = 1")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(new_code_cell("b = 2", metadata={"tags": ["parameters"]}))
    nbformat.write(notebook, path)
    with pytest.raises(InputError, match="2 cells"):
        parameters_of(path)


@pytest.mark.parametrize("content", [None, "not JSON", "[]", "{}"])
def test_missing_and_damaged_notebooks_are_refused(tmp_path, content):
    path = tmp_path / "n.ipynb"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"n\.ipynb"):
        parameters_of(path)


def test_a_notebook_must_say_its_language(tmp_path):
    path = write_notebook(tmp_path / "n.ipynb", "a = 1")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = {}
    nbformat.write(notebook, path)
    with pytest.raises(InputError, match=r"kernel|language"):
        parameters_of(path)


# Running one notebook


def test_a_notebook_runs_in_this_python_with_its_parameters(tmp_path, monkeypatch, caplog):
    # Another kernel of the same name, which cannot start, must not be taken.
    other = tmp_path / "jupyter" / "kernels" / "python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text(
        json.dumps({"argv": ["/nowhere/python"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("PYTHONPATH", ".")
    code = (
        "import json, os, sys, hr_search\nfrom hr_search.base.progress import watched\n"
        "print(json.dumps([sys.executable, os.getcwd(), hr_search.__file__, watched(), name, number]))\n"
        "sys.stderr.write('\\r 10%|█   | 1/10')\nsys.stderr.write('\\r100%|████| 10/10\\n')\n"
        "print('step 1 ', end='')\nprint('mrr 0.5')"
    )
    folder = tmp_path / "тетради {number} {x}"
    path = write_notebook(folder / "n.ipynb", 'name = ""\nnumber = 1', code)
    before = path.read_bytes()
    text = "кавычки \"'\\ {number}\nстрока"
    with caplog.at_level(logging.INFO):
        output = run_notebook(path, tmp_path / "out {name}", {"name": text, "number": 7})
    assert output == tmp_path / "out {name}" / "n.ipynb"
    assert path.read_bytes() == before
    executable, folder_there, module, watched, name, number = json.loads(printed(output).split("\n")[0])
    assert executable == sys.executable
    assert Path(folder_there) == folder and Path(module) == Path(hr_search.__file__).resolve()
    assert (watched, name, number) == (False, text, 7)
    lines = [record.getMessage().strip() for record in caplog.records if record.name != "traitlets"]
    assert "step 1 mrr 0.5" in lines
    assert not any("%|" in line or "Notebook" in line for line in lines)


def test_unknown_parameters_are_refused_before_anything_starts(tmp_path):
    path = write_notebook(tmp_path / "in" / "n.ipynb", "points = 1", "1")
    with pytest.raises(InputError, match='no parameter "pointz"; did you mean "points"'):
        run_notebook(path, tmp_path / "out", {"pointz": 3})
    assert not (tmp_path / "out").exists()


def test_a_notebook_never_overwrites_itself_and_needs_a_folder(tmp_path):
    path = write_notebook(tmp_path / "n.ipynb", "points = 1", "1")
    with pytest.raises(InputError, match="overwrite itself"):
        run_notebook(path, tmp_path, {})
    with pytest.raises(InputError, match="cannot be made"):
        run_notebook(path, path, {})
    (tmp_path / "out" / "n.ipynb").mkdir(parents=True)
    with pytest.raises(InputError, match="is a folder"):
        run_notebook(path, tmp_path / "out", {})


def test_a_failure_tells_cell_and_error_and_leaves_a_page(tmp_path):
    code = "from hr_search.base.errors import InputError\nraise InputError('table.csv has no\\n  rows.')"
    path = write_notebook(tmp_path / "in" / "n.ipynb", "a = 1", "print('reached')", code, "print('never')")
    with pytest.raises(NotebookFailed) as caught:
        run_notebook(path, tmp_path / "out", {"a": 2})
    failure = caught.value
    assert isinstance(failure, InputError)
    assert (failure.path, failure.cell, failure.line) == (tmp_path / "out" / "n.ipynb", 4, "table.csv has no rows.")
    assert str(failure) == f"n stopped in cell 4: table.csv has no rows; see {tmp_path / 'out' / 'n.html'}."
    page = (tmp_path / "out" / "n.html").read_text()
    assert "table.csv has no" in page and "reached" in page
    assert printed(failure.path) == "reached\n"


def test_a_kernel_that_dies_is_a_failure_too(tmp_path):
    path = write_notebook(
        tmp_path / "in" / "n.ipynb", "a = 1", "print('reached')", "import os; os._exit(9)", "print(1)"
    )
    with pytest.raises(NotebookFailed, match="kernel died") as caught:
        run_notebook(path, tmp_path / "out", {})
    assert caught.value.cell == 3
    assert "reached" in (tmp_path / "out" / "n.html").read_text()


# What each notebook of a report gets


DEFAULTS = {
    "01_explore_data": {"datapath": "esco", "seed": 1},
    "02_train": {"learningrate": 1e-3, "more": {}, "runid": ""},
    "03_embedding_drift": {"runid": "", "points": 30, "scale": 0.5, "sides": ["query"], "any": None},
}
DECLARED = {
    notebook: {name: Parameter(default, "") for name, default in defaults.items()}
    for notebook, defaults in DEFAULTS.items()
}


def test_settings_go_where_they_are_declared_and_the_rest_goes_into_more():
    settings = Settings(datapath="sample_ru", learningrate=1e-4, loss="infonce")
    planned = plan(DECLARED, settings, {"points": "12", "scale": 1, "sides": ["document"], "any": 3}, "r")
    assert planned["01_explore_data"] == {"datapath": "sample_ru", "seed": 42}
    more = {"datapath": "sample_ru", "loss": "infonce"}
    assert planned["02_train"] == {"learningrate": 1e-4, "more": more, "runid": "r"}
    drift = planned["03_embedding_drift"]
    assert drift == {"runid": "r", "points": 12, "scale": 1.0, "sides": ["document"], "any": 3}
    assert type(drift["points"]) is int and type(drift["scale"]) is float


@pytest.mark.parametrize(
    ("extra", "part"),
    [
        ({"pionts": 3}, 'did you mean "points"'),
        ({"learning": 3}, 'did you mean "learningrate"'),
        ({"learningrate": 3}, "as a setting"),
        ({"runid": "x"}, "run id"),
        ({"more": {}}, "not an extra"),
        ({"points": "many"}, "03_embedding_drift: points is 'many'; it must be a whole number"),
        ({"points": 1.5}, "whole number"),
        ({"sides": "query"}, "must be a list"),
    ],
)
def test_wrong_extra_parameters_are_refused(extra, part):
    with pytest.raises(InputError, match=re.escape(part)):
        plan(DECLARED, Settings(), extra, "r")


def test_a_setting_that_reaches_no_notebook_is_refused():
    declared = {"02_train": {"seed": Parameter(1, "")}}
    assert plan(declared, Settings(seed=3, projectname="x"), {}, "r") == {"02_train": {"seed": 3}}
    with pytest.raises(InputError, match="no notebook takes the setting loss"):
        plan(declared, Settings(loss="infonce"), {}, "r")


# The report


def four(folder: Path, train: str = "print(learningrate, more, runid)") -> Path:
    write_notebook(folder / "01_explore_data.ipynb", 'datapath = "esco"  # the table', "print(datapath)")
    write_notebook(folder / "02_train.ipynb", 'learningrate = 1e-3\nmore = {}\nrunid = ""', train)
    write_notebook(folder / "03_embedding_drift.ipynb", 'runid = ""\npoints = 30', "print(runid, points)")
    write_notebook(folder / "04_analyse_metrics.ipynb", 'runid = ""', "print(runid)")
    return folder


def test_a_report_runs_all_notebooks_and_says_how_long_it_will_take(tmp_path, home, caplog):
    folder = four(tmp_path / "notebooks")
    (home / "reports").mkdir(parents=True)
    (home / "reports" / "timings.json").write_text('{"01_explore_data": 200, "02_train": "x"}')
    with caplog.at_level(logging.INFO):
        index = run_report(Settings(learningrate=1e-4, loss="infonce"), {"points": 19}, "мой-1", folder=folder)
    assert index == home / "reports" / "index.html" and index.exists()
    place = home / "reports" / "мой-1"
    assert sorted(each.name for each in place.iterdir()) == sorted(
        f"{name}.{kind}" for name in report.STEPS for kind in ("html", "ipynb")
    )
    assert printed(place / "02_train.ipynb") == "0.0001 {'loss': 'infonce'} мой-1\n"
    assert printed(place / "03_embedding_drift.ipynb") == "мой-1 19\n"
    first = (place / "01_explore_data.html").read_text()
    assert 'href="../index.html"' in first and 'href="04_analyse_metrics.html"' in first
    assert "<title>01 explore data · мой-1</title>" in first
    said = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("1/4 01_explore_data") and "about 3 min 20 s" in line for line in said)
    assert any(line.startswith("2/4 02_train") and "about 7 min 00 s" in line for line in said)
    kept = json.loads((home / "reports" / "timings.json").read_text())
    assert set(kept) == set(report.STEPS) and all(seconds > 0 for seconds in kept.values())


def test_a_failed_report_stops_there_and_keeps_what_is_done(tmp_path, home):
    folder = four(tmp_path / "notebooks", "1 / 0")
    place = home / "reports" / "r"
    place.mkdir(parents=True)
    (place / "04_analyse_metrics.html").write_text("of an earlier report")
    (home / "reports" / "timings.json").write_text("damaged")
    with pytest.raises(NotebookFailed, match="02_train stopped in cell 3: ZeroDivisionError: division by zero"):
        run_report(Settings(), runid="r", folder=folder)
    pages = sorted(each.name for each in place.glob("*.html"))
    assert pages == ["01_explore_data.html", "02_train.html"]
    assert 'href="01_explore_data.html"' in (place / "02_train.html").read_text()
    assert (home / "reports" / "index.html").exists()
    assert set(json.loads((home / "reports" / "timings.json").read_text())) == {"01_explore_data"}


def test_a_report_checks_everything_before_it_starts(tmp_path, home):
    folder = four(tmp_path / "notebooks")
    with pytest.raises(InputError, match='did you mean "points"'):
        run_report(Settings(), {"point": 9}, folder=folder)
    with pytest.raises(InputError, match="run id"):
        run_report(Settings(), runid="../x", folder=folder)
    (paths.runs() / "old").mkdir(parents=True)
    (paths.runs() / "old" / "summary.json").write_text("{}")
    with pytest.raises(InputError, match="the run old exists already"):
        run_report(Settings(), runid="old", folder=folder)
    (folder / "04_analyse_metrics.ipynb").unlink()
    with pytest.raises(InputError, match="04_analyse_metrics"):
        run_report(Settings(), folder=folder)
    assert not paths.reports().exists()


@pytest.mark.parametrize(
    ("extra", "message"), [({"points": 3}, "points is 3; it must be between"), ({"otherid": "x"}, "finished run")]
)
def test_values_that_would_fail_after_the_training_are_refused_before(home, extra, message):
    with pytest.raises(InputError, match=message):
        run_report(Settings(), extra)
    assert not list(home.rglob("*.ipynb"))


def test_notebooks_without_anything_to_read_are_left_out(tmp_path, home, caplog):
    with caplog.at_level(logging.INFO):
        run_report(Settings(probes=0, testshare=0.0), runid="r", folder=four(tmp_path / "notebooks"))
    assert sorted(path.stem for path in (home / "reports" / "r").glob("*.html")) == ["01_explore_data", "02_train"]
    assert "no probes are kept" in caplog.text and "no test rows" in caplog.text
