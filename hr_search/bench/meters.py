"""Meters of the speed benchmark: when steps end, how fast matrices multiply."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from hr_search.base.errors import InputError

# Products of the shapes that encoders have, and square ones, which a machine multiplies fastest.
_SHAPES = {
    "cpu": [(2048, 384, 1536), (2048, 1536, 384), (2048, 2048, 2048)],
    "cuda": [(16384, 768, 3072), (8192, 8192, 8192)],
}


# -- devices -------------------------------------------------------------------------------------


def has_gpu() -> bool:
    """Whether torch finds an NVIDIA GPU here."""
    return torch.cuda.is_available()


def require_gpu() -> None:
    """Checks that torch finds a GPU.

    Raises:
        InputError: it finds none, and why that may be.
    """
    if not has_gpu():
        why = "it is built without CUDA" if torch.version.cuda is None else "is its driver installed?"
        raise InputError(
            f"torch {torch.__version__} finds no NVIDIA GPU here ({why}); run this on a machine with one, or add --dry "
            "to see its lines run with a tiny model."
        )


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
