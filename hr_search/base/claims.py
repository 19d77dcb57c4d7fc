"""Claims: a place to write belongs to one process until it lets go, or ends.

A claim is a lock on a small file inside the folder that is written, or beside a file or folder that is replaced as a
whole. The system drops the lock when its process ends, however it ends; the file may then stay behind and means
nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path

from hr_search.base import locks
from hr_search.base.errors import InputError, one_line, shown

log = logging.getLogger(__name__)

NAME = ".lock"
_ATTEMPTS = 100  # at a lock file that other processes keep removing
_held: dict[Path, tuple[int, int]] = {}  # lock file: its handle, and the process that opened it


def inside(folder: Path | str) -> Path:
    """The lock file of a folder whose files are written one by one."""
    return Path(folder) / NAME


def beside(path: Path | str) -> Path:
    """The lock file of a file or folder that is replaced as a whole."""
    path = Path(path).absolute()
    name = path.name
    if len(name) > 40:  # with the mark of a long name it still fits into a name
        name = f"{name[:40]}.{zlib.crc32(os.fsencode(path.name)):08x}"
    return path.parent.resolve() / f".{name}{NAME}"


def claim(lock: Path, what: str, advice: str) -> None:
    """Claims a place for this process alone; the folder of the lock file is made if it is missing.

    Args:
        lock: from `inside` or `beside`.
        what: how to name the place in the error, "the run a".
        advice: what else can be done than to wait, "choose another --runid".

    Raises:
        InputError: the place is claimed already, or the lock file cannot be made.
    """
    for _ in range(_ATTEMPTS):
        if holds(lock):
            raise InputError(f"{what} is being written by this very process; wait for it or {advice}.")
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = _opened(lock)
        except FileNotFoundError:  # the process that released it removed the folder, too
            continue
        except OSError as error:
            raise InputError(
                f"{lock.parent} cannot be made or written to ({one_line(error)}); choose another place."
            ) from error
        try:
            if not locks.flock(handle):
                log.warning("%s cannot be locked on this file system; start nothing else that writes it", what)
        except BlockingIOError as error:
            owner = _owner(handle)
            os.close(handle)
            raise InputError(f"{what} is being written by another process{owner}; wait for it or {advice}.") from error
        if not _is_at(handle, lock):  # the process that released it removed the file after we had opened it
            os.close(handle)
            continue
        _held[lock] = handle, os.getpid()
        with contextlib.suppress(OSError):  # only for the sentence that another process gets
            os.truncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()} on {socket.gethostname()}".encode(), 0)
        return
    raise InputError(f"{what} is being removed by another process; wait for it or {advice}.")


def holds(lock: Path) -> bool:
    """Whether this process holds the place, and its lock file has not been deleted meanwhile."""
    handle, process = _held.get(lock, (-1, -1))
    if process != os.getpid():  # none, or that of the process from which this one was forked
        return False
    if _is_at(handle, lock):
        return True
    release(lock)
    return False


def release(lock: Path) -> None:
    """Lets go of a place and removes the lock file; does nothing where this process does not hold it."""
    handle, process = _held.get(lock, (-1, -1))
    if process != os.getpid():
        return
    del _held[lock]
    if _is_at(handle, lock):
        with contextlib.suppress(OSError):
            lock.unlink()  # while it is locked: a process that has it open sees that it is gone
    os.close(handle)


@contextlib.contextmanager
def claimed(lock: Path, what: str, advice: str) -> Iterator[None]:
    """A block during which this process alone writes a place.

    Args:
        lock, what, advice: as for `claim`.

    Raises:
        InputError: as `claim`.
    """
    claim(lock, what, advice)
    try:
        yield
    finally:
        release(lock)


@atexit.register
def _release_all() -> None:
    """Tidies up where a program ends before it lets go; the locks themselves vanish with it anyway."""
    for lock in list(_held):
        release(lock)


def _opened(lock: Path) -> int:
    """The handle of a lock file, made where it is missing."""
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except PermissionError:  # left behind by a process of another user, perhaps; reading is enough for a lock
        return os.open(lock, os.O_RDONLY)


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is the one that lies at `path` now."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False


def _owner(handle: int) -> str:
    """The process that holds a lock file, as it signed it, for a sentence; empty where it has not signed yet."""
    with contextlib.suppress(OSError):
        if words := os.pread(handle, 100, 0).decode("utf-8", "replace"):
            return f" ({shown(words)})"
    return ""
