"""Measurements in processes of their own: an order goes in as a file, an answer comes back as one."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import hr_search
from hr_search.base import files
from hr_search.base.errors import InputError
from hr_search.base.progress import HEADLESS_VARIABLE
from hr_search.bench.cases import Order

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


def measure(contender: str, order: Order, texts: dict[str, list], more: dict[str, str] | None = None) -> dict[str, Any]:
    """The answer of one contender to an order, from a process of its own.

    Args:
        contender: "ours" or "peer".
        order: what to measure.
        texts: the texts it gets.
        more: environment variables in addition to the usual ones.

    Raises:
        InputError: the process failed; in the process's own sentence if it gave one.
    """
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder) / "order.json", Path(folder) / "answer.json"
        files.write_json(question, {"contender": contender, "order": dataclasses.asdict(order), "texts": texts})
        done = subprocess.run(
            [sys.executable, "-m", "hr_search.bench", str(question), str(answer)],
            env=environment(order.threads) | (more or {}),
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0 and answer.is_file():
            return files.read_json(answer)
    raise _failure(contender, order, done)


def _failure(contender: str, order: Order, done: subprocess.CompletedProcess[str]) -> InputError:
    """The last line that the process wrote, as an error."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    last = lines[-1] if lines else f"exit code {done.returncode}"
    if last.startswith("hr_search: "):
        return InputError(last.removeprefix("hr_search: "))
    return InputError(f"the {order.kind} run of {contender} failed ({last[:300]}).")


def environment(threads: int) -> dict[str, str]:
    """The variables both contenders run under: threads, one GPU, no network, no progress bars."""
    defaults = {
        # As in the Makefile: threads that spin for long take the cores from those that work.
        "GOMP_SPINCOUNT": "20000",
        "CUDA_VISIBLE_DEVICES": "0",
        "TOKENIZERS_PARALLELISM": "true",
    }
    given = dict.fromkeys(_THREADS, str(threads)) if threads else {}
    package = Path(hr_search.__file__).resolve().parents[1]
    return {
        **defaults,
        **os.environ,
        **given,
        "HF_HUB_OFFLINE": "1",
        HEADLESS_VARIABLE: "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")])),
    }
