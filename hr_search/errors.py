"""The one exception a user's mistake raises, and the helpers that word it.

Everything that can be wrong with an input (a file, a column, a setting, a model) ends as an
`InputError` with one sentence: what is wrong, where, and what to do about it. The command line
prints that sentence and exits with code 2; notebooks and callers see the same text.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable


class InputError(ValueError):
    """What is wrong with an input, where, and what to do, in one sentence for a person."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint naming the valid name closest to `name`, or all of them when none is close.

    Args:
        name: what the user wrote.
        valid: the names that would have been accepted.

    Returns:
        A clause such as `did you mean "margin"?` to put at the end of a sentence.
    """
    names = [str(item) for item in valid]
    close = difflib.get_close_matches(str(name).lower(), [item.lower() for item in names], n=1, cutoff=0.6)
    if close:
        match = next(item for item in names if item.lower() == close[0])
        return f'did you mean "{match}"?'
    return f"valid names: {', '.join(names)}"


def one_line(error: BaseException, limit: int = 300) -> str:
    """Another library's error folded to one line of at most `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def guarded(command: Callable[[], int | None]) -> int:
    """The exit code of a command: 0 (or its own), 2 with one sentence on stderr, 130 on Ctrl-C.

    Args:
        command: a function without arguments that does the work.

    Returns:
        The code to hand to `sys.exit`.
    """
    try:
        return command() or 0
    except InputError as error:
        print(f"hr_search: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hr_search: interrupted", file=sys.stderr)
        return 130
