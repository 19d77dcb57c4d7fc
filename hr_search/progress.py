"""Progress a person can follow: bars where somebody watches, one line per event where nobody does."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm

HEADLESS_VARIABLE = "HR_SEARCH_HEADLESS"


def watched() -> bool:
    """Whether a bar would be seen: on a terminal, or in a notebook that is not run headlessly."""
    if os.environ.get(HEADLESS_VARIABLE):
        return False
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def bar(
    items: Iterable | None = None, what: str = "", unit: str = "it", total: int | None = None, start: int = 0
) -> Any:
    """A tqdm bar that is silent when nobody watches."""
    return tqdm(items, desc=what, unit=unit, total=total, initial=start, leave=False, disable=not watched())


def show_log(level: int = logging.INFO) -> None:
    """Sends this package's log lines, without decoration, to standard output."""
    logger = logging.getLogger("hr_search")
    logger.setLevel(level)
    logger.propagate = False
    # Kernels replace sys.stdout, so the handler of an earlier call may hold a dead stream.
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers[:] = [handler]
