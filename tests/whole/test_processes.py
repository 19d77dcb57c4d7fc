"""Several processes: two that share each batch end where one with the doubled batch does."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import torch

from hr_search.base import paths
from hr_search.runs import folders


def launch(processes: int, home, *flags: str) -> None:
    """`train.py` under torchrun, as `accelerate launch` starts it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        paths.HOME_VARIABLE: str(home),
        "PYTHONPATH": str(paths.checkout()),
    }
    done = subprocess.run(
        [*command, str(paths.checkout() / "train.py"), *flags],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_train_as_one_with_the_doubled_batch(home, tmp_path, tiny_model, jobs_file):
    common = ["--datapath", str(jobs_file), "--modelname", str(tiny_model), "--loss", "infonce", "--learningrate", "1e-3",
              "--precision", "fp32", "--epochs", "4", "--mixing", "weighted", "--validationshare", "0.2", "--testshare",
              "0.2"]  # fmt: skip
    # The second pair of processes encodes its share in parts of 40 tokens, twice.
    for name, processes, batch, more in (("one", 1, 8, []), ("two", 2, 4, []),
                                         ("parts", 2, 4, ["--gradcache", "--chunktokens", "40"])):  # fmt: skip
        launch(
            processes,
            home,
            *common,
            *more,
            "--batchsize",
            str(batch),
            "--runid",
            name,
            "--outputpath",
            str(tmp_path / f"{name}.pt"),
        )
    one, *others = (folders.open_run(name) for name in ("one", "two", "parts"))
    first, *models = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("one", "two", "parts"))
    for other, model in zip(others, models, strict=True):
        for column in ("loss", "active", "spread", "mrr"):
            np.testing.assert_allclose(
                one.table("history")[column], other.table("history")[column], rtol=1e-4, atol=1e-5
            )
        assert other.environment["processes"] == 2
        assert all(torch.allclose(first[name], model[name], atol=1e-5) for name in first)
    assert len(folders.list_runs()) == 3
