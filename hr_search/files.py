"""Files that are written whole or not at all.

Each writer fills a temporary file in the same folder, flushes it to disk and renames it over the
target, so a reader (or a crash) never meets half a file.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pandas as pd

from hr_search.errors import InputError, one_line


@contextlib.contextmanager
def whole_file(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """An open file whose content appears at `path` only if the block ends without an error.

    Args:
        path: the final place; its folder is made where it is missing.
        mode: "w" for UTF-8 text or "wb" for bytes.

    Raises:
        InputError: the place cannot be written (a folder, read-only, full disk).
    """
    path = Path(path)
    binary = "b" in mode
    temporary = None
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; give the path of a file to write.")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
        with os.fdopen(handle, mode, **({} if binary else {"encoding": "utf-8", "newline": ""})) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
    except (OSError, RuntimeError) as error:
        # torch.save turns a full disk into a RuntimeError of its own; the system's reason is its context.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        raise InputError(
            f"{path} cannot be written ({one_line(reason)}); choose a place with room and permission."
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


@contextlib.contextmanager
def whole_folder(path: Path | str) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` only if the block ends without an error.

    An existing folder at `path` is moved aside first and removed last, so that one of the two is
    always whole.

    Raises:
        InputError: the place cannot be written or is a file.
    """
    path = Path(path)
    temporary = None
    try:
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; give the path of a folder to write.")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", dir=path.parent))
        yield temporary
        os.chmod(temporary, 0o755)
        if path.exists():
            aside = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.old.", dir=path.parent))
            try:
                os.rename(path, aside / path.name)
                os.rename(temporary, path)
            finally:
                if not path.exists():  # the second step failed: the old folder goes back
                    os.rename(aside / path.name, path)
                shutil.rmtree(aside, ignore_errors=True)
        else:
            os.rename(temporary, path)
        temporary = None
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({one_line(error)}); choose a place with room and permission."
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path | str, text: str) -> None:
    """`text` at `path` as UTF-8, whole or not at all."""
    with whole_file(path) as file:
        file.write(text)


def write_json(path: Path | str, value: Any) -> None:
    """`value` at `path` as readable JSON, whole or not at all; NaN is refused."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """The value of a JSON file.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not a readable JSON file ({one_line(error)}).") from error


def write_csv(path: Path | str, table: pd.DataFrame) -> None:
    """`table` at `path` as CSV without its index, whole or not at all; floats keep nine digits."""
    # A lone carriage return is written without quotes, and readers take it for the end of a row.
    texts = (column.astype(str) for _, column in table.select_dtypes(exclude="number").items())
    lone = any(column.str.contains("\r", regex=False).any() for column in texts)
    quoting = csv.QUOTE_ALL if lone else csv.QUOTE_MINIMAL
    with whole_file(path) as file:
        table.to_csv(file, index=False, float_format="%.9g", lineterminator="\n", quoting=quoting)


def digest(*parts: Any) -> str:
    """A short stable fingerprint (16 hex digits) of texts, numbers and lists of them."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        items = part if isinstance(part, list | tuple) else [part]
        for item in items:
            raw = str(item).encode("utf-8", "surrogatepass")
            state.update(len(raw).to_bytes(8, "little"))
            state.update(raw)
    return state.hexdigest()
