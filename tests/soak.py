"""Hours of work in one go: does memory stay flat, are files closed, is nothing lost?

    python tests/soak.py --minutes 120 --cells 200 --out FOLDER

It trains with small batches on the bundled Russian sample for --minutes, then runs a grid of --cells cells, a tenth of
which must fail. Every ten seconds it writes the resident memory, the number of open files and the length of the history
to `FOLDER/training.csv` and `FOLDER/grid.csv`. It ends with its findings, and with exit code 1 if there are any faults.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml

from hr_search.base import files, paths
from hr_search.grids import runner
from hr_search.runs.folders import Run

EVERY = 10.0  # seconds between looks
FLAT = 0.02  # allowed relative change of memory after warming up
WARM = 0.2  # share of the time that counts as warming up; two minutes at most


def look(process: int) -> dict[str, float]:
    """Resident memory, MB, and open files of a process and its children."""
    found = {"memory_mb": 0.0, "files": 0, "processes": 0}
    for each in [process, *children(process)]:
        with contextlib.suppress(OSError):
            # A process that has ended but was not waited for has no memory.
            resident = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{each}/status").read_text())
            found["memory_mb"] += int(resident[1]) / 1024 if resident else 0.0
            found["files"] += len(os.listdir(f"/proc/{each}/fd"))
            found["processes"] += 1
    return found


def children(process: int) -> list[int]:
    """All descendants of a process."""
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{process}/task").iterdir()
        own = [int(word) for task in tasks for word in (task / "children").read_text().split()]
        return own + [each for child in own for each in children(child)]
    return []


def watched(command: list[str], home: Path, output: Path, seconds: float, count) -> tuple[int, list[dict]]:
    """Runs a command for at most `seconds` and looks at it every few seconds.

    Args:
        command: program and arguments.
        home: the root under which it writes.
        output: file for what it prints; the looks go beside it, as CSV.
        seconds: after which it is asked to stop (SIGTERM).
        count: a function that returns how much of the work is done.

    Returns:
        The exit code, and one row per look.
    """
    environment = {**os.environ, paths.HOME_VARIABLE: str(home), "PYTHONPATH": str(paths.checkout())}
    looks, table, told_to_stop = [], output.with_suffix(".csv"), False
    with (
        output.open("w") as said,
        subprocess.Popen(command, env=environment, stdout=said, stderr=said, start_new_session=True) as process,
    ):
        begin = time.monotonic()
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(EVERY)
                    break
                passed = time.monotonic() - begin
                looks.append({"seconds": round(passed, 1), **look(process.pid), "done": count()})
                files.write_csv(table, pd.DataFrame(looks))
                if passed > seconds and not told_to_stop:
                    process.send_signal(signal.SIGTERM)
                    told_to_stop = True
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, looks


def verdicts(looks: list[dict], limit: float = FLAT) -> dict[str, str]:
    """Faults in memory and open files after warming up; empty if there are none."""
    table = pd.DataFrame(looks)
    warm = table[table["seconds"] > min(120.0, WARM * table["seconds"].max())]
    if len(warm) < 6:
        return {"length": f"only {len(warm)} looks after warming up; take more minutes"}
    # Medians of sixths, because a validation or a checkpoint at the moment of a look is not growth.
    parts = [warm.iloc[part] for part in np.array_split(np.arange(len(warm)), 6)]
    memory = [part["memory_mb"].median() for part in parts]
    opened = [part["files"].median() for part in parts]
    median = float(np.median(memory))
    drift = max(abs(value - median) for value in memory) / median
    print(
        f"memory: {memory[0]:.0f} MB at the start, {memory[-1]:.0f} MB at the end, at most {drift:.2%} off the median"
    )
    print(f"open files: {opened[0]:.0f} at the start, {opened[-1]:.0f} at the end")
    wrong = {}
    if drift > limit:
        wrong["memory"] = f"not flat; medians of the sixths: {', '.join(f'{value:.0f}' for value in memory)} MB"
    if opened[-1] > opened[0]:
        wrong["files"] = f"from {opened[0]:.0f} to {opened[-1]:.0f} open files"
    return wrong


def soak_training(folder: Path, minutes: float, model: str) -> dict[str, str]:
    """Trains until it is told to stop; the history must then hold every validation."""
    place, output = folder / "checkpoint.pt", folder / "training.txt"
    place.unlink(missing_ok=True)
    evalsteps = 25
    flags = {
        "datapath": "sample_ru",
        "modelname": model,
        "batchsize": 4,
        "maxlength": 48,
        "epochs": 10000,
        "patience": 0,
        "evalsteps": evalsteps,
        "probes": 4,
        "checkpointpath": place,
        "checkpointsteps": 200,
        "learningrate": 1e-5,
        "dropout": 0.1,
        "negatives": "mined",
        "minepool": 4,
        "mixing": "weighted",
        "bank": 64,
        "loss": "infonce",
    }
    command = [sys.executable, "-m", "hr_search", "train", *(f"--{name}={value}" for name, value in flags.items())]

    def validations() -> int:
        return len(re.findall(r"^step \d+ of", output.read_text(), re.MULTILINE))

    code, looks = watched(command, folder / "home", output, 60 * minutes, validations)
    if code != 143:
        return {"end": f"exit code {code} instead of 143; see {output}"}
    progress = torch.load(place, weights_only=True)["progress"]
    steps = [row["step"] for row in progress["history"]]
    print(f"{progress['step']} steps, {len(steps)} validations, {progress['seconds'] / 60:.1f} minutes")
    wrong = verdicts(looks)
    per_epoch = round(1 / (progress["history"][1]["epoch"] / steps[1]))
    wanted = [step for step in range(progress["step"] + 1) if step % evalsteps == 0 or step % per_epoch == 0]
    if steps != wanted and steps != wanted[:-1]:  # the last one may have been interrupted
        wrong["history"] = f"{len(steps)} validations instead of {len(wanted)}"
    if validations() != len(steps):
        wrong["log"] = f"{validations()} lines for {len(steps)} validations"
    return wrong


def soak_grid(folder: Path, count: int, workers: int) -> dict[str, str]:
    """A grid with a tenth of failing cells must end with every cell in its place."""
    from conftest import JOBS, make_model

    model = make_model(folder / "tiny")
    rows = [(title, part) for title, text in JOBS.items() for part in (text, " ".join(reversed(text.split())))]
    good, bad = folder / "jobs.csv", folder / "one_group.csv"
    pd.DataFrame(rows, columns=["query", "positive"]).to_csv(good, index=False)
    pd.DataFrame([("welder", text) for _, text in rows], columns=["query", "positive"]).to_csv(bad, index=False)
    cells = [{"datapath": str(bad if at % 10 == 9 else good), "seed": at} for at in range(count)]
    base = {"modelname": str(model), "maxsteps": 1, "batchsize": 4, "probes": 0, "testshare": 0.3}
    grid = folder / "soak.yaml"
    grid.write_text(yaml.safe_dump({"name": "soak", "base": base, "list": cells}))
    home = folder / "home"

    def done() -> int:
        table = home / "metrics" / "grids" / "soak" / "cells.csv"
        return int((pd.read_csv(table)["status"] != "waiting").sum()) if table.exists() else 0

    command = [sys.executable, "-m", "hr_search", "grid", str(grid), "--workers", str(workers)]
    code, looks = watched(command, home, folder / "grid.txt", 86_400, done)
    os.environ[paths.HOME_VARIABLE] = str(home)
    table = runner.read_cells("soak")
    failing = table["datapath"] == str(bad)
    counts = table["status"].value_counts().to_dict()
    print(f"grid: {counts}, exit code {code}, {looks[-1]['seconds'] / 60:.1f} minutes")
    wrong = {}
    if code != int(failing.any()) or len(table) != count:
        wrong["end"] = f"exit code {code}, {len(table)} cells of {count}; see {folder / 'grid.txt'}"
    if (table["status"] != np.where(failing, "failed", "finished")).any() or (table["error"] != "").ne(failing).any():
        wrong["cells"] = f"{counts}; {int(failing.sum())} had to fail"
    ledger = pd.read_csv(paths.metrics() / "results.csv")
    wanted = set(table.loc[~failing, "run"])
    if set(ledger["run"]) != wanted or ledger.groupby("run").size().nunique() != 1:
        wrong["ledger"] = f"{ledger['run'].nunique()} runs in results.csv, but {len(wanted)} finished"
    if missing := [name for name in wanted if not (Run(paths.runs() / name).folder / "summary.json").is_file()]:
        wrong["runs"] = f"{missing[0]} has no summary"
    opened = [each["files"] - 3 * each["processes"] for each in looks]
    print(f"grid: at most {max(each['memory_mb'] for each in looks):.0f} MB and {max(opened)} files in all processes")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120, help="minutes of training; 0 = no training")
    parser.add_argument("--cells", type=int, default=200, help="cells of the grid; 0 = no grid")
    parser.add_argument("--workers", type=int, default=2, help="workers of the grid")
    parser.add_argument("--modelname", default="embedded", help="model to train")
    parser.add_argument("--out", default="", help="folder for all files; default: a new temporary one")
    given = parser.parse_args()
    folder = Path(given.out or tempfile.mkdtemp(prefix="soak-")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"all files go to {folder}")
    wrong = soak_training(folder, given.minutes, given.modelname) if given.minutes else {}
    if given.cells:
        wrong |= {f"grid {name}": what for name, what in soak_grid(folder, given.cells, given.workers).items()}
    for name, what in wrong.items():
        print(f"FAULT: {name}: {what}")
    print(f"{len(wrong) or 'no'} faults found")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
