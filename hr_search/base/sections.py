"""Sections of a notebook that the others can do without: what cannot be made says so in its place."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from hr_search.base.errors import InputError, one_line

log = logging.getLogger(__name__)


@contextlib.contextmanager
def section(what: str) -> Iterator[None]:
    """A block whose error is logged where its result would stand, instead of ending the notebook.

    Args:
        what: how to name the section, "the map".
    """
    try:
        yield
    except InputError as error:
        log.warning("%s is left out: %s", what, error)
    except Exception as error:  # whatever it is, hours of training stand above it
        log.warning("%s could not be made (%s: %s)", what, type(error).__name__, one_line(error))
