"""Ctrl-C and SIGTERM, postponed until a run has reached a point from which it can be resumed."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
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
    """A block in which Ctrl-C and SIGTERM are only noted, so that the work can stop where it can be resumed.

    Outside the main thread, where Python does not permit signal handlers, nothing changes.

    Args:
        launched: whether this is one of several processes of a launch, which pass signals on to each other.

    Yields:
        The request to stop. A signal that the block did not act on has its usual effect afterwards.
    """
    request, before = Request(launched), {}
    if threading.current_thread() is threading.main_thread():
        # A program started in the background with its signals ignored goes on ignoring them.
        usual = {number: signal.getsignal(number) for number in SIGNALS}
        before = {number: handler for number, handler in usual.items() if handler not in (signal.SIG_IGN, None)}
        for number in before:
            signal.signal(number, request.receive)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if request.signal:
        signal.raise_signal(request.signal)


def leave(number: int, sentence: str) -> NoReturn:
    """Ends the program as the signal would have: exit code 130 after Ctrl-C, 143 after SIGTERM.

    Raises:
        KeyboardInterrupt: after Ctrl-C; a notebook survives it.
        SystemExit: after SIGTERM.
    """
    if number == signal.SIGTERM:
        raise SystemExit(128 + number) from None
    raise KeyboardInterrupt(sentence) from None
