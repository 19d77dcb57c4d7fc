"""The one exception a user's mistake raises, and the helpers that word it.

Whatever is wrong with an input (a file, a column, a setting, a model) is raised as an `InputError` with
one sentence: what is wrong, where, and what to do about it. The command line prints that sentence and
exits with code 2; notebooks and callers see the same text.

The sentences quote foreign text. `plain` removes characters that a terminal would act on; `shown` and
`quoted` also shorten.
"""

from __future__ import annotations

import difflib
import re
import reprlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

# Control characters except newline and tab, marks of writing direction, lone surrogates.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SENTENCE = 2000  # characters of an error sentence on a terminal
LISTED = 20  # valid names listed if there are more than twice as many

_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother, _REPR.maxlist, _REPR.maxdict = 2, 80, 80, 4, 4


class InputError(ValueError):
    """One sentence for a person: what is wrong with an input, where, and what to do about it."""


def suggestion(name: str, valid: Iterable[str]) -> str:
    """The valid name closest to `name`, as a hint; if none is close, the valid names (the first 20 of many).

    Args:
        name: what the user wrote.
        valid: the accepted names.

    Returns:
        The end of a sentence, such as `did you mean "margin"?`.
    """
    names = [str(item) for item in valid]
    close = difflib.get_close_matches(str(name).lower(), [item.lower() for item in names], n=1, cutoff=0.6)
    if close:
        match = next(item for item in names if item.lower() == close[0])
        return f'did you mean "{match}"?'
    rest = f" and {len(names) - LISTED} more" if len(names) > 2 * LISTED else ""
    return f"valid names: {', '.join(names[:LISTED] if rest else names)}{rest}"


def plain(text: str) -> str:
    """`text` with U+FFFD for each character that a terminal acts on or cannot write; newlines and tabs stay."""
    return _OBEYED.sub("\ufffd", text)


def escaped(text: str) -> str:
    """`text`, a line of JSON, with an escape for each character that `plain` replaces."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """An error of another library, or a text, on one plain line of at most `limit` characters."""
    text = plain(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def shown(label: Any, limit: int = 60) -> str:
    """A name for an error sentence: one plain line of at most `limit` characters."""
    text = plain(" ".join(str(label)[: 4 * limit].split()))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def quoted(value: Any) -> str:
    """A value as Python writes it, shortened if it is long or deeply nested."""
    try:
        return _REPR.repr(value)
    except ValueError:  # Python does not write integers of thousands of digits
        return f"a huge {type(value).__name__}"


def guarded(command: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit code: 2 with one sentence on stderr for bad input, 130 for Ctrl-C.

    Args:
        command: does the work; its return value is the code, None = 0.
    """
    try:
        return command() or 0
    except InputError as error:
        sentence = plain(str(error)).replace("\n", " ")
        print(f"hr_search: {sentence if len(sentence) <= _SENTENCE else sentence[:_SENTENCE] + '…'}", file=sys.stderr)
        return 2
    except OSError as error:  # unforeseen, such as a folder that was deleted meanwhile
        advice = "check the path, its permissions and the free disk space."
        print(f"hr_search: the system refused ({one_line(error, _SENTENCE)}); {advice}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hr_search: interrupted", file=sys.stderr)
        return 130
