"""Ctrl-C, SIGTERM and a closed terminal: postponed to a point from which work can be resumed, or obeyed at once.

Either way the program ends its children before it leaves.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, NoReturn

log = logging.getLogger(__name__)

ENDED = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
SIGNALS = (signal.SIGINT, *ENDED)
CLEANUP = 9.0  # seconds that children have to end in; what asked to stop may follow with SIGKILL after ten
_ECHO = 2.0  # seconds within which a launcher repeats a signal that the terminal already sent to all its processes


class Interrupted(KeyboardInterrupt):
    """The work was asked to stop, and stands at a point from which it can be resumed."""


class Request:
    """Whether somebody has asked the work to stop.

    Attributes:
        signal: the number of the signal that asked, 0 if none did.
    """

    def __init__(self, launched: bool) -> None:
        self.signal, self.launched = 0, launched
        self._since, self._open = 0.0, False

    def at_once(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Makes long work that leaves nothing half done end as soon as a signal arrives.

        In a launch of several processes none may leave alone, so `work` is returned unchanged.

        Returns:
            `work`, which raises `Interrupted` when a signal arrives or has arrived before.
        """
        if self.launched:
            return work

        def interruptible(*arguments: Any) -> Any:
            self._open = True
            try:
                if self.signal:
                    raise Interrupted
                return work(*arguments)
            finally:
                self._open = False

        return interruptible

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal: notes the first, ends the program at the second."""
        if self.signal:
            if self.launched and time.monotonic() - self._since < _ECHO:
                return
            leave(number, "stopped at once by a second signal")
        self.signal, self._since = number, time.monotonic()
        if self._open:
            raise Interrupted
        log.warning("stopping after this step; a second signal stops at once")


@contextlib.contextmanager
def postponed(launched: bool = False) -> Iterator[Request]:
    """A block in which signals are only noted, so that the work can stop where it can be resumed.

    Outside the main thread, where Python does not permit signal handlers, nothing changes.

    Args:
        launched: whether this is one of several processes of a launch, which pass signals on to each other.

    Yields:
        The request to stop. A signal that the block did not act on has its usual effect afterwards.
    """
    request = Request(launched)
    with _handled(SIGNALS, request.receive):
        yield request
    if request.signal:
        signal.raise_signal(request.signal)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """A block that SIGTERM and a closed terminal end as Ctrl-C does, so that it can end its children first.

    Raises:
        SystemExit: one of them came, and what the block cleans up is done; more of them change nothing meanwhile.
    """
    asked: list[tuple[int, float]] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if not asked or time.monotonic() - asked[-1][1] > CLEANUP:  # an exception may get lost in foreign code
            asked.append((number, time.monotonic()))
            raise Interrupted

    with _handled(ENDED, receive):
        try:
            yield
        except KeyboardInterrupt:
            if asked:
                raise SystemExit(128 + asked[0][0]) from None
            raise


@contextlib.contextmanager
def _handled(numbers: Iterable[int], receive: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """A block in which signals are received by a function; not outside the main thread, where Python permits none."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        # A program started in the background with its signals ignored (nohup) goes on ignoring them.
        usual = {number: signal.getsignal(number) for number in numbers}
        before = {number: handler for number, handler in usual.items() if handler not in (signal.SIG_IGN, None)}
        for number in before:
            signal.signal(number, receive)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def obey_parent() -> None:
    """Makes a child process leave to its parent what the terminal says, and end with it: at SIGTERM, or at its death.

    Raises:
        SystemExit: later, when SIGTERM comes.
    """
    for number in set(SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, lambda number, frame: None)  # unlike SIG_IGN, grandchildren do not inherit this

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, lambda number, frame: None)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: Any) -> None:
    """Waits for the death of the parent and ends this process, by force if it takes long."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the main thread is to be woken by them
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(CLEANUP)
    os._exit(128 + signal.SIGTERM)


def leave(number: int, sentence: str) -> NoReturn:
    """Ends the program as the signal would have: exit code 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.

    Raises:
        KeyboardInterrupt: after Ctrl-C; a notebook survives it.
        SystemExit: after the others.
    """
    if number in ENDED:
        raise SystemExit(128 + number) from None
    raise KeyboardInterrupt(sentence) from None
