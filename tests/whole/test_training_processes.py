"""Two processes that share each batch end with the weights of one process with the doubled batch."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from lives import Life, launch

from hr_search.base import paths
from hr_search.runs import folders
from hr_search.runs.folders import Run


@pytest.fixture
def words(tiny_model, jobs_file) -> list[str]:
    """The command line of a short run; the batch is left to each test."""
    flags = "--loss infonce --learningrate 1e-3 --precision fp32 --epochs 4 --mixing weighted --dimensions 16,8 --validationshare 0.2 --testshare 0.2"
    return ["--datapath", str(jobs_file), "--modelname", str(tiny_model), *flags.split()]


def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path, words):
    weights = tmp_path / "weights"
    weights.mkdir()
    code, said = Life([*words, "--batchsize", "8", "--runid", "r", "--outputpath", weights / "one.pt"], tmp_path).end()
    assert code == 0, said
    one, first = Run(tmp_path / "metrics" / "runs" / "r"), torch.load(weights / "one.pt", weights_only=True)
    # The second pair of processes encodes its share in parts of 40 tokens, twice.
    for name, more in (("two", []), ("parts", ["--gradcache", "--chunktokens", "40"])):
        place = weights / f"{name}.pt"
        pair = launch([*words, *more, "--batchsize", "4", "--runid", "r", "--outputpath", place], tmp_path / name)
        assert [life.end()[0] for life in pair] == [0, 0], [life.said for life in pair]
        assert not (tmp_path / name / "rank1" / "metrics").exists()  # one of the two writes
        other, model = Run(tmp_path / name / "rank0" / "metrics" / "runs" / "r"), torch.load(place, weights_only=True)
        for column in ("loss", "active", "spread", "mrr"):
            np.testing.assert_allclose(
                one.table("history")[column], other.table("history")[column], rtol=1e-4, atol=1e-5
            )
        assert other.environment["processes"] == 2
        assert all(torch.allclose(first[key], model[key], atol=1e-5) for key in first)


@pytest.mark.slow
def test_torchrun_starts_two_processes_that_leave_one_run(home, words):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(paths.checkout())}
    done = subprocess.run(
        [*command, str(paths.checkout() / "train.py"), *words, "--batchsize", "4", "--runid", "r"],
        env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert folders.open_run("r").environment["processes"] == 2 and len(folders.list_runs()) == 1
