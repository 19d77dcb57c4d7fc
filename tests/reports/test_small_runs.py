"""Notebooks after the training on runs too small for some of their sections, and on parameters given by papermill."""

from __future__ import annotations

import json
import re

import nbformat
import pandas as pd
import pytest

from hr_search.base import files, paths
from hr_search.base.errors import InputError
from hr_search.base.sections import section
from hr_search.experiment import run_experiment
from hr_search.reports.notebooks import run_notebook
from hr_search.reports.parameters import given
from hr_search.settings import Settings


def outputs(path) -> str:
    """All that the cells of an executed notebook show."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return "".join(json.dumps(cell.outputs) for cell in cells)


def test_sections_without_enough_texts_say_so_in_their_place(home, tmp_path, tiny_model, jobs_file, monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    shares = {"validationshare": 0.1, "testshare": 0.1, "maxsteps": 2, "batchsize": 4, "evalsteps": 1}
    settings = Settings(datapath=str(jobs_file), modelname=str(tiny_model), precision="fp32", **shares)
    run = run_experiment(settings, "small")
    (run.folder / "scores.csv").unlink()  # as an older version left it
    (run.folder / "timing.csv").write_text("")
    files.write_json(run.folder / "summary.json", {**run.summary, "best_step": 1})  # as if step 2 had been worse
    broken = paths.runs() / "broken"
    broken.mkdir()
    (broken / "summary.json").write_text('{"data": {}}')
    shown = outputs(run_notebook(paths.notebooks() / "03_embedding_drift.ipynb", tmp_path, {"runid": "small"}))
    assert "the map is left out: a drift map needs at least 10 texts" in shown and "could not be made" not in shown
    assert "the model of step 1 was kept; the steps after it, up to 2, were thrown away" in shown
    assert pd.read_csv(run.folder / "drift.csv")["step"].max() == 1 and "written: drift.csv" in shown
    shown = outputs(run_notebook(paths.notebooks() / "04_analyse_metrics.ipynb", tmp_path, {"runid": "small"}))
    assert "what a cosine says is left out: the run small has no scores.csv" in shown
    assert "the table of waiting times could not be made (EmptyDataError" in shown
    assert "the table of all runs could not be made (KeyError" in shown  # another run's fault
    assert "changes.csv, breakdown.csv" in shown


def test_a_section_keeps_what_is_above_and_below_it(caplog):
    for error in (InputError("too few."), ZeroDivisionError("division by zero")):
        with section("the map"):
            raise error
    assert [record.getMessage() for record in caplog.records] == [
        "the map is left out: too few.",
        "the map could not be made (ZeroDivisionError: division by zero)",
    ]
    with pytest.raises(KeyboardInterrupt), section("the map"):
        raise KeyboardInterrupt


# -- parameters ----------------------------------------------------------------------------------


def namespace(notebook: str, **values) -> dict:
    """The names in a notebook that papermill has filled in."""
    path = paths.notebooks() / f"{notebook}.ipynb"
    (cell,) = (each for each in nbformat.read(path, 4).cells if "parameters" in each.metadata.get("tags", []))
    injected = "# Parameters\n" + "".join(f"{name} = {value!r}\n" for name, value in values.items())
    names: dict = {}
    exec(cell.source + "\n" + injected, names)
    return names | {"In": ["", "import pandas", cell.source, injected]}


def test_parameters_from_papermill_get_the_types_of_their_defaults():
    found = given("04_analyse_metrics", namespace("04_analyse_metrics", worst=20.0, examples="3", runid=2026))
    assert (found["worst"], found["examples"], found["runid"], found["goal"]) == (20, 3, "2026", "mrr")
    assert type(found["worst"]) is type(found["examples"]) is int
    found = given("02_train", namespace("02_train", learningrate="1e-3", maxsteps=2e1, more={"redact": True}))
    assert (found["learningrate"], found["maxsteps"], found["more"]) == (1e-3, 20, {"redact": True})


@pytest.mark.parametrize(
    ("notebook", "values", "said"),
    [
        ("04_analyse_metrics", {"worst": 2.5}, "04_analyse_metrics: worst is 2.5; it must be a whole number"),
        ("04_analyse_metrics", {"worst": "many"}, "worst is 'many'; it must be a whole number"),
        ("04_analyse_metrics", {"worst": 0}, "worst is 0; it must be between 1 and 200"),
        (
            "04_analyse_metrics",
            {"wurst": 20},
            '04_analyse_metrics.ipynb has no parameter "wurst"; did you mean "worst"?',
        ),
        ("04_analyse_metrics", {"direction": "q2x"}, "direction is 'q2x'; did you mean"),
        ("04_analyse_metrics", {"runid": 1.5}, "runid is 1.5; it must be a text"),
        ("03_embedding_drift", {"points": None}, "points is None; it must be a whole number"),
        ("02_train", {"more": "{}"}, "more is '{}'; it must be a dict"),
        ("02_train", {"testshare": 2}, "testshare is 2; it must be between"),
    ],
)
def test_parameters_from_papermill_that_cannot_be_meant_are_refused_by_name(notebook, values, said):
    with pytest.raises(InputError, match=re.escape(said)):
        given(notebook, namespace(notebook, **values))


def test_every_notebook_checks_its_parameters_before_it_uses_them():
    for path in paths.notebooks().glob("*.ipynb"):
        codes = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        given = next(place for place, cell in enumerate(codes) if "parameters" in cell.metadata.get("tags", []))
        assert f'check_parameters("{path.stem}")' in codes[given + 1].source.splitlines()[0], path.name
