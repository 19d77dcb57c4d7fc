"""Measurements in processes of their own: the order, the variables, the answer and the failure."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch

from hr_search.base.errors import InputError
from hr_search.base.files import read_json, write_json
from hr_search.bench import meters, model_folders, ours, processes
from hr_search.bench.__main__ import answer_of, answer_order
from hr_search.bench.cases import Order
from hr_search.models import embedded


def test_both_contenders_run_under_the_same_variables(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    plain, two = processes.environment(0), processes.environment(2)
    assert "OMP_NUM_THREADS" not in plain and plain["GOMP_SPINCOUNT"] == "7"
    assert two["OMP_NUM_THREADS"] == two["MKL_NUM_THREADS"] == two["RAYON_NUM_THREADS"] == "2"
    assert plain["HF_HUB_OFFLINE"] == "1" and plain["PYTHONPATH"].endswith("elsewhere")


def test_a_failed_process_says_why_in_one_sentence(monkeypatch):
    def fails(code, words):
        return lambda command, **more: subprocess.CompletedProcess(command, code, "", words)

    for code, words, said in [
        (2, "note\nhr_search: the table is empty.\n", "^the table is empty.$"),
        (
            1,
            "Traceback\nValueError: no such thing\n\n",
            r"the train run of peer failed \(ValueError: no such thing\)",
        ),
        (-9, "", r"failed \(exit code -9\)"),
        (0, "nothing written", r"failed \(nothing written\)"),
    ]:
        monkeypatch.setattr(processes.subprocess, "run", fails(code, words))
        with pytest.raises(InputError, match=said):
            processes.measure("peer", Order("train"), {})


def test_an_order_travels_as_a_file(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(ours, "measure", lambda order, texts: {"order": dataclasses.asdict(order), "texts": texts})
    order = Order("learn", model=str(tiny_model), batchsize=4, threads=torch.get_num_threads())
    asked = {"contender": "ours", "order": dataclasses.asdict(order), "texts": {"query": ["ё"]}}
    write_json(tmp_path / "order.json", asked)
    answer_order(str(tmp_path / "order.json"), str(tmp_path / "answer.json"))
    assert read_json(tmp_path / "answer.json") == {"order": dataclasses.asdict(order), "texts": {"query": ["ё"]}}


def test_the_matrix_rate_is_measured_without_a_model(monkeypatch):
    monkeypatch.setattr(meters, "matrix_rate", lambda precision, device: {"bf16": 7.0}[precision])
    assert answer_of("ours", Order("rate", precision="bf16"), {}) == {"rate": 7.0}


def test_the_embedded_model_must_be_a_folder(home, monkeypatch):
    monkeypatch.setattr(embedded, "ensure_embedded", lambda: embedded.HUB_NAME)
    with pytest.raises(InputError, match=r"multilingual-e5-small as a folder.*hr_search\[bundled\]"):
        model_folders.model_folder()


def test_a_measurement_ends_with_who_asked_for_it(tmp_path):
    child = (
        "import time; from hr_search.bench import __main__ as process; process.end_with_parent(); print(1, flush=True)"
    )
    child += "; time.sleep(600)"
    parent = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', sys.argv[1]]).wait())"
    asking = subprocess.Popen([sys.executable, "-c", parent, child], stdout=subprocess.PIPE, text=True)
    assert asking.stdout.readline() == "1\n"
    asking.kill()
    assert asking.communicate(timeout=120)[0] == ""  # the child holds the pipe open until it ends
