"""Two processes that share each batch, validation, mining and test end with what one process has."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import JOBS
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


@pytest.fixture
def many(tmp_path):
    """A table whose parts are encoded in several chunks each."""
    words, draw = sorted(set(" ".join(JOBS.values()).split())), random.Random(0)
    rows = [
        {"query": f"{at} {draw.choice(words)}", "positive": " ".join(draw.choices(words, k=32))} for at in range(220)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "many.csv", index=False)
    return tmp_path / "many.csv"


def test_two_processes_validate_mine_and_test_as_one_and_train_adapters(tmp_path, tiny_model, many):
    flags = "--loss infonce --negatives mined --minepool 4 --minesampling random --lora 4 --learningrate 3e-3 --precision fp32 --validationshare 0.3 --testshare 0.3 --maxsteps 4 --evalsteps 2 --runid r"
    words, weights = ["--datapath", many, "--modelname", tiny_model, *flags.split()], tmp_path / "weights"
    weights.mkdir()
    code, said = Life([*words, "--batchsize", "8", "--outputpath", weights / "one.pt"], tmp_path).end()
    assert code == 0, said
    pair = launch([*words, "--batchsize", "4", "--outputpath", weights / "two.pt"], tmp_path / "two")
    assert [life.end()[0] for life in pair] == [0, 0], [life.said for life in pair]
    one, two = (Run(folder / "metrics" / "runs" / "r") for folder in (tmp_path, tmp_path / "two" / "rank0"))
    # Before the first step the weights are equal, and so is everything, to the bit.
    for name in ("metrics", "queries", "scores"):
        first, second = (run.table(name) for run in (one, two))
        pd.testing.assert_frame_equal(
            first[first.system != "trained"], second[second.system != "trained"], check_exact=True
        )
    for name in ("history", "mining"):
        first, second = (run.table(name).drop(columns=["seconds", "memory_gb"], errors="ignore") for run in (one, two))
        pd.testing.assert_frame_equal(first.iloc[:1], second.iloc[:1], check_exact=True)
    kept = [np.load(run.folder / "probes" / "step_000000.npy") for run in (one, two)]
    assert np.array_equal(*kept) and len(kept[0]) > 100
    np.testing.assert_allclose(one.table("history")["loss"], two.table("history")["loss"], rtol=1e-4)
    model, other = (torch.load(weights / f"{name}.pt", weights_only=True) for name in ("one", "two"))
    assert list(model) == list(other) and all(torch.allclose(model[key], other[key], atol=1e-5) for key in model)


def test_two_processes_evaluate_a_model_as_one(tmp_path, tiny_model, many):
    words = ["--datapath", many, "--model", tiny_model, "--precision", "fp32", "--json"]
    code, said = Life(words, tmp_path, verb="evaluate").end()
    pair = launch(words, tmp_path / "two", verb="evaluate")
    assert [code, *(life.end()[0] for life in pair)] == [0, 0, 0], [said, *(life.said for life in pair)]
    assert said.splitlines()[-1].startswith("{") and pair[0].said.splitlines()[-1] == said.splitlines()[-1]
    assert "{" not in pair[1].said  # one of the two speaks


def test_a_process_that_fails_does_not_leave_the_other_waiting(tmp_path, words):
    # Where no file may have more than a kilobyte, the probes of the first validation cannot be kept.
    pair = launch([*words, "--batchsize", "4", "--runid", "r"], tmp_path, limits=(0, 1024))
    (first, said), (second, reason) = (life.end(60) for life in pair)
    assert (first, second) == (2, 2), (said, reason)
    assert "another process of this launch has" in said and "cannot be written" in reason
    # One that is killed says nothing.
    pair = launch([*words, "--batchsize", "4", "--runid", "k", "--epochs", "60"], tmp_path / "killed")
    assert pair[1].wait_for("step", 3)
    pair[1].process.kill()
    assert pair[0].end(60)[0] not in (0, None)


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
