"""Conversions: values as a command line, YAML or a notebook gives them, in the type that is wanted."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from hr_search.base.errors import InputError, quoted

KIND_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def converted(name: str, value: Any, kind: type, source: str = "the settings") -> Any:
    """`value` as `kind` (int, float, bool or str), accepting the texts a command line or YAML gives.

    Raises:
        InputError: the value is of another kind, NaN or infinite, or a text that no file can hold.
    """
    wrong = InputError(f"{source}: {name} is {quoted(value)}; it must be {KIND_WORDS[kind]}.")
    if isinstance(value, bool) or kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        value = words.get(str(value).strip().lower()) if isinstance(value, str) else value
        if kind is not bool or not isinstance(value, bool):
            raise wrong
        return value
    if kind is str:
        if not isinstance(value, str | Path):
            raise wrong
        if re.search("[\0\ud800-\udfff]", str(value)):
            raise InputError(
                f"{source}: {name} is {quoted(str(value))}, which holds a NUL or half a character; take it out, or "
                "rename the file."
            )
        return str(value)
    try:
        number = float(value)
        if not math.isfinite(number) or (kind is int and number != int(number)):
            raise wrong
    except (TypeError, ValueError, OverflowError) as error:
        raise wrong from error
    return int(value) if kind is int and isinstance(value, int) else kind(number)
