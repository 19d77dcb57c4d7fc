"""Devices: what this machine computes with, in which precision, and how arrays get there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as a tensor on `device`; to a GPU it is copied asynchronously."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    # Only copies from pinned memory are asynchronous.
    return tensor.pin_memory().to(device, non_blocking=True)


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16; "auto" does if this hardware multiplies it fast."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without instructions for it, a CPU computes bfloat16 up to a hundred times more slowly than float32.
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def multiplies_integers() -> bool:
    """Whether the processor has products of int8 (VNNI), without which they are slow and overflow."""
    return torch.cpu._is_vnni_supported()


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
