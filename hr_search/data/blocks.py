"""Files larger than memory: raw tables of JSONL and Parquet files, block by block."""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from hr_search.base import files
from hr_search.base.errors import InputError, one_line, shown
from hr_search.base.paths import extension
from hr_search.data.formats import NEEDED
from hr_search.data.frames import arrow_frame
from hr_search.data.json_tables import read_json_lines

KINDS = (".parquet", ".jsonl")
BYTES = 2**23
"""A block ends with the row in which it reaches so many bytes, 8 MiB."""
ROWS = 50_000
"""Rows of a block of a Parquet file at most."""

_READ = 1_000  # rows of a Parquet file unpacked at a time
_LINE = 2**26  # bytes of a line at most
_WIDE = ("utf-16", "utf-32", "utf_16", "utf_32")
_MARKS = (b"\xff\xfe", b"\xfe\xff")


def require_kind(path: Path | str) -> None:
    """Checks that a file is of a kind that can be read in blocks.

    Raises:
        InputError: it is of another kind.
    """
    kind = extension(path)
    if kind not in KINDS or (kind == ".parquet" and str(path).lower().endswith(".gz")):
        raise InputError(
            f"{path} cannot be read in blocks; --stream reads .parquet, .jsonl and .jsonl.gz, so save the table as one "
            "of these, or leave --stream out."
        )


def read_blocks(path: Path | str, encoding: str = "") -> Iterator[pd.DataFrame]:
    """The raw tables of a file's blocks, indexed by the places of their rows in the file, from 0.

    Args:
        path: a .parquet, .jsonl or .jsonl.gz file.
        encoding: of a JSONL file; empty = UTF-8.

    Raises:
        InputError: the file is missing, of another kind, empty or damaged, or a line is too long or no JSON object.
    """
    require_kind(path)
    path = Path(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{path} is not a file; give the path of one.")
        files.refuse_pointer(path)
        if not path.stat().st_size:
            raise InputError(f"{path} is empty; {NEEDED}")
        rows = 0
        for part in _parquet(path) if extension(path) == ".parquet" else _lines(path, encoding or "utf-8"):
            if not part.columns.is_unique:
                twice = part.columns[part.columns.duplicated()][0]
                raise InputError(f'{path} has two columns named "{shown(twice)}"; rename one of them.')
            yield part.set_axis(pd.RangeIndex(rows, rows + len(part)))
            rows += len(part)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; check the path.") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is not a complete gzip file ({one_line(error)}); write or copy it again.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({one_line(error)}).") from error


def _parquet(path: Path) -> Iterator[pd.DataFrame]:
    """The blocks of a Parquet file; a row group is never unpacked as a whole."""
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
            kept: list[pyarrow.RecordBatch] = []
            for part in file.iter_batches(_READ):
                kept.append(part)
                if sum(each.nbytes for each in kept) >= BYTES or sum(each.num_rows for each in kept) >= ROWS:
                    yield arrow_frame(pyarrow.Table.from_batches(kept))
                    kept = []
            if kept:
                yield arrow_frame(pyarrow.Table.from_batches(kept))
    except (pyarrow.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{path} is not a readable Parquet file ({one_line(error)}); write it again.") from error


def _lines(path: Path, encoding: str) -> Iterator[pd.DataFrame]:
    """The blocks of a JSONL file, whole lines each."""
    if encoding.lower().startswith(_WIDE):
        raise InputError(f"{path}: --stream reads no {encoding}; save the file in UTF-8.")
    line, opened = 1, gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rb") as file:
        while block := file.read(BYTES):
            if line == 1 and block.startswith(_MARKS):
                raise InputError(f"{path} is in UTF-16 or UTF-32; save it in UTF-8 to read it with --stream.")
            block += (end := file.readline(_LINE))
            if len(end) == _LINE and not end.endswith(b"\n"):
                where = line + block.count(b"\n")
                raise InputError(f"{path}, line {where} has more than {_LINE:,} bytes; write one object per line.")
            table = read_json_lines(_decoded(block, path, encoding, line), path, line)
            line += block.count(b"\n")
            if len(table):
                yield table


def _decoded(block: bytes, path: Path, encoding: str, line: int) -> str:
    """The text of some lines of a file, of which the first has the number `line`."""
    try:
        text = block.decode(encoding).replace("\0", " ")
    except LookupError as error:
        raise InputError(f'--encoding "{shown(encoding)}" is unknown; write cp1251, for example.') from error
    except UnicodeError as error:  # some encodings, such as idna, do not say where
        wrong = line + block.count(b"\n", 0, getattr(error, "start", 0))
        raise InputError(f"{path}, line {wrong} is not text in {encoding}; name another --encoding.") from error
    return text.removeprefix("\ufeff") if line == 1 else text
