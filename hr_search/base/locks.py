"""Locks that keep two processes from doing the same work; a lock ends with its process at the latest."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from hr_search.base.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def exclusive(path: Path | str, wait: bool = False) -> Iterator[bool]:
    """Holds an existing file or folder for this process alone until the block ends; leaves no file behind.

    Args:
        path: what to lock.
        wait: whether to wait for another process that holds it.

    Yields:
        Whether the lock is held; False where the system has no such locks: on Windows, and for folders on some
        network file systems.

    Raises:
        BlockingIOError: another process holds it, and `wait` is False.
        OSError: `path` cannot be opened.
    """
    if fcntl is None:
        yield False
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        yield flock(handle, wait)
    finally:
        os.close(handle)


def flock(handle: int, wait: bool = False) -> bool:
    """Locks an open file or folder until it is closed; False where the system has no such locks.

    Raises:
        BlockingIOError: another process holds it, and `wait` is False.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


@contextlib.contextmanager
def lock_file(path: Path, patience: float = 60.0) -> Iterator[None]:
    """Holds `path` by a file `.NAME.lock` beside it, for systems where `exclusive` cannot lock.

    A killed process leaves the file behind.

    Args:
        path: what to lock; it need not exist.
        patience: seconds to wait for another process.

    Raises:
        InputError: the file was still there after that time.
        OSError: it cannot be made.
    """
    lock = path.with_name(f".{path.name}.lock")
    deadline = time.monotonic() + patience
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError as error:
            if time.monotonic() > deadline:
                raise InputError(f"{path} is locked by another process; if none is running, remove {lock}.") from error
            time.sleep(0.01)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
