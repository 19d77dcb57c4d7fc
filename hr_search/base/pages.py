"""The pages of tensors that are mapped from a file: in memory once they are looked at, and given back on request.

Weights are mapped from their file, and looking a token's row up in a table of 250,000 brings in the 64 kB around it:
a few thousand texts bring in most of the table.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import re
from pathlib import Path

from torch import Tensor

_MAPS = Path("/proc/self/smaps")
_DONTNEED = 4  # of <sys/mman.h>
_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ (\d+)")


class MappedPages:
    """The pages of a tensor that is mapped from a file; none where it is not, where it was written to, or off Linux."""

    def __init__(self, tensor: Tensor) -> None:
        start = tensor.data_ptr() if tensor.device.type == "cpu" and tensor.is_contiguous() else 0
        stop = start + tensor.numel() * tensor.element_size()
        # A page that it shares with its neighbours stays.
        self.start, self.stop = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, stop // mmap.PAGESIZE * mmap.PAGESIZE
        if not (start and self.start < self.stop and _untouched(self.start, self.stop)):
            self.start = self.stop = 0

    def __bool__(self) -> bool:
        return self.start < self.stop

    def release(self) -> None:
        """Gives the pages back; they are read from the file again when the tensor is looked at."""
        if self:
            libc = ctypes.CDLL(None, use_errno=True)
            libc.madvise(ctypes.c_void_p(self.start), ctypes.c_size_t(self.stop - self.start), _DONTNEED)


def _untouched(start: int, stop: int) -> bool:
    """Whether an address range lies in one mapping of a file to which nothing was written, so that nothing is lost."""
    inside = False
    with contextlib.suppress(OSError):
        for line in _MAPS.read_text().splitlines():
            if head := _HEAD.match(line):
                inside = int(head[1], 16) <= start and stop <= int(head[2], 16) and head[3] != "0"
            elif inside and line.startswith("Anonymous:"):
                return line.split()[1] == "0"
    return False
