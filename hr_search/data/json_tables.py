"""Tables in JSON: an object per line, a list of objects, what pandas writes, and what services answer."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hr_search.base.errors import InputError, one_line, shown
from hr_search.data.columns import are_names
from hr_search.data.frames import raw_frame
from hr_search.data.unpacking import Room

_SPACES = re.compile(r"\s*")
_DEPTH = 3  # levels of objects in which a list of rows is looked for


def read_json_table(text: str, path: Path | str, named: Sequence[str] = (), trustfile: bool = False) -> pd.DataFrame:
    """The table of a JSON text.

    Args:
        text: the content of the file: objects one after the other, a list of objects, or one object. The latter is a
            row where it holds the wanted columns as texts, else a table by columns, as pandas writes it, or an answer
            that holds a list of rows.
        path: the file, for errors.
        named: columns that the table must have; empty = known names.
        trustfile: let the table be of any size.

    Raises:
        InputError: the text is no JSON, or no table, or has a name twice in one object.
    """
    values = json_values(text, path)
    kind = "line" if len(values) > 1 else "item"
    if len(values) == 1:
        value = values[0][1]
        if isinstance(value, dict):
            value = _rows_of(value, path, named)
        if isinstance(value, list):
            values = list(enumerate(value, 1))
    records = _records(values, path, kind)
    names = list(dict.fromkeys(name for record in records for name in record))
    Room(path, trustfile).take_cells(len(records), len(names))
    return raw_frame(names, ([record.get(name) for record in records] for name in names))


def read_json_lines(text: str, path: Path | str, line: int = 1) -> pd.DataFrame:
    """The table of some lines of a JSONL file, an object on each; `line` is the number of the first.

    Raises:
        InputError: as `read_json_table`.
    """
    values = json_values(text, path, line)
    records = _records(values, path, "line")
    names = list(dict.fromkeys(name for record in records for name in record))
    return raw_frame(names, ([record.get(name) for record in records] for name in names))


def _records(values: list[tuple[int, Any]], path: Path | str, kind: str) -> list[dict[str, Any]]:
    """The objects among values with their places.

    Raises:
        InputError: a value is not an object.
    """
    for place, record in values:
        if not isinstance(record, dict):
            raise InputError(
                f"{path}, {kind} {place} is not a JSON object; write one object of names and texts per line."
            )
    return [record for _, record in values]


def json_values(text: str, path: Path | str, line: int = 1) -> list[tuple[int, Any]]:
    """The values that stand one after the other in a text, each with the line it begins on; the first is `line`."""
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    found, place = [], _SPACES.match(text).end()
    line += text.count("\n", 0, place)
    while place < len(text):
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise _not_json(path, line, error) from error
        found.append((line, value))
        after = _SPACES.match(text, end).end()
        # Between values stands a line break; "{}x" and "{} {}" are slips.
        if after < len(text) and "\n" not in text[end:after]:
            raise _not_json(path, line, ValueError("something follows the value on its line"))
        line += text.count("\n", place, after)
        place = after
    return found


def _not_json(path: Path | str, line: int, error: Exception) -> InputError:
    """The error for a value that begins on `line` and cannot be read."""
    if isinstance(error, json.JSONDecodeError):
        line = error.lineno if line == 1 else line  # of many objects the one, of one object the place
        error = ValueError(error.msg)
    return InputError(f"{path}, line {line} is not valid JSON ({one_line(error)}); write one object per line.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without names that occur twice: JSON itself would keep the last one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f'an object has the name "{shown(twice)}" twice')
    return found


def _rows_of(value: dict[str, Any], path: Path | str, named: Sequence[str]) -> list[Any]:
    """The rows of one object: itself, those it holds by columns or by numbers, or the list in it."""
    texts = [name for name, item in value.items() if not isinstance(item, dict)]
    if are_names(texts, named) and not all(isinstance(item, list) for item in value.values()):
        return [value]
    if {"columns", "data"} <= set(value) and _is_list_of(value["data"], list):  # pandas: orient="split"
        if not isinstance(value["columns"], list):
            raise InputError(f'{path}: "columns" beside "data" is no list of names; write one object per line.')
        names = [str(name) for name in value["columns"]]
        if len(set(names)) < len(names) or any(len(row) != len(names) for row in value["data"]):
            raise InputError(f"{path}: its columns do not fit its rows; write one object per line.")
        return [dict(zip(names, row, strict=True)) for row in value["data"]]
    if value and all(isinstance(item, dict) for item in value.values()):
        if all(are_names(item, named) for item in value.values()):  # pandas: orient="index"
            return list(value.values())
        if are_names(value, named) or (len(value) > 1 and len({tuple(item) for item in value.values()}) == 1):
            labels = list(dict.fromkeys(label for item in value.values() for label in item))
            return [{name: item.get(label) for name, item in value.items()} for label in labels]
    if (
        value
        and all(isinstance(item, list) for item in value.values())
        and not any(_is_list_of(item, dict) for item in value.values())
    ):
        if len({len(item) for item in value.values()}) > 1:
            raise InputError(f"{path} holds lists of different lengths; give each column as many cells.")
        return [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]
    return _only_list(value, path) or [value]


def _only_list(value: dict[str, Any], path: Path | str) -> list[Any]:
    """The list of objects that lies nearest to the surface; empty for none.

    Raises:
        InputError: two lists of objects lie there.
    """
    level = [("", value)]
    for _ in range(_DEPTH):
        inner = [(f"{above}{name}", item) for above, outer in level for name, item in outer.items()]
        lists = [(name, item) for name, item in inner if _is_list_of(item, dict)]
        if len(lists) > 1:
            names = " and ".join(f'"{shown(name)}"' for name, _ in lists[:2])
            raise InputError(f"{path} holds several lists of objects ({names}); save the one you mean alone.")
        if lists:
            return lists[0][1]
        level = [(f"{name}.", item) for name, item in inner if isinstance(item, dict)]
    return []


def _is_list_of(value: Any, kind: type) -> bool:
    """Whether a value is a list, not empty, of one kind of items."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, kind) for item in value)
