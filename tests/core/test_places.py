"""Paths of settings, absolute and checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from hr_search.base.errors import InputError
from hr_search.places import absolute, require_models, require_tables
from hr_search.settings import Settings


def test_paths_hold_in_any_folder_and_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs.csv").touch()
    found = absolute(Settings(datapath="jobs.csv", testpath="none.csv", outputpath="model", checkpointpath="~/x.pt"))
    assert (found.datapath, found.outputpath) == (str(tmp_path / "jobs.csv"), str(tmp_path / "model"))
    assert found.checkpointpath == str(Path.home() / "x.pt")
    assert (found.testpath, found.modelname, found.validationpath) == ("none.csv", "embedded", "")
    assert absolute(Settings(datapath="esco")).datapath == "esco"


def test_missing_tables_are_named(tmp_path):
    require_tables(Settings(datapath="esco", testpath="hf:owner/name"))
    with pytest.raises(InputError, match=r"^testpath none\.csv does not exist"):
        require_tables(Settings(testpath="none.csv"))
    with pytest.raises(InputError, match=r"^datapath none\.csv of the cell c does not exist"):
        require_tables(Settings(datapath="none.csv"), "the cell c")


def test_missing_model_folders_are_named_and_names_on_the_hub_are_not_looked_up(tmp_path, tiny_model):
    require_models(Settings(modelname="owner/name", retriever="name", rerank=str(tiny_model)))
    with pytest.raises(InputError, match=r"^modelname data/models/gone-1 of the cell c does not exist; .* train"):
        require_models(Settings(modelname="data/models/gone-1"), "the cell c")
    with pytest.raises(InputError, match=r"^rerank \./gone does not exist"):
        require_models(Settings(rerank="./gone"))
