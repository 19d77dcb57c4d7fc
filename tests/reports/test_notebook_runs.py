"""Each notebook of a report run by papermill with parameters other than its defaults, by the tables it writes."""

from __future__ import annotations

import shlex

import nbformat
import numpy as np
import pandas as pd
import pytest

from hr_search.base import paths
from hr_search.reports.parameters import parameters_of
from hr_search.settings import FIELDS

# The report is the one on hostile texts: what its notebooks compute is checked here, what its pages show elsewhere.


def test_01_explore_data_counts(hostile_report):
    (path,) = (hostile_report.home / "metrics" / "data").glob("*.csv")
    counts = pd.read_csv(path).set_index("what")["count"]
    data = hostile_report.run.summary["data"]
    assert counts["rows read"] == len(hostile_report.table)
    for part in ("train", "validation", "test"):
        assert counts[f"{part} rows"] == data[part] > 0
    assert counts["test rows"] == pytest.approx(0.3 * counts["groups"], abs=3)


def test_02_train_writes_the_run(hostile_report):
    home, run = hostile_report.home, hostile_report.run
    assert run.config["temperature"] == 0.1 and run.config["maxsteps"] == 4 and run.config["loss"] == "infonce"
    history = run.table("history")
    assert history["step"].tolist() == [0, 2, 4]
    assert history["loss"].iloc[1:].between(0, 10).all()
    metrics = run.table("metrics")
    assert set(metrics["system"]) == {"bm25", "tfidf", "base", "trained"}
    assert ((metrics["low"] <= metrics["value"]) & (metrics["value"] <= metrics["high"])).all()
    # Query and document of a row share a text that the tiny tokenizer hardly knows, so search by letters is ahead.
    mrr = metrics.query("direction == 'q2d' and metric == 'mrr'").set_index("system")["value"]
    assert mrr["tfidf"] > max(mrr["base"], mrr["trained"]) and mrr["tfidf"] > 0.3
    assert len(list((run.folder / "probes").glob("step_*.npy"))) == 3
    assert (home / "trained.pt").is_file() and (home / "trained" / "modules.json").is_file()
    assert shlex.split(run.summary["command"])[:2] == ["python3", "train.py"]


def test_03_embedding_drift_starts_at_zero_and_moves(hostile_report):
    drift = pd.read_csv(hostile_report.run.folder / "drift.csv")
    moved = drift[(drift["measure"] == "displacement") & (drift["side"] == "all")].set_index("step")["value"]
    assert moved[0] == pytest.approx(0, abs=1e-6)
    assert (moved.loc[2:] > 1e-5).all()
    cka = drift[(drift["measure"] == "cka") & (drift["side"] == "all")].set_index("step")["value"]
    assert cka[0] == pytest.approx(1) and (cka.loc[2:] < 1).all()


def test_04_analyse_metrics_lists_changes(hostile_report):
    run = hostile_report.run
    changes = pd.read_csv(run.folder / "changes.csv")
    queries = run.table("queries").query("system == 'trained' and direction == 'd2q'")
    assert len(changes) == len(queries)
    ranks = changes[["rank base", "rank trained"]].to_numpy()
    assert (np.sign(1 / ranks[:, 1] - 1 / ranks[:, 0]) == np.sign(changes["gain"])).all()
    assert set(changes["outcome"]) <= {"won", "lost", "unchanged"}


def test_04_analyse_metrics_measures_the_stages_of_the_search(hostile_report):
    run = hostile_report.run
    stages = pd.read_csv(run.folder / "stages.csv")
    assert stages["stage"][0] == "cosine" and set(stages["stage"]) <= {"cosine", "+ centring", "+ mixing", "+ words"}
    assert set(stages["direction"]) == {"d2q"} and set(stages["metric"]) == {"recall@10"}
    metrics = run.table("metrics").query("system == 'trained' and direction == 'd2q' and metric == 'recall@10'")
    assert stages["value"][0] == pytest.approx(metrics["value"].iloc[0], abs=1e-6)  # the model that the run saved
    assert (stages["ms"] > 0).all()


def test_no_section_of_a_whole_report_could_not_be_made(hostile_report):
    for path in (hostile_report.home / "reports").rglob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert "could not be made" not in text and "is left out:" not in text, path.name


def test_notebooks_are_short_stripped_and_parameterised():
    for path in sorted(paths.notebooks().glob("*.ipynb")):
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1, path.name
        for cell in cells:
            lines = cell.source.splitlines()
            assert len(lines) <= 15 or "parameters" in cell.metadata.get("tags", []), f"{path.name}: {lines[0]}"
            assert not any(line.lstrip().startswith(("def ", "class ")) for line in lines), path.name
            assert not cell.outputs and cell.execution_count is None, path.name
        declared = parameters_of(path)
        assert all(parameter.help for parameter in declared.values()), path.name
        code = "\n".join(cell.source for cell in cells)
        if "Settings.from_mapping" in code:  # by name, never from whatever globals() holds
            assert all(f'"{name}": {name}' in code for name in declared if name in FIELDS), path.name
            assert "globals()" not in code, path.name
