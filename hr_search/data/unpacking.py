"""Contents of files, unpacked within limits, so that a small file cannot fill the memory."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

from hr_search.base.errors import InputError, one_line

LIMIT = 2**31
"""Bytes a compressed file may unpack to: 2 GiB."""
RATIO = 200
"""Bytes that each compressed byte may unpack to; texts reach 20, zeros 1000."""
FREE = 2**26
"""Bytes from which `RATIO` is enforced: 64 MiB."""

_PART = 2**20
_COMPRESSED = (b"\x1f\x8b\x08", b"BZh91AY&SY", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")


def content(path: Path | str, limit: int = LIMIT) -> bytes:
    """The bytes of a file, unpacked where its name ends in `.gz`.

    Args:
        path: the file.
        limit: bytes a `.gz` file may unpack to.

    Raises:
        InputError: the file is missing, empty, unreadable or a broken `.gz`, unpacks to more than `limit` bytes or
            by more than `RATIO`, or is compressed without a name that says so.
    """
    path = Path(path)
    try:
        data = _unpacked(path, limit) if path.suffix.lower() == ".gz" else path.read_bytes()
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
    if data.startswith(_COMPRESSED):
        raise InputError(
            f"{path} is an archive (gzip, bzip2, xz, zstd or zip, as .xlsx is); save the table as .csv or .jsonl, "
            "or give a gzip file a name that ends in .gz."
        )
    return data


def _unpacked(path: Path, limit: int) -> bytes:
    """The bytes of a gzip file, read part by part, so that a bomb is noticed long before the memory is full."""
    whole = io.BytesIO()
    with path.open("rb") as packed, gzip.GzipFile(fileobj=packed) as file:
        while part := file.read(_PART):
            whole.write(part)
            if whole.tell() > limit:
                raise InputError(f"{path} unpacks to more than {limit:,} bytes; split the table into smaller files.")
            if whole.tell() > max(FREE, RATIO * packed.tell()):
                raise InputError(
                    f"{path} unpacks to more than {RATIO} times its size, as no table of texts does; if it is one, "
                    "unpack it yourself."
                )
    return whole.getvalue()
