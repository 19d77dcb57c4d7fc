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
# Products of the shapes that encoders have, and square ones, which a machine multiplies fastest.
_SHAPES = {
    "cpu": [(2048, 384, 1536), (2048, 1536, 384), (2048, 2048, 2048)],
    "cuda": [(16384, 768, 3072), (8192, 8192, 8192)],
}


# -- devices -------------------------------------------------------------------------------------


def has_gpu() -> bool:
    """Whether torch finds an NVIDIA GPU here."""
    return torch.cuda.is_available()


def best_device() -> torch.device:
    """The GPU if there is one, otherwise the processor."""
    return torch.device("cuda" if has_gpu() else "cpu")


def synchronise() -> None:
    """Waits until the GPU, if there is one, has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# -- time ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def step_clock(first: int, last: int) -> Iterator[list[float]]:
    """The times (s) at which the steps of any optimiser end, whichever loop drives it.

    Args:
        first: the step, counted from 1, at whose end the measurement starts; a GPU is waited for there.
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


def durations(work: Callable[[], object], seconds: float = 1.0, least: int = 3) -> np.ndarray:
    """Seconds of each call of `work`, after a first call that is not counted.

    Args:
        work: what is called.
        seconds: about the total time of the counted calls.
        least: the smallest number of counted calls.
    """
    work()
    taken: list[float] = []
    while len(taken) < least or sum(taken) < seconds:
        synchronise()
        started = time.perf_counter()
        work()
        synchronise()
        taken.append(time.perf_counter() - started)
    return np.array(taken)


def matrix_rate(precision: str, device: torch.device, seconds: float = 1.0) -> float:
    """The highest rate at which torch multiplies matrices here, FLOP/s.

    Args:
        precision: "fp32" or "bf16".
        device: where.
        seconds: spent on each shape, with three products at least.
    """
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    for rows, inner, columns in _SHAPES["cuda" if device.type == "cuda" else "cpu"]:
        a = torch.randn(rows, inner, dtype=kind, device=device)
        b = torch.randn(inner, columns, dtype=kind, device=device)
        fastest = min(durations(lambda a=a, b=b: a @ b, seconds))
        best = max(best, 2 * rows * inner * columns / fastest)
    return best


# -- memory --------------------------------------------------------------------------------------


def forget_peak(device: torch.device) -> float:
    """The memory in use now, GB; `peak_above` counts from here on."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 1e9
    with contextlib.suppress(OSError):  # without permission to reset it, the peak so far stays the peak
        _CLEAR.write_text("5")
    return _resident("VmRSS")


def peak_above(start: float, device: torch.device) -> float:
    """The peak memory since `forget_peak`, GB above the value that it returned."""
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else _resident("VmHWM")
    return max(0.0, peak - start)


def _resident(name: str) -> float:
    """A memory figure of this process as Linux gives it, GB; elsewhere the peak since the process started."""
    with contextlib.suppress(OSError):
        found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
        if found:
            return int(found.group(1)) * 1024 / 1e9
    from hr_search.history import peak_memory  # slow to import, and Linux does not need it

    return peak_memory(torch.device("cpu"))
