"""Devices: what this machine computes with, in which precision, and how arrays get there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as a tensor on `device`; a GPU fetches it while the program goes on."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    # Only from pinned memory does a GPU copy without making the program wait for what it is doing.
    return tensor.pin_memory().to(device, non_blocking=True)


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether bfloat16 is wanted and, for "auto", whether this hardware multiplies it fast."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Where a CPU has no instruction for it, bfloat16 is slower than float32, at worst by a hundred times.
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def hardware(device: torch.device) -> str:
    """The device in words, for the record of a run."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    amx = ", AMX" if device.type == "cpu" and torch.cpu._is_amx_tile_supported() else ""
    return f"{model or device.type}, {os.cpu_count()} cores{amx}"
