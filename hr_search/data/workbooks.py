"""Tables in Excel files (.xlsx): the one sheet that holds a table, read by openpyxl where it is installed."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hr_search.base.errors import InputError, one_line, shown
from hr_search.data.cleaning import Unread
from hr_search.data.columns import are_names, header_row
from hr_search.data.frames import raw_frame
from hr_search.data.unpacking import Room

logger = logging.getLogger(__name__)

_SAVE = "save the sheet with the table as CSV UTF-8."


def read_workbook(data: bytes, path: Path | str, named: Sequence[str] = (), trustfile: bool = False) -> pd.DataFrame:
    """The table of the sheet whose header has the wanted names, or of the only sheet that is not empty.

    Args:
        data: the content of the file.
        path: the file, for errors.
        named: columns that the table must have; empty = known names.
        trustfile: let the table be of any size.

    Raises:
        InputError: openpyxl is not installed, the file is damaged, or several sheets may be meant.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise InputError(
            f'{path} is an Excel file, which needs openpyxl: run `pip install "hr_search[excel]"`, or {_SAVE}'
        ) from error
    room = Room(path, trustfile)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            room.take(sum(part.file_size for part in archive.infolist()))
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        sheets = {sheet.title: _rows(sheet, room) for sheet in book.worksheets}
    except InputError:
        raise
    except Exception as error:  # a damaged archive or XML may fail at any step
        raise InputError(f"{path} is not a readable Excel file ({one_line(error)}); {_SAVE}") from error
    filled = {title: rows for title, rows in sheets.items() if rows}
    fitting = [title for title, rows in filled.items() if are_names(rows[header_row(rows, named)], named)]
    if not filled:
        raise InputError(f"{path} has no filled cells; it needs a query and a matching document in each row.")
    titles = fitting or list(filled)
    if len(titles) > 1:
        names = ", ".join(f'"{shown(title)}"' for title in titles[:4])
        raise InputError(f"{path} has several sheets that may be meant ({names}); {_SAVE}")
    rows = filled[titles[0]]
    start = header_row(rows, named)
    if start:
        logger.warning("%s: %d rows above the header are left out", path, start)
    names = ["" if name is None else str(name).strip() for name in rows[start]]
    width = max(len(row) for row in rows[start:])
    Room(path, trustfile).take_cells(len(rows) - start, width)  # one cell far to the right makes every row as wide
    names = [name or f"column {place}" for place, name in enumerate([*names, *[""] * (width - len(names))], 1)]
    cells = [[*row, *[None] * (width - len(row))] for row in rows[start + 1 :]]
    return raw_frame(names, zip(*cells, strict=True) if cells else ([] for _ in names))


def _rows(sheet: Any, room: Room) -> list[list[Any]]:
    """The rows of a sheet that are not empty, without empty cells at their ends."""
    sheet.reset_dimensions()  # what the file says about its size is not to be relied on
    rows = []
    for line in sheet.iter_rows():
        row = [_cell(cell) for cell in line]
        while row and row[-1] is None:
            row.pop()
        if row:
            room.take_cells(1, len(row))
            room.take(sum(len(value) for value in row if type(value) is str))
            rows.append(row)
    return rows


def _unescaped(text: str) -> str:
    """A text as it was typed: XLSX writes control characters, line ends of Windows above all, as in `_x000D_`."""
    from openpyxl.utils.escape import unescape

    return unescape(text) if "_x" in text else text


def _cell(cell: Any) -> Any:
    """The value of a cell: a text, a number, None, or `Unread` for anything else."""
    value = cell.value
    if isinstance(value, str):
        value = _unescaped(value)
    if value is None or cell.data_type == "e" or (isinstance(value, str) and not value.strip()):
        return None
    return value if isinstance(value, str | int | float) else Unread(type(value).__name__)
