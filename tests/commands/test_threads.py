"""`--threads` as a user meets it, and what a run says on a machine that it shares."""

from __future__ import annotations

import logging
import os
import shlex

import pytest
import torch
from test_train import run as trained

from hr_search.base import load
from hr_search.base.cores import THREAD_VARIABLES
from hr_search.base.load import Reading
from hr_search.commands import parser
from hr_search.runs import folders, provenance


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """The threads and variables of the tests stay as they are."""
    before = torch.get_num_threads()
    for name in (*THREAD_VARIABLES, "HR_SEARCH_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    torch.set_num_threads(1)  # two would wait for each other on a busy machine
    yield
    torch.set_num_threads(before)


def test_a_run_keeps_how_its_threads_were_chosen_and_the_number_that_repeats_it(
    home, tiny_model, jobs_file, monkeypatch, capsys
):
    words = [
        "train",
        "--datapath",
        str(jobs_file),
        "--modelname",
        str(tiny_model),
        "--maxsteps",
        "1",
        "--testshare",
        "0.2",
    ]
    assert parser.main([*words, "--runid", "plain"]) == 0
    monkeypatch.setattr(load, "_watched", lambda: 1.0)
    assert parser.main([*words, "--runid", "auto", "--threads", "auto"]) == 0
    sentence = "2 cores, 1.0 busy with other programs: 1 thread"
    assert sentence in capsys.readouterr().err
    plain, auto = (folders.open_run(name) for name in ("plain", "auto"))
    assert (plain.environment["threads"], auto.environment["threads"]) == (1, 1)
    assert auto.environment["threads_chosen"] == f"auto: {sentence}" and "threads_chosen" not in plain.environment
    assert auto.environment.keys() - plain.environment.keys() == {"threads_chosen"}
    assert f"(auto: {sentence})" in provenance.origin(auto)["value"]["machine"]
    assert plain.config == auto.config and plain.summary["fingerprint"] == auto.summary["fingerprint"]
    assert "--threads" not in plain.summary["command"] and auto.summary["command"].endswith(" --threads=1")
    repeated = shlex.split(auto.summary["command"])[2:]
    assert parser.main(["train", *repeated, "--runid", "again"]) == 0
    again = folders.open_run("again")
    assert again.summary["fingerprint"] == auto.summary["fingerprint"]
    assert again.table("history")["loss"].equals(auto.table("history")["loss"])


@pytest.mark.parametrize("verb", ["train", "evaluate", "tune", "index", "search", "grid", "report"])
def test_every_verb_that_computes_has_the_flag_and_refuses_what_is_no_number(verb, home, capsys):
    needed = {
        "tune": ["--model", "m", "--datapath", "d"], "index": ["--corpus", "c", "--out", "o"],
        "search": ["welder", "--corpus", "c"], "grid": ["g.yaml"],
    }  # fmt: skip
    assert parser.main([verb, *needed.get(verb, []), "--threads", "many"]) == 2
    said = capsys.readouterr().err
    assert "--threads is many; give auto or a whole number from 1 to 1024" in said and "Traceback" not in said


def test_verbs_that_compute_nothing_have_no_such_flag(capsys):
    assert parser.main(["compare", "a", "b", "--threads", "2"]) == 2
    assert "there is no flag --threads" in capsys.readouterr().err


def counters(monkeypatch, own, busy):
    """Counters of which each look is ten seconds after the last one."""
    looks = iter(range(10**6))
    monkeypatch.setattr(load, "reading", lambda: Reading(10.0 * (at := next(looks)), own * at, busy * at))


def test_a_shared_machine_is_named_once_a_validation(tiny_model, jobs, monkeypatch, caplog):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    counters(monkeypatch, own=9.0, busy=19.0)
    with caplog.at_level(logging.INFO, "hr_search"):
        _, progress = trained(tiny_model, jobs, epochs=3)
    said = [
        line for line in caplog.messages if line.startswith("the machine is shared: this process got 0.9 of 2 cores")
    ]
    assert len(said) == len(progress.history) == 4
    caplog.clear()
    counters(monkeypatch, own=19.0, busy=19.0)
    with caplog.at_level(logging.INFO, "hr_search"):
        trained(tiny_model, jobs, epochs=2)
    assert "shared" not in caplog.text
