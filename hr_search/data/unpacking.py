"""Contents of files, unpacked within the memory a table may take, so that a small file cannot fill it."""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import zlib
from pathlib import Path

from hr_search.base import files
from hr_search.base.errors import InputError, one_line

LIMIT = 2**31
"""Bytes that a table may take in memory, unless the file is trusted: 2 GiB."""
COLUMNS = 10_000
"""Columns that a table may have."""
CELL = 8
"""Bytes that a cell takes at least."""

_PART = 2**20
_GZIP = b"\x1f\x8b\x08"
_COMPRESSED = (_GZIP, b"BZh91AY&SY", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")
_WORKBOOK = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # .xls, and .xlsx with a password
_PAGE = re.compile(rb"<(!doctype|html|head|body|table|\?xml)[\s>]")


class Room:
    """The memory left for the table of one file."""

    def __init__(self, path: Path | str, trustfile: bool = False) -> None:
        self.path = path
        self.left = float("inf") if trustfile else LIMIT

    def take(self, size: int) -> None:
        """Takes `size` bytes.

        Raises:
            InputError: there is no room for them.
        """
        self.left -= size
        if self.left < 0:
            raise InputError(
                f"{self.path} unpacks to more than {LIMIT:,} bytes; split it into smaller files, or read it with "
                "--trustfile if you know where it comes from."
            )

    def take_cells(self, rows: int, columns: int) -> None:
        """Takes the least that `rows` times `columns` cells need.

        Raises:
            InputError: there is no room for them, or there are more than `COLUMNS` columns.
        """
        if columns > COLUMNS:
            raise InputError(
                f"{self.path} has {columns:,} columns; a table may have {COLUMNS:,}, so save it with the few you need."
            )
        self.take(rows * columns * CELL)


def content(path: Path | str, trustfile: bool = False, archive: bool = False) -> bytes:
    """The bytes of a file, unpacked where its name ends in `.gz`.

    Args:
        path: the file.
        trustfile: let it unpack to more than `LIMIT` bytes.
        archive: the format is a ZIP archive.

    Raises:
        InputError: the file is missing, empty, no regular file, unreadable or a broken `.gz`, unpacks to too much, is
            compressed without a name that says so, or is a pointer of Git or a web page.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode) and not path.is_dir():
            raise InputError(f"{path} is a pipe or a device; give the path of a file.")
        files.refuse_pointer(path)
        data = _unpacked(path, trustfile) if path.suffix.lower() == ".gz" else path.read_bytes()
    except InputError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is not a complete gzip file ({one_line(error)}); write or copy it again.") from error
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; check the path.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({one_line(error)}).") from error
    if not data or data.isspace():
        raise InputError(f"{path} is empty; it needs a query and a matching document in each row.")
    _refuse_page(data, path)
    if data.startswith(_WORKBOOK):
        raise InputError(f"{path} is an Excel file of the old kind, or has a password; save the sheet as CSV UTF-8.")
    if data.startswith(_COMPRESSED) and not archive:
        raise InputError(
            f"{path} is an archive (gzip, bzip2, xz, zstd or zip, as .xlsx is); save the table as .csv or .jsonl, "
            "or give a gzip file a name that ends in .gz."
        )
    return data


def _refuse_page(data: bytes, path: Path) -> None:
    """Refuses HTML and XML: what a server sends in place of a file is often saved under the file's name."""
    start = data[:2000].replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    if _PAGE.match(start.lower()):
        raise InputError(
            f"{path} is a web page (HTML or XML), perhaps an error page in place of the file; download or save the "
            "table again."
        )


def _unpacked(path: Path, trustfile: bool) -> bytes:
    """The bytes of a gzip file, read part by part, so that a bomb is noticed before the memory is full."""
    room, whole = Room(path, trustfile), io.BytesIO()
    with path.open("rb") as packed:
        if not (start := packed.peek(2000)).startswith(_GZIP):
            _refuse_page(start, path)
        with gzip.GzipFile(fileobj=packed) as file:
            while part := file.read(_PART):
                room.take(len(part))
                whole.write(part)
    return whole.getvalue()
