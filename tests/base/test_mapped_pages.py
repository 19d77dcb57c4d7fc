"""Pages of mapped tensors: given back, read again, and never where something was written to them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hr_search.base.pages import MappedPages

COUNT = 4_000_000  # numbers: 16 MB


@pytest.fixture
def mapped(tmp_path):
    """A tensor that is mapped from a file, as weights are."""
    np.arange(COUNT, dtype=np.float32).tofile(tmp_path / "weights")
    return torch.from_file(str(tmp_path / "weights"), shared=False, size=COUNT, dtype=torch.float32)


def file_megabytes() -> float:
    """What this process holds in memory of mapped files."""
    found = re.search(r"^RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells pages of files apart")
def test_pages_that_were_only_read_are_given_back_and_read_again(mapped):
    pages, total = MappedPages(mapped), mapped.double().sum()
    held = file_megabytes()
    pages.release()
    assert pages and file_megabytes() < held - 12
    assert mapped.double().sum() == total == (COUNT - 1) * COUNT / 2


def test_what_was_written_stays(mapped):
    mapped[COUNT // 2] = -1
    pages = MappedPages(mapped)
    pages.release()
    assert not pages and mapped[COUNT // 2] == -1 and mapped[-1] == COUNT - 1


def test_memory_without_a_file_is_left_alone():
    for tensor in (torch.ones(COUNT), torch.ones(3), torch.ones(2000, 2000).T, torch.empty(0)):
        pages = MappedPages(tensor)
        pages.release()
        assert not pages and (tensor == 1).all()
