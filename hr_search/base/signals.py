"""Interruption: Ctrl-C and SIGTERM wait until a run has come to a point from which it can go on."""

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
_ECHO = 2.0  # seconds within which a launcher passes on what the terminal has sent to all its processes already


class Interrupted(KeyboardInterrupt):
    """The work was asked to stop, and stands at a point from which it can go on."""


class Request:
    """Whether somebody has asked the work to stop.

    Attributes:
        signal: number of the signal that asked, 0 as long as none did.
    """

    def __init__(self, launched: bool) -> None:
        self.signal, self.launched = 0, launched
        self._since, self._open = 0.0, False

    def at_once(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, which a signal may end anywhere: it is long, and leaves nothing half done.

        Of several processes that work together, none may leave alone; there it is `work` as it is.

        Returns:
            A function that raises `Interrupted` as soon as a signal comes, or if one has come before.
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
        """Handles a signal: the first is noted, a second ends the program."""
        if self.signal:
            if self.launched and time.monotonic() - self._since < _ECHO:
                return
            leave(number, "stopped at once, as a second signal came")
        self.signal, self._since = number, time.monotonic()
        if self._open:
            raise Interrupted
        log.warning("stopping after this step; once more stops at once")


@contextlib.contextmanager
def postponed(launched: bool = False) -> Iterator[Request]:
    """A block in which Ctrl-C and SIGTERM are only noted, for the work to stop where it can go on later.

    Outside the main thread, where Python lets nobody handle signals, all stays as it was.

    Args:
        launched: this is one of several processes of a launch, which pass signals on to one another.

    Returns:
        What tells whether a signal has come. One that the block did not act on has its usual effect afterwards.
    """
    request, before = Request(launched), {}
    if threading.current_thread() is threading.main_thread():
        # Who has put a program into the background with its signals ignored wants them ignored.
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
        KeyboardInterrupt: after Ctrl-C, which a notebook outlives.
        SystemExit: after SIGTERM.
    """
    if number == signal.SIGTERM:
        raise SystemExit(128 + number) from None
    raise KeyboardInterrupt(sentence) from None
