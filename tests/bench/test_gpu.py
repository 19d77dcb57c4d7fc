"""The GPU check without a GPU: a dry run of all its lines, what it refuses, and what happens when a check fails."""

from __future__ import annotations

import math
import os
import runpy
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import loads_nothing
from torch.autograd import DeviceType

from hr_search.base import files
from hr_search.base.errors import InputError
from hr_search.bench import gpu, gpu_scene, gpu_speeds, meters
from hr_search.bench.gpu_scene import Finding, Scene
from hr_search.commands.parser import main


@pytest.fixture
def checks(monkeypatch, tmp_path):
    """Gives checks of our own the place of the real ones; what a dry run writes lands in a folder of the test."""
    monkeypatch.setattr(gpu.tempfile, "tempdir", str(tmp_path))

    def replace(**works):
        monkeypatch.setattr(gpu, "CHECKS", {name: gpu.Check(work, 20, 60) for name, work in works.items()})

    return replace


def fine(scene):
    """It is fine."""
    yield Finding("a count", 3, "per step")
    yield gpu_scene.at_most("a gap", 0.5, 1.0)


def broken(scene):
    """It breaks after its first finding."""
    yield gpu_scene.at_least("a rate", 2.0, 1.0, "x")
    raise ValueError("nothing <b>works</b>")


def missed(scene):
    """It does not reach its bar."""
    yield gpu_scene.at_least("a rate", 0.5, 1.0, "x")


# -- a dry run -----------------------------------------------------------------------------------


def test_a_dry_run_runs_every_check(home, checks, capsys, monkeypatch):
    monkeypatch.setattr(meters, "has_gpu", lambda: False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # left behind by a trainer; a launch refuses it
    checks(**{name: check.work for name, check in gpu.CHECKS.items()})
    assert main(["benchmark", "--gpu", "--dry"]) == 0
    path = capsys.readouterr().out.strip().splitlines()[-2]
    assert path.endswith("gpu_dry.csv") and not (home / "metrics").exists()
    table = pd.read_csv(path, keep_default_na=False, na_values={"value": [""]})
    assert list(table.columns) == gpu.COLUMNS
    assert set(table["check"]) == {"equality", "waits", "memory", "speed", "vectors", "resume", "launch"}
    assert set(table["passed"]) <= {"yes", "", "left out"}, table[table["passed"] == "no"].to_string()
    assert table["hardware"].str.startswith("dry run, tiny model: ").all()
    value = {(check, what): number for check, what, number in table[["check", "what", "value"]].values.tolist()}
    assert value["equality", "loss, cpu bf16 against cpu fp32: relative difference"] > 0
    assert value["equality", "gradient, cpu fp32 against cpu fp32: relative difference"] == 0
    (split,) = (number for (check, what), number in value.items() if "60 % of the memory" in what)
    assert 0 < split < 256
    # On a processor a resumed run is equal to the bit, and so are two runs.
    assert [number for (check, _), number in value.items() if check == "resume"] == [0, 0]
    text = Path(path).with_suffix(".html").read_text(encoding="utf-8")
    assert "its figures mean nothing" in text and loads_nothing(text) == 1


def test_a_check_runs_as_a_process_of_its_own_too(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "hr_search.bench.gpu")  # runpy warns of a module that is there already
    monkeypatch.setattr(sys, "argv", ["gpu", "vectors", str(tmp_path), "dry"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("hr_search.bench.gpu", run_name="__main__")
    assert ended.value.code == 0
    rows = files.read_json(tmp_path / "vectors.json")
    assert [row["passed"] for row in rows] == ["", "yes", "yes", "", "yes"]


# -- failures ------------------------------------------------------------------------------------


def test_a_failed_check_is_a_row_and_the_others_go_on(home, checks, capsys):
    checks(first=broken, second=missed, third=fine)
    assert main(["benchmark", "--gpu", "--dry"]) == 1
    said, told = capsys.readouterr()
    assert "2 demands met, 2 not met, 0 left out, 1 values only reported." in said and "Traceback" in told
    table = pd.read_csv(said.strip().splitlines()[-2], keep_default_na=False)
    assert table[["check", "what", "passed"]].values.tolist() == [
        ["first", "a rate", "yes"],
        ["first", "it ended with ValueError: nothing <b>works</b>", "no"],
        ["second", "a rate", "no"],
        ["third", "a count", ""],
        ["third", "a gap", "yes"],
    ]
    page = Path(said.strip().splitlines()[-1]).read_text(encoding="utf-8")
    assert "nothing &lt;b&gt;works&lt;/b&gt;" in page and "It breaks after its first finding." in page
    assert main(["benchmark", "--gpu", "--dry", "--case", "third"]) == 0


def test_nan_passes_no_bar():
    assert gpu_scene.at_most("a", math.nan, 1).passed == gpu_scene.at_least("a", math.nan, 1).passed == "no"


def test_what_there_is_no_time_for_is_a_row(checks, monkeypatch, tmp_path):
    checks(first=fine)
    (row,) = gpu.in_time("first", Scene(tmp_path, True), 19.0)
    assert row["passed"] == "left out" and row["what"] == "no time: it wants 20 s, and 19 s of 480 s were left"
    assert len(gpu.in_time("first", Scene(tmp_path, True), 20.0)) == 2
    monkeypatch.setattr(gpu, "in_a_process", lambda name, scene, seconds: [seconds])
    assert gpu.in_time("first", Scene(tmp_path), 50.0) == [50.0] and gpu.in_time("first", Scene(tmp_path), 90.0) == [60]


@pytest.mark.parametrize(
    ("then", "seconds", "last"),
    [
        ("pass", 60, None),
        ("sys.exit(3)", 60, ("its process ended with exit code 3", "no")),
        ("time.sleep(600)", 60, ("it did not end within 1 s", "no")),
        ("time.sleep(600)", 59, ("the rest of it: the 480 s of all checks were over", "left out")),
    ],
)
def test_a_process_that_dies_or_hangs_keeps_what_it_found(tmp_path, monkeypatch, checks, then, seconds, last):
    checks(hung=fine)
    script = (
        "import json, pathlib, sys, time; name, folder, dry = sys.argv[1:]; assert (name, dry) == ('hung', '')\n"
        "row = {'what': 'a count', 'value': None, 'unit': '', 'demanded': '', 'passed': '', 'seconds': 0.1}\n"
        f"pathlib.Path(folder, name + '.json').write_text(json.dumps([row])); {then}"
    )
    monkeypatch.setattr(gpu, "_PROGRAM", (sys.executable, "-S", "-c", script))
    if last and "sleep" in then:  # the limit is reached at once
        wait = subprocess.Popen.wait

        def impatient(child, timeout=None):
            assert timeout in (seconds, None)
            while timeout and not (tmp_path / "hung.json").exists():
                time.sleep(0.02)
            return wait(child, timeout and 0.1)

        monkeypatch.setattr(subprocess.Popen, "wait", impatient)
        if last[1] == "no":
            last = (f"it did not end within {seconds} s", "no")
    rows = gpu.in_a_process("hung", Scene(tmp_path), seconds)
    assert rows[0]["what"] == "a count" and math.isnan(rows[0]["value"])
    assert [(row["what"], row["passed"]) for row in rows[1:]] == ([last] if last else [])


def test_without_a_gpu_it_ends_at_once(tmp_path):
    code = (
        "import sys; from hr_search.commands.parser import main; code = main(['benchmark', '--gpu']); "
        "heavy = [name for name in ('transformers', 'accelerate', 'datasets', 'pandas', 'nbformat') if name in sys.modules]; "
        "sys.exit(100 if heavy else code)"
    )
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HR_SEARCH_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("hr_search: torch ") and done.stderr.count("\n") == 1
    assert "finds no NVIDIA GPU here (" in done.stderr and "--dry" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpu", "--dry", "--case", "wait"], 'there is no check "wait" of a GPU; did you mean "waits"?'),
        (["--gpu", "--dry", "--out", "a.csv"], "--out does not apply to a dry run"),
        (["--gpu", "--steps", "3"], "--steps does not apply to --gpu"),
        (["--dry"], "--dry does not apply to speeds, only to --gpu"),
    ],
)
def test_wrong_flags_are_refused(home, words, said, capsys):
    assert main(["benchmark", *words]) == 2
    assert said in capsys.readouterr().err and not home.exists()


# -- the table -----------------------------------------------------------------------------------


def test_a_single_check_replaces_its_own_rows_on_its_hardware(tmp_path, monkeypatch, checks):
    monkeypatch.setattr(gpu, "require_gpu", lambda: None)
    monkeypatch.setattr(gpu, "in_a_process", lambda name, scene, seconds: gpu.performed(name, scene))
    path, told = tmp_path / "gpu.csv", []
    checks(first=fine, second=missed)
    whole, place = gpu.run_gpu(out=str(path), tell=told.append)
    assert place == path and len(whole) == 3
    assert told[1:] == [
        "yes      first: a gap: 0.5 (demanded: at most 1)",
        "no       second: a rate: 0.5 x (demanded: at least 1)",
    ]
    foreign = pd.read_csv(path, keep_default_na=False).assign(hardware="abacus")
    foreign.to_csv(path, mode="a", header=False, index=False)
    checks(first=fine, second=broken)
    gpu.run_gpu("second", out=str(path), tell=told.append)
    kept = pd.read_csv(path, keep_default_na=False, na_values={"value": [""]})
    here = kept["hardware"] != "abacus"
    assert kept[here]["what"].tolist() == [
        "a count",
        "a gap",
        "a rate",
        "it ended with ValueError: nothing <b>works</b>",
    ]
    assert kept[~here]["what"].tolist() == ["a count", "a gap", "a rate"]
    assert np.isnan(kept[here]["value"].iloc[-1]) and path.with_suffix(".html").is_file()
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="other columns than a table of GPU checks"):
        gpu.run_gpu(out=str(path))


# -- what only a GPU has -------------------------------------------------------------------------


def test_waits_within_a_step_are_counted():
    def event(name, start, kind=DeviceType.CPU):
        return SimpleNamespace(name=name, device_type=kind, time_range=SimpleNamespace(start=start, end=start + 10))

    step = [event("hr_search.step", 100), event("hr_search.step", 300, DeviceType.CUDA)]
    names = ["cudaStreamSynchronize", "Memcpy DtoH (Device -> Pageable)", "cudaLaunchKernel", "aten::mm"]
    names += ["cuCtxSynchronize", "Memcpy HtoD (Pinned -> Device)"]
    inside = [event(name, 105) for name in names]
    outside = [event("cudaDeviceSynchronize", at) for at in (99, 110, 305)]
    assert gpu_scene.waits_in([*step, *inside, *outside]) == [*names[:2], "cuCtxSynchronize"]
    with pytest.raises(RuntimeError, match="no step"):
        gpu_scene.waits_in(inside)


def test_warnings_of_waits_name_their_lines_and_the_mode_is_restored(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def work():
        warnings.warn("called a synchronizing CUDA operation (Triggered internally ...)", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    found = gpu_scene.warned_waits(lambda: [work(), work()], torch.device("cuda"))
    assert len(found) == 2 and found[0] == found[1] and found[0].startswith("test_gpu.py:")
    with pytest.raises(ZeroDivisionError):
        gpu_scene.warned_waits(lambda: 1 / 0, torch.device("cuda"))
    assert modes == ["warn", "default"] * 2


def test_memory_is_cut_to_a_share_of_what_a_step_takes(monkeypatch):
    done, reserved = [], iter([100])
    fakes = {
        "empty_cache": lambda: done.append("empty"),
        "reset_peak_memory_stats": lambda: None,
        "memory_reserved": lambda: next(reserved),
        "synchronize": lambda: None,
        "max_memory_reserved": lambda: 600,
        "get_device_properties": lambda device: SimpleNamespace(total_memory=1000),
        "set_per_process_memory_fraction": done.append,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    encoder = SimpleNamespace(device=torch.device("cuda"))
    with pytest.raises(KeyError), gpu_scene.scarce_memory(encoder, 0.6, lambda: done.append("step")):
        raise KeyError
    assert done == ["empty", "step", "empty", pytest.approx(0.4), 1.0]


# -- figures by hand -----------------------------------------------------------------------------


def test_operations_of_a_row(tmp_path):
    files.write_json(tmp_path / "config.json", {"hidden_size": 4, "num_hidden_layers": 2, "intermediate_size": 8})
    pairs = pd.DataFrame({"query": ["a"], "positive": ["a b"]})  # 3 and 4 tokens with their marks
    weights = 2 * (4 * 16 + 2 * 4 * 8)
    assert gpu_speeds.row_flops(str(tmp_path), pairs) == 6 * weights * 7 + 12 * 2 * 4 * (9 + 16) == 13_152


def test_a_device_is_known_by_its_name():
    names = {
        "NVIDIA H200": "H200",
        "NVIDIA H100 80GB HBM3": "H100",
        "NVIDIA H100 PCIe": "H100 PCIe",
        "NVIDIA A100-SXM4-80GB": "A100",
        "NVIDIA L40S": "L40S",
        "NVIDIA L40": "",
        "AMD EPYC, 2 cores": "",
    }
    assert {name: gpu_speeds.peak_of(name) for name in names} == names


def test_layouts_say_what_they_are_and_fill_a_step_alike():
    assert gpu_speeds.LAYOUTS[0].name == "128 tokens (queries 4 to 32, documents 16 to 128), 256 rows a step"
    assert gpu_speeds.LAYOUTS[2].name == "128 tokens (queries 128, documents 128), 128 rows a step"
    tokens = [each.batchsize * (sum(each.query) + sum(each.document)) / 2 for each in gpu_speeds.LAYOUTS]
    assert min(tokens) > 20_000 and max(tokens) < 35_000


def test_the_exact_search_and_shares():
    ids, scores = gpu_speeds.exact(np.array([[3.0, 0.0]]), np.array([[0.0, 2.0], [5.0, 0.0], [1.0, 1.0]]), 2, chunk=2)
    assert ids.tolist() == [[1, 2]] and scores == pytest.approx(np.array([[1, math.sqrt(0.5)]]))
    found, wanted = np.array([[1, 2], [3, -1]]), np.array([[2, 4], [3, -1]])
    assert gpu_speeds.same_share(found, wanted) == 0.75
    assert gpu_speeds.same_share(wanted[:, ::-1], wanted) == 1


def test_invented_texts_have_the_lengths_asked_for(tmp_path):
    pairs = Scene(tmp_path).pairs(200, (3, 5), (8, 9))
    words = {side: pairs[side].str.split() for side in ("query", "positive")}
    assert {side: sorted(set(each.str.len() + 2)) for side, each in words.items()} == {
        "query": [3, 4, 5],
        "positive": [8, 9],
    }
    assert all(query[: len(query) // 2] == text[: len(query) // 2] for query, text in zip(*words.values(), strict=True))
    assert pairs.equals(Scene(tmp_path).pairs(200, (3, 5), (8, 9)))
