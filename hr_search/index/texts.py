"""Texts to search in: read from a corpus, and stored so that one of them is read without the others."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from hr_search.base import paths
from hr_search.base.errors import InputError, one_line
from hr_search.data.html import plain
from hr_search.data.tables import read_texts

log = logging.getLogger(__name__)

BLOB, OFFSETS = "texts.bin", "offsets.npy"
_SLICE = 10_000  # texts encoded at a time


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The texts of a file that are not empty.

    Attributes:
        rows: their rows in the file, from 1, (N,) int64, ascending.
        texts: N texts.
        name: the file's name without its folder, or that of a data set on the Hub.
        digest: of the file's bytes; "" for a data set.
    """

    rows: np.ndarray
    texts: list[str]
    name: str
    digest: str


def read_corpus(
    place: str,
    column: str = "",
    encoding: str = "",
    trustfile: bool = False,
    keephtml: bool = False,
    side: str = "document",
) -> Corpus:
    """The texts of a table's column, or the lines of a .txt file; HTML becomes plain text.

    Args:
        place: a file, or `hf:OWNER/NAME`.
        column: the column; empty = found by name.
        encoding: of a text file; empty = detected.
        trustfile: let a table take more memory than a table may.
        keephtml: leave texts as they are.
        side: "document", or "query" for job titles.

    Raises:
        InputError: as `read_texts`, or no text is left without its HTML.
    """
    hub = place.startswith("hf:")
    path = place if hub else paths.resolve(place)
    read = read_texts(path, column, encoding, trustfile, side)
    rows = [(row, text) for row, text in enumerate(read, 1) if text]
    if not keephtml:
        rows = [(row, bare) for row, text in rows if (bare := plain(text))]
    if not rows:
        raise InputError(f"{place} has no texts without its HTML; --keephtml searches it as it is.")
    numbers, texts = zip(*rows, strict=True)
    name = place if hub else Path(path).name
    return Corpus(np.array(numbers, np.int64), list(texts), name, "" if hub else file_digest(Path(path)))


def file_digest(path: Path) -> str:
    """32 hex digits that change with any byte of a file.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({one_line(error)}); check the path.") from error


def write_texts(folder: Path, texts: Sequence[str]) -> str:
    """Writes N texts into an existing folder as one file of UTF-8 and one of offsets; returns their digest."""
    offsets = np.zeros(len(texts) + 1, np.int64)
    state = hashlib.blake2b(digest_size=16)
    with open(folder / BLOB, "w+b") as file:
        for start in range(0, len(texts), _SLICE):
            parts = [text.encode("utf-8", "replace") for text in texts[start : start + _SLICE]]
            offsets[start + 1 : start + 1 + len(parts)] = [len(part) for part in parts]
            whole = b"".join(parts)
            state.update(whole)
            file.write(whole)
    np.cumsum(offsets, out=offsets)
    state.update(offsets.tobytes())
    with open(folder / OFFSETS, "w+b") as file:  # not "wb": see files.whole_file
        np.save(file, offsets)
    return state.hexdigest()


class StoredTexts(Sequence[str]):
    """The N texts that `write_texts` wrote; each is read from disk when it is asked for.

    Args:
        folder: where they lie.
        count: N, as the manifest has it.

    Raises:
        InputError: a file is missing or damaged.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        try:
            self.offsets = np.load(folder / OFFSETS, mmap_mode="r", allow_pickle=False)
            self.blob = np.memmap(folder / BLOB, np.uint8, mode="r") if (folder / BLOB).stat().st_size else b""
            if self.offsets.shape != (count + 1,) or self.offsets.dtype != np.int64:
                raise ValueError(f"{OFFSETS} does not hold {count + 1} offsets")
            if self.offsets[0] != 0 or self.offsets[-1] != len(self.blob) or (np.diff(self.offsets) < 0).any():
                raise ValueError(f"{OFFSETS} does not fit {BLOB}")
        except (OSError, ValueError, EOFError) as error:
            raise damaged(folder, error) from error

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[at] for at in range(len(self))[index]]
        at = range(len(self))[index]  # counts negative ones from the end, refuses those outside
        try:
            return bytes(self.blob[self.offsets[at] : self.offsets[at + 1]]).decode("utf-8")
        except UnicodeDecodeError as error:
            raise damaged(self.folder, error) from error

    def __iter__(self) -> Iterator[str]:
        return (self[at] for at in range(len(self)))

    def digest(self) -> str:
        """What `write_texts` returned, computed again from the files."""
        state = hashlib.blake2b(self.blob, digest_size=16)
        state.update(np.ascontiguousarray(self.offsets).tobytes())
        return state.hexdigest()


def damaged(folder: Path, error: Exception) -> InputError:
    """The sentence about an index whose files cannot be used."""
    return InputError(f"the index {folder} is damaged ({one_line(error, 160)}); build it again.")
