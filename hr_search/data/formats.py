"""File formats of tables: any common file in, one raw table out, with no cell converted."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hr_search.base.errors import InputError, one_line, shown
from hr_search.base.paths import extension
from hr_search.data.encodings import decoded
from hr_search.data.frames import arrow_frame
from hr_search.data.json_tables import read_json_table
from hr_search.data.pickles import read_pickle_frame
from hr_search.data.separated import read_separated
from hr_search.data.unpacking import CELL, Room, content
from hr_search.data.workbooks import read_workbook

NEEDED = "it needs a query and a matching document in each row."

_TEXTS = {
    ".csv": read_separated,
    ".tsv": read_separated,
    ".txt": read_separated,
    ".jsonl": read_json_table,
    ".json": read_json_table,
}
_KINDS = (".pkl", ".csv", ".tsv", ".txt", ".jsonl", ".json", ".parquet", ".xlsx")
_SHEETS = (".xls", ".xlsb", ".xlsm", ".ods", ".numbers")
_ROWS = 256  # of a Parquet file unpacked at a time


def read_table(
    path: Path | str, encoding: str = "", trustfile: bool = False, named: Sequence[str] = ()
) -> pd.DataFrame:
    """The raw table of a file, with all its columns.

    Args:
        path: a .pkl, .csv, .tsv, .txt, .jsonl, .json (each also .gz), .parquet or .xlsx file.
        encoding: the encoding of a text file; empty = detected.
        trustfile: let it take more memory than a table may.
        named: columns that the table must have, by which its header is found; empty = known names.

    Raises:
        InputError: the file is missing, empty, of another kind or damaged, takes too much memory, or has two columns of
            one name.
    """
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder; give the path of a file.")
    kind = extension(path)
    if kind not in _KINDS:
        advice = f"use one of {', '.join(_KINDS)} (.gz too)"
        if kind in _SHEETS:
            advice = "save the sheet as CSV UTF-8"
        raise InputError(f"{path} is of a kind that is not read; {advice}.")
    if kind in _TEXTS:
        table = _TEXTS[kind](read_text(path, encoding, trustfile), path, named, trustfile)
    elif kind == ".xlsx":
        table = read_workbook(content(path, trustfile, archive=True), path, named, trustfile)
    else:
        table = (read_pickle_frame if kind == ".pkl" else _read_parquet)(path, trustfile)
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise InputError(f'{path} has two columns named "{shown(twice)}"; rename one of them.')
    return table


def read_text(path: Path | str, encoding: str = "", trustfile: bool = False) -> str:
    """The text of a file; where it has carriage returns only, they end its lines and become line feeds.

    Raises:
        InputError: the file is missing, empty, not text, or in an unknown encoding.
    """
    text = decoded(content(path, trustfile), path, encoding)
    if not text.strip():
        raise InputError(f"{path} is empty; {NEEDED}")
    return text if "\n" in text else text.replace("\r", "\n")


def _read_parquet(path: Path | str, trustfile: bool = False) -> pd.DataFrame:
    """The table of a Parquet file, unpacked part by part."""
    import pyarrow.parquet

    room = Room(path, trustfile)
    try:
        file, parts = pyarrow.parquet.ParquetFile(io.BytesIO(content(path, trustfile))), []
        width = file.metadata.num_columns
        room.take_cells(0, width)
        for part in file.iter_batches(_ROWS):
            parts.append(part)
            room.take(max(part.nbytes, CELL * part.num_rows * width))  # an empty cell is free in Parquet only
        return arrow_frame(pyarrow.Table.from_batches(parts, file.schema_arrow))
    except InputError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{path} is not a readable Parquet file ({one_line(error)}); write it again.") from error
