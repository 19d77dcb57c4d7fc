"""The meter of peak memory."""

from __future__ import annotations

import numpy as np
import torch

from hr_search.base import peak


def test_peak_memory_counts_from_the_baseline():
    device = torch.device("cpu")
    start = peak.forget_peak(device)
    held = np.ones(30_000_000)
    assert 0.2 < peak.peak_above(start, device) < 0.5
    del held
    assert peak.peak_above(start, device) > 0.2  # a peak stays
    assert peak.peak_above(1e6, device) == 0
