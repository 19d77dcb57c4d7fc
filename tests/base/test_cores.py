"""How many cores a process may use."""

from __future__ import annotations

import os

from hr_search.base.cores import cores, share_of_cores


def test_cores_are_those_granted_unless_a_variable_says_fewer(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert cores() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert cores() == 6 and share_of_cores(3) == 2 and share_of_cores(9) == 1
