"""Progress: bars for a person who watches, plain log lines for everybody else."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from tqdm.auto import tqdm

from hr_search.base.errors import plain

HEADLESS_VARIABLE = "HR_SEARCH_HEADLESS"


def watched() -> bool:
    """Whether a bar would be seen: on a terminal, or in a notebook that a person runs."""
    if os.environ.get(HEADLESS_VARIABLE):
        return False
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return sys.stderr.isatty() or hasattr(shell, "kernel")


def bar(
    items: Iterable | None = None, what: str = "", unit: str = "it", total: int | None = None, start: int = 0
) -> Any:
    """A tqdm bar that shows nothing unless somebody watches."""
    return tqdm(items, desc=what, unit=unit, total=total, initial=start, leave=False, disable=not watched())


def show_log(stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Sends this package's log lines, undecorated, to `stream`; None = standard output, for notebooks."""
    logger = logging.getLogger("hr_search")
    logger.setLevel(level)
    logger.propagate = False
    # Kernels replace sys.stdout, so the handler of an earlier call may hold a closed stream.
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(_Plain("%(message)s"))
    logger.handlers[:] = [handler]


class _Plain(logging.Formatter):
    """Lines without control characters, whatever a file name or a text in them holds."""

    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the loading bars and messages of transformers until the block ends."""
    from transformers.utils import logging as chatter

    level = chatter.get_verbosity()
    bars = chatter.is_progress_bar_enabled()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        chatter.set_verbosity(level)
        if bars:
            chatter.enable_progress_bar()
