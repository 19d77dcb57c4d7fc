"""Each notebook run by papermill with parameters other than its defaults; the tables it writes are checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hr_search.base import paths
from hr_search.base.errors import InputError
from hr_search.reports import notebooks
from hr_search.runs import folders
from hr_search.settings import Settings


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, tiny_model):
    """A root of its own in which notebook 02 has trained a tiny model: (root, run)."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("workshop")
        patch.setenv(paths.HOME_VARIABLE, str(root))
        parameters = {
            "modelname": str(tiny_model), "maxsteps": 6, "batchsize": 12, "loss": "infonce", "learningrate": 1e-3,
            "seed": 7, "outputpath": str(root / "model.pt"), "runid": "first",
            "more": {"evalsteps": 2, "temperature": 0.1, "projectname": "papermill", "patience": 0},
        }  # fmt: skip
        execute("02_train", root, parameters)
        yield root, folders.Run(root / "metrics" / "runs" / "first")


def execute(name: str, root: Path, parameters: dict) -> Path:
    return notebooks.run_notebook(paths.notebooks() / f"{name}.ipynb", root / "out", parameters)


def test_02_train_writes_the_run(workshop):
    root, run = workshop
    assert run.config["temperature"] == 0.1 and run.config["maxsteps"] == 6
    history = run.table("history")
    assert history["step"].tolist() == [0, 2, 4, 6]
    assert history["loss"].iloc[1:].between(0, 10).all()
    metrics = run.table("metrics")
    assert set(metrics["system"]) == {"bm25", "tfidf", "base", "trained"}
    assert ((metrics["low"] <= metrics["value"]) & (metrics["value"] <= metrics["high"])).all()
    # The tiny tokenizer knows no Russian, so its model cannot beat a search by letters.
    mrr = metrics.query("direction == 'q2d' and metric == 'mrr'").set_index("system")["value"]
    assert mrr["tfidf"] > max(mrr["base"], mrr["trained"]) and mrr["tfidf"] > 0.3
    assert len(list((run.folder / "probes").glob("step_*.npy"))) == 4
    assert (root / "model.pt").is_file() and (root / "model" / "modules.json").is_file()
    assert run.summary["command"].startswith("python3 train.py --")


def test_01_explore_data_counts(workshop, jobs_file):
    root, _ = workshop
    execute(
        "01_explore_data",
        root,
        {"datapath": str(jobs_file), "testshare": 0.25, "validationshare": 0.25, "splitseed": 3, "mined": 0},
    )
    counts = pd.read_csv(root / "metrics" / "data" / "jobs.csv").set_index("what")["count"]
    assert counts["rows read"] == 24 and counts["groups"] == 12
    assert counts["train rows"] + counts["validation rows"] + counts["test rows"] == 24
    assert counts["test rows"] == 6


def test_03_embedding_drift_starts_at_zero_and_moves(workshop):
    root, run = workshop
    execute("03_embedding_drift", root, {"runid": run.id, "points": 40, "checkpoints": 2, "neighbours": 5})
    drift = pd.read_csv(run.folder / "drift.csv")
    moved = drift[(drift["measure"] == "displacement") & (drift["side"] == "all")].set_index("step")["value"]
    assert moved[0] == pytest.approx(0, abs=1e-6)
    assert (moved.loc[2:] > 1e-5).all()
    cka = drift[(drift["measure"] == "cka") & (drift["side"] == "all")].set_index("step")["value"]
    assert cka[0] == pytest.approx(1) and (cka.loc[2:] < 1).all()


def test_04_analyse_metrics_lists_changes(workshop):
    root, run = workshop
    execute("04_analyse_metrics", root, {"runid": run.id, "direction": "d2q", "goal": "recall@10", "examples": 3})
    changes = pd.read_csv(run.folder / "changes.csv")
    queries = run.table("queries").query("system == 'trained' and direction == 'd2q'")
    assert len(changes) == len(queries)
    ranks = changes[["rank base", "rank trained"]].to_numpy()
    assert (np.sign(1 / ranks[:, 1] - 1 / ranks[:, 0]) == np.sign(changes["gain"])).all()
    assert set(changes["outcome"]) <= {"won", "lost", "unchanged"}


def test_a_mistyped_parameter_is_refused_before_anything_starts(home):
    with pytest.raises(InputError, match='did you mean "points"'):
        notebooks.run_report(Settings(), {"pionts": 10})
    assert not home.exists() or not list(home.rglob("*.ipynb"))


def test_notebooks_are_short_stripped_and_parameterised():
    import nbformat

    for path in sorted(paths.notebooks().glob("*.ipynb")):
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1, path.name
        for cell in cells:
            lines = cell.source.splitlines()
            assert len(lines) <= 15, f"{path.name}: {lines[0]}"
            assert not any(line.lstrip().startswith(("def ", "class ")) for line in lines), path.name
            assert not cell.outputs and cell.execution_count is None, path.name
        assert all(help for _, help in notebooks.parameters_of(path).values()), path.name
