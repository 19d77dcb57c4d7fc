"""Meters of the speed benchmark: when steps end, how much memory is added, how fast matrices multiply."""

from __future__ import annotations

import contextlib
import gc
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# Products as encoders have them, and square ones that a machine multiplies at its best.
_SHAPES = {
    "cpu": [(2048, 384, 1536), (2048, 1536, 384), (2048, 2048, 2048)],
    "cuda": [(16384, 768, 3072), (8192, 8192, 8192)],
}


@contextlib.contextmanager
def step_clock(first: int, last: int) -> Iterator[list[float]]:
    """The times (s) at which the steps of any optimiser end, whichever loop drives it.

    Args:
        first: number of the step, from 1, at whose end a measurement begins; a GPU is waited for there.
        last: the step at whose end it stops, likewise.
    """
    ticks: list[float] = []

    def tick(*_: object) -> None:
        if len(ticks) + 1 in (first, last):
            synchronise()
        ticks.append(time.perf_counter())

    handle = register_optimizer_step_post_hook(tick)
    try:
        yield ticks
    finally:
        handle.remove()


def best_device() -> torch.device:
    """The GPU where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronise() -> None:
    """Waits until a GPU, where there is one, has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def forget_peak(device: torch.device) -> float:
    """The memory in use now, GB; `peak_above` counts from here on."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 1e9
    with contextlib.suppress(OSError):  # without the right to forget it, the peak so far stays the peak
        _CLEAR.write_text("5")
    return _resident("VmRSS")


def peak_above(start: float, device: torch.device) -> float:
    """The most memory in use since `forget_peak`, GB above what it returned."""
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else _resident("VmHWM")
    return max(0.0, peak - start)


def _resident(name: str) -> float:
    """A figure of the process from Linux, GB; elsewhere the peak since its start."""
    with contextlib.suppress(OSError):
        found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
        if found:
            return int(found.group(1)) * 1024 / 1e9
    from hr_search.train import peak_memory  # slow to import, and Linux has no need of it

    return peak_memory(torch.device("cpu"))


def matrix_rate(precision: str, device: torch.device, seconds: float = 1.0) -> float:
    """The best rate at which torch multiplies matrices here, FLOP/s.

    Args:
        precision: "fp32" or "bf16".
        device: where.
        seconds: spent on each shape, one product at least.
    """
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    for rows, inner, columns in _SHAPES["cuda" if device.type == "cuda" else "cpu"]:
        a = torch.randn(rows, inner, dtype=kind, device=device)
        b = torch.randn(inner, columns, dtype=kind, device=device)
        took = min(durations(lambda a=a, b=b: a @ b, seconds))
        best = max(best, 2 * rows * inner * columns / took)
    return best


def durations(work: Callable[[], object], seconds: float = 1.0, least: int = 3) -> np.ndarray:
    """Seconds of each call of `work`, after a first one that is not counted, for about so long in all."""
    work()
    taken: list[float] = []
    while len(taken) < least or sum(taken) < seconds:
        synchronise()
        started = time.perf_counter()
        work()
        synchronise()
        taken.append(time.perf_counter() - started)
    return np.array(taken)
