"""Files and folders that are never half-written.

Each writer fills a temporary file in the same folder, flushes it to disk and renames it over the
target, so a reader never sees half a file and a crash never leaves one. The leftovers of a killed
writer are removed by the next writer of the same target.
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

_PART = ".part"  # suffix of everything unfinished
_KEPT = "; the one written before is kept."
_STALE = 60.0  # seconds after which an unlocked part counts as a leftover


@contextlib.contextmanager
def whole_file(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """An open file whose content appears at `path` only if the block ends without an error.

    Args:
        path: the target; its folder is made if it is missing.
        mode: "w" for UTF-8 text or "wb" for bytes.

    Raises:
        InputError: the target cannot be written (it is a folder, read-only, or the disk is full).
    """
    path = Path(path)
    # Open for reading too: into a write-only file NumPy writes past Python, and misses that the disk is full.
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

    On Linux an existing folder is swapped with the new one atomically; elsewhere it is moved aside first
    and removed last.

    Raises:
        InputError: the target cannot be written or is a file.
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
        if temporary is not None and isinstance(error, InputError):  # of a writer inside, who knows only that place
            sentence = str(error).removesuffix(_KEPT).replace(str(temporary), str(path))
            raise InputError(_with_kept(sentence, path)) from error
        if (refusal := _refusal(path, error)) is None:
            raise
        raise refusal from error
    finally:
        if temporary is not None:
            _remove(temporary)


def _take_place(folder: Path, path: Path) -> None:
    """Gives a folder the name `path`; an existing folder gets the old name in return, or is removed."""
    if _swapped(folder, path):
        return
    try:
        os.rename(folder, path)
        return
    except OSError:  # a folder exists, perhaps one that another writer has just put there
        if not path.is_dir():
            raise
    if _swapped(folder, path):
        return
    aside = Path(tempfile.mkdtemp(_PART, f"{_prefix(path)}old.", path.parent))
    try:
        os.rename(path, aside / path.name)
        os.rename(folder, path)
    finally:
        if not path.exists():  # the second rename failed: the old folder goes back
            os.rename(aside / path.name, path)
        _remove(aside)


def _swapped(one: Path, other: Path) -> bool:
    """Swaps two folders atomically; False where the system cannot (only Linux can)."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    working_directory, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2(working_directory, os.fsencode(one), working_directory, os.fsencode(other), exchange) == 0


# -- flushing to disk, and the leftovers of killed writers ---------------------------------------


def _sync_content(folder: Path) -> None:
    """Flushes every file below a folder to disk, so that a full disk shows now and not later."""
    for path in folder.rglob("*"):
        if path.is_file():
            with _opened(path) as handle:
                os.fsync(handle)
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Flushes the names in a folder to disk, where the system can."""
    with contextlib.suppress(OSError), _opened(folder) as handle:
        os.fsync(handle)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The handle of a file or folder opened for reading."""
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _prefix(path: Path) -> str:
    return f".{path.name[:40]}."


def _sweep(path: Path) -> None:
    """Removes the parts of `path` whose writers are dead: old ones that nobody has locked."""
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
    """Removes a file, a link or a folder with its content, as far as the system permits."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _refusal(path: Path, error: Exception) -> InputError | None:
    """The sentence about a `path` that the system refused to write; None if `error` is of another kind."""
    # torch.save raises a RuntimeError of its own on a full disk; the system's error is its context.
    reason = error.__context__ if isinstance(error, RuntimeError) else error
    # Libraries written in Rust (safetensors, tokenizers) raise errors of their own that quote the system's.
    if isinstance(error, InputError) or not (isinstance(reason, OSError) or "(os error " in str(error)):
        return None
    sentence = f"{path} cannot be written ({one_line(reason or error)}); choose a place with room and permission."
    return InputError(_with_kept(sentence, path))


def _with_kept(sentence: str, path: Path) -> str:
    """A sentence about a refused `path`, and that what lay there before still does."""
    return sentence.rstrip(".") + (_KEPT if os.path.lexists(path) else ".")


# -- what is found in place of a file ------------------------------------------------------------


def refuse_pointer(path: Path | str) -> None:
    """Checks that a file, where it exists, is not a pointer that Git left in its place.

    Raises:
        InputError: it is a pointer of Git LFS or of git-annex.
    """
    start = b""
    with contextlib.suppress(OSError, ValueError):  # the reader of the file says what is wrong
        if os.path.isfile(path):  # a pipe would wait for its writer
            with open(path, "rb") as file:
                start = file.read(64)
    if start.startswith((b"version https://git-lfs.github.com/spec/", b"/annex/objects/")):
        raise InputError(
            f"{path} is a pointer that Git keeps in place of a large file; fetch the file itself (git lfs pull, or "
            "git annex get)."
        )


# -- formats -------------------------------------------------------------------------------------


def write_text(path: Path | str, text: str) -> None:
    """Writes `text` to `path` as UTF-8."""
    with whole_file(path) as file:
        file.write(text)


def write_json(path: Path | str, value: Any) -> None:
    """Writes `value` to `path` as indented JSON; NaN and infinity are refused with a ValueError."""
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
        raise InputError(f"{path} is not a readable JSON file ({one_line(error)}); write or copy it again.") from error


def write_csv(path: Path | str, table: pd.DataFrame) -> None:
    """Writes `table` to `path` as CSV without its index; floats keep nine digits."""
    # pandas does not quote a lone carriage return, and readers take it for the end of a row.
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
