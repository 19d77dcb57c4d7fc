"""Peak memory: of the GPU where one computes, else of this process."""

from __future__ import annotations

import contextlib
import gc
import re
import resource
import sys
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


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
    """The peak memory since `forget_peak`, GB above the value that it returned; above 0, all that was in use."""
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else _resident("VmHWM")
    return max(0.0, peak - start)


def peak_memory(device: torch.device) -> float:
    """The most memory used so far, GB: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


def _resident(name: str) -> float:
    """A memory figure of this process as Linux gives it, GB; elsewhere the peak since the process started."""
    with contextlib.suppress(OSError):
        found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
        if found:
            return int(found.group(1)) * 1024 / 1e9
    return peak_memory(torch.device("cpu"))
