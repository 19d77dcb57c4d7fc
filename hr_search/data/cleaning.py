"""Table cells as clean texts; a cell that is not a text is refused with its row and column.

Cleaning replaces NUL characters by spaces, joins halves of surrogate pairs or replaces them by U+FFFD
(tokenizers refuse both), and strips outer white space.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import json
import re
import warnings
from collections.abc import Sequence
from typing import Any

import pandas as pd

from hr_search.base.errors import InputError, shown, suggestion

_DIRT = re.compile("[\0\ud800-\udfff]")
_FIELD = re.compile(r"\{([^{}]+)\}")
_ADVICE = "choose another column or fix the row."


@dataclasses.dataclass(frozen=True)
class Unread:
    """A harmless cell that is neither a text nor a number, such as a date; only its kind is kept."""

    kind: str


def joined(table: pd.DataFrame, template: str, source: str, flag: str) -> list[str]:
    """One text per row: the template with each {column} replaced by the row's text in that column.

    Args:
        table: the raw table.
        template: such as "{title}. Skills: {skills}"; lists are joined by commas.
        source: the file, for errors.
        flag: the setting the template came from, for errors.

    Returns:
        The texts; "" where every field of the row is empty, so that the row counts as empty.

    Raises:
        InputError: no field in the template, a column that does not exist, or a cell that is not a text.
    """
    names = fields_of(template)
    if not names:
        raise InputError(f'--{flag} "{shown(template)}" names no column; write columns in braces, like "{{title}}".')
    for name in names:
        require_column(name, list(table.columns), source, flag)
    fields = {name: [", ".join(items) for items in lists(table, name, source, numbers=True)] for name in names}
    rows = [dict(zip(fields, values, strict=True)) for values in zip(*fields.values(), strict=True)]
    return [_filled(template, row) if any(row.values()) else "" for row in rows]


def fields_of(template: str) -> list[str]:
    """The columns that a template names, each once."""
    return list(dict.fromkeys(_FIELD.findall(template)))


def _filled(template: str, row: dict[str, str]) -> str:
    # All fields in one pass: braces inside a row's text are not fields.
    return clean(_FIELD.sub(lambda field: row[field[1]], template))


def require_column(name: str, columns: Sequence[str], source: str, flag: str) -> None:
    """Checks that a table has the column that a setting names.

    Raises:
        InputError: it has not; the sentence suggests the nearest of its columns.
    """
    if name not in columns:
        hint = suggestion(name, [shown(column) for column in columns[:30]])
        raise InputError(f'{source} has no column "{shown(name)}" (--{flag}); {hint}')


def texts(table: pd.DataFrame, column: str, source: str, numbers: bool = False) -> list[str]:
    """The texts of a column, "" for empty cells; with `numbers`, a number counts as a text.

    Raises:
        InputError: a cell is not a text, or (without `numbers`) every text of the column is a number.
    """
    found, first = [], first_row(table)
    for row, value in enumerate(table[column].tolist(), first):
        value = _number(value) if numbers else value
        if not isinstance(value, str) and not empty(value):
            raise _wrong(value, source, row, column)
        found.append("" if empty(value) else clean(value))
    filled = [text for text in found if text]
    if filled and not numbers and all(re.fullmatch(r"[+-]?\d+([.,]\d+)?", text) for text in filled):
        raise _wrong(filled[0], source, found.index(filled[0]) + first, column)
    return found


def lists(table: pd.DataFrame, column: str, source: str, numbers: bool = False) -> list[list[str]]:
    """The texts in each cell of a column: a list, a list written as text, or one text; with `numbers`, numbers too.

    Raises:
        InputError: a cell, or an item of its list, is not a text.
    """
    found = []
    for row, value in enumerate(table[column].tolist(), first_row(table)):
        written = _written(value) if isinstance(value, str) else value
        if isinstance(value, str) and written is None:
            raise _refusal(source, row, column, "a list that is neither JSON nor Python")
        items = written if isinstance(written, list | tuple) else [written]
        items = [_number(item) if numbers else item for item in items]
        wrong = [item for item in items if not isinstance(item, str) and not empty(item)]
        if wrong:
            raise _wrong(wrong[0], source, row, column)
        found.append([text for text in (clean(item) for item in items if not empty(item)) if text])
    return found


def first_row(table: pd.DataFrame) -> int:
    """The row of the file, from 1, that a raw table begins with: blocks of a file are indexed by their places in it."""
    return table.index.start + 1 if isinstance(table.index, pd.RangeIndex) else 1


def is_list(value: Any) -> bool:
    """Whether a cell is a list, or a text that spells one."""
    return isinstance(_written(value) if isinstance(value, str) else value, list | tuple)


def _number(value: Any) -> Any:
    """A number as a person writes it; any other value unchanged."""
    if not isinstance(value, int | float) or empty(value):
        return value
    return str(int(value) if value == value // 1 else value)


def _written(text: str) -> Any:
    """The list that a text spells in JSON or Python, None where it tries to and fails, otherwise the text itself."""
    stripped = text.strip()
    if not (stripped.startswith("[") and stripped.endswith("]")):
        return text
    # A printed NumPy array has no commas, and Python would join its items into one string.
    readings = (json.loads,) if re.search(r"""['"]\s+['"]""", stripped) else (json.loads, ast.literal_eval)
    for parse in readings:
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return parse(stripped)
    return None if re.match(r"""\[\s*['"]""", stripped) else text


def clean(text: str) -> str:
    """A text without NUL characters, halves of surrogate pairs and outer white space."""
    if _DIRT.search(text):
        text = text.replace("\0", " ").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.strip()


def empty(value: Any) -> bool:
    """Whether a cell is None or NaN, as readers leave empty cells."""
    return value is None or (isinstance(value, float) and value != value)


def _wrong(value: Any, source: str, row: int, column: str) -> InputError:
    """The error for a cell that holds a value other than a text."""
    if isinstance(value, int | float | str):
        return _refusal(source, row, column, f"the number {shown(value)}")
    kinds = {list: "a list", tuple: "a list", dict: "a mapping", bytes: "bytes"}
    kind = value.kind if isinstance(value, Unread) else type(value).__name__
    return _refusal(source, row, column, kinds.get(type(value), f"a {kind}"))


def _refusal(source: str, row: int, column: str, what: str) -> InputError:
    return InputError(f'{source}, row {row}, column "{shown(column)}" holds {what} where a text belongs; {_ADVICE}')
