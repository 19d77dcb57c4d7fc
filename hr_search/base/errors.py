"""The one exception a user's mistake raises, and the helpers that word it.

Everything that can be wrong with an input (a file, a column, a setting, a model) ends as an
`InputError` with one sentence: what is wrong, where, and what to do about it. The command line
prints that sentence and exits with code 2; notebooks and callers see the same text.

Sentences quote what others wrote. `plain` takes out of a text what a terminal would obey, `shown` and
`quoted` also keep it short.
"""

from __future__ import annotations

import difflib
import re
import reprlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

# Control characters but for the new line and the tab, marks that turn the direction of writing, half characters.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SENTENCE = 2000  # characters of a sentence on a terminal

_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother, _REPR.maxlist, _REPR.maxdict = 2, 80, 80, 4, 4


class InputError(ValueError):
    """What is wrong with an input, where, and what to do, in one sentence for a person."""


LISTED = 20  # valid names that a sentence holds where there are more than twice as many


def suggestion(name: str, valid: Iterable[str]) -> str:
    """A hint naming the valid name closest to `name`, or all of them when none is close: the first of very many.

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
    rest = f" and {len(names) - LISTED} more" if len(names) > 2 * LISTED else ""
    return f"valid names: {', '.join(names[:LISTED] if rest else names)}{rest}"


def plain(text: str) -> str:
    """`text` with a replacement sign for each character that a terminal obeys or cannot write; lines stay lines."""
    return _OBEYED.sub("\ufffd", text)


def escaped(text: str) -> str:
    """`text`, a line of JSON, with an escape for each character that `plain` takes out."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """Another library's error, or a text, on one plain line of at most `limit` characters."""
    text = plain(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def shown(label: Any, limit: int = 60) -> str:
    """A name as it stands in a sentence: one plain line of at most `limit` characters."""
    text = plain(" ".join(str(label)[: 4 * limit].split()))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def quoted(value: Any) -> str:
    """A value as Python writes it, cut where it is long or deep, however much that would be."""
    try:
        return _REPR.repr(value)
    except ValueError:  # Python writes no number of thousands of digits
        return f"a huge {type(value).__name__}"


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
        sentence = plain(str(error)).replace("\n", " ")
        print(f"hr_search: {sentence if len(sentence) <= _SENTENCE else sentence[:_SENTENCE] + '…'}", file=sys.stderr)
        return 2
    except OSError as error:  # what no module foresaw, such as a folder that goes away meanwhile
        advice = "check path, permission and room on the disk."
        print(f"hr_search: the system refuses ({one_line(error, _SENTENCE)}); {advice}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hr_search: interrupted", file=sys.stderr)
        return 130
