"""Arrays and texts too large for memory: files that grow while they are written and are read where they are needed."""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

_SLICE = 10_000  # texts read at a time where all are read
_DENSE = 4  # texts among which one is wanted, for all of them to be read at once


class GrowingArray:
    """A .npy file of numbers (N,) that is written part by part; whole once it is closed."""

    def __init__(self, path: Path, kind: type) -> None:
        self._file = open(path, "w+b")  # noqa: SIM115
        self._kind, self.count = np.dtype(kind), 0
        self._start = self._write_head()

    def append(self, part: np.ndarray) -> None:
        """Adds numbers at the end."""
        self._file.write(np.ascontiguousarray(part, self._kind).data)
        self.count += len(part)

    def close(self) -> None:
        """Writes how many there are into the head of the file."""
        self._file.seek(0)
        if self._write_head() != self._start:
            raise RuntimeError("the head of the file has grown")
        self._file.close()

    def _write_head(self) -> int:
        # NumPy leaves room in the head for a larger number.
        head = {"descr": self._kind.str, "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self._file, head)
        return self._file.tell()


def release(array: np.ndarray) -> None:
    """Gives back the memory of an array that `np.load` has mapped; it is read from its file again where it is needed.

    Any other array stays as it is.
    """
    mapped = getattr(array, "_mmap", None) if isinstance(array, np.memmap) and array.mode == "r" else None
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


class GrowingTexts:
    """Texts in UTF-8 one after the other in `NAME.bin`, and where each ends in `NAME.npy`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._blob = open(folder / f"{name}.bin", "w+b")  # noqa: SIM115
        self._ends, self._end = GrowingArray(folder / f"{name}.npy", np.int64), 0

    def append(self, texts: Sequence[str]) -> None:
        """Adds texts at the end."""
        parts = [text.encode("utf-8", "surrogatepass") for text in texts]
        ends = self._end + np.cumsum([len(part) for part in parts], dtype=np.int64)
        self._blob.write(b"".join(parts))
        self._ends.append(ends)
        self._end = int(ends[-1]) if len(ends) else self._end

    def close(self) -> None:
        """Finishes both files."""
        self._blob.close()
        self._ends.close()


class StoredTexts(Sequence[str]):
    """The texts that `GrowingTexts` wrote, or some of them; each is read from the file when it is asked for.

    They are read and not mapped: a sweep over a mapped file would bring all of it into the memory of the process.
    """

    def __init__(self, folder: Path, name: str, places: np.ndarray | None = None) -> None:
        """The texts of a folder; `places` (N,) are the numbers of those that count, None = all."""
        self._file = open(folder / f"{name}.bin", "rb")  # noqa: SIM115, as long as the texts are used
        self._ends = np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
        self._places = places
        if (int(self._ends[-1]) if len(self._ends) else 0) != os.fstat(self._file.fileno()).st_size:
            raise ValueError(f"{name}.npy does not fit {name}.bin")

    def __len__(self) -> int:
        return len(self._ends if self._places is None else self._places)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            chosen = range(len(self))[index]
            if not chosen or chosen.step != 1:
                return [self[at] for at in chosen]
            if self._places is None:
                return self._run(chosen.start, chosen.stop)
            places = self._places[chosen.start : chosen.stop].tolist()
            if places[-1] - places[0] < _DENSE * len(places) and places == sorted(places):
                texts = self._run(places[0], places[-1] + 1)
                return [texts[place - places[0]] for place in places]
            return [self[at] for at in chosen]
        at = range(len(self))[index]  # counts negative ones from the end, refuses those outside
        at = at if self._places is None else int(self._places[at])
        return self._run(at, at + 1)[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _SLICE):
            yield from self[start : start + _SLICE]

    def _run(self, start: int, stop: int) -> list[str]:
        """Neighbouring texts, with one read."""
        ends = self._ends[max(0, start - 1) : stop].tolist()
        ends = ends if start else [0, *ends]
        whole, first = os.pread(self._file.fileno(), ends[-1] - ends[0], ends[0]), ends[0]
        parts = (whole[left - first : right - first] for left, right in itertools.pairwise(ends))
        return [part.decode("utf-8", "surrogatepass") for part in parts]


class ChangedTexts(Sequence[str]):
    """Texts of which each is changed when it is asked for, so that those in files stay there."""

    def __init__(self, texts: Sequence[str], change: Callable[[str], str]) -> None:
        self._texts, self._change = texts, change

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        found = self._texts[index]
        return self._change(found) if isinstance(found, str) else [self._change(text) for text in found]
