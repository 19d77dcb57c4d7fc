"""Files that are written whole or not at all.

Each writer fills a temporary file in the same folder, flushes it to disk and renames it over the
target, so a reader (or a crash) never meets half a file. What a writer that was killed leaves behind
is removed by the next one of the same target.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pandas as pd

from hr_search.base import locks
from hr_search.base.errors import InputError, one_line

_PART = ".part"  # ends the name of everything that is not whole yet
_STALE = 60.0  # seconds after which an unlocked part counts as left behind


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
    # Past a file open for writing only, NumPy writes by itself, and does not notice that its last bytes find no room.
    mode, options = ("w+b", {}) if "b" in mode else ("w", {"encoding": "utf-8", "newline": ""})
    temporary = None
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; give the path of a file to write.")
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        handle, temporary = tempfile.mkstemp(_PART, _prefix(path), path.parent)
        with os.fdopen(handle, mode, **options) as file, locks.exclusive(temporary):
            yield file
            file.flush()
            os.fsync(handle)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except Exception as error:
        if (refusal := _refusal(path, error)) is None:
            raise
        raise refusal from error
    finally:
        if temporary is not None:
            _remove(Path(temporary))


@contextlib.contextmanager
def whole_folder(path: Path | str) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` only if the block ends without an error.

    Where the system can, an existing folder is swapped with the new one in a single move; elsewhere it is
    moved aside first and removed last.

    Raises:
        InputError: the place cannot be written or is a file.
    """
    path = Path(path)
    temporary = None
    try:
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; give the path of a folder to write.")
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        temporary = Path(tempfile.mkdtemp(_PART, _prefix(path), path.parent))
        with locks.exclusive(temporary):
            yield temporary
            _sync_content(temporary)
            os.chmod(temporary, 0o755)
            _take_place(temporary, path)
        _sync_folder(path.parent)
    except Exception as error:
        if (refusal := _refusal(path, error)) is None:
            raise
        raise refusal from error
    finally:
        if temporary is not None:
            _remove(temporary)


def _take_place(folder: Path, path: Path) -> None:
    """Gives a folder the name `path`; one that lies there takes its name in return, or is removed."""
    if _swapped(folder, path):
        return
    try:
        os.rename(folder, path)
        return
    except OSError:  # a folder lies there: an older one, or that of a writer who was faster just now
        if not path.is_dir():
            raise
    if _swapped(folder, path):
        return
    aside = Path(tempfile.mkdtemp(_PART, f"{_prefix(path)}old.", path.parent))
    try:
        os.rename(path, aside / path.name)
        os.rename(folder, path)
    finally:
        if not path.exists():  # the second step failed: the old folder goes back
            os.rename(aside / path.name, path)
        _remove(aside)


def _swapped(one: Path, other: Path) -> bool:
    """Whether two folders could be swapped in one move, which nothing can interrupt half-way (Linux)."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    working_directory, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2(working_directory, os.fsencode(one), working_directory, os.fsencode(other), exchange) == 0


# -- what must outlast a power cut, and what a killed writer leaves behind -----------------------


def _sync_content(folder: Path) -> None:
    """Flushes every file below a folder to the disk; a full one shows now and not later."""
    for path in folder.rglob("*"):
        if path.is_file():
            with _opened(path) as handle:
                os.fsync(handle)
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Flushes the names in a folder; where the system cannot, a rename is as safe as it makes it."""
    with contextlib.suppress(OSError), _opened(folder) as handle:
        os.fsync(handle)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The handle of a file or folder, open for reading."""
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _prefix(path: Path) -> str:
    return f".{path.name[:40]}."


def _sweep(path: Path) -> None:
    """Removes the parts of `path` whose writers are dead: old, and locked by nobody."""
    prefix = _prefix(path)
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.startswith(prefix) and entry.name.endswith(_PART):
                with contextlib.suppress(OSError):
                    _remove_dead(Path(entry.path))


def _remove_dead(part: Path) -> None:
    if time.time() - part.lstat().st_mtime < _STALE or part.is_symlink():
        return
    with locks.exclusive(part) as dead:
        if dead:
            _remove(part)


def _remove(path: Path) -> None:
    """Removes a file, a link or a folder with all it holds, as far as the system lets us."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _refusal(path: Path, error: Exception) -> InputError | None:
    """One sentence about `path` where the system refused to write, None where `error` is another."""
    # torch.save turns a full disk into a RuntimeError of its own; the reason of the system is its context.
    reason = error.__context__ if isinstance(error, RuntimeError) else error
    # Libraries written in Rust (safetensors, tokenizers) have errors of their own that quote the system.
    if isinstance(error, InputError) or not (isinstance(reason, OSError) or "(os error " in str(error)):
        return None
    said = one_line(reason or error)
    return InputError(f"{path} cannot be written ({said}); choose a place with room and permission.")


# -- formats -------------------------------------------------------------------------------------


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
