"""The public names: imported lazily, documented, and their examples run."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import hr_search
from hr_search import Settings
from hr_search.base import files
from hr_search.base.arrays import incidence
from hr_search.batches import index_rows
from hr_search.data.tasks import tasks_of
from hr_search.encoder import load_encoder
from hr_search.mining import MiningPolicy
from hr_search.mixing import MixingPolicy
from hr_search.runs.folders import Run

NAMES = [name for name in hr_search.__all__ if name != "__version__"]


@pytest.fixture
def scene(tiny_model, jobs, stocked_home):
    """The names that examples may use without making them."""
    run = Run(stocked_home / "metrics" / "runs" / "my-run")
    run.write("history", pd.DataFrame({"step": [0, 80]}))
    files.write_json(run.folder / "summary.json", {})
    encoder = load_encoder(str(tiny_model), 32, "fp32")
    return {"np": np, "torch": torch, "incidence": incidence, "MixingPolicy": MixingPolicy, "MiningPolicy": MiningPolicy,
            "Settings": Settings, "encoder": encoder, "rows": index_rows(jobs), "tasks": tasks_of(jobs)}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_public_name_runs(name, scene):
    public = getattr(hr_search, name)
    found = doctest.DocTestFinder(recurse=False).find(public, name, globs=scene | {name: public})
    assert found and found[0].examples, f"{name} has no example"
    failed, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found[0], out=sys.stdout.write)
    assert not failed


@pytest.mark.parametrize("name", NAMES)
def test_a_public_docstring_names_what_goes_in_and_out(name):
    words = inspect.getdoc(getattr(hr_search, name))
    assert words and ("Args:" in words or name == "Settings")


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, hr_search; dir(hr_search); print([m for m in ('torch', 'pandas', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'tripplet'"):
        hr_search.tripplet  # noqa: B018
