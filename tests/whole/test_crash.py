"""Crash and resume: a run killed at any moment, or asked to stop, ends as the one that nobody disturbed.

The processes are real and are killed for good.
`HR_SEARCH_KILLS=20` makes the long version of the test with SIGKILL.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lives import FLAGS, PHASES, Life, launch

from hr_search.base import paths, progress
from hr_search.checkpoint import previous
from hr_search.runs.folders import Run

KILLS = int(os.environ.get("HR_SEARCH_KILLS", "6"))
CHECKPOINTS = ["--checkpointsteps", "3", "--resume"]
WALL = ["rows_per_s", "tokens_per_s", "memory_gb", "seconds"]  # columns that tell of the clock and the machine


def results(run: Run) -> dict[str, str]:
    """All that a run says about the model, and nothing about the clock."""
    history = run.table("history").drop(columns=WALL).to_csv(index=False)
    mining = run.table("mining").drop(columns="seconds").to_csv(index=False)
    names = ("metrics", "queries", "comparison", "documents")
    tables = {name: (run.folder / f"{name}.csv").read_text() for name in names}
    return {"history": history, "mining": mining, **tables}


def assert_same(run: Run, model: Path, reference: tuple[Run, Path]) -> None:
    expected = results(reference[0])
    for name, text in results(run).items():
        assert text == expected[name], name
    ours, theirs = (torch.load(path, weights_only=True) for path in (model, reference[1]))
    assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)
    weights = [path.with_suffix("") / "model.safetensors" for path in (model, reference[1])]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.fixture(scope="module")
def words(tmp_path_factory, tiny_model) -> list[str]:
    """The command line of the tiny run; the checkpoint is left to each test."""
    from conftest import JOBS

    rows = [(title, part) for title, text in JOBS.items() for part in (text, " ".join(reversed(text.split())))]
    table = tmp_path_factory.mktemp("crash") / "jobs.csv"
    pd.DataFrame(rows, columns=["query", "positive"]).to_csv(table, index=False)
    return ["--datapath", str(table), "--modelname", str(tiny_model), *shlex.split(FLAGS)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory, words) -> tuple[Run, Path]:
    """The run that nobody disturbs, and its model."""
    home = tmp_path_factory.mktemp("reference")
    code, said = Life([*words, "--runid", "whole", "--outputpath", home / "model.pt"], home).end()
    assert code == 0, said
    run = Run(home / "metrics" / "runs" / "whole")
    # Early stopping ends it, not its last step, and the weights are those of an earlier one.
    assert "validations without a new best" in said
    assert 100 < run.summary["steps"] < 60 * 4 and run.summary["best_step"] < run.summary["steps"]
    assert len(run.table("mining")) > 3
    return run, home / "model.pt"


# -- SIGKILL -------------------------------------------------------------------------------------


def wishes(count: int, draw: np.random.Generator) -> list[str]:
    """When each of the kills is to come; those that need a trained model last."""
    early = [["step", "checkpoint", "validation", "any time", "checkpoint"][at % 5] for at in range(count)]
    late = max(1, count // 5)
    return [*draw.permutation(early[: count - late]), *["model"] * late]


def test_killed_at_random_moments_it_ends_as_if_nothing_had_been(tmp_path, words, reference):
    draw = np.random.default_rng(20)
    model, place, log = tmp_path / "model.pt", tmp_path / "checkpoint.pt", []
    command = [*words, *CHECKPOINTS, "--checkpointpath", place, "--outputpath", model, "--runid"]
    seen, number, waiting = set(), 0, wishes(KILLS, draw)
    while waiting or ("model" not in seen and number < 3 * KILLS):
        number += 1
        # A write takes some milliseconds, and on a busy machine the hand may come late: then it tries again. The model
        # comes last, for a run that has come so far writes no more checkpoints.
        again = waiting[:1] == ["model"] and "checkpoint" not in seen and number < 2 * KILLS
        wish = "checkpoint" if again else waiting.pop(0) if waiting else "model"
        life = Life([*command, f"life{number}"], tmp_path)
        if wish == "any time":
            time.sleep(draw.uniform(0.1, 1.5))
        else:
            count = 1 if wish == "model" or again else int(draw.integers(1, 4))
            assert life.wait_for(wish, count), life.said
            time.sleep(0 if again else draw.uniform(0, PHASES[wish][2]))
        life.process.kill()
        code, said = life.end()
        assert code == -signal.SIGKILL, f"it had ended before the kill: {said}"
        steps = re.findall(r"^step (\d+) of", said, re.MULTILINE) or ["none"]
        begun = re.findall(r"resuming after step (\d+)", said) or ["the beginning"]
        seen.add(life.doing)
        log.append(f"kill {number:2}: wished {wish}, died in {life.doing}; began after step {begun[0]}, last validation "
                   f"at {steps[-1]}, {life.shared[1]} steps and {life.shared[3]} checkpoints in this life")  # fmt: skip
    code, said = Life([*command, "last"], tmp_path).end()
    log.append(f"last life: exit code {code}, began after step {re.findall(r'resuming after step ([0-9]+)', said)[0]}")
    (tmp_path / "kill.log").write_text("\n".join(log) + "\n")
    assert code == 0, said
    assert seen >= {"checkpoint", "model"}, log
    assert_same(Run(tmp_path / "metrics" / "runs" / "last"), model, reference)
    # What the killed writers left behind is hidden and no more than one part a kill.
    left = [item.name for item in tmp_path.iterdir() if item.name.startswith(".")]
    assert len(left) <= number and all(name.endswith(".part") for name in left)


# -- signals that ask ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "code", "phase", "count"),
    [(signal.SIGTERM, 143, "step", 26), (signal.SIGINT, 130, "checkpoint", 4), (signal.SIGTERM, 143, "validation", 1)],
)  # fmt: skip
def test_asked_to_stop_it_writes_a_checkpoint_and_goes_on_later(tmp_path, words, reference, asked, code, phase, count):
    place, model = tmp_path / "checkpoint.pt", tmp_path / "model.pt"
    command = [*words, "--checkpointpath", place, "--checkpointsteps", "7", "--outputpath", model]
    life = Life([*command, "--runid", "one"], tmp_path)
    assert life.wait_for(phase, count)
    os.kill(life.process.pid, asked)
    ended, said = life.end()
    assert ended == code, said
    assert "Traceback" not in said and said.count("stopped after step") == 1
    assert f"the same command with --resume goes on from {place}" in said
    assert not (tmp_path / "metrics" / "runs" / "one" / "summary.json").exists()
    at = int(re.search(r"stopped after step (\d+) of", said)[1])
    assert torch.load(place, weights_only=True)["progress"]["step"] == at
    ended, said = Life([*command, "--runid", "one", "--resume"], tmp_path).end()
    assert ended == 0 and (f"resuming after step {at}" in said), said
    assert_same(Run(tmp_path / "metrics" / "runs" / "one"), model, reference)


def test_without_a_checkpoint_path_it_says_that_nothing_is_kept(tmp_path, words):
    life = Life(words, tmp_path)
    assert life.wait_for("step", 3)
    os.kill(life.process.pid, signal.SIGTERM)
    code, said = life.end()
    assert code == 143 and "nothing is kept, as no --checkpointpath was given" in said
    assert "Traceback" not in said


def test_the_command_line_as_a_person_types_it(tmp_path, words):
    """`python train.py` in a process group of its own, and Ctrl-C for the group."""
    environment = {**os.environ, paths.HOME_VARIABLE: str(tmp_path), "PYTHONPATH": str(paths.checkout()),
                   "OMP_NUM_THREADS": "1"}  # fmt: skip
    command = [sys.executable, str(paths.checkout() / "train.py"), *words, "--epochs", "10000", "--patience", "0",
               "--checkpointpath", str(tmp_path / "c.pt")]  # fmt: skip
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("step 12 of"):
                os.killpg(process.pid, signal.SIGINT)
        assert process.wait(600) == 130, "".join(said)
    assert sum("goes on from" in line for line in said) == 1 and said[-1] == "hr_search: interrupted\n"
    assert not any("Traceback" in line for line in said)
    assert torch.load(tmp_path / "c.pt", weights_only=True)["progress"]["step"] >= 12


# -- several processes ---------------------------------------------------------------------------


def test_of_several_processes_all_stop_after_the_same_step_and_one_writes(tmp_path, words):
    place, model = tmp_path / "checkpoint.pt", tmp_path / "model.pt"
    command = [*words, "--batchsize", "2", "--maxsteps", "40", "--runid", "two", "--outputpath"]
    whole = [life.end() for life in launch([*command, tmp_path / "whole.pt"], tmp_path / "reference")]
    assert [code for code, _ in whole] == [0, 0], whole
    command = [*command, model, "--checkpointpath", place]
    lives = launch([*command, "--checkpointsteps", "1000"], tmp_path)
    assert lives[1].wait_for("step", 11)
    os.kill(lives[1].process.pid, signal.SIGTERM)  # the other has to hear of it
    ended = [life.end() for life in lives]
    assert all(code in (130, 143) for code, _ in ended), ended
    assert sum(said.count("stopped after step") for _, said in ended) == 1
    at = torch.load(place, weights_only=True)["progress"]["step"]
    assert 11 <= at <= 13 and not previous(place).exists()
    resumed = [life.end() for life in launch([*command, "--resume"], tmp_path)]
    assert [code for code, _ in resumed] == [0, 0], resumed
    assert f"resuming after step {at}" in resumed[0][1]
    run, whole_run = (
        Run(folder / "rank0" / "metrics" / "runs" / "two") for folder in (tmp_path, tmp_path / "reference")
    )
    assert_same(run, model, (whole_run, tmp_path / "whole.pt"))


# -- in a notebook -------------------------------------------------------------------------------


def test_a_notebook_goes_on_after_ctrl_c(tmp_path, words, reference):
    """A real kernel: interrupted while it trains, it is alive, and a second cell trains to the end.

    Training waits at step 12 until the interrupt is there, however busy the machine is.
    """
    place, model = tmp_path / "checkpoint.pt", tmp_path / "model.pt"
    setup = f"""
import logging, os, pathlib, time, torch
os.environ[{paths.HOME_VARIABLE!r}] = {str(tmp_path)!r}
torch.set_num_threads(1)
from hr_search.commands import parser as cli; from hr_search import settings as config; from hr_search.commands.flags import settings_from
from hr_search.experiment import run_experiment
from hr_search.base.progress import show_log
show_log()
class Hold(logging.Handler):
    def emit(self, record):
        while record.getMessage().startswith("step 12 of") and not pathlib.Path({str(tmp_path / "sent")!r}).exists():
            time.sleep(0.01)
logging.getLogger("hr_search").addHandler(Hold())
names = cli.build_parser().parse_args({["train", *words]!r})
settings = settings_from(None, {{name: value for name, value in vars(names).items() if name in config.FIELDS and value is not None}})
settings = settings.replace(checkpointpath={str(place)!r}, outputpath={str(model)!r})
"""
    code, said = in_kernel(tmp_path, [setup, "run_experiment(settings, 'first')", "print(1 + 1, settings.seed)",
                                      "run = run_experiment(settings.replace(resume=True), 'second')"])  # fmt: skip
    assert code == ["ok", "KeyboardInterrupt", "ok", "ok"], said
    assert "goes on from" in said[1] and said[2] == "2 1\n" and "resuming after step" in said[3]
    assert_same(Run(tmp_path / "metrics" / "runs" / "second"), model, reference)


def in_kernel(folder: Path, cells: list[str]) -> tuple[list[str], list[str]]:
    """Runs cells in a kernel; one that says "step 12 of" is interrupted. What became of each, and what it printed."""
    from jupyter_client import KernelManager
    from jupyter_client.kernelspec import KernelSpecManager

    manager = KernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    environment = {**os.environ, "PYTHONPATH": str(paths.checkout()), "OMP_NUM_THREADS": "1", "IPYTHONDIR": str(folder)}
    manager.start_kernel(env={**environment, progress.HEADLESS_VARIABLE: "1"}, cwd=str(folder))
    client = manager.client()
    ended, printed = [], []
    try:
        client.start_channels()
        client.wait_for_ready(600)
        for cell in cells:
            sent, lines, interrupted = client.execute(cell), "", False
            while True:
                message = client.get_iopub_msg(timeout=600)
                if message["parent_header"].get("msg_id") != sent:
                    continue
                content = message["content"]
                lines += content.get("text", "") if message["msg_type"] == "stream" else ""
                if "step 12 of" in lines and not interrupted and "resuming" not in lines:
                    manager.interrupt_kernel()
                    (folder / "sent").touch()
                    interrupted = True
                if message["msg_type"] == "status" and content["execution_state"] == "idle":
                    break
            reply = client.get_shell_msg(timeout=600)
            while reply["parent_header"].get("msg_id") != sent:  # a slow kernel was asked several times if it is ready
                reply = client.get_shell_msg(timeout=600)
            ended.append(reply["content"].get("ename", reply["content"]["status"]))
            printed.append(lines)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return ended, printed
